//! One connection: its states and the transitions between them.
//!
//! ```text
//!            ┌──────────────── answer ◄───────────────────────────┐
//!            ▼                                                    │
//! Head ──► request ──► Body ──► effect ──► Blocked ──► posted ────┤ (home, queue or reports answer by ticket)
//!            │           Skip ──► answer      │ no room: refused  │
//!            ├──► Queue ──► Stream            └───────────────────┘
//!            └──► Stream ──► End::Stream
//! ```

use std::rc::Rc;

use tokio::time::Instant;
use tokio_uring::net::TcpStream;

use super::Connections;
use super::answer::Answer;
use super::body::{Effect, Posting, Purpose, effect_of};
use super::holding::Holding;
use super::input::{DRAIN_BYTES, Input};
use super::pipeline::Pipeline;
use super::request::{Plan, RequestInfo, limits, plan};
use super::sending::Flushed;
use super::service::busy;
use super::streaming::{FULL, STOPPING, StreamRequest, StreamWish};
use super::waiting::Woken;
use crate::backend::{self, ToBackend};
use crate::clock::unix_s;
use crate::config::RefuseStreams;
use crate::core::arena::Key;
use crate::core::budget::Charge;
use crate::core::event::EventLimits;
use crate::core::line::PlaceInLine;
use crate::core::message::{self, Post, ReplyTo, Ticket};
use crate::core::survey::{Client, ClientAddress};
use crate::dialects::queues::QueueRequest;
use crate::dialects::{self, Port};
use crate::http::{Refusal, RequestReader, Response};
use crate::shard::Phase;
use crate::shard::common::charged_bytes;
use crate::shard::stream::StreamStart;

/// The bytes that a connection takes beside its buffers: its task and its entry in [`Connections`].
pub(super) const TASK_BYTES: usize = 2 << 10;

/// The way in which the HTTP part of a connection ends.
pub(super) enum End {
    Closed,
    /// The client does not take its answers in time.
    Cut,
    /// A refusal was sent, and the client may still be sending.
    Refused,
    /// It becomes a stream; the number is that of bytes received behind the request.
    Stream(Box<StreamStart>, usize),
}

/// One connection's state machine; [`super::run`] owns it until it ends.
pub(super) struct Connection<'c, 'm> {
    pub(super) connections: &'c Connections,
    pub(super) stream: &'c TcpStream,
    pub(super) peer: ClientAddress,
    pub(super) port: Port,
    pub(super) pipeline: Rc<Pipeline>,
    key: Key,
    reader: RequestReader,
    pub(super) input: Input<'c>,
    pub(super) holding: &'c mut Holding<'m>,
    pub(super) state: ConnectionState,
    /// When the state began.
    pub(super) since: Instant,
    /// When the client last sent bytes.
    pub(super) heard: Instant,
    /// No further request is parsed: one said close, one was refused, or the client sends no more.
    pub(super) last_request_seen: bool,
    /// No request has come yet.
    pub(super) is_fresh: bool,
    /// Its first bytes have waited until the shard has time for them.
    has_waited: bool,
    /// Answers that are ready are sent before anything more is parsed.
    pub(super) must_flush: bool,
    /// Other tasks have a turn before anything more is parsed.
    must_yield: bool,
}

/// The state of a connection.
pub(super) enum ConnectionState {
    /// Between requests, or within a head.
    Head,
    Body {
        request: RequestInfo,
        purpose: Purpose,
    },
    /// A body that is skipped; the answer is known.
    Skip {
        request: RequestInfo,
        answer: Answer,
    },
    /// A publish that waits for room between shards; its last byte came at `since`.
    Blocked {
        request: RequestInfo,
        posting: Posting,
        since: Instant,
        room: PlaceInLine<Charge>,
    },
    /// The backend is opening a queue for it.
    Queue(Box<Asked>),
    /// Becomes a stream when the answers before it are sent.
    Stream(Box<StreamRequest>),
}

/// A stream request and its client, which is `None` where nobody may ask who is connected.
type Asked = (RequestInfo, Option<Client>);

impl<'c, 'm> Connection<'c, 'm> {
    pub(super) fn new(
        connections: &'c Connections,
        stream: &'c TcpStream,
        (peer, port): (ClientAddress, Port),
        pipeline: Rc<Pipeline>,
        key: Key,
        holding: &'c mut Holding<'m>,
    ) -> Self {
        let now = Instant::now();
        let limits = limits(&connections.shard.common.config);
        Connection {
            connections,
            stream,
            peer,
            port,
            pipeline,
            key,
            reader: RequestReader::new(limits),
            input: Input::new(stream),
            holding,
            state: ConnectionState::Head,
            since: now,
            heard: now,
            last_request_seen: false,
            is_fresh: true,
            has_waited: false,
            must_flush: false,
            must_yield: false,
        }
    }

