//! Starts the backend and connects it to the shards' streams and to topics.

use std::io;
use std::sync::Arc;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};

use crate::backend::{
    self, BackendConfig, BackendStats, BackendThread, PublishFailure, ToBackend, TopicPublisher,
};
use crate::config::Queues;
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
    let config = BackendConfig::of(queues, &common.config.stream);
    backend::start(config, (sender, receiver), Box::new(outlet), publisher, stats)
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
