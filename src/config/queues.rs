//! One RabbitMQ queue per client: which brokers, how a queue is named, when a message counts as delivered.

use std::time::Duration;

use super::file::Settings;
use super::flags::QueueFlags;
use super::headers;
use super::names::{Names, shown};
use super::values::{Time, number};
use super::{BrokerUrl, Pattern, Stream, SubscribeRule};
use crate::core::partition::Partitioner;
use crate::core::topic::{Topic, TopicHasher};

/// One queue per client, delivered as an event stream.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Queues {
    /// The brokers, each a connection; never empty. One may be there several times: a connection carries no
    /// more clients than its channelMax.
    pub nodes: Vec<BrokerUrl>,
    /// Where a client opens its queue's stream: `/` and letters, digits, `.`, `_`, `~`, `-` and `/`. None of
    /// the server's own paths.
    pub path: String,
    /// How a request's queue is named.
    pub pattern: Pattern,
    /// How long the broker keeps a queue that nobody reads: whole seconds, 1 s to 49 days.
    pub expire: Duration,
    /// Messages that the broker hands out ahead of their acknowledgement, for each queue. More than
    /// `ack_window`.
    pub prefetch: u16,
    /// A message is acknowledged when so many newer ones were sent.
    pub ack_window: u16,
    /// Or when it was sent so long ago and its connection still lives. Longer than a peer may be dead
    /// unnoticed, which is the longer of two heartbeats and 5/4 of the send timeout.
    pub ack_delay: Duration,
    /// What else the brokers publish to topics.
    pub subscribe: Vec<SubscribeRule>,
    /// Headers of every answer at `path`, name and value.
    pub headers_cors: Vec<(String, String)>,
    /// Headers of a stream, name and value. `Transfer-Encoding` may be `chunked`, or `identity` for a body
    /// without chunks, to the close.
    pub headers_sse: Vec<(String, String)>,
}

impl Queues {
    pub(super) const PATH: &str = "/";
    pub(super) const PATTERN: &str = "${query:id}";
    pub(super) const EXPIRE: Duration = Duration::from_secs(30 * 60);
    pub(super) const PREFETCH: u16 = 200;
    pub(super) const ACK_WINDOW: u16 = 100;
    pub(super) const ACK_DELAY: Duration = Duration::from_secs(40);
    pub(super) const HEADERS_CORS: [(&str, &str); 3] = [
        ("Access-Control-Allow-Origin", "*"),
        ("Access-Control-Allow-Methods", "GET, OPTIONS"),
        ("Access-Control-Allow-Headers", "Content-Type, Accept, Cache-Control"),
    ];
    pub(super) const HEADERS_SSE: [(&str, &str); 3] = [
        ("Content-Type", "text/event-stream; charset=utf-8"),
        ("Cache-Control", "no-cache"),
        ("X-Accel-Buffering", "no"),
    ];
}

/// Longest that RabbitMQ keeps an unused queue: `x-expires` is in milliseconds, at most 2^32 - 1 of them.
const EXPIRE_MAX: Duration = Duration::from_secs(49 * 24 * 60 * 60);
const EXPIRE_MIN: Duration = Duration::from_secs(1);
/// What the server serves itself, by its paths' first segments.
const OWN_PATHS: [&str; 12] = [
    "admin",
    "debug",
    "disconnect",
    "emit",
    "events",
    "healthz",
    "metrics",
    "publish",
    "sessions",
    "stats",
    "subscribe",
    "token",
];
/// RabbitMQ's `consumer_timeout`, as it comes.
const CONSUMER_TIMEOUT: Duration = Duration::from_secs(30 * 60);
/// What stands for a message's routing key in a rule's topic.
const ROUTING_KEY: &str = "${routing_key}";

