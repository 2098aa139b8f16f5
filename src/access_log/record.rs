//! The facts of a request, and its line in the access log.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use serde::Serialize;

use super::AccessLog;
use crate::core::session::Session;
use crate::core::survey::ClientAddress;
use crate::core::topic::Topic;

/// Bytes that are kept of a path, and of the value of a header.
const PATH_BYTES_MAX: usize = 1024;
const VALUE_BYTES_MAX: usize = 256;
/// Topics of a stream that are named, and the bytes of each name.
const TOPICS_NAMED_MAX: usize = 8;
const TOPIC_BYTES_MAX: usize = 128;

/// Says who asked for what: the fields that the lines of a request and of its stream share.
#[derive(Debug, Serialize)]
pub(crate) struct RequestFacts {
    client: ClientAddress,
    #[serde(skip_serializing_if = "Option::is_none")]
    method: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<Box<str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kind: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    origin: Option<Box<str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_agent: Option<Box<str>>,
    #[serde(flatten)]
    stream: Option<Box<SubscriptionFacts>>,
}

/// Says what a stream takes.
#[derive(Debug, Serialize)]
struct SubscriptionFacts {
    /// The first of its topics.
    topics: Vec<Box<str>>,
    topic_count: usize,
    /// Set if the client came with an id to resume after.
    resumed: bool,
}

impl RequestFacts {
    /// Returns those of a client of whose request nothing could be read.
    pub(crate) fn unread(client: ClientAddress) -> Self {
        RequestFacts {
            client,
            method: None,
            path: None,
            kind: None,
            origin: None,
            user_agent: None,
            stream: None,
        }
    }

    /// Returns those of a request that was read. Of long values the beginning is kept.
    pub(crate) fn new(
        client: ClientAddress,
        method: &'static str,
        path: &[u8],
        kind: Option<&'static str>,
        [origin, user_agent]: [Option<&[u8]>; 2],
    ) -> Self {
        let value = |value: Option<&[u8]>| value.map(|value| beginning(value, VALUE_BYTES_MAX));
        RequestFacts {
            method: Some(method),
            path: Some(beginning(before_query(path), PATH_BYTES_MAX)),
            kind,
            origin: value(origin),
            user_agent: value(user_agent),
            ..RequestFacts::unread(client)
        }
    }
}

/// A request of which the access log may have a line. It is written once: when the answer was sent, or when this is
/// dropped because the connection ended before.
#[derive(Debug)]
pub(crate) struct RequestRecord {
    log: Arc<AccessLog>,
    facts: RequestFacts,
    since: Instant,
    is_drawn: bool,
    is_written: bool,
    /// `None` while no answer was sent.
    status: Option<u16>,
    is_refused: bool,
    bytes: usize,
}

#[derive(Serialize)]
struct RequestLine<'r> {
    time: String,
    event: &'static str,
    #[serde(flatten)]
    facts: &'r RequestFacts,
    /// `null` when the connection ended before the answer was sent.
    status: Option<u16>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    refused: bool,
    bytes: usize,
    duration_ms: f64,
}

#[derive(Serialize)]
struct StreamLine<'r> {
    time: String,
    event: &'static str,
    #[serde(flatten)]
    facts: &'r RequestFacts,
    reason: &'static str,
    events: u64,
    bytes: u64,
    duration_ms: f64,
}

impl RequestRecord {
    /// Returns the record of a request that came at `since`.
    pub(crate) fn new(log: &Arc<AccessLog>, facts: RequestFacts, since: Instant) -> Box<Self> {
        Box::new(RequestRecord {
            log: Arc::clone(log),
            facts,
            since,
            is_drawn: log.draws(),
            is_written: false,
            status: None,
            is_refused: false,
            bytes: 0,
        })
    }

    /// Notes the topics of a stream, and whether it is to resume after an id.
    pub(crate) fn takes(&mut self, topics: &[Topic], resumed: bool) {
        let named = topics.iter().take(TOPICS_NAMED_MAX);
        let topics_named = named.map(|topic| beginning(shown(topic).as_bytes(), TOPIC_BYTES_MAX)).collect();
        let stream = SubscriptionFacts { topics: topics_named, topic_count: topics.len(), resumed };
        self.facts.stream = Some(Box::new(stream));
    }

    /// Notes the status and the size of the answer.
    pub(crate) fn answered(&mut self, status: u16, bytes: usize) {
        (self.status, self.bytes, self.is_refused) = (Some(status), bytes, status >= 400);
    }

