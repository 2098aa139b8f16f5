use super::*;

const LIMITS: HttpLimits = HttpLimits {
    head_bytes_max: 16_384,
    body_bytes_max: 1000,
    headers_max: 12,
    target_bytes_max: TARGET_BYTES_MAX,
};

pub(in crate::http) fn parse(head: &str) -> Result<Head, Refusal> {
    Head::parse(&Bytes::copy_from_slice(head.as_bytes()), &LIMITS)
}

/// Parses a sound HTTP/1.1 head with these additional lines, each ended by CRLF.
pub(in crate::http) fn with(lines: &str) -> Result<Head, Refusal> {
    parse(&format!("POST / HTTP/1.1\r\nHost: h\r\n{lines}\r\n"))
}

fn target(target: &str) -> Result<Head, Refusal> {
    parse(&format!("GET {target} HTTP/1.1\r\nHost: h\r\n\r\n"))
}

#[track_caller]
pub(in crate::http) fn refused(result: Result<Head, Refusal>, status: Status, about: &str) {
    let refusal = result.unwrap_err();
    assert_eq!(refusal.status, status, "{refusal}");
    assert!(refusal.reason.contains(about), "{refusal}");
    assert!(refusal.close, "{refusal}");
}

pub(in crate::http) fn bad(result: Result<Head, Refusal>, about: &str) {
    refused(result, Status::BadRequest, about);
}

#[test]
fn a_publish_is_read_with_all_it_says() {
    let head = parse(
        "POST /publish/a%20b?token=t&wrap HTTP/1.1\r\nHost: h:3000\r\ncontent-LENGTH: 12\r\n\
         Content-Type:application/json\r\nAuthorization: Bearer x \t\r\nCookie: a=b; c=d\r\n\
         Origin: https://o.example\r\nLast-Event-ID:\r\nIdempotency-Key: \"k\"\r\nUser-Agent: u/1\r\n\
         X-Forwarded-For: 10.0.0.1\r\nX-Other: y\r\nExpect: 100-Continue\r\n\r\n",
    )
    .unwrap();
    assert_eq!((head.method, head.version), (Method::Post, Version::Http11));
    assert_eq!((&head.path[..], &head.query[..]), (&b"/publish/a%20b"[..], &b"token=t&wrap"[..]));
    assert_eq!(head.body, BodyLength::Length(12));
    assert!(head.keep_alive && head.expect_continue);
    assert_eq!(head.content_type.as_deref(), Some(&b"application/json"[..]));
    assert_eq!(head.authorization.as_deref(), Some(&b"Bearer x"[..]));
    assert_eq!(head.cookie.as_deref(), Some(&b"a=b; c=d"[..]));
    assert_eq!(head.origin.as_deref(), Some(&b"https://o.example"[..]));
    assert_eq!(head.last_event_id.as_deref(), Some(&b""[..]));
    assert_eq!(head.idempotency_key.as_deref(), Some(&b"\"k\""[..]));
    assert_eq!(head.user_agent.as_deref(), Some(&b"u/1"[..]));
    assert_eq!(head.forwarded_for.as_deref(), Some(&b"10.0.0.1"[..]));
}

#[test]
fn methods_are_told_apart_by_case() {
    for (name, method) in [
        ("GET", Method::Get),
        ("HEAD", Method::Head),
        ("POST", Method::Post),
        ("QUERY", Method::Query),
        ("OPTIONS", Method::Options),
        ("DELETE", Method::Other),
        ("FOO", Method::Other),
        ("get", Method::Other),
    ] {
        assert_eq!(parse(&format!("{name} / HTTP/1.1\r\nHost: h\r\n\r\n")).unwrap().method, method);
    }
}

#[test]
fn a_target_in_any_lawful_form_gives_path_and_query() {
    for (given, path, query) in [
        ("/", "/", ""),
        ("/a/b", "/a/b", ""),
        ("/a?", "/a", ""),
        ("/a?b?c=/d", "/a", "b?c=/d"),
        ("//a", "//a", ""),
        ("/http://x", "/http://x", ""),
        ("http://h/a?b", "/a", "b"),
        ("HTTPS://h:1/a", "/a", ""),
        ("http://h", "/", ""),
        ("http://h?b", "/", "b"),
        ("http://[::1]:3000/a", "/a", ""),
    ] {
        let head = target(given).unwrap();
        assert_eq!((&head.path[..], &head.query[..]), (path.as_bytes(), query.as_bytes()), "{given}");
    }
    assert_eq!(&parse("OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n").unwrap().path[..], b"*");
}

