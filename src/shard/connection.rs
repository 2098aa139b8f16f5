//! A connection that speaks HTTP: requests in, answers out, until it closes or becomes a stream.

mod asking;
pub(super) mod eviction;
mod holding;
pub(super) mod linger;
mod publishing;
mod waiting;

use std::borrow::Cow;
use std::net::{IpAddr, Shutdown};
use std::pin::pin;
use std::rc::Rc;

use bytes::Bytes;
use tokio::time::{Instant, timeout_at};
use tokio_uring::net::TcpStream;

use crate::admin;
use crate::backend;
use crate::clock::unix_s;
use crate::core::arena::Key;
use crate::core::budget::Charge;
use crate::core::message::Ticket;
use crate::core::survey::Client;
use crate::debug;
use crate::http::{BodyLength, Head, HttpLimits, Method, Refusal, RequestReader, Status};
use crate::metrics;
use crate::routes::{self, Action, AdminAction, Door, Subscribe};
use crate::shard::connection::holding::{Holding, RATE_WINDOW};
use crate::shard::connection::publishing::{Posting, Purpose};
use crate::shard::connection::waiting::Woken;
use crate::shard::input::{DRAIN_BYTES, Input};
use crate::shard::pipeline::{Answer, Encoding, Pipeline, Request, Sharing};
use crate::shard::queue::QueueStream;
use crate::shard::{Phase, Shard, sockets, stream};

/// Header fields of one request.
const HEADERS_MAX: usize = 100;
/// What a connection takes beside its buffers: its task and its place among the others, in bytes.
const TASK_BYTES: usize = 2 << 10;
/// Up to so many answers are sent at once without a charge of their own: they are as small as a read.
const FEW_ANSWERS: usize = 4;
/// Answers are sent in pieces of this size, in bytes, or of the smaller one where there is no memory for it.
const ANSWER_BYTES: usize = 32 << 10;
const ANSWER_BYTES_MIN: usize = 1 << 10;

/// Serves a connection until it closes or becomes a stream. `charge` is what every connection takes of the memory for
/// requests.
pub(crate) async fn run(shard: Rc<Shard>, stream: TcpStream, peer: IpAddr, door: Door, charge: Charge) {
    let pipeline = Rc::new(Pipeline::default());
    let key = shard.add_pipeline(Rc::clone(&pipeline));
    shard.sockets.opens(&stream);
    let mut holding = Holding::new(&shard.shared.request_memory, shard.shared.clock, charge);
    let end = Connection::new(&shard, &stream, (peer, door), pipeline, key, &mut holding).serve().await;
    let refused = match end {
        End::Subscribe(newcomer, received) => stream::begin(&shard, stream, *newcomer, received).await,
        End::Refused => Some(stream),
        End::Closed | End::Cut => {
            if matches!(end, End::Cut) {
                sockets::reset_at_close(&stream);
            }
            // Dropping it is not enough: a read under way would keep it open.
            let _ = stream.shutdown(Shutdown::Both);
            shard.sockets.closes(&stream);
            None
        }
    };
    // What was asked is answered: a server that stops need not wait for this connection any more.
    shard.remove_pipeline(key);
    if let Some(stream) = refused {
        holding.set(0);
        shard.lingering.linger(&stream).await;
        shard.sockets.closes(&stream);
    }
}

/// How a connection's HTTP ends.
enum End {
    Closed,
    /// The client does not take its answers.
    Cut,
    /// The client may still be sending what nobody will read.
    Refused,
    /// It becomes a stream; so many bytes came behind the request.
    Subscribe(Box<Opening>, usize),
}

