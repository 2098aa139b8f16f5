//! Idempotency keys over several nodes, and messages that are sent again.

use std::sync::Barrier;
use std::thread;

use super::world::World;
use crate::support::nats::Nats;

const KEY: &str = "Idempotency-Key: k";

#[test]
fn a_key_is_known_at_all_nodes_and_another_body_is_refused_everywhere() {
    let world = World::of(Nats::start(1), 3, &[]);
    let mut streams: Vec<_> = (0..3).map(|node| world.subscribe(node, "keyed0001")).collect();
    let first = world.publish_with(0, "keyed0001", &[KEY], "data: once");
    assert_eq!(first.status, 200, "{first:?}");
    for node in [1, 2, 0, 1] {
        // A node may not have heard of it yet: the order of the cluster decides then.
        let again = world.publish_with(node, "keyed0001", &[KEY], "data: once");
        assert_eq!((again.status, &again.body), (200, &first.body), "at node {node}: {again:?}");
        let other = world.publish_with(node, "keyed0001", &[KEY], "data: other");
        assert_eq!(other.status, 422, "{other:?}");
        assert!(other.body.contains("used with another body"), "{other:?}");
    }
    world.publish(0, "keyed0001", "data: end");
    for stream in &mut streams {
        assert_eq!(stream.data_until("end"), ["once", "end"]);
    }
}

#[test]
fn a_key_at_two_nodes_at_the_same_time_is_one_event_and_one_answer() {
    let world = World::of(Nats::start(3), 2, &[]);
    let mut streams: Vec<_> = (0..2).map(|node| world.subscribe(node, "keyed0002")).collect();
    let mut expected = Vec::new();
    for round in 0..20 {
        let (key, same) = (format!("Idempotency-Key: race-{round}"), round % 2 == 0);
        let start = Barrier::new(2);
        let body = |node: usize| format!("data: {round}.{}", if same { 0 } else { node });
        let answers = thread::scope(|scope| {
            let ask = |node: usize| {
                let (key, start, world) = (&key, &start, &world);
                // What is asked of the world is asked on this thread, and the rest on its own.
                let address = world.addresses.of(node).unwrap().1;
                let body = body(node);
                scope.spawn(move || {
                    start.wait();
                    let text = crate::support::exchange(address, "POST", "/publish/keyed0002", &[key], &body);
                    crate::support::Answer::parse(&text)
                })
            };
            let asked = [ask(0), ask(1)];
            asked.map(|asked| asked.join().unwrap())
        });
        let taken = answers.iter().position(|answer| answer.status == 200).expect("one is taken");
        if same {
            assert_eq!((answers[0].status, answers[1].status), (200, 200), "{answers:?}");
            assert_eq!(answers[0].body, answers[1].body);
        } else {
            assert_eq!(answers[1 - taken].status, 422, "{answers:?}");
        }
        expected.push(format!("{round}.{}", if same { 0 } else { taken }));
    }
    world.publish(0, "keyed0002", "data: end");
    expected.push("end".to_owned());
    for stream in &mut streams {
        assert_eq!(stream.data_until("end"), expected);
    }
}

#[test]
fn a_publish_under_way_during_an_election_is_taken_once() {
    let world = World::start(2);
    let mut streams: Vec<_> = (0..2).map(|node| world.subscribe(node, "elected01")).collect();
    let mut taken = Vec::new();
    for round in 0..2 {
        let leader = world.nats.leader();
        thread::scope(|scope| {
            let publishers: Vec<_> = (0..8)
                .map(|n| {
                    let address = world.addresses.of(n % 2).unwrap().1;
                    scope.spawn(move || {
                        let mut taken = Vec::new();
                        for count in 0..10 {
                            let data = format!("{round}.{n}.{count}");
                            let body = format!("data: {data}");
                            let text =
                                crate::support::exchange(address, "POST", "/publish/elected01", &[], &body);
                            let answer = crate::support::Answer::parse(&text);
                            assert!([200, 503, 504].contains(&answer.status), "{answer:?}");
                            if answer.status == 200 {
                                taken.push(data);
                            }
                        }
                        taken
                    })
                })
                .collect();
            world.nats.kill(leader);
            for publisher in publishers {
                taken.extend(publisher.join().unwrap());
            }
        });
        world.nats.start_again(leader);
        world.nats.wait_ready();
    }
    world.wait_all_publish();
    assert_eq!(world.publish(0, "elected01", "data: end").status, 200);
    let orders: Vec<_> = streams.iter_mut().map(|stream| stream.data_until("end")).collect();
    assert_eq!(orders[0], orders[1]);
    let mut seen = orders[0].clone();
    seen.sort();
    let count = seen.len();
    seen.dedup();
    assert_eq!(count, seen.len(), "nothing came twice: {:?}", orders[0]);
    taken.iter().for_each(|data| assert!(seen.contains(data), "{data} was lost"));
}
