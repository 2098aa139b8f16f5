//! Homes: each is the one writer of a partition. It has events ordered, posts them to listeners, and serves replays.
//!
//! A home decides and returns messages to post; it sees no socket, no clock and no channel. Its events are kept in its
//! [`history`]; their order is made final by a [`Journal`], which gives each publish its place. A shard is home to one
//! or more partitions: its [`Homes`].

mod cluster;
mod history;
mod homes;
mod idempotency;
mod listeners;
mod publish;
mod replay;
mod topic_count;

use std::collections::VecDeque;
use std::sync::Arc;

use crate::core::delivery_count::DeliveryCount;
use crate::core::event_id::{Epoch, Sequence};
use crate::core::journal::Journal;
use crate::core::message::{Disconnect, Message, Post, ToFanout, ToHome};
use crate::core::partition::PartitionId;

use cluster::WaitingJoin;
pub(crate) use cluster::{Applied, Reset};
use history::PartitionHistory;
pub(crate) use history::{Dropped, HistoryLimits, PAGE_FRAMES_MAX, TopicEnd};
pub(crate) use homes::{HomeSettings, Homes, excess_share};
pub(crate) use idempotency::KEYS_KNOWN_MS;
use idempotency::KnownKeys;
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
    /// The time of the newest publish applied, by the clock of the cluster's stream; `None` without a cluster.
    stream_ms: Option<u64>,
    /// That clock minus the server's, as the newest publish showed it.
    stream_ahead_ms: i64,
    /// In a cluster: subscribers wait until everything up to this is applied.
    ready_at: Sequence,
    /// In a cluster: subscribers that know of events which are not applied here yet.
    waiting: Vec<WaitingJoin>,
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
            stream_ms: None,
            stream_ahead_ms: 0,
            ready_at: 0,
            waiting: Vec::new(),
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
                self.join(&selection, (from, key), last_event_id, now_ms, out);
            }
            ToHome::More { selection, from, key, after, told } => {
                self.more(&selection, from, key, after, told, out);
            }
            ToHome::Leave { topic, from } => {
                // A stream that leaves while it waits would be let in later, and stay for ever.
                self.waiting.retain(|waiting| !waiting.is_of(from, &topic));
                if let Some(key) = self.history.topics().find(&topic)
                    && self.listeners.remove(key, from)
                {
                    self.history.topics_mut().let_go(&[key]);
                }
            }
            ToHome::Disconnect(disconnect) => match journal.disconnect(self.partition, disconnect) {
                None => {}
                Some(disconnect) if self.given > self.given_back => {
                    self.disconnects.push_back((self.given, disconnect));
                }
                Some(disconnect) => self.disconnect(disconnect, out),
            },
        }
        0
    }

    /// Returns the time by which idempotency keys age: the cluster's, so that all nodes agree.
    fn key_time(&self, now_ms: u64) -> u64 {
        self.stream_ms.unwrap_or(now_ms)
    }

    /// Returns the time by which a key that is asked for is known: that of the newest publish is long ago in a quiet
    /// partition.
    fn asking_time(&self, now_ms: u64) -> u64 {
        match self.stream_ms {
            Some(stream_ms) => stream_ms.max(now_ms.saturating_add_signed(self.stream_ahead_ms)),
            None => now_ms,
        }
    }

    /// Posts the end of the streams that take a topic, after everything posted before.
    fn disconnect(&self, Disconnect { topic, shards, count_for }: Disconnect, out: &mut Vec<Post>) {
        let count = DeliveryCount::new(count_for, None);
        let upto = self.history.sequence();
        out.extend((0..shards).map(|to| {
            let (topic, delivery_count) = (topic.clone(), Arc::clone(&count));
            let message = ToFanout::Disconnect { topic, upto, delivery_count };
            Post { to, message: Message::Fanout(message) }
        }));
    }
}

#[cfg(test)]
mod tests;
