//! Ids on their way to a client and back: whatever id is taken, a client can send it, and no event is missed after it.

use std::io::Write;

use serde_json::{Value, json};

use crate::support::browser::{Browser, Cutter, serve_page};
use crate::support::sessions::{FORM, Sessions, encode};
use crate::support::{Server, Stream, connect};

const JSON: &str = "Content-Type: application/json";

/// The path and the fields of one publish with this id, by each of the ways there are, and its body.
fn with_id(topic: &str, id: &str, data: &str) -> [(String, &'static str, String); 3] {
    let query = format!("/publish/{topic}?wrap&{}", encode(&[("id", id)]));
    [
        (format!("/publish/{topic}"), "X: y", format!("id: {id}\ndata: {data}")),
        (query.clone(), "X: y", data.to_owned()),
        (query, JSON, data.to_owned()),
    ]
}

/// The page has the id when the connection is cut within the next event, and comes back with it.
#[test]
fn a_browser_resumes_after_an_id_of_any_script() {
    let server = Server::start(&[]);
    let browser = Browser::open(&serve_page(""));
    let large = "x".repeat(8000);
    for (n, id) in [
        "Gr\u{fc}\u{df}e-\u{65e5}\u{672c}-1",
        "\u{fc}",
        "\u{1f98a}\u{85}\u{a0}x",
        "a\tb",
        "\u{feff}\u{2028}",
        "100%",
        "\u{a0}",
    ]
    .into_iter()
    .enumerate()
    {
        let topic = format!("scripts{n}");
        let mut is_first = true;
        let cutter = Cutter::start(server.address, move || std::mem::take(&mut is_first).then_some(4000));
        browser.run("seen.length = opened = 0; return 0");
        browser.run(&format!("subscribe({:?})", cutter.url(&format!("/subscribe/{topic}"))));
        browser.until("opened == 1");
        let path = format!("/publish/{topic}");
        let answer = server.post(&path, &format!("retry: 10\nid: {id}\ndata: small"));
        assert_eq!(answer.json()["id"], id);
        browser.until("seen.length == 1");
        let large_id = server.post(&path, &format!("data: {large}")).json()["id"].clone();
        browser.until("seen.length == 2 && opened == 2");
        let seen = browser.run("return seen.map(([name, data, id]) => [name, data.length, id])");
        assert_eq!(seen, json!([["message", 5, id], ["message", 8000, large_id]]), "{id:?}");
        assert_eq!(cutter.cuts(), 1);
        browser.run("source.close(); return 0");
    }
}

/// A script cannot send UTF-8 in a header, and a polyfill puts the id into the query.
#[test]
fn an_id_is_known_again_however_a_client_encodes_it() {
    let server = Server::start(&[]);
    for (id, queries) in [
        ("Gr\u{fc}\u{df}e", &["Gr%C3%BC%C3%9Fe", "Gr%fc%dfe", "+Gr%FC%DFe+"][..]),
        ("100%", &["100%25", "100%", "%31%30%30%25"]),
        ("%u65E5", &["%25u65E5", "%u65E5"]),
    ] {
        let topic = format!("encoded{}", id.len());
        server.post(&format!("/publish/{topic}"), &format!("id: {id}\ndata: 1\n\ndata: 2"));
        for query in queries {
            let path = format!("/subscribe/{topic}?x=%zz&%zz=1&lastEventId={query}");
            let event = Stream::open(&server, &path).event();
            assert_eq!((&*event.name, &*event.data), ("", "2"), "{query}");
        }
        let latin = id.chars().map(|c| u8::try_from(u32::from(c)).unwrap()).collect::<Vec<_>>();
        for bytes in [id.as_bytes(), &latin] {
            let mut stream = with_header(&server, &topic, bytes);
            let event = stream.event();
            assert_eq!((&*event.name, &*event.data), ("", "2"), "{bytes:?}");
        }
    }
}

/// Any other answer than 200 ends an EventSource for good.
#[test]
fn a_last_id_that_is_no_text_is_unknown_and_not_refused() {
    let server = Server::start(&[]);
    server.post("/publish/notatext", "data: kept");
    for bytes in [&b"\xff\xfe"[..], b"a\xc3", b"\x80", b"\xed\xa0\x80"] {
        let mut stream = with_header(&server, "notatext", bytes);
        let gap = stream.event();
        assert!(gap.name == "gap" && gap.data.contains("unknown"), "{bytes:?}: {gap:?}");
        assert_eq!(stream.event().data, "kept");
    }
    for query in ["%ff", "%zz", "%", "%C3", "%00", "%u65E5", "%0A"] {
        let mut stream = Stream::open(&server, &format!("/subscribe/notatext?lastEventId={query}"));
        let gap = stream.event();
        assert!(gap.name == "gap" && gap.data.contains("unknown"), "{query}: {gap:?}");
        assert_eq!(stream.event().data, "kept");
    }
    let sessions = Sessions::start(&[]);
    sessions.emit("alex", "chat", "data: kept");
    let path = format!("/events/?token={}&lastEventId=%ff", sessions.token("alex", "chat"));
    let mut stream = Stream::open(&sessions.server, &path);
    assert_eq!((stream.head.status, &*stream.event().name, &*stream.event().data), (200, "gap", "kept"));
}

/// A stream that is resumed after these bytes, as they are.
fn with_header(server: &Server, topic: &str, id: &[u8]) -> Stream {
    let mut connection = connect(server.address);
    let head = format!("GET /subscribe/{topic} HTTP/1.1\r\nHost: h\r\nLast-Event-ID: ");
    connection.write_all(&[head.as_bytes(), id, b"\r\n\r\n"].concat()).unwrap();
    let stream = Stream::of(connection);
    assert_eq!(stream.head.status, 200, "{id:?}: {:?}", stream.head);
    stream
}

/// Refused where it is published, or else it comes back and resumes: there is no third.
#[test]
fn whatever_id_is_taken_resumes_and_what_no_header_can_carry_is_refused() {
    let server = Server::start(&[]);
    for byte in (1..=0x20).chain(0x7e..=0x7f).filter(|byte| !b"\r\n".contains(byte)) {
        let id = format!("a{}b", char::from(byte));
        for way in 0..3 {
            let topic = format!("carried{byte:x}x{way}");
            let (path, field, body) = &with_id(&topic, &id, "1")[way];
            let answer = server.request("POST", path, &[field], body);
            if answer.status == 200 {
                assert_eq!(answer.json(), json!({ "id": id, "events": 1 }));
                server.post(&format!("/publish/{topic}"), "data: 2");
                let mut stream = with_header(&server, &topic, id.as_bytes());
                assert_eq!(stream.event().data, "2", "{byte:#x}");
            } else {
                let reason = format!("event 1 has an id with U+{byte:04X} in it, which no Last-Event-ID");
                assert_eq!((answer.status, answer.body.starts_with(&reason)), (400, true), "{answer:?}");
                // So it would come back: as a head that is none.
                let head =
                    format!("GET /subscribe/{topic} HTTP/1.1\r\nHost: h\r\nLast-Event-ID: {id}\r\n\r\n");
                assert!(server.raw(head).starts_with("HTTP/1.1 400"), "{byte:#x} would have been fine");
            }
        }
    }
}

/// As a relay does it that publishes what it was sent, whoever gave the ids. Before, the resumed stream went on behind it.
#[test]
fn an_id_of_the_brokers_form_is_replaced_and_hides_nothing_from_anybody() {
    let (server, other) = (Server::start(&[]), Server::start(&[]));
    let run = |id: &Value| id.as_str().unwrap().split_once('-').unwrap().0.to_owned();
    let foreign = other.post("/publish/relayed00", "data: x").json()["id"].clone();
    for way in 0..3 {
        let topic = format!("relayed0{way}");
        let path = format!("/publish/{topic}");
        let ids: Vec<_> =
            (1..=3).map(|n| server.post(&path, &format!("data: {n}")).json()["id"].clone()).collect();
        assert_ne!(run(&ids[0]), run(&foreign));
        let text = |id: &Value| id.as_str().unwrap().to_owned();
        let later = format!("{}-{}", run(&ids[0]), 1_000_000);
        let positions = [format!("{}-0.1", run(&ids[0])), format!("{}-0.1-7.2", run(&foreign))];
        let mut told = ids.clone();
        for id in [text(&ids[0]), text(&ids[2]), text(&foreign), later].iter().chain(&positions) {
            let (path, field, body) = &with_id(&topic, id, "relayed")[way];
            let answer = server.request("POST", path, &[field], body).json();
            assert_eq!((&answer["events"], &answer["ids_replaced"]), (&json!(1), &json!(1)), "{answer}");
            assert!(run(&answer["id"]) == run(&ids[0]) && !told.contains(&answer["id"]), "{answer}");
            told.push(answer["id"].clone());
        }
        for (n, id) in told.iter().enumerate() {
            let mut stream = Stream::open(&server, &format!("/subscribe/{topic}?lastEventId={}", text(id)));
            for (m, id) in told.iter().enumerate().skip(n + 1) {
                let event = stream.event();
                let data = if m < 3 { (m + 1).to_string() } else { "relayed".to_owned() };
                assert_eq!((&*event.name, event.data, &json!(event.id)), ("", data, id), "after {n}");
            }
        }
    }
    // What is not of that form is kept, and the answer is as it was.
    let answer = server.post("/publish/relayed00", "id: 1763679451000-1\ndata: x");
    assert_eq!(answer.body, "{\"id\":\"1763679451000-1\",\"events\":1}\n");
}

#[test]
fn an_emit_and_a_stream_of_several_topics_take_no_id_of_the_brokers_form_either() {
    let sessions = Sessions::start(&[]);
    let first = sessions.emit("alex", "chat", "data: 1")["id"].as_str().unwrap().to_owned();
    sessions.emit("*", "chat", "data: 2");
    for form in [
        &[("payload", &*format!("id: {first}\ndata: 3"))][..],
        &[("data", "3"), ("id", &format!("{}-0.9-1.9", first.split_once('-').unwrap().0))],
    ] {
        let form = [&[("userId", "bob"), ("channel", "chat")], form, &[]].concat();
        let answer = sessions.control("POST", "/emit/", &[FORM], &encode(&form)).json();
        assert_eq!((&answer["streams"], &answer["ids_replaced"]), (&json!(0), &json!(1)), "{answer}");
        assert_ne!(answer["id"], json!(first));
    }
    let bad = [("userId", "bob"), ("channel", "chat"), ("data", "x"), ("id", "\u{7f}")];
    let answer = sessions.control("POST", "/emit/", &[FORM], &encode(&bad));
    assert!(answer.status == 400 && answer.body.contains("U+007F"), "{answer:?}");

    sessions.emit("*", "chat", "data: 4");
    let mut stream = sessions.resume(&sessions.token("alex", "chat"), &first);
    assert_eq!([stream.event().data, stream.event().data], ["2", "4"]);
}

/// A clock that starts anew at each boot gave two runs the same ids.
#[test]
fn two_runs_never_give_the_same_ids() {
    let ids = |server: Server| server.post("/publish/runs00001", "data: x").id();
    let [one, another] = [0, 1].map(|_| ids(Server::start(&[])));
    for id in [&one, &another] {
        let (run, place) = id.split_once('-').unwrap();
        assert!(run.len() == 20 && run.bytes().all(|byte| byte.is_ascii_digit()) && place == "1", "{id}");
    }
    // A difference in time would be one of the last digits.
    assert_ne!(one[..12], another[..12]);
}
