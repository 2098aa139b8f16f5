//! A subscription: its topics and options, from the path, the query or the body.

use std::borrow::Cow;
use std::fmt;
use std::time::Instant;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;
use smallvec::{SmallVec, smallvec};

use super::renew::renewable;
use super::{check_covered, parse_path, refuse_topic};
use crate::auth::{Grant, StreamTicket};
use crate::core::event::{BYTE_ORDER_MARK, known_id};
use crate::core::event_id::{CODE_SEPARATOR, has_our_form, without_suffix};
use crate::core::fanout::wire::Heartbeat;
use crate::core::fanout::{StreamExtras, StreamTerms};
use crate::core::topic::{TOPICS_PER_STREAM_MAX, Topic};
use crate::dialects::call::Call;
use crate::dialects::form::{Form, members};
use crate::dialects::{Access, Action, SUBSCRIPTION_BODY, bad_request, refuse_token};
use crate::http::{Head, Method, Refusal, Status, target};

/// `GET /subscribe/{topic}`, `GET /subscribe?topic={topic}&topic={topic}`, the same by a body, or `GET /events/`.
/// `Debug` shows no id, which may have a code that admits whoever knows it and the ticket.
pub(crate) struct Subscribe {
    /// What it asks for, with 1 to 64 topics.
    pub(crate) terms: StreamTerms,
    /// Whether the stream begins with the id of its place.
    pub(crate) tells_place: bool,
    /// The id that it resumes after, as the client sent it, where the client asked to be told its place.
    pub(crate) echoed_id: Option<Box<str>>,
    /// Whether the subscriber is the admin page.
    pub(crate) feeds_admin_page: bool,
}

impl fmt::Debug for Subscribe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscribe").field("terms", &self.terms).finish_non_exhaustive()
    }
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
    /// The id to resume after as it was sent, with the code and the topic that may follow it; `None` for one that is no line.
    echoed_id: Option<Box<str>>,
    /// Whether each event says which topic it was published to.
    pub(crate) names_topics: bool,
    /// By which the client will name the stream when it renews it.
    pub(crate) handle: Option<Box<str>>,
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
        let sent = id_in(form, resumed);
        Ok(SubscribeOptions {
            last_event_id: sent.as_deref().map(|id| without_suffix(id).into()),
            echoed_id: sent.filter(|id| !id.contains(char::is_control)),
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
            handle: match target::query_bytes(form, "handle").as_deref() {
                None => None,
                Some(handle) => Some(checked_handle(handle).ok_or_else(|| {
                    bad_request("bad handle: draw 16 to 64 letters, digits, '-' or '_' at random")
                })?),
            },
        })
    }

    /// Returns the subscription to these topics until `expires_s`.
    pub(crate) fn subscribe(self, topics: AskedTopics, expires_s: u64, extras: StreamExtras) -> Subscribe {
        let SubscribeOptions { last_event_id, echoed_id, heartbeat, place, names_topics, handle: _ } = self;
        let has_extras =
            heartbeat != Heartbeat::Comment || extras.code.is_some() || extras.renewable.is_some();
        let extras = has_extras.then(|| Box::new(StreamExtras { heartbeat, ..extras }));
        let tells_place = place && last_event_id.is_none();
        let echoed_id = echoed_id.filter(|_| place);
        let terms = StreamTerms { topics, last_event_id, names_topics, expires_s, extras };
        Subscribe { terms, tells_place, echoed_id, feeds_admin_page: false }
    }
}

/// Returns the handle; `None` for a text that is none.
fn checked_handle(text: &[u8]) -> Option<Box<str>> {
    let is_of_handles = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_".contains(byte);
    let handle = str::from_utf8(text).ok().filter(|handle| (16..=64).contains(&handle.len()))?;
    text.iter().all(is_of_handles).then(|| handle.into())
}

/// Says who a subscriber is.
#[derive(Debug)]
enum Credential {
    /// None, where none is needed.
    None,
    Token(Grant),
    Ticket(StreamTicket),
}

impl Credential {
    fn grant(&self) -> Option<&Grant> {
        match self {
            Credential::None => None,
            Credential::Token(grant) | Credential::Ticket(StreamTicket { grant, .. }) => Some(grant),
        }
    }
}

/// Returns the id that a request resumes after.
pub(crate) fn last_event_id(head: &Head) -> Option<Box<str>> {
    id_in(&head.query, head.last_event_id.as_deref()).map(|id| without_suffix(&id).into())
}

/// Returns the id to resume after: that of `Last-Event-ID`, or of the query or form, for clients that cannot set the header.
///
/// No text is refused: an EventSource would give up for ever, and its page never learn of the gap.
fn id_in(form: &[u8], resumed: Option<&[u8]>) -> Option<Box<str>> {
    let id = raw_id(form, resumed)?;
    // EventSource sends UTF-8. A script that sets the header can send only Latin-1 (Fetch standard, ByteString).
    let text = match str::from_utf8(&id) {
        Ok(text) => Cow::Borrowed(text),
        Err(_) => id.iter().copied().map(char::from).collect(),
    };
    known_id(&text).map(|id| match id.len() {
        // The form is that of no id, so that it stays unknown.
        ID_BYTES_MAX.. => id.chars().take(ID_SHOWN_CHARS).chain(['\u{2026}']).collect::<String>().into(),
        _ => id.into(),
    })
}

