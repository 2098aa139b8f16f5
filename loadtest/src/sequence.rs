//! Tells lost, doubled and reordered events of one ordered series from the numbers that arrived.

/// Holes remembered for one series. Past it the oldest is forgotten: a late arrival there counts as doubled.
const HOLES_MAX: usize = 1_024;

/// The order in which a number arrived in its series.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Arrival {
    /// Later than all before it. Numbers left out are remembered as holes.
    InOrder,
    /// It fills a hole: it came after a later one.
    Reordered,
    /// It was here before.
    Doubled,
}

/// A subscriber's view of one topic and publisher. Two words while all goes well.
#[derive(Debug, Default)]
pub(crate) struct Series {
    next: u64,
    /// Boxed, for in a good run there are none and a run has many thousand series.
    #[expect(
        clippy::box_collection,
        reason = "8 bytes instead of 24 for each of some hundred thousand series"
    )]
    holes: Option<Box<Vec<Hole>>>,
}

/// Numbers from `start` to before `end` that have not come.
#[derive(Clone, Copy, Debug)]
struct Hole {
    start: u64,
    end: u64,
}

impl Series {
    /// Takes the next number that arrived.
    pub(crate) fn arrive(&mut self, number: u64) -> Arrival {
        if number >= self.next {
            if number > self.next {
                let holes = self.holes.get_or_insert_default();
                holes.push(Hole { start: self.next, end: number });
                forget_oldest(holes);
            }
            self.next = number + 1;
            return Arrival::InOrder;
        }
        if self.fill(number) { Arrival::Reordered } else { Arrival::Doubled }
    }

    /// Counts the numbers that have not come between the first and the last that came.
    pub(crate) fn missing_since_first(&self) -> u64 {
        // What came before a subscriber was there leaves a hole that starts at 0.
        let holes = self.holes.iter().flat_map(|holes| holes.iter()).filter(|hole| hole.start > 0);
        holes.map(|hole| hole.end - hole.start).sum()
    }

    fn fill(&mut self, number: u64) -> bool {
        let Some(holes) = &mut self.holes else { return false };
        let at = holes.partition_point(|hole| hole.end <= number);
        let Some(hole) = holes.get_mut(at).filter(|hole| hole.start <= number) else { return false };
        let before = Hole { start: hole.start, end: number };
        let after = Hole { start: number + 1, end: hole.end };
        let left = [before, after].into_iter().filter(|hole| hole.start < hole.end);
        holes.splice(at..=at, left);
        forget_oldest(holes);
        true
    }
}

fn forget_oldest(holes: &mut Vec<Hole>) {
    if holes.len() > HOLES_MAX {
        holes.remove(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    #[test]
    fn a_late_number_is_reordered_once_and_then_doubled() {
        let mut series = Series::default();
        let seen: Vec<_> = [0, 1, 4, 3, 3, 2, 1, 5].into_iter().map(|n| series.arrive(n)).collect();
        use Arrival::*;
        assert_eq!(seen, [InOrder, InOrder, InOrder, Reordered, Doubled, Reordered, Doubled, InOrder]);
    }

    #[test]
    fn what_came_before_the_first_is_not_missing() {
        let missing = |numbers: &[u64]| {
            let mut series = Series::default();
            for number in numbers {
                series.arrive(*number);
            }
            series.missing_since_first()
        };
        assert_eq!((missing(&[100, 101, 104, 103]), missing(&[0, 3])), (1, 2));
    }

    #[test]
    fn holes_are_bounded() {
        let mut series = Series::default();
        for number in 0..5_000 {
            series.arrive(number * 2 + 1);
        }
        assert_eq!(series.holes.as_ref().unwrap().len(), HOLES_MAX);
        assert_eq!(series.arrive(9_998), Arrival::Reordered);
        assert_eq!(series.arrive(0), Arrival::Doubled);
    }

    proptest! {
        #[test]
        fn any_arrivals_are_told_as_a_set_tells_them(numbers in prop::collection::vec(0..60u64, 0..200)) {
            let mut series = Series::default();
            let mut seen = HashSet::new();
            let mut highest = None;
            for number in numbers {
                let expected = match (seen.insert(number), highest) {
                    (false, _) => Arrival::Doubled,
                    (true, Some(highest)) if number < highest => Arrival::Reordered,
                    (true, _) => Arrival::InOrder,
                };
                highest = highest.max(Some(number));
                prop_assert_eq!(series.arrive(number), expected);
            }
        }
    }
}
