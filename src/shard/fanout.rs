//! The subscribers of one shard and the logs of their topics: what they gain, who is sent to, who is too
//! slow.
//!
//! Like [`Home`](crate::shard::home::Home) it decides and says what to post; connections ask it what to send.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::Waker;

use slab::Slab;

use crate::arena::{Arena, Key};
use crate::event_id::Epoch;
use crate::memory::Memory;
use crate::shard::log::Log;
use crate::shard::message::{Message, Post, ShardId, ToFanout, ToHome};
use crate::shard::subscriber::{Next, Opening, Outgoing, Stage, Subscriber};
use crate::shard::wire::{Framing, retry_field};
use crate::topic::{Topic, TopicMap};

/// Sends started for one topic before the next has its turn.
const TOPIC_SENDS_PER_TURN: usize = 64;
/// A trim by force goes this much below the limit, so that it is not needed for every block.
const TRIM_SLACK: usize = 8;
/// The time for a send while too much memory is held.
const SEND_TIMEOUT_OVER_MS: u64 = 1000;
/// Emptied lists of idle subscribers kept for the next block, so that a turn allocates none.
const SPARE_LISTS_MAX: usize = 64;

/// What a stream says before it ends because its token did; EventSource dispatches an event only with data.
const EXPIRED: &str = "event:expired\ndata:token expired\n\n";

/// How subscribers are treated.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FanoutLimits {
    /// Bytes a subscriber may be behind: the size of a topic's log on one shard.
    pub(crate) lag_bytes_max: usize,
    /// What ids begin with; none when there are no ids.
    pub(crate) epoch: Option<Epoch>,
    /// Skips a slow subscriber forward instead of closing it.
    pub(crate) skip_slow: bool,
    /// A comment after so long without anything else; 0 for none.
    pub(crate) heartbeat_ms: u64,
    /// A send that takes longer ends the connection.
    pub(crate) send_timeout_ms: u64,
    /// When closed subscribers are told to come back, in milliseconds, drawn at random from here...
    pub(crate) retry_min_ms: u64,
    /// ...to here.
    pub(crate) retry_max_ms: u64,
}

/// What a subscriber asks for.
#[derive(Debug)]
pub(crate) struct Subscription {
    pub(crate) topic: Topic,
    pub(crate) framing: Framing,
    pub(crate) last_event_id: Option<Box<str>>,
    /// Unix seconds; `u64::MAX` for never.
    pub(crate) expires_s: u64,
    pub(crate) opening: Opening,
}

/// The subscribers of a shard.
#[derive(Debug)]
pub(crate) struct Fanout {
    shard: ShardId,
    shards: usize,
    limits: FanoutLimits,
    names: TopicMap<u32>,
    topics: Slab<LocalTopic>,
    subscribers: Arena<Subscriber>,
    /// Topics that gained something this turn.
    gained: Vec<u32>,
    /// Idle subscribers that have a block to read, by topic, so that topics take turns.
    ready: VecDeque<Vec<u32>>,
    spare: Vec<Vec<u32>>,
    memory: Arc<Memory>,
    swept: u32,
    random: fastrand::Rng,
    /// Subscribers cut for being too slow.
    pub(crate) evicted: u64,
    /// Subscribers whose topic had no room, since this was last taken.
    pub(crate) refused: u64,
    pub(crate) fault: Fault,
}

#[derive(Debug)]
struct LocalTopic {
    topic: Topic,
    log: Log,
    subscribers: u32,
    /// Those with nothing to send, woken by the next block.
    idle: Vec<u32>,
    gained: bool,
}

/// A bug put in on purpose, to see that the simulation finds it. None is ever put in outside of tests.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) enum Fault {
    #[default]
    None,
    /// A newcomer's cursor starts in the middle of an open block.
    JoinWithoutSeal,
    /// A log is trimmed and those behind are not told.
    TrimUntold,
    /// A topic's new block wakes nobody.
    ForgottenWake,
}

