//! What subscribers get, in which order, and when they are sent a comment.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::support::slow_clients::{number, numbered};
use crate::support::{
    Publisher, Server, Stream, check_no_heartbeat_while_busy, connect, eventually, wait_until,
};

const TOPIC: &str = "streams01";

fn subscribe(server: &Server) -> Stream {
    Stream::open(server, &format!("/subscribe/{TOPIC}"))
}

#[test]
fn a_stream_begins_with_exactly_the_head_that_is_promised() {
    let server = Server::start(&[]);
    check_head(&subscribe(&server), &["Transfer-Encoding: chunked"]);
}

/// Expects the head that is promised, with these fields at its end.
fn check_head(stream: &Stream, last: &[&str]) {
    let (dates, fields): (Vec<&str>, Vec<&str>) =
        stream.head.head.lines().partition(|line| line.starts_with("Date: "));
    assert_eq!(dates.len(), 1);
    let promised = [
        "HTTP/1.1 200 OK",
        "Access-Control-Allow-Origin: *",
        "Content-Type: text/event-stream; charset=utf-8",
        "Cache-Control: no-cache, no-transform",
        "X-Accel-Buffering: no",
    ];
    assert_eq!(fields, [&promised, last].concat());
}

#[test]
fn one_block_is_one_chunk() {
    let server = Server::start(&[]);
    let mut stream = subscribe(&server);
    let id = server.publish(TOPIC, "data: one\n\nevent: second\ndata: two");
    let first = id.replace("-2", "-1");
    assert_eq!(
        stream.read_some().unwrap(),
        format!("data: one\nid:{first}\n\nevent: second\ndata: two\nid:{id}\n\n")
    );
}

#[test]
fn an_http_1_0_client_gets_the_same_events_bare_up_to_the_close() {
    let server = Server::start(&["--heartbeat", "1h", "--retry-min", "7ms", "--retry-max", "7ms"]);
    let request = format!("GET /subscribe/{TOPIC} HTTP/1.0\r\n\r\n");
    let mut stream = Stream::send(server.address, &request);
    check_head(&stream, &["Connection: close"]);
    let id = server.publish(TOPIC, "data: one\r\n\r\n");
    assert!(server.stop().success());
    let text: String = std::iter::from_fn(|| stream.read_some()).collect();
    assert_eq!(text, format!("data: one\nid:{id}\n\nretry:7\n"));
}

#[test]
fn all_subscribers_of_a_topic_see_one_order_and_each_publishers_own() {
    const PUBLISHERS: usize = 4;
    const EVENTS: usize = 250;
    let server = Server::start(&[]);
    let mut streams: Vec<Stream> = (0..12).map(|_| subscribe(&server)).collect();
    thread::scope(|scope| {
        for publisher in 0..PUBLISHERS {
            let mut connection = Publisher::new(&server);
            scope.spawn(move || {
                for number in 0..EVENTS {
                    let answer = connection.publish(TOPIC, &format!("data: {publisher} {number}")).unwrap();
                    assert_eq!(answer.status, 200);
                }
            });
        }
    });
    let seen: Vec<Vec<(String, String)>> = streams
        .iter_mut()
        .map(|stream| {
            let events = (0..PUBLISHERS * EVENTS).map(|_| stream.event());
            events.map(|event| (event.data, event.id)).collect()
        })
        .collect();
    for other in &seen {
        assert!(*other == seen[0], "two subscribers saw different orders");
    }
    for publisher in 0..PUBLISHERS {
        let prefix = format!("{publisher} ");
        let own: Vec<usize> =
            seen[0].iter().filter_map(|(data, _)| data.strip_prefix(&prefix)?.parse().ok()).collect();
        assert_eq!(own, (0..EVENTS).collect::<Vec<_>>());
    }
    let ids: BTreeSet<&String> = seen[0].iter().map(|(_, id)| id).collect();
    assert_eq!(ids.len(), PUBLISHERS * EVENTS, "no id twice");
}

#[test]
fn what_is_published_after_a_subscriber_saw_200_reaches_it() {
    // Connections fall to both shards by chance; each round leaves a stream behind, so joins race with leaves.
    let server = Server::start(&[]);
    for round in 0..500 {
        let topic = format!("after{:04}", round % 7);
        let mut stream = Stream::open(&server, &format!("/subscribe/{topic}"));
        server.publish(&topic, &format!("data: {round}"));
        assert_eq!(stream.event().data, round.to_string());
    }
}

