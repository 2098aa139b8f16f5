//! Counts the bytes of events that are held anywhere: in histories, in logs, and in sends that a client is slow to
//! take.
//!
//! They are counted until they are freed: a frame that its history dropped may still be under way to a stalled client.
//!
//! Each shard counts what it makes in a lane of its own, from which it is taken back wherever it is freed, and adds to the
//! sum of all in steps. A count that every shard changed at every
//! event would be a cache line that goes from one CPU to the next: 0.1 us each time and more, for all of them together.

use std::sync::Arc;
use std::sync::atomic::{AtomicIsize, Ordering};

use bytes::Bytes;

use super::lanes::Lanes;

/// The most that a lane counts before it adds to the sum, in bytes.
const STEP_BYTES: usize = 64 << 10;
/// A lane counts no more than this part of the limit by itself.
const STEP_PARTS: usize = 1024;

/// The bytes held by the whole server and their limit, as one lane of it sees them: the others may have counted a step
/// more or less.
// Lanes are made one after another; on one cache line they would be what they are to avoid.
#[derive(Debug)]
#[repr(align(128))]
pub(crate) struct Memory {
    sum: Arc<Sum>,
    /// Counted here and not in the sum. Less than nothing where bytes are freed that another lane counted.
    own: AtomicIsize,
}

/// The part that all lanes have in common.
#[derive(Debug)]
struct Sum {
    bytes_max: usize,
    bytes: AtomicIsize,
    lanes: Lanes<Memory>,
}

impl Memory {
    /// Returns the first lane.
    pub(crate) fn new(bytes_max: usize) -> Arc<Self> {
        Self::lane_of(Arc::new(Sum { bytes_max, bytes: AtomicIsize::new(0), lanes: Lanes::default() }))
    }

    /// Returns another lane, for a shard.
    pub(crate) fn lane(&self) -> Arc<Self> {
        Self::lane_of(Arc::clone(&self.sum))
    }

    fn lane_of(sum: Arc<Sum>) -> Arc<Self> {
        let lane = Arc::new(Memory { sum: Arc::clone(&sum), own: AtomicIsize::new(0) });
        sum.lanes.add(&lane);
        lane
    }

    fn count(&self, bytes: isize) {
        // Relaxed: a count orders nothing.
        let own = self.own.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if own.unsigned_abs() > STEP_BYTES.min(self.sum.bytes_max / STEP_PARTS) {
            let own = self.own.swap(0, Ordering::Relaxed);
            self.sum.bytes.fetch_add(own, Ordering::Relaxed);
        }
    }

    /// Returns `bytes` as shared bytes that are counted until the last handle to them is dropped.
    pub(crate) fn share(self: &Arc<Self>, bytes: Vec<u8>) -> Bytes {
        self.hold(bytes.capacity());
        Bytes::from_owner(HeldBytes { bytes, memory: Arc::clone(self) })
    }

    /// Counts bytes that are not in a shared buffer, until [`Memory::release`].
    pub(crate) fn hold(&self, bytes: usize) {
        // What is counted is in memory, so it is far below half of the address space.
        self.count(bytes as isize);
    }

    /// Uncounts bytes that [`Memory::hold`] counted.
    pub(crate) fn release(&self, bytes: usize) {
        self.count(-(bytes as isize));
    }

    /// Returns the bytes held, but for what other lanes have not added yet.
    pub(crate) fn bytes(&self) -> usize {
        let bytes = self.sum.bytes.load(Ordering::Relaxed) + self.own.load(Ordering::Relaxed);
        usize::try_from(bytes).unwrap_or(0)
    }

    /// Returns the bytes held as all lanes together count them, which takes a look at each.
    pub(crate) fn total(&self) -> usize {
        let mut bytes = self.sum.bytes.load(Ordering::Relaxed);
        self.sum.lanes.for_each(|lane| bytes += lane.own.load(Ordering::Relaxed));
        usize::try_from(bytes).unwrap_or(0)
    }

    pub(crate) fn bytes_max(&self) -> usize {
        self.sum.bytes_max
    }

    /// Returns whether more than three quarters of the limit are held.
    pub(crate) fn is_filling(&self) -> bool {
        self.bytes() / 3 > self.bytes_max() / 4
    }

    /// Returns whether more than the limit is held: whatever can give way does.
    pub(crate) fn is_over(&self) -> bool {
        self.bytes() > self.bytes_max()
    }

    /// Returns whether more than twice the limit is held: nothing is added any more, and publishers wait.
    pub(crate) fn is_exhausted(&self) -> bool {
        self.bytes() / 2 > self.bytes_max()
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.sum.bytes.fetch_add(*self.own.get_mut(), Ordering::Relaxed);
    }
}

/// Bytes that are uncounted when they are dropped.
struct HeldBytes {
    bytes: Vec<u8>,
    memory: Arc<Memory>,
}

impl AsRef<[u8]> for HeldBytes {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for HeldBytes {
    fn drop(&mut self) {
        self.memory.release(self.bytes.capacity());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_held_until_the_last_handle_is_gone() {
        let memory = Memory::new(3);
        let bytes = memory.share(vec![1, 2, 3, 4]);
        let part = bytes.slice(1..2);
        drop(bytes);
        assert!(memory.is_over() && !memory.is_exhausted());
        let more = memory.share(vec![0; 4]);
        assert!(memory.is_exhausted());
        drop((part, more));
        assert_eq!(memory.bytes(), 0);
    }

    #[test]
    fn lanes_count_together_within_a_step_of_each() {
        let first = Memory::new(usize::MAX);
        let others: Vec<_> = (0..4).map(|_| first.lane()).collect();
        let held: Vec<_> =
            (0..100).flat_map(|_| others.iter().map(|lane| lane.share(vec![0; 10_000]))).collect();
        assert!(
            first.bytes().abs_diff(4_000_000) <= others.len() * (STEP_BYTES + 10_000),
            "{}",
            first.bytes()
        );
        assert_eq!(first.total(), 4_000_000);
        drop(held);
        assert_eq!(first.total(), 0);
        others.iter().for_each(|lane| lane.hold(1));
        assert!(first.bytes() <= others.len() * STEP_BYTES, "{}", first.bytes());
        // One frees what another holds.
        others[0].hold(10_000_000);
        others[1].release(10_000_000);
        assert!(first.bytes() <= others.len() * STEP_BYTES, "{}", first.bytes());
    }

    #[test]
    fn a_small_limit_is_kept_closely_by_all_lanes() {
        let first = Memory::new(10_240);
        let second = first.lane();
        for _ in 0..1000 {
            second.hold(10);
        }
        assert!(first.bytes() >= 10_000 - 10, "{}", first.bytes());
    }

    #[test]
    fn memory_is_filling_past_three_quarters_over_past_the_limit_and_exhausted_past_twice_that() {
        for (bytes, expected) in [
            (0, [false, false, false]),
            (900, [false, false, false]),
            (903, [true, false, false]),
            (1200, [true, false, false]),
            (1201, [true, true, false]),
            (2400, [true, true, false]),
            (2402, [true, true, true]),
        ] {
            let memory = Memory::new(1200);
            memory.hold(bytes);
            let past = [memory.is_filling(), memory.is_over(), memory.is_exhausted()];
            assert_eq!((memory.bytes(), memory.bytes_max(), past), (bytes, 1200, expected));
            memory.release(bytes);
            assert_eq!(memory.bytes(), 0);
        }
    }
}
