//! Measures any Server-Sent Events server over its sockets alone: opens subscribers, publishes to them over HTTP, and tells
//! what was lost, doubled, reordered or late.
//!
//! ```text
//! args -> plan -> run -> subscribers (threads, or processes by remote: connect -> stream -> count | verify -> sequence, churn)
//!                   \                                                          -> tally \
//!                    \-> publisher   (thread: schedule, backlog, stamp)                  -> report
//!
//! compare, sweep, journal, queues, cluster
//!         -> bench: for each case, round and peer a new process (child) and a run -> results -> tables, plot
//! soak    -> many runs beside one another against one process
//! crowd   -> for each measurement, round and server a new process -> clients, caller -> sheet
//! ```
//! It knows the server by HTTP and the event stream format only, so what it measures of one server it measures of another.

#![forbid(unsafe_code)]

mod args;
mod backlog;
mod bench;
mod child;
mod chunked;
mod churn;
#[cfg(feature = "cluster")]
mod cluster;
mod compare;
mod connect;
mod count;
mod crowd;
mod features;
mod http;
mod plan;
mod poll;
mod process;
mod publisher;
#[cfg(feature = "queues")]
mod queues;
mod remote;
mod report;
mod report_table;
mod run;
mod schedule;
mod sequence;
mod serve;
mod shared;
mod soak;
mod stamp;
mod stream;
mod subscribers;
mod tally;
mod verify;
mod wire;

use args::{Cli, Command};
use report::Report;
use std::process::ExitCode;

/// Nothing could be measured: wrong usage, unreachable server.
const EXIT_NOT_MEASURED: u8 = 2;

fn main() -> ExitCode {
    match Cli::read(std::env::args_os().skip(1)).and_then(|cli| done(cli.command)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(why) => {
            eprintln!("error: {}", why.strip_prefix("error: ").unwrap_or(&why));
            ExitCode::from(EXIT_NOT_MEASURED)
        }
    }
}

/// Does what was asked, and tells whether all was well. An error means that nothing could be measured.
fn done(command: Command) -> Result<bool, String> {
    child::clear_away_when_interrupted()?;
    match command {
        Command::Run(args) => {
            let words: Vec<_> = std::env::args().skip(1).collect();
            let plan = args.flags.plan(&args.url, &words)?;
            print(&run::run(&plan)?, plan.flags.json)
        }
        Command::Floor(args) => {
            let (report, json) = compare::floor(*args)?;
            print(&report, json)
        }
        Command::Compare(args) => compare::measure(&args, |all| all.compare),
        Command::Sweep(args) => compare::measure(&args, |all| all.sweep),
        Command::Journal(args) => compare::journal(&args),
        Command::Soak(args) => soak::soak(&args),
        Command::Crowd(args) => crowd::crowd(&args),
        #[cfg(feature = "cluster")]
        Command::Cluster(args) => cluster::measure(&args),
        Command::Plot(args) => compare::plot(&args),
        Command::Tables(args) => compare::tables(&args),
        #[cfg(feature = "queues")]
        Command::Queues(args) => queues::queues(&args),
        #[cfg(feature = "queues")]
        Command::Consume => queues::consume().map(|()| true),
        Command::Read => remote::read().map(|()| true),
        Command::ServeFloor(args) => serve::floor(&args).map(|()| true),
        #[cfg(feature = "axum")]
        Command::ServeAxum(args) => serve::axum(&args).map(|()| true),
    }
}

fn print(report: &Report, json: bool) -> Result<bool, String> {
    if json {
        println!("{}", serde_json::to_string(report).map_err(|error| error.to_string())?);
    } else {
        print!("{report}");
    }
    Ok(report.passed)
}
