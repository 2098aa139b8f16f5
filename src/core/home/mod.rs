//! Homes: each is the one writer of a partition. It has events ordered, posts them to listeners, and serves replays.
//!
//! A home decides and returns messages to post; it sees no socket, no clock and no channel. Its events are kept in its
//! [`history`]; their order is made final by a [`Journal`], which gives each publish its place. A shard is home to one
//! or more partitions: its [`Homes`].

mod history;
mod homes;
mod idempotency;
mod listeners;
mod topic_count;

use std::collections::VecDeque;
use std::sync::Arc;

use crate::core::arena::Key;
use crate::core::delivery_count::DeliveryCount;
use crate::core::event_id::{Epoch, Sequence};
use crate::core::journal::{Journal, Kept};
use crate::core::message::{
    Disconnect, Gap, ListenerId, Message, OrderError, Ordered, Post, Publish, ReplayPage, Reply, ReplyTo,
    ToFanout, ToHome,
};
use crate::core::partition::PartitionId;
use crate::core::selection::Selection;

pub(crate) use history::{Dropped, HistoryLimits, PAGE_FRAMES_MAX, TopicEnd};
use history::{Frames, Page, PartitionHistory, TopicKey, TopicKeys};
pub(crate) use homes::{HomeSettings, Homes};
pub(crate) use idempotency::KEYS_KNOWN_MS;
use idempotency::{KnownKeys, Seen};
use listeners::Listeners;
pub(crate) use topic_count::TopicCount;

/// The home of one partition, owned by the shard's [`Homes`].
#[derive(Debug)]
pub(crate) struct Home {
    partition: PartitionId,
    epoch: Epoch,
    history: PartitionHistory,
    listeners: Listeners,
    keys: KnownKeys,
    /// The newest event that the journal was given...
    given: Sequence,
    /// ...and the newest that it gave back, final or refused.
    given_back: Sequence,
    /// Streams to be ended once everything up to an event has been posted.
    disconnects: VecDeque<(Sequence, Disconnect)>,
}

impl Home {
    fn new(partition: PartitionId, settings: &HomeSettings) -> Self {
        Home {
            partition,
            epoch: settings.epochs.current(),
            history: PartitionHistory::new(partition, settings),
            listeners: Listeners::default(),
            keys: KnownKeys::new(Arc::clone(&settings.memory)),
            given: 0,
            given_back: 0,
            disconnects: VecDeque::new(),
        }
    }

    /// Handles a message and adds the resulting posts to `out`; returns how many events became final.
    fn handle(
        &mut self,
        message: ToHome,
        now_ms: u64,
        journal: &mut impl Journal,
        out: &mut Vec<Post>,
    ) -> u64 {
        match message {
            ToHome::Publish(publish) => return self.publish(publish, now_ms, journal, out),
            ToHome::Join { selection, from, key, last_event_id } => {
                self.join(&selection, from, key, last_event_id, out);
            }
            ToHome::More { selection, from, key, after, told } => {
                self.more(&selection, from, key, after, told, out);
            }
            ToHome::Leave { topic, from } => {
                if let Some(key) = self.history.topics().find(&topic)
                    && self.listeners.remove(key, from)
                {
                    self.history.topics_mut().let_go(&[key]);
                }
            }
            ToHome::Disconnect(disconnect) if self.given > self.given_back => {
                self.disconnects.push_back((self.given, disconnect));
            }
            ToHome::Disconnect(disconnect) => self.disconnect(disconnect, out),
        }
        0
    }

    /// Has a publish ordered, if there is room for its topic and it was not ordered before; returns how many events became
    /// final.
    fn publish(
        &mut self,
        mut publish: Publish,
        now_ms: u64,
        journal: &mut impl Journal,
        out: &mut Vec<Post>,
    ) -> u64 {
        if let Some(key) = &publish.key {
            let mut reply = Some(publish.reply);
            let seen = self.keys.see(key, &mut reply, now_ms);
            // A publish that waits for the first one is answered with it.
            let Some(reply) = reply else { return 0 };
            let result = match seen {
                Ok(Seen::First | Seen::UnderWay) => None,
                Ok(Seen::Ordered(published)) => Some(Ok(published)),
                Err(error) => Some(Err(error)),
            };
            if let Some(result) = result {
                answer(reply, result, out.len(), out);
                return 0;
            }
            publish.reply = reply;
        }
        let key = match self.history.place(&publish.topic) {
            Ok(key) => key,
            Err(error) => {
                self.answer_refused(publish, error, out);
                return 0;
            }
        };
        let events = publish.events.len() as u32;
        if let Some(first) = journal.place(self.partition, events) {
            return self.finish(key, first, publish, now_ms, out);
        }
        let own_id = publish.events.iter().last().and_then(|event| event.own_id()).map(Into::into);
        let previous = key.map(|key| self.history.topics().newest(key)).unwrap_or_default();
        self.given = journal.append(self.partition, publish, previous);
        if let Some(key) = key {
            let newest = TopicEnd { sequence: self.given, own_id };
            let topics = self.history.topics_mut();
            topics.set_under_way(key, newest);
            // Held until the publish is given back, so that the next one finds this as its previous event.
            topics.hold(key);
        }
        0
    }

