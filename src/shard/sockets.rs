//! The sockets of a shard, and sends to streams that do not wait: straight into the socket while it has room.
//!
//! A send through the ring costs a slot, a completion and two wake-ups beside the kernel's TCP, a tenth to a fifth of a
//! delivery's whole cost. What the kernel does not take at once is sent when it tells of room: see
//! [`readiness`](super::readiness).

use std::cell::RefCell;
use std::collections::HashSet;
use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

use bytes::Bytes;
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, Shutdown, recv, send, sendmsg, shutdown};
use smallvec::SmallVec;
use tokio_uring::net::TcpStream;
use tokio_uring_socket2::SockRef;

use super::common::OpenStream;
use crate::core::fanout::EndReason;
use crate::core::fanout::log::SEND_BYTES_MAX;
use crate::core::fanout::sending::Outgoing;
use crate::core::fanout::wire::skip;

/// The most bytes that a subscriber may send, which are discarded: it has nothing to say, and more is a mistake or an
/// attack.
pub(super) const RECEIVED_BYTES_MAX: usize = 1024;

/// The open sockets of a shard; owned by [`Shard`](super::Shard).
pub(crate) struct Sockets {
    /// Sockets of connections that are not streams.
    connections: RefCell<HashSet<RawFd>>,
    /// Sockets of streams, by the stream's number.
    streams: RefCell<Vec<Option<StreamSocket>>>,
    /// Their descriptors, or [`NONE`]. Each delivery looks here: 4 bytes each, side by side.
    descriptors: RefCell<Vec<RawFd>>,
    /// The set of descriptors of which the kernel tells the shard.
    registry: Registry,
}

/// No descriptor: there is no stream of this number.
const NONE: RawFd = -1;

/// The socket of a stream, and what of the stream is not in the fan-out.
pub(super) struct StreamSocket {
    stream: TcpStream,
    _open: OpenStream,
    /// The bytes that the client sent beside its request.
    received: u16,
    /// Set when the kernel tells of room.
    awaits_room: bool,
}

/// A connection's socket, lent until this is dropped; the borrow keeps the descriptor valid.
pub(crate) struct LentConnection<'s> {
    sockets: &'s Sockets,
    stream: &'s TcpStream,
}

impl StreamSocket {
    /// Returns the socket of a stream behind whose request `received` bytes came.
    pub(super) fn new(stream: TcpStream, received: usize, open: OpenStream) -> Self {
        let received = u16::try_from(received).unwrap_or(u16::MAX);
        StreamSocket { stream, _open: open, received, awaits_room: false }
    }

    pub(super) fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Receives and drops what the client sent. Returns why the stream ends, if it does.
    fn discard(&mut self) -> Option<EndReason> {
        let mut buffer = [0; RECEIVED_BYTES_MAX];
        loop {
            match recv(self.stream.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
                Ok(0) => return Some(EndReason::Left),
                Ok(bytes) => {
                    // Both are at most 64 KiB.
                    self.received = self.received.saturating_add(bytes as u16);
                    if usize::from(self.received) > RECEIVED_BYTES_MAX {
                        return Some(EndReason::Flooded);
                    }
                }
                Err(Errno::EAGAIN) => return None,
                Err(Errno::EINTR) => {}
                Err(_) => return Some(EndReason::Left),
            }
        }
    }
}

impl Sockets {
    /// Returns the sockets of a shard, none yet, of which the kernel tells through `registry`.
    pub(super) fn new(registry: Registry) -> Self {
        Sockets {
            connections: RefCell::default(),
            streams: RefCell::default(),
            descriptors: RefCell::default(),
            registry,
        }
    }

    /// Lends a connection's socket, so that [`Sockets::shut_all`] reaches it.
    pub(crate) fn lend_connection<'s>(&'s self, stream: &'s TcpStream) -> LentConnection<'s> {
        self.connections.borrow_mut().insert(stream.as_raw_fd());
        LentConnection { sockets: self, stream }
    }

    /// Takes a stream's socket until [`Sockets::leave`].
    ///
    /// # Errors
    /// The kernel cannot tell of it: epoll_ctl(2). The socket is taken all the same.
    pub(super) fn enter(&self, index: u32, socket: StreamSocket) -> io::Result<()> {
        let (mut streams, mut descriptors) = (self.streams.borrow_mut(), self.descriptors.borrow_mut());
        let (place, descriptor) = (index as usize, socket.stream.as_raw_fd());
        if streams.len() <= place {
            streams.resize_with(place + 1, || None);
            descriptors.resize(place + 1, NONE);
        }
        streams[place] = Some(socket);
        descriptors[place] = descriptor;
        self.registry.register(&mut SourceFd(&descriptor), token(index), Interest::READABLE)
    }

