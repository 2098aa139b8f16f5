//! What is measured: each case is the flags of a run, and what of its report is shown.

use crate::compare::metric::Metric;
use crate::compare::must::{Beside, Bound, Must};
use crate::scenario::{Preset, Scenario};
use clap::ValueEnum;

/// One question, put to every peer in turn.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    pub(crate) name: String,
    /// What is shown above its table.
    pub(crate) title: String,
    /// Flags of the run; numbers of connections and topics stand apart, so that they can be scaled down.
    pub(crate) flags: String,
    pub(crate) subscribers: usize,
    pub(crate) churning: usize,
    pub(crate) stalled: usize,
    pub(crate) topics: usize,
    pub(crate) workers: usize,
    /// Whether `--duration` says how long it publishes.
    pub(crate) timed: bool,
    /// Whether the first peer alone is asked, once.
    pub(crate) proof: bool,
    pub(crate) metrics: &'static [Metric],
    /// What the first peer has to reach.
    pub(crate) musts: &'static [Must],
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
const FLOOD: &[Metric] = &[Metric::Deliveries, Metric::ServerCpu, Metric::DeliveriesPerCpu];
const FLOOD_FEW: &[Metric] = &[Metric::Publishes, Metric::Deliveries, Metric::ServerCpu];
const TOPICS: &[Metric] = &[Metric::Publishes, Metric::ServerCpu, Metric::P99];
const DURABLE: &[Metric] = &[Metric::Publishes, Metric::AnswerP50, Metric::AnswerP99, Metric::Deliveries];
const ANSWERS: &[Metric] = &[Metric::AnswerP50, Metric::AnswerP99, Metric::P50, Metric::P99];
const IDLE: &[Metric] = &[Metric::Memory, Metric::Connects, Metric::ConnectCpu];
/// Paced runs of the sweep make so many deliveries a second, which every server can.
const SWEEP_DELIVERIES: f64 = 100_000.0;
const SWEEP_RATE_MAX: f64 = 1_000.0;
/// And fewer over topics: of 10,000 topics each delivery is a publish of its own.
const SWEEP_TOPICS_DELIVERIES: usize = 20_000;

const PACED_MUSTS: &[Must] = &[
    Must::times(Metric::ServerCpu, "nchan", Bound::AtMost(0.6)),
    Must::times(Metric::ServerCpu, "floor", Bound::AtMost(1.15)),
    Must::times(Metric::P99, "nchan", Bound::AtMost(0.6)),
];
const MANY_MUSTS: &[Must] = &[
    Must::times(Metric::ServerCpu, "nchan", Bound::AtMost(0.65)),
    Must::times(Metric::P99, "nchan", Bound::AtMost(0.6)),
];
const FLOOD_MUSTS: &[Must] = &[
    Must::figure(Metric::Deliveries, Bound::AtLeast(10e6)),
    Must::times(Metric::Deliveries, "nchan", Bound::AtLeast(30.0)),
];
const SHARDS_MUSTS: &[Must] =
    &[Must { beside: Beside::Case("flood"), ..Must::figure(Metric::DeliveriesPerCpu, Bound::AtLeast(0.85)) }];
const FLOOD_FEW_MUSTS: &[Must] = &[Must::figure(Metric::Publishes, Bound::AtLeast(150_000.0))];
const TOPICS_MUSTS: &[Must] = &[Must::times(Metric::Publishes, "nchan", Bound::AtLeast(2.0))];
const DURABLE_MUSTS: &[Must] = &[Must::times(Metric::Publishes, COMMIT_FLOOR, Bound::AtLeast(0.8))];
const ANSWERS_MUSTS: &[Must] = &[
    Must::times(Metric::AnswerP50, COMMIT_FLOOR, Bound::AtMost(1.3)),
    Must::times(Metric::AnswerP99, COMMIT_FLOOR, Bound::AtMost(2.0)),
];
const LISTENED_MUSTS: &[Must] = &[
    Must::times(Metric::Publishes, "nats", Bound::Above(1.0)),
    Must::times(Metric::Publishes, "redis", Bound::Above(1.0)),
];
const IDLE_MUSTS: &[Must] = &[
    Must { wish: " (600 is the wish)", ..Must::figure(Metric::Memory, Bound::AtMost(1_024.0)) },
    Must { also: Some(Metric::ConnectCpu), ..Must::times(Metric::Connects, "nchan", Bound::Above(1.0)) },
];

