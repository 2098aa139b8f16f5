//! The messages of this node that the cluster's stream has not given back yet: what to send, what to send again, and
//! what to give up. It decides without I/O; [`backend::nats`](crate::backend::nats) carries it out.
//!
//! Each partition has at most one message under way that is not acknowledged, so its publishes keep their order; what
//! comes meanwhile is the next message. A message that is not acknowledged is sent again, with the same number, by which
//! JetStream knows it. Its publishes are answered when it comes back through the stream, in the order of all nodes.

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;

use super::message::{DisconnectItem, HEAD_BYTES, MessageHead, MessageWriter, bytes_of};
use crate::core::event_id::Epoch;
use crate::core::message::{CountFor, OrderError, Publish};
use crate::core::partition::PartitionId;

/// When a message without an answer is sent again.
const RESEND_MS: u64 = 2_000;
/// When a message without an answer is given up: after an election, for which JetStream takes up to 12 seconds, and long
/// before half the time for which it knows numbers (120 s).
pub(crate) const GIVE_UP_MS: u64 = 20_000;

/// What a shard wants ordered.
#[derive(Debug)]
pub(crate) enum Wish {
    Publish(Publish),
    Disconnect { topic: Box<str>, count_for: CountFor },
}

/// A message to send.
#[derive(Clone, Debug)]
pub(crate) struct OutMessage {
    pub(crate) partition: PartitionId,
    pub(crate) number: u64,
    pub(crate) payload: Bytes,
}

/// JetStream's answer to a message.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Ack {
    Stored,
    /// Nobody answered, or the answer says to wait: it is sent again.
    Again,
    /// It is not stored, and will not be.
    Refused(OrderError),
}

/// The wishes of a message, given back: they are final, or refused.
pub(crate) type Wishes = Vec<Wish>;

/// All messages of this node; owned by the thread that has the connection.
#[derive(Debug)]
pub(crate) struct Outbound {
    epoch: Epoch,
    node: u64,
    /// The number of the last message.
    last: u64,
    /// Bytes of a message at which no further publish goes in, and those that none may have.
    bytes_wanted: usize,
    bytes_max: usize,
    lanes: Vec<Lane>,
    /// Messages under way, by number.
    under_way: HashMap<u64, SentMessage>,
}

/// One partition.
#[derive(Debug, Default)]
struct Lane {
    waiting: VecDeque<Wish>,
    /// The message that is not acknowledged.
    unacknowledged: Option<u64>,
}

#[derive(Debug)]
struct SentMessage {
    partition: PartitionId,
    payload: Bytes,
    wishes: Wishes,
    first_sent_ms: u64,
    sent_ms: u64,
}

impl Outbound {
    /// Returns the messages of a node with this random number, none so far. No message is longer than `bytes_max`.
    pub(crate) fn new(epoch: Epoch, node: u64, partitions: u8, bytes_max: usize) -> Self {
        Outbound {
            epoch,
            node,
            last: 0,
            bytes_wanted: bytes_max / 2,
            bytes_max,
            lanes: (0..partitions).map(|_| Lane::default()).collect(),
            under_way: HashMap::new(),
        }
    }

    /// Takes in a wish; gives it back when it is too large to be sent.
    pub(crate) fn push(&mut self, partition: PartitionId, wish: Wish) -> Option<Wish> {
        let fits = match &wish {
            Wish::Publish(publish) => size(publish) + HEAD_BYTES <= self.bytes_max,
            Wish::Disconnect { .. } => true,
        };
        match self.lanes.get_mut(usize::from(partition)) {
            Some(lane) if fits => {
                lane.waiting.push_back(wish);
                None
            }
            _ => Some(wish),
        }
    }

    /// Returns the next messages to send; it is `stream_ms` by the stream's clock. `counts` gives the number of a request
    /// for a count of streams.
    pub(crate) fn next(
        &mut self,
        now_ms: u64,
        stream_ms: u64,
        mut counts: impl FnMut(&mut Wish) -> u64,
    ) -> Vec<OutMessage> {
        let mut all = Vec::new();
        for (partition, lane) in self.lanes.iter_mut().enumerate() {
            if lane.unacknowledged.is_some() || lane.waiting.is_empty() {
                continue;
            }
            self.last += 1;
            let (partition, number) = (partition as PartitionId, self.last);
            let mut writer = MessageWriter::new(MessageHead {
                epoch: self.epoch,
                node: self.node,
                number,
                made_ms: stream_ms,
            });
            let mut wishes = Vec::new();
            while let Some(wish) = lane.waiting.front_mut() {
                let (bytes, events) = match wish {
                    Wish::Publish(publish) => (size(publish), publish.events.len()),
                    Wish::Disconnect { topic, .. } => (topic.len() + 32, 0),
                };
                if !wishes.is_empty() && !writer.has_room(bytes, events, self.bytes_wanted) {
                    break;
                }
                let count = counts(wish);
                match wish {
                    Wish::Publish(Publish { topic, events, key, .. }) => {
                        writer.publish(partition, topic.name(), events, key.as_deref(), count);
                    }
                    Wish::Disconnect { topic, .. } => {
                        writer.disconnect(&DisconnectItem { topic: topic.clone(), count });
                    }
                }
                wishes.extend(lane.waiting.pop_front());
            }
            let payload = writer.finish();
            lane.unacknowledged = Some(number);
            all.push(OutMessage { partition, number, payload: payload.clone() });
            let under_way =
                SentMessage { partition, payload, wishes, first_sent_ms: now_ms, sent_ms: now_ms };
            self.under_way.insert(number, under_way);
        }
        all
    }

