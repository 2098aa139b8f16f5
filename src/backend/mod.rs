//! Servers that esper is a client of: RabbitMQ's queues become clients' streams, and what its exchanges are sent becomes
//! events of topics. All of it runs on one thread with a runtime of its own, beside the shards, which never wait for it.
//!
//! ```text
//! shard ── Open ──> registry: whose is the queue? ──> MessageBroker: declare, consume  <──> its connections
//!       <─ answer ─                                        │
//!       ── Ready ─> stream: ledger + text ── deliver ──────┴─> shard ── sent ──> stream ── acknowledge ──>
//! ```
//!
//! | module | idea |
//! |---|---|
//! | [`interface`] | what shards say to the thread, and what it says to them by [`StreamOutlet`] and [`TopicPublisher`] |
//! | [`thread`] | the thread, from its start to its end |
//! | [`queue`] | who has which queue, what a message is called, and what is acknowledged when; it knows no broker |
//! | [`broker`] | the seam: what [`queue`] asks of a broker |
//! | [`amqp`] | RabbitMQ; the client library of AMQP is named nowhere else |
//! | `memory` | a broker within the process, for tests |
//!
//! **A further backend** is a folder beside [`amqp`] that implements [`broker::MessageBroker`], and a row in [`start`].
//!
//! **A message leaves its queue late.** That a send is complete only means that this machine's kernel has the
//! bytes. So a message stays unacknowledged until newer ones have pushed it out of a window, or its connection has
//! lived on for a while: longer than the shards' TCP_USER_TIMEOUT, by which the connection of a client that is gone
//! without a word has ended. Whatever is unacknowledged then goes back to its queue, in its order, and is
//! delivered to the client's next connection; what that one's Last-Event-ID shows it has is acknowledged unsent.

mod amqp;
mod backoff;
mod broker;
mod config;
mod interface;
#[cfg(test)]
mod memory;
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

use self::amqp::AmqpBroker;
pub(crate) use self::config::BackendConfig;
pub(crate) use self::interface::{
    NoQueue, OpenedQueue, PublishFailure, StreamId, StreamOutlet, ToBackend, TopicPublisher,
};
pub(crate) use self::redact::without_queue;
pub(crate) use self::stats::BackendStats;
pub(crate) use self::thread::BackendThread;

/// Starts the thread, which connects to the brokers in the background: none need be there. A further backend is started
/// here, by the scheme of its nodes' URLs.
///
/// # Errors
/// There is no thread or no runtime to be had.
pub(crate) fn start(
    config: BackendConfig,
    channel: (UnboundedSender<ToBackend>, UnboundedReceiver<ToBackend>),
    outlet: Box<dyn StreamOutlet>,
    topics: impl TopicPublisher,
    stats: Arc<BackendStats>,
) -> io::Result<BackendThread> {
    BackendThread::start(AmqpBroker::new, config, channel, outlet, topics, stats)
}
