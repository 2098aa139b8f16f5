//! When the next publish is due. No clock: `now` comes in.

use crate::plan::{FloodEnd, Pace};
use fastrand::Rng;

/// The same arrivals in every run, so that every server is asked for the same.
const ARRIVALS_SEED: u64 = 1;

/// The publishes of a run. Times are nanoseconds since the first was due.
#[derive(Debug)]
pub(crate) struct Schedule {
    pace: Pace,
    issued: u64,
    /// When the next publish is due, where arrivals are random.
    arrival: Option<(f64, Rng)>,
}

/// Returns when event `number` of a steady rate is due, in nanoseconds. From the number each time, not by adding up: a rounded interval would
/// drift.
pub(crate) fn due_ns(number: u64, per_second: f64) -> u64 {
    (number as f64 * 1e9 / per_second) as u64
}

/// The next publish.
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
    pub(crate) fn new(pace: Pace) -> Schedule {
        let random = matches!(pace, Pace::Rate { poisson: true, .. });
        Schedule { pace, issued: 0, arrival: random.then(|| (0.0, Rng::with_seed(ARRIVALS_SEED))) }
    }

    pub(crate) fn next(&self, now_ns: u64) -> Next {
        match self.pace {
            Pace::Rate { events, .. } if self.issued >= events => Next::Over,
            Pace::Rate { per_second, .. } => {
                let due_ns = match &self.arrival {
                    Some((arrival_ns, _)) => *arrival_ns as u64,
                    None => due_ns(self.issued, per_second),
                };
                if due_ns <= now_ns { Next::Due(due_ns) } else { Next::At(due_ns) }
            }
            Pace::Flood { until: FloodEnd::Events(events) } if self.issued >= events => Next::Over,
            Pace::Flood { until: FloodEnd::After(time) } if u128::from(now_ns) >= time.as_nanos() => {
                Next::Over
            }
            Pace::Flood { .. } => Next::Due(now_ns),
        }
    }

    /// Moves on to the next publish.
    pub(crate) fn issue(&mut self) {
        self.issued += 1;
        if let (Some((arrival_ns, random)), Pace::Rate { per_second, .. }) = (&mut self.arrival, self.pace) {
            // Independent clients leave exponential gaps.
            *arrival_ns -= (1.0 - random.f64()).ln() * 1e9 / per_second;
        }
    }

    pub(crate) fn issued(&self) -> u64 {
        self.issued
    }

    /// Counts the publishes that were to be made and were not.
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
        let mut schedule = Schedule::new(Pace::Rate { per_second: 1_000.0, events: 3, poisson: false });
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
        let mut schedule = Schedule::new(Pace::Rate { per_second: 3.0, events: 4_000_000, poisson: false });
        for _ in 0..3_000_000 {
            schedule.issue();
        }
        assert_eq!(schedule.next(u64::MAX), Next::Due(1_000_000_000_000_000));
    }

    #[test]
    fn random_arrivals_keep_the_rate_and_are_the_same_in_every_run() {
        let all = || {
            let mut schedule = Schedule::new(Pace::Rate { per_second: 200.0, events: 10_000, poisson: true });
            let due = std::iter::from_fn(|| match schedule.next(u64::MAX) {
                Next::Due(due_ns) => {
                    schedule.issue();
                    Some(due_ns)
                }
                _ => None,
            });
            due.collect::<Vec<_>>()
        };
        let due = all();
        assert_eq!((due.len(), &due), (10_000, &all()));
        let gaps: Vec<_> = due.windows(2).map(|pair| (pair[1] - pair[0]) as f64 / 5e6).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let longer = gaps.iter().filter(|gap| **gap > 1.0).count() as f64 / gaps.len() as f64;
        // Of exponential gaps 1/e, 0.37, are longer than their mean.
        assert!((0.97..1.03).contains(&mean) && (0.35..0.39).contains(&longer), "{mean} {longer}");
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
