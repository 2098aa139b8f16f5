//! Closes refused connections in two steps, so that the client can still read the refusal.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::Shutdown;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use futures_util::future::select;
use tokio::sync::Notify;
use tokio::time::timeout;
use tokio_uring::net::TcpStream;

/// How long a refused connection is still read from, so that the refusal is not lost to a reset.
const LINGER: Duration = Duration::from_secs(1);
const READ_BYTES: usize = 2 << 10;

/// The refused connections of a shard that are not closed yet, in the order in which they were refused.
#[derive(Debug, Default)]
pub(crate) struct Lingering {
    waiting: RefCell<BTreeMap<u64, Rc<Notify>>>,
    next: Cell<u64>,
}

impl Lingering {
    /// Shuts the sending side, reads what the client still sends, then shuts the rest: closing at once would reset the
    /// connection, and the reset could overtake the refusal (RFC 9112, section 9.6). Returns when the socket may be
    /// closed.
    pub(super) async fn linger(&self, stream: &TcpStream) {
        let _ = stream.shutdown(Shutdown::Write);
        let number = self.next.replace(self.next.get() + 1);
        let wake = Rc::new(Notify::new());
        self.waiting.borrow_mut().insert(number, Rc::clone(&wake));
        let drain = async {
            let mut buffer = Vec::with_capacity(READ_BYTES);
            let mut result = Ok(1);
            while matches!(result, Ok(bytes) if bytes > 0) {
                (result, buffer) = stream.read(buffer).await;
            }
        };
        // A read that is dropped here ends with the socket.
        let _ = select(pin!(timeout(LINGER, drain)), pin!(wake.notified())).await;
        self.waiting.borrow_mut().remove(&number);
        let _ = stream.shutdown(Shutdown::Both);
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.borrow().len()
    }

    /// Closes the `count` that were refused first at once.
    pub(super) fn end_first(&self, count: usize) {
        for _ in 0..count {
            let Some((_, wake)) = self.waiting.borrow_mut().pop_first() else { return };
            wake.notify_one();
        }
    }
}
