//! Evicts connections that only wait for their clients when no descriptor or no memory is left for a new one.

use std::cell::Cell;
use std::time::Duration;

use tokio::time::Instant;

use super::Connections;
use super::pipeline::ClientWait;

/// The most connections evicted at a time; below it, an eighth of those that may be evicted.
const EVICTED_MAX: usize = 32;
/// The time an eviction takes to free descriptors: two turns of the runtime.
pub(crate) const EVICTION_TIME: Duration = Duration::from_millis(2);
/// The pause after an eviction that found nobody: each attempt looks at every connection of the shard.
const FRUITLESS_PAUSE: Duration = Duration::from_millis(20);

/// The bytes that a connection waits for, in the order in which waiting connections are evicted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Awaited {
    /// The rest of a head, or of a body that is skipped. Its age counts from its beginning, so that a byte now and then
    /// does not make it younger.
    Head,
    /// The next request, after one was answered.
    Request,
    /// The rest of a body. Its age counts from the last byte.
    Body,
}

impl Awaited {
    /// Returns how long a connection must have waited before it may be evicted.
    fn age_min(self) -> Duration {
        match self {
            Awaited::Head | Awaited::Body => Duration::from_secs(1),
            // Spares publishers that send one request after another.
            Awaited::Request => Duration::from_millis(100),
        }
    }
}

/// When connections of a shard were last evicted, and whether any were.
#[derive(Debug, Default)]
pub(crate) struct Evictions(Cell<Option<(Instant, bool)>>);

impl Connections {
    /// Closes some connections that only wait: refused ones that linger first, then in the order of [`Awaited`], the
    /// oldest first. Returns whether another attempt after [`EVICTION_TIME`] is worth it.
    pub(crate) fn evict(&self) -> bool {
        if let Some((at, found)) = self.evictions.0.get()
            && at.elapsed() < if found { EVICTION_TIME } else { FRUITLESS_PAUSE }
        {
            return found;
        }
        let lingering = self.lingering.len();
        let found = if lingering > 0 {
            self.lingering.end_first(share_of(lingering));
            true
        } else {
            [Awaited::Head, Awaited::Request, Awaited::Body]
                .into_iter()
                .any(|awaited| self.evict_waiting(awaited))
        };
        self.evictions.0.set(Some((Instant::now(), found)));
        found
    }

    /// Closes the oldest of the connections that wait for `awaited`; returns whether there were any.
    fn evict_waiting(&self, awaited: Awaited) -> bool {
        let pipelines = self.pipelines.borrow();
        let Some(latest) = Instant::now().checked_sub(awaited.age_min()) else { return false };
        let waits = pipelines.iter().filter_map(|(_, pipeline)| Some((pipeline.client_wait()?, pipeline)));
        let mut waiting: Vec<_> = waits
            .filter(|(wait, _)| wait.awaited == awaited && wait.since <= latest)
            .map(|(ClientWait { since, .. }, pipeline)| (since, pipeline))
            .collect();
        if waiting.is_empty() {
            return false;
        }
        let share = share_of(waiting.len());
        // Selected without sorting: thousands wait when it matters.
        waiting.select_nth_unstable_by_key(share - 1, |(since, _)| *since);
        waiting[..share].iter().for_each(|(_, pipeline)| pipeline.evict());
        true
    }
}

/// Returns how many of `count` connections are evicted at a time; `count` is not 0.
fn share_of(count: usize) -> usize {
    count.div_ceil(8).min(EVICTED_MAX)
}