    /// Takes in a publish whose order the journal made final; returns how many events it has.
    fn journaled(&mut self, first: Sequence, publish: Publish, now_ms: u64, out: &mut Vec<Post>) -> u64 {
        let last = first + publish.events.len() as u64 - 1;
        // The topic has been held since the publish came.
        let key = self.history.topics().find(&publish.topic);
        let events = self.finish(key, first, publish, now_ms, out);
        self.give_back(key, last, out);
        events
    }

    /// Answers a publish that the journal gives back because it could not keep it.
    fn refuse(&mut self, first: Sequence, publish: Publish, error: OrderError, out: &mut Vec<Post>) {
        let last = first + publish.events.len() as u64 - 1;
        let key = self.history.topics().find(&publish.topic);
        self.answer_refused(publish, error, out);
        self.give_back(key, last, out);
    }

    /// Finishes a publish that the journal gave back: its topic is no longer held, and the disconnects that waited for
    /// it are done.
    fn give_back(&mut self, key: Option<TopicKey>, last: Sequence, out: &mut Vec<Post>) {
        self.given_back = last;
        if let Some(key) = key {
            let topics = self.history.topics_mut();
            topics.given_back(key, last);
            topics.let_go(&[key]);
        }
        while self.disconnects.front().is_some_and(|(upto, _)| *upto <= last)
            && let Some((_, disconnect)) = self.disconnects.pop_front()
        {
            self.disconnect(disconnect, out);
        }
    }

    /// Takes in a publish whose order is final: it enters the history, goes to the listeners of its topic and of those
    /// above it, and is answered. Returns how many events it has.
    fn finish(
        &mut self,
        key: Option<TopicKey>,
        first: Sequence,
        publish: Publish,
        now_ms: u64,
        out: &mut Vec<Post>,
    ) -> u64 {
        let Publish { events, reply, at_us, charge, key: publish_key, .. } = publish;
        let appended = self.history.append(key, &events, first, now_ms);
        let Frames { frames, marks, last_id, ids_replaced } = appended;
        let published = Ordered { last_id, events: marks.len() as u32, ids_replaced, streams: None };
        let first_post = out.len();
        if let Some(key) = key {
            let charge = Arc::new(charge);
            for (to, topics) in self.listeners.of(key, self.history.topics()) {
                let message = ToFanout::Events {
                    partition: Some(self.partition),
                    topics,
                    frames: frames.clone(),
                    marks: marks.clone(),
                    count: published.events,
                    last: self.history.sequence(),
                    at_us,
                    charge: Some(Arc::clone(&charge)),
                    delivery_count: None,
                };
                out.push(Post { to, message: Message::Fanout(message) });
            }
            self.history.forget_if_unneeded(key);
        }
        let waiting = publish_key.map(|key| self.keys.ordered(&key, &published, now_ms)).unwrap_or_default();
        for other in waiting {
            answer(other, Ok(published.clone()), out.len(), out);
        }
        let events = u64::from(published.events);
        answer(reply, Ok(published), first_post, out);
        events
    }

    /// Takes in a publish that the journal kept over a restart.
    fn recover(&mut self, kept: Kept) {
        let Kept { first, at_ms, topic, events, previous, partition: _, key: _ } = kept;
        let Ok(key) = self.history.place(&topic) else {
            self.history.append(None, &events, first, at_ms);
            return self.history.lose_unplaced(&topic, &events, first);
        };
        if let Some(key) = key {
            self.history.topics_mut().lose_before(key, previous);
        }
        self.history.append(key, &events, first, at_ms);
        if let Some(key) = key {
            self.history.forget_if_unneeded(key);
        }
    }

    /// Answers a publish that is not ordered.
    fn answer_refused(&mut self, publish: Publish, error: OrderError, out: &mut Vec<Post>) {
        let waiting = publish.key.map(|key| self.keys.refused(&key)).unwrap_or_default();
        for reply in waiting.into_iter().chain([publish.reply]) {
            answer(reply, Err(error), out.len(), out);
        }
    }

