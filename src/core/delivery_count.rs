//! Counts the streams that an emit or a disconnect reaches, over all shards.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::core::reply::{CountFor, Ordered, Reply, Ticket};

/// Counts the streams that an emit or a disconnect reaches. Each shard holds it once, and the last that lets go of it
/// answers.
#[derive(Debug)]
pub(crate) struct DeliveryCount {
    /// Locked only to be taken out: a callback need not be shared between threads.
    receiver: Mutex<CountFor>,
    streams: AtomicU32,
    /// The publish that was emitted; `None` when streams are to end.
    published: Option<Ordered>,
}

impl DeliveryCount {
    /// Returns a count of 0 whose result goes to `receiver`: the streams that `published` was sent to, or, without one,
    /// those that end.
    pub(crate) fn new(receiver: CountFor, published: Option<Ordered>) -> Arc<Self> {
        Arc::new(DeliveryCount { receiver: Mutex::new(receiver), streams: AtomicU32::new(0), published })
    }

    /// Adds the streams of one shard and lets go; if this was the last shard, returns the answer to a connection, or
    /// gives it to the caller.
    pub(crate) fn add(self: Arc<Self>, streams: u32) -> Option<(Ticket, Reply)> {
        // Relaxed: the last shard sees it, because letting go of an `Arc` orders what was done before.
        self.streams.fetch_add(streams, Ordering::Relaxed);
        let DeliveryCount { receiver, streams, published } = Arc::into_inner(self)?;
        let streams = streams.into_inner();
        let reply = match published {
            Some(published) => Reply::Published(Ok(Ordered { streams: Some(streams), ..published })),
            None => Reply::Disconnected(streams),
        };
        match receiver.into_inner().unwrap_or_else(PoisonError::into_inner) {
            CountFor::Connection(ticket) => Some((ticket, reply)),
            CountFor::Caller(callback) => {
                callback.call(reply);
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::arena::Arena;
    use crate::core::event_id::EventId;

    #[test]
    fn the_last_shard_answers_with_what_was_emitted_and_the_streams_of_all() {
        let ticket = Ticket { shard: 3, connection: Arena::default().insert(()), request: 5 };
        let published = Ordered { last_id: EventId::Sequence(7), events: 2, ids_replaced: 1, streams: None };
        let first = DeliveryCount::new(CountFor::Connection(ticket), Some(published.clone()));
        let last = Arc::clone(&first);
        assert_eq!(first.add(2), None);
        let reply = Reply::Published(Ok(Ordered { streams: Some(7), ..published }));
        assert_eq!(last.add(5), Some((ticket, reply)));
    }
}
