//! Drops events past their age, and the oldest ones when memory is short.

use super::{PartitionHistory, TopicKey};
use crate::core::event_id::Sequence;

/// The oldest event that a partition retains.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Oldest {
    topic: TopicKey,
    pub(crate) sequence: Sequence,
    /// The time at which it was ordered, in milliseconds of the server's clock.
    pub(crate) at_ms: u64,
}

impl PartitionHistory {
    /// Returns the time at which the oldest retained event was ordered, in milliseconds of the server's clock.
    pub(crate) fn oldest_at_ms(&mut self) -> Option<u64> {
        self.oldest().map(|oldest| oldest.at_ms)
    }

    /// Drops events past their age, at most `events_max`; returns the number dropped.
    pub(crate) fn expire(&mut self, now_ms: u64, events_max: usize) -> usize {
        let age_max_ms = self.limits.age_max_ms;
        self.trim(events_max, |_, oldest| now_ms.saturating_sub(oldest.at_ms) > age_max_ms)
    }

    /// Drops the oldest event, and its topic if that becomes empty, while `drops` returns true for the history and that
    /// event, at most `events_max` events; returns the number dropped.
    pub(crate) fn trim(
        &mut self,
        events_max: usize,
        drops: impl Fn(&PartitionHistory, Oldest) -> bool,
    ) -> usize {
        for dropped in 0..events_max {
            match self.oldest() {
                Some(oldest) if drops(self, oldest) => {
                    self.topics.drop_first(oldest.topic);
                    self.topics.forget_if_unneeded(oldest.topic);
                }
                _ => {
                    self.shrink();
                    return dropped;
                }
            }
        }
        events_max
    }

    /// Shrinks lists of which less than a quarter is in use.
    fn shrink(&mut self) {
        self.topics.shrink();
        let events = self.by_age.len();
        if events < self.by_age.capacity() / 4 {
            self.by_age.shrink_to(2 * events);
            self.own_by_age.shrink_to(2 * self.own_by_age.len());
        }
    }

    /// Returns the oldest retained event of all topics.
    fn oldest(&mut self) -> Option<Oldest> {
        loop {
            let aged = self.by_age.front()?;
            if self.topics.retains(aged.topic, aged.sequence)
                && let Some(at_ms) = self.topics[aged.topic].history.first_at_ms()
            {
                return Some(Oldest { topic: aged.topic, sequence: aged.sequence, at_ms });
            }
            self.by_age.pop_front();
        }
    }
}
