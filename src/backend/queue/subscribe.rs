//! Publishes messages of exchanges as events of topics, the same on every node.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::message::{MessageName, text};
use crate::backend::SubscribeRule;
use crate::backend::backoff::Backoff;
use crate::backend::interface::{BrokerMessage, ConsumerEnd, MessageBroker, QueueConsumer};
use crate::backend::throttle::Throttle;
use crate::backend::{BackendStats, PublishFailure, TopicPublisher};
use crate::core::event_id::has_our_form;

/// The most messages in one acknowledgement: half of those that a broker may send ahead.
const ACK_MAX: u16 = SUBSCRIPTION_PREFETCH / 2;
/// Messages that a broker sends ahead of their acknowledgement, for each rule.
pub(in crate::backend) const SUBSCRIPTION_PREFETCH: u16 = 200;
/// The first wait when there is no room for an event.
const FULL_WAIT: Duration = Duration::from_millis(10);
/// The least time between two log lines about refused messages, for each rule.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// Follows one rule, as long as it is polled.
///
/// Messages arrive only while a broker is connected: the queue is this node's own, and ends with its consumer.
pub(in crate::backend) async fn follow<B: MessageBroker>(
    rule: &SubscribeRule,
    broker: &B,
    stats: &BackendStats,
    topics: &impl TopicPublisher,
) {
    let mut backoff = Backoff::default();
    loop {
        // Without a broker there is nothing to log: the connections log that.
        if let Ok(lease) = broker.lease() {
            let since = Instant::now();
            let reason = match broker.subscribe(lease, rule).await {
                Ok(mut consumer) => {
                    tracing::info!(
                        exchange = rule.exchange,
                        topic = rule.topic,
                        "subscribed to the exchange"
                    );
                    let end = publish_all(rule, &mut consumer, stats, topics).await;
                    consumer.close().await;
                    match end {
                        ConsumerEnd::Deleted => "its queue was deleted".to_owned(),
                        ConsumerEnd::Lost(reason) => reason,
                    }
                }
                Err(reason) => reason,
            };
            if since.elapsed() > Backoff::MAX {
                backoff = Backoff::default();
            }
            tracing::warn!(exchange = rule.exchange, "not subscribed to the exchange: {reason}");
        }
        sleep(backoff.next()).await;
    }
}

/// Publishes every message of the consumer. Returns why no more arrive.
async fn publish_all(
    rule: &SubscribeRule,
    consumer: &mut impl QueueConsumer,
    stats: &BackendStats,
    topics: &impl TopicPublisher,
) -> ConsumerEnd {
    let mut refusals = Throttle::new(TELL_EVERY);
    let mut unacknowledged = 0;
    // The next message, if it has arrived already.
    let mut ahead = None;
    loop {
        let received = match ahead.take() {
            Some(received) => received,
            None => consumer.next().await,
        };
        let message = match received {
            Ok(message) => message,
            Err(end) => return end,
        };
        let tag = message.tag;
        match publish(rule, message, topics).await {
            Ok(()) => stats.published.add(1),
            Err(reason) => {
                if let Some(messages) = refusals.count() {
                    tracing::warn!(exchange = rule.exchange, messages, "not published to a topic: {reason}");
                }
            }
        }
        unacknowledged += 1;
        ahead = consumer.next_arrived();
        if ahead.is_none() || unacknowledged == ACK_MAX {
            unacknowledged = 0;
            consumer.acknowledge(tag);
        }
    }
}

async fn publish(
    rule: &SubscribeRule,
    message: BrokerMessage,
    topics: &impl TopicPublisher,
) -> Result<(), String> {
    let BrokerMessage { message_id, timestamp, routing_key, body, .. } = message;
    let topic = rule.topic.replace("${routing_key}", &routing_key);
    let name = name(message_id.as_deref(), &[&body, routing_key.as_bytes(), &timestamp.to_be_bytes()]);
    let (data, id) = (text(body), name.text().to_string());
    let mut backoff = Backoff::from(FULL_WAIT);
    loop {
        match topics.publish(&topic, data.clone(), id.clone()).await {
            Ok(()) => return Ok(()),
            Err(PublishFailure::Full) => sleep(backoff.next()).await,
            Err(PublishFailure::Refused(reason)) => return Err(reason),
        }
    }
}

/// Returns the name of a message as an event of a topic. An id in the form of esper's own is hashed: the hash is as
/// unique and the same on every node, while each node would replace the id itself by a different one.
fn name(message_id: Option<&str>, parts: &[&[u8]]) -> MessageName {
    match message_id {
        Some(id) if has_our_form(id) => MessageName::new(None, &[id.as_bytes()]),
        id => MessageName::new(id, parts),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_that_an_esper_gave_is_hashed_and_every_other_as_it_is() {
        let text = |id| name(id, &[b"body"]).text().to_string();
        let (first, second) = (text(Some("10000000000000000000-1")), text(Some("10000000000000000000-2")));
        assert!(first != second && first != text(None), "{first} {second}");
        for id in [&first, &second, &text(Some("10000000000000000000-0.1-1.2"))] {
            assert!(id.len() == 16 && !has_our_form(id), "{id}");
        }
        assert_eq!(text(Some("1700000000000-1")), "1700000000000-1");
    }
}
