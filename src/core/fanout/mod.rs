//! The subscribers of one shard and the logs of what they take: what these gain, who is sent to, who is too
//! slow.
//!
//! Like [`Home`](crate::core::home::Home) it decides and says what to post; connections ask it what to send.

mod channels;
mod ending;
mod fault;
mod follower;
mod limits;
pub(crate) mod log;
mod positions;
pub(crate) mod several;
pub(crate) mod subscriber;
pub(crate) mod wire;

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::Waker;

use bytes::Bytes;

pub(crate) use self::fault::Fault;
use crate::core::arena::{Arena, Key};
use crate::core::event_id::{Epoch, Sequence};
use crate::core::fanout::channels::{Channel, Channels};
use crate::core::fanout::log::Chunk;
use crate::core::fanout::subscriber::{Next, Opening, Outgoing, Reached, Stage, Subscriber};
use crate::core::fanout::wire::{Framing, retry_field};
use crate::core::memory::Memory;
use crate::core::message::{Message, Post, ShardId, ToFanout, ToHome};
use crate::core::selection::Selection;
use crate::core::topic::Topic;

pub(crate) use limits::FanoutLimits;

/// Work of sends for one channel before the next has its turn.
const CHANNEL_WORK_PER_TURN: usize = 64;
/// A send of so many bytes takes about as long again as one of few: 3 us.
const SEND_BYTES_OF_WORK: usize = 16 << 10;
/// A trim by force goes this much below the limit, so that it is not needed for every block.
const TRIM_SLACK: usize = 8;
/// The part of the lag that a stream of several may have while memory fills.
const PART_SHARE: usize = 16;
/// The time for a send while too much memory is held.
const SEND_TIMEOUT_OVER_MS: u64 = 1000;
/// Emptied lists of idle subscribers kept for the next block, so that a turn allocates none.
const SPARE_LISTS_MAX: usize = 64;

/// What a stream says before it ends because its token did; EventSource dispatches an event only with data.
const EXPIRED: &str = "event:expired\ndata:token expired\n\n";

/// What a subscriber asks for.
#[derive(Debug)]
pub(crate) struct Subscription {
    pub(crate) selection: Selection,
    pub(crate) framing: Framing,
    pub(crate) last_event_id: Option<Box<str>>,
    /// Unix seconds; `u64::MAX` for never.
    pub(crate) expires_s: u64,
    pub(crate) opening: Opening,
}

/// What is told of a subscriber.
#[derive(Debug)]
pub(crate) struct Progress<'a> {
    pub(crate) topics: &'a [Topic],
    /// Events sent.
    pub(crate) delivered: u64,
    /// Bytes it has not been sent.
    pub(crate) lag_bytes: usize,
}

/// The subscribers of a shard.
#[derive(Debug)]
pub(crate) struct Fanout {
    shard: ShardId,
    limits: FanoutLimits,
    channels: Channels,
    subscribers: Arena<Subscriber>,
    /// Channels that gained something this turn.
    gained: Vec<u32>,
    /// Idle subscribers that have a block to read, by channel, so that channels take turns.
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

/// What became of a Join.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Joined {
    NotYet,
    Yes,
    /// There was no room for the topics.
    Refused,
    Closed,
}

