//! The ids that esper gives to events: `<run>-<n>`.
//!
//! `run` is a random number that is drawn when a run begins, and `n` the event's place in the sequence of its partition.
//! `run` tells ids of this run from those of an earlier one, or of another instance behind the same balancer. The time would
//! not: some machines' clocks start anew at each boot.
//!
//! A stream over several partitions is at a place in the sequence of each. Its ids are positions that name them,
//! `<run>-<partition>.<n>-<partition>.<n>`, so that one `Last-Event-ID` resumes it everywhere. Partitions and places are
//! written in base 36 there. A partition whose place is 0, because nothing had been ordered there, is not named.
//!
//! No publisher may give an event an id of this form, of whatever run. Such an id would be taken for a place, and a
//! stream that resumes there would skip what others published.

use crate::core::partition::PartitionId;
use crate::core::random::random_u64;

/// An event's place among all that its partition ordered, from 1.
pub(crate) type Sequence = u64;

/// Stands between a position and the topic of its event, on streams that name topics; no topic has it.
pub(crate) const TOPIC_SEPARATOR: u8 = b'@';
/// Stands between a position and the code of the ticket that opened the stream.
pub(crate) const CODE_SEPARATOR: u8 = b'~';

/// The least `run` of an id. It has 20 digits, more than any time and any signed 64-bit number, so that publishers' ids of the
/// form `<number>-<number>`, such as those of Redis streams, are not taken for the broker's.
pub(crate) const RUN_MIN: u64 = 10_000_000_000_000_000_000;

/// The `run` of ids: one of 8.4 * 10^18 numbers of 20 digits, which is 62.9 random bits.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Epoch(u64);

impl Epoch {
    /// Draws the number of a new run.
    pub(crate) fn new() -> Self {
        Epoch(RUN_MIN + random_u64() % (u64::MAX - RUN_MIN))
    }

    /// Returns the epoch with this number.
    pub(crate) const fn at(run: u64) -> Self {
        Epoch(run)
    }

    /// Returns the epoch's number.
    pub(crate) fn run(self) -> u64 {
        self.0
    }

    /// Appends `<run>-<n>`.
    pub(crate) fn write(self, sequence: Sequence, out: &mut Vec<u8>) {
        out.extend_from_slice(itoa::Buffer::new().format(self.0).as_bytes());
        out.push(b'-');
        out.extend_from_slice(itoa::Buffer::new().format(sequence).as_bytes());
    }

    /// Appends an event's `id:` line.
    pub(crate) fn write_line(self, sequence: Sequence, out: &mut Vec<u8>) {
        out.extend_from_slice(b"id:");
        self.write(sequence, out);
        out.push(b'\n');
    }

    /// Returns the length of `<run>-<n>` in bytes.
    pub(crate) fn text_bytes(self, sequence: Sequence) -> usize {
        let digits = |n: u64| n.checked_ilog10().unwrap_or(0) as usize + 1;
        digits(self.0) + 1 + digits(sequence)
    }

    /// Returns `<run>-<n>`.
    pub(crate) fn text(self, sequence: Sequence) -> String {
        format!("{}-{sequence}", self.0)
    }

    /// Appends the position that names these places, leaving out those that are 0.
    pub(crate) fn write_position(
        self,
        places: impl Iterator<Item = (PartitionId, Sequence)>,
        out: &mut Vec<u8>,
    ) {
        out.extend_from_slice(itoa::Buffer::new().format(self.0).as_bytes());
        let named_from = out.len();
        for (partition, sequence) in places.filter(|(_, sequence)| *sequence > 0) {
            out.push(b'-');
            write_base36(partition.into(), out);
            out.push(b'.');
            write_base36(sequence, out);
        }
        if out.len() == named_from {
            // Without a place it would not parse as a position again.
            out.extend_from_slice(b"-0.0");
        }
    }

    /// Returns the place that an id of this run names; `None` for any other text, however similar.
    pub(crate) fn sequence(self, id: &str) -> Option<Sequence> {
        Id::parse(id).filter(|id| id.epoch == self).map(|id| id.sequence)
    }
}

/// An id of an event: a place in the sequence of its partition.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Id {
    pub(crate) epoch: Epoch,
    pub(crate) sequence: Sequence,
}

impl Id {
    /// Parses `<run>-<n>` as it is written, of whatever run.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (run, n) = text.split_once('-')?;
        Some(Id { epoch: Epoch(number(run)?), sequence: number(n)? })
    }
}

/// The place that a position names in one partition.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Position {
    pub(crate) epoch: Epoch,
    /// 0 where the position does not name the partition.
    pub(crate) sequence: Sequence,
}

