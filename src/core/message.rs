//! What homes and fan-outs say to one another. A shard carries it from one to the other, and knows more messages of its own.
//!
//! Channels are first in, first out, and a partition's events come from its home alone: so every shard sees one
//! order per partition, and whatever a home says between two events (a final page, say) marks its place between
//! them.

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
pub(crate) use crate::core::reply::{OrderError, Ordered, Reply, ReplyTo, ShardId, Ticket};
use crate::core::selection::Selection;
use crate::core::topic::Topic;

/// A message and whom it is for.
#[derive(Debug)]
pub(crate) struct Post {
    pub(crate) to: ListenerId,
    pub(crate) message: Message,
}

/// Who listens to a home: a shard, by its number. Numbers above the shards' are free for others who take what topics gain.
pub(crate) type ListenerId = ShardId;

/// One message.
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

    /// Returns the message that has events ordered. A request names no topic that has no partition.
    pub(crate) fn publish(publish: Publish, placement: Placement) -> Self {
        let partition = publish.topic.partition().unwrap_or_default();
        Post::to_home(partition, placement, ToHome::Publish(publish))
    }

    /// Returns the message that ends the streams that take a topic, on all shards. It is a session's, and has a partition.
    pub(crate) fn disconnect(topic: Topic, placement: Placement, ticket: Ticket) -> Self {
        let (partition, shards) = (topic.partition().unwrap_or_default(), placement.shards());
        Post::to_home(partition, placement, ToHome::Disconnect(Disconnect { topic, shards, ticket }))
    }
}

impl From<(Ticket, Reply)> for Post {
    fn from((ticket, reply): (Ticket, Reply)) -> Self {
        Post { to: ticket.shard, message: Message::Reply(ticket, reply) }
    }
}

impl Message {
    /// About how long handling it takes, in units of 0.5 us: a publish of 4096 events takes 1 ms, not 0.5 us.
    pub(crate) fn work(&self) -> usize {
        match self {
            Message::Home(_, ToHome::Publish(publish)) => work_of(&publish.events),
            // A page of replay; one of several topics is looked for among the events of all.
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

/// What a home is asked.
#[derive(Debug)]
pub(crate) enum ToHome {
    /// Order these events.
    Publish(Publish),
    /// A subscriber wants these topics from now on, or from after `last_event_id`.
    Join { selection: Selection, from: ListenerId, key: Key, last_event_id: Option<Box<str>> },
    /// A subscriber that is replaying has been sent everything up to `after`, and was told if anything up to `told` is
    /// missing.
    More { selection: Selection, from: ListenerId, key: Key, after: Sequence, told: Sequence },
    /// The listener has no subscriber of the topic any more.
    Leave { topic: Topic, from: ListenerId },
    /// The streams that take this topic, which is a session's, are to end on all `shards`, after what was published
    /// before this.
    Disconnect(Disconnect),
}

/// Streams that are to end.
#[derive(Debug)]
pub(crate) struct Disconnect {
    pub(crate) topic: Topic,
    pub(crate) shards: ShardId,
    pub(crate) ticket: Ticket,
}

/// Events that are to be ordered.
#[derive(Debug)]
pub(crate) struct Publish {
    pub(crate) topic: Topic,
    pub(crate) events: Events,
    pub(crate) reply: ReplyTo,
    /// When its request was parsed, in microseconds of the server's clock.
    pub(crate) at_us: u64,
    pub(crate) charge: Charge,
    /// Boxed: few have one.
    pub(crate) key: Option<Box<PublishKey>>,
}

/// What a publisher calls a publish, so that it is ordered once however often it is sent.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct PublishKey {
    /// The key with all that it is good for: the topic, and whose it is.
    pub(crate) name: Arc<[u8]>,
    /// Of the body, to tell a repeated publish from another one.
    pub(crate) digest: [u8; 32],
}

/// Where the events of one publish lie.
pub(crate) type Marks = SmallVec<[Mark; 1]>;

/// What a home tells a listener.
#[derive(Debug)]
pub(crate) enum ToFanout {
    /// These topics, each covered by the next, gained these frames, which follow one another.
    Events {
        /// None of what comes past the homes.
        partition: Option<PartitionId>,
        topics: SmallVec<[Topic; 1]>,
        frames: Chunk,
        /// Where each event lies; none of what comes past the homes, whose topics are read alone.
        marks: Marks,
        count: u32,
        last: Sequence,
        at_us: u64,
        /// None for what a queue delivers, which is bounded where it comes from.
        charge: Option<Arc<Charge>>,
        /// Of an emit: who waits to hear how many streams it was sent to.
        delivery_count: Option<Arc<DeliveryCount>>,
    },
    /// A part of the past for one subscriber, of what it takes of `partition`.
    Page { key: Key, partition: PartitionId, page: ReplayPage },
    /// The subscriber cannot join: there is room for no further topic.
    Refused { key: Key },
    /// The stream that takes this topic, which is a queue's, ends, and is told when to come back.
    End { topic: Topic },
    /// Streams that take this topic, which is a session's, end after the event `upto`.
    Disconnect { topic: Topic, upto: Sequence, delivery_count: Arc<DeliveryCount> },
}

/// A page of replay.
#[derive(Debug, Default)]
pub(crate) struct ReplayPage {
    pub(crate) gap: Option<Gap>,
    pub(crate) frames: Vec<Bytes>,
    /// It holds what is retained up to here.
    pub(crate) upto: Sequence,
    /// It tells if anything up to here is missing.
    pub(crate) told: Sequence,
    /// Nothing follows but what is live.
    pub(crate) joined: bool,
}

/// What a resuming subscriber missed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Gap {
    /// The last id it has; none when it is not known.
    pub(crate) from: Option<Box<str>>,
    pub(crate) reason: GapReason,
    /// Where to resume from now on, when no event follows whose id would say so: or the same gap would be
    /// told at every reconnect.
    pub(crate) id: Option<Box<str>>,
}

/// Why a resuming subscriber is told of a gap.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum GapReason {
    /// Events after its id were dropped: the history has a limit.
    Trimmed,
    /// Its id is not one that this topic knows.
    Unknown,
    /// It read too slowly and was skipped forward.
    Slow,
}

impl GapReason {
    pub(crate) fn name(self) -> &'static str {
        match self {
            GapReason::Trimmed => "trimmed",
            GapReason::Unknown => "unknown",
            GapReason::Slow => "slow",
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
        let selection = |topic, is_part| Selection::new(0, [topic].into(), is_part);
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
            ("a new stream", join(selection(id(), false), None), 1),
            ("a new stream on a tree", join(selection(path.clone(), true), None), 1),
            ("a page of one topic", join(selection(id(), false), Some("9-1")), 8),
            ("the next page of it", more(selection(id(), false)), 8),
            ("a page of several topics", join(selection(id(), true), Some("9-1")), 256),
            ("the next page of a tree", more(selection(path, false)), 256),
            ("a leave", home(ToHome::Leave { topic: id(), from: 0 }), 1),
            ("an answer", Message::Reply(ticket, Reply::Disconnected(400)), 1),
        ] {
            assert_eq!(message.work(), work, "{name}");
        }
    }
}
