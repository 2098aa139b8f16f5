//! A channel that consumes one queue: a client's, or the own queue of a subscription to an exchange.

use std::time::Duration;

use futures_util::{FutureExt, StreamExt};
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicQosOptions, QueueBindOptions, QueueDeclareOptions,
};
use lapin::protocol::{AMQPErrorKind, AMQPSoftError};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{Channel, Consumer, ErrorKind};
use tokio::time::timeout;

use super::link::{self, ChannelLease};
use crate::backend::SubscribeRule;
use crate::backend::interface::{BrokerMessage, ConsumerEnd, OpenFailure, QueueConsumer};
use crate::backend::queue::subscribe::SUBSCRIPTION_PREFETCH;

/// The longest that opening a channel may take, and again a queue on it, while a client waits.
const OPEN_TIME: Duration = Duration::from_secs(5);

/// The options with which all clients' queues are declared and consumed.
#[derive(Clone, Copy, Debug)]
pub(super) struct QueueOptions {
    pub(super) expire_s: u32,
    pub(super) prefetch: u16,
}

/// A channel that consumes a queue, and its place among the connection's channels.
pub(in crate::backend) struct AmqpConsumer {
    channel: Channel,
    consumer: Consumer,
    lease: ChannelLease,
}

impl AmqpConsumer {
    /// Declares a queue and consumes it as its only consumer; returns the consumer and the messages that were ready.
    pub(super) async fn open(
        lease: ChannelLease,
        queue: &str,
        options: QueueOptions,
    ) -> Result<(Self, Vec<BrokerMessage>), OpenFailure> {
        let late = |lease: &ChannelLease| {
            lease.note_silence();
            OpenFailure::Late
        };
        let channel = match timeout(OPEN_TIME, lease.channel()).await {
            Ok(channel) => channel.map_err(OpenFailure::Later)?,
            Err(_) => return Err(late(&lease)),
        };
        let opened = match timeout(OPEN_TIME, consume(&channel, queue, options)).await {
            Ok(consumed) => consumed.map_err(|error| failure(&error, &lease)),
            Err(_) => Err(late(&lease)),
        };
        match opened {
            Ok((consumer, held)) => Ok((Self { channel, consumer, lease }, held)),
            Err(reason) => {
                link::close(&channel).await;
                Err(reason)
            }
        }
    }

    /// Consumes the messages that an exchange gets from now on.
    ///
    /// # Errors
    /// The exchange cannot be followed; one line says why.
    pub(super) async fn subscribe(lease: ChannelLease, rule: &SubscribeRule) -> Result<Self, String> {
        let channel = lease.channel().await?;
        match bind(rule, &channel).await {
            Ok(consumer) => Ok(Self { channel, consumer, lease }),
            Err(error) => {
                link::close(&channel).await;
                Err(lease.reason(&error))
            }
        }
    }
}

impl QueueConsumer for AmqpConsumer {
    async fn next(&mut self) -> Result<BrokerMessage, ConsumerEnd> {
        match self.consumer.next().await {
            Some(Ok(delivery)) => Ok(message(delivery)),
            Some(Err(error)) => Err(ConsumerEnd::Lost(self.lease.reason(&error))),
            None => Err(ConsumerEnd::Deleted),
        }
    }

    fn acknowledge(&self, tag: u64) {
        let all = BasicAckOptions { multiple: true };
        // One poll queues the frame on the connection. A failure there ends the channel, which the consumer reports.
        let _ = self.channel.basic_ack(tag, all).now_or_never();
    }

    async fn close(&mut self) {
        link::close(&self.channel).await;
    }
}

fn message(delivery: Delivery) -> BrokerMessage {
    let properties = &delivery.properties;
    BrokerMessage {
        tag: delivery.delivery_tag,
        is_redelivered: delivery.redelivered,
        message_id: properties.message_id().as_ref().map(|id| id.as_str().to_owned()),
        timestamp: properties.timestamp().unwrap_or_default(),
        routing_key: delivery.routing_key.into(),
        body: delivery.data,
    }
}

async fn consume(
    channel: &Channel,
    queue: &str,
    options: QueueOptions,
) -> lapin::Result<(Consumer, Vec<BrokerMessage>)> {
    let queue = ShortString::try_new(queue).unwrap_or_default();
    let mut arguments = FieldTable::default();
    let expires_ms = i64::from(options.expire_s) * 1000;
    // Written as the smallest type that fits, because other clients that declare the same queue do so.
    let expires_ms = i32::try_from(expires_ms).map_or(AMQPValue::LongLongInt(expires_ms), AMQPValue::LongInt);
    arguments.insert("x-expires".into(), expires_ms);
    // Named, whatever the virtual host's default is: a quorum queue may have several exclusive consumers at once.
    // RabbitMQ takes it for the same queue as one declared without a type, when classic queues are the default.
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("classic".into()));
    let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(queue.clone(), durable, arguments).await?;
    channel.basic_qos(options.prefetch, BasicQosOptions::default()).await?;
    let exclusive = BasicConsumeOptions { exclusive: true, ..BasicConsumeOptions::default() };
    let mut consumer = channel
        .basic_consume(queue.clone(), ShortString::default(), exclusive, FieldTable::default())
        .await?;
    // A fence: the queue answers after it has delivered, and one channel's messages stay in order.
    let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(queue, passive, FieldTable::default()).await?;
    let mut held = Vec::new();
    while let Some(Some(delivery)) = consumer.next().now_or_never() {
        held.push(message(delivery?));
    }
    Ok((consumer, held))
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
    channel.basic_qos(SUBSCRIPTION_PREFETCH, BasicQosOptions::default()).await?;
    let options = BasicConsumeOptions { exclusive: true, ..BasicConsumeOptions::default() };
    channel.basic_consume(queue, ShortString::default(), options, FieldTable::default()).await
}

/// Returns what a broker's refusal of a queue means.
fn failure(error: &lapin::Error, lease: &ChannelLease) -> OpenFailure {
    let reason = format!("the broker refuses the queue: {}", lease.reason(error));
    let ErrorKind::ProtocolError(said) = error.kind() else { return OpenFailure::Later(reason) };
    match said.kind() {
        AMQPErrorKind::Soft(AMQPSoftError::RESOURCELOCKED) => OpenFailure::Taken,
        // A user without the right to the queue gets this code too. The queue's name stands later in the text, and may
        // be any text.
        AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED) => {
            match said.get_message().as_str().starts_with("ACCESS_REFUSED - queue ") {
                true => OpenFailure::Taken,
                false => OpenFailure::Never(reason),
            }
        }
        // The operator limits the number of queues; there is room again when others expire.
        AMQPErrorKind::Soft(AMQPSoftError::PRECONDITIONFAILED)
            if said.get_message().as_str().contains("queue limit in vhost") =>
        {
            OpenFailure::Later(reason)
        }
        AMQPErrorKind::Soft(AMQPSoftError::PRECONDITIONFAILED) => OpenFailure::Never(reason),
        _ => OpenFailure::Later(reason),
    }
}
