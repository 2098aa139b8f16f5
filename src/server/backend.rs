//! Starts the backend and connects it to the shards' streams and to topics.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};

use crate::backend::{
    self, BackendConfig, BackendStats, BackendThread, PublishFailure, ToBackend, TopicPublisher,
};
use crate::config::{Queues, Stream};
use crate::core::topic::TopicHasher;
use crate::publisher::{Event, PublishError, Publisher};
use crate::shard::common::Common;
use crate::shard::mailbox::Mailboxes;
use crate::shard::queue::ShardsOutlet;

/// The backend's channel and counters, before its thread is started.
pub(super) struct BackendLine {
    pub(super) sender: UnboundedSender<ToBackend>,
    pub(super) receiver: UnboundedReceiver<ToBackend>,
    pub(super) stats: Arc<BackendStats>,
}

/// Starts the backend for these shards. It publishes messages of exchanges through `publisher`.
///
/// # Errors
/// The thread or its runtime cannot be started.
pub(super) fn start(
    line: BackendLine,
    queues: &Queues,
    common: &Common,
    hasher: TopicHasher,
    mailboxes: &Mailboxes,
    publisher: Publisher,
) -> io::Result<BackendThread> {
    let BackendLine { sender, receiver, stats } = line;
    let outlet = ShardsOutlet::new(mailboxes, &common.memory, hasher, sender.clone());
    let config = backend_config(queues, &common.config.stream);
    backend::start(config, (sender, receiver), Box::new(outlet), publisher, stats)
}

/// Returns the backend's part of a server's configuration.
fn backend_config(queues: &Queues, stream: &Stream) -> BackendConfig {
    BackendConfig {
        nodes: queues.nodes.clone(),
        expire_s: queues.expire.as_secs() as u32,
        prefetch: queues.prefetch,
        ack_window: queues.ack_window,
        ack_delay: queues.ack_delay,
        // A client that vanished is noticed this long after the first heartbeat that it does not acknowledge, here
        // or on another node; and a second more, for the broker to hear of it.
        patience: stream.heartbeat.unwrap_or_default() + stream.peer_timeout() + Duration::from_secs(1),
        subscribe: queues.subscribe.clone(),
    }
}

impl TopicPublisher for Publisher {
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
