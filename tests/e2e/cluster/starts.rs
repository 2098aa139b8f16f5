//! Nodes that start, and those that must not.

use super::load::publish_at;
use super::world::World;
use crate::support::nats::Nats;
use crate::support::{Ended, TempDir, esper, run, wait_until};

#[test]
fn a_node_that_starts_has_what_the_stream_has_before_it_listens() {
    let mut world = World::of(Nats::start(1), 2, &["--history-events", "10000"]);
    let first = publish_at(&world, 0, "window001", "0");
    for n in 1..500 {
        publish_at(&world, n % 2, "window001", &n.to_string());
    }
    for _ in 0..2 {
        world.kill_node(1);
        let last = publish_at(&world, 0, "window001", "killed");
        world.start_node(1);
        let mut stream = world.resume(1, "window001", &first);
        let expected: Vec<String> = (1..500).map(|n| n.to_string()).collect();
        for data in expected {
            let event = stream.event();
            assert_eq!((&*event.name, &*event.data), ("", &*data));
        }
        // The key of the last one is known as well, and its id.
        let mut stream = world.resume(1, "window001", &last);
        publish_at(&world, 1, "window001", "started");
        assert_eq!(stream.event().data, "started");
        world.wait_status(1, "/readyz", 200);
    }
}

/// Runs a node that must not start, and returns what it said.
pub(super) fn refused(urls: &str, flags: &[&str]) -> Ended {
    let flags = [&["--port", "0", "--threads", "1", "--cluster-replicas", "1"], flags].concat();
    let ended = run(esper(&flags, &[("ESPER_CLUSTER", urls)]));
    assert!(ended.code.is_some_and(|code| code != 0), "it does not start: {ended:?}");
    assert!(!ended.stderr.contains("listening on"), "{ended:?}");
    assert!(!ended.stderr.contains("panicked"), "{ended:?}");
    ended
}

#[track_caller]
pub(super) fn check_last_line(ended: &Ended, about: &[&str]) {
    let last = ended.stderr.lines().last().unwrap_or_default();
    about.iter().for_each(|about| assert!(last.contains(about), "{about:?} is not in {last:?}: {ended:?}"));
}

#[test]
fn a_node_that_cannot_take_part_is_refused_with_the_remedy() {
    let world = World::of(Nats::start(1), 1, &[]);
    let (urls, address) = (world.urls(0), world.nats.address(0));
    let ended = refused(&urls, &["--partitions", "4"]);
    check_last_line(&ended, &["has 16 partitions, and --partitions is 4", "--partitions 16"]);

    let ended = refused(&urls, &["--body-max", "4MiB", "--slow-lag", "16MiB"]);
    check_last_line(&ended, &["--body-max is 4194304", "raise its max_payload to"]);

    let wrong = format!("nats://esper:hunter2-not-it@{address}");
    let ended = refused(&wrong, &[]);
    check_last_line(&ended, &["refuse this node", "correct user, password"]);
    assert!(!ended.stderr.contains("hunter2"), "{ended:?}");

    let dir = TempDir::new();
    let ended = refused(&urls, &["--data-dir", dir.0.join("data").to_str().unwrap()]);
    check_last_line(&ended, &["ESPER_CLUSTER and --data-dir", "leave out --data-dir"]);
    let ended = refused(&urls, &["--history-events", "0"]);
    check_last_line(&ended, &["--history-events"]);
    // The cluster goes on.
    publish_at(&world, 0, "refused01", "x");
}

#[test]
fn a_node_waits_for_servers_that_are_not_there_and_logs_no_password() {
    let nats = Nats::start(1);
    let mut world = World::without_nodes(nats, 1, &[]);
    world.cut(0);
    let urls = world.urls(0);
    let flags = ["--port", "0", "--threads", "1"];
    let mut command = esper(&flags, &[("ESPER_CLUSTER", &*urls.replace(":esper@", ":hunter2@"))]);
    let mut child = command.stderr(std::process::Stdio::piped()).spawn().unwrap();
    std::thread::sleep(std::time::Duration::from_secs(3));
    assert!(child.try_wait().unwrap().is_none(), "it waits");
    child.kill().unwrap();
    let output = child.wait_with_output().unwrap();
    let log = String::from_utf8(output.stderr).unwrap();
    assert!(log.contains("cannot reach a NATS server at nats://***@127.0.0.1"), "{log}");
    assert!(!log.contains("hunter2") && !log.contains("listening on"), "{log}");
    world.mend(0);
    world.start_node(0);
    publish_at(&world, 0, "waited001", "x");
}

/// During an upgrade nodes of two releases are at one stream. The later one writes what the earlier can read, and notes so.
#[test]
fn what_a_later_release_adds_is_passed_over_until_it_says_that_it_cannot_be_read() {
    const ITEMS_AT: usize = 1 + 4 * 8;
    let mut world = World::of(Nats::start(1), 2, &[]);
    let mut stream = world.subscribe(1, "upgraded1");
    let note = |world: &World, key: &str, value: &str| {
        world.nats.configure(|config| drop(config.metadata.insert(key.to_owned(), value.to_owned())));
    };
    note(&world, "esper-format", "2");
    note(&world, "esper-of-later", "something");
    let first = publish_at(&world, 0, "upgraded1", "x");
    world.nats.send_again(|mut message| {
        assert!(message[ITEMS_AT] < 0x70, "its length is one byte: {message:?}");
        // Another node, which says more of the publish, and something that nobody here knows.
        message[9] ^= 1;
        message[ITEMS_AT] += 3;
        message.extend_from_slice(b"new\x05\x63else");
        message
    });
    publish_at(&world, 0, "upgraded1", "y");
    let [one, two, three] = [(); 3].map(|()| stream.event());
    assert_eq!([&*one.data, &*two.data, &*three.data], ["x", "x", "y"]);
    assert_eq!(one.id, first);
    world.kill_node(1);
    world.start_node(1);
    let mut stream = world.resume(1, "upgraded1", &first);
    assert_eq!([(); 2].map(|()| stream.event().id), [two.id, three.id]);

    note(&world, "esper-readable-by", "2");
    let ended = refused(&world.urls(0), &[]);
    let remedy = ["has format 2, and this version of esper reads up to 1", "update this node"];
    check_last_line(&ended, &remedy);
    // The running nodes read the same notes, and are cut off with the same reason.
    for node in [0, 1] {
        let log = || world.node(node).server.log();
        wait_until("it says the reason", || remedy.iter().all(|part| log().contains(part)));
        world.wait_status(node, "/readyz", 503);
    }
}