impl Queues {
    /// The queues that flags and files ask for; none without a broker. Of what looks like a mistake
    /// `warnings` gets a line.
    ///
    /// # Errors
    /// What cannot hold together, and the mend.
    pub(super) fn new(
        flags: QueueFlags,
        settings: &Settings,
        (stream, namespaces): (&Stream, bool),
        names: &Names,
        warnings: &mut Vec<String>,
    ) -> Result<Option<Self>, String> {
        headers::check_files(&settings.cors, &settings.sse)?;
        for (place, rule) in &settings.subscribe {
            check_topic(&rule.topic, namespaces)
                .map_err(|reason| format!("{place}: {}: {reason}", shown(&rule.topic)))?;
        }
        if flags.broker_node.is_empty() {
            let said = ["queue-pattern", "queue-path"].into_iter().find(|flag| names.is_given(flag));
            if said.is_some() || !settings.subscribe.is_empty() {
                let said = said.map_or_else(|| "queue.subscribe".to_owned(), |flag| names.of(flag));
                let node = names.of("broker-node");
                warnings.push(format!("{said} is of no use: {node} names no broker, so there are no queues"));
            }
            return Ok(None);
        }
        flags.check(stream, names)?;
        if flags.queue_pattern.is_constant() {
            warnings.push(format!(
                "{}: every client has the same queue, so there is one client at a time; \
                 write ${{query:NAME}} or ${{cookie:NAME}} into it",
                names.with("queue-pattern", &flags.queue_pattern)
            ));
        }
        if names.is_given("cors-origin") && settings.cors.place("Access-Control-Allow-Origin").is_none() {
            warnings.push(format!(
                "{} is not for queues, which pages of any origin may read; \
                 write Access-Control-Allow-Origin below header.cors in a file",
                names.of("cors-origin")
            ));
        }
        if flags.queue_ack_delay.0 >= CONSUMER_TIMEOUT {
            warnings.push(format!(
                "{}: RabbitMQ ends a stream of which a message is unacknowledged for 30 minutes, \
                 unless its consumer_timeout is longer",
                names.with("queue-ack-delay", flags.queue_ack_delay)
            ));
        }
        Ok(Some(Self {
            nodes: flags.broker_node,
            path: flags.queue_path,
            pattern: flags.queue_pattern,
            expire: flags.queue_expire.0,
            prefetch: flags.queue_prefetch,
            ack_window: flags.queue_ack_window,
            ack_delay: flags.queue_ack_delay.0,
            subscribe: settings.subscribe.iter().map(|(_, rule)| rule.clone()).collect(),
            headers_cors: settings.cors.in_force(),
            headers_sse: settings.sse.in_force(),
        }))
    }

    /// Checks what a program put in itself.
    ///
    /// # Errors
    /// One line: which field is wrong, and what it may be.
    pub(super) fn check(&self, stream: &Stream, namespaces: bool) -> Result<(), String> {
        if self.nodes.is_empty() {
            return Err("queues.nodes: empty; name a broker, or set queues to None".to_owned());
        }
        path(&self.path).map_err(|reason| format!("queues.path {:?}: {reason}", self.path))?;
        check_expire(self.expire).map_err(|reason| format!("queues.expire {:?}: {reason}", self.expire))?;
        if self.prefetch <= self.ack_window {
            let (prefetch, window) = (self.prefetch, self.ack_window);
            return Err(format!(
                "queues.prefetch {prefetch}: not more than queues.ack_window {window}; raise it"
            ));
        }
        let unnoticed = stream.peer_timeout();
        if self.ack_delay <= unnoticed || self.ack_delay > Time::MAX {
            return Err(format!(
                "queues.ack_delay {:?}: out of range; set it to more than {unnoticed:?}, \
                 as long as a dead client may stay unnoticed, and at most 365 days",
                self.ack_delay
            ));
        }
        for rule in &self.subscribe {
            let (exchange, topic) = (&rule.exchange, &rule.topic);
            if exchange.is_empty() || exchange.len() > 255 || rule.routing_key.len() > 255 {
                return Err(format!(
                    "queues.subscribe of {exchange:?}: a name of 1 to 255 bytes, and a key of \
                                    at most 255, are possible; set them to such"
                ));
            }
            check_topic(topic, namespaces)
                .map_err(|reason| format!("queues.subscribe of {exchange:?}: topic {topic:?}: {reason}"))?;
        }
        headers::check_all(&self.headers_cors, &self.headers_sse)
    }
}