    /// Takes in the answer to a message; returns the wishes that are refused by it, with the reason.
    pub(crate) fn acknowledged(
        &mut self,
        number: u64,
        ack: Ack,
    ) -> Option<(PartitionId, Wishes, OrderError)> {
        match ack {
            Ack::Again => None,
            Ack::Stored => {
                let partition = self.under_way.get(&number)?.partition;
                self.free_lane(partition, number);
                None
            }
            Ack::Refused(error) => {
                let SentMessage { partition, wishes, first_sent_ms, sent_ms, .. } =
                    self.under_way.remove(&number)?;
                self.free_lane(partition, number);
                // An earlier sending of it may still be on its way, and be stored.
                let error = if sent_ms > first_sent_ms { OrderError::Unconfirmed } else { error };
                Some((partition, wishes, error))
            }
        }
    }

    /// Returns the wishes of a message of this node that came back through the stream; `None` when they were given up
    /// before, or it came back already.
    pub(crate) fn came_back(&mut self, number: u64) -> Option<Wishes> {
        let SentMessage { partition, wishes, .. } = self.under_way.remove(&number)?;
        self.free_lane(partition, number);
        Some(wishes)
    }

    /// Returns the messages to send again, and the wishes of those that are given up.
    pub(crate) fn overdue(&mut self, now_ms: u64) -> (Vec<OutMessage>, Vec<(PartitionId, Wishes)>) {
        let late: Vec<u64> = self
            .under_way
            .iter()
            .filter(|(_, message)| now_ms.saturating_sub(message.first_sent_ms) > GIVE_UP_MS)
            .map(|(number, _)| *number)
            .collect();
        let mut given_up = Vec::new();
        for number in late {
            if let Some(SentMessage { partition, wishes, .. }) = self.under_way.remove(&number) {
                self.free_lane(partition, number);
                given_up.push((partition, wishes));
            }
        }
        let mut again = Vec::new();
        for lane in &self.lanes {
            let Some(number) = lane.unacknowledged else { continue };
            let Some(message) = self.under_way.get_mut(&number) else { continue };
            if now_ms.saturating_sub(message.sent_ms) > RESEND_MS {
                message.sent_ms = now_ms;
                let SentMessage { partition, payload, .. } = message;
                again.push(OutMessage { partition: *partition, number, payload: payload.clone() });
            }
        }
        (again, given_up)
    }

    /// Returns the wishes that were not sent.
    pub(crate) fn take_waiting(&mut self) -> Vec<(PartitionId, Wish)> {
        let lanes = self.lanes.iter_mut().enumerate();
        let of_lane = |(partition, lane): (usize, &mut Lane)| {
            let wishes = std::mem::take(&mut lane.waiting).into_iter();
            wishes.map(move |wish| (partition as PartitionId, wish))
        };
        lanes.flat_map(of_lane).collect()
    }

    /// Returns the wishes of the messages under way, whose fate is not known.
    pub(crate) fn take_under_way(&mut self) -> Vec<(PartitionId, Wishes)> {
        self.lanes.iter_mut().for_each(|lane| lane.unacknowledged = None);
        self.under_way.drain().map(|(_, message)| (message.partition, message.wishes)).collect()
    }

    /// Writes further messages under this epoch.
    pub(crate) fn set_epoch(&mut self, epoch: Epoch) {
        self.epoch = epoch;
    }

    /// Returns whether nothing waits and nothing is under way.
    pub(crate) fn is_empty(&self) -> bool {
        self.under_way.is_empty() && self.lanes.iter().all(|lane| lane.waiting.is_empty())
    }

    fn free_lane(&mut self, partition: PartitionId, number: u64) {
        if let Some(lane) = self.lanes.get_mut(usize::from(partition)) {
            lane.unacknowledged = lane.unacknowledged.filter(|other| *other != number);
        }
    }
}

fn size(publish: &Publish) -> usize {
    bytes_of(publish.topic.name(), &publish.events, publish.key.as_deref())
}
