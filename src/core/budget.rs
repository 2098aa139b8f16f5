//! Bounds what is under way between shards: one budget of bytes and messages for the whole server.
//!
//! Mailboxes are unbounded in form, because two full ones waiting for each other would never move again. They are
//! bounded at their entry instead: a publish is posted only with a [`Charge`] in hand, and the charge is given back
//! when the last shard that got it has drained its message.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The bytes and messages under way, and their limits; one for the whole server, shared by all shards.
#[derive(Debug)]
pub(crate) struct Budget {
    bytes_max: usize,
    messages_max: usize,
    bytes: AtomicUsize,
    messages: AtomicUsize,
}

impl Budget {
    pub(crate) fn new(bytes_max: usize, messages_max: usize) -> Arc<Self> {
        Arc::new(Budget {
            bytes_max,
            messages_max,
            bytes: AtomicUsize::new(0),
            messages: AtomicUsize::new(0),
        })
    }

    /// Returns a charge for one message of `bytes`, or `None` when there is no room. A message larger than the whole
    /// budget is let through alone, or it could never pass.
    pub(crate) fn take(self: &Arc<Self>, bytes: usize) -> Option<Charge> {
        // Relaxed: these are counts, and nothing is published through them.
        let bytes_before = self.bytes.fetch_add(bytes, Ordering::Relaxed);
        let messages_before = self.messages.fetch_add(1, Ordering::Relaxed);
        let charge = Charge { budget: Arc::clone(self), bytes };
        let fits =
            bytes_before.saturating_add(bytes) <= self.bytes_max && messages_before < self.messages_max;
        (fits || messages_before == 0).then_some(charge)
    }

    /// Returns a charge for one message of `bytes` even when there is no room: the caller looked before.
    pub(crate) fn take_anyway(self: &Arc<Self>, bytes: usize) -> Charge {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.messages.fetch_add(1, Ordering::Relaxed);
        Charge { budget: Arc::clone(self), bytes }
    }

    /// Returns the bytes under way now.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Returns the bytes that may be under way at one time.
    pub(crate) fn bytes_max(&self) -> usize {
        self.bytes_max
    }

    /// Returns the number of messages under way now.
    pub(crate) fn messages(&self) -> usize {
        self.messages.load(Ordering::Relaxed)
    }
}

/// Room taken from a [`Budget`], held by the message it pays for; dropping it gives the room back.
#[derive(Debug)]
pub(crate) struct Charge {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Charge {
    /// Returns the bytes charged.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Changes the charge to `bytes`; returns false and leaves it as it was when there is no room for more.
    pub(crate) fn resize(&mut self, bytes: usize) -> bool {
        let Some(more) = bytes.checked_sub(self.bytes) else {
            self.budget.bytes.fetch_sub(self.bytes - bytes, Ordering::Relaxed);
            self.bytes = bytes;
            return true;
        };
        let before = self.budget.bytes.fetch_add(more, Ordering::Relaxed);
        let fits = before.saturating_add(more) <= self.budget.bytes_max;
        if fits {
            self.bytes = bytes;
        } else {
            self.budget.bytes.fetch_sub(more, Ordering::Relaxed);
        }
        fits
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.budget.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
        self.budget.messages.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn past_either_bound_nothing_is_taken_and_a_drop_gives_it_back() {
        let budget = Budget::new(100, 2);
        let first = budget.take(60).unwrap();
        assert!(budget.take(41).is_none(), "bytes");
        let second = budget.take(40).unwrap();
        assert!(budget.take(0).is_none(), "messages");
        assert_eq!((budget.bytes(), budget.bytes_max(), budget.messages()), (100, 100, 2));
        drop((first, second));
        assert_eq!((budget.bytes(), budget.messages()), (0, 0));
    }

    #[test]
    fn a_message_larger_than_the_budget_passes_alone() {
        let budget = Budget::new(100, 2);
        let huge = budget.take(500).unwrap();
        assert!(budget.take(1).is_none());
        drop(huge);
        assert!(budget.take(1).is_some());
    }

    #[test]
    fn a_charge_grows_only_while_there_is_room_and_shrinks_always() {
        let budget = Budget::new(100, 10);
        let mut first = budget.take(50).unwrap();
        let mut second = budget.take(10).unwrap();
        assert!(first.resize(90));
        assert!(!second.resize(11));
        assert_eq!((second.bytes(), budget.bytes()), (10, 100));
        assert!(first.resize(70) && second.resize(30));
        assert_eq!((first.bytes(), second.bytes(), budget.bytes()), (70, 30, 100));
    }
}
