//! Flags, environment and files become one checked [`Config`], once, before anything starts.
//!
//! A setting is a field of [`Config`] or of one of its parts, beside its flag, help, default, bounds and key; `cli`
//! puts them together. `values` parses single values, and `bind` addresses; `layer` holds settings with the place where
//! each was written, `layers` lets a flag override its variable, and that files, `clap_error` words refusals. `yaml`
//! parses a file's text, `file` finds its keys, `keys` reads the secrets and public keys of `auth`. `check` refuses wrong
//! combinations, whatever their source; `read` runs all of it in order, and `dump` prints the result. `queues`, `pattern`
//! and `headers` belong to the queues, `signing` to `esper token`. Everything outside this module relies on the checks.

mod auth;
mod bind;
mod check;
mod clap_error;
mod cli;
mod cluster;
mod command_line;
mod control;
mod cpus;
mod dump;
mod error;
mod file;
mod headers;
mod history;
mod http;
mod keys;
mod layer;
mod layers;
mod pattern;
mod queues;
mod read;
mod signing;
mod stream;
mod values;
mod yaml;

use std::path::PathBuf;

pub use auth::Auth;
pub(crate) use auth::token_size;
pub(crate) use bind::all_of_ipv4;
pub use bind::{BindAddress, TrustedProxy};
use bind::{file_mode, trusted_proxy};
pub(crate) use check::SHARDS_MAX;
use clap::{ArgAction, Args, ValueEnum};
pub(crate) use clap_error::{explain, parse_command};
pub(crate) use cli::{about, command};
pub use cluster::Cluster;
pub use control::Control;
pub use cpus::Cpus;
pub use error::ConfigError;
pub(crate) use error::print;
pub use history::{Data, History};
pub use http::{Drain, Http, Mailbox};
pub use ipnet::IpNet;
pub use pattern::{Pattern, PatternError};
pub use queues::Queues;
pub(crate) use read::server_args;
pub(crate) use signing::{SecretFlags, SigningCommand};
pub use stream::{RefuseStreams, SlowPolicy, Stream};
pub(crate) use values::token_time;
use values::{count, port, trimmed, whole};

