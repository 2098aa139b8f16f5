//! What the threads of a run have in common: one clock, a flag to stop, how far each has come.

use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Nanoseconds since the run began. Publishers write it into stamps and subscribers compare with it. It is the machine's
/// monotonic clock, whose time at the start it holds, so that all processes of a run share it.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub(crate) struct Clock(u64);

impl Clock {
    pub(crate) fn start() -> Clock {
        Clock(read_ns(ClockId::Monotonic))
    }

    pub(crate) fn now_ns(&self) -> u64 {
        read_ns(ClockId::Monotonic).saturating_sub(self.0)
    }
}

/// Returns the CPU time of the calling thread so far.
pub(crate) fn thread_cpu_ns() -> u64 {
    read_ns(ClockId::ThreadCPUTime)
}

fn read_ns(clock: ClockId) -> u64 {
    let time = clock_gettime(clock);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Read by the main thread while the others work.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) clock: Clock,
    stop: AtomicBool,
    /// When publishing began, once it has.
    published_from_ns: OnceLock<u64>,
    readers: Vec<Progress>,
}

/// The progress of a reader. Padded, so that none writes to another's cache line on each read.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Progress {
    connected: AtomicU64,
    delivered: AtomicU64,
}

impl Shared {
    pub(crate) fn new(clock: Clock, readers: usize) -> Shared {
        Shared {
            clock,
            stop: AtomicBool::new(false),
            published_from_ns: OnceLock::new(),
            readers: (0..readers).map(|_| Progress::default()).collect(),
        }
    }

    /// Asks every thread to end.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Release);
    }

    pub(crate) fn stopped(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    /// Says when the first publish is due. All are connected, and so subscribers that come and go may begin to.
    pub(crate) fn begin_publishing(&self, start_ns: u64) {
        self.published_from_ns.get_or_init(|| start_ns);
    }

    /// Returns when the first publish was due; `None` before publishing has begun.
    pub(crate) fn published_from_ns(&self) -> Option<u64> {
        self.published_from_ns.get().copied()
    }

    /// Says how many subscribers of a reader had their 200 so far.
    pub(crate) fn set_connected(&self, reader: usize, subscribers: u64) {
        if let Some(progress) = self.readers.get(reader) {
            progress.connected.store(subscribers, Ordering::Relaxed);
        }
    }

    pub(crate) fn connected(&self) -> u64 {
        self.readers.iter().map(|reader| reader.connected.load(Ordering::Relaxed)).sum()
    }

    /// Says what a reader's steady subscribers have got so far.
    pub(crate) fn set_delivered(&self, reader: usize, events: u64) {
        if let Some(progress) = self.readers.get(reader) {
            progress.delivered.store(events, Ordering::Relaxed);
        }
    }

    /// Returns the events read by all steady subscribers so far.
    pub(crate) fn delivered(&self) -> u64 {
        self.readers.iter().map(|reader| reader.delivered.load(Ordering::Relaxed)).sum()
    }
}
