//! The counters of the journal's writer.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hdrhistogram::Histogram;
use serde_json::{Value, json};

use crate::stats::{Counter, new_histogram, percentiles};

/// Counters of the journal, which its writer sets; any thread may read them.
#[derive(Debug)]
pub(crate) struct JournalStats {
    pub(crate) batches: Counter,
    pub(crate) publishes: Counter,
    /// Publishes refused for lack of room.
    pub(crate) refused: Counter,
    /// Bytes of events written.
    pub(crate) event_bytes: Counter,
    pub(crate) segments: Counter,
    /// Bytes of all segments.
    pub(crate) bytes: Counter,
    /// Results of the last start: events, bytes, milliseconds.
    pub(crate) recovered_events: Counter,
    pub(crate) recovered_bytes: Counter,
    pub(crate) recovered_ms: Counter,
    /// Microseconds of each sync.
    sync_us: Mutex<Histogram<u64>>,
}

impl Default for JournalStats {
    fn default() -> Self {
        JournalStats {
            batches: Counter::default(),
            publishes: Counter::default(),
            refused: Counter::default(),
            event_bytes: Counter::default(),
            segments: Counter::default(),
            bytes: Counter::default(),
            recovered_events: Counter::default(),
            recovered_bytes: Counter::default(),
            recovered_ms: Counter::default(),
            sync_us: Mutex::new(new_histogram()),
        }
    }
}

impl JournalStats {
    pub(super) fn wrote(&self, publishes: usize, event_bytes: usize) {
        self.batches.add(1);
        self.publishes.add(publishes as u64);
        self.event_bytes.add(event_bytes as u64);
    }

    pub(super) fn refused(&self, publishes: usize) {
        self.refused.add(publishes as u64);
    }

    pub(super) fn synced(&self, time: Duration) {
        self.syncs().saturating_record(time.as_micros() as u64);
    }

    pub(super) fn is_now(&self, segments: usize, bytes: u64) {
        self.segments.set(segments as u64);
        self.bytes.set(bytes);
    }

    /// Returns the durations of syncs, in microseconds.
    pub(crate) fn syncs_us(&self) -> Histogram<u64> {
        self.syncs().clone()
    }

    /// Returns the counters as `/stats` shows them.
    pub(crate) fn json(&self) -> Value {
        json!({
            "publishes": self.publishes.value(),
            "batches": self.batches.value(),
            "refused": self.refused.value(),
            "bytes": self.bytes.value(),
            "segments": self.segments.value(),
            "recovered_events": self.recovered_events.value(),
            "recovered_bytes": self.recovered_bytes.value(),
            "recovered_ms": self.recovered_ms.value(),
            "sync_us": percentiles(&self.syncs()),
        })
    }

    fn syncs(&self) -> MutexGuard<'_, Histogram<u64>> {
        self.sync_us.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
