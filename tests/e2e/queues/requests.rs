//! What is asked for at a queue's path, and what is answered.

use std::io::{Read, Write};

use super::*;
use crate::config_file::{Installed, SEED};

/// The seed's file, with an address and brokers that are there, and nothing else changed.
fn seed(url: &str) -> String {
    let seed = SEED.replace("0.0.0.0:2069", "127.0.0.1:0");
    ["10.0.0.11", "10.0.0.55"]
        .iter()
        .fold(seed, |seed, host| seed.replace(&format!("amqp://guest:guest@{host}:5672/"), url))
}

const CORS: [(&str, &str); 3] = [
    ("Access-Control-Allow-Origin", "*"),
    ("Access-Control-Allow-Methods", "GET, OPTIONS"),
    ("Access-Control-Allow-Headers", "Content-Type, Accept, Cache-Control"),
];

#[test]
fn eventsourceds_own_file_makes_streams_as_eventsourced_does() {
    let installed = Installed::new(&seed(url()));
    let server = installed.start(&[], &[]);
    wait_connected(&server, 3);
    let (publisher, queue) = (Publisher::new(), unique("seed"));
    let mut stream = Stream::open(&server, &format!("/?id={queue}"));
    let head = &stream.head;
    for (name, value) in [
        ("Content-Type", "text/event-stream; charset=utf-8"),
        ("Cache-Control", "no-cache"),
        ("X-Accel-Buffering", "no"),
        ("Connection", "close"),
    ]
    .into_iter()
    .chain(CORS)
    {
        assert_eq!(head.field(name), Some(value), "{head:?}");
        let times = head.head.to_lowercase().matches(&format!("\n{}:", name.to_lowercase())).count();
        assert_eq!(times, 1, "{name} in {head:?}");
    }
    // To the close, without chunks: a client that knows no coding called identity must not see one.
    assert_eq!((head.field("Transfer-Encoding"), head.field("Content-Length")), (None, None));
    assert_eq!(publisher.declare(&queue, true, Some(1_800_000)), Ok(()), "1800 s");

    publisher.queue(&queue, &["one", "two\nlines"]);
    let mut text = String::new();
    while text.matches("\n\n").count() < 3 {
        text += &stream.read_some().unwrap();
    }
    let (greeting, events) = text.split_once("\n\n").unwrap();
    assert!(greeting.starts_with(": SSE stream\nretry:") && greeting.contains("\nid: "), "{greeting}");
    let without_ids: Vec<_> = events.lines().filter(|line| !line.starts_with("id: ")).collect();
    assert_eq!(without_ids, ["data: one", "", "data: two", "data: lines", ""]);
    assert_eq!(refused(&server, &format!("/?id={queue}"), &[]), "another client has this queue");
    publisher.delete(&queue);
}

#[test]
fn without_a_word_on_its_coding_a_stream_is_chunked_and_goes_to_the_close_for_http_1_0() {
    let server = start(&SHORT);
    let (publisher, queue) = (Publisher::new(), unique("chunked"));
    let mut stream = Stream::open(&server, &format!("/?id={queue}"));
    assert_eq!(stream.head.field("Transfer-Encoding"), Some("chunked"));
    let greeting = stream.read_some().unwrap();
    assert!(greeting.starts_with(": SSE stream\nretry:") && greeting.ends_with("\n\n"), "{greeting}");
    publisher.queue(&queue, &["one"]);
    assert_eq!(stream.event().data, "one");
    drop(stream);

    let queue = unique("old");
    let mut stream = Stream::send(server.address, &format!("GET /?id={queue} HTTP/1.0\r\n\r\n"));
    assert_eq!((stream.head.status, stream.head.field("Transfer-Encoding")), (200, None));
    first_id(&mut stream);
    publisher.queue(&queue, &["one"]);
    assert_eq!(stream.event().data, "one");
}

#[test]
fn a_request_that_names_no_queue_is_refused_with_the_reason_in_a_header_and_nothing_it_sent() {
    let server = start(&[]);
    let long = "x".repeat(256);
    for (query, reason) in [
        ("", "no query parameter id, which names the queue; ask with ?id=..."),
        ("?", "no query parameter id, which names the queue; ask with ?id=..."),
        ("?id", "no query parameter id, which names the queue; ask with ?id=..."),
        ("?id=", "no query parameter id, which names the queue; ask with ?id=..."),
        ("?ID=hunter2&idx=hunter2", "no query parameter id, which names the queue; ask with ?id=..."),
        ("?id=amq.hunter2", "the queue's name begins with amq., as only the broker's own may"),
        ("?id=%61mq%2ehunter2", "the queue's name begins with amq., as only the broker's own may"),
        ("?id=hunter2%0D%0AX:y", "the queue's name has a control character"),
        ("?id=hunter2%00", "the queue's name has a control character"),
        (&format!("?id={long}"), "the queue's name takes 256 bytes; at most 255 are possible"),
    ] {
        assert_eq!(refused(&server, &format!("/{query}"), &[]), reason, "{query}");
    }
    // As long as can be, of letters that take two bytes each.
    let longest = "%C3%A9".repeat(127);
    assert_eq!(opened(&server, &format!("{longest}x"), None).head.status, 200);
    let answer = Answer::parse(&exchange(server.address, "GET", "/?id=amq.x", &[], ""));
    for (name, value) in CORS {
        assert_eq!(answer.field(name), Some(value), "a page may read why: {answer:?}");
    }
    assert!(!server.log().contains("hunter2"), "{}", server.log());
}

