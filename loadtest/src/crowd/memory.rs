//! The server's memory while something happens and after it.

use super::site::Site;
use crate::process::Usage;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

pub(super) const MIB: f64 = (1 << 20) as f64;
const SAMPLE: Duration = Duration::from_millis(50);

/// Looks at a server's memory again and again, on a thread of its own, until it goes.
pub(super) struct Highest {
    bytes: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Highest {
    /// Begins to look.
    pub(super) fn watch(site: &Site) -> Highest {
        let (bytes, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (seen, stopped, pid) = (bytes.clone(), stop.clone(), site.pid());
        let thread = std::thread::spawn(move || {
            super::go_first();
            while !stopped.load(Ordering::Acquire) {
                seen.fetch_max(Usage::now(pid).unwrap_or_default().rss_bytes, Ordering::Relaxed);
                std::thread::sleep(SAMPLE);
            }
        });
        Highest { bytes, stop, thread: Some(thread) }
    }

    /// Returns the most resident bytes seen so far.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

impl Drop for Highest {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// Returns seconds and resident bytes from now on, a sample for each `step`, for so long or until no more than `enough`
/// bytes are left.
pub(super) fn settle(
    site: &Site,
    time: Duration,
    step: Duration,
    enough: Option<f64>,
) -> Result<Vec<(f64, u64)>, String> {
    let began = Instant::now();
    let mut samples = Vec::new();
    loop {
        std::thread::sleep(step);
        let (seconds, bytes) = (began.elapsed().as_secs_f64(), site.usage()?.rss_bytes);
        samples.push((seconds, bytes));
        if began.elapsed() >= time || enough.is_some_and(|enough| bytes as f64 <= enough) {
            return Ok(samples);
        }
    }
}
