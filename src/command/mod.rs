//! The commands beside the server: `esper token`, `health`, `journal`, `config` and `completions`. Each reads its own
//! arguments, prints what was asked for, and returns the exit code of the process.

mod completions;
mod config_file;
mod health;
mod journal;
mod token;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Command, CommandFactory as _};

use crate::config::{self, ConfigError};

/// Runs the command that the process's arguments begin with; returns `None` when they are the server's.
pub fn run() -> Option<ExitCode> {
    let mut args: Vec<OsString> = std::env::args_os().skip(1).collect();
    // clap expects a program's name first, and takes the command's for it.
    match args.first()?.to_str()? {
        "token" => Some(token::run(args)),
        "health" => Some(health::run(args)),
        "journal" => Some(journal::run(args)),
        "config" => Some(config_file::run(args)),
        "completions" => Some(completions::run(args)),
        "help" => {
            args.insert(0, "esper".into());
            // Whatever follows `help`, clap has a text for it.
            command().try_get_matches_from(args).err().map(|error| config::explain(&error).report())
        }
        _ => None,
    }
}

/// Returns the whole command line, as shells complete it and manual pages describe it.
pub fn command() -> Command {
    let server = config::command();
    let serve = Command::new("serve").about(config::about("serve")).args(server.get_arguments());
    let commands = [
        ("serve", serve),
        ("token", token::TokenFlags::command()),
        ("health", health::HealthFlags::command()),
        ("journal", journal::JournalFlags::command()),
        ("config", config_file::ConfigFlags::command()),
        ("completions", completions::CompletionsFlags::command()),
    ];
    commands
        .into_iter()
        .fold(server, |server, (name, command)| server.mut_subcommand(name, |_| command.name(name)))
}

/// Prints a text that was asked for, or the reason why there is none; returns the exit code of the process.
fn print(what: &str, text: Result<String, ConfigError>) -> ExitCode {
    match text {
        Ok(text) => config::print(what, &text),
        Err(error) => error.report(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_command_line_is_one_that_clap_accepts_and_every_command_has_a_line() {
        let mut command = command();
        command.build();
        for part in command.get_subcommands().filter(|part| part.get_name() != "help") {
            assert!(
                part.get_about().is_some_and(|about| !about.to_string().is_empty()),
                "{}",
                part.get_name()
            );
            let parts = part.get_arguments().count() + part.get_subcommands().count();
            assert!(parts > 1, "{} has arguments beside --help", part.get_name());
        }
        command.debug_assert();
    }
}
