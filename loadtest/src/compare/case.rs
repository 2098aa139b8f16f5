//! What is measured: each case is the flags of a run, and what of its report is shown.

use crate::compare::metric::Metric;

/// One question, put to every peer in turn.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    pub(crate) name: String,
    /// What is shown above its table.
    pub(crate) title: String,
    /// Flags of the run; the numbers of subscribers and topics stand apart, so that they can be scaled down.
    pub(crate) flags: String,
    pub(crate) subscribers: usize,
    pub(crate) topics: usize,
    pub(crate) workers: usize,
    /// Whether `--duration` says how long it publishes.
    pub(crate) timed: bool,
    /// Whether the first peer alone is asked, once.
    pub(crate) proof: bool,
    pub(crate) metrics: &'static [Metric],
    /// Where it stands in a plot.
    pub(crate) at: Option<(Axis, f64)>,
}

/// What a plot goes over.
#[derive(Clone, Copy, Debug, Eq, PartialEq, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Axis {
    /// Number of subscribers.
    Subscribers,
    /// Bytes of data in each event.
    Size,
    /// Number of topics, among 10,000 subscribers.
    Topics,
    /// Threads or worker processes of the server.
    Shards,
}

const PACED: &[Metric] = &[Metric::ServerCpu, Metric::P50, Metric::P99, Metric::P999];
const FLOOD: &[Metric] = &[Metric::Deliveries, Metric::ServerCpu];
const FLOOD_FEW: &[Metric] = &[Metric::Publishes, Metric::Deliveries, Metric::ServerCpu];
const SHARDS: &[Metric] = &[Metric::Deliveries, Metric::DeliveriesPerCpu];
const TOPICS: &[Metric] = &[Metric::Publishes, Metric::ServerCpu, Metric::P99];
const IDLE: &[Metric] = &[Metric::Memory, Metric::Connects, Metric::ConnectCpu];
/// Paced runs of the sweep make so many deliveries a second, which every server can.
const SWEEP_DELIVERIES: f64 = 100_000.0;
const SWEEP_RATE_MAX: f64 = 1_000.0;
/// And fewer over topics: of 10,000 topics each delivery is a publish of its own.
const SWEEP_TOPICS_DELIVERIES: usize = 20_000;

/// The table of figures.
pub(crate) fn of_compare() -> Vec<Case> {
    let case = |name: &str, title: &str, flags: &str, subscribers: usize, metrics| Case {
        name: name.to_owned(),
        title: title.to_owned(),
        flags: flags.to_owned(),
        subscribers,
        topics: 1,
        workers: 1,
        timed: true,
        proof: false,
        metrics,
        at: None,
    };
    let proof = |name: &str, flags: &str, subscribers: usize| Case {
        proof: true,
        ..case(&format!("verify-{name}"), name, &format!("{flags} --verify"), subscribers, &[])
    };
    vec![
        case("paced", "Paced: 1,000 subscribers, 100 events/s", "--rate 100", 1_000, PACED),
        case("many", "Many: 10,000 subscribers, 10 events/s", "--rate 10", 10_000, PACED),
        Case {
            at: Some((Axis::Shards, 1.0)),
            ..case("flood", "Flood: 1,000 subscribers", "--flood", 1_000, FLOOD)
        },
        Case {
            workers: 2,
            at: Some((Axis::Shards, 2.0)),
            ..case(
                "shards-2",
                "Flood: 1,000 subscribers, two shards sharing the CPUs with the load",
                "--flood",
                1_000,
                SHARDS,
            )
        },
        case("flood-10", "Flood: 10 subscribers", "--flood", 10, FLOOD_FEW),
        Case {
            topics: 10_000,
            ..case(
                "topics",
                "Topics: 10,000 topics of one subscriber, publishes to random ones as fast as they are taken",
                "--flood --random-topics",
                10_000,
                TOPICS,
            )
        },
        Case {
            timed: false,
            ..case("idle", "Idle: 15,000 subscribers", "--events 1 --rate 1 --settle 1s", 15_000, IDLE)
        },
        proof("paced", "--rate 100", 1_000),
        proof("many", "--rate 10", 10_000),
        proof("flood", "--flood", 1_000),
        Case { topics: 10_000, ..proof("topics", "--flood --random-topics", 10_000) },
        proof("churn", "--rate 100 --churning 200", 1_000),
        proof("slow", "--rate 2000 --size 1024 --stalled 10", 100),
    ]
}

