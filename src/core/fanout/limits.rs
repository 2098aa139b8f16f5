//! The limits and timeouts of subscribers.

use std::sync::Arc;

use crate::core::epochs::Epochs;

/// The limits and timeouts of subscribers, copied to each shard's fan-out.
#[derive(Clone, Debug)]
pub(crate) struct FanoutLimits {
    /// Bytes a subscriber may be behind: the size of a log on one shard.
    pub(crate) lag_bytes_max: usize,
    /// The epoch of new ids, and those whose ids are good; `None` when there are no ids.
    pub(crate) epochs: Option<Arc<Epochs>>,
    /// Skips a slow subscriber forward instead of closing it.
    pub(crate) skip_slow: bool,
    /// A comment after so long without anything else; 0 for none.
    pub(crate) heartbeat_ms: u64,
    /// A send that takes longer ends the connection.
    pub(crate) send_timeout_ms: u64,
    /// Closed subscribers get a `retry:` of a random time, in milliseconds: at least this...
    pub(crate) retry_min_ms: u64,
    /// ...and at most this.
    pub(crate) retry_max_ms: u64,
}

impl FanoutLimits {
    /// Returns a random time after which to come back, in milliseconds, so that not all clients come at once.
    pub(super) fn retry_ms(&self, random: &mut fastrand::Rng) -> u64 {
        random.u64(self.retry_min_ms..=self.retry_max_ms.max(self.retry_min_ms))
    }
}
