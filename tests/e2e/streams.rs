//! What subscribers get, in which order, and what becomes of those that do not take it.

use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::harness::{PATIENCE, Publisher, Server, Stream, connect, eventually};

const TOPIC: &str = "streams01";

/// The id in a publish's answer.
pub(crate) fn publish(server: &Server, topic: &str, body: &str) -> String {
    let answer = server.post(&format!("/publish/{topic}"), body);
    assert_eq!(answer.status, 200, "{answer:?}");
    let json: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
    json["id"].as_str().unwrap().to_owned()
}

fn subscribe(server: &Server) -> Stream {
    Stream::open(server, &format!("/subscribe/{TOPIC}"))
}

fn subscribe_and_stall(server: &Server) -> TcpStream {
    stall(server, &format!("/subscribe/{TOPIC}"))
}

/// Subscribes, reads the head and nothing behind it. The window is small, but not so small that the kernel sends by its
/// timers alone when reading goes on.
pub(crate) fn stall(server: &Server, target: &str) -> TcpStream {
    let mut connection = server.connect();
    socket2::SockRef::from(&connection).set_recv_buffer_size(128 << 10).unwrap();
    write!(connection, "GET {target} HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        connection.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    assert!(head.starts_with(b"HTTP/1.1 200 OK\r\n"));
    connection
}

/// Reads into `bytes` until `text` has come.
pub(crate) fn read_until(connection: &mut TcpStream, bytes: &mut Vec<u8>, text: &str) -> io::Result<()> {
    let mut buffer = [0; 64 << 10];
    loop {
        let read = connection.read(&mut buffer)?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        // It may lie across two reads.
        let start = bytes.len().saturating_sub(text.len());
        bytes.extend_from_slice(&buffer[..read]);
        if bytes[start..].windows(text.len()).any(|window| window == text.as_bytes()) {
            return Ok(());
        }
    }
}

/// Everything between the chunks' sizes, up to the connection's end. The last chunk may be cut short.
pub(crate) fn dechunk(mut bytes: &[u8]) -> String {
    let mut text = Vec::new();
    while let Some(at) = bytes.windows(2).position(|pair| pair == b"\r\n") {
        let size = usize::from_str_radix(std::str::from_utf8(&bytes[..at]).unwrap(), 16).unwrap();
        let chunk = &bytes[at + 2..];
        text.extend_from_slice(&chunk[..size.min(chunk.len())]);
        bytes = chunk.get(size + 2..).unwrap_or_default();
    }
    String::from_utf8(text).unwrap()
}

/// An event of about `bytes` that says its number.
pub(crate) fn numbered(number: usize, bytes: usize) -> String {
    format!("data: {number} {}", "x".repeat(bytes))
}

/// The number in [`numbered`] data.
fn number(data: &str) -> usize {
    data.split(' ').next().unwrap().parse().unwrap()
}

#[test]
fn a_stream_begins_with_exactly_the_head_that_is_promised() {
    let server = Server::start(&[]);
    let stream = subscribe(&server);
    let (dates, fields): (Vec<&str>, Vec<&str>) =
        stream.head.head.lines().partition(|line| line.starts_with("Date: "));
    assert_eq!(dates.len(), 1);
    assert_eq!(
        fields,
        [
            "HTTP/1.1 200 OK",
            "Access-Control-Allow-Origin: *",
            "Content-Type: text/event-stream",
            "Cache-Control: no-cache",
            "X-Accel-Buffering: no",
            "Transfer-Encoding: chunked",
        ]
    );
}

#[test]
fn one_block_is_one_chunk() {
    let server = Server::start(&[]);
    let mut stream = subscribe(&server);
    let id = publish(&server, TOPIC, "data: one\n\nevent: second\ndata: two");
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
    let (_, fields): (Vec<&str>, Vec<&str>) =
        stream.head.head.lines().partition(|line| line.starts_with("Date: "));
    assert_eq!(
        fields,
        [
            "HTTP/1.1 200 OK",
            "Access-Control-Allow-Origin: *",
            "Content-Type: text/event-stream",
            "Cache-Control: no-cache",
            "X-Accel-Buffering: no",
            "Connection: close",
        ]
    );
    let id = publish(&server, TOPIC, "data: one\r\n\r\n");
    assert!(server.stop().success());
    let text: String = std::iter::from_fn(|| stream.read_some()).collect();
    assert_eq!(text, format!("data: one\nid:{id}\n\nretry:7\n\n"));
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
        publish(&server, &topic, &format!("data: {round}"));
        assert_eq!(stream.event().data, round.to_string());
    }
}

