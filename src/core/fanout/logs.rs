//! The logs of a shard: one for each topic that its streams take, however many streams take it and with whatever
//! others.

use std::collections::VecDeque;
use std::ops::{Index, IndexMut};
use std::sync::Arc;

use slab::Slab;
use smallvec::SmallVec;

use crate::core::ahead;
use crate::core::arena::Key;
use crate::core::event_id::Sequence;
use crate::core::fanout::log::BlockLog;
use crate::core::memory::Memory;
use crate::core::partition::PartitionId;
use crate::core::sent_count::SentCount;
use crate::core::topic::{Topic, TopicMap};

/// All logs of a shard, by number; owned by its [`Fanout`](super::Fanout).
#[derive(Debug, Default)]
pub(crate) struct Logs {
    slots: Slab<TopicLog>,
    /// The logs of a topic: one, or of everything one for each partition; and as many whose events name their topics, where
    /// streams want that.
    by_topic: TopicMap<SmallVec<[u32; 1]>>,
}

/// The log of a topic, and its readers.
#[derive(Debug)]
pub(crate) struct TopicLog {
    pub(crate) topic: Topic,
    /// `None` for a topic that bypasses the homes.
    pub(crate) partition: Option<PartitionId>,
    /// Whether its events begin with a line that names their topic.
    pub(crate) names_topics: bool,
    pub(crate) log: BlockLog,
    /// Streams that take it, also those that have not joined yet.
    pub(crate) streams: u32,
    /// The streams that take other topics too, or write ids of their own: they need the places of events.
    pub(crate) merging: u32,
    /// Streams with nothing to send, sent to when the next block is sealed.
    pub(crate) idle: Vec<u32>,
    /// Streams that were idle and have a block to read, those that wait longest first.
    pub(crate) ready: VecDeque<u32>,
    /// Set when the log is listed among those with a line.
    pub(crate) is_listed: bool,
    /// The streams that stood in the line when it was last counted and are not served yet: when none is left, it is counted
    /// again.
    waiting: u32,
    /// The bytes that the log had gained when the line was counted.
    counted_at: u64,
    /// Set on a queue's topic.
    pub(crate) follower: Option<Follower>,
    /// Set when it gained something this turn.
    pub(crate) gained: bool,
}

/// What a stream needs of its logs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LogKind {
    /// Each event begins with a line that names its topic.
    pub(crate) names_topics: bool,
    /// The places of events are kept.
    pub(crate) is_merging: bool,
}

/// The one stream of a queue's topic.
#[derive(Debug)]
pub(crate) struct Follower {
    pub(crate) key: Key,
    /// Counts the events that the kernel took from the stream.
    pub(crate) sent: Arc<SentCount>,
}

impl Logs {
    /// Returns the log of a topic of `partition`, made if there is none, and counts one more stream.
    pub(crate) fn open(
        &mut self,
        topic: &Topic,
        partition: Option<PartitionId>,
        kind: LogKind,
        memory: &Arc<Memory>,
    ) -> u32 {
        let LogKind { names_topics, is_merging } = kind;
        let same = |number: &u32| {
            let log = &self[*number];
            log.partition == partition && log.names_topics == names_topics
        };
        let number = self.of(topic).iter().copied().find(same).unwrap_or_else(|| {
            // At most one per topic and partition, far below 2^32.
            let number = self.slots.insert(TopicLog {
                topic: topic.clone(),
                partition,
                names_topics,
                log: BlockLog::new(Arc::clone(memory)),
                streams: 0,
                merging: 0,
                idle: Vec::new(),
                ready: VecDeque::new(),
                is_listed: false,
                waiting: 0,
                counted_at: 0,
                follower: None,
                gained: false,
            }) as u32;
            self.by_topic.entry(topic.clone()).or_default().push(number);
            number
        });
        let log = &mut self[number];
        log.streams += 1;
        log.merging += u32::from(is_merging);
        number
    }

