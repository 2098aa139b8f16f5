//! When which of the subscribers that come and go has its turn. No clock: `now` comes in.

use std::time::Duration;

/// Goes round its members at an even rate.
#[derive(Debug)]
pub(crate) struct Churn {
    members: Vec<usize>,
    interval_ns: f64,
    /// When the first turn was asked for.
    begun_ns: Option<u64>,
    taken: u64,
}

/// What to do now.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Turn {
    /// This member leaves and comes again.
    Now(usize),
    /// Nobody's turn before then.
    In(Duration),
    /// There are no members.
    Never,
}

impl Churn {
    /// Of these members, so many turns a second in all.
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

#[cfg(test)]
mod tests {
    use super::*;

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
}
