//! Counts the bytes of events that are held anywhere: in histories, in logs, and in sends that a client is slow to
//! take.
//!
//! They are counted until they are freed: a frame that its history dropped may still be under way to a stalled client.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;

/// The bytes held by the whole server and their limit; one for the server, shared by all shards.
#[derive(Debug)]
pub(crate) struct Memory {
    bytes_max: usize,
    bytes: AtomicUsize,
}

impl Memory {
    pub(crate) fn new(bytes_max: usize) -> Arc<Self> {
        Arc::new(Memory { bytes_max, bytes: AtomicUsize::new(0) })
    }

    /// Returns `bytes` as shared bytes that are counted until the last handle to them is dropped.
    pub(crate) fn share(self: &Arc<Self>, bytes: Vec<u8>) -> Bytes {
        // Relaxed: a count orders nothing.
        self.bytes.fetch_add(bytes.capacity(), Ordering::Relaxed);
        Bytes::from_owner(HeldBytes { bytes, memory: Arc::clone(self) })
    }

    /// Counts bytes that are not in a shared buffer, until [`Memory::release`].
    pub(crate) fn hold(&self, bytes: usize) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Uncounts bytes that [`Memory::hold`] counted.
    pub(crate) fn release(&self, bytes: usize) {
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    pub(crate) fn bytes_max(&self) -> usize {
        self.bytes_max
    }

    /// Returns whether more than three quarters of the limit are held.
    pub(crate) fn is_filling(&self) -> bool {
        self.bytes() / 3 > self.bytes_max / 4
    }

    /// Returns whether more than the limit is held: whatever can give way does.
    pub(crate) fn is_over(&self) -> bool {
        self.bytes() > self.bytes_max
    }

    /// Returns whether more than twice the limit is held: nothing is added any more, and publishers wait.
    pub(crate) fn is_exhausted(&self) -> bool {
        self.bytes() / 2 > self.bytes_max
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
        self.memory.bytes.fetch_sub(self.bytes.capacity(), Ordering::Relaxed);
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
