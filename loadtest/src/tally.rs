//! What the reading threads counted, and what it means beside what the publishers were told.

use crate::churn::Missed;
use crate::plan::Role;
use crate::publisher::Published;
use crate::report::Deliveries;
use crate::sequence::{Arrival, Series};
use crate::stamp::Stamp;
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// Records made of one read. A flood's read holds a thousand events: one record each would cost more than counting them.
const LATENCY_POINTS_MAX: u64 = 16;

/// The counts of a reader, or of all together.
#[derive(Debug, Default, Deserialize, Serialize)]
pub(crate) struct Tally {
    /// Events that arrived at steady subscribers, doubled ones too.
    pub(crate) deliveries: u64,
    pub(crate) last_delivery_ns: u64,
    /// `event: gap` told by the server.
    pub(crate) gaps: u64,
    /// Events which are not as they were sent, or of a topic nobody asked for.
    pub(crate) corrupt: u64,
    /// Events that came again. Only told when verifying.
    pub(crate) doubled: u64,
    /// Events that came after a later one. Only told when verifying.
    pub(crate) reordered: u64,
    /// From due to read.
    pub(crate) latencies: Latencies,
    /// Each steady subscriber's own count.
    pub(crate) subscribers: Vec<Received>,
    /// Why the first subscriber was cut.
    pub(crate) cut_reason: Option<String>,
    /// A fault on this side.
    pub(crate) trouble: Option<String>,
    pub(crate) churn: Churned,
    /// Subscribers that did not read.
    pub(crate) stalled: u64,
    pub(crate) stalled_cut: u64,
    /// CPU time of each reader until all were connected.
    pub(crate) readers_connect_cpu_ns: Vec<u64>,
    /// CPU time of each reader from when all were connected.
    pub(crate) readers_cpu_ns: Vec<u64>,
}

/// Latencies from a microsecond to an hour, with three digits. Written as the values it holds and how often, which is short
/// and needs no format of its own.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(from = "Vec<(u64, u64)>", into = "Vec<(u64, u64)>")]
pub(crate) struct Latencies(Option<Histogram<u64>>);

impl Default for Latencies {
    fn default() -> Latencies {
        Latencies(Histogram::new_with_bounds(1_000, 3_600_000_000_000, 3).ok())
    }
}

impl Latencies {
    pub(crate) fn record(&mut self, ns: u64, count: u64) {
        if let Some(histogram) = &mut self.0 {
            histogram.saturating_record_n(ns, count);
        }
    }

    pub(crate) fn samples(&self) -> u64 {
        self.0.as_ref().map_or(0, Histogram::len)
    }

    /// Returns the latency, in microseconds, which `quantile` (0 to 1) of those recorded do not pass.
    pub(crate) fn us(&self, quantile: f64) -> f64 {
        self.0.as_ref().map_or(0.0, |histogram| histogram.value_at_quantile(quantile) as f64 / 1_000.0)
    }

    fn add(&mut self, other: &Latencies) {
        if let (Some(all), Some(one)) = (&mut self.0, &other.0) {
            // Both have the same bounds, so this cannot fail.
            let _ = all.add(one);
        }
    }
}

impl From<Latencies> for Vec<(u64, u64)> {
    fn from(latencies: Latencies) -> Vec<(u64, u64)> {
        let recorded = latencies.0.iter().flat_map(|histogram| histogram.iter_recorded());
        recorded.map(|value| (value.value_iterated_to(), value.count_at_value())).collect()
    }
}

impl From<Vec<(u64, u64)>> for Latencies {
    fn from(values: Vec<(u64, u64)>) -> Latencies {
        let mut latencies = Latencies::default();
        values.into_iter().for_each(|(value, count)| latencies.record(value, count));
        latencies
    }
}

/// The counts of subscribers that come and go.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Serialize)]
pub(crate) struct Churned {
    /// Times one of them was there.
    pub(crate) stays: u64,
    /// Times one of them could not come in.
    pub(crate) failed: u64,
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
    /// Counts one that has left.
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

/// The events of one steady subscriber.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub(crate) struct Received {
    pub(crate) topic: u32,
    /// Different events when verified, otherwise all.
    pub(crate) events: u64,
    /// The server ended its stream.
    pub(crate) cut: bool,
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

