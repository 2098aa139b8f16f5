//! The topics of a partition: the events each retains and lost, the topics above it, and the choice of those that make
//! room for others.
//!
//! With namespaces they form a tree, with everything at its root, which every partition has and which is not counted. A
//! topic stays while it is held or has one below it. It can make room, with those below it, unless one of them is held.

mod losses;

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

use bytes::Bytes;
use slab::Slab;
use smallvec::SmallVec;

use super::forgotten::{Forgotten, TopicEnd};
use super::topic_history::{FirstDropped, TopicHistory};
use super::{TopicKey, TopicKeys};
use crate::core::ahead;
use crate::core::event_id::Sequence;
use crate::core::home::topic_count::TopicCount;
use crate::core::partition::Partitioner;
use crate::core::topic::{Topic, TopicMap};

/// Topics looked at to find an idle one before a new topic is refused: bounds one publish's work.
const EVICTION_TRIES: usize = 64;

/// The topics known to a partition, owned by its history.
#[derive(Debug)]
pub(crate) struct Topics {
    names: TopicMap<TopicKey>,
    /// Boxed, because the slots of forgotten topics stay allocated.
    known: Slab<Box<KnownTopic>>,
    count: Arc<TopicCount>,
    /// The number of these topics that `count` includes.
    counted: usize,
    /// One entry per topic, the least recently used first; `used` may be older than the topic's, see
    /// [`Topics::idlest`].
    by_use: BinaryHeap<Reverse<(u64, TopicKey)>>,
    /// Counts uses, to find the least recently used topic. All homes of a shard share it, see [`Topics::set_clock`].
    use_clock: u64,
    /// The ends of forgotten topics.
    forgotten: Forgotten,
    /// Events that are no longer retained, recorded for a journal, which keeps events no longer than that.
    dropped: Option<Vec<DroppedFrame>>,
    /// The number of events that all topics retain, and their bytes, overhead included.
    pub(super) events: usize,
    pub(super) bytes: usize,
}

/// An event that was dropped, as it was retained.
#[derive(Clone, Copy, Debug)]
pub(super) struct DroppedFrame {
    pub(super) sequence: Sequence,
    pub(super) frame_bytes: usize,
    pub(super) has_own_id: bool,
}

/// A topic, its place in the tree and its events.
#[derive(Debug)]
pub(crate) struct KnownTopic {
    topic: Topic,
    /// The topic above it, which stays as long as this one.
    parent: Option<TopicKey>,
    /// The number of topics right below it.
    children: u32,
    /// The number of those that are held or have a held one below them.
    held_children: u32,
    /// The number of holders.
    holders: u32,
    /// The newest event of its own, or of those below it, that is no longer retained.
    pub(super) lost: TopicEnd,
    /// Its newest event that the journal has and the history does not yet have.
    under_way: Option<Box<TopicEnd>>,
    /// The value of `lost` when the topic was inserted, from the ends of forgotten topics: those events may never have
    /// been its own.
    lost_at_first: Sequence,
    pub(super) history: TopicHistory,
    used: u64,
    /// The use of its entry in `by_use`; 0 without an entry.
    queued_use: u64,
}

impl KnownTopic {
    /// Looks ahead at what an event of it needs.
    pub(crate) fn look_ahead(&self) {
        ahead::read((self.used, self.lost.sequence, self.holders));
        self.history.look_ahead();
    }
}

impl Topics {
    pub(super) fn new(count: Arc<TopicCount>, partitioner: Partitioner) -> Self {
        Topics {
            names: TopicMap::default(),
            known: Slab::new(),
            count,
            counted: 0,
            by_use: BinaryHeap::new(),
            use_clock: 0,
            forgotten: Forgotten::new(partitioner),
            dropped: None,
            events: 0,
            bytes: 0,
        }
    }

    /// Returns the number of topics, without everything.
    pub(crate) fn len(&self) -> usize {
        self.counted
    }

    /// Returns the key of a topic, if it is known.
    pub(crate) fn find(&self, topic: &Topic) -> Option<TopicKey> {
        self.names.get(topic).copied()
    }

    /// Returns the topic with this key.
    pub(crate) fn topic(&self, key: TopicKey) -> &Topic {
        &self[key].topic
    }

