//! The ids that esper gives: `<unix-ms>-<n>`.
//!
//! The first part is when this run began, the second the event's place in its home shard's sequence. A first
//! part that is fixed for the run tells ids of this run from those of an earlier one, or of another instance
//! behind the same balancer, exactly; a part that moved with the clock could only guess.

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

    /// How long that text is.
    pub(crate) fn text_bytes(self, sequence: Sequence) -> usize {
        let digits = |n: u64| n.checked_ilog10().unwrap_or(0) as usize + 1;
        digits(self.0) + 1 + digits(sequence)
    }

    /// `<unix-ms>-<n>` as text.
    pub(crate) fn text(self, sequence: Sequence) -> String {
        format!("{}-{sequence}", self.0)
    }

    /// The place an id of this run names; nothing for any other text, however alike.
    pub(crate) fn sequence(self, id: &str) -> Option<Sequence> {
        let (ms, n) = id.split_once('-')?;
        let sequence = n.parse().ok()?;
        // Comparing with the canonical form refuses `+5`, `007` and another run's milliseconds at once.
        (ms.parse() == Ok(self.0) && self.text(sequence) == id).then_some(sequence)
    }
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
}
