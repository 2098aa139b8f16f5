//! A home in a cluster: it applies what all nodes published, in the order that the cluster's stream gives.
//!
//! Every node applies the same publishes in the same order, so all have the same events under the same ids. A node may
//! be behind the others for a while: a subscriber that knows more than it waits in [`WaitingJoin`].

use std::sync::Arc;

use super::publish::answer;
use super::{Home, Homes};
use crate::core::arena::Key;
use crate::core::epochs::Epochs;
use crate::core::event_id::Sequence;
use crate::core::message::{Disconnect, ListenerId, Message, Post, Publish, ShardId, ToFanout};
use crate::core::partition::PartitionId;
use crate::core::selection::Selection;
use crate::core::topic::Topic;

/// The longest that a subscriber waits for events that other nodes have, in milliseconds.
const WAIT_MS: u64 = 10_000;

/// A publish whose place the cluster's stream gave.
#[derive(Debug)]
pub(crate) struct Applied {
    /// The sequence of its first event.
    pub(crate) first: Sequence,
    pub(crate) publish: Publish,
    /// This node published it, and its topic is held for it.
    pub(crate) is_own: bool,
    /// When it was ordered, in milliseconds of the server's clock.
    pub(crate) at_ms: u64,
    /// When it was ordered, in milliseconds of the stream's clock, which all nodes agree about.
    pub(crate) stream_ms: u64,
}

/// The order began anew: nothing of what was applied counts any more.
#[derive(Clone, Debug)]
pub(crate) struct Reset {
    /// The new epoch, and those that ended.
    pub(crate) epochs: Arc<Epochs>,
    /// What the stream has begins after this.
    pub(crate) floor: Sequence,
    /// Subscribers wait until everything up to this is applied.
    pub(crate) ready_at: Sequence,
}

/// A subscriber that waits for events that this node has not applied yet.
#[derive(Debug)]
pub(super) struct WaitingJoin {
    selection: Selection,
    from: ListenerId,
    key: Key,
    last_event_id: Option<Box<str>>,
    /// The event that its id names.
    place: Sequence,
    since_ms: u64,
    /// The end of the stream was asked for once since it came.
    is_asked: bool,
}

impl WaitingJoin {
    /// Returns whether it is a listener's for this topic.
    pub(super) fn is_of(&self, from: ListenerId, topic: &Topic) -> bool {
        self.from == from && self.selection.topics().contains(topic)
    }
}

impl Homes {
    /// Tells the homes that they are part of a cluster, at whose floor everything before is unknown.
    pub(crate) fn join_cluster(&mut self, reset: &Reset) {
        for home in self.iter_mut() {
            home.stream_ms = Some(0);
            home.reset(reset);
        }
    }

    /// Takes in a publish that the cluster's stream ordered; returns how many events it has, none if it repeats an
    /// earlier one.
    pub(crate) fn apply(&mut self, partition: PartitionId, applied: Applied, out: &mut Vec<Post>) -> u64 {
        self.with(partition, |home| home.apply(applied, out))
    }

    /// Ends streams after everything that was applied.
    pub(crate) fn apply_disconnect(
        &mut self,
        partition: PartitionId,
        disconnect: Disconnect,
        out: &mut Vec<Post>,
    ) {
        self.with(partition, |home| home.disconnect(disconnect, out));
    }

    /// Notes that everything up to this event is applied, in all partitions.
    pub(crate) fn advance(&mut self, upto: Sequence, out: &mut Vec<Post>) {
        for home in self.iter_mut() {
            home.history.advance(upto);
            home.let_in(|_| false, out);
        }
    }

    /// Notes that events up to this one may be missing, and tells all streams, which are on this many shards.
    pub(crate) fn miss(&mut self, upto: Sequence, shards: ShardId, out: &mut Vec<Post>) {
        for home in self.iter_mut() {
            home.history.miss(upto);
            out.extend((0..shards).map(|to| {
                let message = ToFanout::Missed { partition: home.partition, upto };
                Post { to, message: Message::Fanout(message) }
            }));
        }
        self.advance(upto, out);
    }

    /// Begins the order anew.
    pub(crate) fn reset(&mut self, reset: &Reset) {
        self.iter_mut().for_each(|home| home.reset(reset));
    }

