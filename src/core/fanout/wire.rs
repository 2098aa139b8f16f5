//! The bytes of a stream that are no events: comments, notices, and its end.

use bytes::{Buf, Bytes};
use smallvec::SmallVec;

use crate::core::chunk::{CHUNK_END, Framing, write_chunk_head};
use crate::core::message::Gap;

/// Buffers that are sent in one call.
pub(crate) type Buffers = SmallVec<[Bytes; 1]>;

/// A comment that EventSource ignores, kept short: it goes to every quiet subscriber. Without a blank line, which some
/// clients take for the end of an empty message.
const HEARTBEAT: &[u8] = b":\n";
const HEARTBEAT_CHUNK: &[u8] = b"2\r\n:\n\r\n";
/// An event that a page hears, for a client that asked for it.
const HEARTBEAT_EVENT: &[u8] = b"event:heartbeat\ndata:{}\n\n";
const HEARTBEAT_EVENT_CHUNK: &[u8] = b"19\r\nevent:heartbeat\ndata:{}\n\n\r\n";

/// What a quiet stream gets.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) enum Heartbeat {
    /// A comment, which EventSource hides from its page.
    #[default]
    Comment,
    /// An event of this name, without an id: a page that misses it knows that the line is dead.
    Event,
}

impl Framing {
    pub(crate) fn heartbeat(self, heartbeat: Heartbeat) -> Bytes {
        Bytes::from_static(match (self, heartbeat) {
            (Framing::Chunked, Heartbeat::Comment) => HEARTBEAT_CHUNK,
            (Framing::Plain, Heartbeat::Comment) => HEARTBEAT,
            (Framing::Chunked, Heartbeat::Event) => HEARTBEAT_EVENT_CHUNK,
            (Framing::Plain, Heartbeat::Event) => HEARTBEAT_EVENT,
        })
    }

    /// Returns `text` followed by the regular end of the body.
    pub(crate) fn farewell(self, text: &str) -> Bytes {
        if self == Framing::Plain {
            return Bytes::copy_from_slice(text.as_bytes());
        }
        let mut out = Vec::with_capacity(text.len() + 16);
        if !text.is_empty() {
            write_chunk_head(text.len(), &mut out);
            out.extend_from_slice(text.as_bytes());
            out.extend_from_slice(CHUNK_END);
        }
        out.extend_from_slice(b"0\r\n\r\n");
        out.into()
    }
}

/// Removes `bytes` from the front.
pub(crate) fn skip(buffers: &mut Buffers, mut bytes: usize) {
    let whole = buffers.iter().take_while(|buffer| {
        let fits = buffer.len() <= bytes;
        bytes -= if fits { buffer.len() } else { 0 };
        fits
    });
    let whole = whole.count();
    buffers.drain(..whole);
    if let Some(first) = buffers.first_mut() {
        first.advance(bytes);
    }
}

/// Returns the event that tells a subscriber of a gap: `event: gap` and the reason in JSON.
pub(crate) fn gap_event(gap: &Gap) -> Bytes {
    let data = serde_json::json!({ "from": gap.from.as_deref(), "reason": gap.reason.name() });
    let id = gap.id.as_ref().map_or(String::new(), |id| format!("id:{id}\n"));
    Bytes::from(format!("event:gap\ndata:{data}\n{id}\n"))
}

/// Returns the field that tells EventSource when to come back (WHATWG HTML, section 9.2.6, `retry`). It counts from its
/// line end on; with a blank line some clients would take it for an empty message.
pub(crate) fn retry_field(ms: u64) -> String {
    format!("retry:{ms}\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::message::GapReason;

    #[test]
    fn parts_share_one_chunk() {
        let mut out = Vec::new();
        Framing::Chunked.frame([Bytes::from_static(b"abc"), Bytes::from_static(b"defghij")], &mut out);
        assert_eq!(out.concat(), b"a\r\nabcdefghij\r\n");
        assert_eq!(Framing::Chunked.farewell("retry:1\n"), "8\r\nretry:1\n\r\n0\r\n\r\n");
        assert_eq!(Framing::Plain.farewell("retry:1\n"), "retry:1\n");
    }

    #[test]
    fn heartbeats_are_framed_as_all_text_is() {
        for heartbeat in [Heartbeat::Comment, Heartbeat::Event] {
            let mut framed = Vec::new();
            Framing::Chunked.frame([Framing::Plain.heartbeat(heartbeat)], &mut framed);
            assert_eq!(framed.concat(), Framing::Chunked.heartbeat(heartbeat), "{heartbeat:?}");
        }
    }

    #[test]
    fn an_id_with_quotes_cannot_break_the_gap_event() {
        let gap = Gap { from: Some("a\"b".into()), reason: GapReason::Unknown, id: None };
        assert_eq!(gap_event(&gap), "event:gap\ndata:{\"from\":\"a\\\"b\",\"reason\":\"unknown\"}\n\n");
        let gap = Gap { id: Some("7-1".into()), ..gap };
        assert!(gap_event(&gap).ends_with(b"}\nid:7-1\n\n"));
    }

    #[test]
    fn what_the_kernel_took_comes_off_the_front() {
        let buffers = || Buffers::from_iter(["abc", "de", "f"].map(Bytes::from));
        for (bytes, rest) in [(0, "abcdef"), (2, "cdef"), (3, "def"), (4, "ef"), (5, "f"), (6, "")] {
            let mut buffers = buffers();
            skip(&mut buffers, bytes);
            assert_eq!(buffers.concat(), rest.as_bytes());
        }
    }
}
