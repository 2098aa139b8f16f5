//! A subscriber's socket: one pending read that notices when the client goes, and one send at a time.

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

use crate::backend::without_queue;
use crate::config::RefuseStreams;
use crate::core::arena::Key;
use crate::core::chunk::Framing;
use crate::core::fanout::Subscription;
use crate::core::fanout::sending::{Next, Outgoing};
use crate::core::fanout::subscriber::Opening;
use crate::core::fanout::wire::{Buffers, retry_field, skip};
use crate::http::{self, Refusal, Version};
use crate::routes::Subscribe;
use crate::shard::connection::{self, Source};
use crate::shard::pipeline::{Encoding, Request};
use crate::shard::queue::QueueStream;
use crate::shard::sockets::reset_at_close;
use crate::shard::{Phase, Shard};
use crate::shared::{OpenStream, Streams};

/// Bytes a subscriber may send us, which are thrown away. It has nothing to say: more is a mistake or an
/// attack.
const RECEIVED_BYTES_MAX: usize = 1024;
/// What a queue's stream begins with, so that a proxy and a page see at once that it is there.
const GREETING: &str = ": SSE stream\n";

/// Why a stream is refused for now that there is no place for.
pub(super) const FULL: &str =
    "no room for a further stream; try again later, or raise --subscribers-max or --topics-max";

/// Streams that may end before others have their turn: all of a channel may be disconnected at once, and each takes
/// some 40 us.
const ENDS_PER_TURN: usize = 32;

/// Turns a connection into a stream. Gives the socket back when the stream was refused.
pub(super) async fn begin(
    shard: &Rc<Shard>,
    stream: TcpStream,
    opening: connection::Opening,
    received: usize,
) -> Option<TcpStream> {
    let connection::Opening { request, source, client } = opening;
    let framing = shard.framing(&request, &source);
    let opening = shard.opening(&request, &source, framing);
    let watches = matches!(&source, Source::Topics(subscribe) if shard.feeds_a_page(subscribe));
    let open = Streams::open(&shard.shared, watches).filter(|_| shard.phase() == Phase::Serving);
    tracing::debug!(shard = shard.id, source = without_queue(&format!("{source:?}")), "stream asked for");
    let (key, open) = match (source, open) {
        (Source::Topics(Subscribe { topics, last_event_id, expires_s }), Some(open)) => {
            let subscription = Subscription { topics, framing, last_event_id, expires_s, opening };
            (shard.with_fanout(|fanout, now_ms, out| fanout.subscribe(subscription, now_ms, out)), open)
        }
        (Source::Queue(queue), Some(mut open)) => {
            let key = shard.follow(&queue, framing, opening);
            queue.is_ready();
            open.keep(queue);
            (key, open)
        }
        (Source::NoQueue(_), _) | (_, None) => {
            tracing::debug!(shard = shard.id, "stream refused");
            shard.stats().refused.add(1);
            let write = stream.write_all(opening.refusal);
            let _ = timeout(shard.shared.config.stream.send_timeout, write).await;
            return Some(stream);
        }
    };
    // The page is no subscriber, and its topic has no path.
    if let Some(client) = client.filter(|_| !watches) {
        shard.clients.borrow_mut().enter(key, client);
    }
    shard.stats().clients.add(1);
    shard.newcomers.borrow_mut().push(Newcomer { stream, key, received, open });
    shard.newcomer.notify_one();
    None
}

/// A subscriber whose socket is handed over.
pub(crate) struct Newcomer {
    stream: TcpStream,
    key: Key,
    /// Bytes that came behind its request.
    received: usize,
    open: OpenStream,
}

