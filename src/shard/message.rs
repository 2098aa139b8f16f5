//! What shards say to one another. Nothing else passes between them but counters.
//!
//! Channels are first in, first out, and a topic's events come from its home alone: so every shard sees one
//! order per topic, and whatever a home says between two events (a final page, say) marks its place between
//! them.

use std::sync::Arc;

use bytes::Bytes;
use smallvec::SmallVec;
use tokio::sync::oneshot;

use crate::bridge::NoQueue;
use crate::core::arena::Key;
use crate::core::budget::Charge;
use crate::core::event::Events;
use crate::core::event_id::{EventId, Sequence};
use crate::core::topic::Topic;
use crate::shard::history::GapReason;
use crate::shard::queue::QueueStream;
use crate::shard::selection::Selection;
use crate::shard::tally::Tally;
use crate::shard::visitors::Survey;

/// A shard's number, from 0.
pub(crate) type ShardId = u16;

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
    /// From a home shard to the connection whose publish it ordered, or from the last shard that an emit reached.
    Answer(Ticket, Result<Published, PublishError>),
    /// From the last shard that ended streams to the connection that asked for it: how many there were.
    Disconnected(Ticket, u32),
    /// A queue that was asked for is the client's, or why not.
    Queue(Ticket, Result<QueueStream, NoQueue>),
    /// The answer to a request that was looked up elsewhere, with room for it; none when there was no room.
    Json(Ticket, Option<(Vec<u8>, Charge)>),
    /// Which streams are open?
    Survey(Survey),
    /// From the server to every shard.
    Control(Control),
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
            Message::Fanout(ToFanout::Events { frames, .. }) => 1 + frames.len() / 4096,
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

/// What a home shard tells one with subscribers.
#[derive(Debug)]
pub(crate) enum ToFanout {
    /// These topics, each covered by the next, gained these frames, which follow one another in `frames`.
    Events {
        home: ShardId,
        topics: SmallVec<[Topic; 1]>,
        frames: Bytes,
        count: u32,
        last: Sequence,
        at_us: u64,
        /// None for what a queue delivers, which is bounded where it comes from.
        charge: Option<Arc<Charge>>,
        /// Of an emit: who waits to hear how many streams it was sent to.
        tally: Option<Arc<Tally>>,
    },
    /// A part of the past for one subscriber. With it, it is told if anything up to `told` is missing.
    Page { key: Key, gap: Option<Gap>, frames: Vec<Bytes>, upto: Sequence, told: Sequence, joined: bool },
    /// The subscriber cannot join: the home shard has room for no further topic.
    Refused { key: Key },
    /// The stream that takes this topic, which is a queue's, ends, and is told when to come back.
    End { topic: Topic },
    /// Streams that take this topic, which is a session's, end after the event `upto`.
    Disconnect { topic: Topic, upto: Sequence, tally: Arc<Tally> },
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

/// Who is told how a publish went.
#[derive(Debug)]
pub(crate) enum ReplyTo {
    /// A connection, by a message to its shard.
    Connection(Ticket),
    /// A connection that waits to hear how many streams it was sent to as well.
    Emitter(Ticket),
    /// A caller within this process.
    Caller(oneshot::Sender<Result<Published, PublishError>>),
}

/// Where the answer to a publish belongs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Ticket {
    pub(crate) shard: ShardId,
    pub(crate) connection: Key,
    /// Which of the connection's requests, counted from 0.
    pub(crate) request: u64,
}

/// A publish that was ordered.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Published {
    pub(crate) last_id: EventId,
    pub(crate) events: u32,
    /// How many of them had an id of the broker's own form, in whose place they were given another.
    pub(crate) ids_replaced: u32,
    /// How many streams it was sent to, where that was asked.
    pub(crate) streams: Option<u32>,
}

/// Why a home shard did not order a publish.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum PublishError {
    #[error("all topics this server has room for have subscribers; try again later, or raise --topics-max")]
    TopicsFull,
}

/// What the server tells its shards.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Control {
    /// Take no further connection and no further request; answer what is under way.
    StopAccepting,
    /// Send every subscriber what it has coming, tell it when to return, and close.
    CloseStreams,
    /// End now.
    Stop,
}
