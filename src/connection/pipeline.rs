//! A connection's requests and their answers. Many publishes may be under way at once; they are answered in the order
//! in which they came (RFC 9112, section 9.3.2).

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::task::Waker;

use tokio::time::Instant;

use super::answer::Answer;
use super::request::RequestInfo;
use super::service::Service;
use super::shedding::Awaited;
use crate::access_log::RequestRecord;
use crate::backend::NoQueue;
use crate::core::budget::Charge;
use crate::http::Cors;
use crate::shard::queue::QueueStream;

/// The data that encoding an answer needs beside its request.
#[derive(Clone, Copy)]
pub(crate) struct Encoding<'a> {
    pub(crate) cors: &'a Cors,
    /// Header lines of every answer about queues.
    pub(crate) queue_lines: &'a [u8],
    pub(crate) date: &'a [u8; 29],
}

impl<'a> Encoding<'a> {
    /// Returns the encoding of this server's answers at this date.
    pub(crate) fn of(service: &'a Service, date: &'a [u8; 29]) -> Self {
        let queue_lines = service.access.queues.as_ref().map_or(&b""[..], |queues| &queues.cors_lines);
        Encoding { cors: &service.cors, queue_lines, date }
    }
}

/// Small answers together are charged in steps of this size, in bytes: to charge each would cost each publish an atomic
/// operation.
const SMALL_STEP_BYTES: usize = 4 << 10;
/// Entries that are kept allocated while no request is under way; every connection is charged for them.
const DUE_KEPT: usize = 4;

/// Requests under way on one connection and their answers; shared by its task and the shard's
/// [`Connections`](super::Connections).
#[derive(Debug, Default)]
pub(crate) struct Pipeline {
    inner: RefCell<Inner>,
    client_wait: Cell<Option<ClientWait>>,
    is_evicted: Cell<bool>,
}

/// The wait of a connection for its client, to which it owes no answer: what for, and since when.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ClientWait {
    pub(crate) awaited: Awaited,
    pub(crate) since: Instant,
}

#[derive(Debug, Default)]
struct Inner {
    due: VecDeque<(RequestInfo, Option<Answer>)>,
    /// How many were taken out of `due` so far.
    taken: u64,
    /// The bytes that the answers in `due` take beside themselves.
    answer_bytes: usize,
    /// The same of those that are too small to be charged one by one.
    small_bytes: usize,
    /// The bytes that the requests in `due` take beside themselves, for the access log.
    request_bytes: usize,
    waker: Option<Waker>,
    /// The backend's answer to a request for a queue.
    opened: Option<Result<QueueStream, NoQueue>>,
}

impl Pipeline {
    /// Adds a request that is answered later; returns its number.
    pub(crate) fn expect(&self, request: RequestInfo) -> u64 {
        let mut inner = self.inner.borrow_mut();
        inner.request_bytes += request.held_bytes();
        inner.due.push_back((request, None));
        inner.taken + inner.due.len() as u64 - 1
    }

    /// Adds a request with its answer.
    pub(crate) fn push(&self, request: RequestInfo, answer: Answer) {
        let mut inner = self.inner.borrow_mut();
        inner.answer_bytes += answer.bytes();
        inner.small_bytes += answer.small_bytes();
        inner.request_bytes += request.held_bytes();
        inner.due.push_back((request, Some(answer)));
    }

    /// Sets the answer to the request with this number, which [`Pipeline::expect`] returned.
    pub(crate) fn answer(&self, number: u64, answer: Answer) {
        let mut inner = self.inner.borrow_mut();
        let place = number.wrapping_sub(inner.taken) as usize;
        let (bytes, small_bytes) = (answer.bytes(), answer.small_bytes());
        if let Some((_, due)) = inner.due.get_mut(place) {
            *due = Some(answer);
            inner.answer_bytes += bytes;
            inner.small_bytes += small_bytes;
        }
        // Only the answer to the first request lets anything be sent.
        if place == 0
            && let Some(waker) = &inner.waker
        {
            waker.wake_by_ref();
        }
    }