/// Returns the id to resume after as it was sent: that of the header, else of the query or form.
fn raw_id<'r>(form: &'r [u8], resumed: Option<&'r [u8]>) -> Option<Cow<'r, [u8]>> {
    resumed.map(Cow::Borrowed).or_else(|| target::query_bytes(form, "lastEventId"))
}

/// The longest id that is looked up, in bytes: a position in all partitions, with a code and a topic, has fewer.
const ID_BYTES_MAX: usize = 3 << 10;
/// The characters of a longer one that are told with the gap; more than a publisher's own id may have.
const ID_SHOWN_CHARS: usize = 200;
/// The longest body of a subscription, in bytes: 64 of the longest topics, all of it percent-encoded, take fewer than half.
const BODY_BYTES_MAX: usize = 256 << 10;
/// The most fields of a subscription's body: 64 topics, and each other one once.
const FIELDS_MAX: usize = TOPICS_PER_STREAM_MAX + NAMES.len() - 1;

/// A subscription by POST or QUERY, whose body is still to come.
#[derive(Debug)]
pub(crate) struct BodySubscription {
    form: Form,
    credential: Credential,
    /// The header `Last-Event-ID`.
    resumed: Option<Box<[u8]>>,
}

/// The names of fields that a body may have.
const NAMES: [&str; 6] = ["topic", "lastEventId", "heartbeat", "place", "with", "handle"];

impl BodySubscription {
    /// Returns the memory that it takes beside itself, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.credential.grant().map_or(0, Grant::bytes) + self.resumed.as_ref().map_or(0, |id| id.len())
    }

    /// Reads the body, a form or a JSON object with the fields of the query.
    ///
    /// # Errors
    /// 400 that names the field and the remedy; 401 for a ticket that admits no more; 403 for a topic that the token does
    /// not cover.
    pub(crate) fn read(self, body: &[u8], access: &Access, now_s: fn() -> u64) -> Result<Subscribe, Refusal> {
        let BodySubscription { form, credential, resumed } = self;
        if body.len() > BODY_BYTES_MAX {
            let reason = format!("too many topics: a subscription's body has at most {BODY_BYTES_MAX} bytes");
            return Err(Refusal::new(Status::ContentTooLarge, reason));
        }
        let form = match form {
            Form::UrlEncoded => Cow::Borrowed(body),
            Form::Json => Cow::Owned(form_of_json(body)?.into_bytes()),
        };
        check_names(&form)?;
        let topics = match topics_in_query(&form, access)? {
            topics if !topics.is_empty() => topics,
            _ if access.names.are_paths() => smallvec![Topic::everything(access.names.hasher())],
            _ => return Err(bad_request("no topic: name 1 to 64 in the body, as topic=...&topic=...")),
        };
        let options = SubscribeOptions::read(&form, resumed.as_deref())?;
        let resumed = raw_id(&form, resumed.as_deref());
        admit(access, topics, options, credential, resumed.as_deref(), now_s)
    }
}

/// Checks that a form has known fields alone, each once but for the topics.
///
/// # Errors
/// 400 that names the field.
fn check_names(form: &[u8]) -> Result<(), Refusal> {
    let mut seen = [false; NAMES.len()];
    for (index, pair) in target::form_pairs(form).filter(|_| !form.is_empty()).enumerate() {
        let (name, _) = pair?;
        let known = NAMES.iter().position(|known| known.as_bytes() == &*name);
        let Some(known) = known else {
            return Err(bad_request(format!("unknown field in the body: it may have {}", NAMES.join(", "))));
        };
        if index >= FIELDS_MAX {
            return Err(too_many_topics());
        }
        if std::mem::replace(&mut seen[known], true) && NAMES[known] != "topic" {
            return Err(bad_request(format!("{} is there twice: send it once", NAMES[known])));
        }
    }
    Ok(())
}

