//! What the shards have in common: settings, counters, limits and the clock. Nothing in it is ever waited for.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::queue::QueueStream;
use crate::clock::Clock;
use crate::config::Config;
use crate::core::budget::{Budget, Charge};
use crate::core::event::Events;
use crate::core::home::HomeSettings;
use crate::core::memory::Memory;
use crate::stats::Stats;

/// What each event costs between shards beside its text.
const EVENT_BYTES: usize = 256;

/// What the shards have in common.
#[derive(Debug)]
pub(crate) struct Common {
    pub(crate) config: Config,
    pub(crate) clock: Clock,
    /// When the server started, in Unix seconds.
    pub(crate) started_s: u64,
    pub(crate) stats: Stats,
    /// What may be under way between shards.
    pub(crate) budget: Arc<Budget>,
    /// What events hold, wherever they are.
    pub(crate) memory: Arc<Memory>,
    pub(crate) streams: StreamCount,
    /// The server is about to stop: balancers are told to look elsewhere.
    pub(crate) draining: AtomicBool,
    pub(crate) shards: usize,
    /// What their homes have in common.
    pub(crate) homes: HomeSettings,
}

impl Common {
    /// Takes room for these events on their way between shards, with a key of `key_bytes`; returns `None` when there is none.
    pub(crate) fn room(&self, events: &Events, key_bytes: usize) -> Option<Charge> {
        if self.memory.is_exhausted() {
            return None;
        }
        self.budget.take(events.text_bytes() + events.len() * EVENT_BYTES + key_bytes)
    }
}

/// Admin pages beyond the limit of streams: an operator looks when the server is full.
const WATCHING_MAX: usize = 4;

/// StreamCount open on all shards together, and how many may be.
#[derive(Debug)]
pub(crate) struct StreamCount {
    max: usize,
    open: AtomicUsize,
    /// Those of them that feed an admin page.
    watching: AtomicUsize,
}

impl StreamCount {
    pub(crate) fn new(max: usize) -> Self {
        StreamCount { max, open: AtomicUsize::new(0), watching: AtomicUsize::new(0) }
    }

    /// Counts one more stream, or nothing when the limit is reached.
    pub(crate) fn open(common: &Arc<Common>, feeds_admin_page: bool) -> Option<OpenStream> {
        let stream = OpenStream { common: Arc::clone(common), feeds_admin_page, queue: None };
        common.streams.watching.fetch_add(feeds_admin_page.into(), Ordering::Relaxed);
        let before = common.streams.open.fetch_add(1, Ordering::Relaxed);
        let max = common.streams.max + if feeds_admin_page { WATCHING_MAX } else { 0 };
        (before < max).then_some(stream)
    }

    /// Whether there is no room for one more.
    pub(crate) fn are_full(&self) -> bool {
        self.open.load(Ordering::Relaxed) >= self.max
    }

    /// How many feed an admin page.
    pub(crate) fn watching(&self) -> usize {
        self.watching.load(Ordering::Relaxed)
    }

    /// How many may be open.
    pub(crate) fn max(&self) -> usize {
        self.max
    }
}

/// One stream, counted until this is dropped.
#[derive(Debug)]
pub(crate) struct OpenStream {
    common: Arc<Common>,
    feeds_admin_page: bool,
    /// Boxed: most streams have none.
    queue: Option<Box<QueueStream>>,
}

impl OpenStream {
    /// Keeps a queue for as long.
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