impl Fanout {
    pub(crate) fn new(
        shard: ShardId,
        shards: usize,
        limits: FanoutLimits,
        memory: Arc<Memory>,
        seed: u64,
    ) -> Self {
        Fanout {
            shard,
            shards,
            limits,
            names: TopicMap::default(),
            topics: Slab::new(),
            subscribers: Arena::default(),
            gained: Vec::new(),
            ready: VecDeque::new(),
            spare: Vec::new(),
            memory,
            swept: 0,
            random: fastrand::Rng::with_seed(seed),
            evicted: 0,
            refused: 0,
            fault: Fault::None,
        }
    }

    /// Takes a subscriber in and asks the topic's home for it to join. Its response begins when home has
    /// answered.
    pub(crate) fn subscribe(&mut self, subscription: Subscription, now_ms: u64, out: &mut Vec<Post>) -> Key {
        let Subscription { topic, framing, last_event_id, expires_s, opening } = subscription;
        let local = match self.names.get(&topic) {
            Some(&local) => local,
            None => self.insert_topic(topic.clone()),
        };
        self.topics[local as usize].subscribers += 1;
        let key = self.subscribers.insert(Subscriber::new(local, framing, expires_s, opening, now_ms));
        self.post_home(topic, |topic, from| ToHome::Join { topic, from, key, last_event_id }, out);
        key
    }

    /// What the connection of a subscriber does now. It is woken by `waker` whenever it should ask again.
    pub(crate) fn next(&mut self, key: Key, waker: &Waker, now_ms: u64) -> Next {
        let Some(topic) = self.subscribers.get_mut(key).map(|subscriber| {
            subscriber.remember_waker(waker);
            subscriber.skips_now().then_some(subscriber.topic)
        }) else {
            return Next::Close;
        };
        if let Some(topic) = topic {
            // It goes on at the tail: what this turn gained so far lies before its gap, not after it.
            self.seal(topic);
        }
        let Some(subscriber) = self.subscribers.get_mut(key) else { return Next::Close };
        let local = &mut self.topics[subscriber.topic as usize];
        let next = subscriber.next(&mut local.log, self.limits.epoch, now_ms);
        if matches!(next, Next::Wait) && subscriber.is_idle() {
            local.list_idle(key.index, &mut subscriber.idle_at);
        }
        next
    }

    /// All bytes that [`Fanout::next`] gave for this subscriber went out.
    pub(crate) fn sent(&mut self, key: Key, now_ms: u64, out: &mut Vec<Post>) {
        let Some(subscriber) = self.subscribers.get_mut(key) else { return };
        let local = &mut self.topics[subscriber.topic as usize];
        if let Some(after) = subscriber.sent(&mut local.log, now_ms) {
            let topic = local.topic.clone();
            self.post_home(topic, |topic, from| ToHome::More { topic, from, key, after }, out);
        }
    }

    /// The connection of a subscriber is gone.
    pub(crate) fn leave(&mut self, key: Key, out: &mut Vec<Post>) {
        let Some(mut subscriber) = self.subscribers.remove(key) else { return };
        let local = &mut self.topics[subscriber.topic as usize];
        subscriber.close(&mut local.log);
        if let Some(moved) = local.unlist_idle(key.index, subscriber.idle_at)
            && let Some(other) = self.subscribers.at_mut(moved)
        {
            other.idle_at = subscriber.idle_at;
        }
        local.subscribers -= 1;
        if local.subscribers == 0 {
            let LocalTopic { topic, .. } = self.topics.remove(subscriber.topic as usize);
            self.names.remove(&topic);
            self.post_home(topic, |topic, from| ToHome::Leave { topic, from }, out);
        }
    }

    /// Takes what a home shard says.
    pub(crate) fn handle(&mut self, message: ToFanout) {
        match message {
            ToFanout::Events { topic, frames, count, last, at_us, charge: _given_back_now } => {
                // A home hears late that the last subscriber left: until then its events come to nobody.
                let Some(&key) = self.names.get(&topic) else { return };
                let local = &mut self.topics[key as usize];
                local.log.gain(frames, count, last, at_us);
                if !std::mem::replace(&mut local.gained, true) {
                    self.gained.push(key);
                }
            }
            ToFanout::Page { key, gap, frames, upto, joined } => {
                let Some(topic) = self.subscribers.get_mut(key).map(|subscriber| subscriber.topic) else {
                    return;
                };
                if joined && !self.has(Fault::JoinWithoutSeal) {
                    // The seam: what the open block holds was ordered before the page, and the page ends with
                    // it.
                    self.seal(topic);
                }
                let Some(subscriber) = self.subscribers.get_mut(key) else { return };
                let log = &mut self.topics[topic as usize].log;
                subscriber.page(log, gap.as_ref(), frames, upto, joined);
                subscriber.wake();
            }
            ToFanout::Refused { key } => {
                let retry = retry_field(self.retry_ms());
                if let Some(subscriber) = self.subscribers.get_mut(key) {
                    self.refused += 1;
                    subscriber.refused(&retry);
                    subscriber.wake();
                }
            }
        }
    }

