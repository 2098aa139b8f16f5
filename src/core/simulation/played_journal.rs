//! The journal of a world: order is final at once, or some time later; and a crash takes what was not synced.

use std::collections::{HashSet, VecDeque};

use crate::core::event_id::Sequence;
use crate::core::home::{Dropped, TopicEnd};
use crate::core::journal::{Journal, Kept};
use crate::core::message::Publish;
use crate::core::partition::{PartitionId, Partitioner};

/// The journal of a world. Records are in order, and a crash keeps a prefix of them.
pub(super) struct PlayedJournal {
    /// Order is final when it is synced, and not at once.
    pub(super) is_on_disk: bool,
    /// A bug put in on purpose: order is final before it is synced.
    pub(super) is_hasty: bool,
    pub(super) now_ms: u64,
    last: Vec<Sequence>,
    records: VecDeque<Kept>,
    /// The number of synced records.
    synced: usize,
    under_way: VecDeque<(PartitionId, Sequence, Publish)>,
    /// Events that no history has any more.
    dropped: HashSet<(PartitionId, Sequence)>,
    /// The ends of topics of which records were removed, by the hash of the name.
    ends: Vec<(PartitionId, u64, TopicEnd)>,
    partitioner: Partitioner,
}

impl PlayedJournal {
    pub(super) fn new(is_on_disk: bool, is_hasty: bool, partitions: usize, partitioner: Partitioner) -> Self {
        PlayedJournal {
            is_on_disk,
            is_hasty,
            now_ms: 0,
            last: vec![0; partitions],
            records: VecDeque::new(),
            synced: 0,
            under_way: VecDeque::new(),
            dropped: HashSet::new(),
            ends: Vec::new(),
            partitioner,
        }
    }

    /// Syncs the oldest unsynced record; returns its publish, whose order is final now, or `None` when all are synced.
    pub(super) fn sync(&mut self) -> Option<(PartitionId, Sequence, Publish)> {
        let publish = self.under_way.pop_front()?;
        self.synced += 1;
        Some(publish)
    }

    /// Notes events that histories dropped, and removes the oldest records whose events are all dropped.
    pub(super) fn trim(&mut self, dropped: Vec<Dropped>) {
        self.dropped.extend(dropped.into_iter().map(|event| (event.partition, event.sequence)));
        while self.synced > 0
            && let Some(record) = self.records.front()
            && sequences(record).all(|sequence| self.dropped.contains(&(record.partition, sequence)))
            && let Some(record) = self.records.pop_front()
        {
            self.synced -= 1;
            for (event, sequence) in record.events.iter().zip(sequences(&record)) {
                let own_id: Option<Box<str>> = event.own_id().map(Into::into);
                for topic in record.topic.lineage() {
                    let end = TopicEnd { sequence, own_id: own_id.clone() };
                    self.ends.push((record.partition, self.partitioner.end_hash(topic.name()), end));
                }
            }
        }
    }

    /// Loses the unsynced records except the first `kept`; returns those, whose order is final although no publisher
    /// was told.
    pub(super) fn crash(&mut self, kept: usize) -> Vec<Kept> {
        let survivors = (self.synced + kept).min(self.records.len());
        let unheard = self.records.range(self.synced.min(survivors)..survivors).cloned().collect();
        self.records.truncate(survivors);
        self.synced = survivors;
        self.under_way.clear();
        self.last.fill(0);
        for record in &self.records {
            self.last[usize::from(record.partition)] = last(record);
        }
        for (partition, _, end) in &self.ends {
            let last = &mut self.last[usize::from(*partition)];
            *last = (*last).max(end.sequence);
        }
        unheard
    }

    /// Returns the records that are read back after a crash.
    pub(super) fn kept(&self) -> impl Iterator<Item = Kept> {
        self.records.iter().cloned()
    }

    /// Returns the ends of topics of which records were removed.
    pub(super) fn ends(&self) -> impl Iterator<Item = (PartitionId, u64, TopicEnd)> + Clone {
        self.ends.iter().cloned()
    }

    /// Returns the newest event of each partition.
    pub(super) fn last(&self) -> &[Sequence] {
        &self.last
    }

    fn next(&mut self, partition: PartitionId, events: u64) -> Sequence {
        let last = &mut self.last[usize::from(partition)];
        let first = *last + 1;
        *last += events;
        first
    }
}

fn last(kept: &Kept) -> Sequence {
    kept.first + kept.events.len() as u64 - 1
}

fn sequences(kept: &Kept) -> impl Iterator<Item = Sequence> + use<> {
    kept.first..=last(kept)
}

impl Journal for PlayedJournal {
    fn place(&mut self, partition: PartitionId, events: u32) -> Option<Sequence> {
        (!self.is_on_disk || self.is_hasty).then(|| self.next(partition, events.into()))
    }

    fn append(&mut self, partition: PartitionId, publish: Publish, previous: TopicEnd) -> Option<Sequence> {
        let first = self.next(partition, publish.events.len() as u64);
        self.records.push_back(Kept::of(&publish, partition, first, self.now_ms, previous));
        self.under_way.push_back((partition, first, publish));
        Some(self.last[usize::from(partition)])
    }
}
