//! A publish on a connection: its body as it arrives, what it holds, and its events on their way to their home.

use bytes::Bytes;
use tokio::time::Instant;

use super::{Connection, Stage};
use crate::budget::Charge;
use crate::event::{EventLimits, Events};
use crate::http::{Refusal, Status};
use crate::routes::{BodyForm, Publish};
use crate::shard::input::READ_BYTES_MAX;
use crate::shard::message::{Message, Post, ReplyTo, Ticket, ToHome};
use crate::shard::pipeline::{Answer, Request};
use crate::topic::Topic;

/// Bodies up to here are copied out of the read buffer, 30 ns for a usual one; a larger one holds at most
/// four times its size.
const COPIED_BODY_BYTES: usize = READ_BYTES_MAX / 4;
/// What of a body may arrive without being charged: 4 KiB of each of 20,000 connections are 80 MB, a whole
/// read of each would be more than a gigabyte.
const FREE_UPLOAD_BYTES: usize = 4 << 10;

impl Connection<'_> {
    pub(super) fn step_body(
        &mut self,
        request: Request,
        publish: Publish,
        mut upload: Option<Charge>,
        full: Option<Instant>,
    ) -> bool {
        match self.reader.body(&mut self.input.buffer) {
            Ok(Some(body)) => self.publish(request, publish, body, upload),
            Ok(None) => {
                let has_room = self.charge_upload(&mut upload);
                let full = (!has_room).then(|| full.unwrap_or_else(Instant::now));
                self.stay(Stage::Body { request, publish, upload, full })
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

    fn publish(&mut self, request: Request, publish: Publish, body: Bytes, upload: Option<Charge>) -> bool {
        // What follows the body is the next head, whose time begins here.
        self.since = Instant::now();
        let limits = EventLimits::of(self.shard.shared.config.http.body_bytes_max);
        if body.len() > READ_BYTES_MAX {
            self.input.detach();
        }
        // A small body must not keep the read buffer it came in while it lies in a mailbox.
        let body = if body.len() <= COPIED_BODY_BYTES { Bytes::copy_from_slice(&body) } else { body };
        let events = match publish.body {
            BodyForm::EventStream => Events::parse(body, &limits),
            BodyForm::Data { event, id, is_json } => {
                let body = if is_json { without_final_line_end(body) } else { body };
                Events::wrap(body, event.as_deref(), id.as_deref(), &limits)
            }
        };
        match events {
            Ok(events) => self.post(request, publish.topic, events, upload, Instant::now()),
            Err(error) => {
                self.push(request, Answer::Refused(Refusal::new(Status::BadRequest, error.to_string())));
                true
            }
        }
    }

    /// Posts a publish, complete at `since`, to its home shard, if there is room for it on the way.
    pub(super) fn post(
        &mut self,
        request: Request,
        topic: Topic,
        events: Events,
        upload: Option<Charge>,
        since: Instant,
    ) -> bool {
        let shared = &self.shard.shared;
        let Some(charge) = shared.room(&events) else {
            return self.stay(Stage::Blocked { request, topic, events, upload, since });
        };
        self.last_request_seen |= !request.keep_alive;
        let ticket =
            Ticket { shard: self.shard.id, connection: self.key, request: self.pipeline.expect(request) };
        let to = topic.home(shared.shards) as u16;
        let at_us = shared.clock.now_us();
        let reply = ReplyTo::Connection(ticket);
        let message = Message::Home(ToHome::Publish { topic, events, reply, at_us, charge });
        self.shard.mailbox.post(Post { to, message });
        true
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
