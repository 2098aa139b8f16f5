//! What topics lost that this process never had: before it started, at other nodes, or before the order began anew.

use super::{KnownTopic, Topics};
use crate::core::event_id::Sequence;
use crate::core::home::history::TopicKey;
use crate::core::home::history::forgotten::TopicEnd;
use crate::core::topic::Topic;

impl Topics {
    /// Records as lost the event that a recovered record names as its topic's previous one, unless that was recovered
    /// as well.
    pub(crate) fn lose_before(&mut self, key: TopicKey, lost: TopicEnd) {
        // If the newest event found is older than that, events between are missing.
        if self[key].history.newest().is_none_or(|newest| newest.sequence < lost.sequence) {
            self.lose(key, lost);
        }
    }

    /// Records the end of a topic that there is no room for, here and in those above it.
    pub(crate) fn lose_unknown(&mut self, topic: &Topic, lost: TopicEnd) {
        self.forgotten.note(topic.name(), lost.clone());
        if let Some(above) = self.nearest_above(topic) {
            self.lose(above, lost);
        }
    }

    /// Records the ends of topics, by the hashes of their names, of which no event was recovered.
    pub(in crate::core::home::history) fn lose_hashes(
        &mut self,
        ends: impl Iterator<Item = (u64, TopicEnd)>,
    ) {
        ends.for_each(|(hash, end)| self.forgotten.note_hash(hash, end));
        // Lost topics may have been below known ones. A topic with none above has none below, and its oldest recovered
        // event named the one before: it knows its losses.
        let may_have_had_children =
            |known: &KnownTopic| known.parent.is_some() || known.topic.is_everything();
        let known = self.known.iter().filter(|(_, known)| may_have_had_children(known));
        let ends: Vec<_> =
            known.map(|(key, known)| (key as TopicKey, self.forgotten.end(known.topic.name()))).collect();
        ends.into_iter().for_each(|(key, end)| self.lose(key, end));
    }

    /// Records that events of any topic up to this one may be missing.
    pub(in crate::core::home::history) fn lose_all(&mut self, upto: Sequence) {
        let keys: Vec<_> = self.known.iter().map(|(key, _)| key as TopicKey).collect();
        keys.into_iter().for_each(|key| self.lose(key, TopicEnd { sequence: upto, own_id: None }));
        self.forgotten.set_floor(upto);
    }

    /// Records that nothing is known of any topic up to this event, and that what was known before does not count.
    pub(in crate::core::home::history) fn begin_at(&mut self, floor: Sequence) {
        for (_, known) in &mut self.known {
            known.lost = TopicEnd { sequence: floor, own_id: None };
            known.lost_at_first = floor;
            known.under_way = None;
        }
        self.forgotten.set_floor(floor);
    }
}
