//! Cuts a connection's bytes into heads and bodies. Order of calls: [`RequestReader::head`], then
//! [`RequestReader::body`] or [`RequestReader::skip_body`] until the body is finished, and again.

use bytes::{Buf, Bytes, BytesMut};

use super::body::Chunked;
use super::head::malformed;
use super::{BodyLength, Head, Refusal};

/// The limits of one request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HttpLimits {
    /// Bytes of a head, from its request line to its blank line; also of a chunked body's trailer.
    pub(crate) head_bytes_max: usize,
    /// Bytes of a body, decoded.
    pub(crate) body_bytes_max: usize,
    /// Header fields of one head; at most [`super::head::HEADERS_CAPACITY`].
    pub(crate) headers_max: usize,
    /// Bytes of a request's target; [`TARGET_BYTES_MAX`](super::TARGET_BYTES_MAX) unless tokens may be longer.
    pub(crate) target_bytes_max: usize,
}

/// Reads the requests of one connection, pipelined or not; the connection owns it. After a refusal nothing more can be
/// read.
#[derive(Debug)]
pub(crate) struct RequestReader {
    limits: HttpLimits,
    /// How many bytes at the front of an unfinished head have been searched for its end, so that none is searched
    /// twice.
    scanned: usize,
    empty_lines: u8,
    body: Body,
    /// The `Origin` of a head that was refused, so that its page may read why.
    refused_origin: Option<Bytes>,
}

/// The body being read.
#[derive(Debug)]
enum Body {
    Finished,
    /// Content-Length: the bytes still to come.
    Length(usize),
    /// Boxed, because an idle connection should not pay for its 72 bytes.
    Chunked(Box<Chunked>),
}

/// The most empty lines before a request. Some clients send a line end after a body (RFC 9112 section 2.2); none sends
/// many.
const EMPTY_LINES_MAX: u8 = 8;

impl RequestReader {
    /// Returns a reader at the start of a connection.
    pub(crate) fn new(limits: HttpLimits) -> Self {
        Self { limits, scanned: 0, empty_lines: 0, body: Body::Finished, refused_origin: None }
    }

    /// Takes the next head off `buf`; returns `None` when more bytes are needed. The rest of the last body is skipped.
    ///
    /// Lines may end in a bare LF (RFC 9112 section 2.2). A head past the limit is 431, or 414 when its request line
    /// alone is; [`Head`] refuses everything else.
    pub(crate) fn head(&mut self, buf: &mut BytesMut) -> Result<Option<Head>, Refusal> {
        if !self.skip_body(buf)? || !self.skip_empty_lines(buf)? {
            return Ok(None);
        }
        let Some(end) = Head::end(buf, &mut self.scanned, &self.limits)? else { return Ok(None) };
        self.scanned = 0;
        self.empty_lines = 0;
        let bytes = buf.split_to(end).freeze();
        let head = Head::parse(&bytes, &self.limits)
            .inspect_err(|_| self.refused_origin = Head::origin(&bytes, &self.limits))?;
        self.body = match head.body {
            BodyLength::None => Body::Finished,
            BodyLength::Chunked => Body::Chunked(Box::default()),
            BodyLength::Length(length) => {
                // The length is within `body_bytes_max`, so it fits.
                Body::Length(usize::try_from(length).unwrap_or(usize::MAX))
            }
        };
        Ok(Some(head))
    }

    /// Takes the `Origin` of the head that was refused, if it could be read.
    pub(crate) fn refused_origin(&mut self) -> Option<Bytes> {
        self.refused_origin.take()
    }

    /// Takes the whole body of the last head off `buf`; returns `None` when more bytes are needed, and empty bytes when
    /// there is no body.
    ///
    /// A body with a length is not copied: it shares the memory of `buf`. Do not mix this with [`Self::skip_body`]
    /// within one body: skipped bytes would be missing here.
    pub(crate) fn body(&mut self, buf: &mut BytesMut) -> Result<Option<Bytes>, Refusal> {
        let body = match &mut self.body {
            Body::Finished => return Ok(Some(Bytes::new())),
            Body::Length(left) if buf.len() < *left => return Ok(None),
            Body::Length(left) => buf.split_to(*left).freeze(),
            Body::Chunked(chunked) => {
                if !chunked.decode(buf, &self.limits)? {
                    return Ok(None);
                }
                chunked.take()
            }
        };
        self.body = Body::Finished;
        Ok(Some(body))
    }

