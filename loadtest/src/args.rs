//! The command line: what there is to do, and the flags of each.

use crate::crowd::CrowdArgs;
use crate::features;
use crate::soak::SoakArgs;
use crate::stamp::{EVENTS_MAX, PUBLISHERS_MAX, STAMP_BYTES, TOPICS_MAX};
use clap::builder::RangedU64ValueParser;
use clap::error::ErrorKind;
use clap::{Args, Parser, Subcommand, ValueEnum};
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::net::IpAddr;
use std::ops::RangeBounds;
use std::path::PathBuf;
use std::time::Duration;

const EVENT_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// The command line.
#[derive(Debug, Parser)]
#[command(
    name = "esper-loadtest",
    version,
    about = "Measures any Server-Sent Events server over its sockets alone",
    after_help = "cluster and queues are there in builds with the features of these names."
)]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Open subscribers, publish to them over HTTP, report what arrived and when
    #[command(after_help = EXIT_CODES)]
    Run(Box<RunArgs>),
    /// Run servers in turn, each alone on its CPU, and set their figures side by side
    Compare(CompareArgs),
    /// The same load on the barest possible server: what the kernel alone costs
    #[command(after_help = EXIT_CODES)]
    Floor(Box<FloorArgs>),
    /// Measure how cost grows with subscribers, event size and shards
    Sweep(CompareArgs),
    /// Measure publishes that are answered when they are on disk
    #[command(after_help = ON_DISK)]
    Journal(CompareArgs),
    /// Load a server for long, with subscribers that come and go and stall, and look at its memory
    Soak(SoakArgs),
    /// Measure what many clients at once cost: connects, a herd that comes back, large events, memory after waves
    Crowd(CrowdArgs),
    /// Measure a cluster of nodes on NATS JetStream, beside a bare client of it
    #[cfg(feature = "cluster")]
    #[command(after_help = ON_DISK)]
    Cluster(ClusterArgs),
    /// Draw what `compare` and `sweep` have written, as SVG
    Plot(PlotArgs),
    /// Print what `compare` has written as Markdown tables
    Tables(TablesArgs),
    /// A reader of a run in a process of its own; told what to do on its standard input
    #[command(hide = true)]
    Read,
    /// Measure the way from RabbitMQ's queues through esper to HTTP clients, beside a bare consumer
    #[cfg(feature = "queues")]
    Queues(QueuesArgs),
    /// The bare consumer of queues; told what to do on its standard input
    #[cfg(feature = "queues")]
    #[command(hide = true)]
    Consume,
    /// The barest possible server
    #[command(hide = true)]
    ServeFloor(ServeArgs),
    /// The server a Rust user would write by hand
    #[cfg(feature = "axum")]
    #[command(hide = true)]
    ServeAxum(ServeArgs),
}

const EXIT_CODES: &str = "Exit code: 0 when every subscriber got every acknowledged event once and in order, 1 when not, \
                          2 when nothing could be measured (wrong usage, unreachable server).";

const ON_DISK: &str = "Servers keep their data in folders of their own among the temporary files: set TMPDIR to a folder on the disk \
                       to measure.";

impl Cli {
    /// Reads the words behind the program's name. The error of a wrong value is one line, others have more. Help that is
    /// asked for ends the process.
    pub(crate) fn read(words: impl IntoIterator<Item = impl Into<OsString>>) -> Result<Cli, String> {
        let words: Vec<OsString> = words.into_iter().map(Into::into).collect();
        if let Some(why) = words.first().and_then(|word| word.to_str()).and_then(features::left_out) {
            return Err(why);
        }
        let program = OsString::from("esper-loadtest");
        Cli::try_parse_from([program].into_iter().chain(words)).map_err(|error| {
            let text = error.to_string();
            match error.kind() {
                ErrorKind::ValueValidation => text.lines().next().unwrap_or_default().to_owned(),
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => error.exit(),
                ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => error.exit(),
                _ => text.trim_end().to_owned(),
            }
        })
    }
}

/// A question that a run asks of a server: starting points for its flags, which say more.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum Scenario {
    /// 1,000 subscribers, 100 events a second: what does one delivery cost, and how late is it?
    Paced,
    /// 1,000 subscribers, publishes as fast as they are taken: how much can it deliver?
    Flood,
    /// 10,000 subscribers, 10 events a second: what does a large audience cost?
    Many,
    /// 10,000 topics of one subscriber each, publishes to random ones as fast as they are taken
    Topics,
    /// 1,000 subscribers of which 400 come and go, 200 times a second in all
    Churn,
    /// 100 subscribers of which 10 stop reading: do the others notice?
    // 2 MB/s to each reader: one that stalls is megabytes behind within seconds.
    Slow,
    /// 15,000 subscribers and one event: what does waiting cost?
    // It settles, for a server gives back, or takes, some memory right after the last connect.
    Idle,
}

