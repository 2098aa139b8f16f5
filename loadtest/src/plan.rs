//! A run that can be done: flags checked against each other and against a scenario's values.

use crate::args::{Cli, Command, RunFlags};
use crate::connect::Sources;
use crate::http::{Headers, Target};
use crate::stamp::{EVENTS_MAX, Payload};
use crate::wire::Wire;
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
    /// As given, and scaled down. Of all subscribers the stalled ones come first, then those that come and go; the others
    /// are steady.
    pub(crate) flags: RunFlags,
    pub(crate) target: Target,
    /// The server to publish to, which is another one in a cluster.
    pub(crate) publish_target: Target,
    /// The protocol of a server that speaks no HTTP.
    pub(crate) wire: Option<Wire>,
    /// The names; never empty.
    pub(crate) topics: Vec<String>,
    /// The name of the topic, or the start of all names.
    pub(crate) topic_start: String,
    pub(crate) payload: Payload,
    pub(crate) subscriber_headers: Headers,
    pub(crate) sources: Sources,
    pub(crate) pace: Pace,
    /// A flood waits while subscribers are so many events behind on average.
    pub(crate) behind_events_max: u64,
    pub(crate) publisher_headers: Headers,
    /// The text before and after the payload; `{topic}` is not filled in.
    pub(crate) publish_body: [String; 2],
    /// Threads or processes that read.
    pub(crate) readers: usize,
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
        match Cli::read(words)?.command {
            Command::Run(args) => args.flags.plan(&args.url, words),
            _ => Err("only the words of a run make a plan".to_owned()),
        }
    }

    /// Returns that of a run of `url` with these flags.
    pub(crate) fn of(url: &str, flags: &[String]) -> Result<Plan, String> {
        Plan::parse(&[&["run", url].map(str::to_owned), flags].concat())
    }

    pub(crate) fn role(&self, index: usize) -> Role {
        if index < self.flags.stalled {
            Role::Stalled
        } else if index < self.flags.stalled + self.flags.churning {
            Role::Churning
        } else {
            Role::Steady
        }
    }

    /// Counts the steady subscribers, and so the deliveries due, of each topic's next event.
    pub(crate) fn steady_by_topic(&self) -> Vec<u64> {
        let topics = self.topics.len();
        let mut by_topic = vec![0; topics];
        for index in self.flags.stalled + self.flags.churning..self.flags.subscribers {
            by_topic.get_mut(index % topics).into_iter().for_each(|steady| *steady += 1);
        }
        by_topic
    }
}

impl RunFlags {
    /// Checks the flags against each other; the error is one line for the person who gave them.
    pub(crate) fn plan(mut self, url: &str, words: &[String]) -> Result<Plan, String> {
        self.scale();
        let RunFlags { subscribers, topics, stalled, churning, .. } = self;
        if stalled + churning >= subscribers {
            return Err(format!(
                "--subscribers {subscribers} leaves none steady beside {stalled} stalled and {churning} churning; give more"
            ));
        }
        if topics > 1 && !self.subscribe_path.contains("{topic}") {
            return Err(format!("--topics {topics} need {{topic}} in --subscribe-path, to tell them apart"));
        }
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
        let publish_target = Target::resolve(self.publish_url.as_deref().unwrap_or(url))?;
        let topic_start = self.topic.clone().unwrap_or_else(|| format!("load{:012x}", since_1970_ms()));
        let behind_default = BEHIND_EVENTS_MAX.min((BEHIND_BYTES_MAX / self.size as u64).max(1));
        let per_address = self.connections_per_address;
        Ok(Plan {
            topics: topic_names(&topic_start, topics),
            topic_start,
            payload: Payload::new(self.size),
            wire,
            subscriber_headers: self.headers(self.subscribe_token.as_ref())?,
            sources: Sources::of_flags(&self.source_address, per_address, &target, subscribers)?,
            target,
            publish_target,
            pace: self.pace(),
            behind_events_max: self.behind_max.unwrap_or(behind_default),
            publisher_headers: self.headers(self.publish_token.as_ref())?,
            publish_body: body_parts(&self.publish_body)?,
            readers: self.processes.unwrap_or(self.threads).min(subscribers),
            words: words.to_vec(),
            flags: self,
        })
    }

    /// Divides every number of connections and topics, and leaves none of a kind only where there was none.
    fn scale(&mut self) {
        let scale = self.scale_down.max(1);
        for number in [&mut self.subscribers, &mut self.topics, &mut self.stalled, &mut self.churning] {
            *number = (*number / scale).max((*number).min(1));
        }
        if scale > 1 {
            self.subscribers = self.subscribers.max(SUBSCRIBERS_MIN);
        }
    }

    fn pace(&self) -> Pace {
        let Some(per_second) = self.rate.filter(|_| !self.flood) else {
            return Pace::Flood {
                until: self.events.map_or(FloodEnd::After(self.duration), FloodEnd::Events),
            };
        };
        let events = self.events.unwrap_or((per_second * self.duration.as_secs_f64()).ceil() as u64);
        Pace::Rate { per_second, events: events.clamp(1, EVENTS_MAX - 1), poisson: self.poisson }
    }

    /// Returns how often those who come and go leave and come again, each second in all.
    pub(crate) fn churn_per_second(&self) -> f64 {
        self.churn_rate.unwrap_or(self.churning as f64 / STAY_S)
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
        Plan::of("http://127.0.0.1:3000", &flags)
    }

    #[test]
    fn the_defaults_are_a_plan() {
        let plan = plan("").unwrap();
        assert_eq!(plan.pace, Pace::Rate { per_second: 100.0, events: 1_000, poisson: false });
        assert_eq!((plan.flags.subscribers, plan.payload.size(), plan.topics.len()), (1_000, 128, 1));
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
    fn a_scenario_is_what_its_name_says() {
        let of = |scenario: &str| plan(&format!("--scenario {scenario}")).unwrap();
        assert_eq!(of("paced").pace, plan("").unwrap().pace);
        assert_eq!(of("flood").pace, Pace::Flood { until: FloodEnd::After(Duration::from_secs(10)) });
        assert!(of("many").flags.subscribers >= 10_000);
        let topics = of("topics");
        assert!(topics.topics.len() == topics.flags.subscribers && topics.flags.random_topics);
        assert!(of("churn").flags.churning > 0 && of("slow").flags.stalled > 0);
        let idle = of("idle");
        let of_idle = (idle.pace, idle.flags.subscribers, idle.flags.settle);
        let once = Pace::Rate { per_second: 100.0, events: 1, poisson: false };
        assert_eq!(of_idle, (once, 15_000, Duration::from_secs(1)));
    }

    #[test]
    fn a_flag_stands_over_the_scenario_and_the_scenario_over_the_default() {
        let many = plan("--scenario many --rate 3").unwrap();
        assert_eq!(many.flags.subscribers, 10_000);
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
