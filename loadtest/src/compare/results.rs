//! All that was measured, as it is written to a file and read back.

use crate::compare::case::{Axis, Case};
use crate::compare::metric::{Metric, Spread, ratio_over};
use crate::report::Report;
use serde::{Deserialize, Serialize};
use std::path::Path;

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
        let wrong = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
        let text = std::fs::read_to_string(path).map_err(|error| wrong(&error))?;
        serde_json::from_str(&text).map_err(|error| wrong(&error))
    }

    /// Writes the file, whole or not at all.
    pub(crate) fn write(&self, path: &Path) -> Result<(), String> {
        let wrong = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
        let text = serde_json::to_string(self).map_err(|error| wrong(&error))?;
        let new = path.with_extension("new");
        std::fs::write(&new, text).and_then(|()| std::fs::rename(&new, path)).map_err(|error| wrong(&error))
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

    /// How many times the figure of `base` one peer's is.
    pub(crate) fn ratio(&self, case: &str, peer: &str, base: &str, metric: Metric) -> Option<f64> {
        let figure = |record: &Record| metric.of(record.report.as_ref()?);
        let of = |peer: &str, round: usize| {
            let mut records = self.records.iter();
            records
                .find(|record| record.case == case && record.peer == peer && record.round == round)
                .and_then(figure)
        };
        ratio_over((0..self.rounds).filter_map(|round| Some((of(peer, round)?, of(base, round)?))))
    }

    /// Whether the first peer was measured in every run and made no mistake.
    pub(crate) fn first_passed(&self) -> bool {
        let mut own = self.records.iter().filter(|record| Some(&record.peer) == self.peers.first());
        own.all(|record| record.report.as_ref().is_some_and(Report::passed))
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