/// So little that a subscriber that stops reading soon counts as slow, and nothing else ends its stream.
pub(crate) const STALLING: [&str; 10] = [
    "--slow-lag",
    "1MiB",
    "--body-max",
    "128KiB",
    "--history-memory",
    "4MiB",
    "--send-timeout",
    "1h",
    "--heartbeat",
    "1h",
];

#[test]
fn a_subscriber_that_stops_reading_is_cut_and_delays_no_other() {
    let server = Server::start(&STALLING);
    let mut others: Vec<Stream> = (0..4).map(|_| subscribe(&server)).collect();
    let mut stalled = subscribe_and_stall(&server);
    let mut publisher = Publisher::new(&server);
    // 6 MiB: more than a megabyte past all that the kernel holds for one connection.
    for sent in 0..96 {
        assert_eq!(publisher.publish(TOPIC, &numbered(sent, 64 << 10)).unwrap().status, 200);
        for stream in &mut others {
            assert_eq!(number(&stream.event().data), sent);
        }
    }
    eventually("it is cut", || (server.stats()["clients"] == 4).then_some(()));
    assert_eq!(server.stats()["evicted"], 1);
    // What it finds when it comes back is an unbroken beginning, and no end that looks orderly.
    let mut rest = Vec::new();
    let _ = stalled.read_to_end(&mut rest);
    assert!(!rest.ends_with(b"0\r\n\r\n"));
    let text = dechunk(&rest);
    let numbers: Vec<usize> = text
        .split_inclusive("\n\n")
        .filter(|event| event.ends_with("\n\n"))
        .filter_map(|event| event.strip_prefix("data: ").map(number))
        .collect();
    assert_eq!(numbers, (0..numbers.len()).collect::<Vec<_>>());
    assert!(numbers.len() < 96);
}

#[test]
fn under_skip_a_subscriber_that_stops_reading_is_told_of_the_gap_and_goes_on() {
    let server = Server::start(&[&["--slow-policy", "skip"], &STALLING[..]].concat());
    let mut other = subscribe(&server);
    let mut stalled = subscribe_and_stall(&server);
    let mut publisher = Publisher::new(&server);
    for sent in 0..96 {
        assert_eq!(publisher.publish(TOPIC, &numbered(sent, 64 << 10)).unwrap().status, 200);
        assert_eq!(number(&other.event().data), sent);
    }
    // It reads again. What is published before it has come to its gap lies before it, so it is published to until one
    // arrives; from then on it follows.
    let mut next = 96;
    let mut bytes = Vec::new();
    stalled.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    eventually("it follows again", || {
        publisher.publish(TOPIC, &format!("data: {next} follows")).unwrap();
        next += 1;
        read_until(&mut stalled, &mut bytes, " follows").ok()
    });
    stalled.set_read_timeout(Some(PATIENCE)).unwrap();
    for _ in 0..10 {
        assert_eq!(publisher.publish(TOPIC, &numbered(next, 100)).unwrap().status, 200);
        next += 1;
    }
    read_until(&mut stalled, &mut bytes, &format!("data: {} ", next - 1)).unwrap();
    assert_eq!(server.stats()["clients"], 2);
    assert_eq!(server.stats()["evicted"], 0);

    let text = dechunk(&bytes);
    let (mut gaps, mut is_behind_gap, mut expected, mut last_id) = (0, false, 0, "");
    for event in text.split("\n\n") {
        if let Some(gap) = event.strip_prefix("event:gap\n") {
            assert_eq!(gap, format!("data:{{\"from\":\"{last_id}\",\"reason\":\"slow\"}}"));
            (gaps, is_behind_gap) = (gaps + 1, true);
        } else if let Some((data, id)) = event.split_once("\nid:") {
            let number = number(data.strip_prefix("data: ").unwrap());
            assert!(number == expected || is_behind_gap && number > expected, "{number}, not {expected}");
            (is_behind_gap, expected, last_id) = (false, number + 1, id);
        }
    }
    assert!(gaps > 0);
    assert!(expected >= next - 1, "it ends with the newest, whose id may still be to come");
}

