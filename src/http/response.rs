//! Answers as bytes. Each function appends one head, and its body if it has one, to the connection's buffer.

use super::{Status, Version};

/// What every answer needs to know of its request and of the moment.
#[derive(Clone, Copy)]
pub(crate) struct Context<'a> {
    /// The version of the request; the answer's own is always HTTP/1.1 (RFC 9110 section 6.2).
    pub(crate) version: Version,
    /// Whether the connection stays open after the answer.
    pub(crate) keep_alive: bool,
    /// A HEAD request: the same header fields, no body.
    pub(crate) head_only: bool,
    /// The time as an IMF-fixdate (RFC 9110 section 5.6.7).
    pub(crate) date: &'a [u8; 29],
    /// Ready header lines, from [`super::Cors::lines`].
    pub(crate) cors: &'a [u8],
}

/// The interim answer to `Expect: 100-continue` (RFC 9110 section 15.2.1).
pub(crate) const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// A whole answer with a body, not to be cached.
pub(crate) fn encode(status: Status, content_type: &str, body: &[u8], cx: &Context<'_>, out: &mut Vec<u8>) {
    start_head(status, cx, out);
    field("Content-Type", content_type.as_bytes(), out);
    out.extend_from_slice(b"Cache-Control: no-store\r\n");
    number_field("Content-Length", body.len() as u64, out);
    end_head(cx, out);
    if !cx.head_only {
        out.extend_from_slice(body);
    }
}

/// A page that needs nothing but itself and talks to nobody but this server, and is shown in no frame.
pub(crate) fn encode_page(page: &str, cx: &Context<'_>, out: &mut Vec<u8>) {
    start_head(Status::Ok, cx, out);
    out.extend_from_slice(
        b"Content-Type: text/html; charset=utf-8\r\nCache-Control: no-store\r\n\
          Content-Security-Policy: default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; \
          connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'\r\n\
          X-Content-Type-Options: nosniff\r\nReferrer-Policy: no-referrer\r\n",
    );
    number_field("Content-Length", page.len() as u64, out);
    end_head(cx, out);
    if !cx.head_only {
        out.extend_from_slice(page.as_bytes());
    }
}

/// The answer to OPTIONS, a CORS preflight or not. `allow_methods` is parted by `, `.
pub(crate) fn encode_preflight(allow_methods: &str, cx: &Context<'_>, out: &mut Vec<u8>) {
    start_head(Status::NoContent, cx, out);
    field("Allow", allow_methods.as_bytes(), out);
    if !cx.cors.is_empty() {
        field("Access-Control-Allow-Methods", allow_methods.as_bytes(), out);
        // With credentials `*` is no wildcard (Fetch 3.3.3), so the names are spelled out. A day is the longest
        // that a browser remembers a preflight (Firefox; Chromium two hours).
        out.extend_from_slice(
            b"Access-Control-Allow-Headers: Authorization, Content-Type, Last-Event-ID, Idempotency-Key, \
              Cache-Control\r\n\
              Access-Control-Max-Age: 86400\r\n",
        );
    }
    end_head(cx, out);
}

/// The head of an event stream. HTTP/1.1 gets its blocks as chunks, HTTP/1.0 gets them bare, to the close.
pub(crate) fn encode_stream_head(cx: &Context<'_>, out: &mut Vec<u8>) {
    start_head(Status::Ok, cx, out);
    // nginx holds back what it proxies unless X-Accel-Buffering says no.
    out.extend_from_slice(
        b"Content-Type: text/event-stream\r\nCache-Control: no-cache\r\nX-Accel-Buffering: no\r\n",
    );
    match cx.version {
        Version::Http11 => {
            out.extend_from_slice(b"Transfer-Encoding: chunked\r\n");
            end_head(cx, out);
        }
        Version::Http10 => end_head(&Context { keep_alive: false, ..*cx }, out),
    }
}

/// The head of an event stream in header lines of the operator's own, with the reason if it ends at once. To the close
/// when it is not chunked.
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
        reason_field(reason, out);
    }
    if is_chunked {
        out.extend_from_slice(b"Transfer-Encoding: chunked\r\n");
    }
    end_head(&Context { keep_alive: cx.keep_alive && is_chunked, ..*cx }, out);
}

