//! From the bridge to the shards: answers to requests for queues, and what queues deliver.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use smallvec::smallvec;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};

use crate::bridge::{
    Bridge, BridgeConfig, BridgeStats, Inlet, NoQueue, Opened, Outlet, PublishFailure, StreamId, ToBridge,
};
use crate::config::Queues;
use crate::core::chunk::Chunk;
use crate::core::memory::Memory;
use crate::core::message::{Marks, Message, ShardId, Ticket, ToFanout};
use crate::core::topic::{Topic, TopicHasher};
use crate::publisher::{Event, PublishError, Publisher};
use crate::shard::common::Common;
use crate::shard::mailbox::Mailboxes;
use crate::shard::message::{ShardMessage, TicketReply};
use crate::shard::queue::{Place, Places, QueueStream};

/// The way to the bridge's thread, before that is started.
pub(super) struct BridgeLine {
    pub(super) sender: UnboundedSender<ToBridge<Ticket>>,
    pub(super) receiver: UnboundedReceiver<ToBridge<Ticket>>,
    pub(super) stats: Arc<BridgeStats>,
}

/// Starts the bridge between these shards and their brokers. What it publishes goes by `publisher`.
///
/// # Errors
/// There is no thread to be had.
pub(super) fn start(
    line: BridgeLine,
    queues: &Queues,
    common: &Common,
    hasher: TopicHasher,
    mailboxes: &Mailboxes,
    publisher: Publisher,
) -> io::Result<Bridge<Ticket>> {
    let BridgeLine { sender, receiver, stats } = line;
    let shards = Shards {
        mailboxes: Arc::clone(mailboxes),
        memory: Arc::clone(&common.memory),
        hasher,
        bridge: sender.clone(),
        places: Arc::default(),
    };
    let config = BridgeConfig::of(queues, &common.config.stream);
    Bridge::start(config, (sender, receiver), shards, publisher, stats)
}

/// The shards, as the bridge sees them.
#[derive(Debug)]
struct Shards {
    mailboxes: Mailboxes,
    memory: Arc<Memory>,
    hasher: TopicHasher,
    /// Where a stream that ends says so.
    bridge: UnboundedSender<ToBridge<Ticket>>,
    places: Arc<Places>,
}

impl Shards {
    fn post(&self, shard: ShardId, message: impl Into<ShardMessage>) {
        if let Some(mailbox) = self.mailboxes.get(usize::from(shard)) {
            mailbox.post(message);
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
        self.post(ticket.shard, ShardMessage::Connection(ticket, TicketReply::Queue(answer)));
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

impl Inlet for Publisher {
    async fn publish(&self, topic: &str, data: String, id: String) -> Result<(), PublishFailure> {
        let published = match Publisher::publish(self, topic, Event::data(data).id(id)) {
            Ok(receipt) => receipt.await.map(drop),
            Err(error) => Err(error),
        };
        published.map_err(|error| match error {
            PublishError::Full | PublishError::TopicsFull | PublishError::DiskFull => PublishFailure::Full,
            error => PublishFailure::Refused(error.to_string()),
        })
    }
}
