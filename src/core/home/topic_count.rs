//! Counts the topics of all partitions together, against one limit.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Topics above the limit that may be known for a moment: as many as one stream names, with those above them.
const OVER_MAX: usize = 512;

/// The number of topics known to a server's homes, which share one limit.
///
/// A topic is refused only when as many are held as the limit allows. While some are not held, a new one goes over the
/// limit for a moment, until the shard that has one to forget forgets it.
#[derive(Debug)]
pub(crate) struct TopicCount {
    max: usize,
    known: AtomicUsize,
    /// Known topics that cannot be forgotten.
    held: AtomicUsize,
}

// Relaxed throughout: these are counts, and nothing is published through them.
impl TopicCount {
    /// Returns a count of 0 with the limit `max`.
    pub(crate) fn new(max: usize) -> Self {
        TopicCount { max, known: AtomicUsize::new(0), held: AtomicUsize::new(0) }
    }

    /// Returns a count of 0 with the same limit.
    #[cfg(test)]
    pub(crate) fn emptied(&self) -> Self {
        Self::new(self.max)
    }

    /// Returns whether one more fits, or will once another is forgotten.
    pub(super) fn has_room(&self) -> bool {
        let known = self.known.load(Ordering::Relaxed);
        self.held.load(Ordering::Relaxed) < self.max && known < self.max.saturating_add(OVER_MAX)
    }

    /// Returns whether there are too many, so that some must be forgotten.
    pub(super) fn is_over(&self) -> bool {
        self.known.load(Ordering::Relaxed) > self.max
    }

    pub(super) fn add_known(&self) {
        self.known.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn remove_known(&self) {
        self.known.fetch_sub(1, Ordering::Relaxed);
    }

    /// Counts a topic that is held from now on, or no longer.
    pub(super) fn set_held(&self, is_held: bool) {
        match is_held {
            true => self.held.fetch_add(1, Ordering::Relaxed),
            false => self.held.fetch_sub(1, Ordering::Relaxed),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_room_while_not_all_are_held_and_few_are_over() {
        for (known, held, has_room, is_over) in [
            (0, 0, true, false),
            (3, 2, true, false),
            (3, 3, false, false),
            (4, 2, true, true),
            (3 + OVER_MAX - 1, 2, true, true),
            (3 + OVER_MAX, 2, false, true),
        ] {
            let count = TopicCount::new(3);
            (0..known).for_each(|_| count.add_known());
            (0..held).for_each(|_| count.set_held(true));
            assert_eq!(
                (count.has_room(), count.is_over()),
                (has_room, is_over),
                "{known} known, {held} held"
            );
            (0..known).for_each(|_| count.remove_known());
            (0..held).for_each(|_| count.set_held(false));
            assert_eq!((count.known.into_inner(), count.held.into_inner()), (0, 0));
        }
        assert!(TopicCount::new(usize::MAX).has_room());
    }
}
