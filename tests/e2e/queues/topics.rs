//! What is published in RabbitMQ reaches those who subscribe to topics.

use super::rabbitmq::raw::{RawProperties, RawPublisher};
use super::*;

#[test]
fn what_an_exchange_is_sent_reaches_subscribers_of_every_node_under_the_same_ids() {
    let (publisher, exchange) = (Publisher::new(), unique("exchange"));
    publisher.declare_exchange(&exchange);
    let config = format!(
        "server: {{address: '127.0.0.1:0'}}\nbroker:\n  node: ['{}']\nqueue:\n  subscribe:\n    \
         - {{exchange: {exchange}, routing_key: 'pets.#', topic: 'live/${{routing_key}}'}}\n    \
         - {{exchange: {exchange}, routing_key: '*.cats', topic: cats}}\nnamespaces: true\n",
        url()
    );
    let nodes = [start_by(&config, &[]), start_by(&config, &[])];
    for node in &nodes {
        wait_until("it is bound", || node.log().matches("subscribed to the exchange").count() == 2);
    }
    let subscribe = |topic| {
        nodes.iter().map(|node| Stream::open(node, &format!("/subscribe/{topic}"))).collect::<Vec<_>>()
    };
    let [mut dogs, mut cats, mut all_cats] = ["live/pets.dogs", "live/pets.cats", "cats"].map(subscribe);
    publisher.publish(&exchange, "pets.dogs", &bodies(0..300), |at, properties| match at {
        0 => properties.with_message_id("first".into()),
        // As a relay has it of an esper. Each node would put another in its place.
        1 => properties.with_message_id("10000000000000000000-1".into()),
        _ => properties,
    });
    publisher.publish(&exchange, "plants", &["for nobody"], |_, properties| properties);
    publisher.publish(&exchange, "pets.cats", &["one", "two\nlines"], |_, properties| properties);
    let [here, there] = [0, 1].map(|node: usize| take(&mut dogs[node], 300));
    assert_eq!(here, there);
    assert_eq!(data(&here), bodies(0..300));
    assert_eq!(here[0].id, "first");
    assert!(here[1].id.len() == 16 && !here[1].lines.contains("10000000000000000000"), "{:?}", here[1]);
    for streams in [&mut cats, &mut all_cats] {
        let [here, there] = [0, 1].map(|node: usize| take(&mut streams[node], 2));
        assert_eq!(here, there);
        assert_eq!(data(&here), ["one", "two\nlines"]);
    }

    // Who comes back finds them in the topic's history, on the other node as well.
    let field = format!("Last-Event-ID: {}", here[289].id);
    let mut stream = Stream::open_with(&nodes[1], "/subscribe/live/pets.dogs", &[&field]);
    assert_eq!(take(&mut stream, 10), here[290..]);
    publisher.delete_exchange(&exchange);
}

#[test]
fn an_exchange_that_is_not_there_is_told_of_and_found_later() {
    let (publisher, exchange) = (Publisher::new(), unique("later"));
    let config = format!(
        "server: {{address: '127.0.0.1:0'}}\nbroker: {{node: ['{}']}}\nqueue:\n  subscribe:\n    \
         - {{exchange: {exchange}, routing_key: '#', topic: '${{routing_key}}'}}\n",
        url()
    );
    let server = start_by(&config, &[]);
    wait_until("it is told of", || server.log().contains("not subscribed to the exchange: "));
    publisher.declare_exchange(&exchange);
    let start = std::time::Instant::now();
    while !server.log().contains("INFO subscribed to the exchange") {
        assert!(start.elapsed() < 3 * PATIENCE, "{}", server.log());
        pause(Duration::from_millis(50));
    }
    let mut stream = Stream::open(&server, "/subscribe/laterlater");
    // What makes no topic is let go, and keeps nothing back.
    publisher.publish(&exchange, "bad topic", &["x"], |_, properties| properties);
    publisher.publish(&exchange, "laterlater", &["one"], |_, properties| properties);
    assert_eq!(stream.event().data, "one");
    wait_until("it is told of", || server.log().contains("not published to a topic: "));
    publisher.delete_exchange(&exchange);
}

#[test]
fn a_routing_key_that_is_not_utf_8_keeps_nothing_back() {
    let (publisher, exchange) = (Publisher::new(), unique("bytes"));
    publisher.declare_exchange(&exchange);
    let config = format!(
        "server: {{address: '127.0.0.1:0'}}\nbroker: {{node: ['{}']}}\nnamespaces: true\nqueue:\n  subscribe:\n    \
         - {{exchange: {exchange}, routing_key: '#', topic: 'live/${{routing_key}}'}}\n",
        url()
    );
    let server = start_by(&config, &[]);
    eventually("it is bound", || server.log().contains("subscribed to the exchange").then_some(()));
    let mut stream = Stream::open(&server, "/subscribe/live/cafe");
    let mut raw = RawPublisher::at(url());
    // It becomes `caf?`, which no topic may be called.
    for key in [&b"caf\xe9"[..], b"cafe"] {
        raw.publish(&exchange, key, &RawProperties::text(7, b"\xff"), b"here");
    }
    assert_eq!(stream.event().data, "here", "{}", server.log());
    wait_until("it is told of", || server.log().contains("not published to a topic: "));
    assert!(!server.log().contains("the broker is lost"), "{}", server.log());
    publisher.delete_exchange(&exchange);
}