impl QueueFlags {
    fn check(&self, stream: &Stream, names: &Names) -> Result<(), String> {
        let (prefetch, window) = (self.queue_prefetch, self.queue_ack_window);
        // Or no message would ever be pushed out of the window.
        if prefetch <= window {
            return Err(format!(
                "{}: not more than {}; raise {} to {}, or lower the other",
                names.with("queue-prefetch", prefetch),
                names.with("queue-ack-window", window),
                names.of("queue-prefetch"),
                u32::from(window) + 1
            ));
        }
        let (delay, unnoticed) = (self.queue_ack_delay, Time(stream.peer_timeout()));
        // Or messages would be acknowledged that a dead client never got.
        if delay > unnoticed {
            return Ok(());
        }
        let cause = match stream.heartbeat {
            Some(heartbeat) if 2 * heartbeat == unnoticed.0 => {
                format!("two of {}", names.with("heartbeat", Time(heartbeat)))
            }
            _ => format!("5/4 of {}", names.with("send-timeout", Time(stream.send_timeout))),
        };
        Err(format!(
            "{}: not longer than a dead client may stay unnoticed, {unnoticed} by {cause}; \
             raise {} over {unnoticed}, or lower the other",
            names.with("queue-ack-delay", delay),
            names.of("queue-ack-delay"),
        ))
    }
}

/// A broker's URL; one that was printed, and so masked, is told apart.
pub(super) fn broker_url(text: &str) -> Result<BrokerUrl, &'static str> {
    if text.contains("://***@") {
        return Err("its credentials are masked; write the broker's user and password in the place of ***");
    }
    text.parse()
}

/// Where a client opens its queue's stream.
pub(super) fn path(text: &str) -> Result<String, String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._~-".contains(&byte);
    if !text.starts_with('/') || !text.bytes().all(plain) {
        return Err(
            "not a path; write / and letters, digits, '.', '_', '~', '-' and '/', such as /queue".to_owned()
        );
    }
    let first = text[1..].split('/').next().unwrap_or_default();
    if OWN_PATHS.contains(&first) {
        return Err(format!("/{first} is served already; write another, such as / or /queue"));
    }
    Ok(text.to_owned())
}

/// A duration with its unit, or seconds, as eventsourced has them.
pub(super) fn seconds_or_time(text: &str) -> Result<Time, String> {
    match number::<u64>(text).filter(|_| !text.is_empty()) {
        Some(seconds) => format!("{seconds}s").parse(),
        None => text.parse(),
    }
}

/// How long a queue is kept.
pub(super) fn expire(text: &str) -> Result<Time, String> {
    let time = seconds_or_time(text)?;
    check_expire(time.0).map(|()| time).map_err(str::to_owned)
}

fn check_expire(time: Duration) -> Result<(), &'static str> {
    if time.subsec_nanos() == 0 && (EXPIRE_MIN..=EXPIRE_MAX).contains(&time) {
        return Ok(());
    }
    Err("not whole seconds, or not 1 second to 49 days, as RabbitMQ wants them; write 1800 or 30m")
}

/// Messages ahead of their acknowledgement; for a broker 0 would be without limit.
pub(super) fn prefetch(text: &str) -> Result<u16, &'static str> {
    number(text).filter(|n| *n > 0).ok_or("not a count; write a whole number from 1 to 65535")
}

/// Newer messages that push one out.
pub(super) fn ack_window(text: &str) -> Result<u16, &'static str> {
    number(text).filter(|n| *n < u16::MAX).ok_or("not a count; write a whole number from 0 to 65534")
}

/// Checks what of a rule's topic can be known before there is a message.
fn check_topic(topic: &str, namespaces: bool) -> Result<(), String> {
    // A letter stands for the key, which may be of any length: what is too short without it is not.
    let has_key = topic.contains(ROUTING_KEY);
    let text = topic.replace(ROUTING_KEY, "x");
    let hasher = TopicHasher::new(Partitioner::new(1, [0; 16]));
    let parsed = match (namespaces, has_key) {
        (true, _) => {
            let segments: Vec<_> = text.split('/').map(|segment| segment.as_bytes().into()).collect();
            Topic::parse_path(&segments, &hasher)
        }
        (false, true) => Topic::parse(format!("{text:x<8}").as_bytes(), &hasher),
        (false, false) => Topic::parse(text.as_bytes(), &hasher),
    };
    parsed.map(drop).map_err(|error| format!("{error}; {ROUTING_KEY} stands for the message's routing key"))
}

