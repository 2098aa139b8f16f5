//! What fills the queues: persistent messages, each with its number and when it was due.

use super::amqp::{ANSWER_TIME, answered, connect, declare, name};
use super::results::QueueCase;
use crate::run::progress;
use crate::schedule::due_ns;
use crate::shared::Clock;
use crate::stamp::{Payload, Stamp};
use futures_util::future::try_join_all;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions, QueueDeleteOptions};
use lapin::types::ShortString;
use lapin::{BasicProperties, Channel, Confirmation, Connection, PublisherConfirm};
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;

/// Publishes that wait for their confirm at any time, while queues are filled.
const UNCONFIRMED_MAX: usize = 1_000;
const PERSISTENT: u8 = 2;
const CLOSE_TIME: Duration = Duration::from_secs(10);

/// A connection that publishes to queues of its own. They go with this value.
pub(crate) struct QueuePublisher {
    runtime: Runtime,
    connection: Connection,
    channel: Channel,
    queues: Vec<String>,
    payload: Payload,
    /// Of the next message to each queue.
    sequences: Vec<u64>,
    message_ids: bool,
}

impl QueuePublisher {
    /// Connects and makes the queues, which are empty.
    pub(crate) fn connect(
        url: &str,
        queues: &[String],
        payload: &Payload,
        case: &QueueCase,
    ) -> Result<QueuePublisher, String> {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.map_err(|error| format!("no runtime: {error}"))?;
        let (connection, channel) = runtime.block_on(async {
            let connection = connect(url).await?;
            let channel = answered("no channel", connection.create_channel()).await?;
            for queue in queues {
                answered("no queue", declare(&channel, queue)).await?;
            }
            answered("no confirms", channel.confirm_select(ConfirmSelectOptions::default())).await?;
            Ok::<_, String>((connection, channel))
        })?;
        Ok(QueuePublisher {
            runtime,
            connection,
            channel,
            queues: queues.to_vec(),
            payload: payload.clone(),
            sequences: vec![0; queues.len()],
            message_ids: case.message_ids,
        })
    }

    /// Publishes `each` messages to each queue in turn, and returns when the broker has confirmed all.
    pub(crate) fn fill(&mut self, each: u64, clock: Clock) -> Result<(), String> {
        let all = each * self.queues.len() as u64;
        let bar = progress("filling", all);
        let mut done = 0;
        while done < all {
            let some = (all - done).min(UNCONFIRMED_MAX as u64);
            let messages: Vec<_> =
                (done..done + some).map(|number| self.message(number, clock.now_ns())).collect();
            let channel = &self.channel;
            self.runtime.block_on(async {
                // Polled in their order, and so published in it.
                let sent = messages.iter().map(|message| publish(channel, message));
                let confirms = answered("a publish failed", try_join_all(sent)).await?;
                let confirms = answered("no confirm", try_join_all(confirms)).await?;
                match confirms.iter().all(Confirmation::is_ack) {
                    true => Ok(()),
                    false => Err("RabbitMQ refused a message".to_owned()),
                }
            })?;
            done += some;
            bar.set_position(done);
        }
        bar.finish_and_clear();
        Ok(())
    }

    /// Publishes `all` messages at a steady rate, to each queue in turn, whatever becomes of them; returns by how
    /// many nanoseconds the latest was late.
    pub(crate) fn paced(&mut self, all: u64, per_second: f64, clock: Clock) -> Result<u64, String> {
        let bar = progress("publishing", all);
        let start_ns = clock.now_ns();
        let mut late_ns_max = 0;
        for number in 0..all {
            let due_ns = start_ns + due_ns(number, per_second);
            std::thread::sleep(Duration::from_nanos(due_ns.saturating_sub(clock.now_ns())));
            let now_ns = clock.now_ns();
            late_ns_max = late_ns_max.max(now_ns.saturating_sub(due_ns));
            let message = self.message(number, due_ns);
            self.runtime.block_on(answered("a publish failed", publish(&self.channel, &message)))?;
            bar.set_position(number);
        }
        bar.finish_and_clear();
        Ok(late_ns_max)
    }

    /// Returns how many messages each queue was sent.
    pub(crate) fn published(&self) -> &[u64] {
        &self.sequences
    }

    fn message(&mut self, number: u64, due_ns: u64) -> Message {
        let queue = (number % self.queues.len() as u64) as usize;
        let sequence = self.sequences.get(queue).copied().unwrap_or(0);
        self.sequences.get_mut(queue).into_iter().for_each(|next| *next += 1);
        let body = self.payload.stamped(&Stamp { topic: queue as u32, publisher: 0, sequence, due_ns });
        let mut properties = BasicProperties::default().with_delivery_mode(PERSISTENT);
        if self.message_ids {
            properties = properties.with_message_id(name(&format!("{queue}-{sequence}")));
        }
        let queue = self.queues.get(queue).map_or_else(ShortString::default, |queue| name(queue));
        (queue, body, properties)
    }
}

/// The queue of a message, its body and its properties.
type Message = (ShortString, Vec<u8>, BasicProperties);

async fn publish(channel: &Channel, (queue, body, properties): &Message) -> lapin::Result<PublisherConfirm> {
    let options = BasicPublishOptions::default();
    channel.basic_publish(ShortString::default(), queue.clone(), options, body, properties.clone()).await
}

impl Drop for QueuePublisher {
    fn drop(&mut self) {
        let (channel, connection) = (&self.channel, &self.connection);
        let queues = &self.queues;
        let end = async {
            for queue in queues {
                // One that cannot be deleted now goes when it expires.
                let deleted = channel.queue_delete(name(queue), QueueDeleteOptions::default());
                if timeout(CLOSE_TIME, deleted).await.is_err() {
                    break;
                }
            }
            let _ = timeout(CLOSE_TIME, connection.close(200, "done".into())).await;
        };
        self.runtime.block_on(async { timeout(ANSWER_TIME, end).await.unwrap_or_default() });
    }
}
