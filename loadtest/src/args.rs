//! Flags, and the checked plan that comes of them.

use crate::http::{Headers, Target};
use crate::stamp::{EVENTS_MAX, PUBLISHERS_MAX, Payload, STAMP_BYTES, TOPICS_MAX};
use clap::{Args, Parser, Subcommand};
use std::net::IpAddr;
use std::time::Duration;

/// The command line.
#[derive(Debug, Parser)]
#[command(
    name = "esper-loadtest",
    version,
    about = "Measures any Server-Sent Events server over its sockets alone"
)]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Open subscribers, publish to them over HTTP, report what arrived and when
    #[command(after_help = EXIT_CODES)]
    Run(Box<RunArgs>),
}

const EXIT_CODES: &str = "Exit code: 0 when every subscriber got every acknowledged event once and in order, 1 when not, \
                          2 when nothing could be measured (wrong usage, unreachable server).";

/// Flags of `run`, as given.
#[derive(Args, Debug)]
pub(crate) struct RunArgs {
    /// The server, as http://host:port
    url: String,

    /// Connections that listen
    #[arg(long, value_name = "N", default_value_t = 1000, help_heading = "Subscribers")]
    subscribers: usize,
    /// Topics; subscribers and publishes are spread over them in turn
    #[arg(long, value_name = "N", default_value_t = 1, help_heading = "Subscribers")]
    topics: usize,
    /// Name of the topic, or its start when there are several [default: a new one each run]
    #[arg(long, value_name = "NAME", help_heading = "Subscribers")]
    topic: Option<String>,
    /// Path of a topic's stream
    #[arg(long, value_name = "PATH", default_value = "/subscribe/{topic}", help_heading = "Subscribers")]
    subscribe_path: String,
    /// Connections in the making at any time
    #[arg(long, value_name = "N", default_value_t = 256, help_heading = "Subscribers")]
    connect_batch: usize,
    /// All subscribers must have their 200 by then
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = duration, help_heading = "Subscribers")]
    connect_timeout: Duration,
    /// Local address to connect from, in turn (repeatable) [default: on loopback 127.0.0.2 and so on as needed]
    #[arg(long, value_name = "IP", help_heading = "Subscribers")]
    source_address: Vec<IpAddr>,
    /// Connections one local address can hold: its ports, less some for others
    #[arg(long, value_name = "N", default_value_t = 25_000, help_heading = "Subscribers")]
    connections_per_address: usize,

    /// Events a second in all; latency counts from when each was due
    #[arg(
        long,
        value_name = "R",
        default_value_t = 100.0,
        conflicts_with = "flood",
        help_heading = "Publishing"
    )]
    rate: f64,
    /// Publish as fast as the server answers; latency counts from when each was written
    #[arg(long, help_heading = "Publishing")]
    flood: bool,
    /// Publishes unanswered on a connection at any time
    #[arg(long, value_name = "N", default_value_t = 256, help_heading = "Publishing")]
    in_flight: usize,
    /// Connections that publish
    #[arg(long, value_name = "N", default_value_t = 1, help_heading = "Publishing")]
    publishers: usize,
    /// How long to publish
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration, help_heading = "Publishing")]
    duration: Duration,
    /// How many events to publish, instead of for how long
    #[arg(long, value_name = "N", conflicts_with = "duration", help_heading = "Publishing")]
    events: Option<u64>,
    /// Bytes of data in each event
    #[arg(long, value_name = "BYTES", default_value_t = 128, help_heading = "Publishing")]
    size: usize,
    /// Path to publish to
    #[arg(long, value_name = "PATH", default_value = "/publish/{topic}", help_heading = "Publishing")]
    publish_path: String,
    /// Body of a publish; {data} and {topic} are filled in, \n is a line end
    #[arg(long, value_name = "TEXT", default_value = r"data:{data}\n\n", help_heading = "Publishing")]
    publish_body: String,

    /// Header sent by both sides (repeatable)
    #[arg(long, value_name = "NAME: VALUE", help_heading = "Requests")]
    header: Vec<String>,
    /// Bearer token of both sides
    #[arg(long, env = "ESPER_LOADTEST_TOKEN", hide_env_values = true, help_heading = "Requests")]
    token: Option<String>,
    /// Bearer token of subscribers
    #[arg(long, env = "ESPER_LOADTEST_SUBSCRIBE_TOKEN", hide_env_values = true, help_heading = "Requests")]
    subscribe_token: Option<String>,
    /// Bearer token of publishers
    #[arg(long, env = "ESPER_LOADTEST_PUBLISH_TOKEN", hide_env_values = true, help_heading = "Requests")]
    publish_token: Option<String>,

    /// Read every byte of every event: tells doubled from lost, and sees reordered and corrupt ones
    #[arg(long, help_heading = "Measuring")]
    verify: bool,
    /// Silence after which what has not come is lost
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = duration, help_heading = "Measuring")]
    drain: Duration,
    /// Process of the server, for its CPU time and memory
    #[arg(long, help_heading = "Measuring")]
    pid: Option<u32>,
    /// Threads that read subscribers
    #[arg(long, value_name = "N", default_value_t = 1, help_heading = "Measuring")]
    threads: usize,
    /// CPUs to pin the reading threads and then the publishing one to, in turn, as 0,2-3
    #[arg(long, value_name = "LIST", value_parser = cpu_list, help_heading = "Measuring")]
    cpus: Option<CpuList>,
    /// Print one JSON object instead of a table
    #[arg(long, help_heading = "Measuring")]
    json: bool,
}

