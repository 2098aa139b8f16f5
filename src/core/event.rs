//! Checks what a publisher sends, once: event-stream text, or a whole body to be wrapped as one event.
//!
//! The rules are those of the WHATWG HTML standard, 9.2.5 "Parsing an event stream" and 9.2.6 "Interpreting an event
//! stream". An `EventSource` dispatches the same events from the checked text as from the body that was sent.

mod parts;

use std::ops::Range;

use bytes::Bytes;
use memchr::memchr;
use smallvec::SmallVec;
use thiserror::Error;

use crate::core::event_id::has_our_form;

/// U+FEFF in UTF-8. A parser drops it at the very start of a stream and nowhere else.
pub(crate) const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Checked events of one publish, in order: at least one, each with data, UTF-8 without NUL, lines ended by
/// LF alone.
#[derive(Clone, Debug)]
pub(crate) struct Events {
    text: Bytes,
    spans: SmallVec<[TextSpan; 1]>,
}

/// One event of [`Events`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct ParsedEvent<'a> {
    /// The event's lines, comments among them, each ended by LF, without a blank line. The writer of the frame adds an
    /// `id:` line where needed, and the blank line that ends it.
    pub(crate) lines: &'a [u8],
    /// The value of the event's last `id` line, without white space around it. `None` without one, and when it is
    /// empty.
    pub(crate) id: Option<&'a str>,
}

impl<'a> ParsedEvent<'a> {
    /// Returns the publisher's own id. An id of the broker's form is not one, because such ids name places of others'
    /// events.
    pub(crate) fn own_id(&self) -> Option<&'a str> {
        self.id.filter(|id| !has_our_form(id))
    }
}

/// The limits of one publish.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EventLimits {
    /// Bytes of all events' text, line ends and blank lines included, after wrapping. 4 GiB at most.
    pub(crate) text_bytes_max: usize,
    /// Bytes of a publisher's own id, which history keeps.
    pub(crate) id_bytes_max: usize,
    /// Bytes of the event name given to [`Events::wrap`]. In event-stream text it is text like any other.
    pub(crate) name_bytes_max: usize,
    /// Events in one publish.
    pub(crate) events_max: usize,
}

impl EventLimits {
    /// Returns the limits of a server whose request bodies may hold `body_bytes_max`.
    pub(crate) fn of(body_bytes_max: usize) -> Self {
        EventLimits {
            // Wrapping may prefix every line; text that grows past this is not worth its memory.
            text_bytes_max: 2 * body_bytes_max,
            // It comes back in a header of every reconnect: an eighth of the smallest limit of a request's head.
            id_bytes_max: 128,
            name_bytes_max: 128,
            // Each event costs the history more than its bytes.
            events_max: 4096,
        }
    }
}

impl Events {
    /// Checks event-stream text: one or more events separated by blank lines.
    ///
    /// LF, CR and CRLF all end a line and become LF; a leading byte-order mark is dropped; the last event
    /// needs no blank line after it. Every other byte is kept: comments and unknown fields too. Comments that
    /// stand alone between blank lines go with the next event, or with the last one. Text with LF line ends
    /// is not copied.
    ///
    /// # Errors
    /// [`EventError`] says what is wrong, and with which event, counted from 1.
    pub(crate) fn parse(body: Bytes, limits: &EventLimits) -> Result<Events, EventError> {
        if body.is_empty() {
            return Err(EventError::Empty);
        }
        check_text(&body)?;
        let text = normalize(body);
        check_length(text.len(), limits)?;

        let mut spans = SmallVec::new();
        let mut lone_comments = false;
        for block in FieldBlocks::new(&text) {
            if !block.has_field {
                lone_comments = true;
                continue;
            }
            let event = spans.len() + 1;
            if event > limits.events_max {
                return Err(EventError::TooManyEvents { events_max: limits.events_max });
            }
            if !block.has_data {
                return Err(EventError::NoData { event });
            }
            // As the first event of a stream it would lose the mark and so mean something else.
            if text.get(block.lines.clone()).is_some_and(|lines| lines.starts_with(BYTE_ORDER_MARK)) {
                return Err(EventError::ByteOrderMark { event });
            }
            if let Some(id) = &block.id {
                check_id(text.get(id.clone()).unwrap_or_default(), event, limits)?;
            }
            spans.push(TextSpan::new(block.lines, block.id));
        }
        if spans.is_empty() {
            return Err(EventError::NoEvent);
        }
        if lone_comments {
            return Ok(Events::with_comments_joined(&text));
        }
        Ok(Events { text, spans })
    }

