//! Connections that only wait give way when there is no descriptor or no memory left for a new one.

use std::cell::Cell;
use std::time::Duration;

use tokio::time::Instant;

use super::Connections;
use super::pipeline::ClientWait;

/// An eighth of the connections that may give way does so at a time, and no more than this.
const EVICTED_MAX: usize = 32;
/// How long an eviction takes to free descriptors: two turns of the runtime.
pub(crate) const EVICTION_TIME: Duration = Duration::from_millis(2);
/// How soon another one is tried after one that found nobody, which looks at every connection of the shard.
const FRUITLESS_PAUSE: Duration = Duration::from_millis(20);

/// What a connection waits for its client to send, in the order in which connections give way.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Awaited {
    /// The rest of a head, or of a body that nobody wants. Its age counts from its beginning: a byte now and then
    /// does not make it younger.
    Head,
    /// A further request, after one was answered.
    Request,
    /// The rest of a body. Its age counts from the last byte.
    Body,
}

impl Awaited {
    /// How long it is waited for before the connection may give way.
    fn age_min(self) -> Duration {
        match self {
            Awaited::Head | Awaited::Body => Duration::from_secs(1),
            // Not the connections of publishers that send one request after another.
            Awaited::Request => Duration::from_millis(100),
        }
    }
}

/// When connections of a shard last gave way, and whether any did.
#[derive(Debug, Default)]
pub(crate) struct Evictions(Cell<Option<(Instant, bool)>>);

impl Connections {
    /// Closes some connections that only wait: those that were refused and linger first, then as [`Awaited`] says, the
    /// oldest of each first. Returns whether it is worth another try in [`EVICTION_TIME`].
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

    /// Closes some of the connections that wait for this, the oldest first; returns whether there are any.
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
        // Thousands wait when it matters: those that waited longest, without sorting all.
        waiting.select_nth_unstable_by_key(share - 1, |(since, _)| *since);
        waiting[..share].iter().for_each(|(_, pipeline)| pipeline.evict());
        true
    }
}

/// Returns how many of `count`, which is not 0, give way at a time.
fn share_of(count: usize) -> usize {
    count.div_ceil(8).min(EVICTED_MAX)
}
