//! `esper journal`: verifies a journal's directory, copies it, or copies its whole parts.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::{self, ConfigError};
use crate::core::event_id::Epoch;
use crate::core::random::random_u64;
use crate::journal::disk::error::OpenError;
use crate::journal::disk::inspect::{self, DirectoryReport};
use crate::journal::disk::storage::Directory;

/// The flags of `esper journal`.
#[derive(Debug, Parser)]
#[command(name = "esper journal", bin_name = "esper journal", about = config::about("journal"), max_term_width = 120)]
pub(super) struct JournalFlags {
    #[command(subcommand)]
    command: JournalCommand,
}

#[derive(Debug, Subcommand)]
enum JournalCommand {
    /// Read all of it, say what is there and what is damaged, and change nothing. Exits 1 if anything is damaged
    Verify {
        /// Directory of the journal; stop the server that writes it
        dir: PathBuf,
    },
    /// Copy what is whole into a new directory, and list what is not. Clients that resume there are told of a gap
    Repair {
        /// Directory of the journal; stop the server that writes it
        dir: PathBuf,
        /// New or empty directory to copy to
        to: PathBuf,
    },
    /// Copy it as it is at one moment, also while a server writes it: this makes a backup
    Copy {
        /// Directory of the journal
        dir: PathBuf,
        /// New or empty directory to copy to
        to: PathBuf,
    },
}

/// Runs the command that the arguments ask for; returns 1 if the journal is damaged or could not be
/// read or written.
pub(super) fn run(args: Vec<OsString>) -> ExitCode {
    let flags: JournalFlags = match config::parse_command(args) {
        Ok(flags) => flags,
        Err(error) => return error.report(),
    };
    let (text, is_whole) = match command(flags.command) {
        Ok(done) => done,
        Err(error) => return ConfigError::Host(error.to_string()).report(),
    };
    match config::print("what was found", &text) {
        code if is_whole => code,
        _ => ExitCode::FAILURE,
    }
}

/// Runs a command; returns the text to print, and whether nothing is damaged.
fn command(command: JournalCommand) -> Result<(String, bool), OpenError> {
    match command {
        JournalCommand::Verify { dir } => {
            let report = inspect::verify(&Directory::read(&dir)?)?;
            Ok((describe(&report, &dir), report.damage.is_empty()))
        }
        JournalCommand::Repair { dir, to } => {
            let from = Directory::read(&dir)?;
            let into = new_directory(&to)?;
            let report = inspect::repair(&from, &into, Epoch::new().run(), random_u64)?;
            let text = format!("{}copied what is whole to {}\n", describe(&report, &dir), to.display());
            Ok((text, true))
        }
        JournalCommand::Copy { dir, to } => {
            inspect::copy(&Directory::read(&dir)?, &new_directory(&to)?)?;
            Ok((format!("copied {} to {}\n", dir.display(), to.display()), true))
        }
    }
}

/// Creates and locks a directory to copy to, or takes an empty one.
fn new_directory(path: &Path) -> Result<Directory, OpenError> {
    if path.read_dir().is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(OpenError::NotEmpty { dir: path.display().to_string() });
    }
    Ok(Directory::open(path)?.0)
}

fn describe(report: &DirectoryReport, dir: &Path) -> String {
    let DirectoryReport { segments, bytes, events, damage, torn, leftovers } = report;
    let mut text = format!("{}: {segments} segments, {bytes} bytes, {events} events\n", dir.display());
    for file in leftovers {
        let _ = writeln!(text, "left over, and removed at the next start: {file}");
    }
    if let Some(torn) = torn {
        let _ = writeln!(text, "torn end, which the next start cuts: {torn}");
    }
    for damage in damage {
        let _ = writeln!(text, "damage: {damage}");
    }
    text.push_str(if damage.is_empty() { "nothing is damaged\n" } else { "" });
    text
}