    /// Returns one event with the whole body as its data, every line of it a `data:` line, under the given name and id.
    ///
    /// The data that `EventSource` dispatches is exactly the body with its line ends (LF, CR, CRLF) made LF.
    /// That includes a line end at the body's end, so a caller for whom it means nothing, as in JSON, strips
    /// it first. An empty name or id counts as none.
    ///
    /// # Errors
    /// [`EventError`] says what is wrong with the body, the name or the id.
    pub(crate) fn wrap(
        body: Bytes,
        event: Option<&str>,
        id: Option<&str>,
        limits: &EventLimits,
    ) -> Result<Events, EventError> {
        check_text(&body)?;
        let name = event.unwrap_or_default().as_bytes();
        if name.len() > limits.name_bytes_max {
            return Err(EventError::NameTooLong { name_bytes_max: limits.name_bytes_max });
        }
        if !is_one_line(name) {
            return Err(EventError::NameCharacter);
        }
        let id = id.unwrap_or_default().as_bytes();
        check_id(id, 1, limits)?;

        // Room for a body of one line, which a JSON text mostly is: `event:`, `id:`, `data:`, a space and LF
        // each.
        let mut text = Vec::with_capacity(body.len() + name.len() + id.len() + 20);
        if !name.is_empty() {
            push_field(&mut text, b"event", name);
        }
        let id = (!id.is_empty()).then(|| push_field(&mut text, b"id", id));
        for line in Lines::new(&body) {
            push_field(&mut text, b"data", line);
            // In the loop: a body of line ends alone grows sixfold.
            check_length(text.len(), limits)?;
        }
        let span = TextSpan::new(0..text.len(), id);
        Ok(Events { text: Bytes::from(text), spans: SmallVec::from_buf([span]) })
    }

    /// Returns the number of events.
    pub(crate) fn len(&self) -> usize {
        self.spans.len()
    }

    /// Iterates over the events, in the order they were sent.
    pub(crate) fn iter(&self) -> impl ExactSizeIterator<Item = ParsedEvent<'_>> {
        self.spans.iter().map(|span| ParsedEvent {
            lines: self.slice(&span.lines),
            id: span.id.as_ref().and_then(|id| str::from_utf8(self.slice(id)).ok()).and_then(known_id),
        })
    }

    /// Returns the bytes of text held, for budgets.
    pub(crate) fn text_bytes(&self) -> usize {
        self.text.len()
    }

    /// Returns the memory that the events take, in bytes.
    pub(crate) fn held_bytes(&self) -> usize {
        self.text.len() + self.spans.len() * size_of::<TextSpan>()
    }

    fn slice(&self, range: &Range<u32>) -> &[u8] {
        self.text.get(range.start as usize..range.end as usize).unwrap_or_default()
    }

    /// Returns checked text in which comments stand alone, rewritten so that each event's lines are contiguous: the
    /// blank line after such comments goes, and the one before them too where no event follows.
    fn with_comments_joined(text: &[u8]) -> Events {
        let mut joined = Vec::with_capacity(text.len());
        let events = FieldBlocks::new(text).filter(|block| block.has_field).count();
        let mut ended = 0;
        for block in FieldBlocks::new(text) {
            joined.extend_from_slice(text.get(block.lines).unwrap_or_default());
            if block.has_field {
                ended += 1;
                if ended < events {
                    joined.push(b'\n');
                }
            }
        }
        let spans = FieldBlocks::new(&joined).map(|block| TextSpan::new(block.lines, block.id)).collect();
        Events { text: Bytes::from(joined), spans }
    }
}

