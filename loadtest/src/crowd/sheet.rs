//! What was measured: figures of each round, and the rows to reach.

use crate::bench::NONE;
use crate::bench::metric::{Spread, ratio_over, show};
use crate::bench::results::{Machine, write_json};
use serde::Serialize;
use std::fmt::{self, Display};
use std::path::Path;

/// All that was measured.
#[derive(Serialize)]
pub(super) struct Sheet {
    machine: Machine,
    rounds: usize,
    clients: usize,
    scale_down: usize,
    figures: Vec<SheetFigure>,
    goals: Vec<Goal>,
    /// Rounds that could not be done, in words.
    failures: Vec<String>,
    /// The server's memory after a measurement.
    memory: Vec<Settled>,
}

/// A figure of a server.
#[derive(Serialize)]
struct SheetFigure {
    part: String,
    server: String,
    name: String,
    /// By round; `None` where that failed.
    values: Vec<Option<f64>>,
}

/// A row to reach.
#[derive(Serialize)]
struct Goal {
    part: String,
    text: String,
    measured: Option<f64>,
    /// The median, the least and the most of it, in words.
    shown: String,
    at_most: f64,
    reached: bool,
}

/// The memory of a server from the end of a round on: seconds and resident bytes.
#[derive(Serialize)]
struct Settled {
    part: String,
    server: String,
    round: usize,
    rss: Vec<(f64, u64)>,
}

impl Sheet {
    pub(super) fn new(rounds: usize, clients: usize, scale_down: usize) -> Sheet {
        let machine = Machine::here();
        let (figures, goals, failures, memory) = Default::default();
        Sheet { machine, rounds, clients, scale_down, figures, goals, failures, memory }
    }

    /// Puts down a figure of a server's round.
    pub(super) fn put(&mut self, part: &str, server: &str, round: usize, name: &str, value: Option<f64>) {
        eprintln!("{part} {} {server}: {name} {}", round + 1, value.map_or(NONE.to_owned(), show));
        let is_it = |one: &SheetFigure| one.part == part && one.server == server && one.name == name;
        let place = self.figures.iter().position(is_it).unwrap_or_else(|| {
            let [part, server, name] = [part, server, name].map(str::to_owned);
            self.figures.push(SheetFigure { part, server, name, values: vec![None; self.rounds] });
            self.figures.len() - 1
        });
        if let Some(slot) = self.figures.get_mut(place).and_then(|one| one.values.get_mut(round)) {
            *slot = value;
        }
    }

    /// Puts down how memory went on after a round.
    pub(super) fn put_memory(&mut self, part: &str, server: &str, round: usize, rss: Vec<(f64, u64)>) {
        self.memory.push(Settled { part: part.to_owned(), server: server.to_owned(), round, rss });
    }

    pub(super) fn fail(&mut self, why: String) {
        self.failures.push(why);
    }

    fn values(&self, part: &str, server: &str, name: &str) -> &[Option<f64>] {
        let mut all = self.figures.iter();
        let found = all.find(|one| one.part == part && one.server == server && one.name == name);
        found.map_or(&[], |one| &one.values)
    }

    fn spread(&self, part: &str, server: &str, name: &str) -> Option<Spread> {
        Spread::of(self.values(part, server, name).iter().copied().flatten())
    }

    /// Adds a row that a figure's median has to reach.
    pub(super) fn goal(&mut self, part: &str, text: &str, (server, name): (&str, &str), at_most: f64) {
        self.add(part, text, self.spread(part, server, name), at_most);
    }

    /// Adds a row that a figure's ratio to another has to reach, the median of the rounds' ratios.
    pub(super) fn goal_ratio(
        &mut self,
        part: &str,
        text: &str,
        (server, name): (&str, &str),
        (base_server, base_name): (&str, &str),
        at_most: f64,
    ) {
        let values = self.values(part, server, name).iter();
        let both = values.zip(self.values(part, base_server, base_name));
        let measured = ratio_over(both.filter_map(|(value, base)| Some(((*value)?, (*base)?))));
        self.add(part, text, measured, at_most);
    }

