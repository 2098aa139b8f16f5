//! The bridge: RabbitMQ's queues become clients' streams, and what its exchanges are sent becomes events of
//! topics. It is a thread of its own with a runtime of its own, and meets the shards in two places: [`ToBridge`]
//! and [`Outlet`].
//!
//! ```text
//! shard ── Open ──> desk: whose is the queue? ──> consuming: declare, consume, fence     <──> link: a connection
//!       <─ answer ─                                   │                                         (brokers: all)
//!       ── Ready ─> stream: ledger + text ── deliver ─┴─> shard ── sent ──> stream ── ack ──>
//! ```
//!
//! **A message leaves its queue late.** That a send is complete only means that this machine's kernel has the
//! bytes. So a message stays unacknowledged until newer ones have pushed it out of a window, or its connection has
//! lived on for a while: longer than the shards' TCP_USER_TIMEOUT, by which the connection of a client that is gone
//! without a word has ended. Whatever is unacknowledged then goes back to its queue, in its order, and is
//! delivered to the client's next connection; what that one's Last-Event-ID shows it has is acknowledged unsent.
//!
//! **One queue harms no other**, though they share a connection, which AMQP and lapin end for much. What a publisher
//! may write and lapin cannot read stops at `frames`, between the socket and lapin.
//!
//! **Nothing is shared but what the seam shares.** One task for each stream, all on one thread, so `Rc` and `Cell`
//! do. The `ledger`, `message` and `frames` see no broker: what is acknowledged when, what a message is called, and
//! what lapin gets of it, are decided there, and tested without one.

mod brokers;
mod consuming;
mod desk;
mod frames;
mod ledger;
mod link;
mod message;
mod stats;
mod stream;
mod subscribe;
#[cfg(test)]
mod tests;
mod throttle;
mod ticker;
mod transport;

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use tokio::runtime::Runtime;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};
use tokio::task::LocalSet;
use tokio::time::timeout;

use self::brokers::Brokers;
use self::desk::Desk;
pub(crate) use self::link::without_queue;
pub(crate) use self::stats::BridgeStats;
use self::stream::Order;
pub(crate) use self::subscribe::{Inlet, PublishFailure};
use crate::config::{BrokerUrl, Queues, Stream, SubscribeRule};

/// For all streams to put back what they have, before the connections are closed; and then for those.
const STOP_TIME: Duration = Duration::from_secs(3);

/// The bridge's thread.
#[derive(Debug)]
pub(crate) struct Bridge<T> {
    /// To the bridge; when the thread has ended, what is sent is lost.
    sender: UnboundedSender<ToBridge<T>>,
    thread: JoinHandle<()>,
}

impl<T: Send + 'static> Bridge<T> {
    /// Starts the thread, which connects to the brokers in the background: none need be there.
    ///
    /// # Errors
    /// There is no thread or no runtime to be had.
    pub(crate) fn start<O, I>(
        config: BridgeConfig,
        (sender, orders): (UnboundedSender<ToBridge<T>>, UnboundedReceiver<ToBridge<T>>),
        outlet: O,
        inlet: I,
        stats: Arc<BridgeStats>,
    ) -> io::Result<Self>
    where
        O: Outlet<T>,
        I: Inlet + Send + 'static,
    {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        stats.brokers_configured.set(config.nodes.len() as u64);
        let thread = std::thread::Builder::new()
            .name("esper-bridge".to_owned())
            .spawn(move || run(runtime, config, outlet, inlet, stats, orders))?;
        Ok(Self { sender, thread })
    }

    /// Puts back what is unacknowledged, closes the connections, and returns when the thread has ended: within
    /// eight seconds, even when no broker answers.
    pub(crate) fn stop(self) {
        let _ = self.sender.send(ToBridge::Stop);
        // A panic has been told of by its hook.
        let _ = self.thread.join();
    }
}

