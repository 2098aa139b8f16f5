//! Subscribers that stop reading: what becomes of them, and that they delay no other.

use std::io::Read;
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use crate::support::slow_clients::{STALLING, number, numbered, read_until, stall};
use crate::support::{
    PATIENCE, Publisher, Server, Stream, behind_first_retry, dechunk, eventually, wait_until,
};

const TOPIC: &str = "slow00001";

fn subscribe(server: &Server) -> Stream {
    Stream::open(server, &format!("/subscribe/{TOPIC}"))
}

fn subscribe_and_stall(server: &Server) -> TcpStream {
    stall(server, &format!("/subscribe/{TOPIC}"))
}

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
    wait_until("it is cut", || server.stats()["clients"] == 4);
    assert_eq!(server.stats()["evicted"], 1);
    // What it finds when it comes back is an unbroken beginning, and no end that looks orderly.
    let mut rest = Vec::new();
    let _ = stalled.read_to_end(&mut rest);
    assert!(!rest.ends_with(b"0\r\n\r\n"));
    let text = dechunk(&rest);
    let numbers: Vec<usize> = behind_first_retry(&text)
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
    for event in behind_first_retry(&text).split("\n\n") {
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
            server.publish(TOPIC, &numbered(sent, 500_000));
            assert_eq!(number(&other.event().data), sent);
        }
        wait_until("it is cut", || server.stats()["clients"] == 1);
        assert_eq!(server.stats()["evicted"], 1, "{policy}");
        server.publish(TOPIC, "data: 4");
        assert_eq!(number(&other.event().data), 4);
    }
}

#[test]
fn a_send_may_take_as_long_as_the_send_timeout_allows_however_short_the_heartbeat() {
    // A phone in a tunnel: its kernel answers, but nobody reads for ten heartbeats.
    let server = Server::start(&["--heartbeat", "200ms", "--send-timeout", "1h"]);
    let mut stalled = subscribe_and_stall(&server);
    for sent in 0..4 {
        server.publish(TOPIC, &numbered(sent, 500_000));
    }
    thread::sleep(Duration::from_secs(2));
    assert_eq!(server.stats()["clients"], 1, "it is within its send timeout");
    read_until(&mut stalled, &mut Vec::new(), "data: 3 ").unwrap();
}
