//! Subscribers that come back: what is replayed to them, and when they are told of a gap.

use std::io::Write;
use std::thread;

use serde_json::{Value, json};

use crate::support::{Client, Event, Server, Stream, eventually, publish_request};

#[test]
fn a_subscriber_resumes_after_the_event_it_names() {
    let server = Server::start(&[]);
    let publish = |n: usize| {
        let own = if n.is_multiple_of(3) { format!("\nid: own {n}") } else { String::new() };
        server.post("/publish/resume001", &format!("data: {n}{own}")).id()
    };
    let ids: Vec<_> = (0..10).map(publish).collect();
    let mut streams = Vec::new();
    for (n, id) in ids.iter().enumerate() {
        let expected: Vec<_> = (n + 1..10).map(|n| n.to_string()).chain(["live".to_owned()]).collect();
        // The header outranks the query, which a polyfill's URL may still hold from long ago.
        let header = format!("Last-Event-ID: {id}");
        let by_header = Stream::open_with(&server, "/subscribe/resume001?lastEventId=old", &[&header]);
        let query = format!("/subscribe/resume001?x=y&lastEventId={}", id.replace(' ', "+"));
        streams.push((by_header, expected.clone()));
        streams.push((Stream::open(&server, &query), expected));
    }
    for path in ["/subscribe/resume001", "/subscribe/resume001?lastEventId="] {
        // Without an id, or with an empty one, nothing is replayed.
        streams.push((Stream::open(&server, path), vec!["live".to_owned()]));
    }
    server.post("/publish/resume001", "data: live");
    for (mut stream, expected) in streams {
        assert_eq!(stream.data_until("live"), expected);
    }
}

#[test]
fn an_own_id_is_found_again_whatever_it_looks_like() {
    let server = Server::start(&[]);
    // Browsers send the id as UTF-8 in a header, where white space around it is lost.
    for (n, id) in
        ["a b", " x ", "é\u{1f600}", "\u{a0}", "\"{}", "1700000000000-5", "a,b", "0"].iter().enumerate()
    {
        let topic = format!("ownagain{n}");
        let path = format!("/publish/{topic}");
        server.post(&path, &format!("id:{}{id}\ndata: 1", if id.starts_with(' ') { " " } else { "" }));
        server.post(&path, "data: 2");
        let mut stream = Stream::resume(&server, &topic, id.trim_matches([' ', '\t']));
        let event = stream.event();
        assert_eq!((&*event.name, &*event.data), ("", "2"), "{id:?}");
    }
}

#[test]
fn a_long_history_is_replayed_without_loss_or_doubles_while_publishing_goes_on() {
    // 2,000 events of 1.5 KiB are some 50 pages of 64 KiB; as many again are published meanwhile.
    let server = Server::start(&["--history-events", "10000", "--history-bytes", "32MiB"]);
    let padding = "x".repeat(1500);
    let body = |n: usize| format!("data: {n}\ndata: {padding}");
    let mut client = Client::new(&server);
    let fill: String = (0..2000).map(|n| publish_request("/publish/history01", "", &body(n))).collect();
    let mut sender = client.sender();
    let filling = thread::spawn(move || sender.write_all(fill.as_bytes()).unwrap());
    let ids: Vec<_> = (0..2000).map(|_| client.answer().id()).collect();
    filling.join().unwrap();

    let number = |event: &Event| event.data.lines().next().unwrap().parse::<usize>().unwrap();
    thread::scope(|scope| {
        for after in [0, 1, 700, 1400, 1990, 1999] {
            let (server, id) = (&server, &ids[after]);
            scope.spawn(move || {
                let mut stream = Stream::resume(server, "history01", id);
                for n in after + 1..4000 {
                    let event = stream.event();
                    assert_eq!((&*event.name, number(&event)), ("", n), "after {after}");
                }
            });
        }
        for n in 2000..4000 {
            assert_eq!(client.ask(publish_request("/publish/history01", "", &body(n))).status, 200);
        }
    });
}

#[test]
fn a_subscriber_that_reconnects_again_and_again_misses_nothing_and_sees_nothing_twice() {
    let server = Server::start(&["--history-events", "10000"]);
    let last = 3000;
    let mut first = Stream::open(&server, "/subscribe/reconnect1");
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut client = Client::new(&server);
            for n in 0..=last {
                let own = if n % 7 == 0 { format!("id: own-{n}\n") } else { String::new() };
                let request = publish_request("/publish/reconnect1", "", &format!("{own}data: {n}"));
                assert_eq!(client.ask(request).status, 200);
            }
        });
        let (mut next, mut id) = (0, String::new());
        let mut take = |stream: &mut Stream, count: usize| {
            for _ in 0..count {
                let event = stream.event();
                assert_eq!((&*event.name, &*event.data), ("", &*next.to_string()));
                id = event.id;
                next += 1;
                if next > last {
                    return None;
                }
            }
            Some(id.clone())
        };
        let mut resume = take(&mut first, 1);
        for round in 1.. {
            let Some(id) = resume else { break };
            let mut stream = Stream::resume(&server, "reconnect1", &id);
            resume = take(&mut stream, round % 50 + 1);
        }
    });
}

