//! Sessions over several nodes: what is emitted at one reaches the streams of all, and their numbers are sums.

use serde_json::json;

use super::world::World;
use crate::support::nats::Nats;
use crate::support::{Stream, wait_until};

/// Streams of this user at each node.
fn streams(world: &World, user: &str, channel: &str) -> Vec<Stream> {
    let token = world.node(0).token(user, channel);
    (0..world.nodes()).map(|node| world.node(node).resume(&token, "")).collect()
}

fn know_each_other(world: &World) {
    for node in 0..world.nodes() {
        wait_until("the nodes know each other", || world.stats(node)["nodes"] == world.nodes());
    }
}

#[test]
fn an_emit_reaches_the_streams_of_all_nodes_and_says_how_many_they_are() {
    let world = World::of(Nats::start(1), 3, &[]);
    know_each_other(&world);
    let mut alex = streams(&world, "alex", "chat");
    let mut bea = streams(&world, "bea", "chat");
    let more = world.node(2).stream("alex", "chat");
    for node in 0..3 {
        let data = format!("from {node}");
        let emitted = world.node(node).emit("alex", "chat", &format!("data: {data}"));
        assert_eq!((&emitted["events"], &emitted["streams"]), (&json!(1), &json!(4)), "{emitted}");
        let all = world.node(node).emit("*", "chat", &format!("data: all {data}"));
        assert_eq!(all["streams"], 7, "{all}");
        for stream in &mut alex {
            let event = stream.event();
            assert_eq!((&*event.data, &*event.id), (&*data, emitted["id"].as_str().unwrap()));
            assert_eq!(stream.event().data, format!("all {data}"));
        }
        for stream in &mut bea {
            assert_eq!(stream.event().data, format!("all {data}"));
        }
        assert_eq!(world.node(node).emit("nobody", "chat", "data: x")["streams"], 0);
    }
    drop(more);
}

#[test]
fn a_disconnect_ends_the_streams_of_all_nodes_after_what_was_emitted_before() {
    let world = World::of(Nats::start(1), 3, &[]);
    know_each_other(&world);
    for by in 0..3 {
        let mut alex = streams(&world, "alex", "chat");
        let mut bea = streams(&world, "bea", "chat");
        for n in 0..20 {
            world.node(by).emit("alex", "chat", &format!("data: {n}"));
        }
        assert_eq!(world.node(by).disconnect("alex", "chat"), 3);
        for stream in &mut alex {
            let events = stream.rest_of_events();
            let data: Vec<_> = events.iter().map(|event| event.data.clone()).collect();
            let expected: Vec<_> =
                (0..20).map(|n| n.to_string()).chain(["disconnected".to_owned()]).collect();
            assert_eq!(data, expected);
            assert_eq!(events[20].name, "disconnected");
        }
        assert_eq!(world.node(by).disconnect("alex", "chat"), 0);
        assert_eq!(world.node(by).disconnect("*", "chat"), 3);
        for stream in &mut bea {
            assert_eq!(stream.event().name, "disconnected");
            assert_eq!(stream.next_event(), None);
        }
    }
}

#[test]
fn a_list_of_who_is_connected_has_the_users_of_all_nodes() {
    let mut world = World::of(Nats::start(1), 3, &[]);
    know_each_other(&world);
    let _alex = streams(&world, "alex", "chat");
    let _bea = world.node(1).stream("bea", "chat");
    let _elsewhere = world.node(2).stream("alex", "elsewhere");
    for node in 0..3 {
        let list = world.node(node).listed("chat");
        assert_eq!((&list["channel"], &list["streams"]), (&json!("chat"), &json!(4)), "{list}");
        assert_eq!(list["cut"], false, "{list}");
        let mut users: Vec<_> = list["users"]
            .as_array()
            .unwrap()
            .iter()
            .map(|user| (user["userId"].as_str().unwrap(), user["streams"].as_u64().unwrap()))
            .collect();
        users.sort();
        assert_eq!(users, [("alex", 3), ("bea", 1)], "{list}");
    }
    // One that does not answer is named, and the list says that it is not whole.
    let name = format!(":{}", world.node(2).public.port());
    world.signal_node(2, "STOP");
    let list = world.node(0).listed("chat");
    world.signal_node(2, "CONT");
    assert_eq!((&list["streams"], &list["cut"]), (&json!(3), &json!(true)), "{list}");
    assert!(list["silent_nodes"][0].as_str().is_some_and(|silent| silent.ends_with(&name)), "{list}");
    // One that ended is not missed.
    world.end_node(2);
    wait_until("it is gone", || world.stats(0)["nodes"] == 2);
    let list = world.node(0).listed("chat");
    assert_eq!((&list["streams"], &list["cut"]), (&json!(3), &json!(false)), "{list}");
}

#[test]
fn an_emit_while_a_node_does_nothing_is_answered_with_what_the_others_say() {
    let world = World::of(Nats::start(1), 2, &[]);
    know_each_other(&world);
    let mut alex = streams(&world, "alex", "chat");
    world.signal_node(1, "STOP");
    let start = std::time::Instant::now();
    let emitted = world.node(0).emit("alex", "chat", "data: x");
    let time = start.elapsed();
    world.signal_node(1, "CONT");
    assert_eq!(emitted["streams"], 1, "{emitted}");
    assert!(time > std::time::Duration::from_millis(900), "it was waited for: {time:?}");
    for stream in &mut alex {
        assert_eq!(stream.event().data, "x");
    }
}
