//! Decodes the chunked transfer coding strictly (RFC 9112 section 7.1).

use bytes::{Buf, Bytes, BytesMut};
use memchr::memchr;

use super::head::{body_too_large, malformed};
use super::request::is_token_byte;
use super::{HttpLimits, Refusal, Status};

/// The decoder of one chunked body; [`RequestReader`](super::RequestReader) owns it.
#[derive(Debug, Default)]
pub(super) struct Chunked {
    decoded: BytesMut,
    /// The sum of all chunk sizes announced so far.
    announced: usize,
    trailer_bytes: usize,
    /// How many bytes at the front of an unfinished line have been searched for its end.
    scanned: usize,
    state: BodyState,
}

/// The part of the body that comes next.
#[derive(Clone, Copy, Debug, Default)]
enum BodyState {
    #[default]
    Size,
    /// The rest of a chunk, in bytes.
    Data(usize),
    /// The line end after a chunk.
    DataEnd,
    /// Trailer fields, and the blank line that ends the body.
    Trailer,
    Finished,
}

/// The longest line of a chunk's size and its extensions. Extensions are ignored; nobody needs long ones, and reading
/// them costs work.
const CHUNK_LINE_BYTES_MAX: usize = 256;

impl Chunked {
    /// Takes the bytes of the body off `buf` and keeps the data. Returns true when the body has ended.
    pub(super) fn decode(&mut self, buf: &mut BytesMut, limits: &HttpLimits) -> Result<bool, Refusal> {
        self.advance(buf, limits, |decoded, data| decoded.extend_from_slice(data))
    }

    /// Takes the bytes of the body off `buf` and drops the data. Returns true when the body has ended.
    pub(super) fn skip(&mut self, buf: &mut BytesMut, limits: &HttpLimits) -> Result<bool, Refusal> {
        self.decoded = BytesMut::new();
        self.advance(buf, limits, |_, _| {})
    }

    /// Takes the data decoded so far.
    pub(super) fn take(&mut self) -> Bytes {
        std::mem::take(&mut self.decoded).freeze()
    }

    /// Returns the memory that the data decoded so far takes, in bytes.
    pub(super) fn bytes_held(&self) -> usize {
        self.decoded.capacity()
    }

    fn advance(
        &mut self,
        buf: &mut BytesMut,
        limits: &HttpLimits,
        keep: impl Fn(&mut BytesMut, &[u8]),
    ) -> Result<bool, Refusal> {
        loop {
            self.state = match self.state {
                BodyState::Size => {
                    let Some(line) = self.line(buf, CHUNK_LINE_BYTES_MAX, chunk_line_too_long)? else {
                        return Ok(false);
                    };
                    let size = chunk_size(&line)?;
                    // Refused as soon as it is announced: the data need not arrive first.
                    self.announced = match self.announced.checked_add(size) {
                        Some(announced) if announced <= limits.body_bytes_max => announced,
                        _ => return Err(body_too_large(limits.body_bytes_max)),
                    };
                    if size == 0 { BodyState::Trailer } else { BodyState::Data(size) }
                }
                BodyState::Data(left) => {
                    let here = buf.len().min(left);
                    keep(&mut self.decoded, buf.get(..here).unwrap_or_default());
                    buf.advance(here);
                    if here < left {
                        self.state = BodyState::Data(left - here);
                        return Ok(false);
                    }
                    BodyState::DataEnd
                }
                BodyState::DataEnd => match buf.as_ref() {
                    [] | [b'\r'] => return Ok(false),
                    [b'\r', b'\n', ..] => {
                        buf.advance(2);
                        BodyState::Size
                    }
                    _ => return Err(malformed("a chunk does not end where its size says: send CRLF there")),
                },
                BodyState::Trailer => {
                    let room = limits.head_bytes_max.saturating_sub(self.trailer_bytes);
                    let Some(line) = self.line(buf, room, trailer_too_large)? else { return Ok(false) };
                    self.trailer_bytes += line.len() + 2;
                    if line.is_empty() {
                        BodyState::Finished
                    } else {
                        check_trailer_field(&line)?;
                        BodyState::Trailer
                    }
                }
                BodyState::Finished => return Ok(true),
            };
        }
    }

