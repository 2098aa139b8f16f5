//! Measures any Server-Sent Events server over its sockets alone: opens subscribers, publishes to them over HTTP, and tells
//! what was lost, doubled, reordered or late.
//!
//! ```text
//! args -> run -> subscribers (threads: poll, http, chunked -> count | verify -> sequence) -> tally \
//!            \-> publisher   (thread:  poll, http, schedule, stamp)                                  -> report
//! ```
//! It knows the server by HTTP and the event stream format only, so what it measures of one server it measures of another.

#![forbid(unsafe_code)]

mod args;
mod chunked;
mod count;
mod http;
mod poll;
mod process;
mod publisher;
mod report;
mod run;
mod schedule;
mod sequence;
mod shared;
mod stamp;
mod subscribers;
mod tally;
mod verify;

use args::{Cli, Command};
use clap::Parser;
use std::process::ExitCode;

/// Nothing could be measured: wrong usage, unreachable server.
const EXIT_NOT_MEASURED: u8 = 2;

fn main() -> ExitCode {
    let Command::Run(args) = Cli::parse().command;
    match args.plan().and_then(|plan| Ok((run::run(&plan)?, plan.json))) {
        Ok((report, json)) => print(&report, json),
        Err(why) => {
            eprintln!("error: {why}");
            ExitCode::from(EXIT_NOT_MEASURED)
        }
    }
}

fn print(report: &report::Report, json: bool) -> ExitCode {
    if json {
        match serde_json::to_string(report) {
            Ok(text) => println!("{text}"),
            Err(why) => {
                eprintln!("error: the report cannot be written: {why}");
                return ExitCode::from(EXIT_NOT_MEASURED);
            }
        }
    } else {
        print!("{report}");
    }
    if report.passed() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
