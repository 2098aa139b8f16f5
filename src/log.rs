//! The process's log: lines wait in a bounded queue, from which one thread writes them to standard error.
//!
//! Writing may fail (a closed pipe or terminal, a full disk) or take for ever (a full pipe that nobody reads). Only the
//! log's own thread waits for it: a line that finds no room in the queue, or that cannot be written, is dropped and
//! counted. `tracing-appender` has such a queue, but it does not count failed writes, does not bound the queue's bytes,
//! and prints when it ends, which panics where nothing can be printed.

use std::io::{self, ErrorKind, IsTerminal, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
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

/// How many bytes and lines may wait to be written: some seconds of a busy server's log with `--log-level debug`.
const BYTES_MAX: usize = 1 << 20;
const LINES_MAX: usize = 8192;
/// The least time between two lines that report lost lines.
const TELL_INTERVAL: Duration = Duration::from_secs(1);
/// How long the process waits at its end for the last lines to be written.
const FLUSH_MAX: Duration = Duration::from_secs(1);
/// The pause before the next try when standard error is full and non-blocking.
const FULL_PAUSE: Duration = Duration::from_millis(10);

/// The log of this process; empty in a program that embeds the server, which has its own log.
static LOG: OnceLock<Arc<LineQueue>> = OnceLock::new();

/// Starts the log of this process in the configured format and level.
///
/// # Errors
/// Its thread cannot be started, or there is a log already.
pub fn start(config: &Config) -> io::Result<()> {
    let (sender, lines) = unbounded();
    let log =
        Arc::new(LineQueue { room: Budget::new(BYTES_MAX, LINES_MAX), sender, lost: AtomicU64::new(0) });
    let stderr = Arc::new(StandardError::default());
    let unqueued = dispatch(config, Arc::clone(&stderr));
    let queue = Arc::clone(&log);
    let run = move || queue.run(&lines, &stderr, &unqueued);
    thread::Builder::new().name("esper-log".to_owned()).spawn(run)?;
    dispatcher::set_global_default(dispatch(config, Arc::clone(&log))).map_err(io::Error::other)?;
    LOG.set(log).map_err(|_| io::Error::from(ErrorKind::AlreadyExists))
}

/// Waits until all lines so far are written or dropped, up to a second.
pub fn flush() {
    let start = Instant::now();
    while LOG.get().is_some_and(|log| log.room.messages() > 0) && start.elapsed() < FLUSH_MAX {
        thread::sleep(Duration::from_millis(1));
    }
}

/// Returns how many lines were dropped since the start; `None` in a program that has a log of its own.
pub(crate) fn lines_lost() -> Option<u64> {
    LOG.get().map(|log| log.lost.load(Ordering::Relaxed))
}

/// The lines that wait to be written; shared by their writers and the log's thread.
#[derive(Debug)]
struct LineQueue {
    room: Arc<Budget>,
    /// Bounded by `room`: each line in it holds its charge.
    sender: Sender<(Box<[u8]>, Charge)>,
    lost: AtomicU64,
}

impl LineQueue {
    fn lose(&self) {
        self.lost.fetch_add(1, Ordering::Relaxed);
    }

    /// Writes the queue's lines as long as the process runs. `unqueued` writes to `stderr` too, but without the queue.
    fn run(&self, lines: &Receiver<(Box<[u8]>, Charge)>, mut stderr: &StandardError, unqueued: &Dispatch) {
        let (mut told, mut told_at) = (0, None::<Instant>);
        // A line's charge is dropped after the line was written, because `flush` waits for the charges.
        for (line, _charge) in lines {
            if stderr.write_all(&line).is_err() {
                self.lose();
                continue;
            }
            let lost = self.lost.load(Ordering::Relaxed);
            if lost > told && told_at.is_none_or(|at| at.elapsed() > TELL_INTERVAL) {
                (told, told_at) = (lost, Some(Instant::now()));
                // Not through the queue, which may be full.
                dispatcher::with_default(unqueued, || {
                    tracing::warn!(
                        lost,
                        "log lines were lost since the start, which could not be written in time"
                    );
                });
            }
        }
    }
}

impl Write for &LineQueue {
    /// Queues or drops a whole line, which the formatter writes in one call. Never fails and never waits.
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

/// Standard error without std's lock, on which every print of the process would wait.
#[derive(Debug, Default)]
struct StandardError {
    /// The last line was written only in part, without its end.
    is_torn: AtomicBool,
}

impl StandardError {
    /// Writes bytes. When that fails after some of them were written, the line is torn.
    fn put(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match rustix::io::write(io::stderr(), bytes).map_err(io::Error::from) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(count) => {
                    bytes = &bytes[count..];
                    self.is_torn.store(!bytes.is_empty(), Ordering::Relaxed);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(FULL_PAUSE),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

impl Write for &StandardError {
    /// Writes a whole line, or fails. It starts on a new line even where the last one was written only in part: a full
    /// disk takes the beginning of a line.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.is_torn.load(Ordering::Relaxed) {
            self.put(b"\n")?;
        }
        self.put(line)?;
        Ok(line.len())
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
        // Internal errors would be printed, and a print that fails panics.
        .log_internal_errors(false)
        .with_ansi(io::stderr().is_terminal())
        .with_target(false)
        .with_max_level(level);
    // Libraries are left out: a broker's client library logs each refused queue as an error with the queue's name,
    // which may be secret.
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
        let log = LineQueue { room: Budget::new(20, 3), sender, lost: AtomicU64::new(0) };
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
