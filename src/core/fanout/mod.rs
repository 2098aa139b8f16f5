//! The subscribers of one shard and the logs of their topics: decides which streams are sent to, and which are too
//! slow.
//!
//! Like [`Home`](crate::core::home::Home) it decides and returns messages to post; the shard asks it for the next sends.

mod cluster;
mod ending;
mod expiry;
mod follower;
mod limits;
pub(crate) mod log;
mod logs;
mod merge;
mod part;
mod positions;
pub(crate) mod sending;
pub(crate) mod subscriber;
mod terms;
mod turn;
pub(crate) mod wire;
mod woken;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use smallvec::SmallVec;

use crate::core::arena::{Arena, Key};
use crate::core::event_id::{Sequence, in_form_of};
use crate::core::fanout::ending::Disconnected;
use crate::core::fanout::log::Gain;
use crate::core::fanout::logs::{LogKind, Logs};
use crate::core::fanout::part::Replayed;
use crate::core::fanout::sending::{Next, Sender};
use crate::core::fanout::subscriber::{NewSubscriber, Subscriber};
use crate::core::fanout::wire::{Heartbeat, retry_field};
use crate::core::fanout::woken::WakeList;
use crate::core::memory::Memory;
use crate::core::message::{Post, ReplayPage, ShardId, ToFanout, ToHome};
use crate::core::named::named_frames;
use crate::core::partition::{PartitionId, Placement};
use crate::core::selection::{Selection, StreamIds};
use crate::core::topic::Topic;

pub(crate) use cluster::SEND_AWAY_STEPS;
pub(crate) use ending::EndReason;
pub(crate) use limits::FanoutLimits;
pub(crate) use terms::{StreamExtras, StreamTerms, Subscription};
pub(crate) use turn::Served;

/// The progress of a subscriber, for the admin page.
#[derive(Debug, Default)]
pub(crate) struct Progress<'a> {
    pub(crate) topics: StreamTopics<'a>,
    /// Events sent.
    pub(crate) delivered: u64,
    /// Bytes it was not sent yet, those of the send under way among them.
    pub(crate) lag_bytes: usize,
}

/// The topics of a stream, in order and without repetition.
pub(crate) type StreamTopics<'a> = SmallVec<[&'a Topic; 2]>;

/// The subscribers of a shard and their logs; owned by the shard.
#[derive(Debug)]
pub(crate) struct Fanout {
    shard: ShardId,
    placement: Placement,
    limits: FanoutLimits,
    logs: Logs,
    subscribers: Arena<Subscriber>,
    /// By the number of the subscriber. Apart from it, because few have any.
    extras: HashMap<u32, Box<StreamExtras>>,
    /// Logs that gained something this turn.
    gained: Vec<u32>,
    /// Set when a log gained much while its line was served.
    is_behind: bool,
    /// Logs with streams that have a block to read: topics take turns.
    ready: VecDeque<u32>,
    spare: Vec<Vec<u32>>,
    woken: WakeList,
    disconnected: Disconnected,
    memory: Arc<Memory>,
    swept: u32,
    random: fastrand::Rng,
    /// The streams that are still to be sent to other nodes.
    leaving: Vec<Key>,
    /// Subscribers cut for being too slow.
    pub(crate) evicted: u64,
    /// Subscribers refused because their topic had no room; the reader resets it.
    pub(crate) refused: u64,
}

impl Fanout {
    /// Returns the fan-out of a shard without streams.
    pub(crate) fn new(
        shard: ShardId,
        placement: Placement,
        limits: FanoutLimits,
        memory: Arc<Memory>,
        seed: u64,
    ) -> Self {
        Fanout {
            shard,
            placement,
            limits,
            logs: Logs::default(),
            subscribers: Arena::default(),
            extras: HashMap::new(),
            gained: Vec::new(),
            is_behind: false,
            ready: VecDeque::new(),
            spare: Vec::new(),
            woken: WakeList::default(),
            disconnected: Disconnected::default(),
            memory,
            swept: 0,
            random: fastrand::Rng::with_seed(seed),
            leaving: Vec::new(),
            evicted: 0,
            refused: 0,
        }
    }

