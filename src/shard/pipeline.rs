//! A connection's requests and their answers. Many publishes may be under way at once; they are answered in
//! the order they came in (RFC 9112, section 9.3.2).

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::task::Waker;

use smallvec::SmallVec;
use tokio::time::Instant;

use crate::backend::NoQueue;
use crate::core::budget::Charge;
use crate::core::event_id::{Epoch, EventId};
use crate::core::message::{PublishError, Published};
use crate::http::{self, Asking, Context, Cors, Extra, Refusal, Status, Version};
use crate::shard::connection::eviction::Awaited;
use crate::shard::queue::QueueStream;
use crate::shared::Shared;

/// What of a request its answer depends on.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) version: Version,
    pub(crate) keep_alive: bool,
    pub(crate) head_only: bool,
    /// Who asks, for CORS.
    pub(crate) asking: Asking,
    pub(crate) sharing: Sharing,
}

/// Whether pages of other origins may read an answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Sharing {
    None,
    /// As far as CORS is set so.
    Cors,
    /// As the header lines of queues say.
    Queue,
}

/// What encodes an answer beside its request.
#[derive(Clone, Copy)]
pub(crate) struct Encoding<'a> {
    pub(crate) cors: &'a Cors,
    /// Header lines of every answer about queues.
    pub(crate) queue_lines: &'a [u8],
    pub(crate) date: &'a [u8; 29],
    pub(crate) epoch: Epoch,
}

impl<'a> Encoding<'a> {
    /// Of this server, at this date.
    pub(crate) fn of(shared: &'a Shared, date: &'a [u8; 29]) -> Self {
        let queue_lines = shared.access.queues.as_ref().map_or(&b""[..], |queues| &queues.cors_lines);
        Encoding { cors: &shared.cors, queue_lines, date, epoch: shared.homes.epochs.current() }
    }
}

