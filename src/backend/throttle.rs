//! Limits log lines: an error of each request, or of each attempt, would fill the log.

use std::time::Duration;

use tokio::time::Instant;

/// Decides when to log something that happens again and again.
#[derive(Debug)]
pub(super) struct Throttle {
    every: Duration,
    untold: u64,
    told: Option<Instant>,
}

impl Throttle {
    /// Returns a throttle that lets one line pass in `every`, the first at once.
    pub(super) fn new(every: Duration) -> Self {
        Self { every, untold: 0, told: None }
    }

    /// Counts one occurrence. Returns the number since the last log line when it is time for another, else `None`.
    pub(super) fn count(&mut self) -> Option<u64> {
        self.untold += 1;
        if self.told.is_some_and(|told| told.elapsed() < self.every) {
            return None;
        }
        self.told = Some(Instant::now());
        Some(std::mem::take(&mut self.untold))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_is_told_of_at_once_and_the_others_together() {
        let mut rare = Throttle::new(Duration::from_secs(3600));
        assert_eq!([(); 3].map(|()| rare.count()), [Some(1), None, None]);
        rare.every = Duration::ZERO;
        assert_eq!([(); 2].map(|()| rare.count()), [Some(3), Some(1)]);
    }
}