#[test]
fn memory_stays_bounded_while_megabytes_are_published_past_readers_that_stopped() {
    for policy in ["cut", "skip"] {
        let server = Server::start(&[
            "--slow-policy",
            policy,
            "--slow-lag",
            "1MiB",
            "--body-max",
            "256KiB",
            "--history-memory",
            "4MiB",
            "--history-bytes",
            "1MiB",
            "--send-timeout",
            "1h",
            "--heartbeat",
            "1h",
        ]);
        let _stalled: Vec<TcpStream> = (0..4).map(|_| subscribe_and_stall(&server)).collect();
        let mut publisher = Publisher::new(&server);
        let body = numbered(0, 200_000);
        // The buffers of the publisher's own connection grow once.
        assert_eq!(publisher.publish(TOPIC, &body).unwrap().status, 200);
        let before = server.resident_bytes();
        for _ in 0..1000 {
            assert_eq!(publisher.publish(TOPIC, &body).unwrap().status, 200);
        }
        let grown = server.resident_bytes().saturating_sub(before);
        assert!(grown < 40 << 20, "{policy}: {grown} bytes more after 200 MB");
        assert_eq!(server.stats()["evicted"], if policy == "cut" { 4 } else { 0 });
    }
}

#[test]
fn a_send_that_never_finishes_ends_its_stream_under_either_policy() {
    for policy in ["cut", "skip"] {
        let server = Server::start(&["--slow-policy", policy, "--send-timeout", "300ms"]);
        let mut other = subscribe(&server);
        let _stalled = subscribe_and_stall(&server);
        // Far below what it may be behind.
        for sent in 0..4 {
            publish(&server, TOPIC, &numbered(sent, 500_000));
            assert_eq!(number(&other.event().data), sent);
        }
        eventually("it is cut", || (server.stats()["clients"] == 1).then_some(()));
        assert_eq!(server.stats()["evicted"], 1, "{policy}");
        publish(&server, TOPIC, "data: 4");
        assert_eq!(number(&other.event().data), 4);
    }
}

#[test]
fn a_send_may_take_as_long_as_the_send_timeout_allows_however_short_the_heartbeat() {
    // A phone in a tunnel: its kernel answers, but nobody reads for ten heartbeats.
    let server = Server::start(&["--heartbeat", "200ms", "--send-timeout", "1h"]);
    let mut stalled = subscribe_and_stall(&server);
    for sent in 0..4 {
        publish(&server, TOPIC, &numbered(sent, 500_000));
    }
    thread::sleep(Duration::from_secs(2));
    assert_eq!(server.stats()["clients"], 1, "it is within its send timeout");
    read_until(&mut stalled, &mut Vec::new(), "data: 3 ").unwrap();
}

#[test]
fn a_quiet_stream_gets_a_comment_each_heartbeat() {
    let server = Server::start(&["--heartbeat", "200ms"]);
    let mut stream = subscribe(&server);
    for _ in 0..3 {
        assert_eq!(stream.read_some().unwrap(), ":\n\n");
    }
    let old = format!("GET /subscribe/{TOPIC} HTTP/1.0\r\n\r\n");
    let mut stream = Stream::send(server.address, &old);
    assert_eq!(stream.read_some().unwrap() + &stream.read_some().unwrap(), ":\n\n");
}

#[test]
fn without_heartbeats_a_quiet_stream_gets_nothing_and_goes_on() {
    // Longer than the send timeout, which is no limit on silence.
    let server = Server::start(&["--heartbeat", "0s", "--send-timeout", "200ms"]);
    let mut stream = subscribe(&server);
    thread::sleep(Duration::from_secs(1));
    let id = publish(&server, TOPIC, "data: one");
    assert_eq!(stream.read_some().unwrap(), format!("data: one\nid:{id}\n\n"), "and no comment before it");
}

