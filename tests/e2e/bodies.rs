//! Bodies of publishes, and the events that subscribers get of them.

use crate::support::{Event, Server, Stream};

/// Publishes, and returns the answer's id and the events that a subscriber got.
fn roundtrip(
    server: &Server,
    stream: &mut Stream,
    target: &str,
    field: &str,
    body: &str,
) -> (String, Vec<Event>) {
    let answer = server.request("POST", target, &[field], body);
    let count = answer.json()["events"].as_u64().unwrap();
    (answer.id(), (0..count).map(|_| stream.event()).collect())
}

#[test]
fn event_stream_text_reaches_subscribers_as_it_was_meant() {
    let server = Server::start(&[]);
    let mut stream = Stream::open(&server, "/subscribe/texts0001");
    // What was sent, and the lines of each event without the id that the broker adds.
    for (body, expected) in [
        ("data: x", &["data: x"][..]),
        ("data: x\n", &["data: x"]),
        ("data: x\n\n\n\n", &["data: x"]),
        ("\n\n\ndata: x", &["data: x"]),
        ("data:x\r\ndata:y\r\n\r\n", &["data:x\ndata:y"]),
        ("data:x\rdata:y\r\r", &["data:x\ndata:y"]),
        ("data:1\n\ndata:2\r\n\r\ndata:3\r\rdata:4", &["data:1", "data:2", "data:3", "data:4"]),
        ("event: e\ndata: {\"a\": 1}\nretry: 1000", &["event: e\ndata: {\"a\": 1}\nretry: 1000"]),
        (": comment\ndata: x\n:", &[": comment\ndata: x\n:"]),
        (": alone\n\ndata: x", &[": alone\ndata: x"]),
        ("data: x\n\n: last", &["data: x\n: last"]),
        ("unknown: field\ndata: x\nno colon", &["unknown: field\ndata: x\nno colon"]),
        ("data", &["data"]),
        ("data:", &["data:"]),
        ("data:  two spaces \n", &["data:  two spaces "]),
        ("data: müsli \u{1f600}", &["data: müsli \u{1f600}"]),
        ("\u{feff}data: x", &["data: x"]),
        ("id:\ndata: x", &["id:\ndata: x"]),
    ] {
        // What the type says does not matter: these are curl's and fetch's own.
        for field in
            ["Content-Type: application/x-www-form-urlencoded", "Content-Type: text/plain;charset=UTF-8"]
        {
            let (id, events) = roundtrip(&server, &mut stream, "/publish/texts0001", field, body);
            let lines: Vec<_> = events.iter().map(|event| event.lines.clone()).collect();
            let (head, sequence) = id.split_once('-').unwrap();
            let last: usize = sequence.parse().unwrap();
            let with_ids: Vec<_> = (last + 1 - expected.len()..=last)
                .zip(expected)
                .map(|(n, lines)| format!("{lines}\nid:{head}-{n}"))
                .collect();
            assert_eq!(lines, with_ids, "{body:?}");
            assert_eq!(events.last().unwrap().id, id, "{body:?}");
        }
    }
}

#[test]
fn a_publishers_own_id_is_kept_and_is_the_answers_id() {
    let server = Server::start(&[]);
    let mut stream = Stream::open(&server, "/subscribe/ownids001");
    for (body, id) in [
        ("id: a\ndata: x", "a"),
        ("data: x\nid:b:c", "b:c"),
        ("id: first\nid: second\ndata: x", "second"),
        ("id: \u{e9}\u{1f600} \"quoted\\\"\ndata: x", "\u{e9}\u{1f600} \"quoted\\\""),
        ("data: 1\n\nid: last\ndata: 2", "last"),
    ] {
        let (answered, events) = roundtrip(&server, &mut stream, "/publish/ownids001", "X: y", body);
        assert_eq!(answered, id, "{body:?}");
        let lines: Vec<_> = body.split("\n\n").collect();
        assert_eq!(events.last().unwrap().lines, *lines.last().unwrap(), "{body:?}");
        assert_eq!(events.last().unwrap().id, id, "{body:?}");
    }
}

#[test]
fn json_and_wrapped_bodies_are_the_data_of_one_event() {
    let server = Server::start(&[]);
    let mut stream = Stream::open(&server, "/subscribe/wrapped01");
    let json_type = "Content-Type: application/json";
    for (field, query, body, name, data) in [
        (json_type, "", "{\"a\":1}", "", "{\"a\":1}"),
        (json_type, "", "{\"a\":1}\n", "", "{\"a\":1}"),
        ("Content-Type: Application/JSON; charset=utf-8", "", "[1,\r\n2]", "", "[1,\n2]"),
        (json_type, "?event=testing", "null", "testing", "null"),
        (json_type, "?event=a%20b+c&x=y", "\"data: x\\n\\ndata: y\"", "a b c", "\"data: x\\n\\ndata: y\""),
        ("X: y", "?wrap", "any text", "", "any text"),
        ("X: y", "?wrap=", "data: x\n\ndata: y", "", "data: x\n\ndata: y"),
        ("X: y", "?event=e&wrap=1", " leading\n\ntrailing\n", "e", " leading\n\ntrailing\n"),
        ("Content-Type: text/event-stream", "?wrap&event=%C3%A9", "\r", "\u{e9}", "\n"),
    ] {
        let target = format!("/publish/wrapped01{query}");
        let (id, events) = roundtrip(&server, &mut stream, &target, field, body);
        assert_eq!(events.len(), 1, "{body:?}");
        let event = &events[0];
        assert_eq!((&*event.name, &*event.data, &event.id), (name, data, &id), "{query} {body:?}");
    }
    // An id of the publisher's is in the query, for here no line of the body is one.
    let (id, events) = roundtrip(&server, &mut stream, "/publish/wrapped01?id=my+id", json_type, "1");
    assert_eq!((&*id, &*events[0].id, &*events[0].data), ("my id", "my id", "1"));
    // These are event-stream text, though they look alike.
    for field in
        ["Content-Type: application/jsonp", "Content-Type: text/jsonx", "Content-Type: application/json+x"]
    {
        assert_eq!(
            server.request("POST", "/publish/wrapped01?event=e", &[field], "{}").status,
            400,
            "{field}"
        );
    }
}

#[test]
fn without_history_subscribers_get_exactly_the_publishers_lines() {
    let server = Server::start(&["--history-events", "0"]);
    let mut stream = Stream::resume(&server, "bare00001", "whatever");
    for (body, wire) in [
        ("data: x", "data: x\n\n"),
        ("event: testing\ndata: {\"some\":\"data\"}\n", "event: testing\ndata: {\"some\":\"data\"}\n\n"),
        ("data:1\r\n\r\n\r\ndata:2\rretry:5\r", "data:1\n\ndata:2\nretry:5\n\n"),
        ("id:\nid: own\n: comment\nfoo: bar\ndata", "id:\nid: own\n: comment\nfoo: bar\ndata\n\n"),
        ("id:\ndata: x", "id:\ndata: x\n\n"),
    ] {
        let answer = server.post("/publish/bare00001", body);
        assert!(answer.json()["id"].is_string());
        assert_eq!(stream.read_some().as_deref(), Some(wire), "{body:?}");
    }
    // The same bytes for HTTP/1.0, without a chunk around them.
    let request = "GET /subscribe/bare00001 HTTP/1.0\r\n\r\n";
    let mut plain = Stream::send(server.address, request);
    server.post("/publish/bare00001", "data: a\rdata: b");
    let lines: Vec<_> = (0..3).map(|_| plain.read_some().unwrap()).collect();
    assert_eq!(lines.concat(), "data: a\ndata: b\n\n");
}
