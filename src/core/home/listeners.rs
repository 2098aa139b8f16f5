//! The listeners of each topic: the shards with subscribers, and others that take its events.

use smallvec::SmallVec;

use super::history::{TopicKey, Topics};
use crate::core::message::ListenerId;
use crate::core::topic::Topic;

/// A topic's listeners. Few: a linear look-up beats a set.
type OfTopic = SmallVec<[ListenerId; 4]>;

/// Listeners by topic. A topic that has any is held in the history, so that its key stays its own.
#[derive(Debug, Default)]
pub(super) struct Listeners(Vec<OfTopic>);

impl Listeners {
    /// Adds a listener to a topic; returns whether it is new.
    pub(super) fn add(&mut self, topic: TopicKey, listener: ListenerId) -> bool {
        let at = topic as usize;
        if self.0.len() <= at {
            self.0.resize_with(at + 1, OfTopic::new);
        }
        let is_new = !self.0[at].contains(&listener);
        if is_new {
            self.0[at].push(listener);
        }
        is_new
    }

    /// Removes a listener of a topic; returns whether it was one.
    pub(super) fn remove(&mut self, topic: TopicKey, listener: ListenerId) -> bool {
        let Some(listeners) = self.0.get_mut(topic as usize) else { return false };
        let before = listeners.len();
        listeners.retain(|other| *other != listener);
        let was_one = listeners.len() < before;
        while self.0.last().is_some_and(SmallVec::is_empty) {
            self.0.pop();
        }
        was_one
    }

    /// Returns the listeners of a topic and of those above it, each with the topics it listens to.
    pub(super) fn of(
        &self,
        topic: TopicKey,
        topics: &Topics,
    ) -> SmallVec<[(ListenerId, SmallVec<[Topic; 1]>); 4]> {
        let mut all = SmallVec::<[(ListenerId, SmallVec<[Topic; 1]>); 4]>::new();
        for key in topics.lineage(topic) {
            for listener in self.0.get(key as usize).into_iter().flatten() {
                match all.iter_mut().find(|(other, _)| other == listener) {
                    Some((_, listened)) => listened.push(topics.topic(key).clone()),
                    None => all.push((*listener, [topics.topic(key).clone()].into())),
                }
            }
        }
        all
    }
}