#[test]
fn a_busy_stream_gets_no_heartbeat() {
    let server = Server::start(&["--heartbeat", "600ms"]);
    let mut stream = subscribe(&server);
    check_no_heartbeat_while_busy(&server, &mut stream, TOPIC);
}

/// Publishes to `topic` for a while, so that `stream` is never quiet, and expects no comment on it.
pub(crate) fn check_no_heartbeat_while_busy(server: &Server, stream: &mut Stream, topic: &str) {
    let mut publisher = Publisher::new(server);
    let (mut comments, mut pauses) = (0, 0);
    let start = Instant::now();
    let mut quiet_since = Instant::now();
    while start.elapsed() < Duration::from_secs(2) {
        let began = Instant::now();
        publisher.publish(topic, "data: x").unwrap();
        loop {
            let text = stream.read_some().unwrap();
            comments += text.matches(":\n\n").count();
            if text.contains("data: x") {
                break;
            }
        }
        // A machine so slow that a heartbeat was due may have had one.
        pauses += usize::from(quiet_since.elapsed() > Duration::from_millis(400));
        quiet_since = began;
        thread::sleep(Duration::from_millis(10));
    }
    assert!(comments <= pauses, "{comments} comments, {pauses} pauses");
}

#[test]
fn what_a_subscriber_sends_is_ignored_up_to_1_kib_and_then_it_is_cut() {
    let server = Server::start(&["--heartbeat", "1h"]);
    let mut stream = subscribe(&server);
    stream.socket().write_all(&[b'x'; 1024]).unwrap();
    publish(&server, TOPIC, "data: still here");
    assert_eq!(stream.event().data, "still here");
    stream.socket().write_all(b"x").unwrap();
    assert_eq!(stream.next_event(), None);
    assert!(!stream.is_complete, "it is not an orderly end");
    eventually("its place is free", || (server.stats()["clients"] == 0).then_some(()));

    // Bytes that came with the request count, too.
    let mut connection = server.connect();
    let request = format!("GET /subscribe/{TOPIC} HTTP/1.1\r\nHost: h\r\n\r\n{}", "x".repeat(1025));
    connection.write_all(request.as_bytes()).unwrap();
    let _ = connection.read_to_end(&mut Vec::new());
    eventually("its place is free", || (server.stats()["clients"] == 0).then_some(()));
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
        eventually("its place is free", || (server.stats()["clients"] == 0).then_some(()));
    }
}

