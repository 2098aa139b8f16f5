//! The result of a run, whose field names are the JSON's.

use crate::plan::{Pace, Plan};
use crate::process::Usage;
use crate::publisher::Outcome;
use crate::run::cpu;
use crate::tally::{Churned, Latencies, Tally};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A CPU of the load generator that is busier than this may be what limits the figures.
const SATURATED: f64 = 0.9;
/// With other programs using more CPUs than this, figures are of little worth.
const OTHERS_CPUS_MAX: f64 = 0.15;
/// The quantiles of the latency's curve.
const QUANTILES: [f64; 7] = [0.5, 0.75, 0.9, 0.99, 0.999, 0.9999, 1.0];

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(crate) struct Report {
    pub(crate) target: String,
    pub(crate) subscribers: usize,
    pub(crate) topics: usize,
    pub(crate) publishers: usize,
    pub(crate) event_bytes: usize,
    pub(crate) pace: String,
    pub(crate) rate_per_second: Option<f64>,
    pub(crate) verified: bool,
    /// Every subscriber got every acknowledged event once, in order, and stayed connected.
    pub(crate) passed: bool,
    /// The same, whatever those who come and go missed.
    #[serde(default)]
    pub(crate) passed_but_for_missed: bool,
    pub(crate) connect: Connect,
    pub(crate) publishes: Publishes,
    pub(crate) deliveries: Deliveries,
    /// From when an event was due to when a subscriber read it.
    pub(crate) latency_us: Latency,
    pub(crate) churn: Option<Churned>,
    pub(crate) stalled: Option<Stalled>,
    pub(crate) server: Option<Server>,
    pub(crate) tool: Tool,
    /// CPUs that RabbitMQ used, where it is known, and the load generator with all it started: with queues alone.
    #[serde(default)]
    pub(crate) broker_cpus: Option<f64>,
    #[serde(default)]
    pub(crate) load_cpus: Option<f64>,
    /// CPUs that other programs, or other guests of the host, used while publishing; known when the server is.
    pub(crate) others_cpus: Option<f64>,
    /// Publishes that went in a message of the cluster's stream.
    #[serde(default)]
    pub(crate) publishes_per_message: Option<f64>,
    #[serde(default)]
    pub(crate) resumed: Option<Resumed>,
    /// Remarks, in words.
    pub(crate) notes: Vec<String>,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(crate) struct Connect {
    pub(crate) seconds: f64,
    pub(crate) per_second: f64,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(crate) struct Publishes {
    pub(crate) acknowledged: u64,
    /// Without the time a flood stood still for lost events.
    pub(crate) per_second: f64,
    /// A flood that waits for events which do not come stands still for a quarter of a second before it takes them for
    /// lost: so long in all. The server was asked for nothing meanwhile, so neither rate counts it.
    #[serde(default)]
    pub(crate) waited_for_lost_s: f64,
    pub(crate) refused: u64,
    pub(crate) refused_by_status: BTreeMap<u16, u64>,
    pub(crate) unanswered: u64,
    pub(crate) unsent: u64,
    pub(crate) late_us_max: f64,
    /// From when a publish was due to its acknowledgement.
    #[serde(default)]
    pub(crate) answer_us: Latency,
}

/// Deliveries against what the acknowledged publishes promised.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(crate) struct Deliveries {
    pub(crate) expected: u64,
    pub(crate) received: u64,
    /// Without the time a flood stood still for lost events.
    pub(crate) per_second: f64,
    /// Missing at subscribers that stayed connected.
    pub(crate) lost: u64,
    /// Came again. When only counting: more came than were published.
    pub(crate) doubled: u64,
    /// `None` when only counting, as the next two.
    pub(crate) reordered: Option<u64>,
    pub(crate) corrupt: Option<u64>,
    pub(crate) refused_yet_delivered: Option<u64>,
    pub(crate) gaps: u64,
    /// Subscribers whose stream the server ended.
    pub(crate) cut: u64,
    pub(crate) missed_by_cut: u64,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub(crate) struct Latency {
    pub(crate) samples: u64,
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) p999: f64,
    pub(crate) max: f64,
    /// Quantile and latency.
    pub(crate) curve: Vec<(f64, f64)>,
}

impl From<&Latencies> for Latency {
    fn from(all: &Latencies) -> Latency {
        let curve = QUANTILES.map(|quantile| (quantile, all.us(quantile))).to_vec();
        let (p50, p99, p999, max) = (all.us(0.5), all.us(0.99), all.us(0.999), all.us(1.0));
        Latency { samples: all.samples(), p50, p99, p999, max, curve }
    }
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(crate) struct Server {
    pub(crate) cpu_seconds: f64,
    pub(crate) cpu_us_per_delivery: f64,
    /// Of one CPU, from the first publish to the last delivery.
    pub(crate) cpu_share: f64,
    /// From before the first connect until a moment after the last subscriber had its 200.
    pub(crate) cpu_us_per_connect: f64,
    pub(crate) rss_bytes: u64,
    /// Grown between before the first connect and after the last, with nothing published.
    pub(crate) rss_bytes_per_subscriber: f64,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(crate) struct Tool {
    pub(crate) cpu_us_per_delivery: f64,
    /// Of the busiest of its CPUs (or threads, where these are not pinned), while publishing.
    pub(crate) cpu_share: f64,
    pub(crate) connect_cpu_share: f64,
    /// This program, and not the server, may be what was measured.
    pub(crate) saturated: bool,
}

/// Subscribers of a node that died, from then until each had its next event of another one.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(crate) struct Resumed {
    pub(crate) subscribers: u64,
    pub(crate) all_us: f64,
    pub(crate) each_us: Latency,
}

/// Subscribers that did not read.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(crate) struct Stalled {
    pub(crate) subscribers: u64,
    pub(crate) cut: u64,
}

/// The outcome of a run, for its report.
pub(crate) struct Measured {
    pub(crate) connect_seconds: f64,
    pub(crate) outcome: Outcome,
    pub(crate) tally: Tally,
    pub(crate) server: Option<ServerUsage>,
    /// CPU time of the whole machine while publishing.
    pub(crate) machine_s: f64,
}

/// CPU time and memory of the server along a run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ServerUsage {
    /// Before the first connect.
    pub(crate) before: Usage,
    /// With all connected and idle.
    pub(crate) connected: Usage,
    /// When the last publish was answered.
    pub(crate) published: Usage,
    /// When all had arrived.
    pub(crate) end: Usage,
}

