//! All that was measured, as it is written to a file and read back.

use crate::bench::NONE;
use crate::bench::metric::{Metric, Spread, ratio_over};
use crate::report::Report;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::fmt::Display;
use std::path::Path;

/// Marks figures of a server that made a mistake: what it did not deliver cost it nothing.
pub(crate) const FAILED: &str = "†";

/// The result of a comparison; `about` says of what and how.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Results<S> {
    pub(crate) machine: Machine,
    #[serde(flatten)]
    pub(crate) about: S,
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

/// A run that was done.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Record {
    pub(crate) case: String,
    pub(crate) peer: String,
    pub(crate) round: usize,
    /// `None` when nothing could be measured.
    pub(crate) report: Option<Report>,
    pub(crate) error: Option<String>,
}

impl Record {
    pub(crate) fn new(case: &str, peer: &str, round: usize, outcome: Result<Report, String>) -> Record {
        let (report, error) = match outcome {
            Ok(report) => (Some(report), None),
            Err(why) => (None, Some(why)),
        };
        Record { case: case.to_owned(), peer: peer.to_owned(), round, report, error }
    }

    /// Tells whether it was measured and made no mistake.
    pub(crate) fn passed(&self) -> bool {
        self.report.as_ref().is_some_and(|report| report.passed)
    }
}

impl<S> Results<S> {
    /// Returns the runs of one server in one case, in the order of the rounds.
    fn of<'a>(&'a self, case: &'a str, peer: &'a str) -> impl Iterator<Item = &'a Record> {
        self.records.iter().filter(move |record| record.case == case && record.peer == peer)
    }

    pub(crate) fn reports<'a>(&'a self, case: &'a str, peer: &'a str) -> impl Iterator<Item = &'a Report> {
        self.of(case, peer).filter_map(|record| record.report.as_ref())
    }

    /// Returns the first error of one server in one case.
    pub(crate) fn error<'a>(&'a self, case: &'a str, peer: &'a str) -> Option<&'a str> {
        self.of(case, peer).find_map(|record| record.error.as_deref())
    }

    pub(crate) fn has(&self, case: &str) -> bool {
        self.records.iter().any(|record| record.case == case)
    }

    /// Returns a figure over all rounds.
    pub(crate) fn spread(&self, case: &str, peer: &str, metric: &Metric) -> Option<Spread> {
        Spread::of(self.reports(case, peer).filter_map(metric.of))
    }

    /// Writes a figure over all rounds into a table's cell, with the least and the most.
    pub(crate) fn cell(&self, case: &str, peer: &str, metric: &Metric) -> String {
        let mark = self.mark(case, peer);
        self.spread(case, peer, metric).map_or(NONE.to_owned(), |all| all.text(mark))
    }

    /// Returns how many times another figure one is; each is that of a case and a server.
    pub(crate) fn ratio(&self, one: (&str, &str), base: (&str, &str), metric: &Metric) -> Option<Spread> {
        let figure = |record: &Record| record.report.as_ref().and_then(metric.of);
        let both = self.of(one.0, one.1).filter_map(|record| {
            let other = self.of(base.0, base.1).find(|other| other.round == record.round)?;
            Some((figure(record)?, figure(other)?))
        });
        ratio_over(both)
    }

    /// Tells whether a server was measured in every run and made no mistake.
    pub(crate) fn passed(&self, peer: &str) -> bool {
        self.records.iter().filter(|record| record.peer == peer).all(Record::passed)
    }

    /// Returns [`FAILED`] to stand behind a figure of a server of which a round failed in this case, otherwise nothing.
    pub(crate) fn mark(&self, case: &str, peer: &str) -> &'static str {
        if self.of(case, peer).all(Record::passed) { "" } else { FAILED }
    }
}

impl<S: Serialize + DeserializeOwned> Results<S> {
    /// Reads a file.
    pub(crate) fn read(path: &Path) -> Result<Results<S>, String> {
        let wrong = |error: &dyn Display| format!("{}: {error}", path.display());
        let text = std::fs::read_to_string(path).map_err(|error| wrong(&error))?;
        serde_json::from_str(&text).map_err(|error| wrong(&error))
    }

    /// Writes the file, whole or not at all.
    pub(crate) fn write(&self, path: &Path) -> Result<(), String> {
        let wrong = |error: &dyn Display| format!("{}: {error}", path.display());
        let text = serde_json::to_string(self).map_err(|error| wrong(&error))?;
        let new = path.with_extension("new");
        std::fs::write(&new, text).and_then(|()| std::fs::rename(&new, path)).map_err(|error| wrong(&error))
    }
}

/// Writes what was measured into a file, as JSON; the error names the file.
pub(crate) fn write_json(measured: &impl Serialize, path: &Path) -> Result<(), String> {
    let text = serde_json::to_string(measured).map_err(|error| error.to_string())?;
    std::fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))
}

/// Takes out what would end a table's cell.
pub(crate) fn in_cell(text: &str) -> String {
    text.replace('|', "/").replace('\n', " ")
}

impl Machine {
    /// Describes this one, now.
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

impl Display for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}, {} CPUs, Linux {}, {}", self.cpu, self.cpus, self.kernel, self.date)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_that_failed_is_marked_in_that_case_alone() {
        let records = vec![Record::new("flood", "b", 0, Err("no luck".to_owned()))];
        let results = Results { machine: Machine::here(), about: (), records };
        let mark = |case: &str, peer: &str| results.mark(case, peer);
        assert_eq!([mark("flood", "b"), mark("flood", "a"), mark("paced", "b")], [FAILED, "", ""]);
        assert!(results.passed("a") && !results.passed("b"));
    }
}