    /// Adds a stream and posts a Join to the homes of its topics. Its response begins when all have answered.
    pub(crate) fn subscribe(&mut self, subscription: Subscription, now_ms: u64, out: &mut Vec<Post>) -> Key {
        let Subscription { terms, framing, opening } = subscription;
        let StreamTerms { topics, last_event_id, names_topics, expires_s, extras } = terms;
        let has_code = extras.as_ref().is_some_and(|extras| extras.code.is_some());
        let ids = StreamIds::of(&topics, names_topics, has_code);
        let has_extras = extras.is_some();
        let new = NewSubscriber { framing, ids, has_extras, expires_s, opening };
        let mut subscriber = Subscriber::new(new, now_ms);
        let selections = Selection::of(&topics, ids, self.placement);
        // A client may have come by another form of its stream's ids: with a ticket, or the topics of events.
        let last_event_id = match (&selections[..], last_event_id) {
            ([only], Some(id)) => {
                let other = in_form_of(only.partition(), ids.are_positions(), &id);
                Some(other.map_or(id, String::into_boxed_str))
            }
            (_, last_event_id) => last_event_id,
        };
        for selection in &selections {
            let partition = selection.partition();
            let known = || self.limits.epochs.as_ref()?.place_in(last_event_id.as_deref()?, partition);
            let place = ids.are_positions().then(known).flatten().unwrap_or(0);
            self.add_part(&mut subscriber, Some(partition), selection.topics(), place);
        }
        if selections.is_empty() {
            self.add_part(&mut subscriber, None, &topics, 0);
        }
        let key = self.subscribers.insert(subscriber);
        if let Some(extras) = extras {
            self.extras.insert(key.index, extras);
        }
        if selections.is_empty() {
            // No home to ask: it is live at once.
            self.take_page(key, None, ReplayPage { joined: true, ..ReplayPage::default() });
        }
        for selection in selections {
            let (partition, from, last_event_id) = (selection.partition(), self.shard, last_event_id.clone());
            let join = ToHome::Join { selection, from, key, last_event_id };
            out.push(Post::to_home(partition, self.placement, join));
        }
        key
    }

    fn add_part(
        &mut self,
        subscriber: &mut Subscriber,
        partition: Option<PartitionId>,
        topics: &[Topic],
        place: Sequence,
    ) {
        let names_topics = subscriber.ids().name_topics();
        let kind = LogKind { names_topics, is_merging: subscriber.has_positions() || topics.len() > 1 };
        let Self { logs, memory, .. } = self;
        let logs = topics.iter().map(|topic| logs.open(topic, partition, kind, memory));
        subscriber.add_part(partition, logs, place);
    }

    /// Returns the next step of a stream, as [`Fanout::serve`] takes it.
    #[cfg(test)]
    fn next(&mut self, key: Key, now_ms: u64) -> Next {
        if self.subscribers.get(key).is_none() {
            return Next::Close;
        }
        self.next_of(key.index, now_ms)
    }

    fn next_of(&mut self, index: u32, now_ms: u64) -> Next {
        let skips = self.limits.skip_slow;
        let Some(mut subscriber) = self.subscribers.at_mut(index) else { return Next::Close };
        self.evicted += u64::from(subscriber.falls_behind(&mut self.logs, skips));
        if subscriber.skips_now() {
            // It goes on at the tail: what this turn gained so far lies before its gap, not after it.
            self.seal_all_of(index);
            let Some(again) = self.subscribers.at_mut(index) else { return Next::Close };
            // One more block may push it behind in another of its logs.
            again.falls_behind(&mut self.logs, skips);
            subscriber = again;
        }
        let epoch = self.limits.epochs.as_ref().map(|epochs| epochs.current());
        let extras = if subscriber.has_extras { self.extras.get(&index) } else { None };
        let code = extras.and_then(|extras| extras.code.as_deref());
        let heartbeat = extras.map_or(Heartbeat::Comment, |extras| extras.heartbeat);
        let sender = Sender { epoch, code, heartbeat, memory: &self.memory, now_ms };
        let next = subscriber.next(&mut self.logs, sender);
        if matches!(next, Next::Wait) {
            subscriber.list_idle(index, &mut self.logs);
        }
        next
    }

