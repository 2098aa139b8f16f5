//! Many clients at once: what a connection costs when the load does not set the pace, a herd that comes back for what it
//! missed, large events beside small ones, and memory after waves.
//!
//! Each round has a new server process on a CPU of its own. The load counts marks and verifies nothing else, so that one
//! thread keeps up with ten thousand sockets.

mod caller;
mod clients;
mod connects;
mod herd;
mod large;
mod memory;
mod sheet;
mod site;
mod waves;

use crate::args::CpuList;
use crate::bench::peer::{self, Peer};
use crate::process::make_room;
use crate::run::{check_cpus, pin};
use clap::{Args, ValueEnum};
use sheet::Sheet;
use site::Site;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

const EXIT_CODES: &str =
    "Exit code: 0 when all rows are reached, 1 when not, 2 when nothing could be measured.";

/// Flags of `crowd`, as given.
#[derive(Args, Debug)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct CrowdArgs {
    /// The esper to measure
    #[arg(long, value_name = "FILE", default_value = "target/release/esper")]
    esper: PathBuf,
    /// Servers of loadtest/peers.toml to measure, of those that a measurement has
    #[arg(long, value_name = "NAMES", value_delimiter = ',', default_value = "esper,nchan,floor")]
    peers: Vec<String>,
    /// Measurements to do
    #[arg(
        long,
        value_name = "NAMES",
        value_delimiter = ',',
        value_enum,
        default_value = "connects,herd,large,waves"
    )]
    only: Vec<CrowdPart>,
    /// Rounds of each server
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = crate::args::number(1..=1_000))]
    rounds: usize,
    /// Clients of the herd and of a wave; connects have 1.4 times as many, and at most 14,000
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = crate::args::number(1..=1_000_000))]
    clients: usize,
    /// Divide every number of clients and topics, and every time, by this, to try it out
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = crate::args::number(1..=10_000))]
    scale_down: usize,
    /// CPU of the server
    #[arg(long, value_name = "CPU", default_value_t = 0)]
    server_cpu: usize,
    /// CPUs of the load, of which the first is used
    #[arg(long, value_name = "CPUS", default_value = "1", value_parser = crate::args::cpu_list)]
    load_cpus: CpuList,
    /// Write all that was measured there, as JSON
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// A measurement.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum CrowdPart {
    Connects,
    Herd,
    Large,
    Waves,
}

/// The servers of all measurements.
const PEERS: [&str; 3] = ["esper", "nchan", "floor"];
/// The shortest that a time is scaled to.
const PAUSE_MIN: Duration = Duration::from_millis(250);
/// The longest that a crowd is waited for: one that has not what it asked for by then never will.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Sockets of the load beside the clients: publishers, probes.
const OTHER_SOCKETS: usize = 128;

impl CrowdArgs {
    /// Returns a number of clients or topics as it is scaled, and at least `min`.
    fn scaled(&self, number: usize, min: usize) -> usize {
        (number / self.scale_down).max(min)
    }

    /// Returns a time as it is scaled.
    fn pause(&self, time: Duration) -> Duration {
        if self.scale_down == 1 { time } else { (time / self.scale_down as u32).max(PAUSE_MIN) }
    }

    /// Returns those of the named servers that are asked for, each of which can be started.
    fn peers(&self, names: &[&str]) -> Result<Vec<(String, Peer)>, String> {
        let asked = names.iter().filter(|name| self.peers.iter().any(|peer| peer == *name));
        asked.map(|name| Ok(((*name).to_owned(), peer::built_in(name, &self.esper)?))).collect()
    }

    /// Does one part's rounds, of each server in turn. A round that fails is put down, and the next one is done.
    fn rounds(
        &self,
        sheet: &mut Sheet,
        part: &str,
        peers: &[(String, Peer)],
        mut one: impl FnMut(&mut Sheet, usize, &Peer, &str) -> Result<(), String>,
    ) -> Result<(), String> {
        for round in 0..self.rounds {
            for (name, peer) in peers {
                if let Err(why) = one(sheet, round, peer, name) {
                    eprintln!("{part} {} {name} FAILED: {why}", round + 1);
                    sheet.fail(format!("{part}, {name}, round {}: {why}", round + 1));
                }
            }
            sheet.write(self.out.as_deref())?;
        }
        Ok(())
    }
}

/// Measures what is asked for and prints the tables. Returns whether all rows are reached; the error says why nothing could
/// be measured.
pub(crate) fn crowd(args: &CrowdArgs) -> Result<bool, String> {
    if let Some(other) = args.peers.iter().find(|peer| !PEERS.contains(&peer.as_str())) {
        return Err(format!("--peers: {other} is not measured here; give some of {}", PEERS.join(", ")));
    }
    check_cpus("--server-cpu", &[args.server_cpu])?;
    check_cpus("--load-cpus", &args.load_cpus.0)?;
    let clients = args.scaled(args.clients, 1);
    make_room(clients * 3 / 2, OTHER_SOCKETS, 8)
        .map_err(|why| why.replace("--subscribers", "--clients: sockets for"))?;
    let mut sheet = Sheet::new(args.rounds, args.clients, args.scale_down);
    // All threads of the load inherit this CPU; a server is pinned to its own when it starts.
    pin(args.load_cpus.0.first().copied());
    for part in &args.only {
        match part {
            CrowdPart::Connects => connects::measure(args, &mut sheet)?,
            CrowdPart::Herd => herd::measure(args, &mut sheet)?,
            CrowdPart::Large => large::measure(args, &mut sheet)?,
            CrowdPart::Waves => waves::measure(args, &mut sheet)?,
        }
        sheet.write(args.out.as_deref())?;
    }
    print!("{sheet}");
    if sheet.is_empty() {
        return Err("nothing was measured; the reason of each round stands above".to_owned());
    }
    Ok(sheet.passed())
}

/// Gives the calling thread of the load a higher priority than the others have, where this is allowed.
fn go_first() {
    let _ = rustix::process::setpriority_process(None, -19);
}

/// Has the kernel run the calling thread whenever it can, in the middle of other threads' slices of up to 4 ms. Where that
/// is not allowed it says so, and goes first as [`go_first`] does.
fn preempt() {
    let thread = rustix::thread::gettid().as_raw_nonzero().to_string();
    let status = Command::new("chrt").args(["--fifo", "--pid", "1", &thread]).status();
    if !status.is_ok_and(|status| status.success()) {
        eprintln!(
            "no real-time priority by chrt (util-linux): latencies have slices of 4 ms in them; run this as root"
        );
        go_first();
    }
}

/// Returns the value below which that part of all is, in milliseconds of nanoseconds; `None` of none.
fn percentile_ms(nanoseconds: impl IntoIterator<Item = u64>, part: f64) -> Option<f64> {
    let mut sorted: Vec<u64> = nanoseconds.into_iter().collect();
    sorted.sort_unstable();
    let place = (sorted.len() as f64 * part).ceil() as usize;
    sorted.get(place.saturating_sub(1)).map(|ns| *ns as f64 / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_one_of_the_values() {
        assert_eq!(percentile_ms((1..=100).map(|ms| ms * 1_000_000), 0.99), Some(99.0));
        assert_eq!(percentile_ms([5_000_000], 0.5), Some(5.0));
        assert_eq!(percentile_ms([], 0.5), None);
    }
}
