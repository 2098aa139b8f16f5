//! What clients see on the wire beside events: the first bytes of a stream, heartbeats, and what requests may look like.

use std::collections::HashSet;
use std::io::{Read, Write};
use std::time::Duration;

use crate::support::tokens::{SUBSCRIBER, token};
use crate::support::{Server, Stream, connect};

/// Firefox and several proxies announce no stream before the first byte of its body.
#[test]
fn a_stream_begins_with_a_retry_time_of_its_own_in_one_piece_with_its_head() {
    let server = Server::start(&["--retry-min", "100ms", "--retry-max", "900ms", "--heartbeat", "1h"]);
    let mut times = HashSet::new();
    for version in ["1.1", "1.0"].repeat(10) {
        let mut connection = connect(server.address);
        write!(connection, "GET /subscribe/first0001 HTTP/{version}\r\nHost: h\r\n\r\n").unwrap();
        let mut bytes = [0; 4096];
        // One read, because it was one write.
        let count = connection.read(&mut bytes).unwrap();
        let text = std::str::from_utf8(&bytes[..count]).unwrap();
        let (_, body) = text.split_once("\r\n\r\n").unwrap();
        let line = if version == "1.1" { body.split("\r\n").nth(1).unwrap() } else { body };
        let ms = line.strip_prefix("retry:").and_then(|line| line.strip_suffix('\n')).expect("alone");
        let ms: u64 = ms.parse().unwrap();
        assert!((100..=900).contains(&ms), "{ms}");
        times.insert(ms);
    }
    assert!(times.len() > 5, "they are drawn: {times:?}");
    let stream = Stream::open(&server, "/subscribe/first0001");
    assert!(stream.first_retry.is_some());
}

#[test]
fn without_a_first_retry_a_stream_has_what_was_published_and_nothing_else() {
    for flags in [&["--no-first-retry"][..], &["--history-events", "0"]] {
        let server = Server::start(&[&["--heartbeat", "1h"], flags].concat());
        let mut stream = Stream::open(&server, "/subscribe/exact0001");
        assert_eq!(server.post("/publish/exact0001", "data: x").status, 200);
        let text = stream.read_some().unwrap();
        assert!(text.starts_with("data: x\n"), "{text}");
        assert!(stream.first_retry.is_none());
    }
}

#[test]
fn a_page_may_ask_for_heartbeats_that_it_hears() {
    let server = Server::start(&["--heartbeat", "200ms"]);
    for target in
        ["/subscribe/beats0001?heartbeat=event", "/subscribe?topic=beats0001&topic=beats0002&heartbeat=event"]
    {
        let mut stream = Stream::open(&server, target);
        for _ in 0..2 {
            let event = stream.event();
            assert_eq!((&*event.name, &*event.data, &*event.id), ("heartbeat", "{}", ""), "{target}");
        }
    }
    let mut stream = Stream::open(&server, "/subscribe/beats0001?heartbeat=comment");
    assert_eq!(stream.read_some().unwrap(), ":\n");
    for value in ["", "Event", "1"] {
        let answer = server.get(&format!("/subscribe/beats0001?heartbeat={value}"));
        assert_eq!(answer.status, 400);
        assert!(answer.body.contains("heartbeat=comment or heartbeat=event"), "{answer:?}");
    }
}

#[test]
fn a_cookie_that_a_proxy_split_is_put_together() {
    let server = Server::start_with(
        &["--cors-origin", "https://page.example"],
        &[("ESPER_SUBSCRIBER_SECRET", SUBSCRIBER)],
    );
    let cookie = format!("Cookie: esper_token={}; last=1", token(SUBSCRIBER, "cookies01"));
    for fields in [[&*cookie, "Cookie: first=1"], ["Cookie: first=1", &cookie]] {
        let stream = Stream::open_with(&server, "/subscribe/cookies01", &fields);
        assert_eq!(stream.head.status, 200, "{:?}", stream.head);
    }
}

