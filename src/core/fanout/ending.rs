//! Streams that are ended from within: all of them because the server stops, or those of a session because somebody asked
//! for it.

use super::Fanout;
use crate::core::event_id::Sequence;
use crate::core::fanout::wire::retry_field;
use crate::core::topic::Topic;

/// What a stream says before it is ended by request.
const DISCONNECTED: &str = "event:disconnected\ndata:disconnected\n\n";
/// Subscribers looked at in 0.5 us: 19 ns each, of 200,000.
const LOOKS_OF_WORK: usize = 26;

/// What was ended by request.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Ended {
    pub(super) streams: u32,
    /// In the units of [`Message::work`](crate::core::message::Message::work).
    pub(super) work: usize,
}

impl Fanout {
    /// Tells every subscriber to come back later, after what it has coming.
    pub(crate) fn close_streams(&mut self) {
        let Self { subscribers, random, limits, .. } = self;
        for (_, subscriber) in subscribers.iter_mut() {
            subscriber.end(&retry_field(limits.retry_ms(random)), true);
            subscriber.wake();
        }
    }

    /// Ends all streams that take this topic after the event `upto`.
    pub(super) fn disconnect(&mut self, topic: &Topic, upto: Sequence) -> Ended {
        let mut channels = self.channels.of(topic).to_vec();
        // A session's streams are on few shards: the others need not look at their subscribers.
        if channels.is_empty() {
            return Ended::default();
        }
        channels.sort_unstable();
        let mut left: u32 = channels.iter().map(|key| self.channels[*key].subscribers).sum();
        let (mut streams, mut looks) = (0, 0);
        for (_, subscriber) in self.subscribers.iter_mut() {
            if left == 0 {
                break;
            }
            looks += 1;
            // By number: to look at each one's topics takes 72 ns.
            if channels.binary_search(&subscriber.channel).is_err() {
                continue;
            }
            left -= 1;
            // Whoever asks twice is told of each stream once.
            if !subscriber.is_ending() {
                subscriber.end_after(upto, DISCONNECTED);
                subscriber.wake();
                streams += 1;
            }
        }
        Ended { streams, work: looks / LOOKS_OF_WORK }
    }
}
