//! The listeners of each topic: the shards with subscribers, and others that take its events.

use smallvec::SmallVec;

use super::history::{TopicKey, Topics};
use crate::core::ahead;
use crate::core::message::ListenerId;
use crate::core::topic::Topic;

/// A topic's listeners. Few: a linear look-up beats a set.
type OfTopic = SmallVec<[TopicListener; 4]>;

#[derive(Clone, Copy, Debug)]
struct TopicListener {
    id: ListenerId,
    /// Whether a stream of it names the topics of events.
    names_topics: bool,
}

/// A listener that an event is posted to.
#[derive(Debug)]
pub(super) struct Recipient {
    pub(super) to: ListenerId,
    /// Those it listens to, of the event's topic and the ones above it.
    pub(super) topics: SmallVec<[Topic; 1]>,
    /// Whether it needs the topic that the event was published to.
    pub(super) names_topics: bool,
}

/// Listeners by topic. A topic that has any is held in the history, so that its key stays its own.
#[derive(Debug, Default)]
pub(super) struct Listeners(Vec<OfTopic>);

impl Listeners {
    /// Adds a listener to a topic, or notes that it names topics too; returns whether it is new.
    pub(super) fn add(&mut self, topic: TopicKey, id: ListenerId, names_topics: bool) -> bool {
        let at = topic as usize;
        if self.0.len() <= at {
            self.0.resize_with(at + 1, OfTopic::new);
        }
        if let Some(known) = self.0[at].iter_mut().find(|other| other.id == id) {
            known.names_topics |= names_topics;
            return false;
        }
        self.0[at].push(TopicListener { id, names_topics });
        true
    }

    /// Removes a listener of a topic; returns whether it was one.
    pub(super) fn remove(&mut self, topic: TopicKey, listener: ListenerId) -> bool {
        let Some(listeners) = self.0.get_mut(topic as usize) else { return false };
        let before = listeners.len();
        listeners.retain(|other| other.id != listener);
        let was_one = listeners.len() < before;
        while self.0.last().is_some_and(SmallVec::is_empty) {
            self.0.pop();
        }
        was_one
    }

    /// Looks ahead at the listeners of a topic.
    pub(super) fn look_ahead(&self, topic: TopicKey) {
        ahead::read(self.0.get(topic as usize).map(SmallVec::len));
    }

    /// Returns the listeners of a topic and of those above it.
    pub(super) fn of(&self, topic: TopicKey, topics: &Topics) -> SmallVec<[Recipient; 4]> {
        let mut all = SmallVec::<[Recipient; 4]>::new();
        for key in topics.lineage(topic) {
            for TopicListener { id, names_topics } in self.0.get(key as usize).into_iter().flatten() {
                let listened = topics.topic(key).clone();
                match all.iter_mut().find(|recipient| recipient.to == *id) {
                    Some(recipient) => {
                        recipient.topics.push(listened);
                        recipient.names_topics |= names_topics;
                    }
                    None => {
                        all.push(Recipient {
                            to: *id,
                            topics: [listened].into(),
                            names_topics: *names_topics,
                        });
                    }
                }
            }
        }
        all
    }
}
