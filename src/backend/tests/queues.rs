//! The messages of one queue, and which client gets them.

use super::*;

#[test]
fn a_queues_messages_are_delivered_in_order_and_leave_it_when_they_were_sent() {
    let (node, broker, queue) = start(unique("order"));
    let mut client = node.open(&queue, None).unwrap();
    broker.queue(&queue, &texts(0..50));
    assert_eq!(data(client.take(50)), texts(0..50));
    broker.queue(&queue, &texts(50..53));
    assert_eq!(data(client.take(3)), texts(50..53));
    until("acknowledgements", || node.stats().acknowledged.value() == 53);
    assert_eq!((node.stats().delivered.value(), node.stats().consumers.value()), (53, 1));
    client.close();
    assert_eq!(data(node.open(&queue, None).unwrap().take_ready()), [""; 0]);
    assert_eq!((broker.ready(&queue), node.stats().redelivered.value()), (Some(0), 0));
}

#[test]
fn what_was_not_acknowledged_goes_back_and_comes_again_under_the_same_ids() {
    let (node, broker, queue) = start(unique("again"));
    let mut client = node.open(&queue, None).unwrap();
    // A queue longer than the prefetch, equal bodies, ids of their own and an id used twice.
    let bodies: Vec<_> = texts(0..40).into_iter().map(|text| text[..1].to_owned()).collect();
    for (body, id) in bodies.iter().zip(["a", "b", "b", "no\nid"]) {
        let (body, message_id) = (body.as_bytes().to_vec(), Some(id.to_owned()));
        let routing_key = queue.clone();
        broker.publish("", StoredMessage { body, message_id, routing_key, ..StoredMessage::default() });
    }
    broker.queue(&queue, &bodies[4..]);
    client.auto = false;
    let first = client.take(20);
    client.close();
    let mut client = node.open(&queue, None).unwrap();
    assert_eq!(client.take(20), first);
    assert_eq!(data(client.take(20)), bodies[20..]);
    let ids: Vec<_> = first.iter().map(|(id, _)| &**id).collect();
    assert_eq!(ids[..3], ["a", "b", "b-1"]);
    assert_eq!(ids.iter().collect::<HashSet<_>>().len(), 20, "{ids:?}");
}

#[test]
fn a_client_that_comes_back_gets_what_it_does_not_have() {
    let (node, broker, queue) = start(unique("resume"));
    let other = TestNode::start(&broker, config());
    let mut client = node.open(&queue, None).unwrap();
    broker.queue(&queue, &texts(0..15));
    client.auto = false;
    let events = client.take(15);
    client.close();
    broker.queue(&queue, &texts(15..30));
    // On another node, which does not know this client.
    let mut client = other.open(&queue, Some(&events[9].0)).unwrap();
    assert_eq!(data(client.take(20)), texts(10..30));
    until("acknowledgements", || other.stats().acknowledged.value() == 30);
    assert_eq!(other.stats().acknowledged_unsent.value(), 10);
}

#[test]
fn nothing_is_delivered_before_the_stream_is_ready() {
    let (node, broker, queue) = start(unique("ready"));
    let mut client = node.answer(node.ask(&queue, None)).unwrap();
    broker.queue(&queue, &texts(0..3));
    // When the second stream's message has arrived, the first's would have too.
    let other = unique("ready");
    let mut second = node.open(&other, None).unwrap();
    broker.queue(&other, &["x"]);
    second.take(1);
    assert!(client.take_ready().is_empty());
    node.send(ToBackend::Ready { stream: client.stream });
    assert_eq!(data(client.take(3)), texts(0..3));
}

#[test]
fn a_second_client_is_refused_while_the_first_is_there_here_or_elsewhere() {
    let (node, broker, queue) = start(unique("second"));
    let other = TestNode::start(&broker, config());
    let client = node.open(&queue, None).unwrap();
    let taken = Some(NoQueue::lasting("another client has this queue"));
    for node in [&node, &other] {
        assert_eq!(node.open(&queue, None).err(), taken);
    }
    // An id that this stream never issued does not help either, however long it waits.
    for node in [&node, &other] {
        assert_eq!(node.open(&queue, Some("x")).err(), taken);
    }
    assert_eq!((node.stats().refused.value(), other.stats().refused.value()), (2, 2));
    client.close();
    let client = node.open(&queue, None).expect("at once on the same node");
    client.close();
    until("the queue on the other node", || other.open(&queue, None).is_ok());
}

#[test]
fn a_client_is_not_locked_out_by_its_own_ghost() {
    let (node, broker, queue) = start(unique("ghost"));
    let other = TestNode::start(&broker, config());
    let mut ghost = node.open(&queue, None).unwrap();
    broker.queue(&queue, &texts(0..5));
    ghost.auto = false;
    let events = ghost.take(5);
    // On this node it takes over; messages that the old connection did not send come again.
    let mut client = node.open(&queue, Some(&events[2].0)).unwrap();
    ghost.wait_ended();
    assert_eq!(data(client.take(2)), texts(3..5));
    // On another node it waits until the old connection is noticed.
    let ticket = other.ask(&queue, Some(&events[4].0));
    std::thread::sleep(Duration::from_millis(700));
    client.close();
    let mut client = other.answer(ticket).unwrap();
    other.send(ToBackend::Ready { stream: client.stream });
    broker.queue(&queue, &["5"]);
    assert_eq!(data(client.take(1)), ["5"]);
}

