//! What all comparisons have in common: cases are put to each server in turn, round after round, each time in a new process,
//! so that a slow hour of the machine or an aged process favours nobody; figures are medians and ratios of the rounds.

pub(crate) mod metric;
pub(crate) mod must;
pub(crate) mod peer;
pub(crate) mod results;

use crate::args::BenchArgs;
use crate::report::Report;
use metric::{Metric, show};
use results::{Record, Results};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::time::{Duration, Instant};

/// The time a run takes beside publishing: to start the server, to connect, to wait for the last.
const RUN_BESIDE: Duration = Duration::from_secs(2);
/// Shown in a table where there is no figure.
pub(crate) const NONE: &str = "–";

/// A case that is put to some servers in turn, so many times.
pub(crate) struct Question<'a, C, P> {
    pub(crate) case: &'a C,
    pub(crate) rounds: usize,
    pub(crate) peers: Vec<&'a P>,
}

/// A case or a server, by the name in tables and on the command line.
pub(crate) trait Named {
    fn name(&self) -> &str;
}

/// Does one run after another and adds a record of each to the results, which it writes to a file after each round.
/// `describe` says what to show of a case: its title, and figures of each run.
pub(crate) fn ask<C: Named, P: Named, S: Serialize + DeserializeOwned>(
    args: &BenchArgs,
    duration: Duration,
    questions: &[Question<'_, C, P>],
    results: &mut Results<S>,
    describe: impl Fn(&C) -> (String, Vec<&'static Metric>),
    mut one: impl FnMut(&C, &P) -> Result<Report, String>,
) -> Result<(), String> {
    let began = Instant::now();
    let all = questions.iter().map(|question| question.rounds * question.peers.len()).sum();
    for (number, Question { case, rounds, peers }) in questions.iter().enumerate() {
        let (title, metrics) = describe(case);
        let left = left(began.elapsed(), results.records.len(), all, duration);
        eprintln!("case {} of {}, about {left} min left: {title}", number + 1, questions.len());
        for round in 0..*rounds {
            for peer in peers {
                let outcome = one(case, peer);
                let text = match &outcome {
                    Ok(report) => told(report, &metrics),
                    Err(why) => format!("could not be measured: {why}"),
                };
                eprintln!("{} {} {}: {text}", case.name(), round + 1, peer.name());
                results.records.push(Record::new(case.name(), peer.name(), round, outcome));
            }
            if let Some(out) = &args.out {
                results.write(out)?;
            }
        }
    }
    Ok(())
}

fn told(report: &Report, metrics: &[&'static Metric]) -> String {
    let shown = |metric: &&Metric| Some(format!("{} {}", metric.title, show((metric.of)(report)?)));
    let result = if report.passed { "passed" } else { "FAILED" };
    metrics.iter().filter_map(shown).chain([result.to_owned()]).collect::<Vec<_>>().join(", ")
}

/// Returns the minutes that the rest will take, going by what is done; at first by what a run takes beside its `duration`.
fn left(passed: Duration, done: usize, all: usize, duration: Duration) -> u64 {
    let each = if done == 0 { duration + RUN_BESIDE } else { passed / done as u32 };
    (each.as_secs_f64() * all.saturating_sub(done) as f64 / 60.0).ceil() as u64
}

/// Returns the cases of these names, or all.
pub(crate) fn chosen<C: Named>(cases: Vec<C>, names: &[String]) -> Result<Vec<C>, String> {
    names.iter().try_for_each(|name| find_named(&cases, name, "--cases").map(|_| ()))?;
    let asked = |case: &C| names.is_empty() || names.iter().any(|name| name == case.name());
    Ok(cases.into_iter().filter(asked).collect())
}

/// Returns the one of this name. The error names the flag it was given with, and those that there are.
pub(crate) fn find_named<'a, T: Named>(all: &'a [T], name: &str, flag: &str) -> Result<&'a T, String> {
    all.iter().find(|one| one.name() == name).ok_or_else(|| {
        let names: Vec<_> = all.iter().map(Named::name).collect();
        format!("{flag}: there is no {name}; known are {}", names.join(", "))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_told_from_the_runs_that_are_done() {
        let second = Duration::from_secs(1);
        assert_eq!(left(Duration::ZERO, 0, 100, 4 * second), 10);
        assert_eq!(left(300 * second, 50, 100, 4 * second), 5);
        assert_eq!(left(300 * second, 100, 100, 4 * second), 0);
    }
}