    /// Counts one stream less; after the last removes the log, and returns its topic and partition if these have no other
    /// log.
    pub(crate) fn close(&mut self, number: u32, is_merging: bool) -> Option<(Topic, Option<PartitionId>)> {
        let log = &mut self[number];
        log.streams -= 1;
        log.merging -= u32::from(is_merging);
        if log.streams > 0 {
            return None;
        }
        let TopicLog { topic, partition, .. } = self.slots.remove(number as usize);
        if let Some(numbers) = self.by_topic.get_mut(&topic) {
            numbers.retain(|other| *other != number);
            if numbers.is_empty() {
                self.by_topic.remove(&topic);
            }
        }
        let has_other = self.of(&topic).iter().any(|number| self[*number].partition == partition);
        (!has_other).then_some((topic, partition))
    }

    /// Returns the logs of a topic: one, or for everything one per partition; and those whose events name their topics.
    pub(crate) fn of(&self, topic: &Topic) -> &[u32] {
        self.by_topic.get(topic).map_or(&[], |numbers| numbers)
    }

    /// Returns the logs of a topic in a partition: at most two.
    pub(crate) fn of_part(&self, topic: &Topic, partition: Option<PartitionId>) -> SmallVec<[u32; 2]> {
        self.of(topic).iter().copied().filter(|number| self[*number].partition == partition).collect()
    }

    /// Returns the logs of a partition.
    pub(crate) fn of_partition(&self, partition: PartitionId) -> Vec<u32> {
        let logs = self.slots.iter().filter(|(_, log)| log.partition == Some(partition));
        logs.map(|(number, _)| number as u32).collect()
    }

    pub(crate) fn get(&self, number: u32) -> Option<&TopicLog> {
        self.slots.get(number as usize)
    }

    pub(crate) fn get_mut(&mut self, number: u32) -> Option<&mut TopicLog> {
        self.slots.get_mut(number as usize)
    }

    /// Returns the bytes of all logs.
    #[cfg(test)]
    pub(crate) fn bytes(&self) -> usize {
        self.slots.iter().map(|(_, log)| log.log.bytes()).sum()
    }
}

impl Index<u32> for Logs {
    type Output = TopicLog;

    fn index(&self, number: u32) -> &TopicLog {
        &self.slots[number as usize]
    }
}

impl IndexMut<u32> for Logs {
    fn index_mut(&mut self, number: u32) -> &mut TopicLog {
        &mut self.slots[number as usize]
    }
}

impl TopicLog {
    /// Looks ahead at what an event of the topic needs.
    pub(crate) fn look_ahead(&self) {
        ahead::read((self.partition, self.streams, self.gained, self.idle.first().copied()));
        self.log.look_ahead();
    }

    /// Tells its follower, if it has one, the newest event sent.
    pub(crate) fn tell_sent(&self, sent: Sequence) {
        if let Some(follower) = &self.follower {
            follower.sent.advance(sent);
        }
    }

    /// Lists it by its number among the logs with a line, unless it is listed.
    pub(crate) fn list(&mut self, number: u32, listed: &mut VecDeque<u32>) {
        if !std::mem::replace(&mut self.is_listed, true) {
            listed.push_back(number);
            self.count_line();
        }
    }

    /// Notes that so many streams at the front of the line were served.
    pub(crate) fn note_served(&mut self, served: u32) {
        self.waiting = self.waiting.saturating_sub(served);
        if self.waiting == 0 {
            self.count_line();
        }
    }

    /// Counts the line.
    fn count_line(&mut self) {
        self.waiting = self.ready.len() as u32;
        self.counted_at = self.log.written;
    }

    /// Returns the bytes that the log gained since its line was counted. A stream that came to the line just after a count may
    /// have waited while it gained twice as many.
    pub(crate) fn gained_meanwhile(&self) -> u64 {
        self.log.written - self.counted_at
    }

    /// Lists a stream among the idle, unless it is there. `at`, its place in the list, may be out of date: the list is
    /// taken whole when a block comes, and its members are not updated.
    pub(crate) fn list_idle(&mut self, index: u32, at: &mut u32) {
        if self.idle.get(*at as usize) != Some(&index) {
            *at = self.idle.len() as u32;
            self.idle.push(index);
        }
    }

    /// Takes a stream off the list of the idle; returns the stream that was moved to its place.
    pub(crate) fn unlist_idle(&mut self, index: u32, at: u32) -> Option<u32> {
        if self.idle.get(at as usize) != Some(&index) {
            return None;
        }
        self.idle.swap_remove(at as usize);
        self.idle.get(at as usize).copied()
    }
}
