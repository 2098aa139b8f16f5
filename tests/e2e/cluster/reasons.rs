//! What the log says when NATS takes nothing, or is not what a node needs: the reason and the remedy, and not again and
//! again.

use std::thread;
use std::time::Duration;

use super::load::publish_at;
use super::starts::{check_last_line, refused};
use super::world::World;
use crate::support::nats::Nats;
use crate::support::{Answer, esper, exchange, run, wait_until};

fn wait_for_log(world: &World, about: &str) {
    wait_until(about, || world.node(0).server.log().contains(about));
}

#[test]
fn a_stream_that_takes_nothing_is_told_of_with_the_reason_of_nats() {
    let world = World::of(Nats::start(1), 1, &[]);
    world.wait_all_publish();
    let address = world.node(0).control;
    let publish = || thread::spawn(move || exchange(address, "POST", "/publish/nottaken1", &[], "data: x"));
    world.nats.configure(|config| config.subjects = vec!["esper.control".to_owned()]);
    let publishing = publish();
    wait_for_log(&world, "no stream takes its subject (see the stream's subjects)");
    world.nats.configure(|config| config.subjects = vec!["esper.*".to_owned()]);
    assert_eq!(Answer::parse(&publishing.join().unwrap()).status, 200, "it was sent again");
    thread::sleep(Duration::from_secs(10));
    world.nats.configure(|config| config.sealed = true);
    let publishing = publish();
    wait_for_log(&world, "sealed stream");
    let answer = Answer::parse(&publishing.join().unwrap());
    assert!(
        answer.status == 504 && answer.body.contains("the log of this node has NATS's reason"),
        "{answer:?}"
    );
    let log = world.node(0).server.log();
    assert!((1..=3).contains(&log.matches("sealed stream").count()), "{log}");
}

#[test]
fn messages_of_another_program_are_passed_over_in_one_line_and_nobody_is_told_of_a_gap() {
    let world = World::of(Nats::start(1), 1, &[]);
    let mut stream = world.subscribe(0, "foreign01");
    publish_at(&world, 0, "foreign01", "before");
    world.nats.send_again(|_| b"hello".to_vec());
    for _ in 0..20 {
        // A first byte that a later format may have.
        world.nats.send_again(|_| vec![2; 99]);
    }
    publish_at(&world, 0, "foreign01", "after");
    assert_eq!([(); 2].map(|()| stream.event().data), ["before", "after"]);
    assert_eq!(world.stats(0)["malformed"], 21);
    let log = world.node(0).server.log();
    assert!(log.contains("is passed over: it is not esper's"), "{log}");
    assert!(log.matches("passed over").count() <= 3, "{log}");
}

#[test]
fn a_user_that_may_not_use_the_names_subjects_is_told_of_with_the_remedy_and_scripts_nats_takes_the_name() {
    let other = ["--cluster-name", "other"];
    let world = World::of(Nats::start(1), 1, &other);
    wait_for_log(&world, "let its user publish and subscribe to other.> (--cluster-name other)");
    drop(world);
    let world = World::of(Nats::with_name("other"), 1, &other);
    assert_eq!(world.publish(0, "othername", "data: x").status, 200);
    let log = world.node(0).server.log();
    assert!(!log.contains("ermissions"), "{log}");
}

#[test]
fn a_stream_that_forgets_numbers_too_early_is_told_of_by_running_nodes_and_refused_by_new_ones() {
    let world = World::of(Nats::start(1), 1, &[]);
    publish_at(&world, 0, "forgets01", "x");
    world.nats.configure(|config| config.duplicate_window = Duration::from_secs(10));
    let remedy = "nats stream edit esper --dupe-window 2m";
    wait_for_log(&world, remedy);
    check_last_line(&refused(&world.urls(0), &[]), &["knows the numbers of messages for 10s", remedy]);
    publish_at(&world, 0, "forgets01", "y");
    assert_eq!(world.node(0).server.log().matches(remedy).count(), 1);
}

#[test]
fn a_node_that_wants_more_servers_than_there_are_says_so_at_once_and_then_ends_with_the_remedy() {
    let world = World::without_nodes(Nats::start(1), 1, &[]);
    let ended = run(esper(&["--port", "0", "--threads", "1"], &[("ESPER_CLUSTER", &*world.urls(0))]));
    check_last_line(&ended, &["which 3 NATS servers are to keep", "give --cluster-replicas 1"]);
    assert!(ended.stderr.contains("trying again for 20 seconds"), "{ended:?}");
}
