//! The one writer of each topic: it gives events their place and id, serialises them once, and keeps their
//! history.
//!
//! A home decides and says what to post; it sees no socket, no clock and no channel.
//!
//! With namespaces its topics form a tree, with everything at the root. An event is kept once, by its own topic, and
//! the order of ages is the order of the whole home: a subscriber to a parent replays from that.

mod forgotten;
mod frames;
mod history;
mod replay;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::sync::Arc;

use slab::Slab;
use smallvec::SmallVec;

use crate::core::budget::Charge;
use crate::core::chunk::{Chunk, Mark};
use crate::core::delivery_count::DeliveryCount;
use crate::core::event::Events;
use crate::core::event_id::{Epoch, Sequence};
use crate::core::memory::Memory;
use crate::core::message::{
    Message, Post, PublishError, Published, Reply, ReplyTo, ShardId, ToFanout, ToHome,
};
use crate::core::topic::{Topic, TopicMap};

use forgotten::{Forgotten, TopicEnd};
use frames::Frames;
use history::History;
pub(crate) use replay::PAGE_FRAMES_MAX;

/// How many topics are looked at to find an idle one before a new topic is refused: bounds one publish's
/// work.
const EVICTION_TRIES: usize = 64;

/// What a home may keep.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HomeLimits {
    /// Events retained per topic; 0 switches history and ids off.
    pub(crate) history_events_max: usize,
    pub(crate) history_bytes_max: usize,
    pub(crate) history_age_max_ms: u64,
    /// Topics known to this home.
    pub(crate) topics_max: usize,
    /// Frames of one page of replay.
    pub(crate) page_frames_max: usize,
}

/// The topics whose home one shard is.
#[derive(Debug)]
pub(crate) struct Home {
    shard: ShardId,
    limits: HomeLimits,
    memory: Arc<Memory>,
    epoch: Epoch,
    sequence: Sequence,
    names: TopicMap<u32>,
    /// Boxed, because the places of topics that are gone are kept.
    topics: Slab<Box<HomeTopic>>,
    /// All retained events of all topics, oldest first. An entry whose event was dropped by its topic's own limit is
    /// stale; they are swept out when they outnumber the rest.
    by_age: VecDeque<Aged>,
    /// Those of them with a publisher's own id, stale ones among them as well.
    own_by_age: VecDeque<Aged>,
    /// One entry per topic, the least recently used first; `used` may be older than the topic's, see
    /// [`Home::evict`].
    by_use: BinaryHeap<Reverse<(u64, u32)>>,
    /// Counts uses, so that topics can be told apart by when they were used last.
    use_clock: u64,
    /// Where topics ended that were forgotten: whoever resumes before that is told of a gap.
    forgotten: Forgotten,
    events: usize,
    bytes: usize,
}

/// A retained event's place in the order of ages, which is the order of the whole home.
#[derive(Clone, Copy, Debug)]
struct Aged {
    topic: u32,
    /// Whether it has a publisher's own id.
    own_id: bool,
    sequence: Sequence,
}

#[derive(Debug)]
struct HomeTopic {
    topic: Topic,
    /// The topic above it; it stays for as long as this one.
    parent: Option<u32>,
    /// Topics right below it.
    children: u32,
    /// The newest event of its own, or of those below it, that is no longer retained.
    lost: TopicEnd,
    /// What counted as lost when it came, because topics were forgotten: it may never have had that.
    lost_at_first: Sequence,
    /// Shards with subscribers. Few: a linear look-up beats a set.
    members: SmallVec<[ShardId; 4]>,
    history: History,
    used: u64,
    /// What its entry in `by_use` says; 0 while it has none.
    queued_use: u64,
}

impl Home {
    pub(crate) fn new(shard: ShardId, epoch: Epoch, limits: HomeLimits, memory: Arc<Memory>) -> Self {
        Home {
            shard,
            limits,
            memory,
            epoch,
            sequence: 0,
            names: TopicMap::default(),
            topics: Slab::new(),
            by_age: VecDeque::new(),
            own_by_age: VecDeque::new(),
            by_use: BinaryHeap::new(),
            use_clock: 0,
            forgotten: Forgotten::default(),
            events: 0,
            bytes: 0,
        }
    }

    /// Does what a shard asks and adds what is to be posted to `out`; returns how many events it ordered.
    pub(crate) fn handle(&mut self, message: ToHome, now_ms: u64, out: &mut Vec<Post>) -> u64 {
        let before = self.sequence;
        self.take(message, now_ms, out);
        self.sequence - before
    }

