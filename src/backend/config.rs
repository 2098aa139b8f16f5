//! The part of a server's configuration that the backend needs.

use std::time::Duration;

use super::{BrokerUrl, SubscribeRule};

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
}
