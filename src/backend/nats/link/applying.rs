//! Applies what comes through the stream: publishes and ends of streams go to the shards, with who waits for their
//! answers.

use super::Link;
use crate::core::home::Applied;
use crate::core::message::{Callback, CountFor, Disconnect, OrderError, Publish, Reply, ReplyTo, ShardId};
use crate::core::partition::PartitionId;
use crate::journal::cluster::events::{ClusterEvents, ClusterNews};
use crate::journal::cluster::inbound::StreamMessage;
use crate::journal::cluster::message::{DisconnectItem, MessageHead, MessageItem, PublishItem, end_of};
use crate::journal::cluster::outbound::Wish;
use crate::journal::cluster::queue::ToCluster;

impl<E: ClusterEvents> Link<E> {
    /// Takes what the reader read, unless it was told since to read on elsewhere: after the order began anew it would be
    /// taken for the new stream's.
    pub(super) async fn read(&mut self, turn: u64, message: StreamMessage) {
        let is_of_turn = self.from.borrow().turn == turn;
        if !is_of_turn || self.must_reset || self.unfit.is_some() {
            return;
        }
        if self.inbound.contradicts(&message) {
            tracing::error!(
                "message {} of the stream {} is another one than before: the order begins anew",
                message.number,
                self.stream.name
            );
            return self.reset().await;
        }
        self.apply(message).await;
    }

    /// Applies the next message of the stream.
    async fn apply(&mut self, message: StreamMessage) {
        let Some(taken) = self.inbound.take(&message) else { return };
        self.state.applied.set(self.inbound.last());
        if let Some(reason) = taken.malformed {
            self.state.malformed.add(1);
            let (number, name) = (message.number, &self.stream.name);
            match self.foreign.count() {
                Some(1) => tracing::warn!("message {number} of the stream {name} is passed over: {reason}"),
                Some(times) => tracing::warn!(
                    "{times} messages of the stream {name} are passed over, up to {number}; of that one: {reason}"
                ),
                None => {}
            }
        }
        if let Some(upto) = taken.missed {
            self.missed(upto);
        }
        if taken.ends_epoch {
            return self.reset().await;
        }
        let Some(head) = taken.head else { return };
        let Some(partition) = message.partition else {
            return self.tell_all(|| ClusterNews::Advanced(end_of(message.number)));
        };
        let is_late = head.is_late(message.at_ms);
        let wishes = if head.node == self.node { self.outbound.came_back(head.number) } else { None };
        let mut wishes = wishes.unwrap_or_default().into_iter();
        let shard = self.placement.home(partition);
        let mut applied = Vec::new();
        if is_late {
            return self.refuse_all(partition, wishes, OrderError::Unconfirmed);
        }
        for item in taken.items {
            let wish = wishes.next();
            match item {
                MessageItem::Publish(item) => {
                    self.state.publishes.add(1);
                    applied
                        .extend(self.applied(&message, head, item, wish).map(|applied| (partition, applied)));
                }
                MessageItem::Disconnect(item) => {
                    self.hand_over(shard, &mut applied);
                    if let Some(disconnect) = self.disconnect(partition, head, item, wish) {
                        self.events.tell(shard, ClusterNews::Disconnect(partition, disconnect));
                    }
                }
                MessageItem::Epoch { .. } => {}
            }
        }
        self.hand_over(shard, &mut applied);
    }

    fn hand_over(&self, shard: ShardId, applied: &mut Vec<(PartitionId, Applied)>) {
        if !applied.is_empty() {
            self.events.tell(shard, ClusterNews::Applied(std::mem::take(applied)));
        }
    }

    /// Returns a publish to apply, with who waits for its answer.
    fn applied(
        &self,
        message: &StreamMessage,
        head: MessageHead,
        item: PublishItem,
        wish: Option<Wish>,
    ) -> Option<Applied> {
        let count = item.count;
        let mut applied = self.decoder.publish(message, item)?;
        match wish {
            Some(Wish::Publish(Publish { reply, at_us, charge, .. })) => {
                applied.is_own = true;
                applied.publish = Publish { reply, at_us, charge, ..applied.publish };
            }
            _ if count > 0 && head.node != self.node => {
                applied.publish.reply = ReplyTo::CountingCaller(self.count_for(head.node, count));
            }
            _ => {}
        }
        Some(applied)
    }

    fn disconnect(
        &self,
        partition: PartitionId,
        head: MessageHead,
        DisconnectItem { topic, count }: DisconnectItem,
        wish: Option<Wish>,
    ) -> Option<Disconnect> {
        let topic = self.decoder.topic(&topic, partition)?;
        let count_for = match wish {
            Some(Wish::Disconnect { count_for, .. }) => count_for,
            _ => CountFor::Caller(self.count_for(head.node, count)),
        };
        Some(Disconnect { topic, shards: self.placement.shards(), count_for })
    }

    /// Returns what tells another node how many streams of this one were reached.
    fn count_for(&self, node: u64, count: u64) -> Callback {
        let to_self = self.to_self.clone();
        Callback::new(move |reply| {
            let streams = match reply {
                Reply::Published(Ok(published)) => published.streams.unwrap_or(0),
                Reply::Disconnected(streams) => streams,
                Reply::Published(Err(_)) => 0,
            };
            let _ = to_self.send(ToCluster::Counted { node, count, streams });
        })
    }

    pub(super) fn missed(&self, upto: u64) {
        self.state.missed.add(1);
        tracing::warn!(
            "events of the stream {} are gone that this node had not read; its streams are told",
            self.stream.name
        );
        self.tell_all(|| ClusterNews::Missed(upto));
    }
}
