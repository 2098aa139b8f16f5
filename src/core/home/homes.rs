//! The homes of one shard.

use std::sync::Arc;

use super::{Dropped, HistoryLimits, Home, TopicCount, TopicEnd};
use crate::core::epochs::Epochs;
use crate::core::event_id::Sequence;
use crate::core::journal::{Journal, Kept};
use crate::core::memory::Memory;
use crate::core::message::{OrderError, Ordered, Post, Publish, PublishKey, ShardId, ToHome};
use crate::core::partition::{PartitionId, Partitioner, Placement};
use crate::core::topic::Topic;

/// The homes of a shard's partitions, owned by the shard.
#[derive(Debug)]
pub(crate) struct Homes {
    /// By partition; `None` where another shard is home.
    homes: Vec<Option<Box<Home>>>,
    count: Arc<TopicCount>,
    /// Counts uses of topics, so that the least recently used one makes room, whichever home it belongs to.
    uses: u64,
}

/// The settings and shared state of all homes of a server, made at startup.
#[derive(Clone, Debug)]
pub(crate) struct HomeSettings {
    pub(crate) placement: Placement,
    pub(crate) partitioner: Partitioner,
    pub(crate) epochs: Arc<Epochs>,
    pub(crate) limits: HistoryLimits,
    pub(crate) memory: Arc<Memory>,
    pub(crate) topic_count: Arc<TopicCount>,
}

impl Homes {
    /// Returns the homes of a shard, without events.
    pub(crate) fn new(shard: ShardId, settings: &HomeSettings) -> Self {
        let settings = &HomeSettings { memory: settings.memory.lane(), ..settings.clone() };
        let placement = settings.placement;
        let is_ours = |partition: &PartitionId| placement.home(*partition) == shard;
        let home = |partition| {
            Some(partition).filter(is_ours).map(|partition| Box::new(Home::new(partition, settings)))
        };
        let homes = placement.partitions().map(home).collect();
        Homes { homes, count: Arc::clone(&settings.topic_count), uses: 0 }
    }

    /// Hands a message to the home of a partition and adds the resulting posts to `out`; returns how many events became
    /// final. A message for a partition of another shard is ignored.
    pub(crate) fn handle(
        &mut self,
        partition: PartitionId,
        message: ToHome,
        now_ms: u64,
        journal: &mut impl Journal,
        out: &mut Vec<Post>,
    ) -> u64 {
        self.with(partition, |home| home.handle(message, now_ms, journal, out))
    }

    /// Looks ahead at what a publish to a topic needs.
    pub(crate) fn look_ahead(&self, partition: PartitionId, topic: &Topic) {
        if let Some(Some(home)) = self.homes.get(usize::from(partition)) {
            home.look_ahead(topic);
        }
    }

    /// Takes in a publish whose order the journal made final; returns how many events it has.
    pub(crate) fn journaled(
        &mut self,
        partition: PartitionId,
        first: Sequence,
        publish: Publish,
        now_ms: u64,
        out: &mut Vec<Post>,
    ) -> u64 {
        self.with(partition, |home| home.journaled(first, publish, now_ms, out))
    }

    /// Answers a publish that the journal could not keep.
    pub(crate) fn refuse(
        &mut self,
        partition: PartitionId,
        first: Sequence,
        publish: Publish,
        error: OrderError,
        out: &mut Vec<Post>,
    ) {
        self.with(partition, |home| home.refuse(first, publish, error, out));
    }

    /// Takes in a publish that the journal kept over a restart; a partition's publishes come in order.
    pub(crate) fn recover(&mut self, kept: Kept) {
        self.with(kept.partition, |home| home.recover(kept));
    }

    /// Takes in the key of a publish that the journal kept over a restart.
    pub(crate) fn recover_key(
        &mut self,
        partition: PartitionId,
        key: &PublishKey,
        published: &Ordered,
        at_ms: u64,
    ) {
        self.with(partition, |home| home.keys.ordered(key, published, at_ms));
    }

    /// Ends the recovery: sets the epochs whose ids are good, the newest event of each partition, and the ends of
    /// topics of which nothing was found, each with its partition and the hash of its name.
    pub(crate) fn recovered(
        &mut self,
        epochs: &Arc<Epochs>,
        last: &[Sequence],
        ends: impl Iterator<Item = (PartitionId, u64, TopicEnd)> + Clone,
        now_ms: u64,
    ) {
        for home in self.iter_mut() {
            let own = ends.clone().filter(|(partition, ..)| *partition == home.partition);
            let last = last.get(usize::from(home.partition)).copied().unwrap_or_default();
            home.history.recovered(epochs, last, own.map(|(_, hash, end)| (hash, end)));
            // Before any client reads: some events may be far past their age.
            home.history.expire(now_ms, usize::MAX);
            home.keys.expire(now_ms, usize::MAX);
        }
    }

