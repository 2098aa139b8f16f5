//! The one stream of a queue's topic, whose events come past the homes.

use std::sync::Arc;

use super::logs::Follower;
use super::{Fanout, Key, Subscriber, Subscription};
use crate::core::fanout::wire::retry_field;
use crate::core::sent_count::SentCount;
use crate::core::topic::Topic;

impl Fanout {
    /// Takes in the one stream of a queue's topic. `sent` is told how far it has come.
    pub(crate) fn follow(&mut self, subscription: Subscription, sent: Arc<SentCount>, now_ms: u64) -> Key {
        // No partition orders its topic, so there is no home to ask.
        let key = self.subscribe(subscription, now_ms, &mut Vec::new());
        if let Some([cursor]) = self.subscribers.get(key).map(Subscriber::cursors) {
            self.logs[cursor.log].follower = Some(Follower { key, sent });
        }
        key
    }

    /// A part of what is sent to a stream went out. For a queue's that is as good as a send: a message that takes
    /// its client longer than one may take would come back to it again and again, and nothing behind it would come.
    pub(crate) fn partly_sent(&mut self, key: Key, now_ms: u64) {
        let Some(subscriber) = self.subscribers.get_mut(key) else { return };
        if subscriber.cursors().iter().any(|cursor| self.logs[cursor.log].follower.is_some()) {
            subscriber.touched_ms = now_ms;
        }
    }

    /// The queue is no longer delivered.
    pub(super) fn end_followed(&mut self, topic: &Topic) {
        let retry = retry_field(self.retry_ms());
        let logs = self.logs.of(topic).iter().map(|number| &self.logs[*number]);
        let key = logs.filter_map(|log| log.follower.as_ref()).map(|follower| follower.key).next();
        if let Some(subscriber) = key.and_then(|key| self.subscribers.get_mut(key)) {
            subscriber.end(&retry, true);
            subscriber.wake();
        }
    }
}
