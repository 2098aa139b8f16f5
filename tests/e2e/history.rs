//! What is kept for replay, by the number of events, their bytes, their age and the memory of all.

use crate::support::slow_clients::{number, numbered};
use crate::support::{Server, Stream, eventually, wait_until};

const TOPIC: &str = "history01";

fn trimmed_gap(id: &str) -> String {
    format!("event:gap\ndata:{{\"from\":\"{id}\",\"reason\":\"trimmed\"}}")
}

/// Resumes after an id: what came since is gone, and what comes now is there.
fn only_new_events_come(server: &Server, topic: &str, last_event_id: &str) {
    let mut stream = Stream::resume(server, topic, last_event_id);
    assert!(stream.event().lines.starts_with(&trimmed_gap(last_event_id)));
    server.publish(topic, "data: new");
    assert_eq!(stream.event().data, "new");
}

#[test]
fn history_events_bounds_what_is_replayed() {
    let server = Server::start(&["--history-events", "3"]);
    let ids: Vec<String> = (0..5).map(|number| server.publish(TOPIC, &format!("data: {number}"))).collect();
    for (after, gap, expected) in [
        (0, true, &["2", "3", "4"][..]),
        // The last that was dropped: nothing after it is missing.
        (1, false, &["2", "3", "4"]),
        (2, false, &["3", "4"]),
        (4, false, &[]),
    ] {
        let mut stream = Stream::resume(&server, TOPIC, &ids[after]);
        if gap {
            assert_eq!(stream.event().lines, trimmed_gap(&ids[after]));
        }
        for data in expected {
            assert_eq!(stream.event().data, *data, "after {after}");
        }
        server.publish("othertopic", "data: elsewhere");
    }
}

#[test]
fn history_bytes_bounds_what_is_replayed() {
    let server = Server::start(&["--history-bytes", "4KiB"]);
    let ids: Vec<String> = (0..20).map(|sent| server.publish(TOPIC, &numbered(sent, 500))).collect();
    let mut stream = Stream::resume(&server, TOPIC, &ids[0]);
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
    let first = server.publish(TOPIC, "data: first");
    server.publish(TOPIC, "data: old");
    wait_until("they are dropped", || server.stats()["history_bytes"] == 0);
    only_new_events_come(&server, TOPIC, &first);
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
    let first = server.publish(&topic(0), "data: first");
    let ids: Vec<String> =
        (0..20).map(|number| server.publish(&topic(number), &numbered(number, 50_000))).collect();
    eventually("it is within its bound", || {
        (server.stats()["history_bytes"].as_u64()? <= 256 << 10).then_some(())
    });
    // The oldest are gone, the newest is not.
    only_new_events_come(&server, &topic(0), &first);
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
        server.publish(&format!("memory{:04}", number % 50), &numbered(number, 10_000));
    }
    eventually("it is within its bound", || {
        (server.stats()["history_bytes"].as_u64()? <= 1 << 20).then_some(())
    });
    // And well used: what is given up is not much more than what is too much.
    let kept = server.stats()["history_bytes"].as_u64().unwrap();
    assert!(kept > 768 << 10, "{kept} bytes are kept of 1 MiB");
}