#[test]
fn what_a_publish_asks_for_is_done_or_refused_and_never_passed_over() {
    let server = Server::start(&[]);
    let mut stream = Stream::open(&server, "/subscribe/asking001");
    let json = "Content-Type: application/json";
    for (query, field, body, name, data) in [
        ("?wrap=true&event=x", "X: y", "a", "x", "a"),
        ("?wrap=false", "X: y", "data: b", "", "b"),
        ("?wrap", "X: y", "", "", ""),
        ("", json, "\u{feff}{\"a\":1}\r\n", "", "{\"a\":1}"),
        ("", "Content-Type: text/json", "[1]", "", "[1]"),
        ("?event=x", "Content-Type: application/vnd.api+json; charset=utf-8", "[2]", "x", "[2]"),
        ("", "Content-Encoding: identity", "data: c", "", "c"),
    ] {
        let answer = server.request("POST", &format!("/publish/asking001{query}"), &[field], body);
        assert_eq!(answer.status, 200, "{query} {field}: {answer:?}");
        let event = stream.event();
        assert_eq!((&*event.name, &*event.data), (name, data), "{query} {field}");
    }
    for (query, field, body, status, about) in [
        ("?event=x", "X: y", "data: a", 400, "add wrap"),
        ("?id=x&wrap=no", "X: y", "data: a", 400, "add wrap"),
        ("?wrap=perhaps", "X: y", "data: a", 400, "wrap=false"),
        ("", json, "", 400, "empty body"),
        ("", "Content-Encoding: gzip", "data: a", 415, "as it is"),
        ("", "Content-Encoding: br", "data: a", 415, "as it is"),
    ] {
        let answer = server.request("POST", &format!("/publish/asking001{query}"), &[field], body);
        assert_eq!(answer.status, status, "{query} {field}: {answer:?}");
        assert!(answer.body.contains(about), "{answer:?}");
        assert_eq!(answer.field("Accept-Encoding"), (status == 415).then_some("identity"));
    }
}