const COMMIT_FLOOR: &str = "commit-floor";
/// Some thousand publishes unanswered in all, as client libraries have it. These are half of what subscribers may be behind in
/// a flood, so that a slow sync is not taken for lost events; a server that delivers them all first has time to answer.
const PIPELINES: &str = "--publishers 64 --in-flight 32 --drain 15s";
/// Somebody has to listen where only publishes are asked for.
const FEW: usize = 4;

/// Returns the cases of servers that answer a publish once it is on disk.
pub(crate) fn of_journal() -> Vec<Case> {
    let case = |name: &str, title: &str, flags: &str, subscribers, metrics, musts| Case {
        subscribers,
        metrics,
        musts,
        ..Case::of(name, title, Scenario::Flood, &format!("{PIPELINES} {flags}"))
    };
    let paced = |rate: u32| {
        let title = format!("Durable: {rate} publishes/s at random times, of 64 publishers, 4 subscribers");
        let flags = format!("--rate {rate} --poisson");
        case(&format!("durable-{rate}"), &title, &flags, FEW, ANSWERS, ANSWERS_MUSTS)
    };
    let listened =
        |name: &str, title: &str, flags: &str, musts| case(name, title, flags, 1_000, DURABLE, musts);
    let title = "Durable: 64 publishers, 1,000 subscribers";
    vec![
        case("durable", "Durable: 64 publishers, 4 subscribers", "--flood", FEW, DURABLE, DURABLE_MUSTS),
        paced(50),
        paced(200),
        listened("durable-1000", title, "--flood", LISTENED_MUSTS),
        Case { proof: true, ..listened("verify-durable-1000", "durable-1000", "--flood --verify", &[]) },
    ]
}

/// The table of figures.
pub(crate) fn of_compare() -> Vec<Case> {
    let case = |name: &str, title: &str, scenario: Scenario, metrics, musts| Case {
        metrics,
        musts,
        ..Case::of(name, title, scenario, "")
    };
    let proof = |scenario: Scenario| {
        let name = name(scenario);
        Case { proof: true, ..Case::of(&format!("verify-{name}"), &name, scenario, "--verify") }
    };
    let shards = "Flood: 1,000 subscribers, two shards sharing the CPUs with the load";
    let topics =
        "Topics: 10,000 topics of one subscriber, publishes to random ones as fast as they are taken";
    let few = |case: Case| Case { subscribers: 10, ..case };
    let two_shards = |case: Case| Case { workers: 2, ..case };
    let named =
        |name: &str, case: Case| Case { name: format!("verify-{name}"), title: name.to_owned(), ..case };
    let at_shards = |shards: f64, case: Case| Case { at: Some((Axis::Shards, shards)), ..case };
    vec![
        case("paced", "Paced: 1,000 subscribers, 100 events/s", Scenario::Paced, PACED, PACED_MUSTS),
        case("many", "Many: 10,000 subscribers, 10 events/s", Scenario::Many, PACED, MANY_MUSTS),
        at_shards(1.0, case("flood", "Flood: 1,000 subscribers", Scenario::Flood, FLOOD, FLOOD_MUSTS)),
        at_shards(2.0, two_shards(case("shards-2", shards, Scenario::Flood, FLOOD, SHARDS_MUSTS))),
        few(case("flood-10", "Flood: 10 subscribers", Scenario::Flood, FLOOD_FEW, FLOOD_FEW_MUSTS)),
        case("topics", topics, Scenario::Topics, TOPICS, TOPICS_MUSTS),
        case("idle", "Idle: 15,000 subscribers", Scenario::Idle, IDLE, IDLE_MUSTS),
        proof(Scenario::Paced),
        proof(Scenario::Many),
        proof(Scenario::Flood),
        named("shards-2", two_shards(proof(Scenario::Flood))),
        named("flood-10", few(proof(Scenario::Flood))),
        proof(Scenario::Topics),
        proof(Scenario::Idle),
        proof(Scenario::Churn),
        proof(Scenario::Slow),
    ]
}