/// Serves all streams of a shard, for as long as the shard runs.
///
/// One task for all: a task of its own would cost each subscriber 240 bytes more, because the runtime aligns
/// tasks to 128 bytes. The set polls only those that were woken.
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
/// The future is what an idle subscriber costs, so it is kept small, and a test bounds it: a block and not an
/// `async fn`, which would hold its arguments twice, and a send is boxed, which costs 1 % of one.
fn run(shard: &Shard, newcomer: Newcomer) -> impl Future<Output = ()> {
    let Newcomer { stream, key, mut received, open } = newcomer;
    shard.sockets.enter(key.index, &stream);
    async move {
        let end = {
            // The smallest buffer: it lies idle for the whole life of the connection.
            let mut reading = pin!(stream.read(Vec::with_capacity(8)));
            let mut sending = None;
            poll_fn(|cx| {
                // Some of it may have come with the request.
                if received > RECEIVED_BYTES_MAX {
                    return Poll::Ready(StreamEnd::Closed);
                }
                if let Poll::Ready(end) = shard.drive(key, &stream, &mut sending, cx) {
                    return Poll::Ready(end);
                }
                if sending.is_some() {
                    // Asked again when it is sent: every look at the read is a cache miss or two.
                    return Poll::Pending;
                }
                while let Poll::Ready((result, _)) = reading.as_mut().poll(cx) {
                    let bytes = result.unwrap_or(0);
                    received += bytes;
                    if bytes == 0 || received > RECEIVED_BYTES_MAX {
                        return Poll::Ready(StreamEnd::Closed);
                    }
                    reading.set(stream.read(Vec::with_capacity(8)));
                }
                Poll::Pending
            })
            .await
        };
        // One that is still open when all is to end has not taken its farewell.
        if end == StreamEnd::Cut || shard.phase() == Phase::Stopped {
            reset_at_close(&stream);
        }
        // What is still under way in the kernel ends with this, and frees its buffers and the descriptor.
        let _ = stream.shutdown(Shutdown::Both);
        shard.sockets.closes(&stream);
        tracing::debug!(shard = shard.id, clients = shard.stats().clients.value(), "stream ends");
        shard.sockets.leave(key.index);
        shard.clients.borrow_mut().leave(key);
        shard.with_fanout(|fanout, _, out| fanout.leave(key, out));
        shard.stats().clients.subtract(1);
        drop(open);
    }
}

/// How a stream ends.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum StreamEnd {
    /// Its client left, or was sent all it was to be sent.
    Closed,
    /// Its client did not take what it was sent. It is told by a reset, and comes back.
    Cut,
}

/// A send under way.
struct Sending<'s> {
    operation: Operation<'s>,
    /// What it stands for; the bytes are lent to the operation.
    outgoing: Outgoing,
}

enum Operation<'s> {
    /// One buffer, the usual case, without an allocation.
    Write(InFlightOneshot<WriteData<Bytes>, WriteTransform<Bytes>>),
    Writev(Pin<Box<dyn Future<Output = BufResult<usize, Vec<Bytes>>> + 's>>),
}

