//! The history of a partition: its order, the retained events, the lost ones, and the rule for gaps.
//!
//! A home uses four operations, each in a file of its own: [`PartitionHistory::append`] takes events that have their
//! place, [`PartitionHistory::after`] reads on from a place, [`PartitionHistory::resume`] finds the place of an id and
//! whether events after it are missing, and [`PartitionHistory::trim`] drops the oldest. The set of topics, and the
//! choice of those that make room for others, is in `topics.rs`.
//!
//! # When a gap is told
//!
//! A subscriber that resumes is sent every event of its topics after its id that was ordered, or is told of a gap before
//! it is sent anything later. **Never silently**: it is told
//!
//! - `trimmed`, when an event of its topics after the place of its id is no longer retained;
//! - `unknown`, when its id has no place here: it was given in an epoch that is not known, was never given, or is a
//!   publisher's own id of an event that is no longer retained, unless that is the newest one lost, whose id is kept.
//!   On a stream over several partitions a publisher's own id has no place either, because it says nothing of the
//!   others.
//!
//! (`slow` is the fan-out's: a live stream that was skipped forward.)
//!
//! **Falsely** only for a topic whose history was forgotten, or that has one below it whose history was. Only the end
//! of a forgotten topic is kept, in a slot that others may share: the topic counts as lost up to the latest of their
//! ends. One more limit holds for publishers' own ids on multi-topic streams, or on topics with others below: they are
//! looked for among the partition's newest 2048 events that have one.
//!
//! In numbers: a topic's `lost` is the newest event, of its own or of those below it, that is no longer retained.
//! `PartitionHistory::gap` alone decides, by comparing a place with the newest `lost` of all topics concerned, and
//! asserts that a topic's losses are known to those above it.

mod after;
mod append;
mod forgotten;
mod resume;
mod topic_history;
mod topics;
mod trim;

use std::collections::VecDeque;
use std::sync::Arc;

use smallvec::SmallVec;

use crate::core::epochs::Epochs;
use crate::core::event_id::{Epoch, Sequence};
use crate::core::home::HomeSettings;
use crate::core::memory::Memory;
use crate::core::partition::PartitionId;

pub(crate) use after::PAGE_FRAMES_MAX;
pub(super) use append::Frames;
pub(crate) use forgotten::TopicEnd;
pub(super) use topic_history::Page;
use topics::DroppedFrame;
pub(super) use topics::Topics;

/// The limits of history, the same for all homes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HistoryLimits {
    /// Events of one topic; 0 switches history and ids off.
    pub(crate) events_max: usize,
    /// Bytes of one topic's events, overhead included.
    pub(crate) bytes_max: usize,
    /// Age of an event, in milliseconds.
    pub(crate) age_max_ms: u64,
    /// Frames of one page of replay.
    pub(crate) page_frames_max: usize,
}

/// An event that was dropped from history, as the journal hears of it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Dropped {
    pub(crate) partition: PartitionId,
    pub(crate) sequence: Sequence,
    /// Bytes of its lines, without the added id line.
    pub(crate) lines_bytes: usize,
}

/// A topic's number in its history, valid while the topic is known there.
pub(super) type TopicKey = u32;

/// The keys of a selection's topics, in order.
pub(super) type TopicKeys = SmallVec<[TopicKey; 4]>;

/// The history of a partition, owned by its home.
#[derive(Debug)]
pub(crate) struct PartitionHistory {
    limits: HistoryLimits,
    memory: Arc<Memory>,
    partition: PartitionId,
    epochs: Arc<Epochs>,
    /// The epoch of new ids.
    epoch: Epoch,
    /// The newest ordered event.
    sequence: Sequence,
    topics: Topics,
    /// All retained events of all topics, oldest first. An entry whose event was dropped by its topic's own limit is
    /// stale; they are swept out when they outnumber the rest.
    by_age: VecDeque<Aged>,
    /// The entries with a publisher's own id, stale ones among them as well.
    own_by_age: VecDeque<Aged>,
}