    /// Encodes answers that are ready, in order, until `out` has `bytes_max` bytes or a little more. Returns how many
    /// of them are refusals, whether the connection closes after them, and a charge to hold.
    pub(crate) fn take_ready(
        &self,
        encoding: Encoding<'_>,
        bytes_max: usize,
        out: &mut Vec<u8>,
    ) -> TakenAnswers {
        let mut inner = self.inner.borrow_mut();
        let mut taken = TakenAnswers::default();
        while let Some((_, Some(_))) = inner.due.front()
            && !taken.closes
            && out.len() < bytes_max
        {
            let Some((mut request, Some(answer))) = inner.due.pop_front() else { break };
            inner.taken += 1;
            inner.answer_bytes -= answer.bytes();
            inner.small_bytes -= answer.small_bytes();
            inner.request_bytes -= request.held_bytes();
            let (record, status, start) = (request.record.take(), answer.status(), out.len());
            taken.refused += u64::from(answer.is_refusal());
            let (closes, charge) = answer.encode(&request.context(encoding), out);
            taken.closes = closes;
            taken.records.extend(record.map(|mut record| {
                record.answered(status.code(), out.len() - start);
                *record
            }));
            if charge.is_some() {
                taken.charge = charge;
                // Charged answers go one at a time: they are long.
                break;
            }
        }
        taken
    }

    pub(crate) fn len(&self) -> usize {
        self.inner.borrow().due.len()
    }

    /// Returns the bytes that the requests under way take with their answers, beyond the few entries that every
    /// connection is charged for.
    pub(crate) fn bytes(&self) -> usize {
        let inner = self.inner.borrow();
        let beyond = inner.due.capacity().saturating_sub(DUE_KEPT);
        beyond * size_of::<(RequestInfo, Option<Answer>)>()
            + inner.request_bytes
            + inner.answer_bytes
            + inner.small_bytes / SMALL_STEP_BYTES * SMALL_STEP_BYTES
    }

    /// Frees memory that no request under way needs.
    pub(crate) fn shrink(&self) {
        let due = &mut self.inner.borrow_mut().due;
        if due.is_empty() && due.capacity() > DUE_KEPT {
            *due = VecDeque::new();
        }
    }

    /// Sets what the connection waits for from its client, and since when; `None` when it does not wait.
    pub(crate) fn set_client_wait(&self, wait: Option<ClientWait>) {
        self.client_wait.set(wait);
        // An eviction was decided on an earlier wait.
        self.is_evicted.set(false);
    }

    pub(crate) fn client_wait(&self) -> Option<ClientWait> {
        self.client_wait.get()
    }

    /// Closes the connection to make room for others.
    pub(crate) fn evict(&self) {
        self.is_evicted.set(true);
        self.wake();
    }

    pub(crate) fn is_evicted(&self) -> bool {
        self.is_evicted.get()
    }

    /// Returns whether the next answer in order is ready.
    pub(crate) fn has_answer(&self) -> bool {
        matches!(self.inner.borrow().due.front(), Some((_, Some(_))))
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.inner.borrow().opened.is_some() || self.has_answer()
    }

    /// Sets the backend's answer to a request for a queue.
    pub(crate) fn opens(&self, result: Result<QueueStream, NoQueue>) {
        self.inner.borrow_mut().opened = Some(result);
        self.wake();
    }

    /// Takes the backend's answer to a request for a queue, once it is there.
    pub(crate) fn take_opened(&self) -> Option<Result<QueueStream, NoQueue>> {
        self.inner.borrow_mut().opened.take()
    }

    pub(crate) fn remember_waker(&self, waker: &Waker) {
        let known = &mut self.inner.borrow_mut().waker;
        if !known.as_ref().is_some_and(|known| known.will_wake(waker)) {
            *known = Some(waker.clone());
        }
    }

