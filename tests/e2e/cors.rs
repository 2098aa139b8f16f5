//! What pages of other origins may read, and what caches and proxies are told.

use crate::support::{Answer, Client, Server, Stream};

#[test]
fn a_stream_says_that_it_is_not_to_be_cached_nor_held_back() {
    let server = Server::start(&[]);
    let stream = Stream::open(&server, "/subscribe/headers01");
    assert!(stream.head.head.starts_with("HTTP/1.1 200 OK\r\n"));
    for (name, value) in [
        ("Content-Type", "text/event-stream; charset=utf-8"),
        ("Cache-Control", "no-cache, no-transform"),
        ("X-Accel-Buffering", "no"),
        ("Transfer-Encoding", "chunked"),
        ("Access-Control-Allow-Origin", "*"),
    ] {
        assert_eq!(stream.head.field(name), Some(value));
    }
    assert_eq!((stream.head.field("Connection"), stream.head.field("Content-Length")), (None, None));
}

#[test]
fn any_page_may_read_the_answers_by_default_without_credentials() {
    let server = Server::start(&[]);
    let origin = "Origin: https://anywhere.example";
    for (method, path, body, status) in [
        ("POST", "/publish/crossing1", "data: x", 200),
        ("POST", "/publish/crossing1", "no data", 400),
        ("GET", "/healthz", "", 200),
        ("GET", "/nowhere", "", 404),
        ("OPTIONS", "/publish/crossing1", "", 204),
        ("OPTIONS", "*", "", 204),
    ] {
        for fields in [&[][..], &[origin], &["Origin: null"]] {
            let answer = server.request(method, path, fields, body);
            assert_eq!(answer.status, status, "{method} {path}");
            assert_eq!(answer.field("Access-Control-Allow-Origin"), Some("*"), "{method} {path}");
            assert_eq!(answer.field("Access-Control-Allow-Credentials"), None, "{method} {path}");
        }
    }
    let stream = Stream::open_with(&server, "/subscribe/crossing1", &[origin]);
    assert_eq!(stream.head.field("Access-Control-Allow-Origin"), Some("*"));
    // What shows the broker from inside is for no page of another origin.
    for path in ["/stats", "/metrics", "/debug/vars", "/admin/status.json", "/admin/"] {
        let answer = server.request("GET", path, &[origin], "");
        assert_eq!((answer.status, answer.field("Access-Control-Allow-Origin")), (200, None), "{path}");
    }
}

#[test]
fn pages_below_a_domain_may_read_the_answers_and_those_without_an_origin_without_credentials() {
    let server = Server::start(&["--cors-origin", "https://*.Example.org:8443,null"]);
    for (origin, allowed, credentials) in [
        ("https://a.example.org:8443", true, Some("true")),
        ("https://a.b.example.org:8443", true, Some("true")),
        ("null", true, None),
        ("https://example.org:8443", false, None),
        ("https://a.example.org", false, None),
        ("https://aexample.org:8443", false, None),
    ] {
        let field = format!("Origin: {origin}");
        let preflight = [&*field, "Access-Control-Request-Method: POST"];
        for answer in [
            server.request("POST", "/publish/crossing3", &[&field], "data: x"),
            server.request("GET", "/nowhere", &[&field], ""),
            server.request("OPTIONS", "/publish/crossing3", &preflight, ""),
            Stream::open_with(&server, "/subscribe/crossing3", &[&field]).head,
            Client::new(&server).ask(format!("GET /healthz HTTP/1.1\r\nHost: x\r\n{field}\r\n\r\n")),
        ] {
            assert_eq!(answer.field("Access-Control-Allow-Origin"), allowed.then_some(origin), "{answer:?}");
            assert_eq!(answer.field("Access-Control-Allow-Credentials"), credentials, "{answer:?}");
            assert_eq!(answer.field("Vary"), Some("Origin"), "{answer:?}");
        }
    }
}