struct Connection<'c, 'm> {
    shard: &'c Shard,
    stream: &'c TcpStream,
    peer: IpAddr,
    door: Door,
    pipeline: Rc<Pipeline>,
    key: Key,
    reader: RequestReader,
    input: Input<'c>,
    holding: &'c mut Holding<'m>,
    stage: Stage,
    /// When the stage began.
    since: Instant,
    /// When the client last sent something.
    heard: Instant,
    /// Nothing more is parsed: a request said close, was refused, or the client sends no more.
    last_request_seen: bool,
    is_fresh: bool,
    /// What is ready is sent before anything more is parsed.
    must_flush: bool,
    /// Others have their turn before anything more is parsed.
    must_yield: bool,
}

/// What the connection is in the middle of.
enum Stage {
    /// Between requests, or within a head.
    Head,
    Body {
        request: Request,
        purpose: Purpose,
    },
    /// A body that nobody wants; its answer is known.
    Skip {
        request: Request,
        answer: Answer,
    },
    /// A publish that waits for room between shards.
    Blocked {
        request: Request,
        posting: Posting,
        since: Instant,
    },
    /// The backend is opening a queue for it.
    Queue(Box<(Request, Option<Client>)>),
    /// Becomes a stream when the answers before it are sent.
    Subscribe(Box<Opening>),
}

/// A stream that was asked for.
pub(super) struct Opening {
    pub(super) request: Request,
    pub(super) source: Source,
    /// None where nobody may ask.
    pub(super) client: Option<Client>,
}

/// Where a stream's events come from.
#[derive(Debug)]
pub(super) enum Source {
    Topics(Subscribe),
    Queue(QueueStream),
    /// None: the queue cannot be had for now, for this reason.
    NoQueue(Cow<'static, str>),
}

/// What became of the answers that were ready.
enum Flushed {
    Nothing,
    Some,
    End(End),
}

impl<'c, 'm> Connection<'c, 'm> {
    fn new(
        shard: &'c Shard,
        stream: &'c TcpStream,
        (peer, door): (IpAddr, Door),
        pipeline: Rc<Pipeline>,
        key: Key,
        holding: &'c mut Holding<'m>,
    ) -> Self {
        let now = Instant::now();
        let http = &shard.shared.config.http;
        let limits = HttpLimits {
            head_bytes_max: http.head_bytes_max,
            body_bytes_max: http.body_bytes_max,
            headers_max: HEADERS_MAX,
        };
        Connection {
            shard,
            stream,
            peer,
            door,
            pipeline,
            key,
            reader: RequestReader::new(limits),
            input: Input::new(stream),
            holding,
            stage: Stage::Head,
            since: now,
            heard: now,
            last_request_seen: false,
            is_fresh: true,
            must_flush: false,
            must_yield: false,
        }
    }

    async fn serve(mut self) -> End {
        loop {
            // While a read is under way it holds the buffer.
            self.must_flush = false;
            while !self.input.is_reading() && !self.must_flush && !self.must_yield && self.step() {}
            self.settle();
            if std::mem::take(&mut self.must_yield) {
                // Or 400 pipelined requests with wrong tokens would hold the shard up for a second.
                let _ = tokio_uring::no_op().await;
                continue;
            }
            match self.flush().await {
                Flushed::Nothing => {}
                // The room this made may be all that a request in the buffer waits for.
                Flushed::Some => continue,
                Flushed::End(end) => return end,
            }
            if self.pipeline.len() == 0 {
                if let Stage::Subscribe(opening) = self.stage {
                    return End::Subscribe(opening, self.input.bytes());
                }
                let is_between = matches!(self.stage, Stage::Head) && self.input.bytes() == 0;
                if self.last_request_seen {
                    return End::Closed;
                }
                if is_between && self.shard.phase() > Phase::Serving {
                    // A client that pipelines may be sending; a reset could overtake the answers it has.
                    return End::Refused;
                }
            }
            match self.wait().await {
                Woken::Read(Ok(bytes)) if bytes > 0 => {
                    self.heard = Instant::now();
                    if self.input.bytes() == bytes && matches!(self.stage, Stage::Head) {
                        // The first bytes of a head.
                        self.since = self.heard;
                    }
                    self.holding.received(bytes);
                    self.drain();
                }
                // The client sends no more; what it asked is still answered, but for what it broke off.
                Woken::Read(Ok(_)) => {
                    self.stage = Stage::Head;
                    self.last_request_seen = true;
                }
                Woken::Read(_) => return End::Closed,
                Woken::Answers => {}
                Woken::Evicted => return End::Closed,
                Woken::TimedOut if self.time_out() => {}
                Woken::TimedOut => return End::Closed,
            }
        }
    }