    fn take(&mut self, message: ToHome, now_ms: u64, out: &mut Vec<Post>) {
        match message {
            ToHome::Publish { topic, events, reply, at_us, charge } => {
                let first = out.len();
                let result = self.publish(topic, &events, now_ms, at_us, charge, out);
                match (reply, result) {
                    (ReplyTo::Emitter(ticket), Ok(published)) => {
                        let count = DeliveryCount::new(ticket, Some(published));
                        for post in &mut out[first..] {
                            if let Message::Fanout(ToFanout::Events { delivery_count, .. }) =
                                &mut post.message
                            {
                                *delivery_count = Some(Arc::clone(&count));
                            }
                        }
                        // It is answered now if nobody listens.
                        out.extend(count.add(0).map(Post::from));
                    }
                    (ReplyTo::Emitter(ticket) | ReplyTo::Connection(ticket), result) => {
                        out.push(Post::from((ticket, Reply::Published(result))));
                    }
                    (ReplyTo::Caller(caller), result) => caller.call(result),
                }
            }
            ToHome::Join { selection, from, key, last_event_id } => {
                self.join(selection, from, key, last_event_id, out);
            }
            ToHome::More { selection, from, key, after, told } => {
                self.more(selection, from, key, after, told, out);
            }
            ToHome::Leave { topic, from } => self.leave(&topic, from),
            ToHome::Disconnect { topic, shards, ticket } => {
                let count = DeliveryCount::new(ticket, None);
                out.extend((0..shards).map(|to| {
                    let (topic, upto, delivery_count) = (topic.clone(), self.sequence, Arc::clone(&count));
                    let message = ToFanout::Disconnect { topic, upto, delivery_count };
                    Post { to, message: Message::Fanout(message) }
                }));
            }
        }
    }

    /// Topics known.
    pub(crate) fn topics(&self) -> usize {
        self.topics.len()
    }

    /// Bytes of history retained, all costs in.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// When the oldest event of all was ordered, in milliseconds of the server's clock.
    pub(crate) fn oldest_at_ms(&mut self) -> Option<u64> {
        self.oldest().map(|(_, at_ms)| at_ms)
    }

    /// Drops what is past its age, at most `events_max` events; returns whether there is more.
    pub(crate) fn expire(&mut self, now_ms: u64, events_max: usize) -> bool {
        let age_max_ms = self.limits.history_age_max_ms;
        self.drop_oldest(events_max, |_, at_ms| now_ms.saturating_sub(at_ms) > age_max_ms)
    }

    /// Drops the oldest events of all topics until `bytes` are freed or nothing is left.
    pub(crate) fn release(&mut self, bytes: usize) {
        let target = self.bytes.saturating_sub(bytes);
        self.drop_oldest(usize::MAX, |home, _| home.bytes > target);
    }

    /// Drops the oldest event, and its topic if nothing is left of that, for as long as `drops` says so of the home and
    /// of when the event was ordered; returns whether it still does after `events_max`.
    fn drop_oldest(&mut self, events_max: usize, drops: impl Fn(&Home, u64) -> bool) -> bool {
        for _ in 0..events_max {
            match self.oldest() {
                Some((topic, at_ms)) if drops(self, at_ms) => {
                    self.drop_first(topic);
                    self.forget_if_unneeded(topic);
                }
                _ => {
                    self.shrink();
                    return false;
                }
            }
        }
        true
    }

    /// Lets go of memory that what is left does not need, once that is less than a quarter.
    fn shrink(&mut self) {
        let (topics, events) = (self.topics.len(), self.by_age.len());
        if topics < self.names.capacity() / 4 {
            self.names.shrink_to(2 * topics);
            self.topics.shrink_to_fit();
        }
        if events < self.by_age.capacity() / 4 {
            self.by_age.shrink_to(2 * events);
            self.own_by_age.shrink_to(2 * self.own_by_age.len());
        }
        if self.by_use.len() > 2 * topics + 64 {
            self.by_use.retain(|Reverse((used, key))| is_queued(&self.topics, *used, *key));
            self.by_use.shrink_to(2 * topics);
        }
    }

    fn publish(
        &mut self,
        topic: Topic,
        events: &Events,
        now_ms: u64,
        at_us: u64,
        charge: Charge,
        out: &mut Vec<Post>,
    ) -> Result<Published, PublishError> {
        let history_on = self.limits.history_events_max > 0;
        let key = match self.names.get(&topic) {
            Some(&key) => Some(key),
            None if history_on => Some(self.find_or_insert(&topic).ok_or(PublishError::TopicsFull)?),
            // Nothing is kept: it goes to those above, or is ordered and gone.
            None => self.nearest_above(&topic),
        };

        let Frames { frames, marks, last_id, ids_replaced } = self.serialise(events, history_on);
        let published = Published { last_id, events: marks.len() as u32, ids_replaced, streams: None };
        let Some(key) = key else { return Ok(published) };

        self.touch(key);
        if history_on {
            self.remember(key, events, &frames, &marks, now_ms);
        }
        let charge = Arc::new(charge);
        for (to, topics) in self.listeners(key) {
            let message = ToFanout::Events {
                home: self.shard,
                topics,
                frames: frames.clone(),
                marks: marks.clone(),
                count: published.events,
                last: self.sequence,
                at_us,
                charge: Some(Arc::clone(&charge)),
                delivery_count: None,
            };
            out.push(Post { to, message: Message::Fanout(message) });
        }
        // Too large for its history: it is ordered and gone.
        self.forget_if_unneeded(key);
        Ok(published)
    }

