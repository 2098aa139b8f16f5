//! A run that can be done: flags checked against each other and against a scenario's values.

use crate::args::{Cli, Command, RunFlags};
use crate::connect::Sources;
use crate::http::{Headers, Target};
use crate::scenario::Preset;
use crate::stamp::{EVENTS_MAX, PUBLISHERS_MAX, Payload, STAMP_BYTES, TOPICS_MAX};
use crate::wire::Wire;
use clap::Parser;
use std::time::Duration;

/// An event that is due in the first of these seconds must come before the subscriber leaves; one of the last may be on its
/// way still.
const STAY_S: f64 = 2.0;
/// A flood lets subscribers be so many events behind on average, or [`BEHIND_BYTES_MAX`] of them if that is less.
const BEHIND_EVENTS_MAX: u64 = 4_096;
/// A quarter of what brokers commonly let one subscriber be behind before they cut it.
const BEHIND_BYTES_MAX: u64 = 1024 * 1024;
/// However far a run is scaled down.
const SUBSCRIBERS_MIN: usize = 4;

/// A run that can be done, as far as flags alone can tell.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) target: Target,
    /// The protocol of a server that speaks no HTTP.
    pub(crate) wire: Option<Wire>,
    /// The names; never empty.
    pub(crate) topics: Vec<String>,
    /// The name of the topic, or the start of all names.
    pub(crate) topic_start: String,
    pub(crate) payload: Payload,

    pub(crate) subscribers: usize,
    /// Of all, so many never read; they come first.
    pub(crate) stalled: usize,
    /// Of all, so many come and go; they come next. The others are steady.
    pub(crate) churning: usize,
    /// Times one of them leaves and comes again, each second.
    pub(crate) churn_per_second: f64,
    pub(crate) settle: Duration,
    pub(crate) subscribe_path: String,
    pub(crate) subscriber_headers: Headers,
    pub(crate) connect_batch: usize,
    pub(crate) connect_timeout: Duration,
    pub(crate) sources: Sources,

    pub(crate) pace: Pace,
    pub(crate) publishers: usize,
    pub(crate) in_flight_max: usize,
    /// A flood waits while subscribers are so many events behind on average.
    pub(crate) behind_events_max: u64,
    pub(crate) random_topics: bool,
    pub(crate) publish_path: String,
    pub(crate) publisher_headers: Headers,
    /// The text before and after the payload; `{topic}` is not filled in.
    pub(crate) publish_body: [String; 2],

    pub(crate) verify: bool,
    pub(crate) drain: Duration,
    pub(crate) pid: Option<u32>,
    /// Threads or processes that read.
    pub(crate) readers: usize,
    pub(crate) processes: bool,
    /// CPU of each thread, readers first; empty: not pinned.
    pub(crate) cpus: Vec<usize>,
    pub(crate) json: bool,
    /// The words of the command line behind the program's name, for other processes to make the same plan of.
    pub(crate) words: Vec<String>,
}

/// The behaviour of a subscriber.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Role {
    /// Connects first and must get everything.
    Steady,
    Churning,
    /// Never reads behind the response's head.
    Stalled,
}

/// When the next publish is due, and when it is enough.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Pace {
    /// Event number i is due at i / `per_second`, or, where arrivals are a `poisson` process, about then.
    Rate { per_second: f64, events: u64, poisson: bool },
    /// The next is due as soon as it may be written.
    Flood { until: FloodEnd },
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum FloodEnd {
    After(Duration),
    Events(u64),
}

impl Pace {
    /// Returns how long it takes, where that is known.
    pub(crate) fn time(&self) -> Option<Duration> {
        match *self {
            Pace::Rate { per_second, events, .. } => {
                Duration::try_from_secs_f64(events as f64 / per_second).ok()
            }
            Pace::Flood { until: FloodEnd::After(time) } => Some(time),
            Pace::Flood { until: FloodEnd::Events(_) } => None,
        }
    }
}

