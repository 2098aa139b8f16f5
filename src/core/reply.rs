//! Who asked for something, and what they are answered.

use std::fmt;

use crate::core::arena::Key;
use crate::core::event_id::EventId;

/// A shard's number, from 0.
pub(crate) type ShardId = u16;

/// Who is told how a publish went.
#[derive(Debug)]
pub(crate) enum ReplyTo {
    /// A connection, by a message to its shard.
    Connection(Ticket),
    /// A connection that waits to hear how many streams it was sent to as well.
    Emitter(Ticket),
    /// A caller within this process.
    Caller(Callback),
}

/// What a caller within this process does with the answer; dropping it says that there will be none.
pub(crate) struct Callback(Box<dyn FnOnce(Result<Ordered, OrderError>) + Send>);

impl Callback {
    /// Calls `told`, which must not block, with the answer.
    pub(crate) fn new(told: impl FnOnce(Result<Ordered, OrderError>) + Send + 'static) -> Self {
        Callback(Box::new(told))
    }

    /// Hands the answer over.
    pub(crate) fn call(self, result: Result<Ordered, OrderError>) {
        (self.0)(result);
    }
}

impl fmt::Debug for Callback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Callback")
    }
}

/// The answer to what a connection asked a home.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Reply {
    Published(Result<Ordered, OrderError>),
    /// How many streams were ended.
    Disconnected(u32),
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
pub(crate) struct Ordered {
    pub(crate) last_id: EventId,
    pub(crate) events: u32,
    /// How many of them had an id of the broker's own form, in whose place they were given another.
    pub(crate) ids_replaced: u32,
    /// How many streams it was sent to, where that was asked.
    pub(crate) streams: Option<u32>,
}

/// Why a home shard did not order a publish.
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
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn a_caller_is_told_the_answer_and_one_that_is_dropped_that_there_is_none() {
        for (is_called, expected) in
            [(true, Ok(Err(OrderError::TopicsFull))), (false, Err(mpsc::TryRecvError::Disconnected))]
        {
            let (told, answer) = mpsc::channel();
            let callback = Callback::new(move |result| told.send(result).unwrap());
            assert_eq!(format!("{callback:?}"), "Callback");
            match is_called {
                true => callback.call(Err(OrderError::TopicsFull)),
                false => drop(callback),
            }
            assert_eq!(answer.try_recv(), expected);
        }
    }
}
