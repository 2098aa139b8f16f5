//! The access log: a line of JSON for each request, and one for the end of each stream.
//!
//! It never has a query, a header that holds a credential, or a body: those carry tokens, tickets, and the codes of ids.
//! Nobody waits for it: lines go through a bounded queue to a thread of their own.
//!
//! | module | idea |
//! |---|---|
//! | [`record`] | what is known of a request, and its line |
//! | [`streams`] | the streams of a shard that have a line at their end |

mod record;
mod streams;

use std::fs::{File, OpenOptions};
use std::io::{self, Stdout, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustix::fs::OFlags;
use rustix::io::Errno;
use serde::Serialize;

use crate::lines::{LineFile, LineQueue, LossReports, QueuedLines};

pub(crate) use record::{RequestFacts, RequestRecord};
pub(crate) use streams::{StreamOpening, StreamRecords, name_of};

/// The most bytes and lines that may wait to be written: a tenth of a second of as many publishes as two CPUs answer.
const BYTES_MAX: usize = 8 << 20;
const LINES_MAX: usize = 16_384;
/// The least time between two lines of the server's log that report lost lines.
const TELL_INTERVAL: Duration = Duration::from_secs(10);

/// The access log of a server; its connections and shards share it.
#[derive(Debug)]
pub(crate) struct AccessLog {
    output: Arc<LogOutput>,
    /// The number of requests of which one has a line.
    sample: usize,
}

/// The file and the lines on their way to it; shared with the thread that writes.
#[derive(Debug)]
struct LogOutput {
    path: PathBuf,
    file: ArcSwap<LineFile<LogTarget>>,
    queue: LineQueue,
    reports: Mutex<LossReports>,
}

#[derive(Debug)]
enum LogTarget {
    Stdout(Stdout),
    File(File),
}

impl AccessLog {
    /// Opens the file, or standard output for `-`, and returns the log with the lines that its thread has to write.
    ///
    /// # Errors
    /// The file cannot be opened for writing, or it is a pipe that nobody reads.
    pub(crate) fn open(path: &Path, sample: usize) -> io::Result<(Arc<Self>, QueuedLines)> {
        let file = ArcSwap::from_pointee(LineFile::new(LogTarget::open(path)?));
        let (queue, lines) = LineQueue::new(BYTES_MAX, LINES_MAX);
        let reports = Mutex::new(LossReports::every(TELL_INTERVAL));
        let output = Arc::new(LogOutput { path: path.to_owned(), file, queue, reports });
        Ok((Arc::new(AccessLog { output, sample }), lines))
    }

    /// Starts the thread that writes the lines.
    ///
    /// # Errors
    /// It cannot be started.
    pub(crate) fn start(&self, lines: QueuedLines) -> io::Result<()> {
        let output = Arc::clone(&self.output);
        let run = move || lines.run(|line| output.write(line));
        thread::Builder::new().name("esper-access".to_owned()).spawn(run).map(drop)
    }

    /// Opens the file anew, so that lines from now on go to the file that has the name now. Standard output stays.
    ///
    /// # Errors
    /// It cannot be opened; lines still go to the old one.
    pub(crate) fn reopen(&self) -> io::Result<()> {
        let LogOutput { path, file, .. } = &*self.output;
        if path == Path::new("-") {
            return Ok(());
        }
        let target = LogTarget::open(path)?;
        // The thread may wait for a reader of the old one that never comes.
        file.swap(Arc::new(LineFile::new(target))).give_up();
        Ok(())
    }

    /// Returns how many lines were dropped since the start.
    pub(crate) fn lost(&self) -> u64 {
        self.output.queue.lost()
    }

    /// Writes the lines so far, for a second at most, and no further ones.
    pub(crate) fn close(&self) {
        self.output.queue.close();
    }

    /// Draws whether a request has a line although nothing is wrong with it.
    fn draws(&self) -> bool {
        self.sample == 1 || fastrand::usize(..self.sample) == 0
    }

    /// Queues a line, or drops and counts it.
    fn add(&self, line: &impl Serialize) {
        // Most lines have fewer bytes.
        let mut text = Vec::with_capacity(512);
        // Serialising what a line has into memory cannot fail.
        if serde_json::to_writer(&mut text, line).is_ok() {
            text.push(b'\n');
            if !self.output.queue.add(text.into()) {
                self.output.tell("it does not take them in time; log fewer with --access-log-sample");
            }
        }
    }
}

impl Drop for AccessLog {
    fn drop(&mut self) {
        self.close();
    }
}

impl LogOutput {
    fn write(&self, line: &[u8]) {
        // Each line by itself: then those of two processes that take over from one another stay whole in one file.
        if let Err(error) = (&**self.file.load()).write_all(line) {
            self.queue.lose();
            self.tell(&error.to_string());
        }
    }

    /// Says in the server's log that lines were lost, and why, unless it was said lately.
    fn tell(&self, reason: &str) {
        // Locked by another thread, which is reporting.
        let Ok(mut reports) = self.reports.try_lock() else { return };
        let lost = self.queue.lost();
        if reports.is_due(lost) {
            tracing::warn!(
                lost,
                "access log lines were lost since the start, which could not be written to {}: {reason}",
                self.path.display()
            );
        }
    }
}

impl LogTarget {
    fn open(path: &Path) -> io::Result<Self> {
        if path == Path::new("-") {
            return Ok(LogTarget::Stdout(io::stdout()));
        }
        // Without NONBLOCK the start would wait for the reader of a named pipe.
        let flags = OFlags::NONBLOCK.bits() as i32;
        let mut options = OpenOptions::new();
        // It says who came from where, which is not for every user of the machine.
        options.append(true).create(true).mode(0o640).custom_flags(flags);
        options.open(path).map(LogTarget::File).map_err(|error| match Errno::from_io_error(&error) {
            Some(Errno::NXIO) => {
                io::Error::other("a pipe or socket that nobody reads; start its reader first")
            }
            _ => error,
        })
    }
}

impl AsFd for LogTarget {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            LogTarget::Stdout(stdout) => stdout.as_fd(),
            LogTarget::File(file) => file.as_fd(),
        }
    }
}
