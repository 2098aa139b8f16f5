//! `/subscribe` and `/publish`: finds the topics and checks that the token covers them.

mod idempotency;

use std::borrow::Cow;

use smallvec::{SmallVec, smallvec};

pub(crate) use idempotency::IdempotencyKey;

use super::call::{Call, READ, WRITE, is_json};
use super::{Access, Action, bad_request};
use crate::auth::Grant;
use crate::core::event::known_id;
use crate::core::fanout::wire::Heartbeat;
use crate::core::topic::{TOPICS_PER_STREAM_MAX, Topic, TopicError};
use crate::http::{Head, Refusal, Status, target};

/// `GET /subscribe/{topic}`, `GET /subscribe?topic={topic}&topic={topic}` or `GET /events/`.
#[derive(Debug)]
pub(crate) struct Subscribe {
    /// 1 to 64 topics, none of which covers another, in the order of the request.
    pub(crate) topics: AskedTopics,
    pub(crate) last_event_id: Option<Box<str>>,
    pub(crate) heartbeat: Heartbeat,
    /// When the token expires, in Unix seconds; `u64::MAX` without a token.
    pub(crate) expires_s: u64,
    /// Whether the subscriber is the admin page.
    pub(crate) feeds_admin_page: bool,
}

/// The topics of one stream, nearly always one.
pub(crate) type AskedTopics = SmallVec<[Topic; 1]>;

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
        (b"subscribe", [] | [b""]) if target::query_has(&head.query, "topic") => {
            call.allow(&READ, || call.subscribe(topics_in_query(&head.query, access)?))
        }
        (b"subscribe", [] | [b""]) if access.names.are_paths() => {
            call.allow(&READ, || call.subscribe(smallvec![Topic::everything(access.names.hasher())]))
        }
        (b"subscribe", path) if is_topic(path, access) => {
            call.allow(&READ, || call.subscribe(smallvec![topic_in_path(head, path, access)?]))
        }
        (b"publish", path) if is_topic(path, access) && call.is_inside() => {
            call.allow(&WRITE, || call.publish(path))
        }
        _ => return None,
    })
}

pub(super) fn paths(call: &Call<'_>, paths: &mut Vec<Cow<'static, str>>) {
    paths.extend(["GET /subscribe/{topic}".into(), "GET /subscribe?topic={topic}".into()]);
    if call.is_inside() {
        paths.push("POST /publish/{topic}".into());
    }
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
    /// Returns the subscription to these topics, or 401 or 403 when the token does not cover them.
    fn subscribe(&self, topics: AskedTopics) -> Result<Action, Refusal> {
        let mut expires_s = u64::MAX;
        if let Some(keys) = self.keyring.subscriber.as_ref().filter(|_| !self.is_operator) {
            // Here a cookie may carry the token, because CORS guards reading. For publishing it may not: any page that
            // the user visits could publish in the user's name.
            let grant = self.verify(keys, Some(&self.access.cookie_name))?;
            topics.iter().try_for_each(|topic| check_covered(&grant, topic))?;
            expires_s = grant.expires_s;
        }
        Ok(Action::Subscribe(Subscribe {
            topics,
            last_event_id: last_event_id(self.head),
            heartbeat: heartbeat(self.head)?,
            expires_s,
            feeds_admin_page: false,
        }))
    }

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
        grant.iter().try_for_each(|grant| check_covered(grant, &topic))?;
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

/// Returns the id of `Last-Event-ID`, or of the query, for clients that cannot set the header.
///
/// No text is refused: an EventSource would give up for ever, and its page never learn of the gap.
pub(super) fn last_event_id(head: &Head) -> Option<Box<str>> {
    let id = match &head.last_event_id {
        Some(id) => Cow::Borrowed(&id[..]),
        None => target::query_bytes(&head.query, "lastEventId")?,
    };
    // EventSource sends UTF-8. A script that sets the header can send only Latin-1 (Fetch standard, ByteString).
    let text = match str::from_utf8(&id) {
        Ok(text) => Cow::Borrowed(text),
        Err(_) => id.iter().copied().map(char::from).collect(),
    };
    known_id(&text).map(Box::from)
}

/// Returns what the stream gets when it is quiet, by `?heartbeat=`.
///
/// # Errors
/// 400 for a value that is not known, because a page that asked for more would wait for it in vain.
pub(super) fn heartbeat(head: &Head) -> Result<Heartbeat, Refusal> {
    match target::query_bytes(&head.query, "heartbeat").as_deref() {
        None | Some(b"comment") => Ok(Heartbeat::Comment),
        Some(b"event") => Ok(Heartbeat::Event),
        Some(_) => Err(bad_request("bad heartbeat: write heartbeat=comment or heartbeat=event")),
    }
}

/// Returns the one topic that a subscription's path names; 400 when the query names topics too, because only one of the
/// two can be meant.
fn topic_in_path(head: &Head, path: &[&[u8]], access: &Access) -> Result<Topic, Refusal> {
    if target::query_has(&head.query, "topic") {
        let reason = "topics in the path and in the query: name them all as /subscribe?topic=...&topic=...";
        return Err(bad_request(reason));
    }
    parse_path(path, access)
}

/// Returns the topics of a query, without duplicates and those that another one covers.
fn topics_in_query(query: &[u8], access: &Access) -> Result<AskedTopics, Refusal> {
    let mut topics = AskedTopics::new();
    for (index, value) in target::query_values(query, "topic").enumerate() {
        if index == TOPICS_PER_STREAM_MAX {
            let reason = format!(
                "too many topics: ask for at most {TOPICS_PER_STREAM_MAX} on one connection, \
                 and for the others on another"
            );
            return Err(bad_request(reason));
        }
        let topic = access.names.parse(&value?).map_err(refuse_topic)?;
        if !topics.iter().any(|other| other.covers(&topic)) {
            topics.retain(|other| !topic.covers(other));
            topics.push(topic);
        }
    }
    Ok(topics)
}

fn parse_path(path: &[&[u8]], access: &Access) -> Result<Topic, Refusal> {
    let segments: SmallVec<[Cow<'_, [u8]>; 8]> =
        path.iter().map(|segment| target::decode(segment)).collect::<Result<_, _>>()?;
    access.names.parse_segments(&segments).map_err(refuse_topic)
}

fn refuse_topic(error: TopicError) -> Refusal {
    bad_request(error.to_string())
}

fn check_covered(grant: &Grant, topic: &Topic) -> Result<(), Refusal> {
    if grant.covers(topic) {
        return Ok(());
    }
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
