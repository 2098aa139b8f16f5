//! A subscriber's socket: one pending read that notices when the client leaves, and one send at a time.

use std::future::poll_fn;
use std::net::Shutdown;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::time::timeout;
use tokio_uring::net::TcpStream;
use tokio_uring::{BufResult, InFlightOneshot, WriteData, WriteTransform};

use super::access_log::Admission;
use super::common::{OpenStream, StreamCount};
use super::queue::QueueStream;
use super::sockets::reset_at_close;
use super::{Phase, Shard};
use crate::access_log::RequestRecord;
use crate::core::arena::Key;
use crate::core::chunk::Framing;
use crate::core::fanout::sending::{Next, Outgoing};
use crate::core::fanout::subscriber::Opening;
use crate::core::fanout::wire::{Buffers, skip};
use crate::core::fanout::{StreamTerms, Subscription};
use crate::core::survey::Client;

/// The most bytes that a subscriber may send, which are discarded: it has nothing to say, and more is a mistake or an
/// attack.
const RECEIVED_BYTES_MAX: usize = 1024;
/// Streams that may end before other tasks have a turn: a whole channel may be disconnected at once, and each end takes
/// some 40 us.
const ENDS_PER_TURN: usize = 32;

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
    shard.newcomers.borrow_mut().push(Newcomer { stream, key, received, open });
    shard.newcomer.notify_one();
    None
}

/// A subscriber on its way from its connection to [`run_all`].
pub(crate) struct Newcomer {
    stream: TcpStream,
    key: Key,
    /// Bytes that came behind its request.
    received: usize,
    open: OpenStream,
}

/// Serves all streams of a shard, for as long as the shard runs.
///
/// One task serves all: a task each would cost every subscriber 240 bytes more, because the runtime aligns tasks to 128
/// bytes. The set polls only streams that were woken.
pub(crate) async fn run_all(shard: &Shard) {
    let mut streams = FuturesUnordered::new();
    loop {
        let mut newcomer = pin!(shard.newcomer.notified());
        let may_be_more = poll_fn(|cx| {
            for _ in 0..ENDS_PER_TURN {
                let Poll::Ready(Some(())) = streams.poll_next_unpin(cx) else {
                    return newcomer.as_mut().poll(cx).map(|()| false);
                };
            }
            Poll::Ready(true)
        })
        .await;
        if may_be_more {
            let _ = tokio_uring::no_op().await;
        }
        streams.extend(shard.newcomers.borrow_mut().drain(..).map(|newcomer| run(shard, newcomer)));
    }
}

/// Serves a subscriber until it leaves, is cut, or the stream ends.
///
/// The future is what an idle subscriber costs, so it is kept small, and a test bounds it: a block and not an `async
/// fn`, which would hold its arguments twice, and sends are boxed, which costs 1 % of one.
fn run(shard: &Shard, newcomer: Newcomer) -> impl Future<Output = ()> {
    let Newcomer { stream, key, mut received, open } = newcomer;
    async move {
        let lent = shard.sockets.lend_subscriber(key.index, &stream);
        let end = {
            // The smallest buffer: it lies idle for the whole life of the connection.
            let mut reading = pin!(stream.read(Vec::with_capacity(8)));
            let mut sending = None;
            poll_fn(|cx| {
                // Some bytes may have come with the request.
                if received > RECEIVED_BYTES_MAX {
                    return Poll::Ready(StreamEnd::Flooded);
                }
                if let Poll::Ready(end) = shard.drive(key, &stream, &mut sending, cx) {
                    return Poll::Ready(end);
                }
                if sending.is_some() {
                    // The read is polled again when the send is done: every poll of it is a cache miss or two.
                    return Poll::Pending;
                }
                while let Poll::Ready((result, _)) = reading.as_mut().poll(cx) {
                    let bytes = result.unwrap_or(0);
                    received += bytes;
                    if bytes == 0 {
                        return Poll::Ready(StreamEnd::Closed);
                    }
                    if received > RECEIVED_BYTES_MAX {
                        return Poll::Ready(StreamEnd::Flooded);
                    }
                    reading.set(stream.read(Vec::with_capacity(8)));
                }
                Poll::Pending
            })
            .await
        };
        // A stream still open at the last stop has not taken its last bytes.
        if end == StreamEnd::Cut || shard.phase() == Phase::Stopped {
            reset_at_close(&stream);
        }
        // Ends what is still under way in the kernel, which frees its buffers and the descriptor.
        let _ = stream.shutdown(Shutdown::Both);
        tracing::debug!(shard = shard.id, clients = shard.stats().clients.value(), "stream ends");
        drop(lent);
        shard.log_end(key, (end == StreamEnd::Flooded).then_some("flooded"));
        shard.clients.borrow_mut().leave(key);
        shard.with_fanout(|fanout, _, out| fanout.leave(key, out));
        shard.stats().clients.subtract(1);
        drop(open);
    }
}