    /// Takes a line off `buf`, without its CRLF; `None` when more bytes are needed. A bare LF is refused: servers
    /// differ on whether it ends a chunk's line, and requests have been smuggled through the difference.
    fn line(
        &mut self,
        buf: &mut BytesMut,
        bytes_max: usize,
        too_long: fn() -> Refusal,
    ) -> Result<Option<BytesMut>, Refusal> {
        let window = buf.get(..bytes_max).unwrap_or(buf);
        let Some(found) = memchr(b'\n', window.get(self.scanned..).unwrap_or_default()) else {
            self.scanned = window.len();
            return if buf.len() < bytes_max { Ok(None) } else { Err(too_long()) };
        };
        let mut line = buf.split_to(self.scanned + found + 1);
        self.scanned = 0;
        if !line.ends_with(b"\r\n") {
            return Err(malformed("a line of a chunked body ends in a bare LF: send CRLF"));
        }
        line.truncate(line.len() - 2);
        if line.iter().any(|&byte| byte.is_ascii_control() && byte != b'\t') {
            return Err(malformed("a line of a chunked body has a control character: send none"));
        }
        Ok(Some(line))
    }
}

/// Parses `chunk-size [ chunk-ext ]`: hexadecimal digits, then nothing, or `;` after optional white space.
fn chunk_size(line: &[u8]) -> Result<usize, Refusal> {
    let refuse = || malformed("bad chunk size: send it in hexadecimal digits alone");
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    let (digits, rest) = line.split_at(digits);
    let rest = rest.trim_ascii_start();
    if digits.is_empty() || line.len() > digits.len() && !rest.starts_with(b";") {
        return Err(refuse());
    }
    digits
        .iter()
        .try_fold(0usize, |size, &digit| {
            let digit = char::from(digit).to_digit(16)?;
            size.checked_mul(16)?.checked_add(usize::try_from(digit).ok()?)
        })
        .ok_or_else(refuse)
}

/// Checks a trailer field. Its value is ignored, but a line that is no field leaves doubt about where the body ended.
fn check_trailer_field(line: &[u8]) -> Result<(), Refusal> {
    match memchr(b':', line).map(|colon| line.split_at(colon)) {
        Some((name, _)) if !name.is_empty() && name.iter().all(|&byte| is_token_byte(byte)) => Ok(()),
        _ => Err(malformed("malformed trailer: send 'name: value' lines, then a blank line")),
    }
}

fn chunk_line_too_long() -> Refusal {
    malformed(format!("a chunk's size line is too long: send at most {CHUNK_LINE_BYTES_MAX} bytes"))
}

