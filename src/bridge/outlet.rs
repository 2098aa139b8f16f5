//! From the bridge to the shards: answers to requests for queues, and what queues deliver.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use smallvec::smallvec;
use tokio::sync::mpsc::UnboundedSender;

use super::{Opened, Outlet, StreamId, ToBridge};
use crate::memory::Memory;
use crate::shard::mailbox::Doors;
use crate::shard::message::{Message, ShardId, Ticket, ToFanout};
use crate::shard::queue::QueueStream;
use crate::topic::{Topic, TopicHasher};

/// The shards, as the bridge sees them.
#[derive(Debug)]
pub(crate) struct Shards {
    pub(crate) doors: Doors,
    pub(crate) memory: Arc<Memory>,
    pub(crate) hasher: TopicHasher,
    /// Where a stream that ends says so.
    pub(crate) bridge: UnboundedSender<ToBridge<Ticket>>,
    pub(crate) places: Arc<Places>,
}

/// Where each stream is.
#[derive(Debug, Default)]
pub(crate) struct Places(Mutex<HashMap<StreamId, Place>>);

#[derive(Clone, Debug)]
struct Place {
    shard: ShardId,
    topic: Topic,
}

impl Places {
    fn insert(&self, stream: StreamId, place: Place) {
        self.map().insert(stream, place);
    }

    fn find(&self, stream: StreamId) -> Option<Place> {
        self.map().get(&stream).cloned()
    }

    /// The stream is no more.
    pub(crate) fn remove(&self, stream: StreamId) {
        self.map().remove(&stream);
    }

    // Nothing that could panic is done while it is held.
    fn map(&self) -> std::sync::MutexGuard<'_, HashMap<StreamId, Place>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shards {
    fn post(&self, shard: ShardId, message: Message) {
        if let Some(door) = self.doors.get(usize::from(shard)) {
            door.post(message);
        }
    }
}

impl Outlet<Ticket> for Shards {
    fn answer(&self, ticket: Ticket, answer: Result<Opened, String>) {
        let answer = answer.map(|opened| {
            let topic = Topic::of_queue(opened.stream.0, &self.hasher);
            self.places.insert(opened.stream, Place { shard: ticket.shard, topic: topic.clone() });
            QueueStream::new(opened, topic, self.bridge.clone(), Arc::clone(&self.places))
        });
        self.post(ticket.shard, Message::Queue(ticket, answer));
    }

    fn deliver(&self, stream: StreamId, text: Vec<u8>, events: u32, last: u64) {
        let Some(Place { shard, topic }) = self.places.find(stream) else { return };
        self.post(
            shard,
            Message::Fanout(ToFanout::Events {
                home: topic.home(self.doors.len()) as ShardId,
                topics: smallvec![topic],
                frames: self.memory.share(text),
                count: events,
                last,
                at_us: 0,
                charge: None,
                tally: None,
            }),
        );
    }

    fn end(&self, stream: StreamId) {
        if let Some(Place { shard, topic }) = self.places.find(stream) {
            self.post(shard, Message::Fanout(ToFanout::End { topic }));
        }
    }
}
