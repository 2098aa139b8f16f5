//! Links that hold, break and are slow.

use std::thread;
use std::time::{Duration, Instant};

use super::PATIENCE;
use super::faults::{follower, through};
use super::load::publish_at;
use super::world::World;
use crate::support::nats::Nats;
use crate::support::{farewell, wait_until};

#[test]
fn a_node_that_is_cut_off_or_slow_loses_and_doubles_nothing() {
    let mut world = World::start(3);
    let story = through(&mut world, |world, load| {
        // Nothing passes, and nobody is told.
        world.hold(0);
        thread::sleep(Duration::from_secs(8));
        world.mend(0);
        load.run_on(40);
        world.cut(1);
        thread::sleep(Duration::from_secs(3));
        world.mend(1);
        load.run_on(40);
        world.links(2).iter().for_each(|link| link.delay(Duration::from_millis(150)));
        load.run_on(200);
        // Its connection is lost again and again.
        for _ in 0..5 {
            world.cut(0);
            world.mend(0);
            thread::sleep(Duration::from_millis(300));
        }
    });
    story.check_without_gaps();
}

#[test]
fn a_leader_that_is_parted_from_the_other_servers_loses_and_doubles_nothing() {
    let mut world = World::of(Nats::with_links(), 3, &[]);
    let story = through(&mut world, |world, load| {
        for is_leader in [true, false] {
            let server = if is_leader { world.nats.leader() } else { follower(world) };
            world.nats.part(&[server]);
            thread::sleep(Duration::from_secs(12));
            world.nats.mend();
            load.run_on(60);
            world.nats.wait_ready();
        }
    });
    story.check_without_gaps();
}

#[test]
fn a_node_whose_server_is_parted_from_the_others_goes_to_another_one() {
    let mut world = World::of(Nats::with_links(), 3, &[]);
    // Each is connected to another server.
    for node in 0..3 {
        let others = |number: &usize| *number != node;
        (0..3).filter(others).for_each(|server| world.links(node)[server].cut());
    }
    world.wait_all_publish();
    (0..3).for_each(|node| world.mend(node));
    let story = through(&mut world, |world, load| {
        for is_leader in [true, false] {
            let server = if is_leader { world.nats.leader() } else { follower(world) };
            world.nats.part(&[server]);
            // All nodes, also that of this server.
            world.wait_all_publish();
            load.run_on(100);
            world.nats.mend();
            world.nats.wait_ready();
        }
    });
    story.check_without_gaps();
}

/// It answers as if it led, with less than the others have by then.
#[test]
fn a_node_that_comes_to_a_leader_which_was_parted_from_the_others_does_not_believe_it() {
    let mut world = World::of(Nats::with_links(), 2, &[]);
    let story = through(&mut world, |world, load| {
        let leader = world.nats.leader();
        (0..2).for_each(|node| world.links(node)[leader].cut());
        world.wait_all_publish();
        load.run_on(20);
        world.nats.part(&[leader]);
        // The others have elected another one, and stored what the first does not have.
        let start = Instant::now();
        while world.publish(1, "parted001", "data: x").status != 200 {
            assert!(start.elapsed() < PATIENCE, "{}", world.node(1).server.log());
        }
        world.mend(0);
        (0..3).filter(|server| *server != leader).for_each(|server| world.links(0)[server].cut());
        thread::sleep(Duration::from_secs(8));
        world.nats.mend();
        (0..2).for_each(|node| world.mend(node));
        world.nats.wait_ready();
    });
    story.check_without_gaps();
}

#[test]
fn without_a_majority_publishes_are_refused_and_nothing_is_lost() {
    let mut world = World::of(Nats::with_links(), 3, &[]);
    let story = through(&mut world, |world, _| {
        let start = Instant::now();
        world.nats.part(&[0]);
        world.nats.part(&[1]);
        world.nats.part(&[2]);
        for node in 0..world.nodes() {
            loop {
                let answer = world.publish(node, "quorum001", "data: x");
                if answer.status == 503 {
                    assert!(answer.body.contains("no connection to the cluster"), "{answer:?}");
                    break;
                }
                assert!(answer.status == 504 || start.elapsed() < Duration::from_secs(20), "{answer:?}");
                assert!(start.elapsed() < PATIENCE, "never refused");
            }
            world.wait_status(node, "/readyz", 503);
            assert_eq!(world.status(node, "/healthz"), 200);
        }
        world.nats.mend();
    });
    story.check_without_gaps();
}

