use super::super::layer::{Setting, Written};
use super::*;

#[test]
fn a_later_value_takes_a_headers_place_in_any_case_of_its_name() {
    let mut files = Layer::default();
    for (name, value) in
        [("cache-control", Some("no-store")), ("X-Accel-Buffering", None), ("X-New", Some(""))]
    {
        let values = value.map(|value| (1, value.to_owned())).into_iter().collect();
        files.insert(&format!("header.sse.{name}"), Setting { written: Written::Flag, values });
    }
    let (_, headers) = of_files(&files);
    let in_force = in_force(headers.clone());
    let pairs: Vec<(&str, &str)> = in_force.iter().map(|(name, value)| (&**name, &**value)).collect();
    assert_eq!(
        pairs,
        [("Content-Type", "text/event-stream; charset=utf-8"), ("cache-control", "no-store"), ("X-New", "")]
    );
    assert_eq!(headers.len(), 4, "what was taken away is remembered");
}

#[test]
fn a_header_that_would_break_the_answer_is_refused_with_the_mend() {
    const CORS: bool = false;
    const SSE: bool = true;
    for (of_streams, name, value, reason) in [
        (SSE, "", Some(""), "not a header's name; "),
        (SSE, "X Y", Some(""), "not a header's name; "),
        (SSE, "X:", Some(""), "not a header's name; "),
        (SSE, "X\r\nY", Some(""), "not a header's name; "),
        (SSE, "é", Some(""), "not a header's name; "),
        (SSE, "content-length", Some("0"), "a stream has no length"),
        (CORS, "Content-Length", None, "a stream has no length"),
        (CORS, "CONNECTION", Some("close"), "it is between the server and the next hop"),
        (SSE, "Keep-Alive", Some("timeout=5"), "it is between the server and the next hop"),
        (SSE, "Upgrade", Some("websocket"), "a stream stays HTTP/1.1; "),
        (SSE, "Trailer", Some("X"), "a stream has none; "),
        (SSE, "TE", Some("trailers"), "it belongs in a request; "),
        (SSE, "Date", Some("today"), "the server writes the time itself; "),
        (CORS, "X-Status-Reason", Some("x"), "the server says there why it refuses; "),
        (CORS, "Content-Type", Some("text/event-stream"), "this is for answers of every kind; "),
        (CORS, "Transfer-Encoding", Some("chunked"), "this is for answers of every kind; "),
        (SSE, "Content-Type", None, "browsers take no stream without it; "),
        (SSE, "Content-Type", Some("text/html"), "text/html: browsers take no such stream; "),
        (SSE, "Content-Type", Some("text/event-streams"), "text/event-streams: browsers take no such"),
        (SSE, "Transfer-Encoding", Some("gzip"), "gzip: not done here; "),
        (SSE, "Transfer-Encoding", Some("gzip, chunked"), "gzip, chunked: not done here; "),
        (SSE, "X", Some("a\r\nSet-Cookie: b"), "a value with other than visible ASCII"),
        (SSE, "X", Some("a\0"), "a value with other than visible ASCII"),
        (SSE, "X", Some("é"), "a value with other than visible ASCII"),
    ] {
        let refused = check(of_streams, name, value).unwrap_err();
        assert!(refused.starts_with(reason) && refused.contains("; "), "{name}: {refused}");
        assert!(!refused.contains(['\r', '\n']), "{refused}");
    }
    for (name, value) in [
        ("Content-Type", Some("Text/Event-Stream ; charset=utf-8")),
        ("transfer-encoding", Some("Identity")),
        ("Transfer-Encoding", Some("chunked")),
        ("Transfer-Encoding", None),
        ("X-Accel-Buffering", Some("no")),
        ("X-Tab", Some("a\tb")),
        ("X-Empty", Some("")),
    ] {
        assert_eq!(check(SSE, name, value), Ok(()), "{name}");
    }
}

#[test]
fn a_stream_has_no_header_twice_and_always_a_content_type() {
    let pairs = |names: &[&str]| -> Vec<(String, String)> {
        let value = |name: &str| if name == "Content-Type" { "text/event-stream" } else { "v" };
        names.iter().map(|name| ((*name).to_owned(), value(name).to_owned())).collect()
    };
    for (cors, sse, reason) in [
        (&["A"][..], &["B"][..], "header.sse has no Content-Type"),
        (&["A", "a"], &["Content-Type"], "header.cors.a: there twice; "),
        (&["A"], &["Content-Type", "a"], "header.cors.A: a stream would have it twice, by header.sse.A"),
        (&["Date"], &["Content-Type"], "header.cors.Date: the server writes the time itself; "),
    ] {
        let refused =
            check_all(&of_fields("cors", &pairs(cors)), &of_fields("sse", &pairs(sse))).unwrap_err();
        assert!(refused.starts_with(reason), "{refused}");
    }
    let (cors, sse) = of_files(&Layer::default());
    assert_eq!(check_all(&cors, &sse), Ok(()));
}