impl Shard {
    /// Sends what there is to send until it must wait; ready, and how it ends, when the connection is to be closed.
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
                        self.account(bytes, &send.outgoing);
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
                    // Asked all the same: it may have been cut.
                    Poll::Pending => {}
                }
            }
            let (next, has_ready) = self
                .with_fanout(|fanout, now_ms, _| (fanout.next(key, cx.waker(), now_ms), fanout.has_ready()));
            if has_ready {
                // Skipping forward seals a block, and whoever waits for that is woken by a turn.
                self.mailbox.ring();
            }
            match next {
                Next::Send(mut outgoing) => {
                    if !outgoing.is_rest && !outgoing.buffers.is_empty() {
                        let bytes = self.sockets.send(key.index, &mut outgoing);
                        self.account(bytes, &outgoing);
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

    /// Whether it is an admin page that subscribes.
    fn feeds_a_page(&self, subscribe: &Subscribe) -> bool {
        subscribe.topics[..] == [self.shared.access.admin_topic.clone()]
    }

    /// How a stream's body is delimited.
    fn framing(&self, request: &Request, source: &Source) -> Framing {
        let is_identity = self.shared.access.queues.as_ref().is_some_and(|queues| queues.is_identity);
        match (request.version, source) {
            (Version::Http11, Source::Queue(_) | Source::NoQueue(_)) if is_identity => Framing::Plain,
            (Version::Http11, _) => Framing::Chunked,
            (Version::Http10, _) => Framing::Plain,
        }
    }

    /// The subscriber that a queue's stream is.
    fn follow(&self, queue: &QueueStream, framing: Framing, opening: Opening) -> Key {
        let topics = [queue.topic.clone()].into();
        let subscription =
            Subscription { topics, framing, last_event_id: None, expires_s: u64::MAX, opening };
        self.with_fanout(|fanout, now_ms, _| fanout.follow(subscription, Arc::clone(&queue.sent), now_ms))
    }

    /// The bytes a stream begins with, or those it is refused with: EventSource gives up for ever on any
    /// status but 200, so by default a refusal is a 200 that says when to come back.
    fn opening(&self, request: &Request, source: &Source, framing: Framing) -> Opening {
        let date = self.date();
        let encoding = Encoding::of(&self.shared, &date);
        let mut head = Vec::with_capacity(256);
        let cx = request.context(encoding);
        match (source, &self.shared.access.queues) {
            (Source::Queue(_) | Source::NoQueue(_), Some(queues)) => {
                let is_chunked = framing == Framing::Chunked;
                let reason = match source {
                    Source::NoQueue(reason) => Some(&**reason),
                    _ => None,
                };
                http::encode_queue_head(&queues.stream_lines, reason, is_chunked, &cx, &mut head);
                let mut greeting = Vec::new();
                // An id without data is no event, but the page's Last-Event-ID (WHATWG HTML, 9.2.6): with none it would
                // be locked out by its own ghost.
                let id = match source {
                    Source::Queue(QueueStream { first_id: Some(id), .. }) => format!("id: {id}\n"),
                    _ => String::new(),
                };
                framing.frame([Bytes::from(format!("{GREETING}{id}\n"))], &mut greeting);
                head.extend(greeting.iter().flatten());
            }
            _ => http::encode_stream_head(&cx, &mut head),
        }
        let refusal = match self.shared.config.stream.refuse {
            RefuseStreams::Retry => {
                let retry_ms = self.fanout.borrow_mut().retry_ms();
                let farewell = framing.farewell(&retry_field(retry_ms));
                [&head, &farewell[..]].concat()
            }
            RefuseStreams::Unavailable => {
                let refusal = Refusal { close: true, ..Refusal::unavailable(FULL) };
                let mut out = Vec::with_capacity(256);
                refusal.encode(&cx, &mut out);
                out
            }
        };
        Opening { head: head.into(), refusal: refusal.into() }
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
pub(super) mod tests {
    use super::*;
    use crate::config::Config;
    use crate::core::arena::Arena;
    use crate::core::home::Homes;
    use crate::core::journal::MemoryJournal;
    use crate::journal::ShardJournal;
    use crate::server::shared_without_journal;
    use crate::shard::mailbox::mailboxes;

    /// Returns a shard that does not run, and a client's socket.
    pub(in crate::shard) fn shard_and_socket() -> (Rc<Shard>, TcpStream) {
        let shared = Arc::new(shared_without_journal(Config::default(), 10).unwrap());
        let (doors, mut insides) = mailboxes(1);
        let homes = Homes::new(0, &shared.homes);
        let journal = ShardJournal::Memory(MemoryJournal::default());
        let shard = Shard::new(0, shared, insides.pop().unwrap(), doors, homes, journal);
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let socket = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (shard, TcpStream::from_std(socket))
    }

    #[test]
    fn the_future_of_a_stream_is_small() {
        let (shard, stream) = shard_and_socket();
        let open = Streams::open(&shard.shared, false).unwrap();
        let key = Arena::default().insert(());
        let future = run(&shard, Newcomer { stream, key, received: 0, open });
        // Beside it an idle subscriber costs its place in the slab, one operation and its place in the set.
        assert!(size_of_val(&future) <= 272, "{}", size_of_val(&future));
    }
}