/// A run that can be done, as far as flags alone can tell.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) target: Target,
    pub(crate) subscribers: Subscribers,
    pub(crate) publishing: Publishing,
    /// Names of the topics; never empty.
    pub(crate) topics: Vec<String>,
    pub(crate) payload: Payload,
    pub(crate) verify: bool,
    pub(crate) drain: Duration,
    pub(crate) pid: Option<u32>,
    /// CPU of each thread, readers first; empty: not pinned.
    pub(crate) cpus: Vec<usize>,
    pub(crate) json: bool,
}

/// How to listen.
#[derive(Debug)]
pub(crate) struct Subscribers {
    pub(crate) count: usize,
    pub(crate) threads: usize,
    pub(crate) path: PathTemplate,
    pub(crate) headers: Headers,
    pub(crate) connect_batch: usize,
    pub(crate) connect_timeout: Duration,
    pub(crate) sources: Sources,
}

/// How to publish.
#[derive(Debug)]
pub(crate) struct Publishing {
    pub(crate) pace: Pace,
    pub(crate) connections: usize,
    pub(crate) in_flight_max: usize,
    pub(crate) path: PathTemplate,
    pub(crate) headers: Headers,
    pub(crate) body: BodyTemplate,
}

/// When the next publish is due, and when it is enough.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Pace {
    /// Event number i is due at i / `per_second`.
    Rate { per_second: f64, events: u64 },
    /// The next is due as soon as it may be written.
    Flood { until: FloodEnd },
}

/// When a flood is enough.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum FloodEnd {
    After(Duration),
    Events(u64),
}

/// Local addresses to connect from.
#[derive(Clone, Debug)]
pub(crate) struct Sources {
    /// In turn, `per_address` connections each; `None` leaves the choice to the kernel.
    addresses: Vec<Option<IpAddr>>,
    per_address: usize,
}

impl Sources {
    /// Where subscriber number `index` connects from.
    pub(crate) fn of(&self, index: usize) -> Option<IpAddr> {
        self.addresses.get(index / self.per_address).copied().flatten()
    }
}

/// A path with the topic's name in it.
#[derive(Clone, Debug)]
pub(crate) struct PathTemplate(String);

impl PathTemplate {
    fn parse(flag: &str, text: &str) -> Result<PathTemplate, String> {
        if !text.starts_with('/') || text.contains([' ', '\r', '\n', '#']) {
            return Err(format!("{flag} {text:?} is no path; write it as /subscribe/{{topic}}"));
        }
        Ok(PathTemplate(text.to_owned()))
    }

    /// The path of `topic`.
    pub(crate) fn of(&self, topic: &str) -> String {
        self.0.replace("{topic}", topic)
    }
}

/// What stands before and after the payload in the body of a publish.
#[derive(Clone, Debug)]
pub(crate) struct BodyTemplate {
    before: String,
    after: String,
}

impl BodyTemplate {
    fn parse(text: &str) -> Result<BodyTemplate, String> {
        let text = text.replace("\\n", "\n");
        match text.split("{data}").collect::<Vec<_>>()[..] {
            [before, after] => Ok(BodyTemplate { before: before.to_owned(), after: after.to_owned() }),
            _ => {
                Err(r"--publish-body must hold {data} exactly once; write it as 'data:{data}\n\n'".to_owned())
            }
        }
    }

    /// Both parts for `topic`.
    pub(crate) fn of(&self, topic: &str) -> (String, String) {
        (self.before.replace("{topic}", topic), self.after.replace("{topic}", topic))
    }
}