    /// Serves requests until the connection ends.
    pub(super) async fn serve(mut self) -> End {
        loop {
            // A read under way holds the buffer.
            self.must_flush = false;
            while !self.input.is_reading() && !self.must_flush && !self.must_yield && self.step() {}
            self.settle();
            if std::mem::take(&mut self.must_yield) {
                // Without it 400 pipelined requests with wrong tokens would hold the shard up for a second.
                let _ = tokio_uring::no_op().await;
                continue;
            }
            match self.flush().await {
                Flushed::Nothing => {}
                // The memory that this freed may be all that a request in the buffer waits for.
                Flushed::Some => continue,
                Flushed::End(end) => return end,
            }
            if self.pipeline.len() == 0 {
                if let ConnectionState::Stream(request) = self.state {
                    return End::Stream(Box::new(request.start(self.connections)), self.input.bytes());
                }
                let is_between = matches!(self.state, ConnectionState::Head) && self.input.bytes() == 0;
                if self.last_request_seen {
                    return End::Closed;
                }
                if is_between && self.phase() > Phase::Serving && self.first_request_end().is_none() {
                    // A pipelining client may be sending; a reset could overtake the answers on their way to it.
                    return End::Refused;
                }
            }
            match self.wait().await {
                Woken::Read(Ok(bytes)) if bytes > 0 => {
                    self.heard = Instant::now();
                    let begins = self.input.bytes() == bytes && matches!(self.state, ConnectionState::Head);
                    if begins {
                        // These are the first bytes of a head.
                        self.since = self.heard;
                    }
                    self.holding.received(bytes);
                    self.drain();
                    if begins && self.is_fresh && !self.has_waited {
                        self.connections.newcomer_step().await;
                        // Its client is not to blame for the wait.
                        (self.has_waited, self.since) = (true, Instant::now());
                    }
                }
                // The client sends no more: complete requests are still answered, an unfinished one is dropped.
                Woken::Read(Ok(_)) => {
                    self.state = ConnectionState::Head;
                    self.last_request_seen = true;
                }
                Woken::Read(_) => return End::Closed,
                Woken::Answers | Woken::Room => {}
                Woken::Evicted => return End::Closed,
                Woken::TimedOut if self.time_out() => {}
                Woken::TimedOut => return End::Closed,
            }
        }
    }

    /// Charges what the connection holds, the next read's buffer included.
    fn settle(&mut self) {
        self.input.shrink();
        self.pipeline.shrink();
        let (request, expected) = match &self.state {
            ConnectionState::Body { request, purpose } => {
                (request.held_bytes() + purpose.bytes(), self.reader.body_bytes_left())
            }
            ConnectionState::Skip { request, answer } => (request.held_bytes() + answer.bytes(), 0),
            ConnectionState::Blocked { request, posting, .. } => (request.held_bytes() + posting.bytes(), 0),
            ConnectionState::Head | ConnectionState::Queue(_) | ConnectionState::Stream(_) => (0, 0),
        };
        self.input.expect(expected);
        let body = self.reader.bytes_held();
        self.holding.set(TASK_BYTES + self.input.bytes_to_read() + body + request + self.pipeline.bytes());
    }

    /// Receives what waits behind a read that filled its buffer, if there is memory for it and for the requests in it.
    fn drain(&mut self) {
        if self.input.was_filled() && self.holding.try_add(self.input.bytes_to_drain() + DRAIN_BYTES) {
            let bytes = self.input.drain(&mut self.connections.scratch.borrow_mut());
            self.holding.received(bytes);
        }
    }

