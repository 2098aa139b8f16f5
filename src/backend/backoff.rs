//! The wait between two attempts.

use std::time::Duration;

/// Doubles the wait before each attempt and shortens it by up to a half at random, so that many who lost a connection
/// do not all come back at once.
#[derive(Debug)]
pub(super) struct Backoff(Duration);

impl Default for Backoff {
    fn default() -> Self {
        Self(Self::MIN)
    }
}

impl From<Duration> for Backoff {
    /// Begins with a wait of at most `first`.
    fn from(first: Duration) -> Self {
        Self(first)
    }
}

impl Backoff {
    const MIN: Duration = Duration::from_millis(200);
    /// The longest wait.
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