impl RunArgs {
    /// Checks the flags against each other; the error is one line for the person who gave them.
    pub(crate) fn plan(self) -> Result<Plan, String> {
        at_least_one("--subscribers", self.subscribers)?;
        at_least_one("--connect-batch", self.connect_batch)?;
        at_least_one("--connections-per-address", self.connections_per_address)?;
        at_least_one("--in-flight", self.in_flight)?;
        between("--topics", self.topics, 1, TOPICS_MAX)?;
        between("--publishers", self.publishers, 1, PUBLISHERS_MAX)?;
        between("--threads", self.threads, 1, 1024)?;
        between("--size", self.size, STAMP_BYTES, 16 * 1024 * 1024)?;
        if self.topics > 1 && !self.subscribe_path.contains("{topic}") {
            return Err(format!(
                "--topics {} need {{topic}} in --subscribe-path, to tell them apart",
                self.topics
            ));
        }
        let pace = self.pace()?;
        let target = Target::resolve(&self.url)?;
        let sources = self.sources(&target)?;
        let subscriber_headers = self.headers(self.subscribe_token.as_ref())?;
        let publisher_headers = self.headers(self.publish_token.as_ref())?;
        Ok(Plan {
            topics: self.topic_names(),
            subscribers: Subscribers {
                count: self.subscribers,
                threads: self.threads.min(self.subscribers),
                path: PathTemplate::parse("--subscribe-path", &self.subscribe_path)?,
                headers: subscriber_headers,
                connect_batch: self.connect_batch,
                connect_timeout: self.connect_timeout,
                sources,
            },
            publishing: Publishing {
                pace,
                connections: self.publishers,
                in_flight_max: self.in_flight,
                path: PathTemplate::parse("--publish-path", &self.publish_path)?,
                headers: publisher_headers,
                body: BodyTemplate::parse(&self.publish_body)?,
            },
            target,
            payload: Payload::new(self.size),
            verify: self.verify,
            drain: self.drain,
            pid: self.pid,
            cpus: self.cpus.map(|list| list.0).unwrap_or_default(),
            json: self.json,
        })
    }

    fn pace(&self) -> Result<Pace, String> {
        if self.events.is_some_and(|events| events == 0 || events >= EVENTS_MAX) {
            return Err(format!("--events must be 1 to {}", EVENTS_MAX - 1));
        }
        if self.flood {
            let until = self.events.map_or(FloodEnd::After(self.duration), FloodEnd::Events);
            return Ok(Pace::Flood { until });
        }
        if !(self.rate > 0.0 && self.rate <= 1e9) {
            return Err(format!("--rate {} is no rate; write events a second, as 100 or 0.5", self.rate));
        }
        let events = self.events.unwrap_or((self.rate * self.duration.as_secs_f64()).ceil() as u64);
        Ok(Pace::Rate { per_second: self.rate, events: events.clamp(1, EVENTS_MAX - 1) })
    }

    fn sources(&self, target: &Target) -> Result<Sources, String> {
        let per_address = self.connections_per_address;
        let needed = self.subscribers.div_ceil(per_address);
        let addresses = match (&self.source_address[..], target.address.ip()) {
            ([], _) if needed == 1 => vec![None],
            ([], IpAddr::V4(server)) if server.is_loopback() && needed <= 65_000 => {
                let others = (2..).map(|host: u32| Some(IpAddr::from((0x7f00_0000 | host).to_be_bytes())));
                [None].into_iter().chain(others).take(needed).collect()
            }
            (given, _) => given.iter().copied().map(Some).collect(),
        };
        if addresses.len() < needed {
            return Err(format!(
                "--subscribers {} need {needed} local addresses of {per_address} connections each and there are {}; \
                 give more with --source-address",
                self.subscribers,
                addresses.len().max(1)
            ));
        }
        if addresses.iter().flatten().any(|source| source.is_ipv4() != target.address.is_ipv4()) {
            return Err("--source-address must be of the server's kind, IPv4 or IPv6".to_owned());
        }
        // Given more addresses than needed, use all of them alike.
        let per_address = self.subscribers.div_ceil(addresses.len());
        Ok(Sources { addresses, per_address })
    }

    fn headers(&self, own_token: Option<&String>) -> Result<Headers, String> {
        let mut headers = Headers::default();
        for line in &self.header {
            let (name, value) = line
                .split_once(':')
                .ok_or_else(|| format!("--header {line:?} has no colon; write it as 'Name: value'"))?;
            if name.eq_ignore_ascii_case("content-length") || name.eq_ignore_ascii_case("transfer-encoding") {
                return Err(format!("--header {name} is the load generator's own to send"));
            }
            headers.add(name, value.trim()).map_err(|why| format!("--header: {why}"))?;
        }
        if let Some(token) = own_token.or(self.token.as_ref()) {
            headers.add("Authorization", &format!("Bearer {token}"))?;
        }
        Ok(headers)
    }

    fn topic_names(&self) -> Vec<String> {
        let start = self.topic.clone().unwrap_or_else(|| {
            let since_1970 =
                std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
            format!("load{:012x}", since_1970.as_millis())
        });
        if self.topics == 1 {
            return vec![start];
        }
        (0..self.topics).map(|index| format!("{start}{index:06}")).collect()
    }
}

