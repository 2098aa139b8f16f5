//! All that was measured, as it is written to a file and read back.

use crate::compare::case::{Axis, Case};
use crate::compare::metric::{Metric, Spread, ratio_over};
use crate::report::Report;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// Marks figures of a peer that made a mistake: what it did not deliver cost it nothing.
pub(crate) const FAILED: &str = "†";

/// What `compare` or `sweep` measured.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Results {
    pub(crate) machine: Machine,
    /// In the order of the command line; the first is the one the others are set against.
    pub(crate) peers: Vec<String>,
    pub(crate) rounds: usize,
    pub(crate) seconds: f64,
    pub(crate) scale_down: usize,
    pub(crate) records: Vec<Record>,
}

/// Where it was measured.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Machine {
    pub(crate) cpu: String,
    pub(crate) cpus: usize,
    pub(crate) kernel: String,
    pub(crate) date: String,
}

/// One run.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Record {
    pub(crate) case: String,
    pub(crate) peer: String,
    pub(crate) round: usize,
    pub(crate) at: Option<(Axis, f64)>,
    /// `None` when nothing could be measured.
    pub(crate) report: Option<Report>,
    pub(crate) error: Option<String>,
}

impl Results {
    /// Reads a file.
    pub(crate) fn read(path: &Path) -> Result<Results, String> {
        read_json(path)
    }

    /// Writes the file, whole or not at all.
    pub(crate) fn write(&self, path: &Path) -> Result<(), String> {
        write_json(self, path)
    }

    /// The reports of one peer in one case, in the order of the rounds.
    pub(crate) fn reports<'a>(&'a self, case: &'a str, peer: &'a str) -> impl Iterator<Item = &'a Report> {
        let records = self.records.iter().filter(move |record| record.case == case && record.peer == peer);
        records.filter_map(|record| record.report.as_ref())
    }

    /// The first error of one peer in one case.
    pub(crate) fn error<'a>(&'a self, case: &Case, peer: &str) -> Option<&'a str> {
        let mut records =
            self.records.iter().filter(|record| record.case == case.name && record.peer == peer);
        records.find_map(|record| record.error.as_deref())
    }

    /// A figure over all rounds.
    pub(crate) fn spread(&self, case: &str, peer: &str, metric: Metric) -> Option<Spread> {
        Spread::of(self.reports(case, peer).filter_map(|report| metric.of(report)))
    }

    /// How many times another figure one is; each is that of a case and a peer.
    pub(crate) fn ratio(&self, one: (&str, &str), base: (&str, &str), metric: Metric) -> Option<f64> {
        let figure = |record: &Record| metric.of(record.report.as_ref()?);
        let of = |(case, peer): (&str, &str), round: usize| {
            let mut records = self.records.iter();
            records
                .find(|record| record.case == case && record.peer == peer && record.round == round)
                .and_then(figure)
        };
        ratio_over((0..self.rounds).filter_map(|round| Some((of(one, round)?, of(base, round)?))))
    }

    /// [`FAILED`] behind a figure of a peer of which a round failed in this case, otherwise nothing.
    pub(crate) fn mark(&self, case: &str, peer: &str) -> &'static str {
        let mut rounds = self.records.iter().filter(|record| record.case == case && record.peer == peer);
        if rounds.all(Record::passed) { "" } else { FAILED }
    }

    /// Whether the first peer was measured in every run and made no mistake.
    pub(crate) fn first_passed(&self) -> bool {
        let mut own = self.records.iter().filter(|record| Some(&record.peer) == self.peers.first());
        own.all(Record::passed)
    }
}

/// Reads what was written to a file.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, String> {
    let wrong = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let text = std::fs::read_to_string(path).map_err(|error| wrong(&error))?;
    serde_json::from_str(&text).map_err(|error| wrong(&error))
}

/// Writes a file, whole or not at all.
pub(crate) fn write_json(what: &impl Serialize, path: &Path) -> Result<(), String> {
    let wrong = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let text = serde_json::to_string(what).map_err(|error| wrong(&error))?;
    let new = path.with_extension("new");
    std::fs::write(&new, text).and_then(|()| std::fs::rename(&new, path)).map_err(|error| wrong(&error))
}

impl Record {
    /// Whether it was measured and made no mistake.
    pub(crate) fn passed(&self) -> bool {
        self.report.as_ref().is_some_and(Report::passed)
    }
}

impl Machine {
    /// This one, now.
    pub(crate) fn here() -> Machine {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let info = read("/proc/cpuinfo");
        let model = info.lines().find_map(|line| line.strip_prefix("model name"));
        let model = model.map(|line| line.trim_start_matches([' ', '\t', ':']));
        let now = humantime::format_rfc3339_seconds(std::time::SystemTime::now()).to_string();
        Machine {
            cpu: model.unwrap_or("unknown CPU").to_owned(),
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            date: now.split('T').next().unwrap_or("").to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_that_failed_is_marked_in_that_case_alone() {
        let failed = |case: &str, peer: &str| Record {
            case: case.to_owned(),
            peer: peer.to_owned(),
            round: 0,
            at: None,
            report: None,
            error: Some("no luck".to_owned()),
        };
        let results = Results {
            machine: Machine::here(),
            peers: vec!["a".to_owned(), "b".to_owned()],
            rounds: 1,
            seconds: 1.0,
            scale_down: 1,
            records: vec![failed("flood", "b")],
        };
        let mark = |case: &str, peer: &str| results.mark(case, peer);
        assert_eq!([mark("flood", "b"), mark("flood", "a"), mark("paced", "b")], [FAILED, "", ""]);
        assert!(results.first_passed());
    }
}