impl Plan {
    /// Reads the words behind the program's name, as `run http://127.0.0.1:3000 --flood`. The error may have many lines.
    pub(crate) fn parse(words: &[String]) -> Result<Plan, String> {
        let program = "esper-loadtest".to_owned();
        let cli = Cli::try_parse_from([&program].into_iter().chain(words));
        match cli.map_err(|error| error.to_string())?.command {
            Command::Run(args) => args.flags.plan(&args.url, words),
            _ => Err("only the words of a run make a plan".to_owned()),
        }
    }

    /// Returns the words of a run of `url` with the flags of another subcommand.
    pub(crate) fn words_for(url: &str, flags: &[String]) -> Vec<String> {
        ["run", url].map(str::to_owned).into_iter().chain(flags.iter().cloned()).collect()
    }

    pub(crate) fn role(&self, index: usize) -> Role {
        if index < self.stalled {
            Role::Stalled
        } else if index < self.stalled + self.churning {
            Role::Churning
        } else {
            Role::Steady
        }
    }

    /// Counts the steady subscribers, and so the deliveries due, of each topic's next event.
    pub(crate) fn steady_by_topic(&self) -> Vec<u64> {
        let topics = self.topics.len();
        let mut by_topic = vec![0; topics];
        for index in self.stalled + self.churning..self.subscribers {
            by_topic.get_mut(index % topics).into_iter().for_each(|steady| *steady += 1);
        }
        by_topic
    }
}

impl RunFlags {
    /// Checks the flags against each other; the error is one line for the person who gave them.
    pub(crate) fn plan(self, url: &str, words: &[String]) -> Result<Plan, String> {
        let preset = Preset::of(self.scenario);
        let scale = self.scale_down.max(1);
        let scaled = |given: Option<usize>, preset: usize| {
            let number = given.unwrap_or(preset);
            if scale == 1 { number } else { (number / scale).max(number.min(1)) }
        };
        let count = scaled(self.subscribers, preset.subscribers);
        let count = if scale == 1 { count } else { count.max(SUBSCRIBERS_MIN) };
        let topics = scaled(self.topics, preset.topics);
        let stalled = scaled(self.stalled, preset.stalled);
        let churning = scaled(self.churning, preset.churning);
        let churn_per_second = self.churn_rate.unwrap_or(churning as f64 / STAY_S);
        let size = self.size.unwrap_or(preset.size);
        for (flag, value) in [
            ("--subscribers", count),
            ("--connect-batch", self.connect_batch),
            ("--connections-per-address", self.connections_per_address.unwrap_or(1)),
            ("--in-flight", self.in_flight),
        ] {
            if value == 0 {
                return Err(format!("{flag} 0 measures nothing; give at least 1"));
            }
        }
        for (flag, value, least, most) in [
            ("--topics", topics, 1, TOPICS_MAX),
            ("--publishers", self.publishers, 1, PUBLISHERS_MAX),
            ("--threads", self.threads, 1, 1024),
            ("--size", size, STAMP_BYTES, 16 * 1024 * 1024),
            ("--processes", self.processes.unwrap_or(1), 1, 1024),
        ] {
            if !(least..=most).contains(&value) {
                return Err(format!("{flag} {value} is not {least} to {most}"));
            }
        }
        if stalled + churning >= count {
            return Err(format!(
                "--subscribers {count} leaves none steady beside {stalled} stalled and {churning} churning; give more"
            ));
        }
        if churning > 0 && !(churn_per_second > 0.0 && churn_per_second <= 1e6) {
            return Err(format!("--churn-rate {churn_per_second} is no rate; write times a second, as 100"));
        }
        if topics > 1 && !self.subscribe_path.contains("{topic}") {
            return Err(format!("--topics {topics} need {{topic}} in --subscribe-path, to tell them apart"));
        }
        let pace = self.pace(&preset)?;
        if self.poisson && churning > 0 {
            return Err("--poisson: who comes and goes needs an even rate; leave out --churning".to_owned());
        }
        let wire = self.wire.as_deref().map(Wire::parse).transpose()?;
        if wire.is_some() && topics > 1 {
            return Err(format!("--topics {topics}: a --wire has one topic"));
        }
        for (flag, path) in
            [("--subscribe-path", &self.subscribe_path), ("--publish-path", &self.publish_path)]
        {
            if !path.starts_with('/') || path.contains([' ', '\r', '\n', '#']) {
                return Err(format!("{flag} {path:?} is no path; write it as /subscribe/{{topic}}"));
            }
        }
        let target = Target::resolve(url)?;
        let topic_start = self.topic.clone().unwrap_or_else(|| format!("load{:012x}", since_1970_ms()));
        let behind_default = BEHIND_EVENTS_MAX.min((BEHIND_BYTES_MAX / size as u64).max(1));
        Ok(Plan {
            topics: topic_names(&topic_start, topics),
            topic_start,
            payload: Payload::new(size),
            wire,
            subscribers: count,
            stalled,
            churning,
            churn_per_second,
            settle: self.settle.unwrap_or(preset.settle),
            subscriber_headers: self.headers(self.subscribe_token.as_ref())?,
            connect_batch: self.connect_batch,
            connect_timeout: self.connect_timeout,
            sources: Sources::of_flags(&self.source_address, self.connections_per_address, &target, count)?,
            target,
            pace,
            publishers: self.publishers,
            in_flight_max: self.in_flight,
            behind_events_max: self.behind_max.unwrap_or(behind_default),
            random_topics: self.random_topics || preset.random_topics,
            publisher_headers: self.headers(self.publish_token.as_ref())?,
            publish_body: body_parts(&self.publish_body)?,
            subscribe_path: self.subscribe_path,
            publish_path: self.publish_path,
            verify: self.verify,
            drain: self.drain,
            pid: self.pid,
            readers: self.processes.unwrap_or(self.threads).min(count),
            processes: self.processes.is_some(),
            cpus: self.cpus.map(|list| list.0).unwrap_or_default(),
            json: self.json,
            words: words.to_vec(),
        })
    }