    /// Takes one step with the bytes in the buffer. Returns false when it needs more bytes, room or answers.
    fn step(&mut self) -> bool {
        if self.last_request_seen && matches!(self.state, ConnectionState::Head) {
            return false;
        }
        match std::mem::replace(&mut self.state, ConnectionState::Head) {
            ConnectionState::Head => self.step_head(),
            ConnectionState::Body { request, purpose } => match self.reader.body(&mut self.input.buffer) {
                Ok(Some(body)) => {
                    // The next head's time begins behind this body.
                    self.since = Instant::now();
                    let body = self.input.detach(body);
                    let (access, limits) = (&self.connections.service.access, self.event_limits());
                    let effect = effect_of(purpose, body, access, &limits, unix_s);
                    self.carry_out(request, effect)
                }
                Ok(None) => self.stay(ConnectionState::Body { request, purpose }),
                Err(refusal) => self.push(request, refusal),
            },
            ConnectionState::Skip { request, answer } => {
                match self.reader.skip_body(&mut self.input.buffer) {
                    Ok(true) => {
                        self.since = Instant::now();
                        self.push(request, answer)
                    }
                    Ok(false) => self.stay(ConnectionState::Skip { request, answer }),
                    Err(refusal) => self.push(request, refusal),
                }
            }
            ConnectionState::Blocked { request, posting, since, room } => match room.take() {
                Some(charge) => self.post_with(charge, request, posting, since),
                None => self.stay(ConnectionState::Blocked { request, posting, since, room }),
            },
            ConnectionState::Queue(asked) => match self.pipeline.take_opened() {
                Some(result) => self.begin(*asked, StreamWish::of_queue(result, self.refuse_streams())),
                None if self.phase() == Phase::Serving => self.stay(ConnectionState::Queue(asked)),
                // Opening the queue may take longer than a shutdown may.
                None => self.begin(*asked, StreamWish::no_queue(STOPPING, self.refuse_streams())),
            },
            state @ ConnectionState::Stream(..) => self.stay(state),
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
                let request = self.unread();
                return self.push(request, refusal);
            }
        };
        self.is_fresh = false;
        self.since = Instant::now();
        let service = &self.connections.service;
        let action = dialects::route(&head, self.port, &service.access, unix_s);
        self.must_yield = dialects::may_have_taken_long(&head, &service.access);
        let keep_alive = head.keep_alive && self.phase() == Phase::Serving;
        let mut request = RequestInfo::of(&head, keep_alive, self.port, &action, service);
        request.record = self.record(Some((&head, action.as_ref().ok())));
        match plan(action, &head, &service.reports) {
            Plan::Read(purpose) => self.read_body(request, purpose, head.expect_continue),
            Plan::ReadTopics(subscription) => {
                let purpose = Purpose::Subscribe(Box::new((subscription, self.client(&head))));
                self.read_body(request, purpose, head.expect_continue)
            }
            Plan::Answer(answer) => {
                let answer = self.afford(answer, head.has_body());
                if !head.has_body() {
                    self.push(request, answer)
                } else if head.expect_continue {
                    // The client may send the body or not, so it is not known where the next request begins.
                    self.push(RequestInfo { keep_alive: false, ..request }, answer)
                } else {
                    self.state = ConnectionState::Skip { request, answer };
                    true
                }
            }
            Plan::Subscribe(_) if request.head_only => self.push(request, Response::stream_head()),
            Plan::Subscribe(subscribe) => {
                let client = self.client(&head).filter(|_| !subscribe.feeds_admin_page);
                self.begin((request, client), Ok(StreamWish::Topics(subscribe)))
            }
            Plan::RefuseStream(refusal) => {
                self.begin((request, None), StreamWish::no_topics(refusal, self.refuse_streams()))
            }
            Plan::Ask(question) => {
                let ticket = self.expect(request);
                if !service.reports.ask(question, ticket) {
                    self.pipeline.answer(ticket.request, busy().into());
                }
                true
            }
            Plan::OpenQueue(queue) => {
                let client = self.client(&head);
                self.open_queue((request, client), queue)
            }
        }
    }

    /// Reads a body, which some clients send only once they are told to.
    fn read_body(&mut self, request: RequestInfo, purpose: Purpose, is_awaited: bool) -> bool {
        if is_awaited {
            self.pipeline.push(request.interim(), Response::interim().into());
        }
        self.state = ConnectionState::Body { request, purpose };
        true
    }

    /// Returns the answer if there is memory to hold it until it is sent, else a refusal. Requests pipelined behind a
    /// long answer wait until it is sent and other tasks had a turn: making one takes 16 us.
    fn afford(&mut self, answer: Answer, has_body: bool) -> Answer {
        let bytes = if answer.is_refusal() { 0 } else { answer.bytes() };
        if bytes == 0 {
            return answer;
        }
        self.must_flush = !has_body;
        match self.holding.add(bytes) {
            true => answer,
            false => {
                Refusal::unavailable("no memory for this answer; ask again later, or raise --request-memory")
                    .into()
            }
        }
    }

    /// Carries out what a request with its body asked for.
    fn carry_out(&mut self, request: RequestInfo, effect: Result<Effect, Refusal>) -> bool {
        match effect {
            Ok(Effect::Post(posting)) => self.post(request, posting, self.since),
            Ok(Effect::Respond(response)) => self.push(request, response),
            Ok(Effect::Subscribe(subscribe, client)) => {
                self.begin((request, client), Ok(StreamWish::Topics(subscribe)))
            }
            Ok(Effect::Disconnect(topic)) => {
                let ticket = self.expect(request);
                let shard = &self.connections.shard;
                // It goes through its home, so that it does not overtake earlier emits.
                shard.mailbox.post(Post::disconnect(topic, shard.common.homes.placement, ticket));
                true
            }
            Err(refusal) => self.push(request, refusal),
        }
    }

    /// Posts a publish whose last byte came at `since` to its home shard; waits in `Blocked` while there is no room on
    /// the way.
    fn post(&mut self, request: RequestInfo, posting: Posting, since: Instant) -> bool {
        let bytes = charged_bytes(&posting.events, posting.key_bytes());
        let budget = &self.connections.shard.budget;
        match budget.take(bytes) {
            Some(charge) => self.post_with(charge, request, posting, since),
            None => {
                let room = budget.wait(bytes);
                self.state = ConnectionState::Blocked { request, posting, since, room };
                // It may have been given room at once.
                self.step()
            }
        }
    }

    fn post_with(&mut self, charge: Charge, request: RequestInfo, posting: Posting, since: Instant) -> bool {
        let shard = &self.connections.shard;
        shard.note_publish();
        let ticket = self.expect(request);
        let Posting { topic, events, is_counted, key } = posting;
        let at_us = shard.common.clock.us_at(since.into_std());
        let reply = if is_counted { ReplyTo::Emitter(ticket) } else { ReplyTo::Connection(ticket) };
        let publish = message::Publish { topic, events, reply, at_us, charge, key };
        shard.mailbox.post(Post::publish(publish, shard.common.homes.placement));
        true
    }

    /// Asks the backend to open a queue.
    fn open_queue(&mut self, asked: Asked, queue: QueueRequest) -> bool {
        let refuse = self.refuse_streams();
        if self.connections.shard.common.streams.are_full() {
            // Refused here, before the broker sends messages for which there would be no stream and which it must send
            // again.
            return self.begin(asked, StreamWish::no_queue(FULL, refuse));
        }
        let QueueRequest { name, last_event_id } = queue;
        let ticket = Ticket { shard: self.connections.shard.id, connection: self.key, request: 0 };
        let open = ToBackend::Open { queue: name, last_event_id, ticket };
        match self.connections.service.backend.as_ref().map(|backend| backend.send(open)) {
            Some(Ok(())) => self.stay(ConnectionState::Queue(Box::new(asked))),
            _ => self.begin(asked, StreamWish::no_queue(STOPPING, refuse)),
        }
    }

    /// Waits to become a stream, or refuses it.
    fn begin(&mut self, asked: Asked, wish: Result<StreamWish, Refusal>) -> bool {
        let (request, client) = asked;
        match wish {
            Ok(wish) => self.stay(ConnectionState::Stream(Box::new(StreamRequest { request, wish, client }))),
            Err(refusal) => self.push(request, refusal),
        }
    }

    /// Returns whether a further request may be taken before those under way are answered.
    pub(super) fn may_ask(&self) -> bool {
        let under_way = self.pipeline.len();
        under_way < self.connections.shard.common.config.http.unanswered_max
            && (under_way == 0 || self.holding.starved().is_none())
    }

    /// Returns the info of a request whose head could not be read; of it only its `Origin` is known, if that.
    pub(super) fn unread(&mut self) -> RequestInfo {
        let origin = self.reader.refused_origin();
        let unread = RequestInfo::unread(origin.as_deref(), self.port, &self.connections.service);
        RequestInfo { record: self.record(None), ..unread }
    }

    /// Adds a request that is answered later; returns the ticket for its answer.
    fn expect(&mut self, request: RequestInfo) -> Ticket {
        self.last_request_seen |= !request.keep_alive;
        let shard = self.connections.shard.id;
        Ticket { shard, connection: self.key, request: self.pipeline.expect(request) }
    }

    /// Adds a request with its answer. Always returns true: a further request may be in the buffer.
    pub(super) fn push(&mut self, request: RequestInfo, answer: impl Into<Answer>) -> bool {
        let answer = answer.into();
        if answer.is_refusal() {
            let shard = self.connections.shard.id;
            tracing::debug!(shard, refusal = backend::without_queue(&answer.to_string()), "refused");
        }
        self.last_request_seen |= answer.closes() || !request.keep_alive;
        self.pipeline.push(request, answer);
        true
    }

    fn refuse_streams(&self) -> RefuseStreams {
        self.connections.shard.common.config.stream.refuse
    }

    fn stay(&mut self, state: ConnectionState) -> bool {
        self.state = state;
        false
    }

    fn event_limits(&self) -> EventLimits {
        EventLimits::of(self.connections.shard.common.config.http.body_bytes_max)
    }

    pub(super) fn phase(&self) -> Phase {
        self.connections.shard.phase()
    }
}
