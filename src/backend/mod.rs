//! The client of message brokers: RabbitMQ's queues become clients' streams, and messages of its exchanges become
//! events of topics. All of it runs on one thread with its own runtime, beside the shards, which never wait for it.
//!
//! ```text
//! shard ── Open ──> registry: whose is the queue? ──> MessageBroker: declare, consume  <──> its connections
//!       <─ answer ─                                        │
//!       ── Ready ─> stream: ledger + text ── deliver ──────┴─> shard ── sent ──> stream ── acknowledge ──>
//! ```
//!
//! | module | idea |
//! |---|---|
//! | [`messages`] | messages of shards to the thread, and its ways back: [`StreamOutlet`] and [`TopicPublisher`] |
//! | [`thread`] | the thread, from its start to its end |
//! | [`queue`] | which client has which queue, ids of messages, and when they are acknowledged; it knows no broker |
//! | [`broker_url`] | brokers' URLs, and the rules by which messages of exchanges are published to topics |
//! | [`interface`] | the traits that [`queue`] needs of a broker |
//! | `amqp` | RabbitMQ; nothing else names the AMQP client library |
//! | [`cluster`] | the node of a cluster, as the server starts and ends it; [`node_config`] and [`nats_url`] say how |
//! | `nats` | the NATS servers of a cluster, on a thread of its own; nothing else names the NATS client library |
//! | [`jwks`] | the keys of an identity provider, fetched on a thread of its own; nothing else names the HTTP client library |
//! | `memory` | a broker within the process, for tests |
//!
//! **A further backend** is a folder beside `amqp`, with a feature, that implements [`interface::MessageBroker`], and a
//! case in [`start`].
//!
//! **A message leaves its queue late.** A completed send only means that this machine's kernel has the bytes. So a
//! message stays unacknowledged until newer ones have pushed it out of a window, or its connection has lived on for a
//! while: longer than the shards' TCP_USER_TIMEOUT, by which the connection of a client that vanished has ended.
//! Messages that are unacknowledged then go back to their queue, in order, and are delivered to the client's next
//! connection; those that its Last-Event-ID shows it has are acknowledged unsent.

#[cfg(feature = "amqp")]
mod amqp;
mod backoff;
mod broker_url;
pub(crate) mod cluster;
mod config;
mod interface;
pub(crate) mod jwks;
#[cfg(test)]
mod memory;
mod messages;
#[cfg(feature = "nats")]
pub(crate) mod nats;
mod nats_url;
mod node_config;
mod queue;
mod redact;
mod stats;
#[cfg(test)]
mod tests;
mod thread;
mod throttle;

use std::io;
use std::sync::Arc;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};

pub use self::broker_url::{BrokerUrl, SubscribeRule};
pub(crate) use self::config::BackendConfig;
pub(crate) use self::messages::{
    NoQueue, OpenedQueue, PublishFailure, StreamId, StreamOutlet, ToBackend, TopicPublisher,
};
pub use self::nats_url::NatsUrl;
pub(crate) use self::node_config::NodeConfig;
pub(crate) use self::redact::without_queue;
pub(crate) use self::stats::BackendStats;
pub(crate) use self::thread::BackendThread;

/// Starts the thread, which connects to the brokers in the background: none need be reachable. There is one backend
/// today; a further one would be told apart here, by the scheme of its nodes' URLs.
///
/// # Errors
/// The thread or its runtime cannot be started, or this build has no client of RabbitMQ: the server has refused such a
/// configuration before.
pub(crate) fn start(
    config: BackendConfig,
    channel: (UnboundedSender<ToBackend>, UnboundedReceiver<ToBackend>),
    outlet: Box<dyn StreamOutlet>,
    topics: impl TopicPublisher,
    stats: Arc<BackendStats>,
) -> io::Result<BackendThread> {
    #[cfg(feature = "amqp")]
    return BackendThread::start(amqp::AmqpBroker::new, config, channel, outlet, topics, stats);
    #[cfg(not(feature = "amqp"))]
    {
        let _ = (config, channel, outlet, topics, stats);
        Err(io::Error::other("this esper was built without the feature amqp"))
    }
}
