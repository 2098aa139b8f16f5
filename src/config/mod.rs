//! Flags, environment and files become one checked [`Config`], once, before anything starts.
//!
//! `flags` is what a person may write, `values` how one value is read, `layers` how a flag stands over its
//! variable over files over its default, `clap_error` says in one line what is wrong, `keys` reads secrets and
//! public keys, `check` turns all into a `Config` and refuses limits that cannot hold together, `cpus` says which
//! CPUs the shards get. `yaml` reads a file's text, `file` knows its keys, `entries` what becomes of several,
//! `dump` prints what came of all. `queues`, `pattern`, `headers` and `broker` are of the queues. `token` does as
//! much for `esper token`. Everything past this module trusts what it holds.

mod broker;
mod check;
mod clap_error;
mod command_line;
mod control;
mod cpus;
mod dump;
mod entries;
mod error;
mod file;
mod flags;
mod headers;
mod keys;
mod layers;
mod limits;
mod names;
mod pattern;
mod public_key;
mod queues;
mod secret;
mod token;
mod values;
mod yaml;

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

pub(crate) use broker::BrokerTarget;
pub use broker::{BrokerUrl, SubscribeRule};
pub(crate) use clap_error::parse_command;
pub use control::Control;
pub use cpus::Cpus;
pub use error::ConfigError;
pub(crate) use error::print;
pub use ipnet::IpNet;
pub(crate) use limits::SHARDS_MAX;
pub use pattern::{Pattern, PatternError};
pub use public_key::{KeyType, PublicKey};
pub use queues::Queues;
pub use secret::{Secret, SecretPair};
pub(crate) use token::{TokenClaims, TokenOrder};

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// Everything a server is told before it starts.
///
/// `Config::default()` is what the binary does without flags and variables, but for what concerns the whole
/// process, which belongs to the program around the server: there is one shard, no thread is pinned and no
/// limit is raised.
///
/// ```
/// use esper::Server;
/// use esper::config::Config;
///
/// let mut config = Config { port: 0, namespaces: true, ..Config::default() };
/// config.history.events_max = 100;
/// let server = Server::start(config)?;
/// # server.stop();
/// # Ok::<(), esper::StartError>(())
/// ```
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Config {
    /// The address to listen on.
    pub bind: IpAddr,
    /// The TCP port to listen on; 0 is any free one.
    pub port: u16,
    /// A second listener, for control.
    pub control: Option<Control>,
    /// Which CPUs get a shard.
    pub cpus: Cpus,
    /// Raise the process's limit on open files as far as it may be: every connection takes one.
    pub raise_file_limit: bool,
    /// Listen although another process already listens on the port.
    pub takeover: bool,
    /// What `/debug/vars` shows as the command line, without secrets. `from_env_and_args` fills it in; the command
    /// line of a program around the server is nobody's business.
    pub command_line: Vec<String>,
    /// How log lines are written.
    pub log_format: LogFormat,
    /// The least urgent line that is still logged.
    pub log_level: LogLevel,
    /// Who may subscribe and publish.
    pub auth: Auth,
    /// Origins which browsers may call from; never empty, and already accepted by the CORS parser.
    pub cors_origins: Vec<String>,
    /// The admin page is served; without it everything below `/admin` is answered 403.
    pub admin: bool,
    /// Peers whose `X-Forwarded-For` says where a connection comes from.
    pub trusted_proxies: Vec<IpNet>,
    /// One RabbitMQ queue per client; `None` without a broker.
    pub queues: Option<Queues>,
    /// Topics are paths, and a subscriber to one receives what is published below it.
    pub namespaces: bool,
    /// How many parts the order of events has, each with a sequence of its own. It belongs to what is kept of events, not to
    /// the machine; 1 to 64.
    pub partitions: u8,
    /// Topics that exist at once, in the whole process.
    pub topics_max: usize,
    /// What is kept for replay.
    pub history: History,
    /// What of it outlives the process; `None`: nothing.
    pub data: Option<Data>,
    /// Open streams in the whole process; `None` is what the limit on open files allows.
    pub subscribers_max: Option<usize>,
    /// How streams are kept alive, and what happens to slow ones.
    pub stream: Stream,
    /// Limits of a request and of its connection.
    pub http: Http,
    /// Limits of what is under way between shards.
    pub mailbox: Mailbox,
    /// How the server stops.
    pub drain: Drain,
}