#[test]
fn an_id_of_the_last_acknowledged_message_takes_over_too() {
    let (node, broker, queue) = start(unique("acked"));
    let mut ghost = node.open(&queue, None).unwrap();
    broker.queue(&queue, &texts(0..3));
    let events = ghost.take(3);
    until("acknowledgements", || node.stats().acknowledged.value() == 3);
    let first = node.open(&queue, Some(&events[2].0)).unwrap();
    ghost.wait_ended();
    // And again, before any message has arrived.
    let second = node.open(&queue, Some(&events[2].0)).unwrap();
    first.wait_ended();
    second.close();
}

#[test]
fn a_client_that_does_not_read_holds_back_its_own_queue_alone() {
    let (node, broker, slow) = start(unique("slow"));
    let quick = unique("quick");
    let (mut reads_not, mut reads) = (node.open(&slow, None).unwrap(), node.open(&quick, None).unwrap());
    reads_not.auto = false;
    broker.queue(&slow, &texts(0..60));
    broker.queue(&quick, &texts(0..60));
    assert_eq!(data(reads.take(60)), texts(0..60));
    assert_eq!(data(reads_not.take(20)), texts(0..20));
    assert_eq!((broker.ready(&slow), reads_not.take_ready().len()), (Some(40), 0));
    // At most 1 MiB of large messages is with the shard.
    let large = unique("large");
    let mut client = node.open(&large, None).unwrap();
    client.auto = false;
    broker.queue(&large, &vec![vec![b'x'; 200 * 1024]; 10]);
    client.take(6);
    reads_not.sent(20);
    assert_eq!(data(reads_not.take(20)), texts(20..40));
    assert_eq!(client.take_ready().len(), 0);
    client.sent(6);
    client.take(4);
}

#[test]
fn a_queue_of_other_properties_is_refused_with_the_brokers_reason() {
    let (node, broker, queue) = start(unique("other"));
    broker.declare_foreign(&queue);
    let refused = node.open(&queue, None).err().unwrap();
    assert!(refused.reason.starts_with("the broker refuses the queue: PRECONDITION_FAILED"), "{refused:?}");
    assert!(!refused.is_passing);
    broker.delete(&queue);
    assert!(node.open(&queue, None).is_ok());
}

#[test]
fn a_stream_ends_with_its_queue() {
    let (node, broker, queue) = start(unique("deleted"));
    let client = node.open(&queue, None).unwrap();
    broker.delete(&queue);
    client.wait_ended();
    until("the count", || node.stats().consumers.value() == 0);
    let mut client = node.open(&queue, None).unwrap();
    broker.queue(&queue, &["again"]);
    assert_eq!(data(client.take(1)), ["again"]);
}

/// Each refusal costs a channel, and must cost nothing else.
#[test]
fn many_refusals_at_once_disturb_nobody() {
    let (node, broker, queue) = start(unique("many"));
    let holder = TestNode::start(&broker, config());
    let mut client = holder.open(&queue, None).unwrap();
    let others: Vec<_> = (0..200).map(|_| node.ask(&unique("many"), None)).collect();
    let refused: Vec<_> = (0..200).map(|_| node.ask(&queue, None)).collect();
    let gone: Vec<_> = others.into_iter().map(|ticket| node.answer(ticket).unwrap()).collect();
    assert!(refused.into_iter().all(|ticket| node.answer(ticket).is_err()));
    gone.into_iter().for_each(QueueClient::close);
    broker.queue(&queue, &texts(0..10));
    assert_eq!(data(client.take(10)), texts(0..10));
    until("the count", || node.stats().consumers.value() == 0);
    assert_eq!(node.stats().brokers_connected.value(), 1);
    assert!(client.node.heard.0.0.lock().unwrap().ended.is_empty());
}

/// Clients die at any moment and come back on either of two nodes with the last id they saw.
#[test]
fn nothing_is_lost_or_doubled_by_clients_that_die_and_come_back() {
    const QUEUES: usize = 10;
    const MESSAGES: usize = 300;
    let shorter = BackendConfig { ack_window: 40, prefetch: 60, ..config() };
    let broker = MemoryServer::default();
    let nodes = [TestNode::start(&broker, shorter.clone()), TestNode::start(&broker, shorter)];
    let queues: Vec<_> = (0..QUEUES).map(|_| unique("die")).collect();
    std::thread::scope(|threads| {
        for queue in &queues {
            let nodes = &nodes;
            threads.spawn(move || {
                let (mut got, mut last_event_id) = (Vec::new(), None::<String>);
                while got.len() < MESSAGES {
                    let node = &nodes[fastrand::usize(..2)];
                    let Ok(mut client) = node.open(queue, last_event_id.as_deref()) else { continue };
                    let die_at = got.len() + fastrand::usize(1..80);
                    loop {
                        let events = client.take_ready();
                        client.taken = 0;
                        let dies = got.len() + events.len() >= die_at.min(MESSAGES);
                        // Messages in transit are lost with the connection.
                        let lost = if dies { fastrand::usize(..40).min(events.len()) } else { 0 };
                        let received = events.len() - lost;
                        for (id, data) in events.into_iter().take(received) {
                            got.push(data);
                            last_event_id = Some(id);
                        }
                        if dies {
                            break;
                        }
                        std::thread::sleep(Duration::from_millis(1));
                    }
                    client.close();
                }
                assert_eq!(got, texts(0..MESSAGES));
            });
        }
        std::thread::sleep(Duration::from_millis(200));
        for at in (0..MESSAGES).step_by(30) {
            queues.iter().for_each(|queue| broker.queue(queue, &texts(at..at + 30)));
        }
    });
}
