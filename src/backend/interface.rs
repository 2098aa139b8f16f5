//! The traits that a message broker implements for queues and subscriptions.

use std::time::Duration;

use futures_util::FutureExt;

use crate::backend::SubscribeRule;

/// A message broker whose queues and exchanges have names; the backend's thread owns one.
pub(super) trait MessageBroker: 'static {
    /// The right to one more consumer, given back when it is dropped.
    type Lease;
    type Consumer: QueueConsumer;

    /// The longest that [`QueueConsumer::close`] takes.
    const CLOSE_TIME: Duration;

    /// Connects, and reconnects when a connection is lost, as long as it is polled. Streams of a lost connection end
    /// through their consumers.
    async fn keep_connected(&self);

    /// Returns whether the first attempt to connect is still under way.
    fn is_starting(&self) -> bool;

    /// Returns whether there is a connection with room whose broker has lately answered its requests.
    fn is_answering(&self) -> bool;

    /// Takes the right to one more consumer.
    ///
    /// # Errors
    /// One line with the reason why there is none.
    fn lease(&self) -> Result<Self::Lease, String>;

    /// Declares a queue, which outlives its consumer, and consumes it as its only consumer. Returns the consumer and
    /// the messages that were ready, up to the prefetch; redelivered ones come first.
    async fn consume(
        &self,
        lease: Self::Lease,
        queue: &str,
    ) -> Result<(Self::Consumer, Vec<BrokerMessage>), OpenFailure>;

    /// Consumes the messages that an exchange gets from now on, through a queue of its own that ends with the consumer.
    ///
    /// # Errors
    /// The exchange cannot be followed; one line says why.
    async fn subscribe(&self, lease: Self::Lease, rule: &SubscribeRule) -> Result<Self::Consumer, String>;

    /// Ends every connection.
    async fn close(&self);
}

/// One consumer's view of a queue: its messages, in order, which stay in the queue until they are acknowledged.
pub(super) trait QueueConsumer {
    /// Returns the next message once it has arrived. Dropping the future loses nothing.
    ///
    /// # Errors
    /// The reason why no more will arrive.
    async fn next(&mut self) -> Result<BrokerMessage, ConsumerEnd>;

    /// Returns the next message if it has arrived.
    fn next_arrived(&mut self) -> Option<Result<BrokerMessage, ConsumerEnd>> {
        self.next().now_or_never()
    }

    /// Acknowledges every message up to and including the one with this tag, without waiting.
    fn acknowledge(&self, tag: u64);

    /// Ends the consumer. If the broker answered, its unacknowledged messages are back in the queue, in order, when
    /// this returns.
    async fn close(&mut self);
}

/// A message from a queue.
#[derive(Debug)]
pub(super) struct BrokerMessage {
    /// The broker's number of the delivery to this consumer; it increases.
    pub(super) tag: u64,
    /// It was delivered before.
    pub(super) is_redelivered: bool,
    pub(super) message_id: Option<String>,
    /// Set by its publisher; 0 when it was not.
    pub(super) timestamp: u64,
    pub(super) routing_key: String,
    pub(super) body: Vec<u8>,
}

/// The reason why a consumer gets no more messages.
#[derive(Debug)]
pub(super) enum ConsumerEnd {
    /// Its queue was deleted.
    Deleted,
    /// The channel or the connection ended, with one line of reason.
    Lost(String),
}

/// The reason why a queue could not be consumed.
#[derive(Debug)]
pub(super) enum OpenFailure {
    /// Another consumer has it, through this node or another.
    Taken,
    /// The broker did not answer in time.
    Late,
    /// Not now, with one line of reason.
    Later(String),
    /// Not until somebody changes something, with one line of reason.
    Never(String),
}
