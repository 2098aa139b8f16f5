//! Settings of queues: the brokers, the names of queues, and when a message counts as delivered.

use std::time::Duration;

use clap::Args;

use super::file::Files;
use super::headers;
use super::layer::{Layer, shown};
use super::values::{Time, number, whole};
use super::{BrokerUrl, Pattern, Stream, SubscribeRule};
use crate::core::partition::Partitioner;
use crate::core::topic::{Topic, TopicHasher};

/// One queue per client, delivered as an event stream.
#[derive(Args, Clone, Debug, Eq, PartialEq)]
#[command(next_help_heading = "Queues (RabbitMQ)")]
pub struct Queues {
    /// Broker's URL, amqp://user:password@host:5672/vhost or amqps://...; repeat it, or separate by commas; one that is
    /// there twice is two connections. On the command line everybody on this machine can see the password (ps): better
    /// its variable, or broker.node in a file.
    ///
    /// Never empty. A connection carries no more clients than its channelMax.
    #[arg(id = "broker.node", long = "broker-node", value_name = "URL", value_delimiter = ',')]
    #[arg(value_parser = broker_url)]
    pub nodes: Vec<BrokerUrl>,
    /// What a client's queue is named: ${query:NAME} and ${cookie:NAME} of its request, and text around them.
    #[arg(
        id = "queue.pattern",
        long = "queue-pattern",
        value_name = "PATTERN",
        default_value = "${query:id}"
    )]
    pub pattern: Pattern,
    /// Path at which a client opens its queue's stream.
    ///
    /// `/` and letters, digits, `.`, `_`, `~`, `-` and `/`. None of the server's own paths.
    #[arg(id = "queue.path", long = "queue-path", value_name = "PATH", value_parser = path, default_value = "/")]
    pub path: String,
    /// How long a queue that nobody reads is kept; without a unit it is seconds.
    ///
    /// Whole seconds, 1 s to 49 days.
    #[arg(id = "queue.expire", long = "queue-expire", value_name = "TIME", value_parser = expire)]
    #[arg(default_value = "30m")]
    pub expire: Duration,
    /// Messages a broker sends ahead of their acknowledgement, for each queue; more than --queue-ack-window.
    // For a broker 0 would be without limit.
    #[arg(id = "queue.prefetch", long = "queue-prefetch", value_name = "N", default_value = "200")]
    #[arg(value_parser = whole("count", 1..=u16::MAX))]
    pub prefetch: u16,
    /// A message is acknowledged when so many newer ones were sent.
    #[arg(id = "queue.ack_window", long = "queue-ack-window", value_name = "N", default_value = "100")]
    #[arg(value_parser = whole("count", 0..=u16::MAX - 1))]
    pub ack_window: u16,
    /// Or when its connection has lived so long since it was sent: longer than a dead client may stay unnoticed.
    ///
    /// That is the longer of two heartbeats and 5/4 of the send timeout.
    #[arg(id = "queue.ack_delay", long = "queue-ack-delay", value_name = "TIME", default_value = "40s")]
    #[arg(value_parser = seconds_or_time)]
    pub ack_delay: Duration,
    /// What else the brokers publish to topics.
    #[arg(skip)]
    pub subscribe: Vec<SubscribeRule>,
    /// Headers of every answer at `path`, name and value.
    #[arg(skip)]
    pub headers_cors: Vec<(String, String)>,
    /// Headers of a stream, name and value. `Transfer-Encoding` may be `chunked`, or `identity` for a body without
    /// chunks, to the close.
    #[arg(skip)]
    pub headers_sse: Vec<(String, String)>,
}

/// The first segments of the server's own paths.
const OWN_PATHS: &str =
    "admin debug disconnect emit events healthz metrics publish readyz sessions stats subscribe token";
/// The placeholder of a message's routing key in a rule's topic.
const ROUTING_KEY: &str = "${routing_key}";

impl Queues {
    /// Adds the settings that only files have; returns `None` without a broker. Settings that look like a mistake are
    /// added to `warnings`.
    ///
    /// # Errors
    /// The place in a file, the reason and the remedy.
    pub(super) fn with_files(
        mut self,
        files: &Files,
        namespaces: bool,
        names: &Layer,
        warnings: &mut Vec<String>,
    ) -> Result<Option<Self>, String> {
        let (cors, sse) = headers::of_files(names);
        headers::check_all(&cors, &sse)?;
        for (place, rule) in &files.subscribe {
            check_topic(&rule.topic, namespaces)
                .map_err(|reason| format!("{place}: {}: {reason}", shown(&rule.topic)))?;
        }
        if self.nodes.is_empty() {
            let said = ["queue-pattern", "queue-path"].into_iter().find(|flag| names.is_given(flag));
            if said.is_some() || !files.subscribe.is_empty() {
                let said = said.map_or_else(|| "queue.subscribe".to_owned(), |flag| names.of(flag));
                let node = names.of("broker-node");
                warnings.push(format!("{said} is of no use: {node} names no broker, so there are no queues"));
            }
            return Ok(None);
        }
        if self.pattern.is_constant() {
            warnings.push(format!(
                "{}: every client has the same queue, so there is one client at a time; \
                 write ${{query:NAME}} or ${{cookie:NAME}} into it",
                names.with("queue-pattern", &self.pattern)
            ));
        }
        if names.is_given("cors-origin") && names.get("header.cors.Access-Control-Allow-Origin").is_none() {
            warnings.push(format!(
                "{} is not for queues, which pages of any origin may read; \
                 write Access-Control-Allow-Origin below header.cors in a file",
                names.of("cors-origin")
            ));
        }
        // The default of RabbitMQ's `consumer_timeout`.
        if self.ack_delay >= Duration::from_secs(30 * 60) {
            warnings.push(format!(
                "{}: RabbitMQ ends a stream of which a message is unacknowledged for 30 minutes, \
                 unless its consumer_timeout is longer",
                names.with("queue-ack-delay", Time(self.ack_delay))
            ));
        }
        self.subscribe = files.subscribe.iter().map(|(_, rule)| rule.clone()).collect();
        self.headers_cors = headers::in_force(cors);
        self.headers_sse = headers::in_force(sse);
        Ok(Some(self))
    }