impl Report {
    /// Draws the conclusions.
    pub(crate) fn new(plan: &Plan, measured: Measured) -> Report {
        let Measured { connect_seconds, outcome, tally, server, machine_s } = measured;
        let seconds_to = |end_ns: u64| end_ns.saturating_sub(outcome.start_ns) as f64 / 1e9;
        let moving_to = |end_ns: u64| seconds_to(end_ns) - outcome.stood_still_s(end_ns);
        let seconds = seconds_to(tally.last_delivery_ns.max(outcome.last_answer_ns));
        let delivered = tally.all_deliveries() as f64;
        let mut deliveries = tally.verdict(&outcome.topics, plan.flags.verify);
        deliveries.per_second = ratio(delivered, moving_to(tally.last_delivery_ns));
        let tool = tool(plan, &tally, &outcome, connect_seconds, seconds);
        let others_cpus = server.map(|server| others_cpus(&server, &tally, &outcome, machine_s));
        let subscribers = plan.flags.subscribers as f64;
        let acknowledged = outcome.sum(|topic| topic.acknowledged);
        let rate_per_second = match plan.pace {
            Pace::Rate { per_second, .. } => Some(per_second),
            Pace::Flood { .. } => None,
        };
        Report {
            target: format!("http://{}", plan.target.authority),
            subscribers: plan.flags.subscribers,
            topics: plan.topics.len(),
            publishers: plan.flags.publishers,
            event_bytes: plan.payload.size(),
            pace: if rate_per_second.is_some() { "rate" } else { "flood" }.to_owned(),
            rate_per_second,
            verified: plan.flags.verify,
            passed: passed(&deliveries, &tally, &outcome),
            passed_but_for_missed: passed_but_for_missed(&deliveries, &tally, &outcome),
            connect: Connect { seconds: connect_seconds, per_second: ratio(subscribers, connect_seconds) },
            publishes: Publishes {
                acknowledged,
                per_second: ratio(acknowledged as f64, moving_to(outcome.last_answer_ns)),
                waited_for_lost_s: outcome.stood_still_s(u64::MAX),
                refused: outcome.sum(|topic| topic.refused),
                refused_by_status: outcome.refused.clone(),
                unanswered: outcome.sum(|topic| topic.unanswered),
                unsent: outcome.unsent,
                late_us_max: outcome.late_ns_max as f64 / 1e3,
                answer_us: Latency::from(&outcome.answers),
            },
            deliveries,
            latency_us: Latency::from(&tally.latencies),
            churn: (plan.flags.churning > 0).then_some(tally.churn),
            stalled: (tally.stalled > 0)
                .then_some(Stalled { subscribers: tally.stalled, cut: tally.stalled_cut }),
            server: server.map(|ServerUsage { before, connected, end, .. }| Server {
                cpu_seconds: end.cpu_s - connected.cpu_s,
                cpu_us_per_delivery: ratio((end.cpu_s - connected.cpu_s) * 1e6, delivered),
                cpu_share: ratio(end.cpu_s - connected.cpu_s, seconds),
                cpu_us_per_connect: ratio((connected.cpu_s - before.cpu_s) * 1e6, subscribers),
                rss_bytes: end.rss_bytes,
                rss_bytes_per_subscriber: (connected.rss_bytes as f64 - before.rss_bytes as f64)
                    / subscribers,
            }),
            publishes_per_message: None,
            resumed: None,
            broker_cpus: None,
            load_cpus: None,
            others_cpus,
            notes: notes(plan, &outcome, &tally, &tool, others_cpus),
            tool,
        }
    }
}

