//! What the reading threads counted, and what it means beside what the publishers were told.

use crate::plan::Role;
use crate::publisher::Published;
use crate::stay::Missed;
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// Latencies are kept from a microsecond to an hour, with three digits.
const LATENCY_NS: (u64, u64) = (1_000, 3_600_000_000_000);
/// Records made of one read. A flood's read holds a thousand events: one record each would cost more than counting them.
const LATENCY_POINTS_MAX: u64 = 16;

/// What one reader, or all together, saw.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Tally {
    /// Events that arrived at steady subscribers, doubled ones too.
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
    #[serde(with = "recorded")]
    pub(crate) latency_ns: Option<Histogram<u64>>,
    /// Each steady subscriber's own count.
    pub(crate) subscribers: Vec<Received>,
    /// Why the first subscriber was cut.
    pub(crate) cut_reason: Option<String>,
    /// What went wrong on this side.
    pub(crate) trouble: Option<String>,
    /// Of those that come and go.
    pub(crate) churn: Churned,
    /// Subscribers that did not read.
    pub(crate) stalled: u64,
    /// Those of them whose stream the server ended.
    pub(crate) stalled_cut: u64,
    /// CPU time of each reader until all were connected.
    pub(crate) readers_connect_cpu_ns: Vec<u64>,
    /// CPU time of each reader from when all were connected.
    pub(crate) readers_cpu_ns: Vec<u64>,
}

/// No latencies yet.
pub(crate) fn latencies() -> Option<Histogram<u64>> {
    Histogram::new_with_bounds(LATENCY_NS.0, LATENCY_NS.1, 3).ok()
}

/// The latency, in microseconds, which `quantile` (0 to 1) of those recorded do not pass.
pub(crate) fn quantile_us(latencies_ns: &Option<Histogram<u64>>, quantile: f64) -> f64 {
    latencies_ns.as_ref().map_or(0.0, |histogram| histogram.value_at_quantile(quantile) as f64 / 1_000.0)
}

/// What those saw that come and go.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Serialize)]
pub(crate) struct Churned {
    /// Times one of them was there.
    pub(crate) stays: u64,
    /// Times one of them could not come in.
    pub(crate) failed: u64,
    /// Events that came to them.
    pub(crate) deliveries: u64,
    /// Events that were due while they were there, in the stays that were long enough to tell. Only told when verifying.
    #[serde(default)]
    pub(crate) due: u64,
    /// Those of them that did not come. Only told when verifying.
    pub(crate) missed: u64,
    /// Stays that the server ended.
    pub(crate) cut: u64,
}

impl Churned {
    /// One of them has left.
    pub(crate) fn stayed(&mut self, missed: Missed) {
        self.stays += 1;
        self.due += missed.of;
        self.missed += missed.events;
    }

    fn add(&mut self, other: Churned) {
        self.stays += other.stays;
        self.failed += other.failed;
        self.deliveries += other.deliveries;
        self.due += other.due;
        self.missed += other.missed;
        self.cut += other.cut;
    }
}

/// What one subscriber got.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
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
            latency_ns: latencies(),
            subscribers: Vec::new(),
            cut_reason: None,
            trouble: None,
            churn: Churned::default(),
            stalled: 0,
            stalled_cut: 0,
            readers_connect_cpu_ns: Vec::new(),
            readers_cpu_ns: Vec::new(),
        }
    }
}

impl Tally {
    /// Counts events that were read at `now_ns`.
    pub(crate) fn delivered(&mut self, role: Role, events: u64, now_ns: u64) {
        match role {
            Role::Steady => self.deliveries += events,
            Role::Churning => self.churn.deliveries += events,
            // What came together with the head; the rest is not read.
            Role::Stalled => return,
        }
        self.last_delivery_ns = self.last_delivery_ns.max(now_ns);
    }

    /// Events that arrived anywhere.
    pub(crate) fn all_deliveries(&self) -> u64 {
        self.deliveries + self.churn.deliveries
    }

    /// Records how long after they were due the `events` of one read were read, given when the first and the last of
    /// them was due: the others are taken to lie on a line between, as they were published.
    ///
    /// Each event counts once. Were it each read, the many reads of few events while all goes well would hide the few
    /// reads of many events that follow a stall.
    pub(crate) fn latencies(&mut self, now_ns: u64, (first_due_ns, last_due_ns): (u64, u64), events: u64) {
        let Some(histogram) = &mut self.latency_ns else { return };
        let points = events.min(LATENCY_POINTS_MAX);
        let (from, to) = (first_due_ns.min(last_due_ns), first_due_ns.max(last_due_ns));
        for point in 0..points {
            let due_ns =
                from + ((to - from) as u128 * u128::from(point) / u128::from(points.max(2) - 1)) as u64;
            let count = events * (point + 1) / points - events * point / points;
            histogram.saturating_record_n(now_ns.saturating_sub(due_ns), count);
        }
    }

