//! Sends that need not wait: straight into the socket, where it has room.
//!
//! A send through the ring costs a slot, a completion and two wake-ups beside the kernel's TCP, a tenth to a fifth of a
//! delivery's whole cost. That is worth it when it must wait; most need not. What the kernel does not take at once is the
//! connection's to send.

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

/// The sockets of a shard, each lent by whoever owns it for as long as it is open.
#[derive(Debug, Default)]
pub(crate) struct Sockets {
    /// Those of connections that are no streams.
    connections: RefCell<HashSet<RawFd>>,
    /// Those of subscribers, by the subscriber's index: 4 bytes each, side by side.
    subscribers: RefCell<Vec<RawFd>>,
}

/// No descriptor: the subscriber has none yet, or no longer.
const NONE: RawFd = -1;

/// A connection's socket, lent until this is dropped: it borrows the socket, so the number stays the socket's own.
pub(crate) struct LentConnection<'s> {
    sockets: &'s Sockets,
    stream: &'s TcpStream,
}

/// A subscriber's socket, lent until this is dropped.
pub(super) struct LentSubscriber<'s> {
    sockets: &'s Sockets,
    index: u32,
    /// The number in the table is good while this is borrowed.
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

    /// Ends what is under way on every socket, so that their tasks end. Returns whether any is open.
    pub(crate) fn shut_all(&self) -> bool {
        let (connections, subscribers) = (self.connections.borrow(), self.subscribers.borrow());
        let open = connections.iter().chain(subscribers.iter().filter(|socket| **socket != NONE));
        let mut any = false;
        for socket in open {
            // One whose peer is gone is as good.
            let _ = shutdown(*socket, Shutdown::Both);
            any = true;
        }
        any
    }

    /// Sends what the kernel has room for, and takes that off the front of `outgoing`; returns how many bytes that was.
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
        // An error is told to the connection, whose own send meets it again.
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

/// Receives what is there without waiting, up to the size of `buffer`; returns how many bytes that was. An end and an error
/// are 0: the next read through the ring meets them again.
pub(crate) fn receive(stream: &TcpStream, buffer: &mut [u8]) -> usize {
    recv(stream.as_raw_fd(), buffer, MsgFlags::MSG_DONTWAIT).unwrap_or(0)
}

/// Has the kernel reset the connection when it is closed. Otherwise it would wait until the client has taken what was sent,
/// which may be never, and until then the client would take the connection for open.
///
/// This needs no descriptor, of which there may be none left, and no system call that a listener does not need as well.
pub(crate) fn reset_at_close(stream: &TcpStream) {
    // A socket refuses this option only when it is closed.
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
