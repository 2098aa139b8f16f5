//! The body of a publish, a command or a subscription: reads it and says what it asks for.

use bytes::{Buf as _, Bytes};

use crate::core::event::{BYTE_ORDER_MARK, EventError, EventLimits, Events};
use crate::core::message::PublishKey;
use crate::core::survey::Client;
use crate::core::topic::Topic;
use crate::dialects::Access;
use crate::dialects::native::{BodyForm, BodySubscription, IdempotencyKey, PublishRequest, Subscribe};
use crate::dialects::sessions::{Command, CommandEffect};
use crate::http::{Refusal, Response, Status};

/// The kind of request that a body belongs to.
#[derive(Debug)]
pub(super) enum Purpose {
    Publish(PublishRequest),
    Command(Command),
    /// With the client, which is `None` where nobody may ask who is connected.
    Subscribe(Box<(BodySubscription, Option<Client>)>),
}

/// Events to be posted to their topic's home.
#[derive(Debug)]
pub(super) struct Posting {
    pub(super) topic: Topic,
    pub(super) events: Events,
    /// Whether the sender is told how many streams the events went to.
    pub(super) is_counted: bool,
    pub(super) key: Option<Box<PublishKey>>,
}

impl Posting {
    /// Returns the memory that the events and the key take, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.events.held_bytes() + self.key_bytes()
    }

    pub(super) fn key_bytes(&self) -> usize {
        self.key.as_ref().map_or(0, |key| size_of::<PublishKey>() + key.name.len())
    }
}

impl Purpose {
    /// Returns the memory that it takes beside itself, in bytes.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Purpose::Publish(PublishRequest { body, key, .. }) => {
                let texts = match body {
                    BodyForm::Data { event, id, .. } => [event.as_ref(), id.as_ref()],
                    BodyForm::EventStream => [None, None],
                };
                let text_bytes: usize = texts.into_iter().flatten().map(String::capacity).sum();
                text_bytes + key.as_ref().map_or(0, IdempotencyKey::bytes)
            }
            Purpose::Command(_) => 0,
            Purpose::Subscribe(subscribe) => size_of_val(&**subscribe) + subscribe.0.bytes(),
        }
    }
}

/// The action that a request asks for, known once its body is read.
#[derive(Debug)]
pub(super) enum Effect {
    Post(Posting),
    Respond(Response),
    /// Ends the streams of this topic.
    Disconnect(Topic),
    /// Begins this stream.
    Subscribe(Subscribe, Option<Client>),
}

/// Reads a body and returns what it asks for; `now_s` returns Unix time in seconds.
///
/// # Errors
/// The refusal to send instead: 400, or 403 for a token that cannot be minted or does not cover the topics.
pub(super) fn effect_of(
    purpose: Purpose,
    body: Bytes,
    access: &Access,
    limits: &EventLimits,
    now_s: fn() -> u64,
) -> Result<Effect, Refusal> {
    let post = |topic, events, is_counted, key| Effect::Post(Posting { topic, events, is_counted, key });
    match purpose {
        Purpose::Publish(PublishRequest { topic, body: form, key }) => {
            let key = key.map(|key| Box::new(key.with_body(&form, &body)));
            let events = events(form, body, limits)
                .map_err(|error| Refusal::new(Status::BadRequest, error.to_string()))?;
            Ok(post(topic, events, false, key))
        }
        Purpose::Subscribe(subscribe) => {
            let (subscription, client) = *subscribe;
            Ok(Effect::Subscribe(subscription.read(&body, access, now_s)?, client))
        }
        Purpose::Command(command) => Ok(match command.read(&body, access, limits, now_s)? {
            CommandEffect::Respond(response) => Effect::Respond(response),
            CommandEffect::Emit(topic, events) => post(topic, events, true, None),
            CommandEffect::Disconnect(topic) => Effect::Disconnect(topic),
        }),
    }
}

fn events(form: BodyForm, body: Bytes, limits: &EventLimits) -> Result<Events, EventError> {
    match form {
        BodyForm::EventStream => Events::parse(body, limits),
        BodyForm::Data { is_json: true, .. } if body.is_empty() => Err(EventError::Empty),
        BodyForm::Data { event, id, is_json } => {
            let body = if is_json { json_text(body) } else { body };
            Events::wrap(body, event.as_deref(), id.as_deref(), limits)
        }
    }
}

/// Returns JSON without its final line end, which means nothing and which `curl -d @file` often sends, and without a
/// byte-order mark, with which a page could not parse it (RFC 8259 section 8.1).
fn json_text(mut body: Bytes) -> Bytes {
    if body.starts_with(BYTE_ORDER_MARK) {
        body.advance(BYTE_ORDER_MARK.len());
    }
    if body.ends_with(b"\n") {
        body.truncate(body.len() - 1);
        if body.ends_with(b"\r") {
            body.truncate(body.len() - 1);
        }
    }
    body
}