#[test]
fn pages_of_listed_origins_alone_may_read_the_answers_and_send_credentials() {
    let flags = ["--cors-origin", "https://one.example", "--cors-origin", "http://two.example:8080"];
    let server = Server::start(&flags);
    let check = |answer: &Answer, allowed: Option<&str>| {
        assert_eq!(answer.field("Access-Control-Allow-Origin"), allowed, "{answer:?}");
        assert_eq!(answer.field("Access-Control-Allow-Credentials"), allowed.map(|_| "true"), "{answer:?}");
        assert_eq!(answer.field("Vary"), Some("Origin"), "{answer:?}");
    };
    for (origin, is_allowed) in [
        ("https://one.example", true),
        ("http://two.example:8080", true),
        ("http://one.example", false),
        ("http://two.example", false),
        ("https://one.example.evil.example", false),
        ("https://evil-one.example", false),
        ("null", false),
        ("", false),
    ] {
        let allowed = is_allowed.then_some(origin);
        let field = format!("Origin: {origin}");
        for (method, path, body) in [
            ("POST", "/publish/crossing2", "data: x"),
            ("POST", "/publish/crossing2", ""),
            ("GET", "/healthz", ""),
            ("GET", "/nowhere", ""),
            ("OPTIONS", "/subscribe/crossing2", ""),
        ] {
            check(&server.request(method, path, &[&field], body), allowed);
        }
        check(&Stream::open_with(&server, "/subscribe/crossing2", &[&field]).head, allowed);
    }
    check(&server.get("/healthz"), None);
}

#[test]
fn a_preflight_allows_what_a_publisher_in_a_browser_sends() {
    let server = Server::start(&[]);
    let mut client = Client::new(&server);
    for (path, methods) in [
        ("/publish/preflight", "POST, OPTIONS"),
        ("/subscribe/preflight", "GET, HEAD, OPTIONS"),
        ("/stats", "GET, HEAD, OPTIONS"),
        ("/healthz", "GET, HEAD, OPTIONS"),
        ("*", "GET, HEAD, POST, QUERY, OPTIONS"),
        ("/subscribe", "GET, HEAD, POST, QUERY, OPTIONS"),
        ("/ticket", "POST, OPTIONS"),
        ("/renew", "POST, OPTIONS"),
    ] {
        client.send(format!(
            "OPTIONS {path} HTTP/1.1\r\nHost: h\r\nOrigin: https://o.example\r\n\
             Access-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: authorization,content-type\r\n\r\n"
        ));
        let answer = client.answer();
        assert_eq!(answer.status, 204, "{path}");
        assert_eq!(answer.field("Allow"), Some(methods), "{path}");
        assert_eq!(answer.field("Access-Control-Allow-Methods"), Some(methods), "{path}");
        let fields = answer.field("Access-Control-Allow-Headers").unwrap().to_ascii_lowercase();
        for field in ["authorization", "content-type", "last-event-id", "idempotency-key"] {
            assert!(fields.split(", ").any(|allowed| allowed == field), "{path}: {fields}");
        }
        assert!(answer.field("Access-Control-Max-Age").is_some());
        assert_eq!((answer.field("Content-Length"), answer.field("Transfer-Encoding")), (None, None));
    }
    client.assert_open();
}

#[test]
fn a_listed_origin_may_read_why_it_was_refused() {
    let server = Server::start(&["--cors-origin", "https://one.example", "--body-max", "1KiB"]);
    for (status, rest) in [
        (400, "Content-Length: 5\r\n\r\nevent"),
        (404, "\r\n"),
        (413, "Content-Length: 1025\r\n\r\n"),
        (413, "Transfer-Encoding: chunked\r\n\r\n401\r\n"),
        (400, "Transfer-Encoding: chunked\r\n\r\nzz\r\n"),
        (501, "Transfer-Encoding: gzip, chunked\r\n\r\n"),
        (417, "Expect: else\r\n\r\n"),
        (400, "Content-Type: a\r\nContent-Type: b\r\n\r\n"),
        (400, "Content-Length: five\r\n\r\n"),
    ] {
        let path = if status == 404 { "/nowhere" } else { "/publish/origin001" };
        let mut client = Client::new(&server);
        client.send(format!("POST {path} HTTP/1.1\r\nHost: h\r\nOrigin: https://one.example\r\n{rest}"));
        let answer = client.answer();
        assert_eq!(answer.status, status, "{rest:?}");
        assert_eq!(answer.field("Access-Control-Allow-Origin"), Some("https://one.example"), "{rest:?}");
        assert_eq!(answer.field("Vary"), Some("Origin"), "{rest:?}");
    }
}
