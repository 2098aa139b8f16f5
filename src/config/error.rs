//! Errors of configuration, and how the process ends with them.

use std::io::{self, ErrorKind, Write as _};
use std::process::ExitCode;
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use super::command_line::without_credentials;

/// How long the ending process waits for its error to be read.
const REPORT_MAX: Duration = Duration::from_secs(1);

/// The reason why there is no configuration. `Display` is text for a person: one line, except for `Help`.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ConfigError {
    /// A flag, a variable or a file is wrong: exit 2. Misplaced text is quoted, and may be a broker's URL, so
    /// credentials are masked.
    #[error("{}", without_credentials(.0))]
    Usage(String),
    /// This host lacks what is asked for: exit 1.
    #[error("{0}")]
    Host(String),
    /// The text of `--help`, `--version` or `--dump-config`; nothing is wrong: exit 0.
    #[error("{0}")]
    Help(String),
}

impl ConfigError {
    /// Returns the exit code of the process.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) => 2,
            Self::Host(_) => 1,
            Self::Help(_) => 0,
        }
    }

    /// Prints help on standard output and errors on standard error; returns the exit code for `main`.
    pub fn report(&self) -> ExitCode {
        if let Self::Help(text) = self {
            return print("what was asked for", text);
        }
        let line = format!("error: {self}\n");
        let (done, written) = channel();
        let write = move || done.send(io::stderr().write_all(line.as_bytes()));
        if thread::Builder::new().spawn(write).is_ok() {
            // If nobody reads the line, the exit code still reports the failure.
            let _ = written.recv_timeout(REPORT_MAX);
        } else {
            let _ = writeln!(io::stderr(), "error: {self}");
        }
        ExitCode::from(self.exit_code())
    }
}

/// Writes `text` to standard output and returns the exit code for `main`: failure, with a line on standard error that
/// calls the text `what`, when not all of it was written.
pub(crate) fn print(what: &str, text: &str) -> ExitCode {
    let mut stdout = io::stdout();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        // A reader that closes the pipe (`esper --help | head -1`) is no failure.
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            ConfigError::Host(format!("cannot print {what}: {error}; look where it is written to")).report()
        }
        _ => ExitCode::SUCCESS,
    }
}