    /// Checks the fields that a program sets and no flag checks.
    pub(super) fn check_fields(&self, stream: &Stream, namespaces: bool) -> Result<(), String> {
        if self.nodes.is_empty() {
            return Err("queues.nodes: empty; name a broker, or set queues to None".to_owned());
        }
        let unnoticed = stream.peer_timeout();
        if self.ack_delay <= unnoticed {
            return Err(format!(
                "queues.ack_delay {:?}: out of range; set it to more than {unnoticed:?}, \
                 as long as a dead client may stay unnoticed",
                self.ack_delay
            ));
        }
        for rule in &self.subscribe {
            let (exchange, topic) = (&rule.exchange, &rule.topic);
            if exchange.is_empty() || exchange.len() > 255 || rule.routing_key.len() > 255 {
                return Err(format!(
                    "queues.subscribe of {exchange:?}: a name of 1 to 255 bytes, and a key of at most 255, are \
                     possible; set them to such"
                ));
            }
            check_topic(topic, namespaces)
                .map_err(|reason| format!("queues.subscribe of {exchange:?}: topic {topic:?}: {reason}"))?;
        }
        let [cors, sse] = [("cors", &self.headers_cors), ("sse", &self.headers_sse)]
            .map(|(kind, headers)| headers::of_fields(kind, headers));
        headers::check_all(&cors, &sse)
    }

    /// Checks settings against each other.
    pub(super) fn check(&self, stream: &Stream, names: &Layer) -> Result<(), String> {
        // Otherwise no message would ever be pushed out of the window.
        if self.prefetch <= self.ack_window {
            return Err(format!(
                "{}: not more than {}; raise {} to {}, or lower the other",
                names.with("queue-prefetch", self.prefetch),
                names.with("queue-ack-window", self.ack_window),
                names.of("queue-prefetch"),
                u32::from(self.ack_window) + 1
            ));
        }
        // Otherwise messages would be acknowledged that a dead client never got.
        let unnoticed = Time(stream.peer_timeout());
        if self.ack_delay > unnoticed.0 {
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
            names.with("queue-ack-delay", Time(self.ack_delay)),
            names.of("queue-ack-delay"),
        ))
    }
}

/// Parses a broker's URL; one with masked credentials, from a printed configuration, has a refusal of its own.
fn broker_url(text: &str) -> Result<BrokerUrl, &'static str> {
    if text.contains("://***@") {
        return Err("its credentials are masked; write the broker's user and password in the place of ***");
    }
    text.parse()
}

/// Parses the path at which a client opens its queue's stream.
fn path(text: &str) -> Result<String, String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._~-".contains(&byte);
    if !text.starts_with('/') || !text.bytes().all(plain) {
        return Err(
            "not a path; write / and letters, digits, '.', '_', '~', '-' and '/', such as /queue".to_owned()
        );
    }
    let first = text[1..].split('/').next().unwrap_or_default();
    if OWN_PATHS.split(' ').any(|own| own == first) {
        return Err(format!("/{first} is served already; write another, such as / or /queue"));
    }
    Ok(text.to_owned())
}

/// Parses a duration with its unit, or seconds, as in eventsourced's files.
fn seconds_or_time(text: &str) -> Result<Duration, String> {
    let Time(time) = match number::<u64>(text).filter(|_| !text.is_empty()) {
        Some(seconds) => format!("{seconds}s").parse(),
        None => text.parse(),
    }?;
    Ok(time)
}

/// Parses how long a queue is kept: `x-expires` is in milliseconds, at most 2^32 - 1.
fn expire(text: &str) -> Result<Duration, String> {
    let days = |days: u64| Duration::from_secs(days * 24 * 60 * 60);
    match seconds_or_time(text)? {
        time if time.subsec_nanos() == 0 && !time.is_zero() && time <= days(49) => Ok(time),
        _ => Err("not whole seconds, or not 1 second to 49 days, as RabbitMQ wants them; write 1800 or 30m"
            .to_owned()),
    }
}

/// Checks a rule's topic as far as is possible without a message.
fn check_topic(topic: &str, namespaces: bool) -> Result<(), String> {
    // A letter stands for the key, which may be of any length, so a topic too short without the key is accepted.
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
mod tests;