    /// Ends the turn: what each topic gained becomes one block.
    pub(crate) fn seal_all(&mut self) {
        while let Some(topic) = self.gained.pop() {
            self.seal(topic);
        }
    }

    /// Sends to up to `sends_max` idle subscribers that have a block to read, topics taking turns. `send` is
    /// given a subscriber's index and bytes, and leaves of them what it could not send at once: that is for
    /// the subscriber's connection, which is woken. Returns whether more subscribers are waiting.
    pub(crate) fn start_sends(
        &mut self,
        sends_max: usize,
        now_ms: u64,
        mut send: impl FnMut(u32, &mut Outgoing),
    ) -> bool {
        let mut started = 0;
        while started < sends_max
            && let Some(mut list) = self.ready.pop_front()
        {
            let keep = list.len() - list.len().min(TOPIC_SENDS_PER_TURN).min(sends_max - started);
            started += list.len() - keep;
            list.drain(keep..).for_each(|index| self.start_send(index, now_ms, &mut send));
            if !list.is_empty() {
                self.ready.push_back(list);
            } else if self.spare.len() < SPARE_LISTS_MAX {
                self.spare.push(list);
            }
        }
        self.has_ready()
    }

    /// Whether subscribers wait for [`Fanout::start_sends`].
    pub(crate) fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    fn start_send(&mut self, index: u32, now_ms: u64, send: &mut impl FnMut(u32, &mut Outgoing)) {
        let Some(subscriber) = self.subscribers.at_mut(index) else { return };
        // One that left meanwhile may have a successor here, which is woken for nothing.
        if !subscriber.is_idle() {
            return subscriber.wake();
        }
        let local = &mut self.topics[subscriber.topic as usize];
        while let Next::Send(mut outgoing) = subscriber.next(&mut local.log, self.limits.epoch, now_ms) {
            send(index, &mut outgoing);
            if !outgoing.buffers.is_empty() {
                subscriber.keep_unsent(outgoing);
                return subscriber.wake();
            }
            subscriber.sent(&mut local.log, now_ms);
        }
        match subscriber.is_idle() {
            true => local.list_idle(index, &mut subscriber.idle_at),
            false => subscriber.wake(),
        }
    }

    /// Looks after one part in `parts` of the subscribers: expired tokens, stuck sends, heartbeats. While too
    /// much memory is held, a send has less time: what a slow client was sent is held until it has taken it.
    pub(crate) fn sweep(&mut self, parts: u32, now_ms: u64, unix_s: u64) {
        let send_timeout_ms = match self.memory.is_over() {
            true => self.limits.send_timeout_ms.min(SEND_TIMEOUT_OVER_MS),
            false => self.limits.send_timeout_ms,
        };
        let end = self.subscribers.index_end();
        let part = self.swept % parts;
        self.swept = part + 1;
        let share = |part: u32| (u64::from(end) * u64::from(part) / u64::from(parts)) as u32;
        for index in share(part)..share(part + 1) {
            let Some(subscriber) = self.subscribers.at_mut(index) else { continue };
            if subscriber.expires_s <= unix_s {
                subscriber.expires_s = u64::MAX;
                subscriber.end(EXPIRED, false);
                subscriber.wake();
            }
            if subscriber.is_stuck(now_ms, send_timeout_ms) {
                subscriber.close(&mut self.topics[subscriber.topic as usize].log);
                subscriber.wake();
                self.evicted += 1;
            } else if self.limits.heartbeat_ms > 0
                && subscriber.is_quiet(index, now_ms, self.limits.heartbeat_ms)
            {
                subscriber.heartbeat_due = true;
                subscriber.wake();
            }
        }
    }

