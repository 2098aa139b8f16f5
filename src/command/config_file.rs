//! `esper config`: checks a configuration without starting a server, and prints the one in force.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::{self, Config, ConfigError, Notes};

/// The flags of `esper config`.
#[derive(Debug, Parser)]
#[command(name = "esper config", bin_name = "esper config", about = config::about("config"), max_term_width = 120)]
pub(super) struct ConfigFlags {
    #[command(subcommand)]
    command: ConfigCommand,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Read a configuration, with the files of secrets and keys that it names, and say what is wrong with it. Exits 2
    /// if anything is
    Check {
        /// YAML file to check alone [default: what a start without flags reads: the files that are there, the
        /// environment's variables]
        file: Option<PathBuf>,
    },
    /// Print what a server with these flags would be configured by, as YAML for --config and without secrets
    Dump {
        /// Flags of the server
        #[arg(value_name = "FLAG", trailing_var_arg = true, allow_hyphen_values = true)]
        flags: Vec<OsString>,
    },
}

/// Runs the command that the arguments ask for.
pub(super) fn run(args: Vec<OsString>) -> ExitCode {
    let text = config::parse_command(args).and_then(|ConfigFlags { command }| match command {
        ConfigCommand::Check { file } => check(file),
        ConfigCommand::Dump { flags } => dump(flags),
    });
    super::print("the configuration", text)
}

/// Returns what there is to say of a configuration that a server would start with.
fn check(file: Option<PathBuf>) -> Result<String, ConfigError> {
    let (config, Notes { files, warnings }) = match file {
        Some(file) => Config::check_file(&file)?,
        None => Config::from_env_and(vec!["esper".into()])?,
    };
    config.check_features().map_err(ConfigError::Usage)?;
    let mut text = String::new();
    for warning in warnings {
        let _ = writeln!(text, "warning: {warning}");
    }
    let read = if files.is_empty() { "no file is there".to_owned() } else { files.join(", ") };
    let _ = writeln!(text, "{read}: esper would start with it");
    Ok(text)
}

/// Returns what a server with these flags would be configured by.
fn dump(flags: Vec<OsString>) -> Result<String, ConfigError> {
    let args = ["esper", "--dump-config"].map(OsString::from).into_iter().chain(flags).collect();
    match Config::from_env_and(args) {
        // As text instead of a start.
        Err(ConfigError::Help(text)) => Ok(text),
        other => other.map(|_| String::new()),
    }
}
