//! What the threads of a run have in common: one clock, a flag to stop, how far each has come.

use rustix::time::{ClockId, clock_gettime};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

/// Nanoseconds since the run began. Publishers write it into stamps and subscribers compare with it.
///
/// It is the machine's monotonic clock, so that all processes of a run share it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    start_ns: u64,
}

impl Clock {
    /// Starts at 0.
    pub(crate) fn start() -> Clock {
        Clock { start_ns: read_ns(ClockId::Monotonic) }
    }

    /// The clock of another process of this run, from what its [`Clock::started_ns`] told.
    pub(crate) fn started_at(start_ns: u64) -> Clock {
        Clock { start_ns }
    }

    /// When it started, in the machine's time.
    pub(crate) fn started_ns(&self) -> u64 {
        self.start_ns
    }

    /// Nanoseconds since the start.
    pub(crate) fn now_ns(&self) -> u64 {
        read_ns(ClockId::Monotonic).saturating_sub(self.start_ns)
    }
}

/// CPU time of the calling thread so far.
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
    /// The one clock.
    pub(crate) clock: Clock,
    stop: AtomicBool,
    /// When publishing began, or [`NOT_YET`].
    published_from_ns: AtomicU64,
    /// One of each for each reader. Padded, so that none writes to another's cache line on each read.
    connected: Vec<Padded<AtomicUsize>>,
    delivered: Vec<Padded<AtomicU64>>,
}

const NOT_YET: u64 = u64::MAX;

#[derive(Debug, Default)]
#[repr(align(128))]
struct Padded<T>(T);

impl Shared {
    /// For so many readers.
    pub(crate) fn new(clock: Clock, readers: usize) -> Shared {
        Shared {
            clock,
            stop: AtomicBool::new(false),
            published_from_ns: AtomicU64::new(NOT_YET),
            connected: (0..readers).map(|_| Padded::default()).collect(),
            delivered: (0..readers).map(|_| Padded::default()).collect(),
        }
    }

    /// Asks every thread to end.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Release);
    }

    /// Whether to end.
    pub(crate) fn stopped(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    /// The first publish is due at this time. All are connected, and so subscribers that come and go may begin to.
    pub(crate) fn begin_publishing(&self, start_ns: u64) {
        self.published_from_ns.store(start_ns, Ordering::Release);
    }

    /// When the first publish was due; `None` before publishing has begun.
    pub(crate) fn published_from_ns(&self) -> Option<u64> {
        Some(self.published_from_ns.load(Ordering::Acquire)).filter(|start_ns| *start_ns != NOT_YET)
    }

    /// How many subscribers of a reader had their 200 so far.
    pub(crate) fn set_connected(&self, reader: usize, subscribers: usize) {
        if let Some(connected) = self.connected.get(reader) {
            connected.0.store(subscribers, Ordering::Relaxed);
        }
    }

    /// Subscribers that had their 200.
    pub(crate) fn connected(&self) -> usize {
        self.connected.iter().map(|one| one.0.load(Ordering::Relaxed)).sum()
    }

    /// What a reader's steady subscribers have got so far.
    pub(crate) fn set_delivered(&self, reader: usize, events: u64) {
        if let Some(delivered) = self.delivered.get(reader) {
            delivered.0.store(events, Ordering::Relaxed);
        }
    }

    /// Events read by all steady subscribers so far.
    pub(crate) fn delivered(&self) -> u64 {
        self.delivered.iter().map(|one| one.0.load(Ordering::Relaxed)).sum()
    }
}
