//! The server's clock: read by what does I/O and passed on, because the core has no clock.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The server's time, the same on every shard: it never goes back while the server runs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    started: Instant,
    /// The machine's Unix time at the start; that clock may be set later.
    started_unix_ms: u64,
}

impl Clock {
    pub(crate) fn start() -> Self {
        Clock { started: Instant::now(), started_unix_ms: unix_ms() }
    }

    pub(crate) fn elapsed(self) -> Duration {
        self.started.elapsed()
    }

    /// Returns microseconds since the start.
    pub(crate) fn now_us(self) -> u64 {
        // Overflows after half a million years.
        self.started.elapsed().as_micros() as u64
    }

    /// Returns the microseconds from the start to `at`; 0 for a moment before it.
    pub(crate) fn us_at(self, at: Instant) -> u64 {
        at.saturating_duration_since(self.started).as_micros() as u64
    }

    /// Returns milliseconds since the Unix epoch: the machine's clock at the start plus the time since then, so that
    /// events kept over a restart have an age.
    pub(crate) fn now_ms(self) -> u64 {
        self.started_unix_ms + self.started.elapsed().as_millis() as u64
    }
}

/// Returns Unix time in milliseconds, by the machine's clock.
pub(crate) fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}

/// Returns Unix time in seconds, by the machine's clock.
pub(crate) fn unix_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// The `Date` header's value (RFC 9110, section 6.6.1), formatted once a second.
#[derive(Debug)]
pub(crate) struct Date {
    second: u64,
    text: [u8; 29],
}

impl Date {
    pub(crate) fn new() -> Self {
        let mut date = Date { second: u64::MAX, text: *b"Thu, 01 Jan 1970 00:00:00 GMT" };
        date.update(unix_s());
        date
    }

    pub(crate) fn update(&mut self, unix_s: u64) {
        if self.second == unix_s {
            return;
        }
        self.second = unix_s;
        let text = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(unix_s));
        if let Ok(text) = text.as_bytes().try_into() {
            self.text = text;
        }
    }

    pub(crate) fn text(&self) -> [u8; 29] {
        self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_is_an_imf_fixdate() {
        let mut date = Date::new();
        date.update(784_111_777);
        assert_eq!(&date.text(), b"Sun, 06 Nov 1994 08:49:37 GMT");
    }
}
