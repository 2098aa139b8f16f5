//! From the bridge to the shards: answers to requests for queues, and what queues deliver.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use smallvec::smallvec;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};

use super::{Bridge, BridgeConfig, NoQueue, Opened, Outlet, StreamId, ToBridge};
use crate::core::chunk::Chunk;
use crate::core::memory::Memory;
use crate::core::message::{Marks, Message, ShardId, Ticket, ToFanout};
use crate::core::topic::{Topic, TopicHasher};
use crate::publisher::Publisher;
use crate::shard::mailbox::Doors;
use crate::shard::message::ShardMessage;
use crate::shard::queue::{Place, Places, QueueStream};
use crate::shared::Shared;

/// Starts the bridge, if queues are asked for, between these shards and their brokers. What it publishes goes by
/// `publisher`.
///
/// # Errors
/// There is no thread to be had.
pub(crate) fn start(
    shared: &Shared,
    orders: UnboundedReceiver<ToBridge<Ticket>>,
    doors: &Doors,
    publisher: Publisher,
) -> io::Result<Option<Bridge<Ticket>>> {
    let Shared { config, memory, access, bridge, .. } = shared;
    let (Some(queues), Some(line)) = (&config.queues, bridge) else { return Ok(None) };
    let shards = Shards {
        doors: Arc::clone(doors),
        memory: Arc::clone(memory),
        hasher: access.hasher.clone(),
        bridge: line.sender.clone(),
        places: Arc::default(),
    };
    let channel = (line.sender.clone(), orders);
    let config = BridgeConfig::of(queues, &config.stream);
    Bridge::start(config, channel, shards, publisher, Arc::clone(&line.stats)).map(Some)
}

/// The shards, as the bridge sees them.
#[derive(Debug)]
struct Shards {
    doors: Doors,
    memory: Arc<Memory>,
    hasher: TopicHasher,
    /// Where a stream that ends says so.
    bridge: UnboundedSender<ToBridge<Ticket>>,
    places: Arc<Places>,
}

impl Shards {
    fn post(&self, shard: ShardId, message: impl Into<ShardMessage>) {
        if let Some(door) = self.doors.get(usize::from(shard)) {
            door.post(message);
        }
    }
}

impl Outlet<Ticket> for Shards {
    fn answer(&self, ticket: Ticket, answer: Result<Opened, NoQueue>) {
        let answer = answer.map(|opened| {
            let topic = Topic::of_queue(opened.stream.0, &self.hasher);
            self.places.insert(opened.stream, Place { shard: ticket.shard, topic: topic.clone() });
            QueueStream::new(opened, topic, self.bridge.clone(), Arc::clone(&self.places))
        });
        self.post(ticket.shard, ShardMessage::Queue(ticket, answer));
    }

    fn deliver(&self, stream: StreamId, text: Vec<u8>, events: u32, last: u64) {
        let Some(Place { shard, topic }) = self.places.find(stream) else { return };
        self.post(
            shard,
            Message::Fanout(ToFanout::Events {
                partition: None,
                topics: smallvec![topic],
                frames: Chunk::of([&text[..]], text.len(), &self.memory),
                marks: Marks::new(),
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
        if let Some(Place { shard, topic }) = self.places.find(stream) {
            self.post(shard, Message::Fanout(ToFanout::End { topic }));
        }
    }
}