    /// Charges what the connection holds, with the read that comes next.
    fn settle(&mut self) {
        self.input.shrink();
        self.pipeline.shrink();
        let (request, expected) = match &self.stage {
            Stage::Body { purpose, .. } => (purpose.bytes(), self.reader.body_bytes_left()),
            Stage::Skip { answer, .. } => (answer.bytes(), 0),
            Stage::Blocked { posting, .. } => (posting.bytes(), 0),
            Stage::Head | Stage::Queue(_) | Stage::Subscribe(_) => (0, 0),
        };
        self.input.expect(expected);
        let body = self.reader.bytes_held();
        self.holding.set(TASK_BYTES + self.input.bytes_to_read() + body + request + self.pipeline.bytes());
    }

    /// Takes what waits behind a read that was filled, if there is memory for it and for the requests in it.
    fn drain(&mut self) {
        if self.input.was_filled() && self.holding.try_add(self.input.bytes_to_drain() + DRAIN_BYTES) {
            let bytes = self.input.drain(&mut self.shard.scratch.borrow_mut());
            self.holding.received(bytes);
        }
    }

    /// Goes one step further with what is in the buffer; false when it needs more bytes, room or answers.
    fn step(&mut self) -> bool {
        if self.last_request_seen && matches!(self.stage, Stage::Head) {
            return false;
        }
        match std::mem::replace(&mut self.stage, Stage::Head) {
            Stage::Head => self.step_head(),
            Stage::Body { request, purpose } => self.step_body(request, purpose),
            Stage::Skip { request, answer } => match self.reader.skip_body(&mut self.input.buffer) {
                Ok(true) => {
                    self.since = Instant::now();
                    self.push(request, answer);
                    true
                }
                Ok(false) => self.stay(Stage::Skip { request, answer }),
                Err(refusal) => self.refuse(request, refusal),
            },
            Stage::Blocked { request, posting, since } => self.post(request, posting, since),
            Stage::Queue(asked) => self.step_queue(asked),
            stage @ Stage::Subscribe(..) => self.stay(stage),
        }
    }

    fn step_head(&mut self) -> bool {
        if !self.may_ask() {
            return false;
        }
        let head = match self.reader.head(&mut self.input.buffer) {
            Ok(Some(head)) => head,
            Ok(None) => return false,
            Err(refusal) => {
                let origin = self.reader.refused_origin();
                return self.refuse(self.unread(origin), refusal);
            }
        };
        self.is_fresh = false;
        let request = Request {
            version: head.version,
            keep_alive: head.keep_alive && self.shard.phase() == Phase::Serving,
            head_only: head.method == Method::Head,
            asking: self.shard.shared.cors.find(head.origin.as_deref()),
            sharing: self.sharing(),
        };
        let access = &self.shard.shared.access;
        let is_queue = access.queues.as_ref().is_some_and(|queues| queues.is_at(&head.path));
        let sharing = if is_queue { Sharing::Queue } else { request.sharing };
        let request = Request { sharing, ..request };
        let action = routes::route(&head, self.door, access, unix_s());
        self.must_yield = routes::may_have_taken_long(&head, access);
        self.enter(request, &head, action)
    }

    /// Whether a further request is taken up before those under way are answered.
    fn may_ask(&self) -> bool {
        let under_way = self.pipeline.len();
        under_way < self.shard.shared.config.http.unanswered_max
            && (under_way == 0 || self.holding.starved().is_none())
    }

