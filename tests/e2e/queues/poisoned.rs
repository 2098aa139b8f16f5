//! What one queue, one message or one refusal brings does not reach the streams of others.

use super::rabbitmq::raw::{RawProperties, RawPublisher, long, nested, short};
use super::*;

/// A server, and streams of other queues that must not notice a thing.
struct Beside {
    server: Server,
    publisher: Publisher,
    healthy: Vec<(String, Stream)>,
}

impl Beside {
    fn start() -> Beside {
        let server = start(&[]);
        let healthy = (0..3).map(|_| unique("healthy")).map(|queue| {
            let stream = opened(&server, &queue, None);
            (queue, stream)
        });
        let healthy = healthy.collect();
        Beside { server, publisher: Publisher::new(), healthy }
    }

    /// The streams go on, newcomers are served, and no connection to the broker was lost.
    fn undisturbed(&mut self, after: &str) {
        for (queue, stream) in &mut self.healthy {
            self.publisher.queue(queue, &[after]);
            assert_eq!(stream.event().data, after, "{}", self.server.log());
        }
        let newcomer = unique("newcomer");
        let mut stream = opened(&self.server, &newcomer, None);
        self.publisher.queue(&newcomer, &[after]);
        assert_eq!(stream.event().data, after);
        let log = self.server.log();
        assert!(!log.contains("the broker is lost"), "{after}: {log}");
    }
}

#[test]
fn a_message_whose_properties_are_not_utf_8_is_delivered_like_any_other() {
    let mut beside = Beside::start();
    let mut raw = RawPublisher::at(url());
    let queue = unique("bytes");
    let mut stream = opened(&beside.server, &queue, None);
    let bad = b"caf\xe9";
    let texts = [15, 14, 10, 9, 7, 5, 3, 2].map(|bit| (format!("bit {bit}"), RawProperties::text(bit, bad)));
    let entry = |key: &[u8], kind: u8, value: &[u8]| [&short(key)[..], &[kind], value].concat();
    let headers = [
        ("a header's key", entry(bad, b't', &[1])),
        ("a header's value", entry(b"k", b'S', &long(bad))),
        ("a key in a table", entry(b"k", b'F', &long(&entry(bad, b't', &[1])))),
        ("bytes", entry(b"k", b'x', &long(bad))),
    ];
    let headers = headers.map(|(what, entries)| (what.to_owned(), RawProperties::headers(&entries)));
    for (what, properties) in texts.into_iter().chain(headers) {
        raw.publish("", queue.as_bytes(), &properties, what.as_bytes());
        assert_eq!(stream.event().data, what, "{}", beside.server.log());
    }
    beside.undisturbed("properties");

    // What comes again is called the same.
    raw.publish("", queue.as_bytes(), &RawProperties::text(7, bad), b"again");
    let seen = stream.event();
    drop(stream);
    let mut stream = opened_at_last(&beside.server, &queue);
    let again = std::iter::repeat_with(|| stream.event()).find(|event| event.data == "again");
    assert_eq!(again.map(|event| event.id), Some(seen.id));
}

#[test]
fn a_routing_key_that_is_not_utf_8_harms_nothing() {
    let mut beside = Beside::start();
    let mut raw = RawPublisher::at(url());
    let queue = unique("key");
    let mut stream = opened(&beside.server, &queue, None);
    raw.bind(&queue, "amq.topic", b"#");
    for key in [&b"caf\xe9"[..], b"\xff", "caf\u{e9}".as_bytes()] {
        raw.publish("amq.topic", key, &RawProperties::default(), b"by its key");
        assert_eq!(stream.event().data, "by its key", "{}", beside.server.log());
    }
    beside.undisturbed("routing keys");
}

/// A frame of 128 KiB holds 21,000 tables in one another: more than a parser that calls itself has stack for.
#[test]
fn tables_in_tables_end_neither_the_connection_nor_the_process() {
    let mut beside = Beside::start();
    let mut raw = RawPublisher::at(url());
    let queue = unique("nested");
    let mut stream = opened(&beside.server, &queue, None);
    for depth in [10, 1000, 21_000] {
        raw.publish("", queue.as_bytes(), &RawProperties::headers(&nested(depth)), b"deep");
        assert_eq!(stream.event().data, "deep", "{}", beside.server.log());
    }
    beside.undisturbed("nested tables");
}

/// RabbitMQ says of a message that it moves from queue to queue where it was, in its headers, and sends these in one
/// frame however long they are.
#[test]
fn headers_that_are_longer_than_a_frame_may_be_are_no_harm() {
    let mut beside = Beside::start();
    let mut raw = RawPublisher::at(url());
    let (queue, before) = (unique("long-headers"), unique("before"));
    let mut stream = opened(&beside.server, &queue, None);
    beside.publisher.declare_moving(&before, &queue);
    let value = vec![b'v'; 131_072 - 8 - 100];
    let entry = [&short(b"k")[..], b"S", &long(&value)].concat();
    raw.publish("", before.as_bytes(), &RawProperties::headers(&entry), b"moved");
    assert_eq!(stream.event().data, "moved", "{}", beside.server.log());
    beside.undisturbed("long headers");
    beside.publisher.delete(&before);
}

/// RabbitMQ cuts what it says at 252 bytes, in the middle of a letter if that is where they end.
#[test]
fn a_refusal_that_ends_within_a_letter_of_the_queues_name_ends_no_connection() {
    let mut beside = Beside::start();
    let tag = unique("");
    for first in ["", "x"] {
        let name = format!("{tag}{first}{}", "\u{e9}".repeat((250 - tag.len()) / 2));
        beside.publisher.declare(&name, true, Some(1_000_000)).unwrap();
        let encoded: String = name.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let reason = refused(&beside.server, &format!("/?id={encoded}"), &[]);
        assert!(reason.contains("PRECONDITION_FAILED"), "{reason}");
        beside.undisturbed("a refusal");
        beside.publisher.delete(&name);
    }
}
