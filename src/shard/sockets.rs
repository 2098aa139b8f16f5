//! Sends that do not wait: straight into the socket while it has room.
//!
//! A send through the ring costs a slot, a completion and two wake-ups beside the kernel's TCP, a tenth to a fifth of a
//! delivery's whole cost. That pays only for a send that must wait, and most need not. What the kernel does not take at
//! once the stream sends through the ring.

use std::cell::RefCell;
use std::collections::HashSet;
use std::io::IoSlice;
use std::marker::PhantomData;
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

use nix::sys::socket::{MsgFlags, Shutdown, recv, send, sendmsg, shutdown};
use smallvec::SmallVec;
use tokio_uring::net::TcpStream;
use tokio_uring_socket2::SockRef;

use crate::core::fanout::sending::Outgoing;
use crate::core::fanout::wire::skip;

/// The open sockets of a shard, each lent by its owner; owned by [`Shard`](super::Shard).
#[derive(Debug, Default)]
pub(crate) struct Sockets {
    /// Sockets of connections that are not streams.
    connections: RefCell<HashSet<RawFd>>,
    /// Sockets of subscribers, by the subscriber's index: 4 bytes each, side by side.
    subscribers: RefCell<Vec<RawFd>>,
}

/// No descriptor: the subscriber's socket is not lent.
const NONE: RawFd = -1;

/// A connection's socket, lent until this is dropped; the borrow keeps the descriptor valid.
pub(crate) struct LentConnection<'s> {
    sockets: &'s Sockets,
    stream: &'s TcpStream,
}

/// A subscriber's socket, lent until this is dropped.
pub(super) struct LentSubscriber<'s> {
    sockets: &'s Sockets,
    index: u32,
    /// The borrow keeps the descriptor in the table valid.
    _stream: PhantomData<&'s TcpStream>,
}

impl Sockets {
    /// Lends a connection's socket, so that [`Sockets::shut_all`] reaches it.
    pub(crate) fn lend_connection<'s>(&'s self, stream: &'s TcpStream) -> LentConnection<'s> {
        self.connections.borrow_mut().insert(stream.as_raw_fd());
        LentConnection { sockets: self, stream }
    }

    /// Lends a subscriber's socket, so that [`Sockets::send`] and [`Sockets::shut_all`] reach it.
    pub(super) fn lend_subscriber<'s>(&'s self, index: u32, stream: &'s TcpStream) -> LentSubscriber<'s> {
        let mut subscribers = self.subscribers.borrow_mut();
        let place = index as usize;
        if subscribers.len() <= place {
            subscribers.resize(place + 1, NONE);
        }
        subscribers[place] = stream.as_raw_fd();
        LentSubscriber { sockets: self, index, _stream: PhantomData }
    }

    /// Shuts down every socket so that its pending operations, and with them its task, end. Returns whether any is
    /// open.
    pub(crate) fn shut_all(&self) -> bool {
        let (connections, subscribers) = (self.connections.borrow(), self.subscribers.borrow());
        let open = connections.iter().chain(subscribers.iter().filter(|socket| **socket != NONE));
        let mut any = false;
        for socket in open {
            // A socket whose peer is gone refuses this, and its operations end anyway.
            let _ = shutdown(*socket, Shutdown::Both);
            any = true;
        }
        any
    }

    /// Sends what the kernel has room for and removes it from the front of `outgoing`; returns how many bytes that was.
    pub(super) fn send(&self, index: u32, outgoing: &mut Outgoing) -> usize {
        let socket = self.subscribers.borrow().get(index as usize).copied().unwrap_or(NONE);
        if socket == NONE {
            return 0;
        }
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        let sent = match &outgoing.buffers[..] {
            [buffer] => send(socket, buffer, flags),
            buffers => {
                let slices: SmallVec<[IoSlice<'_>; 8]> =
                    buffers.iter().map(|bytes| IoSlice::new(bytes)).collect();
                sendmsg::<()>(socket, &slices, &[], flags, None)
            }
        };
        // The stream's next send through the ring meets an error again, and handles it.
        let sent = sent.unwrap_or(0);
        skip(&mut outgoing.buffers, sent);
        sent
    }
}

impl Drop for LentConnection<'_> {
    fn drop(&mut self) {
        self.sockets.connections.borrow_mut().remove(&self.stream.as_raw_fd());
    }
}

impl Drop for LentSubscriber<'_> {
    fn drop(&mut self) {
        if let Some(socket) = self.sockets.subscribers.borrow_mut().get_mut(self.index as usize) {
            *socket = NONE;
        }
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
    use std::io::{ErrorKind, Read};
    use std::net::TcpListener;

    use bytes::Bytes;

    use super::*;

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

    #[test]
    fn what_the_kernel_has_no_room_for_is_left_and_a_socket_that_left_is_sent_nothing() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let ours = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut theirs, _) = listener.accept().unwrap();
        let ours = TcpStream::from_std(ours);
        let sockets = Sockets::default();
        let much = vec![b'x'; 64 << 20];
        let outgoing = || Outgoing::from(Bytes::from(much.clone()));
        let mut first = outgoing();
        assert_eq!(sockets.send(7, &mut first), 0, "no socket yet");
        let lent = sockets.lend_subscriber(7, &ours);
        assert_eq!(sockets.send(6, &mut first), 0, "another's");
        let sent = sockets.send(7, &mut first);
        assert!(sent > 0 && sent < much.len(), "{sent}");
        assert_eq!(first.buffers.concat().len(), much.len() - sent);
        let mut read = vec![0; sent];
        theirs.read_exact(&mut read).unwrap();
        let mut small = Outgoing::from(Bytes::from_static(b"abc"));
        assert_eq!((sockets.send(7, &mut small), small.buffers.len()), (3, 0));
        drop(lent);
        assert_eq!(sockets.send(7, &mut outgoing()), 0);
    }
}
