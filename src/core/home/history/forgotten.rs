//! Remembers where topics that were forgotten ended, so that a subscriber who resumes there is not told of a gap.

use crate::core::event_id::Sequence;
use crate::core::topic::Topic;

/// Slots of the hash table of one partition. Topics that share one may cause gaps to be reported where there are none, and
/// never hide one. They take 64 KiB, and 256 KiB more when each holds a publisher's own id of the greatest length.
const SLOTS: usize = 2 << 10;

/// The end of a topic: everything up to it is lost.
#[derive(Clone, Debug, Default)]
pub(crate) struct TopicEnd {
    /// Its newest event; 0 when it had none.
    pub(crate) sequence: Sequence,
    /// The publisher's own id of that event, which may still be resumed after without a gap.
    pub(crate) own_id: Option<Box<str>>,
}

impl TopicEnd {
    /// Returns this, or the other one if that is later.
    pub(super) fn or_later(self, other: &TopicEnd) -> TopicEnd {
        if other.sequence > self.sequence { other.clone() } else { self }
    }
}

/// The ends of all topics that were forgotten.
#[derive(Debug, Default)]
pub(super) struct Forgotten {
    /// The hash of the topic that ended last in each slot, and its end. Empty until a topic is forgotten.
    slots: Vec<(u64, TopicEnd)>,
}

impl Forgotten {
    /// Notes the end of a topic that is forgotten.
    pub(super) fn note(&mut self, topic: &Topic, end: TopicEnd) {
        if self.slots.is_empty() {
            self.slots.resize(SLOTS, (0, TopicEnd::default()));
        }
        let slot = &mut self.slots[slot(topic)];
        if end.sequence > slot.1.sequence {
            *slot = (topic.hash(), end);
        }
    }

    /// Returns where a topic ended, or where a topic that shares its slot ended later; 0 when there is neither.
    pub(super) fn end(&self, topic: &Topic) -> TopicEnd {
        match self.slots.get(slot(topic)) {
            Some((hash, end)) if *hash == topic.hash() => end.clone(),
            // The id is that of another topic's event, and this topic may have used it earlier.
            Some((_, end)) => TopicEnd { sequence: end.sequence, own_id: None },
            None => TopicEnd::default(),
        }
    }
}

fn slot(topic: &Topic) -> usize {
    topic.hash() as usize % SLOTS
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(sequence: Sequence, own_id: &str) -> TopicEnd {
        TopicEnd { sequence, own_id: Some(own_id.into()) }
    }

    #[test]
    fn topics_that_share_a_slot_get_the_later_end_and_never_the_others_id() {
        let hash = SLOTS as u64;
        let [first, second, other] = [7, 7 + hash, 8].map(|hash| Topic::hashed("t", hash));
        let mut forgotten = Forgotten::default();
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
