//! From the bridge to topics: messages of exchanges are published like anybody's events.

use super::{Inlet, PublishFailure};
use crate::publisher::{Event, PublishError, Publisher};

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
