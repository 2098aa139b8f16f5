//! The streams of a shard that have a line in the access log at their end.

use std::cell::RefCell;

use super::RequestRecord;
use crate::core::fanout::EndReason;

/// The streams of a shard that are logged, by stream index; owned by the shard. Apart from the streams, which take no
/// more memory where there is no access log.
#[derive(Debug, Default)]
pub(crate) struct StreamRecords(RefCell<Vec<Option<Box<StreamRecord>>>>);

#[derive(Debug)]
struct StreamRecord {
    request: Box<RequestRecord>,
    /// The start of its response, until that is sent.
    opening: Option<StreamOpening>,
    /// Bytes that the kernel took.
    bytes: u64,
}

/// The response that a stream begins with: the size of its head, or the status and the size of its refusal.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StreamOpening {
    pub(crate) head_bytes: usize,
    pub(crate) refusal: (u16, usize),
}

impl StreamRecords {
    /// Adds a stream, whose response is still to begin.
    pub(crate) fn enter(&self, index: u32, request: Box<RequestRecord>, opening: StreamOpening) {
        let (mut records, index) = (self.0.borrow_mut(), index as usize);
        if records.len() <= index {
            records.resize_with(index + 1, || None);
        }
        records[index] = Some(Box::new(StreamRecord { request, opening: Some(opening), bytes: 0 }));
    }

    /// Returns whether a stream is logged and its response has not begun.
    pub(crate) fn is_opening(&self, index: u32) -> bool {
        let records = self.0.borrow();
        records.get(index as usize).and_then(Option::as_ref).is_some_and(|record| record.opening.is_some())
    }

    /// Writes the line of a stream's request, because its response has begun. A stream that is refused, or was not
    /// drawn, has no line at its end.
    pub(crate) fn opened(&self, index: u32, is_refused: bool) {
        let mut records = self.0.borrow_mut();
        let Some(entry) = records.get_mut(index as usize) else { return };
        let Some(StreamRecord { request, opening, .. }) = entry.as_deref_mut() else { return };
        let Some(StreamOpening { head_bytes, refusal: (status, bytes) }) = opening.take() else { return };
        match is_refused {
            true => request.refused(status, bytes),
            false => request.answered(200, head_bytes),
        }
        request.write();
        if is_refused || !request.is_drawn() {
            *entry = None;
        }
    }

    /// Counts bytes of a stream that the kernel took.
    pub(crate) fn sent(&self, index: u32, bytes: usize) {
        if let Some(Some(record)) = self.0.borrow_mut().get_mut(index as usize) {
            record.bytes += bytes as u64;
        }
    }

    /// Removes a stream and writes the line of its end; of a request that was never answered the line of the request.
    pub(crate) fn end(&self, index: u32, reason: &'static str, events: u64) {
        let record = self.0.borrow_mut().get_mut(index as usize).and_then(Option::take);
        if let Some(record) = record.filter(|record| record.opening.is_none()) {
            record.request.write_end(reason, events, record.bytes);
        }
    }
}

/// Returns the reason as the access log names it.
pub(crate) fn name_of(reason: EndReason) -> &'static str {
    match reason {
        EndReason::Left => "left",
        EndReason::Flooded => "flooded",
        EndReason::Slow => "slow",
        EndReason::Expired => "expired",
        EndReason::Disconnected => "disconnected",
        EndReason::Draining => "draining",
        EndReason::CutOff => "cut_off",
        EndReason::Reset => "reset",
        EndReason::Refused => "no_room",
        EndReason::QueueClosed => "queue_closed",
    }
}