fn at_least_one(flag: &str, value: usize) -> Result<(), String> {
    if value == 0 { Err(format!("{flag} 0 measures nothing; give at least 1")) } else { Ok(()) }
}

fn between(flag: &str, value: usize, least: usize, most: usize) -> Result<(), String> {
    if (least..=most).contains(&value) {
        Ok(())
    } else {
        Err(format!("{flag} {value} is not {least} to {most}"))
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    let duration = match text.parse::<f64>() {
        Ok(seconds) => Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())?,
        Err(_) => humantime::parse_duration(text).map_err(|_| "write it as 10s, 500ms or 2m".to_owned())?,
    };
    if duration.is_zero() { Err("must be longer than 0".to_owned()) } else { Ok(duration) }
}

/// CPU numbers. A type of its own, for clap takes a plain `Vec` for a repeated flag.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct CpuList(Vec<usize>);

fn cpu_list(text: &str) -> Result<CpuList, String> {
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

    fn plan(flags: &str) -> Result<Plan, String> {
        let words =
            ["esper-loadtest", "run", "http://127.0.0.1:3000"].into_iter().chain(flags.split_whitespace());
        match Cli::try_parse_from(words).map_err(|error| error.to_string())?.command {
            Command::Run(args) => args.plan(),
        }
    }

    #[test]
    fn flags_fit_together() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn the_defaults_are_a_plan() {
        let plan = plan("").unwrap();
        assert_eq!(plan.publishing.pace, Pace::Rate { per_second: 100.0, events: 1_000 });
        assert_eq!((plan.subscribers.count, plan.payload.size(), plan.topics.len()), (1_000, 128, 1));
    }

    #[test]
    fn a_topic_name_is_one_the_server_takes() {
        for name in plan("--topics 3").unwrap().topics {
            assert!(
                (8..=64).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric()),
                "{name}"
            );
        }
        assert_eq!(plan("--topic abcdefgh").unwrap().topics, ["abcdefgh"]);
        assert_eq!(plan("--topic abcdefgh --topics 2").unwrap().topics, ["abcdefgh000000", "abcdefgh000001"]);
    }

    #[test]
    fn wrong_flags_are_refused_with_their_name() {
        for (flags, name) in [
            ("--subscribers 0", "--subscribers"),
            ("--topics 0", "--topics"),
            ("--publishers 5000", "--publishers"),
            ("--size 37", "--size"),
            ("--rate 0", "--rate"),
            ("--rate nan", "--rate"),
            ("--rate 5 --flood", "--flood"),
            ("--duration 0", "--duration"),
            ("--duration soon", "--duration"),
            ("--events 5 --duration 1s", "--duration"),
            ("--events 0", "--events"),
            ("--header nonsense", "--header"),
            ("--header Content-Length:5", "--header"),
            ("--publish-body nothing", "--publish-body"),
            ("--publish-path x", "--publish-path"),
            ("--topics 2 --subscribe-path /events", "--subscribe-path"),
            ("--cpus 3-1", "--cpus"),
            ("--source-address ::1", "--source-address"),
            ("--source-address 127.0.0.9 --connections-per-address 100", "--source-address"),
        ] {
            let refusal = plan(flags).unwrap_err();
            assert!(refusal.contains(name), "{flags}: {refusal}");
        }
    }

    #[test]
    fn one_loopback_address_is_never_asked_for_more_than_it_holds() {
        let sources = plan("--subscribers 250 --connections-per-address 100").unwrap().subscribers.sources;
        let from: Vec<_> = (0..250).map(|index| sources.of(index)).collect();
        assert_eq!((from[0], from[83]), (None, None));
        assert_eq!((from[84], from[249]), (Some([127, 0, 0, 2].into()), Some([127, 0, 0, 3].into())));
        for address in [None, from[84], from[249]] {
            assert!(from.iter().filter(|of| **of == address).count() <= 100);
        }
    }

    #[test]
    fn each_side_sends_its_own_token_and_the_common_one_otherwise() {
        let plan = plan("--token both --publish-token mine").unwrap();
        assert!(format!("{:?}", plan.publishing.headers).contains("Bearer mine"));
        assert!(format!("{:?}", plan.subscribers.headers).contains("Bearer both"));
    }

    #[test]
    fn a_body_may_name_its_topic() {
        let plan = plan(r"--publish-body topic={topic}&data={data}\n").unwrap();
        assert_eq!(plan.publishing.body.of("abc"), ("topic=abc&data=".to_owned(), "\n".to_owned()));
    }

    #[test]
    fn times_and_cpus_are_read() {
        assert_eq!(duration("10"), Ok(Duration::from_secs(10)));
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(cpu_list("0,2-4"), Ok(CpuList(vec![0, 2, 3, 4])));
    }
}