fn trailer_too_large() -> Refusal {
    Refusal::closing(Status::HeaderFieldsTooLarge, "the trailer is too large: send a shorter one, or none")
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: HttpLimits =
        HttpLimits { head_bytes_max: 40, body_bytes_max: 20, headers_max: 10, target_bytes_max: 40 };

    /// Returns the whole body and the bytes left after it; `None` when it is not finished.
    fn decode(text: &str) -> Result<Option<(Bytes, BytesMut)>, Refusal> {
        let (mut chunked, mut buf) = (Chunked::default(), BytesMut::from(text));
        Ok(chunked.decode(&mut buf, &LIMITS)?.then(|| (chunked.take(), buf)))
    }

    #[track_caller]
    fn decodes_to(text: &str, body: &str) {
        let (decoded, rest) = decode(&format!("{text}GET /")).unwrap().unwrap();
        assert_eq!((decoded, rest), (Bytes::from(body.to_owned()), BytesMut::from("GET /")), "{text:?}");
    }

    #[track_caller]
    fn refused(text: &str, status: Status, about: &str) {
        let refusal = decode(text).unwrap_err();
        assert_eq!(refusal.status, status, "{text:?}: {refusal}");
        assert!(refusal.reason.contains(about) && refusal.close, "{text:?}: {refusal}");
    }

    #[test]
    fn chunks_become_one_body_and_what_follows_stays() {
        decodes_to("0\r\n\r\n", "");
        decodes_to("5\r\nhello\r\n0\r\n\r\n", "hello");
        decodes_to("5\r\nhello\r\n1\r\n \r\n5\r\nworld\r\n0\r\n\r\n", "hello world");
        decodes_to("A\r\n0123456789\r\na\r\n0123456789\r\n000\r\n\r\n", "01234567890123456789");
        decodes_to("4\r\n\r\n\r\n\r\n0\r\n\r\n", "\r\n\r\n");
    }

    #[test]
    fn extensions_and_trailers_are_ignored() {
        decodes_to("1;a=b\r\nx\r\n0 ; c=\"d e\"\r\n\r\n", "x");
        decodes_to("1\t;\r\nx\r\n0;\r\n\r\n", "x");
        decodes_to("1\r\nx\r\n0\r\nDigest: y\r\nContent-Length: 9\r\n\r\n", "x");
    }

    #[test]
    fn a_bad_chunk_size_is_refused() {
        for line in [
            "",
            "g",
            "-1",
            "+1",
            "0x1",
            " 1",
            "1 ",
            "1 2",
            "1g",
            ";a",
            "1,",
            "10000000000000000",
            "fffffffffffffffff",
        ] {
            refused(&format!("{line}\r\n"), Status::BadRequest, "chunk size");
        }
    }

    #[test]
    fn a_missing_or_bare_line_end_is_refused() {
        refused("1\r\nxx\r\n", Status::BadRequest, "does not end");
        refused("1\r\nx\n0\r\n\r\n", Status::BadRequest, "does not end");
        refused("1\r\nx\rx", Status::BadRequest, "does not end");
        refused("1\nx\r\n", Status::BadRequest, "bare LF");
        refused("1\r\nx\r\n0\r\n\n", Status::BadRequest, "bare LF");
        refused("1;a\rb\r\n", Status::BadRequest, "control character");
        refused("1;a\0b\r\n", Status::BadRequest, "control character");
        refused("0\r\nA: b\rc\r\n\r\n", Status::BadRequest, "control character");
    }

    #[test]
    fn a_body_is_413_as_soon_as_its_sizes_pass_the_limit() {
        refused("15\r\n", Status::ContentTooLarge, "20 bytes");
        refused("14\r\n01234567890123456789\r\n1\r\n", Status::ContentTooLarge, "20 bytes");
        refused("1\r\nx\r\nffffffffffffffff\r\n", Status::ContentTooLarge, "20 bytes");
    }

    #[test]
    fn a_chunk_line_is_bounded() {
        let line = |length: usize| format!("1;{}\r\n", "a".repeat(length - 4));
        decodes_to(&format!("{}x\r\n0\r\n\r\n", line(256)), "x");
        refused(&line(257), Status::BadRequest, "256 bytes");
        refused(&line(300)[..256], Status::BadRequest, "256 bytes");
        assert_eq!(decode(&line(300)[..255]), Ok(None));
    }

    #[test]
    fn a_line_that_drips_is_searched_once() {
        let (mut chunked, mut buf) = (Chunked::default(), BytesMut::new());
        for (sent, byte) in b"0;abc\r\n".iter().enumerate() {
            assert_eq!(chunked.scanned, sent);
            buf.extend_from_slice(&[*byte]);
            assert_eq!(chunked.decode(&mut buf, &LIMITS), Ok(false));
        }
        assert_eq!(chunked.scanned, 0);
    }

    #[test]
    fn a_trailer_is_bounded_in_all_and_made_of_fields() {
        decodes_to(&format!("0\r\n{}\r\n", "A: bcdef\r\n".repeat(3)), "");
        refused(&format!("0\r\n{}\r\n", "A: bcdef\r\n".repeat(4)), Status::HeaderFieldsTooLarge, "trailer");
        refused(&format!("0\r\nA: {}", "b".repeat(40)), Status::HeaderFieldsTooLarge, "trailer");
        for line in ["GET / HTTP/1.1", ": a", "a : b", " a: b"] {
            refused(&format!("0\r\n{line}\r\n\r\n"), Status::BadRequest, "malformed trailer");
        }
    }
}
