//! What homes and fan-outs say to one another. A shard carries it from one to the other, and knows more messages of its own.
//!
//! Channels are first in, first out, and a topic's events come from its home alone: so every shard sees one
//! order per topic, and whatever a home says between two events (a final page, say) marks its place between
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
pub(crate) use crate::core::reply::{PublishError, Published, Reply, ReplyTo, ShardId, Ticket};
use crate::core::selection::Selection;
use crate::core::topic::Topic;

/// A message and the shard it is for.
#[derive(Debug)]
pub(crate) struct Post {
    pub(crate) to: ShardId,
    pub(crate) message: Message,
}

/// One message.
#[derive(Debug)]
pub(crate) enum Message {
    /// For a home shard.
    Home(ToHome),
    /// From a home shard to one with subscribers.
    Fanout(ToFanout),
    /// From a home shard to the connection whose publish it ordered, or from the last shard that an emit or the end of
    /// streams reached to the connection that asked for it.
    Reply(Ticket, Reply),
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
            Message::Home(ToHome::Publish { events, .. }) => events.len() + events.text_bytes() / 4096,
            // A page of replay; one of several topics is looked for among the events of all.
            Message::Home(
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

/// What a home shard is asked.
#[derive(Debug)]
pub(crate) enum ToHome {
    /// Order these events.
    Publish { topic: Topic, events: Events, reply: ReplyTo, at_us: u64, charge: Charge },
    /// A subscriber wants these topics from now on, or from after `last_event_id`.
    Join { selection: Selection, from: ShardId, key: Key, last_event_id: Option<Box<str>> },
    /// A subscriber that is replaying has been sent everything up to `after`, and was told if anything up to `told` is
    /// missing.
    More { selection: Selection, from: ShardId, key: Key, after: Sequence, told: Sequence },
    /// The shard has no subscriber of the topic any more.
    Leave { topic: Topic, from: ShardId },
    /// The streams that take this topic, which is a session's, are to end on all `shards`, after what was published
    /// before this.
    Disconnect { topic: Topic, shards: u16, ticket: Ticket },
}

/// Where the events of one publish lie.
pub(crate) type Marks = SmallVec<[Mark; 1]>;

/// What a home shard tells one with subscribers.
#[derive(Debug)]
pub(crate) enum ToFanout {
    /// These topics, each covered by the next, gained these frames, which follow one another.
    Events {
        home: ShardId,
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
    /// A part of the past for one subscriber, of what it takes of `home`.
    Page { key: Key, home: ShardId, page: ReplayPage },
    /// The subscriber cannot join: the home shard has room for no further topic.
    Refused { key: Key },
    /// The stream that takes this topic, which is a queue's, ends, and is told when to come back.
    End { topic: Topic },
    /// Streams that take this topic, which is a session's, end after the event `upto`.
    Disconnect { topic: Topic, upto: Sequence, delivery_count: Arc<DeliveryCount> },
}

/// A page of replay.
#[derive(Debug)]
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
