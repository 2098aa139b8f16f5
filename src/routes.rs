//! What a request asks for, and whether whoever asks may have it. Decided from the head alone, so that a
//! request that is refused never gets to fill memory with its body.

use std::borrow::Cow;

use crate::auth::{self, AuthError, Grant, Keys};
use crate::event::known_id;
use crate::http::{Extra, Head, Method, Refusal, Status, target};
use crate::shared::Access;
use crate::topic::Topic;

/// What a request asks for.
#[derive(Debug)]
pub(crate) enum Action {
    Subscribe(Subscribe),
    Publish(Publish),
    Stats,
    Health,
    /// OPTIONS: the methods that may be used here.
    Methods(&'static str),
}

/// `GET /subscribe/{topic}`.
#[derive(Debug)]
pub(crate) struct Subscribe {
    pub(crate) topic: Topic,
    pub(crate) last_event_id: Option<Box<str>>,
    /// Unix seconds; `u64::MAX` without a token.
    pub(crate) expires_s: u64,
}

/// `POST /publish/{topic}`.
#[derive(Debug)]
pub(crate) struct Publish {
    pub(crate) topic: Topic,
    pub(crate) body: BodyForm,
}

/// How a publish's body is read.
#[derive(Debug)]
pub(crate) enum BodyForm {
    /// Event-stream text, the seed's way: one or more events.
    EventStream,
    /// The whole body is the data of one event.
    Data { event: Option<String>, id: Option<String>, is_json: bool },
}

const NOT_FOUND: &str =
    "no such path; there are GET /subscribe/{topic}, POST /publish/{topic}, GET /stats and GET /healthz";
const READ: &str = "GET, HEAD, OPTIONS";
const WRITE: &str = "POST, OPTIONS";

/// Finds what the request asks for; `now_s` is Unix time.
///
/// # Errors
/// The refusal to send instead: 400, 401, 403, 404 or 405.
pub(crate) fn route(head: &Head, access: &Access, now_s: u64) -> Result<Action, Refusal> {
    if head.method == Method::Options && head.path[..] == *b"*" {
        return Ok(Action::Methods("GET, HEAD, POST, OPTIONS"));
    }
    // Split before it is decoded: an encoded slash is a character of a segment, never a separator.
    let mut segments = target::segments(&head.path);
    let (first, second, third) = (segments.next(), segments.next(), segments.next());
    let first = target::decode(first.unwrap_or_default())?;
    match (&*first, second, third) {
        (b"subscribe", Some(topic), None) => allow(
            head,
            READ,
            |method| matches!(method, Method::Get | Method::Head),
            || subscribe(head, topic, access, now_s),
        ),
        (b"publish", Some(topic), None) => allow(
            head,
            WRITE,
            |method| matches!(method, Method::Post),
            || publish(head, topic, access, now_s),
        ),
        (b"stats", None, None) => allow(
            head,
            READ,
            |method| matches!(method, Method::Get | Method::Head),
            || {
                if let Some(keys) = &access.publisher {
                    verify(head, keys, None, now_s)?;
                }
                Ok(Action::Stats)
            },
        ),
        (b"healthz", None, None) => {
            allow(head, READ, |method| matches!(method, Method::Get | Method::Head), || Ok(Action::Health))
        }
        _ => Err(Refusal::new(Status::NotFound, NOT_FOUND)),
    }
}

fn allow(
    head: &Head,
    methods: &'static str,
    is_allowed: impl Fn(&Method) -> bool,
    action: impl FnOnce() -> Result<Action, Refusal>,
) -> Result<Action, Refusal> {
    if head.method == Method::Options {
        return Ok(Action::Methods(methods));
    }
    if !is_allowed(&head.method) {
        let reason = format!("this path does not take this method; use {methods}");
        return Err(Refusal::new(Status::MethodNotAllowed, reason).with(Extra::Allow(methods)));
    }
    action()
}

fn subscribe(head: &Head, topic: &[u8], access: &Access, now_s: u64) -> Result<Action, Refusal> {
    let topic = parse_topic(topic, access)?;
    let mut expires_s = u64::MAX;
    if let Some(keys) = &access.subscriber {
        // A cookie would let any page that the user visits publish in the user's name; reading is guarded by
        // CORS.
        let grant = verify(head, keys, Some(&access.cookie_name), now_s)?;
        covers(&grant, &topic)?;
        expires_s = grant.expires_s;
    }
    let last_event_id = match &head.last_event_id {
        Some(id) => Some(String::from_utf8_lossy(id)),
        None => target::query_value(&head.query, "lastEventId")?,
    };
    let last_event_id = last_event_id.as_deref().and_then(known_id).map(Box::from);
    Ok(Action::Subscribe(Subscribe { topic, last_event_id, expires_s }))
}

fn publish(head: &Head, topic: &[u8], access: &Access, now_s: u64) -> Result<Action, Refusal> {
    let topic = parse_topic(topic, access)?;
    if let Some(keys) = &access.publisher {
        let grant = verify(head, keys, None, now_s)?;
        covers(&grant, &topic)?;
    }
    let is_json = head.content_type.as_deref().is_some_and(is_json);
    let body = if is_json || target::query_has(&head.query, "wrap") {
        let value = |name| Ok(target::query_value(&head.query, name)?.map(Cow::into_owned));
        BodyForm::Data { event: value("event")?, id: value("id")?, is_json }
    } else {
        BodyForm::EventStream
    };
    Ok(Action::Publish(Publish { topic, body }))
}

fn parse_topic(segment: &[u8], access: &Access) -> Result<Topic, Refusal> {
    let name = target::decode(segment)?;
    Topic::parse(&name, &access.hasher).map_err(|error| Refusal::new(Status::BadRequest, error.to_string()))
}

fn verify(head: &Head, keys: &Keys, cookie_name: Option<&str>, now_s: u64) -> Result<Grant, Refusal> {
    let refuse = |error: AuthError| Refusal::new(Status::Unauthorized, error.to_string()).with(Extra::Bearer);
    let query = target::query_value(&head.query, "token")?;
    let cookie = head.cookie.as_deref().zip(cookie_name);
    let token = auth::token(query, head.authorization.as_deref(), cookie).map_err(refuse)?;
    keys.verify(&token, now_s).map_err(refuse)
}

fn covers(grant: &Grant, topic: &Topic) -> Result<(), Refusal> {
    if grant.covers(topic) {
        return Ok(());
    }
    Err(Refusal::new(
        Status::Forbidden,
        "this token is for another topic: its sub must be the topic in the path",
    ))
}

/// `application/json`, whatever its parameters.
fn is_json(content_type: &[u8]) -> bool {
    let essence = content_type.split(|byte| *byte == b';').next().unwrap_or_default();
    essence.trim_ascii().eq_ignore_ascii_case(b"application/json")
}
