//! The ids that esper gives: `<unix-ms>-<n>`.
//!
//! The first part is when this run began, the second the event's place in its home shard's sequence. A first
//! part that is fixed for the run tells ids of this run from those of an earlier one, or of another instance
//! behind the same balancer, exactly; a part that moved with the clock could only guess.
//!
//! A stream over several homes is at a place in the sequence of each. Its ids are positions that name them all,
//! `<unix-ms>-<home>.<n>-<home>.<n>`, so that one `Last-Event-ID` resumes it everywhere.

use std::time::{SystemTime, UNIX_EPOCH};

/// An event's place among all that its home shard ordered, from 1.
pub(crate) type Sequence = u64;

/// When this run began, in Unix milliseconds.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Epoch(u64);

impl Epoch {
    pub(crate) fn now() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Epoch(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }

    #[cfg(test)]
    pub(crate) fn at(ms: u64) -> Self {
        Epoch(ms)
    }

    /// Appends `<unix-ms>-<n>`.
    pub(crate) fn write(self, sequence: Sequence, out: &mut Vec<u8>) {
        out.extend_from_slice(itoa::Buffer::new().format(self.0).as_bytes());
        out.push(b'-');
        out.extend_from_slice(itoa::Buffer::new().format(sequence).as_bytes());
    }

    /// Appends the line of an event that says its id.
    pub(crate) fn write_line(self, sequence: Sequence, out: &mut Vec<u8>) {
        out.extend_from_slice(b"id:");
        self.write(sequence, out);
        out.push(b'\n');
    }

    /// How long that text is.
    pub(crate) fn text_bytes(self, sequence: Sequence) -> usize {
        let digits = |n: u64| n.checked_ilog10().unwrap_or(0) as usize + 1;
        digits(self.0) + 1 + digits(sequence)
    }

    /// `<unix-ms>-<n>` as text.
    pub(crate) fn text(self, sequence: Sequence) -> String {
        format!("{}-{sequence}", self.0)
    }

    /// Appends the position that is at `places`, each a home and a place there.
    pub(crate) fn write_position(self, places: impl Iterator<Item = (u16, Sequence)>, out: &mut Vec<u8>) {
        out.extend_from_slice(itoa::Buffer::new().format(self.0).as_bytes());
        for (home, sequence) in places {
            out.push(b'-');
            out.extend_from_slice(itoa::Buffer::new().format(home).as_bytes());
            out.push(b'.');
            out.extend_from_slice(itoa::Buffer::new().format(sequence).as_bytes());
        }
    }

    /// The place that a position of this run names at `home`; nothing for any other text.
    pub(crate) fn place_at(self, position: &str, home: u16) -> Option<Sequence> {
        let mut parts = position.split('-');
        number(parts.next()?).filter(|ms| *ms == self.0)?;
        let mut found = None;
        for part in parts {
            let (at, sequence) = part.split_once('.')?;
            let (at, sequence) = (number(at)?, number(sequence)?);
            if at == u64::from(home) {
                found = Some(sequence);
            }
        }
        found
    }

    /// The place an id of this run names; nothing for any other text, however alike.
    pub(crate) fn sequence(self, id: &str) -> Option<Sequence> {
        let (ms, n) = id.split_once('-')?;
        let sequence = n.parse().ok()?;
        // Comparing with the canonical form refuses `+5`, `007` and another run's milliseconds at once.
        (ms.parse() == Ok(self.0) && self.text(sequence) == id).then_some(sequence)
    }
}

/// A number as it is written here: without a sign or leading zeros.
fn number(text: &str) -> Option<u64> {
    let canonical = text == "0" || text.starts_with(|first: char| ('1'..='9').contains(&first));
    text.parse().ok().filter(|_| canonical)
}

/// Names an event in the answer to its publisher.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum EventId {
    /// The publisher's own.
    Own(Box<str>),
    /// Ours, by its place.
    Sequence(Sequence),
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn a_position_names_a_place_at_each_home_and_nothing_else_does() {
        let epoch = Epoch::at(7);
        let mut id = Vec::new();
        epoch.write_position([(0, 5), (12, 0)].into_iter(), &mut id);
        assert_eq!(id, b"7-0.5-12.0");
        let place = |text, home| epoch.place_at(text, home);
        assert_eq!((place("7-0.5-12.0", 0), place("7-0.5-12.0", 12)), (Some(5), Some(0)));
        assert_eq!(place("7-0.5-12.0", 1), None);
        for other in ["8-0.5", "7-5", "7-0.05", "7-+0.5", "7-0.5-", "7-0.5-x", "07-0.5", "7", "", "-0.5"] {
            assert_eq!(place(other, 0), None, "{other}");
        }
    }
}
