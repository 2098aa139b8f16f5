//! A message's name, its id on the wire, and its event-stream text. It does no I/O.

use std::fmt;
use std::io::Write as _;
use std::rc::Rc;

use memchr::{memchr2, memchr3};
use sha2::{Digest, Sha256};

/// The longest own id of a publisher, in bytes, as for events published to topics.
const OWN_BYTES_MAX: usize = 128;

/// A message's id without its occurrence: the same on every node and on redelivery.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct MessageName {
    text: Rc<str>,
    is_own: bool,
}

impl MessageName {
    /// Returns the publisher's own id where it can serve as one, else a hash of `parts`: the body and whatever else
    /// distinguishes messages.
    ///
    /// An own id comes back in a header, so it has no control characters and no space around it (RFC 9110, section
    /// 5.5).
    pub(super) fn new(message_id: Option<&str>, parts: &[&[u8]]) -> Self {
        let usable = |id: &&str| {
            (1..=OWN_BYTES_MAX).contains(&id.len()) && !id.contains(char::is_control) && id.trim() == *id
        };
        if let Some(id) = message_id.filter(usable) {
            return Self { text: id.into(), is_own: true };
        }
        let mut hash = Sha256::new();
        for part in parts {
            // Each length is hashed too, so that no part can pass for the end of the one before.
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        // 64 bits: enough for the unacknowledged messages of one queue, and short, because it is on every event.
        let bits = hash.finalize().iter().take(8).fold(0, |bits: u64, byte| bits << 8 | u64::from(*byte));
        Self { text: format!("{bits:016x}").into(), is_own: false }
    }

    /// Returns the id of this occurrence, counted from 0.
    pub(super) fn occurrence(self, occurrence: u32) -> MessageId {
        MessageId { name: self, occurrence }
    }

    /// Returns the name alone.
    pub(super) fn text(&self) -> Rc<str> {
        Rc::clone(&self.text)
    }
}

/// A message's id: a valid value of an `id:` field (WHATWG HTML, 9.2.6).
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct MessageId {
    name: MessageName,
    pub(super) occurrence: u32,
}

impl MessageId {
    /// Returns the name alone.
    pub(super) fn name(&self) -> Rc<str> {
        self.name.text()
    }

    /// Returns whether `text` is this id.
    pub(super) fn is(&self, text: &str) -> bool {
        match text.strip_prefix(&*self.name.text) {
            Some("") => self.is_bare(),
            Some(rest) => !self.is_bare() && rest.strip_prefix('-') == Some(&self.occurrence.to_string()),
            None => false,
        }
    }

    /// Returns whether it is written without its occurrence: the first use of a publisher's own id.
    fn is_bare(&self) -> bool {
        self.name.is_own && self.occurrence == 0
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name.text)?;
        if self.is_bare() { Ok(()) } else { write!(f, "-{}", self.occurrence) }
    }
}

/// Returns a body as text; each NUL and what is not UTF-8 become U+FFFD.
pub(super) fn text(body: Vec<u8>) -> String {
    let text = match String::from_utf8(body) {
        Ok(text) => text,
        Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned(),
    };
    if text.contains('\0') { text.replace('\0', "\u{fffd}") } else { text }
}

/// Appends an event with this id; CR, LF and CRLF each begin another `data:` line (WHATWG HTML, 9.2.5).
pub(super) fn write_event(id: &MessageId, body: &[u8], out: &mut Vec<u8>) {
    // Room for a body of one line: field names, line ends and the blank line.
    out.reserve(body.len() + id.name.text.len() + 32);
    out.extend_from_slice(b"id: ");
    // Writing to memory cannot fail.
    let _ = write!(out, "{id}");
    out.push(b'\n');
    if str::from_utf8(body).is_ok() && memchr3(b'\r', b'\n', 0, body).is_none() {
        write_line(body, out);
    } else {
        let text = text(body.to_vec());
        let mut rest = Some(text.as_bytes());
        while let Some(text) = rest {
            let end = memchr2(b'\r', b'\n', text);
            let (line, tail) = text.split_at(end.unwrap_or(text.len()));
            write_line(line, out);
            rest = match tail {
                [] => None,
                [b'\r', b'\n', rest @ ..] | [_, rest @ ..] => Some(rest),
            };
        }
    }
    out.push(b'\n');
}

/// Appends a `data:` line, with the space that a client drops, because the line may begin with a space of its own.
fn write_line(line: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(b"data: ");
    out.extend_from_slice(line);
    out.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(message_id: Option<&str>, body: &[u8]) -> MessageId {
        MessageName::new(message_id, &[body]).occurrence(0)
    }

    fn event(body: &[u8]) -> String {
        let mut out = Vec::new();
        write_event(&id(Some("7"), body), body, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn every_line_of_a_body_is_a_data_line() {
        for (body, data) in [
            ("", "data: \n"),
            ("one", "data: one\n"),
            (" one", "data:  one\n"),
            ("a\nb\r\nc\rd", "data: a\ndata: b\ndata: c\ndata: d\n"),
            ("a\n", "data: a\ndata: \n"),
            ("\r\n\r\n", "data: \ndata: \ndata: \n"),
            ("id: 8\n\nevent: x", "data: id: 8\ndata: \ndata: event: x\n"),
            ("a\0b", "data: a\u{fffd}b\n"),
            ("Grüße\n", "data: Grüße\ndata: \n"),
        ] {
            assert_eq!(event(body.as_bytes()), format!("id: 7\n{data}\n"), "{body:?}");
        }
        assert_eq!(event(b"a\xffb\n"), "id: 7\ndata: a\u{fffd}b\ndata: \n\n");
    }

    #[test]
    fn a_publishers_id_is_kept_where_it_can_be_one() {
        let longest = "x".repeat(128);
        for own in ["1", "a b", "Grüße", &longest] {
            assert_eq!(id(Some(own), b"body").to_string(), own);
        }
        let too_long = "x".repeat(129);
        let hashed = id(None, b"body").to_string();
        for unusable in ["", "a\nb", "a\rb", "a\0b", "a\u{1}b", " a", "a\t", &too_long] {
            assert_eq!(id(Some(unusable), b"body").to_string(), hashed, "{unusable:?}");
        }
    }

    #[test]
    fn a_hash_is_of_the_body_alone_and_never_changes() {
        // A literal, because another node or a later version must give the message the same name.
        assert_eq!(id(None, b"body").to_string(), "810519901940e8b1-0");
        assert_ne!(MessageName::new(None, &[b"ab", b"c"]), MessageName::new(None, &[b"a", b"bc"]));
    }

    #[test]
    fn an_id_is_what_it_is_written_as() {
        let own = MessageName::new(Some("a"), &[]);
        let hashed = MessageName::new(None, &[b"body"]);
        for id in [
            own.clone().occurrence(0),
            own.occurrence(3),
            hashed.clone().occurrence(0),
            hashed.occurrence(12),
        ] {
            let text = id.to_string();
            assert!(id.is(&text), "{text}");
            for other in [
                format!("{text}0"),
                format!("{text}-"),
                format!("{text}-1"),
                String::new(),
                text[1..].to_owned(),
            ] {
                assert!(!id.is(&other), "{text} {other}");
            }
        }
    }
}
