//! The ends of topics whose events are gone from the log.
//!
//! Each partition has a table of [`SLOTS`] entries, and a topic's slot is its hash modulo their number. An entry is the
//! last event that the log lost of a topic. Where two topics have one slot, the later event stays: so a loss is never
//! hidden, and a topic that shares its slot may be said to have lost more than it did. Memory and the bytes on disk are
//! bounded whatever topics there are.
//!
//! A topic with events in the log needs no entry: the record of its oldest names the event before it.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use super::encoding::{Malformed, Reader, put_bytes, put_varint};
use super::record::{optional, put_optional};
use crate::core::event_id::Sequence;
use crate::core::partition::end_hash;

/// Entries of one partition: 16 partitions of 2,048 are at most 5 MB on disk, if each has an own id of 128 bytes, and
/// mostly 0.4 MB.
const SLOTS: u64 = 2048;

/// The last lost event of a topic.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct EndEntry {
    pub(super) partition: u8,
    pub(super) hash: u64,
    pub(super) sequence: Sequence,
    pub(super) id: Option<Box<str>>,
}

impl EndEntry {
    /// The fewest bytes of an entry: partition, hash, sequence, and the mark of no id.
    pub(super) const BYTES_MIN: usize = 11;

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.push(self.partition);
        out.extend_from_slice(&self.hash.to_le_bytes());
        put_varint(out, self.sequence);
        put_optional(out, self.id.as_ref(), |out, id| put_bytes(out, id.as_bytes()));
    }

    pub(super) fn decode(reader: &mut Reader<'_>) -> Result<EndEntry, Malformed> {
        Ok(EndEntry {
            partition: reader.u8()?,
            hash: reader.u64()?,
            sequence: reader.varint()?,
            id: optional(reader, Reader::str)?.map(Box::from),
        })
    }

    fn slot(&self) -> (u8, u16) {
        (self.partition, slot_of(self.hash))
    }
}

/// The known losses of a topic without events in the log.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[cfg(test)]
pub(crate) struct KnownEnd<'a> {
    /// Events up to here may be lost; none after it.
    pub(crate) sequence: Sequence,
    /// The id that the publisher gave the event with this sequence.
    pub(crate) id: Option<&'a str>,
    /// Set when the event was the topic's; otherwise another topic of the same slot had it.
    pub(crate) is_exact: bool,
}

/// The entries of all partitions, owned by the log.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct TopicEnds {
    secret: [u8; 16],
    entries: HashMap<(u8, u16), EndEntry>,
}

impl TopicEnds {
    pub(super) fn new(secret: [u8; 16]) -> Self {
        TopicEnds { secret, entries: HashMap::new() }
    }

    /// Returns the possible losses of a topic without events in the log; `None` if there are none.
    #[cfg(test)]
    pub(crate) fn lookup(&self, partition: u8, topic: &str) -> Option<KnownEnd<'_>> {
        let hash = self.hash(topic);
        let entry = self.entries.get(&(partition, slot_of(hash)))?;
        let is_exact = entry.hash == hash;
        Some(KnownEnd { sequence: entry.sequence, id: entry.id.as_deref().filter(|_| is_exact), is_exact })
    }

    /// Notes that the log loses an event of a topic. The topics above a path, down to everything, lose it as well; a
    /// session's topic, known by the space in its name, has none above it.
    pub(super) fn note(&mut self, partition: u8, topic: &str, sequence: Sequence, id: Option<&str>) {
        let above = memchr::memrchr_iter(b'/', topic.as_bytes()).chain(Some(0)).map(|end| &topic[..end]);
        let above = above.take_while(|_| !topic.contains(' '));
        for name in std::iter::once(topic).chain(above) {
            self.note_one(partition, name, sequence, id);
        }
    }

    fn note_one(&mut self, partition: u8, topic: &str, sequence: Sequence, id: Option<&str>) {
        let hash = self.hash(topic);
        let known = self.entries.get(&(partition, slot_of(hash)));
        // Checked before the id is copied: most events of a segment are followed by another of the same slot.
        if known.is_none_or(|entry| entry.sequence < sequence) {
            self.merge(EndEntry { partition, hash, sequence, id: id.map(Box::from) });
        }
    }

    pub(super) fn merge(&mut self, entry: EndEntry) {
        match self.entries.entry(entry.slot()) {
            Entry::Vacant(slot) => {
                slot.insert(entry);
            }
            Entry::Occupied(mut slot) if slot.get().sequence < entry.sequence => {
                slot.insert(entry);
            }
            Entry::Occupied(_) => {}
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Returns all entries: partition, hash of the topic's name, the newest event lost, and its own id.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (u8, u64, Sequence, Option<&str>)> + Clone {
        let entries = self.entries.values();
        entries.map(|entry| (entry.partition, entry.hash, entry.sequence, entry.id.as_deref()))
    }

    /// Returns all entries in the order of their slots, so that the same table is written as the same bytes.
    pub(super) fn list(&self) -> Vec<EndEntry> {
        let mut entries: Vec<_> = self.entries.values().cloned().collect();
        entries.sort_unstable_by_key(EndEntry::slot);
        entries
    }

    fn hash(&self, topic: &str) -> u64 {
        end_hash(&self.secret, topic)
    }
}

fn slot_of(hash: u64) -> u16 {
    (hash % SLOTS) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends() -> TopicEnds {
        TopicEnds::new(*b"0123456789abcdef")
    }

    #[test]
    fn the_hash_of_a_topic_is_part_of_the_format() {
        assert_eq!(ends().hash("pets/dogs"), 17_267_095_436_331_155_840);
    }

    #[test]
    fn the_last_lost_event_of_a_topic_is_known_with_its_id() {
        let mut ends = ends();
        ends.note(3, "dogs", 7, Some("a"));
        ends.note(3, "dogs", 6, None);
        assert_eq!(ends.lookup(3, "dogs"), Some(KnownEnd { sequence: 7, id: Some("a"), is_exact: true }));
        assert_eq!(ends.lookup(2, "dogs"), None);
        ends.note(3, "dogs", 9, None);
        assert_eq!(ends.lookup(3, "dogs"), Some(KnownEnd { sequence: 9, id: None, is_exact: true }));
    }

    #[test]
    fn no_loss_is_hidden_by_a_topic_of_the_same_slot() {
        let mut ends = ends();
        for number in 0..20_000u64 {
            ends.note(0, &format!("topic{number}"), 1 + (number * 7919) % 20_000, Some("own"));
        }
        assert!(ends.entries.len() <= SLOTS as usize);
        for number in 0..20_000u64 {
            let sequence = 1 + (number * 7919) % 20_000;
            let end = ends.lookup(0, &format!("topic{number}")).unwrap();
            assert!(end.sequence >= sequence);
            assert_eq!(end.is_exact, end.sequence == sequence);
            assert_eq!(end.id.is_some(), end.is_exact);
        }
    }

    #[test]
    fn a_table_is_the_same_after_it_was_listed_and_merged_in_any_order() {
        let mut first = ends();
        for number in 0..1000 {
            first.note((number % 3) as u8, &format!("topic{number}"), number + 1, None);
        }
        let mut second = ends();
        first.list().into_iter().rev().for_each(|entry| second.merge(entry));
        assert_eq!(first, second);
    }
}
