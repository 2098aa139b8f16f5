//! The commands of the control port: mint a token, emit, end streams.

use std::borrow::Cow;

use bytes::Bytes;

use super::fields::FormFields;
use super::{Access, Form, IdempotencyKey, bad_request};
use crate::auth::{Keyring, mint};
use crate::core::event::{EventError, EventLimits, Events};
use crate::core::session::{NAME_BYTES_MAX, NameError, Session};
use crate::core::topic::Topic;
use crate::http::{Head, Refusal, Response, Status};

/// A command whose body is still to come.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Command {
    task: Task,
    form: Form,
}

/// The kind of a command.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Task {
    /// `POST /token/`
    Token {
        /// Whether the answer is JSON.
        as_json: bool,
    },
    /// `POST /emit/`
    Emit,
    /// `POST /disconnect/`
    Disconnect,
}

/// The action that a command asks for, known once its body is read and checked.
#[derive(Debug)]
pub(crate) enum CommandEffect {
    /// Send this response.
    Respond(Response),
    /// Publish these events and report how many streams they went to.
    Emit(Topic, Events),
    /// End the streams of this topic.
    Disconnect(Topic),
}

impl Task {
    pub(super) fn token(head: &Head) -> Self {
        Task::Token { as_json: head.accept.as_deref().is_some_and(takes_json) }
    }
}

impl Command {
    /// Returns the command with the form of its body.
    ///
    /// # Errors
    /// 400 for a body of another type, and for an emit with an idempotency key, whose sender would rely on it.
    pub(super) fn new(task: Task, head: &Head) -> Result<Self, Refusal> {
        if task == Task::Emit && IdempotencyKey::is_in(head) {
            return Err(bad_request(
                "an emit takes no idempotency key: leave out the Idempotency-Key field or ?key=, or publish to a topic",
            ));
        }
        Ok(Command { task, form: Form::of(head.content_type.as_deref())? })
    }

    /// Reads the body; `now_s` returns Unix time in seconds, `event_limits` hold for emitted events.
    ///
    /// # Errors
    /// 400 that names the field and the remedy; 403 when there is no secret to sign a token with.
    pub(crate) fn read(
        self,
        body: &Bytes,
        access: &Access,
        event_limits: &EventLimits,
        now_s: fn() -> u64,
    ) -> Result<CommandEffect, Refusal> {
        let fields = FormFields::read(self.form, body)?;
        let name = |field| fields.text(field).map(Option::unwrap_or_default);
        let session = Session::new(&name("userId")?, &name("channel")?).map_err(unnamed)?;
        match self.task {
            Task::Token { as_json } => {
                let token_s = access.lifetime_s(fields.seconds("exp", access.session_s_max)?);
                token(&session, now_s() + token_s, &access.keyring.load(), as_json)
            }
            Task::Emit => {
                Ok(CommandEffect::Emit(session.topic(access.names.hasher()), events(&fields, event_limits)?))
            }
            Task::Disconnect => Ok(CommandEffect::Disconnect(session.topic(access.names.hasher()))),
        }
    }
}

/// Returns the refusal of a bad name. A missing name gets a hint: JSON sent without its type is read as a form, where
/// no field is found.
fn unnamed(error: NameError) -> Refusal {
    bad_request(match error {
        NameError { field, bytes: 0 } => format!(
            "no {field}: send 1 to {NAME_BYTES_MAX} bytes, in a form, or in JSON with Content-Type: application/json"
        ),
        error => error.to_string(),
    })
}

fn token(
    session: &Session,
    expires_s: u64,
    keyring: &Keyring,
    as_json: bool,
) -> Result<CommandEffect, Refusal> {
    let Some((secret, parties)) = &keyring.session_mint else {
        let reason = "this server has no secret to sign session tokens with, only public keys; sign them where \
                      the private key is, or set ESPER_SESSION_SECRET";
        return Err(Refusal::new(Status::Forbidden, reason));
    };
    let token = mint::session_token(secret, session, expires_s, parties)
        .map_err(|_| Refusal::unavailable("the token could not be signed; try again"))?;
    Ok(CommandEffect::Respond(match as_json {
        true => {
            let json = serde_json::json!({ "token": token, "expires_at": expires_s });
            Response::json(json.to_string().into_bytes())
        }
        false => Response::text(token),
    }))
}

/// Returns the events to emit: `payload` as it is, or one event made of the other fields.
fn events(fields: &FormFields<'_>, limits: &EventLimits) -> Result<Events, Refusal> {
    let bytes = |text: Cow<'_, str>| Bytes::from(text.into_owned());
    match (fields.text("payload")?, fields.text("data")?) {
        (Some(payload), None) => {
            if let Some(field) = ["event", "id"].into_iter().find(|field| fields.has(field)) {
                return Err(bad_request(format!(
                    "{field} beside payload: write it into the payload, or send data instead"
                )));
            }
            Events::parse(bytes(payload), limits).map_err(|error| bad_event("payload", &error))
        }
        (None, Some(data)) => {
            let (event, id) = (fields.text("event")?, fields.text("id")?);
            Events::wrap(bytes(data), event.as_deref(), id.as_deref(), limits)
                .map_err(|error| bad_event("data", &error))
        }
        (Some(_), Some(_)) => Err(bad_request("payload and data: send one of them")),
        (None, None) => Err(bad_request(
            "no payload: send one that is event-stream text, such as `data: hello`, or send data instead",
        )),
    }
}

/// Returns the refusal of an event in this field: its hints name fields, not the body or the URL.
fn bad_event(field: &str, error: &EventError) -> Refusal {
    bad_request(match error {
        EventError::Empty => format!("{field} is empty: write something into it"),
        EventError::NoEvent => format!("no event in {field}: write at least one line `data: ...`"),
        EventError::NoData { event } => format!(
            "event {event} of {field} has no data: line; write `data: ` before its text, or send data instead \
             of payload"
        ),
        EventError::Nul { offset } => {
            format!("NUL at byte {offset} of {field}: remove it, or send binary data as base64")
        }
        error => format!("bad {field}: {error}"),
    })
}

/// Returns whether `Accept` names JSON (RFC 9110, section 12.5.1), whatever else it names.
fn takes_json(accept: &[u8]) -> bool {
    accept.split(|byte| *byte == b',').any(|range| {
        let mut parts = range.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
        let is_json = parts.next().is_some_and(|range| range.eq_ignore_ascii_case(b"application/json"));
        let refused = |part: &[u8]| {
            let weight = part.strip_prefix(b"q=").or_else(|| part.strip_prefix(b"Q="));
            weight.is_some_and(|weight| weight.iter().all(|byte| b"0.".contains(byte)))
        };
        is_json && !parts.any(refused)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_answered_to_those_who_name_it() {
        for accept in
            ["application/json", "text/plain, Application/JSON;q=0.5", "application/json; charset=utf-8"]
        {
            assert!(takes_json(accept.as_bytes()), "{accept}");
        }
        for accept in
            ["", "*/*", "application/*", "text/json", "application/json;q=0", "application/json; q=0.0"]
        {
            assert!(!takes_json(accept.as_bytes()), "{accept}");
        }
    }
}