#[test]
fn a_quiet_stream_gets_a_comment_each_heartbeat() {
    let server = Server::start(&["--heartbeat", "200ms"]);
    let mut stream = subscribe(&server);
    for _ in 0..3 {
        assert_eq!(stream.read_some().unwrap(), ":\n");
    }
    let old = format!("GET /subscribe/{TOPIC} HTTP/1.0\r\n\r\n");
    let mut stream = Stream::send(server.address, &old);
    assert_eq!([(); 2].map(|()| stream.read_some().unwrap()), [":\n", ":\n"]);
}

#[test]
fn without_heartbeats_a_quiet_stream_gets_nothing_and_goes_on() {
    // Longer than the send timeout, which is no limit on silence.
    let server = Server::start(&["--heartbeat", "0s", "--send-timeout", "200ms"]);
    let mut stream = subscribe(&server);
    thread::sleep(Duration::from_secs(1));
    let id = server.publish(TOPIC, "data: one");
    assert_eq!(stream.read_some().unwrap(), format!("data: one\nid:{id}\n\n"), "and no comment before it");
}

#[test]
fn a_busy_stream_gets_no_heartbeat() {
    let server = Server::start(&["--heartbeat", "600ms"]);
    let mut stream = subscribe(&server);
    check_no_heartbeat_while_busy(&server, &mut stream, TOPIC);
}

#[test]
fn what_a_subscriber_sends_is_ignored_up_to_1_kib_and_then_it_is_cut() {
    let server = Server::start(&["--heartbeat", "1h"]);
    let mut stream = subscribe(&server);
    stream.socket().write_all(&[b'x'; 1024]).unwrap();
    server.publish(TOPIC, "data: still here");
    assert_eq!(stream.event().data, "still here");
    stream.socket().write_all(b"x").unwrap();
    assert_eq!(stream.next_event(), None);
    assert!(!stream.is_complete, "it is not an orderly end");
    wait_until("its place is free", || server.stats()["clients"] == 0);

    // Bytes that came with the request count, too.
    let mut connection = server.connect();
    let request = format!("GET /subscribe/{TOPIC} HTTP/1.1\r\nHost: h\r\n\r\n{}", "x".repeat(1025));
    connection.write_all(request.as_bytes()).unwrap();
    let _ = connection.read_to_end(&mut Vec::new());
    wait_until("its place is free", || server.stats()["clients"] == 0);
}

#[test]
fn a_client_that_goes_frees_its_place() {
    let server = Server::start(&["--subscribers-max", "1", "--refuse-streams", "503", "--heartbeat", "1h"]);
    for goes in [Shutdown::Write, Shutdown::Both] {
        let stream =
            eventually("a place", || Some(subscribe(&server)).filter(|stream| stream.head.status == 200));
        assert_eq!(server.stats()["clients"], 1);
        let refused = subscribe(&server);
        assert_eq!(refused.head.status, 503);
        assert_eq!(refused.head.field("Retry-After"), Some("1"));
        stream.socket().shutdown(goes).unwrap();
        wait_until("its place is free", || server.stats()["clients"] == 0);
    }
}

#[test]
fn however_many_leave_or_get_room_in_one_moment_all_are_seen() {
    // More than the kernel tells of at once, on one shard, and nothing else that would wake it.
    let server = Server::start(&["--cores", "1", "--heartbeat", "1h", "--send-timeout", "1h"]);
    let leaving: Vec<Stream> = (0..200).map(|_| subscribe(&server)).collect();
    let mut stalled: Vec<Stream> =
        (0..200).map(|_| Stream::open(&server, "/subscribe/stalledtopic")).collect();
    assert_eq!(server.stats()["clients"], 400);
    drop(leaving);
    wait_until("all places are free", || server.stats()["clients"] == 200);
    let large = "x".repeat(900 << 10);
    server.publish("stalledtopic", &format!("data: {large}"));
    server.publish("stalledtopic", "data: last");
    thread::scope(|scope| {
        for stream in &mut stalled {
            scope.spawn(|| {
                assert_eq!(stream.event().data.len(), large.len());
                assert_eq!(stream.event().data, "last");
            });
        }
    });
}

#[test]
fn five_hundred_subscribers_of_one_topic_get_everything() {
    let server = Server::start(&[]);
    let mut streams: Vec<Stream> = (0..500).map(|_| subscribe(&server)).collect();
    assert_eq!(server.stats()["clients"], 500);
    for number in 0..3 {
        server.publish(TOPIC, &format!("data: {number}"));
    }
    for stream in &mut streams {
        let data: Vec<String> = (0..3).map(|_| stream.event().data).collect();
        assert_eq!(data, ["0", "1", "2"]);
    }
    wait_until("all is counted", || server.stats()["delivered"] == 1500);
    drop(streams);
    wait_until("all are gone", || server.stats()["clients"] == 0);
}