    /// Notes that all bytes of the last send of this stream went out, and posts the request for its next page if it
    /// replays.
    fn sent(&mut self, key: Key, now_ms: u64, out: &mut Vec<Post>) {
        let Some(subscriber) = self.subscribers.get_mut(key) else { return };
        if let Some((partition, Replayed { upto, told })) = subscriber.sent(&mut self.logs, now_ms) {
            let logs = subscriber.cursors().iter().map(|cursor| &self.logs[cursor.log]);
            let topics = logs.filter(|log| log.partition == Some(partition)).map(|log| log.topic.clone());
            let selection = Selection::new(partition, topics.collect(), subscriber.ids());
            let more = ToHome::More { selection, from: self.shard, key, after: upto, told };
            out.push(Post::to_home(partition, self.placement, more));
        }
    }

    /// Returns how far a stream has come.
    pub(crate) fn progress(&self, key: Key) -> Option<Progress<'_>> {
        let subscriber = self.subscribers.get(key)?;
        let lag_bytes = subscriber.lag_bytes(&self.logs);
        Some(Progress { topics: self.topics(key), delivered: subscriber.delivered, lag_bytes })
    }

    /// Returns whether the response of a stream has begun, be it a refusal.
    pub(crate) fn has_begun(&self, key: Key) -> bool {
        self.subscribers.get(key).is_some_and(Subscriber::has_begun)
    }

    /// Returns the reason why a stream ends; that its client left where nothing else ends it.
    pub(crate) fn end_reason(&self, key: Key) -> EndReason {
        self.subscribers.get(key).map_or(EndReason::Left, Subscriber::end_reason)
    }

    /// Returns the topics of a stream.
    pub(crate) fn topics(&self, key: Key) -> StreamTopics<'_> {
        let mut topics = StreamTopics::new();
        for cursor in self.subscribers.get(key).map_or(&[][..], Subscriber::cursors) {
            let topic = &self.logs[cursor.log].topic;
            // Everything has a log for each partition, but is one topic.
            if topics.last() != Some(&topic) {
                topics.push(topic);
            }
        }
        topics
    }

    /// Removes a stream whose connection is gone, and posts a Leave for each topic that no stream takes any more.
    pub(crate) fn leave(&mut self, key: Key, out: &mut Vec<Post>) {
        let Some(mut subscriber) = self.subscribers.remove(key) else { return };
        subscriber.close(&mut self.logs);
        if subscriber.has_extras {
            self.extras.remove(&key.index);
            if self.extras.len() < self.extras.capacity() / 4 {
                self.extras.shrink_to(2 * self.extras.len());
            }
        }
        if subscriber.is_disconnected {
            self.disconnected.leave(subscriber.cursors());
        }
        let is_merging = subscriber.is_merging();
        for cursor in subscriber.cursors() {
            let moved = self.logs[cursor.log].unlist_idle(key.index, cursor.idle_at);
            if let Some(other) = moved.and_then(|moved| self.subscribers.at_mut(moved)) {
                let same = other.cursors_mut().iter_mut().find(|other| other.log == cursor.log);
                same.into_iter().for_each(|same| same.idle_at = cursor.idle_at);
            }
            if let Some((topic, Some(partition))) = self.logs.close(cursor.log, is_merging) {
                let leave = ToHome::Leave { topic, from: self.shard };
                out.push(Post::to_home(partition, self.placement, leave));
            }
        }
    }

    /// Looks ahead at what events of a topic need.
    pub(crate) fn look_ahead(&self, topic: &Topic) {
        // Everything has more, one for each partition, which all publishes keep in the cache.
        self.logs.of(topic).iter().take(2).for_each(|number| self.logs[*number].look_ahead());
    }

    /// Handles a message of a home. Returns its work beyond [`Message::work`](crate::core::message::Message::work), in
    /// the same units: each log that gains something costs.
    pub(crate) fn handle(&mut self, message: ToFanout, out: &mut Vec<Post>) -> usize {
        let mut work = 0;
        match message {
            ToFanout::Events {
                partition,
                topics,
                frames,
                marks,
                published_to,
                count,
                last,
                at_us,
                delivery_count,
                charge: _given_back_now,
            } => {
                let mut streams = 0;
                // A home hears late that the last stream left: until then its events find no log.
                let mut named = None;
                for topic in &topics {
                    for number in self.logs.of_part(topic, partition) {
                        let log = &self.logs[number];
                        streams += log.streams - self.disconnected.of(number);
                        work += 1;
                        // Without the topic no stream that names it is live: its home would know.
                        let (chunk, marks) = match &published_to {
                            Some(topic) if log.names_topics => {
                                let make = || named_frames(topic, &frames, &marks, &self.memory);
                                let (named, marks) = named.get_or_insert_with(make);
                                (&*named, &*marks)
                            }
                            _ => (&frames, &marks),
                        };
                        self.gain(number, Gain { chunk, events: count, last, at_us, marks });
                    }
                }
                out.extend(delivery_count.and_then(|count| count.add(streams)).map(Post::from));
            }
            ToFanout::Page { key, partition, page } => self.take_page(key, Some(partition), page),
            ToFanout::Refused { key } => self.refuse(key),
            ToFanout::Missed { partition, upto } => work += self.tell_missed(partition, upto),
            ToFanout::End { topic } => self.end_followed(&topic),
            ToFanout::Disconnect { topic, upto, delivery_count } => {
                let ended = self.disconnect(&topic, upto);
                work += ended.work;
                out.extend(delivery_count.add(ended.streams).map(Post::from));
            }
        }
        work
    }

    /// Ends a stream for which there is no room.
    pub(crate) fn refuse(&mut self, key: Key) {
        let retry = retry_field(self.retry_ms());
        if let Some(subscriber) = self.subscribers.get_mut(key) {
            self.refused += 1;
            subscriber.refused(&retry);
            self.woken.add(key.index, subscriber);
        }
    }

    /// Adds to the log of a topic, which is sealed when the turn ends; it keeps the places of events only for streams
    /// that need them.
    fn gain(&mut self, number: u32, gain: Gain<'_>) {
        let log = &mut self.logs[number];
        let marks = if log.merging > 0 { gain.marks } else { &[] };
        log.log.gain(&Gain { marks, ..gain });
        if !std::mem::replace(&mut log.gained, true) {
            self.gained.push(number);
        }
    }

    /// Hands a stream a page of its topics in `partition`; `None` for topics that bypass the homes.
    fn take_page(&mut self, key: Key, partition: Option<PartitionId>, page: ReplayPage) {
        if self.subscribers.get(key).is_none() {
            return;
        }
        if page.joined {
            // The seam: the events in open blocks were ordered before the page, and it ends with them.
            self.seal_all_of(key.index);
        }
        let Some(subscriber) = self.subscribers.get_mut(key) else { return };
        subscriber.page(partition, page, &mut self.logs);
        self.woken.add(key.index, subscriber);
    }

    /// Returns the keys of all streams.
    pub(crate) fn keys(&self) -> impl Iterator<Item = Key> {
        self.subscribers.keys()
    }

    /// Returns the bytes of all logs.
    #[cfg(test)]
    pub(crate) fn log_bytes(&self) -> usize {
        self.logs.bytes()
    }

    /// Returns a random time after which a stream that is refused or closed now should come back, in milliseconds.
    pub(crate) fn retry_ms(&mut self) -> u64 {
        self.limits.retry_ms(&mut self.random)
    }
}

#[cfg(test)]
mod tests;
