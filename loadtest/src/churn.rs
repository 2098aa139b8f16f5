//! Subscribers that come and go: whose turn it is, and what each must get, which is every event that is due while it is
//! there. No clock: times come in.
//!
//! Holes between the events that came say less: a stay whose first events are missing has none, nor has one that got
//! nothing at all.

use crate::plan::{Pace, Plan};
use crate::schedule::due_ns;
use std::time::Duration;

/// Goes round its members at an even rate.
#[derive(Debug)]
pub(crate) struct Churn {
    members: Vec<usize>,
    interval_ns: f64,
    begun_ns: Option<u64>,
    taken: u64,
}

/// Whose turn it is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Turn {
    /// This member leaves and comes again.
    Now(usize),
    /// Nobody's turn before then.
    In(Duration),
    Never,
}

impl Churn {
    /// Gives these members so many turns a second in all.
    pub(crate) fn new(members: Vec<usize>, per_second: f64) -> Churn {
        Churn { members, interval_ns: 1e9 / per_second, begun_ns: None, taken: 0 }
    }

    /// Takes the turn that is due, if one is. The first is due one interval after the first call.
    pub(crate) fn turn(&mut self, now_ns: u64) -> Turn {
        if self.members.is_empty() {
            return Turn::Never;
        }
        let begun_ns = *self.begun_ns.get_or_insert(now_ns);
        let due_ns = begun_ns + ((self.taken + 1) as f64 * self.interval_ns) as u64;
        if due_ns > now_ns {
            return Turn::In(Duration::from_nanos(due_ns - now_ns));
        }
        let member = self.members.get((self.taken % self.members.len() as u64) as usize).copied();
        self.taken += 1;
        member.map_or(Turn::Never, Turn::Now)
    }
}

/// An event that was due so shortly before a subscriber left may have been on its way still.
pub(crate) const ON_ITS_WAY_NS: u64 = 1_000_000_000;

/// Events of one topic at a steady rate, by when they are due.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Course {
    per_second: f64,
    /// Of all topics together.
    events: u64,
    topics: u64,
    start_ns: u64,
}

impl Course {
    /// Returns that of a plan whose first event was due at `start_ns`. `None` where only the publisher knows when which
    /// topic has an event: in a flood, and with topics at random.
    pub(crate) fn of(plan: &Plan, start_ns: u64) -> Option<Course> {
        match plan.pace {
            Pace::Rate { per_second, events, .. } if !plan.flags.random_topics => {
                Some(Course { per_second, events, topics: plan.topics.len() as u64, start_ns })
            }
            _ => None,
        }
    }

    /// Counts the events of a topic that are due from `from_ns` to `to_ns`, both included.
    fn due(&self, topic: u32, from_ns: u64, to_ns: u64) -> u64 {
        let Some(to_ns) = to_ns.checked_sub(self.start_ns) else { return 0 };
        let from_ns = from_ns.saturating_sub(self.start_ns);
        // Begins one number too early rather than too late, for the division rounds; `due_ns` is compared below.
        let first = ((from_ns as f64 * self.per_second / 1e9) as u64).saturating_sub(1);
        (first..self.events)
            .map(|number| (number, due_ns(number, self.per_second)))
            .take_while(|(_, due_ns)| *due_ns <= to_ns)
            .filter(|(number, due_ns)| number % self.topics == u64::from(topic) && *due_ns >= from_ns)
            .count() as u64
    }
}

/// Events that did not come to a stay, of so many that had to.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Missed {
    pub(crate) events: u64,
    pub(crate) of: u64,
}

/// A subscriber's time with the server.
#[derive(Debug)]
pub(crate) struct Stay {
    /// When its 200 was read.
    since_ns: u64,
    /// When each event that came was due, each event once.
    came: Vec<u64>,
}

impl Stay {
    pub(crate) fn new(since_ns: u64) -> Stay {
        Stay { since_ns, came: Vec::new() }
    }

    /// Notes an event that had not come before.
    pub(crate) fn came(&mut self, due_ns: u64) {
        self.came.push(due_ns);
    }

