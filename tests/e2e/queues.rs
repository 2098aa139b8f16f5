//! Queues against a real RabbitMQ: that of ESPER_TEST_AMQP_URL, or one that `scripts/rabbitmq` starts for these tests and
//! stops after them. ESPER_TEST_QUEUES is how many queues the test with clients that die has.

mod brokers;
mod delivery;
mod life;
mod limits;
mod page;
mod poisoned;
#[path = "../rabbitmq/mod.rs"]
mod rabbitmq;
mod readme;
mod requests;
mod storm;
mod topics;

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use socket2::{SockFilter, SockRef};

use crate::support::{
    Answer, Event, PATIENCE, Server, Stream, TempDir, data, eventually, exchange, wait_until,
};
use rabbitmq::{Publisher, url};

/// Times so short that what takes long in life is seen.
const SHORT: [&str; 8] =
    ["--heartbeat", "500ms", "--send-timeout", "1s", "--retry-min", "10ms", "--retry-max", "20ms"];

/// A server with the shared RabbitMQ, connected to it.
fn start(flags: &[&str]) -> Server {
    start_at(&[url()], flags)
}

/// A server with these brokers, connected to all of them.
fn start_at(urls: &[&str], flags: &[&str]) -> Server {
    let server = start_alone(urls, flags);
    wait_connected(&server, urls.len());
    server
}

/// The same without waiting for any. Its URLs are in a file: on the command line `ps` would show them.
fn start_alone(urls: &[&str], flags: &[&str]) -> Server {
    let nodes: String = urls.iter().map(|url| format!("    - {url}\n")).collect();
    start_by(
        &format!("server: {{address: '127.0.0.1:0'}}\nbroker:\n  node:\n{nodes}queue: {{expire: 60}}\n"),
        flags,
    )
}

/// A server with this configuration file.
fn start_by(config: &str, flags: &[&str]) -> Server {
    let dir = TempDir::new();
    let file = dir.0.join("config.yml");
    std::fs::write(&file, config).unwrap();
    // It may hold a password.
    std::fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
    Server::start(&[&["--config", file.to_str().unwrap()], flags].concat())
}

/// Until it has said so many times that it is connected.
fn wait_connected(server: &Server, times: usize) {
    wait_until("the broker is connected", || {
        server.log().matches("connected to the broker").count() >= times
    });
}

/// The name of a queue or exchange that nobody else has.
fn unique(name: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("e2e.{}.{}.{name}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

/// Asks for a queue, and reads the head of the answer.
fn open(server: &Server, queue: &str, last_event_id: Option<&str>) -> Stream {
    let fields = last_event_id.map(|id| format!("Last-Event-ID: {id}"));
    let mut stream = Stream::open_with(server, &format!("/?id={queue}"), fields.as_deref().as_slice());
    if is_there(&stream) && last_event_id.is_none() {
        first_id(&mut stream);
    }
    stream
}

/// The id that the stream begins with. For EventSource it is no event, but its Last-Event-ID from then on.
fn first_id(stream: &mut Stream) -> String {
    let greeting = stream.event();
    assert!(stream.first_retry.is_some(), "a time to come back after");
    assert_eq!(greeting.lines, format!("id: {}", greeting.id));
    greeting.id
}

/// The queue's stream, which is this client's.
fn opened(server: &Server, queue: &str, last_event_id: Option<&str>) -> Stream {
    let stream = open(server, queue, last_event_id);
    assert!(is_there(&stream), "{:?} {}", stream.head, server.log());
    stream
}

/// Whether it is the queue's stream, and no refusal for now.
fn is_there(stream: &Stream) -> bool {
    stream.head.status == 200 && stream.head.field("X-Status-Reason").is_none()
}

/// The queue's stream as soon as it is to be had.
fn opened_at_last(server: &Server, queue: &str) -> Stream {
    eventually("the queue is free", || {
        let stream = open(server, queue, None);
        assert!([200, 503].contains(&stream.head.status), "{:?}", stream.head);
        is_there(&stream).then_some(stream)
    })
}

/// Why the queue is refused for now: with 200, a time to come back after, and the end.
fn refused_for_now(server: &Server, path: &str) -> String {
    let answer = Answer::parse(&exchange(server.address, "GET", path, &[], ""));
    let is_told = answer.body.contains("retry:") && answer.body.ends_with("0\r\n\r\n");
    assert!(answer.status == 200 && is_told, "{answer:?}");
    answer.field("X-Status-Reason").expect("a reason").to_owned()
}

/// Why the queue is refused. The reason is in the body and in a header alike.
fn refused(server: &Server, path: &str, fields: &[&str]) -> String {
    let answer = Answer::parse(&exchange(server.address, "GET", path, fields, ""));
    assert_eq!(answer.status, 503, "{answer:?}");
    let reason = answer.field("X-Status-Reason").expect("a reason").to_owned();
    assert_eq!(answer.body, format!("{reason}\n"));
    reason
}

/// The next events of a stream.
fn take(stream: &mut Stream, count: usize) -> Vec<Event> {
    (0..count).map(|_| stream.event()).collect()
}

/// Bodies that tell their place.
fn bodies(numbers: std::ops::Range<usize>) -> Vec<String> {
    numbers.map(|number| format!("message {number}")).collect()
}

/// Until the queue has so many messages that are nobody's.
fn wait_ready(publisher: &Publisher, queue: &str, count: u32) {
    let mut ready = None;
    wait_until(&format!("{count} messages are back in {queue}"), || {
        ready = publisher.ready(queue);
        ready == Some(count)
    });
}

/// The client's machine is gone from the network: nothing that is sent to it arrives, and it says nothing more.
fn vanish(stream: &Stream) {
    SockRef::from(stream.socket()).attach_filter(&[RETURN_NOTHING]).unwrap();
}

/// BPF's RET with 0 bytes (BPF_RET | BPF_K).
const RETURN_NOTHING: SockFilter = SockFilter::new(6, 0, 0, 0);

/// Sleeps where a thing that must not happen is given the time to.
fn pause(time: Duration) {
    std::thread::sleep(time);
}
