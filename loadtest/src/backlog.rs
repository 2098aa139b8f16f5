//! How far a flood may be ahead of the subscribers. No clock: `now` comes in.
//!
//! A server answers a publish long before the last subscriber has read it. Without this bound a flood would measure how
//! long the server can be overrun before it cuts somebody, instead of how much it can deliver.

use crate::publisher::Published;

/// Standing still for so long means that what is missing is lost, and the flood goes on without it.
const LOST_AFTER_NS: u64 = 250_000_000;

/// Deliveries owed by the server against those that came.
#[derive(Debug, Default)]
pub(crate) struct Backlog {
    /// Deliveries that one event of each topic owes.
    by_topic: Vec<u64>,
    outstanding_max: u64,
    owed: u64,
    forgiven: u64,
    seen: u64,
    moved_ns: u64,
    /// From when to when it was waited for what was lost: time in which the server was asked for nothing.
    pub(crate) stood_still_ns: Vec<(u64, u64)>,
}

impl Backlog {
    /// Lets subscribers be `events_max` events behind on average.
    pub(crate) fn new(by_topic: Vec<u64>, events_max: u64) -> Backlog {
        let one_event_each = by_topic.iter().sum::<u64>() / by_topic.len().max(1) as u64;
        let outstanding_max = events_max.saturating_mul(one_event_each.max(1));
        Backlog { by_topic, outstanding_max, ..Backlog::default() }
    }

    /// Adds what an event of this topic owes.
    pub(crate) fn issued(&mut self, topic: usize) {
        self.owed += self.by_topic.get(topic).copied().unwrap_or(0);
    }

    /// Tells whether to wait, given all that was delivered and refused so far.
    pub(crate) fn full(&mut self, delivered: u64, published: &[Published], now_ns: u64) -> bool {
        if self.owed.saturating_sub(self.forgiven + delivered) < self.outstanding_max {
            self.moved_ns = now_ns;
            return false;
        }
        if delivered != self.seen {
            self.seen = delivered;
            self.moved_ns = now_ns;
        } else if now_ns.saturating_sub(self.moved_ns) > LOST_AFTER_NS {
            self.forgiven = self.owed.saturating_sub(delivered);
            self.stood_still_ns.push((self.moved_ns, now_ns));
            self.moved_ns = now_ns;
            return false;
        }
        let refused: u64 =
            self.by_topic.iter().zip(published).map(|(owes, topic)| owes * topic.refused).sum();
        self.forgiven = self.forgiven.max(refused);
        self.owed.saturating_sub(self.forgiven + delivered) >= self.outstanding_max
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full_after(issued: u64) -> Backlog {
        let mut backlog = Backlog::new(vec![10, 30], 5);
        (0..issued).for_each(|number| backlog.issued((number % 2) as usize));
        backlog
    }

    #[test]
    fn a_flood_waits_for_the_average_subscriber() {
        assert!(!full_after(4).full(0, &[], 0));
        assert!(full_after(5 + 1).full(0, &[], 0));
        assert!(!full_after(5 + 1).full(21, &[], 0));
    }

    #[test]
    fn refused_events_are_owed_to_nobody() {
        let refused = Published { refused: 1, ..Published::default() };
        assert!(!full_after(6).full(0, &[refused, refused], 0));
    }

    #[test]
    fn what_does_not_come_holds_it_up_for_a_moment_only() {
        let mut backlog = full_after(6);
        assert!(backlog.full(0, &[], 1) && backlog.full(0, &[], LOST_AFTER_NS));
        assert!(!backlog.full(0, &[], 2 + LOST_AFTER_NS));
        (0..6).for_each(|number| backlog.issued(number % 2));
        assert!(backlog.full(0, &[], 3 + LOST_AFTER_NS), "what is published then is waited for again");
        assert_eq!(backlog.stood_still_ns, [(0, 2 + LOST_AFTER_NS)]);
    }

    #[test]
    fn waiting_for_slow_subscribers_is_no_standing_still() {
        let mut backlog = full_after(6);
        assert!(backlog.full(1, &[], LOST_AFTER_NS) && backlog.full(2, &[], 2 * LOST_AFTER_NS));
        assert_eq!(backlog.stood_still_ns, []);
    }
}
