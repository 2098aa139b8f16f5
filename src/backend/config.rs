//! The part of a server's configuration that the backend needs.

use std::time::Duration;

use crate::config::{BrokerUrl, Queues, Stream, SubscribeRule};

/// The backend's settings, which its thread owns.
#[derive(Clone, Debug)]
pub(crate) struct BackendConfig {
    /// Broker nodes; a URL that is listed twice is connected to twice.
    pub(crate) nodes: Vec<BrokerUrl>,
    /// How long a queue is kept without a client, in seconds.
    pub(crate) expire_s: u32,
    /// The most unacknowledged messages of a stream; more than `ack_window`, or nothing would flow.
    pub(crate) prefetch: u16,
    /// A message is acknowledged when this many newer ones of its stream were sent.
    pub(crate) ack_window: u16,
    /// It is also acknowledged when its connection has lived this long since it was sent. That is more than the shards'
    /// TCP_USER_TIMEOUT, so that the connection of a dead peer has ended by then.
    pub(crate) ack_delay: Duration,
    /// How long to retry a queue that another client has, for a client that had it before.
    pub(crate) patience: Duration,
    /// The rules by which messages of exchanges are published to topics.
    pub(crate) subscribe: Vec<SubscribeRule>,
}

impl BackendConfig {
    /// Returns how long a queue is kept without a client.
    pub(super) fn expire(&self) -> Duration {
        Duration::from_secs(self.expire_s.into())
    }

    /// Returns the backend's part of a server's configuration.
    pub(crate) fn of(queues: &Queues, stream: &Stream) -> Self {
        BackendConfig {
            nodes: queues.nodes.clone(),
            expire_s: queues.expire.as_secs() as u32,
            prefetch: queues.prefetch,
            ack_window: queues.ack_window,
            ack_delay: queues.ack_delay,
            // A client that vanished is noticed this long after the first heartbeat that it does not acknowledge, here
            // or on another node; and a second more, for the broker to hear of it.
            patience: stream.heartbeat.unwrap_or_default() + stream.peer_timeout() + Duration::from_secs(1),
            subscribe: queues.subscribe.clone(),
        }
    }
}