    /// Gives a stream's socket back, which the kernel tells nothing more of once it is closed.
    pub(super) fn leave(&self, index: u32) -> Option<StreamSocket> {
        let place = index as usize;
        *self.descriptors.borrow_mut().get_mut(place)? = NONE;
        self.streams.borrow_mut().get_mut(place)?.take()
    }

    /// Shuts down the socket of every connection so that its pending operations, and with them its task, end. Returns
    /// whether any is open.
    pub(crate) fn shut_all(&self) -> bool {
        let connections = self.connections.borrow();
        for socket in connections.iter() {
            // A socket whose peer is gone refuses this, and its operations end anyway.
            let _ = shutdown(*socket, Shutdown::Both);
        }
        !connections.is_empty()
    }

    /// Sends what the kernel has room for and removes it from the front of `outgoing`; returns how many bytes that was,
    /// or `None` when the socket takes nothing any more. If it is less than [`SEND_BYTES_MAX`] and not all, the kernel
    /// tells of room.
    ///
    /// After a part it is tried again: while a send fills the buffer, the client's other end takes from it, so that most
    /// have room again at once.
    pub(super) fn send(&self, index: u32, outgoing: &mut Outgoing) -> Option<usize> {
        let socket = *self.descriptors.borrow().get(index as usize).filter(|socket| **socket != NONE)?;
        let mut all = 0;
        while !outgoing.buffers.is_empty() && all < SEND_BYTES_MAX {
            match send_some(socket, &outgoing.buffers) {
                Ok(sent) => {
                    skip(&mut outgoing.buffers, sent);
                    all += sent;
                }
                Err(Errno::EAGAIN) => {
                    self.await_room(index, true);
                    break;
                }
                Err(Errno::EINTR) => {}
                Err(_) => return None,
            }
        }
        Some(all)
    }

    /// Has the kernel tell of the room of a stream's socket, or not any more. Once it does, it goes on: to ask each time
    /// would be one more system call for each send that must wait.
    pub(super) fn await_room(&self, index: u32, awaits: bool) {
        let mut streams = self.streams.borrow_mut();
        let Some(Some(socket)) = streams.get_mut(index as usize) else { return };
        if std::mem::replace(&mut socket.awaits_room, awaits) != awaits {
            let descriptor = socket.stream.as_raw_fd();
            let interest = match awaits {
                true => Interest::READABLE | Interest::WRITABLE,
                false => Interest::READABLE,
            };
            // Of a descriptor that is registered it does not fail; a stream that heard nothing would be cut in time.
            let _ = self.registry.reregister(&mut SourceFd(&descriptor), token(index), interest);
        }
    }

    /// Receives and drops what the client of a stream sent; returns why the stream ends, if it does.
    pub(super) fn discard(&self, index: u32) -> Option<EndReason> {
        self.streams.borrow_mut().get_mut(index as usize)?.as_mut()?.discard()
    }
}

/// Sends what there is room for now; returns how many bytes that was.
fn send_some(socket: RawFd, buffers: &[Bytes]) -> nix::Result<usize> {
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    match buffers {
        [buffer] => send(socket, buffer, flags),
        buffers => {
            let slices: SmallVec<[IoSlice<'_>; 8]> =
                buffers.iter().map(|bytes| IoSlice::new(bytes)).collect();
            sendmsg::<()>(socket, &slices, &[], flags, None)
        }
    }
}

/// Returns the token of a stream in the set: its number, which another stream may get later. The kernel forgets a socket
/// when it is closed, which it is at once, because a stream has no operation on the ring that would hold it open; and what
/// it told before is used up before a stream can end.
fn token(index: u32) -> Token {
    Token(index as usize)
}

impl Drop for LentConnection<'_> {
    fn drop(&mut self) {
        self.sockets.connections.borrow_mut().remove(&self.stream.as_raw_fd());
    }
}

/// Receives without waiting, up to the size of `buffer`; returns how many bytes came. End of input and errors are 0,
/// and the next read through the ring meets them again.
pub(crate) fn receive(stream: &TcpStream, buffer: &mut [u8]) -> usize {
    recv(stream.as_raw_fd(), buffer, MsgFlags::MSG_DONTWAIT).unwrap_or(0)
}

/// Makes the kernel reset the connection when it is closed. Otherwise it would wait until the client has taken what was
/// sent, which may be never, and the client would believe the connection open until then.
///
/// This needs no descriptor, of which none may be left, and no system call that a listener does not need as well.
pub(crate) fn reset_at_close(stream: &TcpStream) {
    // This option fails only on a closed socket.
    let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
}

#[cfg(test)]
mod tests {
    use std::io::{ErrorKind, Read, Write};
    use std::net::TcpListener;

