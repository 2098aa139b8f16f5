//! Streams: each begins on a connection's socket, is sent what is due when it is woken, and ends.

use std::rc::Rc;
use std::sync::Arc;

use tokio::time::timeout;
use tokio_uring::net::TcpStream;

use super::access_log::Admission;
use super::common::StreamCount;
use super::queue::QueueStream;
use super::sockets::{RECEIVED_BYTES_MAX, StreamSocket, reset_at_close};
use super::{Phase, Shard, shares};
use crate::access_log::RequestRecord;
use crate::core::arena::Key;
use crate::core::chunk::Framing;
use crate::core::fanout::sending::Outgoing;
use crate::core::fanout::subscriber::Opening;
use crate::core::fanout::{EndReason, Served, StreamTerms, Subscription};
use crate::core::survey::Client;

/// The work of ending a stream, some 30 us, in the units of [`Fanout::serve`](crate::core::fanout::Fanout::serve): a whole
/// channel may be disconnected at once.
const END_WORK: usize = 8;

/// The order of a connection to its shard to begin a stream.
pub(crate) struct StreamStart {
    pub(crate) source: StreamSource,
    pub(crate) framing: Framing,
    /// The bytes that it begins with, and those that refuse it.
    pub(crate) opening: Opening,
    /// Listed to those who ask who is connected; `None` where nobody may, and for an admin page.
    pub(crate) client: Option<Client>,
    /// Whether it feeds an admin page, which does not count as a subscriber.
    pub(crate) feeds_admin_page: bool,
    /// `None` without an access log.
    pub(crate) record: Option<Box<RequestRecord>>,
}

/// The source of a stream's events.
#[derive(Debug)]
pub(crate) enum StreamSource {
    Topics(StreamTerms),
    Queue(QueueStream),
    /// Nothing for now: the stream is refused.
    None,
}

/// Begins a stream on this socket; `received` bytes came behind its request. Returns the socket when the stream is
/// refused.
pub(crate) async fn begin(
    shard: &Rc<Shard>,
    stream: TcpStream,
    start: StreamStart,
    received: usize,
) -> Option<TcpStream> {
    let StreamStart { source, framing, opening, client, feeds_admin_page, record } = start;
    let refuse = shard.common.config.stream.refuse;
    let admission = record.map(|record| Admission::of(record, &source, &opening, refuse));
    let open = StreamCount::open(&shard.common, feeds_admin_page).filter(|_| shard.phase() == Phase::Serving);
    let (key, open) = match (source, open) {
        (StreamSource::Topics(terms), Some(open)) => {
            let subscription = Subscription { terms, framing, opening };
            (shard.with_fanout(|fanout, now_ms, out| fanout.subscribe(subscription, now_ms, out)), open)
        }
        (StreamSource::Queue(queue), Some(mut open)) => {
            let key = shard.follow(&queue, framing, opening);
            queue.is_ready();
            open.keep(queue);
            (key, open)
        }
        (StreamSource::None, _) | (_, None) => {
            tracing::debug!(shard = shard.id, "stream refused");
            shard.stats().refused.add(1);
            // Lent meanwhile, or a shard that stops would end with the write under way.
            let lent = shard.sockets.lend_connection(&stream);
            let write = stream.write_all(opening.refusal);
            let written = timeout(shard.common.config.stream.send_timeout, write).await;
            drop(lent);
            if let Some(admission) = admission {
                admission.refused(matches!(written, Ok((Ok(()), _))));
            }
            return Some(stream);
        }
    };
    if let Some(admission) = admission {
        shard.log_start(key, admission);
    }
    if let Some(client) = client {
        shard.clients.borrow_mut().enter(key, client);
    }
    shard.stats().clients.add(1);
    let socket = StreamSocket::new(stream, received, open);
    if let Err(error) = shard.sockets.enter(key.index, socket) {
        tracing::debug!(shard = shard.id, %error, "stream refused: raise fs.epoll.max_user_watches");
        shard.with_fanout(|fanout, _, _| fanout.refuse(key));
    } else if received > RECEIVED_BYTES_MAX {
        shard.with_fanout(|fanout, _, _| fanout.end_for(key.index, EndReason::Flooded));
    }
    // A stream that asks no home is due now.
    shard.mailbox.ring();
    None
}

impl Shard {
    /// Serves streams that were woken until `work_max` is done, in the units of
    /// [`Fanout::send_ready`](crate::core::fanout::Fanout::send_ready).
    pub(super) fn serve_woken(&self, work_max: usize) {
        let mut work = 0;
        while work < work_max {
            let woken = self.fanout.borrow_mut().take_woken();
            let Some(key) = woken else { return };
            let send = &mut |index, outgoing: &mut Outgoing| self.send(index, outgoing);
            let (served, sends) =
                self.with_fanout(|fanout, now_ms, out| fanout.serve(key.index, now_ms, out, send));
            self.log_opening(key);
            work += 1 + sends;
            if served != Served::Waits {
                self.end_stream(key, served == Served::Cut);
                work += END_WORK;
            }
        }
    }

    /// Sends what the socket of a stream has room for, and counts it; returns how many bytes that was, or `None` when the
    /// socket takes nothing any more.
    pub(super) fn send(&self, index: u32, outgoing: &mut Outgoing) -> Option<usize> {
        let bytes = self.sockets.send(index, outgoing)?;
        self.account(index, bytes, outgoing);
        Some(bytes)
    }

    /// Ends a stream and closes its socket, with a reset if `is_cut`.
    fn end_stream(&self, key: Key, is_cut: bool) {
        let socket = self.sockets.leave(key.index);
        if let Some(socket) = &socket
            && is_cut
        {
            reset_at_close(socket.stream());
        }
        tracing::debug!(shard = self.id, clients = self.stats().clients.value(), "stream ends");
        self.log_end(key);
        self.clients.borrow_mut().leave(key);
        let (evicted, refused) = self.with_fanout(|fanout, _, out| {
            fanout.leave(key, out);
            (fanout.evicted, std::mem::take(&mut fanout.refused))
        });
        let stats = self.stats();
        stats.evicted.set(evicted);
        stats.refused.add(refused);
        stats.clients.subtract(1);
    }

    /// Ends all streams, with the shard: those that are still open have not taken their last bytes.
    pub(crate) async fn end_streams(&self) {
        self.phase.set(Phase::Stopped);
        let keys: Vec<_> = self.fanout.borrow().keys().collect();
        for keys in keys.chunks(shares::SENDS / END_WORK) {
            keys.iter().for_each(|key| self.end_stream(*key, true));
            let _ = tokio_uring::no_op().await;
        }
    }

    /// Adds the subscriber that receives a queue's events; returns its key.
    fn follow(&self, queue: &QueueStream, framing: Framing, opening: Opening) -> Key {
        let topics = [queue.topic.clone()].into();
        let terms = StreamTerms::of(topics);
        let subscription = Subscription { terms, framing, opening };
        self.with_fanout(|fanout, now_ms, _| fanout.follow(subscription, Arc::clone(&queue.sent), now_ms))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::config::Config;
    use crate::server::tests::parts;

    /// Returns a shard that does not run, and a client's socket.
    pub(crate) fn shard_and_socket() -> (Rc<Shard>, TcpStream) {
        let shard = parts(Config::default()).shard();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let socket = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (shard, TcpStream::from_std(socket))
    }
}