#[test]
fn options_says_what_there_is_and_other_methods_are_refused() {
    let server = start(&[]);
    let preflight = ["Origin: http://page.example", "Access-Control-Request-Method: GET"];
    for (path, fields) in [("/", &[][..]), ("/?id=x", &[]), ("/?id=x", &preflight)] {
        let answer = server.request("OPTIONS", path, fields, "");
        assert_eq!((answer.status, answer.body.as_str()), (204, ""), "{answer:?}");
        for (name, value) in CORS {
            assert_eq!(answer.field(name), Some(value), "{answer:?}");
        }
    }
    for method in ["HEAD", "POST", "PUT", "DELETE", "PATCH"] {
        let answer = server.request(method, "/?id=x", &[], "");
        assert_eq!(
            (answer.status, answer.field("Allow")),
            (405, Some("GET, OPTIONS")),
            "{method}: {answer:?}"
        );
        assert_eq!(answer.field("Access-Control-Allow-Origin"), Some("*"));
    }
    // The rest of the server is where it was.
    assert_eq!(server.get("/healthz").status, 200);
    assert_eq!(server.get("/elsewhere?id=x").status, 404);
}

#[test]
fn a_queue_is_named_by_query_cookie_and_text_in_any_mix() {
    let publisher = Publisher::new();
    let unique = unique("mix");
    for (pattern, path, cookie, queue) in [
        ("${cookie:sid}", "/", "Cookie: a=b; sid=_-c; x=y", "_-c"),
        ("queue-${query:id}-${cookie:sid}-name", "/?id=_", "Cookie: sid=d", "queue-_-d-name"),
        ("${query:a}${query:b}", "/?b=%2F%20%C3%A9&a=_", "X: y", "_/ é"),
    ] {
        let place = |text: &str| text.replace('_', &unique);
        let pattern = ["--queue-pattern", pattern];
        let server = start(&pattern);
        let mut stream = Stream::open_with(&server, &place(path), &[&place(cookie)]);
        assert_eq!(stream.head.status, 200, "{:?}", stream.head);
        first_id(&mut stream);
        let queue = place(queue);
        publisher.queue(&queue, &["here"]);
        assert_eq!(stream.event().data, "here", "{pattern:?}");
        publisher.delete(&queue);
    }
    let server = start(&["--queue-pattern", "${cookie:sid}"]);
    for fields in [&[][..], &["Cookie: sid="], &["Cookie: xsid=1; sidx=2"]] {
        assert_eq!(refused(&server, "/?sid=1", fields), "no cookie sid, which names the queue");
    }
}

#[test]
fn a_queues_path_may_be_another_and_is_then_the_only_one() {
    let server = start(&["--queue-path", "/live/queue"]);
    let queue = unique("path");
    assert_eq!(Stream::open(&server, &format!("/live/queue?id={queue}")).head.status, 200);
    assert_eq!(server.get(&format!("/?id={queue}")).status, 404);
}

#[test]
fn every_line_of_a_message_is_a_data_line_and_what_is_no_text_harms_nothing() {
    let server = start(&[]);
    let (publisher, queue) = (Publisher::new(), unique("lines"));
    let mut stream = opened(&server, &queue, None);
    let messages: [(&[u8], &str); 6] = [
        (b"a\nb\r\nc\rd", "a\nb\nc\nd"),
        (b" a space\n\nid: 7\n\nevent: x", " a space\n\nid: 7\n\nevent: x"),
        (b"", ""),
        (b"\xff\0end\n", "\u{fffd}\u{fffd}end\n"),
        ("Gr\u{fc}\u{df}e \u{1f600}".as_bytes(), "Gr\u{fc}\u{df}e \u{1f600}"),
        (b"last", "last"),
    ];
    publisher.queue(&queue, &messages.map(|(body, _)| body));
    let events = take(&mut stream, messages.len());
    assert_eq!(data(&events), messages.map(|(_, data)| data));
    assert!(events.iter().all(|event| event.name.is_empty() && event.id.len() > 10), "{events:?}");
}

#[test]
fn a_long_message_arrives_whole() {
    let server = start(&[]);
    let (publisher, queue) = (Publisher::new(), unique("long"));
    let mut stream = opened(&server, &queue, None);
    let long = "0123456789abcdef\n".repeat(300_000);
    publisher.queue(&queue, &[&*long, "short"]);
    let events = take(&mut stream, 2);
    assert!(events[0].data == long, "5 MB are the same");
    assert_eq!(events[1].data, "short");
}

#[test]
fn answers_before_a_stream_are_sent_before_it() {
    let server = start(&[]);
    let queue = unique("pipelined");
    let mut connection = server.connect();
    write!(
        connection,
        "GET /healthz HTTP/1.1\r\nHost: h\r\n\r\nGET /?id={queue} HTTP/1.1\r\nHost: h\r\n\r\n"
    )
    .unwrap();
    let mut text = String::new();
    while !text.contains(": SSE stream\n") {
        let mut bytes = [0; 512];
        let count = connection.read(&mut bytes).unwrap();
        assert!(count > 0, "{text}");
        text += str::from_utf8(&bytes[..count]).unwrap();
    }
    assert_eq!(text.matches("HTTP/1.1 200 OK\r\n").count(), 2, "{text}");
    assert!(text.find("Content-Length") < text.find("text/event-stream"), "{text}");
}
