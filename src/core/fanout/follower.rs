//! Follows a queue: its topic has one stream, and its events bypass the homes.

use std::sync::Arc;

use super::ending::EndReason;
use super::logs::Follower;
use super::{Fanout, Key, Subscriber, Subscription};
use crate::core::fanout::wire::retry_field;
use crate::core::sent_count::SentCount;
use crate::core::topic::Topic;

impl Fanout {
    /// Subscribes the one stream of a queue's topic. `sent` counts the messages that were sent on it.
    pub(crate) fn follow(&mut self, subscription: Subscription, sent: Arc<SentCount>, now_ms: u64) -> Key {
        // No partition orders its topic, so there is no home to ask.
        let key = self.subscribe(subscription, now_ms, &mut Vec::new());
        if let Some([cursor]) = self.subscribers.get(key).map(Subscriber::cursors) {
            self.logs[cursor.log].follower = Some(Follower { key, sent });
        }
        key
    }

    /// Ends the stream of a queue that is no longer delivered, with a `retry:`.
    pub(super) fn end_followed(&mut self, topic: &Topic) {
        let retry = retry_field(self.retry_ms());
        let logs = self.logs.of(topic).iter().map(|number| &self.logs[*number]);
        let key = logs.filter_map(|log| log.follower.as_ref()).map(|follower| follower.key).next();
        if let Some(key) = key
            && let Some(subscriber) = self.subscribers.get_mut(key)
        {
            subscriber.end(&retry, true, EndReason::QueueClosed);
            self.woken.add(key.index, subscriber);
        }
    }
}