    /// Drops the body as it arrives, in place of [`Self::body`]; returns true when all of it is gone. It consumes and
    /// refuses what `body` would.
    pub(crate) fn skip_body(&mut self, buf: &mut BytesMut) -> Result<bool, Refusal> {
        match &mut self.body {
            Body::Finished => return Ok(true),
            Body::Length(left) => {
                let here = buf.len().min(*left);
                buf.advance(here);
                *left -= here;
                if *left > 0 {
                    return Ok(false);
                }
            }
            Body::Chunked(chunked) => {
                if !chunked.skip(buf, &self.limits)? {
                    return Ok(false);
                }
            }
        }
        self.body = Body::Finished;
        Ok(true)
    }

    /// Returns how many bytes of the body are still to be taken off the buffer; 0 when that is not known.
    pub(crate) fn body_bytes_left(&self) -> usize {
        match &self.body {
            Body::Length(left) => *left,
            Body::Finished | Body::Chunked(_) => 0,
        }
    }

    /// Returns the memory that is held for an unfinished body beside the buffer it comes in, in bytes.
    pub(crate) fn bytes_held(&self) -> usize {
        match &self.body {
            Body::Finished | Body::Length(_) => 0,
            Body::Chunked(chunked) => chunked.bytes_held(),
        }
    }

    /// Returns whether the next byte belongs to a head and not to a body.
    #[cfg(test)]
    pub(crate) fn at_request_start(&self) -> bool {
        matches!(self.body, Body::Finished)
    }

    /// Skips empty lines; returns false when more bytes are needed to find the request line. Only a token can begin
    /// one, so that a TLS handshake is refused at once and not after a timeout.
    fn skip_empty_lines(&mut self, buf: &mut BytesMut) -> Result<bool, Refusal> {
        loop {
            let line_end = match buf.as_ref() {
                [] | [b'\r'] => return Ok(false),
                [b'\n', ..] => 1,
                [b'\r', b'\n', ..] => 2,
                [first, ..] if is_token_byte(*first) => return Ok(true),
                _ => return Err(malformed("this is not HTTP: send plain HTTP/1.1, not TLS")),
            };
            self.empty_lines += 1;
            if self.empty_lines > EMPTY_LINES_MAX {
                return Err(malformed("too many empty lines before a request: send none"));
            }
            buf.advance(line_end);
        }
    }
}

