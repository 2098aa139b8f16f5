//! The process's log: lines go to standard error through a queue, so that nobody waits for whoever reads them.

use std::io::{self, ErrorKind, IsTerminal, Stderr, Write};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use tracing::{Dispatch, dispatcher};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;

use crate::config::{Config, LogFormat};
use crate::lines::{LineFile, LineQueue, LossReports};

/// How many bytes and lines may wait to be written: some seconds of a busy server's log with `--log-level debug`.
const BYTES_MAX: usize = 1 << 20;
const LINES_MAX: usize = 8192;
/// The least time between two lines that report lost lines.
const TELL_INTERVAL: Duration = Duration::from_secs(1);

/// The log of this process; empty in a program that embeds the server, which has its own log.
static LOG: OnceLock<Arc<LineQueue>> = OnceLock::new();

/// Starts the log of this process in the configured format and level.
///
/// # Errors
/// Its thread cannot be started, or there is a log already.
pub fn start(config: &Config) -> io::Result<()> {
    let (queue, lines) = LineQueue::new(BYTES_MAX, LINES_MAX);
    let (log, stderr) = (Arc::new(queue), Arc::new(LineFile::new(io::stderr())));
    let unqueued = dispatch(config, Arc::clone(&stderr));
    let queue = Arc::clone(&log);
    let mut reports = LossReports::every(TELL_INTERVAL);
    let run = move || lines.run(|line| write(line, &stderr, &queue, &mut reports, &unqueued));
    thread::Builder::new().name("esper-log".to_owned()).spawn(run)?;
    dispatcher::set_global_default(dispatch(config, Arc::clone(&log))).map_err(io::Error::other)?;
    LOG.set(log).map_err(|_| io::Error::from(ErrorKind::AlreadyExists))
}

/// Waits until all lines so far are written or dropped, up to a second.
pub fn flush() {
    LOG.get().into_iter().for_each(|log| log.flush());
}

/// Returns how many lines were dropped since the start; `None` in a program that has a log of its own.
pub(crate) fn lines_lost() -> Option<u64> {
    LOG.get().map(|log| log.lost())
}

/// Writes a line and, when it could be written, how many could not. `unqueued` writes to `stderr` without the queue.
fn write(
    line: &[u8],
    mut stderr: &LineFile<Stderr>,
    queue: &LineQueue,
    reports: &mut LossReports,
    unqueued: &Dispatch,
) {
    if stderr.write_all(line).is_err() {
        return queue.lose();
    }
    let lost = queue.lost();
    if reports.is_due(lost) {
        // Not through the queue, which may be full.
        dispatcher::with_default(unqueued, || {
            tracing::warn!(lost, "log lines were lost since the start, which could not be written in time");
        });
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
