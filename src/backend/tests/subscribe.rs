//! From exchanges to topics.

use super::*;

fn rule(exchange: &str, routing_key: &str, topic: &str) -> SubscribeRule {
    SubscribeRule {
        exchange: exchange.to_owned(),
        routing_key: routing_key.to_owned(),
        topic: topic.to_owned(),
    }
}

fn published(node: &TestNode, count: usize) -> Vec<(String, String, String)> {
    node.heard.wait("events", |state| (state.published.len() >= count).then(|| state.published.clone()))
}

/// Publishes to an exchange.
fn publish(broker: &MemoryServer, exchange: &str, routing_key: &str, bodies: &[impl AsRef<[u8]>]) {
    for body in bodies {
        let (body, routing_key) = (body.as_ref().to_vec(), routing_key.to_owned());
        broker.publish(exchange, StoredMessage { body, routing_key, ..StoredMessage::default() });
    }
}

#[test]
fn what_an_exchange_is_sent_is_published_on_every_node_with_the_same_ids() {
    let (broker, exchange) = (MemoryServer::default(), unique("exchange"));
    broker.declare_exchange(&exchange);
    let config =
        BackendConfig { subscribe: vec![rule(&exchange, "pets.#", "live/${routing_key}")], ..config() };
    let nodes = [TestNode::start(&broker, config.clone()), TestNode::start(&broker, config)];
    // Publishes until both queues are bound; each message reaches those that are.
    until("both bindings", || {
        publish(&broker, &exchange, "pets.bound", &["?"]);
        nodes.iter().all(|node| node.stats().published.value() > 0)
    });
    let numbers = texts(0..500);
    let (message_id, routing_key) = (Some("first".to_owned()), "pets.dogs".to_owned());
    let first = StoredMessage { body: b"0".to_vec(), message_id, routing_key, ..StoredMessage::default() };
    broker.publish(&exchange, first);
    publish(&broker, &exchange, "pets.dogs", &numbers[1..]);
    publish(&broker, &exchange, "plants", &["none"]);
    publish(&broker, &exchange, "pets.cats", &["1", "a\r\nb\0"]);
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
    assert_eq!(here.iter().take(500).map(|(_, data, _)| data.clone()).collect::<Vec<_>>(), numbers);
    assert_eq!(here[0].2, "first");
    assert_eq!((&*here[501].0, &*here[501].1), ("live/pets.cats", "a\r\nb\u{fffd}"));
    // The same body with another routing key is another event.
    assert_ne!(here[1].2, here[500].2);
}

#[test]
fn an_exchange_that_is_missing_is_found_later_and_what_is_not_taken_waits_or_is_let_go() {
    let (broker, exchange) = (MemoryServer::default(), unique("later"));
    let subscribe = vec![rule(&exchange, "#", "${routing_key}")];
    let node = TestNode::start(&broker, BackendConfig { subscribe, ..config() });
    node.heard.change(|state| state.full = 3);
    assert!(node.open(&unique("beside"), None).is_ok());
    broker.declare_exchange(&exchange);
    until("the binding", || {
        publish(&broker, &exchange, "a", &["bound"]);
        node.stats().published.value() > 0
    });
    // The topic without a name is refused, and what follows is published.
    publish(&broker, &exchange, "", &["nameless"]);
    publish(&broker, &exchange, "b", &["named"]);
    node.heard.wait("the last", |state| {
        let last = state.published.last()?;
        (last.0 == "b" && last.1 == "named").then_some(())
    });
    let all = published(&node, 1);
    assert!(all.iter().all(|(_, data, _)| data != "nameless") && all[0].1 == "bound");
}

/// Bytes of a routing key that are not UTF-8 arrive as question marks.
#[test]
fn a_routing_key_of_any_letters_names_a_topic_all_the_same() {
    let (broker, exchange) = (MemoryServer::default(), unique("bytes"));
    broker.declare_exchange(&exchange);
    let subscribe = vec![rule(&exchange, "#", "live/${routing_key}")];
    let node = TestNode::start(&broker, BackendConfig { subscribe, ..config() });
    until("the binding", || {
        publish(&broker, &exchange, "caf?", &["here"]);
        node.stats().published.value() > 0
    });
    let (topic, data, _) = published(&node, 1).remove(0);
    assert_eq!((&*topic, &*data), ("live/caf?", "here"));
    assert_eq!(node.stats().brokers_connected.value(), 1);
}
