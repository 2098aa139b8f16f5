//! The result: one structure, printed as a table for people or as one JSON object for programs.

use crate::args::{Pace, Plan};
use crate::process::Usage;
use crate::publisher::Outcome;
use crate::tally::{Tally, Verdict};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::{Display, Formatter, Result as FmtResult};

/// All that was measured. Field names are the JSON's.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    target: String,
    subscribers: usize,
    topics: usize,
    publishers: usize,
    event_bytes: usize,
    pace: &'static str,
    rate_per_second: Option<f64>,
    verified: bool,
    /// Whether every subscriber got every acknowledged event once, in order, and stayed connected.
    passed: bool,
    connect: Connect,
    publishes: Publishes,
    deliveries: Deliveries,
    latency_us: Latency,
    server: Option<Server>,
    tool: Tool,
    /// What else there is to know, in words.
    notes: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Connect {
    seconds: f64,
    per_second: f64,
}

#[derive(Debug, Serialize)]
struct Publishes {
    acknowledged: u64,
    per_second: f64,
    refused: u64,
    refused_by_status: BTreeMap<u16, u64>,
    unanswered: u64,
    unsent: u64,
    late_us_max: f64,
}

#[derive(Debug, Serialize)]
struct Deliveries {
    expected: u64,
    received: u64,
    per_second: f64,
    lost: u64,
    doubled: u64,
    /// `None` when only counting.
    reordered: Option<u64>,
    /// `None` when only counting.
    corrupt: Option<u64>,
    /// `None` when only counting.
    refused_yet_delivered: Option<u64>,
    gaps: u64,
    cut: u64,
    missed_by_cut: u64,
}

#[derive(Debug, Serialize)]
struct Latency {
    samples: u64,
    p50: f64,
    p99: f64,
    p999: f64,
    max: f64,
}

#[derive(Debug, Serialize)]
struct Server {
    cpu_seconds: f64,
    cpu_us_per_delivery: f64,
    rss_bytes: u64,
    rss_bytes_per_subscriber: f64,
}

#[derive(Debug, Serialize)]
struct Tool {
    cpu_us_per_delivery: f64,
}

/// What a run leaves behind for its report.
pub(crate) struct Measured {
    pub(crate) connect_seconds: f64,
    pub(crate) outcome: Outcome,
    pub(crate) tally: Tally,
    /// Before the first connect, with all connected and idle, and at the end.
    pub(crate) server: Option<[Usage; 3]>,
    /// The load generator's own, when publishing began and at the end.
    pub(crate) tool: Option<[Usage; 2]>,
}

