//! What one event carries: padding, then a stamp of fixed width which ends in a byte found nowhere else.
//!
//! ```text
//! xxxxxxxxxxxxxxxx0000c00300000007b0001cbe991a14~
//!                 topicpubsequence due, ns
//! ```
//! The numbers are hexadecimal, so that a whole stamp fits an event of 32 bytes. The mark stands last, so an event that was
//! cut short is not counted by its mark.

/// Ends every payload. No other part of an event holds it, so counting this byte counts events.
pub(crate) const MARK: u8 = b'~';
/// Length of a stamp with its mark, and so the least size of a payload.
pub(crate) const STAMP_BYTES: usize = TOPIC_DIGITS + PUBLISHER_DIGITS + SEQUENCE_DIGITS + DUE_DIGITS + 1;
pub(crate) const TOPICS_MAX: usize = 1 << (4 * TOPIC_DIGITS);
/// The digits hold more.
pub(crate) const PUBLISHERS_MAX: usize = 1_000;
pub(crate) const EVENTS_MAX: u64 = 1 << (4 * SEQUENCE_DIGITS);

const TOPIC_DIGITS: usize = 5;
const PUBLISHER_DIGITS: usize = 3;
const SEQUENCE_DIGITS: usize = 9;
/// 13 digits of nanoseconds are 52 days.
const DUE_DIGITS: usize = 13;
const _: () = assert!(STAMP_BYTES <= 32, "events of 32 bytes are measured");
const FILLER: u8 = b'x';

/// Says which event this is and when it was due.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Stamp {
    pub(crate) topic: u32,
    /// Index of the publishing connection: order is promised for each one's events alone.
    pub(crate) publisher: u16,
    /// Counts from 0 for each topic and publisher.
    pub(crate) sequence: u64,
    /// Nanoseconds since the start of the run at which the publish was due.
    pub(crate) due_ns: u64,
}

impl Stamp {
    /// Writes the stamp and its mark.
    pub(crate) fn write(&self, out: &mut [u8; STAMP_BYTES]) {
        let (topic, rest) = out.split_at_mut(TOPIC_DIGITS);
        let (publisher, rest) = rest.split_at_mut(PUBLISHER_DIGITS);
        let (sequence, rest) = rest.split_at_mut(SEQUENCE_DIGITS);
        let (due, mark) = rest.split_at_mut(DUE_DIGITS);
        write_digits(topic, u64::from(self.topic));
        write_digits(publisher, u64::from(self.publisher));
        write_digits(sequence, self.sequence);
        write_digits(due, self.due_ns);
        mark.fill(MARK);
    }

    /// Reads a stamp with its mark; `None` when these are not exactly its bytes.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Stamp> {
        let bytes: &[u8; STAMP_BYTES] = bytes.try_into().ok()?;
        let (topic, rest) = bytes.split_at(TOPIC_DIGITS);
        let (publisher, rest) = rest.split_at(PUBLISHER_DIGITS);
        let (sequence, rest) = rest.split_at(SEQUENCE_DIGITS);
        let (due, mark) = rest.split_at(DUE_DIGITS);
        if mark != [MARK] {
            return None;
        }
        let (topic, publisher) = (digits(topic)? as u32, digits(publisher)? as u16);
        Some(Stamp { topic, publisher, sequence: digits(sequence)?, due_ns: digits(due)? })
    }

    /// Returns the stamp whose mark is the last of `bytes`.
    pub(crate) fn ending(bytes: &[u8]) -> Option<Stamp> {
        Stamp::parse(bytes.get(bytes.len().checked_sub(STAMP_BYTES)?..)?)
    }
}

/// The data of every event of a run: so many bytes, padding first.
#[derive(Clone, Debug)]
pub(crate) struct Payload {
    padding: Vec<u8>,
}

impl Payload {
    /// Makes a payload of `size` bytes, at least [`STAMP_BYTES`].
    pub(crate) fn new(size: usize) -> Payload {
        Payload { padding: vec![FILLER; size.saturating_sub(STAMP_BYTES)] }
    }

    pub(crate) fn size(&self) -> usize {
        self.padding.len() + STAMP_BYTES
    }

    /// Returns the payload with an empty stamp, to be written over.
    pub(crate) fn blank(&self) -> Vec<u8> {
        let mut data = self.padding.clone();
        data.resize(self.size(), b'0');
        data
    }

    /// Returns the data of one event.
    #[cfg(any(test, feature = "queues", feature = "cluster"))]
    pub(crate) fn stamped(&self, stamp: &Stamp) -> Vec<u8> {
        let mut digits = [0; STAMP_BYTES];
        stamp.write(&mut digits);
        [&self.padding[..], &digits].concat()
    }

    /// Returns the stamp of data that arrived exactly as it was sent, otherwise `None`.
    pub(crate) fn check(&self, data: &[u8]) -> Option<Stamp> {
        let (padding, stamp) = data.split_at_checked(self.padding.len())?;
        if padding != self.padding { None } else { Stamp::parse(stamp) }
    }
}

fn write_digits(out: &mut [u8], mut value: u64) {
    for digit in out.iter_mut().rev() {
        *digit = match (value % 16) as u8 {
            low @ 0..=9 => b'0' + low,
            high => b'a' - 10 + high,
        };
        value /= 16;
    }
}

fn digits(bytes: &[u8]) -> Option<u64> {
    let mut value = 0;
    for byte in bytes {
        let digit = match byte {
            b'0'..=b'9' => byte - b'0',
            b'a'..=b'f' => byte - b'a' + 10,
            _ => return None,
        };
        value = value * 16 + u64::from(digit);
    }
    Some(value)
}

/// Cuts a stream into pieces, for tests that any split is read alike.
#[cfg(test)]
pub(crate) fn split_at<'a>(mut stream: &'a [u8], cuts: &[usize]) -> Vec<&'a [u8]> {
    let mut pieces = Vec::new();
    for cut in cuts {
        let (piece, rest) = stream.split_at((*cut).min(stream.len()));
        pieces.push(piece);
        stream = rest;
    }
    pieces.push(stream);
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_stamp_has_the_documented_form() {
        let mut out = [0; STAMP_BYTES];
        Stamp { topic: 12, publisher: 3, sequence: 123, due_ns: 123_456_789_012 }.write(&mut out);
        assert_eq!(std::str::from_utf8(&out).unwrap(), "0000c00300000007b0001cbe991a14~");
    }

    #[test]
    fn a_payload_with_any_changed_byte_is_not_ours() {
        let payload = Payload::new(64);
        let data = payload.stamped(&Stamp { topic: 1, publisher: 2, sequence: 3, due_ns: 4 });
        assert!(payload.check(&data).is_some());
        for at in 0..data.len() {
            let mut changed = data.clone();
            changed[at] = b'!';
            assert_eq!(payload.check(&changed), None, "byte {at}");
        }
        assert_eq!(payload.check(&data[1..]), None);
        assert_eq!(payload.check(&[&data[..], b"~"].concat()), None);
        assert_eq!(payload.check(b""), None);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            topic in 0..TOPICS_MAX as u32,
            publisher in 0..PUBLISHERS_MAX as u16,
            sequence in 0..EVENTS_MAX,
            due_ns in 0..1u64 << 52,
        ) {
            let stamp = Stamp { topic, publisher, sequence, due_ns };
            let mut out = [0; STAMP_BYTES];
            stamp.write(&mut out);
            prop_assert_eq!(Stamp::parse(&out), Some(stamp));
            prop_assert_eq!(Stamp::ending(&[b"data:xx", &out[..]].concat()), Some(stamp));
        }
    }
}
