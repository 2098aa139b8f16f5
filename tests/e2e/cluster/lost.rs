//! What a stream loses: events that are too old, all of it, or its last day. Whoever missed something is told.

use std::thread;
use std::time::{Duration, Instant};

use async_nats::jetstream::stream::DiscardPolicy;

use super::PATIENCE;
use super::faults::through;
use super::load::publish_at;
use super::model::{Seen, Story};
use super::world::World;
use crate::support::nats::Nats;
use crate::support::{Event, gap_reason};

fn gaps(story: &Story) -> Vec<&str> {
    let seen = story.readings.iter().flat_map(|reading| &reading.seen);
    seen.filter_map(|seen| match seen {
        Seen::Gap(reason, _) => Some(&**reason),
        Seen::Event { .. } => None,
    })
    .collect()
}

#[test]
fn a_stream_that_is_deleted_under_load_begins_anew_and_everybody_is_told() {
    let mut world = World::start(3);
    let story = through(&mut world, |world, load| {
        world.nats.delete_stream();
        // Everybody notices within the time between two questions to the leader.
        thread::sleep(Duration::from_secs(5));
        load.run_on(100);
    });
    story.check();
    assert!(!gaps(&story).is_empty(), "nobody was told");
    for node in 0..3 {
        assert!(world.stats(node)["resets"].as_u64() >= Some(1), "{}", world.stats(node));
    }
    let ids: Vec<_> = (0..3).map(|node| publish_at(&world, node, "newepoch1", "x")).collect();
    let epochs: Vec<_> = ids.iter().map(|id| id.split_once('-').unwrap().0).collect();
    assert!(epochs.iter().all(|epoch| *epoch == epochs[0]), "all nodes agree: {ids:?}");
}

#[test]
fn a_snapshot_of_yesterday_begins_a_new_epoch_and_everybody_is_told() {
    let mut world = World::of(Nats::start(3), 3, &[]);
    let old = publish_at(&world, 0, "restored1", "kept");
    world.nats.stop();
    world.nats.keep_copy();
    world.nats.start_all_again();
    world.nats.wait_ready();
    world.wait_all_publish();
    let mut streams: Vec<_> = (0..3).map(|node| world.resume(node, "restored1", &old)).collect();
    let mut lost = String::new();
    for n in 0..50 {
        lost = publish_at(&world, n % 3, "restored1", &format!("lost {n}"));
    }
    for stream in &mut streams {
        stream.data_until("lost 49");
    }
    world.nats.stop();
    world.nats.put_copy_back();
    world.nats.start_all_again();
    world.nats.wait_ready();
    // Nobody may be given an id of the old epoch for another event.
    let told: Vec<Event> = streams
        .iter_mut()
        .enumerate()
        .map(|(node, stream)| {
            let event = stream.next_event();
            event.unwrap_or_else(|| panic!("node {node}: {}", world.node(node).server.log()))
        })
        .collect();
    for event in &told {
        assert_eq!((&*event.name, &*gap_reason(&event.data)), ("gap", "reset"), "{event:?}");
    }
    world.wait_all_publish();
    for (node, told) in told.iter().enumerate() {
        // From where the gap left off, nothing is missed.
        let mut resumed = world.resume(node, "restored1", &told.id);
        let new = format!("new {node}");
        let id = publish_at(&world, (node + 1) % 3, "restored1", &new);
        assert_ne!(id.split_once('-').unwrap().0, lost.split_once('-').unwrap().0, "another epoch");
        let event = resumed.event();
        assert!(event.name.is_empty() && event.data.starts_with("new "), "{event:?}");
        // Whoever comes with an id of what is lost is told, and gets what is kept.
        let mut late = world.resume(node, "restored1", &lost);
        let gap = late.event();
        assert_eq!((&*gap.name, &*gap_reason(&gap.data)), ("gap", "reset"), "{gap:?}");
        assert_eq!(late.event().data, "kept");
    }
}

#[test]
fn streams_that_are_deleted_and_put_back_again_and_again_under_load_leave_one_order() {
    let mut world = World::of(Nats::start(3), 3, &[]);
    let story = through(&mut world, |world, load| {
        for _ in 0..3 {
            world.nats.delete_stream();
            load.run_on(60);
        }
        world.wait_all_publish();
        world.nats.stop();
        world.nats.keep_copy();
        for _ in 0..2 {
            world.nats.start_all_again();
            world.nats.wait_ready();
            world.wait_all_publish();
            load.run_on(80);
            world.nats.stop();
            world.nats.put_copy_back();
        }
        world.nats.start_all_again();
        world.nats.wait_ready();
    });
    story.check();
    assert!(!gaps(&story).is_empty(), "nobody was told");
    let ids: Vec<_> = (0..3).map(|node| publish_at(&world, node, "lastepoch", "x")).collect();
    let epochs: Vec<_> = ids.iter().map(|id| id.split_once('-').unwrap().0).collect();
    assert!(epochs.iter().all(|epoch| *epoch == epochs[0]), "all nodes agree: {ids:?}");
}

#[test]
fn a_node_that_starts_while_the_stream_is_gone_leaves_it_to_those_that_run_to_make_it_again() {
    let mut world = World::without_nodes(Nats::start(1), 2, &[]);
    world.start_node(0);
    let mut stream = world.subscribe(0, "startgone");
    world.nats.delete_stream();
    world.start_node(1);
    let gap = stream.event();
    assert_eq!((&*gap.name, &*gap_reason(&gap.data)), ("gap", "reset"), "{gap:?}");
    world.wait_all_publish();
    let ids: Vec<_> = (0..2).map(|node| publish_at(&world, node, "startgone", "x")).collect();
    let epochs: Vec<_> = ids.iter().map(|id| id.split_once('-').unwrap().0).collect();
    assert_eq!(epochs[0], epochs[1], "{ids:?}");
    let log = world.node(1).server.log();
    assert!(log.contains("waiting until one makes it again"), "{log}");
}

