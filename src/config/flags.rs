//! What a person may write on the command line. Every flag is a variable too, `ESPER_` and its name; `layers`
//! reads those. Of the secrets only the session's has a flag, which its users know: a command line is seen by
//! everybody on the machine.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser};
use ipnet::IpNet;

use super::cpus::Wanted;
use super::queues::{ack_window, broker_url, expire, path, prefetch, seconds_or_time};
use super::values::{
    Bind, Size, Time, control_address, cookie_name, count, host_name, network, partitions, port, positive,
    secret, trimmed,
};
use super::{
    Auth, BrokerUrl, Config, Drain, History, Http, LogFormat, LogLevel, Mailbox, Pattern, Queues,
    RefuseStreams, Secret, SlowPolicy, Stream, SyncPolicy,
};

const AFTER_HELP: &str = "\
Secrets, from the environment alone:
  ESPER_SUBSCRIBER_SECRET           Signs subscribers' tokens
  ESPER_PUBLISHER_SECRET            Signs publishers' tokens
  ESPER_SUBSCRIBER_SECRET_PREVIOUS  Accepted too, while the secret is being changed
  ESPER_PUBLISHER_SECRET_PREVIOUS   Accepted too, while the secret is being changed
  ESPER_SESSION_SECRET_PREVIOUS     Accepted too, while the secret is being changed

Without a secret and a public key for subscribers anybody may subscribe;
without one for publishers anybody may publish; without one for sessions there
are none.
A secret's file holds the secret in its first line and, while it is being
changed, the one before in its second. SIGHUP rereads the files of secrets,
keys and the control token; no stream ends by it.

To make a token: esper token --help
To check, repair or copy the directory of --data-dir: esper journal --help
A flag stands over its variable, a variable over files, a file over the default.
The files: /etc/eventsourced/config.yml, /etc/esper/config.yml, config.yml
beside this program, that of --config; each over those before it. Their keys are
the flags' names: port: 3000.
TIME is a number and its unit: 500ms, 15s, 10m, 2h, 30d.
SIZE is bytes, or a number and its unit: K, M, G (powers of 1000) or KiB, MiB,
GiB (of 1024).";

const CORS_ORIGIN_HELP: &str =
    "Origin browsers may call from, such as https://example.org; repeat it, or part by commas; * for any";

// A doc comment here is the flag's help.
/// A standalone Server-Sent Events broker.
#[derive(Debug, Parser)]
#[command(name = "esper", version, after_help = AFTER_HELP, max_term_width = 120)]
pub(super) struct Flags {
    #[command(flatten)]
    pub(super) files: FileFlags,
    #[command(flatten)]
    pub(super) listening: ListeningFlags,
    #[command(flatten)]
    pub(super) control: ControlFlags,
    #[command(flatten)]
    pub(super) auth: AuthFlags,
    #[command(flatten)]
    pub(super) session: SessionFlags,
    #[command(flatten)]
    pub(super) queues: QueueFlags,
    #[command(flatten)]
    pub(super) topics: TopicFlags,
    #[command(flatten)]
    pub(super) history: HistoryFlags,
    #[command(flatten)]
    pub(super) journal: JournalFlags,
    #[command(flatten)]
    pub(super) streams: StreamFlags,
    #[command(flatten)]
    pub(super) http: HttpFlags,
    #[command(flatten)]
    pub(super) mailbox: MailboxFlags,
    #[command(flatten)]
    pub(super) drain: DrainFlags,
    #[command(flatten)]
    pub(super) logging: LoggingFlags,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Configuration")]
pub(super) struct FileFlags {
    /// YAML file that stands over /etc/eventsourced/config.yml, /etc/esper/config.yml and config.yml beside the binary
    #[arg(long, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,

    /// Print what is in force, as YAML for --config and without secrets, and end
    #[arg(short = 'c', long)]
    pub(super) dump_config: bool,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Listening")]
pub(super) struct ListeningFlags {
    /// Address to listen on; 0.0.0.0 or :: for all; with a port as in 127.0.0.1:8000
    #[arg(short, long, value_name = "IP[:PORT]", default_value_t = Bind { ip: Config::BIND, port: None })]
    pub(super) bind: Bind,

    /// TCP port to listen on; 0 for any free one
    #[arg(short, long, value_name = "PORT", value_parser = port, default_value_t = Config::PORT)]
    pub(super) port: u16,

    /// How many CPUs to use, one thread each [default: all this process may use]
    #[arg(short, long, value_name = "N", value_parser = positive)]
    pub(super) threads: Option<usize>,

