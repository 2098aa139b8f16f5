//! A publish or a command on a connection: its body as it arrives, what it holds, and what it sets going.

use bytes::Bytes;
use tokio::time::Instant;

use super::{Connection, Stage};
use crate::budget::Charge;
use crate::clock::unix_s;
use crate::event::{EventError, EventLimits, Events};
use crate::http::{Head, Refusal, Status};
use crate::routes::{BodyForm, Command, Order, Publish};
use crate::shard::input::READ_BYTES_MAX;
use crate::shard::message::{Message, Post, ReplyTo, ShardId, ToHome};
use crate::shard::pipeline::{Answer, Request};
use crate::topic::Topic;

/// Bodies up to here are copied out of the read buffer, 30 ns for a usual one; a larger one holds at most
/// four times its size.
const COPIED_BODY_BYTES: usize = READ_BYTES_MAX / 4;
/// What of a body may arrive without being charged: 4 KiB of each of 20,000 connections are 80 MB, a whole
/// read of each would be more than a gigabyte.
const FREE_UPLOAD_BYTES: usize = 4 << 10;

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
}

impl Connection<'_> {
    /// Takes in the body of a request whose head was accepted.
    pub(super) fn expect_body(&mut self, request: Request, head: &Head, purpose: Purpose) -> bool {
        if head.expect_continue {
            self.pipeline.push(request.clone(), Answer::Continue);
        }
        self.stage = Stage::Body { request, purpose, upload: None, full: None };
        true
    }

    pub(super) fn step_body(
        &mut self,
        request: Request,
        purpose: Purpose,
        mut upload: Option<Charge>,
        full: Option<Instant>,
    ) -> bool {
        match self.reader.body(&mut self.input.buffer) {
            Ok(Some(body)) => self.take_body(request, purpose, body, upload),
            Ok(None) => {
                let has_room = self.charge_upload(&mut upload);
                let full = (!has_room).then(|| full.unwrap_or_else(Instant::now));
                self.stay(Stage::Body { request, purpose, upload, full })
            }
            Err(refusal) => self.refuse(request, refusal),
        }
    }

    /// Charges what a body holds while it arrives; false when there is no room for it.
    fn charge_upload(&self, upload: &mut Option<Charge>) -> bool {
        let held = self.reader.body_bytes_held(&self.input.buffer);
        if held <= FREE_UPLOAD_BYTES {
            return true;
        }
        match upload {
            Some(charge) => charge.bytes() >= held || charge.grow(held - charge.bytes()),
            None => {
                *upload = self.shard.shared.uploads.take(held);
                upload.is_some()
            }
        }
    }

    fn take_body(&mut self, request: Request, purpose: Purpose, body: Bytes, upload: Option<Charge>) -> bool {
        // What follows the body is the next head, whose time begins here.
        self.since = Instant::now();
        let limits = EventLimits::of(self.shard.shared.config.http.body_bytes_max);
        if body.len() > READ_BYTES_MAX {
            self.input.detach();
        }
        // A small body must not keep the read buffer it came in while it lies in a mailbox.
        let body = if body.len() <= COPIED_BODY_BYTES { Bytes::copy_from_slice(&body) } else { body };
        match purpose {
            Purpose::Publish(Publish { topic, body: form }) => match events(form, body, &limits) {
                Ok(events) => {
                    self.post(request, Posting { topic, events, counted: false }, upload, Instant::now())
                }
                Err(error) => self.refuse(request, Refusal::new(Status::BadRequest, error.to_string())),
            },
            Purpose::Command(command) => {
                match command.read(&body, &self.shard.shared.access, &limits, unix_s()) {
                    Ok(order) => self.carry_out(request, order, upload),
                    Err(refusal) => self.refuse(request, refusal),
                }
            }
        }
    }

    /// Does what a command asked for.
    fn carry_out(&mut self, request: Request, order: Order, upload: Option<Charge>) -> bool {
        match order {
            Order::Token(token) => self.push(request, Answer::Text(token.into())),
            Order::TokenJson(json) => self.push(request, Answer::Json(json)),
            Order::Emit(topic, events) => {
                let posting = Posting { topic, events, counted: true };
                return self.post(request, posting, upload, Instant::now());
            }
            Order::Disconnect(topic) => {
                let ticket = self.expect(request);
                let shards = self.shard.shared.shards;
                // By way of its home, so that it does not overtake what is emitted.
                let to = topic.home(shards) as ShardId;
                let shards = shards as ShardId;
                let message = Message::Home(ToHome::Disconnect { topic, shards, ticket });
                self.shard.mailbox.post(Post { to, message });
            }
        }
        true
    }

    /// Posts a publish, complete at `since`, to its home shard, if there is room for it on the way.
    pub(super) fn post(
        &mut self,
        request: Request,
        posting: Posting,
        upload: Option<Charge>,
        since: Instant,
    ) -> bool {
        let shared = &self.shard.shared;
        let Some(charge) = shared.room(&posting.events) else {
            return self.stay(Stage::Blocked { request, posting, upload, since });
        };
        let Posting { topic, events, counted } = posting;
        let ticket = self.expect(request);
        let shared = &self.shard.shared;
        let to = topic.home(shared.shards) as u16;
        let at_us = shared.clock.now_us();
        let reply = if counted { ReplyTo::Emitter(ticket) } else { ReplyTo::Connection(ticket) };
        let message = Message::Home(ToHome::Publish { topic, events, reply, at_us, charge });
        self.shard.mailbox.post(Post { to, message });
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
