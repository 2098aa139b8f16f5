//! Lines that wait in a bounded queue, from which one thread writes them: those of the log, and of the access log.
//!
//! Writing may fail (a closed pipe or terminal, a full disk) or take for ever (a full pipe that nobody reads). Only the
//! thread of the queue waits for it: a line that finds no room in the queue, or that cannot be written, is dropped and
//! counted. `tracing-appender` has such a queue, but it does not count failed writes, does not bound the queue's bytes,
//! and prints when it ends, which panics where nothing can be printed.

use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, unbounded};

use crate::core::budget::{Budget, Charge};

/// The longest that an end waits for the last lines to be written.
const FLUSH_MAX: Duration = Duration::from_secs(1);
/// The pause before the next try when a file is full and non-blocking.
const FULL_PAUSE: Duration = Duration::from_millis(10);

/// The lines that wait to be written; shared by their writers and the thread that writes them.
#[derive(Debug)]
pub(crate) struct LineQueue {
    room: Arc<Budget>,
    /// Bounded by `room`: each line in it holds its charge.
    sender: Sender<(Box<[u8]>, Charge)>,
    lost: AtomicU64,
    is_closed: AtomicBool,
}

/// The other end of a [`LineQueue`], for its thread.
pub(crate) struct QueuedLines(Receiver<(Box<[u8]>, Charge)>);

impl LineQueue {
    /// Returns an empty queue for so many bytes and lines.
    pub(crate) fn new(bytes_max: usize, lines_max: usize) -> (Self, QueuedLines) {
        let (sender, lines) = unbounded();
        let room = Budget::new(bytes_max, lines_max);
        let queue = LineQueue { room, sender, lost: AtomicU64::new(0), is_closed: AtomicBool::new(false) };
        (queue, QueuedLines(lines))
    }

    /// Queues a line with its end, or drops and counts it and returns false. Never waits.
    pub(crate) fn add(&self, line: Box<[u8]>) -> bool {
        let charge = self.room.take(line.len());
        let is_queued = charge.is_some_and(|charge| self.sender.send((line, charge)).is_ok());
        if !is_queued {
            self.lose();
        }
        is_queued
    }

    /// Counts a line that could not be written.
    pub(crate) fn lose(&self) {
        self.lost.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns how many lines were dropped since the start.
    pub(crate) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// Waits until all lines so far are written or dropped, up to a second.
    pub(crate) fn flush(&self) {
        let start = Instant::now();
        while self.room.messages() > 0 && start.elapsed() < FLUSH_MAX {
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Ends the queue's thread behind the lines so far, and waits for them up to a second.
    pub(crate) fn close(&self) {
        if !self.is_closed.swap(true, Ordering::Relaxed) {
            let _ = self.sender.send((Box::default(), self.room.take_anyway(0)));
            self.flush();
        }
    }
}

impl QueuedLines {
    /// Has `write` write each line, until the queue is closed.
    pub(crate) fn run(self, mut write: impl FnMut(&[u8])) {
        // A line's charge is dropped after the line was written, because `flush` waits for the charges.
        for (line, _charge) in self.0 {
            if line.is_empty() {
                return;
            }
            write(&line);
        }
    }
}

impl Write for &LineQueue {
    /// Queues or drops a whole line, which the formatter writes in one call. Never fails and never waits.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.add(line.into());
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A file that whole lines are written to, past std's lock of the standard streams, on which every print of the process
/// would wait.
#[derive(Debug)]
pub(crate) struct LineFile<F> {
    file: F,
    /// The last line was written only in part, without its end.
    is_torn: AtomicBool,
    is_given_up: AtomicBool,
}

impl<F: AsFd> LineFile<F> {
    pub(crate) fn new(file: F) -> Self {
        LineFile { file, is_torn: AtomicBool::new(false), is_given_up: AtomicBool::new(false) }
    }

    /// Ends the wait for room in a full pipe: the line that waits for it is lost.
    pub(crate) fn give_up(&self) {
        self.is_given_up.store(true, Ordering::Relaxed);
    }

    /// Writes bytes. When that fails after some of them were written, the line is torn.
    fn put(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match rustix::io::write(&self.file, bytes).map_err(io::Error::from) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(count) => {
                    bytes = &bytes[count..];
                    self.is_torn.store(!bytes.is_empty(), Ordering::Relaxed);
                }
                Err(error)
                    if error.kind() == ErrorKind::WouldBlock && !self.is_given_up.load(Ordering::Relaxed) =>
                {
                    thread::sleep(FULL_PAUSE);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

impl<F: AsFd> Write for &LineFile<F> {
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

/// Says when lost lines are to be reported: when there are more of them, and not too often.
#[derive(Debug)]
pub(crate) struct LossReports {
    interval: Duration,
    told: u64,
    told_at: Option<Instant>,
}

impl LossReports {
    /// Returns those with at least this interval between two reports.
    pub(crate) fn every(interval: Duration) -> Self {
        LossReports { interval, told: 0, told_at: None }
    }

    /// Returns whether `lost` is to be reported now, and takes it for reported.
    pub(crate) fn is_due(&mut self, lost: u64) -> bool {
        let is_due = lost > self.told && self.told_at.is_none_or(|at| at.elapsed() > self.interval);
        if is_due {
            (self.told, self.told_at) = (lost, Some(Instant::now()));
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_without_room_is_dropped_and_counted_and_nobody_waits() {
        let (queue, QueuedLines(lines)) = LineQueue::new(20, 3);
        let write = |line: &str| (&queue).write_all(line.as_bytes()).unwrap();
        for line in ["one", "two", "three", "one line too many"] {
            write(line);
        }
        let taken =
            |count| -> Vec<Box<[u8]>> { lines.try_iter().take(count).map(|(line, _)| line).collect() };
        assert_eq!(taken(2), [Box::from(*b"one"), Box::from(*b"two")]);
        write("more than the bytes that are left");
        write("four");
        assert_eq!(taken(9), [Box::from(*b"three"), Box::from(*b"four")]);
        assert_eq!(queue.lost(), 2);
        assert_eq!(queue.room.messages(), 0);
    }

    #[test]
    fn a_closed_queue_ends_its_thread_behind_what_it_had() {
        let (queue, lines) = LineQueue::new(100, 9);
        assert!(queue.add(Box::from(*b"one")) && queue.add(Box::from(*b"two")));
        let running = thread::spawn(move || {
            let mut written = Vec::new();
            lines.run(|line| written.extend_from_slice(line));
            written
        });
        queue.close();
        queue.close();
        assert_eq!(running.join().unwrap(), b"onetwo");
    }

    #[test]
    fn losses_are_reported_once_in_an_interval_and_only_when_there_are_more() {
        let mut reports = LossReports::every(Duration::ZERO);
        assert_eq!([0, 1, 1, 2].map(|lost| reports.is_due(lost)), [false, true, false, true]);
        let mut reports = LossReports::every(Duration::from_secs(1000));
        assert_eq!([1, 2, 3].map(|lost| reports.is_due(lost)), [true, false, false]);
    }
}