    /// Counts an event that was read at `now_ns`, and whether it came doubled or reordered in its series. False when it had
    /// come before.
    pub(crate) fn arrived(&mut self, role: Role, series: &mut Series, stamp: &Stamp, now_ns: u64) -> bool {
        self.delivered(role, 1, now_ns);
        self.latencies(now_ns, (stamp.due_ns, stamp.due_ns), 1);
        let arrival = series.arrive(stamp.sequence);
        self.reordered += u64::from(arrival == Arrival::Reordered);
        self.doubled += u64::from(arrival == Arrival::Doubled);
        arrival != Arrival::Doubled
    }

    pub(crate) fn all_deliveries(&self) -> u64 {
        self.deliveries + self.churn.deliveries
    }

    /// Records how long after they were due the `events` of one read were read, given when the first and the last of
    /// them was due: the others are taken to lie on a line between, as they were published.
    ///
    /// Each event counts once. Were it each read, the many reads of few events while all goes well would hide the few
    /// reads of many events that follow a stall.
    pub(crate) fn latencies(&mut self, now_ns: u64, (first_due_ns, last_due_ns): (u64, u64), events: u64) {
        let points = events.min(LATENCY_POINTS_MAX);
        let (from, to) = (first_due_ns.min(last_due_ns), first_due_ns.max(last_due_ns));
        for point in 0..points {
            let due_ns =
                from + ((to - from) as u128 * u128::from(point) / u128::from(points.max(2) - 1)) as u64;
            let count = events * (point + 1) / points - events * point / points;
            self.latencies.record(now_ns.saturating_sub(due_ns), count);
        }
    }

    /// Joins what another thread saw.
    pub(crate) fn add(&mut self, other: Tally) {
        self.deliveries += other.deliveries;
        self.last_delivery_ns = self.last_delivery_ns.max(other.last_delivery_ns);
        self.gaps += other.gaps;
        self.corrupt += other.corrupt;
        self.doubled += other.doubled;
        self.reordered += other.reordered;
        self.latencies.add(&other.latencies);
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
    pub(crate) fn verdict(&self, published: &[Published], verified: bool) -> Deliveries {
        let mut verdict = Deliveries {
            received: self.deliveries,
            doubled: self.doubled,
            reordered: verified.then_some(self.reordered),
            corrupt: verified.then_some(self.corrupt),
            gaps: self.gaps,
            ..Deliveries::default()
        };
        let mut surplus = 0;
        for received in &self.subscribers {
            let published = published.get(received.topic as usize).copied().unwrap_or_default();
            let missing = published.acknowledged.saturating_sub(received.events);
            surplus += received.events.saturating_sub(published.acknowledged + published.unanswered);
            verdict.expected += published.acknowledged;
            verdict.cut += u64::from(received.cut);
            *if received.cut { &mut verdict.missed_by_cut } else { &mut verdict.lost } += missing;
        }
        if verified {
            verdict.refused_yet_delivered = Some(surplus);
        } else {
            verdict.doubled += surplus;
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
        assert_eq!(tally(13, false).verdict(&published(10, 2), true).refused_yet_delivered, Some(1));
    }

    #[test]
    fn each_event_of_a_read_is_a_sample_on_the_line_from_the_first_due_to_the_last() {
        for events in [1, 2, 15, 16, 17, 50, 1_000] {
            let mut tally = Tally::default();
            tally.latencies(2_000_000, (1_000_000, 1_990_000), events);
            assert_eq!(tally.latencies.samples(), events);
            assert_eq!(tally.latencies.us(1.0).round(), 1_000.0, "{events}: the first waited longest");
            let least = tally.latencies.us(0.0);
            assert_eq!(least.round(), if events == 1 { 1_000.0 } else { 10.0 }, "{events}");
        }
        let mut tally = Tally::default();
        tally.latencies(2_000_000, (1_990_000, 1_000_000), 50);
        let middle = tally.latencies.us(0.5);
        assert!((450.0..570.0).contains(&middle), "{middle}");
    }

    #[test]
    fn a_stall_shows_in_the_percentiles_by_the_events_it_held_up() {
        let mut tally = Tally::default();
        // 950 events read one by one within 10 us, and 50 that came in one read after half a second.
        (0..950).for_each(|_| tally.latencies(1_000_000_000, (999_990_000, 999_990_000), 1));
        tally.latencies(1_000_000_000, (500_000_000, 990_000_000), 50);
        let p99 = tally.latencies.us(0.99);
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
        assert_eq!((all.latencies.samples(), all.latencies.us(1.0).round()), (2, 8.0));
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
        assert_eq!(here.latencies.us(0.5), there.latencies.us(0.5));
    }
}
