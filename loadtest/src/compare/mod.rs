//! Servers side by side: each case is put to each in turn, round after round, each time to a new process that has one CPU
//! to itself, so that a slow hour of the machine or an aged process favours nobody.

mod case;
pub(crate) mod metric;
mod must;
pub(crate) mod peer;
mod plot;
pub(crate) mod results;
mod tables;

use crate::args::{CompareArgs, FloorArgs, PlotArgs, RunFlags, TablesArgs};
use crate::compare::case::Case;
use crate::compare::peer::Peer;
use crate::compare::results::{Machine, Record, Results};
use crate::plan::Plan;
use crate::report::Report;
use crate::run::{check_cpus, run};
use rustix::fs::statfs;
use std::path::Path;
use std::time::{Duration, Instant};

/// File systems without a disk, from linux/magic.h.
const TMPFS_MAGIC: u32 = 0x0102_1994;
const RAMFS_MAGIC: u32 = 0x8584_58f6;
const COMPARE_ROUNDS: usize = 5;
const COMPARE_DURATION: Duration = Duration::from_secs(6);
/// A plot has many points, and its medians need be less exact.
const SWEEP_ROUNDS: usize = 3;
const SWEEP_DURATION: Duration = Duration::from_secs(2);
/// At 50 publishes a second 500 of them, of which a p99 leaves out five.
const JOURNAL_DURATION: Duration = Duration::from_secs(10);
const PEERS: &[&str] =
    if cfg!(feature = "axum") { &["esper", "nchan", "axum", "floor"] } else { &["esper", "nchan", "floor"] };
const JOURNAL_PEERS: &[&str] = &["esper-journal", "commit-floor", "nats", "redis"];
/// What a run takes beside publishing: to start the server, to connect, to wait for the last.
const RUN_BESIDE: Duration = Duration::from_secs(2);

/// Measures the table of figures. False when the first peer made a mistake.
pub(crate) fn compare(args: &CompareArgs) -> Result<bool, String> {
    measure(args, case::of_compare(), PEERS, COMPARE_ROUNDS, COMPARE_DURATION)
}

/// Measures the points of the plots. False when the first peer made a mistake.
pub(crate) fn sweep(args: &CompareArgs) -> Result<bool, String> {
    measure(args, case::of_sweep(), PEERS, SWEEP_ROUNDS, SWEEP_DURATION)
}

/// Measures what it costs to answer what is on disk. False when the first peer made a mistake.
pub(crate) fn journal(args: &CompareArgs) -> Result<bool, String> {
    let folder = std::env::temp_dir();
    let wrong =
        |what: &str| format!("{} {what}; set TMPDIR to a folder on the disk to measure", folder.display());
    let system = statfs(&folder).map_err(|error| wrong(&format!("cannot be used ({error})")))?;
    if [TMPFS_MAGIC, RAMFS_MAGIC].contains(&(system.f_type as u32)) {
        return Err(wrong("is in memory"));
    }
    measure(args, case::of_journal(), JOURNAL_PEERS, COMPARE_ROUNDS, JOURNAL_DURATION)
}

/// Draws what was measured.
pub(crate) fn plot(args: &PlotArgs) -> Result<bool, String> {
    let all: Vec<_> = args.files.iter().map(|file| Results::read(file)).collect::<Result<_, _>>()?;
    for file in plot::draw(&all, &args.into)? {
        println!("{}", file.display());
    }
    Ok(true)
}

/// Prints what was measured.
pub(crate) fn tables(args: &TablesArgs) -> Result<bool, String> {
    print!("{}", tables::tables(&Results::read(&args.file)?));
    Ok(true)
}

/// One run against the barest server, and whether to print it as JSON.
pub(crate) fn floor(args: FloorArgs) -> Result<(Report, bool), String> {
    check_cpus("--server-cpu", &[args.server_cpu])?;
    let peers = peer::find(&["floor".to_owned()], &[], Path::new(""))?;
    let floor = peers.first().ok_or("there is no floor")?;
    let server = floor.start(Path::new(""), 1, args.server_cpu)?;
    let flags = RunFlags { pid: Some(server.pid()), ..args.flags };
    let plan = flags.plan(&server.url(), &[])?;
    if plan.topics.len() > 1 || plan.subscribers.processes {
        return Err("the floor has one topic and is read by one process; leave out --topics and --processes"
            .to_owned());
    }
    Ok((run(&plan)?, plan.json))
}

