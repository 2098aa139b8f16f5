//! The command line. A setting's flag, help, default, bounds and key in a file stand at its field in [`Config`] or one
//! of its parts; this module has the flags that are not fields, and the help around all.
//!
//! Every flag is also a variable, `ESPER_` and its name, and a key of a file: by its name, and by its `id` if that has
//! a dot in it.

use std::path::PathBuf;

use clap::{Arg, Args, Command, Parser};

use super::auth::{KeyFlags, PartyFlags, SessionSecretFlags, SideSecretFlags};
use super::cluster::ClusterFlags;
use super::control::ControlFlags;
use super::cpus::CpuFlags;
use super::history::DataFlags;
use super::layer::variable;
use super::layers;
use super::{Auth, Config, Drain, History, Http, Mailbox, Queues, Stream};

const AFTER_HELP: &str = "\
Secrets, from the environment alone:
  ESPER_SUBSCRIBER_SECRET           Signs subscribers' tokens
  ESPER_PUBLISHER_SECRET            Signs publishers' tokens
  ESPER_SUBSCRIBER_SECRET_PREVIOUS  Accepted too, while the secret is being changed
  ESPER_PUBLISHER_SECRET_PREVIOUS   Accepted too, while the secret is being changed
  ESPER_SESSION_SECRET_PREVIOUS     Accepted too, while the secret is being changed

Without a secret, public key and JWK Set for subscribers anybody may subscribe;
without one for publishers anybody may publish; without one for sessions there
are none.
A secret's file holds the secret in its first line and, while it is being
changed, the one before in its second. SIGHUP rereads the files of secrets,
keys and the control token, and fetches JWK Sets anew; no stream ends by it.

A flag overrides its variable, a variable a file, a file the default.
The files: /usr/lib/esper/config.yml (a package's own),
/etc/eventsourced/config.yml, /etc/esper/config.yml, config.yml beside this
program, that of --config; each over those before it. Their keys are the flags'
names: port: 3000.
TIME is a number and its unit: 500ms, 15s, 10m, 2h, 30d.
SIZE is bytes, or a number and its unit: K, M, G (powers of 1000) or KiB, MiB,
GiB (of 1024).";

// A doc comment here is the command's, or the flag's, help.
/// A standalone Server-Sent Events broker.
#[derive(Debug, Parser)]
#[command(name = "esper", version, after_help = AFTER_HELP, max_term_width = 120)]
#[command(subcommands = commands(), args_conflicts_with_subcommands = true)]
pub(super) struct Flags {
    #[command(flatten)]
    pub(super) files: FileFlags,
    #[command(flatten)]
    pub(super) cpus: CpuFlags,
    #[command(flatten)]
    pub(super) control: ControlFlags,
    #[command(flatten, next_help_heading = "Authentication")]
    pub(super) sides: SideSecretFlags,
    #[command(flatten, next_help_heading = "Sessions")]
    pub(super) session: SessionSecretFlags,
    #[command(flatten)]
    pub(super) keys: KeyFlags,
    #[command(flatten)]
    pub(super) parties: PartyFlags,
    #[command(flatten)]
    pub(super) queues: Queues,
    #[command(flatten)]
    pub(super) data: DataFlags,
    #[command(flatten)]
    pub(super) cluster: ClusterFlags,
    #[command(flatten)]
    pub(super) config: Config,
}

#[derive(Args, Debug)]
#[command(next_help_heading = "Configuration")]
pub(super) struct FileFlags {
    /// YAML file that overrides those below /usr/lib/esper, /etc/eventsourced, /etc/esper and beside the binary
    #[arg(long, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    /// Print what is in force, as YAML for --config and without secrets, and exit
    #[arg(short = 'c', long)]
    pub(super) dump_config: bool,
}

/// Returns the server's flags, beside the names of the commands.
pub(crate) fn command() -> Command {
    layers::command::<Flags>(has_variable)
}

/// The commands and their lines in the help. What each takes is known to the module of commands, above this one.
const COMMANDS: [(&str, &str); 6] = [
    ("serve", "Run the server: what it does without a command, with the flags below"),
    ("token", "Make a token and print it"),
    ("health", "Ask the server of this configuration how it is"),
    ("journal", "Check, repair or copy the directory of --data-dir"),
    ("config", "Check a configuration, or print what is in force"),
    ("completions", "Print the script by which a shell completes these flags"),
];

fn commands() -> impl Iterator<Item = Command> {
    COMMANDS.into_iter().map(|(name, line)| Command::new(name).about(line))
}

/// Returns the line of a command in the help; empty for a name that is none.
pub(crate) fn about(command: &str) -> &'static str {
    COMMANDS.into_iter().find(|(name, _)| *name == command).map_or("", |(_, line)| line)
}

/// Returns whether a flag has a variable. A forgotten one of `--dump-config` would make every start print and end.
pub(super) fn has_variable(flag: &str) -> bool {
    flag != "dump-config"
}

/// Returns the names that look like our variables and are not: most likely typing errors.
pub(super) fn unknown_variables(names: impl Iterator<Item = String>) -> Vec<String> {
    // The first is the tests' own; the others are set by Kubernetes for a service named esper, and by images.
    const OTHERS: [&str; 4] = ["ESPER_TEST_", "ESPER_SERVICE_", "ESPER_PORT_", "ESPER_VERSION"];
    let is_secret = |name: &str| {
        let secret = name.strip_suffix("_PREVIOUS").unwrap_or(name);
        ["ESPER_SUBSCRIBER_SECRET", "ESPER_PUBLISHER_SECRET", "ESPER_SESSION_SECRET"].contains(&secret)
    };
    let command = command();
    let flags = command.get_arguments().filter_map(Arg::get_long).filter(|flag| has_variable(flag));
    let known: Vec<String> = flags.map(variable).collect();
    let is_ours =
        |name: &str| name.starts_with("ESPER_") && !OTHERS.iter().any(|other| name.starts_with(other));
    names.filter(|name| is_ours(name) && !is_secret(name) && !known.contains(name)).collect()
}

/// Returns settings with no flag given.
#[expect(clippy::expect_used, reason = "each default stands beside what reads it, and a test reads all")]
fn without_flags<T: Args>() -> T {
    let matches = T::augment_args(Command::new("esper")).try_get_matches_from(["esper"]);
    matches.and_then(|matches| T::from_arg_matches(&matches)).expect("a default is read by its own reader")
}

macro_rules! default_without_flags {
    ($($settings:ty),*) => {$(
        impl Default for $settings {
            fn default() -> Self {
                without_flags()
            }
        }
    )*};
}

default_without_flags!(Auth, Config, Drain, History, Http, Mailbox, Stream);

#[cfg(test)]
mod tests;
