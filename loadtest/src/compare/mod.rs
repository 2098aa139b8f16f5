//! Servers side by side: each case is put to each in turn, and each has one CPU to itself.

pub(crate) mod case;
pub(crate) mod plot;
pub(crate) mod tables;

use crate::args::{CompareArgs, FloorArgs, PlotArgs, RunFlags, TablesArgs};
use crate::bench::peer::{self, Peer};
use crate::bench::results::{Machine, Results};
use crate::bench::{Question, ask, chosen};
use crate::plan::Plan;
use crate::report::Report;
use crate::run::{check_cpus, run};
use case::{Case, Cases, Suite};
use rustix::fs::statfs;
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::time::Duration;

/// File systems without a disk, from linux/magic.h.
const TMPFS_MAGIC: u32 = 0x0102_1994;
const RAMFS_MAGIC: u32 = 0x8584_58f6;

/// The servers that were measured, and how.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Asked {
    /// In the order of the command line; the first is the one the others are set against.
    pub(crate) peers: Vec<String>,
    pub(crate) rounds: usize,
    pub(crate) seconds: f64,
    pub(crate) scale_down: usize,
}

pub(crate) type Comparison = Results<Asked>;

/// Measures what it costs to answer what is on disk. False when the first peer made a mistake.
pub(crate) fn journal(args: &CompareArgs) -> Result<bool, String> {
    refuse_memory()?;
    measure(args, |all| all.journal)
}

/// Refuses to measure where servers would keep their data in memory.
pub(crate) fn refuse_memory() -> Result<(), String> {
    let folder = std::env::temp_dir();
    let wrong =
        |what: &str| format!("{} {what}; set TMPDIR to a folder on the disk to measure", folder.display());
    let system = statfs(&folder).map_err(|error| wrong(&format!("cannot be used ({error})")))?;
    if [TMPFS_MAGIC, RAMFS_MAGIC].contains(&(system.f_type as u32)) {
        return Err(wrong("is in memory"));
    }
    Ok(())
}

/// Draws what was measured.
pub(crate) fn plot(args: &PlotArgs) -> Result<bool, String> {
    let all: Vec<_> = args.files.iter().map(|file| Comparison::read(file)).collect::<Result<_, _>>()?;
    for file in plot::draw(&all, &Cases::load()?.all(), &args.into)? {
        println!("{}", file.display());
    }
    Ok(true)
}

/// Prints what was measured.
pub(crate) fn tables(args: &TablesArgs) -> Result<bool, String> {
    print!("{}", tables::tables(&Comparison::read(&args.file)?, &Cases::load()?.all()));
    Ok(true)
}

/// Runs once against the barest server, and tells whether to print the report as JSON.
pub(crate) fn floor(args: FloorArgs) -> Result<(Report, bool), String> {
    check_cpus("--server-cpu", &[args.server_cpu])?;
    let server = peer::built_in("floor", Path::new(""))?.start(Path::new(""), 1, Some(args.server_cpu))?;
    let flags = RunFlags { pid: Some(server.pid()), ..args.flags };
    let plan = flags.plan(&server.url(), &[])?;
    if plan.topics.len() > 1 || plan.flags.processes.is_some() {
        return Err("the floor has one topic and is read by one process; leave out --topics and --processes"
            .to_owned());
    }
    Ok((run(&plan)?, plan.flags.json))
}

/// Measures one of the suites. False when the first peer made a mistake.
pub(crate) fn measure(args: &CompareArgs, suite: fn(Cases) -> Suite) -> Result<bool, String> {
    let (bench, suite) = (&args.bench, suite(Cases::load()?));
    let mut names = args.peers.clone();
    if names.is_empty() {
        let built = |peer: &String| cfg!(feature = "axum") || peer != "axum";
        names.extend(suite.peers.into_iter().filter(built));
    }
    let rounds = bench.rounds.unwrap_or(suite.rounds).max(1);
    let duration = bench.duration.unwrap_or(Duration::from_secs(suite.seconds));
    let cases = chosen(suite.case, &bench.cases)?;
    check_cpus("--server-cpu", &[bench.server_cpu])?;
    check_cpus("--load-cpus", &args.load_cpus.0)?;
    let peers = peer::find(&names, &args.peer_file, &bench.esper)?;
    let first = names.first().cloned().unwrap_or_default();
    let (seconds, scale_down) = (duration.as_secs_f64(), args.scale_down);
    let about = Asked { peers: names, rounds, seconds, scale_down };
    let mut results = Comparison { machine: Machine::here(), about, records: Vec::new() };
    let mut questions = Vec::new();
    for case in &cases {
        let topics = case.topics()?;
        let can = |peer: &&Peer| !(topics > 1 && peer.one_topic || case.workers > 1 && peer.one_worker);
        let (asked, rounds) = if case.figures { (peers.len(), rounds) } else { (1, 1) };
        let peers = peers.iter().take(asked).filter(can).collect();
        questions.push(Question { case, rounds, peers });
    }
    let describe = |case: &Case| (case.title.clone(), case.metrics.clone());
    ask(bench, duration, &questions, &mut results, describe, |case, peer| one(args, case, peer, duration))?;
    let cases = Cases::load()?.all();
    print!("{}", tables::tables(&results, &cases));
    Ok(results.passed(&first))
}

/// Runs once against a new process of the peer.
fn one(args: &CompareArgs, case: &Case, peer: &Peer, duration: Duration) -> Result<Report, String> {
    let server = peer.start(&args.bench.esper, case.workers, Some(args.bench.server_cpu))?;
    let cpus: Vec<_> = args.load_cpus.0.iter().map(usize::to_string).collect();
    let own = [
        ("--scale-down", args.scale_down.to_string()),
        ("--duration", format!("{}ms", duration.as_millis())),
        ("--cpus", cpus.join(",")),
        ("--pid", server.pid().to_string()),
    ];
    let mut flags = case.words();
    flags.extend(own.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]));
    flags.extend(peer.flags());
    run(&Plan::of(&server.url(), &flags)?)
}
