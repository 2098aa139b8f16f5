//! The memory of connections that are not streams: one budget for the whole server, charged before memory is used.
//!
//! It is apart from the memory of events: a client that sends half a request must not cost others their history.

use std::sync::Arc;

use super::shortage::Shortage;
use crate::core::budget::{Budget, Charge};

/// The charge of every connection, in bytes: its task, whose size a test bounds, and its read buffer.
pub(crate) const CONNECTION_BYTES: usize = 4 << 10;
/// How long slow senders give way after memory ran short.
const SHORT_MS: u64 = 1000;

/// The budget of all connections that are not streams, shared by all shards.
#[derive(Debug)]
pub(crate) struct RequestMemory {
    budget: Arc<Budget>,
    /// Charges grow only up to this total; the rest is kept for new connections.
    grown_bytes_max: usize,
    /// Noted when somebody found no room.
    shortage: Shortage,
}

impl RequestMemory {
    pub(crate) fn new(bytes_max: usize) -> Self {
        RequestMemory {
            budget: Budget::new(bytes_max, usize::MAX),
            grown_bytes_max: bytes_max / 8 * 7,
            shortage: Shortage::recent_for(SHORT_MS),
        }
    }

    /// Takes [`CONNECTION_BYTES`] for a new connection; `None` when there is no room.
    pub(crate) fn admit(&self) -> Option<Charge> {
        self.budget.take(CONNECTION_BYTES)
    }

    /// Changes `charge` to `bytes`. Returns false and leaves it as it was when there is no room for more. The last
    /// eighth of the memory is never given here, so that new connections get in whatever the others hold.
    pub(crate) fn resize(&self, charge: &mut Charge, bytes: usize) -> bool {
        let more = bytes.saturating_sub(charge.bytes());
        (more == 0 || self.budget.bytes() + more <= self.grown_bytes_max) && charge.resize(bytes)
    }

    /// Notes that somebody found no room at `now_ms`, so that slow senders give way.
    pub(crate) fn note_short(&self, now_ms: u64) {
        self.shortage.note(now_ms);
    }

    /// Returns whether somebody found no room within the last second.
    pub(crate) fn is_short(&self, now_ms: u64) -> bool {
        self.shortage.is_recent(now_ms)
    }

    /// Returns whether somebody found no room within the last second while the base charges of connections take three
    /// quarters of the memory: then connections that only wait must be evicted.
    pub(crate) fn is_crowded(&self, now_ms: u64) -> bool {
        let connections = self.budget.messages() * CONNECTION_BYTES;
        self.is_short(now_ms) && connections > self.budget.bytes_max() / 4 * 3
    }

    /// Returns the bytes held now.
    pub(crate) fn bytes(&self) -> usize {
        self.budget.bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_eighth_is_kept_for_new_connections() {
        let memory = RequestMemory::new(32 << 10);
        let mut first = memory.admit().unwrap();
        assert!(!memory.resize(&mut first, (28 << 10) + 1));
        assert!(memory.resize(&mut first, 28 << 10));
        let second = memory.admit().unwrap();
        assert!(memory.admit().is_none(), "36 KiB");
        assert_eq!((first.bytes(), second.bytes(), memory.bytes()), (28 << 10, 4 << 10, 32 << 10));
        assert!(memory.resize(&mut first, 4 << 10), "it may always be less");
        assert!(memory.admit().is_some());
    }

    #[test]
    fn memory_is_short_for_a_second_after_somebody_found_no_room() {
        let memory = RequestMemory::new(0);
        assert!(!memory.is_short(0));
        memory.note_short(5000);
        assert!(memory.is_short(5999) && !memory.is_short(6000));
    }
}
