//! A subscription: its topics and options, from the path, the query or the body.

use std::borrow::Cow;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;
use smallvec::{SmallVec, smallvec};

use super::{parse_path, refuse_topic};
use crate::auth::Grant;
use crate::core::event::known_id;
use crate::core::event_id::without_topic;
use crate::core::fanout::wire::Heartbeat;
use crate::core::topic::{TOPICS_PER_STREAM_MAX, Topic};
use crate::dialects::call::Call;
use crate::dialects::form::{Form, bad_json};
use crate::dialects::{Access, Action, bad_request};
use crate::http::{Head, Method, Refusal, target};

/// `GET /subscribe/{topic}`, `GET /subscribe?topic={topic}&topic={topic}`, the same by a body, or `GET /events/`.
#[derive(Debug)]
pub(crate) struct Subscribe {
    /// 1 to 64 topics, none of which covers another, in the order of the request.
    pub(crate) topics: AskedTopics,
    pub(crate) options: SubscribeOptions,
    /// When the token expires, in Unix seconds; `u64::MAX` without a token.
    pub(crate) expires_s: u64,
    /// Whether the subscriber is the admin page.
    pub(crate) feeds_admin_page: bool,
}

/// The topics of one stream, nearly always one.
pub(crate) type AskedTopics = SmallVec<[Topic; 1]>;

/// What a subscriber may ask for beside its topics.
#[derive(Debug, Default)]
pub(crate) struct SubscribeOptions {
    /// The id to resume after.
    pub(crate) last_event_id: Option<Box<str>>,
    pub(crate) heartbeat: Heartbeat,
    /// Whether the stream begins with the id of its place.
    pub(crate) place: bool,
    /// Whether each event says which topic it was published to.
    pub(crate) names_topics: bool,
}

impl SubscribeOptions {
    /// Returns the options in a request's query and head.
    ///
    /// # Errors
    /// 400 for a value that is not known, because a page that asked for more would wait for it in vain.
    pub(crate) fn of(head: &Head) -> Result<Self, Refusal> {
        SubscribeOptions::read(&head.query, head.last_event_id.as_deref())
    }

    /// Returns the options in a query or form; `resumed` is the header `Last-Event-ID`, which counts more.
    fn read(form: &[u8], resumed: Option<&[u8]>) -> Result<Self, Refusal> {
        Ok(SubscribeOptions {
            last_event_id: id_in(form, resumed),
            heartbeat: match target::query_bytes(form, "heartbeat").as_deref() {
                None | Some(b"comment") => Heartbeat::Comment,
                Some(b"event") => Heartbeat::Event,
                Some(_) => {
                    return Err(bad_request("bad heartbeat: write heartbeat=comment or heartbeat=event"));
                }
            },
            place: match target::query_bytes(form, "place").as_deref() {
                None | Some(b"0") => false,
                Some(b"1") => true,
                Some(_) => return Err(bad_request("bad place: write place=1 or place=0")),
            },
            names_topics: match target::query_bytes(form, "with").as_deref() {
                None => false,
                Some(b"topic") => true,
                Some(_) => return Err(bad_request("bad with: write with=topic, or leave it out")),
            },
        })
    }
}

/// Returns the id that a request resumes after.
pub(crate) fn last_event_id(head: &Head) -> Option<Box<str>> {
    id_in(&head.query, head.last_event_id.as_deref())
}

/// Returns the id to resume after: that of `Last-Event-ID`, or of the query or form, for clients that cannot set the header.
///
/// No text is refused: an EventSource would give up for ever, and its page never learn of the gap.
fn id_in(form: &[u8], resumed: Option<&[u8]>) -> Option<Box<str>> {
    let id = match resumed {
        Some(id) => Cow::Borrowed(id),
        None => target::query_bytes(form, "lastEventId")?,
    };
    // EventSource sends UTF-8. A script that sets the header can send only Latin-1 (Fetch standard, ByteString).
    let text = match str::from_utf8(&id) {
        Ok(text) => Cow::Borrowed(text),
        Err(_) => id.iter().copied().map(char::from).collect(),
    };
    known_id(&text).map(|id| without_topic(id).into())
}

/// A subscription by POST or QUERY, whose body is still to come.
#[derive(Debug)]
pub(crate) struct BodySubscription {
    form: Form,
    /// What the token grants; `None` where none is needed.
    grant: Option<Grant>,
    /// The header `Last-Event-ID`.
    resumed: Option<Box<[u8]>>,
}

/// The names of fields that a body may have.
const NAMES: [&str; 5] = ["topic", "lastEventId", "heartbeat", "place", "with"];

