//! The lanes of a count that all shards have in common: each shard counts in one of its own, so that most changes leave
//! the cache lines of other CPUs alone.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// All lanes of a count, for the few who look at each; owned by what the lanes have in common.
#[derive(Debug)]
pub(super) struct Lanes<T> {
    lanes: Mutex<Vec<Weak<T>>>,
    /// Set when there is one, so that nobody takes the lock to see that there is none.
    has_any: AtomicBool,
}

impl<T> Default for Lanes<T> {
    fn default() -> Self {
        Lanes { lanes: Mutex::default(), has_any: AtomicBool::new(false) }
    }
}

impl<T> Lanes<T> {
    /// Adds a lane, which is looked at as long as it lives.
    pub(super) fn add(&self, lane: &Arc<T>) {
        self.lock().push(Arc::downgrade(lane));
        self.has_any.store(true, Ordering::SeqCst);
    }

    /// Calls `look` with each lane.
    pub(super) fn for_each(&self, look: impl FnMut(Arc<T>)) {
        if self.has_any.load(Ordering::SeqCst) {
            self.lock().iter().filter_map(Weak::upgrade).for_each(look);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Weak<T>>> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
