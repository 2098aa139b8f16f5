//! The part of a stream that one partition orders, with its cursors in the logs of those topics.

use std::ops::Range;

use crate::core::event_id::Sequence;
use crate::core::fanout::log::Place;
use crate::core::fanout::logs::Logs;
use crate::core::partition::PartitionId;

/// A stream's place in the log of one topic.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cursor {
    /// The log's number.
    pub(crate) log: u32,
    /// The stream's place in the log's list of idle streams, if it is idle.
    pub(crate) idle_at: u32,
    /// Valid only while its part is live.
    pub(crate) place: Place,
}

/// The state of a stream in one partition, or in topics that bypass the homes; owned by its
/// [`Subscriber`](super::Subscriber).
#[derive(Debug)]
pub(super) struct Part {
    pub(super) partition: Option<PartitionId>,
    pub(super) stage: Stage,
    /// The first of the stream's cursors in logs of this partition...
    pub(super) first_cursor: u16,
    /// ...and the one after the last.
    pub(super) end_cursor: u16,
    /// The newest event that was sent, or the place where the home let it in.
    pub(super) sent: Sequence,
}

/// The stages of a part.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Stage {
    /// The home has not answered its Join.
    Joining,
    /// The home has further pages for it.
    Replaying,
    /// It follows its logs.
    Live,
    /// A log was trimmed past it, and it is to be skipped forward.
    Skipped,
}

/// The end of a page of replay.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Replayed {
    /// Its last event.
    pub(crate) upto: Sequence,
    /// The stream was told of a gap if anything up to this event is missing.
    pub(crate) told: Sequence,
}

impl Part {
    /// Returns the range of its cursors among the stream's.
    pub(super) fn cursors(&self) -> Range<usize> {
        usize::from(self.first_cursor)..usize::from(self.end_cursor)
    }
}

/// Puts cursors at the tails of their logs.
pub(super) fn attach(cursors: &mut [Cursor], logs: &mut Logs) {
    for cursor in cursors {
        cursor.place = logs[cursor.log].log.attach();
    }
}

/// Takes cursors off their logs.
pub(super) fn detach(cursors: &[Cursor], logs: &mut Logs) {
    for cursor in cursors {
        let log = &mut logs[cursor.log].log;
        if !log.is_behind(cursor.place) {
            log.detach(cursor.place);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_additional_topic_costs_an_idle_stream_40_bytes_at_most() {
        // The memory for one more partition: a cursor, a part, and its number in a log's list of idle streams.
        assert!(size_of::<Cursor>() + size_of::<Part>() + size_of::<u32>() <= 40);
    }
}