fn name(scenario: Scenario) -> String {
    scenario.to_possible_value().map_or(String::new(), |value| value.get_name().to_owned())
}

/// The points of the plots.
pub(crate) fn of_sweep() -> Vec<Case> {
    let point = |axis: Axis, at: usize, name: String, flags: String, subscribers: usize, metrics| Case {
        subscribers,
        metrics,
        at: Some((axis, at as f64)),
        ..Case::of(&name, &name, Scenario::Paced, &flags)
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
    /// A run of a scenario with more flags.
    fn of(name: &str, title: &str, scenario: Scenario, flags: &str) -> Case {
        let preset = Preset::of(Some(scenario));
        Case {
            name: name.to_owned(),
            title: title.to_owned(),
            flags: format!("--scenario {} {flags}", self::name(scenario)),
            subscribers: preset.subscribers,
            churning: preset.churning,
            stalled: preset.stalled,
            topics: preset.topics,
            workers: 1,
            timed: preset.events.is_none(),
            proof: false,
            metrics: &[],
            musts: &[],
            at: None,
        }
    }

    /// The flags of a run against a peer; every number of connections and topics divided by `scale_down`.
    pub(crate) fn words(&self, scale_down: usize) -> Vec<String> {
        let scaled = |number: usize| (number / scale_down.max(1)).max(number.min(1));
        let mut words: Vec<_> = self.flags.split_whitespace().map(str::to_owned).collect();
        for (flag, number) in [
            ("--subscribers", scaled(self.subscribers).max(4)),
            ("--churning", scaled(self.churning)),
            ("--stalled", scaled(self.stalled)),
            ("--topics", scaled(self.topics)),
        ] {
            words.extend([flag.to_owned(), number.to_string()]);
        }
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
        let cases = [of_compare(), of_sweep(), of_journal()].concat();
        let names: HashSet<_> = cases.iter().map(|case| case.name.as_str()).collect();
        assert_eq!(names.len(), cases.len());
        for case in &cases {
            for scale_down in [1, 100, 100_000] {
                let words = Plan::words_for("http://127.0.0.1:3000", &case.words(scale_down));
                Plan::parse(&words).unwrap_or_else(|why| panic!("{} / {scale_down}: {why}", case.name));
            }
        }
    }

    #[test]
    fn what_must_be_reached_is_measured() {
        let cases = [of_compare(), of_journal()].concat();
        for case in &cases {
            for must in case.musts {
                let known = |name: &str| cases.iter().find(|case| case.name == name).unwrap();
                let beside = match must.beside {
                    Beside::Case(name) => known(name),
                    _ => case,
                };
                let shown =
                    |metric: &Metric| case.metrics.contains(metric) && beside.metrics.contains(metric);
                assert!(shown(&must.metric) && must.also.iter().all(shown), "{}: {}", case.name, must.text());
            }
        }
    }

    #[test]
    fn every_case_with_figures_has_a_proof() {
        let cases = of_compare();
        for case in cases.iter().filter(|case| !case.proof) {
            let name = format!("verify-{}", case.name);
            let proof = cases.iter().find(|case| case.name == name).unwrap_or_else(|| panic!("no {name}"));
            assert_eq!(
                (proof.subscribers, proof.topics, proof.workers, proof.timed),
                (case.subscribers, case.topics, case.workers, case.timed),
                "{name}"
            );
        }
    }
}