    /// Returns what did not come until it left, or was made to.
    pub(crate) fn missed(&self, course: &Course, topic: u32, left_ns: u64) -> Missed {
        let until_ns = left_ns.saturating_sub(ON_ITS_WAY_NS);
        let of = course.due(topic, self.since_ns, until_ns);
        let came =
            self.came.iter().filter(|due_ns| (self.since_ns..=until_ns).contains(due_ns)).count() as u64;
        Missed { events: of.saturating_sub(came), of }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MS: u64 = 1_000_000;
    const START_NS: u64 = 500 * MS;

    /// An event each 100 ms for 10 s, in turn to two topics.
    const COURSE: Course = Course { per_second: 10.0, events: 100, topics: 2, start_ns: START_NS };

    /// From 1,050 to 3,450 ms after the first event, to topic 0: 1,200, 1,400 ... and 2,400 are told, for what was due in
    /// the last second may have been on its way.
    fn missed(due_ms: &[u64]) -> Missed {
        let mut stay = Stay::new(START_NS + 1_050 * MS);
        due_ms.iter().for_each(|ms| stay.came(START_NS + ms * MS));
        stay.missed(&COURSE, 0, START_NS + 3_450 * MS)
    }

    #[test]
    fn a_stay_that_got_nothing_missed_all_that_was_due() {
        assert_eq!(missed(&[]), Missed { events: 7, of: 7 });
    }

    #[test]
    fn what_is_missing_at_either_end_of_a_stay_is_missed() {
        assert_eq!(missed(&[1_200, 1_400, 1_600, 1_800, 2_000, 2_200, 2_400]).events, 0);
        assert_eq!(missed(&[1_400, 1_600, 1_800, 2_000, 2_200, 2_400]).events, 1, "the first");
        assert_eq!(missed(&[1_200, 1_400, 1_600, 1_800, 2_000, 2_200]).events, 1, "the last");
    }

    #[test]
    fn what_was_due_before_the_200_or_came_late_makes_up_for_nothing() {
        assert_eq!(missed(&[800, 1_000, 2_600, 2_800, 3_000]).events, 7);
    }

    #[test]
    fn a_short_stay_and_one_after_the_end_have_nothing_due() {
        let stay = Stay::new(START_NS);
        assert_eq!(stay.missed(&COURSE, 0, START_NS + 999 * MS), Missed::default());
        let late = Stay::new(START_NS + 10_000 * MS);
        assert_eq!(late.missed(&COURSE, 0, START_NS + 20_000 * MS), Missed::default());
    }

    #[test]
    fn members_take_turns_at_an_even_rate() {
        let mut churn = Churn::new(vec![4, 7], 1_000.0);
        assert_eq!(churn.turn(5_000_000), Turn::In(Duration::from_millis(1)));
        assert_eq!(churn.turn(6_000_000), Turn::Now(4));
        assert_eq!(churn.turn(6_400_000), Turn::In(Duration::from_micros(600)));
        // Late by a turn: both are taken.
        assert_eq!((churn.turn(8_000_000), churn.turn(8_000_000)), (Turn::Now(7), Turn::Now(4)));
        assert_eq!(churn.turn(8_000_000), Turn::In(Duration::from_millis(1)));
    }

    #[test]
    fn without_members_there_is_no_turn() {
        assert_eq!(Churn::new(vec![], 0.0).turn(1 << 40), Turn::Never);
    }

    proptest! {
        #[test]
        fn due_is_what_the_schedule_makes_due(
            per_second in 0.5..5_000.0f64, from in 0..3_000 * MS, length in 0..2_000 * MS,
        ) {
            let course = Course { per_second, events: 2_000, topics: 3, start_ns: START_NS };
            let naive = (0..2_000).filter(|number| number % 3 == 1).map(|number| START_NS + due_ns(number, per_second));
            let expected = naive.filter(|due_ns| (from..=from + length).contains(due_ns)).count() as u64;
            prop_assert_eq!(course.due(1, from, from + length), expected);
        }
    }
}