/// The reason why a publish is refused. `Display` is the one line for the publisher; events are counted from 1.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
pub(crate) enum EventError {
    /// The body has no bytes.
    #[error("empty body: send the event as the request's body")]
    Empty,
    /// A NUL, which EventSource would not take in an id and which no text needs.
    #[error("NUL at byte {offset} of the body: remove it, or send binary data as base64")]
    Nul {
        /// Bytes before it.
        offset: usize,
    },
    /// The body is not UTF-8, the one encoding of an event stream.
    #[error("invalid UTF-8 at byte {offset} of the body: send text in UTF-8, or binary data as base64")]
    Utf8 {
        /// Bytes before the first wrong one.
        offset: usize,
    },
    /// Nothing but blank lines and comments.
    #[error("no event in the body: write at least one line `data: ...`")]
    NoEvent,
    /// A block with a field but no data, which no EventSource would dispatch.
    #[error(
        "event {event} has no data: line; write `data: ` before its text, or add ?wrap to the URL to publish the body as it is"
    )]
    NoData {
        /// Which event.
        event: usize,
    },
    /// A byte-order mark at the start of an event, as two joined files have it.
    #[error("event {event} begins with a byte-order mark (EF BB BF): remove it")]
    ByteOrderMark {
        /// Which event.
        event: usize,
    },
    /// More events than one publish may hold.
    #[error("more than {events_max} events in one publish: send them in several")]
    TooManyEvents {
        /// The limit.
        events_max: usize,
    },
    /// A publisher's own id past the limit.
    #[error("event {event} has an id longer than {id_bytes_max} bytes: shorten it")]
    IdTooLong {
        /// Which event.
        event: usize,
        /// The limit.
        id_bytes_max: usize,
    },
    /// A control character in a publisher's own id: with it a client's reconnect would be no HTTP (RFC 9110, 5.5).
    #[error(
        "event {event} has an id with U+{character:04X} in it, which no Last-Event-ID header can carry: remove it"
    )]
    IdCharacter {
        /// Which event.
        event: usize,
        /// The first such character.
        character: u8,
    },
    /// An event name to wrap with past the limit.
    #[error("the event name is longer than {name_bytes_max} bytes: shorten it")]
    NameTooLong {
        /// The limit.
        name_bytes_max: usize,
    },
    /// A line end or NUL in the event name to wrap with.
    #[error("the event name has a line end or a NUL in it: remove it")]
    NameCharacter,
    /// The text, as subscribers would get it, is past the limit.
    #[error(
        "the events are longer than {text_bytes_max} bytes of event-stream text: send less in one publish"
    )]
    TooLong {
        /// The limit.
        text_bytes_max: usize,
    },
}

/// Returns an id as it comes back in a `Last-Event-ID` header, which has no white space around it (RFC 9110, section
/// 5.5); `None` when nothing is left.
pub(crate) fn known_id(id: &str) -> Option<&str> {
    let id = id.trim_matches([' ', '\t']);
    (!id.is_empty()).then_some(id)
}

/// The places of one event's lines and its id in the text.
#[derive(Clone, Debug)]
struct TextSpan {
    lines: Range<u32>,
    id: Option<Range<u32>>,
}

impl TextSpan {
    fn new(lines: Range<usize>, id: Option<Range<usize>>) -> TextSpan {
        // `check_length` keeps a text within u32: a span is 20 bytes and not 40, inline in every publish.
        let narrow = |range: Range<usize>| range.start as u32..range.end as u32;
        TextSpan { lines: narrow(lines), id: id.map(narrow) }
    }
}

fn check_text(body: &[u8]) -> Result<(), EventError> {
    if let Some(offset) = memchr(0, body) {
        return Err(EventError::Nul { offset });
    }
    match str::from_utf8(body) {
        Ok(_) => Ok(()),
        Err(error) => Err(EventError::Utf8 { offset: error.valid_up_to() }),
    }
}

fn check_length(bytes: usize, limits: &EventLimits) -> Result<(), EventError> {
    let text_bytes_max = limits.text_bytes_max.min(u32::MAX as usize);
    if bytes > text_bytes_max { Err(EventError::TooLong { text_bytes_max }) } else { Ok(()) }
}

/// Checks an id that a client sends back in a header. A tab may stand there.
fn check_id(id: &[u8], event: usize, limits: &EventLimits) -> Result<(), EventError> {
    if id.len() > limits.id_bytes_max {
        return Err(EventError::IdTooLong { event, id_bytes_max: limits.id_bytes_max });
    }
    match id.iter().find(|byte| byte.is_ascii_control() && **byte != b'\t') {
        Some(&character) => Err(EventError::IdCharacter { event, character }),
        None => Ok(()),
    }
}