/// Flags of `run`, as given.
#[derive(Args, Debug)]
pub(crate) struct RunArgs {
    /// The server, as http://host:port
    pub(crate) url: String,
    #[command(flatten)]
    pub(crate) flags: RunFlags,
}

/// Flags of `floor`, as given.
#[derive(Args, Debug)]
pub(crate) struct FloorArgs {
    /// CPU of the bare server
    #[arg(long, value_name = "CPU", default_value_t = 0)]
    pub(crate) server_cpu: usize,
    #[command(flatten)]
    pub(crate) flags: RunFlags,
}

/// Everything about a run but where the server is.
#[derive(Args, Debug)]
pub(crate) struct RunFlags {
    /// Start from this scenario's values; a flag that is given overrides it
    #[arg(long, value_enum)]
    pub(crate) scenario: Option<Scenario>,

    /// Connections that listen
    #[arg(long, value_name = "N", default_value = "1000", value_parser = number(1..), help_heading = "Subscribers")]
    #[arg(default_value_ifs = [("scenario", "many", "10000"), ("scenario", "topics", "10000")])]
    #[arg(default_value_ifs = [("scenario", "slow", "100"), ("scenario", "idle", "15000")])]
    pub(crate) subscribers: usize,
    /// Topics; subscribers and publishes are spread over them in turn
    #[arg(long, value_name = "N", default_value = "1", help_heading = "Subscribers")]
    #[arg(value_parser = number(1..=TOPICS_MAX as u64), default_value_if("scenario", "topics", "10000"))]
    pub(crate) topics: usize,
    /// Name of the topic, or its start when there are several [default: a new one each run]
    #[arg(long, value_name = "NAME", help_heading = "Subscribers")]
    pub(crate) topic: Option<String>,
    /// Path of a topic's stream
    #[arg(long, value_name = "PATH", default_value = "/subscribe/{topic}", help_heading = "Subscribers")]
    pub(crate) subscribe_path: String,
    /// Subscribers, of all, that come and go; the others must get everything
    #[arg(long, value_name = "N", default_value = "0", help_heading = "Subscribers")]
    #[arg(default_value_if("scenario", "churn", "400"))]
    pub(crate) churning: usize,
    /// How many of them leave and come again each second, in all [default: half of them, so that each stays two seconds]
    #[arg(long, value_name = "R", value_parser = rate, help_heading = "Subscribers")]
    pub(crate) churn_rate: Option<f64>,
    /// Subscribers, of all, that stop reading after the response's head; the server may cut them
    #[arg(long, value_name = "N", default_value = "0", help_heading = "Subscribers")]
    #[arg(default_value_if("scenario", "slow", "10"))]
    pub(crate) stalled: usize,
    /// Connections in the making at any time
    #[arg(long, value_name = "N", default_value = "256", value_parser = number(1..), help_heading = "Subscribers")]
    pub(crate) connect_batch: usize,
    /// All subscribers must have their 200 by then
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = duration, help_heading = "Subscribers")]
    pub(crate) connect_timeout: Duration,
    /// Waited with all connected before memory is looked at and publishing begins
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = time, help_heading = "Subscribers")]
    #[arg(default_value_if("scenario", "idle", "1s"))]
    pub(crate) settle: Duration,
    /// Local address to connect from, in turn (repeatable) [default: on loopback 127.0.0.2 and so on as needed]
    #[arg(long, value_name = "IP", help_heading = "Subscribers")]
    pub(crate) source_address: Vec<IpAddr>,
    /// Connections from one local address [default: 25000, on 127.0.0.0/8 where there are more addresses 5000]
    #[arg(long, value_name = "N", value_parser = number(1..), help_heading = "Subscribers")]
    pub(crate) connections_per_address: Option<usize>,

    /// Events a second in all; latency counts from when each was due
    #[arg(long, value_name = "R", conflicts_with = "flood", value_parser = rate, help_heading = "Publishing")]
    #[arg(default_value = "100", default_value_ifs = [("scenario", "many", "10"), ("scenario", "slow", "2000")])]
    #[arg(default_value_ifs = [("scenario", "flood", None), ("scenario", "topics", None::<&str>)])]
    pub(crate) rate: Option<f64>,
    /// Let events be due at random as independent clients' are, the same in every run, instead of evenly
    #[arg(long, conflicts_with = "flood", help_heading = "Publishing")]
    pub(crate) poisson: bool,
    /// Publish as fast as the server answers; latency counts from when each was written
    #[arg(long, help_heading = "Publishing")]
    pub(crate) flood: bool,
    /// Publishes unanswered on a connection at any time
    #[arg(long, value_name = "N", default_value = "256", value_parser = number(1..), help_heading = "Publishing")]
    pub(crate) in_flight: usize,
    /// A flood waits while subscribers are on average so many events behind, so that it asks no more of either side than
    /// it can do for long [default: 4096, or what is 1 MiB]
    #[arg(long, value_name = "N", help_heading = "Publishing")]
    pub(crate) behind_max: Option<u64>,
    /// Connections that publish
    #[arg(long, value_name = "N", default_value = "1", help_heading = "Publishing")]
    #[arg(value_parser = number(1..=PUBLISHERS_MAX as u64))]
    pub(crate) publishers: usize,
    /// Publish to topics at random instead of in turn
    #[arg(long, default_value_if("scenario", "topics", "true"), help_heading = "Publishing")]
    pub(crate) random_topics: bool,
    /// How long to publish
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration, help_heading = "Publishing")]
    pub(crate) duration: Duration,
    /// How many events to publish, instead of for how long
    #[arg(long, value_name = "N", conflicts_with = "duration", help_heading = "Publishing")]
    #[arg(value_parser = RangedU64ValueParser::<u64>::new().range(1..EVENTS_MAX))]
    #[arg(default_value_if("scenario", "idle", "1"))]
    pub(crate) events: Option<u64>,
    /// Bytes of data in each event
    #[arg(long, value_name = "BYTES", default_value = "128", help_heading = "Publishing")]
    #[arg(value_parser = number(STAMP_BYTES as u64..=EVENT_BYTES_MAX))]
    #[arg(default_value_if("scenario", "slow", "1024"))]
    pub(crate) size: usize,
    /// Publish to this server of a cluster instead, as http://host:port
    #[arg(long, value_name = "URL", help_heading = "Publishing")]
    pub(crate) publish_url: Option<String>,
    /// Path to publish to
    #[arg(long, value_name = "PATH", default_value = "/publish/{topic}", help_heading = "Publishing")]
    pub(crate) publish_path: String,
    /// Body of a publish; {data} and {topic} are filled in, \n is a line end
    #[arg(long, value_name = "TEXT", default_value = r"data:{data}\n\n", help_heading = "Publishing")]
    pub(crate) publish_body: String,

    /// Speak this instead of HTTP, as JSON of what a peer of loadtest/peers.toml has as `wire`
    #[arg(long, value_name = "JSON", help_heading = "Requests")]
    pub(crate) wire: Option<String>,
    /// Header sent by both sides (repeatable)
    #[arg(long, value_name = "NAME: VALUE", help_heading = "Requests")]
    pub(crate) header: Vec<String>,
    /// Bearer token of both sides
    #[arg(long, env = "ESPER_LOADTEST_TOKEN", hide_env_values = true, help_heading = "Requests")]
    pub(crate) token: Option<String>,
    /// Bearer token of subscribers
    #[arg(long, env = "ESPER_LOADTEST_SUBSCRIBE_TOKEN", hide_env_values = true, help_heading = "Requests")]
    pub(crate) subscribe_token: Option<String>,
    /// Bearer token of publishers
    #[arg(long, env = "ESPER_LOADTEST_PUBLISH_TOKEN", hide_env_values = true, help_heading = "Requests")]
    pub(crate) publish_token: Option<String>,

    /// Read every byte of every event: tells doubled from lost, and sees reordered and corrupt ones
    #[arg(long, help_heading = "Measuring")]
    pub(crate) verify: bool,
    /// Silence after which what has not come is lost
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = duration, help_heading = "Measuring")]
    pub(crate) drain: Duration,
    /// Process of the server, for the CPU time and memory of it and those it started
    #[arg(long, help_heading = "Measuring")]
    pub(crate) pid: Option<u32>,
    /// Threads that read subscribers
    #[arg(long, value_name = "N", default_value = "1", value_parser = number(1..=1024), help_heading = "Measuring")]
    pub(crate) threads: usize,
    /// Processes that read subscribers, one thread each, when one process may not open enough files
    #[arg(long, value_name = "N", conflicts_with = "threads", value_parser = number(1..=1024), help_heading = "Measuring")]
    pub(crate) processes: Option<usize>,
    /// CPUs to pin the reading threads and then the publishing one to, in turn, as 0,2-3
    #[arg(long, value_name = "LIST", value_parser = cpu_list, help_heading = "Measuring")]
    pub(crate) cpus: Option<CpuList>,
    /// Print one JSON object instead of a table
    #[arg(long, help_heading = "Measuring")]
    pub(crate) json: bool,
    /// Divide every number of subscribers and topics by this
    #[arg(long, hide = true, default_value_t = 1)]
    pub(crate) scale_down: usize,
}

