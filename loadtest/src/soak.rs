//! A soak: mixed load for an hour, in short runs beside one another, while the server's memory is looked at. Memory that
//! grows with time, an event that is lost once a million times: no shorter run shows them.
//!
//! Each load is a run of this program in a process of its own, again and again with new topics, so that subscribers come and
//! go, stall and are cut from the first minute to the last.

use crate::args::duration;
use crate::bench::peer::{self, Running};
use crate::bench::results::write_json;
use crate::child::{Child, Folder};
use crate::compare::plot::draw_time;
use crate::process::Usage;
use crate::report::Report;
use crate::report_table::thousands;
use clap::Args;
use serde::Serialize;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const EXIT_CODES: &str = "Exit code: 0 when nothing was lost, doubled or out of order and memory grew by at most 5 % after the first \
                          sixth of the time, 1 when not, 2 when nothing could be measured.";

/// Flags of `soak`, as given.
#[derive(Args, Debug)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct SoakArgs {
    /// The esper to load
    #[arg(long, value_name = "FILE", default_value = "target/release/esper")]
    esper: PathBuf,
    /// Servers of loadtest/peers.toml to load, one after the other
    #[arg(long, value_name = "NAMES", value_delimiter = ',', default_value = "esper,esper-journal")]
    peers: Vec<String>,
    /// Time of each, from 20s
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = duration)]
    duration: Duration,
    /// Load them at the same time instead: figures of time mean less, and those of memory and loss as much
    #[arg(long)]
    together: bool,
    /// Threads of the server
    #[arg(long, value_name = "N", default_value_t = 1)]
    workers: usize,
    /// Divide every number of subscribers and topics by this, to try it out on a small machine
    #[arg(long, value_name = "N", default_value_t = 1)]
    scale_down: usize,
    /// Write all that was measured there, as JSON
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Draw memory over time there, as SVG
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
}

/// A load; all run beside one another. Together they are 10,000 subscribers, of which 200 a second come and go, and
/// 1,000 publishes a second.
struct Load {
    name: &'static str,
    flags: &'static str,
}

const LOADS: [Load; 3] = [
    Load {
        name: "128 B",
        flags: "--subscribers 8000 --topics 800 --rate 800 --size 128 --churning 600 --churn-rate 120 --stalled 40",
    },
    Load {
        name: "2 KiB",
        flags: "--subscribers 1800 --topics 180 --rate 180 --size 2048 --churning 240 --churn-rate 60 --stalled 20",
    },
    Load {
        name: "64 KiB",
        flags: "--subscribers 200 --topics 20 --rate 20 --size 65536 --churning 60 --churn-rate 20 --stalled 10",
    },
];
/// Small, so that it is full long before memory is first compared.
const SERVER_FLAGS: [&str; 2] = ["--history-memory", "32MiB"];
/// The longest of the short runs.
const RUN_MAX: Duration = Duration::from_secs(60);
/// The times that memory is looked at.
const SAMPLES: u32 = 360;
/// The part of the time after which memory is compared with the end's: ten minutes of an hour.
const WARM: f64 = 1.0 / 6.0;
const MIB: f64 = (1 << 20) as f64;
/// The samples of which each of the two is the median: waves of the load move one sample.
const WINDOW: usize = 12;
/// The most that memory may grow from then on, as a ratio.
const GROWTH_MAX: f64 = 1.05;

/// The result of a soak.
#[derive(Debug, Default, Serialize)]
struct Soaked {
    server: String,
    seconds: f64,
    /// Seconds since the start, and resident bytes of the server.
    rss: Vec<(f64, u64)>,
    runs: u64,
    /// Runs that lost, doubled or reordered something, or could not be done; the first of each load in words.
    failed: Vec<String>,
    published: u64,
    delivered: u64,
    stays: u64,
    /// Subscribers that the server cut because they had stopped reading.
    cut: u64,
}

impl Soaked {
    /// Returns the memory in bytes after the first sixth of the time and at the end, each the median of some samples;
    /// `None` for too short a soak.
    fn compared(&self) -> Option<[f64; 2]> {
        let warm = self.rss.iter().position(|(seconds, _)| *seconds >= self.seconds * WARM)?;
        let after = self.rss.get(warm..warm + WINDOW)?;
        let last = self.rss.get(self.rss.len().checked_sub(WINDOW)?..)?;
        Some([median(after)?, median(last)?])
    }

