//! How events are framed on a connection: one HTTP chunk per block, or the bare bytes up to the close.

use bytes::{Buf, Bytes};
use smallvec::SmallVec;

use crate::core::message::Gap;

/// How a connection's body is delimited (RFC 9112, section 6.3).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Framing {
    /// HTTP/1.1: `Transfer-Encoding: chunked`.
    Chunked,
    /// HTTP/1.0, nginx's default towards an upstream: the body ends with the connection.
    Plain,
}

/// Bytes that are sent as they are, in one call.
pub(crate) type Buffers = SmallVec<[Bytes; 1]>;

/// Ends a chunk.
pub(crate) const CHUNK_END: &[u8] = b"\r\n";
/// A comment that EventSource ignores, kept short: it goes to every quiet subscriber.
const HEARTBEAT: &[u8] = b":\n\n";
const HEARTBEAT_CHUNK: &[u8] = b"3\r\n:\n\n\r\n";

/// Appends the size line that begins a chunk of `bytes` (RFC 9112, section 7.1).
pub(crate) fn write_chunk_head(bytes: usize, out: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let nibbles = bytes.checked_ilog2().unwrap_or(0) / 4;
    for nibble in (0..=nibbles).rev() {
        out.push(DIGITS[(bytes >> (nibble * 4)) & 0xf]);
    }
    out.extend_from_slice(CHUNK_END);
}

impl Framing {
    /// One chunk, or nothing around it, holding `parts`.
    pub(crate) fn frame(self, parts: impl IntoIterator<Item = Bytes>, out: &mut Vec<Bytes>) {
        let at = out.len();
        if self == Framing::Chunked {
            out.push(Bytes::new());
        }
        out.extend(parts);
        if self == Framing::Chunked {
            let bytes = out[at..].iter().map(Bytes::len).sum();
            let mut head = Vec::with_capacity(8);
            write_chunk_head(bytes, &mut head);
            out[at] = head.into();
            out.push(Bytes::from_static(CHUNK_END));
        }
    }

    pub(crate) fn heartbeat(self) -> Bytes {
        Bytes::from_static(match self {
            Framing::Chunked => HEARTBEAT_CHUNK,
            Framing::Plain => HEARTBEAT,
        })
    }

    /// `text` and the orderly end of the body.
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

/// Takes `bytes` off the front.
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

/// Tells a subscriber that events are missing here: `event: gap` and the reason in JSON.
pub(crate) fn gap_event(gap: &Gap) -> Bytes {
    let data = serde_json::json!({ "from": gap.from.as_deref(), "reason": gap.reason.name() });
    let id = gap.id.as_ref().map_or(String::new(), |id| format!("id:{id}\n"));
    Bytes::from(format!("event:gap\ndata:{data}\n{id}\n"))
}

/// Tells EventSource when to come back (WHATWG HTML, section 9.2.6, `retry`).
pub(crate) fn retry_field(ms: u64) -> String {
    format!("retry:{ms}\n\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::message::GapReason;

    #[test]
    fn a_chunk_head_is_the_size_in_hex() {
        for bytes in [1, 9, 10, 15, 16, 255, 256, 4095, 65_536, 0x1234_5678] {
            let mut out = Vec::new();
            write_chunk_head(bytes, &mut out);
            assert_eq!(out, format!("{bytes:x}\r\n").into_bytes());
        }
    }

    #[test]
    fn parts_share_one_chunk() {
        let mut out = Vec::new();
        Framing::Chunked.frame([Bytes::from_static(b"abc"), Bytes::from_static(b"defghij")], &mut out);
        assert_eq!(out.concat(), b"a\r\nabcdefghij\r\n");
        assert_eq!(Framing::Chunked.farewell("retry:1\n\n"), "9\r\nretry:1\n\n\r\n0\r\n\r\n");
        assert_eq!(Framing::Plain.farewell("retry:1\n\n"), "retry:1\n\n");
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