    /// How many CPUs (2: the first two this process may use) or which (0-3,6: just those; 5-5: just CPU 5)
    #[arg(long, value_name = "N|LIST")]
    pub(super) cores: Option<Wanted>,

    /// Let the kernel move the threads between CPUs
    #[arg(long)]
    pub(super) no_pin: bool,

    /// Listen although another process already listens on the port, so that this one can take over from it
    #[arg(long)]
    pub(super) takeover: bool,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Control port")]
pub(super) struct ControlFlags {
    /// Second address to listen on, not for the outside world: it serves every route, and only it /token/,
    /// /emit/, /sessions/ and /disconnect/; /publish, /stats, /metrics and /admin are then served by it alone
    #[arg(long, visible_alias = "bindctl", value_name = "IP:PORT", value_parser = control_address)]
    pub(super) bind_control: Option<SocketAddr>,

    /// File with the token that every request to the control port must carry; needed beyond loopback
    #[arg(long, value_name = "FILE")]
    pub(super) control_token_file: Option<PathBuf>,

    /// Host name by which the control port may be asked, beside addresses and localhost; repeat it, or part
    /// by commas
    #[arg(long, value_name = "NAME", value_delimiter = ',', value_parser = host_name)]
    pub(super) control_host: Vec<String>,

    /// Serve /publish, /stats, /metrics and /admin on the public port, too
    #[arg(long)]
    pub(super) public_publish: bool,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Authentication")]
pub(super) struct AuthFlags {
    /// Let everybody subscribe and publish, whatever secrets and keys are set; sessions need their tokens all
    /// the same
    #[arg(long)]
    pub(super) no_auth: bool,

    /// File with the secret that signs subscribers' tokens, in place of ESPER_SUBSCRIBER_SECRET
    #[arg(long, value_name = "FILE")]
    pub(super) subscriber_secret_file: Option<PathBuf>,

    /// File with the secret that signs publishers' tokens, in place of ESPER_PUBLISHER_SECRET
    #[arg(long, value_name = "FILE")]
    pub(super) publisher_secret_file: Option<PathBuf>,

    /// PEM file of public keys, whose private keys sign subscribers' tokens: RS256, ES256 or EdDSA, by the
    /// key's type
    #[arg(long, value_name = "FILE")]
    pub(super) subscriber_public_key: Option<PathBuf>,

    /// PEM file of public keys, whose private keys sign publishers' tokens
    #[arg(long, value_name = "FILE")]
    pub(super) publisher_public_key: Option<PathBuf>,

    /// Cookie in which a subscriber may send its token
    #[arg(long, value_name = "NAME", value_parser = cookie_name, default_value = Auth::COOKIE_NAME)]
    pub(super) cookie_name: String,

    /// Serve no admin page: everything below /admin is answered 403
    #[arg(long)]
    pub(super) no_admin: bool,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Sessions")]
pub(super) struct SessionFlags {
    /// Secret that signs session tokens; on the command line everybody on this machine can see it (ps):
    /// better its variable, or --session-secret-file
    #[arg(long, visible_alias = "secret", value_name = "TEXT", value_parser = secret)]
    pub(super) session_secret: Option<Secret>,

    /// File with the secret that signs session tokens
    #[arg(long, visible_alias = "secret-file", value_name = "FILE")]
    pub(super) session_secret_file: Option<PathBuf>,

    /// PEM file of public keys, whose private keys sign session tokens
    #[arg(long, value_name = "FILE")]
    pub(super) session_public_key: Option<PathBuf>,

    /// How long a session token made by /token/ may be good for, at most
    #[arg(long, value_name = "TIME", default_value_t = Time(Auth::SESSION_TIME_MAX))]
    pub(super) session_time_max: Time,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Queues (RabbitMQ)")]
pub(super) struct QueueFlags {
    /// Broker's URL, amqp://user:password@host:5672/vhost or amqps://...; repeat it, or part by commas; one
    /// that is there twice is two connections. On the command line everybody on this machine can see the
    /// password (ps): better its variable, or broker.node in a file
    #[arg(long, value_name = "URL", value_delimiter = ',', value_parser = broker_url)]
    pub(super) broker_node: Vec<BrokerUrl>,

    /// What a client's queue is named: ${query:NAME} and ${cookie:NAME} of its request, and text around them
    #[arg(long, value_name = "PATTERN", default_value = Queues::PATTERN)]
    pub(super) queue_pattern: Pattern,

    /// Path at which a client opens its queue's stream
    #[arg(long, value_name = "PATH", value_parser = path, default_value = Queues::PATH)]
    pub(super) queue_path: String,

    /// How long a queue that nobody reads is kept; without a unit it is seconds
    #[arg(long, value_name = "TIME", value_parser = expire, default_value_t = Time(Queues::EXPIRE))]
    pub(super) queue_expire: Time,

