//! How the server ends, and what a restart finds.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::process::ExitStatusExt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use crate::support::{Event, Publisher, Server, Stream, eventually, farewell, free_port, signal, wait_until};

const TOPIC: &str = "stopping01";

fn subscribe(server: &Server) -> Stream {
    Stream::open(server, &format!("/subscribe/{TOPIC}"))
}

/// A subscriber with more coming than the kernel holds for it, which reads none of it.
fn stalled(server: &Server) -> TcpStream {
    let mut connection = server.connect();
    socket2::SockRef::from(&connection).set_recv_buffer_size(128 << 10).unwrap();
    write!(connection, "GET /subscribe/{TOPIC} HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
    connection.read_exact(&mut [0; 15]).unwrap();
    for _ in 0..3 {
        let body = format!("data: {}", "x".repeat(700_000));
        assert_eq!(server.post(&format!("/publish/{TOPIC}"), &body).status, 200);
    }
    connection
}

fn wait_until_stopping(server: &Server) {
    wait_until("it is stopping", || server.log().contains("stopping"));
}

#[test]
fn subscribers_get_what_was_published_then_a_retry_then_the_orderly_end() {
    for name in ["TERM", "INT"] {
        let mut server = Server::start(&["--retry-min", "2s", "--retry-max", "3s"]);
        let mut streams: Vec<Stream> = (0..10).map(|_| subscribe(&server)).collect();
        let mut publisher = Publisher::new(&server);
        for number in 0..50 {
            assert_eq!(publisher.publish(TOPIC, &format!("data: {number}")).unwrap().status, 200);
        }
        signal(server.pid(), name);
        assert_eq!(server.wait().code(), Some(0), "SIG{name}");
        for stream in &mut streams {
            let mut events = stream.rest_of_events();
            let retry = farewell(&mut events);
            assert!((2000..=3000).contains(&retry), "{retry}");
            let data: Vec<usize> = events.iter().map(|event| event.data.parse().unwrap()).collect();
            assert_eq!(data, (0..50).collect::<Vec<_>>());
        }
        assert!(publisher.publish(TOPIC, "data: late").is_none(), "its connection is closed");
    }
}

#[test]
fn subscribers_are_told_to_come_back_at_different_times() {
    let server = Server::start(&["--retry-min", "1s", "--retry-max", "1h"]);
    let mut streams: Vec<Stream> = (0..100).map(|_| subscribe(&server)).collect();
    assert!(server.stop().success());
    let retries: BTreeSet<u64> =
        streams.iter_mut().map(|stream| farewell(&mut stream.rest_of_events())).collect();
    assert!(retries.iter().all(|retry| (1000..=3_600_000).contains(retry)), "{retries:?}");
    // A hundred out of 3.6 million: even two alike are a chance in 700.
    assert!(retries.len() > 95, "{retries:?}");
}

#[test]
fn a_drain_under_load_loses_nothing_that_was_acknowledged() {
    const SUBSCRIBERS: usize = 50;
    const PUBLISHERS: usize = 6;
    let mut server = Server::start(&["--drain-time", "1m"]);
    let streams: Vec<Stream> = (0..SUBSCRIBERS).map(|_| subscribe(&server)).collect();
    let acknowledged = AtomicUsize::new(0);
    let (answered, seen) = thread::scope(|scope| {
        let publishers: Vec<_> = (0..PUBLISHERS)
            .map(|publisher| {
                let mut connection = Publisher::new(&server);
                let acknowledged = &acknowledged;
                // The first three send eight at a time.
                let batch = if publisher < 3 { 8 } else { 1 };
                scope.spawn(move || {
                    let mut answered = Vec::new();
                    for number in (0..).step_by(batch) {
                        for number in number..number + batch {
                            connection.send(TOPIC, &format!("data: {publisher} {number}"));
                        }
                        for number in number..number + batch {
                            let Some(answer) = connection.answer() else { return answered };
                            assert_eq!(answer.status, 200, "{answer:?}");
                            answered.push(format!("{publisher} {number}"));
                            acknowledged.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                    answered
                })
            })
            .collect();
        let readers: Vec<_> =
            streams.into_iter().map(|mut stream| scope.spawn(move || stream.rest_of_events())).collect();
        wait_until("there is load", || acknowledged.load(Ordering::Relaxed) > 500);
        server.terminate();
        let answered: Vec<String> =
            publishers.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
        let seen: Vec<Vec<Event>> = readers.into_iter().map(|thread| thread.join().unwrap()).collect();
        (answered, seen)
    });
    assert_eq!(server.wait().code(), Some(0));

    let answered: BTreeSet<String> = answered.into_iter().collect();
    for mut events in seen {
        farewell(&mut events);
        let data: BTreeSet<String> = events.iter().map(|event| event.data.clone()).collect();
        assert_eq!(data.len(), events.len(), "none came twice");
        let lost: Vec<_> = answered.difference(&data).collect();
        assert!(lost.is_empty(), "acknowledged and lost: {lost:?}");
        let unanswered: Vec<_> = data.difference(&answered).collect();
        assert!(unanswered.is_empty(), "published and not answered: {unanswered:?}");
    }
}

#[test]
fn a_publish_that_is_half_sent_when_the_stop_begins_is_answered_and_delivered() {
    let mut server = Server::start(&["--drain-time", "1m"]);
    let mut stream = subscribe(&server);
    let mut connection = server.connect();
    let fields = "Host: h\r\nContent-Length: 10\r\nExpect: 100-continue";
    write!(connection, "POST /publish/{TOPIC} HTTP/1.1\r\n{fields}\r\n\r\ndata:").unwrap();
    let mut interim = [0; 25];
    connection.read_exact(&mut interim).unwrap();
    assert_eq!(&interim, b"HTTP/1.1 100 Continue\r\n\r\n");
    server.terminate();
    wait_until_stopping(&server);
    connection.write_all(b" late").unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    let mut events = stream.rest_of_events();
    farewell(&mut events);
    assert_eq!(events.len(), 1);
    assert_eq!(events[0].data, "late");
    assert_eq!(server.wait().code(), Some(0));
}

#[test]
fn while_the_drain_is_delayed_health_says_503_and_everything_else_goes_on() {
    let mut server = Server::start(&["--drain-delay", "1h"]);
    let healthy = server.get("/healthz");
    assert_eq!((healthy.status, healthy.body.as_str()), (200, "ok\n"));
    let mut before = subscribe(&server);
    server.terminate();
    let health = eventually("balancers are told", || {
        Some(server.get("/healthz")).filter(|answer| answer.status != 200)
    });
    assert_eq!((health.status, health.body.as_str()), (503, "draining\n"));
    let mut after = subscribe(&server);
    assert_eq!(after.head.status, 200);
    assert_eq!(server.post(&format!("/publish/{TOPIC}"), "data: still").status, 200);
    assert_eq!(before.event().data, "still");
    assert_eq!(after.event().data, "still");
    assert!(server.is_running());
}

#[test]
fn after_the_delay_the_drain_goes_on_by_itself() {
    let server = Server::start(&["--drain-delay", "300ms"]);
    let mut stream = subscribe(&server);
    assert_eq!(server.stop().code(), Some(0));
    assert_eq!(stream.rest_of_events().len(), 1);
}

#[test]
fn a_subscriber_that_is_behind_when_streams_are_closed_still_gets_all_it_has_coming() {
    let mut server = Server::start(&["--drain-time", "1m"]);
    let mut behind = stalled(&server);
    let mut other = subscribe(&server);
    server.terminate();
    // The other's end says that streams are being closed.
    farewell(&mut other.rest_of_events());
    assert!(server.is_running());
    let mut rest = String::new();
    behind.read_to_string(&mut rest).unwrap();
    assert_eq!(rest.matches(&format!("data: {}\n", "x".repeat(700_000))).count(), 3);
    let (_, farewell) = rest.rsplit_once("\nretry:").expect("a farewell");
    assert!(farewell.ends_with("\n\r\n0\r\n\r\n"), "{farewell:?}");
    assert_eq!(server.wait().code(), Some(0));
}

#[test]
fn a_second_signal_ends_at_once_while_a_drain_waits_for_a_stalled_client() {
    for (first, second) in [("TERM", "TERM"), ("INT", "INT"), ("TERM", "INT")] {
        let mut server = Server::start(&["--drain-time", "1h", "--send-timeout", "1h", "--heartbeat", "1h"]);
        let _stalled = stalled(&server);
        let mut other = subscribe(&server);
        signal(server.pid(), first);
        // The other is through with it; the stalled one is what is waited for.
        farewell(&mut other.rest_of_events());
        assert!(server.is_running());
        signal(server.pid(), second);
        assert_eq!(server.wait().code(), Some(1), "SIG{first}, SIG{second}");
    }
}

#[test]
fn a_second_signal_ends_a_delayed_drain_too() {
    let mut server = Server::start(&["--drain-delay", "1h"]);
    server.terminate();
    wait_until_stopping(&server);
    server.terminate();
    assert_eq!(server.wait().code(), Some(1));
}

#[test]
fn a_stalled_client_holds_a_drain_no_longer_than_the_drain_time() {
    let server = Server::start(&["--drain-time", "500ms", "--send-timeout", "1h", "--heartbeat", "1h"]);
    let mut stalled = stalled(&server);
    let mut other = subscribe(&server);
    assert_eq!(server.stop().code(), Some(0));
    assert_eq!(other.rest_of_events().len(), 1);
    let mut rest = Vec::new();
    let _ = stalled.read_to_end(&mut rest);
    assert!(!rest.ends_with(b"0\r\n\r\n"), "what it got does not look whole");
}

#[test]
fn an_idle_or_half_asked_connection_holds_a_drain_no_longer_than_the_drain_time() {
    let server = Server::start(&["--drain-time", "500ms", "--head-timeout", "1h", "--idle-timeout", "1h"]);
    let _idle = server.connect();
    let mut half = server.connect();
    half.write_all(b"GET /healthz HTT").unwrap();
    wait_until("both are there", || server.stats()["connections"] == 3);
    assert_eq!(server.stop().code(), Some(0));
}

#[test]
fn after_a_kill_the_same_port_is_taken_again_and_old_ids_yield_a_gap() {
    let port = free_port();
    let mut server = Server::start(&["--port", &port]);
    let mut stream = subscribe(&server);
    assert_eq!(server.post(&format!("/publish/{TOPIC}"), "data: before").status, 200);
    let old_id = stream.event().id;
    signal(server.pid(), "KILL");
    assert_eq!(server.wait().signal(), Some(9));
    assert_eq!(stream.next_event(), None);
    assert!(!stream.is_complete, "a reader can tell that it was cut");

    let again = Server::start(&["--port", &port]);
    assert_eq!(again.address, server.address);
    assert_eq!(again.post(&format!("/publish/{TOPIC}"), "data: kept").status, 200);
    let fields = [format!("Last-Event-ID: {old_id}")];
    let mut stream = Stream::open_with(&again, &format!("/subscribe/{TOPIC}"), &[&fields[0]]);
    let gap = stream.event();
    assert_eq!(gap.lines, format!("event:gap\ndata:{{\"from\":\"{old_id}\",\"reason\":\"unknown\"}}"));
    assert_eq!(stream.event().data, "kept", "then what is kept");
    assert_eq!(again.post(&format!("/publish/{TOPIC}"), "data: new").status, 200);
    assert_eq!(stream.event().data, "new");
}

/// The kernel ends what a ring has under way after the process, and keeps the listener until then.
#[test]
fn after_a_kill_with_connections_the_same_ports_are_taken_at_once_each_time() {
    let (port, control) = (free_port(), format!("127.0.0.1:{}", free_port()));
    for _ in 0..10 {
        let mut server = Server::start(&["--port", &port, "--bind-control", control.as_str()]);
        let streams: Vec<Stream> = (0..50).map(|_| subscribe(&server)).collect();
        let idle: Vec<TcpStream> = (0..50).map(|_| server.connect()).collect();
        signal(server.pid(), "KILL");
        server.wait();
        let again = Server::start(&["--port", &port, "--bind-control", control.as_str()]);
        assert_eq!((again.get("/healthz").status, again.control().to_string()), (200, control.to_string()));
        drop((streams, idle));
    }
}

#[test]
fn after_an_orderly_stop_the_same_port_is_taken_at_once() {
    let port = free_port();
    let server = Server::start(&["--port", &port]);
    let _stream = subscribe(&server);
    assert_eq!(server.stop().code(), Some(0));
    let again = Server::start(&["--port", &port]);
    assert_eq!(again.get("/healthz").status, 200);
}