/// Flags of everything that measures round by round, as given.
#[derive(Args, Clone, Debug, Deserialize, Serialize)]
pub(crate) struct BenchArgs {
    /// The esper to measure
    #[arg(long, value_name = "FILE", default_value = "target/release/esper")]
    pub(crate) esper: PathBuf,
    /// What to measure, by name [default: all]
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub(crate) cases: Vec<String>,
    /// Times each is measured, in turn; medians are shown [default: 5, of a sweep 3]
    #[arg(long, value_name = "N")]
    pub(crate) rounds: Option<usize>,
    /// Time of each run, about [default: 6s; a drain 3s, a point of a sweep 2s, of the journal 10s]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) duration: Option<Duration>,
    /// CPU of the server, or of the consumer
    #[arg(long, value_name = "CPU", default_value_t = 0)]
    pub(crate) server_cpu: usize,
    /// Write all that was measured there, as JSON, after each round
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
}

/// Flags of `compare`, `sweep` and `journal`, as given.
#[derive(Args, Debug)]
pub(crate) struct CompareArgs {
    #[command(flatten)]
    pub(crate) bench: BenchArgs,
    /// Servers, the first being the one the others are set against; names of --peer-file too [default: those of
    /// loadtest/peers.toml that the table is about]
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub(crate) peers: Vec<String>,
    /// More servers, in the form of loadtest/peers.toml (repeatable)
    #[arg(long, value_name = "FILE")]
    pub(crate) peer_file: Vec<PathBuf>,
    /// CPUs of the load, as 1 or 2-3
    #[arg(long, value_name = "LIST", default_value = "1", value_parser = cpu_list)]
    pub(crate) load_cpus: CpuList,
    /// Divide every number of subscribers and topics by this, to try it out on a small machine
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) scale_down: usize,
}