/// A retained event's place in the order of ages, which is that of the whole partition.
#[derive(Clone, Copy, Debug)]
struct Aged {
    topic: TopicKey,
    /// Set when it has a publisher's own id.
    own_id: bool,
    sequence: Sequence,
}

impl PartitionHistory {
    /// Returns an empty history.
    pub(super) fn new(partition: PartitionId, settings: &HomeSettings) -> Self {
        let HomeSettings { partitioner, epochs, limits, memory, topic_count, placement: _ } = settings;
        PartitionHistory {
            limits: *limits,
            memory: Arc::clone(memory),
            partition,
            epochs: Arc::clone(epochs),
            epoch: epochs.current(),
            sequence: 0,
            topics: Topics::new(Arc::clone(topic_count), *partitioner),
            by_age: VecDeque::new(),
            own_by_age: VecDeque::new(),
        }
    }

    /// Returns the newest ordered event.
    pub(super) fn sequence(&self) -> Sequence {
        self.sequence
    }

    /// Returns the known topics, to look them up, hold and forget them.
    pub(super) fn topics(&self) -> &Topics {
        &self.topics
    }

    pub(super) fn topics_mut(&mut self) -> &mut Topics {
        &mut self.topics
    }

    /// Returns the bytes of the retained events, overhead included.
    pub(super) fn bytes(&self) -> usize {
        self.topics.bytes
    }

    /// Returns the events that were dropped since the last call.
    pub(super) fn take_dropped(&mut self) -> impl Iterator<Item = Dropped> {
        let (partition, epoch) = (self.partition, self.epoch);
        self.topics.take_dropped().into_iter().map(move |event| {
            let DroppedFrame { sequence, frame_bytes, has_own_id } = event;
            let id_bytes = if has_own_id { 0 } else { "id:\n".len() + epoch.text_bytes(sequence) };
            Dropped { partition, sequence, lines_bytes: frame_bytes - id_bytes - 1 }
        })
    }

    /// Ends the recovery: sets the epochs, the newest event, and the ends of topics of which nothing was found.
    pub(super) fn recovered(
        &mut self,
        epochs: &Arc<Epochs>,
        last: Sequence,
        ends: impl Iterator<Item = (u64, TopicEnd)>,
    ) {
        self.epochs = Arc::clone(epochs);
        self.sequence = self.sequence.max(last);
        self.topics.lose_hashes(ends);
    }

    /// Notes that everything up to this event is ordered, whether or not the partition has any of it.
    pub(super) fn advance(&mut self, upto: Sequence) {
        self.sequence = self.sequence.max(upto);
    }

    /// Notes that events of any topic up to this one may be missing.
    pub(super) fn miss(&mut self, upto: Sequence) {
        self.topics.lose_all(upto);
    }

    /// Drops everything and begins anew under other epochs, after the event `floor`, up to which nothing is known.
    pub(super) fn reset(&mut self, epochs: &Arc<Epochs>, floor: Sequence) {
        self.trim(usize::MAX, |_, _| true);
        self.by_age.clear();
        self.own_by_age.clear();
        self.epochs = Arc::clone(epochs);
        self.epoch = epochs.current();
        self.sequence = floor;
        self.topics.begin_at(floor);
    }

    /// Returns whether history is switched on.
    pub(super) fn is_on(&self) -> bool {
        self.limits.events_max > 0
    }

    /// Returns the capacity of each list, in entries.
    #[cfg(test)]
    pub(super) fn capacities(&self) -> [usize; 4] {
        let [names, topics, by_use] = self.topics.capacities();
        [names, topics, by_use, self.by_age.capacity()]
    }

    /// Returns the number of entries in the order of ages, and of retained events.
    #[cfg(test)]
    pub(super) fn ages(&self) -> (usize, usize) {
        (self.by_age.len(), self.topics.events)
    }
}
