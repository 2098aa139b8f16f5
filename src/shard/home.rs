//! The one writer of each topic: it gives events their place and id, serialises them once, and keeps their
//! history.
//!
//! A home decides and says what to post; it sees no socket, no clock and no channel.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use slab::Slab;
use smallvec::SmallVec;

use crate::arena::Key;
use crate::budget::Charge;
use crate::event::Events;
use crate::event_id::{Epoch, EventId, Sequence};
use crate::memory::Memory;
use crate::shard::history::{GapReason, History};
use crate::shard::message::{Gap, Message, Post, PublishError, Published, ShardId, ToFanout, ToHome};
use crate::topic::{Topic, TopicMap};

/// A page of replay: large enough that a page costs a subscriber one round trip to home per 64 KiB, small
/// enough that a slow one holds little.
const PAGE_BYTES_MAX: usize = 64 << 10;
/// And so many frames: a page's handles (32 bytes each here, 16 more in the kernel's list) are what a
/// replaying subscriber holds of its own, 6 KiB at most, and the pages of one turn stay about a millisecond.
pub(crate) const PAGE_FRAMES_MAX: usize = 128;
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
    limits: HomeLimits,
    memory: Arc<Memory>,
    epoch: Epoch,
    sequence: Sequence,
    names: TopicMap<u32>,
    topics: Slab<HomeTopic>,
    /// All retained events of all topics, oldest first, as (topic, sequence). An entry whose event was
    /// dropped by its topic's own limit is stale; they are swept out when they outnumber the rest.
    by_age: VecDeque<(u32, Sequence)>,
    /// One entry per topic, the least recently used first; `used` may be older than the topic's, see
    /// [`Home::evict`].
    by_use: BinaryHeap<Reverse<(u64, u32)>>,
    /// Counts uses, so that topics can be told apart by when they were used last.
    use_clock: u64,
    /// The newest event of any topic that was forgotten with its history: whoever resumes before it is told
    /// of a gap.
    forgotten: Sequence,
    events: usize,
    bytes: usize,
}

#[derive(Debug)]
struct HomeTopic {
    topic: Topic,
    /// Shards with subscribers. Few: a linear look-up beats a set.
    members: SmallVec<[ShardId; 4]>,
    history: History,
    used: u64,
    /// Whether it has an entry in `by_use`.
    queued: bool,
}

impl Home {
    pub(crate) fn new(epoch: Epoch, limits: HomeLimits, memory: Arc<Memory>) -> Self {
        Home {
            limits,
            memory,
            epoch,
            sequence: 0,
            names: TopicMap::default(),
            topics: Slab::new(),
            by_age: VecDeque::new(),
            by_use: BinaryHeap::new(),
            use_clock: 0,
            forgotten: 0,
            events: 0,
            bytes: 0,
        }
    }

