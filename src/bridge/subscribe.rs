//! What an exchange is sent becomes events of topics, on every node alike.

use std::future::Future;
use std::time::Duration;

use futures_util::{FutureExt, StreamExt};
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicQosOptions, QueueBindOptions, QueueDeclareOptions,
};
use lapin::types::{FieldTable, ShortString};
use lapin::{Channel, Consumer};
use tokio::time::{Instant, sleep};

use super::brokers::{Backoff, Brokers};
use super::link::{self, Lease};
use super::message::{Name, text};
use super::stats::BridgeStats;
use super::throttle::Throttle;
use crate::config::SubscribeRule;
use crate::core::event_id::has_our_form;

/// Messages the broker sends before some are acknowledged, and how many of them are acknowledged at once.
const PREFETCH: u16 = 200;
const ACK_MAX: u16 = PREFETCH / 2;
/// How long to wait first when there is no room for an event.
const FULL_WAIT: Duration = Duration::from_millis(10);
/// What was not published is told of no more often than this, for each rule.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// Where messages become events.
pub(crate) trait Inlet {
    /// Publishes an event with this data and this id.
    fn publish(
        &self,
        topic: &str,
        data: String,
        id: String,
    ) -> impl Future<Output = Result<(), PublishFailure>>;
}

/// Why a message did not become an event.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum PublishFailure {
    /// There is no room at this moment.
    Full,
    /// It never will, and one line why.
    Refused(String),
}

/// Follows one rule, for as long as it is polled.
///
/// Only what is published while a broker is connected arrives: the queue is this node's own, and ends with its
/// channel.
pub(super) async fn follow<I: Inlet>(
    rule: &SubscribeRule,
    brokers: &Brokers,
    stats: &BridgeStats,
    inlet: &I,
) {
    let mut backoff = Backoff::default();
    loop {
        // Without a broker there is nothing to tell that the connections do not.
        if let Ok(lease) = brokers.lease() {
            let since = Instant::now();
            let reason = attempt(rule, &lease, stats, inlet).await;
            if since.elapsed() > Backoff::MAX {
                backoff = Backoff::default();
            }
            tracing::warn!(exchange = rule.exchange, "not subscribed to the exchange: {reason}");
        }
        sleep(backoff.next()).await;
    }
}

/// Returns why it ended.
async fn attempt<I: Inlet>(rule: &SubscribeRule, lease: &Lease, stats: &BridgeStats, inlet: &I) -> String {
    let channel = match lease.channel().await {
        Ok(channel) => channel,
        Err(reason) => return reason,
    };
    let ended = match bind(rule, &channel).await {
        Ok(mut consumer) => {
            tracing::info!(exchange = rule.exchange, topic = rule.topic, "subscribed to the exchange");
            publish_all(rule, &channel, &mut consumer, stats, inlet).await
        }
        Err(error) => Some(error),
    };
    link::close(&channel).await;
    ended.map_or_else(|| "its queue was deleted".to_owned(), |error| lease.reason(&error))
}

async fn bind(rule: &SubscribeRule, channel: &Channel) -> lapin::Result<Consumer> {
    let name = |text: &str| ShortString::try_new(text).unwrap_or_default();
    let own = QueueDeclareOptions { exclusive: true, auto_delete: true, ..QueueDeclareOptions::default() };
    let queue =
        channel.queue_declare(ShortString::default(), own, FieldTable::default()).await?.name().clone();
    let (exchange, pattern) = (name(&rule.exchange), name(&rule.routing_key));
    channel
        .queue_bind(queue.clone(), exchange, pattern, QueueBindOptions::default(), FieldTable::default())
        .await?;
    channel.basic_qos(PREFETCH, BasicQosOptions::default()).await?;
    let options = BasicConsumeOptions { exclusive: true, ..BasicConsumeOptions::default() };
    channel.basic_consume(queue, ShortString::default(), options, FieldTable::default()).await
}

async fn publish_all<I: Inlet>(
    rule: &SubscribeRule,
    channel: &Channel,
    consumer: &mut Consumer,
    stats: &BridgeStats,
    inlet: &I,
) -> Option<lapin::Error> {
    let mut refusals = Throttle::new(TELL_EVERY);
    let mut unacknowledged = 0;
    // What has arrived already, if anything.
    let mut ahead = None;
    loop {
        let received = match ahead.take() {
            Some(received) => received,
            None => consumer.next().await,
        };
        let delivery = match received? {
            Ok(delivery) => delivery,
            Err(error) => return Some(error),
        };
        let tag = delivery.delivery_tag;
        match publish(rule, delivery, inlet).await {
            Ok(()) => stats.published.add(1),
            Err(reason) => {
                if let Some(messages) = refusals.count() {
                    tracing::warn!(exchange = rule.exchange, messages, "not published to a topic: {reason}");
                }
            }
        }
        unacknowledged += 1;
        ahead = consumer.next().now_or_never();
        if ahead.is_none() || unacknowledged == ACK_MAX {
            unacknowledged = 0;
            let all = BasicAckOptions { multiple: true };
            let _ = channel.basic_ack(tag, all).now_or_never();
        }
    }
}

async fn publish<I: Inlet>(rule: &SubscribeRule, delivery: Delivery, inlet: &I) -> Result<(), String> {
    let routing_key = delivery.routing_key.as_str();
    let topic = rule.topic.replace("${routing_key}", routing_key);
    let properties = &delivery.properties;
    let message_id = properties.message_id().as_ref().map(|id| id.as_str());
    let timestamp = properties.timestamp().unwrap_or_default().to_be_bytes();
    let name = name(message_id, &[&delivery.data, routing_key.as_bytes(), &timestamp]);
    let (data, id) = (text(delivery.data), name.text().to_string());
    let mut backoff = Backoff::from(FULL_WAIT);
    loop {
        match inlet.publish(&topic, data.clone(), id.clone()).await {
            Ok(()) => return Ok(()),
            Err(PublishFailure::Full) => sleep(backoff.next()).await,
            Err(PublishFailure::Refused(reason)) => return Err(reason),
        }
    }
}

/// Returns the name that a message has as an event of a topic. An id in the form of esper's own is hashed: the hash is as
/// unique and the same on every node, while each node would replace the id itself by one of its own.
fn name(message_id: Option<&str>, parts: &[&[u8]]) -> Name {
    match message_id {
        Some(id) if has_our_form(id) => Name::new(None, &[id.as_bytes()]),
        id => Name::new(id, parts),
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
