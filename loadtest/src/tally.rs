//! What the reading threads counted, and what it means beside what the publishers were told.

use crate::publisher::Published;
use hdrhistogram::Histogram;

/// Latencies are kept from a microsecond to an hour, with three digits.
const LATENCY_NS: (u64, u64) = (1_000, 3_600_000_000_000);

/// What one reading thread, or all together, saw.
pub(crate) struct Tally {
    /// Events that arrived, doubled ones too.
    pub(crate) deliveries: u64,
    /// When the last of them arrived.
    pub(crate) last_delivery_ns: u64,
    /// `event: gap` told by the server.
    pub(crate) gaps: u64,
    /// Events which are not as they were sent, or of a topic nobody asked for.
    pub(crate) corrupt: u64,
    /// Events that came again. Only told when verifying.
    pub(crate) doubled: u64,
    /// Events that came after a later one. Only told when verifying.
    pub(crate) reordered: u64,
    /// From due to read, in nanoseconds; `None` before the first.
    pub(crate) latency_ns: Option<Histogram<u64>>,
    /// Each subscriber's own count.
    pub(crate) subscribers: Vec<Received>,
    /// Why the first subscriber was cut.
    pub(crate) cut_reason: Option<String>,
    /// What went wrong on this side.
    pub(crate) trouble: Option<String>,
}

/// What one subscriber got.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Received {
    /// Index of its topic.
    pub(crate) topic: u32,
    /// Different events when verified, otherwise all.
    pub(crate) events: u64,
    /// The server ended its stream.
    pub(crate) cut: bool,
}

/// Deliveries against what the publishers' answers promised.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Verdict {
    /// Deliveries the acknowledged publishes should have made.
    pub(crate) expected: u64,
    /// Missing at subscribers that stayed connected.
    pub(crate) lost: u64,
    /// Missing at subscribers that were cut.
    pub(crate) missed_by_cut: u64,
    /// Came again. When only counting: more came than were published.
    pub(crate) doubled: u64,
    /// Verified deliveries of events whose publish was refused.
    pub(crate) refused_yet_delivered: u64,
    /// Subscribers whose stream the server ended.
    pub(crate) cut: u64,
}

impl Default for Tally {
    fn default() -> Tally {
        Tally {
            deliveries: 0,
            last_delivery_ns: 0,
            gaps: 0,
            corrupt: 0,
            doubled: 0,
            reordered: 0,
            latency_ns: Histogram::new_with_bounds(LATENCY_NS.0, LATENCY_NS.1, 3).ok(),
            subscribers: Vec::new(),
            cut_reason: None,
            trouble: None,
        }
    }
}

impl Tally {
    /// Counts events that were read at `now_ns`.
    pub(crate) fn delivered(&mut self, events: u64, now_ns: u64) {
        self.deliveries += events;
        self.last_delivery_ns = self.last_delivery_ns.max(now_ns);
    }

    /// Records how long after it was due an event was read.
    pub(crate) fn latency(&mut self, now_ns: u64, due_ns: u64) {
        if let Some(histogram) = &mut self.latency_ns {
            histogram.saturating_record(now_ns.saturating_sub(due_ns));
        }
    }

    /// Latencies recorded.
    pub(crate) fn latency_samples(&self) -> u64 {
        self.latency_ns.as_ref().map_or(0, Histogram::len)
    }

    /// The latency, in microseconds, which `quantile` (0 to 1) of the samples do not pass.
    pub(crate) fn latency_us(&self, quantile: f64) -> f64 {
        self.latency_ns
            .as_ref()
            .map_or(0.0, |histogram| histogram.value_at_quantile(quantile) as f64 / 1_000.0)
    }

    /// Joins what another thread saw.
    pub(crate) fn add(&mut self, other: Tally) {
        self.deliveries += other.deliveries;
        self.last_delivery_ns = self.last_delivery_ns.max(other.last_delivery_ns);
        self.gaps += other.gaps;
        self.corrupt += other.corrupt;
        self.doubled += other.doubled;
        self.reordered += other.reordered;
        if let (Some(all), Some(one)) = (&mut self.latency_ns, &other.latency_ns) {
            // Both have the same bounds, so this cannot fail.
            let _ = all.add(one);
        }
        self.subscribers.extend(other.subscribers);
        self.cut_reason = self.cut_reason.take().or(other.cut_reason);
        self.trouble = self.trouble.take().or(other.trouble);
    }

    /// Compares each subscriber's count with what was acknowledged on its topic.
    ///
    /// A publish without an answer may or may not have been delivered, so neither is a fault.
    pub(crate) fn verdict(&self, published: &[Published], verified: bool) -> Verdict {
        let mut verdict = Verdict { doubled: self.doubled, ..Verdict::default() };
        for received in &self.subscribers {
            let published = published.get(received.topic as usize).copied().unwrap_or_default();
            let missing = published.acknowledged.saturating_sub(received.events);
            let surplus = received.events.saturating_sub(published.acknowledged + published.unanswered);
            verdict.expected += published.acknowledged;
            verdict.cut += u64::from(received.cut);
            *if received.cut { &mut verdict.missed_by_cut } else { &mut verdict.lost } += missing;
            *if verified { &mut verdict.refused_yet_delivered } else { &mut verdict.doubled } += surplus;
        }
        verdict
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(events: u64, cut: bool) -> Tally {
        Tally { subscribers: vec![Received { topic: 0, events, cut }], ..Tally::default() }
    }

    fn published(acknowledged: u64, unanswered: u64) -> [Published; 1] {
        [Published { acknowledged, unanswered }]
    }

    #[test]
    fn an_acknowledged_event_that_did_not_come_is_lost_or_missed_by_the_cut() {
        assert_eq!(tally(8, false).verdict(&published(10, 0), true).lost, 2);
        let verdict = tally(8, true).verdict(&published(10, 0), true);
        assert_eq!((verdict.lost, verdict.missed_by_cut, verdict.cut), (0, 2, 1));
    }

    #[test]
    fn an_unanswered_publish_may_come_or_not() {
        for events in 10..=12 {
            let verdict = tally(events, false).verdict(&published(10, 2), false);
            assert_eq!((verdict.lost, verdict.doubled), (0, 0), "{events}");
        }
        assert_eq!(tally(13, false).verdict(&published(10, 2), false).doubled, 1);
        assert_eq!(tally(13, false).verdict(&published(10, 2), true).refused_yet_delivered, 1);
    }

    #[test]
    fn threads_add_up() {
        let mut all = tally(1, false);
        all.latency(5_000, 1_000);
        let mut other = tally(2, true);
        other.delivered(3, 77);
        other.latency(9_000, 1_000);
        all.add(other);
        assert_eq!((all.deliveries, all.last_delivery_ns, all.subscribers.len()), (3, 77, 2));
        assert_eq!((all.latency_samples(), all.latency_us(1.0).round()), (2, 8.0));
    }
}