#[test]
fn requests_are_read_as_the_rfcs_have_it() {
    let server = Server::start(&[]);
    for (request, status) in [
        ("GET /healthz HTTP/1.2\r\nHost: h\r\n\r\n", 200),
        ("GET /healthz HTTP/1.9\r\nHost: h\r\n\r\n", 200),
        ("GET /healthz HTTP/2.0\r\nHost: h\r\n\r\n", 505),
        ("CONNECT h:443 HTTP/1.1\r\nHost: h\r\n\r\n", 501),
        ("POST /publish/reading01 HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked, gzip\r\n\r\n", 400),
        ("POST /publish/reading01 HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 501),
    ] {
        let mut connection = connect(server.address);
        connection.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        connection.write_all(request.as_bytes()).unwrap();
        let mut bytes = [0; 256];
        let count = connection.read(&mut bytes).unwrap();
        let text = String::from_utf8_lossy(&bytes[..count]);
        assert!(text.starts_with(&format!("HTTP/1.1 {status} ")), "{request:?}: {text}");
    }
}

/// An attacker's page may be loaded under a name that was then pointed at this address (DNS rebinding).
#[test]
fn what_shows_the_broker_from_inside_is_for_no_name_that_anybody_may_point_here() {
    let server = Server::start(&[]);
    for path in ["/stats", "/metrics", "/debug/vars", "/admin/status.json"] {
        for (host, status) in [("evil.example", 403), ("127.0.0.1:3000", 200), ("localhost", 200)] {
            let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
            let answer = server.raw(request);
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{path} at {host}: {answer}");
        }
    }
}

/// A connection that breaks before its first event leaves a page without an id to resume after, unless it asked for one.
#[test]
fn a_stream_that_asks_for_its_place_resumes_there_although_it_saw_no_event() {
    let server = Server::start(&["--namespaces", "--heartbeat", "1h"]);
    for before in ["", "data: old"] {
        for target in [
            "/subscribe/pets?place=1",
            "/subscribe?topic=pets&topic=cars&place=1",
            "/subscribe/?place=1",
            "/subscribe/quiet?place=1",
        ] {
            if !before.is_empty() {
                assert_eq!(server.post("/publish/pets/dogs", before).status, 200);
            }
            let mut stream = Stream::open(&server, target);
            let place = stream.event();
            assert_eq!(place.lines.lines().count(), 1, "an id and no data: {place:?}");
            assert!(stream.first_retry.is_some());
            drop(stream);
            for n in 0..3 {
                assert_eq!(server.post("/publish/pets/dogs", &format!("data: {n}")).status, 200);
                assert_eq!(server.post("/publish/quiet", &format!("data: {n}")).status, 200);
            }
            let field = format!("Last-Event-ID: {}", place.id);
            let mut stream = Stream::open_with(&server, target, &[&field]);
            assert_eq!(stream.event().name, "place");
            let seen: Vec<_> = (0..3).map(|_| stream.event()).map(|event| (event.name, event.data)).collect();
            let all = ["0", "1", "2"].map(|n| (String::new(), n.to_owned()));
            match target {
                // Everything has the other topic's events too.
                "/subscribe/?place=1" => assert!(seen.iter().all(|event| all.contains(event)), "{seen:?}"),
                _ => assert_eq!(seen, all, "{target}"),
            }
        }
    }
    let answer = server.get("/subscribe/pets?place=yes");
    assert!(answer.status == 400 && answer.body.contains("place=1 or place=0"), "{answer:?}");
}

#[test]
fn without_history_there_is_no_place_to_tell() {
    let server = Server::start(&["--history-events", "0"]);
    let mut stream = Stream::open(&server, "/subscribe/placing01?place=1");
    assert_eq!(server.post("/publish/placing01", "data: x").status, 200);
    assert_eq!(stream.event().data, "x");
}

/// Sends the head and the body of a subscription and reads the head of its answer.
fn subscribe_by(server: &Server, method: &str, content_type: &str, fields: &str, body: &str) -> Stream {
    let length = body.len();
    let head = format!(
        "{method} /subscribe HTTP/1.1\r\nHost: h\r\nContent-Type: {content_type}\r\nContent-Length: {length}\r\n{fields}"
    );
    Stream::send(server.address, &format!("{head}\r\n{body}"))
}

#[test]
fn topics_may_be_asked_for_by_a_body() {
    let server = Server::start(&["--heartbeat", "200ms"]);
    let (form, json) = ("application/x-www-form-urlencoded", "application/json");
    let first = server.post("/publish/bodies001", "data: first").id();
    assert_eq!(server.post("/publish/bodies001", "data: second").status, 200);
    for (method, content_type, body) in [
        ("POST", form, format!("topic=bodies001&lastEventId={first}&heartbeat=event")),
        ("QUERY", form, format!("topic=bodies001&lastEventId={first}&heartbeat=event")),
        (
            "QUERY",
            json,
            format!("{{\"topic\":\"bodies001\",\"lastEventId\":\"{first}\",\"heartbeat\":\"event\"}}"),
        ),
        (
            "POST",
            json,
            format!("{{\"topic\":[\"bodies001\"],\"lastEventId\":{first:?},\"heartbeat\":\"event\"}}"),
        ),
    ] {
        let mut stream = subscribe_by(&server, method, content_type, "", &body);
        assert_eq!(stream.head.status, 200, "{:?}", stream.head);
        assert_eq!(stream.event().data, "second", "{method} {content_type}");
        assert_eq!(stream.event().name, "heartbeat");
    }
    // The header is what a client that comes back knows last.
    let field = format!("Last-Event-ID: {first}\r\n");
    let mut stream = subscribe_by(&server, "POST", form, &field, "topic=bodies001&lastEventId=unknown");
    assert_eq!(stream.event().data, "second");
    // As many as a query may name, of the longest names.
    let topics: Vec<_> = (0..64).map(|n| format!("topic={n:064}")).collect();
    let mut stream = subscribe_by(&server, "POST", form, "", &topics.join("&"));
    assert_eq!(server.post(&format!("/publish/{:064}", 63), "data: last").status, 200);
    while stream.event().data != "last" {}
}

#[test]
fn a_body_that_asks_for_topics_is_refused_for_what_is_wrong_with_it() {
    let server = Server::start_with(&[], &[("ESPER_SUBSCRIBER_SECRET", SUBSCRIBER)]);
    let bearer = format!("Authorization: Bearer {}\r\n", token(SUBSCRIBER, "bodies001"));
    let (form, json) = ("application/x-www-form-urlencoded", "application/json");
    let long = format!("topic=bodies001&lastEventId={}", "x".repeat(300_000));
    let many = (0..65).map(|n| format!("topic=bodies{n:03}")).collect::<Vec<_>>().join("&");
    for (content_type, field, body, status, about) in [
        (form, &*bearer, "topic=bodies001", 200, ""),
        (json, &bearer, "{\"topic\":[\"bodies001\",\"BODIES001\"],\"place\":1}", 200, ""),
        (form, "", "topic=bodies001", 401, "no token"),
        (form, &bearer, "topic=bodies001&topic=bodies002", 403, "another topic"),
        (json, &bearer, "{\"topic\":\"bodies002\"}", 403, "another topic"),
        (form, &bearer, "", 400, "no topic"),
        (json, &bearer, "{}", 400, "no topic"),
        (json, &bearer, "[]", 400, "bad JSON"),
        (json, &bearer, "{\"topic\":{}}", 400, "write strings"),
        (json, &bearer, "{\"topic\":[[]]}", 400, "write strings"),
        (
            json,
            &bearer,
            "{\"topics\":[\"bodies001\"]}",
            400,
            "topic, lastEventId, heartbeat, place, with, handle",
        ),
        (form, &bearer, "topic=bodies001&token=x", 400, "topic, lastEventId, heartbeat, place, with, handle"),
        (form, &bearer, "topic=bodies001&heartbeat=x", 400, "heartbeat=event"),
        (form, &bearer, "topic=bodies%zz", 400, "percent-encoding"),
        (form, &bearer, "topic=x", 400, "topic"),
        (form, &bearer, "topic=bodies001&place=1&place=1", 400, "place is there twice"),
        (json, &bearer, "{\"topic\":\"bodies001\",\"place\":1,\"place\":1}", 400, "place is there twice"),
        (json, &bearer, "{\"topic\":[]}", 400, "empty list"),
        (json, &bearer, "\u{feff}{\"topic\":\"bodies001\"}", 200, ""),
        (form, &bearer, &long, 413, "at most"),
        (form, &bearer, &many, 400, "at most 64"),
        ("text/plain", &bearer, "topic=bodies001", 400, "Content-Type"),
    ] {
        let stream = subscribe_by(&server, "POST", content_type, field, body);
        assert_eq!(stream.head.status, status, "{body}: {:?}", stream.head);
        if status != 200 {
            let fields = [&format!("Content-Type: {content_type}"), field.trim_end(), "X: y"];
            let fields = fields.into_iter().filter(|field| !field.is_empty()).collect::<Vec<_>>();
            let answer = server.request("QUERY", "/subscribe", &fields, body);
            assert!(answer.status == status && answer.body.contains(about), "{body}: {answer:?}");
        }
    }
    let answer =
        server.request("POST", "/subscribe?topic=bodies001", &[bearer.trim_end()], "topic=bodies001");
    assert!(answer.status == 400 && answer.body.contains("into the body"), "{answer:?}");
    for name in ["lastEventId", "heartbeat", "place", "with", "handle"] {
        let answer =
            server.request("POST", &format!("/subscribe?{name}=1"), &[bearer.trim_end()], "topic=bodies001");
        assert!(answer.status == 400 && answer.body.contains("into the body"), "{answer:?}");
    }
    let answer = server.request("POST", "/subscribe/bodies001", &[bearer.trim_end()], "");
    assert_eq!((answer.status, answer.field("Allow")), (405, Some("GET, HEAD, OPTIONS")));
    let gzip = [bearer.trim_end(), "Content-Encoding: gzip"];
    assert_eq!(server.request("POST", "/subscribe", &gzip, "topic=bodies001").status, 415);
    let answer = server.request("OPTIONS", "/subscribe", &["Origin: https://page.example"], "");
    assert_eq!(answer.field("Access-Control-Allow-Methods"), Some("GET, HEAD, POST, QUERY, OPTIONS"));
}

/// An EventSource shows its page the id of an event, and no line that it does not know.
#[test]
fn each_event_of_a_stream_that_asks_for_it_names_its_topic_live_and_replayed() {
    let server = Server::start(&["--namespaces", "--heartbeat", "1h"]);
    let publish =
        |topic: &str, body: &str| assert_eq!(server.post(&format!("/publish/{topic}"), body).status, 200);
    let topics = ["pets/dogs", "pets", "cars/red"];
    for target in [
        "/subscribe/?with=topic",
        "/subscribe?topic=pets&topic=cars&with=topic",
        "/subscribe/pets?with=topic",
        "/subscribe/pets/dogs?with=topic",
    ] {
        let is_asked = |topic: &str| match target {
            "/subscribe/pets?with=topic" => topic.starts_with("pets"),
            "/subscribe/pets/dogs?with=topic" => topic == "pets/dogs",
            _ => true,
        };
        let asked: Vec<_> = topics.into_iter().filter(|topic| is_asked(topic)).collect();
        // Others on the same topics get what they always got.
        let mut plain = Stream::open(&server, "/subscribe/pets");
        let mut stream = Stream::open(&server, target);
        let check = |stream: &mut Stream, name: &str| {
            let mut left = asked.clone();
            while !left.is_empty() {
                let event = stream.event();
                let topic = event.data.strip_prefix(&format!("{name} ")).expect("an event of this round");
                assert_eq!(event.lines.lines().next(), Some(&*format!("topic:{topic}")), "{event:?}");
                let (place, named) = event.id.split_once('@').expect("a topic behind the id");
                assert_eq!(named, topic, "{event:?}");
                assert!(place.contains('.'), "a position: {event:?}");
                left.retain(|other| *other != topic);
                if left.is_empty() {
                    return event.id;
                }
            }
            unreachable!("it was asked for something")
        };
        for topic in topics {
            publish(topic, &format!("data: live {topic}\nid: own"));
        }
        let last_id = check(&mut stream, "live");
        let event = plain.event();
        assert!(!event.lines.contains("topic:") && event.id == "own", "{event:?}");
        drop((stream, plain));
        for topic in topics {
            publish(topic, &format!("data: replayed {topic}"));
        }
        let field = format!("Last-Event-ID: {last_id}");
        check(&mut Stream::open_with(&server, target, &[&field]), "replayed");
    }
    for target in ["/subscribe/pets?with=id", "/subscribe/pets?with="] {
        let answer = server.get(target);
        assert!(answer.status == 400 && answer.body.contains("with=topic"), "{answer:?}");
    }
    // A page may begin to ask, or no longer ask: its id is good for both.
    let plain = server.post("/publish/pets/dogs", "data: before").id();
    assert_eq!(server.post("/publish/pets/dogs", "data: after").status, 200);
    let field = format!("Last-Event-ID: {plain}");
    let named = Stream::open_with(&server, "/subscribe/pets/dogs?with=topic", &[&field]).event();
    assert_eq!((&*named.name, &*named.data), ("", "after"), "no gap");
    assert_eq!(server.post("/publish/pets/dogs", "data: later").status, 200);
    let field = format!("Last-Event-ID: {}", named.id);
    let later = Stream::open_with(&server, "/subscribe/pets/dogs", &[&field]).event();
    assert_eq!((&*later.name, &*later.data), ("", "later"), "no gap");
    // What this form of ids is taken for must not be a publisher's.
    let own = Stream::open(&server, "/subscribe/pets?with=topic&place=1").event().id;
    let answer = server.post("/publish/pets", &format!("data: x\nid: {own}@pets")).json();
    assert_eq!(answer["ids_replaced"], 1, "{answer}");
}

/// WebKit takes it for the rest of an event that was cut.
#[test]
fn a_stream_that_resumes_and_asks_for_its_place_begins_with_the_end_of_whatever_came_before() {
    let server = Server::start(&["--heartbeat", "1h"]);
    let id = server.post("/publish/resumed01", "data: x\n\ndata: y").id();
    for (target, field, told) in [
        ("/subscribe/resumed01?place=1", format!("Last-Event-ID: {id}"), Some(&*id)),
        (
            "/subscribe/resumed01?place=1&with=topic",
            format!("Last-Event-ID: {id}@a"),
            Some(&*format!("{id}@a")),
        ),
        ("/subscribe/resumed01?place=1", "Last-Event-ID: my own".to_owned(), Some("my own")),
        ("/subscribe/resumed01", format!("Last-Event-ID: {id}"), None),
        ("/subscribe/resumed01?place=1&lastEventId=a%0Adata:b", "X: y".to_owned(), None),
        // So long an id is no event's, and is neither kept nor sent back whole.
        (
            "/subscribe/resumed01?place=1",
            format!("Last-Event-ID: {}", "x".repeat(5000)),
            Some(&*format!("{}\u{2026}", "x".repeat(200))),
        ),
    ] {
        let mut stream = Stream::open_with(&server, target, &[&field]);
        assert!(stream.first_retry.is_some());
        server.post("/publish/resumed01", "data: z");
        let first = stream.event();
        match told {
            Some(id) => assert_eq!(first.lines, format!("event: place\nid: {id}"), "{target}"),
            None => assert_ne!(first.name, "place", "{target}"),
        }
    }
}

/// A client that is not told sends its next request on the connection that is closing; one that is told so of a stream
/// which goes on takes a cut for the end (undici).
#[test]
fn a_refusal_says_that_the_connection_closes_and_a_stream_does_not() {
    let server = Server::start(&["--subscribers-max", "1"]);
    let stream = Stream::open(&server, "/subscribe/closing01");
    assert_eq!(stream.head.field("Connection"), None);
    let mut refused = Stream::open(&server, "/subscribe/closing01");
    assert_eq!((refused.head.status, refused.head.field("Connection")), (200, Some("close")));
    assert!(refused.event().retry.is_some());
    assert_eq!(refused.next_event(), None);
    assert!(refused.is_complete);
}