fn is_one_line(value: &[u8]) -> bool {
    memchr::memchr3(b'\n', b'\r', 0, value).is_none()
}

/// Drops a leading byte-order mark and ends every line with LF. Copies only where a CR is, or the last LF is
/// missing.
fn normalize(mut body: Bytes) -> Bytes {
    if body.starts_with(BYTE_ORDER_MARK) {
        body = body.slice(BYTE_ORDER_MARK.len()..);
    }
    if body.ends_with(b"\n") && memchr(b'\r', &body).is_none() {
        return body;
    }
    let mut text = Vec::with_capacity(body.len() + 1);
    // The empty piece after a last CRLF or CR becomes one more blank line at the end, which means nothing.
    for line in Lines::new(&body) {
        text.extend_from_slice(line);
        text.push(b'\n');
    }
    Bytes::from(text)
}

/// Appends `name:value` and LF, and returns the value's place. A parser drops one space after the colon, so a value
/// that begins with a space gets another.
fn push_field(text: &mut Vec<u8>, name: &[u8], value: &[u8]) -> Range<usize> {
    text.extend_from_slice(name);
    text.push(b':');
    if value.starts_with(b" ") {
        text.push(b' ');
    }
    let start = text.len();
    text.extend_from_slice(value);
    let end = text.len();
    text.push(b'\n');
    start..end
}

/// Returns the value of `line` if it is a field of this name: after the colon and one space, empty without a colon.
fn field_value<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    match line.strip_prefix(name)? {
        [] => Some(&[]),
        [b':', b' ', value @ ..] | [b':', value @ ..] => Some(value),
        _ => None,
    }
}

/// Iterates over the pieces of a text between line ends of any kind. As with `str::split`, a line end at the very end
/// is followed by one more, empty piece.
struct Lines<'a> {
    rest: Option<&'a [u8]>,
}

impl<'a> Lines<'a> {
    fn new(text: &'a [u8]) -> Self {
        Lines { rest: Some(text) }
    }
}

impl<'a> Iterator for Lines<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let text = self.rest?;
        let end = memchr::memchr2(b'\n', b'\r', text).unwrap_or(text.len());
        let (line, tail) = text.split_at_checked(end)?;
        self.rest = match tail {
            [] => None,
            [b'\r', b'\n', rest @ ..] | [_, rest @ ..] => Some(rest),
        };
        Some(line)
    }
}

/// Neighbouring lines without a blank one among them.
struct FieldBlock {
    /// The lines, the last one's LF included.
    lines: Range<usize>,
    /// Set when a line is not a comment.
    has_field: bool,
    has_data: bool,
    id: Option<Range<usize>>,
}

/// The blocks of a text whose every line is ended by LF.
struct FieldBlocks<'a> {
    text: &'a [u8],
    at: usize,
}

impl<'a> FieldBlocks<'a> {
    fn new(text: &'a [u8]) -> Self {
        FieldBlocks { text, at: 0 }
    }

    /// Returns the line that begins here; empty at a blank line and at the end of the text.
    fn line(&self) -> &'a [u8] {
        let rest = self.text.get(self.at..).unwrap_or_default();
        memchr(b'\n', rest).and_then(|end| rest.get(..end)).unwrap_or_default()
    }
}

impl Iterator for FieldBlocks<'_> {
    type Item = FieldBlock;

    fn next(&mut self) -> Option<FieldBlock> {
        while self.text.get(self.at) == Some(&b'\n') {
            self.at += 1;
        }
        let start = self.at;
        let mut block = FieldBlock { lines: start..start, has_field: false, has_data: false, id: None };
        loop {
            let line = self.line();
            match line.first() {
                None => break,
                Some(b':') => {}
                Some(_) => {
                    block.has_field = true;
                    if field_value(line, b"data").is_some() {
                        block.has_data = true;
                    } else if let Some(id) = field_value(line, b"id") {
                        let end = self.at + line.len();
                        block.id = (!id.is_empty()).then_some(end - id.len()..end);
                    }
                }
            }
            self.at += line.len() + 1;
        }
        block.lines.end = self.at;
        (!block.lines.is_empty()).then_some(block)
    }
}

#[cfg(test)]
mod tests;
