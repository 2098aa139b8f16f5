//! When the next publish is due. No clock: `now` comes in.

use crate::plan::{FloodEnd, Pace};

/// The course of one run's publishes. Times are nanoseconds since the first was due.
#[derive(Debug)]
pub(crate) struct Schedule {
    pace: Pace,
    issued: u64,
}

/// When event `number` of a steady rate is due. From the number each time, not by adding up: a rounded interval would
/// drift.
pub(crate) fn due_ns(number: u64, per_second: f64) -> u64 {
    (number as f64 * 1e9 / per_second) as u64
}

/// What to do about the next publish.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Next {
    /// It was due at this time, which is not after now.
    Due(u64),
    /// It will be due at this time.
    At(u64),
    /// There is none.
    Over,
}

impl Schedule {
    /// From the first publish.
    pub(crate) fn new(pace: Pace) -> Schedule {
        Schedule { pace, issued: 0 }
    }

    /// What to do now.
    pub(crate) fn next(&self, now_ns: u64) -> Next {
        match self.pace {
            Pace::Rate { events, .. } if self.issued >= events => Next::Over,
            Pace::Rate { per_second, .. } => {
                let due_ns = due_ns(self.issued, per_second);
                if due_ns <= now_ns { Next::Due(due_ns) } else { Next::At(due_ns) }
            }
            Pace::Flood { until: FloodEnd::Events(events) } if self.issued >= events => Next::Over,
            Pace::Flood { until: FloodEnd::After(time) } if u128::from(now_ns) >= time.as_nanos() => {
                Next::Over
            }
            Pace::Flood { .. } => Next::Due(now_ns),
        }
    }

    /// The publish that was due is on its way.
    pub(crate) fn issue(&mut self) {
        self.issued += 1;
    }

    /// Publishes on their way so far.
    pub(crate) fn issued(&self) -> u64 {
        self.issued
    }

    /// Publishes that were to be made and were not.
    pub(crate) fn unissued(&self) -> u64 {
        match self.pace {
            Pace::Rate { events, .. } | Pace::Flood { until: FloodEnd::Events(events) } => {
                events - self.issued
            }
            Pace::Flood { until: FloodEnd::After(_) } => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_stall_does_not_move_when_an_event_was_due() {
        let mut schedule = Schedule::new(Pace::Rate { per_second: 1_000.0, events: 3 });
        assert_eq!(schedule.next(0), Next::Due(0));
        schedule.issue();
        assert_eq!(schedule.next(999_999), Next::At(1_000_000));
        assert_eq!(schedule.next(5_000_000_000), Next::Due(1_000_000));
        schedule.issue();
        assert_eq!((schedule.next(5_000_000_000), schedule.unissued()), (Next::Due(2_000_000), 1));
        schedule.issue();
        assert_eq!((schedule.next(5_000_000_000), schedule.unissued()), (Next::Over, 0));
    }

    #[test]
    fn an_uneven_rate_does_not_drift() {
        let mut schedule = Schedule::new(Pace::Rate { per_second: 3.0, events: 4_000_000 });
        for _ in 0..3_000_000 {
            schedule.issue();
        }
        assert_eq!(schedule.next(u64::MAX), Next::Due(1_000_000_000_000_000));
    }

    #[test]
    fn a_flood_ends_by_its_time_or_its_events() {
        let schedule = Schedule::new(Pace::Flood { until: FloodEnd::After(Duration::from_secs(1)) });
        assert_eq!((schedule.next(5), schedule.next(1_000_000_000)), (Next::Due(5), Next::Over));
        let mut schedule = Schedule::new(Pace::Flood { until: FloodEnd::Events(1) });
        assert_eq!((schedule.next(7), schedule.unissued()), (Next::Due(7), 1));
        schedule.issue();
        assert_eq!((schedule.next(8), schedule.unissued()), (Next::Over, 0));
    }
}
