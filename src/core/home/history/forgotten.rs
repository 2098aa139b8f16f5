//! Keeps the ends of forgotten topics, so that a subscriber who resumes there is not told of a gap.

use crate::core::event_id::Sequence;
use crate::core::partition::Partitioner;

/// Slots of the hash table of one partition. Topics that share a slot may cause gaps to be reported where there are
/// none, and never hide one. They take 64 KiB, and 256 KiB more when each holds a publisher's own id of the greatest
/// length.
const SLOTS: usize = 2 << 10;

/// The end of a topic: its newest event, up to which everything is lost. Kept in memory and by the journal.
#[derive(Clone, Debug, Default)]
pub(crate) struct TopicEnd {
    /// Its newest event; 0 when it had none.
    pub(crate) sequence: Sequence,
    /// The publisher's own id of that event, which may still be resumed after without a gap.
    pub(crate) own_id: Option<Box<str>>,
}

impl TopicEnd {
    /// Returns the later of both ends.
    pub(super) fn or_later(self, other: &TopicEnd) -> TopicEnd {
        if other.sequence > self.sequence { other.clone() } else { self }
    }
}

/// The ends of all forgotten topics of a partition.
#[derive(Debug)]
pub(super) struct Forgotten {
    /// Hashes names alike in every process that has the same data.
    partitioner: Partitioner,
    /// The hash of the topic that ended last in each slot, and its end. Empty until a topic is forgotten.
    slots: Vec<(u64, TopicEnd)>,
    /// Nothing up to this event is known of any topic.
    floor: Sequence,
}

impl Forgotten {
    /// Returns an empty table.
    pub(super) fn new(partitioner: Partitioner) -> Self {
        Forgotten { partitioner, slots: Vec::new(), floor: 0 }
    }

    /// Forgets all ends: topics count as lost up to `floor`.
    pub(super) fn set_floor(&mut self, floor: Sequence) {
        self.slots = Vec::new();
        self.floor = floor;
    }

    /// Notes the end of a forgotten topic.
    pub(super) fn note(&mut self, topic: &str, end: TopicEnd) {
        self.note_hash(self.partitioner.end_hash(topic), end);
    }

    /// Notes the end of a topic whose name has this hash.
    pub(super) fn note_hash(&mut self, hash: u64, end: TopicEnd) {
        if self.slots.is_empty() {
            self.slots.resize(SLOTS, (0, TopicEnd::default()));
        }
        let slot = &mut self.slots[slot(hash)];
        if end.sequence > slot.1.sequence {
            *slot = (hash, end);
        }
    }

    /// Returns the end of a topic, or that of a later one that shares its slot; 0 when there is neither.
    pub(super) fn end(&self, topic: &str) -> TopicEnd {
        let floor = TopicEnd { sequence: self.floor, own_id: None };
        if self.slots.is_empty() {
            return floor;
        }
        let hash = self.partitioner.end_hash(topic);
        let (other, end) = &self.slots[slot(hash)];
        let end = match *other == hash {
            true => end.clone(),
            // The id is that of another topic's event, and this topic may have used it earlier.
            false => TopicEnd { sequence: end.sequence, own_id: None },
        };
        end.or_later(&floor)
    }
}

fn slot(hash: u64) -> usize {
    hash as usize % SLOTS
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(sequence: Sequence, own_id: &str) -> TopicEnd {
        TopicEnd { sequence, own_id: Some(own_id.into()) }
    }

    #[test]
    fn topics_that_share_a_slot_get_the_later_end_and_never_the_others_id() {
        let partitioner = Partitioner::new(1, [7; 16]);
        let slot_of = |name: &str| slot(partitioner.end_hash(name));
        let first = "t0".to_owned();
        let names = || (1..).map(|n| format!("t{n}"));
        let second = names().find(|name| slot_of(name) == slot_of(&first)).unwrap();
        let other = names().find(|name| slot_of(name) != slot_of(&first)).unwrap();
        let mut forgotten = Forgotten::new(partitioner);
        assert_eq!(forgotten.end(&first).sequence, 0);
        forgotten.note(&first, end(5, "x"));
        forgotten.note(&second, end(9, "y"));
        forgotten.note(&first, end(6, "z"));
        let found = |topic| (forgotten.end(topic).sequence, forgotten.end(topic).own_id);
        assert_eq!(found(&first), (9, None));
        assert_eq!(found(&second), (9, Some("y".into())));
        assert_eq!(found(&other), (0, None));
    }
}
