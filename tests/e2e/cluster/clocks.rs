//! A node whose clock is wrong.

use std::path::PathBuf;

use super::faults::through;
use super::load::publish_at;
use super::world::World;
use crate::support::nats::Nats;

/// The library that gives a process another time (Debian, Ubuntu: libfaketime).
fn library() -> PathBuf {
    let below = std::fs::read_dir("/usr/lib").expect("/usr/lib").map(|entry| entry.expect("an entry").path());
    let mut found = below.map(|path| path.join("faketime/libfaketimeMT.so.1")).filter(|path| path.exists());
    found.next().expect("libfaketime is installed")
}

#[test]
fn nodes_whose_clocks_are_an_hour_off_have_the_same_events() {
    let preload = format!("LD_PRELOAD={}", library().display());
    // What is too old must be so by the stream's clock: half an hour, while the nodes are two hours apart.
    let mut world = World::without_nodes(Nats::start(1), 3, &["--history-age", "30m"]);
    for (node, offset) in [(1, "FAKETIME=+1h"), (2, "FAKETIME=-1h")] {
        world.launch_by(node, &["env", &preload, offset, "FAKETIME_DONT_FAKE_MONOTONIC=1"]);
    }
    (0..3).for_each(|node| world.start_node(node));
    let date = |world: &World, node: usize| {
        let date = world.node(node).server.get("/healthz").field("Date").expect("a date").to_owned();
        httpdate::parse_http_date(&date).expect("a date")
    };
    let apart = date(&world, 1).duration_since(date(&world, 2)).expect("it is later");
    assert!(apart.as_secs().abs_diff(7200) < 60, "the clocks are off: {apart:?}");

    let first = publish_at(&world, 0, "clocks001", "0");
    let fields = ["Idempotency-Key: k"];
    let keyed: Vec<_> = [2, 1, 0, 2]
        .map(|node| world.publish_with(node, "clocks001", &fields, "data: keyed").body)
        .into_iter()
        .collect();
    assert!(keyed.iter().all(|body| *body == keyed[0]), "{keyed:?}");
    let story = through(&mut world, |world, load| {
        for node in [1, 2] {
            world.kill_node(node);
            load.run_on(50);
            world.start_node(node);
            load.run_on(50);
        }
    });
    story.check_without_gaps();
    // Those that started since have what was there before.
    for node in 0..3 {
        let mut stream = world.resume(node, "clocks001", &first);
        let event = stream.event();
        assert_eq!((&*event.name, &*event.data), ("", "keyed"), "at node {node}");
    }
}