    /// Takes in the end of the stream, as its leader knows it. Subscribers that know of later events are let in and told
    /// of a gap if the answer cannot be older than their id.
    pub(crate) fn stream_ends_at(&mut self, end: Sequence, out: &mut Vec<Post>) {
        for home in self.iter_mut() {
            home.let_in(|waiting| waiting.place > end && waiting.is_asked, out);
            home.waiting.iter_mut().for_each(|waiting| waiting.is_asked = true);
        }
    }

    /// Returns the number of subscribers that wait for events that other nodes have.
    pub(crate) fn waiting(&self) -> usize {
        self.iter().map(|home| home.waiting.len()).sum()
    }

    /// Refuses subscribers that waited too long; they come again.
    pub(crate) fn refuse_waiting(&mut self, now_ms: u64, out: &mut Vec<Post>) {
        for home in self.iter_mut() {
            let late =
                home.waiting.extract_if(.., |waiting| now_ms.saturating_sub(waiting.since_ms) > WAIT_MS);
            out.extend(late.map(|WaitingJoin { from: to, key, .. }| Post {
                to,
                message: Message::Fanout(ToFanout::Refused { key }),
            }));
        }
    }
}

impl Home {
    fn apply(&mut self, applied: Applied, out: &mut Vec<Post>) -> u64 {
        let Applied { first, publish, is_own, at_ms, stream_ms } = applied;
        self.stream_ms = Some(stream_ms);
        self.stream_ahead_ms = stream_ms.cast_signed().saturating_sub(at_ms.cast_signed());
        self.keys.expire(stream_ms, usize::MAX);
        let last = first + publish.events.len() as u64 - 1;
        let held = if is_own { self.history.topics().find(&publish.topic) } else { None };
        let repeated = publish.key.as_ref().and_then(|key| self.keys.repeated(key, stream_ms));
        let events = match repeated {
            Some(result) => {
                answer(publish.reply, result, out.len(), out);
                0
            }
            None => {
                let key = self.history.place_always(&publish.topic);
                self.finish(key, first, publish, at_ms, out)
            }
        };
        if is_own {
            self.give_back(held, last, out);
        }
        self.let_in(|_| false, out);
        events
    }

    /// Keeps a subscriber that knows of events which are not applied here yet; gives back any other one's id.
    pub(super) fn wait_for(
        &mut self,
        selection: &Selection,
        (from, key): (ListenerId, Key),
        last_event_id: Option<Box<str>>,
        now_ms: u64,
    ) -> Result<Option<Box<str>>, ()> {
        if self.stream_ms.is_none() {
            return Ok(last_event_id);
        }
        let id = last_event_id.as_deref().filter(|_| self.history.is_on());
        let place = id.and_then(|id| self.history.place_of(id, selection.is_part())).unwrap_or(0);
        let place = place.max(self.ready_at);
        if place <= self.history.sequence() {
            return Ok(last_event_id);
        }
        let selection = selection.clone();
        let waiting =
            WaitingJoin { selection, from, key, last_event_id, place, since_ms: now_ms, is_asked: false };
        self.waiting.push(waiting);
        Err(())
    }

    /// Lets in the subscribers that waited and whose events are applied, and those for which `gives_up` holds.
    fn let_in(&mut self, gives_up: impl Fn(&WaitingJoin) -> bool, out: &mut Vec<Post>) {
        let sequence = self.history.sequence();
        if self.waiting.is_empty() || sequence < self.ready_at {
            return;
        }
        let ready: Vec<_> =
            self.waiting.extract_if(.., |waiting| waiting.place <= sequence || gives_up(waiting)).collect();
        for WaitingJoin { selection, from, key, last_event_id, .. } in ready {
            self.let_in_now(&selection, from, key, last_event_id, out);
        }
    }

    fn reset(&mut self, Reset { epochs, floor, ready_at }: &Reset) {
        self.epoch = epochs.current();
        self.ready_at = *ready_at;
        self.history.reset(epochs, *floor);
        self.keys.forget_ordered();
        // Their places were those of the epoch that ended: their ids are looked at anew.
        for waiting in &mut self.waiting {
            let id = waiting.last_event_id.as_deref();
            let place = id.and_then(|id| self.history.place_of(id, waiting.selection.is_part()));
            waiting.place = place.unwrap_or(0).max(*ready_at);
        }
    }
}
