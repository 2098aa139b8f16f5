//! Starts the backend with the ways it has to the shards' streams and to topics.

use std::io;
use std::sync::Arc;

use tokio::sync::mpsc::UnboundedReceiver;

use crate::backend::{self, BackendConfig, BackendThread, PublishFailure, ToBackend, TopicPublisher};
use crate::publisher::{Event, PublishError, Publisher};
use crate::shard::mailbox::Doors;
use crate::shard::queue::ShardsOutlet;
use crate::shared::Shared;

/// Starts the backend between these shards and their brokers, if queues are asked for. What it publishes goes by
/// `publisher`.
///
/// # Errors
/// There is no thread to be had.
pub(super) fn start(
    shared: &Shared,
    received: UnboundedReceiver<ToBackend>,
    doors: &Doors,
    publisher: Publisher,
) -> io::Result<Option<BackendThread>> {
    let (Some(queues), Some(line)) = (&shared.config.queues, &shared.bridge) else { return Ok(None) };
    let outlet = ShardsOutlet::new(doors, &shared.memory, shared.access.hasher.clone(), line.sender.clone());
    let channel = (line.sender.clone(), received);
    let config = BackendConfig::of(queues, &shared.config.stream);
    backend::start(config, channel, Box::new(outlet), publisher, Arc::clone(&line.stats)).map(Some)
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
