//! One timer for all streams: it wakes those whose messages were sent, or have become due.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use slab::Slab;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

/// How often it looks. Looking at a stream costs some nanoseconds, and acknowledging 20 ms later nothing: acks are
/// late by design.
const EVERY: Duration = Duration::from_millis(20);
/// How often while a stream waits for acknowledgements, as its broker sends no more without: with 200 messages and
/// a window of 100, a queue could have no more than 5,000 messages/s at 20 ms.
const SOON: Duration = Duration::from_millis(2);
/// How often it still looks so soon when no stream waits so any more: until the broker has sent again what was just
/// acknowledged, none does.
const SOON_LOOKS: u32 = 10;

/// See the module's page.
#[derive(Debug)]
pub(in crate::backend) struct Ticker {
    started: Instant,
    watched: RefCell<Slab<Rc<Watched>>>,
    begun: Notify,
}

/// A stream as the ticker sees it.
#[derive(Debug)]
pub(super) struct Watched {
    /// Written by the shard.
    sent: Arc<AtomicU64>,
    /// What the stream has seen of it.
    seen: Cell<u64>,
    /// When the stream wants to be woken whatever was sent.
    due_ms: Cell<u64>,
    /// The broker sends it no more.
    is_full: Cell<bool>,
    woken: Notify,
    /// Its place while it has anything to wait for.
    key: Cell<Option<usize>>,
}

impl Ticker {
    pub(super) fn new() -> Self {
        Self { started: Instant::now(), watched: RefCell::default(), begun: Notify::new() }
    }

    /// Returns the milliseconds since the backend began.
    pub(super) fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Runs for as long as it is polled.
    pub(in crate::backend) async fn run(&self) {
        let mut soon = SOON_LOOKS;
        loop {
            if self.watched.borrow().is_empty() {
                self.begun.notified().await;
            }
            sleep(if soon > 0 { SOON } else { EVERY }).await;
            soon = soon.saturating_sub(1);
            let now_ms = self.now_ms();
            for (_, watched) in self.watched.borrow().iter() {
                if watched.is_full.get() {
                    soon = SOON_LOOKS;
                }
                if watched.sent.load(Ordering::Acquire) != watched.seen.get()
                    || watched.due_ms.get() <= now_ms
                {
                    watched.woken.notify_one();
                }
            }
        }
    }

    /// Wakes it when more was sent, and at `due_ms`; never while `due_ms` is `None`, as nothing is unacknowledged.
    pub(super) fn watch(&self, watched: &Rc<Watched>, due_ms: Option<u64>) {
        watched.due_ms.set(due_ms.unwrap_or(u64::MAX));
        let mut all = self.watched.borrow_mut();
        match (watched.key.get(), due_ms) {
            (None, Some(_)) => {
                watched.key.set(Some(all.insert(Rc::clone(watched))));
                self.begun.notify_one();
            }
            (Some(key), None) => {
                all.try_remove(key);
                watched.key.set(None);
            }
            _ => {}
        }
    }
}

impl Watched {
    pub(super) fn new() -> Rc<Self> {
        Rc::new(Self {
            sent: Arc::default(),
            seen: Cell::new(0),
            due_ms: Cell::new(u64::MAX),
            is_full: Cell::new(false),
            woken: Notify::new(),
            key: Cell::new(None),
        })
    }

    /// What the shard writes to.
    pub(super) fn counter(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.sent)
    }

    /// How many of the stream's messages were sent.
    pub(super) fn sent(&self) -> u64 {
        self.seen.set(self.sent.load(Ordering::Acquire));
        self.seen.get()
    }

    /// Says whether the broker sends it no more before something is acknowledged.
    pub(super) fn full(&self, is_full: bool) {
        self.is_full.set(is_full);
    }

    pub(super) async fn woken(&self) {
        self.woken.notified().await;
    }
}