    fn add(&mut self, part: &str, text: &str, measured: Option<Spread>, at_most: f64) {
        let shown = measured.map_or(NONE.to_owned(), |spread| spread.text(""));
        let measured = measured.map(|spread| spread.median);
        let reached = measured.is_some_and(|measured| measured <= at_most);
        let [part, text] = [part, text].map(str::to_owned);
        self.goals.push(Goal { part, text, measured, shown, at_most, reached });
    }

    /// Returns whether no round has a figure.
    pub(super) fn is_empty(&self) -> bool {
        !self.figures.iter().any(|one| one.values.iter().any(Option::is_some))
    }

    /// Returns whether every round was done and every row is reached.
    pub(super) fn passed(&self) -> bool {
        self.failures.is_empty() && self.goals.iter().all(|goal| goal.reached)
    }

    /// Writes all as JSON, if a file is given; the error names it.
    pub(super) fn write(&self, out: Option<&Path>) -> Result<(), String> {
        let Some(out) = out else { return Ok(()) };
        write_json(self, out).map_err(|why| format!("--out {why}; give a file that can be written"))
    }
}

/// Returns the values without those that stood before, in their order.
fn distinct<'a>(values: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut all: Vec<&str> = Vec::new();
    values.for_each(|value| {
        if !all.contains(&value) {
            all.push(value)
        }
    });
    all
}

/// Tables in Markdown.
impl Display for Sheet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scaled =
            if self.scale_down > 1 { format!(", scaled down by {}", self.scale_down) } else { String::new() };
        let rounds = if self.rounds == 1 { "1 round".to_owned() } else { format!("{} rounds", self.rounds) };
        writeln!(f, "{}; {rounds}, {} clients{scaled}; medians (least–most).", self.machine, self.clients)?;
        for part in distinct(self.figures.iter().map(|one| one.part.as_str())) {
            let of_part = || self.figures.iter().filter(|one| one.part == part);
            let servers = distinct(of_part().map(|one| one.server.as_str()));
            writeln!(f, "\n| {part} | {} |", servers.join(" | "))?;
            writeln!(f, "|---|{}", "---:|".repeat(servers.len()))?;
            for name in distinct(of_part().map(|one| one.name.as_str())) {
                let cell = |server: &&str| {
                    self.spread(part, server, name).map_or(NONE.to_owned(), |spread| spread.text(""))
                };
                writeln!(f, "| {name} | {} |", servers.iter().map(cell).collect::<Vec<_>>().join(" | "))?;
            }
        }
        writeln!(f, "\n| to reach | measured | at most | |\n|---|---:|---:|---|")?;
        for Goal { part, text, shown, at_most, reached, .. } in &self.goals {
            let said = if *reached { "reached" } else { "**not reached**" };
            writeln!(f, "| {part}: {text} | {shown} | {} | {said} |", show(*at_most))?;
        }
        if !self.failures.is_empty() {
            writeln!(f)?;
        }
        self.failures.iter().try_for_each(|why| writeln!(f, "- failed: {}", why.replace('\n', " ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_medians_and_ratios_of_the_same_round_and_a_failed_round_fails_all() {
        let mut sheet = Sheet::new(3, 10, 1);
        for (round, (esper, floor)) in [(10.0, 10.0), (22.0, 20.0), (30.0, 30.0)].into_iter().enumerate() {
            sheet.put("connects", "esper", round, "us", Some(esper));
            sheet.put("connects", "floor", round, "us", Some(floor));
        }
        sheet.goal_ratio("connects", "to floor", ("esper", "us"), ("floor", "us"), 1.0);
        sheet.goal("connects", "us", ("esper", "us"), 22.0);
        assert!(sheet.passed() && !sheet.is_empty());
        let text = sheet.to_string();
        assert!(text.contains("| us | 22.0 (10.0–30.0) | 20.0 (10.0–30.0) |"), "{text}");
        assert!(text.contains("| connects: to floor | 1.00 (1.00–1.10) | 1.00 | reached |"), "{text}");
        sheet.goal("connects", "nothing", ("nchan", "us"), 1.0);
        assert!(!sheet.passed() && sheet.to_string().contains("**not reached**"));
        let mut sheet = Sheet::new(1, 10, 1);
        assert!(sheet.is_empty());
        sheet.fail("gone".to_owned());
        assert!(!sheet.passed());
    }
}
