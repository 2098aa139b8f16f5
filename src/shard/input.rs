//! The bytes a connection has received and not used, and the read that brings more.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::BytesMut;
use tokio_uring::BufResult;
use tokio_uring::buf::{BoundedBuf, Slice};
use tokio_uring::net::TcpStream;

/// The first read of a connection: a browser's request fits, and 15,000 of them at once take 30 MB.
const READ_BYTES_MIN: usize = 2 << 10;
/// A connection that fills its read gets larger ones: 64 KiB hold some 300 pipelined publishes.
pub(super) const READ_BYTES_MAX: usize = 64 << 10;

/// What came in on a socket.
pub(super) struct Input<'s> {
    stream: &'s TcpStream,
    /// Lent to the read while one is under way, and empty then.
    pub(super) buffer: BytesMut,
    /// Never dropped while under way: what it reads would be lost.
    read: Option<Read<'s>>,
    /// Bytes in the buffer when it was lent.
    lent_bytes: usize,
    read_bytes: usize,
}

type Read<'s> = Pin<Box<dyn Future<Output = BufResult<usize, Slice<BytesMut>>> + 's>>;

impl<'s> Input<'s> {
    pub(super) fn new(stream: &'s TcpStream) -> Self {
        Input { stream, buffer: BytesMut::new(), read: None, lent_bytes: 0, read_bytes: READ_BYTES_MIN }
    }

    /// Whether a read has the buffer.
    pub(super) fn is_reading(&self) -> bool {
        self.read.is_some()
    }

    /// Starts a read behind what is there.
    pub(super) fn start(&mut self) {
        self.buffer.reserve(self.read_bytes);
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
        if result.as_ref().is_ok_and(|bytes| *bytes >= self.read_bytes) {
            self.read_bytes = READ_BYTES_MAX;
        }
        Poll::Ready(result)
    }

    /// Gives up an empty buffer and the size it grew to: between requests a connection holds no more than it came
    /// with.
    pub(super) fn rest(&mut self) {
        if !self.is_reading() && self.buffer.is_empty() {
            self.buffer = BytesMut::new();
            self.read_bytes = READ_BYTES_MIN;
        }
    }

    /// Moves what is left into a buffer of its own: it shares the memory of a large body that was split off, and a
    /// kept connection would hold that for as long as it is idle.
    pub(super) fn detach(&mut self) {
        self.buffer = BytesMut::from(&self.buffer[..]);
    }

    /// Bytes that are here, lent or not.
    pub(super) fn bytes(&self) -> usize {
        if self.is_reading() { self.lent_bytes } else { self.buffer.len() }
    }
}
