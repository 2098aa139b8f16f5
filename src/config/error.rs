//! Why there is no configuration, and what the process does about it.

use std::io::{self, ErrorKind, Write as _};
use std::process::ExitCode;
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use super::command_line::without_credentials;

/// How long the process's end waits for somebody to read why it failed.
const REPORT_MAX: Duration = Duration::from_secs(1);

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
        if let Self::Help(text) = self {
            return print("what was asked for", text);
        }
        let line = format!("error: {self}\n");
        let (done, written) = channel();
        let write = move || done.send(io::stderr().write_all(line.as_bytes()));
        if thread::Builder::new().spawn(write).is_ok() {
            // Whoever does not read why it failed sees that it did.
            let _ = written.recv_timeout(REPORT_MAX);
        } else {
            let _ = writeln!(io::stderr(), "error: {self}");
        }
        ExitCode::from(self.exit_code())
    }
}

/// Writes `text` to standard output and returns what `main` should: failure, and a line on standard error that
/// calls it `what`, when not all of it was written.
pub(crate) fn print(what: &str, text: &str) -> ExitCode {
    let mut stdout = io::stdout();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        // A closed pipe at the other end (`esper --help | head -1`) is no reason to fail.
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            ConfigError::Host(format!("cannot print {what}: {error}; look where it is written to")).report()
        }
        _ => ExitCode::SUCCESS,
    }
}