    /// Takes up a request whose head is read.
    fn enter(&mut self, request: Request, head: &Head, action: Result<Action, Refusal>) -> bool {
        self.since = Instant::now();
        let has_body = head.body != BodyLength::None;
        // Scrapers are no browsers: no page needs it, and any page could ask for it from within a network.
        let is_private =
            matches!(action, Ok(Action::Metrics | Action::Vars | Action::Admin(AdminAction::Page)));
        let sharing = if is_private { Sharing::None } else { request.sharing };
        let answer = match action {
            Ok(Action::Publish(publish)) => {
                return self.expect_body(request, head, Purpose::Publish(publish));
            }
            Ok(Action::Command(command)) => {
                return self.expect_body(request, head, Purpose::Command(command));
            }
            Ok(Action::Subscribe(subscribe)) if !has_body => return self.subscribe(request, head, subscribe),
            Ok(Action::Admin(AdminAction::Events { expires_s })) if !has_body => {
                let topics = [self.shard.shared.access.admin_topic.clone()].into();
                let subscribe = Subscribe { topics, last_event_id: None, expires_s };
                return self.subscribe(Request { sharing: Sharing::None, ..request }, head, subscribe);
            }
            Ok(Action::Queue(queue)) if !has_body => return self.ask_queue(request, head, queue),
            Ok(Action::Subscribe(_) | Action::Queue(_) | Action::Admin(AdminAction::Events { .. })) => {
                Answer::Refused(Refusal::new(Status::BadRequest, "a subscription has no body; send none"))
            }
            Ok(Action::Admin(AdminAction::Status { topic, max })) if !has_body => {
                return self.ask_admin(request, |ticket| admin::Request::Status {
                    topic,
                    streams_max: max,
                    ticket,
                });
            }
            Ok(Action::Sessions(channel)) if !has_body => {
                return self.ask_admin(request, |ticket| admin::Request::Sessions { channel, ticket });
            }
            Ok(Action::Admin(AdminAction::Status { .. }) | Action::Sessions(_)) => {
                Answer::Refused(Refusal::new(Status::BadRequest, "this request has no body; send none"))
            }
            Ok(Action::Admin(AdminAction::Page)) => self.long(has_body, Answer::Page(routes::ADMIN_PAGE)),
            Ok(Action::Stats) => {
                let json = self.shard.shared.stats.json().to_string().into_bytes();
                self.long(has_body, Answer::Json(json))
            }
            Ok(Action::Metrics) => {
                let text = metrics::text(&self.shard.shared);
                self.long(has_body, Answer::Metrics(text))
            }
            Ok(Action::Vars) => {
                let json = debug::vars(&self.shard.shared).to_string().into_bytes();
                self.long(has_body, Answer::Json(json))
            }
            Ok(Action::Health) if self.shard.is_draining() => {
                Answer::Refused(Refusal::new(Status::ServiceUnavailable, "draining"))
            }
            Ok(Action::Health) => Answer::Text("ok\n".into()),
            Ok(Action::Methods(methods)) => Answer::Methods(methods),
            Err(refusal) => Answer::Refused(refusal),
        };
        let request = Request { sharing, ..request };
        if !has_body {
            self.push(request, answer);
        } else if head.expect_continue {
            // It may send the body or not, so where the next request begins is in doubt.
            self.push(Request { keep_alive: false, ..request }, answer);
        } else {
            self.stage = Stage::Skip { request, answer };
        }
        true
    }

    /// Returns a long answer, or a refusal where there is no memory to hold it while it is sent. What is pipelined behind it
    /// waits until then, and others have had their turn: it takes 16 us to make.
    fn long(&mut self, has_body: bool, answer: Answer) -> Answer {
        self.must_flush = !has_body;
        match self.holding.add(answer.bytes()) {
            true => answer,
            false => Answer::Refused(Refusal::unavailable(
                "no memory for this answer; ask again later, or raise --request-memory",
            )),
        }
    }

