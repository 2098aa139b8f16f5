//! The connections to all broker nodes: made in the background, kept, and made again.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::{Instant, sleep};

use super::consumer::{AmqpConsumer, QueueOptions};
use super::link::{AmqpLink, CLOSE_TIME, ChannelLease};
use crate::backend::backoff::Backoff;
use crate::backend::interface::{BrokerMessage, MessageBroker, OpenFailure};
use crate::backend::throttle::Throttle;
use crate::backend::{BackendConfig, BackendStats, without_queue};
use crate::backend::{BrokerUrl, SubscribeRule};

/// The least time between two log lines about a broker that is not reachable.
const TELL_EVERY: Duration = Duration::from_secs(60);

/// The configured nodes of RabbitMQ, one for each URL, connected or not; the backend's thread owns it.
pub(in crate::backend) struct AmqpBroker {
    nodes: Vec<AmqpNode>,
    options: QueueOptions,
    stats: Arc<BackendStats>,
}

/// A node's URL and its connection, if there is one.
struct AmqpNode {
    url: BrokerUrl,
    link: RefCell<Option<Rc<AmqpLink>>>,
    /// Whether the first attempt to connect has ended.
    is_tried: Cell<bool>,
}

impl AmqpBroker {
    /// Returns a broker without connections.
    pub(in crate::backend) fn new(config: &BackendConfig, stats: &Arc<BackendStats>) -> Self {
        let nodes = config.nodes.iter().cloned().map(AmqpNode::new).collect();
        let options = QueueOptions { expire_s: config.expire_s, prefetch: config.prefetch };
        Self { nodes, options, stats: Arc::clone(stats) }
    }

    fn links(&self) -> impl Iterator<Item = Rc<AmqpLink>> {
        self.nodes.iter().filter_map(|node| node.link.borrow().clone())
    }
}

impl MessageBroker for AmqpBroker {
    type Lease = ChannelLease;
    type Consumer = AmqpConsumer;

    const CLOSE_TIME: Duration = CLOSE_TIME;

    async fn keep_connected(&self) {
        join_all(self.nodes.iter().map(|node| node.keep_connected(&self.stats))).await;
    }

    fn is_starting(&self) -> bool {
        !self.nodes.iter().any(|node| node.is_tried.get())
    }

    fn is_answering(&self) -> bool {
        self.links().any(|link| link.load().is_some() && !link.is_silent())
    }

    /// Takes the right to one channel on the connection that has the fewest.
    fn lease(&self) -> Result<ChannelLease, String> {
        match self
            .links()
            .filter_map(|link| Some((link.load()?, link)))
            .min_by_key(|(load, link)| (link.is_silent(), *load))
        {
            Some((_, link)) => Ok(link.lease()),
            None if self.links().any(|link| link.is_connected()) => {
                Err("every channel of every broker is taken; repeat a URL in broker.node for more".to_owned())
            }
            None => Err("no broker is reachable; try again later".to_owned()),
        }
    }

    async fn consume(
        &self,
        lease: ChannelLease,
        queue: &str,
    ) -> Result<(AmqpConsumer, Vec<BrokerMessage>), OpenFailure> {
        AmqpConsumer::open(lease, queue, self.options).await
    }

    async fn subscribe(&self, lease: ChannelLease, rule: &SubscribeRule) -> Result<AmqpConsumer, String> {
        AmqpConsumer::subscribe(lease, rule).await
    }

    async fn close(&self) {
        let links: Vec<_> = self.nodes.iter().filter_map(|node| node.link.take()).collect();
        join_all(links.iter().map(|link| link.close())).await;
        self.stats.brokers_connected.set(0);
    }
}

impl AmqpNode {
    fn new(url: BrokerUrl) -> Self {
        Self { url, link: RefCell::new(None), is_tried: Cell::new(false) }
    }

    async fn keep_connected(&self, stats: &BackendStats) {
        let mut backoff = Backoff::default();
        let (mut failed, mut throttle) = (String::new(), Throttle::new(TELL_EVERY));
        let mut channels_max = None;
        loop {
            let connected = AmqpLink::connect(&self.url, channels_max).await;
            self.is_tried.set(true);
            match connected {
                Ok(link) => {
                    let (link, since) = (Rc::new(link), Instant::now());
                    self.link.replace(Some(Rc::clone(&link)));
                    stats.brokers_connected.add(1);
                    tracing::info!(broker = %self.url, "connected to the broker");
                    let reason = without_queue(&link.lost().await);
                    // Not reset earlier: a broker that accepts and closes at once must not be asked all the time.
                    if since.elapsed() > Backoff::MAX {
                        backoff = Backoff::default();
                    }
                    stats.brokers_connected.subtract(1);
                    self.link.replace(None);
                    tracing::warn!(broker = %self.url, "the broker is lost, its streams end: {reason}");
                    // Holds for the next connection only: the limit may have changed by then.
                    channels_max = link.channels_allowed(&reason);
                    if let Some(channels) = channels_max {
                        tracing::warn!(
                            broker = %self.url,
                            channels,
                            "no more channels are opened, until the broker is lost again; raise its user's max-channels"
                        );
                    }
                    failed.clear();
                    link.close().await;
                }
                Err(reason) => {
                    if reason != failed {
                        throttle = Throttle::new(TELL_EVERY);
                    }
                    if let Some(attempts) = throttle.count() {
                        tracing::warn!(broker = %self.url, attempts, "the broker is not reachable: {reason}");
                    }
                    failed = reason;
                }
            }
            sleep(backoff.next()).await;
        }
    }
}