/// Flags of `cluster`, as given.
#[cfg(feature = "cluster")]
#[derive(Args, Debug)]
pub(crate) struct ClusterArgs {
    #[command(flatten)]
    pub(crate) bench: BenchArgs,
    /// The script that starts NATS servers and stops them at the end
    #[arg(long, value_name = "FILE", default_value = "scripts/nats")]
    pub(crate) nats: PathBuf,
    /// CPU of the load where the node has one to itself
    #[arg(long, value_name = "CPU", default_value_t = 1)]
    pub(crate) load_cpu: usize,
    /// Divide every number of subscribers and topics by this, to try it out on a small machine
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) scale_down: usize,
}

/// Flags of `queues`, as given.
#[cfg(feature = "queues")]
#[derive(Args, Clone, Debug, Deserialize, Serialize)]
pub(crate) struct QueuesArgs {
    #[command(flatten)]
    pub(crate) bench: BenchArgs,
    /// The RabbitMQ to use, as amqp://user:password@host:port/vhost [default: one that --rabbitmq starts]
    #[arg(long, value_name = "URL", env = "ESPER_LOADTEST_AMQP_URL", hide_env_values = true)]
    // It holds a password, which is not for the file of results.
    #[serde(skip)]
    pub(crate) amqp_url: Option<String>,
    /// The script that starts a RabbitMQ and stops it at the end
    #[arg(long, value_name = "FILE", default_value = "scripts/rabbitmq")]
    pub(crate) rabbitmq: PathBuf,
    /// Queues, each with a client of its own
    #[arg(long, value_name = "N", default_value = "100", value_parser = number(1..=TOPICS_MAX as u64))]
    pub(crate) queues: usize,
    /// Bytes of each message
    #[arg(long, value_name = "BYTES", default_value = "128", value_parser = number(STAMP_BYTES as u64..))]
    pub(crate) size: usize,
    /// Messages a second in all, where they are paced
    #[arg(long, value_name = "R", default_value = "2000", value_parser = rate)]
    pub(crate) rate: f64,
    /// Prefetch wherever it is not what is varied; the window of acknowledgement is half of it
    #[arg(long, value_name = "N", default_value = "200", value_parser = prefetch)]
    pub(crate) prefetch: u16,
    /// Prefetches to drain with, one after another
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = prefetch)]
    #[arg(default_value = "1,10,50,100,200,500,1000")]
    pub(crate) sweep: Vec<u16>,
    /// CPU of the publisher and the HTTP clients
    #[arg(long, value_name = "CPU", default_value_t = 0)]
    pub(crate) load_cpu: usize,
    /// CPU of the RabbitMQ, if this starts it: alone there it is as fast for one consumer as for the other
    #[arg(long, value_name = "CPU", default_value_t = 1)]
    pub(crate) broker_cpu: usize,
    /// Measure nothing, and print the tables of what --out wrote there
    #[arg(long, value_name = "FILE")]
    pub(crate) from: Option<PathBuf>,
}