/// An answer.
#[derive(Debug)]
pub(crate) enum Answer {
    Published(Result<Published, PublishError>),
    Json(Vec<u8>),
    /// How many streams were ended.
    Disconnected(u32),
    /// JSON too, which is charged until it is sent.
    Status(Vec<u8>, Charge),
    /// For a scraper.
    Metrics(String),
    /// The admin page.
    Page(&'static str),
    Text(Cow<'static, str>),
    Refused(Refusal),
    Methods(&'static str),
    /// A stream's head alone, for HEAD.
    StreamHead,
    /// `100 Continue`, which is none of the answers proper.
    Continue,
}

/// Room for so many requests under way is kept when there are none; every connection is charged for it.
const DUE_KEPT: usize = 4;

/// Answers due on one connection, and what others may know of it.
#[derive(Debug, Default)]
pub(crate) struct Pipeline {
    inner: RefCell<Inner>,
    client_wait: Cell<Option<ClientWait>>,
    is_evicted: Cell<bool>,
}

/// A connection that waits for its client, and owes it nothing.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ClientWait {
    pub(crate) awaited: Awaited,
    pub(crate) since: Instant,
}

#[derive(Debug, Default)]
struct Inner {
    due: VecDeque<(Request, Option<Answer>)>,
    /// How many were taken out before `due`.
    taken: u64,
    /// What the answers in `due` take beside it, in bytes.
    answer_bytes: usize,
    waker: Option<Waker>,
    /// What became of the queue that was asked for.
    opened: Option<Result<QueueStream, NoQueue>>,
}

impl Pipeline {
    /// Adds a request that is answered later; returns its number.
    pub(crate) fn expect(&self, request: Request) -> u64 {
        let mut inner = self.inner.borrow_mut();
        inner.due.push_back((request, None));
        inner.taken + inner.due.len() as u64 - 1
    }

    /// Adds a request with its answer.
    pub(crate) fn push(&self, request: Request, answer: Answer) {
        let mut inner = self.inner.borrow_mut();
        inner.answer_bytes += answer.bytes();
        inner.due.push_back((request, Some(answer)));
    }

    /// A request that was expected is answered.
    pub(crate) fn answer(&self, number: u64, answer: Answer) {
        let mut inner = self.inner.borrow_mut();
        let place = number.wrapping_sub(inner.taken) as usize;
        let bytes = answer.bytes();
        if let Some((_, due)) = inner.due.get_mut(place) {
            *due = Some(answer);
            inner.answer_bytes += bytes;
        }
        // Only the first in line lets anything be sent.
        if place == 0
            && let Some(waker) = &inner.waker
        {
            waker.wake_by_ref();
        }
    }

    /// Encodes the answers that are next in line until `out` has `bytes_max`, or a little more; returns how many of them
    /// are refusals, and whether the connection ends after them.
    pub(crate) fn take_ready(&self, encoding: Encoding<'_>, bytes_max: usize, out: &mut Vec<u8>) -> Taken {
        let mut inner = self.inner.borrow_mut();
        let mut taken = Taken::default();
        while let Some((_, Some(_))) = inner.due.front()
            && !taken.closes
            && out.len() < bytes_max
        {
            let Some((request, Some(answer))) = inner.due.pop_front() else { break };
            inner.taken += 1;
            inner.answer_bytes -= answer.bytes();
            taken.closes = answer.encode(&request, encoding, out);
            taken.refused += u64::from(answer.is_refusal());
            if let Answer::Status(_, charge) = answer {
                taken.charges.push(charge);
                // One at a time: they are long.
                break;
            }
        }
        taken
    }

    pub(crate) fn len(&self) -> usize {
        self.inner.borrow().due.len()
    }

    /// Returns the memory that the requests under way take with their answers, in bytes, beyond the few that every
    /// connection has room for.
    pub(crate) fn bytes(&self) -> usize {
        let inner = self.inner.borrow();
        let beyond = inner.due.capacity().saturating_sub(DUE_KEPT);
        beyond * size_of::<(Request, Option<Answer>)>() + inner.answer_bytes
    }

    /// Lets go of memory that no request under way needs.
    pub(crate) fn shrink(&self) {
        let due = &mut self.inner.borrow_mut().due;
        if due.is_empty() && due.capacity() > DUE_KEPT {
            *due = VecDeque::new();
        }
    }

    /// Says since when the connection waits for its client; none when it does not.
    pub(crate) fn set_client_wait(&self, wait: Option<ClientWait>) {
        self.client_wait.set(wait);
        // Whoever chose it to give way chose what it waited for before.
        self.is_evicted.set(false);
    }

    pub(crate) fn client_wait(&self) -> Option<ClientWait> {
        self.client_wait.get()
    }

    /// Has the connection close, to make room for others.
    pub(crate) fn evict(&self) {
        self.is_evicted.set(true);
        self.wake();
    }

    pub(crate) fn is_evicted(&self) -> bool {
        self.is_evicted.get()
    }

    /// Whether the answer that is next in line is there.
    pub(crate) fn has_answer(&self) -> bool {
        matches!(self.inner.borrow().due.front(), Some((_, Some(_))))
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.inner.borrow().opened.is_some() || self.has_answer()
    }

    /// The queue that the connection asked for is its own, or it is told why not.
    pub(crate) fn opens(&self, result: Result<QueueStream, NoQueue>) {
        self.inner.borrow_mut().opened = Some(result);
        self.wake();
    }

    /// What became of the queue that was asked for, once that is known.
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

/// What [`Pipeline::take_ready`] took.
#[derive(Debug, Default)]
pub(crate) struct Taken {
    pub(crate) refused: u64,
    pub(crate) closes: bool,
    /// To be given back when all is sent.
    pub(crate) charges: SmallVec<[Charge; 1]>,
}

impl Answer {
    /// Returns the memory that it takes beside itself, with what is written of it to be sent, in bytes; 0 where that is
    /// small, and where it is charged elsewhere.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Answer::Json(json) => 2 * json.capacity(),
            Answer::Metrics(text) => 2 * text.capacity(),
            Answer::Page(page) => page.len(),
            Answer::Refused(Refusal { reason: Cow::Owned(reason), .. }) => reason.capacity(),
            _ => 0,
        }
    }

    fn is_refusal(&self) -> bool {
        matches!(self, Answer::Refused(_) | Answer::Published(Err(_)))
    }

    /// Appends the answer; returns whether the connection ends with it.
    fn encode(&self, request: &Request, encoding: Encoding<'_>, out: &mut Vec<u8>) -> bool {
        let cx = request.context(encoding);
        match self {
            Answer::Published(Ok(published)) => {
                let mut body = Vec::with_capacity(64);
                write_published(published, encoding.epoch, &mut body);
                http::encode(Status::Ok, JSON, &body, &cx, out);
            }
            Answer::Published(Err(error)) => {
                refusal_of(*error).encode(&cx, out);
            }
            Answer::Disconnected(streams) => {
                http::encode(Status::Ok, JSON, format!("{{\"streams\":{streams}}}").as_bytes(), &cx, out);
            }
            Answer::Json(body) | Answer::Status(body, _) => http::encode(Status::Ok, JSON, body, &cx, out),
            Answer::Metrics(text) => {
                http::encode(Status::Ok, crate::metrics::CONTENT_TYPE, text.as_bytes(), &cx, out)
            }
            Answer::Page(page) => http::encode_page(page, &cx, out),
            Answer::Text(text) => {
                http::encode(Status::Ok, "text/plain; charset=utf-8", text.as_bytes(), &cx, out)
            }
            Answer::Refused(refusal) => {
                refusal.encode(&cx, out);
                return refusal.close || !cx.keep_alive;
            }
            Answer::Methods(methods) if request.sharing == Sharing::Queue => {
                http::encode_methods(methods, &cx, out);
            }
            Answer::Methods(methods) => http::encode_preflight(methods, &cx, out),
            Answer::StreamHead => {
                http::encode_stream_head(&cx, out);
                return !cx.keep_alive || cx.version == Version::Http10;
            }
            Answer::Continue => {
                out.extend_from_slice(http::CONTINUE);
                return false;
            }
        }
        !cx.keep_alive
    }
}

/// How soon a publish that a full disk refused may come again, in seconds: somebody has to make room first.
const DISK_FULL_RETRY_S: u32 = 5;

/// Returns the refusal of a publish that was not ordered.
fn refusal_of(error: PublishError) -> Refusal {
    match error {
        PublishError::TopicsFull | PublishError::KeysFull => Refusal::unavailable(error.to_string()),
        // RFC 9110, section 15.5.21: it is well-formed, and cannot be done.
        PublishError::KeyReused => Refusal::new(Status::UnprocessableContent, error.to_string()),
        // RFC 4918, section 11.5.
        PublishError::DiskFull => Refusal::new(Status::InsufficientStorage, error.to_string())
            .with(Extra::RetryAfter(DISK_FULL_RETRY_S)),
    }
}

const JSON: &str = "application/json";

impl Request {
    /// One whose head could not be read: all that is known of it is who sent it, if that.
    pub(crate) fn unread(asking: Asking) -> Self {
        Request {
            version: Version::Http11,
            keep_alive: false,
            head_only: false,
            asking,
            sharing: Sharing::Cors,
        }
    }

