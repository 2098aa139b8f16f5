//! What a stream takes of one partition, and its place in the log of each of its topics.

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
    /// Where the stream stands among the log's idle streams, if it is idle.
    pub(crate) idle_at: u32,
    /// Means nothing until its part is live.
    pub(crate) place: Place,
}

/// What a stream takes of one partition, or of topics that come past the homes.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) partition: Option<PartitionId>,
    pub(super) stage: Stage,
    /// Which of the stream's cursors are in logs of this partition: from this one on...
    pub(super) first_cursor: u16,
    /// ...up to this one.
    pub(super) end_cursor: u16,
    /// The newest event that was sent, or the place where home let it in.
    pub(super) sent: Sequence,
}

/// How far a part has come.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Stage {
    /// Home has not answered its Join.
    Joining,
    /// Home holds further pages for it.
    Replaying,
    /// It follows its logs.
    Live,
    /// A log was trimmed past it, and the policy is to skip it forward.
    Skipped,
}

/// Where a page of replay ends.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Replayed {
    /// Its last event.
    pub(crate) upto: Sequence,
    /// The stream was told if anything up to here is missing.
    pub(crate) told: Sequence,
}

impl Part {
    /// Returns which of the stream's cursors are its.
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
        // Of another partition: a cursor, a part, and its number among the log's idle streams.
        assert!(size_of::<Cursor>() + size_of::<Part>() + size_of::<u32>() <= 40);
    }
}