/// How a process came to its configuration.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Notes {
    /// The files that were read, each over those before it.
    pub files: Vec<String>,
    /// What looks like a mistake, or is dangerous, a line each.
    pub warnings: Vec<String>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            bind: Self::BIND,
            port: Self::PORT,
            control: None,
            cpus: Cpus::default(),
            raise_file_limit: false,
            takeover: false,
            command_line: Vec::new(),
            log_format: Self::LOG_FORMAT,
            log_level: Self::LOG_LEVEL,
            auth: Auth::default(),
            cors_origins: vec![Self::CORS_ORIGIN.to_owned()],
            admin: true,
            trusted_proxies: Vec::new(),
            queues: None,
            namespaces: false,
            partitions: Self::PARTITIONS,
            topics_max: Self::TOPICS_MAX,
            history: History::DEFAULT,
            data: None,
            subscribers_max: None,
            stream: Stream::DEFAULT,
            http: Http::DEFAULT,
            mailbox: Mailbox::DEFAULT,
            drain: Drain::DEFAULT,
        }
    }
}

// The flags' defaults are read from these and from each part's `DEFAULT`, so that the two cannot drift apart.
impl Config {
    const BIND: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
    const PORT: u16 = 3000;
    const LOG_FORMAT: LogFormat = LogFormat::Text;
    const LOG_LEVEL: LogLevel = LogLevel::Info;
    const PARTITIONS: u8 = 16;
    const TOPICS_MAX: usize = 100_000;
    const CORS_ORIGIN: &str = "*";
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// The least urgent line that is still logged.
#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
pub enum LogLevel {
    /// What needs somebody to act.
    Error,
    /// What may need somebody to act.
    Warn,
    /// Starting, stopping and what was decided at each.
    Info,
    /// What happens to each connection.
    Debug,
}

impl From<LogLevel> for tracing::Level {
    fn from(level: LogLevel) -> Self {
        match level {
            LogLevel::Error => Self::ERROR,
            LogLevel::Warn => Self::WARN,
            LogLevel::Info => Self::INFO,
            LogLevel::Debug => Self::DEBUG,
        }
    }
}

/// Who may subscribe and publish, and whose session tokens are good.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Auth {
    /// False lets everybody subscribe and publish, whatever `subscriber` and `publisher` say (`--no-auth`).
    pub enabled: bool,
    /// What signs the tokens of subscribers; nothing: anybody may subscribe.
    pub subscriber: Signers,
    /// What signs the tokens of publishers; nothing: anybody may publish.
    pub publisher: Signers,
    /// What signs session tokens, which say who a user is and on which channel; nothing: there are no
    /// sessions.
    pub session: Signers,
    /// The cookie in which a subscriber may send its token; a token of RFC 9110, 5.6.2.
    pub cookie_name: String,
    /// How long a session token that the server mints may be good for: 1 s to 365 days.
    pub session_time_max: Duration,
}

impl Auth {
    const COOKIE_NAME: &str = "esper_token";
    /// Tokens hold the second they expire at.
    const SESSION_TIME_MIN: Duration = Duration::from_secs(1);
    const SESSION_TIME_MAX: Duration = Duration::from_secs(30 * 24 * 60 * 60);
}

impl Default for Auth {
    fn default() -> Self {
        Self {
            enabled: true,
            subscriber: Signers::default(),
            publisher: Signers::default(),
            session: Signers::default(),
            cookie_name: Self::COOKIE_NAME.to_owned(),
            session_time_max: Self::SESSION_TIME_MAX,
        }
    }
}

/// What tokens of one kind may be signed with: any of these.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Signers {
    /// A secret, for HS256.
    pub secret: Option<SecretPair>,
    /// Public keys, for RS256, ES256 or EdDSA, by the type of each.
    pub public_keys: Vec<PublicKey>,
}

impl Signers {
    /// Whether no token can be right.
    pub fn is_empty(&self) -> bool {
        self.secret.is_none() && self.public_keys.is_empty()
    }
}

/// What is kept for replay. An event leaves the history when any of these limits is reached.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct History {
    /// Events per topic; 0 turns history off, and with it the ids which the server adds.
    pub events_max: usize,
    /// Bytes of frames per topic.
    pub bytes_max: usize,
    /// How long an event is kept.
    pub age_max: Duration,
    /// Bytes of all histories and logs together, in the whole process. At least `Stream::lag_bytes_max`.
    pub memory_bytes_max: usize,
}

impl History {
    const DEFAULT: Self = Self {
        events_max: 1000,
        bytes_max: 4 * MIB,
        age_max: Duration::from_secs(10 * 60),
        memory_bytes_max: 256 * MIB,
    };
}

impl Default for History {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// Where events are kept that outlive the process.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Data {
    /// The directory; it is made if it is not there. One server at a time uses it.
    pub dir: PathBuf,
    /// When a publish is answered.
    pub sync: SyncPolicy,
    /// Bytes of all files in the directory, 256 MiB at least; `None` without a limit.
    pub bytes_max: Option<usize>,
}

impl Data {
    const BYTES_MAX_MIN: usize = 256 * MIB;
}