/// `X-Status-Reason`, where a client looks that knows no other server's answers.
pub(super) fn reason_field(reason: &str, out: &mut Vec<u8>) {
    let visible = |byte: u8| if byte.is_ascii_graphic() || byte == b' ' { byte } else { b'?' };
    field("X-Status-Reason", &reason.bytes().map(visible).collect::<Vec<_>>(), out);
}

/// The answer to OPTIONS where all that it says is the operator's own.
pub(crate) fn encode_methods(allow_methods: &str, cx: &Context<'_>, out: &mut Vec<u8>) {
    start_head(Status::NoContent, cx, out);
    field("Allow", allow_methods.as_bytes(), out);
    end_head(cx, out);
}

/// Status line and the fields of every answer.
pub(super) fn start_head(status: Status, cx: &Context<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(itoa::Buffer::new().format(status.code()).as_bytes());
    out.push(b' ');
    out.extend_from_slice(status.phrase().as_bytes());
    out.extend_from_slice(b"\r\nDate: ");
    out.extend_from_slice(cx.date);
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(cx.cors);
}

/// What becomes of the connection (RFC 9112 section 9.3), and the blank line.
pub(super) fn end_head(cx: &Context<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(match (cx.keep_alive, cx.version) {
        (false, _) => b"Connection: close\r\n\r\n",
        (true, Version::Http10) => b"Connection: keep-alive\r\n\r\n",
        (true, Version::Http11) => b"\r\n",
    });
}

pub(super) fn field(name: &str, value: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

pub(super) fn number_field(name: &str, value: u64, out: &mut Vec<u8>) {
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
        text(|out| encode(Status::Ok, "application/json", b"{}", cx, out))
    }

    #[test]
    fn an_answer_has_date_cors_type_length_and_is_not_cached() {
        assert_eq!(
            json(&CX),
            "HTTP/1.1 200 OK\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\nAccess-Control-Allow-Origin: *\r\n\
             Content-Type: application/json\r\nCache-Control: no-store\r\nContent-Length: 2\r\n\r\n{}"
        );
    }

    #[test]
    fn head_gets_the_same_fields_and_no_body() {
        assert_eq!(format!("{}{{}}", json(&Context { head_only: true, ..CX })), json(&CX));
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
        let answer = text(|out| encode_preflight("POST, OPTIONS", &CX, out));
        assert_eq!(
            answer,
            "HTTP/1.1 204 No Content\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\n\
             Access-Control-Allow-Origin: *\r\nAllow: POST, OPTIONS\r\n\
             Access-Control-Allow-Methods: POST, OPTIONS\r\n\
             Access-Control-Allow-Headers: Authorization, Content-Type, Last-Event-ID, Idempotency-Key, \
             Cache-Control\r\n\
             Access-Control-Max-Age: 86400\r\n\r\n"
        );
    }

    #[test]
    fn a_stream_is_chunked_for_http_1_1_and_ends_with_the_connection_for_http_1_0() {
        let head = |cx: &Context<'_>| text(|out| encode_stream_head(cx, out));
        let common = "HTTP/1.1 200 OK\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\n\
                      Access-Control-Allow-Origin: *\r\nContent-Type: text/event-stream\r\n\
                      Cache-Control: no-cache\r\nX-Accel-Buffering: no\r\n";
        assert_eq!(head(&CX), format!("{common}Transfer-Encoding: chunked\r\n\r\n"));
        let old = Context { version: Version::Http10, ..CX };
        assert_eq!(head(&old), format!("{common}Connection: close\r\n\r\n"));
    }

    #[test]
    fn every_head_parses_as_http() {
        let heads = [
            json(&CX),
            text(|out| encode_preflight("GET", &CX, out)),
            text(|out| encode_stream_head(&CX, out)),
            String::from_utf8(CONTINUE.to_vec()).unwrap(),
        ];
        for head in heads {
            let mut fields = [httparse::EMPTY_HEADER; 16];
            let parsed = httparse::Response::new(&mut fields).parse(head.as_bytes());
            assert!(parsed.unwrap().is_complete(), "{head}");
        }
    }
}