    fn pace(&self, preset: &Preset) -> Result<Pace, String> {
        let events = self.events.or(preset.events);
        if self.events.is_some_and(|events| events == 0 || events >= EVENTS_MAX) {
            return Err(format!("--events must be 1 to {}", EVENTS_MAX - 1));
        }
        let rate = if self.flood { None } else { self.rate.or(preset.rate) };
        let Some(rate) = rate else {
            let until = events.map_or(FloodEnd::After(self.duration), FloodEnd::Events);
            return Ok(Pace::Flood { until });
        };
        if !(rate > 0.0 && rate <= 1e9) {
            return Err(format!("--rate {rate} is no rate; write events a second, as 100 or 0.5"));
        }
        let events = events.unwrap_or((rate * self.duration.as_secs_f64()).ceil() as u64);
        let events = events.clamp(1, EVENTS_MAX - 1);
        Ok(Pace::Rate { per_second: rate, events, poisson: self.poisson })
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
}

fn body_parts(text: &str) -> Result<[String; 2], String> {
    let parts: Vec<_> = text.replace("\\n", "\n").split("{data}").map(str::to_owned).collect();
    parts.try_into().map_err(|_| {
        r"--publish-body must hold {data} exactly once; write it as 'data:{data}\n\n'".to_owned()
    })
}

pub(crate) fn since_1970_ms() -> u128 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_millis()
}

