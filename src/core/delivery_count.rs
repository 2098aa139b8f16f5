//! How many streams something reaches, over all shards.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::core::event_id::Sequence;
use crate::core::message::{Message, Post, Published, Reply, ShardId, Ticket, ToFanout};
use crate::core::topic::Topic;

/// Counts the streams that something reaches. Each shard holds it once, and the last that lets go of it answers.
#[derive(Debug)]
pub(crate) struct DeliveryCount {
    ticket: Ticket,
    streams: AtomicU32,
    /// What was emitted; none when streams end.
    published: Option<Published>,
}

impl DeliveryCount {
    /// Has each of `shards` end its streams of this topic after the event `upto`.
    pub(crate) fn of_ended(ticket: Ticket, topic: Topic, upto: Sequence, shards: ShardId) -> Vec<Post> {
        let own = Arc::new(DeliveryCount { ticket, streams: AtomicU32::new(0), published: None });
        let post = |to, tally| {
            let message = ToFanout::Disconnect { topic: topic.clone(), upto, tally };
            Post { to, message: Message::Fanout(message) }
        };
        let mut posts: Vec<_> = (1..shards).map(|to| post(to, Arc::clone(&own))).collect();
        posts.push(post(0, own));
        posts
    }

    /// Gives one to each shard that `posts` send what was emitted to; returns the answer if there is none.
    pub(crate) fn of_emitted(ticket: Ticket, published: Published, posts: &mut [Post]) -> Option<Post> {
        let own = Arc::new(DeliveryCount { ticket, streams: AtomicU32::new(0), published: Some(published) });
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
        let DeliveryCount { ticket, streams, published } = Arc::into_inner(self)?;
        let streams = streams.into_inner();
        let reply = match published {
            Some(published) => Reply::Published(Ok(Published { streams: Some(streams), ..published })),
            None => Reply::Disconnected(streams),
        };
        Some(Post { to: ticket.shard, message: Message::Reply(ticket, reply) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::arena::Arena;
    use crate::core::topic::TopicHasher;

    #[test]
    fn the_last_of_all_shards_answers_with_the_streams_of_all() {
        let ticket = Ticket { shard: 3, connection: Arena::default().insert(()), request: 5 };
        let topic = Topic::of_session("chat", None, &TopicHasher::new());
        let mut posts = DeliveryCount::of_ended(ticket, topic, 7, 3);
        posts.sort_by_key(|post| post.to);
        assert_eq!(posts.iter().map(|post| post.to).collect::<Vec<_>>(), [0, 1, 2]);
        let mut tallies = posts.into_iter().map(|post| match post.message {
            Message::Fanout(ToFanout::Disconnect { tally, upto: 7, .. }) => tally,
            other => panic!("{other:?}"),
        });
        assert!(tallies.next().unwrap().add(2).is_none() && tallies.next().unwrap().add(0).is_none());
        let post = tallies.next().unwrap().add(5).unwrap();
        assert_eq!(post.to, 3);
        assert!(matches!(post.message, Message::Reply(to, Reply::Disconnected(7)) if to == ticket));
    }
}
