//! Why there is no configuration, and what the process does about it.

use std::io::Write as _;
use std::process::ExitCode;

use super::command_line::without_credentials;

/// Why there is no configuration. `Display` is the text for the person: one line, except for `Help`.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ConfigError {
    /// A flag, a variable or a file is wrong: exit 2. What stands where it does not belong is named, and may be a
    /// broker's URL.
    #[error("{}", without_credentials(.0))]
    Usage(String),
    /// This host does not have what is asked for: exit 1.
    #[error("{0}")]
    Host(String),
    /// Nothing is wrong, `--help`, `--version` or `--dump-config` was asked for and this is it: exit 0.
    #[error("{0}")]
    Help(String),
}

impl ConfigError {
    /// What the process exits with.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) => 2,
            Self::Host(_) => 1,
            Self::Help(_) => 0,
        }
    }

    /// Tells the person, on standard output what was asked for, on standard error what is wrong, and returns
    /// what `main` should.
    pub fn report(&self) -> ExitCode {
        // A closed pipe at the other end (`esper --help | head -1`) is no reason to fail.
        let _ = match self {
            Self::Help(text) => write!(std::io::stdout(), "{text}"),
            Self::Usage(_) | Self::Host(_) => writeln!(std::io::stderr(), "error: {self}"),
        };
        ExitCode::from(self.exit_code())
    }
}