    /// Iterates over a topic and those above it, upwards.
    pub(crate) fn lineage(&self, key: TopicKey) -> impl Iterator<Item = TopicKey> {
        std::iter::successors(Some(key), |key| self[*key].parent)
    }

    /// Returns the nearest known topic above this one.
    pub(super) fn nearest_above(&self, topic: &Topic) -> Option<TopicKey> {
        topic.lineage().skip(1).find_map(|above| self.find(above))
    }

    /// Returns whether a topic has none below it, so that its own history is complete.
    pub(super) fn is_leaf(&self, key: TopicKey) -> bool {
        self[key].children == 0
    }

    /// Returns whether the topics above this one know of its losses since it was inserted.
    pub(super) fn knows_what_was_lost(&self, key: TopicKey) -> bool {
        let KnownTopic { lost, lost_at_first, .. } = &self[key];
        let is_known = |key| self[key].lost.sequence >= lost.sequence;
        lost.sequence == *lost_at_first || self.lineage(key).all(is_known)
    }

    /// Holds all of these topics, so that none is forgotten; returns their keys. Holds none and returns `None` when
    /// there is no room for all.
    pub(crate) fn hold_all(&mut self, topics: &[Topic]) -> Option<TopicKeys> {
        let mut keys = TopicKeys::new();
        for topic in topics {
            let Some(key) = self.find_or_insert(topic) else {
                self.let_go(&keys);
                return None;
            };
            self.hold(key);
            keys.push(key);
        }
        keys.sort_unstable();
        Some(keys)
    }

    /// Holds a topic once more.
    pub(crate) fn hold(&mut self, key: TopicKey) {
        self.touch(key);
        self.change_holders(key, |known| known.holders += 1);
    }

    /// Ends one hold of each of these topics.
    pub(crate) fn let_go(&mut self, keys: &[TopicKey]) {
        for &key in keys {
            self.touch(key);
            self.change_holders(key, |known| known.holders -= 1);
            self.forget_if_unneeded(key);
        }
    }

    pub(super) fn touch(&mut self, key: TopicKey) {
        self.use_clock += 1;
        self.known[key as usize].used = self.use_clock;
    }

    /// Returns the key of a topic, which is inserted with those above it if it is new; `None` when there is no room for
    /// them.
    pub(super) fn find_or_insert(&mut self, topic: &Topic) -> Option<TopicKey> {
        self.insert_with_parents(topic, true)
    }

    /// Returns the key of a topic, which is inserted with those above it if it is new, even when there is no room.
    pub(super) fn insert_always(&mut self, topic: &Topic) -> Option<TopicKey> {
        self.insert_with_parents(topic, false)
    }

    fn insert_with_parents(&mut self, topic: &Topic, needs_room: bool) -> Option<TopicKey> {
        if let Some(key) = self.find(topic) {
            return Some(key);
        }
        let parent = match topic.parent() {
            // Recurses no deeper than a path, which has eight segments at most.
            Some(parent) => Some(self.insert_with_parents(parent, needs_room)?),
            None => None,
        };
        let Some(parent) = parent else { return self.insert(topic, None, needs_room) };
        // Held meanwhile, so that the parent cannot make room for its child.
        self.change_holders(parent, |known| known.holders += 1);
        let key = self.insert(topic, Some(parent), needs_room);
        self.known[parent as usize].children += u32::from(key.is_some());
        self.change_holders(parent, |known| known.holders -= 1);
        self.forget_if_unneeded(parent);
        key
    }

    fn insert(&mut self, topic: &Topic, parent: Option<TopicKey>, needs_room: bool) -> Option<TopicKey> {
        if !topic.is_everything() {
            if needs_room && !self.count.has_room() {
                return None;
            }
            self.count.add_known();
            self.counted += 1;
        }
        self.use_clock += 1;
        let used = self.use_clock;
        let lost = self.forgotten.end(topic.name());
        // Keys stay below the limit of topics, which is far below 2^32.
        let key = self.known.insert(Box::new(KnownTopic {
            topic: topic.clone(),
            parent,
            children: 0,
            held_children: 0,
            holders: 0,
            lost_at_first: lost.sequence,
            lost,
            under_way: None,
            history: TopicHistory::default(),
            used,
            queued_use: used,
        })) as TopicKey;
        self.names.insert(topic.clone(), key);
        self.by_use.push(Reverse((used, key)));
        Some(key)
    }

