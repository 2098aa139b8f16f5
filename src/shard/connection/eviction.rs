//! Connections that only wait give way when there is no descriptor or no memory left for a new one.

use std::cell::Cell;
use std::time::Duration;

use tokio::time::Instant;

use crate::shard::Shard;
use crate::shard::pipeline::ClientWait;

/// Of all that may give way an eighth does, and so many at the most.
const EVICTED_MAX: usize = 32;
/// How long an eviction takes to free descriptors: two turns of the runtime.
pub(crate) const EVICTION_TIME: Duration = Duration::from_millis(2);
/// Connections between requests give way after so long: not those of publishers that send one after another.
const IDLE_MIN: Duration = Duration::from_millis(100);
/// First requests, and unfinished ones, of which nothing came for so long give way as well.
const UNFINISHED_MIN: Duration = Duration::from_secs(1);

/// When connections of a shard last gave way.
#[derive(Debug, Default)]
pub(crate) struct Evictions(Cell<Option<Instant>>);

impl Shard {
    /// Closes some connections that only wait: refused ones that linger, else those between requests, else requests that
    /// came to a standstill; the longest first. Returns whether it is worth another try in [`EVICTION_TIME`].
    pub(crate) fn evict(&self) -> bool {
        let is_under_way = |at: Instant| at.elapsed() < EVICTION_TIME;
        if self.evictions.0.get().is_some_and(is_under_way) {
            return true;
        }
        let lingering = self.lingering.len();
        if lingering > 0 {
            self.lingering.end_first(share_of(lingering));
        } else if !self.evict_waiting(true) && !self.evict_waiting(false) {
            return false;
        }
        self.evictions.0.set(Some(Instant::now()));
        true
    }

    /// Closes some of the connections between requests, or of those within one.
    fn evict_waiting(&self, between: bool) -> bool {
        let pipelines = self.pipelines.borrow();
        let mut waiting: Vec<_> = pipelines
            .iter()
            .filter_map(|(_, pipeline)| {
                let ClientWait { since, between_requests } = pipeline.client_wait()?;
                let least = if between { IDLE_MIN } else { UNFINISHED_MIN };
                let may_go = between_requests == between && since.elapsed() >= least;
                may_go.then_some((since, pipeline))
            })
            .collect();
        if waiting.is_empty() {
            return false;
        }
        let share = share_of(waiting.len());
        // Thousands wait when it matters: those that waited longest, without sorting all.
        waiting.select_nth_unstable_by_key(share - 1, |(since, _)| *since);
        waiting[..share].iter().for_each(|(_, pipeline)| pipeline.evict());
        true
    }
}

/// How many of `count`, which is not 0, give way at a time.
fn share_of(count: usize) -> usize {
    count.div_ceil(8).min(EVICTED_MAX)
}