    /// Messages a broker sends ahead of their acknowledgement, for each queue; more than --queue-ack-window
    #[arg(long, value_name = "N", value_parser = prefetch, default_value_t = Queues::PREFETCH)]
    pub(super) queue_prefetch: u16,

    /// A message is acknowledged when so many newer ones were sent
    #[arg(long, value_name = "N", value_parser = ack_window, default_value_t = Queues::ACK_WINDOW)]
    pub(super) queue_ack_window: u16,

    /// Or when its connection has lived so long since it was sent: longer than a dead client may stay
    /// unnoticed
    #[arg(long, value_name = "TIME", value_parser = seconds_or_time, default_value_t = Time(Queues::ACK_DELAY))]
    pub(super) queue_ack_delay: Time,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Topics")]
pub(super) struct TopicFlags {
    /// Topics are paths such as pets/dogs, and a subscriber to pets receives what is published below it
    #[arg(long)]
    pub(super) namespaces: bool,

    /// Parts of the order, 1 to 64: topics with the same first segment are in one, each has one sequence and is ordered by
    /// one CPU; the directory of --data-dir keeps the number it began with
    #[arg(long, value_name = "N", value_parser = partitions, default_value_t = Config::PARTITIONS)]
    pub(super) partitions: u8,

    /// Topics at once; the longest idle makes room for a new one
    #[arg(long, value_name = "N", value_parser = positive, default_value_t = Config::TOPICS_MAX)]
    pub(super) topics_max: usize,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "History")]
pub(super) struct HistoryFlags {
    /// Events kept for replay per topic; 0 for none, and then no ids are added either
    #[arg(long, value_name = "N", value_parser = count, default_value_t = History::DEFAULT.events_max)]
    pub(super) history_events: usize,

    /// Bytes kept for replay per topic
    #[arg(long, value_name = "SIZE", default_value_t = Size(History::DEFAULT.bytes_max))]
    pub(super) history_bytes: Size,

    /// How long an event is kept for replay
    #[arg(long, value_name = "TIME", default_value_t = Time(History::DEFAULT.age_max))]
    pub(super) history_age: Time,

    /// Bytes of all that is kept for replay and for subscribers that are behind, together
    #[arg(long, value_name = "SIZE", default_value_t = Size(History::DEFAULT.memory_bytes_max))]
    pub(super) history_memory: Size,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Journal")]
pub(super) struct JournalFlags {
    /// Directory to keep events in, so that what was answered 200 outlives kill -9 and a power failure; made if it is not
    /// there [default: none: events are in memory alone]
    #[arg(long, value_name = "DIR")]
    pub(super) data_dir: Option<PathBuf>,

    /// When a publish is answered: always, once it is on the disk; with a TIME, once it is written, and it is on the disk
    /// at most so much later. Then kill -9 loses nothing, but a power failure loses what came in that TIME, which
    /// subscribers may have seen
    #[arg(long, value_name = "always|TIME", default_value_t = SyncPolicy::Always)]
    pub(super) sync: SyncPolicy,

    /// Bytes that directory may take, 256MiB or more; past that the oldest events go, whatever --history-* keeps
    /// [default: no limit]
    #[arg(long, value_name = "SIZE")]
    pub(super) data_max: Option<Size>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Streams")]
pub(super) struct StreamFlags {
    /// How often a stream that got nothing else gets a comment; 0s for never
    #[arg(long, value_name = "TIME", default_value_t = Stream::DEFAULT.heartbeat.map_or(Time::ZERO, Time))]
    pub(super) heartbeat: Time,

    /// Bytes a subscriber may be behind before --slow-policy applies
    #[arg(long, value_name = "SIZE", default_value_t = Size(Stream::DEFAULT.lag_bytes_max))]
    pub(super) slow_lag: Size,

    /// What a subscriber too far behind gets: cut to reconnect and replay, or skip ahead past a gap
    #[arg(long, value_name = "cut|skip", value_enum, default_value_t = Stream::DEFAULT.slow_policy)]
    pub(super) slow_policy: SlowPolicy,

    /// How long one send may take before its connection is cut, under either policy
    #[arg(long, value_name = "TIME", default_value_t = Time(Stream::DEFAULT.send_timeout))]
    pub(super) send_timeout: Time,

    /// Streams open at once [default: what the limit on open files allows]
    #[arg(long, value_name = "N", value_parser = positive)]
    pub(super) subscribers_max: Option<usize>,

    /// How a stream is refused for now: 200 with a retry time, which browsers come back after, or 503
    #[arg(long, value_name = "retry|503", value_enum, default_value_t = Stream::DEFAULT.refuse)]
    pub(super) refuse_streams: RefuseStreams,