#[test]
fn five_hundred_subscribers_of_one_topic_get_everything() {
    let server = Server::start(&[]);
    let mut streams: Vec<Stream> = (0..500).map(|_| subscribe(&server)).collect();
    assert_eq!(server.stats()["clients"], 500);
    for number in 0..3 {
        publish(&server, TOPIC, &format!("data: {number}"));
    }
    for stream in &mut streams {
        let data: Vec<String> = (0..3).map(|_| stream.event().data).collect();
        assert_eq!(data, ["0", "1", "2"]);
    }
    eventually("all is counted", || (server.stats()["delivered"] == 1500).then_some(()));
    drop(streams);
    eventually("all are gone", || (server.stats()["clients"] == 0).then_some(()));
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
        let id = publish(&server, TOPIC, &format!("data: {data}"));
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

/// A stream that resumes after `id`.
fn resume(server: &Server, topic: &str, id: &str) -> Stream {
    Stream::open_with(server, &format!("/subscribe/{topic}"), &[&format!("Last-Event-ID: {id}")])
}

fn trimmed_gap(id: &str) -> String {
    format!("event:gap\ndata:{{\"from\":\"{id}\",\"reason\":\"trimmed\"}}")
}

#[test]
fn history_events_bounds_what_is_replayed() {
    let server = Server::start(&["--history-events", "3"]);
    let ids: Vec<String> = (0..5).map(|number| publish(&server, TOPIC, &format!("data: {number}"))).collect();
    for (after, gap, expected) in [
        (0, true, &["2", "3", "4"][..]),
        // The last that was dropped: nothing after it is missing.
        (1, false, &["2", "3", "4"]),
        (2, false, &["3", "4"]),
        (4, false, &[]),
    ] {
        let mut stream = resume(&server, TOPIC, &ids[after]);
        if gap {
            assert_eq!(stream.event().lines, trimmed_gap(&ids[after]));
        }
        for data in expected {
            assert_eq!(stream.event().data, *data, "after {after}");
        }
        publish(&server, "othertopic", "data: elsewhere");
    }
}

#[test]
fn history_bytes_bounds_what_is_replayed() {
    let server = Server::start(&["--history-bytes", "4KiB"]);
    let ids: Vec<String> = (0..20).map(|sent| publish(&server, TOPIC, &numbered(sent, 500))).collect();
    let mut stream = resume(&server, TOPIC, &ids[0]);
    assert_eq!(stream.event().lines, trimmed_gap(&ids[0]));
    let first = number(&stream.event().data);
    // 20 of them are 10 kB, and each costs something beside its bytes.
    assert!((13..20).contains(&first), "{first}");
    for sent in first + 1..20 {
        assert_eq!(number(&stream.event().data), sent);
    }
    assert!(server.stats()["history_bytes"].as_u64().unwrap() <= 4096);
}

#[test]
fn history_age_bounds_what_is_replayed() {
    let server = Server::start(&["--history-age", "300ms", "--heartbeat", "200ms"]);
    let first = publish(&server, TOPIC, "data: first");
    publish(&server, TOPIC, "data: old");
    eventually("they are dropped", || (server.stats()["history_bytes"] == 0).then_some(()));
    let mut stream = resume(&server, TOPIC, &first);
    assert!(stream.event().lines.starts_with(&trimmed_gap(&first)));
    publish(&server, TOPIC, "data: new");
    assert_eq!(stream.event().data, "new");
}

#[test]
fn history_memory_bounds_what_all_topics_replay_together() {
    // On one core, where its order is exact: several give up their shares, of which one may be its newest event.
    let server = Server::start(&[
        "--cores",
        "1",
        "--history-memory",
        "256KiB",
        "--history-bytes",
        "256KiB",
        "--slow-lag",
        "256KiB",
        "--body-max",
        "64KiB",
    ]);
    let topic = |number: usize| format!("memory{number:04}");
    let first = publish(&server, &topic(0), "data: first");
    let ids: Vec<String> =
        (0..20).map(|number| publish(&server, &topic(number), &numbered(number, 50_000))).collect();
    eventually("it is within its bound", || {
        (server.stats()["history_bytes"].as_u64()? <= 256 << 10).then_some(())
    });
    // The oldest are gone, the newest is not.
    let mut stream = resume(&server, &topic(0), &first);
    assert!(stream.event().lines.starts_with(&trimmed_gap(&first)));
    publish(&server, &topic(0), "data: new");
    assert_eq!(stream.event().data, "new");
    let mut stream = Stream::open(&server, &format!("/subscribe/{}?lastEventId=0", topic(19)));
    assert_eq!(stream.event().data, "{\"from\":\"0\",\"reason\":\"unknown\"}");
    let newest = stream.event();
    assert_eq!((number(&newest.data), &newest.id), (19, &ids[19]));
}

#[test]
fn history_memory_is_one_bound_for_all_cores() {
    let server = Server::start(&[
        "--history-memory",
        "1MiB",
        "--history-bytes",
        "256KiB",
        "--slow-lag",
        "256KiB",
        "--body-max",
        "64KiB",
    ]);
    for number in 0..300 {
        publish(&server, &format!("memory{:04}", number % 50), &numbered(number, 10_000));
    }
    eventually("it is within its bound", || {
        (server.stats()["history_bytes"].as_u64()? <= 1 << 20).then_some(())
    });
    // And well used: what is given up is not much more than what is too much.
    let kept = server.stats()["history_bytes"].as_u64().unwrap();
    assert!(kept > 768 << 10, "{kept} bytes are kept of 1 MiB");
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
        publish(&server, "quiettopic", "data: through the flood");
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
    eventually("all are gone", || (server.stats()["connections"] == 1).then_some(()));
}
