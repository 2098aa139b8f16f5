//! Where order becomes final, as a home sees it.

use crate::core::event_id::Sequence;
use crate::core::message::Publish;
use crate::core::partition::{PARTITIONS_MAX, PartitionId};

/// Gives publishes their place. Nobody sees a publish before its place is final: until then it is the journal's.
pub(crate) trait Journal {
    /// Takes a publish for a partition. Returns it, with the sequence of its first event, if that is final at once.
    fn append(&mut self, partition: PartitionId, publish: Publish) -> Option<(Sequence, Publish)>;
}

/// The journal of a server that keeps nothing beyond its process: order is final at once.
#[derive(Debug)]
pub(crate) struct MemoryJournal {
    /// The newest event of each partition.
    last: [Sequence; PARTITIONS_MAX as usize],
}

impl Default for MemoryJournal {
    fn default() -> Self {
        MemoryJournal { last: [0; PARTITIONS_MAX as usize] }
    }
}

impl Journal for MemoryJournal {
    fn append(&mut self, partition: PartitionId, publish: Publish) -> Option<(Sequence, Publish)> {
        let last = self.last.get_mut(usize::from(partition))?;
        let first = *last + 1;
        *last += publish.events.len() as u64;
        Some((first, publish))
    }
}