    /// Shortest time drawn for a browser to come back after
    #[arg(long, value_name = "TIME", default_value_t = Time(Stream::DEFAULT.retry_min))]
    pub(super) retry_min: Time,

    /// Longest time drawn for a browser to come back after
    #[arg(long, value_name = "TIME", default_value_t = Time(Stream::DEFAULT.retry_max))]
    pub(super) retry_max: Time,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "HTTP")]
pub(super) struct HttpFlags {
    /// Bytes of a request's line and headers
    #[arg(long, value_name = "SIZE", default_value_t = Size(Http::DEFAULT.head_bytes_max))]
    pub(super) head_max: Size,

    /// Bytes of a request's body
    #[arg(long, value_name = "SIZE", default_value_t = Size(Http::DEFAULT.body_bytes_max))]
    pub(super) body_max: Size,

    /// How long a request's line and headers may take
    #[arg(long, value_name = "TIME", default_value_t = Time(Http::DEFAULT.head_timeout))]
    pub(super) head_timeout: Time,

    /// How long a request's body may take
    #[arg(long, value_name = "TIME", default_value_t = Time(Http::DEFAULT.body_timeout))]
    pub(super) body_timeout: Time,

    /// How long a connection may wait between requests
    #[arg(long, value_name = "TIME", default_value_t = Time(Http::DEFAULT.idle_timeout))]
    pub(super) idle_timeout: Time,

    /// Publishes of one connection that are read but not answered yet
    #[arg(long, value_name = "N", value_parser = positive, default_value_t = Http::DEFAULT.unanswered_max)]
    pub(super) unanswered_max: usize,

    /// Bytes held by all connections that are no streams: 4 KiB each, unfinished requests, unsent answers
    #[arg(long, value_name = "SIZE", default_value_t = Size(Http::DEFAULT.memory_bytes_max))]
    pub(super) request_memory: Size,

    // Not a doc comment: rustdoc wants its address as a link, which would stand in the help.
    #[arg(long, help = CORS_ORIGIN_HELP, value_name = "ORIGIN", default_value = Config::CORS_ORIGIN)]
    #[arg(value_delimiter = ',', value_parser = trimmed)]
    pub(super) cors_origin: Vec<String>,

    /// Proxy whose X-Forwarded-For says where a client is, or a network of such; repeat it, or part by commas
    #[arg(long, value_name = "IP|CIDR", value_delimiter = ',', value_parser = network)]
    pub(super) trusted_proxy: Vec<IpNet>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Between cores")]
pub(super) struct MailboxFlags {
    /// Bytes under way between CPUs
    #[arg(long, value_name = "SIZE", default_value_t = Size(Mailbox::DEFAULT.bytes_max))]
    pub(super) mailbox_bytes: Size,

    /// Messages under way between CPUs
    #[arg(long, value_name = "N", value_parser = positive, default_value_t = Mailbox::DEFAULT.messages_max)]
    pub(super) mailbox_messages: usize,

    /// How long a publisher is not read from, past either limit, before it gets 503
    #[arg(long, value_name = "TIME", default_value_t = Time(Mailbox::DEFAULT.wait_max))]
    pub(super) mailbox_wait: Time,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Stopping")]
pub(super) struct DrainFlags {
    /// How long /healthz answers 503 before the server stops accepting
    #[arg(long, value_name = "TIME", default_value_t = Time(Drain::DEFAULT.delay))]
    pub(super) drain_delay: Time,

    /// How long connections then have to end
    #[arg(long, value_name = "TIME", default_value_t = Time(Drain::DEFAULT.time_max))]
    pub(super) drain_time: Time,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Logging")]
pub(super) struct LoggingFlags {
    /// How log lines are written
    #[arg(long, value_name = "text|json", value_enum, default_value_t = Config::LOG_FORMAT)]
    pub(super) log_format: LogFormat,

    /// Least urgent line that is logged
    #[arg(long, value_name = "error|warn|info|debug", value_enum, default_value_t = Config::LOG_LEVEL)]
    pub(super) log_level: LogLevel,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn an_enums_values_are_its_values_name() {
        for arg in Flags::command().get_arguments() {
            let values: Vec<String> =
                arg.get_possible_values().iter().map(|value| value.get_name().to_owned()).collect();
            if values.is_empty() || !arg.get_action().takes_values() {
                continue;
            }
            let names = arg.get_value_names().unwrap_or_default();
            assert_eq!(names.iter().map(|name| name.as_str()).collect::<Vec<_>>(), [values.join("|")]);
        }
    }
}
