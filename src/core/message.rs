//! The messages between homes and fan-outs. A shard carries them, and has more messages of its own.
//!
//! Channels are first in, first out, and a partition's events come from its home alone. So every shard sees one order
//! per partition, and a message that a home posts between two events (a final page, say) marks its place between them.

use std::sync::Arc;

use bytes::Bytes;
use smallvec::SmallVec;

use crate::core::arena::Key;
use crate::core::budget::Charge;
use crate::core::chunk::{Chunk, Mark};
use crate::core::delivery_count::DeliveryCount;
use crate::core::event::Events;
use crate::core::event_id::Sequence;
use crate::core::partition::{PartitionId, Placement};
pub(crate) use crate::core::reply::{
    Callback, CountFor, OrderError, Ordered, Reply, ReplyTo, ShardId, Ticket,
};
use crate::core::selection::Selection;
use crate::core::topic::Topic;

/// A message and its addressee, made by a home or a fan-out and delivered by its shard.
#[derive(Debug)]
pub(crate) struct Post {
    pub(crate) to: ListenerId,
    pub(crate) message: Message,
}

/// A listener of a home: a shard, by its number. Numbers above the shards' are free for other receivers of events.
pub(crate) type ListenerId = ShardId;

/// A message between the shards' homes, fan-outs and connections.
#[derive(Debug)]
pub(crate) enum Message {
    /// For the home of a partition.
    Home(PartitionId, ToHome),
    /// From a home shard to one with subscribers.
    Fanout(ToFanout),
    /// From a home shard to the connection whose publish it ordered, or from the last shard that an emit or the end of
    /// streams reached to the connection that asked for it.
    Reply(Ticket, Reply),
}

impl Post {
    /// Returns a message for the home of a partition, addressed to the shard that is home to it.
    pub(crate) fn to_home(partition: PartitionId, placement: Placement, message: ToHome) -> Self {
        Post { to: placement.home(partition), message: Message::Home(partition, message) }
    }

    /// Returns the message that has events ordered. Its topic has a partition, like all that a request can name.
    pub(crate) fn publish(publish: Publish, placement: Placement) -> Self {
        let partition = publish.topic.partition().unwrap_or_default();
        Post::to_home(partition, placement, ToHome::Publish(publish))
    }

    /// Returns the message that ends, on all shards, the streams that take a session's topic. Such a topic has a
    /// partition.
    pub(crate) fn disconnect(topic: Topic, placement: Placement, ticket: Ticket) -> Self {
        let (partition, shards) = (topic.partition().unwrap_or_default(), placement.shards());
        let count_for = CountFor::Connection(ticket);
        Post::to_home(partition, placement, ToHome::Disconnect(Disconnect { topic, shards, count_for }))
    }
}

impl From<(Ticket, Reply)> for Post {
    fn from((ticket, reply): (Ticket, Reply)) -> Self {
        Post { to: ticket.shard, message: Message::Reply(ticket, reply) }
    }
}

impl Message {
    /// Returns about how long handling it takes, in units of 0.5 us: a publish of 4096 events takes 1 ms, not 0.5 us.
    pub(crate) fn work(&self) -> usize {
        match self {
            Message::Home(_, ToHome::Publish(publish)) => work_of(&publish.events),
            // A page of replay; for a multi-topic stream it is searched among the events of all.
            Message::Home(
                _,
                ToHome::More { selection, .. } | ToHome::Join { last_event_id: Some(_), selection, .. },
            ) => match selection.is_part() || selection.topics().iter().any(|topic| topic.parent().is_some())
            {
                true => 256,
                false => 8,
            },
            Message::Fanout(ToFanout::Events { frames, .. }) => 1 + frames.bytes() / 4096,
            _ => 1,
        }
    }
}

/// Returns about how long it takes to order these events, in the units of [`Message::work`].
pub(crate) fn work_of(events: &Events) -> usize {
    events.len() + events.text_bytes() / 4096
}