    /// Takes up a stream; for HEAD its head alone.
    fn subscribe(&mut self, request: Request, head: &Head, subscribe: Subscribe) -> bool {
        if request.head_only {
            self.push(request, Answer::StreamHead);
            return true;
        }
        let client = self.client(head);
        let source = Source::Topics(subscribe);
        self.stay(Stage::Subscribe(Box::new(Opening { request, source, client })))
    }

    fn client(&self, head: &Head) -> Option<Client> {
        let access = &self.shard.shared.access;
        access.can_survey().then(|| {
            let address = routes::client_address(self.peer, head, access);
            Client::new(address, head.user_agent.as_deref().unwrap_or_default(), unix_s())
        })
    }

    fn stay_for(&mut self, (request, client): (Request, Option<Client>), source: Source) -> bool {
        self.stay(Stage::Subscribe(Box::new(Opening { request, source, client })))
    }

    /// A request that is answered later: where its answer belongs.
    fn expect(&mut self, request: Request) -> Ticket {
        self.last_request_seen |= !request.keep_alive;
        Ticket { shard: self.shard.id, connection: self.key, request: self.pipeline.expect(request) }
    }

    /// One whose head could not be read: all that is known of it is who sent it, if that.
    fn unread(&self, origin: Option<Bytes>) -> Request {
        let asking = self.shard.shared.cors.find(origin.as_deref());
        Request { sharing: self.sharing(), ..Request::unread(asking) }
    }

    fn sharing(&self) -> Sharing {
        match self.door {
            Door::Public => Sharing::Cors,
            Door::Control => Sharing::None,
        }
    }

    fn push(&mut self, request: Request, answer: Answer) {
        if let Answer::Refused(refusal) = &answer {
            tracing::debug!(
                shard = self.shard.id,
                refusal = backend::without_queue(&refusal.to_string()),
                "refused"
            );
        }
        let closes = matches!(&answer, Answer::Refused(refusal) if refusal.close);
        self.last_request_seen |= closes || !request.keep_alive;
        self.pipeline.push(request, answer);
    }

    fn refuse(&mut self, request: Request, refusal: Refusal) -> bool {
        self.push(request, Answer::Refused(refusal));
        true
    }

    fn stay(&mut self, stage: Stage) -> bool {
        self.stage = stage;
        false
    }

    /// Sends answers that are ready; tells how the connection ends if it ends with them.
    async fn flush(&mut self) -> Flushed {
        if !self.pipeline.has_answer() {
            return Flushed::Nothing;
        }
        let shared = &self.shard.shared;
        let mut out = Vec::new();
        let date = self.shard.date();
        let encoding = Encoding::of(shared, &date);
        let bytes_max = match self.pipeline.len() <= FEW_ANSWERS || self.holding.try_add(ANSWER_BYTES) {
            true => ANSWER_BYTES,
            false => ANSWER_BYTES_MIN,
        };
        let taken = self.pipeline.take_ready(encoding, bytes_max, &mut out);
        self.shard.stats().refused.add(taken.refused);
        if !self.write(out).await {
            return Flushed::End(End::Cut);
        }
        if taken.closes { Flushed::End(End::Refused) } else { Flushed::Some }
    }

    /// Writes all of it; false when the client is gone, or takes it too slowly.
    async fn write(&self, out: Vec<u8>) -> bool {
        let mut write = pin!(self.stream.write_all(out));
        let end = Instant::now() + self.shard.shared.config.stream.send_timeout;
        loop {
            let window_end = Instant::now() + RATE_WINDOW;
            match timeout_at(window_end.min(end), write.as_mut()).await {
                Ok((result, _)) => return result.is_ok(),
                Err(_) if Instant::now() >= end || self.holding.is_in_the_way() => return false,
                Err(_) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests;
