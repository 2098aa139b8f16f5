//! Bytes that a connection has received and not used yet, and the read that brings more.
//!
//! A connection has a small buffer of its own. Only when a read fills it, the rest is taken from the socket through a
//! large buffer that the whole shard shares: so a connection holds little more than it was sent, and one that sends
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
/// The least room for a read behind unused bytes.
const SPARE_BYTES_MIN: usize = 512;
/// A buffer with fewer bytes in it grows by [`READ_BYTES`]; a larger one doubles, but not beyond its body.
const EXACT_BYTES_MAX: usize = 16 << 10;
/// Bodies up to this size are copied out of the buffer, which takes 30 ns for a usual one.
const COPIED_BODY_BYTES: usize = 16 << 10;
/// The most that is taken at once after a read filled its buffer: 64 KiB hold some 300 pipelined publishes.
pub(crate) const DRAIN_BYTES: usize = 64 << 10;

/// The receiving side of one connection's socket.
pub(super) struct Input<'s> {
    stream: &'s TcpStream,
    /// Lent to the read while one is under way, and empty then.
    pub(super) buffer: BytesMut,
    /// Never dropped while it is under way: the bytes that it reads would be lost.
    read: Option<Read<'s>>,
    /// Bytes in the buffer when it was lent.
    lent_bytes: usize,
    /// The size of the buffer's allocation, lent or not, what was split off its front included.
    allocated_bytes: usize,
    /// The last read filled the buffer.
    was_filled: bool,
    /// The length of the body in the buffer, the bytes still to come included; 0 when that is not known.
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

    /// Returns whether a read has the buffer.
    pub(super) fn is_reading(&self) -> bool {
        self.read.is_some()
    }

    /// Returns whether the last read filled the buffer, so that more is likely to wait in the socket.
    pub(super) fn was_filled(&self) -> bool {
        self.was_filled
    }

    /// Sets the length of the body in the buffer; 0 when that is not known.
    pub(super) fn expect(&mut self, bytes: usize) {
        self.expected_bytes = bytes;
    }

    /// Starts a read behind the bytes in the buffer.
    pub(super) fn start(&mut self) {
        if self.buffer.is_empty() && !self.has_spare() {
            // Reuses the memory of requests before it, if they are gone.
            self.buffer.reserve(READ_BYTES);
            self.allocated_bytes = self.buffer.capacity();
        } else if !self.has_spare() {
            self.reallocate(self.grown_bytes());
        }
        let buffer = std::mem::take(&mut self.buffer);
        self.lent_bytes = buffer.len();
        self.read = Some(Box::pin(self.stream.read(buffer.slice(self.lent_bytes..))));
    }

    /// Returns how many bytes the read brought, once it ends; pending when no read is under way.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let Some(read) = &mut self.read else { return Poll::Pending };
        let Poll::Ready((result, slice)) = read.as_mut().poll(cx) else { return Poll::Pending };
        self.read = None;
        self.buffer = slice.into_inner();
        self.was_filled = self.buffer.len() == self.buffer.capacity();
        Poll::Ready(result)
    }

    /// Receives through `scratch` what waits in the socket, up to its size; returns how many bytes came.
    pub(super) fn drain(&mut self, scratch: &mut [u8]) -> usize {
        let bytes = sockets::receive(self.stream, scratch);
        if self.buffer.capacity() - self.buffer.len() < bytes {
            self.reallocate((self.buffer.len() + bytes).max(self.grown_bytes()));
        }
        self.buffer.extend_from_slice(&scratch[..bytes]);
        bytes
    }

    /// Returns how many bytes the buffer may grow by in [`Input::drain`].
    pub(super) fn bytes_to_drain(&self) -> usize {
        DRAIN_BYTES + self.grown_bytes() - self.buffer.len()
    }

    /// Frees memory that the unused bytes do not need: a large buffer that was used up, or one whose front went to
    /// requests.
    pub(super) fn shrink(&mut self) {
        if self.is_reading() || self.allocated_bytes <= READ_BYTES {
            return;
        }
        // Copied only when that frees at least as much: the rest of many requests may come here many times.
        if self.buffer.capacity() < self.allocated_bytes && self.buffer.len() <= self.allocated_bytes / 2
            || self.buffer.is_empty()
        {
            self.reallocate(self.buffer.len());
        }
    }

    /// Returns the bytes that the buffer takes with a read under way.
    pub(super) fn bytes_to_read(&self) -> usize {
        match self.is_reading() || self.has_spare() {
            true => self.allocated_bytes,
            false => self.grown_bytes(),
        }
    }

    /// Returns `body`, which was split off the buffer, without the rest of the buffer: while it lies in a mailbox a
    /// small body must not keep the memory it came in, and no body may keep twice its size.
    pub(super) fn detach(&self, body: Bytes) -> Bytes {
        let is_small = body.len() <= COPIED_BODY_BYTES || body.len() < self.allocated_bytes / 2;
        if is_small { Bytes::copy_from_slice(&body) } else { body }
    }

    /// Returns the buffer's next size when it has no room left.
    fn grown_bytes(&self) -> usize {
        let bytes = self.buffer.len();
        if bytes < EXACT_BYTES_MAX {
            return bytes + READ_BYTES;
        }
        let expected = if self.expected_bytes > bytes { self.expected_bytes } else { usize::MAX };
        (2 * bytes).min(expected).max(bytes + SPARE_BYTES_MIN)
    }

    /// Moves the unused bytes into a new buffer of this size.
    fn reallocate(&mut self, bytes: usize) {
        let mut other = BytesMut::with_capacity(bytes);
        other.extend_from_slice(&self.buffer);
        self.buffer = other;
        self.allocated_bytes = self.buffer.capacity();
    }

    /// Returns how many unused bytes there are, lent or not.
    pub(super) fn bytes(&self) -> usize {
        if self.is_reading() { self.lent_bytes } else { self.buffer.len() }
    }

    fn has_spare(&self) -> bool {
        let least = if self.buffer.is_empty() { READ_BYTES } else { SPARE_BYTES_MIN };
        self.buffer.capacity() - self.buffer.len() >= least
    }
}