impl Report {
    /// Draws the conclusions.
    pub(crate) fn new(plan: &Plan, measured: Measured) -> Report {
        let Measured { connect_seconds, outcome, tally, server, tool } = measured;
        let verdict = tally.verdict(&outcome.topics, plan.verify);
        let seconds_to = |end_ns: u64| end_ns.saturating_sub(outcome.start_ns) as f64 / 1e9;
        let deliveries = tally.deliveries as f64;
        let subscribers = plan.subscribers.count;
        let only_verified = |count: u64| plan.verify.then_some(count);
        Report {
            target: format!("http://{}", plan.target.authority),
            subscribers,
            topics: plan.topics.len(),
            publishers: plan.publishing.connections,
            event_bytes: plan.payload.size(),
            pace: if matches!(plan.publishing.pace, Pace::Rate { .. }) { "rate" } else { "flood" },
            rate_per_second: match plan.publishing.pace {
                Pace::Rate { per_second, .. } => Some(per_second),
                Pace::Flood { .. } => None,
            },
            verified: plan.verify,
            passed: passed(&verdict, &tally, &outcome),
            connect: Connect {
                seconds: connect_seconds,
                per_second: ratio(subscribers as f64, connect_seconds),
            },
            publishes: Publishes {
                acknowledged: outcome.acknowledged(),
                per_second: ratio(outcome.acknowledged() as f64, seconds_to(outcome.last_answer_ns)),
                refused: outcome.refused(),
                refused_by_status: outcome.refused.clone(),
                unanswered: outcome.unanswered(),
                unsent: outcome.unsent,
                late_us_max: outcome.late_ns_max as f64 / 1e3,
            },
            deliveries: Deliveries {
                expected: verdict.expected,
                received: tally.deliveries,
                per_second: ratio(deliveries, seconds_to(tally.last_delivery_ns)),
                lost: verdict.lost,
                doubled: verdict.doubled,
                reordered: only_verified(tally.reordered),
                corrupt: only_verified(tally.corrupt),
                refused_yet_delivered: only_verified(verdict.refused_yet_delivered),
                gaps: tally.gaps,
                cut: verdict.cut,
                missed_by_cut: verdict.missed_by_cut,
            },
            latency_us: Latency {
                samples: tally.latency_samples(),
                p50: tally.latency_us(0.5),
                p99: tally.latency_us(0.99),
                p999: tally.latency_us(0.999),
                max: tally.latency_us(1.0),
            },
            server: server.map(|[before, connected, end]| Server {
                cpu_seconds: end.cpu_s - connected.cpu_s,
                cpu_us_per_delivery: ratio((end.cpu_s - connected.cpu_s) * 1e6, deliveries),
                rss_bytes: end.rss_bytes,
                rss_bytes_per_subscriber: (connected.rss_bytes as f64 - before.rss_bytes as f64)
                    / subscribers as f64,
            }),
            tool: Tool {
                cpu_us_per_delivery: tool
                    .map_or(0.0, |[begin, end]| ratio((end.cpu_s - begin.cpu_s) * 1e6, deliveries)),
            },
            notes: notes(plan, &outcome, &tally),
        }
    }

    /// Whether every subscriber got every acknowledged event once, in order, and stayed connected.
    pub(crate) fn passed(&self) -> bool {
        self.passed
    }
}

/// A refused publish is no fault: the server said no, and meant it.
fn passed(verdict: &Verdict, tally: &Tally, outcome: &Outcome) -> bool {
    let faults = verdict.lost
        + verdict.missed_by_cut
        + verdict.doubled
        + verdict.refused_yet_delivered
        + verdict.cut
        + tally.gaps
        + tally.corrupt
        + tally.reordered
        + outcome.unanswered()
        + outcome.unsent;
    faults == 0 && tally.trouble.is_none()
}

fn notes(plan: &Plan, outcome: &Outcome, tally: &Tally) -> Vec<String> {
    let mut notes = Vec::new();
    notes.extend(outcome.first_refusal.as_ref().map(|answer| format!("first refused publish: {answer}")));
    notes.extend(outcome.trouble.clone());
    notes.extend(tally.cut_reason.as_ref().map(|why| format!("first cut: {why}")));
    notes.extend(tally.trouble.clone());
    if plan.pid.is_some_and(|pid| Usage::now(Some(pid)).is_none()) {
        notes.push("the server's process is gone: no figures of it".to_owned());
    }
    notes
}

fn ratio(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { part / whole } else { 0.0 }
}