#[cfg(test)]
mod tests {
    use super::super::Config;
    use super::*;

    fn queues() -> Queues {
        let args = ["esper", "--broker-node", "amqp://localhost/"];
        Config::parse(args, &|_| None).unwrap().queues.unwrap()
    }

    #[test]
    fn what_a_program_sets_wrong_is_refused_by_its_field() {
        type Row = (&'static str, fn(&mut Queues));
        let rows: [Row; 14] = [
            ("queues.nodes: empty", |q| q.nodes.clear()),
            ("queues.path \"a\": not a path", |q| q.path = "a".into()),
            ("queues.path \"/stats\": /stats is served", |q| q.path = "/stats".into()),
            ("queues.expire 0ns: not whole seconds", |q| q.expire = Duration::ZERO),
            ("queues.expire 1.5s: not whole seconds", |q| q.expire = Duration::from_millis(1500)),
            ("queues.prefetch 100: not more than queues.ack_window 100", |q| q.prefetch = 100),
            ("queues.ack_delay 30s: out of range", |q| q.ack_delay = Duration::from_secs(30)),
            ("queues.ack_delay", |q| q.ack_delay = Duration::MAX),
            ("queues.subscribe of \"\": a name of 1 to 255 bytes", |q| q.subscribe.push(rule("", "#", "x"))),
            ("queues.subscribe of \"e\": a name of", |q| {
                q.subscribe.push(rule("e", &"k".repeat(256), "x"));
            }),
            ("queues.subscribe of \"e\": topic \"x\": bad topic", |q| q.subscribe.push(rule("e", "#", "x"))),
            ("header.sse has no Content-Type", |q| q.headers_sse.clear()),
            ("header.cors.A\\nB: not a header's name", |q| {
                q.headers_cors.push(("A\nB".into(), String::new()));
            }),
            ("header.cors.vary: there twice", |q| {
                q.headers_cors.extend(["Vary", "vary"].map(|name| (name.into(), String::new())));
            }),
        ];
        for (start, change) in rows {
            let mut config = Config { queues: Some(queues()), ..Config::default() };
            assert_eq!(config.check(), Ok(()));
            change(config.queues.as_mut().unwrap());
            let refused = config.check().unwrap_err();
            assert!(refused.starts_with(start), "{refused}, should begin with {start}");
            assert!(!refused.contains('\n'));
        }
    }

    fn rule(exchange: &str, routing_key: &str, topic: &str) -> SubscribeRule {
        let [exchange, routing_key, topic] = [exchange, routing_key, topic].map(str::to_owned);
        SubscribeRule { exchange, routing_key, topic }
    }

    #[test]
    fn a_rules_topic_may_be_right_for_some_routing_key() {
        for (topic, namespaces, is_right) in [
            ("newspaper1", false, true),
            ("news", false, false),
            ("${routing_key}", false, true),
            ("news${routing_key}", false, true),
            ("news-${routing_key}", false, false),
            ("news${routing-key}", false, false),
            ("", false, false),
            ("a/${routing_key}/b", true, true),
            ("a.${routing_key}-${routing_key}", true, true),
            ("a//${routing_key}", true, false),
            ("..", true, false),
            ("", true, false),
        ] {
            assert_eq!(check_topic(topic, namespaces).is_ok(), is_right, "{topic} {namespaces}");
        }
        let longest = "x".repeat(63);
        assert!(check_topic(&format!("{longest}{ROUTING_KEY}"), false).is_ok());
        assert!(check_topic(&format!("{longest}x{ROUTING_KEY}"), false).is_err());
    }

    #[test]
    fn seconds_need_no_unit_as_eventsourced_has_them() {
        for (text, seconds) in
            [("1800", Some(1800)), ("30m", Some(1800)), ("1", Some(1)), ("49d", Some(4_233_600))]
        {
            assert_eq!(expire(text).ok().map(|time| time.0.as_secs()), seconds, "{text}");
        }
        for text in ["", "0", "-1", "1.5", "4233601", "99999999999999999999", "1800 "] {
            assert!(expire(text).is_err(), "{text}");
        }
    }
}
