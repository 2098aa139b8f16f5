//! A shortage that somebody noticed: while it is recent, others give way.

use std::sync::atomic::{AtomicU64, Ordering};

/// When a shortage was last noticed, by any shard.
#[derive(Debug)]
pub(crate) struct Shortage {
    /// In milliseconds of the server's clock; 0 for never.
    at_ms: AtomicU64,
    recent_ms: u64,
}

impl Shortage {
    /// Returns a shortage that nobody noticed yet, and that is recent for so many milliseconds once somebody does.
    pub(crate) fn recent_for(recent_ms: u64) -> Self {
        Shortage { at_ms: AtomicU64::new(0), recent_ms }
    }

    /// Notes that somebody noticed it at `now_ms`.
    pub(crate) fn note(&self, now_ms: u64) {
        self.at_ms.store(now_ms.max(1), Ordering::Relaxed);
    }

    /// Returns whether somebody noticed it a moment ago.
    pub(crate) fn is_recent(&self, now_ms: u64) -> bool {
        let at_ms = self.at_ms.load(Ordering::Relaxed);
        at_ms > 0 && now_ms.saturating_sub(at_ms) < self.recent_ms
    }
}