    /// Tells every subscriber to come back later, after what it has coming.
    pub(crate) fn close_streams(&mut self) {
        let Self { subscribers, random, limits, .. } = self;
        for (_, subscriber) in subscribers.iter_mut() {
            subscriber.end(&retry_field(limits.retry_ms(random)), true);
            subscriber.wake();
        }
    }

    /// Bytes of all logs.
    #[cfg(test)]
    pub(crate) fn log_bytes(&self) -> usize {
        self.topics.iter().map(|(_, local)| local.log.bytes()).sum()
    }

    /// When a stream that is refused or closed now is told to come back, in milliseconds.
    pub(crate) fn retry_ms(&mut self) -> u64 {
        self.limits.retry_ms(&mut self.random)
    }

    fn seal(&mut self, topic: u32) {
        let Some(local) = self.topics.get_mut(topic as usize) else { return };
        local.gained = false;
        if local.log.seal() {
            let list = std::mem::replace(&mut local.idle, self.spare.pop().unwrap_or_default());
            if !list.is_empty() && !self.has(Fault::ForgottenWake) {
                self.ready.push_back(list);
            }
        }
        let LocalTopic { log, .. } = &self.topics[topic as usize];
        let lag_bytes_max = self.limits.lag_bytes_max;
        if log.bytes() > lag_bytes_max {
            self.trim(topic, lag_bytes_max - lag_bytes_max / TRIM_SLACK);
        }
    }

    /// Trims a log by force. Whoever is behind it is closed or skipped forward.
    fn trim(&mut self, topic: u32, bytes_max: usize) {
        let untold = self.has(Fault::TrimUntold);
        let log = &mut self.topics[topic as usize].log;
        if !log.trim_to(bytes_max) {
            return;
        }
        // A walk over all, but each one found pays for it by being found only once.
        for (_, subscriber) in self.subscribers.iter_mut() {
            if subscriber.topic == topic && subscriber.is_overtaken(log) {
                if untold {
                    subscriber.stage = Stage::Live(log.attach());
                    continue;
                }
                subscriber.fell_behind(self.limits.skip_slow);
                subscriber.wake();
                self.evicted += u64::from(!self.limits.skip_slow);
            }
        }
        log.trim();
    }

    fn insert_topic(&mut self, topic: Topic) -> u32 {
        // At most one per subscriber, far below 2^32.
        let key = self.topics.insert(LocalTopic {
            topic: topic.clone(),
            log: Log::new(Arc::clone(&self.memory)),
            subscribers: 0,
            idle: Vec::new(),
            gained: false,
        }) as u32;
        self.names.insert(topic, key);
        key
    }

    fn post_home(&self, topic: Topic, ask: impl FnOnce(Topic, ShardId) -> ToHome, out: &mut Vec<Post>) {
        let to = topic.home(self.shards) as ShardId;
        out.push(Post { to, message: Message::Home(ask(topic, self.shard)) });
    }

    fn has(&self, fault: Fault) -> bool {
        cfg!(test) && self.fault == fault
    }
}

impl LocalTopic {
    /// Lists a subscriber among the idle, unless it is there. `place` may be out of date: the list is taken
    /// away whole when a block comes, and nobody visits its members to tell them.
    fn list_idle(&mut self, index: u32, place: &mut u32) {
        if self.idle.get(*place as usize) != Some(&index) {
            *place = self.idle.len() as u32;
            self.idle.push(index);
        }
    }

    /// Takes a subscriber off the list; returns who has its place now.
    fn unlist_idle(&mut self, index: u32, place: u32) -> Option<u32> {
        if self.idle.get(place as usize) != Some(&index) {
            return None;
        }
        self.idle.swap_remove(place as usize);
        self.idle.get(place as usize).copied()
    }
}

impl FanoutLimits {
    fn retry_ms(&self, random: &mut fastrand::Rng) -> u64 {
        random.u64(self.retry_min_ms..=self.retry_max_ms.max(self.retry_min_ms))
    }
}

#[cfg(test)]
mod tests;