    fn passed(&self) -> bool {
        self.failed.is_empty() && self.compared().is_some_and(|[after, last]| last / after <= GROWTH_MAX)
    }

    /// Returns the row of a table in Markdown.
    fn row(&self) -> String {
        let memory = self.compared().map_or("? | ? | too short".to_owned(), |[after, last]| {
            format!("{:.1} | {:.1} | {:.3}", after / MIB, last / MIB, last / after)
        });
        format!(
            "| {} | {:.0} | {} | {} | {} | {} | {} | {memory} |",
            self.server,
            self.seconds / 60.0,
            thousands(self.published as f64),
            thousands(self.delivered as f64),
            thousands(self.stays as f64),
            self.cut,
            self.failed.len(),
        )
    }

    fn add(&mut self, load: &Load, outcome: Result<Report, String>) {
        self.runs += 1;
        let failure = match outcome {
            Ok(report) => {
                self.published += report.publishes.acknowledged;
                self.delivered += report.deliveries.received;
                self.stays += report.churn.as_ref().map_or(0, |churn| churn.stays);
                self.cut += report.stalled.as_ref().map_or(0, |stalled| stalled.cut);
                (!is_good(&report)).then(|| report.to_string())
            }
            Err(why) => Some(why),
        };
        if let Some(why) = failure {
            eprintln!("{} FAILED: {why}", load.name);
            self.failed.push(format!("{}: {why}", load.name));
        }
    }
}

/// An event may be on its way to a subscriber for this long on a busy machine. If any was, the subscribers that come and go
/// miss events without a fault of the server's.
const ON_ITS_WAY_US: f64 = 1e6;

/// Returns whether a run found no fault of the server's.
fn is_good(report: &Report) -> bool {
    report.passed || report.passed_but_for_missed && report.latency_us.max >= ON_ITS_WAY_US
}

fn median(samples: &[(f64, u64)]) -> Option<f64> {
    let mut bytes: Vec<u64> = samples.iter().map(|(_, bytes)| *bytes).collect();
    bytes.sort_unstable();
    bytes.get(bytes.len() / 2).map(|bytes| *bytes as f64)
}

/// Soaks each server in turn; prints a table, and tells whether all passed.
pub(crate) fn soak(args: &SoakArgs) -> Result<bool, String> {
    let mut all = Vec::new();
    let write = |all: &Vec<Soaked>| args.out.as_ref().map_or(Ok(()), |out| write_json(all, out));
    if args.together {
        std::thread::scope(|scope| {
            let soaks: Vec<_> = args.peers.iter().map(|name| scope.spawn(|| soak_one(args, name))).collect();
            let ended = soaks.into_iter().map(|soak| soak.join().map_err(|_| "a soak failed".to_owned())?);
            let (ended, failed): (Vec<_>, Vec<_>) = ended.partition(Result::is_ok);
            all = ended.into_iter().flatten().collect();
            write(&all)?;
            failed.into_iter().find_map(Result::err).map_or(Ok(()), Err)
        })?;
    } else {
        for name in &args.peers {
            all.push(soak_one(args, name)?);
            write(&all)?;
        }
    }
    if let Some(plot) = &args.plot {
        let mib = |soaked: &Soaked| {
            let points = soaked.rss.iter().map(|(seconds, rss)| (seconds / 60.0, *rss as f64 / MIB));
            (soaked.server.clone(), points.collect())
        };
        draw_time("Resident memory of a soak", "MiB", &all.iter().map(mib).collect::<Vec<_>>(), plot)?;
    }
    println!(
        "| server | minutes | publishes | deliveries | stays | stalled and cut | runs that failed | MiB after a sixth | MiB at the end | growth |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|");
    all.iter().for_each(|soaked| println!("{}", soaked.row()));
    Ok(all.iter().all(Soaked::passed))
}

