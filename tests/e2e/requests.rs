//! Requests as HTTP lets clients write them, and what publishers and subscribers get for them.

use std::io::Write;
use std::thread;

use serde_json::json;

use crate::support::{Answer, Client, Server, Stream, eventually, publish_request, wait_until};

#[test]
fn a_connection_serves_one_request_after_another() {
    let server = Server::start(&[]);
    let mut stream = Stream::open(&server, "/subscribe/kept00001");
    let mut client = Client::new(&server);
    for n in 0..20 {
        let answer = client.ask(publish_request("/publish/kept00001", "", &format!("data: {n}\nid: id-{n}")));
        assert_eq!(answer.json(), json!({"id": format!("id-{n}"), "events": 1}));
        assert_eq!(answer.field("Content-Type"), Some("application/json"));
        assert_eq!(answer.field("Connection"), None);
        client.assert_open();
        // Some clients send a line end behind a body.
        client.send("\r\n");
    }
    assert_eq!(stream.data_until("19").len(), 20);
    let bye = client.ask("GET /healthz HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
    assert_eq!((bye.status, bye.field("Connection")), (200, Some("close")));
    client.assert_closed();
}

#[test]
fn thousands_of_pipelined_publishes_are_answered_in_order() {
    // With room for one message between shards each publish waits for the one before it, and none is lost.
    for flags in [&[][..], &["--mailbox-messages", "1"], &["--unanswered-max", "3"]] {
        let server = Server::start(flags);
        let mut streams = [(); 3].map(|()| Stream::open(&server, "/subscribe/pipeline1"));
        let mut client = Client::new(&server);
        let mut sender = client.sender();
        let sending = thread::spawn(move || {
            let requests: String = (0..3000)
                .map(|n| publish_request("/publish/pipeline1", "", &format!("id: {n}\ndata: {n}")))
                .collect();
            sender.write_all(requests.as_bytes()).unwrap();
        });
        for n in 0..3000 {
            let answer = client.answer();
            assert_eq!((answer.status, n, flags), (200, n, flags), "{}", answer.body);
            assert_eq!(answer.json(), json!({"id": n.to_string(), "events": 1}));
        }
        sending.join().unwrap();
        let expected: Vec<_> = (0..3000).map(|n| n.to_string()).collect();
        for stream in &mut streams {
            assert_eq!(stream.data_until("2999"), expected, "{flags:?}");
        }
        client.assert_open();
    }
}

#[test]
fn answers_of_every_kind_keep_the_order_of_their_requests() {
    let server = Server::start(&[]);
    let round = [
        publish_request("/publish/mixture01", "", "data: a\nid: first"),
        "GET /stats HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned(),
        publish_request("/publish/mixture02", "", "event: without data"),
        "HEAD /healthz HTTP/1.1\r\nHost: h\r\n\r\n".to_owned(),
        publish_request("/publish/mixture03", "", "data: b\nid: second"),
        publish_request("/nowhere", "", "data: c"),
        "OPTIONS /publish/mixture01 HTTP/1.1\r\nHost: h\r\n\r\n".to_owned(),
        "GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n".to_owned(),
    ]
    .concat();
    let mut client = Client::new(&server);
    client.send(round.repeat(20));
    for _ in 0..20 {
        assert_eq!(client.answer().id(), "first");
        assert!(client.answer().body.contains("\"uptime_s\""));
        assert_eq!(client.answer().status, 400);
        assert_eq!(client.head().status, 200);
        assert_eq!(client.answer().id(), "second");
        assert_eq!(client.answer().status, 404);
        assert_eq!(client.answer().status, 204);
        assert_eq!(client.answer().body, "ok\n");
    }
    client.end();
    client.assert_closed();
}

#[test]
fn what_was_published_is_answered_though_the_client_stops_within_the_next_request() {
    // It sends whole publishes and a part of another one, and closes its side.
    let server = Server::start(&[]);
    for round in 0..20 {
        let whole = (0..50)
            .map(|n| {
                publish_request(&format!("/publish/halfway{n:03}"), "", &format!("id: {n}\ndata: {round}"))
            })
            .collect::<String>();
        let part = "POST /publish/halfway00 HTTP/1.1\r\nHost: h\r\nContent-Length: 100\r\n\r\ndata: never";
        for part in [part, "POST /publish/half", ""] {
            let mut client = Client::new(&server);
            client.send(format!("{whole}{part}"));
            client.end();
            for n in 0..50 {
                let answer =
                    client.try_answer().unwrap_or_else(|| panic!("no answer to {n} before {part:?}"));
                assert_eq!(answer.id(), n.to_string());
            }
        }
    }
}

#[test]
fn a_subscription_may_follow_publishes_on_one_connection() {
    let server = Server::start(&[]);
    let mut client = Client::new(&server);
    client.send(publish_request("/publish/become001", "", "data: before\nid: own"));
    client.send("GET /subscribe/become001 HTTP/1.1\r\nHost: h\r\nLast-Event-ID: none\r\n\r\n");
    assert_eq!(client.answer().id(), "own");
    let head = client.head();
    assert_eq!((head.status, head.field("Content-Type")), (200, Some("text/event-stream; charset=utf-8")));
    server.post("/publish/become001", "data: after\nid: other");
    let mut text = String::new();
    while !text.contains("data: after") {
        text += &client.line();
    }
    assert!(text.contains("data: before\nid: own\n\n"), "{text:?}");
}

#[test]
fn a_chunked_body_may_be_split_anywhere() {
    let server = Server::start(&[]);
    let mut stream = Stream::open(&server, "/subscribe/chunked01");
    let mut client = Client::new(&server);
    let request = "POST /publish/chunked01 HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n\
                   6;name=\"value\"\r\ndata: \r\n00b\r\nhello\nid: o\r\n2 ; x\r\nwn\r\n0\r\nTrailer: t\r\n\r\n";
    let expect = |client: &mut Client, stream: &mut Stream| {
        assert_eq!(client.answer().json(), json!({"id": "own", "events": 1}));
        assert_eq!(stream.event().lines, "data: hello\nid: own");
    };
    for split in 1..request.len() {
        let (first, second) = request.split_at(split);
        client.send(first);
        client.send(second);
        expect(&mut client, &mut stream);
    }
    for byte in request.bytes() {
        client.send([byte]);
    }
    expect(&mut client, &mut stream);
    client.send(request.repeat(3));
    for _ in 0..3 {
        expect(&mut client, &mut stream);
    }
}

#[test]
fn a_client_that_waits_for_100_continue_gets_it_before_it_sends_the_body() {
    let server = Server::start(&[]);
    let mut stream = Stream::open(&server, "/subscribe/continue1");
    let mut client = Client::new(&server);
    for framing in ["Content-Length: 8", "Transfer-Encoding: chunked"] {
        client.send(format!(
            "POST /publish/continue1 HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\n{framing}\r\n\r\n"
        ));
        let interim = client.head();
        assert_eq!((interim.status, &*interim.head), (100, "HTTP/1.1 100 Continue"));
        client.send(if framing.contains("chunked") { "8\r\ndata: ok\r\n0\r\n\r\n" } else { "data: ok" });
        assert_eq!(client.answer().json()["events"], 1);
        assert_eq!(stream.event().data, "ok");
    }
    client.assert_open();
}

#[test]
fn a_client_that_waits_for_100_continue_is_refused_before_it_sends_the_body() {
    let server = Server::start(&["--body-max", "1KiB"]);
    for (target, length, status) in [
        ("/publish/continue2", 1025, 413),
        ("/publish/bad", 8, 400),
        ("/nowhere", 8, 404),
        ("/stats", 8, 405),
        ("/subscribe/continue2", 8, 405),
    ] {
        let mut client = Client::new(&server);
        client.send(format!(
            "POST {target} HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: {length}\r\n\r\n"
        ));
        let answer = client.answer();
        assert_eq!((answer.status, answer.field("Connection")), (status, Some("close")), "{target}");
        client.assert_closed();
    }
    assert_eq!(server.stats()["published"], 0);
}

#[test]
fn http_1_0_publishes_and_its_connection_closes_unless_it_asks() {
    let server = Server::start(&[]);
    let mut stream = Stream::open(&server, "/subscribe/http10001");
    let mut client = Client::new(&server);
    let answer = client.ask("POST /publish/http10001 HTTP/1.0\r\nContent-Length: 9\r\n\r\ndata: one");
    assert_eq!((answer.json()["events"].clone(), answer.field("Connection")), (json!(1), Some("close")));
    client.assert_closed();
    assert_eq!(stream.event().data, "one");

    let mut kept = Client::new(&server);
    for data in ["two", "six"] {
        let answer = kept.ask(format!(
            "POST /publish/http10001 HTTP/1.0\r\nConnection: Keep-Alive\r\nContent-Length: 9\r\n\r\ndata: {data}"
        ));
        assert_eq!((answer.status, answer.field("Connection")), (200, Some("keep-alive")));
        assert_eq!(stream.event().data, data);
    }
}

#[test]
fn http_1_0_gets_the_stream_without_chunks_to_the_close() {
    let server = Server::start(&["--heartbeat", "100ms"]);
    let request = "GET /subscribe/http10002 HTTP/1.0\r\nConnection: keep-alive\r\n\r\n";
    let mut stream = Stream::send(server.address, request);
    assert_eq!(stream.head.status, 200);
    assert_eq!(stream.head.field("Content-Type"), Some("text/event-stream; charset=utf-8"));
    assert_eq!(stream.head.field("Transfer-Encoding"), None);
    assert_eq!(stream.head.field("Connection"), Some("close"));
    assert_eq!(stream.read_some().as_deref(), Some(":\n"), "a heartbeat");
    for n in 0..3 {
        let id = server.post("/publish/http10002", &format!("data: {n}\n\ndata: and {n}\nevent: e")).id();
        assert_eq!(stream.event().data, n.to_string());
        assert_eq!(stream.event().lines, format!("data: and {n}\nevent: e\nid:{id}"));
    }
}

#[test]
fn head_gets_the_head_of_get_and_no_body() {
    let server = Server::start(&[]);
    let mut client = Client::new(&server);
    let fields_of = |answer: &Answer| {
        let names = answer.head.lines().skip(1).filter_map(|line| line.split_once(": "));
        // These change from one moment to the next.
        names
            .filter(|(name, _)| !["Date", "Content-Length"].contains(name))
            .map(|f| format!("{f:?}"))
            .collect()
    };
    for target in ["/healthz", "/stats", "/nowhere", "/publish/headroute", "/subscribe/bad", "/"] {
        let got = client.ask(format!("GET {target} HTTP/1.1\r\nHost: h\r\n\r\n"));
        client.send(format!("HEAD {target} HTTP/1.1\r\nHost: h\r\n\r\n"));
        let head = client.head();
        assert_eq!(head.status, got.status, "{target}");
        let (head_fields, got_fields): (Vec<_>, Vec<_>) = (fields_of(&head), fields_of(&got));
        assert_eq!(head_fields, got_fields, "{target}");
        assert!(head.field("Content-Length").unwrap().parse::<usize>().unwrap() > 0, "{target}");
        client.assert_open();
    }
    client.send("HEAD /subscribe/headroute HTTP/1.1\r\nHost: h\r\n\r\n");
    let head = client.head();
    let stream = Stream::open(&server, "/subscribe/headroute");
    let (head_fields, got_fields): (Vec<_>, Vec<_>) = (fields_of(&head), fields_of(&stream.head));
    assert_eq!((head.status, head_fields), (200, got_fields));
    client.assert_open();
}

#[test]
fn a_target_in_absolute_form_is_the_same_as_its_path() {
    let server = Server::start(&[]);
    let mut stream = Stream::send(
        server.address,
        "GET http://broker.example:81/subscribe/absolute1?x=y HTTP/1.1\r\nHost: other\r\n\r\n",
    );
    let mut client = Client::new(&server);
    for target in ["http://broker.example/publish/absolute1", "HTTPS://[::1]:443/publish/absolute1?y"] {
        assert_eq!(client.ask(publish_request(target, "", "data: x")).json()["events"], 1);
        assert_eq!(stream.event().data, "x");
    }
    assert_eq!(client.ask("GET http://broker.example HTTP/1.1\r\nHost: h\r\n\r\n").status, 404);
    client.assert_open();
}

#[test]
fn a_topic_is_percent_decoded_after_the_path_is_split_and_has_no_case() {
    let server = Server::start(&[]);
    let mut stream = Stream::open(&server, "/subscribe/AbcDef123");
    for path in [
        "/publish/abcdef123",
        "/publish/ABCDEF123",
        "/publish/%61bcdef12%33",
        "/publish/%41%42%43%44%45%46%31%32%33",
        "/%70ublish/aBcDeF123?query=a/b",
    ] {
        assert_eq!(server.post(path, &format!("data: {path}")).status, 200);
        assert_eq!(stream.event().data, path);
    }
    for (path, status) in [
        ("/subscribe/a%2Fbcdef123", 400),
        ("/subscribe/abcdef123%2F", 400),
        ("/subscribe/%2561bcdef123", 400),
        ("/subscribe%2Fabcdef123", 404),
        ("/subscribe/abcdef123/", 404),
        ("//subscribe/abcdef123", 404),
        ("/subscribe/../subscribe/abcdef123", 404),
    ] {
        assert_eq!(server.get(path).status, status, "{path}");
    }
}

#[test]
fn stats_count_what_happened() {
    let server = Server::start(&[]);
    let before = server.stats();
    for name in ["clients", "topics", "published", "delivered", "bytes", "evicted", "refused"] {
        assert_eq!(before[name], 0, "{name}: {before}");
    }
    assert!(before["uptime_s"].is_number(), "{before}");

    let mut streams: Vec<_> =
        (0..6).map(|n| Stream::open(&server, &format!("/subscribe/counted0{}", n % 2))).collect();
    server.post("/publish/counted00", "data: 1\n\ndata: 2");
    server.post("/publish/counted01", "data: 3");
    server.post("/publish/counted02", "data: nobody listens");
    server.post("/publish/counted00", "no data");
    server.get("/nowhere");
    for (n, stream) in streams.iter_mut().enumerate() {
        stream.data_until(if n % 2 == 0 { "2" } else { "3" });
    }
    let expected =
        [("clients", 6), ("topics", 3), ("published", 4), ("delivered", 9), ("evicted", 0), ("refused", 2)];
    // A delivery is counted when the kernel has taken it, and a topic at the end of a turn.
    let stats = eventually("the counts are complete", || {
        let stats = server.stats();
        expected.iter().all(|(name, count)| stats[name] == *count).then_some(stats)
    });
    assert!(stats["bytes"].as_u64().unwrap() > 0, "{stats}");
    let latency = &stats["publish_to_send_us"];
    assert!(latency["count"].as_u64().unwrap() > 0, "{latency}");
    let [p50, p99, max] = ["p50", "p99", "max"].map(|name| latency[name].as_u64().unwrap());
    assert!(p50 <= p99 && p99 <= max, "{latency}");

    let shards = stats["shards"].as_array().unwrap();
    for (name, total) in expected {
        let sum: u64 = shards.iter().map(|shard| shard[name].as_u64().unwrap()).sum();
        assert_eq!(sum, total, "{name}: {stats}");
    }
    drop(streams);
    wait_until("the subscribers are gone", || server.stats()["clients"] == 0);
}
