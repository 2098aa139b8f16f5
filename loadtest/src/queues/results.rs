//! What is measured of queues, and what came of it.

use crate::args::QueuesArgs;
use crate::bench::Named;
use crate::bench::metric::{Metric, metric};
use crate::bench::results::Results;
use serde::{Deserialize, Serialize};

const ROUNDS: usize = 5;
/// A table of many points, whose medians need be less exact.
const SWEEP_ROUNDS: usize = 3;

/// A consumer of the queues.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Contender {
    Esper,
    Bare,
}

impl Contender {
    /// In the order in which they take turns.
    pub(crate) const ALL: [Contender; 2] = [Contender::Esper, Contender::Bare];
}

impl Named for Contender {
    fn name(&self) -> &str {
        match self {
            Contender::Esper => "esper",
            Contender::Bare => "bare",
        }
    }
}

/// A measurement, put to each contender in turn.
#[derive(Debug)]
pub(crate) struct QueueCase {
    pub(crate) name: String,
    pub(crate) kind: Kind,
    /// Each message carries a `message_id`; otherwise none does.
    pub(crate) message_ids: bool,
    /// Messages that the broker sends ahead of their acknowledgement, for each queue.
    pub(crate) prefetch: u16,
    pub(crate) rounds: usize,
    /// The time a round takes, about.
    pub(crate) seconds: f64,
}

/// The way in which messages come.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Kind {
    /// All are there before the first is consumed.
    Drain,
    /// The same, as one point of a sweep.
    Sweep,
    /// They are published at a steady rate to consumers that are there.
    Paced,
}

/// Returns all cases. Rounds and duration override each one's own where they are given.
pub(crate) fn cases(args: &QueuesArgs) -> Vec<QueueCase> {
    let case = |name: &str, kind: Kind, message_ids: bool, prefetch: u16| {
        let (rounds, seconds) = match kind {
            Kind::Drain => (ROUNDS, 3.0),
            Kind::Paced => (ROUNDS, 6.0),
            Kind::Sweep => (SWEEP_ROUNDS, 2.0),
        };
        let rounds = args.bench.rounds.unwrap_or(rounds).max(1);
        let seconds = args.bench.duration.map_or(seconds, |duration| duration.as_secs_f64());
        QueueCase { name: name.to_owned(), kind, message_ids, prefetch, rounds, seconds }
    };
    let point = |&prefetch: &u16| case(&format!("prefetch-{prefetch}"), Kind::Sweep, false, prefetch);
    let mut all = vec![
        case("drain", Kind::Drain, false, args.prefetch),
        case("drain-ids", Kind::Drain, true, args.prefetch),
        case("paced", Kind::Paced, false, args.prefetch),
    ];
    all.extend(args.sweep.iter().map(point));
    all
}

impl Named for QueueCase {
    fn name(&self) -> &str {
        &self.name
    }
}

impl QueueCase {
    /// Returns esper's `--queue-ack-window`.
    pub(crate) fn ack_window(&self) -> u16 {
        self.prefetch / 2
    }

    /// Returns how many messages the bare consumer acknowledges at once: as many as esper does.
    pub(crate) fn batch(&self) -> u16 {
        ((self.prefetch - self.ack_window()) / 2).max(1)
    }

    /// Returns what is told of it beside the contenders' ratio.
    pub(crate) fn metrics(&self) -> Vec<&'static Metric> {
        match self.kind {
            Kind::Paced => {
                ["p50", "p99", "p999"].into_iter().filter_map(Metric::named).chain([&CPU]).collect()
            }
            _ => vec![&PER_SECOND, &CPU],
        }
    }
}

/// The load that was put on both.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct QueuesAsked {
    pub(crate) args: QueuesArgs,
    /// The RabbitMQ was this program's own; else nothing is known of where it ran.
    pub(crate) own_broker: bool,
}

pub(crate) type QueueResults = Results<QueuesAsked>;

pub(crate) static PER_SECOND: Metric =
    metric("per-second", "messages/s", |run| Some(run.deliveries.per_second));
pub(crate) static MESSAGES: Metric =
    metric("messages", "messages of a round", |run| Some(run.publishes.acknowledged as f64));
pub(crate) static LATE: Metric =
    metric("late", "latest publish, ms behind its time", |run| Some(run.publishes.late_us_max / 1e3));
pub(crate) static CPU: Metric =
    metric("cpu", "CPU per message, us", |run| Some(run.server.as_ref()?.cpu_us_per_delivery));
pub(crate) static CPUS: [Metric; 4] = [
    metric("consumer", "CPUs in use by the consumer", |run| Some(run.server.as_ref()?.cpu_share)),
    metric("broker", "CPUs in use by RabbitMQ", |run| run.broker_cpus),
    metric("load", "CPUs in use by publisher and HTTP clients", |run| run.load_cpus),
    metric("others", "CPUs in use by other programs", |run| run.others_cpus),
];

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::args::{Cli, Command};
    use crate::bench::results::{Machine, Record};
    use crate::report::{Deliveries, Report};

    fn args(flags: &str) -> QueuesArgs {
        match Cli::read(["queues"].into_iter().chain(flags.split(' '))).unwrap().command {
            Command::Queues(args) => args,
            other => panic!("{other:?}"),
        }
    }

    /// Of `drain` in as many rounds as there are pairs: esper's messages a second and the bare consumer's, or nothing
    /// where the run failed.
    pub(crate) fn results(rounds: &[(Option<f64>, Option<f64>)]) -> QueueResults {
        let mut records = Vec::new();
        for (round, (esper, bare)) in rounds.iter().enumerate() {
            for (contender, per_second) in [("esper", esper), ("bare", bare)] {
                let report = per_second.map(|per_second| Report {
                    passed: true,
                    deliveries: Deliveries { per_second, ..Deliveries::default() },
                    ..Report::default()
                });
                let outcome = report.ok_or("1 lost".to_owned());
                records.push(Record::new("drain", contender, round, outcome));
            }
        }
        let about = QueuesAsked { args: args("--sweep 1,200"), own_broker: true };
        QueueResults { machine: Machine::here(), about, records }
    }

    #[test]
    fn the_bare_consumer_acknowledges_as_often_as_esper() {
        let cases = cases(&args("--sweep 1,10,200,1000"));
        let sweep = cases.iter().filter(|case| case.kind == Kind::Sweep);
        let batches: Vec<_> = sweep.map(|case| (case.ack_window(), case.batch())).collect();
        assert_eq!(batches, [(0, 1), (5, 2), (100, 50), (500, 250)]);
    }

    #[test]
    fn a_ratio_is_of_the_rounds_in_which_both_were_measured() {
        let results = results(&[(Some(9.0), Some(10.0)), (None, Some(100.0)), (Some(5.0), Some(10.0))]);
        let ratio = |case: &str| {
            results.ratio((case, "esper"), (case, "bare"), &PER_SECOND).map(|ratio| ratio.median)
        };
        assert_eq!(ratio("drain"), Some(0.7));
        assert_eq!(results.spread("drain", "bare", &PER_SECOND).map(|all| all.max), Some(100.0));
        assert_eq!((results.passed("esper"), results.passed("bare")), (false, true));
        assert_eq!(results.error("drain", "esper"), Some("1 lost"));
        assert_eq!(ratio("paced"), None);
    }
}
