//! What one connection holds of the memory for requests, and whether it gives way to others.

use std::time::Duration;

use tokio::time::Instant;

use crate::clock::Clock;
use crate::core::budget::Charge;
use crate::request_memory::{CONNECTION_BYTES, RequestMemory};

/// How long is looked at what a client sends before it is called slow: two looks fit into the second that a publisher
/// waits for room.
pub(super) const LOOK: Duration = Duration::from_millis(400);
/// A client is slow that sends less in one look: 10 KB a second.
const LOOK_BYTES_MIN: usize = 4 << 10;

/// A connection's charge.
pub(super) struct Holding<'c> {
    memory: &'c RequestMemory,
    clock: Clock,
    charge: Charge,
    /// Since when there is no room for what it holds: it is not read from.
    starved: Option<Instant>,
    /// When the present look began.
    look: Instant,
    /// Bytes that came since.
    look_bytes: usize,
}

impl<'c> Holding<'c> {
    pub(super) fn new(memory: &'c RequestMemory, clock: Clock, charge: Charge) -> Self {
        Holding { memory, clock, charge, starved: None, look: Instant::now(), look_bytes: 0 }
    }

    /// Charges `bytes`, as far as they are more than every connection is charged. Without room for them it is starved
    /// until there is.
    pub(super) fn set(&mut self, bytes: usize) {
        let bytes = bytes.max(CONNECTION_BYTES);
        if bytes == self.charge.bytes() {
            return self.starved = None;
        }
        // Nothing was read while it was starved, which is not the client's fault.
        if !self.holds_more() || self.starved.is_some() {
            (self.look, self.look_bytes) = (Instant::now(), 0);
        }
        if self.memory.resize(&mut self.charge, bytes) {
            self.starved = None;
        } else {
            self.starved.get_or_insert_with(Instant::now);
            self.memory.note_short(self.clock.now_ms());
        }
    }

    /// Charges `bytes` more until the next [`Holding::set`]; false, and nothing charged, when there is no room.
    pub(super) fn add(&mut self, bytes: usize) -> bool {
        let bytes = self.charge.bytes() + bytes;
        self.memory.resize(&mut self.charge, bytes)
    }

    /// Since when there is no room for what it holds.
    pub(super) fn starved(&self) -> Option<Instant> {
        self.starved
    }

    /// Its client sent so many bytes.
    pub(super) fn received(&mut self, bytes: usize) {
        self.look_bytes += bytes;
    }

    /// When the present look ends; none for a connection that holds no more than every one does.
    pub(super) fn look_end(&self) -> Option<Instant> {
        self.holds_more().then(|| self.look + LOOK)
    }

    /// Ends the look if it is time; returns whether the client was slow while others find no room.
    pub(super) fn gives_way(&mut self) -> bool {
        if !self.holds_more() || self.look.elapsed() < LOOK {
            return false;
        }
        let is_slow = self.look_bytes < LOOK_BYTES_MIN;
        (self.look, self.look_bytes) = (Instant::now(), 0);
        is_slow && self.is_in_the_way()
    }

    /// Whether it holds more than every connection does, and others find no room.
    pub(super) fn is_in_the_way(&self) -> bool {
        self.holds_more() && self.memory.is_short(self.clock.now_ms())
    }

    fn holds_more(&self) -> bool {
        self.charge.bytes() > CONNECTION_BYTES
    }
}
