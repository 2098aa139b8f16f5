//! Responses and their encoding.

use std::borrow::Cow;

use super::{Refusal, Status, Version};

/// The data that encoding a response needs beside it: from its request, and the date.
#[derive(Clone, Copy)]
pub(crate) struct Context<'a> {
    /// The version of the request; the response's own is always HTTP/1.1 (RFC 9110 section 6.2).
    pub(crate) version: Version,
    /// Whether the connection stays open after the response.
    pub(crate) keep_alive: bool,
    /// A HEAD request: the same header fields, no body.
    pub(crate) head_only: bool,
    /// The time as an IMF-fixdate (RFC 9110 section 5.6.7).
    pub(crate) date: &'a [u8; 29],
    /// Ready header lines, from [`super::Cors::lines`].
    pub(crate) cors: &'a [u8],
}

/// One response, before it is encoded.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: Status,
    /// A header field that some responses have.
    pub(crate) extra: Option<Extra>,
    /// The media type of the body; `None` for a response with neither body nor length.
    pub(crate) content_type: Option<&'static str>,
    pub(crate) body: Cow<'static, [u8]>,
    /// Whether the connection closes after it, whatever the request asked for.
    pub(crate) close: bool,
}

/// Header fields that some responses have.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Extra {
    /// `Allow`: the methods that may be used, separated by `, ` (RFC 9110 section 10.2.1).
    Allow(&'static str),
    /// `Allow`, and the answer to a CORS preflight (the Fetch standard, section 3.3.3).
    Preflight(&'static str),
    /// `Retry-After` in seconds (503, 507; RFC 9110 section 10.2.3).
    RetryAfter(u32),
    /// `Accept-Encoding: identity` (415; RFC 9110 section 15.5.16).
    AcceptIdentity,
    /// `WWW-Authenticate: Bearer` (401; RFC 6750 section 3).
    Bearer,
    /// `X-Status-Reason`: repeats the reason.
    StatusReason,
    /// The head of an event stream, for a HEAD request.
    EventStream,
    /// Headers of the admin page: it loads nothing else, calls only this server, and may be shown in no frame.
    Page,
}

impl Response {
    /// Returns a 200 with this body, not to be cached.
    pub(crate) fn ok(content_type: &'static str, body: impl Into<Cow<'static, [u8]>>) -> Self {
        Response {
            status: Status::Ok,
            extra: None,
            content_type: Some(content_type),
            body: body.into(),
            close: false,
        }
    }

    /// Returns a 200 with this JSON and a line end, after which a terminal's prompt begins its own line.
    pub(crate) fn json(mut body: Vec<u8>) -> Self {
        body.push(b'\n');
        Response::ok("application/json", body)
    }

    /// Returns a 200 with this line of plain text.
    pub(crate) fn text(body: impl Into<Cow<'static, str>>) -> Self {
        let body = match body.into() {
            Cow::Borrowed(text) => Cow::Borrowed(text.as_bytes()),
            Cow::Owned(text) => Cow::Owned(text.into_bytes()),
        };
        Response::ok("text/plain; charset=utf-8", body)
    }

    /// Returns a 200 with this HTML page.
    pub(crate) fn page(html: &'static str) -> Self {
        Response { extra: Some(Extra::Page), ..Response::ok("text/html; charset=utf-8", html.as_bytes()) }
    }

    /// Returns the answer to OPTIONS: 204 with [`Extra::Allow`] or [`Extra::Preflight`].
    pub(crate) fn options(extra: Extra) -> Self {
        Response { extra: Some(extra), ..Response::bare(Status::NoContent) }
    }

    /// Returns the head of an event stream alone, the answer to HEAD. Over HTTP/1.0 the connection closes after it.
    pub(crate) fn stream_head() -> Self {
        Response { extra: Some(Extra::EventStream), ..Response::bare(Status::Ok) }
    }

    /// Returns the interim answer to `Expect: 100-continue` (RFC 9110 section 15.2.1); the final one follows.
    pub(crate) fn interim() -> Self {
        Response::bare(Status::Continue)
    }

    fn bare(status: Status) -> Self {
        Response { status, extra: None, content_type: None, body: Cow::Borrowed(b""), close: false }
    }

    /// Appends the head and the body to `out`; returns whether the connection closes after it.
    pub(crate) fn encode(&self, cx: &Context<'_>, out: &mut Vec<u8>) -> bool {
        if self.status == Status::Continue {
            out.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
            return false;
        }
        let to_the_close = self.extra == Some(Extra::EventStream) && cx.version == Version::Http10;
        let cx = Context { keep_alive: cx.keep_alive && !self.close && !to_the_close, ..*cx };
        start_head(self.status, &cx, out);
        self.encode_extra(&cx, out);
        if let Some(content_type) = self.content_type {
            field("Content-Type", content_type.as_bytes(), out);
            out.extend_from_slice(b"Cache-Control: no-store\r\n");
            number_field("Content-Length", self.body.len() as u64, out);
        }
        end_head(&cx, out);
        if !cx.head_only {
            out.extend_from_slice(&self.body);
        }
        !cx.keep_alive
    }

    fn encode_extra(&self, cx: &Context<'_>, out: &mut Vec<u8>) {
        match self.extra {
            None => {}
            Some(Extra::Allow(methods)) => field("Allow", methods.as_bytes(), out),
            Some(Extra::Preflight(methods)) => {
                field("Allow", methods.as_bytes(), out);
                if !cx.cors.is_empty() {
                    field("Access-Control-Allow-Methods", methods.as_bytes(), out);
                    // With credentials `*` is no wildcard (Fetch 3.3.3), so the names are spelled out. A day is the
                    // longest that a browser caches a preflight (Firefox; Chromium two hours).
                    out.extend_from_slice(
                        b"Access-Control-Allow-Headers: Authorization, Content-Type, Last-Event-ID, Idempotency-Key, \
                          Cache-Control, X-Requested-With\r\n\
                          Access-Control-Max-Age: 86400\r\n",
                    );
                }
            }
            Some(Extra::RetryAfter(seconds)) => number_field("Retry-After", seconds.into(), out),
            Some(Extra::AcceptIdentity) => field("Accept-Encoding", b"identity", out),
            Some(Extra::Bearer) => field("WWW-Authenticate", b"Bearer", out),
            Some(Extra::StatusReason) => reason_field(self.body.strip_suffix(b"\n").unwrap_or(&self.body), out),
            Some(Extra::EventStream) => stream_fields(cx.version == Version::Http11, out),
            Some(Extra::Page) => out.extend_from_slice(
                b"Content-Security-Policy: default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; \
                  connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'\r\n\
                  X-Content-Type-Options: nosniff\r\nReferrer-Policy: no-referrer\r\n",
            ),
        }
    }
}

impl From<Refusal> for Response {
    /// Returns the refusal as `text/plain`: its reason and a line end.
    fn from(refusal: Refusal) -> Self {
        let Refusal { status, reason, close, extra, is_passing: _ } = refusal;
        // A reason may quote the client's text, and must stay one line.
        let visible = reason.bytes().map(|byte| if byte.is_ascii_control() { b' ' } else { byte });
        let body = visible.chain([b'\n']).collect::<Vec<_>>();
        Response { status, extra, close, ..Response::ok("text/plain; charset=utf-8", body) }
    }
}

/// Appends the fields of an event stream's head. HTTP/1.1 gets chunks, HTTP/1.0 plain bytes until the close.
fn stream_fields(is_chunked: bool, out: &mut Vec<u8>) {
    // Without `charset` some clients read Latin-1. Without `no-transform` (RFC 9111 section 5.2.2.6) proxies compress, and
    // those that do not flush deliver nothing at all: webpack-dev-server, express, HAProxy. Without
    // `X-Accel-Buffering: no` nginx buffers what it proxies.
    out.extend_from_slice(
        b"Content-Type: text/event-stream; charset=utf-8\r\nCache-Control: no-cache, no-transform\r\n\
          X-Accel-Buffering: no\r\n",
    );
    if is_chunked {
        out.extend_from_slice(b"Transfer-Encoding: chunked\r\n");
    }
}

/// Appends the head of a queue's stream with the operator's header lines, and with `reason` if it ends at once. Without
/// chunks the body lasts until the close.
pub(crate) fn encode_queue_head(
    lines: &[u8],
    reason: Option<&str>,
    is_chunked: bool,
    cx: &Context<'_>,
    out: &mut Vec<u8>,
) {
    start_head(Status::Ok, cx, out);
    out.extend_from_slice(lines);
    if let Some(reason) = reason {
        reason_field(reason.as_bytes(), out);
    }
    if is_chunked {
        out.extend_from_slice(b"Transfer-Encoding: chunked\r\n");
    }
    end_head(&Context { keep_alive: cx.keep_alive && is_chunked, ..*cx }, out);
}

/// Appends `X-Status-Reason`, where clients of eventsourced look for the reason.
fn reason_field(reason: &[u8], out: &mut Vec<u8>) {
    let visible = |byte: &u8| if byte.is_ascii_graphic() || *byte == b' ' { *byte } else { b'?' };
    field("X-Status-Reason", &reason.iter().map(visible).collect::<Vec<_>>(), out);
}

/// Appends the status line and the fields of every response.
fn start_head(status: Status, cx: &Context<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(itoa::Buffer::new().format(status.code()).as_bytes());
    out.push(b' ');
    out.extend_from_slice(status.phrase().as_bytes());
    out.extend_from_slice(b"\r\nDate: ");
    out.extend_from_slice(cx.date);
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(cx.cors);
}

/// Appends whether the connection stays open (RFC 9112 section 9.3), and the blank line.
fn end_head(cx: &Context<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(match (cx.keep_alive, cx.version) {
        (false, _) => b"Connection: close\r\n\r\n",
        (true, Version::Http10) => b"Connection: keep-alive\r\n\r\n",
        (true, Version::Http11) => b"\r\n",
    });
}

fn field(name: &str, value: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

fn number_field(name: &str, value: u64, out: &mut Vec<u8>) {
    field(name, itoa::Buffer::new().format(value).as_bytes(), out);
}

#[cfg(test)]
mod tests {
    use super::*;

    const CX: Context<'_> = Context {
        version: Version::Http11,
        keep_alive: true,
        head_only: false,
        date: b"Sun, 06 Nov 1994 08:49:37 GMT",
        cors: b"Access-Control-Allow-Origin: *\r\n",
    };

    fn text(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).unwrap()
    }

    fn json(cx: &Context<'_>) -> String {
        text(|out| assert_eq!(Response::json(b"{}".to_vec()).encode(cx, out), !cx.keep_alive))
    }

    #[test]
    fn an_answer_has_date_cors_type_length_and_is_not_cached() {
        assert_eq!(
            json(&CX),
            "HTTP/1.1 200 OK\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\nAccess-Control-Allow-Origin: *\r\n\
             Content-Type: application/json\r\nCache-Control: no-store\r\nContent-Length: 3\r\n\r\n{}\n"
        );
    }

    #[test]
    fn head_gets_the_same_fields_and_no_body() {
        assert_eq!(format!("{}{{}}\n", json(&Context { head_only: true, ..CX })), json(&CX));
    }

    #[test]
    fn each_version_is_told_what_it_would_not_assume_of_the_connection() {
        assert!(!json(&CX).contains("Connection"));
        assert!(json(&Context { keep_alive: false, ..CX }).contains("\r\nConnection: close\r\n"));
        let old = Context { version: Version::Http10, ..CX };
        assert!(json(&old).contains("\r\nConnection: keep-alive\r\n"));
        assert!(json(&Context { keep_alive: false, ..old }).contains("\r\nConnection: close\r\n"));
    }

    #[test]
    fn a_preflight_allows_the_fields_that_a_browser_client_sends_and_has_no_length() {
        let answer =
            text(|out| assert!(!Response::options(Extra::Preflight("POST, OPTIONS")).encode(&CX, out)));
        assert_eq!(
            answer,
            "HTTP/1.1 204 No Content\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\n\
             Access-Control-Allow-Origin: *\r\nAllow: POST, OPTIONS\r\n\
             Access-Control-Allow-Methods: POST, OPTIONS\r\n\
             Access-Control-Allow-Headers: Authorization, Content-Type, Last-Event-ID, Idempotency-Key, \
             Cache-Control, X-Requested-With\r\n\
             Access-Control-Max-Age: 86400\r\n\r\n"
        );
    }

    #[test]
    fn a_stream_is_chunked_for_http_1_1_and_ends_with_the_connection_for_http_1_0() {
        let head = |cx: &Context<'_>| text(|out| _ = Response::stream_head().encode(cx, out));
        let common = "HTTP/1.1 200 OK\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\n\
                      Access-Control-Allow-Origin: *\r\nContent-Type: text/event-stream; charset=utf-8\r\n\
                      Cache-Control: no-cache, no-transform\r\nX-Accel-Buffering: no\r\n";
        assert_eq!(head(&CX), format!("{common}Transfer-Encoding: chunked\r\n\r\n"));
        let old = Context { version: Version::Http10, ..CX };
        assert_eq!(head(&old), format!("{common}Connection: close\r\n\r\n"));
    }

    #[test]
    fn every_head_parses_as_http() {
        let heads = [
            json(&CX),
            text(|out| assert!(!Response::options(Extra::Preflight("GET")).encode(&CX, out))),
            text(|out| _ = Response::stream_head().encode(&CX, out)),
            text(|out| assert!(!Response::interim().encode(&CX, out))),
        ];
        for head in heads {
            let mut fields = [httparse::EMPTY_HEADER; 16];
            let parsed = httparse::Response::new(&mut fields).parse(head.as_bytes());
            assert!(parsed.unwrap().is_complete(), "{head}");
        }
    }
}