/// A request to a home.
#[derive(Debug)]
pub(crate) enum ToHome {
    /// Order these events.
    Publish(Publish),
    /// A subscriber wants these topics from now on, or from after `last_event_id`.
    Join { selection: Selection, from: ListenerId, key: Key, last_event_id: Option<Box<str>> },
    /// A replaying subscriber asks for its next page: it was sent everything up to `after`, and was told of a gap if
    /// anything up to `told` is missing.
    More { selection: Selection, from: ListenerId, key: Key, after: Sequence, told: Sequence },
    /// The listener has no subscriber of the topic any more.
    Leave { topic: Topic, from: ListenerId },
    /// End the streams that take this session's topic, on all `shards`, after everything published before this.
    Disconnect(Disconnect),
}

/// A request to end the streams of a session's topic; its home counts them for `count_for`.
#[derive(Debug)]
pub(crate) struct Disconnect {
    pub(crate) topic: Topic,
    pub(crate) shards: ShardId,
    pub(crate) count_for: CountFor,
}

/// Events to be ordered: owned by the home, then by the journal until their order is final.
#[derive(Debug)]
pub(crate) struct Publish {
    pub(crate) topic: Topic,
    pub(crate) events: Events,
    pub(crate) reply: ReplyTo,
    /// When the last byte of its request was read, in microseconds of the server's clock.
    pub(crate) at_us: u64,
    pub(crate) charge: Charge,
    /// Boxed: few have one.
    pub(crate) key: Option<Box<PublishKey>>,
}

/// An idempotency key: a publish that is sent again with it is ordered once.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct PublishKey {
    /// The key together with its scope: the topic, and the publisher that it belongs to.
    pub(crate) name: Arc<[u8]>,
    /// The digest of the body, to distinguish a repeated publish from another one.
    pub(crate) digest: [u8; 32],
}

/// The places of the events of one publish among its frames.
pub(crate) type Marks = SmallVec<[Mark; 1]>;

/// A message to a listener, from a home or from the owner of a queue.
#[derive(Debug)]
pub(crate) enum ToFanout {
    /// These topics, each covered by the next, gained these frames, which follow one another.
    Events {
        /// `None` for queues and the server's own topics, which bypass the homes.
        partition: Option<PartitionId>,
        topics: SmallVec<[Topic; 1]>,
        frames: Chunk,
        /// The place of each event; empty for topics that bypass the homes, which are read alone.
        marks: Marks,
        /// The topic that they were published to, where a stream of the listener names topics. Boxed: few do.
        published_to: Option<Box<Topic>>,
        count: u32,
        last: Sequence,
        at_us: u64,
        /// `None` for a queue's deliveries, which are bounded at their source.
        charge: Option<Arc<Charge>>,
        /// For an emit: the count of streams it was sent to.
        delivery_count: Option<Arc<DeliveryCount>>,
    },
    /// A page of replay for one subscriber, of its topics in `partition`.
    Page { key: Key, partition: PartitionId, page: ReplayPage },
    /// The subscriber cannot join: there is room for no further topic.
    Refused { key: Key },
    /// The stream that takes this queue's topic ends, and gets a `retry:`.
    End { topic: Topic },
    /// Streams that take this session's topic end after the event `upto`.
    Disconnect { topic: Topic, upto: Sequence, delivery_count: Arc<DeliveryCount> },
    /// Events of a partition up to this one may be missing on this node, and all its streams are told.
    Missed { partition: PartitionId, upto: Sequence },
}

/// A page of replay, made by a home for one stream.
#[derive(Debug, Default)]
pub(crate) struct ReplayPage {
    pub(crate) gap: Option<Gap>,
    pub(crate) frames: Vec<Bytes>,
    /// The page holds all that is retained up to this event.
    pub(crate) upto: Sequence,
    /// The page or an earlier one told of a gap if anything up to this event is missing.
    pub(crate) told: Sequence,
    /// Set on the last page: live events follow.
    pub(crate) joined: bool,
}

