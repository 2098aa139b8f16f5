//! One connection's share of the memory for requests, which it gives up for others when its client is slow.

use std::pin::pin;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};
use tokio_uring::net::TcpStream;

use super::request_memory::{CONNECTION_BYTES, RequestMemory};
use crate::clock::Clock;
use crate::core::budget::Charge;

/// The window over which a client's rate is taken: two of them fit into the second that a publisher waits for room.
const RATE_WINDOW: Duration = Duration::from_millis(400);
/// A client is slow that sends less than this in one window: 10 KB a second.
const WINDOW_BYTES_MIN: usize = 4 << 10;

/// The charge of one connection, and how fast its client sends.
pub(super) struct Holding<'c> {
    memory: &'c RequestMemory,
    clock: Clock,
    charge: Charge,
    /// Since when there has been no room for what it holds; it is not read from until there is.
    starved: Option<Instant>,
    /// When the present rate window began.
    window: Instant,
    /// Bytes received since `window`.
    window_bytes: usize,
}

impl<'c> Holding<'c> {
    pub(super) fn new(memory: &'c RequestMemory, clock: Clock, charge: Charge) -> Self {
        Holding { memory, clock, charge, starved: None, window: Instant::now(), window_bytes: 0 }
    }

    /// Charges `bytes`, and at least what every connection is charged. When there is no room the connection is starved:
    /// it is not read from until a later call succeeds.
    pub(super) fn set(&mut self, bytes: usize) {
        let bytes = bytes.max(CONNECTION_BYTES);
        if self.resize(bytes) {
            self.starved = None;
        } else {
            self.starved.get_or_insert_with(Instant::now);
            self.memory.note_short(self.clock.now_ms());
        }
    }

    /// Charges `bytes` more until the next [`Holding::set`]. Returns false and charges nothing when there is no room.
    /// For what can be done with less memory: no other connection is evicted for it.
    pub(super) fn try_add(&mut self, bytes: usize) -> bool {
        self.resize(self.charge.bytes() + bytes)
    }

    /// Charges like [`Holding::try_add`], for what is refused without the memory: on false, others give way so that
    /// there is room at the next try.
    pub(super) fn add(&mut self, bytes: usize) -> bool {
        let fits = self.try_add(bytes);
        if !fits {
            self.memory.note_short(self.clock.now_ms());
        }
        fits
    }

    /// Returns since when there has been no room for what it holds.
    pub(super) fn starved(&self) -> Option<Instant> {
        self.starved
    }

    /// Counts bytes received from the client.
    pub(super) fn received(&mut self, bytes: usize) {
        self.window_bytes += bytes;
    }

    /// Returns when the present rate window ends; `None` for a connection that holds no more than every one does.
    pub(super) fn window_end(&self) -> Option<Instant> {
        self.holds_more().then(|| self.window + RATE_WINDOW)
    }

    /// Begins the next rate window when the last one is over. Returns whether the client was slow in it while others
    /// find no room.
    pub(super) fn gives_way(&mut self) -> bool {
        if !self.holds_more() || self.window.elapsed() < RATE_WINDOW {
            return false;
        }
        let is_slow = self.window_bytes < WINDOW_BYTES_MIN;
        self.begin_window();
        is_slow && self.is_in_the_way()
    }

    /// Returns whether it holds more than every connection does while others find no room.
    fn is_in_the_way(&self) -> bool {
        self.holds_more() && self.memory.is_short(self.clock.now_ms())
    }

    /// Writes all of `out` within `send_timeout`. Returns false when the client is gone, or takes it too slowly while
    /// others find no room.
    pub(super) async fn write(&self, stream: &TcpStream, out: Vec<u8>, send_timeout: Duration) -> bool {
        let mut write = pin!(stream.write_all(out));
        let end = Instant::now() + send_timeout;
        loop {
            let window_end = Instant::now() + RATE_WINDOW;
            match timeout_at(window_end.min(end), write.as_mut()).await {
                Ok((result, _)) => return result.is_ok(),
                Err(_) if Instant::now() >= end || self.is_in_the_way() => return false,
                Err(_) => {}
            }
        }
    }

    fn resize(&mut self, bytes: usize) -> bool {
        if bytes == self.charge.bytes() {
            return true;
        }
        // A starved connection was not read from, which is not its client's fault: its window starts anew.
        if !self.holds_more() || self.starved.is_some() {
            self.begin_window();
        }
        self.memory.resize(&mut self.charge, bytes)
    }

    fn begin_window(&mut self) {
        (self.window, self.window_bytes) = (Instant::now(), 0);
    }

    fn holds_more(&self) -> bool {
        self.charge.bytes() > CONNECTION_BYTES
    }
}
