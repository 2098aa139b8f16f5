//! The refusal of a request: its status, and the reason.

use std::borrow::Cow;
use std::fmt;

use super::{Extra, Status};

/// The refusal of a request: a status, and one line of text for a person.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Refusal {
    /// The status of the answer.
    pub(crate) status: Status,
    /// One line without its end: what was wrong and what to do.
    pub(crate) reason: Cow<'static, str>,
    /// Whether the connection closes after the answer, because it is not known where the next request begins.
    pub(crate) close: bool,
    /// A header field that goes with the status.
    pub(crate) extra: Option<Extra>,
    /// Set if the reason passes by itself, so that the same request for a stream may be granted soon.
    pub(crate) is_passing: bool,
}

impl Refusal {
    /// Returns a refusal after which the connection stays open.
    pub(crate) fn new(status: Status, reason: impl Into<Cow<'static, str>>) -> Self {
        Self { status, reason: reason.into(), close: false, extra: None, is_passing: false }
    }

    /// Returns a refusal after which the connection closes.
    pub(crate) fn closing(status: Status, reason: impl Into<Cow<'static, str>>) -> Self {
        Self { close: true, ..Self::new(status, reason) }
    }

    /// Returns a 503 for a limit that is reached for now: worth another try in a second.
    pub(crate) fn unavailable(reason: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Status::ServiceUnavailable, reason).with(Extra::RetryAfter(1))
    }

    /// Returns the refusal as one for a reason that passes by itself.
    pub(crate) fn passing(self) -> Self {
        Self { is_passing: true, ..self }
    }

    /// Returns the refusal with this header field.
    pub(crate) fn with(self, extra: Extra) -> Self {
        Self { extra: Some(extra), ..self }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.status.code(), self.reason)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Context, Response, Version};
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
        Response::from(refusal.clone()).encode(&cx, &mut out);
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