    /// Notes the answer of a stream that is refused, whatever its status.
    pub(crate) fn refused(&mut self, status: u16, bytes: usize) {
        self.answered(status, bytes);
        self.is_refused = true;
    }

    /// Notes that the answer did not reach the client.
    pub(crate) fn unsent(&mut self) {
        self.status = None;
    }

    /// Returns whether the request was drawn to have a line although nothing is wrong with it.
    pub(super) fn is_drawn(&self) -> bool {
        self.is_drawn
    }

    /// Returns the memory that it takes, in bytes.
    pub(crate) fn held_bytes(&self) -> usize {
        let RequestFacts { path, origin, user_agent, .. } = &self.facts;
        let texts = [path, origin, user_agent].into_iter().flatten();
        size_of::<Self>() + texts.map(|text| text.len()).sum::<usize>()
    }

    /// Writes the line of the request, if it has one and it is not written yet.
    pub(super) fn write(&mut self) {
        let is_due = self.is_drawn || self.is_refused || self.status.is_none();
        if std::mem::replace(&mut self.is_written, true) || !is_due {
            return;
        }
        self.log.add(&RequestLine {
            time: now(),
            event: "request",
            facts: &self.facts,
            status: self.status,
            refused: self.is_refused,
            bytes: self.bytes,
            duration_ms: self.elapsed_ms(),
        });
    }

    /// Writes the line of its stream's end.
    pub(super) fn write_end(&self, reason: &'static str, events: u64, bytes: u64) {
        let (event, facts, duration_ms) = ("stream_end", &self.facts, self.elapsed_ms());
        self.log.add(&StreamLine { time: now(), event, facts, reason, events, bytes, duration_ms });
    }

    /// Returns the time since the request came, in milliseconds to three places.
    fn elapsed_ms(&self) -> f64 {
        self.since.elapsed().as_micros() as f64 / 1e3
    }
}

impl Drop for RequestRecord {
    fn drop(&mut self) {
        self.write();
    }
}

fn now() -> String {
    humantime::format_rfc3339_millis(SystemTime::now()).to_string()
}

/// Returns the name of a topic as the admin page shows it: a session's is its channel and its user.
fn shown(topic: &Topic) -> Cow<'_, str> {
    match Session::of_topic(topic) {
        Some(session) => session.shown().into(),
        None if topic.is_everything() => "*".into(),
        None => topic.name().into(),
    }
}

/// Returns a path without what a client that encoded its whole URL made of its query, in which a token may be. No path that
/// there is has a question mark.
fn before_query(path: &[u8]) -> &[u8] {
    let end = path.windows(3).position(|bytes| bytes.eq_ignore_ascii_case(b"%3f"));
    &path[..end.unwrap_or(path.len())]
}

/// Returns the text's first bytes; a longer one ends with `…`. The control characters that JSON leaves as
/// they are, from U+007F on, are replaced: a terminal obeys them.
fn beginning(text: &[u8], bytes_max: usize) -> Box<str> {
    let start = String::from_utf8_lossy(&text[..text.len().min(bytes_max)]);
    let mut shown = start.replace(|c: char| c.is_control() && c >= '\u{7f}', "\u{fffd}");
    if text.len() > bytes_max {
        // The cut may be within a character.
        shown.truncate(shown.trim_end_matches(char::REPLACEMENT_CHARACTER).len());
        shown.push('\u{2026}');
    }
    shown.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_long_text_the_beginning_is_kept_whole_characters_alone() {
        for (text, shown) in [("four", "four"), ("fiver", "five\u{2026}"), ("abc\u{e9}f", "abc\u{2026}")] {
            assert_eq!(&*beginning(text.as_bytes(), 4), shown);
        }
        assert_eq!(&*beginning(b"a\xffb", 4), "a\u{fffd}b");
        assert_eq!(&*beginning("a\u{9b}31m\x7f\t".as_bytes(), 9), "a\u{fffd}31m\u{fffd}\t");
    }

    #[test]
    fn an_encoded_query_is_no_part_of_a_path() {
        for (path, shown) in
            [("/a%3Ftoken=x", "/a"), ("/a%3ftoken=x%3f", "/a"), ("/a%2Fb", "/a%2Fb"), ("/%3", "/%3")]
        {
            assert_eq!(before_query(path.as_bytes()), shown.as_bytes());
        }
    }
}
