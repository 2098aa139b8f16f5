//! The process's log: lines wait in a bounded queue, from which one thread writes them to standard error.
//!
//! Whoever reads the log may be gone (a closed pipe or terminal, a full disk) or stand still (a full pipe). No thread but
//! the log's own waits for that: a line without room in the queue, or that cannot be written, is dropped and counted.
//! `tracing-appender` has such a queue, but it counts no failed writes, bounds no bytes, and prints at its end, which
//! panics when nothing can be printed.

use std::io::{self, ErrorKind, IsTerminal, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, unbounded};
use tracing::{Dispatch, dispatcher};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;

use crate::config::{Config, LogFormat};
use crate::core::budget::{Budget, Charge};

/// What may wait to be written: some seconds of what a busy server says with `--log-level debug`.
const BYTES_MAX: usize = 1 << 20;
const LINES_MAX: usize = 8192;
/// How often the log says at most that lines were lost.
const TELL_INTERVAL: Duration = Duration::from_secs(1);
/// How long the end of the process waits for the last lines to be written.
const FLUSH_MAX: Duration = Duration::from_secs(1);
/// How long a standard error that does not block, and is full, is left alone.
const FULL_PAUSE: Duration = Duration::from_millis(10);

/// The log of this process; none in a program that has the server inside.
static LOG: OnceLock<Arc<Log>> = OnceLock::new();

/// Starts the log of this process, in the format and of the level that are configured.
///
/// # Errors
/// When its thread cannot be started, or there is a log already.
pub fn start(config: &Config) -> io::Result<()> {
    let (sender, lines) = unbounded();
    let log = Arc::new(Log { room: Budget::new(BYTES_MAX, LINES_MAX), sender, lost: AtomicU64::new(0) });
    let own = dispatch(config, || StandardError);
    let writing = Arc::clone(&log);
    thread::Builder::new().name("esper-log".to_owned()).spawn(move || writing.run(&lines, &own))?;
    dispatcher::set_global_default(dispatch(config, Arc::clone(&log))).map_err(io::Error::other)?;
    LOG.set(log).map_err(|_| io::Error::from(ErrorKind::AlreadyExists))
}

/// Waits until all lines so far are written or lost, a second at most.
pub fn flush() {
    let start = Instant::now();
    while LOG.get().is_some_and(|log| log.room.messages() > 0) && start.elapsed() < FLUSH_MAX {
        thread::sleep(Duration::from_millis(1));
    }
}

/// Returns how many lines were dropped since the start; `None` when the process's log is not ours.
pub(crate) fn lines_lost() -> Option<u64> {
    LOG.get().map(|log| log.lost.load(Ordering::Relaxed))
}

#[derive(Debug)]
struct Log {
    room: Arc<Budget>,
    /// Unbounded in form; a line goes in with its charge alone.
    sender: Sender<(Box<[u8]>, Charge)>,
    lost: AtomicU64,
}

impl Log {
    fn lose(&self) {
        self.lost.fetch_add(1, Ordering::Relaxed);
    }

    /// Writes the lines that others put into the queue, for as long as the process runs.
    fn run(&self, lines: &Receiver<(Box<[u8]>, Charge)>, own: &Dispatch) {
        let (mut told, mut told_at) = (0, None::<Instant>);
        // Its charge is given back once a line is written, so that `flush` waits for that.
        for (line, _charge) in lines {
            if StandardError.write_all(&line).is_err() {
                self.lose();
                continue;
            }
            let lost = self.lost.load(Ordering::Relaxed);
            if lost > told && told_at.is_none_or(|at| at.elapsed() > TELL_INTERVAL) {
                (told, told_at) = (lost, Some(Instant::now()));
                // Not through the queue, which may be full.
                dispatcher::with_default(own, || {
                    tracing::warn!(
                        lost,
                        "log lines were lost since the start, which could not be written in time"
                    );
                });
            }
        }
    }
}

/// A line as it comes from a formatter, in one piece. Takes it or drops it, and never fails or waits.
impl Write for &Log {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        match self.room.take(line.len()) {
            Some(charge) => drop(self.sender.send((line.into(), charge))),
            None => self.lose(),
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Standard error without the lock that all of std's prints wait for.
struct StandardError;

impl Write for StandardError {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match rustix::io::write(io::stderr(), bytes).map_err(io::Error::from) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(FULL_PAUSE),
                written => return written,
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn dispatch<W>(config: &Config, writer: W) -> Dispatch
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let level = tracing::Level::from(config.log_level);
    let log = tracing_subscriber::fmt()
        .with_writer(writer)
        // It would print what fails, and a print that fails panics.
        .log_internal_errors(false)
        .with_ansi(io::stderr().is_terminal())
        .with_target(false)
        .with_max_level(level);
    // Not what libraries say: lapin tells of every queue that is refused as an error, by its name, which may be
    // a session's.
    let ours = Targets::new().with_target(env!("CARGO_CRATE_NAME"), level);
    match config.log_format {
        LogFormat::Text => log.finish().with(ours).into(),
        LogFormat::Json => log.json().finish().with(ours).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_without_room_is_dropped_and_counted_and_nobody_waits() {
        let (sender, lines) = unbounded();
        let log = Log { room: Budget::new(20, 3), sender, lost: AtomicU64::new(0) };
        let write = |line: &str| (&log).write_all(line.as_bytes()).unwrap();
        for line in ["one", "two", "three", "one line too many"] {
            write(line);
        }
        let taken =
            |count| -> Vec<Box<[u8]>> { lines.try_iter().take(count).map(|(line, _)| line).collect() };
        assert_eq!(taken(2), [Box::from(*b"one"), Box::from(*b"two")]);
        write("more than the bytes that are left");
        write("four");
        assert_eq!(taken(9), [Box::from(*b"three"), Box::from(*b"four")]);
        assert_eq!(log.lost.load(Ordering::Relaxed), 2);
        assert_eq!(log.room.messages(), 0);
    }
}