/// Returns the name of each topic.
pub(crate) fn topic_names(start: &str, topics: usize) -> Vec<String> {
    if topics == 1 {
        vec![start.to_owned()]
    } else {
        (0..topics).map(|index| format!("{start}{index:07}")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(flags: &str) -> Result<Plan, String> {
        let flags: Vec<_> = flags.split_whitespace().map(str::to_owned).collect();
        Plan::parse(&Plan::words_for("http://127.0.0.1:3000", &flags))
    }

    #[test]
    fn the_defaults_are_a_plan() {
        let plan = plan("").unwrap();
        assert_eq!(plan.pace, Pace::Rate { per_second: 100.0, events: 1_000, poisson: false });
        assert_eq!((plan.subscribers, plan.payload.size(), plan.topics.len()), (1_000, 128, 1));
    }

    #[test]
    fn a_topic_name_is_one_the_server_takes() {
        for name in plan("--topics 3").unwrap().topics {
            let letters = name.bytes().all(|b| b.is_ascii_alphanumeric());
            assert!((8..=64).contains(&name.len()) && letters, "{name}");
        }
        assert_eq!(plan("--topic abcdefgh").unwrap().topics, ["abcdefgh"]);
        let two = plan("--topic abcdefgh --topics 2").unwrap().topics;
        assert_eq!(two, ["abcdefgh0000000", "abcdefgh0000001"]);
    }

    #[test]
    fn a_body_may_name_its_topic() {
        let plan = plan(r"--publish-body topic={topic}&data={data}\n").unwrap();
        assert_eq!(plan.publish_body, ["topic={topic}&data=", "\n"]);
    }

    #[test]
    fn wrong_flags_are_refused_with_their_name() {
        for (flags, name) in [
            ("--subscribers 0", "--subscribers"),
            ("--topics 0", "--topics"),
            ("--publishers 5000", "--publishers"),
            ("--size 30", "--size"),
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
            ("--subscribers 5 --stalled 3 --churning 2", "--subscribers"),
            ("--churning 2 --churn-rate 0", "--churn-rate"),
            ("--poisson --churning 2", "--poisson"),
            ("--wire {}", "--wire"),
            ("--processes 0", "--processes"),
            ("--scenario quick", "--scenario"),
            ("--source-address ::1", "--source-address"),
            ("--source-address 127.0.0.9 --connections-per-address 100", "--source-address"),
        ] {
            let refusal = plan(flags).unwrap_err();
            assert!(refusal.contains(name), "{flags}: {refusal}");
        }
    }

    #[test]
    fn each_side_sends_its_own_token_and_the_common_one_otherwise() {
        let plan = plan("--token both --publish-token mine").unwrap();
        assert!(format!("{:?}", plan.publisher_headers).contains("Bearer mine"));
        assert!(format!("{:?}", plan.subscriber_headers).contains("Bearer both"));
    }

    #[test]
    fn a_flag_stands_over_the_scenario_and_the_scenario_over_the_default() {
        let many = plan("--scenario many --rate 3").unwrap();
        assert_eq!(many.subscribers, 10_000);
        assert_eq!(many.pace, Pace::Rate { per_second: 3.0, events: 30, poisson: false });
        let flood = |flags: &str| matches!(plan(flags).unwrap().pace, Pace::Flood { .. });
        assert!(flood("--scenario flood") && flood("--scenario paced --flood"));
        assert!(!flood("--scenario flood --rate 5"));
    }

    #[test]
    fn every_subscriber_has_one_role_and_steady_ones_are_counted_by_topic() {
        let plan = plan("--subscribers 10 --stalled 2 --churning 3 --topics 4").unwrap();
        let roles: Vec<_> = (0..10).map(|index| plan.role(index)).collect();
        assert_eq!(roles.iter().filter(|role| **role == Role::Stalled).count(), 2);
        assert_eq!(roles.iter().filter(|role| **role == Role::Churning).count(), 3);
        // Steady are 5, 6, 7, 8, 9.
        assert_eq!(plan.steady_by_topic(), [1, 2, 1, 1]);
    }

    #[test]
    fn a_flood_of_large_events_lets_nobody_be_megabytes_behind() {
        let behind = |flags: &str| plan(flags).unwrap().behind_events_max;
        assert_eq!((behind(""), behind("--size 65536"), behind("--size 16000000")), (4_096, 16, 1));
    }
}
