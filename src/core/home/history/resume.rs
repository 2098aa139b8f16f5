//! Finds the place where a subscriber resumes, and decides whether it is told of a gap.

use super::forgotten::TopicEnd;
use super::{PartitionHistory, TopicKey};
use crate::core::event_id::Sequence;
use crate::core::message::GapReason;

/// Events with a publisher's own id that are searched, newest first, for the last id of a multi-topic stream: about 0.2
/// ms.
const OWN_ID_LOOKS_MAX: usize = 2048;

/// The place where a subscriber resumes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Resumed {
    /// It is sent the events after this one.
    pub(crate) after: Sequence,
    /// The reason of the gap that it is told of first, if any.
    pub(crate) gap: Option<GapReason>,
}

impl PartitionHistory {
    /// Returns the place at which a subscriber to these topics with the last id `id` goes on. `is_position` says that
    /// its ids are positions, because it takes something of other partitions as well.
    pub(crate) fn resume(&self, topics: &[TopicKey], id: &str, is_position: bool) -> Resumed {
        let place = match is_position {
            // Any other id says nothing of the other partitions.
            true => self.epochs.place_in(id, self.partition),
            // It need not be an event of these topics: any place in the partition's sequence splits theirs in two.
            false => {
                let own = self.latest_use(topics, id).max(self.lost_use(topics, id));
                own.or_else(|| self.epochs.place(id, self.partition))
            }
        };
        let place = place.filter(|place| *place <= self.sequence);
        let gap = self.gap(topics, place).map(|reason| match reason {
            GapReason::Unknown if self.epochs.was_reset(id) => GapReason::Reset,
            reason => reason,
        });
        Resumed { after: place.unwrap_or(0), gap }
    }

    /// Returns the place that an id of the current epoch names, even if that is ahead of what is ordered here.
    pub(crate) fn place_of(&self, id: &str, is_position: bool) -> Option<Sequence> {
        match is_position {
            true => self.epochs.place_in(id, self.partition),
            false => self.epochs.place(id, self.partition),
        }
    }

    /// Returns the reason of the gap to tell a subscriber that knows everything up to `place`; `None` when it has
    /// missed nothing. Nothing else decides that: the rule stands at the top of this module.
    pub(crate) fn gap(&self, topics: &[TopicKey], place: Option<Sequence>) -> Option<GapReason> {
        debug_assert!(
            topics.iter().all(|key| self.topics.knows_what_was_lost(*key)),
            "a loss that those above do not know"
        );
        match place {
            Some(place) => (place < self.lost(topics)).then_some(GapReason::Trimmed),
            None => Some(GapReason::Unknown),
        }
    }

    /// Returns the newest event of these topics and those below that is no longer retained.
    pub(crate) fn lost(&self, topics: &[TopicKey]) -> Sequence {
        topics.iter().map(|key| self.topics[*key].lost.sequence).max().unwrap_or(0)
    }

    /// Returns the newest event of these topics and those below that has this publisher's own id.
    fn latest_use(&self, topics: &[TopicKey], id: &str) -> Option<Sequence> {
        if topics.iter().all(|key| self.topics.is_leaf(*key)) {
            let histories = topics.iter().map(|key| &self.topics[*key].history);
            return histories.filter_map(|history| history.own_id_at(id)).max();
        }
        let named = self.own_by_age.iter().rev().take(OWN_ID_LOOKS_MAX);
        let mut found = named.filter(|aged| {
            self.frame_of(topics, aged).is_some()
                && self.topics[aged.topic].history.own_id(aged.sequence) == Some(id)
        });
        found.next().map(|aged| aged.sequence)
    }

    /// Returns the newest lost event if `id` is the publisher's own id of it: a quiet tree is resumed after it without
    /// a gap.
    fn lost_use(&self, topics: &[TopicKey], id: &str) -> Option<Sequence> {
        let lost = self.lost(topics);
        let is_it = |key: &TopicKey| {
            let TopicEnd { sequence, own_id } = &self.topics[*key].lost;
            *sequence == lost && own_id.as_deref() == Some(id)
        };
        topics.iter().any(is_it).then_some(lost)
    }
}
