//! The seam between queues and the brokers that have them: what a backend implements.

use std::time::Duration;

use futures_util::FutureExt;

use crate::config::SubscribeRule;

/// A message broker, whose queues and exchanges are told apart by name.
pub(super) trait MessageBroker: 'static {
    /// Room for one more consumer, given back when it is dropped.
    type Lease;
    type Consumer: QueueConsumer;

    /// The longest that [`QueueConsumer::close`] takes.
    const CLOSE_TIME: Duration;

    /// Connects, and connects anew when a connection is lost, for as long as it is polled. Streams of a lost connection
    /// end by their consumers.
    async fn keep_connected(&self);

    /// Returns whether the first attempt to connect is still under way.
    fn is_starting(&self) -> bool;

    /// Returns whether somebody can be asked who has answered what was asked of late.
    fn is_answering(&self) -> bool;

    /// Takes room for one more consumer.
    ///
    /// # Errors
    /// One line why there is none.
    fn lease(&self) -> Result<Self::Lease, String>;

    /// Declares a queue, which outlives its consumer, and consumes it as its only consumer. Returns with it what the queue
    /// had ready, as far as the prefetch goes; what was delivered before to somebody is first.
    async fn consume(
        &self,
        lease: Self::Lease,
        queue: &str,
    ) -> Result<(Self::Consumer, Vec<BrokerMessage>), OpenFailure>;

    /// Consumes what an exchange is sent from now on, by a queue of its own that ends with the consumer.
    ///
    /// # Errors
    /// One line why not.
    async fn subscribe(&self, lease: Self::Lease, rule: &SubscribeRule) -> Result<Self::Consumer, String>;

    /// Ends every connection.
    async fn close(&self);
}

/// A queue's messages, in order, for one consumer. They stay the queue's until they are acknowledged.
pub(super) trait QueueConsumer {
    /// Returns the next message as soon as there is one. Nothing is lost when the future is dropped.
    ///
    /// # Errors
    /// Why there will be no more.
    async fn next(&mut self) -> Result<BrokerMessage, ConsumerEnd>;

    /// Returns the next message if it has arrived.
    fn next_arrived(&mut self) -> Option<Result<BrokerMessage, ConsumerEnd>> {
        self.next().now_or_never()
    }

    /// Acknowledges every message up to and including the one with this tag, without waiting.
    fn acknowledge(&self, tag: u64);

    /// Ends the consumer. What it has not acknowledged is back in the queue, in order, when this returns and the broker
    /// answered.
    async fn close(&mut self);
}

/// A message of a queue.
#[derive(Debug)]
pub(super) struct BrokerMessage {
    /// The message's number with this consumer; later messages have higher ones.
    pub(super) tag: u64,
    /// Somebody was sent it before.
    pub(super) is_redelivered: bool,
    pub(super) message_id: Option<String>,
    /// As its publisher set it; 0 when it did not.
    pub(super) timestamp: u64,
    pub(super) routing_key: String,
    pub(super) body: Vec<u8>,
}

/// Why a consumer gets no more.
#[derive(Debug)]
pub(super) enum ConsumerEnd {
    /// Its queue was deleted.
    Deleted,
    /// The channel or the connection ended: one line why.
    Lost(String),
}

/// Why a queue is not consumed.
#[derive(Debug)]
pub(super) enum OpenFailure {
    /// Another consumer has it, through this node or another.
    Taken,
    /// The broker did not answer in time.
    Late,
    /// One line why not at this moment.
    Later(String),
    /// One line why never, before somebody changes something.
    Never(String),
}
