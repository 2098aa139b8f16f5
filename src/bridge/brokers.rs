//! The brokers' connections: made in the background, kept, and made again.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::{Instant, sleep};

use super::link::{Lease, Link, without_queue};
use super::stats::BridgeStats;
use super::throttle::Throttle;
use crate::config::BrokerUrl;

/// That a broker is still not reachable is told of no more often than this.
const TELL_EVERY: Duration = Duration::from_secs(60);

/// One for each URL, whether it is connected or not.
pub(super) struct Brokers {
    nodes: Vec<Node>,
    stats: Arc<BridgeStats>,
}

struct Node {
    url: BrokerUrl,
    link: RefCell<Option<Rc<Link>>>,
    /// The first attempt to connect has ended.
    is_tried: Cell<bool>,
}

impl Brokers {
    pub(super) fn new(urls: &[BrokerUrl], stats: Arc<BridgeStats>) -> Self {
        let nodes = urls.iter().cloned().map(Node::new).collect();
        Self { nodes, stats }
    }

    /// Connects, for as long as it is polled.
    pub(super) async fn keep(&self) {
        join_all(self.nodes.iter().map(|node| node.keep(&self.stats))).await;
    }

    /// Whether there is a broker to ask that answered all it was asked.
    pub(super) fn are_well(&self) -> bool {
        let links = self.nodes.iter().filter_map(|node| node.link.borrow().clone());
        links.into_iter().any(|link| link.load().is_some() && !link.is_silent())
    }

    /// Whether a connection may be there in a moment, because none was tried to the end yet.
    pub(super) fn are_starting(&self) -> bool {
        !self.nodes.iter().any(|node| node.is_tried.get())
    }

    /// A place for one more channel, on the connection that has the fewest.
    ///
    /// # Errors
    /// One line why there is none.
    pub(super) fn lease(&self) -> Result<Lease, String> {
        let links = || self.nodes.iter().filter_map(|node| node.link.borrow().clone());
        match links()
            .filter_map(|link| Some((link.load()?, link)))
            .min_by_key(|(load, link)| (link.is_silent(), *load))
        {
            Some((_, link)) => Ok(link.lease()),
            None if links().any(|link| link.is_connected()) => {
                Err("every channel of every broker is taken; repeat a URL in broker.node for more".to_owned())
            }
            None => Err("no broker is reachable; try again later".to_owned()),
        }
    }

    /// Closes every connection.
    pub(super) async fn close(&self) {
        let links: Vec<_> = self.nodes.iter().filter_map(|node| node.link.take()).collect();
        join_all(links.iter().map(|link| link.close())).await;
        self.stats.brokers_connected.set(0);
    }
}

impl Node {
    fn new(url: BrokerUrl) -> Self {
        Self { url, link: RefCell::new(None), is_tried: Cell::new(false) }
    }

    async fn keep(&self, stats: &BridgeStats) {
        let mut backoff = Backoff::default();
        let (mut failed, mut throttle) = (String::new(), Throttle::new(TELL_EVERY));
        let mut channels_max = None;
        loop {
            let connected = Link::connect(&self.url, channels_max).await;
            self.is_tried.set(true);
            match connected {
                Ok(link) => {
                    let (link, since) = (Rc::new(link), Instant::now());
                    self.link.replace(Some(Rc::clone(&link)));
                    stats.brokers_connected.add(1);
                    tracing::info!(broker = %self.url, "connected to the broker");
                    let reason = without_queue(&link.lost().await);
                    // Not before: a broker that accepts and closes at once is not to be asked all the time.
                    if since.elapsed() > Backoff::MAX {
                        backoff = Backoff::default();
                    }
                    stats.brokers_connected.subtract(1);
                    self.link.replace(None);
                    tracing::warn!(broker = %self.url, "the broker is lost, its streams end: {reason}");
                    // For the next connection alone: the limit may be another by then.
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

/// How long to wait before the next attempt: twice as long each time, less up to a half of it at random, so that
/// many who lost something don't all come back at once.
#[derive(Debug)]
pub(super) struct Backoff(Duration);

impl Default for Backoff {
    fn default() -> Self {
        Self(Self::MIN)
    }
}

impl From<Duration> for Backoff {
    /// The longest of the first wait.
    fn from(first: Duration) -> Self {
        Self(first)
    }
}

impl Backoff {
    const MIN: Duration = Duration::from_millis(200);
    pub(super) const MAX: Duration = Duration::from_secs(10);

    pub(super) fn next(&mut self) -> Duration {
        let wait = self.0;
        self.0 = (2 * wait).min(Self::MAX);
        wait.mul_f64(1.0 - fastrand::f64() / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_wait_is_twice_as_long_up_to_a_bound_and_none_is_like_another() {
        let mut backoff = Backoff::default();
        let mut longest = Backoff::MIN;
        for _ in 0..20 {
            let wait = backoff.next();
            assert!(wait <= longest && wait >= longest / 2, "{wait:?} {longest:?}");
            longest = (2 * longest).min(Backoff::MAX);
        }
        let waits: Vec<_> = (0..4).map(|_| backoff.next()).collect();
        assert!(waits.windows(2).any(|pair| pair[0] != pair[1]));
    }
}