    use super::*;
    use crate::shard::common::StreamCount;
    use crate::shard::stream::tests::shard_and_socket;

    #[test]
    fn a_socket_that_is_to_be_reset_is_and_another_ends_in_order() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let connect = || {
            let ours = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            (TcpStream::from_std(ours), listener.accept().unwrap().0)
        };
        let (ours, mut theirs) = connect();
        reset_at_close(&ours);
        drop(ours);
        assert_eq!(theirs.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
        let (ours, mut theirs) = connect();
        drop(ours);
        assert_eq!(theirs.read(&mut [0]).unwrap(), 0);
    }

    /// Returns sockets with the one of a stream, number 7, the set that tells of it, and its client.
    fn with_stream() -> (Sockets, mio::Poll, std::net::TcpStream) {
        let (shard, stream) = shard_and_socket();
        let theirs = TcpListener::bind("127.0.0.1:0").unwrap();
        drop(stream);
        let ours = std::net::TcpStream::connect(theirs.local_addr().unwrap()).unwrap();
        let (theirs, _) = theirs.accept().unwrap();
        let poll = mio::Poll::new().unwrap();
        let sockets = Sockets::new(poll.registry().try_clone().unwrap());
        let open = StreamCount::open(&shard.common, false).unwrap();
        sockets.enter(7, StreamSocket::new(TcpStream::from_std(ours), 0, open)).unwrap();
        (sockets, poll, theirs)
    }

    /// Returns what the set tells next: whether the stream can be read, whether its client sends no more, and whether
    /// there is room.
    fn told(poll: &mut mio::Poll) -> (bool, bool, bool) {
        let mut events = mio::Events::with_capacity(8);
        poll.poll(&mut events, Some(Duration::from_secs(10))).unwrap();
        let event = events.iter().next().unwrap();
        assert_eq!(event.token(), token(7));
        (event.is_readable(), event.is_read_closed(), event.is_writable())
    }

    #[test]
    fn what_the_kernel_has_no_room_for_is_left_until_it_tells_of_room() {
        let (sockets, mut poll, mut theirs) = with_stream();
        let much = vec![b'x'; 64 << 20];
        let mut first = Outgoing::from(Bytes::from(much.clone()));
        assert_eq!(sockets.send(6, &mut first), None, "another's");
        let fill = |outgoing: &mut Outgoing| {
            let sends = std::iter::repeat_with(|| sockets.send(7, outgoing).unwrap());
            sends.take_while(|sent| *sent > 0).sum::<usize>()
        };
        let sent = fill(&mut first);
        assert!(sent > 0 && sent < much.len(), "{sent}");
        assert_eq!(first.buffers.concat().len(), much.len() - sent);
        let mut events = mio::Events::with_capacity(8);
        poll.poll(&mut events, Some(Duration::ZERO)).unwrap();
        assert!(events.is_empty(), "there is no room");
        let mut read = vec![0; sent];
        theirs.read_exact(&mut read).unwrap();
        assert_eq!(told(&mut poll), (false, false, true));
        let mut small = Outgoing::from(Bytes::from_static(b"abc"));
        assert_eq!((sockets.send(7, &mut small), small.buffers.len()), (Some(3), 0));
        // The second time nothing is registered, and it tells of room all the same.
        let sent = fill(&mut first);
        theirs.read_exact(&mut vec![0; sent + 3]).unwrap();
        assert_eq!(told(&mut poll), (false, false, true));
        drop(sockets.leave(7));
        assert_eq!(sockets.send(7, &mut first), None, "it left");
        assert_eq!(theirs.read(&mut [0]).unwrap(), 0, "its socket is closed");
    }

    #[test]
    fn what_a_client_sends_is_dropped_until_it_is_too_much() {
        let (sockets, mut poll, mut theirs) = with_stream();
        assert_eq!(sockets.discard(7), None);
        for _ in 0..2 {
            theirs.write_all(&[b'x'; RECEIVED_BYTES_MAX / 2]).unwrap();
            assert_eq!(told(&mut poll), (true, false, false));
            assert_eq!(sockets.discard(7), None);
        }
        theirs.write_all(b"x").unwrap();
        assert_eq!((told(&mut poll), sockets.discard(7)), ((true, false, false), Some(EndReason::Flooded)));
        let (sockets, mut poll, theirs) = with_stream();
        theirs.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!((told(&mut poll), sockets.discard(7)), ((true, true, false), Some(EndReason::Left)));
    }

    #[test]
    fn a_stream_takes_little_here() {
        // Its slot and its descriptor; the descriptor's owner in tokio-uring takes 64 more.
        let bytes = size_of::<Option<StreamSocket>>() + size_of::<RawFd>();
        assert!(bytes <= 44, "{bytes}");
    }
}
