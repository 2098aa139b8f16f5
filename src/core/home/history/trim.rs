//! Drops what is too old, and the oldest when memory is short.

use super::{History, TopicKey};
use crate::core::event_id::Sequence;

impl History {
    /// Returns when the oldest retained event was ordered, in milliseconds of the server's clock.
    pub(crate) fn oldest_at_ms(&mut self) -> Option<u64> {
        self.oldest().map(|(_, at_ms)| at_ms)
    }

    /// Drops what is past its age, at most `events_max` events; returns how many it dropped.
    pub(crate) fn expire(&mut self, now_ms: u64, events_max: usize) -> usize {
        let age_max_ms = self.limits.age_max_ms;
        self.trim(events_max, |_, at_ms| now_ms.saturating_sub(at_ms) > age_max_ms)
    }

    /// Drops the oldest event, and its topic if nothing is left of that, for as long as `drops` says so of what is retained
    /// and of when the event was ordered, and at most `events_max` events; returns how many it dropped.
    pub(crate) fn trim(&mut self, events_max: usize, drops: impl Fn(&History, u64) -> bool) -> usize {
        for dropped in 0..events_max {
            match self.oldest() {
                Some((topic, at_ms)) if drops(self, at_ms) => {
                    self.topics.drop_first(topic);
                    self.topics.forget_if_unneeded(topic);
                }
                _ => {
                    self.shrink();
                    return dropped;
                }
            }
        }
        events_max
    }

    /// Drops everything up to an event, at most `events_max` events; returns how many it dropped.
    pub(crate) fn trim_upto(&mut self, upto: Sequence, events_max: usize) -> usize {
        let mut dropped = 0;
        while dropped < events_max
            && let Some((topic, _)) = self.oldest()
            && self.by_age.front().is_some_and(|aged| aged.sequence <= upto)
        {
            self.topics.drop_first(topic);
            self.topics.forget_if_unneeded(topic);
            dropped += 1;
        }
        dropped
    }

    /// Lets go of memory that what is left does not need, once that is less than a quarter.
    fn shrink(&mut self) {
        self.topics.shrink();
        let events = self.by_age.len();
        if events < self.by_age.capacity() / 4 {
            self.by_age.shrink_to(2 * events);
            self.own_by_age.shrink_to(2 * self.own_by_age.len());
        }
    }

    /// Returns the topic that holds the oldest retained event of all, and when that was ordered.
    fn oldest(&mut self) -> Option<(TopicKey, u64)> {
        loop {
            let aged = self.by_age.front()?;
            if self.topics.retains(aged.topic, aged.sequence)
                && let Some(at_ms) = self.topics[aged.topic].history.first_at_ms()
            {
                return Some((aged.topic, at_ms));
            }
            self.by_age.pop_front();
        }
    }
}
