//! The bytes a connection has received and not used, and the read that brings more.
//!
//! A connection is given a small buffer of its own. Only when a read filled it, what waits behind is taken through one
//! large buffer that the whole shard shares: so a connection holds what it was sent and little more, and one that sends
//! hundreds of requests at once still needs few system calls.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use tokio_uring::BufResult;
use tokio_uring::buf::{BoundedBuf, Slice};
use tokio_uring::net::TcpStream;

use crate::shard::sockets;

/// Room for a read into an empty buffer: a browser's request fits, and 15,000 of them at once take 30 MB.
const READ_BYTES: usize = 2 << 10;
/// Least room for a read behind what is there.
const SPARE_BYTES_MIN: usize = 512;
/// A buffer with less in it grows by [`READ_BYTES`] and no more; a larger one doubles, but not beyond its body.
const EXACT_BYTES_MAX: usize = 16 << 10;
/// Bodies up to here are copied out of the buffer, 30 ns for a usual one.
const COPIED_BODY_BYTES: usize = 16 << 10;
/// What is taken at once behind a read that was filled: 64 KiB hold some 300 pipelined publishes.
pub(crate) const DRAIN_BYTES: usize = 64 << 10;

/// What came in on a socket.
pub(super) struct Input<'s> {
    stream: &'s TcpStream,
    /// Lent to the read while one is under way, and empty then.
    pub(super) buffer: BytesMut,
    /// Never dropped while under way: what it reads would be lost.
    read: Option<Read<'s>>,
    /// Bytes in the buffer when it was lent.
    lent_bytes: usize,
    /// Memory that the buffer takes, lent or not, and whatever was split off its front since it was allocated.
    allocated_bytes: usize,
    /// The last read had no room for more.
    was_filled: bool,
    /// How many bytes of the body in it are known to come, those that are here included; 0 when that is not known.
    expected_bytes: usize,
}

type Read<'s> = Pin<Box<dyn Future<Output = BufResult<usize, Slice<BytesMut>>> + 's>>;

impl<'s> Input<'s> {
    pub(super) fn new(stream: &'s TcpStream) -> Self {
        let buffer = BytesMut::new();
        Input {
            stream,
            buffer,
            read: None,
            lent_bytes: 0,
            allocated_bytes: 0,
            was_filled: false,
            expected_bytes: 0,
        }
    }

    /// Whether a read has the buffer.
    pub(super) fn is_reading(&self) -> bool {
        self.read.is_some()
    }

    /// Whether the last read was filled, so that more is likely to wait in the socket.
    pub(super) fn was_filled(&self) -> bool {
        self.was_filled
    }

    /// Says how long the body is that is in the buffer; 0 when that is not known.
    pub(super) fn expect(&mut self, bytes: usize) {
        self.expected_bytes = bytes;
    }

    /// Starts a read behind what is there.
    pub(super) fn start(&mut self) {
        if self.buffer.is_empty() && !self.has_spare() {
            // What requests before it have let go of is used again.
            self.buffer.reserve(READ_BYTES);
            self.allocated_bytes = self.buffer.capacity();
        } else if !self.has_spare() {
            self.reallocate(self.grown_bytes());
        }
        let buffer = std::mem::take(&mut self.buffer);
        self.lent_bytes = buffer.len();
        self.read = Some(Box::pin(self.stream.read(buffer.slice(self.lent_bytes..))));
    }

    /// How many bytes the read brought, once it ends; pending without one.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let Some(read) = &mut self.read else { return Poll::Pending };
        let Poll::Ready((result, slice)) = read.as_mut().poll(cx) else { return Poll::Pending };
        self.read = None;
        self.buffer = slice.into_inner();
        self.was_filled = self.buffer.len() == self.buffer.capacity();
        Poll::Ready(result)
    }

    /// Takes what waits in the socket, up to the size of `scratch`, through it; returns how many bytes that was.
    pub(super) fn drain(&mut self, scratch: &mut [u8]) -> usize {
        let bytes = sockets::receive(self.stream, scratch);
        if self.buffer.capacity() - self.buffer.len() < bytes {
            self.reallocate((self.buffer.len() + bytes).max(self.grown_bytes()));
        }
        self.buffer.extend_from_slice(&scratch[..bytes]);
        bytes
    }

    /// Returns how many bytes it may grow by while it is drained.
    pub(super) fn bytes_to_drain(&self) -> usize {
        DRAIN_BYTES + self.grown_bytes() - self.buffer.len()
    }

    /// Lets go of memory that what is left does not need: of a large buffer that was used up, and of one whose front
    /// went to requests.
    pub(super) fn shrink(&mut self) {
        if self.is_reading() || self.allocated_bytes <= READ_BYTES {
            return;
        }
        // Copied only where that frees at least as much: a rest of many requests may be looked at many times.
        if self.buffer.capacity() < self.allocated_bytes && self.buffer.len() <= self.allocated_bytes / 2
            || self.buffer.is_empty()
        {
            self.reallocate(self.buffer.len());
        }
    }

    /// Memory that it takes with a read under way.
    pub(super) fn bytes_to_read(&self) -> usize {
        match self.is_reading() || self.has_spare() {
            true => self.allocated_bytes,
            false => self.grown_bytes(),
        }
    }

    /// Returns a body that was taken off the buffer without the buffer: a small one must not keep the memory it came in while
    /// it lies in a mailbox, nor any one twice its size.
    pub(super) fn detach(&self, body: Bytes) -> Bytes {
        let is_small = body.len() <= COPIED_BODY_BYTES || body.len() < self.allocated_bytes / 2;
        if is_small { Bytes::copy_from_slice(&body) } else { body }
    }

    /// The next size of the buffer when it has no room left.
    fn grown_bytes(&self) -> usize {
        let bytes = self.buffer.len();
        if bytes < EXACT_BYTES_MAX {
            return bytes + READ_BYTES;
        }
        let expected = if self.expected_bytes > bytes { self.expected_bytes } else { usize::MAX };
        (2 * bytes).min(expected).max(bytes + SPARE_BYTES_MIN)
    }

    /// Moves what is there into a buffer of its own of this size.
    fn reallocate(&mut self, bytes: usize) {
        let mut other = BytesMut::with_capacity(bytes);
        other.extend_from_slice(&self.buffer);
        self.buffer = other;
        self.allocated_bytes = self.buffer.capacity();
    }

    /// Bytes that are here, lent or not.
    pub(super) fn bytes(&self) -> usize {
        if self.is_reading() { self.lent_bytes } else { self.buffer.len() }
    }

    fn has_spare(&self) -> bool {
        let least = if self.buffer.is_empty() { READ_BYTES } else { SPARE_BYTES_MIN };
        self.buffer.capacity() - self.buffer.len() >= least
    }
}
