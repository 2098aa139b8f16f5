//! Replies to publishers and other callers, and where to send them.

use std::fmt;

use crate::core::arena::Key;
use crate::core::event_id::EventId;

/// A shard's number, from 0.
pub(crate) type ShardId = u16;

/// The receiver of the reply to a publish.
#[derive(Debug)]
pub(crate) enum ReplyTo {
    /// A connection, by a message to its shard.
    Connection(Ticket),
    /// A connection that also waits for the number of streams that the publish was sent to.
    Emitter(Ticket),
    /// A caller within this process.
    Caller(Callback),
    /// A caller within this process that also waits for the number of streams that the publish was sent to.
    CountingCaller(Callback),
    /// Nobody: another node answers the publisher.
    Nobody,
}

/// A function of a caller within this process that is given the reply; dropped uncalled, there will be none.
pub(crate) struct Callback(Box<dyn FnOnce(Reply) + Send>);

impl Callback {
    /// Returns a callback that runs `told`, which must not block.
    pub(crate) fn new(told: impl FnOnce(Reply) + Send + 'static) -> Self {
        Callback(Box::new(told))
    }

    /// Calls the function with the reply.
    pub(crate) fn call(self, reply: Reply) {
        (self.0)(reply);
    }
}

/// The receiver of a number of streams.
#[derive(Debug)]
pub(crate) enum CountFor {
    /// A connection, by a message to its shard.
    Connection(Ticket),
    /// A caller within this process.
    Caller(Callback),
}

impl fmt::Debug for Callback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Callback")
    }
}

/// The reply to a connection that asked a home.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Reply {
    Published(Result<Ordered, OrderError>),
    /// The number of streams that were ended.
    Disconnected(u32),
}

/// The address of a reply: one request of one connection of a shard.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Ticket {
    pub(crate) shard: ShardId,
    pub(crate) connection: Key,
    /// The number of the request on its connection, from 0.
    pub(crate) request: u64,
}

/// The result of a publish that was ordered, as its publisher is told.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Ordered {
    pub(crate) last_id: EventId,
    pub(crate) events: u32,
    /// The number of events whose id had the broker's own form and was replaced.
    pub(crate) ids_replaced: u32,
    /// The number of streams it was sent to, if that was asked.
    pub(crate) streams: Option<u32>,
}

/// The reason why a home did not order a publish.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum OrderError {
    #[error("all topics this server has room for have subscribers; try again later, or raise --topics-max")]
    TopicsFull,
    #[error("this idempotency key was used with another body; use a new one for each publish")]
    KeyReused,
    #[error("too many idempotency keys are known at once; try again later, or publish without one")]
    KeysFull,
    #[error(
        "the disk is full, so nothing is published; free some space where --data-dir is, or lower --data-max"
    )]
    DiskFull,
    #[error(
        "this node has no connection to the cluster (--cluster), so nothing is published; try again, or at another node"
    )]
    CutOff,
    #[error(
        "the cluster did not confirm it in time: it may have been published; to try again without publishing it twice, \
         send it with an Idempotency-Key; if this lasts, the log of this node has NATS's reason"
    )]
    Unconfirmed,
    #[error(
        "the cluster's stream is full, so nothing is published; raise its limits, or let it discard old messages"
    )]
    StreamFull,
    #[error(
        "the event is larger than the cluster takes; raise the NATS servers' max_payload, or the stream's max_msg_size"
    )]
    TooLarge,
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn a_caller_is_told_the_answer_and_one_that_is_dropped_that_there_is_none() {
        for (is_called, expected) in [
            (true, Ok(Reply::Published(Err(OrderError::TopicsFull)))),
            (false, Err(mpsc::TryRecvError::Disconnected)),
        ] {
            let (told, answer) = mpsc::channel();
            let callback = Callback::new(move |reply| told.send(reply).unwrap());
            assert_eq!(format!("{callback:?}"), "Callback");
            match is_called {
                true => callback.call(Reply::Published(Err(OrderError::TopicsFull))),
                false => drop(callback),
            }
            assert_eq!(answer.try_recv(), expected);
        }
    }
}
