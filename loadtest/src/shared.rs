//! What the threads of a run have in common: one clock, a flag to stop, how far each has come.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

/// Nanoseconds since the program began. Publishers write it into stamps and subscribers compare with it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock(Instant);

impl Clock {
    /// Starts at 0.
    pub(crate) fn start() -> Clock {
        Clock(Instant::now())
    }

    /// Nanoseconds since the start: 15 digits of them are 11 days.
    pub(crate) fn now_ns(&self) -> u64 {
        self.0.elapsed().as_nanos() as u64
    }
}

/// Read by the main thread while the others work.
#[derive(Debug)]
pub(crate) struct Shared {
    /// The one clock.
    pub(crate) clock: Clock,
    stop: AtomicBool,
    connected: AtomicUsize,
    /// One for each reading thread, so that none writes to another's cache line on each read.
    delivered: Vec<Padded>,
}

#[derive(Debug, Default)]
#[repr(align(128))]
struct Padded(AtomicU64);

impl Shared {
    /// For so many reading threads.
    pub(crate) fn new(threads: usize) -> Shared {
        Shared {
            clock: Clock::start(),
            stop: AtomicBool::new(false),
            connected: AtomicUsize::new(0),
            delivered: (0..threads).map(|_| Padded::default()).collect(),
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

    /// One more subscriber has its 200.
    pub(crate) fn one_connected(&self) {
        self.connected.fetch_add(1, Ordering::Relaxed);
    }

    /// Subscribers that had their 200.
    pub(crate) fn connected(&self) -> usize {
        self.connected.load(Ordering::Relaxed)
    }

    /// What a thread has read so far.
    pub(crate) fn set_delivered(&self, thread: usize, events: u64) {
        if let Some(delivered) = self.delivered.get(thread) {
            delivered.0.store(events, Ordering::Relaxed);
        }
    }

    /// Events read by all subscribers so far.
    pub(crate) fn delivered(&self) -> u64 {
        self.delivered.iter().map(|one| one.0.load(Ordering::Relaxed)).sum()
    }
}
