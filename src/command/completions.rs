//! `esper completions`: the script by which a shell completes esper's command line.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser;
use clap_complete::Shell;

use crate::config::{self, ConfigError};

const AFTER_HELP: &str = "\
For yourself:
  bash  esper completions bash > ~/.local/share/bash-completion/completions/esper
  zsh   esper completions zsh > DIR/_esper, in a directory of $fpath
  fish  esper completions fish > ~/.config/fish/completions/esper.fish";

/// The flags of `esper completions`.
#[derive(Debug, Parser)]
#[command(name = "esper completions", bin_name = "esper completions", about = config::about("completions"), after_help = AFTER_HELP)]
#[command(max_term_width = 120)]
pub(super) struct CompletionsFlags {
    /// Shell to print the script for
    shell: Shell,
}

/// Prints the script for the shell that the arguments name.
pub(super) fn run(args: Vec<OsString>) -> ExitCode {
    super::print("the script", completions(args))
}

fn completions(args: Vec<OsString>) -> Result<String, ConfigError> {
    let CompletionsFlags { shell } = config::parse_command(args)?;
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut super::command(), "esper", &mut script);
    Ok(String::from_utf8_lossy(&script).into_owned())
}