/// The points of the plots.
pub(crate) fn of_sweep() -> Vec<Case> {
    let point = |axis: Axis, at: usize, name: String, flags: String, subscribers: usize, metrics| Case {
        title: name.clone(),
        name,
        flags,
        subscribers,
        topics: 1,
        workers: 1,
        timed: true,
        proof: false,
        metrics,
        at: Some((axis, at as f64)),
    };
    let mut cases = Vec::new();
    for subscribers in [10, 100, 1_000, 4_000, 15_000] {
        let rate = (SWEEP_DELIVERIES / subscribers as f64).min(SWEEP_RATE_MAX);
        let of = |kind: &str, flags: String, metrics| {
            let name = format!("subscribers-{subscribers}-{kind}");
            point(Axis::Subscribers, subscribers, name, flags, subscribers, metrics)
        };
        cases.push(of("flood", "--flood".to_owned(), FLOOD));
        cases.push(of("paced", format!("--rate {rate}"), PACED));
    }
    for size in [32, 128, 1_024, 8_192, 65_536] {
        let of = |kind: &str, flags: String, metrics| {
            let name = format!("size-{size}-{kind}");
            point(Axis::Size, size, name, format!("{flags} --size {size}"), 1_000, metrics)
        };
        cases.push(of("flood", "--flood".to_owned(), FLOOD));
        // Of the largest, 100 a second to 1,000 subscribers would be more than a loopback carries.
        let rate = if size > 10_000 { 10 } else { 100 };
        cases.push(of("paced", format!("--rate {rate}"), PACED));
    }
    for topics in [1, 100, 10_000] {
        let rate = SWEEP_TOPICS_DELIVERIES * topics / 10_000;
        let flags = format!("--rate {rate} --random-topics");
        let name = format!("topics-{topics}-paced");
        cases.push(Case { topics, ..point(Axis::Topics, topics, name, flags, 10_000, PACED) });
    }
    cases
}

impl Case {
    /// The flags of a run against a peer; every number of connections divided by `scale_down`.
    pub(crate) fn words(&self, scale_down: usize) -> Vec<String> {
        let scaled = |number: usize| (number / scale_down.max(1)).max(1).to_string();
        let mut words: Vec<_> = self.flags.split_whitespace().map(str::to_owned).collect();
        for flag in ["--churning", "--stalled"] {
            if let Some(at) = words.iter().position(|word| word == flag)
                && let Some(value) = words.get_mut(at + 1)
            {
                *value = scaled(value.parse().unwrap_or(1));
            }
        }
        let subscribers = (self.subscribers / scale_down.max(1)).max(4);
        words.extend(["--subscribers".to_owned(), subscribers.to_string()]);
        words.extend(["--topics".to_owned(), scaled(self.topics)]);
        words
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Plan;
    use std::collections::HashSet;

    #[test]
    fn every_case_is_a_run_that_can_be_done_and_has_a_name_of_its_own() {
        let cases = [of_compare(), of_sweep()].concat();
        let names: HashSet<_> = cases.iter().map(|case| case.name.as_str()).collect();
        assert_eq!(names.len(), cases.len());
        for case in &cases {
            for scale_down in [1, 100, 100_000] {
                let words = Plan::words_for("http://127.0.0.1:3000", &case.words(scale_down));
                Plan::parse(&words).unwrap_or_else(|why| panic!("{} / {scale_down}: {why}", case.name));
            }
        }
    }
}
