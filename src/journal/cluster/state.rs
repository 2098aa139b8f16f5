//! What all threads may know of the cluster, and its counters.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hdrhistogram::Histogram;
use serde_json::{Value, json};

use crate::stats::{Counter, new_histogram, percentiles};

/// The state of a node's connection to its cluster; the thread that has it writes, any may read.
#[derive(Debug)]
pub(crate) struct ClusterState {
    /// 1 while publishes are taken, 0 while the node is cut off.
    pub(crate) connected: Counter,
    /// 1, or 0 when the node has been cut off for a while, or is far behind.
    ready: Counter,
    /// Why the stream that is there cannot be used, while it cannot.
    unfit: Mutex<Option<String>>,
    /// By shard, the subscribers that wait for events of other nodes.
    waiting: Vec<AtomicUsize>,
    /// The newest message of the stream that was applied, and the newest that it has.
    pub(crate) applied: Counter,
    pub(crate) tail: Counter,
    pub(crate) messages: Counter,
    pub(crate) publishes: Counter,
    pub(crate) resent: Counter,
    pub(crate) unconfirmed: Counter,
    pub(crate) reconnects: Counter,
    /// Times that events were missed, and that the order began anew.
    pub(crate) missed: Counter,
    pub(crate) resets: Counter,
    pub(crate) malformed: Counter,
    /// Nodes that were heard of lately, this one included.
    pub(crate) nodes: Counter,
    /// Microseconds from sending a message to its acknowledgement.
    ack_us: Mutex<Histogram<u64>>,
}

impl ClusterState {
    /// Returns the state of a node that is connected and ready.
    pub(crate) fn new(shards: usize) -> Self {
        let state = ClusterState {
            connected: Counter::default(),
            ready: Counter::default(),
            unfit: Mutex::new(None),
            waiting: (0..shards).map(|_| AtomicUsize::new(0)).collect(),
            applied: Counter::default(),
            tail: Counter::default(),
            messages: Counter::default(),
            publishes: Counter::default(),
            resent: Counter::default(),
            unconfirmed: Counter::default(),
            reconnects: Counter::default(),
            missed: Counter::default(),
            resets: Counter::default(),
            malformed: Counter::default(),
            nodes: Counter::default(),
            ack_us: Mutex::new(new_histogram()),
        };
        state.set_cut_off(false);
        state.set_ready(true);
        state
    }

    /// Returns whether nothing can be published.
    pub(crate) fn is_cut_off(&self) -> bool {
        self.connected.value() == 0
    }

    pub(crate) fn set_cut_off(&self, is_cut_off: bool) {
        self.connected.set((!is_cut_off).into());
    }

    /// Returns whether a balancer may send clients here.
    pub(crate) fn is_ready(&self) -> bool {
        self.ready.value() == 1
    }

    pub(crate) fn set_ready(&self, is_ready: bool) {
        self.ready.set(is_ready.into());
    }

    /// Returns why the stream that is there cannot be used; `None` while it can.
    pub(crate) fn unfit(&self) -> Option<String> {
        self.unfit.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set_unfit(&self, reason: Option<String>) {
        *self.unfit.lock().unwrap_or_else(PoisonError::into_inner) = reason;
    }

    pub(super) fn note_waiting(&self, shard: usize, waiting: usize) {
        if let Some(of_shard) = self.waiting.get(shard) {
            of_shard.store(waiting, Ordering::Relaxed);
        }
    }

    /// Returns how many subscribers wait for events of other nodes.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.iter().map(|waiting| waiting.load(Ordering::Relaxed)).sum()
    }

    pub(crate) fn acknowledged(&self, time: Duration) {
        self.acks().saturating_record(time.as_micros() as u64);
    }

    /// Returns the times from sending a message to its acknowledgement, in microseconds.
    pub(crate) fn acks_us(&self) -> Histogram<u64> {
        self.acks().clone()
    }

    /// Returns the counters as `/stats` shows them.
    pub(crate) fn json(&self) -> Value {
        json!({
            "connected": !self.is_cut_off(),
            "ready": self.is_ready(),
            "unfit": self.unfit(),
            "nodes": self.nodes.value(),
            "applied": self.applied.value(),
            "lag": self.tail.value().saturating_sub(self.applied.value()),
            "messages": self.messages.value(),
            "publishes": self.publishes.value(),
            "resent": self.resent.value(),
            "unconfirmed": self.unconfirmed.value(),
            "reconnects": self.reconnects.value(),
            "missed": self.missed.value(),
            "resets": self.resets.value(),
            "malformed": self.malformed.value(),
            "waiting": self.waiting(),
            "ack_us": percentiles(&self.acks()),
        })
    }

    fn acks(&self) -> MutexGuard<'_, Histogram<u64>> {
        self.ack_us.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
