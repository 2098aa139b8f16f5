//! Tells the access log of the streams of a shard.

use super::{Phase, Shard};
use crate::access_log::{RequestRecord, StreamOpening, name_of};
use crate::config::RefuseStreams;
use crate::core::arena::Key;
use crate::core::fanout::EndReason;
use crate::core::fanout::subscriber::Opening;
use crate::shard::stream::StreamSource;

/// The record of a stream for the access log, until the stream begins.
pub(super) struct Admission {
    record: Box<RequestRecord>,
    opening: StreamOpening,
}

impl Admission {
    /// Returns that of a stream with this source and opening.
    pub(super) fn of(
        mut record: Box<RequestRecord>,
        source: &StreamSource,
        opening: &Opening,
        refuse: RefuseStreams,
    ) -> Self {
        if let StreamSource::Topics(terms) = source {
            record.takes(&terms.topics, terms.last_event_id.is_some());
        }
        let status = match refuse {
            RefuseStreams::Retry => 200,
            RefuseStreams::Unavailable => 503,
        };
        let opening =
            StreamOpening { head_bytes: opening.head.len(), refusal: (status, opening.refusal.len()) };
        Admission { record, opening }
    }

    /// Notes that the stream is refused at once; `is_sent` says whether the refusal reached the client.
    pub(super) fn refused(mut self, is_sent: bool) {
        let (status, bytes) = self.opening.refusal;
        self.record.refused(status, bytes);
        if !is_sent {
            self.record.unsent();
        }
    }
}

impl Shard {
    /// Has the access log tell of a stream that begins.
    pub(super) fn log_start(&self, key: Key, Admission { record, opening }: Admission) {
        if let Some(records) = &self.records {
            records.enter(key.index, record, opening);
        }
    }

    /// Has the access log tell that the response of a stream has begun, if it has by now.
    pub(super) fn log_opening(&self, key: Key) {
        let Some(records) = self.records.as_ref().filter(|records| records.is_opening(key.index)) else {
            return;
        };
        let fanout = self.fanout.borrow();
        if fanout.has_begun(key) {
            records.opened(key.index, fanout.end_reason(key) == EndReason::Refused);
        }
    }

    /// Has the access log tell of the end of a stream, before it leaves the fan-out.
    pub(super) fn log_end(&self, key: Key) {
        let Some(records) = &self.records else { return };
        let fanout = self.fanout.borrow();
        let reason = match fanout.end_reason(key) {
            // It has not taken its last bytes.
            EndReason::Left if self.phase() == Phase::Stopped => EndReason::Draining,
            reason => reason,
        };
        let events = fanout.progress(key).map_or(0, |progress| progress.delivered);
        records.end(key.index, name_of(reason), events);
    }
}