#[test]
fn three_hundred_topics_are_kept_apart() {
    let server = Server::start(&[]);
    let topic = |number: usize| format!("apart{number:04}");
    let mut streams: Vec<Stream> =
        (0..300).map(|number| Stream::open(&server, &format!("/subscribe/{}", topic(number)))).collect();
    let mut publisher = Publisher::new(&server);
    for round in 0..2 {
        for number in 0..300 {
            let answer = publisher.publish(&topic(number), &format!("data: {number} {round}")).unwrap();
            assert_eq!(answer.status, 200);
        }
    }
    for (number, stream) in streams.iter_mut().enumerate() {
        assert_eq!(stream.event().data, format!("{number} 0"));
        assert_eq!(stream.event().data, format!("{number} 1"));
    }
    assert_eq!(server.stats()["topics"], 300);
}

#[test]
fn nobody_loses_an_event_while_others_come_and_go() {
    const EVENTS: usize = 1000;
    let server = Server::start(&[]);
    let mut streams: Vec<Stream> = (0..10).map(|_| subscribe(&server)).collect();
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    let mut passing = subscribe(&server);
                    if let Some(event) = passing.next_event() {
                        assert!(number(&event.data) < EVENTS);
                    }
                }
            });
        }
        let mut publisher = Publisher::new(&server);
        for sent in 0..EVENTS {
            assert_eq!(publisher.publish(TOPIC, &numbered(sent, 100)).unwrap().status, 200);
        }
        for stream in &mut streams {
            for sent in 0..EVENTS {
                assert_eq!(number(&stream.event().data), sent);
            }
        }
        is_over.store(true, Ordering::Relaxed);
        // Those that wait for an event get one.
        while server.stats()["clients"] != 10 {
            publisher.publish(TOPIC, "data: 0").unwrap();
        }
    });
}

#[test]
fn an_event_as_large_as_a_body_may_be_arrives_whole() {
    for (flags, bytes) in [
        (&[][..], 1 << 20),
        (&["--body-max", "8MiB", "--slow-lag", "16MiB", "--history-bytes", "32MiB"][..], 8 << 20),
    ] {
        let server = Server::start(flags);
        let mut stream = subscribe(&server);
        let data: String = (0..bytes - 6).map(|at| char::from(b'a' + (at % 23) as u8)).collect();
        let id = server.publish(TOPIC, &format!("data: {data}"));
        let event = stream.event();
        assert!(event.data == data, "{} bytes of {}", event.data.len(), data.len());
        assert_eq!(event.id, id);
        // And out of the history.
        let path = format!("/subscribe/{TOPIC}?lastEventId=0");
        let mut replayed = Stream::open(&server, &path);
        assert_eq!(replayed.event().name, "gap");
        assert!(replayed.event().data == data);
    }
}

#[test]
fn a_flood_on_a_busy_core_starves_no_subscriber() {
    // One shard does everything; its publisher never stops until every subscriber has had its share.
    let server = Server::start(&[
        "--cores",
        "1",
        "--slow-lag",
        "1GiB",
        "--history-memory",
        "1GiB",
        "--history-events",
        "10",
    ]);
    let mut streams: Vec<Stream> = (0..10).map(|_| subscribe(&server)).collect();
    let mut quiet = Stream::open(&server, "/subscribe/quiettopic");
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut publisher = Publisher::new(&server);
            let mut sent = 0;
            while !is_over.load(Ordering::Relaxed) {
                for _ in 0..100 {
                    publisher.send(TOPIC, &format!("data: {sent}"));
                    sent += 1;
                }
                for _ in 0..100 {
                    assert_eq!(publisher.answer().unwrap().status, 200);
                }
            }
        });
        for stream in &mut streams {
            for sent in 0..500 {
                assert_eq!(stream.event().data, sent.to_string());
            }
        }
        server.publish("quiettopic", "data: through the flood");
        assert_eq!(quiet.event().data, "through the flood");
        is_over.store(true, Ordering::Relaxed);
    });
}

#[test]
fn a_hundred_idle_connections_come_and_go_without_a_trace() {
    let server = Server::start(&[]);
    for _ in 0..100 {
        drop(connect(server.address));
    }
    wait_until("all are gone", || server.stats()["connections"] == 1);
}
