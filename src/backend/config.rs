//! What of a server's configuration is a backend's.

use std::time::Duration;

use crate::config::{BrokerUrl, Queues, Stream, SubscribeRule};

/// What a backend is told before it starts.
#[derive(Clone, Debug)]
pub(crate) struct BackendConfig {
    /// Broker nodes; a URL that stands here twice is connected to twice.
    pub(crate) nodes: Vec<BrokerUrl>,
    /// Seconds a queue is kept without a client.
    pub(crate) expire_s: u32,
    /// Messages of a stream that may be unacknowledged; more than `ack_window`, or nothing would flow.
    pub(crate) prefetch: u16,
    /// A message is acknowledged when this many newer ones of its stream were sent.
    pub(crate) ack_window: u16,
    /// Or when its connection has lived this long since it was sent. More than the shards' TCP_USER_TIMEOUT, so
    /// that the connection of a dead peer has ended by then.
    pub(crate) ack_delay: Duration,
    /// How long a queue that is another's is tried for a client that had it before.
    pub(crate) patience: Duration,
    /// What is published to topics.
    pub(crate) subscribe: Vec<SubscribeRule>,
}

impl BackendConfig {
    /// Returns how long a queue is kept without a client.
    pub(super) fn expire(&self) -> Duration {
        Duration::from_secs(self.expire_s.into())
    }

    /// Takes what is a backend's out of a server's configuration.
    pub(crate) fn of(queues: &Queues, stream: &Stream) -> Self {
        BackendConfig {
            nodes: queues.nodes.clone(),
            expire_s: queues.expire.as_secs() as u32,
            prefetch: queues.prefetch,
            ack_window: queues.ack_window,
            ack_delay: queues.ack_delay,
            // A client that died without a word is noticed so long after the first heartbeat that is not
            // answered, here or on another node. And somewhat more, for the broker to hear of it.
            patience: stream.heartbeat.unwrap_or_default() + stream.peer_timeout() + Duration::from_secs(1),
            subscribe: queues.subscribe.clone(),
        }
    }
}