/// When a publish is answered that is kept.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum SyncPolicy {
    /// When it is on the disk.
    Always,
    /// When it is written, and so long after that it is on the disk.
    Every(Duration),
}

/// How streams are kept alive, and what happens to slow ones.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Stream {
    /// How often a stream that got nothing else gets a comment; `None` is never. At least 100 ms.
    pub heartbeat: Option<Duration>,
    /// Bytes a subscriber may be behind before `slow_policy` applies. At least twice `Http::body_bytes_max`.
    pub lag_bytes_max: usize,
    /// What happens to a subscriber that is too far behind.
    pub slow_policy: SlowPolicy,
    /// How long one send may take before the connection is cut, under either policy.
    pub send_timeout: Duration,
    /// How a stream is refused for a reason that will pass.
    pub refuse: RefuseStreams,
    /// The shortest `retry:` that is drawn for a stream that is refused or ended.
    pub retry_min: Duration,
    /// The longest `retry:`; never less than `retry_min`.
    pub retry_max: Duration,
}

impl Stream {
    /// How long the kernel lets a peer leave data unacknowledged before it ends the connection
    /// (TCP_USER_TIMEOUT).
    pub(crate) fn peer_timeout(&self) -> Duration {
        let heartbeats = self.heartbeat.map(|heartbeat| 2 * heartbeat).unwrap_or_default();
        // Not less than a send may take: a client that reads nothing for a while is not a dead one. And
        // somewhat more, so that it is our own clock that cuts it, and counts it.
        heartbeats.max(self.send_timeout * 5 / 4)
    }

    const DEFAULT: Self = Self {
        heartbeat: Some(Duration::from_secs(15)),
        lag_bytes_max: 4 * MIB,
        slow_policy: SlowPolicy::Cut,
        // A quarter more of it is less than two heartbeats, so that a dead peer is noticed within those.
        send_timeout: Duration::from_secs(20),
        refuse: RefuseStreams::Retry,
        retry_min: Duration::from_secs(1),
        retry_max: Duration::from_secs(5),
    };
}

impl Default for Stream {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// What happens to a subscriber that is too far behind.
#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
pub enum SlowPolicy {
    /// Its connection is closed; it reconnects and replays.
    Cut,
    /// It is told of a gap and goes on from there.
    Skip,
}

/// How a stream is refused for a reason that will pass: a limit, or the server is stopping.
#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
pub enum RefuseStreams {
    /// 200 with a `retry:` and the close: an EventSource comes back by itself.
    Retry,
    /// 503 with Retry-After: for clients that are no EventSource, which would give up for ever.
    #[value(name = "503")]
    Unavailable,
}

/// Limits of a request and of its connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Http {
    /// Bytes of request line and headers. 1 KiB to 1 MiB.
    pub head_bytes_max: usize,
    /// Bytes of a body, decoded. 1 KiB to 64 MiB.
    pub body_bytes_max: usize,
    /// How long a head may take from its first byte.
    pub head_timeout: Duration,
    /// How long a body may take.
    pub body_timeout: Duration,
    /// How long a connection may wait between requests.
    pub idle_timeout: Duration,
    /// Publishes of one connection that are read but not answered yet.
    pub unanswered_max: usize,
    /// Bytes that all connections which are no streams may hold together: 4 KiB each, unfinished requests, and
    /// answers not sent yet. At least 1 MiB, and twice `body_bytes_max`.
    pub memory_bytes_max: usize,
}

impl Http {
    const DEFAULT: Self = Self {
        head_bytes_max: 16 * KIB,
        body_bytes_max: MIB,
        head_timeout: Duration::from_secs(10),
        body_timeout: Duration::from_secs(30),
        idle_timeout: Duration::from_secs(60),
        unanswered_max: 512,
        memory_bytes_max: 128 * MIB,
    };
}

impl Default for Http {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// Limits of what is under way between shards, in the whole process.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Mailbox {
    /// Bytes of frames. At least twice `Http::body_bytes_max`.
    pub bytes_max: usize,
    /// Messages.
    pub messages_max: usize,
    /// How long a publisher is not read from, when either limit is reached, before it gets 503.
    pub wait_max: Duration,
}

impl Mailbox {
    const DEFAULT: Self =
        Self { bytes_max: 64 * MIB, messages_max: 65_536, wait_max: Duration::from_secs(1) };
}

impl Default for Mailbox {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// How the server stops.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Drain {
    /// How long `/healthz` answers 503 before accepting ends.
    pub delay: Duration,
    /// How long open connections then have to end; more than 0.
    pub time_max: Duration,
}

impl Drain {
    const DEFAULT: Self = Self { delay: Duration::ZERO, time_max: Duration::from_secs(10) };
}

impl Default for Drain {
    fn default() -> Self {
        Self::DEFAULT
    }
}
