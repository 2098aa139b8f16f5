//! How many streams something reaches, over all shards.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::shard::message::{Message, Post, Published, Ticket, ToFanout};

/// Counts the streams that something reaches. Each shard holds it once, and the last that lets go of it answers.
#[derive(Debug)]
pub(crate) struct Tally {
    ticket: Ticket,
    streams: AtomicU32,
    /// What was emitted; none when streams end.
    published: Option<Published>,
}

impl Tally {
    /// Of streams that are to end.
    pub(crate) fn of_ended(ticket: Ticket) -> Arc<Self> {
        Arc::new(Tally { ticket, streams: AtomicU32::new(0), published: None })
    }

    /// Gives one to each shard that `posts` send what was emitted to; returns the answer if there is none.
    pub(crate) fn of_emitted(ticket: Ticket, published: Published, posts: &mut [Post]) -> Option<Post> {
        let own = Arc::new(Tally { ticket, streams: AtomicU32::new(0), published: Some(published) });
        for post in posts {
            if let Message::Fanout(ToFanout::Events { tally, .. }) = &mut post.message {
                *tally = Some(Arc::clone(&own));
            }
        }
        own.add(0)
    }

    /// Adds the streams of one shard, and lets go; returns the answer if it was the last.
    pub(crate) fn add(self: Arc<Self>, streams: u32) -> Option<Post> {
        // Seen by whoever is last: letting go of an `Arc` orders what was done before.
        self.streams.fetch_add(streams, Ordering::Relaxed);
        let Tally { ticket, streams, published } = Arc::into_inner(self)?;
        let streams = streams.into_inner();
        let message = match published {
            Some(published) => Message::Answer(ticket, Ok(Published { streams: Some(streams), ..published })),
            None => Message::Disconnected(ticket, streams),
        };
        Some(Post { to: ticket.shard, message })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arena::Arena;

    #[test]
    fn the_last_of_all_shards_answers_with_the_streams_of_all() {
        let ticket = Ticket { shard: 3, connection: Arena::default().insert(()), request: 5 };
        let tally = Tally::of_ended(ticket);
        let (second, third) = (Arc::clone(&tally), Arc::clone(&tally));
        assert!(second.add(2).is_none() && tally.add(0).is_none());
        let post = third.add(5).unwrap();
        assert_eq!(post.to, 3);
        assert!(matches!(post.message, Message::Disconnected(to, 7) if to == ticket));
    }
}