fn run<T, O, I>(
    runtime: Runtime,
    config: BridgeConfig,
    outlet: O,
    inlet: I,
    stats: Arc<BridgeStats>,
    orders: UnboundedReceiver<ToBridge<T>>,
) where
    T: Send + 'static,
    O: Outlet<T>,
    I: Inlet + 'static,
{
    let tasks = LocalSet::new();
    tasks.block_on(&runtime, async {
        let brokers = Rc::new(Brokers::new(&config.nodes, Arc::clone(&stats)));
        let keep = Rc::clone(&brokers);
        let keeping = tokio::task::spawn_local(async move { keep.keep().await });
        let inlet = Rc::new(inlet);
        let following = config.subscribe.clone().into_iter().map(|rule| {
            let (brokers, stats, inlet) = (Rc::clone(&brokers), Arc::clone(&stats), Rc::clone(&inlet));
            tokio::task::spawn_local(async move { subscribe::follow(&rule, &brokers, &stats, &*inlet).await })
        });
        let following: Vec<_> = following.collect();
        let desk = Desk::new(config, outlet, Rc::clone(&brokers), stats);
        let ticking = Rc::clone(&desk);
        tokio::task::spawn_local(async move { ticking.ticker.run().await });
        take_orders(&desk, orders).await;

        let _ = timeout(STOP_TIME, desk.close()).await;
        // Not before: they would take the end of a connection for a loss.
        following.iter().for_each(|task| task.abort());
        keeping.abort();
        let _ = timeout(STOP_TIME, brokers.close()).await;
    });
    drop(tasks);
    // Without waiting for a name that is being resolved.
    runtime.shutdown_background();
}

async fn take_orders<T: Send + 'static, O: Outlet<T>>(
    desk: &Rc<Desk<T, O>>,
    mut orders: UnboundedReceiver<ToBridge<T>>,
) {
    while let Some(order) = orders.recv().await {
        match order {
            ToBridge::Open { queue, last_event_id, ticket } => {
                tokio::task::spawn_local(Rc::clone(desk).serve(queue, last_event_id, ticket));
            }
            ToBridge::Ready { stream } => desk.order(stream, Order::Ready),
            ToBridge::Closed { stream } => desk.order(stream, Order::Close),
            ToBridge::Stop => break,
        }
    }
}

/// A client's stream of one queue, as the bridge knows it. Numbers are never used twice in a process.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(crate) struct StreamId(pub(crate) u64);

/// To the bridge. What is under way is bounded by the connections there are.
#[derive(Debug)]
pub(crate) enum ToBridge<T> {
    /// A client asks for a queue. `ticket` says whom to answer, `last_event_id` is as the client sent it.
    Open { queue: String, last_event_id: Option<Box<str>>, ticket: T },
    /// The stream is set up: what the queue has may be delivered.
    Ready { stream: StreamId },
    /// The client is gone, or was never there any more.
    Closed { stream: StreamId },
    /// Close everything in order and end the thread.
    Stop,
}

/// From the bridge. Nothing in it blocks.
pub(crate) trait Outlet<T>: Send + Sync + 'static {
    /// The queue is this client's, and its messages wait for `Ready`; or why not.
    fn answer(&self, ticket: T, answer: Result<Opened, NoQueue>);

    /// Event-stream text of `events` messages, each an `id:` line, `data:` lines and a blank line; the last of
    /// them is number `last` of its stream, counted from 1.
    fn deliver(&self, stream: StreamId, text: Vec<u8>, events: u32, last: u64);

    /// Has these bytes counted as held, for as long as they are.
    fn share(&self, bytes: Vec<u8>) -> Bytes;

    /// Whether much is held already.
    fn is_filling(&self) -> bool;

    /// Whether so much is held that nothing may be added.
    fn is_exhausted(&self) -> bool;

    /// The stream ends: its broker is lost, another client took it over, or the queue was deleted. The client
    /// is told when to come back.
    fn end(&self, stream: StreamId);
}

/// A queue that is a client's.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) stream: StreamId,
    /// What the client is told as its last event's id before there is an event, when it came without one.
    pub(crate) first_id: Option<String>,
    /// Written by the shard: how many of the stream's messages the kernel has taken entirely.
    pub(crate) sent: Arc<AtomicU64>,
}

/// Why a client does not get a queue.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct NoQueue {
    /// The reason that the client is told, without a line end.
    pub(crate) reason: String,
    /// It passes without anybody's doing, so that the client need only come again.
    pub(crate) is_passing: bool,
}

impl NoQueue {
    pub(crate) fn passing(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), is_passing: true }
    }

    fn lasting(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), is_passing: false }
    }
}

/// What the bridge is told before it starts.
#[derive(Clone, Debug)]
pub(crate) struct BridgeConfig {
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

impl BridgeConfig {
    /// How long a queue is kept without a client.
    fn expire(&self) -> Duration {
        Duration::from_secs(self.expire_s.into())
    }

    /// What of a server's configuration is the bridge's.
    pub(crate) fn of(queues: &Queues, stream: &Stream) -> Self {
        BridgeConfig {
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