    pub(crate) fn wake(&self) {
        if let Some(waker) = &self.inner.borrow().waker {
            waker.wake_by_ref();
        }
    }
}

/// The result of [`Pipeline::take_ready`].
#[derive(Debug, Default)]
pub(crate) struct TakenAnswers {
    pub(crate) refused: u64,
    pub(crate) closes: bool,
    /// To be dropped when all is sent.
    pub(crate) charge: Option<Charge>,
    /// To be dropped when all is sent, too, which writes their lines in the access log.
    pub(crate) records: Vec<RequestRecord>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::event_id::{Epoch, EventId};
    use crate::core::message::{OrderError, Ordered, Reply};
    use crate::dialects::Sharing;
    use crate::http::{Asking, Refusal, Response, Status, Version};

    fn request() -> RequestInfo {
        RequestInfo {
            version: Version::Http11,
            keep_alive: true,
            head_only: false,
            asking: Asking::default(),
            sharing: Sharing::Cors,
            record: None,
        }
    }

    fn published(id: &str) -> Answer {
        let last_id = EventId::Own(id.into());
        let published = Ordered { last_id, events: 1, ids_replaced: 0, streams: None };
        Answer::to_command(&Reply::Published(Ok(published)), Epoch::at(7))
    }

    fn take(pipeline: &Pipeline) -> String {
        let cors = Cors::parse(&["*".to_owned()]).unwrap();
        let encoding = Encoding { cors: &cors, queue_lines: b"", date: &[b'-'; 29] };
        let mut out = Vec::new();
        pipeline.take_ready(encoding, usize::MAX, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn answers_leave_in_the_order_their_requests_came() {
        let pipeline = Pipeline::default();
        let (first, second) = (pipeline.expect(request()), pipeline.expect(request()));
        pipeline.push(request(), Response::text("third").into());
        pipeline.answer(second, published("b"));
        assert_eq!(take(&pipeline), "");
        pipeline.answer(first, published("a"));
        let text = take(&pipeline);
        let at = |part: &str| text.find(part).unwrap();
        assert!(at("{\"id\":\"a\",\"events\":1}") < at("\"id\":\"b\"") && at("\"id\":\"b\"") < at("third"));
        assert_eq!(pipeline.len(), 0);
    }

    #[test]
    fn nothing_is_sent_after_the_answer_that_closes() {
        let pipeline = Pipeline::default();
        pipeline.push(request(), Refusal::closing(Status::BadRequest, "bad").into());
        pipeline.push(request(), Response::text("never").into());
        let text = take(&pipeline);
        assert!(text.contains("Connection: close") && !text.contains("never"));
    }

    #[test]
    fn a_publish_that_is_not_ordered_says_whether_to_come_again() {
        for (error, line, retry) in [
            (OrderError::TopicsFull, "503 Service Unavailable", Some("Retry-After: 1")),
            (OrderError::KeysFull, "503 Service Unavailable", Some("Retry-After: 1")),
            (OrderError::KeyReused, "422 Unprocessable Content", None),
            (OrderError::DiskFull, "507 Insufficient Storage", Some("Retry-After: 5")),
            (OrderError::CutOff, "503 Service Unavailable", Some("Retry-After: 1")),
            (OrderError::Unconfirmed, "504 Gateway Timeout", None),
            (OrderError::StreamFull, "507 Insufficient Storage", Some("Retry-After: 5")),
            (OrderError::TooLarge, "413 Content Too Large", None),
        ] {
            let pipeline = Pipeline::default();
            pipeline.push(request(), Answer::to_command(&Reply::Published(Err(error)), Epoch::at(7)));
            let text = take(&pipeline);
            assert!(text.starts_with(&format!("HTTP/1.1 {line}\r\n")), "{text}");
            assert_eq!(text.lines().find(|line| line.starts_with("Retry-After")), retry, "{text}");
            assert!(text.ends_with(&format!("\r\n\r\n{error}\n")) && !text.contains("Connection"), "{text}");
        }
    }
}