/// A refused publish is no fault: the server said no, and meant it.
fn passed(deliveries: &Deliveries, tally: &Tally, outcome: &Outcome) -> bool {
    // Events missed by clients that come and go may be those of refused publishes, which were expected all the same.
    let missed = if outcome.refused.is_empty() { tally.churn.missed } else { 0 };
    missed == 0 && passed_but_for_missed(deliveries, tally, outcome)
}

fn passed_but_for_missed(deliveries: &Deliveries, tally: &Tally, outcome: &Outcome) -> bool {
    let faults = deliveries.lost
        + deliveries.missed_by_cut
        + deliveries.doubled
        + deliveries.refused_yet_delivered.unwrap_or(0)
        + deliveries.cut
        + tally.gaps
        + tally.corrupt
        + tally.reordered
        + tally.churn.cut
        + tally.churn.failed
        + outcome.sum(|topic| topic.unanswered)
        + outcome.unsent;
    faults == 0 && tally.trouble.is_none()
}

fn tool(plan: &Plan, tally: &Tally, outcome: &Outcome, connect_seconds: f64, seconds: f64) -> Tool {
    let used_ns = [&tally.readers_cpu_ns[..], &[outcome.cpu_ns]].concat();
    let cpu_share = busiest(plan, &used_ns, seconds);
    Tool {
        cpu_us_per_delivery: ratio(used_ns.iter().sum::<u64>() as f64 / 1e3, tally.all_deliveries() as f64),
        cpu_share,
        connect_cpu_share: busiest(plan, &tally.readers_connect_cpu_ns, connect_seconds),
        saturated: cpu_share > SATURATED,
    }
}

/// Returns what is left of the machine's CPU time when the server's and this program's is taken off, in CPUs.
fn others_cpus(server: &ServerUsage, tally: &Tally, outcome: &Outcome, machine_s: f64) -> f64 {
    let reading_s = tally.readers_cpu_ns.iter().sum::<u64>() as f64 / 1e9;
    // What was read after the last answer is taken off too: a little less than the truth is told.
    let own_s = server.published.cpu_s - server.connected.cpu_s + reading_s + outcome.cpu_ns as f64 / 1e9;
    ratio((machine_s - own_s).max(0.0), outcome.publishing_ns as f64 / 1e9)
}