/// Returns whether a token may have this byte (RFC 9110 section 5.6.2).
pub(super) fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::super::Status;
    use super::*;

    const LIMITS: HttpLimits =
        HttpLimits { head_bytes_max: 100, body_bytes_max: 1000, headers_max: 10, target_bytes_max: 100 };

    fn reader() -> RequestReader {
        RequestReader::new(LIMITS)
    }

    fn buf(text: &str) -> BytesMut {
        BytesMut::from(text)
    }

    #[track_caller]
    fn refused<T: std::fmt::Debug>(result: Result<T, Refusal>, status: Status, about: &str) {
        let refusal = result.unwrap_err();
        assert_eq!(refusal.status, status, "{refusal}");
        assert!(refusal.reason.contains(about) && refusal.close, "{refusal}");
    }

    #[test]
    fn pipelined_requests_come_out_in_order() {
        let mut buf = buf(
            "POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabcGET /b HTTP/1.1\nHost: h\n\nGET /c",
        );
        let mut reader = reader();
        assert_eq!(&reader.head(&mut buf).unwrap().unwrap().path[..], b"/a");
        assert!(!reader.at_request_start());
        assert_eq!(reader.body(&mut buf).unwrap().unwrap(), "abc");
        assert!(reader.at_request_start());
        assert_eq!(&reader.head(&mut buf).unwrap().unwrap().path[..], b"/b");
        assert!(reader.at_request_start());
        assert_eq!(reader.body(&mut buf).unwrap().unwrap(), "");
        assert_eq!(reader.head(&mut buf), Ok(None));
        assert_eq!(buf, "GET /c");
    }

    #[test]
    fn a_body_with_a_length_is_not_copied() {
        let mut buf = buf("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc");
        let sent = buf[buf.len() - 3..].as_ptr();
        let mut reader = reader();
        reader.head(&mut buf).unwrap().unwrap();
        assert_eq!(reader.body(&mut buf).unwrap().unwrap().as_ptr(), sent);
    }

    #[test]
    fn a_body_that_nobody_took_is_skipped_before_the_next_head() {
        let mut buf = buf("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 29\r\n\r\nGET /smuggled HTT");
        let mut reader = reader();
        reader.head(&mut buf).unwrap().unwrap();
        assert_eq!(reader.head(&mut buf), Ok(None));
        buf.extend_from_slice(b"P/1.0\r\n\r\n \t\tGET /next HTTP/1.0\r\n\r\n");
        assert_eq!(&reader.head(&mut buf).unwrap().unwrap().path[..], b"/next");
    }

    #[test]
    fn empty_lines_before_a_request_are_skipped_but_not_for_ever() {
        let request = "GET / HTTP/1.0\r\n\r\n";
        for empty in ["\r\n", "\n", "\r\n\n\r\n", "\n\n\n\n\n\n\n\n"] {
            assert!(reader().head(&mut buf(&format!("{empty}{request}"))).unwrap().is_some(), "{empty:?}");
        }
        refused(reader().head(&mut buf(&"\r\n".repeat(9))), Status::BadRequest, "empty lines");
        assert_eq!(reader().head(&mut buf("\r")), Ok(None));
        refused(reader().head(&mut buf("\rGET")), Status::BadRequest, "not HTTP");
        let (mut kept, mut twice) = (reader(), buf(&format!("{0}{request}{0}{request}", "\n".repeat(8))));
        assert!(kept.head(&mut twice).unwrap().is_some() && kept.head(&mut twice).unwrap().is_some());
        let mut drip = reader();
        for _ in 0..8 {
            assert_eq!(drip.head(&mut buf("\n")), Ok(None));
        }
        refused(drip.head(&mut buf("\n")), Status::BadRequest, "empty lines");
    }

    #[test]
    fn what_is_not_http_is_refused_at_its_first_byte() {
        for first in ["\u{16}\u{3}\u{1}", " GET", "\0", "{"] {
            refused(reader().head(&mut buf(first)), Status::BadRequest, "not HTTP");
        }
    }

    #[test]
    fn a_head_past_its_limit_is_431_and_a_request_line_alone_is_414() {
        let head = |length: usize| {
            let start = "GET / HTTP/1.0\r\nX: ";
            format!("{start}{}\r\n\r\n", "x".repeat(length - start.len() - 4))
        };
        assert!(reader().head(&mut buf(&head(100))).unwrap().is_some());
        refused(reader().head(&mut buf(&head(101))), Status::HeaderFieldsTooLarge, "100 bytes");
        refused(reader().head(&mut buf(&head(101)[..100])), Status::HeaderFieldsTooLarge, "100 bytes");
        assert_eq!(reader().head(&mut buf(&head(101)[..99])), Ok(None));
        let line = format!("GET /{} HTTP/1.1\r\n", "x".repeat(100));
        refused(reader().head(&mut buf(&line)), Status::UriTooLong, "100 bytes");
        refused(reader().head(&mut buf(&line[..100])), Status::UriTooLong, "100 bytes");
        assert_eq!(reader().head(&mut buf(&line[..99])), Ok(None));
    }

    #[test]
    fn a_head_that_drips_is_searched_once() {
        let text = "GET / HTTP/1.1\r\nHost: h\r\n\r\n";
        let (mut reader, mut buf) = (reader(), BytesMut::new());
        for (sent, byte) in text.bytes().enumerate() {
            assert_eq!(reader.scanned, sent);
            buf.extend_from_slice(&[byte]);
            assert_eq!(reader.head(&mut buf).unwrap().is_some(), sent + 1 == text.len());
        }
        assert_eq!(reader.scanned, 0);
    }

    #[test]
    fn the_memory_held_for_a_body_is_counted() {
        let mut reader = reader();
        let mut length = buf("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nabc");
        reader.head(&mut length).unwrap().unwrap();
        assert_eq!(reader.body(&mut length), Ok(None));
        assert_eq!((reader.bytes_held(), &length[..]), (0, &b"abc"[..]), "it stays in its buffer");
        length.extend_from_slice(b"de");
        reader.body(&mut length).unwrap().unwrap();
        let mut chunked =
            buf("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n2\r\nf");
        reader.head(&mut chunked).unwrap().unwrap();
        assert_eq!(reader.body(&mut chunked), Ok(None));
        assert!(reader.bytes_held() >= 6, "{}", reader.bytes_held());
        assert!(!reader.skip_body(&mut chunked).unwrap());
        assert_eq!(reader.bytes_held(), 0);
    }

    #[test]
    fn a_reader_is_small_enough_for_an_idle_connection() {
        assert!(size_of::<RequestReader>() <= 96, "{}", size_of::<RequestReader>());
    }
}
