//! What arrives, in which order, and what goes back.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use super::*;

/// What a client has that reads nothing: a connection whose answer stays with the kernel.
fn stalled(server: &Server, queue: &str) -> TcpStream {
    let mut connection = server.connect();
    SockRef::from(&connection).set_recv_buffer_size(128 << 10).unwrap();
    write!(connection, "GET /?id={queue} HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
    connection
}

#[test]
fn messages_that_waited_and_those_that_come_arrive_in_order() {
    let server = start(&[]);
    let (publisher, queue) = (Publisher::new(), unique("order"));
    drop(opened(&server, &queue, None));
    publisher.queue(&queue, &bodies(0..1500));
    let mut stream = opened_at_last(&server, &queue);
    publisher.queue(&queue, &bodies(1500..2000));
    assert_eq!(data(&take(&mut stream, 2000)), bodies(0..2000));
}

#[test]
fn a_message_is_called_by_its_own_id_else_by_what_it_says_and_the_same_again_on_every_node() {
    let nodes = [start(&[]), start(&[])];
    let (publisher, queue) = (Publisher::new(), unique("ids"));
    let mut stream = opened(&nodes[0], &queue, None);
    let long = "x".repeat(128);
    let ids = [Some("order-17"), None, Some("\u{e4} b"), Some(&*long), Some("a\nb"), Some("order-17"), None];
    let bodies = ["a", "b", "c", "d", "e", "f", "b"];
    publisher.publish("", &queue, &bodies, |at, properties| match ids[at] {
        Some(id) => properties.with_message_id(id.into()),
        None => properties,
    });
    let events = take(&mut stream, 7);
    assert_eq!(data(&events), bodies);
    assert_eq!([&*events[0].id, &*events[2].id, &*events[3].id], ["order-17", "\u{e4} b", &*long]);
    let different: BTreeSet<_> = events.iter().map(|event| &event.id).collect();
    assert_eq!(different.len(), 7, "{events:?}");
    drop(stream);
    wait_ready(&publisher, &queue, 7);
    let mut stream = opened(&nodes[1], &queue, None);
    assert_eq!(take(&mut stream, 7), events);
    // As EventSource sends it, in UTF-8.
    let mut stream = opened(&nodes[1], &queue, Some(&events[2].id));
    assert_eq!(take(&mut stream, 4), events[3..]);
}

#[test]
fn messages_that_say_the_same_all_arrive_and_none_twice() {
    let server = start(&SHORT);
    let (publisher, queue) = (Publisher::new(), unique("same"));
    let mut stream = opened(&server, &queue, None);
    publisher.queue(&queue, &["same"; 50]);
    let mut last = String::new();
    // Each time some have been seen, and the rest comes again.
    for seen in [1, 20, 28] {
        let events = take(&mut stream, seen);
        assert_eq!(data(&events), vec!["same"; seen]);
        last = events.last().unwrap().id.clone();
        stream = opened(&server, &queue, Some(&last));
    }
    assert_eq!(stream.event().data, "same");
    publisher.queue(&queue, &["another"]);
    assert_eq!(stream.event().data, "another", "it was the last of them, after {last}");
}

#[test]
fn a_client_that_does_not_say_what_it_has_gets_everything_at_least_once() {
    let server = start(&[]);
    let (publisher, queue) = (Publisher::new(), unique("forgetful"));
    let mut stream = opened(&server, &queue, None);
    let mut missing: BTreeSet<_> = bodies(0..300).into_iter().collect();
    for round in 0..10 {
        publisher.queue(&queue, &bodies(30 * round..30 * (round + 1)));
        let mut numbers: Vec<usize> = Vec::new();
        // The last thirty are left unread, but for the last round.
        let last = if round == 9 { 299 } else { (30 * round).max(1) - 1 };
        while numbers.last().is_none_or(|number| *number < last) {
            let event = stream.event();
            numbers.push(event.data["message ".len()..].parse().unwrap());
            missing.remove(&event.data);
        }
        let first = numbers[0];
        assert_eq!(
            numbers,
            (first..first + numbers.len()).collect::<Vec<_>>(),
            "each connection is in order"
        );
        drop(stream);
        stream = opened_at_last(&server, &queue);
    }
    assert_eq!(missing, BTreeSet::new());
}

#[test]
fn a_message_leaves_its_queue_when_its_client_has_lived_on_for_the_delay() {
    let server = start(&[&SHORT[..], &["--queue-ack-delay", "1500ms"]].concat());
    let (publisher, queue) = (Publisher::new(), unique("delay"));
    let mut stream = opened(&server, &queue, None);
    publisher.queue(&queue, &bodies(0..3));
    take(&mut stream, 3);
    drop(stream);
    wait_ready(&publisher, &queue, 3);

    let mut stream = opened(&server, &queue, None);
    take(&mut stream, 3);
    // Nothing tells when it happens but the time it takes.
    pause(Duration::from_secs(4));
    drop(stream);
    let mut stream = opened_at_last(&server, &queue);
    publisher.queue(&queue, &bodies(3..4));
    assert_eq!(stream.event().data, "message 3");
}

/// What the kernels hold of it is lost with it, but for the window.
#[test]
fn a_client_that_dies_without_reading_loses_none_of_the_windows_messages() {
    let flags = ["--queue-prefetch", "200", "--queue-ack-window", "100"];
    let server = start(&flags);
    let (publisher, queue) = (Publisher::new(), unique("unread"));
    let stream = opened(&server, &queue, None);
    publisher.queue(&queue, &bodies(0..1000));
    wait_until("the kernel has them all", || publisher.ready(&queue) == Some(0));
    pause(Duration::from_secs(1));
    drop(stream);
    let mut stream = opened_at_last(&server, &queue);
    let first = stream.event();
    let number: usize = first.data["message ".len()..].parse().unwrap();
    assert!((1..=900).contains(&number), "{first:?}");
    assert_eq!(data(&take(&mut stream, 999 - number)), bodies(number + 1..1000));
}

#[test]
fn a_client_that_does_not_read_holds_back_its_own_queue_alone() {
    let flags = ["--send-timeout", "1h", "--heartbeat", "1h", "--queue-ack-delay", "3h"];
    let server = start(&flags);
    let (publisher, slow, fast) = (Publisher::new(), unique("slow"), unique("fast"));
    let stalled = stalled(&server, &slow);
    let mut stream = opened(&server, &fast, None);
    eventually("its queue is there", || publisher.consumers(&slow));
    let body = "x".repeat(100_000);
    // 60 MB, of which the kernels take some.
    for round in 0..30 {
        let bodies: Vec<_> = (0..20).map(|at| format!("{} {body}", 20 * round + at)).collect();
        publisher.queue(&slow, &bodies);
        publisher.queue(&fast, &bodies[..1]);
        assert_eq!(stream.event().data, bodies[0]);
    }
    let ready = publisher.ready(&slow).unwrap();
    assert!(ready >= 200, "the broker keeps what is not taken: {ready} of 600");
    // It reads at last, and has them all.
    let mut reader = Stream::of(stalled);
    first_id(&mut reader);
    for number in 0..600 {
        let event = reader.event();
        assert!(event.data == format!("{number} {body}"), "{number}: {}", &event.data[..20]);
    }
}

#[test]
fn at_the_servers_end_streams_are_told_to_come_back_and_what_is_unacknowledged_is_back() {
    let mut server = start(&["--retry-min", "2s", "--retry-max", "3s"]);
    let (publisher, queue, idle) = (Publisher::new(), unique("term"), unique("idle"));
    let mut stream = opened(&server, &queue, None);
    let mut quiet = opened(&server, &idle, None);
    publisher.queue(&queue, &bodies(0..20));
    let events = take(&mut stream, 20);
    server.terminate();
    for stream in [&mut stream, &mut quiet] {
        let farewell = stream.event();
        assert!((2000..=3000).contains(&farewell.retry.unwrap()), "{farewell:?}");
        assert_eq!((stream.next_event(), stream.is_complete), (None, true));
    }
    assert_eq!(server.wait().code(), Some(0), "{}", server.log());
    // Already, not some time later.
    assert_eq!((publisher.ready(&queue), publisher.consumers(&queue)), (Some(20), Some(0)));

    let server = start(&[]);
    let mut stream = opened(&server, &queue, Some(&events[14].id));
    assert_eq!(take(&mut stream, 5), events[15..]);
}

#[test]
fn what_a_server_that_is_killed_had_not_acknowledged_comes_again() {
    let server = start(&[]);
    let (publisher, queue) = (Publisher::new(), unique("killed"));
    let mut stream = opened(&server, &queue, None);
    publisher.queue(&queue, &bodies(0..20));
    let events = take(&mut stream, 20);
    drop(server);
    let server = start(&[]);
    // The broker sees the end of the connection when it does.
    let mut stream = opened(&server, &queue, Some(&events[14].id));
    assert_eq!(take(&mut stream, 5), events[15..]);
}

#[test]
fn a_client_that_waits_for_its_queue_does_not_hold_up_the_servers_end() {
    let mut server = start(&["--drain-time", "1h"]);
    let queue = unique("waiting");
    let mut first = opened(&server, &queue, None);
    let mut connection = server.connect();
    write!(connection, "GET /?id={queue} HTTP/1.1\r\nHost: h\r\nLast-Event-ID: unknown\r\n\r\n").unwrap();
    // This one and the one that asks.
    wait_until("it is there", || server.stats()["connections"] == 2);
    pause(Duration::from_millis(300));
    server.terminate();
    for stream in [&mut Stream::of(connection), &mut first] {
        let farewell = stream.event();
        assert!(stream.head.status == 200 && farewell.retry.is_some(), "{farewell:?}");
        assert_eq!((stream.next_event(), stream.is_complete), (None, true));
    }
    assert_eq!(server.wait().code(), Some(0), "{}", server.log());
}

#[test]
fn a_message_that_takes_a_slow_client_longer_than_a_send_may_take_arrives_all_the_same() {
    let server = start(&SHORT);
    let (publisher, queue) = (Publisher::new(), unique("large"));
    let large = "x".repeat(3 << 20);
    let mut connection = stalled(&server, &queue);
    eventually("its queue is there", || publisher.consumers(&queue).filter(|&consumers| consumers == 1));
    publisher.queue(&queue, &[&large, "behind it"]);
    // Some 1 MB/s, three times as long as a send may take.
    let (mut text, mut buffer) = (Vec::new(), vec![0; 64 << 10]);
    while !text.ends_with(b"data: behind it\n\n\r\n") {
        pause(Duration::from_millis(50));
        let bytes = connection.read(&mut buffer).unwrap();
        assert!(bytes > 0, "it was cut after {} bytes", text.len());
        text.extend(&buffer[..bytes]);
    }
    assert!(text.len() > large.len());
    assert_eq!(server.stats()["evicted"], 0);
}

#[test]
fn a_stream_that_there_is_no_room_for_does_not_open_its_queue() {
    let server = start(&["--subscribers-max", "1"]);
    let (publisher, queue) = (Publisher::new(), unique("full"));
    drop(opened(&server, &queue, None));
    eventually("it is left", || publisher.consumers(&queue).filter(|&consumers| consumers == 0));
    publisher.queue(&queue, &["waits"]);
    wait_ready(&publisher, &queue, 1);
    let first = opened_at_last(&server, &unique("first"));
    for _ in 0..5 {
        let mut stream = open(&server, &queue, Some("any"));
        let farewell = stream.event();
        assert!(stream.head.status == 200 && farewell.retry.is_some(), "{farewell:?}");
    }
    drop(first);
    let mut stream = eventually("there is room", || {
        let mut stream = open(&server, &queue, Some("any"));
        let event = stream.event();
        (event.data == "waits").then_some(stream)
    });
    publisher.queue(&queue, &["new"]);
    assert_eq!(stream.event().data, "new");
    let vars: serde_json::Value = serde_json::from_str(&server.get("/debug/vars").body).unwrap();
    assert_eq!(vars["eventsourced"]["Delivery"]["Redelivered"], 0, "{vars}");
}

#[test]
fn what_waits_for_a_client_that_reads_nothing_is_counted_as_held() {
    let server = start(&[]);
    let (publisher, queue) = (Publisher::new(), unique("held"));
    drop(opened(&server, &queue, None));
    publisher.queue(&queue, &vec!["x".repeat(1 << 20); 20]);
    wait_ready(&publisher, &queue, 20);
    let held = || server.stats()["held_bytes"].as_u64().unwrap();
    assert!(held() < 1 << 20, "{}", held());
    let connection = stalled(&server, &queue);
    wait_until("it is held", || held() > 15 << 20);
    drop(connection);
    wait_until("it is given back", || held() < 1 << 20);
}
