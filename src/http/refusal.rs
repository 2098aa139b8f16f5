//! A request that is refused, and the answer that says so.

use std::borrow::Cow;
use std::fmt;

use super::Status;
use super::response::{Context, end_head, field, number_field, reason_field, start_head};

/// A request that is refused: the status and one line of text for the person at the other end.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Refusal {
    /// The status of the answer.
    pub(crate) status: Status,
    /// One line, without its end: what was wrong and what to do.
    pub(crate) reason: Cow<'static, str>,
    /// Whether the connection ends after the answer, because nobody knows where the next request begins.
    pub(crate) close: bool,
    /// The header field that this status asks for.
    pub(crate) extra: Option<Extra>,
}

/// A header field that goes with some refusals.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Extra {
    /// `Allow`: the methods that would have been right, parted by `, ` (405; RFC 9110 section 10.2.1).
    Allow(&'static str),
    /// `Retry-After` in seconds (503, 507; RFC 9110 section 10.2.3).
    RetryAfter(u32),
    /// `WWW-Authenticate: Bearer` (401; RFC 6750 section 3).
    Bearer,
    /// `X-Status-Reason`: the reason once more.
    StatusReason,
}

impl Refusal {
    /// A refusal after which the connection goes on.
    pub(crate) fn new(status: Status, reason: impl Into<Cow<'static, str>>) -> Self {
        Self { status, reason: reason.into(), close: false, extra: None }
    }

    /// A refusal after which the connection closes.
    pub(crate) fn closing(status: Status, reason: impl Into<Cow<'static, str>>) -> Self {
        Self { close: true, ..Self::new(status, reason) }
    }

    /// 503 for a limit that is reached for now: worth another try in a second.
    pub(crate) fn unavailable(reason: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Status::ServiceUnavailable, reason).with(Extra::RetryAfter(1))
    }

    /// The same with a header field more.
    pub(crate) fn with(self, extra: Extra) -> Self {
        Self { extra: Some(extra), ..self }
    }

    /// Writes the answer: `text/plain`, the reason and a line end.
    pub(crate) fn encode(&self, cx: &Context<'_>, out: &mut Vec<u8>) {
        let cx = Context { keep_alive: cx.keep_alive && !self.close, ..*cx };
        start_head(self.status, &cx, out);
        match self.extra {
            Some(Extra::Allow(methods)) => field("Allow", methods.as_bytes(), out),
            Some(Extra::RetryAfter(seconds)) => number_field("Retry-After", seconds.into(), out),
            Some(Extra::Bearer) => field("WWW-Authenticate", b"Bearer", out),
            Some(Extra::StatusReason) => reason_field(&self.reason, out),
            None => {}
        }
        out.extend_from_slice(b"Content-Type: text/plain; charset=utf-8\r\nCache-Control: no-store\r\n");
        number_field("Content-Length", self.reason.len() as u64 + 1, out);
        end_head(&cx, out);
        if !cx.head_only {
            // A reason may quote what a client sent; one byte for one byte keeps the length right.
            out.extend(self.reason.bytes().map(|byte| if byte.is_ascii_control() { b' ' } else { byte }));
            out.push(b'\n');
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.status.code(), self.reason)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Version;
    use super::*;

    const DATE: &[u8; 29] = b"Sun, 06 Nov 1994 08:49:37 GMT";

    fn text(refusal: &Refusal, keep_alive: bool, head_only: bool) -> String {
        let cx = Context {
            version: Version::Http11,
            keep_alive,
            head_only,
            date: DATE,
            cors: b"Access-Control-Allow-Origin: *\r\n",
        };
        let mut out = Vec::new();
        refusal.encode(&cx, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_refusal_is_one_line_of_plain_text_with_cors() {
        assert_eq!(
            text(&Refusal::new(Status::NotFound, "no such page"), true, false),
            "HTTP/1.1 404 Not Found\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\n\
             Access-Control-Allow-Origin: *\r\nContent-Type: text/plain; charset=utf-8\r\n\
             Cache-Control: no-store\r\nContent-Length: 13\r\n\r\nno such page\n"
        );
    }

    #[test]
    fn a_refusal_to_head_keeps_its_length_and_loses_its_body() {
        let answer = text(&Refusal::new(Status::NotFound, "no such page"), true, true);
        assert!(answer.ends_with("Content-Length: 13\r\n\r\n"), "{answer}");
    }

    #[test]
    fn a_closing_refusal_says_so_on_a_kept_connection_and_says_it_once() {
        let refusal = Refusal::closing(Status::BadRequest, "no");
        assert_eq!(text(&refusal, true, false).matches("Connection: close\r\n").count(), 1);
        assert_eq!(text(&refusal, false, false).matches("Connection: close\r\n").count(), 1);
        assert!(!text(&Refusal::new(Status::BadRequest, "no"), true, false).contains("Connection"));
    }

    #[test]
    fn each_extra_is_its_header_field() {
        let refusal = |extra| text(&Refusal::new(Status::BadRequest, "no").with(extra), true, false);
        assert!(refusal(Extra::Allow("GET, HEAD")).contains("\r\nAllow: GET, HEAD\r\n"));
        assert!(refusal(Extra::RetryAfter(7)).contains("\r\nRetry-After: 7\r\n"));
        assert!(refusal(Extra::Bearer).contains("\r\nWWW-Authenticate: Bearer\r\n"));
    }

    #[test]
    fn a_reason_stays_one_line_whatever_it_quotes() {
        let answer = text(&Refusal::new(Status::BadRequest, "a\r\nb\0c é"), true, false);
        assert!(answer.ends_with("Content-Length: 10\r\n\r\na  b c é\n"), "{answer}");
    }
}