    /// Changes the holders of a topic, and updates those above it.
    fn change_holders(&mut self, key: TopicKey, change: impl Fn(&mut KnownTopic)) {
        let known = &mut self.known[key as usize];
        let was_held = known.is_held();
        change(known);
        let (is_held, parent) = (known.is_held(), known.parent);
        if is_held == was_held {
            return;
        }
        if !known.topic.is_everything() {
            self.count.set_held(is_held);
        }
        if let Some(parent) = parent {
            // Recurses no deeper than a path, which has eight segments at most.
            self.change_held_children(parent, is_held);
        }
    }

    fn change_held_children(&mut self, key: TopicKey, is_held: bool) {
        self.change_holders(key, |known| match is_held {
            true => known.held_children += 1,
            false => known.held_children -= 1,
        });
    }

    /// Forgets a topic that nobody needs if it retains nothing; one with events becomes a candidate to make room.
    pub(super) fn forget_if_unneeded(&mut self, key: TopicKey) {
        let known = &mut self.known[key as usize];
        if known.is_needed() {
            return;
        }
        if known.history.len() == 0 {
            self.forget(key);
        } else if known.queued_use == 0 {
            known.queued_use = known.used;
            self.by_use.push(Reverse((known.used, key)));
        }
    }

    /// Returns the last use and the key of the least recently used topic that nobody needs; when too many entries are
    /// out of date, the oldest of those looked at.
    ///
    /// Uses are not sorted as they happen, which would cost every publish: an entry that turns out to be out
    /// of date goes back with the true date, and one whose topic is needed when that ends.
    pub(crate) fn idlest(&mut self) -> Option<(u64, TopicKey)> {
        let mut seen: SmallVec<[(u64, TopicKey); EVICTION_TRIES]> = SmallVec::new();
        while seen.len() < EVICTION_TRIES
            && let Some(Reverse((used, key))) = self.by_use.pop()
        {
            if !is_queued(&self.known, used, key) {
                continue;
            }
            let known = &mut self.known[key as usize];
            if known.is_needed() {
                known.queued_use = 0;
                continue;
            }
            known.queued_use = known.used;
            seen.push((known.used, key));
            if known.used == used {
                break;
            }
        }
        let oldest = seen.iter().copied().min();
        self.by_use.extend(seen.into_iter().map(Reverse));
        oldest
    }

    /// Returns the number of uses so far.
    pub(crate) fn clock(&self) -> u64 {
        self.use_clock
    }

    /// Sets the number of uses to that of another home of the shard, so that their topics can be compared.
    pub(crate) fn set_clock(&mut self, uses: u64) {
        self.use_clock = uses;
    }

    /// Forgets a topic that nobody needs, with its events.
    pub(crate) fn forget(&mut self, key: TopicKey) {
        let KnownTopic { topic, history, lost, lost_at_first, parent, .. } = *self.known.remove(key as usize);
        self.names.remove(&topic);
        if !topic.is_everything() {
            self.count.remove_known();
            self.counted -= 1;
        }
        self.bytes -= history.bytes();
        self.events -= history.len();
        if let Some(dropped) = &mut self.dropped {
            dropped.extend(history.after(0).map(|event| DroppedFrame {
                sequence: event.sequence,
                frame_bytes: event.frame.len(),
                has_own_id: event.has_own_id,
            }));
        }
        let lost = history.into_end().or_later(&lost);
        self.forgotten.note(topic.name(), lost.clone());
        if let Some(parent) = parent {
            if lost.sequence > lost_at_first {
                self.lose(parent, lost);
            }
            self.known[parent as usize].children -= 1;
            self.forget_if_unneeded(parent);
        }
    }

    /// Records a lost event of this topic, or of one below it, here and in all above.
    pub(super) fn lose(&mut self, key: TopicKey, lost: TopicEnd) {
        let KnownTopic { parent, lost: known, .. } = &mut *self.known[key as usize];
        let is_news = lost.sequence > known.sequence;
        match *parent {
            Some(parent) => {
                if is_news {
                    *known = lost.clone();
                }
                // Recurses no deeper than a path, which has eight segments at most.
                self.lose(parent, lost);
            }
            None if is_news => *known = lost,
            None => {}
        }
    }

