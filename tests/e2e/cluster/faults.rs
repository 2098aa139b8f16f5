//! Servers and nodes that are killed, stopped and started again under load.

use std::thread;
use std::time::Duration;

use super::load::Load;
use super::model::Story;
use super::seed;
use super::world::World;

/// Runs a load through something that happens, until every node takes publishes again.
pub(super) fn through(world: &mut World, what: impl FnOnce(&mut World, &Load)) -> Story {
    let load = Load::start(world, seed());
    what(world, &load);
    world.wait_all_publish();
    load.run_on(60);
    load.finish()
}

/// A server that does not lead the stream.
pub(super) fn follower(world: &World) -> usize {
    (world.nats.leader() + 1) % world.nats.nodes()
}

#[test]
fn kill_9_of_a_leader_a_follower_and_a_node_loses_and_doubles_nothing() {
    let mut world = World::start(3);
    let story = through(&mut world, |world, load| {
        for is_leader in [true, false] {
            let server = if is_leader { world.nats.leader() } else { follower(world) };
            world.nats.kill(server);
            load.run_on(100);
            world.nats.start_again(server);
            load.run_on(30);
            world.nats.wait_ready();
        }
        world.kill_node(1);
        load.run_on(100);
        world.start_node(1);
        load.run_on(50);
    });
    story.check_without_gaps();
}

#[test]
fn a_leader_a_follower_or_a_node_that_does_nothing_for_a_while_loses_and_doubles_nothing() {
    let mut world = World::start(3);
    let story = through(&mut world, |world, load| {
        for is_leader in [true, false] {
            let server = if is_leader { world.nats.leader() } else { follower(world) };
            world.nats.stop_process(server);
            thread::sleep(Duration::from_secs(8));
            world.nats.continue_process(server);
            load.run_on(50);
            world.nats.wait_ready();
        }
        world.signal_node(2, "STOP");
        thread::sleep(Duration::from_secs(6));
        world.signal_node(2, "CONT");
        load.run_on(50);
    });
    story.check_without_gaps();
}

#[test]
fn a_rolling_restart_loses_and_doubles_nothing() {
    let mut world = World::start(3);
    let story = through(&mut world, |world, load| {
        for node in 0..world.nodes() {
            world.end_node(node);
            load.run_on(20);
            world.start_node(node);
            load.run_on(20);
        }
    });
    story.check_without_gaps();
}