/// Returns the share of `seconds` for which the busiest CPU worked, given the CPU time of each thread.
fn busiest(plan: &Plan, threads_ns: &[u64], seconds: f64) -> f64 {
    let mut by_cpu = BTreeMap::<_, u64>::new();
    for (thread, cpu_ns) in threads_ns.iter().enumerate() {
        // Unpinned, a thread is taken to have a CPU of its own.
        *by_cpu.entry(cpu(plan, thread).unwrap_or(thread)).or_default() += cpu_ns;
    }
    ratio(by_cpu.into_values().max().unwrap_or(0) as f64 / 1e9, seconds)
}

fn notes(plan: &Plan, outcome: &Outcome, tally: &Tally, tool: &Tool, others: Option<f64>) -> Vec<String> {
    let mut notes = Vec::new();
    notes.extend(outcome.first_refusal.as_ref().map(|answer| format!("first refused publish: {answer}")));
    notes.extend(outcome.trouble.clone());
    notes.extend(tally.cut_reason.as_ref().map(|why| format!("first cut: {why}")));
    notes.extend(tally.trouble.clone());
    if tally.churn.missed > 0 && !outcome.refused.is_empty() {
        notes.push("what those who come and go missed may have been refused publishes".to_owned());
    }
    if tool.saturated {
        notes.push(
            "the load generator used all of its CPU: the server may do more than it was asked to".to_owned(),
        );
    }
    if let Some(others) = others.filter(|others| *others > OTHERS_CPUS_MAX) {
        notes.push(format!(
            "other programs used {others:.1} CPUs meanwhile: measure again on a quiet machine"
        ));
    }
    if plan.flags.pid.is_some_and(|pid| Usage::now(pid).is_none()) {
        notes.push("the server's process is gone: no figures of it".to_owned());
    }
    notes
}

fn ratio(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { part / whole } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_fault_alone_fails_the_run_and_a_refusal_does_not() {
        let (verdict, outcome) = (Deliveries::default, Outcome::default);
        assert!(passed(&verdict(), &Tally::default(), &Outcome { refused: [(503, 9)].into(), ..outcome() }));
        for faulty in [
            Deliveries { lost: 1, ..verdict() },
            Deliveries { missed_by_cut: 1, ..verdict() },
            Deliveries { doubled: 1, ..verdict() },
            Deliveries { refused_yet_delivered: Some(1), ..verdict() },
            Deliveries { cut: 1, ..verdict() },
        ] {
            assert!(!passed(&faulty, &Tally::default(), &outcome()), "{faulty:?}");
        }
        for faulty in [
            Tally { gaps: 1, ..Tally::default() },
            Tally { corrupt: 1, ..Tally::default() },
            Tally { reordered: 1, ..Tally::default() },
            Tally { churn: Churned { cut: 1, ..Churned::default() }, ..Tally::default() },
            Tally { churn: Churned { missed: 1, ..Churned::default() }, ..Tally::default() },
            Tally { churn: Churned { failed: 1, ..Churned::default() }, ..Tally::default() },
            Tally { trouble: Some(String::new()), ..Tally::default() },
        ] {
            assert!(!passed(&verdict(), &faulty, &outcome()));
        }
        assert!(!passed(&verdict(), &Tally::default(), &Outcome { unsent: 1, ..outcome() }));
    }

    #[test]
    fn standing_still_for_lost_events_counts_as_far_as_it_lies_before_the_end() {
        let second = 1_000_000_000;
        let stood_still_ns = vec![(second, 3 * second), (5 * second, 6 * second)];
        let outcome = Outcome { stood_still_ns, ..Outcome::default() };
        let until = |end_ns| outcome.stood_still_s(end_ns);
        assert_eq!(
            [until(second), until(2 * second), until(4 * second), until(u64::MAX)],
            [0.0, 1.0, 2.0, 3.0]
        );
    }
}
