//! What the rest of the server and a backend's thread say to one another. Neither side waits for the other.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

use crate::core::message::Ticket;
use crate::core::sent_count::SentCount;

/// A client's stream of one queue. Numbers are never used twice in a process.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(crate) struct StreamId(pub(crate) u64);

impl StreamId {
    /// Returns a number that no stream has had.
    pub(super) fn next() -> Self {
        // Of the process: several servers may be in it.
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// To a backend's thread. What is under way is bounded by the connections there are.
#[derive(Debug)]
pub(crate) enum ToBackend {
    /// A client asks for a queue. `ticket` says whom to answer, `last_event_id` is as the client sent it.
    Open { queue: String, last_event_id: Option<Box<str>>, ticket: Ticket },
    /// The stream is set up: what the queue has may be delivered.
    Ready { stream: StreamId },
    /// The client is gone, or had left before it was answered.
    Closed { stream: StreamId },
    /// Close everything in order and end the thread.
    Stop,
}

/// From a backend's thread to clients' streams. Nothing in it blocks.
pub(crate) trait StreamOutlet: Send + 'static {
    /// Tells a client that the queue is its own, and its messages wait for `Ready`; or why not.
    fn answer(&self, ticket: Ticket, answer: Result<OpenedQueue, NoQueue>);

    /// Hands over event-stream text of `events` messages, each an `id:` line, `data:` lines and a blank line; the last of
    /// them is number `last` of its stream, counted from 1.
    fn deliver(&self, stream: StreamId, text: Vec<u8>, events: u32, last: u64);

    /// Has these bytes counted as held, for as long as they are.
    fn share(&self, bytes: Vec<u8>) -> Bytes;

    /// Returns whether much is held already.
    fn is_filling(&self) -> bool;

    /// Returns whether so much is held that nothing may be added.
    fn is_exhausted(&self) -> bool;

    /// Ends a stream: its broker is lost, another client took it over, or the queue was deleted. The client
    /// is told when to come back.
    fn end(&self, stream: StreamId);
}

/// From a backend's thread to topics.
pub(crate) trait TopicPublisher: Send + 'static {
    /// Publishes an event with this data and this id.
    ///
    /// # Errors
    /// Whether it may be tried again.
    fn publish(
        &self,
        topic: &str,
        data: String,
        id: String,
    ) -> impl Future<Output = Result<(), PublishFailure>>;
}

/// Why a message did not become an event.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum PublishFailure {
    /// There is no room at this moment.
    Full,
    /// It never will, and one line why.
    Refused(String),
}

/// A queue that is a client's.
#[derive(Debug)]
pub(crate) struct OpenedQueue {
    pub(crate) stream: StreamId,
    /// What the client is told as its last event's id before there is an event, when it came without one.
    pub(crate) first_id: Option<String>,
    /// Written by the shard: how many of the stream's messages the kernel has taken entirely.
    pub(crate) sent: Arc<SentCount>,
}

/// Why a client does not get a queue.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct NoQueue {
    /// The reason that the client is told, without a line end.
    pub(crate) reason: String,
    /// It passes without anybody's doing, so that the client need only come again.
    pub(crate) is_passing: bool,
}

impl NoQueue {
    /// Returns a refusal that passes.
    pub(super) fn passing(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), is_passing: true }
    }

    /// Returns a refusal that stays until somebody does something.
    pub(super) fn lasting(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), is_passing: false }
    }
}
