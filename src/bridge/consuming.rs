//! A queue is declared and consumed from, as one client's alone.

use std::time::Duration;

use futures_util::{FutureExt, StreamExt};
use lapin::message::Delivery;
use lapin::options::{BasicConsumeOptions, BasicQosOptions, QueueDeclareOptions};
use lapin::protocol::{AMQPErrorKind, AMQPSoftError};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{Channel, Consumer, ErrorKind};
use tokio::time::timeout;

use super::BridgeConfig;
use super::link::{self, Lease};

/// For all that is asked of the broker to open one queue.
const OPEN_TIME: Duration = Duration::from_secs(5);

/// A queue that the broker delivers from.
pub(super) struct Consuming {
    pub(super) channel: Channel,
    pub(super) consumer: Consumer,
    /// What the queue had ready, as far as the prefetch goes; what was delivered before to somebody is first.
    pub(super) held: Vec<Delivery>,
    pub(super) lease: Lease,
}

/// Why a queue is not this client's.
#[derive(Debug)]
pub(super) enum NotOpened {
    /// Another consumer has it, through this node or another.
    Taken,
    /// The broker did not answer in time.
    Late,
    /// One line why not at this moment.
    Later(String),
    /// One line why never, before somebody mends it.
    Never(String),
}

impl Consuming {
    pub(super) async fn open(lease: Lease, queue: &str, config: &BridgeConfig) -> Result<Self, NotOpened> {
        let late = |lease: &Lease| {
            lease.note_silence();
            NotOpened::Late
        };
        let channel = match timeout(OPEN_TIME, lease.channel()).await {
            Ok(channel) => channel.map_err(NotOpened::Later)?,
            Err(_) => return Err(late(&lease)),
        };
        let opened = match timeout(OPEN_TIME, consume(&channel, queue, config)).await {
            Ok(consumed) => consumed.map_err(|error| not_opened(&error, &lease)),
            Err(_) => Err(late(&lease)),
        };
        match opened {
            Ok((consumer, held)) => Ok(Self { channel, consumer, held, lease }),
            Err(reason) => {
                link::close(&channel).await;
                Err(reason)
            }
        }
    }
}

async fn consume(
    channel: &Channel,
    queue: &str,
    config: &BridgeConfig,
) -> lapin::Result<(Consumer, Vec<Delivery>)> {
    let queue = ShortString::try_new(queue).unwrap_or_default();
    let mut arguments = FieldTable::default();
    let expires_ms = i64::from(config.expire_s) * 1000;
    // As small as it fits, which is what other clients that declare the same queue send.
    let expires_ms = i32::try_from(expires_ms).map_or(AMQPValue::LongLongInt(expires_ms), AMQPValue::LongInt);
    arguments.insert("x-expires".into(), expires_ms);
    // Whatever the virtual host's own default is: of a quorum queue several consumers may be exclusive at once. For
    // RabbitMQ it is the same queue as one that was declared without a type, when classic ones are the default.
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("classic".into()));
    let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(queue.clone(), durable, arguments).await?;
    channel.basic_qos(config.prefetch, BasicQosOptions::default()).await?;
    let exclusive = BasicConsumeOptions { exclusive: true, ..BasicConsumeOptions::default() };
    let mut consumer = channel
        .basic_consume(queue.clone(), ShortString::default(), exclusive, FieldTable::default())
        .await?;
    // A fence: the queue answers after it has delivered, and one channel's messages stay in order.
    let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(queue, passive, FieldTable::default()).await?;
    let mut held = Vec::new();
    while let Some(Some(delivery)) = consumer.next().now_or_never() {
        held.push(delivery?);
    }
    Ok((consumer, held))
}

fn not_opened(error: &lapin::Error, lease: &Lease) -> NotOpened {
    let reason = format!("the broker refuses the queue: {}", lease.reason(error));
    let ErrorKind::ProtocolError(said) = error.kind() else { return NotOpened::Later(reason) };
    match said.kind() {
        AMQPErrorKind::Soft(AMQPSoftError::RESOURCELOCKED) => NotOpened::Taken,
        // Also what a user without the right to the queue is told. Its name stands behind, and may be any text.
        AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED) => {
            match said.get_message().as_str().starts_with("ACCESS_REFUSED - queue ") {
                true => NotOpened::Taken,
                false => NotOpened::Never(reason),
            }
        }
        // A limit of the operator's: other queues expire.
        AMQPErrorKind::Soft(AMQPSoftError::PRECONDITIONFAILED)
            if said.get_message().as_str().contains("queue limit in vhost") =>
        {
            NotOpened::Later(reason)
        }
        AMQPErrorKind::Soft(AMQPSoftError::PRECONDITIONFAILED) => NotOpened::Never(reason),
        _ => NotOpened::Later(reason),
    }
}
