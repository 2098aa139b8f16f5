//! What one event carries: padding, then a stamp of fixed width which ends in a byte found nowhere else.
//!
//! ```text
//! xxxxxxxxxxxxxxxxxx000012.003.0000000123.000123456789012~
//!                   topic  pub sequence   due, ns
//! ```
//! The mark stands last, so an event that was cut short is not counted by its mark.

/// Ends every payload. No other part of an event holds it, so counting this byte counts events.
pub(crate) const MARK: u8 = b'~';
/// Length of a stamp with its mark, and so the least size of a payload.
pub(crate) const STAMP_BYTES: usize = 6 + 1 + 3 + 1 + 10 + 1 + 15 + 1;
/// What the six digits of a topic hold.
pub(crate) const TOPICS_MAX: usize = 1_000_000;
/// What the three digits of a publisher hold.
pub(crate) const PUBLISHERS_MAX: usize = 1_000;
/// What the ten digits of a sequence number hold.
pub(crate) const EVENTS_MAX: u64 = 10_000_000_000;

const FILLER: u8 = b'x';

/// Says which event this is and when it was due.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Stamp {
    /// Index of the topic.
    pub(crate) topic: u32,
    /// Index of the publishing connection: order is promised for each one's events alone.
    pub(crate) publisher: u16,
    /// Counts from 0 for each topic and publisher.
    pub(crate) sequence: u64,
    /// Nanoseconds since the start of the program at which the publish was due.
    pub(crate) due_ns: u64,
}

impl Stamp {
    /// Writes the stamp and its mark.
    pub(crate) fn write(&self, out: &mut [u8; STAMP_BYTES]) {
        out.fill(b'.');
        let (topic, rest) = out.split_at_mut(6);
        let (publisher, rest) = rest.split_at_mut(4);
        let (sequence, rest) = rest.split_at_mut(11);
        write_digits(topic, u64::from(self.topic));
        write_digits(publisher.split_at_mut(1).1, u64::from(self.publisher));
        write_digits(sequence.split_at_mut(1).1, self.sequence);
        let (due, mark) = rest.split_at_mut(16);
        write_digits(due.split_at_mut(1).1, self.due_ns);
        mark.fill(MARK);
    }

    /// Reads a stamp with its mark; `None` when these are not exactly its bytes.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Stamp> {
        let bytes: &[u8; STAMP_BYTES] = bytes.try_into().ok()?;
        if bytes[6] != b'.' || bytes[10] != b'.' || bytes[21] != b'.' || bytes[37] != MARK {
            return None;
        }
        Some(Stamp {
            topic: u32::try_from(digits(&bytes[..6])?).ok()?,
            publisher: u16::try_from(digits(&bytes[7..10])?).ok()?,
            sequence: digits(&bytes[11..21])?,
            due_ns: digits(&bytes[22..37])?,
        })
    }

    /// The stamp whose mark is the last of `bytes`.
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
    /// A payload of `size` bytes, at least [`STAMP_BYTES`].
    pub(crate) fn new(size: usize) -> Payload {
        Payload { padding: vec![FILLER; size.saturating_sub(STAMP_BYTES)] }
    }

    /// Bytes of data in each event.
    pub(crate) fn size(&self) -> usize {
        self.padding.len() + STAMP_BYTES
    }

    /// The payload with an empty stamp, to be written over.
    pub(crate) fn blank(&self) -> Vec<u8> {
        let mut data = self.padding.clone();
        data.resize(self.size(), b'0');
        data
    }

    /// The stamp of data that arrived exactly as it was sent, otherwise `None`.
    pub(crate) fn check(&self, data: &[u8]) -> Option<Stamp> {
        let (padding, stamp) = data.split_at_checked(self.padding.len())?;
        if padding != self.padding { None } else { Stamp::parse(stamp) }
    }
}

fn write_digits(out: &mut [u8], mut value: u64) {
    for digit in out.iter_mut().rev() {
        *digit = b'0' + (value % 10) as u8;
        value /= 10;
    }
}

fn digits(bytes: &[u8]) -> Option<u64> {
    let mut value = 0;
    for byte in bytes {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        value = value * 10 + u64::from(digit);
    }
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_stamp_has_the_documented_form() {
        let mut out = [0; STAMP_BYTES];
        Stamp { topic: 12, publisher: 3, sequence: 123, due_ns: 123_456_789_012 }.write(&mut out);
        assert_eq!(std::str::from_utf8(&out).unwrap(), "000012.003.0000000123.000123456789012~");
    }

    #[test]
    fn a_payload_with_any_changed_byte_is_not_ours() {
        let payload = Payload::new(64);
        let mut data = payload.blank();
        let mut stamp = [0; STAMP_BYTES];
        Stamp { topic: 1, publisher: 2, sequence: 3, due_ns: 4 }.write(&mut stamp);
        data[64 - STAMP_BYTES..].copy_from_slice(&stamp);
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
            due_ns in 0..1_000_000_000_000_000u64,
        ) {
            let stamp = Stamp { topic, publisher, sequence, due_ns };
            let mut out = [0; STAMP_BYTES];
            stamp.write(&mut out);
            prop_assert_eq!(Stamp::parse(&out), Some(stamp));
            prop_assert_eq!(Stamp::ending(&[b"data:xx", &out[..]].concat()), Some(stamp));
        }
    }
}