#[test]
fn a_malformed_target_is_refused() {
    for bad_target in ["*", "a", "h:80", "ftp://h/", "http://", "http:///a", "http://u@h/", "http:/a", "?a"] {
        bad(target(bad_target), "request target");
    }
    let connect = parse("CONNECT h:443 HTTP/1.1\r\nHost: h\r\n\r\n");
    refused(connect, Status::NotImplemented, "no proxy");
    for fragment in ["/a#b", "/#", "/a?b#c", "http://h#a"] {
        bad(target(fragment), "fragment");
    }
    for broken in ["/a b", "/a\tb", "/a\u{1}b", "/a\u{7f}b", "/a\0b", "", " /", "/ "] {
        bad(target(broken), "request line");
    }
}

#[test]
fn a_target_past_its_limit_is_414() {
    let fits = "/".repeat(TARGET_BYTES_MAX);
    assert!(target(&fits).is_ok());
    refused(target(&format!("{fits}/")), Status::UriTooLong, "8192 bytes");
}

#[test]
fn another_http_version_is_505_and_garbage_is_400() {
    for line in ["GET / HTTP/2.0", "PRI * HTTP/2.0", "GET / HTTP/0.9", "GET / HTTP/3.0"] {
        refused(parse(&format!("{line}\r\n\r\n")), Status::VersionNotSupported, "HTTP/1.1");
        refused(parse(&format!("{line}\n\n")), Status::VersionNotSupported, "HTTP/1.1");
    }
    for line in [
        "GET / HTTQ/1.1",
        "GET / http/1.1",
        "GET / HTTP/11",
        "GET / HTTP/1.1 ",
        "GET / HTTP/1.11",
        "GET /  HTTP/2.0",
        "GET / x HTTP/2.0",
        "GET / HTTP/2",
        "GET /",
        "GET",
        "G\u{1}T / HTTP/1.1",
        "GET\t/ HTTP/1.1",
    ] {
        bad(parse(&format!("{line}\r\nHost: h\r\n\r\n")), "request line");
    }
}

#[test]
fn a_later_minor_version_is_served_as_http_1_1() {
    for line_end in ["\r\n", "\n"] {
        for minor in 2..=9 {
            let head = format!("GET /a?b HTTP/1.{minor}{line_end}Host: h{line_end}{line_end}");
            assert_eq!(parse(&head), parse("GET /a?b HTTP/1.1\r\nHost: h\r\n\r\n"), "{head}");
        }
    }
    bad(parse("GET / HTTP/1.2\r\n\r\n"), "Host");
    bad(parse("GET  HTTP/1.2\r\nHost: h\r\n\r\n"), "request line");
}

#[test]
fn header_lines_that_servers_read_differently_are_refused() {
    bad(with("Content-Length : 5\r\n"), "header field");
    bad(with("Content-Length\t: 5\r\n"), "header field");
    bad(with("X: a\r\n b\r\n"), "header field");
    bad(with("X: a\r\n\tb\r\n"), "header field");
    bad(parse("GET / HTTP/1.1\r\n Host: h\r\n\r\n"), "header field");
    bad(with("no colon\r\n"), "header field");
    bad(with(": no name\r\n"), "header field");
    bad(with("X\0: a\r\n"), "header field");
    bad(with("X: a\rb\r\n"), "header value");
    bad(with("X: a\r\r\n"), "header value");
    bad(with("X: a\0b\r\n"), "header value");
    bad(with("X: a\u{1}b\r\n"), "header value");
    bad(with("X: a\u{7f}b\r\n"), "header value");
    bad(with("X:\r a\r\n"), "header value");
    bad(parse("GET / HTTP/1.1\rHost: h\r\n\r\n"), "request line");
}

#[test]
fn too_many_header_fields_are_431() {
    assert!(with(&"X: y\r\n".repeat(LIMITS.headers_max - 1)).is_ok());
    refused(with(&"X: y\r\n".repeat(LIMITS.headers_max)), Status::HeaderFieldsTooLarge, "too many");
}

#[test]
fn a_limit_on_header_fields_past_the_room_for_them_means_all_the_room() {
    let parse = |count: usize| {
        let head = format!("GET / HTTP/1.0\r\n{}\r\n", "X: y\r\n".repeat(count));
        Head::parse(&Bytes::from(head), &HttpLimits { headers_max: usize::MAX, ..LIMITS })
    };
    assert!(parse(HEADERS_CAPACITY).is_ok());
    refused(parse(HEADERS_CAPACITY + 1), Status::HeaderFieldsTooLarge, "too many");
}

#[test]
fn a_head_shown_for_debugging_hides_its_secrets() {
    let head = parse(
        "GET /a?token=SECRET HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer SECRET\r\n\
         Cookie: t=SECRET\r\n\r\n",
    );
    let shown = format!("{:?}", head.unwrap());
    assert!(shown.contains("/a") && !shown.contains("SECRET"), "{shown}");
}
