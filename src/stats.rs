//! Counters and histograms. Each shard writes its own; readers read all of them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use hdrhistogram::Histogram;
use serde_json::{Value, json};

/// A minute in microseconds: longer times are recorded as this.
const LATENCY_US_MAX: u64 = 60_000_000;

/// The counters of all shards, which [`Common`](crate::shard::common::Common) owns.
#[derive(Debug)]
pub(crate) struct Stats {
    shards: Box<[ShardStats]>,
}

/// A number that one shard changes and any thread may read.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, n: u64) {
        // Relaxed: a count orders nothing.
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    pub(crate) fn subtract(&self, n: u64) {
        self.0.fetch_sub(n, Ordering::Relaxed);
    }

    pub(crate) fn set(&self, n: u64) {
        self.0.store(n, Ordering::Relaxed);
    }

    pub(crate) fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The counters of one shard, on cache lines of their own: two shards counting on one line would pass it to and fro.
#[derive(Debug)]
#[repr(align(128))]
pub(crate) struct ShardStats {
    /// Open streams.
    pub(crate) clients: Counter,
    /// Topics whose home is here.
    pub(crate) topics: Counter,
    /// Open connections that are not streams.
    pub(crate) connections: Counter,
    /// Events ordered here.
    pub(crate) published: Counter,
    /// Events sent, once for each subscriber.
    pub(crate) delivered: Counter,
    /// Bytes of streams sent.
    pub(crate) bytes: Counter,
    /// Streams cut for being too slow.
    pub(crate) evicted: Counter,
    /// Requests and streams refused.
    pub(crate) refused: Counter,
    /// Bytes of history held.
    pub(crate) history_bytes: Counter,
    /// When the oldest of them was ordered, in milliseconds of the server's clock; `u64::MAX` without any.
    pub(crate) history_oldest_ms: Counter,
    latency_us: Mutex<Histogram<u64>>,
}

impl Stats {
    pub(crate) fn new(shards: usize) -> Self {
        Stats { shards: (0..shards).map(|_| ShardStats::new()).collect() }
    }

    /// Returns the counters of one shard.
    pub(crate) fn shard(&self, shard: usize) -> &ShardStats {
        &self.shards[shard]
    }

    /// Returns the counters of every shard, by its id.
    pub(crate) fn shards(&self) -> &[ShardStats] {
        &self.shards
    }

    /// Returns the sum of one counter over all shards.
    pub(crate) fn sum(&self, counter: impl Fn(&ShardStats) -> &Counter) -> u64 {
        self.shards.iter().map(|shard| counter(shard).value()).sum()
    }

    /// Returns the least value of one counter over all shards.
    pub(crate) fn least(&self, counter: impl Fn(&ShardStats) -> &Counter) -> u64 {
        self.shards.iter().map(|shard| counter(shard).value()).min().unwrap_or(u64::MAX)
    }

    /// Returns all counters, summed and for each shard, as JSON.
    pub(crate) fn json(&self) -> Value {
        let mut latency = new_histogram();
        for shard in &self.shards {
            // All histograms have the same bounds, so adding cannot fail.
            let _ = latency.add(&*shard.latency());
        }
        json!({
            "clients": self.sum(|s| &s.clients),
            "topics": self.sum(|s| &s.topics),
            "connections": self.sum(|s| &s.connections),
            "published": self.sum(|s| &s.published),
            "delivered": self.sum(|s| &s.delivered),
            "bytes": self.sum(|s| &s.bytes),
            "evicted": self.sum(|s| &s.evicted),
            "refused": self.sum(|s| &s.refused),
            "history_bytes": self.sum(|s| &s.history_bytes),
            "publish_to_send_us": percentiles(&latency),
            "shards": self.shards.iter().map(ShardStats::json).collect::<Vec<_>>(),
        })
    }
}

impl ShardStats {
    fn new() -> Self {
        ShardStats {
            clients: Counter::default(),
            topics: Counter::default(),
            connections: Counter::default(),
            published: Counter::default(),
            delivered: Counter::default(),
            bytes: Counter::default(),
            evicted: Counter::default(),
            refused: Counter::default(),
            history_bytes: Counter::default(),
            history_oldest_ms: Counter::default(),
            latency_us: Mutex::new(new_histogram()),
        }
    }

    /// Records the time from a publish's last byte read to the kernel's taking a send of it.
    pub(crate) fn record_latency_us(&self, us: u64) {
        self.latency().saturating_record(us);
    }

    /// Returns a copy of the latencies recorded so far, in microseconds: so the shard waits only for the copy of 20
    /// KiB, not for the caller's work on it.
    pub(crate) fn latencies_us(&self) -> Histogram<u64> {
        self.latency().clone()
    }

    fn json(&self) -> Value {
        json!({
            "clients": self.clients.value(),
            "topics": self.topics.value(),
            "connections": self.connections.value(),
            "published": self.published.value(),
            "delivered": self.delivered.value(),
            "bytes": self.bytes.value(),
            "evicted": self.evicted.value(),
            "refused": self.refused.value(),
            "history_bytes": self.history_bytes.value(),
            "publish_to_send_us": percentiles(&self.latency()),
        })
    }

    /// Locks the histogram, which another thread does only while it reads `/stats` or `/metrics`: about 20 ns a send.
    fn latency(&self) -> MutexGuard<'_, Histogram<u64>> {
        self.latency_us.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(crate) fn percentiles(latency: &Histogram<u64>) -> Value {
    json!({
        "p50": latency.value_at_quantile(0.5),
        "p99": latency.value_at_quantile(0.99),
        "p999": latency.value_at_quantile(0.999),
        "max": latency.max(),
        "count": latency.len(),
    })
}

pub(crate) fn new_histogram() -> Histogram<u64> {
    // Two digits: at most 1 % off, in 20 KiB.
    #[expect(clippy::expect_used, reason = "both bounds are constants that the crate accepts")]
    Histogram::new_with_bounds(1, LATENCY_US_MAX, 2).expect("constant bounds")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_and_latencies_of_all_shards_are_summed() {
        let stats = Stats::new(2);
        for (shard, us) in [(0, 100), (1, 300)] {
            stats.shard(shard).delivered.add(5);
            stats.shard(shard).record_latency_us(us);
        }
        stats.shard(1).record_latency_us(u64::MAX);
        let json = stats.json();
        assert_eq!(json["delivered"], 10);
        assert_eq!(json["shards"][1]["delivered"], 5);
        assert_eq!(json["publish_to_send_us"]["count"], 3);
        assert_eq!(json["publish_to_send_us"]["p50"], 301, "two digits");
    }
}