/// Returns the form that says the same as a JSON object, whose members are strings, numbers, or lists of them.
///
/// # Errors
/// 400 for anything else.
fn form_of_json(body: &[u8]) -> Result<String, Refusal> {
    let body = body.strip_prefix(BYTE_ORDER_MARK).unwrap_or(body);
    let mut form = String::new();
    // The body's limit bounds them.
    for (name, value) in &members::<Value>(body, usize::MAX)? {
        let values = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
        if values.is_empty() {
            return Err(bad_request("a field of the body is an empty list: leave it out"));
        }
        for value in values {
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

/// Returns the subscription of this credential to these topics. `resumed` is the id that it showed, if any.
///
/// # Errors
/// 403 when the token does not cover the topics, 401 when the ticket admits no more.
fn admit(
    access: &Access,
    topics: AskedTopics,
    mut options: SubscribeOptions,
    credential: Credential,
    resumed: Option<&[u8]>,
    now_s: fn() -> u64,
) -> Result<Subscribe, Refusal> {
    let Some(grant) = credential.grant() else {
        return Ok(options.subscribe(topics, u64::MAX, StreamExtras::default()));
    };
    check_covered(grant, &topics)?;
    if options.handle.is_some() && grant.subject().is_empty() {
        return Err(bad_request(
            "a handle is for tokens with a sub, which says whose stream it is: leave it out",
        ));
    }
    let mut extras = StreamExtras::default();
    if let Credential::Ticket(ticket) = &credential {
        let times = (Instant::now(), now_s(), access.leeway_s);
        access.used_tickets.admit(ticket, resumed, times).map_err(refuse_token)?;
        extras.code = Some(ticket.code().into());
        // Without an id a client that is cut before its first event could not come back, nor with that of another ticket.
        options.place = true;
        let id = options.last_event_id.as_deref().filter(|id| has_our_form(id));
        options.echoed_id =
            id.map(|id| format!("{id}{}{}", char::from(CODE_SEPARATOR), ticket.code()).into());
    }
    // Last, so that a request which opens nothing takes no handle from a stream.
    extras.renewable = options.handle.as_deref().map(|handle| renewable(access, handle, grant, &topics));
    Ok(options.subscribe(topics, grant.expires_s, extras))
}

impl Call<'_> {
    /// Returns the subscription to these topics, or 401 or 403 when the token does not cover them.
    pub(super) fn subscribe(&self, topics: AskedTopics) -> Result<Action, Refusal> {
        let Call { head, access, now_s, .. } = self;
        let options = SubscribeOptions::of(head)?;
        let credential = match self.subscribers_credential() {
            Ok(credential) => credential,
            Err(refusal) => return self.refuse_stream(refusal),
        };
        // Nothing is opened by these, and so no ticket is used and no handle taken.
        if head.has_body() {
            return Err(bad_request(SUBSCRIPTION_BODY));
        }
        if head.method == Method::Head {
            credential.grant().map_or(Ok(()), |grant| check_covered(grant, &topics))?;
            return Ok(Action::Subscribe(options.subscribe(topics, u64::MAX, StreamExtras::default())));
        }
        let resumed = raw_id(&head.query, head.last_event_id.as_deref());
        admit(access, topics, options, credential, resumed.as_deref(), *now_s).map(Action::Subscribe)
    }

    /// Returns the subscription to the topics in the query, or in the body of a POST or QUERY; to everything without any.
    pub(super) fn subscribe_to_several(&self) -> Result<Action, Refusal> {
        let Call { head, access, .. } = self;
        let is_by_body = matches!(head.method, Method::Post | Method::Query);
        if is_by_body && let Some(name) = NAMES.iter().find(|name| target::query_has(&head.query, name)) {
            return Err(bad_request(format!("{name} in the query: write it into the body")));
        }
        match target::query_has(&head.query, "topic") {
            true => self.subscribe(topics_in_query(&head.query, access)?),
            false if is_by_body => {
                let credential = self.subscribers_credential()?;
                self.check_encoding()?;
                let form = Form::of(head.content_type.as_deref())?;
                let resumed = head.last_event_id.as_deref().map(Box::from);
                Ok(Action::SubscribeByBody(BodySubscription { form, credential, resumed }))
            }
            false => self.subscribe(smallvec![Topic::everything(access.names.hasher())]),
        }
    }

    /// Returns what the subscriber showed: a ticket, or a token.
    fn subscribers_credential(&self) -> Result<Credential, Refusal> {
        let Some(keys) = self.keyring.subscriber.as_ref().filter(|_| !self.is_operator) else {
            return Ok(Credential::None);
        };
        if let Some(ticket) = target::query_value(&self.head.query, "ticket")?.filter(|text| !text.is_empty())
        {
            let ticket = self.keyring.verify_ticket(&ticket, (self.now_s)());
            return ticket.map(Credential::Ticket).map_err(refuse_token);
        }
        // Here a cookie may carry the token, because CORS guards reading. For publishing it may not: any page that the user
        // visits could publish in the user's name.
        self.verify(keys, Some(&self.access.cookie_name)).map(Credential::Token)
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

fn too_many_topics() -> Refusal {
    bad_request(format!(
        "too many topics: ask for at most {TOPICS_PER_STREAM_MAX} on one connection, and for the others on another"
    ))
}

/// Returns the topics of a query, without duplicates and those that another one covers.
pub(super) fn topics_in_query(query: &[u8], access: &Access) -> Result<AskedTopics, Refusal> {
    let mut topics = AskedTopics::new();
    for (index, value) in target::query_values(query, "topic").enumerate() {
        if index == TOPICS_PER_STREAM_MAX {
            return Err(too_many_topics());
        }
        let topic = access.names.parse(&value?).map_err(refuse_topic)?;
        if !topics.iter().any(|other| other.covers(&topic)) {
            topics.retain(|other| !topic.covers(other));
            topics.push(topic);
        }
    }
    Ok(topics)
}