impl Fanout {
    pub(crate) fn new(shard: ShardId, limits: FanoutLimits, memory: Arc<Memory>, seed: u64) -> Self {
        Fanout {
            shard,
            limits,
            channels: Channels::default(),
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

    /// Takes a subscriber in and asks the home of its topics for it to join. Its response begins when home has
    /// answered.
    pub(crate) fn subscribe(&mut self, subscription: Subscription, now_ms: u64, out: &mut Vec<Post>) -> Key {
        let Subscription { selection, framing, last_event_id, expires_s, opening } = subscription;
        let channel = self.channels.find_or_insert(&selection, &self.memory);
        self.channels[channel].subscribers += 1;
        let key = self.subscribers.insert(Subscriber::new(channel, framing, expires_s, opening, now_ms));
        let (to, from) = (selection.home(), self.shard);
        out.push(home(to, ToHome::Join { selection, from, key, last_event_id }));
        key
    }

    /// What the connection of a subscriber does now. It is woken by `waker` whenever it should ask again.
    pub(crate) fn next(&mut self, key: Key, waker: &Waker, now_ms: u64) -> Next {
        let Some(channel) = self.subscribers.get_mut(key).map(|subscriber| {
            subscriber.remember_waker(waker);
            subscriber.skips_now().then_some(subscriber.channel)
        }) else {
            return Next::Close;
        };
        if let Some(channel) = channel {
            // It goes on at the tail: what this turn gained so far lies before its gap, not after it.
            self.seal(channel);
        }
        let Some(subscriber) = self.subscribers.get_mut(key) else { return Next::Close };
        let channel = &mut self.channels[subscriber.channel];
        let next = subscriber.next(&mut channel.log, self.limits.epoch, now_ms);
        if matches!(next, Next::Wait) && subscriber.is_idle() {
            channel.list_idle(key.index, &mut subscriber.idle_at);
        }
        next
    }

    /// All bytes that [`Fanout::next`] gave for this subscriber went out.
    pub(crate) fn sent(&mut self, key: Key, now_ms: u64, out: &mut Vec<Post>) {
        let Some(subscriber) = self.subscribers.get_mut(key) else { return };
        let channel = &mut self.channels[subscriber.channel];
        let more = subscriber.sent(&mut channel.log, now_ms);
        channel.tell_sent(subscriber.sent);
        if let Some((after, told)) = more {
            let (selection, from) = (channel.selection.clone(), self.shard);
            out.push(home(selection.home(), ToHome::More { selection, from, key, after, told }));
        }
    }

    /// How far a subscriber has come.
    pub(crate) fn progress(&self, key: Key) -> Option<Progress<'_>> {
        let subscriber = self.subscribers.get(key)?;
        let Channel { selection, log, .. } = self.channels.get(subscriber.channel)?;
        Some(Progress {
            topics: selection.topics(),
            delivered: subscriber.delivered,
            lag_bytes: subscriber.lag_bytes(log),
        })
    }

    /// What ids begin with; none when there are no ids.
    pub(crate) fn epoch(&self) -> Option<Epoch> {
        self.limits.epoch
    }

    /// Whether a heartbeat may be due that long after the last send: they are spread over a quarter of the interval.
    pub(crate) fn is_long_ago(&self, sent_ms: u64, now_ms: u64) -> bool {
        now_ms.saturating_sub(sent_ms) >= self.limits.heartbeat_ms * 3 / 4
    }

    /// Counts bytes that are made for one subscriber.
    pub(crate) fn share(&self, bytes: Vec<u8>) -> Bytes {
        self.memory.share(bytes)
    }

    /// What home has answered a subscriber's Join, which is told by `waker` when it does.
    pub(crate) fn joined(&mut self, key: Key, waker: &Waker) -> Joined {
        let Some(subscriber) = self.subscribers.get_mut(key) else { return Joined::Closed };
        subscriber.remember_waker(waker);
        match &subscriber.stage {
            Stage::Joining(_) => Joined::NotYet,
            Stage::Closed => Joined::Closed,
            _ if subscriber.is_refused() => Joined::Refused,
            _ => Joined::Yes,
        }
    }

    /// What a subscriber takes.
    pub(crate) fn topics(&self, key: Key) -> &[Topic] {
        let channel = self.subscribers.get(key).and_then(|subscriber| self.channels.get(subscriber.channel));
        channel.map_or(&[], |channel| channel.selection.topics())
    }

    /// The newest event a subscriber was sent, or the place where home let it in.
    pub(crate) fn place(&self, key: Key) -> Sequence {
        self.subscribers.get(key).map_or(0, |subscriber| subscriber.sent)
    }

    /// Whether a subscriber gets nothing more: it was cut.
    pub(crate) fn is_closed(&self, key: Key) -> bool {
        self.subscribers.get(key).is_none_or(|subscriber| matches!(subscriber.stage, Stage::Closed))
    }

    /// The connection of a subscriber is gone.
    pub(crate) fn leave(&mut self, key: Key, out: &mut Vec<Post>) {
        let Some(mut subscriber) = self.subscribers.remove(key) else { return };
        let channel = &mut self.channels[subscriber.channel];
        subscriber.close(&mut channel.log);
        if let Some(moved) = channel.unlist_idle(key.index, subscriber.idle_at)
            && let Some(other) = self.subscribers.at_mut(moved)
        {
            other.idle_at = subscriber.idle_at;
        }
        channel.subscribers -= 1;
        if channel.subscribers == 0 {
            let (selection, mut left) = self.channels.remove(subscriber.channel);
            if self.has(Fault::LeaveWithOtherChannel) {
                left = selection.topics().to_vec();
            }
            let (to, from) = (selection.home(), self.shard);
            out.extend(left.into_iter().map(|topic| home(to, ToHome::Leave { topic, from })));
        }
    }

    /// Takes what a home shard says. Returns what work that was beside [`Message::work`], in its units: each log that
    /// gains something costs.
    pub(crate) fn handle(&mut self, message: ToFanout, out: &mut Vec<Post>) -> usize {
        let mut work = 0;
        match message {
            ToFanout::Events {
                home,
                topics,
                frames,
                count,
                last,
                at_us,
                delivery_count,
                charge: _given_back_now,
            } => {
                let mut streams = 0;
                // The same for all that need it.
                let mut with_our_ids = None;
                let mut in_chunk = None;
                let leaves_ids = self.has(Fault::OwnIdLeftLast);
                // A home hears late that the last subscriber left: until then its events come to nobody.
                for topic in &topics {
                    self.channels.taking(topic, home, |key, channel| {
                        let chunk: Chunk = match self.limits.epoch {
                            Some(epoch) if channel.selection.is_part() && !leaves_ids => with_our_ids
                                .get_or_insert_with(|| {
                                    let text =
                                        positions::with_our_ids(&frames, epoch, last + 1 - u64::from(count));
                                    self.memory.share(text)
                                })
                                .clone()
                                .into(),
                            // Each user of a session's channel has a log of its own.
                            _ if channel.selection.is_of_user() => in_chunk
                                .get_or_insert_with(|| Chunk::of([&frames[..]], frames.len(), &self.memory))
                                .clone(),
                            _ => frames.clone().into(),
                        };
                        work += 1 + frames.len() / 4096;
                        streams += channel.subscribers;
                        channel.log.gain(chunk, count, last, at_us);
                        if !std::mem::replace(&mut channel.gained, true) {
                            self.gained.push(key);
                        }
                    });
                }
                out.extend(delivery_count.and_then(|count| count.add(streams)).map(Post::from));
            }
            ToFanout::Page { key, gap, frames, upto, told, joined } => {
                let Some(channel) = self.subscribers.get_mut(key).map(|subscriber| subscriber.channel) else {
                    return work;
                };
                if joined && !self.has(Fault::JoinWithoutSeal) {
                    // The seam: what the open block holds was ordered before the page, and the page ends with
                    // it.
                    self.seal(channel);
                }
                let Some(subscriber) = self.subscribers.get_mut(key) else { return work };
                let log = &mut self.channels[channel].log;
                subscriber.page(log, gap.as_ref(), frames, Reached { upto, told, joined });
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
            ToFanout::End { topic } => self.end_followed(&topic),
            ToFanout::Disconnect { topic, upto, delivery_count } => {
                let ended = self.disconnect(&topic, upto);
                work += ended.work;
                out.extend(delivery_count.add(ended.streams).map(Post::from));
            }
        }
        work
    }

    /// Ends the turn: what each channel gained becomes one block.
    pub(crate) fn seal_all(&mut self) {
        while let Some(channel) = self.gained.pop() {
            self.seal(channel);
        }
    }

    /// Sends to idle subscribers that have a block to read, channels taking turns, until that was `work_max` of work: one
    /// for each and one for each 16 KiB. `send` is given a subscriber's index and bytes, takes off what it sent at once,
    /// and returns how much that was; the rest is for the subscriber's connection, which is woken. Returns whether more
    /// subscribers are waiting.
    pub(crate) fn send_ready(
        &mut self,
        work_max: usize,
        now_ms: u64,
        mut send: impl FnMut(u32, &mut Outgoing) -> usize,
    ) -> bool {
        let mut work = 0;
        while work < work_max
            && let Some(mut list) = self.ready.pop_front()
        {
            let turn_end = work + CHANNEL_WORK_PER_TURN;
            while work < turn_end.min(work_max)
                && let Some(index) = list.pop()
            {
                work += 1 + self.send_to(index, now_ms, &mut send) / SEND_BYTES_OF_WORK;
            }
            if !list.is_empty() {
                self.ready.push_back(list);
            } else if self.spare.len() < SPARE_LISTS_MAX {
                self.spare.push(list);
            }
        }
        self.has_ready()
    }

    /// Whether subscribers wait for [`Fanout::send_ready`].
    pub(crate) fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Sends one subscriber what it has coming; returns the bytes sent at once.
    fn send_to(
        &mut self,
        index: u32,
        now_ms: u64,
        send: &mut impl FnMut(u32, &mut Outgoing) -> usize,
    ) -> usize {
        let mut sent = 0;
        // One that left meanwhile may have a successor here, which is sent what it has coming, or woken for nothing.
        let Some(subscriber) = self.subscribers.at_mut(index) else { return sent };
        if !subscriber.is_idle() {
            subscriber.wake();
            return sent;
        }
        let channel = &mut self.channels[subscriber.channel];
        if channel.selection.is_part() {
            // The parts of a stream are sent in turns, by its connection: the time of a send begins there.
            subscriber.wake();
            return sent;
        }
        while let Next::Send(mut outgoing) = subscriber.next(&mut channel.log, self.limits.epoch, now_ms) {
            sent += send(index, &mut outgoing);
            if !outgoing.buffers.is_empty() {
                subscriber.keep_unsent(outgoing);
                subscriber.wake();
                return sent;
            }
            let more = subscriber.sent(&mut channel.log, now_ms);
            debug_assert!(more.is_none(), "only a subscriber that replays asks for more");
            channel.tell_sent(subscriber.sent);
        }
        match subscriber.is_idle() {
            true => channel.list_idle(index, &mut subscriber.idle_at),
            false => subscriber.wake(),
        }
        sent
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
                subscriber.close(&mut self.channels[subscriber.channel].log);
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

    /// Bytes of all logs.
    #[cfg(test)]
    pub(crate) fn log_bytes(&self) -> usize {
        self.channels.log_bytes()
    }

    /// When a stream that is refused or closed now is told to come back, in milliseconds.
    pub(crate) fn retry_ms(&mut self) -> u64 {
        self.limits.retry_ms(&mut self.random)
    }

    fn seal(&mut self, key: u32) {
        let Some(channel) = self.channels.get_mut(key) else { return };
        channel.gained = false;
        if channel.log.seal() {
            let list = std::mem::replace(&mut channel.idle, self.spare.pop().unwrap_or_default());
            if !list.is_empty() && !self.has(Fault::ForgottenWake) {
                self.ready.push_back(list);
            }
        }
        let Channel { log, selection, .. } = &self.channels[key];
        if self.channels[key].follower.is_some() {
            // Bounded where it comes from; and an event that is longer than that could never be sent.
            return;
        }
        let lag_bytes_max = match selection.is_part() && self.memory.is_filling() {
            // Its log is often one client's alone: before all histories give way to it, it has a sixteenth.
            true => self.limits.lag_bytes_max / PART_SHARE,
            false => self.limits.lag_bytes_max,
        };
        if log.bytes() > lag_bytes_max {
            self.trim(key, lag_bytes_max - lag_bytes_max / TRIM_SLACK);
        }
    }

    /// Trims a log by force. Whoever is behind it is closed or skipped forward.
    fn trim(&mut self, channel: u32, bytes_max: usize) {
        let untold = self.has(Fault::TrimUntold);
        let log = &mut self.channels[channel].log;
        if !log.trim_to(bytes_max) {
            return;
        }
        // A walk over all, but each one found pays for it by being found only once.
        for (_, subscriber) in self.subscribers.iter_mut() {
            if subscriber.channel == channel && subscriber.is_overtaken(log) {
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

    fn has(&self, fault: Fault) -> bool {
        cfg!(test) && self.fault == fault
    }
}

fn home(to: ShardId, message: ToHome) -> Post {
    Post { to, message: Message::Home(message) }
}

#[cfg(test)]
mod tests;