    /// Posts the end of the streams that take a topic, after everything posted before.
    fn disconnect(&self, Disconnect { topic, shards, ticket }: Disconnect, out: &mut Vec<Post>) {
        let count = DeliveryCount::new(ticket, None);
        let upto = self.history.sequence();
        out.extend((0..shards).map(|to| {
            let (topic, delivery_count) = (topic.clone(), Arc::clone(&count));
            let message = ToFanout::Disconnect { topic, upto, delivery_count };
            Post { to, message: Message::Fanout(message) }
        }));
    }

    fn join(
        &mut self,
        selection: &Selection,
        from: ListenerId,
        key: Key,
        last_id: Option<Box<str>>,
        out: &mut Vec<Post>,
    ) {
        let Some(topics) = self.history.topics_mut().hold_all(selection.topics()) else {
            return out.push(refused(from, key));
        };
        // Without history there are no ids of ours, and a publisher's own names no place.
        let page = match last_id.filter(|_| self.history.is_on()) {
            None => {
                let (frames, upto) = (Vec::new(), self.history.sequence());
                ReplayPage { gap: None, frames, upto, told: 0, joined: true }
            }
            Some(last_id) => {
                let resumed = self.history.resume(&topics, &last_id, selection.is_part());
                let gap = resumed.gap.map(|reason| Gap { from: Some(last_id), reason, id: None });
                self.page(selection, &topics, resumed.after, gap)
            }
        };
        self.answer_with(page, &topics, from, key, out);
    }

    /// Posts the page after `after`, with a gap for events that were dropped since the last page.
    fn more(
        &mut self,
        selection: &Selection,
        from: ListenerId,
        key: Key,
        after: Sequence,
        told: Sequence,
        out: &mut Vec<Post>,
    ) {
        let Some(topics) = self.history.topics_mut().hold_all(selection.topics()) else {
            return out.push(refused(from, key));
        };
        // Only losses since the last page are news: those of a multi-topic stream may lie anywhere before, and were
        // told.
        let gap = self.history.gap(&topics, Some(after.max(told))).map(|reason| Gap {
            from: (after > 0).then(|| self.epoch.text(after).into()),
            reason,
            id: None,
        });
        let page = self.page(selection, &topics, after, gap);
        self.answer_with(page, &topics, from, key, out);
    }

    /// Returns the page after `after`.
    fn page(
        &self,
        selection: &Selection,
        topics: &TopicKeys,
        after: Sequence,
        gap: Option<Gap>,
    ) -> ReplayPage {
        let Page { frames, upto, more } = self.history.after(topics, after, selection.is_part());
        let joined = !more;
        let id = (frames.is_empty() && joined).then(|| self.epoch.text(self.history.sequence()).into());
        let gap = gap.map(|gap| Gap { id, ..gap });
        ReplayPage { gap, frames, upto, told: self.history.lost(topics), joined }
    }

    /// Posts a page. The last page also adds the listener, so that its place in the channel is the seam between replay
    /// and live events.
    fn answer_with(
        &mut self,
        page: ReplayPage,
        topics: &TopicKeys,
        from: ListenerId,
        key: Key,
        out: &mut Vec<Post>,
    ) {
        if page.joined {
            for &topic in topics {
                if self.listeners.add(topic, from) {
                    self.history.topics_mut().hold(topic);
                }
            }
        }
        self.history.topics_mut().let_go(topics);
        let message = ToFanout::Page { key, partition: self.partition, page };
        out.push(Post { to: from, message: Message::Fanout(message) });
    }
}

/// Sends the result of a publish to its sender. A sender that also wants the number of streams is answered by the last
/// shard that the posts from `first_post` on go to.
fn answer(reply: ReplyTo, result: Result<Ordered, OrderError>, first_post: usize, out: &mut Vec<Post>) {
    match (reply, result) {
        (ReplyTo::Emitter(ticket), Ok(published)) => {
            let count = DeliveryCount::new(ticket, Some(published));
            for post in &mut out[first_post..] {
                if let Message::Fanout(ToFanout::Events { delivery_count, .. }) = &mut post.message {
                    *delivery_count = Some(Arc::clone(&count));
                }
            }
            // Without listeners it is answered now.
            out.extend(count.add(0).map(Post::from));
        }
        (ReplyTo::Emitter(ticket) | ReplyTo::Connection(ticket), result) => {
            out.push(Post::from((ticket, Reply::Published(result))));
        }
        (ReplyTo::Caller(caller), result) => caller.call(result),
    }
}

fn refused(to: ListenerId, key: Key) -> Post {
    Post { to, message: Message::Fanout(ToFanout::Refused { key }) }
}

#[cfg(test)]
mod tests;
