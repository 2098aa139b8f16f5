//! What shards say to one another, and what the server and other threads say to them. Nothing else passes between them
//! but counters.

use crate::backend::NoQueue;
use crate::core::budget::Charge;
use crate::core::message::{Message, OrderError, Reply, Ticket};
use crate::core::survey::Survey;
use crate::journal::disk::log::Lost;
use crate::shard::queue::QueueStream;

/// What lies in a shard's mailbox.
#[derive(Debug)]
pub(crate) enum ShardMessage {
    /// From a home or a fan-out to another, or to a connection.
    Core(Message),
    /// From another thread to a connection.
    Connection(Ticket, TicketReply),
    /// What became of the oldest publishes that are the journal's.
    Journaled { publishes: usize, work: usize, result: Result<(), OrderError> },
    /// Events that the journal has no more.
    JournalLost(Lost),
    /// Which streams are open?
    Survey(Survey),
    /// From the server to every shard.
    Control(ShardControl),
}

impl ShardMessage {
    /// About how long handling it takes, in the units of [`Message::work`].
    pub(crate) fn work(&self) -> usize {
        match self {
            ShardMessage::Core(message) => message.work(),
            ShardMessage::Journaled { work, .. } => *work,
            _ => 1,
        }
    }
}

impl From<Message> for ShardMessage {
    fn from(message: Message) -> Self {
        ShardMessage::Core(message)
    }
}

/// What a connection that waits is told.
#[derive(Debug)]
pub(crate) enum TicketReply {
    /// What became of what it posted.
    Core(Reply),
    /// A queue that was asked for is the client's, or why not.
    Queue(Result<QueueStream, NoQueue>),
    /// What was asked of all shards, with room for it; `None` when there was no room.
    Json(Option<(Vec<u8>, Charge)>),
}

/// What the server tells its shards.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum ShardControl {
    /// Take no further connection and no further request; answer what is under way.
    StopAccepting,
    /// Send every subscriber what it has coming, tell it when to return, and close.
    CloseStreams,
    /// End now.
    Stop,
}
