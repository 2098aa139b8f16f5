//! A publish: its place from the journal, and its frame, history and answer once that is final.

use std::sync::Arc;

use super::Home;
use super::history::{Frames, TopicEnd, TopicKey};
use super::idempotency::Seen;
use super::listeners::Recipient;
use crate::core::delivery_count::DeliveryCount;
use crate::core::event_id::Sequence;
use crate::core::journal::{Journal, Kept};
use crate::core::message::{CountFor, Message, OrderError, Ordered, Post, Publish, Reply, ReplyTo, ToFanout};
use crate::core::topic::Topic;

impl Home {
    /// Has a publish ordered, if there is room for its topic and it was not ordered before; returns how many events became
    /// final.
    pub(super) fn publish(
        &mut self,
        mut publish: Publish,
        now_ms: u64,
        journal: &mut impl Journal,
        out: &mut Vec<Post>,
    ) -> u64 {
        if let Some(key) = &publish.key {
            let mut reply = Some(publish.reply);
            let seen = self.keys.see(key, &mut reply, self.asking_time(now_ms), self.stream_ms.is_some());
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
        if let Some(error) = journal.refusal() {
            self.answer_refused(publish, error, out);
            key.into_iter().for_each(|key| self.history.forget_if_unneeded(key));
            return 0;
        }
        let own_id = publish.events.iter().last().and_then(|event| event.own_id()).map(Into::into);
        let previous = key.map(|key| self.history.topics().newest(key)).unwrap_or_default();
        let given = journal.append(self.partition, publish, previous);
        let topics = self.history.topics_mut();
        if let Some(key) = key {
            // Held until the publish is given back, so that the next one finds this as its previous event, and there is
            // room for it.
            topics.hold(key);
            if let Some(sequence) = given {
                topics.set_under_way(key, TopicEnd { sequence, own_id });
            }
        }
        self.given = given.unwrap_or(self.given);
        0
    }

    /// Looks ahead at what a publish to a topic needs.
    pub(super) fn look_ahead(&self, topic: &Topic) {
        let topics = self.history.topics();
        if let Some(key) = topics.find(topic) {
            topics[key].look_ahead();
            self.listeners.look_ahead(key);
        }
    }

    /// Takes in a publish whose order the journal made final; returns how many events it has.
    pub(super) fn journaled(
        &mut self,
        first: Sequence,
        publish: Publish,
        now_ms: u64,
        out: &mut Vec<Post>,
    ) -> u64 {
        let last = first + publish.events.len() as u64 - 1;
        // The topic has been held since the publish came.
        let key = self.history.topics().find(&publish.topic);
        let events = self.finish(key, first, publish, now_ms, out);
        self.give_back(key, last, out);
        events
    }

    /// Answers a publish that the journal gives back because it could not keep it.
    pub(super) fn refuse(
        &mut self,
        first: Sequence,
        publish: Publish,
        error: OrderError,
        out: &mut Vec<Post>,
    ) {
        let last = first + publish.events.len() as u64 - 1;
        let key = self.history.topics().find(&publish.topic);
        self.answer_refused(publish, error, out);
        self.give_back(key, last, out);
    }

    /// Finishes a publish that the journal gave back: its topic is no longer held, and the disconnects that waited for
    /// it are done.
    pub(super) fn give_back(&mut self, key: Option<TopicKey>, last: Sequence, out: &mut Vec<Post>) {
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
    pub(super) fn finish(
        &mut self,
        key: Option<TopicKey>,
        first: Sequence,
        publish: Publish,
        now_ms: u64,
        out: &mut Vec<Post>,
    ) -> u64 {
        let Publish { topic, events, reply, at_us, charge, key: publish_key } = publish;
        let appended = self.history.append(key, &events, first, now_ms);
        let Frames { frames, marks, last_id, ids_replaced } = appended;
        let published = Ordered { last_id, events: marks.len() as u32, ids_replaced, streams: None };
        let first_post = out.len();
        if let Some(key) = key {
            let charge = Arc::new(charge);
            for Recipient { to, topics, names_topics } in self.listeners.of(key, self.history.topics()) {
                let message = ToFanout::Events {
                    partition: Some(self.partition),
                    topics,
                    frames: frames.clone(),
                    marks: marks.clone(),
                    published_to: names_topics.then(|| Box::new(topic.clone())),
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
        let key_ms = self.key_time(now_ms);
        let waiting = publish_key.map(|key| self.keys.ordered(&key, &published, key_ms)).unwrap_or_default();
        for (other, result) in waiting {
            answer(other, result, out.len(), out);
        }
        let events = u64::from(published.events);
        answer(reply, Ok(published), first_post, out);
        events
    }

    /// Takes in a publish that the journal kept over a restart.
    pub(super) fn recover(&mut self, kept: Kept) {
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
}

/// Sends the result of a publish to its sender. A sender that also wants the number of streams is answered by the last
/// shard that the posts from `first_post` on go to.
pub(super) fn answer(
    reply: ReplyTo,
    result: Result<Ordered, OrderError>,
    first_post: usize,
    out: &mut Vec<Post>,
) {
    let (count_for, published) = match (reply, result) {
        (ReplyTo::Nobody, _) => return,
        (ReplyTo::Caller(caller), result) | (ReplyTo::CountingCaller(caller), result @ Err(_)) => {
            return caller.call(Reply::Published(result));
        }
        (ReplyTo::Connection(ticket), result) | (ReplyTo::Emitter(ticket), result @ Err(_)) => {
            return out.push(Post::from((ticket, Reply::Published(result))));
        }
        (ReplyTo::Emitter(ticket), Ok(published)) => (CountFor::Connection(ticket), published),
        (ReplyTo::CountingCaller(caller), Ok(published)) => (CountFor::Caller(caller), published),
    };
    let count = DeliveryCount::new(count_for, Some(published));
    for post in &mut out[first_post..] {
        if let Message::Fanout(ToFanout::Events { delivery_count, .. }) = &mut post.message {
            *delivery_count = Some(Arc::clone(&count));
        }
    }
    // Without listeners it is answered now.
    out.extend(count.add(0).map(Post::from));
}
