//! `/subscribe` and `/publish`: finds the topics and checks that the token covers them.

mod idempotency;
mod renew;
mod subscribe;
mod ticket;

use std::borrow::Cow;
use std::slice;

use smallvec::{SmallVec, smallvec};

pub(crate) use idempotency::IdempotencyKey;
pub(crate) use subscribe::{BodySubscription, Subscribe, SubscribeOptions, last_event_id};

use self::subscribe::topic_in_path;
use super::call::{Call, READ, READ_BY_BODY, WRITE};
use super::form::is_json;
use super::{Access, Action, bad_request};
use crate::auth::Grant;
use crate::core::topic::{Topic, TopicError};
use crate::http::{Method, Refusal, Status, target};

/// `POST /publish/{topic}`.
#[derive(Debug)]
pub(crate) struct PublishRequest {
    pub(crate) topic: Topic,
    pub(crate) body: BodyForm,
    pub(crate) key: Option<IdempotencyKey>,
}

/// The form of a publish's body.
#[derive(Debug)]
pub(crate) enum BodyForm {
    /// Event-stream text with one or more events.
    EventStream,
    /// The whole body is the data of one event.
    Data { event: Option<String>, id: Option<String>, is_json: bool },
}

/// Returns the action for `/subscribe` and `/publish`.
pub(super) fn route(call: &Call<'_>) -> Option<Result<Action, Refusal>> {
    let Call { head, access, .. } = call;
    Some(match (call.first, call.rest) {
        (b"subscribe", [] | [b""]) if may_name_topics(call) => {
            call.allow(&READ_BY_BODY, || call.subscribe_to_several())
        }
        (b"subscribe", path) if is_topic(path, access) => {
            call.allow(&READ, || call.subscribe(smallvec![topic_in_path(head, path, access)?]))
        }
        (b"ticket", [] | [b""]) => call.allow(&WRITE, || call.ticket()),
        (b"renew", [] | [b""]) => call.allow(&WRITE, || call.renew()),
        (b"publish", path) if is_topic(path, access) && call.is_inside() => {
            call.allow(&WRITE, || call.publish(path))
        }
        _ => return None,
    })
}

pub(super) fn paths(call: &Call<'_>, paths: &mut Vec<Cow<'static, str>>) {
    paths.extend(
        ["GET /subscribe/{topic}", "GET /subscribe?topic={topic}", "POST /subscribe"].map(Cow::Borrowed),
    );
    if call.keyring.subscriber.is_some() {
        paths.extend(["POST /ticket", "POST /renew?handle={handle}"].map(Cow::Borrowed));
    }
    if call.is_inside() {
        paths.push("POST /publish/{topic}".into());
    }
}

/// Returns whether a request to `/subscribe` may name topics: in its query, or in its body. With namespaces it need not.
fn may_name_topics(call: &Call<'_>) -> bool {
    !matches!(call.head.method, Method::Get | Method::Head)
        || call.access.names.are_paths()
        || target::query_has(&call.head.query, "topic")
}

/// Returns whether this path may name a topic, well-formed or not.
fn is_topic(path: &[&[u8]], access: &Access) -> bool {
    match path {
        [] => false,
        [_] => true,
        _ => access.names.are_paths(),
    }
}

impl Call<'_> {
    /// Returns the publish to the topic at this path; 400, 401 or 403 when it is refused.
    fn publish(&self, path: &[&[u8]]) -> Result<Action, Refusal> {
        let Call { head, access, .. } = self;
        if access.names.are_paths() && matches!(path, [b""]) {
            // For a subscriber this path means everything.
            return Err(bad_request("no topic: publish to one, as POST /publish/{topic}"));
        }
        let topic = parse_path(path, access)?;
        let keys = self.keyring.publisher.as_ref().filter(|_| !self.is_operator);
        let grant = keys.map(|keys| self.verify(keys, None)).transpose()?;
        grant.iter().try_for_each(|grant| check_covered(grant, slice::from_ref(&topic)))?;
        let key = IdempotencyKey::of(head, &topic, grant.as_ref().map_or("", Grant::subject))?;
        self.check_encoding()?;
        let is_json = head.content_type.as_deref().is_some_and(is_json);
        let body = if is_json || wraps(&head.query)? {
            let value = |name| Ok(target::query_value(&head.query, name)?.map(Cow::into_owned));
            BodyForm::Data { event: value("event")?, id: value("id")?, is_json }
        } else if ["event", "id"].iter().any(|name| target::query_has(&head.query, name)) {
            return Err(bad_request(
                "event and id in the query are for a body that is wrapped: add wrap, or write them into the body",
            ));
        } else {
            BodyForm::EventStream
        };
        Ok(Action::Publish(PublishRequest { topic, body, key }))
    }
}

fn parse_path(path: &[&[u8]], access: &Access) -> Result<Topic, Refusal> {
    let segments: SmallVec<[Cow<'_, [u8]>; 8]> =
        path.iter().map(|segment| target::decode(segment)).collect::<Result<_, _>>()?;
    access.names.parse_segments(&segments).map_err(refuse_topic)
}

fn refuse_topic(error: TopicError) -> Refusal {
    bad_request(error.to_string())
}

/// Checks that a token covers all of these topics.
///
/// # Errors
/// 403 that names the first which it does not cover.
fn check_covered(grant: &Grant, topics: &[Topic]) -> Result<(), Refusal> {
    let Some(topic) = topics.iter().find(|topic| !grant.covers(topic)) else { return Ok(()) };
    let reason = if topic.is_everything() {
        "this token is for another topic: to subscribe to everything its sub must be '*'".to_owned()
    } else {
        format!("this token is for another topic: its sub or topics must cover {}", topic.name())
    };
    Err(Refusal::new(Status::Forbidden, reason))
}

/// Returns whether the query asks for the body to be wrapped.
///
/// # Errors
/// 400 for a value that says neither.
fn wraps(query: &[u8]) -> Result<bool, Refusal> {
    let Some(value) = target::query_bytes(query, "wrap") else { return Ok(false) };
    match &value.to_ascii_lowercase()[..] {
        b"" | b"1" | b"true" | b"yes" | b"on" => Ok(true),
        b"0" | b"false" | b"no" | b"off" => Ok(false),
        _ => Err(bad_request("bad wrap: write wrap, wrap=true or wrap=false")),
    }
}
