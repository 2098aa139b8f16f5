//! The interface through which a home has order made final.

use crate::core::event::Events;
use crate::core::event_id::Sequence;
use crate::core::home::TopicEnd;
use crate::core::message::{Disconnect, OrderError, Publish, PublishKey};
use crate::core::partition::{PARTITIONS_MAX, PartitionId};
use crate::core::topic::Topic;

/// Gives publishes their place; one per shard, passed to its homes. Nobody sees a publish before its place is final:
/// until then the journal owns it.
///
/// Where other nodes publish too, as in a cluster, the journal gives publishes back through
/// [`Homes::apply`](crate::core::home::Homes::apply), among those of the others.
pub(crate) trait Journal {
    /// Gives events of a partition their place if that is final at once, and returns the sequence of the first; `None`
    /// otherwise.
    fn place(&mut self, partition: PartitionId, events: u32) -> Option<Sequence>;

    /// Takes in a publish whose place is not final at once, and gives it back to [`Homes`](crate::core::home::Homes)
    /// when it is, in order within a partition. Returns the sequence of its last event; `None` when only the order of a
    /// cluster gives it. `previous` is the newest earlier event of its topic.
    fn append(&mut self, partition: PartitionId, publish: Publish, previous: TopicEnd) -> Option<Sequence>;

    /// Takes in a request to end streams, to be ordered among the publishes of all nodes; gives it back when there are no
    /// others.
    fn disconnect(&mut self, partition: PartitionId, disconnect: Disconnect) -> Option<Disconnect> {
        let _ = partition;
        Some(disconnect)
    }

    /// Returns why no publish is taken now, if none is.
    fn refusal(&self) -> Option<OrderError> {
        None
    }
}

/// A publish as a journal keeps it and finds it again after a restart. It shares the bytes of its events with the
/// publish under way.
#[derive(Clone, Debug)]
pub(crate) struct Kept {
    pub(crate) partition: PartitionId,
    /// The sequence of its first event.
    pub(crate) first: Sequence,
    /// When it was ordered, in milliseconds of the server's clock.
    pub(crate) at_ms: u64,
    pub(crate) topic: Topic,
    pub(crate) events: Events,
    /// The newest earlier event of its topic.
    pub(crate) previous: TopicEnd,
    /// `None` in a publish that is found again: keys are recovered separately, because they outlive their events.
    pub(crate) key: Option<Box<PublishKey>>,
}

impl Kept {
    /// Returns what to keep of a publish whose first event has the place `first`.
    pub(crate) fn of(
        publish: &Publish,
        partition: PartitionId,
        first: Sequence,
        at_ms: u64,
        previous: TopicEnd,
    ) -> Self {
        let Publish { topic, events, key, .. } = publish;
        let (topic, events, key) = (topic.clone(), events.clone(), key.clone());
        Kept { partition, first, at_ms, topic, events, previous, key }
    }
}

/// The journal of a server that keeps nothing beyond its process: order is final at once. One per shard.
#[derive(Debug)]
pub(crate) struct MemoryJournal {
    /// The newest event of each partition.
    last: Box<[Sequence; PARTITIONS_MAX as usize]>,
}

impl Default for MemoryJournal {
    fn default() -> Self {
        MemoryJournal { last: Box::new([0; PARTITIONS_MAX as usize]) }
    }
}

impl Journal for MemoryJournal {
    fn place(&mut self, partition: PartitionId, events: u32) -> Option<Sequence> {
        let last = self.last.get_mut(usize::from(partition))?;
        let first = *last + 1;
        *last += u64::from(events);
        Some(first)
    }

    fn append(&mut self, _: PartitionId, _: Publish, _: TopicEnd) -> Option<Sequence> {
        debug_assert!(false, "it gives every publish its place at once");
        None
    }
}