    pub(crate) fn context<'a>(&'a self, encoding: Encoding<'a>) -> Context<'a> {
        Context {
            version: self.version,
            keep_alive: self.keep_alive,
            head_only: self.head_only,
            date: encoding.date,
            cors: match self.sharing {
                Sharing::None => b"",
                Sharing::Cors => encoding.cors.lines(self.asking),
                Sharing::Queue => encoding.queue_lines,
            },
        }
    }
}

/// `{"id":"<last id>","events":n}`, of an emit `"streams":n`, and `"ids_replaced":n` where any were. Written by hand because
/// 150,000 of them a second are.
fn write_published(published: &Published, epoch: Epoch, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"id\":");
    match &published.last_id {
        EventId::Sequence(sequence) => {
            out.push(b'"');
            epoch.write(*sequence, out);
            out.push(b'"');
        }
        // Serialising a string into memory cannot fail.
        EventId::Own(id) => drop(serde_json::to_writer(&mut *out, id)),
    }
    out.extend_from_slice(b",\"events\":");
    out.extend_from_slice(itoa::Buffer::new().format(published.events).as_bytes());
    if let Some(streams) = published.streams {
        out.extend_from_slice(b",\"streams\":");
        out.extend_from_slice(itoa::Buffer::new().format(streams).as_bytes());
    }
    if published.ids_replaced > 0 {
        out.extend_from_slice(b",\"ids_replaced\":");
        out.extend_from_slice(itoa::Buffer::new().format(published.ids_replaced).as_bytes());
    }
    out.push(b'}');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> Request {
        Request {
            version: Version::Http11,
            keep_alive: true,
            head_only: false,
            asking: Asking::default(),
            sharing: Sharing::Cors,
        }
    }

