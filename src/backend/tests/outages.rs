//! A broker that goes away and comes back, and the end of the server.

use super::*;

#[test]
fn a_broker_that_comes_and_goes_is_found_again() {
    let (node, broker, queue) = start(unique("heals"));
    let mut client = node.open(&queue, None).unwrap();
    client.auto = false;
    broker.queue(&queue, &texts(0..10));
    let events = client.take(10);

    broker.stop();
    client.wait_ended();
    until("the loss", || node.stats().brokers_connected.value() == 0);
    assert_eq!(node.refusal(), "no broker is reachable; try again later");
    broker.start();
    node.wait_connected();
    let mut client = node.open(&queue, Some(&events[3].0)).unwrap();
    assert_eq!(client.take(6), events[4..]);
    assert_eq!(node.stats().consumers.value(), 1);
}

/// EventSource, which gives up for ever on a 503, comes back after a second or two: sooner than a broker starts.
#[test]
fn a_client_that_comes_back_before_its_broker_waits_for_it() {
    let (node, broker, queue) = start(unique("waits"));
    let mut client = node.open(&queue, None).unwrap();
    client.auto = false;
    broker.queue(&queue, &texts(0..3));
    let events = client.take(3);
    broker.stop();
    client.wait_ended();
    let request = node.ask(&queue, Some(&events[0].0));
    std::thread::sleep(Duration::from_millis(700));
    broker.start();
    let mut client = node.answer(request).unwrap();
    node.send(ToBackend::Ready { stream: client.stream });
    assert_eq!(client.take(2), events[1..]);
}

#[test]
fn stopping_puts_back_what_is_unacknowledged() {
    let (node, broker, queue) = start(unique("stop"));
    let mut client = node.open(&queue, None).unwrap();
    client.auto = false;
    broker.queue(&queue, &texts(0..5));
    client.take(5);
    node.stop();
    assert_eq!(broker.ready(&queue), Some(5));
}

#[test]
fn a_queue_is_refused_while_too_much_is_held() {
    let (node, _broker, queue) = start(unique("held"));
    node.heard.change(|state| state.is_exhausted = true);
    let refused = node.open(&queue, None).err().unwrap();
    assert!(
        refused.is_passing && refused.reason.starts_with("too much is held for slow clients"),
        "{refused:?}"
    );
    node.heard.change(|state| state.is_exhausted = false);
    assert!(node.open(&queue, None).is_ok());
}