fn measure(
    args: &CompareArgs,
    cases: Vec<Case>,
    peers: &[&str],
    rounds: usize,
    duration: Duration,
) -> Result<bool, String> {
    let names = if args.peers.is_empty() {
        peers.iter().map(ToString::to_string).collect()
    } else {
        args.peers.clone()
    };
    let rounds = args.rounds.unwrap_or(rounds).max(1);
    let duration = args.duration.unwrap_or(duration);
    let cases = chosen(cases, &args.cases)?;
    check_cpus("--server-cpu", &[args.server_cpu])?;
    check_cpus("--load-cpus", &args.load_cpus.0)?;
    let peers = peer::find(&names, &args.peer_file, &args.esper)?;
    let mut results = Results {
        machine: Machine::here(),
        peers: names,
        rounds,
        seconds: duration.as_secs_f64(),
        scale_down: args.scale_down,
        records: Vec::new(),
    };
    let runs = |case: &Case| {
        let asked = peers.iter().enumerate().filter(|(number, peer)| is_asked(case, peer, *number)).count();
        asked * if case.proof { 1 } else { rounds }
    };
    let (began, all) = (Instant::now(), cases.iter().map(runs).sum());
    for (number, case) in cases.iter().enumerate() {
        let left = left(began.elapsed(), results.records.len(), all, duration);
        eprintln!("case {} of {}, about {} min left: {}", number + 1, cases.len(), left, case.title);
        for round in 0..if case.proof { 1 } else { rounds } {
            for (number, peer) in peers.iter().enumerate() {
                if !is_asked(case, peer, number) {
                    continue;
                }
                let outcome = one(args, case, peer, duration);
                tell(case, round, peer, &outcome);
                let (report, error) = match outcome {
                    Ok(report) => (Some(report), None),
                    Err(why) => (None, Some(why)),
                };
                let (case, peer, at) = (case.name.clone(), peer.name.clone(), case.at);
                results.records.push(Record { case, peer, round, at, report, error });
            }
            if let Some(out) = &args.out {
                results.write(out)?;
            }
        }
    }
    if args.json {
        println!("{}", serde_json::to_string(&results).map_err(|error| error.to_string())?);
    } else {
        print!("{}", tables::tables(&results));
    }
    Ok(results.first_passed())
}

fn is_asked(case: &Case, peer: &Peer, number: usize) -> bool {
    let cannot = case.topics > 1 && peer.one_topic || case.workers > 1 && peer.one_worker;
    !cannot && (number == 0 || !case.proof)
}

/// Minutes that the rest will take, going by what is done; at first by what a run takes beside its `duration`.
fn left(passed: Duration, done: usize, all: usize, duration: Duration) -> u64 {
    let each = if done == 0 { duration + RUN_BESIDE } else { passed / done as u32 };
    (each.as_secs_f64() * all.saturating_sub(done) as f64 / 60.0).ceil() as u64
}

fn chosen(cases: Vec<Case>, names: &[String]) -> Result<Vec<Case>, String> {
    let known: Vec<_> = cases.iter().map(|case| case.name.clone()).collect();
    if let Some(wrong) = names.iter().find(|name| !known.contains(name)) {
        return Err(format!("--cases: there is no {wrong}; known are {}", known.join(", ")));
    }
    Ok(cases.into_iter().filter(|case| names.is_empty() || names.contains(&case.name)).collect())
}

/// One run against a new process of the peer.
fn one(args: &CompareArgs, case: &Case, peer: &Peer, duration: Duration) -> Result<Report, String> {
    let server = peer.start(&args.esper, case.workers, args.server_cpu)?;
    let mut flags = case.words(args.scale_down);
    if case.timed {
        flags.extend(["--duration".to_owned(), format!("{}ms", duration.as_millis())]);
    }
    let cpus: Vec<_> = args.load_cpus.0.iter().map(usize::to_string).collect();
    flags.extend(["--cpus".to_owned(), cpus.join(","), "--pid".to_owned(), server.pid().to_string()]);
    flags.extend(peer.flags());
    run(&Plan::parse(&Plan::words_for(&server.url(), &flags))?)
}

/// A line for each run, for whoever waits or reads a log.
fn tell(case: &Case, round: usize, peer: &Peer, outcome: &Result<Report, String>) {
    let text = match outcome {
        Ok(report) => {
            let figures = case
                .metrics
                .iter()
                .filter_map(|metric| Some(format!("{} {}", metric.title(), metric.show(metric.of(report)?))));
            let result = if report.passed() { "passed" } else { "FAILED" };
            figures.chain([result.to_owned()]).collect::<Vec<_>>().join(", ")
        }
        Err(why) => format!("could not be measured: {why}"),
    };
    eprintln!("{} {} {}: {text}", case.name, round + 1, peer.name);
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
