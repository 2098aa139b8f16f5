//! The parts that all shards share: settings, counters, limits and the clock. No part is ever waited for.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::queue::QueueStream;
use arc_swap::ArcSwap;

use crate::access_log::AccessLog;
use crate::clock::Clock;
use crate::config::Config;
use crate::core::budget::Budget;
use crate::core::epochs::Epochs;
use crate::core::event::Events;
use crate::core::home::HomeSettings;
use crate::core::memory::Memory;
use crate::stats::Stats;

/// The bytes that each event is charged between shards beside its text.
const EVENT_BYTES: usize = 256;

/// The parts that all shards share; the server makes them, and every shard's thread has a reference.
#[derive(Debug)]
pub(crate) struct Common {
    pub(crate) config: Config,
    pub(crate) clock: Clock,
    /// When the server started, in Unix seconds.
    pub(crate) started_s: u64,
    pub(crate) stats: Stats,
    /// `None` where requests are not logged.
    pub(crate) access_log: Option<Arc<AccessLog>>,
    /// The budget of messages on their way between shards.
    pub(crate) budget: Arc<Budget>,
    /// The memory of events, wherever they are held.
    pub(crate) memory: Arc<Memory>,
    pub(crate) streams: StreamCount,
    /// The server is about to stop, and health reports it, so that balancers send requests elsewhere.
    pub(crate) draining: AtomicBool,
    pub(crate) shards: usize,
    /// The epochs in force. Those of the homes are the ones they began with: a cluster's order may begin anew.
    pub(crate) epochs: ArcSwap<Epochs>,
    /// Settings that all homes share.
    pub(crate) homes: HomeSettings,
}

/// Returns the bytes that these events, with a key of `key_bytes`, are charged on their way between shards.
pub(crate) fn charged_bytes(events: &Events, key_bytes: usize) -> usize {
    events.text_bytes() + events.len() * EVENT_BYTES + key_bytes
}

/// Admin pages allowed beyond the limit of streams: an operator looks when the server is full.
const WATCHING_MAX: usize = 4;

/// Counts the open streams of all shards, and holds their limit.
#[derive(Debug)]
pub(crate) struct StreamCount {
    max: usize,
    open: AtomicUsize,
    /// How many of them feed an admin page.
    watching: AtomicUsize,
}

impl StreamCount {
    pub(crate) fn new(max: usize) -> Self {
        StreamCount { max, open: AtomicUsize::new(0), watching: AtomicUsize::new(0) }
    }

    /// Counts one more stream; returns `None` when the limit is reached.
    pub(crate) fn open(common: &Arc<Common>, feeds_admin_page: bool) -> Option<OpenStream> {
        let stream = OpenStream { common: Arc::clone(common), feeds_admin_page, queue: None };
        common.streams.watching.fetch_add(feeds_admin_page.into(), Ordering::Relaxed);
        let before = common.streams.open.fetch_add(1, Ordering::Relaxed);
        let max = common.streams.max + if feeds_admin_page { WATCHING_MAX } else { 0 };
        (before < max).then_some(stream)
    }

    /// Returns whether the limit is reached.
    pub(crate) fn are_full(&self) -> bool {
        self.open.load(Ordering::Relaxed) >= self.max
    }

    /// Returns how many feed an admin page.
    pub(crate) fn watching(&self) -> usize {
        self.watching.load(Ordering::Relaxed)
    }

    /// Returns how many may be open.
    pub(crate) fn max(&self) -> usize {
        self.max
    }
}

/// One open stream, counted until this is dropped.
#[derive(Debug)]
pub(crate) struct OpenStream {
    common: Arc<Common>,
    feeds_admin_page: bool,
    /// Boxed: most streams have none.
    queue: Option<Box<QueueStream>>,
}

impl OpenStream {
    /// Keeps the client's queue open as long as the stream.
    pub(crate) fn keep(&mut self, queue: QueueStream) {
        self.queue = Some(Box::new(queue));
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.common.streams.open.fetch_sub(1, Ordering::Relaxed);
        self.common.streams.watching.fetch_sub(self.feeds_admin_page.into(), Ordering::Relaxed);
    }
}