    /// Latencies recorded.
    pub(crate) fn latency_samples(&self) -> u64 {
        self.latency_ns.as_ref().map_or(0, Histogram::len)
    }

    /// The latency, in microseconds, which `quantile` (0 to 1) of the samples do not pass.
    pub(crate) fn latency_us(&self, quantile: f64) -> f64 {
        quantile_us(&self.latency_ns, quantile)
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
        self.churn.add(other.churn);
        self.stalled += other.stalled;
        self.stalled_cut += other.stalled_cut;
        self.readers_connect_cpu_ns.extend(other.readers_connect_cpu_ns);
        self.readers_cpu_ns.extend(other.readers_cpu_ns);
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

/// A histogram as the values it holds and how often, which is short and needs no format of its own.
mod recorded {
    use super::{Histogram, Tally};
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(
        histogram: &Option<Histogram<u64>>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        let recorded = histogram.iter().flat_map(|histogram| histogram.iter_recorded());
        let values: Vec<_> =
            recorded.map(|value| (value.value_iterated_to(), value.count_at_value())).collect();
        values.serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<Histogram<u64>>, D::Error> {
        let values = Vec::<(u64, u64)>::deserialize(from)?;
        let mut histogram = Tally::default().latency_ns;
        if let Some(histogram) = &mut histogram {
            for (value, count) in values {
                histogram.saturating_record_n(value, count);
            }
        }
        Ok(histogram)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(events: u64, cut: bool) -> Tally {
        Tally { subscribers: vec![Received { topic: 0, events, cut }], ..Tally::default() }
    }

    fn published(acknowledged: u64, unanswered: u64) -> [Published; 1] {
        [Published { acknowledged, unanswered, refused: 0 }]
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
    fn each_event_of_a_read_is_a_sample_on_the_line_from_the_first_due_to_the_last() {
        for events in [1, 2, 15, 16, 17, 50, 1_000] {
            let mut tally = Tally::default();
            tally.latencies(2_000_000, (1_000_000, 1_990_000), events);
            assert_eq!(tally.latency_samples(), events);
            assert_eq!(tally.latency_us(1.0).round(), 1_000.0, "{events}: the first waited longest");
            let least = tally.latency_us(0.0);
            assert_eq!(least.round(), if events == 1 { 1_000.0 } else { 10.0 }, "{events}");
        }
        let mut tally = Tally::default();
        tally.latencies(2_000_000, (1_990_000, 1_000_000), 50);
        let middle = tally.latency_us(0.5);
        assert!((450.0..570.0).contains(&middle), "{middle}");
    }

    #[test]
    fn a_stall_shows_in_the_percentiles_by_the_events_it_held_up() {
        let mut tally = Tally::default();
        // 950 events read one by one within 10 us, and 50 that came in one read after half a second.
        (0..950).for_each(|_| tally.latencies(1_000_000_000, (999_990_000, 999_990_000), 1));
        tally.latencies(1_000_000_000, (500_000_000, 990_000_000), 50);
        let p99 = tally.latency_us(0.99);
        assert!(p99 > 300_000.0, "{p99}");
    }

    #[test]
    fn threads_add_up() {
        let mut all = tally(1, false);
        all.latencies(5_000, (1_000, 1_000), 1);
        let mut other = tally(2, true);
        other.delivered(Role::Steady, 3, 77);
        other.delivered(Role::Churning, 5, 70);
        other.latencies(9_000, (1_000, 1_000), 1);
        all.add(other);
        assert_eq!((all.deliveries, all.last_delivery_ns, all.subscribers.len()), (3, 77, 2));
        assert_eq!(all.churn.deliveries, 5);
        assert_eq!((all.latency_samples(), all.latency_us(1.0).round()), (2, 8.0));
    }

    #[test]
    fn what_another_process_saw_is_told_whole() {
        let mut there = tally(2, true);
        there.delivered(Role::Steady, 3, 77);
        there.latencies(9_000_000, (1_000, 1_000), 1);
        there.churn.stayed(Missed { events: 4, of: 9 });
        let text = serde_json::to_string(&there).unwrap();
        let here: Tally = serde_json::from_str(&text).unwrap();
        assert_eq!((here.deliveries, here.subscribers.len(), here.churn), (3, 1, there.churn));
        assert_eq!(here.latency_us(0.5), there.latency_us(0.5));
    }
}