impl Position {
    /// Parses `<run>-<partition>.<n>-<partition>.<n>` as it is written, of whatever run; returns what it says of `partition`.
    pub(crate) fn parse(text: &str, partition: PartitionId) -> Option<Self> {
        let (run, places) = text.split_once('-')?;
        let mut position = Position { epoch: Epoch(number(run)?), sequence: 0 };
        for place in places.split('-') {
            let (of, sequence) = position_place(place)?;
            if of == u64::from(partition) {
                position.sequence = sequence;
            }
        }
        Some(position)
    }
}

/// Returns an id of the broker's own form without the code and the topic that may follow it, and any other id as it is.
pub(crate) fn without_suffix(id: &str) -> &str {
    let place = place_of(id);
    if has_our_form(place) { place } else { id }
}

/// Returns what stands before a code or a topic.
fn place_of(id: &str) -> &str {
    id.split([char::from(CODE_SEPARATOR), char::from(TOPIC_SEPARATOR)]).next().unwrap_or(id)
}

/// Returns the id of the same place in the form of a stream over this one partition, with positions for ids or without;
/// `None` for an id that has that form already, or that says more or less than a place in this partition.
pub(crate) fn in_form_of(partition: PartitionId, has_positions: bool, id: &str) -> Option<String> {
    if !has_our_form(id) {
        return None;
    }
    if has_positions {
        let Id { epoch, sequence } = Id::parse(id)?;
        let mut position = Vec::new();
        epoch.write_position([(partition, sequence)].into_iter(), &mut position);
        return String::from_utf8(position).ok();
    }
    let (_, places) = id.split_once('-')?;
    let (of, _) = position_place(places)?;
    let Position { epoch, sequence } = Position::parse(id, partition)?;
    (of == u64::from(partition)).then(|| epoch.text(sequence))
}

/// Returns whether an id has the form of the broker's own ids or positions, of this run or any other, with or without a
/// code and a topic.
pub(crate) fn has_our_form(id: &str) -> bool {
    let id = place_of(id);
    let Some((run, places)) = id.split_once('-') else { return false };
    number(run).is_some_and(|run| run >= RUN_MIN)
        && (number(places).is_some() || places.split('-').all(|place| position_place(place).is_some()))
}

/// Parses a number as esper writes it, without a sign or leading zeros.
fn number(text: &str) -> Option<u64> {
    let canonical = text == "0" || text.starts_with(|first: char| ('1'..='9').contains(&first));
    text.parse().ok().filter(|_| canonical)
}

/// Parses what a position names: a partition, and a place in its sequence.
fn position_place(text: &str) -> Option<(u64, Sequence)> {
    let (partition, sequence) = text.split_once('.')?;
    Some((base36(partition)?, base36(sequence)?))
}

/// Parses a number in base 36 as esper writes it, in lower case, without a sign or leading zeros.
fn base36(text: &str) -> Option<u64> {
    let canonical = text == "0" || !text.starts_with(['0', '+']);
    let is_lower = !text.bytes().any(|byte| byte.is_ascii_uppercase());
    u64::from_str_radix(text, 36).ok().filter(|_| canonical && is_lower)
}

/// Appends a number in base 36: 13 bytes at most.
fn write_base36(mut number: u64, out: &mut Vec<u8>) {
    let mut digits = [0; 13];
    let mut start = digits.len();
    loop {
        start -= 1;
        digits[start] = b"0123456789abcdefghijklmnopqrstuvwxyz"[(number % 36) as usize];
        number /= 36;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[start..]);
}

