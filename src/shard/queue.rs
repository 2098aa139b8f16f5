//! The stream of a message broker's queue as shards see it, and the backend's way to it.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use smallvec::smallvec;
use tokio::sync::mpsc::UnboundedSender;

use crate::backend::{NoQueue, OpenedQueue, StreamId, StreamOutlet, ToBackend};
use crate::core::chunk::Chunk;
use crate::core::memory::Memory;
use crate::core::message::{Marks, Message, ShardId, Ticket, ToFanout};
use crate::core::sent_count::SentCount;
use crate::core::topic::{Topic, TopicHasher};
use crate::shard::mailbox::Mailboxes;
use crate::shard::message::{ShardMessage, TicketReply};

/// A queue that its client's stream owns; dropping it closes the queue.
pub(crate) struct QueueStream {
    stream: StreamId,
    /// The topic that carries its events, on the client's shard alone.
    pub(crate) topic: Topic,
    /// The id that the stream begins with, when the client came without one.
    pub(crate) first_id: Option<String>,
    /// The number of the newest event that the kernel took.
    pub(crate) sent: Arc<SentCount>,
    backend: UnboundedSender<ToBackend>,
    routes: Arc<QueueRoutes>,
}

impl QueueStream {
    /// Tells the backend that the client's stream is open, so that it delivers.
    pub(crate) fn is_ready(&self) {
        // A backend that ended delivers nothing.
        let _ = self.backend.send(ToBackend::Ready { stream: self.stream });
    }
}

impl fmt::Debug for QueueStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.stream.fmt(f)
    }
}

impl Drop for QueueStream {
    fn drop(&mut self) {
        self.routes.remove(self.stream);
        let _ = self.backend.send(ToBackend::Closed { stream: self.stream });
    }
}

/// The destination of each stream's events; shared by the backend's thread and the streams.
#[derive(Debug, Default)]
struct QueueRoutes(Mutex<HashMap<StreamId, QueueRoute>>);

/// A stream's shard, and the topic that carries its events there.
#[derive(Clone, Debug)]
struct QueueRoute {
    shard: ShardId,
    topic: Topic,
}

impl QueueRoutes {
    fn insert(&self, stream: StreamId, route: QueueRoute) {
        self.map().insert(stream, route);
    }

    fn find(&self, stream: StreamId) -> Option<QueueRoute> {
        self.map().get(&stream).cloned()
    }

    fn remove(&self, stream: StreamId) {
        self.map().remove(&stream);
    }

    // Nothing that can panic runs while the lock is held.
    fn map(&self) -> MutexGuard<'_, HashMap<StreamId, QueueRoute>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The shards' streams as the backend sees them; its thread owns this.
#[derive(Debug)]
pub(crate) struct ShardsOutlet {
    mailboxes: Mailboxes,
    memory: Arc<Memory>,
    hasher: TopicHasher,
    /// The channel on which streams report that they are ready or gone.
    backend: UnboundedSender<ToBackend>,
    routes: Arc<QueueRoutes>,
}

impl ShardsOutlet {
    /// Returns the backend's way to the streams of these shards, which report on `backend` that they are ready or gone.
    pub(crate) fn new(
        mailboxes: &Mailboxes,
        memory: &Arc<Memory>,
        hasher: TopicHasher,
        backend: UnboundedSender<ToBackend>,
    ) -> Self {
        let (mailboxes, memory) = (mailboxes.clone(), memory.lane());
        ShardsOutlet { mailboxes, memory, hasher, backend, routes: Arc::default() }
    }
}

impl StreamOutlet for ShardsOutlet {
    fn answer(&self, ticket: Ticket, answer: Result<OpenedQueue, NoQueue>) {
        let answer = answer.map(|OpenedQueue { stream, first_id, sent }| {
            let topic = Topic::of_queue(stream.0, &self.hasher);
            self.routes.insert(stream, QueueRoute { shard: ticket.shard, topic: topic.clone() });
            let (backend, routes) = (self.backend.clone(), Arc::clone(&self.routes));
            QueueStream { stream, topic, first_id, sent, backend, routes }
        });
        self.mailboxes.post(ticket.shard, ShardMessage::Connection(ticket, TicketReply::Queue(answer)));
    }

    fn deliver(&self, stream: StreamId, text: Vec<u8>, events: u32, last: u64) {
        let Some(QueueRoute { shard, topic }) = self.routes.find(stream) else { return };
        self.mailboxes.post(
            shard,
            Message::Fanout(ToFanout::Events {
                partition: None,
                topics: smallvec![topic],
                frames: Chunk::of([&text[..]], text.len(), &self.memory),
                marks: Marks::new(),
                published_to: None,
                count: events,
                last,
                at_us: 0,
                charge: None,
                delivery_count: None,
            }),
        );
    }

    fn share(&self, bytes: Vec<u8>) -> Bytes {
        self.memory.share(bytes)
    }

    fn is_filling(&self) -> bool {
        self.memory.is_filling()
    }

    fn is_exhausted(&self) -> bool {
        self.memory.is_exhausted()
    }

    fn end(&self, stream: StreamId) {
        if let Some(QueueRoute { shard, topic }) = self.routes.find(stream) {
            self.mailboxes.post(shard, Message::Fanout(ToFanout::End { topic }));
        }
    }
}