impl BodySubscription {
    /// Returns the memory that it takes beside itself, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.grant.as_ref().map_or(0, Grant::bytes) + self.resumed.as_ref().map_or(0, |id| id.len())
    }

    /// Reads the body, a form or a JSON object with the fields of the query.
    ///
    /// # Errors
    /// 400 that names the field and the remedy; 403 for a topic that the token does not cover.
    pub(crate) fn read(self, body: &[u8], access: &Access) -> Result<Subscribe, Refusal> {
        let BodySubscription { form, grant, resumed } = self;
        let form = match form {
            Form::UrlEncoded => Cow::Borrowed(body),
            Form::Json => Cow::Owned(form_of_json(body)?.into_bytes()),
        };
        for pair in target::form_pairs(&form).filter(|_| !form.is_empty()) {
            let (name, _) = pair?;
            if !NAMES.iter().any(|known| known.as_bytes() == &*name) {
                return Err(bad_request(format!(
                    "unknown field in the body: it may have {}",
                    NAMES.join(", ")
                )));
            }
        }
        let topics = match topics_in_query(&form, access)? {
            topics if !topics.is_empty() => topics,
            _ if access.names.are_paths() => smallvec![Topic::everything(access.names.hasher())],
            _ => return Err(bad_request("no topic: name 1 to 64 in the body, as topic=...&topic=...")),
        };
        subscribe(topics, SubscribeOptions::read(&form, resumed.as_deref())?, grant.as_ref())
    }
}

/// Returns the form that says the same as a JSON object, whose members are strings, numbers, or lists of them.
///
/// # Errors
/// 400 for anything else.
fn form_of_json(body: &[u8]) -> Result<String, Refusal> {
    let object: serde_json::Map<String, Value> =
        serde_json::from_slice(body).map_err(|error| bad_json(&error))?;
    let mut form = String::new();
    for (name, value) in &object {
        for value in value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice) {
            let text = match value {
                Value::String(text) => Cow::Borrowed(&**text),
                Value::Number(number) => number.to_string().into(),
                _ => {
                    return Err(bad_request(
                        "a field of the body is no text: write strings, or lists of them",
                    ));
                }
            };
            form.extend([if form.is_empty() { "" } else { "&" }]);
            form.extend(utf8_percent_encode(name, NON_ALPHANUMERIC));
            form.push('=');
            form.extend(utf8_percent_encode(&text, NON_ALPHANUMERIC));
        }
    }
    Ok(form)
}

/// Returns the subscription to these topics; 403 when the token does not cover them.
fn subscribe(
    topics: AskedTopics,
    options: SubscribeOptions,
    grant: Option<&Grant>,
) -> Result<Subscribe, Refusal> {
    if let Some(grant) = grant {
        topics.iter().try_for_each(|topic| super::check_covered(grant, topic))?;
    }
    let expires_s = grant.map_or(u64::MAX, |grant| grant.expires_s);
    Ok(Subscribe { topics, options, expires_s, feeds_admin_page: false })
}

impl Call<'_> {
    /// Returns the subscription to these topics, or 401 or 403 when the token does not cover them.
    pub(super) fn subscribe(&self, topics: AskedTopics) -> Result<Action, Refusal> {
        let grant = self.subscribers_grant()?;
        subscribe(topics, SubscribeOptions::of(self.head)?, grant.as_ref()).map(Action::Subscribe)
    }

    /// Returns the subscription to the topics in the query, or in the body of a POST or QUERY; to everything without any.
    pub(super) fn subscribe_to_several(&self) -> Result<Action, Refusal> {
        let Call { head, access, .. } = self;
        let is_by_body = matches!(head.method, Method::Post | Method::Query);
        match target::query_has(&head.query, "topic") {
            true if is_by_body => Err(bad_request("topics in the query: name them all in the body")),
            true => self.subscribe(topics_in_query(&head.query, access)?),
            false if is_by_body => {
                let grant = self.subscribers_grant()?;
                self.check_encoding()?;
                let form = Form::of(head.content_type.as_deref())?;
                let resumed = head.last_event_id.as_deref().map(Box::from);
                Ok(Action::SubscribeByBody(BodySubscription { form, grant, resumed }))
            }
            false => self.subscribe(smallvec![Topic::everything(access.names.hasher())]),
        }
    }

    /// Returns what the subscriber's token grants; `None` where none is needed.
    fn subscribers_grant(&self) -> Result<Option<Grant>, Refusal> {
        let keys = self.keyring.subscriber.as_ref().filter(|_| !self.is_operator);
        // Here a cookie may carry the token, because CORS guards reading. For publishing it may not: any page that the user
        // visits could publish in the user's name.
        keys.map(|keys| self.verify(keys, Some(&self.access.cookie_name))).transpose()
    }
}

/// Returns the one topic that a subscription's path names; 400 when the query names topics too, because only one of the
/// two can be meant.
pub(super) fn topic_in_path(head: &Head, path: &[&[u8]], access: &Access) -> Result<Topic, Refusal> {
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