#[test]
fn a_node_under_which_another_stream_is_put_waits_with_the_reason_until_its_own_is_there() {
    let world = World::of(Nats::start(1), 2, &[]);
    let mut streams: Vec<_> = (0..2).map(|node| world.subscribe(node, "unfit0001")).collect();
    let is_refused = |reason: &str| {
        for node in 0..2 {
            world.wait_status(node, "/readyz", 503);
            let answer = world.node(node).server.get("/readyz");
            assert!(answer.body.contains(reason), "{answer:?}");
            assert_eq!(world.publish(node, "unfit0001", "data: no").status, 503);
            let log = world.node(node).server.log();
            assert_eq!(log.matches(reason).count(), 1, "{log}");
        }
    };
    let with_partitions = |partitions: &str| {
        world.nats.configure(|config| {
            config.metadata.insert("esper-partitions".to_owned(), partitions.to_owned());
        });
    };
    with_partitions("4");
    is_refused("has 4 partitions, and --partitions is 16");
    with_partitions("16");
    world.wait_all_publish();
    publish_at(&world, 0, "unfit0001", "kept");
    for stream in &mut streams {
        assert_eq!(stream.event().data, "kept", "it is the stream that it was: no gap");
    }

    world.nats.replace_stream(|config| config.metadata.clear());
    is_refused("is not esper's, for it says nothing of a format");
    assert_eq!(world.nats.info().state.last_sequence, 0, "nothing is written to it");
    world.nats.delete_stream();
    world.wait_all_publish();
    for stream in &mut streams {
        let gap = stream.event();
        assert_eq!((&*gap.name, &*gap_reason(&gap.data)), ("gap", "reset"), "{gap:?}");
    }
    (0..2).for_each(|node| world.wait_status(node, "/readyz", 200));
}

#[test]
fn a_stream_whose_size_is_reached_drops_its_oldest_and_loses_nothing_to_those_who_are_there() {
    let mut world = World::start(3);
    world.nats.configure(|config| config.max_bytes = 64 << 10);
    let story = through(&mut world, |world, load| {
        let start = Instant::now();
        while world.nats.info().state.first_sequence < 50 {
            assert!(start.elapsed() < PATIENCE, "it never drops anything");
            load.run_on(100);
        }
    });
    story.check_without_gaps();
}

#[test]
fn a_node_that_was_away_while_the_stream_dropped_events_tells_its_streams_of_a_gap() {
    let world = World::of(Nats::start(1), 2, &[]);
    let mut there = world.subscribe(1, "dropped01");
    let first = publish_at(&world, 0, "dropped01", "first");
    assert_eq!(there.event().data, "first");
    world.nats.configure(|config| config.max_messages = 20);
    world.cut(1);
    for n in 0..100 {
        publish_at(&world, 0, "dropped01", &n.to_string());
    }
    world.mend(1);
    let gap = there.event();
    assert_eq!((&*gap.name, &*gap_reason(&gap.data)), ("gap", "trimmed"), "{gap:?}");
    let data = there.data_until("99");
    let last: Vec<_> = (100 - data.len()..100).map(|n| n.to_string()).collect();
    assert_eq!(data, last, "what is left comes behind the gap");
    assert!(data.len() > 10, "{data:?}");
    world.wait_all_publish();
    // Whoever comes with an older id is told as well, at both nodes; node 0 has everything.
    let mut late = world.resume(1, "dropped01", &first);
    assert_eq!(late.event().name, "gap");
    let mut late = world.resume(0, "dropped01", &first);
    assert_eq!(late.event().data, "0");
    assert_eq!(world.stats(1)["missed"], 1);
}

#[test]
fn a_stream_that_is_full_and_discards_what_is_new_refuses_publishes_and_takes_them_again_later() {
    let world = World::of(Nats::start(1), 2, &[]);
    let mut streams: Vec<_> = (0..2).map(|node| world.subscribe(node, "filled001")).collect();
    let configure = |bytes: i64| {
        world.nats.configure(|config| {
            config.max_bytes = bytes;
            config.discard = DiscardPolicy::New;
        });
    };
    configure(16 << 10);
    let mut expected = Vec::new();
    for n in 0..1000 {
        let data = format!("{n} {}", "x".repeat(200));
        let answer = world.publish(n % 2, "filled001", &format!("data: {data}"));
        if answer.status == 507 {
            assert!(answer.field("Retry-After").is_some(), "{answer:?}");
            assert!(answer.body.contains("the cluster's stream is full"), "{answer:?}");
            break;
        }
        assert_eq!(answer.status, 200, "{answer:?}");
        expected.push(data);
    }
    assert!((10..100).contains(&expected.len()), "{} were taken", expected.len());
    for node in 0..2 {
        // As large as the others: a small one may find room.
        let body = format!("data: refused {}", "x".repeat(200));
        assert_eq!(world.publish(node, "filled001", &body).status, 507);
        assert_eq!(world.status(node, "/readyz"), 200);
    }
    configure(1 << 20);
    for node in 0..2 {
        let data = format!("again {node}");
        publish_at(&world, node, "filled001", &data);
        expected.push(data);
    }
    for stream in &mut streams {
        assert_eq!(stream.data_until("again 1"), expected);
    }
}
