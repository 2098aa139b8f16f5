//! The bridge: RabbitMQ's queues become clients' streams, and what its exchanges are sent becomes events of
//! topics.

pub(crate) mod outlet;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

/// A client's stream of one queue, as the bridge knows it. Numbers are never used twice in a process.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(crate) struct StreamId(pub(crate) u64);

/// To the bridge. What is under way is bounded by the connections there are.
#[derive(Debug)]
pub(crate) enum ToBridge<T> {
    /// A client asks for a queue. `ticket` says whom to answer, `last_event_id` is as the client sent it.
    Open { queue: String, last_event_id: Option<Box<str>>, ticket: T },
    /// The stream is set up: what the queue has may be delivered.
    Ready { stream: StreamId },
    /// The client is gone, or was never there any more.
    Closed { stream: StreamId },
    /// Close everything in order and end the thread.
    Stop,
}

/// From the bridge. Nothing in it blocks.
pub(crate) trait Outlet<T>: Send + Sync + 'static {
    /// The queue is this client's, and its messages wait for `Ready`; or one line why not.
    fn answer(&self, ticket: T, answer: Result<Opened, String>);

    /// Event-stream text of `events` messages, each an `id:` line, `data:` lines and a blank line; the last of
    /// them is number `last` of its stream, counted from 1.
    fn deliver(&self, stream: StreamId, text: Vec<u8>, events: u32, last: u64);

    /// The stream ends: its broker is lost, another client took it over, or the queue was deleted. The client
    /// is told when to come back.
    fn end(&self, stream: StreamId);
}

/// A queue that is a client's.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) stream: StreamId,
    /// Written by the shard: how many of the stream's messages the kernel has taken entirely.
    pub(crate) sent: Arc<AtomicU64>,
}