    /// Drops the oldest event of a topic.
    pub(super) fn drop_first(&mut self, key: TopicKey) {
        if let Some(FirstDropped { bytes, frame_bytes, lost }) = self.known[key as usize].history.drop_first()
        {
            self.bytes -= bytes;
            self.events -= 1;
            let has_own_id = lost.own_id.is_some();
            self.note_dropped(DroppedFrame { sequence: lost.sequence, frame_bytes, has_own_id });
            self.lose(key, lost);
        }
    }

    /// Records an event that is not retained, if these are recorded.
    pub(super) fn note_dropped(&mut self, event: DroppedFrame) {
        if let Some(dropped) = &mut self.dropped {
            dropped.push(event);
        }
    }

    /// Starts to record dropped events.
    pub(crate) fn note_what_is_dropped(&mut self) {
        self.dropped = Some(Vec::new());
    }

    /// Returns the events that were dropped since the last call.
    pub(super) fn take_dropped(&mut self) -> Vec<DroppedFrame> {
        self.dropped.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Returns the newest event of the topic itself, those under way included.
    pub(crate) fn newest(&self, key: TopicKey) -> TopicEnd {
        let KnownTopic { lost, under_way, history, .. } = &self[key];
        match (under_way, history.newest()) {
            (Some(under_way), _) => (**under_way).clone(),
            (None, Some(newest)) => newest,
            (None, None) => lost.clone(),
        }
    }

    /// Records the newest event of a topic that the journal has.
    pub(crate) fn set_under_way(&mut self, key: TopicKey, newest: TopicEnd) {
        self.known[key as usize].under_way = Some(Box::new(newest));
    }

    /// Records that no event of a topic up to this one is under way any more.
    pub(crate) fn given_back(&mut self, key: TopicKey, upto: Sequence) {
        let under_way = &mut self.known[key as usize].under_way;
        if under_way.as_ref().is_some_and(|newest| newest.sequence <= upto) {
            *under_way = None;
        }
    }

    /// Returns whether this topic retains an event. Sequences are never used twice, so a topic whose oldest event is
    /// not newer retains it, and a key that went to another topic does not match.
    pub(super) fn retains(&self, key: TopicKey, sequence: Sequence) -> bool {
        let first = self.get(key).and_then(|known| known.history.first());
        first.is_some_and(|first| first <= sequence)
    }

    fn get(&self, key: TopicKey) -> Option<&KnownTopic> {
        Some(self.known.get(key as usize)?)
    }

    /// Adds the newest event of a topic to its history.
    pub(super) fn retain(
        &mut self,
        key: TopicKey,
        sequence: Sequence,
        frame: Bytes,
        own_id: Option<&str>,
        now_ms: u64,
    ) {
        self.bytes += self.known[key as usize].history.append(sequence, frame, own_id, now_ms);
        self.events += 1;
    }

    /// Shrinks lists of which less than a quarter is in use.
    pub(super) fn shrink(&mut self) {
        let topics = self.known.len();
        if topics < self.names.capacity() / 4 {
            self.names.shrink_to(2 * topics);
            self.known.shrink_to_fit();
        }
        if self.by_use.len() > 2 * topics + 64 {
            self.by_use.retain(|Reverse((used, key))| is_queued(&self.known, *used, *key));
            self.by_use.shrink_to(2 * topics);
        }
    }

    /// Returns the capacity of each list, in entries.
    #[cfg(test)]
    pub(crate) fn capacities(&self) -> [usize; 3] {
        [self.names.capacity(), self.known.capacity(), self.by_use.capacity()]
    }
}

impl std::ops::Index<TopicKey> for Topics {
    type Output = KnownTopic;

    fn index(&self, key: TopicKey) -> &KnownTopic {
        &self.known[key as usize]
    }
}

impl KnownTopic {
    /// Returns whether it must stay for now.
    fn is_needed(&self) -> bool {
        self.holders > 0 || self.children > 0
    }

    /// Returns whether it, or one below it, is held.
    fn is_held(&self) -> bool {
        self.holders > 0 || self.held_children > 0
    }
}

/// Returns whether an entry of [`Topics::by_use`] is its topic's current one, and not left over.
fn is_queued(known: &Slab<Box<KnownTopic>>, used: u64, key: TopicKey) -> bool {
    known.get(key as usize).is_some_and(|known| known.queued_use == used)
}