/// The way in which a stream ends.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum StreamEnd {
    /// The client left, or everything due to it was sent.
    Closed,
    /// The client sent more than it may.
    Flooded,
    /// The client did not take its events in time. The reset makes it come back.
    Cut,
}

/// A send under way.
struct Sending<'s> {
    operation: Operation<'s>,
    /// The events being sent; their bytes are lent to the operation.
    outgoing: Outgoing,
}

enum Operation<'s> {
    /// One buffer, the usual case, without an allocation.
    Write(InFlightOneshot<WriteData<Bytes>, WriteTransform<Bytes>>),
    Writev(Pin<Box<dyn Future<Output = BufResult<usize, Vec<Bytes>>> + 's>>),
}

impl Shard {
    /// Sends what is due until it must wait. Ready with the stream's end when the connection is to be closed.
    fn drive<'s>(
        &self,
        key: Key,
        stream: &'s TcpStream,
        sending: &mut Option<Box<Sending<'s>>>,
        cx: &mut Context<'_>,
    ) -> Poll<StreamEnd> {
        loop {
            if let Some(send) = sending {
                match send.operation.poll(cx) {
                    Poll::Ready((Ok(bytes), mut rest)) if bytes > 0 => {
                        skip(&mut rest, bytes);
                        send.outgoing.buffers = rest;
                        self.account(key.index, bytes, &send.outgoing);
                        if !send.outgoing.buffers.is_empty() {
                            let rest = std::mem::take(&mut send.outgoing.buffers);
                            send.operation = Operation::start(stream, rest);
                            self.with_fanout(|fanout, now_ms, _| fanout.partly_sent(key, now_ms));
                            continue;
                        }
                        *sending = None;
                        self.with_fanout(|fanout, now_ms, out| fanout.sent(key, now_ms, out));
                    }
                    Poll::Ready(_) => return Poll::Ready(StreamEnd::Closed),
                    // The fan-out is asked all the same: the stream may have been cut.
                    Poll::Pending => {}
                }
            }
            let (next, has_ready) = self
                .with_fanout(|fanout, now_ms, _| (fanout.next(key, cx.waker(), now_ms), fanout.has_ready()));
            self.log_opening(key);
            if has_ready {
                // Skipping forward sealed a block, and streams that wait for it are woken by a turn.
                self.mailbox.ring();
            }
            match next {
                Next::Send(mut outgoing) => {
                    if !outgoing.is_rest && !outgoing.buffers.is_empty() {
                        let bytes = self.sockets.send(key.index, &mut outgoing);
                        self.account(key.index, bytes, &outgoing);
                    }
                    if outgoing.buffers.is_empty() {
                        self.with_fanout(|fanout, now_ms, out| fanout.sent(key, now_ms, out));
                    } else {
                        *sending = Some(Box::new(Sending::start(stream, outgoing)));
                    }
                }
                Next::Wait => return Poll::Pending,
                Next::Close => return Poll::Ready(StreamEnd::Closed),
                Next::Cut => return Poll::Ready(StreamEnd::Cut),
            }
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

impl<'s> Sending<'s> {
    fn start(stream: &'s TcpStream, mut outgoing: Outgoing) -> Self {
        let buffers = std::mem::take(&mut outgoing.buffers);
        Sending { operation: Operation::start(stream, buffers), outgoing }
    }
}

impl<'s> Operation<'s> {
    fn start(stream: &'s TcpStream, mut buffers: Buffers) -> Self {
        if buffers.len() == 1
            && let Some(buffer) = buffers.pop()
        {
            return Operation::Write(stream.write(buffer).submit());
        }
        Operation::Writev(Box::pin(stream.writev(buffers.into_vec())))
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<BufResult<usize, Buffers>> {
        match self {
            Operation::Write(write) => {
                Pin::new(write).poll(cx).map(|(result, buffer)| (result, Buffers::from_buf([buffer])))
            }
            Operation::Writev(writev) => writev.as_mut().poll(cx).map(|(result, list)| (result, list.into())),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::config::Config;
    use crate::core::arena::Arena;
    use crate::server::tests::parts;

    /// Returns a shard that does not run, and a client's socket.
    pub(crate) fn shard_and_socket() -> (Rc<Shard>, TcpStream) {
        let shard = parts(Config::default()).shard();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let socket = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (shard, TcpStream::from_std(socket))
    }

    #[test]
    fn the_future_of_a_stream_is_small() {
        let (shard, stream) = shard_and_socket();
        let open = StreamCount::open(&shard.common, false).unwrap();
        let key = Arena::default().insert(());
        let future = run(&shard, Newcomer { stream, key, received: 0, open });
        // Beside it an idle subscriber costs its entry in the slab, one operation and its entry in the set.
        assert!(size_of_val(&future) <= 272, "{}", size_of_val(&future));
    }
}
