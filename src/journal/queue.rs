//! The publishes of a shard that are under way to the disk.

use std::collections::VecDeque;

use crossbeam_channel::Sender;

use super::writer::Turn;
use crate::clock::Clock;
use crate::core::event_id::Sequence;
use crate::core::home::{Dropped, TopicEnd};
use crate::core::journal::Kept;
use crate::core::message::{Publish, ShardId};
use crate::core::partition::PartitionId;

/// A publish whose place is not final yet, kept by its shard's [`DiskQueue`].
#[derive(Debug)]
pub(crate) struct UnderWay {
    pub(crate) partition: PartitionId,
    pub(crate) first: Sequence,
    pub(crate) publish: Publish,
}

/// The publishes of a shard that the writer thread has, in order; owned by the shard.
#[derive(Debug)]
pub(crate) struct DiskQueue {
    shard: ShardId,
    clock: Clock,
    /// The newest place given in each partition, final or not.
    last: Box<[Sequence]>,
    under_way: VecDeque<UnderWay>,
    /// The additions of the shard's current turn.
    turn: Turn,
    writer: Sender<Turn>,
}

impl DiskQueue {
    /// Returns the queue of a shard whose partitions go on after `last`.
    pub(crate) fn new(shard: ShardId, clock: Clock, last: Box<[Sequence]>, writer: Sender<Turn>) -> Self {
        DiskQueue { shard, clock, last, under_way: VecDeque::new(), turn: Turn::of(shard), writer }
    }

    /// Adds a publish to the turn; returns the sequence of its last event.
    pub(super) fn append(
        &mut self,
        partition: PartitionId,
        publish: Publish,
        previous: TopicEnd,
    ) -> Sequence {
        let Some(last) = self.last.get_mut(usize::from(partition)) else { return 0 };
        let first = *last + 1;
        *last += publish.events.len() as u64;
        let at_ms = self.clock.now_ms();
        self.turn.publishes.push(Kept::of(&publish, partition, first, at_ms, previous));
        self.under_way.push_back(UnderWay { partition, first, publish });
        *last
    }

    /// Ends the shard's turn: sends its additions to the writer. `dropped` are events that no history has any more.
    pub(crate) fn flush(&mut self, dropped: Vec<Dropped>) {
        if self.turn.publishes.is_empty() && dropped.is_empty() {
            return;
        }
        let turn = std::mem::replace(&mut self.turn, Turn::of(self.shard));
        // A writer that is gone has failed, and the server ends: no publish is answered any more.
        let _ = self.writer.send(Turn { dropped, ..turn });
    }

    /// Returns the oldest publish under way, whose outcome the writer has just reported.
    pub(crate) fn take(&mut self) -> Option<UnderWay> {
        self.under_way.pop_front()
    }
}