impl Display for Report {
    fn fmt(&self, f: &mut Formatter<'_>) -> FmtResult {
        let mut row = |name: &str, value: String| writeln!(f, "{name:<24}{value}");
        let (publishes, deliveries, latency) = (&self.publishes, &self.deliveries, &self.latency_us);
        let ms = |us: f64| format!("{:.3}", us / 1e3);
        row("subscribers", format!("{} on {} topics", thousands(self.subscribers as f64), self.topics))?;
        row("connects/s", thousands(self.connect.per_second))?;
        row("publishes acknowledged", thousands(publishes.acknowledged as f64))?;
        row("publishes/s", thousands(publishes.per_second))?;
        if publishes.refused > 0 {
            let each = publishes.refused_by_status.iter().map(|(status, count)| format!("{status}: {count}"));
            row("publishes refused", each.collect::<Vec<_>>().join(", "))?;
        }
        if publishes.unanswered + publishes.unsent > 0 {
            row("publishes unanswered", format!("{}, unsent {}", publishes.unanswered, publishes.unsent))?;
        }
        if self.rate_per_second.is_some() {
            row("written late, ms max", ms(publishes.late_us_max))?;
        }
        let expected = thousands(deliveries.expected as f64);
        row("deliveries", format!("{} of {expected}", thousands(deliveries.received as f64)))?;
        row("deliveries/s", thousands(deliveries.per_second))?;
        row(
            "latency ms",
            format!(
                "p50 {}  p99 {}  p99.9 {}  max {}",
                ms(latency.p50),
                ms(latency.p99),
                ms(latency.p999),
                ms(latency.max)
            ),
        )?;
        let told = |count: Option<u64>| count.map_or("not checked".to_owned(), |count| count.to_string());
        row("lost", deliveries.lost.to_string())?;
        row("doubled", deliveries.doubled.to_string())?;
        row("reordered", told(deliveries.reordered))?;
        row("corrupt", told(deliveries.corrupt))?;
        if deliveries.refused_yet_delivered.is_some_and(|count| count > 0) {
            row("refused yet delivered", told(deliveries.refused_yet_delivered))?;
        }
        row("gaps", deliveries.gaps.to_string())?;
        row(
            "cut",
            format!("{} subscribers, {} events missed by it", deliveries.cut, deliveries.missed_by_cut),
        )?;
        if let Some(server) = &self.server {
            row("server CPU/delivery", format!("{:.3} us", server.cpu_us_per_delivery))?;
            row("server RSS/subscriber", format!("{} bytes", thousands(server.rss_bytes_per_subscriber)))?;
        }
        row("tool CPU/delivery", format!("{:.3} us", self.tool.cpu_us_per_delivery))?;
        for note in &self.notes {
            row("note", note.clone())?;
        }
        row("result", if self.passed { "passed" } else { "FAILED" }.to_owned())
    }
}

/// A whole number with its thousands apart.
fn thousands(value: f64) -> String {
    let digits = format!("{:.0}", value.abs());
    let mut out = String::from(if value <= -0.5 { "-" } else { "" });
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_numbers_can_be_read() {
        for (value, text) in [
            (0.0, "0"),
            (999.0, "999"),
            (1000.0, "1,000"),
            (20_123_456.4, "20,123,456"),
            (-1500.0, "-1,500"),
            (-0.2, "0"),
        ] {
            assert_eq!(thousands(value), text);
        }
    }

    #[test]
    fn each_fault_alone_fails_the_run_and_a_refusal_does_not() {
        let (verdict, outcome) = (Verdict::default, Outcome::default);
        assert!(passed(&verdict(), &Tally::default(), &Outcome { refused: [(503, 9)].into(), ..outcome() }));
        for faulty in [
            Verdict { lost: 1, ..verdict() },
            Verdict { missed_by_cut: 1, ..verdict() },
            Verdict { doubled: 1, ..verdict() },
            Verdict { refused_yet_delivered: 1, ..verdict() },
            Verdict { cut: 1, ..verdict() },
        ] {
            assert!(!passed(&faulty, &Tally::default(), &outcome()), "{faulty:?}");
        }
        for faulty in [
            Tally { gaps: 1, ..Tally::default() },
            Tally { corrupt: 1, ..Tally::default() },
            Tally { reordered: 1, ..Tally::default() },
            Tally { trouble: Some(String::new()), ..Tally::default() },
        ] {
            assert!(!passed(&verdict(), &faulty, &outcome()));
        }
        assert!(!passed(&verdict(), &Tally::default(), &Outcome { unsent: 1, ..outcome() }));
    }
}
