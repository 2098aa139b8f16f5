//! A publish or a command on a connection: its body as it arrives, what it holds, and what it sets going.

use bytes::Bytes;
use tokio::time::Instant;

use super::{Connection, Stage};
use crate::clock::unix_s;
use crate::core::event::{EventError, EventLimits, Events};
use crate::core::message::{self, Post, PublishKey, ReplyTo};
use crate::core::topic::Topic;
use crate::http::{Head, Refusal, Status};
use crate::routes::{BodyForm, Command, IdempotencyKey, Order, Publish};
use crate::shard::pipeline::{Answer, Request};

/// Bodies up to here are copied out of the read buffer, 30 ns for a usual one.
const COPIED_BODY_BYTES: usize = 16 << 10;

/// What a body is for.
#[derive(Debug)]
pub(super) enum Purpose {
    Publish(Publish),
    Command(Command),
}

/// What is to be posted to a home.
#[derive(Debug)]
pub(super) struct Posting {
    topic: Topic,
    events: Events,
    /// Whether the streams that it is sent to are counted.
    counted: bool,
    key: Option<Box<PublishKey>>,
}

impl Posting {
    /// Memory that it takes, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.events.held_bytes() + self.key_bytes()
    }

    fn key_bytes(&self) -> usize {
        self.key.as_ref().map_or(0, |key| size_of::<PublishKey>() + key.name.len())
    }
}

impl Purpose {
    /// Returns the memory that it takes beside itself, in bytes.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Purpose::Publish(Publish { body, key, .. }) => {
                let texts = match body {
                    BodyForm::Data { event, id, .. } => [event.as_ref(), id.as_ref()],
                    BodyForm::EventStream => [None, None],
                };
                let text_bytes: usize = texts.into_iter().flatten().map(String::capacity).sum();
                text_bytes + key.as_ref().map_or(0, IdempotencyKey::bytes)
            }
            Purpose::Command(_) => 0,
        }
    }
}

impl Connection<'_, '_> {
    /// Takes in the body of a request whose head was accepted.
    pub(super) fn expect_body(&mut self, request: Request, head: &Head, purpose: Purpose) -> bool {
        if head.expect_continue {
            self.pipeline.push(request.clone(), Answer::Continue);
        }
        self.stage = Stage::Body { request, purpose };
        true
    }

    pub(super) fn step_body(&mut self, request: Request, purpose: Purpose) -> bool {
        match self.reader.body(&mut self.input.buffer) {
            Ok(Some(body)) => self.take_body(request, purpose, body),
            Ok(None) => self.stay(Stage::Body { request, purpose }),
            Err(refusal) => self.refuse(request, refusal),
        }
    }

    fn take_body(&mut self, request: Request, purpose: Purpose, body: Bytes) -> bool {
        // What follows the body is the next head, whose time begins here.
        self.since = Instant::now();
        let limits = EventLimits::of(self.shard.shared.config.http.body_bytes_max);
        // A small body must not keep the read buffer it came in while it lies in a mailbox, nor any one twice its size.
        let is_small = body.len() <= COPIED_BODY_BYTES || body.len() < self.input.allocated_bytes() / 2;
        let body = if is_small { Bytes::copy_from_slice(&body) } else { body };
        match purpose {
            Purpose::Publish(Publish { topic, body: form, key }) => {
                let key = key.map(|key| Box::new(key.with_body(&form, &body)));
                match events(form, body, &limits) {
                    Ok(events) => {
                        let posting = Posting { topic, events, counted: false, key };
                        self.post(request, posting, Instant::now())
                    }
                    Err(error) => self.refuse(request, Refusal::new(Status::BadRequest, error.to_string())),
                }
            }
            Purpose::Command(command) => {
                match command.read(&body, &self.shard.shared.access, &limits, unix_s()) {
                    Ok(order) => self.carry_out(request, order),
                    Err(refusal) => self.refuse(request, refusal),
                }
            }
        }
    }

    /// Does what a command asked for.
    fn carry_out(&mut self, request: Request, order: Order) -> bool {
        match order {
            Order::Token(token) => self.push(request, Answer::Text(token.into())),
            Order::TokenJson(json) => self.push(request, Answer::Json(json)),
            Order::Emit(topic, events) => {
                let posting = Posting { topic, events, counted: true, key: None };
                return self.post(request, posting, Instant::now());
            }
            Order::Disconnect(topic) => {
                let ticket = self.expect(request);
                let placement = self.shard.shared.homes.placement;
                // By way of its home, so that it does not overtake what is emitted.
                self.shard.mailbox.post(Post::disconnect(topic, placement, ticket));
            }
        }
        true
    }

    /// Posts a publish, complete at `since`, to its home shard, if there is room for it on the way.
    pub(super) fn post(&mut self, request: Request, posting: Posting, since: Instant) -> bool {
        let shared = &self.shard.shared;
        let Some(charge) = shared.room(&posting.events, posting.key_bytes()) else {
            return self.stay(Stage::Blocked { request, posting, since });
        };
        let Posting { topic, events, counted, key } = posting;
        let ticket = self.expect(request);
        let shared = &self.shard.shared;
        let at_us = shared.clock.now_us();
        let reply = if counted { ReplyTo::Emitter(ticket) } else { ReplyTo::Connection(ticket) };
        let publish = message::Publish { topic, events, reply, at_us, charge, key };
        self.shard.mailbox.post(Post::publish(publish, shared.homes.placement));
        true
    }
}

fn events(form: BodyForm, body: Bytes, limits: &EventLimits) -> Result<Events, EventError> {
    match form {
        BodyForm::EventStream => Events::parse(body, limits),
        BodyForm::Data { event, id, is_json } => {
            let body = if is_json { without_final_line_end(body) } else { body };
            Events::wrap(body, event.as_deref(), id.as_deref(), limits)
        }
    }
}

/// For JSON a final line end means nothing, and `curl -d @file` often sends one.
fn without_final_line_end(mut body: Bytes) -> Bytes {
    if body.ends_with(b"\n") {
        body.truncate(body.len() - 1);
        if body.ends_with(b"\r") {
            body.truncate(body.len() - 1);
        }
    }
    body
}
