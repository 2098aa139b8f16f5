//! What is measured: each case is the flags of a run, and what of its report is shown. They are in `cases.toml`.

use crate::bench::Named;
use crate::bench::metric::Metric;
use crate::bench::must::Must;
use crate::plan::Plan;
use serde::{Deserialize, Deserializer};

/// A run that is put to every peer in turn.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Case {
    pub(crate) name: String,
    /// Shown above its table.
    #[serde(default)]
    pub(crate) title: String,
    flags: String,
    #[serde(default = "one")]
    pub(crate) workers: usize,
    #[serde(default)]
    pub(crate) metrics: Vec<&'static Metric>,
    /// Bounds that the first peer has to keep.
    #[serde(default)]
    pub(crate) musts: Vec<Must>,
    /// Peers of the suite that are measured in this case; empty means all. A proof measures only the first.
    #[serde(default)]
    pub(crate) peers: Vec<String>,
    /// Nodes of esper; it is published at the first and listened at the last.
    #[serde(default = "one")]
    pub(crate) nodes: usize,
    /// The first node is killed meanwhile, and it is published and listened at others then.
    #[serde(default)]
    pub(crate) dies: bool,
    /// Every peer is asked; otherwise the first alone, once, with proof.
    #[serde(default = "yes")]
    pub(crate) figures: bool,
    #[serde(default)]
    proof: bool,
    axis: Option<Axis>,
    #[serde(default)]
    points: Vec<f64>,
    #[serde(default)]
    rates: Vec<f64>,
}

/// The x axis of a plot.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Axis {
    Subscribers,
    /// Bytes of data in each event.
    Size,
    /// Among 10,000 subscribers.
    Topics,
    /// Threads or worker processes of the server.
    Shards,
}

/// All cases, by the command that measures them.
#[derive(Deserialize)]
pub(crate) struct Cases {
    pub(crate) compare: Suite,
    pub(crate) sweep: Suite,
    pub(crate) journal: Suite,
    pub(crate) cluster: Suite,
}

/// A suite: the cases of one command, its peers, and the rounds and seconds that hold unless flags say otherwise.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Suite {
    pub(crate) peers: Vec<String>,
    pub(crate) rounds: usize,
    pub(crate) seconds: u64,
    #[serde(deserialize_with = "expanded")]
    pub(crate) case: Vec<Case>,
}

fn one() -> usize {
    1
}

fn yes() -> bool {
    true
}

impl Cases {
    /// Reads those that come with the program.
    pub(crate) fn load() -> Result<Cases, String> {
        toml::from_str(include_str!("../../cases.toml")).map_err(|error| format!("cases.toml: {error}"))
    }

    pub(crate) fn all(self) -> Vec<Case> {
        [self.compare.case, self.sweep.case, self.journal.case, self.cluster.case].concat()
    }
}

/// Reads cases and makes of each one for each point, and behind them those of the proofs.
fn expanded<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Case>, D::Error> {
    let (mut figures, mut proofs) = (Vec::new(), Vec::new());
    for case in Vec::<Case>::deserialize(from)? {
        let points = if case.points.is_empty() { &[0.0][..] } else { &case.points };
        for (number, at) in points.iter().enumerate() {
            let rate = case.rates.get(number).copied().unwrap_or_default();
            let fill =
                |text: &str| text.replace("{at}", &at.to_string()).replace("{rate}", &rate.to_string());
            let (name, flags) = (fill(&case.name), fill(&case.flags));
            let title = if case.title.is_empty() { name.clone() } else { fill(&case.title) };
            let one = Case { name, title, flags, points: vec![*at], ..case.clone() };
            if case.proof {
                proofs.push(Case {
                    name: format!("verify-{}", one.name),
                    title: one.name.clone(),
                    flags: format!("{} --verify", one.flags),
                    figures: false,
                    metrics: Vec::new(),
                    musts: Vec::new(),
                    axis: None,
                    ..one.clone()
                });
            }
            if case.figures {
                figures.push(one);
            }
        }
    }
    figures.append(&mut proofs);
    Ok(figures)
}

impl Named for Case {
    fn name(&self) -> &str {
        &self.name
    }
}

impl Case {
    /// Returns the flags of a run against a peer.
    pub(crate) fn words(&self) -> Vec<String> {
        self.flags.split_whitespace().map(str::to_owned).collect()
    }

    /// Counts the topics of its run.
    pub(crate) fn topics(&self) -> Result<usize, String> {
        Ok(Plan::of("http://127.0.0.1:1", &self.words())?.topics.len())
    }

    /// Returns its place on the axis, or whatever else its points are.
    pub(crate) fn point(&self) -> f64 {
        self.points.first().copied().unwrap_or_default()
    }

    /// Returns where it stands on that axis of a plot.
    pub(crate) fn at(&self, axis: Axis) -> Option<f64> {
        self.points.first().filter(|_| self.axis == Some(axis)).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::must::Beside;
    use std::collections::HashSet;

    #[test]
    fn every_case_is_a_run_that_can_be_done_and_has_a_name_of_its_own() {
        let cases = Cases::load().unwrap().all();
        let names: HashSet<_> = cases.iter().map(|case| case.name.as_str()).collect();
        assert_eq!(names.len(), cases.len());
        for case in &cases {
            for scale_down in ["1", "100", "100000"] {
                let words = [case.words(), vec!["--scale-down".to_owned(), scale_down.to_owned()]].concat();
                let plan = Plan::of("http://127.0.0.1:3000", &words);
                plan.unwrap_or_else(|why| panic!("{} / {scale_down}: {why}", case.name));
            }
        }
    }

    #[test]
    fn what_must_be_reached_is_measured() {
        let cases = Cases::load().unwrap().all();
        for case in &cases {
            for must in &case.musts {
                let beside = match &must.beside {
                    Some(Beside::Case(name)) => cases.iter().find(|case| case.name == *name).unwrap(),
                    _ => case,
                };
                for metric in [Some(must.metric), must.also].into_iter().flatten() {
                    let shown = |case: &Case| case.metrics.iter().any(|shown| shown.name == metric.name);
                    assert!(shown(case) && shown(beside), "{}: {}", case.name, must.text());
                }
            }
        }
    }

    #[test]
    fn every_case_with_figures_has_a_proof() {
        let cases = Cases::load().unwrap().compare.case;
        for case in cases.iter().filter(|case| case.figures) {
            let name = format!("verify-{}", case.name);
            let proof = cases.iter().find(|case| case.name == name).unwrap_or_else(|| panic!("no {name}"));
            assert_eq!((proof.workers, proof.figures), (case.workers, false), "{name}");
            assert_eq!(proof.flags, format!("{} --verify", case.flags));
        }
    }
}
