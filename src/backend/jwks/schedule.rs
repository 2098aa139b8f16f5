//! Decides when a provider's keys are fetched next, without a clock.

use std::time::{Duration, Instant};

use crate::backend::backoff::Backoff;

/// The time between two fetches where the provider says none.
const EVERY: Duration = Duration::from_secs(15 * 60);
/// The shortest time that a provider may say: one with less would be asked all the time.
const EVERY_MIN: Duration = Duration::from_secs(5 * 60);
/// The longest one: so long a key may be taken that the provider took back.
const EVERY_MAX: Duration = Duration::from_secs(60 * 60);
/// The time between two fetches that unknown keys asked for: anybody can make up the name of a key.
const ASKED_EVERY: Duration = Duration::from_secs(60);

/// The times of fetches.
#[derive(Debug)]
pub(super) struct Schedule {
    due: Instant,
    /// Set if the next fetch was asked for by an unknown key.
    is_asked: bool,
    /// The time at which the last such fetch began.
    asked: Option<Instant>,
    backoff: Backoff,
}

impl Schedule {
    /// Returns a schedule whose first fetch is due.
    pub(super) fn new(now: Instant) -> Self {
        Schedule { due: now, is_asked: false, asked: None, backoff: Backoff::default() }
    }

    /// Returns when the next fetch is due.
    pub(super) fn due(&self) -> Instant {
        self.due
    }

    /// Makes the next fetch due for an unknown key: now, or a minute after the last one that was.
    pub(super) fn ask(&mut self, now: Instant) {
        let earliest = self.asked.map_or(now, |asked| now.max(asked + ASKED_EVERY));
        if earliest < self.due {
            (self.due, self.is_asked) = (earliest, true);
        }
    }

    /// Makes the next fetch due now.
    pub(super) fn hurry(&mut self, now: Instant) {
        self.due = self.due.min(now);
    }

    /// Notes that a fetch begins.
    pub(super) fn begin(&mut self, now: Instant) {
        if std::mem::take(&mut self.is_asked) {
            self.asked = Some(now);
        }
    }

    /// Notes that it brought keys, which may be kept for `max_age`.
    pub(super) fn succeed(&mut self, now: Instant, max_age: Option<Duration>) {
        self.backoff = Backoff::default();
        self.due = now + max_age.map_or(EVERY, |age| age.clamp(EVERY_MIN, EVERY_MAX));
    }

    /// Notes that it brought nothing: the next ones come sooner, and then more and more slowly.
    pub(super) fn fail(&mut self, now: Instant) {
        self.due = now + self.backoff.next();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Plays a fetch that begins when it is due and takes a second; returns when it began, in seconds from `start`.
    fn fetch(schedule: &mut Schedule, start: Instant) -> u64 {
        let now = schedule.due();
        schedule.begin(now);
        schedule.succeed(now + SECOND, None);
        (now - start).as_secs()
    }

    #[test]
    fn keys_are_fetched_as_often_as_their_server_says_within_bounds() {
        let start = Instant::now();
        let mut schedule = Schedule::new(start);
        assert_eq!(schedule.due(), start);
        for (max_age, expected) in [
            (None, EVERY),
            (Some(0), EVERY_MIN),
            (Some(15), EVERY_MIN),
            (Some(1200), 1200 * SECOND),
            (Some(u64::MAX), EVERY_MAX),
        ] {
            schedule.begin(start);
            schedule.succeed(start, max_age.map(Duration::from_secs));
            assert_eq!(schedule.due() - start, expected, "{max_age:?}");
        }
    }

    #[test]
    fn unknown_keys_ask_at_once_and_then_once_a_minute_however_many_there_are() {
        let start = Instant::now();
        let mut schedule = Schedule::new(start);
        assert_eq!(fetch(&mut schedule, start), 0);
        let mut fetches = Vec::new();
        for second in 10..200 {
            let now = start + second * SECOND;
            for _ in 0..100 {
                schedule.ask(now);
            }
            while schedule.due() <= now {
                fetches.push(fetch(&mut schedule, start));
            }
        }
        assert_eq!(fetches, [10, 70, 130, 190]);
        // The last ones that asked were not forgotten.
        assert_eq!((schedule.due() - start).as_secs(), 250);
    }

    #[test]
    fn a_provider_that_is_away_is_asked_again_soon_and_never_more_often_than_the_wait_grows() {
        let start = Instant::now();
        let (mut schedule, mut now) = (Schedule::new(start), start);
        let mut attempts = 0;
        while now < start + 300 * SECOND {
            schedule.begin(now);
            schedule.fail(now);
            schedule.ask(now);
            attempts += 1;
            now = schedule.due();
        }
        // A wait is 5 to 10 s at the end, and one in a minute is skipped for a key that is asked for.
        assert!((30..=80).contains(&attempts), "{attempts}");
        schedule.succeed(now, None);
        schedule.fail(now);
        assert!(schedule.due() - now < SECOND, "it begins anew");
    }

    #[test]
    fn whoever_is_in_a_hurry_is_served_at_once() {
        let start = Instant::now();
        let mut schedule = Schedule::new(start);
        fetch(&mut schedule, start);
        schedule.hurry(start + 2 * SECOND);
        assert_eq!(fetch(&mut schedule, start), 2);
    }
}
