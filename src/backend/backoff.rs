//! Waits between attempts.

use std::time::Duration;

/// How long to wait before the next attempt: twice as long each time, less up to a half of it at random, so that
/// many who lost something don't all come back at once.
#[derive(Debug)]
pub(super) struct Backoff(Duration);

impl Default for Backoff {
    fn default() -> Self {
        Self(Self::MIN)
    }
}

impl From<Duration> for Backoff {
    /// Begins with a wait of `first` at most.
    fn from(first: Duration) -> Self {
        Self(first)
    }
}

impl Backoff {
    const MIN: Duration = Duration::from_millis(200);
    /// No wait is longer.
    pub(super) const MAX: Duration = Duration::from_secs(10);

    /// Returns how long to wait now.
    pub(super) fn next(&mut self) -> Duration {
        let wait = self.0;
        self.0 = (2 * wait).min(Self::MAX);
        wait.mul_f64(1.0 - fastrand::f64() / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_wait_is_twice_as_long_up_to_a_bound_and_none_is_like_another() {
        let mut backoff = Backoff::default();
        let mut longest = Backoff::MIN;
        for _ in 0..20 {
            let wait = backoff.next();
            assert!(wait <= longest && wait >= longest / 2, "{wait:?} {longest:?}");
            longest = (2 * longest).min(Backoff::MAX);
        }
        let waits: Vec<_> = (0..4).map(|_| backoff.next()).collect();
        assert!(waits.windows(2).any(|pair| pair[0] != pair[1]));
    }
}
