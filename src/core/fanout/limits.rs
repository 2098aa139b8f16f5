//! How subscribers are treated.

use std::sync::Arc;

use crate::core::epochs::Epochs;

/// How subscribers are treated.
#[derive(Clone, Debug)]
pub(crate) struct FanoutLimits {
    /// Bytes a subscriber may be behind: the size of a log on one shard.
    pub(crate) lag_bytes_max: usize,
    /// What ids begin with, and which are good; none when there are no ids.
    pub(crate) epochs: Option<Arc<Epochs>>,
    /// Skips a slow subscriber forward instead of closing it.
    pub(crate) skip_slow: bool,
    /// A comment after so long without anything else; 0 for none.
    pub(crate) heartbeat_ms: u64,
    /// A send that takes longer ends the connection.
    pub(crate) send_timeout_ms: u64,
    /// When closed subscribers are told to come back, in milliseconds, drawn at random from here...
    pub(crate) retry_min_ms: u64,
    /// ...to here.
    pub(crate) retry_max_ms: u64,
}

impl FanoutLimits {
    /// When somebody is told to come back, in milliseconds: drawn at random, so that not all come at once.
    pub(super) fn retry_ms(&self, random: &mut fastrand::Rng) -> u64 {
        random.u64(self.retry_min_ms..=self.retry_max_ms.max(self.retry_min_ms))
    }
}