    /// The shards with subscribers of this topic or of one above it, and of which.
    fn listeners(&self, key: u32) -> SmallVec<[(ShardId, SmallVec<[Topic; 1]>); 4]> {
        let mut listeners = SmallVec::<[(ShardId, SmallVec<[Topic; 1]>); 4]>::new();
        for key in self.with_parents(key) {
            let HomeTopic { topic, members, .. } = &*self.topics[key as usize];
            for member in members {
                match listeners.iter_mut().find(|(shard, _)| shard == member) {
                    Some((_, topics)) => topics.push(topic.clone()),
                    None => listeners.push((*member, [topic.clone()].into())),
                }
            }
        }
        listeners
    }

    /// A topic and those above it, upwards.
    fn with_parents(&self, key: u32) -> impl Iterator<Item = u32> {
        std::iter::successors(Some(key), |key| self.topics[*key as usize].parent)
    }

    /// The nearest topic above this one that is known.
    fn nearest_above(&self, topic: &Topic) -> Option<u32> {
        topic.lineage().skip(1).find_map(|above| self.names.get(above).copied())
    }

    fn remember(&mut self, key: u32, events: &Events, frames: &Chunk, marks: &[Mark], now_ms: u64) {
        let mut start = 0;
        for (event, &Mark { sequence, end, .. }) in events.iter().zip(marks) {
            let end = end as usize;
            let frame = match marks.len() {
                1 => frames.slice(0..end),
                // Of its own: a small event that outlives a large one of the same publish must not keep its
                // memory.
                _ => self.memory.share(frames.frames()[start..end].to_vec()),
            };
            let history = &mut self.topics[key as usize].history;
            let own_id = event.own_id();
            self.bytes += history.append(sequence, frame, own_id, now_ms);
            self.events += 1;
            let aged = Aged { topic: key, own_id: own_id.is_some(), sequence };
            if aged.own_id {
                self.own_by_age.push_back(aged);
            }
            self.by_age.push_back(aged);
            start = end;
        }
        let HomeLimits { history_events_max, history_bytes_max, .. } = self.limits;
        loop {
            let history = &self.topics[key as usize].history;
            if history.len() <= history_events_max && history.bytes() <= history_bytes_max {
                break;
            }
            self.drop_first(key);
        }
        // Twice as long as it needs to be: sweeping it now costs each event of the past a constant.
        for ages in [&mut self.by_age, &mut self.own_by_age] {
            if ages.len() > 2 * self.events + 64 {
                ages.retain(|aged| is_retained(&self.topics, aged));
            }
        }
    }

    fn leave(&mut self, topic: &Topic, from: ShardId) {
        let Some(&key) = self.names.get(topic) else { return };
        self.touch(key);
        self.topics[key as usize].members.retain(|member| *member != from);
        self.forget_if_unneeded(key);
    }

    /// Forgets a topic without subscribers, children and events. One with events alone may be forgotten to make room.
    fn forget_if_unneeded(&mut self, key: u32) {
        let home_topic = &mut self.topics[key as usize];
        if home_topic.is_needed() {
            return;
        }
        if home_topic.history.len() == 0 {
            self.forget(key);
        } else if home_topic.queued_use == 0 {
            home_topic.queued_use = home_topic.used;
            self.by_use.push(Reverse((home_topic.used, key)));
        }
    }

    fn touch(&mut self, key: u32) {
        self.use_clock += 1;
        self.topics[key as usize].used = self.use_clock;
    }

    /// The topic's place, and those above it with it.
    fn find_or_insert(&mut self, topic: &Topic) -> Option<u32> {
        if let Some(&key) = self.names.get(topic) {
            return Some(key);
        }
        let parent = match topic.parent() {
            // As deep as a path may be, which is eight segments.
            Some(parent) => Some(self.find_or_insert(parent)?),
            None => None,
        };
        if let Some(parent) = parent {
            // Counted first, so that it does not make room for its own child.
            self.topics[parent as usize].children += 1;
        }
        let key = self.insert(topic.clone(), parent);
        if let (None, Some(parent)) = (key, parent) {
            self.topics[parent as usize].children -= 1;
            self.forget_if_unneeded(parent);
        }
        key
    }