    fn published(id: &str) -> Answer {
        let last_id = EventId::Own(id.into());
        Answer::Published(Ok(Published { last_id, events: 1, ids_replaced: 0, streams: None }))
    }

    fn take(pipeline: &Pipeline) -> String {
        let cors = Cors::parse(&["*".to_owned()]).unwrap();
        let encoding = Encoding { cors: &cors, queue_lines: b"", date: &[b'-'; 29], epoch: Epoch::at(7) };
        let mut out = Vec::new();
        pipeline.take_ready(encoding, usize::MAX, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn answers_leave_in_the_order_their_requests_came() {
        let pipeline = Pipeline::default();
        let (first, second) = (pipeline.expect(request()), pipeline.expect(request()));
        pipeline.push(request(), Answer::Text("third".into()));
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
        pipeline.push(request(), Answer::Refused(Refusal::closing(Status::BadRequest, "bad")));
        pipeline.push(request(), Answer::Text("never".into()));
        let text = take(&pipeline);
        assert!(text.contains("Connection: close") && !text.contains("never"));
    }

    #[test]
    fn a_publish_that_is_not_ordered_says_whether_to_come_again() {
        for (error, line, retry) in [
            (PublishError::TopicsFull, "503 Service Unavailable", Some("Retry-After: 1")),
            (PublishError::KeysFull, "503 Service Unavailable", Some("Retry-After: 1")),
            (PublishError::KeyReused, "422 Unprocessable Content", None),
            (PublishError::DiskFull, "507 Insufficient Storage", Some("Retry-After: 5")),
        ] {
            let pipeline = Pipeline::default();
            pipeline.push(request(), Answer::Published(Err(error)));
            let text = take(&pipeline);
            assert!(text.starts_with(&format!("HTTP/1.1 {line}\r\n")), "{text}");
            assert_eq!(text.lines().find(|line| line.starts_with("Retry-After")), retry, "{text}");
            assert!(text.ends_with(&format!("\r\n\r\n{error}\n")) && !text.contains("Connection"), "{text}");
        }
    }

    #[test]
    fn an_own_id_is_a_json_string_whatever_it_holds() {
        let mut out = Vec::new();
        let last_id = EventId::Own("a\"\\é".into());
        let published = Published { last_id, events: 3, ids_replaced: 1, streams: Some(2) };
        write_published(&published, Epoch::at(1), &mut out);
        let json: serde_json::Value = serde_json::from_slice(&out).unwrap();
        assert_eq!((json["id"].as_str(), json["events"].as_u64()), (Some("a\"\\é"), Some(3)));
        assert_eq!((&json["streams"], &json["ids_replaced"]), (&2.into(), &1.into()));
    }
}