/// A gap that a subscriber is told of, by its home or its fan-out.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Gap {
    /// The last id the subscriber has; `None` when not known.
    pub(crate) from: Option<Box<str>>,
    pub(crate) reason: GapReason,
    /// The id to resume from, when no event follows whose id would do: otherwise every reconnect would report the same
    /// gap.
    pub(crate) id: Option<Box<str>>,
}

/// The reason of a gap, as the subscriber reads it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum GapReason {
    /// Events after its id were dropped: the history has a limit.
    Trimmed,
    /// Its id is not one that this topic knows.
    Unknown,
    /// It read too slowly and was skipped forward.
    Slow,
    /// The order began anew: the cluster's stream was deleted, or lost what it had.
    Reset,
}

impl GapReason {
    pub(crate) fn name(self) -> &'static str {
        match self {
            GapReason::Trimmed => "trimmed",
            GapReason::Unknown => "unknown",
            GapReason::Slow => "slow",
            GapReason::Reset => "reset",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::arena::Arena;
    use crate::core::budget::Budget;
    use crate::core::event::EventLimits;
    use crate::core::memory::Memory;
    use crate::core::selection::StreamIds;
    use crate::core::topic::TopicHasher;

    #[test]
    fn the_work_of_a_message_is_that_of_the_events_and_bytes_it_has_looked_at() {
        let hasher = TopicHasher::of(1);
        let id = || Topic::parse(b"topicnumber1", &hasher).unwrap();
        let path = Topic::parse_path(&[b"a"[..].into()], &hasher).unwrap();
        let key = Arena::default().insert(());
        let ticket = Ticket { shard: 0, connection: key, request: 0 };
        let home = |message| Message::Home(0, message);
        let publish = |events: usize, bytes: usize| {
            let text = "data:a\n\n".repeat(events - 1) + "data:" + &"x".repeat(bytes);
            let events = Events::parse(text.into(), &EventLimits::of(1 << 20)).unwrap();
            let (reply, charge) = (ReplyTo::Connection(ticket), Budget::new(9, 9).take(1).unwrap());
            home(ToHome::Publish(Publish { topic: id(), events, reply, at_us: 0, charge, key: None }))
        };
        let selection = |topic, ids| Selection::new(0, [topic].into(), ids);
        let join = |selection, last_event_id: Option<&str>| {
            home(ToHome::Join { selection, from: 0, key, last_event_id: last_event_id.map(Into::into) })
        };
        let more = |selection| home(ToHome::More { selection, from: 0, key, after: 1, told: 0 });
        let events = |bytes| {
            Message::Fanout(ToFanout::Events {
                partition: Some(0),
                topics: [id()].into(),
                frames: Chunk::of([&*vec![b'x'; bytes]], bytes, &Memory::new(usize::MAX)),
                marks: Marks::new(),
                published_to: None,
                count: 1,
                last: 1,
                at_us: 0,
                charge: None,
                delivery_count: None,
            })
        };
        for (name, message, work) in [
            ("one event", publish(1, 1), 1),
            ("many events", publish(400, 1), 400),
            ("3 events, 9 KB", publish(3, 9000), 3 + 2),
            ("frames of few bytes", events(10), 1),
            ("frames of 13 KB", events(13_000), 1 + 3),
            ("a new stream", join(selection(id(), StreamIds::Plain), None), 1),
            ("a new stream on a tree", join(selection(path.clone(), StreamIds::Positions), None), 1),
            ("a page of one topic", join(selection(id(), StreamIds::Plain), Some("9-1")), 8),
            ("the next page of it", more(selection(id(), StreamIds::Plain)), 8),
            ("a page of several topics", join(selection(id(), StreamIds::Positions), Some("9-1")), 256),
            ("the next page of a tree", more(selection(path, StreamIds::Plain)), 256),
            ("a leave", home(ToHome::Leave { topic: id(), from: 0 }), 1),
            ("an answer", Message::Reply(ticket, Reply::Disconnected(400)), 1),
        ] {
            assert_eq!(message.work(), work, "{name}");
        }
    }
}