/// Flags of `plot`, as given.
#[derive(Args, Debug)]
pub(crate) struct PlotArgs {
    /// Files that `compare --out` and `sweep --out` wrote
    #[arg(required = true)]
    pub(crate) files: Vec<PathBuf>,
    /// Folder to draw into
    #[arg(long, value_name = "FOLDER", default_value = ".")]
    pub(crate) into: PathBuf,
}

/// Flags of `tables`, as given.
#[derive(Args, Debug)]
pub(crate) struct TablesArgs {
    /// File that `compare --out`, `journal --out` or `cluster --out` wrote
    pub(crate) file: PathBuf,
}

/// Flags of the servers to measure against, as given.
#[derive(Args, Debug)]
pub(crate) struct ServeArgs {
    /// TCP port on 127.0.0.1
    #[arg(long)]
    pub(crate) port: u16,
    /// Threads
    #[arg(long, default_value_t = 1)]
    pub(crate) workers: usize,
    /// Folder of the barest server's files: it answers and delivers what is on disk
    #[arg(long)]
    pub(crate) commit: Option<PathBuf>,
}

/// Reads a whole number in that range.
pub(crate) fn number(range: impl RangeBounds<u64>) -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(range)
}

/// Reads times a second.
fn rate(text: &str) -> Result<f64, String> {
    let rate = text.parse().ok().filter(|rate| *rate > 0.0 && *rate <= 1e9);
    rate.ok_or_else(|| "it is no rate; write times a second, as 100 or 0.5".to_owned())
}

/// Reads how many messages a broker sends ahead.
#[cfg(feature = "queues")]
fn prefetch(text: &str) -> Result<u16, String> {
    let prefetch = text.parse().ok().filter(|prefetch| *prefetch > 0);
    prefetch.ok_or_else(|| {
        "a prefetch of 0 is none at all, which esper does not take; give at least 1".to_owned()
    })
}

/// Reads a time, of seconds where no unit is given.
fn time(text: &str) -> Result<Duration, String> {
    match text.parse() {
        Ok(seconds) => Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string()),
        Err(_) => humantime::parse_duration(text).map_err(|_| "write it as 10s, 500ms or 2m".to_owned()),
    }
}

/// Reads a time which is not none.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let duration = time(text)?;
    if duration.is_zero() { Err("must be longer than 0".to_owned()) } else { Ok(duration) }
}

/// CPU numbers. A type of its own, for clap takes a plain `Vec` for a repeated flag.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct CpuList(pub(crate) Vec<usize>);

/// Reads CPU numbers.
pub(crate) fn cpu_list(text: &str) -> Result<CpuList, String> {
    let wrong = || format!("{text:?} is no list of CPUs; write it as 0,2-3");
    let mut cpus = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let first: usize = first.trim().parse().map_err(|_| wrong())?;
        let last: usize = last.trim().parse().map_err(|_| wrong())?;
        if first > last || last >= 4096 {
            return Err(wrong());
        }
        cpus.extend(first..=last);
    }
    Ok(CpuList(cpus))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_fit_together() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn times_and_cpus_are_read() {
        assert_eq!(duration("10"), Ok(Duration::from_secs(10)));
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(cpu_list("0,2-4"), Ok(CpuList(vec![0, 2, 3, 4])));
    }
}