    fn insert(&mut self, topic: Topic, parent: Option<u32>) -> Option<u32> {
        if self.topics.len() >= self.limits.topics_max && !self.evict() {
            return None;
        }
        self.use_clock += 1;
        let used = self.use_clock;
        let lost = self.forgotten.end(&topic);
        // Below `topics_max`, which is far below 2^32.
        let key = self.topics.insert(Box::new(HomeTopic {
            topic: topic.clone(),
            parent,
            children: 0,
            lost_at_first: lost.sequence,
            lost,
            members: SmallVec::new(),
            history: History::default(),
            used,
            queued_use: used,
        })) as u32;
        self.names.insert(topic, key);
        self.by_use.push(Reverse((used, key)));
        Some(key)
    }

    /// Forgets a topic that has no subscribers and none below it: the one used longest ago, or, when too many dates are out of
    /// date, the oldest of those looked at. False when all topics have subscribers.
    ///
    /// Uses are not sorted as they happen, which would cost every publish: an entry that turns out to be out
    /// of date goes back with the true date, and one whose topic has subscribers when the last of them
    /// leaves.
    fn evict(&mut self) -> bool {
        let mut seen: SmallVec<[(u64, u32); EVICTION_TRIES]> = SmallVec::new();
        while seen.len() < EVICTION_TRIES
            && let Some(Reverse((used, key))) = self.by_use.pop()
        {
            if !is_queued(&self.topics, used, key) {
                continue;
            }
            let home_topic = &mut self.topics[key as usize];
            if home_topic.is_needed() {
                home_topic.queued_use = 0;
                continue;
            }
            home_topic.queued_use = home_topic.used;
            seen.push((home_topic.used, key));
            if home_topic.used == used {
                break;
            }
        }
        let oldest = seen.iter().copied().min();
        self.by_use.extend(seen.into_iter().filter(|entry| Some(*entry) != oldest).map(Reverse));
        let Some((_, key)) = oldest else { return false };
        self.forget(key);
        true
    }

    fn forget(&mut self, key: u32) {
        let HomeTopic { topic, history, lost, lost_at_first, parent, .. } = *self.topics.remove(key as usize);
        self.names.remove(&topic);
        self.bytes -= history.bytes();
        self.events -= history.len();
        let lost = history.into_end().or_later(&lost);
        self.forgotten.note(&topic, lost.clone());
        if let Some(parent) = parent {
            if lost.sequence > lost_at_first {
                self.lose(parent, lost);
            }
            self.topics[parent as usize].children -= 1;
            self.forget_if_unneeded(parent);
        }
    }

    /// Remembers that an event of this topic, or below it, is no longer retained, in those above it as well.
    fn lose(&mut self, key: u32, lost: TopicEnd) {
        let HomeTopic { parent, lost: known, .. } = &mut *self.topics[key as usize];
        let is_news = lost.sequence > known.sequence;
        match *parent {
            Some(parent) => {
                if is_news {
                    *known = lost.clone();
                }
                // As deep as a path may be, which is eight segments.
                self.lose(parent, lost);
            }
            None if is_news => *known = lost,
            None => {}
        }
    }

    /// The topic that holds the oldest retained event of all, and when that was ordered.
    fn oldest(&mut self) -> Option<(u32, u64)> {
        loop {
            let aged = self.by_age.front()?;
            if is_retained(&self.topics, aged)
                && let Some(at_ms) = self.topics[aged.topic as usize].history.first_at_ms()
            {
                return Some((aged.topic, at_ms));
            }
            self.by_age.pop_front();
        }
    }

    fn drop_first(&mut self, key: u32) {
        if let Some((bytes, lost)) = self.topics[key as usize].history.drop_first() {
            self.bytes -= bytes;
            self.events -= 1;
            self.lose(key, lost);
        }
    }
}

impl HomeTopic {
    /// Whether somebody listens, or to one below it.
    fn is_needed(&self) -> bool {
        !self.members.is_empty() || self.children > 0
    }
}

/// Whether an entry of [`Home::by_use`] is a topic's, and not left over from one that is gone.
fn is_queued(topics: &Slab<Box<HomeTopic>>, used: u64, key: u32) -> bool {
    topics.get(key as usize).is_some_and(|topic| topic.queued_use == used)
}

/// Sequences are never used twice, so a topic that holds nothing older than this event holds it, and a key
/// that went to another topic does not.
fn is_retained(topics: &Slab<Box<HomeTopic>>, aged: &Aged) -> bool {
    let first = topics.get(aged.topic as usize).and_then(|topic| topic.history.first());
    first.is_some_and(|first| first <= aged.sequence)
}

#[cfg(test)]
mod tests;
