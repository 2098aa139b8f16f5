//! The long form: faults at random, one after the other, for as many minutes as ESPER_TEST_CLUSTER says.

use std::thread;
use std::time::{Duration, Instant};

use fastrand::Rng;

use super::faults::follower;
use super::load::Load;
use super::seed;
use super::world::World;
use crate::support::nats::Nats;

/// How long a fault lasts.
const FAULT_TIME: std::ops::Range<u64> = 500..20_000;
/// Faults of one load, after which everything is checked.
const FAULTS: usize = 4;

/// What is done to the cluster, by its name.
type Fault = (&'static str, fn(&mut World, &mut Rng, Duration));

const ALL: [Fault; 12] = [
    ("kill -9 of the leader", |world, _, time| {
        let server = world.nats.leader();
        kill_server(world, server, time);
    }),
    ("kill -9 of a follower", |world, _, time| {
        let server = follower(world);
        kill_server(world, server, time);
    }),
    ("kill -9 of all servers", |world, _, time| {
        (0..3).for_each(|server| world.nats.kill(server));
        thread::sleep(time / 4);
        (0..3).for_each(|server| world.nats.start_again(server));
    }),
    ("kill -9 of a node", |world, random, time| {
        let node = random.usize(..world.nodes());
        world.kill_node(node);
        thread::sleep(time / 4);
        world.start_node(node);
    }),
    ("SIGSTOP of the leader", |world, _, time| {
        let server = world.nats.leader();
        stop_server(world, server, time);
    }),
    ("SIGSTOP of a follower", |world, _, time| {
        let server = follower(world);
        stop_server(world, server, time);
    }),
    ("SIGSTOP of a node", |world, random, time| {
        let node = random.usize(..world.nodes());
        world.signal_node(node, "STOP");
        thread::sleep(time);
        world.signal_node(node, "CONT");
    }),
    ("a node whose links hold", |world, random, time| {
        let node = random.usize(..world.nodes());
        world.hold(node);
        thread::sleep(time);
        world.mend(node);
    }),
    ("a node whose links are cut", |world, random, time| {
        let node = random.usize(..world.nodes());
        world.cut(node);
        thread::sleep(time);
        world.mend(node);
    }),
    ("a node with slow links", |world, random, time| {
        let node = random.usize(..world.nodes());
        let delay = Duration::from_millis(random.u64(20..400));
        world.links(node).iter().for_each(|link| link.delay(delay));
        thread::sleep(time);
        world.mend(node);
    }),
    ("a server parted from the others", |world, random, time| {
        world.nats.part(&[random.usize(..3)]);
        thread::sleep(time);
        world.nats.mend();
    }),
    ("a restart of all nodes", |world, _, time| {
        for node in 0..world.nodes() {
            world.end_node(node);
            thread::sleep(time / 10);
            world.start_node(node);
        }
    }),
];

fn kill_server(world: &World, server: usize, time: Duration) {
    world.nats.kill(server);
    thread::sleep(time);
    world.nats.start_again(server);
}

fn stop_server(world: &World, server: usize, time: Duration) {
    world.nats.stop_process(server);
    thread::sleep(time);
    world.nats.continue_process(server);
}

#[test]
fn faults_at_random_lose_and_double_nothing() {
    let minutes = std::env::var("ESPER_TEST_CLUSTER").ok().map(|minutes| minutes.parse().expect("minutes"));
    let Some(minutes) = minutes.filter(|minutes: &f64| *minutes > 0.0) else { return };
    let mut random = Rng::with_seed(seed());
    let end = Instant::now() + Duration::from_secs_f64(60.0 * minutes);
    let mut world =
        World::of(Nats::with_links(), 3, &["--history-events", "100000", "--history-bytes", "64MiB"]);
    let (start, mut faults) = (Instant::now(), 0);
    while Instant::now() < end {
        let load = Load::start(&world, random.u64(..));
        for _ in 0..FAULTS {
            let (name, fault) = ALL[random.usize(..ALL.len())];
            let time = Duration::from_millis(random.u64(FAULT_TIME));
            println!("{:4} s: {name}, {:.1} s", start.elapsed().as_secs(), time.as_secs_f64());
            fault(&mut world, &mut random, time);
            faults += 1;
            world.nats.wait_ready();
            world.wait_all_publish();
            load.run_on(100);
        }
        let story = load.finish();
        print!("{:4} s: ", start.elapsed().as_secs());
        story.check_without_gaps();
    }
    println!("{faults} faults in {} s", start.elapsed().as_secs());
}