    /// Starts to record dropped events, for [`Homes::take_dropped`].
    pub(crate) fn note_what_is_dropped(&mut self) {
        self.iter_mut().for_each(|home| home.history.topics_mut().note_what_is_dropped());
    }

    /// Returns the events that were dropped since the last call.
    pub(crate) fn take_dropped(&mut self) -> Vec<Dropped> {
        self.iter_mut().flat_map(|home| home.history.take_dropped()).collect()
    }

    /// Drops events of a partition up to this one, which the journal no longer has, `events_max` at most; returns
    /// whether there are more.
    pub(crate) fn lose(&mut self, partition: PartitionId, upto: Sequence, events_max: usize) -> bool {
        let trim = |home: &mut Home| home.history.trim(events_max, |_, oldest| oldest.sequence <= upto);
        self.with(partition, trim) == events_max
    }

    /// Runs `act` on the home of a partition, then makes room for topics that it took in; returns its result.
    pub(super) fn with<T: Default>(&mut self, partition: PartitionId, act: impl FnOnce(&mut Home) -> T) -> T {
        let Some(Some(home)) = self.homes.get_mut(usize::from(partition)) else {
            debug_assert!(false, "asked of the wrong shard");
            return T::default();
        };
        home.history.topics_mut().set_clock(self.uses);
        let done = act(home);
        self.uses = home.history.topics().clock();
        self.keep_to_count(usize::MAX);
        done
    }

    /// Forgets topics that nobody needs while there are too many, `topics_max` at most, the least recently used first.
    pub(crate) fn keep_to_count(&mut self, topics_max: usize) {
        for _ in 0..topics_max {
            if !self.count.is_over() {
                return;
            }
            let idlest = self.iter_mut().filter_map(|home| Some((home.history.topics_mut().idlest()?, home)));
            let Some(((_, key), home)) = idlest.min_by_key(|(idlest, _)| *idlest) else { return };
            home.history.topics_mut().forget(key);
        }
    }

    /// Returns the number of known topics.
    pub(crate) fn topics(&self) -> usize {
        self.iter().map(|home| home.history.topics().len()).sum()
    }

    /// Returns the bytes of history retained, overhead included.
    pub(crate) fn bytes(&self) -> usize {
        self.iter().map(|home| home.history.bytes()).sum()
    }

    /// Returns the time at which the oldest retained event was ordered, in milliseconds of the server's clock.
    pub(crate) fn oldest_at_ms(&mut self) -> Option<u64> {
        self.iter_mut().filter_map(|home| home.history.oldest_at_ms()).min()
    }

    /// Drops events and idempotency keys past their age, at most `events_max`; returns whether there may be more.
    pub(crate) fn expire(&mut self, now_ms: u64, events_max: usize) -> bool {
        let mut left = events_max;
        for home in self.iter_mut() {
            left -= home.history.expire(now_ms, left);
            // Not only when a publish with a key comes: that is refused while memory is exhausted, perhaps by these
            // keys.
            left -= home.keys.expire(home.key_time(now_ms), left);
        }
        left == 0
    }

    /// Drops the oldest events of all topics until `bytes` are freed or no event is left.
    pub(crate) fn release(&mut self, bytes: usize) {
        let mut left = bytes;
        while left > 0 {
            let oldest = self.iter_mut().filter_map(|home| Some((home.history.oldest_at_ms()?, home)));
            let Some((oldest_ms, home)) = oldest.min_by_key(|(oldest_ms, _)| *oldest_ms) else { return };
            let before = home.history.bytes();
            // All events of one millisecond together: after that another home may have the oldest.
            home.history.trim(usize::MAX, |history, oldest| {
                oldest.at_ms == oldest_ms && before - history.bytes() < left
            });
            left = left.saturating_sub(before - home.history.bytes());
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Home> {
        self.homes.iter().flatten().map(|home| &**home)
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Home> {
        self.homes.iter_mut().flatten().map(|home| &mut **home)
    }
}

/// Returns the bytes that each of these homes has to release for all histories to be within the limit of memory.
pub(crate) fn excess_share(homes: &[Homes], memory: &Memory) -> usize {
    let bytes = homes.iter().map(Homes::bytes).sum::<usize>();
    let excess = memory.bytes().max(bytes).saturating_sub(memory.bytes_max());
    excess.div_ceil(homes.len().max(1))
}