fn soak_one(args: &SoakArgs, name: &str) -> Result<Soaked, String> {
    let server = peer::built_in(name, &args.esper)?.with(&SERVER_FLAGS, Vec::new());
    let server = server.start(&args.esper, args.workers, None)?;
    let folder = Folder::temporary()?;
    let mut soaked = Soaked { server: name.to_owned(), ..Soaked::default() };
    let (began, interval) = (Instant::now(), args.duration / SAMPLES);
    let mut running: [Option<ShortRun>; LOADS.len()] = Default::default();
    let mut started = 0;
    loop {
        let passed = began.elapsed();
        let left = args.duration.saturating_sub(passed);
        for (load, slot) in LOADS.iter().zip(&mut running) {
            if let Some(outcome) = slot.as_mut().and_then(ShortRun::outcome) {
                soaked.add(load, outcome);
                *slot = None;
            }
            // A shorter one would be over before its subscribers have come and gone.
            if slot.is_none() && left >= RUN_MAX.min(args.duration / 4) {
                // Runs that begin in the same moment would have the same topics.
                started += 1;
                let topic = format!("soak{started}x");
                let (time, folder) = (left.min(RUN_MAX), folder.path());
                *slot = Some(ShortRun::start(args, load, &topic, &server, time, folder)?);
            }
        }
        if left.is_zero() && running.iter().all(Option::is_none) {
            break;
        }
        if passed >= interval * soaked.rss.len() as u32 && !left.is_zero() {
            let usage = Usage::now(server.pid());
            let rss = usage.ok_or_else(|| format!("{name} has ended"))?.rss_bytes;
            if soaked.rss.len().is_multiple_of(SAMPLES as usize / 30) {
                let (minutes, of) = (passed.as_secs_f64() / 60.0, args.duration.as_secs_f64() / 60.0);
                eprintln!("{name}: {minutes:.1} of {of:.1} min, {} MiB, {} runs", rss >> 20, soaked.runs);
            }
            soaked.rss.push((passed.as_secs_f64(), rss));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    soaked.seconds = args.duration.as_secs_f64();
    Ok(soaked)
}

/// A run of one load that is under way in a process of its own.
struct ShortRun {
    child: Child,
    report: PathBuf,
}

impl ShortRun {
    fn start(
        args: &SoakArgs,
        load: &Load,
        topic: &str,
        server: &Running,
        duration: Duration,
        folder: &Path,
    ) -> Result<ShortRun, String> {
        let report = folder.join(load.name);
        let file = File::create(&report).map_err(|error| format!("{}: {error}", report.display()))?;
        let program = std::env::current_exe().map_err(|error| format!("who am I? {error}"))?;
        let mut command = Command::new(program);
        command.args(["run", &server.url(), "--verify", "--json", "--drain", "30s", "--topic", topic]);
        command.args(load.flags.split(' '));
        command.args(["--duration", &format!("{}ms", duration.as_millis())]);
        command.args(["--scale-down", &args.scale_down.to_string()]);
        command.stdin(Stdio::null()).stdout(file).stderr(Stdio::null());
        Ok(ShortRun { child: Child::start(&mut command, None)?, report })
    }

    /// Returns its report once it has ended.
    fn outcome(&mut self) -> Option<Result<Report, String>> {
        let status = self.child.ended()?;
        let text = std::fs::read_to_string(&self.report).unwrap_or_default();
        Some(serde_json::from_str(&text).map_err(|_| format!("nothing could be measured ({status})")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Latency;

    fn soaked(rss: impl Fn(f64) -> u64) -> Soaked {
        let rss = (0..360).map(|sample| (f64::from(sample) * 10.0, rss(f64::from(sample) * 10.0))).collect();
        Soaked { seconds: 3600.0, rss, ..Soaked::default() }
    }

    #[test]
    fn memory_may_grow_before_it_is_compared_and_one_sample_may_be_high_but_no_drift_passes() {
        assert!(soaked(|seconds| if seconds < 590.0 { 10 } else { 100_000 }).passed());
        assert!(soaked(|seconds| if seconds == 3590.0 { 900_000 } else { 100_000 }).passed());
        assert!(!soaked(|seconds| 100_000 + 2 * seconds as u64).passed(), "6 % in 50 minutes");
        assert!(!Soaked { seconds: 60.0, rss: vec![(0.0, 1)], ..Soaked::default() }.passed(), "too short");
    }

    #[test]
    fn a_failed_run_fails_the_soak() {
        let mut one = soaked(|_| 100_000);
        let good = Report { passed: true, passed_but_for_missed: true, ..Report::default() };
        one.add(&LOADS[0], Ok(good.clone()));
        assert!(one.passed());
        let late = Latency { max: 2e6, ..Latency::default() };
        let missed = Report { passed: false, ..good };
        assert!(!is_good(&missed));
        assert!(is_good(&Report { latency_us: late.clone(), ..missed }));
        assert!(!is_good(&Report { latency_us: late, ..Report::default() }), "something else was wrong");
        one.add(&LOADS[0], Err("gone".to_owned()));
        assert!(!one.passed() && one.failed == ["128 B: gone"]);
    }
}
