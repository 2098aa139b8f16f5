//! All that was measured of queues, as it is written to a file and read back.

use crate::compare::metric::{Spread, ratio_over};
use crate::compare::results::Machine;
use crate::queues::case::Case;
use serde::{Deserialize, Serialize};

/// What takes messages from the queues.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Contender {
    Esper,
    Bare,
}

impl Contender {
    /// In the order in which they take turns.
    pub(crate) const ALL: [Contender; 2] = [Contender::Esper, Contender::Bare];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Contender::Esper => "esper",
            Contender::Bare => "bare",
        }
    }
}

/// What `queues` measured.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Results {
    pub(crate) machine: Machine,
    pub(crate) queues: usize,
    pub(crate) size: usize,
    pub(crate) rate: f64,
    pub(crate) server_cpu: usize,
    pub(crate) load_cpu: usize,
    /// Whether the RabbitMQ was this program's own; else nothing is known of where it ran.
    pub(crate) own_broker: bool,
    pub(crate) broker_cpu: Option<usize>,
    pub(crate) cases: Vec<Case>,
    pub(crate) records: Vec<Record>,
}

/// One run.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Record {
    pub(crate) case: String,
    pub(crate) contender: Contender,
    pub(crate) round: usize,
    /// `None` when nothing could be measured, or a message was lost, doubled, out of order or wrong.
    pub(crate) figures: Option<Figures>,
    pub(crate) error: Option<String>,
}

/// What one run measured.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub(crate) struct Figures {
    pub(crate) messages: u64,
    /// From the first consume, or the first publish when paced, to when the last message was read.
    pub(crate) seconds: f64,
    pub(crate) per_second: f64,
    /// Of the consumer's process, for each message.
    pub(crate) cpu_us: f64,
    /// CPUs in use by each: the consumer, the load generator, RabbitMQ, and everybody else on the machine.
    pub(crate) consumer_cpus: f64,
    pub(crate) load_cpus: f64,
    pub(crate) broker_cpus: Option<f64>,
    pub(crate) others_cpus: Option<f64>,
    /// From when a message was due to when it was read.
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) p999_ms: f64,
    /// The latest publish behind its time, when paced.
    pub(crate) late_ms_max: f64,
}

/// One of the figures.
pub(crate) type Figure = fn(&Figures) -> Option<f64>;

impl Results {
    fn of<'a>(&'a self, case: &'a str, contender: Contender) -> impl Iterator<Item = &'a Record> {
        self.records.iter().filter(move |record| record.case == case && record.contender == contender)
    }

    /// A figure over all rounds.
    pub(crate) fn spread(&self, case: &str, contender: Contender, figure: Figure) -> Option<Spread> {
        Spread::of(self.of(case, contender).filter_map(|record| figure(record.figures.as_ref()?)))
    }

    /// How many times the bare consumer's figure esper's is, by the rounds.
    pub(crate) fn ratio(&self, case: &str, figure: Figure) -> Option<f64> {
        let in_round = |contender: Contender, round: usize| {
            let mut records = self.of(case, contender).filter(|record| record.round == round);
            figure(records.next()?.figures.as_ref()?)
        };
        let rounds = self.of(case, Contender::Esper).map(|record| record.round);
        ratio_over(rounds.filter_map(|round| {
            Some((in_round(Contender::Esper, round)?, in_round(Contender::Bare, round)?))
        }))
    }

    /// What went wrong first, of one contender in one case.
    pub(crate) fn error<'a>(&'a self, case: &'a str, contender: Contender) -> Option<&'a str> {
        self.of(case, contender).find_map(|record| record.error.as_deref())
    }

    /// Runs, and those of them that failed.
    pub(crate) fn runs(&self, contender: Contender) -> (usize, usize) {
        let own = || self.records.iter().filter(|record| record.contender == contender);
        (own().count(), own().filter(|record| record.error.is_some()).count())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::queues::case::all;

    /// Of `drain` in as many rounds as there are pairs: esper's messages a second and the bare consumer's, or nothing
    /// where the run failed.
    pub(crate) fn results(rounds: &[(Option<f64>, Option<f64>)]) -> Results {
        let mut records = Vec::new();
        for (round, (esper, bare)) in rounds.iter().enumerate() {
            for (contender, per_second) in [(Contender::Esper, esper), (Contender::Bare, bare)] {
                let figures = per_second.map(|per_second| Figures {
                    messages: 100,
                    seconds: 1.0,
                    per_second,
                    cpu_us: 1e6 / per_second,
                    consumer_cpus: 1.0,
                    load_cpus: 0.5,
                    broker_cpus: None,
                    others_cpus: None,
                    p50_ms: 1.0,
                    p99_ms: 2.0,
                    p999_ms: 3.0,
                    late_ms_max: 0.0,
                });
                let error = figures.is_none().then(|| "1 lost".to_owned());
                records.push(Record { case: "drain".to_owned(), contender, round, figures, error });
            }
        }
        Results {
            machine: Machine::here(),
            queues: 100,
            size: 128,
            rate: 2_000.0,
            server_cpu: 0,
            load_cpu: 1,
            own_broker: true,
            broker_cpu: None,
            cases: all(200, &[1, 200], Some(rounds.len()), None),
            records,
        }
    }

    #[test]
    fn a_ratio_is_of_the_rounds_in_which_both_were_measured() {
        let per_second: Figure = |figures| Some(figures.per_second);
        let results = results(&[(Some(9.0), Some(10.0)), (None, Some(100.0)), (Some(5.0), Some(10.0))]);
        assert_eq!(results.ratio("drain", per_second), Some(0.7));
        assert_eq!(results.spread("drain", Contender::Bare, per_second).map(|all| all.max), Some(100.0));
        assert_eq!((results.runs(Contender::Esper), results.runs(Contender::Bare)), ((3, 1), (3, 0)));
        assert_eq!(results.error("drain", Contender::Esper), Some("1 lost"));
        assert_eq!(results.ratio("paced", per_second), None);
    }
}
