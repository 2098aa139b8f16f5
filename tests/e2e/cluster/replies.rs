//! When a publish is answered, and what a node says of its cluster.

use std::thread;
use std::time::{Duration, Instant};

use super::load::publish_at;
use super::world::World;
use crate::support::nats::Nats;
use crate::support::{Answer, exchange};

#[test]
fn a_publish_is_answered_200_once_the_stream_has_it_and_not_before() {
    let world = World::of(Nats::start(1), 2, &[]);
    let mut streams: Vec<_> = (0..2).map(|node| world.subscribe(node, "answered1")).collect();
    for n in 0..10 {
        let before = world.nats.info().state.last_sequence;
        publish_at(&world, n % 2, "answered1", &n.to_string());
        assert_eq!(world.nats.info().state.last_sequence, before + 1);
    }
    let address = world.node(0).control;
    world.nats.stop_process(0);
    let publishing =
        thread::spawn(move || exchange(address, "POST", "/publish/answered1", &[], "data: waits"));
    thread::sleep(Duration::from_millis(1500));
    assert!(!publishing.is_finished(), "nobody has it yet");
    world.nats.continue_process(0);
    assert_eq!(Answer::parse(&publishing.join().unwrap()).status, 200);
    world.wait_all_publish();
    publish_at(&world, 1, "answered1", "end");
    for stream in &mut streams {
        let data = stream.data_until("end");
        assert_eq!(data[..11].join(" "), "0 1 2 3 4 5 6 7 8 9 waits");
        assert_eq!(data.len(), 12, "{data:?}");
    }
}

#[test]
fn a_publish_that_nobody_confirms_is_answered_504_in_time_and_then_refused() {
    let world = World::of(Nats::start(1), 1, &[]);
    world.wait_all_publish();
    let address = world.node(0).control;
    world.hold(0);
    let start = Instant::now();
    let text = exchange(address, "POST", "/publish/unconfirm", &[], "data: maybe");
    let answer = Answer::parse(&text);
    assert_eq!(answer.status, 504, "{answer:?}");
    assert!(answer.body.contains("it may have been published") && answer.body.contains("Idempotency-Key"));
    assert!(start.elapsed() > Duration::from_secs(15), "{:?}", start.elapsed());
    let refused = world.publish(0, "unconfirm", "data: no");
    assert_eq!(refused.status, 503, "{refused:?}");
    assert_eq!(world.stats(0)["unconfirmed"], 1);
    world.mend(0);
    world.wait_all_publish();
    world.wait_status(0, "/readyz", 200);
}

#[test]
fn a_publish_that_nats_does_not_confirm_before_its_node_ends_is_answered_504_before_the_connection_closes() {
    let world = World::of(Nats::start(1), 1, &["--drain-time", "2s", "--drain-delay", "0s"]);
    world.wait_all_publish();
    let address = world.node(0).control;
    world.nats.stop_process(0);
    let publishing =
        thread::spawn(move || exchange(address, "POST", "/publish/ending001", &[], "data: maybe"));
    // It is on its way by then.
    thread::sleep(Duration::from_millis(500));
    world.signal_node(0, "TERM");
    let start = Instant::now();
    let answer = Answer::parse(&publishing.join().unwrap());
    assert_eq!(answer.status, 504, "{answer:?}");
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
}

#[test]
fn stats_say_how_the_cluster_is() {
    let world = World::of(Nats::start(1), 3, &[]);
    for node in 0..3 {
        publish_at(&world, node, "counted01", "x");
    }
    for node in 0..3 {
        crate::support::wait_until("all nodes are known", || world.stats(node)["nodes"] == 3);
        crate::support::wait_until("all is applied", || world.stats(node)["publishes"] == 3);
        let stats = world.stats(node);
        for (key, expected) in [
            ("connected", true.into()),
            ("ready", true.into()),
            ("lag", 0.into()),
            ("applied", 3.into()),
            ("messages", 1.into()),
            ("resent", 0.into()),
            ("unconfirmed", 0.into()),
            ("missed", 0.into()),
            ("resets", 0.into()),
            ("malformed", 0.into()),
            ("waiting", 0.into()),
        ] {
            let expected: serde_json::Value = expected;
            assert_eq!(stats[key], expected, "{key} in {stats}");
        }
        assert_eq!(stats["ack_us"]["count"], 1, "{stats}");
    }
}