#[test]
fn a_node_that_is_cut_off_refuses_publishes_keeps_its_streams_and_says_that_it_is_not_ready() {
    let world = World::of(Nats::start(1), 2, &[]);
    let mut stream = world.subscribe(1, "cutoff001");
    publish_at(&world, 0, "cutoff001", "before");
    assert_eq!(stream.event().data, "before");
    for node in 0..2 {
        world.wait_status(node, "/readyz", 200);
    }
    world.cut(1);
    let cut = Instant::now();
    // What is sent before it notices may come through later.
    wait_until("it notices", || world.stats(1)["connected"] == false);
    let answer = world.publish(1, "cutoff001", "data: refused");
    assert_eq!(answer.field("Retry-After"), Some("1"), "{answer:?}");
    assert!(answer.status == 503 && answer.body.contains("no connection to the cluster"), "{answer:?}");
    world.wait_status(1, "/readyz", 503);
    assert!(cut.elapsed() > Duration::from_secs(4), "not at once: {:?}", cut.elapsed());
    assert_eq!(world.status(1, "/healthz"), 200);
    assert_eq!(world.status(0, "/readyz"), 200, "the other node is not concerned");
    assert_eq!(world.stats(1)["connected"], false);
    publish_at(&world, 0, "cutoff001", "meanwhile");
    world.mend(1);
    world.wait_status(1, "/readyz", 200);
    assert_eq!(stream.event().data, "meanwhile", "the stream stayed open");
    publish_at(&world, 1, "cutoff001", "after");
    assert_eq!(stream.event().data, "after");
    assert_eq!(world.stats(1)["connected"], true);
}

#[test]
fn whoever_comes_from_another_node_waits_until_a_node_that_is_behind_has_what_it_saw() {
    for cpus in [&[][..], &["--cores", "2"]] {
        let world = World::of(Nats::start(1), 2, cpus);
        for (n, cut) in [World::hold as fn(&World, usize), World::cut].into_iter().enumerate() {
            let topic = format!("lagging0{n}");
            let first = publish_at(&world, 0, &topic, "0");
            let mut ahead = world.resume(0, &topic, &first);
            let mut there = world.resume(1, &topic, &first);
            cut(&world, 1);
            publish_at(&world, 0, &topic, "1");
            let seen = ahead.event();
            assert_eq!(seen.data, "1");
            publish_at(&world, 0, &topic, "2");
            let address = world.node(1).public;
            let request =
                format!("GET /subscribe/{topic} HTTP/1.1\r\nHost: h\r\nLast-Event-ID: {}\r\n\r\n", seen.id);
            let waiting = thread::spawn(move || crate::support::Stream::send(address, &request));
            thread::sleep(Duration::from_millis(1500));
            assert!(!waiting.is_finished(), "it waits for what it has seen elsewhere");
            assert_eq!(world.stats(1)["waiting"], 1);
            world.mend(1);
            let mut stream = waiting.join().unwrap();
            assert_eq!(stream.head.status, 200, "{:?}", stream.head);
            let event = stream.event();
            assert_eq!((&*event.name, &*event.data), ("", "2"), "no gap, and nothing twice");
            assert_eq!([there.event().data, there.event().data], ["1", "2"]);
            world.wait_status(1, "/readyz", 200);
            world.wait_all_publish();
        }
    }
}

#[test]
fn whoever_waits_too_long_for_a_node_is_told_to_come_again() {
    let world = World::of(Nats::start(1), 2, &[]);
    let first = publish_at(&world, 0, "toolong01", "0");
    let mut ahead = world.resume(0, "toolong01", &first);
    world.cut(1);
    publish_at(&world, 0, "toolong01", "1");
    let id = ahead.event().id;
    let start = Instant::now();
    let mut stream = world.resume(1, "toolong01", &id);
    assert!(start.elapsed() > Duration::from_secs(9), "it waits as long as it may: {:?}", start.elapsed());
    // As any stream that is refused for now: an EventSource would stop for good at another status.
    let mut events = stream.rest_of_events();
    farewell(&mut events);
    assert_eq!(events, []);
    world.mend(1);
    // Until it is connected again it sends its streams away.
    world.wait_all_publish();
    let mut stream = world.resume(1, "toolong01", &id);
    publish_at(&world, 0, "toolong01", "2");
    let event = stream.event();
    assert_eq!((&*event.name, &*event.data), ("", "2"));
}
