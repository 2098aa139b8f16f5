//! Messages between the rest of the server and the backend's thread. Neither side waits for the other.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

use crate::core::message::Ticket;
use crate::core::sent_count::SentCount;

/// Identifies a client's stream of one queue. Numbers are never used twice in a process.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(crate) struct StreamId(pub(crate) u64);

impl StreamId {
    /// Returns a number that no stream has had.
    pub(super) fn next() -> Self {
        // Unique in the process, because several servers may run in it.
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// A message to the backend's thread. The number of connections bounds how many are under way.
#[derive(Debug)]
pub(crate) enum ToBackend {
    /// A client asks for a queue. `ticket` says where the answer goes, `last_event_id` is as the client sent it.
    Open { queue: String, last_event_id: Option<Box<str>>, ticket: Ticket },
    /// The stream is set up: the queue's messages may be delivered.
    Ready { stream: StreamId },
    /// The client is gone, or had left before it was answered.
    Closed { stream: StreamId },
    /// Close everything in order and end the thread.
    Stop,
}

/// The backend's way to clients' streams. Nothing in it blocks.
pub(crate) trait StreamOutlet: Send + 'static {
    /// Answers a client: the queue is its own, and its messages wait for `Ready`; or the reason why not.
    fn answer(&self, ticket: Ticket, answer: Result<OpenedQueue, NoQueue>);

    /// Delivers event-stream text of `events` messages, each an `id:` line, `data:` lines and a blank line; `last` is
    /// the number of the last of them in its stream, counted from 1.
    fn deliver(&self, stream: StreamId, text: Vec<u8>, events: u32, last: u64);

    /// Returns these bytes counted as held memory until they are dropped.
    fn share(&self, bytes: Vec<u8>) -> Bytes;

    /// Returns whether memory is filling up.
    fn is_filling(&self) -> bool;

    /// Returns whether memory is so full that nothing may be added.
    fn is_exhausted(&self) -> bool;

    /// Ends a stream, because its broker is lost, another connection of its client took over, or the queue was deleted.
    /// The client is told when to come back.
    fn end(&self, stream: StreamId);
}

/// The backend's way to topics.
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

/// The reason why a message was not published.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum PublishFailure {
    /// There is no room for now.
    Full,
    /// It never will be, with one line of reason.
    Refused(String),
}

/// A queue that is open for a client.
#[derive(Debug)]
pub(crate) struct OpenedQueue {
    pub(crate) stream: StreamId,
    /// The id that the stream begins with, for a client that came without one.
    pub(crate) first_id: Option<String>,
    /// How many of the stream's messages the kernel has taken entirely; the shard writes it.
    pub(crate) sent: Arc<SentCount>,
}

/// The refusal of a queue to a client.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct NoQueue {
    /// The reason for the client, without a line end.
    pub(crate) reason: String,
    /// Whether it passes by itself, so that the client need only come again.
    pub(crate) is_passing: bool,
}

impl NoQueue {
    /// Returns a refusal that passes by itself.
    pub(super) fn passing(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), is_passing: true }
    }

    /// Returns a refusal that stays until somebody changes something.
    pub(super) fn lasting(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), is_passing: false }
    }
}
