//! Messages between shards, and from the server and other threads to shards. Beside counters nothing else passes
//! between them.

use std::os::fd::OwnedFd;

use crossbeam_channel::Sender;

use crate::backend::NoQueue;
use crate::core::budget::Charge;
use crate::core::message::{Message, OrderError, Reply, Ticket};
use crate::core::survey::{ClientAddress, Survey};
use crate::dialects::Port;
use crate::journal::cluster::events::ClusterNews;
use crate::journal::disk::log::Lost;
use crate::shard::queue::QueueStream;

/// A message in a shard's mailbox.
#[derive(Debug)]
pub(crate) enum ShardMessage {
    /// From a home or a fan-out to another one, or to a connection.
    Core(Message),
    /// From another thread to a connection.
    Connection(Ticket, TicketReply),
    /// The journal's result for the oldest publishes that it has.
    Journaled { publishes: usize, work: usize, result: Result<(), OrderError> },
    /// The journal lost these events.
    JournalLost(Lost),
    /// What came through the stream of the cluster.
    Cluster(ClusterNews),
    /// A connection that was accepted for this shard.
    Accepted(Accepted),
    /// Asks for a sign of life.
    Probe(Sender<()>),
    /// Asks which streams are open.
    Survey(Survey),
    /// From the server to every shard.
    Control(ShardControl),
}

impl ShardMessage {
    /// Returns about how long handling it takes, in the units of [`Message::work`].
    pub(crate) fn work(&self) -> usize {
        match self {
            ShardMessage::Core(message) => message.work(),
            ShardMessage::Journaled { work, .. } => *work,
            ShardMessage::Cluster(news) => news.work(),
            _ => 1,
        }
    }
}

impl From<Message> for ShardMessage {
    fn from(message: Message) -> Self {
        ShardMessage::Core(message)
    }
}

/// A connection that another thread accepted, from a listener that all shards share.
#[derive(Debug)]
pub(crate) struct Accepted {
    pub(crate) socket: OwnedFd,
    pub(crate) peer: ClientAddress,
    /// The listener's.
    pub(crate) port: Port,
}

/// The reply that a connection waits for.
#[derive(Debug)]
pub(crate) enum TicketReply {
    /// The result of what it posted.
    Core(Reply),
    /// The queue that it asked for, or why it cannot have it.
    Queue(Result<QueueStream, NoQueue>),
    /// The answer of all shards to a question, with its charge; `None` when there was no room.
    Json(Option<(Vec<u8>, Charge)>),
}

/// The server's orders to its shards.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum ShardControl {
    /// Take no further connection or request; answer those under way.
    StopAccepting,
    /// Send every subscriber what is queued for it and when to return, and close.
    CloseStreams,
    /// Stop now.
    Stop,
}