pub use crate::auth::{JwksUrl, KeyType, PublicKey, Secret, SecretPair, Signers};
pub use crate::backend::{BrokerUrl, NatsUrl, SubscribeRule};
use crate::core::partition::PARTITIONS_MAX;
pub use crate::journal::config::SyncPolicy;

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// Everything a server is told before it starts.
///
/// `Config::default()` is what the binary does without flags and variables, but for what concerns the whole process,
/// which belongs to the program around the server: there is one shard, no thread is pinned and no limit is raised.
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
#[derive(Args, Clone, Debug, Eq, PartialEq)]
pub struct Config {
    /// Address to listen on; 0.0.0.0, :: or :8000 for all; with a port as in 127.0.0.1:8000; a socket for programs of
    /// this machine as in unix:/run/esper.sock; repeat it, or separate by commas.
    ///
    /// Never empty.
    #[arg(id = "server.address", short = 'b', long = "bind", value_name = "IP[:PORT]|unix:PATH")]
    #[arg(value_delimiter = ',', default_value = "127.0.0.1", help_heading = "Listening", display_order = 0)]
    pub bind: Vec<BindAddress>,
    /// TCP port to listen on, at addresses without one of their own; 0 for any free one.
    #[arg(short, long, value_name = "PORT", value_parser = port, default_value = "3000")]
    #[arg(help_heading = "Listening", display_order = 0)]
    pub port: u16,
    /// Mode of the sockets of unix:PATH, in octal: who may write to one may connect.
    #[arg(long, value_name = "MODE", value_parser = file_mode, default_value = "660")]
    #[arg(help_heading = "Listening", display_order = 0)]
    pub bind_mode: u32,
    /// Group of the sockets of unix:PATH, by its name or number [default: this process's].
    #[arg(long, value_name = "GROUP", help_heading = "Listening", display_order = 0)]
    pub bind_group: Option<String>,
    /// A second listener, for control.
    #[arg(skip)]
    pub control: Option<Control>,
    /// Which CPUs get a shard.
    #[arg(skip)]
    pub cpus: Cpus,
    /// Raise the process's limit on open files as far as it may be: every connection takes one.
    #[arg(skip)]
    pub raise_file_limit: bool,
    /// Listen although another process already listens on the port, so that this one can take over from it.
    #[arg(long, help_heading = "Listening")]
    pub takeover: bool,
    /// The command line that `/debug/vars` shows, without secrets. `from_env_and_args` fills it in; that of a program
    /// around the server is not shown.
    #[arg(skip)]
    pub command_line: Vec<String>,
    /// Who may subscribe and publish.
    #[command(flatten)]
    pub auth: Auth,
    /// Serve no admin page: everything below /admin is answered 403.
    ///
    /// That is `false`.
    #[arg(long = "no-admin", action = ArgAction::SetFalse, help_heading = "Authentication")]
    pub admin: bool,
    /// One RabbitMQ queue per client; `None` without a broker.
    #[arg(skip)]
    pub queues: Option<Queues>,
    /// Topics are paths such as pets/dogs, and a subscriber to pets receives what is published below it.
    #[arg(long, help_heading = "Topics")]
    pub namespaces: bool,
    /// Parts of the order, 1 to 64: topics with the same first segment are in one, each has one sequence and is
    /// ordered by one CPU; the directory of --data-dir keeps the number it began with.
    #[arg(long, value_name = "N", value_parser = whole("number of partitions", 1..=PARTITIONS_MAX))]
    #[arg(default_value = "16", help_heading = "Topics")]
    pub partitions: u8,
    /// Topics at once; the longest idle makes room for a new one.
    #[arg(long, value_name = "N", value_parser = count(1), default_value = "100000", help_heading = "Topics")]
    pub topics_max: usize,
    /// What is kept for replay.
    #[command(flatten)]
    pub history: History,
    /// What of it outlives the process; `None`: nothing.
    #[arg(skip)]
    pub data: Option<Data>,
    /// The cluster that it is a node of; `None`: it is alone.
    #[arg(skip)]
    pub cluster: Option<Cluster>,
    /// How streams are kept alive, and what happens to slow ones.
    #[command(flatten)]
    pub stream: Stream,
    /// Streams open at once [default: what the limit on open files allows].
    #[arg(long, value_name = "N", value_parser = count(1), help_heading = "Streams")]
    pub subscribers_max: Option<usize>,
    /// Limits of a request and of its connection.
    #[command(flatten)]
    pub http: Http,
    /// Origins which browsers may call from; never empty.
    #[arg(id = "cors-origin", long, value_name = "ORIGIN", value_delimiter = ',', value_parser = trimmed)]
    // Not the doc comment: rustdoc wants the address as a link, which would stand in the help.
    #[arg(
        help = "Origin browsers may call from, such as https://example.org, https://*.example.org or null; repeat it, or \
                separate by commas; * for any"
    )]
    #[arg(default_value = "*", help_heading = "HTTP")]
    pub cors_origins: Vec<String>,
    /// Proxy whose X-Forwarded-For says where a client is, or a network of such, or unix for whoever connects through a
    /// socket; repeat it, or separate by commas.
    #[arg(id = "trusted-proxy", long, value_name = "IP|CIDR|unix", value_delimiter = ',')]
    #[arg(value_parser = trusted_proxy, help_heading = "HTTP")]
    pub trusted_proxies: Vec<TrustedProxy>,
    /// Limits of what is under way between shards.
    #[command(flatten)]
    pub mailbox: Mailbox,
    /// How the server stops.
    #[command(flatten)]
    pub drain: Drain,
    /// How log lines are written.
    #[arg(long, value_name = "text|json", value_enum, default_value = "text", help_heading = "Logging")]
    pub log_format: LogFormat,
    /// Least urgent line that is logged.
    #[arg(
        long,
        value_name = "error|warn|info|debug",
        value_enum,
        default_value = "info",
        help_heading = "Logging"
    )]
    pub log_level: LogLevel,
    /// File for a line of JSON for each request and for the end of each stream, - for standard output; SIGHUP opens it
    /// anew [default: none: requests are not logged].
    ///
    /// A program opens it anew with [`Server::reopen_access_log`](crate::Server::reopen_access_log).
    #[arg(long, value_name = "FILE|-", help_heading = "Logging")]
    pub access_log: Option<PathBuf>,
    /// Of so many requests one, drawn at random, has lines in it; those that are refused all have.
    #[arg(long, value_name = "N", value_parser = count(1), default_value = "1", help_heading = "Logging")]
    pub access_log_sample: usize,
}

impl Config {
    /// Returns the addresses to listen on, each with its port.
    pub(crate) fn addresses(&self) -> Vec<BindAddress> {
        self.bind.iter().map(|address| address.at(self.port)).collect()
    }
}

/// How a process came to its configuration.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Notes {
    /// The files that were read, each over those before it.
    pub files: Vec<String>,
    /// What looks like a mistake, or is dangerous, a line each.
    pub warnings: Vec<String>,
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// The least urgent line that is still logged.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
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