/// Names an event in the answer to its publisher.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum EventId {
    /// The id that the publisher gave it.
    Own(Box<str>),
    /// Its place, from which the broker's id follows.
    Sequence(Sequence),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::partition::PARTITIONS_MAX;

    #[test]
    fn runs_that_begin_in_the_same_moment_differ() {
        let mut runs: Vec<_> = (0..1000).map(|_| Epoch::new().0).collect();
        runs.sort_unstable();
        assert!(runs.windows(2).all(|two| two[0] != two[1]));
        // A bit that is not random would be the same in all of them.
        let (any, all) = runs.iter().fold((0, u64::MAX), |(any, all), run| (any | run, all & run));
        assert_eq!((any, all), (u64::MAX, 1 << 63));
        assert!(runs.iter().all(|run| has_our_form(&Epoch(*run).text(1))));
        assert!(runs.iter().all(|run| Epoch::at(*run).run() == *run));
    }

    #[test]
    fn the_brokers_form_is_that_of_any_run_and_nothing_else() {
        let (run, other) = (Epoch::new(), Epoch::at(u64::MAX));
        let mut position = Vec::new();
        run.write_position([(0, 5), (63, u64::MAX)].into_iter(), &mut position);
        let position = String::from_utf8(position).unwrap();
        for ours in [&run.text(0), &run.text(u64::MAX), &other.text(7), &position, "10000000000000000000-1.z"]
        {
            assert!(has_our_form(ours), "{ours}");
            for suffix in ["", "@pets/dogs", "~code", "~c-o_d@pets", "@~a", "~"] {
                let with_suffix = format!("{ours}{suffix}");
                assert!(has_our_form(&with_suffix), "{with_suffix}");
                assert_eq!(without_suffix(&with_suffix), ours);
            }
        }
        for own in [
            "1700000000000-5",
            "9223372036854775807-5",
            "9999999999999999999-5",
            "18446744073709551616-5",
            "010000000000000000000-5",
            "+10000000000000000000-5",
            "10000000000000000000",
            "10000000000000000000-",
            "10000000000000000000-05",
            "10000000000000000000-+5",
            "10000000000000000000-5-6",
            "10000000000000000000-5.",
            "10000000000000000000-5.6-",
            "10000000000000000000-5.6-7",
            "10000000000000000000-18446744073709551616",
            "10000000000000000000-5.3w5e11264sgsg",
            "10000000000000000000-5.Z",
            "10000000000000000000-5.0z",
            "10000000000000000000-5.+z",
            "-5",
            "",
        ] {
            assert!(!has_our_form(own), "{own}");
            for with_more in [format!("{own}@pets"), format!("{own}~code")] {
                assert_eq!(without_suffix(&with_more), with_more);
            }
        }
    }

    #[test]
    fn only_the_exact_text_of_this_run_names_a_place() {
        let epoch = Epoch::at(1_700_000_000_000);
        let mut id = Vec::new();
        epoch.write(42, &mut id);
        assert_eq!(id, b"1700000000000-42");
        assert_eq!(epoch.text_bytes(42), id.len());
        assert_eq!(epoch.sequence("1700000000000-42"), Some(42));
        for other in
            ["1700000000001-42", "1700000000000-042", "1700000000000-+42", "1700000000000--42", "42", "", "-"]
        {
            assert_eq!(epoch.sequence(other), None, "{other}");
        }
    }

    #[test]
    fn a_position_names_a_place_in_each_partition_where_something_was_ordered_and_nothing_else_does() {
        let epoch = Epoch::at(7);
        let mut id = Vec::new();
        epoch.write_position([(0, 5), (12, 0), (37, 36_000)].into_iter(), &mut id);
        assert_eq!(id, b"7-0.5-11.rs0");
        let place = |text, partition| {
            Position::parse(text, partition).filter(|position| position.epoch == epoch).map(|p| p.sequence)
        };
        assert_eq!(
            [0, 12, 37].map(|partition| place("7-0.5-11.rs0", partition)),
            [Some(5), Some(0), Some(36_000)]
        );
        id.clear();
        epoch.write_position([(3, 0)].into_iter(), &mut id);
        assert_eq!((id, place("7-0.0", 3)), (b"7-0.0".to_vec(), Some(0)));
        for other in
            ["8-0.5", "7-5", "7-0.05", "7-+0.5", "7-0.5-", "7-0.5-x", "07-0.5", "7-0.A", "7", "", "-0.5"]
        {
            assert_eq!(place(other, 0), None, "{other}");
        }
    }

    #[test]
    fn an_id_of_one_partition_has_two_forms() {
        const RUN: &str = "12345678901234567890";
        let in_form_of = |has_positions, id: &str| in_form_of(3, has_positions, &format!("{RUN}-{id}"));
        for (id, position) in [("5", "3.5"), ("36", "3.10")] {
            assert_eq!(in_form_of(true, id), Some(format!("{RUN}-{position}")));
            assert_eq!(in_form_of(false, position), Some(format!("{RUN}-{id}")));
            // As they are wanted, or of elsewhere.
            assert_eq!((in_form_of(false, id), in_form_of(true, position)), (None, None));
        }
        for other in ["4.5", "3.5-4.1", "0.0", "x"] {
            assert_eq!(in_form_of(false, other), None, "{other}");
        }
        assert_eq!(super::in_form_of(3, true, "9-5"), None, "a publisher's own");
    }

    #[test]
    fn the_longest_position_stays_below_two_kibibytes() {
        let mut id = Vec::new();
        Epoch::at(u64::MAX)
            .write_position((0..PARTITIONS_MAX).map(|partition| (partition, u64::MAX)), &mut id);
        assert!(id.len() < 2048, "{}", id.len());
        let place = |partition| Position::parse(str::from_utf8(&id).unwrap(), partition).unwrap();
        assert_eq!([place(0), place(PARTITIONS_MAX - 1)].map(|place| place.sequence), [u64::MAX; 2]);
    }
}