    /// Does what a shard asks and adds what is to be posted to `out`.
    pub(crate) fn handle(&mut self, message: ToHome, now_ms: u64, out: &mut Vec<Post>) {
        match message {
            ToHome::Publish { topic, events, ticket, at_us, charge } => {
                let result = self.publish(topic, &events, now_ms, at_us, charge, out);
                out.push(Post { to: ticket.shard, message: Message::Answer(ticket, result) });
            }
            ToHome::Join { topic, from, key, last_event_id } => {
                self.join(topic, from, key, last_event_id, out)
            }
            ToHome::More { topic, from, key, after } => self.page(topic, from, key, after, None, out),
            ToHome::Leave { topic, from } => self.leave(&topic, from),
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

    /// Drops what is past its age.
    pub(crate) fn expire(&mut self, now_ms: u64) {
        while let Some((topic, at_ms)) = self.oldest() {
            if now_ms.saturating_sub(at_ms) <= self.limits.history_age_max_ms {
                break;
            }
            self.drop_first(topic);
        }
    }

    /// Drops the oldest events of all topics until `bytes` are freed or nothing is left.
    pub(crate) fn release(&mut self, bytes: usize) {
        let target = self.bytes.saturating_sub(bytes);
        while self.bytes > target
            && let Some((topic, _)) = self.oldest()
        {
            self.drop_first(topic);
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
            None if history_on => Some(self.insert(topic.clone()).ok_or(PublishError::TopicsFull)?),
            // Nobody listens and nothing is kept: the event is ordered and gone.
            None => None,
        };

        let first = self.sequence + 1;
        let Frames { frames, ends, last_id } = self.serialise(events, history_on);
        let published = Published { last_id, events: ends.len() as u32 };
        let Some(key) = key else { return Ok(published) };

        self.touch(key);
        if history_on {
            self.remember(key, events, first, &frames, &ends, now_ms);
        }
        let charge = Arc::new(charge);
        for &to in &self.topics[key as usize].members {
            let message = ToFanout::Events {
                topic: topic.clone(),
                frames: frames.clone(),
                count: published.events,
                last: self.sequence,
                at_us,
                charge: Arc::clone(&charge),
            };
            out.push(Post { to, message: Message::Fanout(message) });
        }
        Ok(published)
    }

    /// Gives each event its place and writes all frames, one behind the other, into one allocation.
    fn serialise(&mut self, events: &Events, with_ids: bool) -> Frames {
        let last = self.sequence + events.len() as u64;
        // `id:...\n` and the blank line: exact but where a batch crosses a power of ten, so that what the
        // history accounts for is what the heap holds.
        let tail_bytes = "id:".len() + self.epoch.text_bytes(last) + 2;
        let mut text = Vec::with_capacity(events.text_bytes() + events.len() * tail_bytes);
        let mut ends = SmallVec::new();
        let mut last_id = EventId::Sequence(self.sequence);
        for event in events.iter() {
            self.sequence += 1;
            text.extend_from_slice(event.lines);
            last_id = match event.id {
                Some(id) => EventId::Own(id.into()),
                None => EventId::Sequence(self.sequence),
            };
            if with_ids && event.id.is_none() {
                // Last of the event's lines: an empty `id:` of the publisher's before it is overruled.
                text.extend_from_slice(b"id:");
                self.epoch.write(self.sequence, &mut text);
                text.push(b'\n');
            }
            text.push(b'\n');
            ends.push(text.len());
        }
        Frames { frames: self.memory.share(text), ends, last_id }
    }

    fn remember(
        &mut self,
        key: u32,
        events: &Events,
        first: Sequence,
        frames: &Bytes,
        ends: &[usize],
        now_ms: u64,
    ) {
        let mut start = 0;
        for ((event, &end), sequence) in events.iter().zip(ends).zip(first..) {
            let frame = match ends.len() {
                1 => frames.clone(),
                // Of its own: a small event that outlives a large one of the same publish must not keep its
                // memory.
                _ => self.memory.share(frames[start..end].to_vec()),
            };
            let history = &mut self.topics[key as usize].history;
            self.bytes += history.append(sequence, frame, event.id, now_ms);
            self.events += 1;
            self.by_age.push_back((key, sequence));
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
        if self.by_age.len() > 2 * self.events + 64 {
            let topics = &self.topics;
            self.by_age.retain(|(key, sequence)| is_retained(topics, *key, *sequence));
        }
    }

    fn join(
        &mut self,
        topic: Topic,
        from: ShardId,
        key: Key,
        last_id: Option<Box<str>>,
        out: &mut Vec<Post>,
    ) {
        let Some(topic_key) = self.find_or_insert(&topic) else {
            out.push(Post { to: from, message: Message::Fanout(ToFanout::Refused { key }) });
            return;
        };
        // Without history no id means anything, and the stream holds the publisher's lines alone.
        let Some(last_id) = last_id.filter(|_| self.limits.history_events_max > 0) else {
            self.admit(topic_key, from);
            let page =
                ToFanout::Page { key, gap: None, frames: Vec::new(), upto: self.sequence, joined: true };
            out.push(Post { to: from, message: Message::Fanout(page) });
            return;
        };
        let history = &self.topics[topic_key as usize].history;
        let (after, reason) = history.resume(&last_id, self.epoch, self.sequence);
        let gap = reason.map(|reason| Gap { from: Some(last_id), reason, id: None });
        self.page(topic, from, key, after, gap, out);
    }

    /// Posts the page after `after`. The last one admits the shard, so that its place in the channel is the
    /// seam between replay and live events.
    fn page(
        &mut self,
        topic: Topic,
        from: ShardId,
        key: Key,
        after: Sequence,
        gap: Option<Gap>,
        out: &mut Vec<Post>,
    ) {
        let Some(topic_key) = self.find_or_insert(&topic) else {
            out.push(Post { to: from, message: Message::Fanout(ToFanout::Refused { key }) });
            return;
        };
        let page =
            self.topics[topic_key as usize].history.page(after, PAGE_BYTES_MAX, self.limits.page_frames_max);
        let joined = !page.more;
        if joined {
            self.admit(topic_key, from);
        }
        let epoch = self.epoch;
        let missed = || Gap {
            from: (after > 0).then(|| epoch.text(after).into()),
            reason: GapReason::Trimmed,
            id: None,
        };
        let is_empty = page.frames.is_empty();
        // An unknown id begins at 0 and says so already; what was dropped since the last page is news.
        let gap = gap
            .or_else(|| page.gap.then(missed))
            .map(|gap| Gap { id: is_empty.then(|| epoch.text(self.sequence).into()), ..gap });
        let message = ToFanout::Page { key, gap, frames: page.frames, upto: page.upto, joined };
        out.push(Post { to: from, message: Message::Fanout(message) });
    }

    fn leave(&mut self, topic: &Topic, from: ShardId) {
        let Some(&key) = self.names.get(topic) else { return };
        self.touch(key);
        let home_topic = &mut self.topics[key as usize];
        home_topic.members.retain(|member| *member != from);
        if !home_topic.members.is_empty() {
            return;
        }
        if self.limits.history_events_max == 0 {
            self.names.remove(topic);
            self.topics.remove(key as usize);
        } else if !std::mem::replace(&mut home_topic.queued, true) {
            self.by_use.push(Reverse((home_topic.used, key)));
        }
    }

    fn admit(&mut self, key: u32, from: ShardId) {
        self.touch(key);
        let members = &mut self.topics[key as usize].members;
        if !members.contains(&from) {
            members.push(from);
        }
    }

    fn touch(&mut self, key: u32) {
        self.use_clock += 1;
        self.topics[key as usize].used = self.use_clock;
    }

    fn find_or_insert(&mut self, topic: &Topic) -> Option<u32> {
        match self.names.get(topic) {
            Some(&key) => Some(key),
            None => self.insert(topic.clone()),
        }
    }

    fn insert(&mut self, topic: Topic) -> Option<u32> {
        if self.topics.len() >= self.limits.topics_max && !self.evict() {
            return None;
        }
        self.use_clock += 1;
        let used = self.use_clock;
        let history = History::new(self.forgotten);
        // Below `topics_max`, which is far below 2^32.
        let key = self.topics.insert(HomeTopic {
            topic: topic.clone(),
            members: SmallVec::new(),
            history,
            used,
            queued: self.limits.history_events_max > 0,
        }) as u32;
        self.names.insert(topic, key);
        if self.limits.history_events_max > 0 {
            self.by_use.push(Reverse((used, key)));
        }
        Some(key)
    }

    /// Forgets a topic without subscribers: the one used longest ago, or, when too many dates are out of
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
            let home_topic = &mut self.topics[key as usize];
            if !home_topic.members.is_empty() {
                home_topic.queued = false;
                continue;
            }
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
        let home_topic = self.topics.remove(key as usize);
        self.names.remove(&home_topic.topic);
        self.bytes -= home_topic.history.bytes();
        self.events -= home_topic.history.len();
        self.forgotten = self.forgotten.max(home_topic.history.last().unwrap_or(0));
    }

    /// The topic that holds the oldest retained event of all, and when that was ordered.
    fn oldest(&mut self) -> Option<(u32, u64)> {
        loop {
            let &(key, sequence) = self.by_age.front()?;
            if is_retained(&self.topics, key, sequence)
                && let Some(at_ms) = self.topics[key as usize].history.first_at_ms()
            {
                return Some((key, at_ms));
            }
            self.by_age.pop_front();
        }
    }

    fn drop_first(&mut self, key: u32) {
        self.bytes -= self.topics[key as usize].history.drop_first();
        self.events -= 1;
    }
}

/// Frames as they are written, before anyone shares them.
struct Frames {
    frames: Bytes,
    /// Where each frame ends.
    ends: SmallVec<[usize; 4]>,
    last_id: EventId,
}

/// Sequences are never used twice, so a topic that holds nothing older than this event holds it, and a key
/// that went to another topic does not.
fn is_retained(topics: &Slab<HomeTopic>, key: u32, sequence: Sequence) -> bool {
    topics.get(key as usize).and_then(|topic| topic.history.first()).is_some_and(|first| first <= sequence)
}

#[cfg(test)]
mod tests;