/// A gap's data.
fn gap(event: &Event) -> Value {
    assert_eq!(event.name, "gap", "{event:?}");
    serde_json::from_str(&event.data).unwrap()
}

#[test]
fn a_gap_behind_which_nothing_is_kept_is_told_once() {
    let server = Server::start(&["--heartbeat", "200ms"]);
    let mut stream = Stream::resume(&server, "gaponce01", "never");
    let told = stream.event();
    assert_eq!(gap(&told), json!({"from": "never", "reason": "unknown"}));
    let mut stream = Stream::resume(&server, "gaponce01", &told.id);
    server.post("/publish/gaponce01", "data: 1");
    assert_eq!(stream.event().data, "1");
}

#[test]
fn whoever_resumes_after_an_unknown_id_is_told_of_a_gap_and_gets_what_is_kept() {
    let server = Server::start(&[]);
    let id = server.post("/publish/unknown01", "data: 1\n\ndata: 2").id();
    let (run, last) = id.split_once('-').unwrap();
    let later = last.parse::<u64>().unwrap() + 1000;
    for unknown in ["never", "1-1", &format!("{run}-0{last}"), &format!("{run}-{later}"), "a\"b", "é"] {
        let mut stream = Stream::resume(&server, "unknown01", unknown);
        assert_eq!(gap(&stream.event()), json!({"from": unknown, "reason": "unknown"}));
        assert_eq!((stream.event().data, stream.event().data), ("1".to_owned(), "2".to_owned()));
    }
    // A topic that nobody has published to knows no id either.
    let mut stream = Stream::resume(&server, "unknown02", "never");
    assert_eq!(gap(&stream.event()), json!({"from": "never", "reason": "unknown"}));
}

#[test]
fn whoever_missed_what_is_no_longer_kept_is_told_of_a_gap_and_nobody_else() {
    let server = Server::start(&["--history-events", "3"]);
    let ids: Vec<_> = (0..8)
        .map(|n| {
            let own = if n % 2 == 0 { format!("\nid: own-{n}") } else { String::new() };
            server.post("/publish/trimmed01", &format!("data: {n}{own}")).id()
        })
        .collect();
    for (n, id) in ids.iter().enumerate() {
        let mut stream = Stream::resume(&server, "trimmed01", id);
        if n < 4 {
            // An own id that is no longer kept is one that nobody knows.
            let reason = if n % 2 == 0 { "unknown" } else { "trimmed" };
            assert_eq!(gap(&stream.event()), json!({"from": id, "reason": reason}), "after {n}");
        }
        for kept in 5.max(n + 1)..8 {
            assert_eq!(stream.event().data, kept.to_string(), "after {n}");
        }
    }
}

#[test]
fn a_quiet_topic_yields_no_false_gap() {
    // Everything is dropped for its age, other topics go on, and the subscriber had seen the last event.
    let server = Server::start(&["--history-age", "50ms"]);
    for (topic, own) in [("quiet0001", ""), ("quiet0002", "\nid: own")] {
        let path = format!("/publish/{topic}");
        let missed = server.post(&path, "data: missed").id();
        let last = server.post(&path, &format!("data: last{own}")).id();
        for n in 0..100 {
            server.post("/publish/noisy0001", &format!("data: {n}"));
        }
        eventually("history is empty", || {
            let is_empty = server.stats()["shards"].as_array()?.iter().all(|s| s["history_bytes"] == 0);
            is_empty.then_some(())
        });
        let resume = |id: &str| Stream::resume(&server, topic, id);
        let (mut up_to_date, mut behind) = (resume(&last), resume(&missed));
        server.post(&path, "data: live");
        assert_eq!(up_to_date.event().data, "live", "{topic}");
        assert_eq!(gap(&behind.event()), json!({"from": missed, "reason": "trimmed"}), "{topic}");
        assert_eq!(behind.event().data, "live", "{topic}");
    }
}

#[test]
fn an_id_used_twice_means_its_later_use() {
    let server = Server::start(&[]);
    for body in ["data: 1\nid: same", "data: 2", "data: 3\nid: same", "data: 4"] {
        server.post("/publish/usedtwice", body);
    }
    let mut stream = Stream::resume(&server, "usedtwice", "same");
    assert_eq!(stream.event().data, "4");
}
