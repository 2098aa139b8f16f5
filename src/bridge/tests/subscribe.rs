//! From exchanges to topics.

use super::rabbitmq::raw::{RawProperties, RawPublisher};
use super::rabbitmq::{Publisher, url};
use super::*;

fn rule(exchange: &str, routing_key: &str, topic: &str) -> SubscribeRule {
    SubscribeRule {
        exchange: exchange.to_owned(),
        routing_key: routing_key.to_owned(),
        topic: topic.to_owned(),
    }
}

fn published(node: &Node, count: usize) -> Vec<(String, String, String)> {
    node.heard.wait("events", |state| (state.published.len() >= count).then(|| state.published.clone()))
}

#[test]
fn what_an_exchange_is_sent_is_published_on_every_node_with_the_same_ids() {
    let (publisher, exchange) = (Publisher::new(), unique("exchange"));
    publisher.declare_exchange(&exchange);
    let config =
        BridgeConfig { subscribe: vec![rule(&exchange, "pets.#", "live/${routing_key}")], ..config(url()) };
    let nodes = [Node::start(config.clone()), Node::start(config)];
    // Until both are bound: one message each time, which those get that are.
    until("both bindings", || {
        publisher.publish(&exchange, "pets.bound", &["?"], |_, properties| properties);
        nodes.iter().all(|node| node.stats().published.value() > 0)
    });
    publisher.publish(&exchange, "pets.dogs", &texts(0..500), |at, properties| match at {
        0 => properties.with_message_id("first".into()),
        _ => properties,
    });
    publisher.publish(&exchange, "plants", &["none"], |_, properties| properties);
    publisher.publish(&exchange, "pets.cats", &["1", "a\r\nb\0"], |_, properties| properties);
    let [here, there] = [&nodes[0], &nodes[1]].map(|node| {
        let last = node.heard.wait("the last", |state| {
            let all = &state.published;
            let first = all.iter().position(|(topic, ..)| topic == "live/pets.dogs")?;
            (all.len() == first + 502).then(|| all[first..].to_vec())
        });
        until("the count", || node.stats().published.value() == published(node, 0).len() as u64);
        last
    });
    assert_eq!(here, there);
    assert_eq!(here.iter().take(500).map(|(_, data, _)| data.clone()).collect::<Vec<_>>(), texts(0..500));
    assert_eq!(here[0].2, "first");
    assert_eq!((&*here[501].0, &*here[501].1), ("live/pets.cats", "a\r\nb\u{fffd}"));
    // The same body with another routing key is another event.
    assert_ne!(here[1].2, here[500].2);
    publisher.delete_exchange(&exchange);
}

#[test]
fn an_exchange_that_is_missing_is_found_later_and_what_is_not_taken_waits_or_is_let_go() {
    let (publisher, exchange) = (Publisher::new(), unique("later"));
    let subscribe = vec![rule(&exchange, "#", "${routing_key}")];
    let node = Node::start(BridgeConfig { subscribe, ..config(url()) });
    node.heard.change(|state| state.full = 3);
    assert!(node.open(&unique("beside"), None).is_ok());
    publisher.declare_exchange(&exchange);
    until("the binding", || {
        publisher.publish(&exchange, "a", &["bound"], |_, properties| properties);
        node.stats().published.value() > 0
    });
    // The topic without a name is refused, and what follows is published.
    publisher.publish(&exchange, "", &["nameless"], |_, properties| properties);
    publisher.publish(&exchange, "b", &["named"], |_, properties| properties);
    node.heard.wait("the last", |state| {
        let last = state.published.last()?;
        (last.0 == "b" && last.1 == "named").then_some(())
    });
    let all = published(&node, 1);
    assert!(all.iter().all(|(_, data, _)| data != "nameless") && all[0].1 == "bound");
    publisher.delete_exchange(&exchange);
}

#[test]
fn a_routing_key_that_is_not_utf_8_names_a_topic_all_the_same() {
    let (publisher, exchange) = (Publisher::new(), unique("bytes"));
    publisher.declare_exchange(&exchange);
    let rules = vec![rule(&exchange, "#", "live/${routing_key}")];
    let node = Node::start(BridgeConfig { subscribe: rules, ..config(url()) });
    let mut raw = RawPublisher::at(url());
    until("the binding", || {
        raw.publish(&exchange, b"caf\xe9", &RawProperties::text(7, b"\xff"), b"here");
        node.stats().published.value() > 0
    });
    let (topic, data, _) = published(&node, 1).remove(0);
    assert_eq!((&*topic, &*data), ("live/caf?", "here"));
    assert_eq!(node.stats().brokers_connected.value(), 1);
    publisher.delete_exchange(&exchange);
}
