//! Brokers that are not there, go away, and come back.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::Command;

use super::super::link::{Link, close};
use super::rabbitmq::raw::{frame, long, short};
use super::rabbitmq::{Broker, Publisher, url};
use super::*;

const NOWHERE: &str = "amqp://guest:hunter2@127.0.0.1:9/";

fn refusal(node: &Node) -> String {
    let refused = node.open(&unique("refused"), None).err().unwrap();
    assert!(refused.is_passing, "{refused:?}");
    refused.reason
}

#[test]
fn without_any_broker_clients_are_refused_at_once_and_say_why() {
    let node = Node::start_alone(config(NOWHERE));
    assert_eq!(refusal(&node), "no broker is reachable; try again later");
    assert_eq!((node.stats().brokers_configured.value(), node.stats().brokers_connected.value()), (1, 0));
}

/// Listens, and never says a word.
#[test]
fn a_broker_that_does_not_answer_keeps_nothing_from_stopping() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let node = Node::start_alone(config(&format!("amqp://{}/", silent.local_addr().unwrap())));
    let _connection = silent.accept().unwrap();
    assert_eq!(refusal(&node), "no broker is reachable; try again later");
    node.stop();
}

#[test]
fn a_broker_that_comes_and_goes_is_found_again() {
    let broker = Broker::start();
    let (publisher, queue) = (Publisher::at(&broker.url), unique("heals"));
    let node = Node::start(BridgeConfig { expire_s: 600, ..config(&broker.url) });
    let mut client = node.open(&queue, None).unwrap();
    client.auto = false;
    publisher.queue(&queue, &texts(0..10));
    let events = client.take(10);

    // By its management.
    broker.ctl(&["close_all_connections", "test"]);
    client.wait_ended();
    node.wait_connected();
    let mut client = node.open(&queue, Some(&events[3].0)).unwrap();
    client.auto = false;
    assert_eq!(client.take(6), events[4..]);

    // By a crash. What is durable comes again.
    broker.kill();
    client.wait_ended();
    until("the loss", || node.stats().brokers_connected.value() == 0);
    assert_eq!(refusal(&node), "no broker is reachable; try again later");
    broker.again();
    node.wait_connected();
    let mut client = node.open(&queue, Some(&events[5].0)).unwrap();
    assert_eq!(client.take(4), events[6..]);

    // By a pause of the broker alone.
    broker.ctl(&["stop_app"]);
    client.wait_ended();
    broker.ctl(&["start_app"]);
    node.wait_connected();
    assert!(node.open(&queue, None).is_ok());
    assert_eq!(node.stats().consumers.value(), 1);
}

#[test]
fn new_streams_go_to_a_broker_that_is_left() {
    let broker = Broker::start();
    let mut both = config(&broker.url);
    both.nodes.push(url().parse().unwrap());
    let node = Node::start(both);
    // The two are no cluster, so queues may be on either.
    let clients: Vec<_> = (0..4).map(|_| node.open(&unique("left"), None).unwrap()).collect();
    broker.kill();
    until("half of the streams to end", || node.stats().consumers.value() == 2);
    let ended = node.heard.0.0.lock().unwrap().ended.clone();
    assert_eq!(clients.iter().filter(|client| ended.contains(&client.stream)).count(), 2);
    for _ in 0..4 {
        assert!(node.open(&unique("left"), None).is_ok());
    }
}

#[test]
fn a_url_that_stands_twice_has_room_for_twice_as_many() {
    let url = format!("{}?channel_max=2", url());
    let mut twice = config(&url);
    twice.nodes.push(url.parse().unwrap());
    let node = Node::start(twice);
    let mut clients: Vec<_> = (0..4).map(|_| node.open(&unique("twice"), None).unwrap()).collect();
    assert_eq!(
        refusal(&node),
        "every channel of every broker is taken; repeat a URL in broker.node for more"
    );
    clients.pop().unwrap().close();
    until("a channel", || node.open(&unique("twice"), None).is_ok());
}

/// RabbitMQ ends the connection of who opens one channel more than its user may.
#[test]
fn a_client_beyond_the_users_limit_of_channels_ends_the_streams_of_others_once_at_most() {
    let broker = Broker::start();
    broker.ctl(&["set_user_limits", "guest", r#"{"max-channels": 4}"#]);
    let node = Node::start(config(&broker.url));
    let queues: Vec<_> = (0..5).map(|_| unique("limit")).collect();
    let clients: Vec<_> = queues[..4].iter().map(|queue| node.open(queue, None).unwrap()).collect();
    let fifth = node.open(&queues[4], None);
    clients.iter().for_each(Client::wait_ended);
    // It may have been the first on the next connection.
    let _ = fifth.map(Client::close);
    let mut clients = Vec::new();
    for queue in &queues[..4] {
        until("the broker", || {
            let opened = node.open(queue, None);
            let is_opened = opened.is_ok();
            clients.extend(opened);
            is_opened
        });
    }
    for _ in 0..3 {
        assert_eq!(
            refusal(&node),
            "every channel of every broker is taken; repeat a URL in broker.node for more"
        );
    }
    assert_eq!((node.stats().consumers.value(), node.stats().brokers_connected.value()), (4, 1));

    // Where one leaves there is room for another.
    clients.pop().unwrap().close();
    until("a channel", || node.open(&queues[4], None).is_ok());
    assert_eq!(node.stats().brokers_connected.value(), 1);
}

/// Queues expire, and then there is room.
#[test]
fn a_limit_on_queues_refuses_for_now() {
    let broker = Broker::start();
    broker.ctl(&["set_vhost_limits", r#"{"max-queues": 1}"#]);
    let node = Node::start(BridgeConfig { expire_s: 1, ..config(&broker.url) });
    let client = node.open(&unique("only"), None).unwrap();
    let reason = refusal(&node);
    assert!(reason.contains("queue limit in vhost"), "{reason}");
    client.close();
    until("room", || node.open(&unique("next"), None).is_ok());
}

#[test]
fn stopping_puts_back_what_is_unacknowledged() {
    let (node, publisher, queue) = (Node::start(config(url())), Publisher::new(), unique("stop"));
    let mut client = node.open(&queue, None).unwrap();
    client.auto = false;
    publisher.queue(&queue, &texts(0..5));
    client.take(5);
    node.stop();
    assert_eq!(publisher.ready(&queue), Some(5));
}

#[test]
fn credentials_are_in_no_reason() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let wrong = url().replace("guest:guest@", "rabbit:hunter2@");
    for (url, said) in [(&*wrong, "ACCESS_REFUSED"), (NOWHERE, "refused")] {
        let reason = runtime.block_on(Link::connect(&url.parse().unwrap(), None)).err().unwrap();
        assert!(
            reason.contains(said) && !reason.contains("hunter2") && !reason.contains("rabbit:"),
            "{reason}"
        );
    }
    let vhost = format!("{}nowhere", url());
    let reason = runtime.block_on(Link::connect(&vhost.parse().unwrap(), None)).err().unwrap();
    assert!(reason.contains("nowhere") && !reason.contains("guest"), "{reason}");
}

/// A broker closes a channel while our own close is on its way to it, and answers that one as well.
#[test]
fn closes_that_cross_end_the_channel_alone() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("amqp://guest:guest@{}/", listener.local_addr().unwrap());
    let broker = std::thread::spawn(move || crossing_broker(listener.accept().unwrap().0));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let link = Rc::new(
            Link::connect(&url.parse().unwrap(), None).await.unwrap_or_else(|reason| panic!("{reason}")),
        );
        let lease = Rc::clone(&link).lease();
        for _ in 0..5 {
            let channel = lease.channel().await.unwrap();
            close(&channel).await;
            assert!(!channel.status().connected());
            // The broker answers in order: once the next channel is closed, nothing about this one can still arrive.
            close(&lease.channel().await.unwrap()).await;
            assert!(link.is_connected());
        }
        link.close().await;
    });
    broker.join().unwrap();
}

/// Speaks as much AMQP as there is to connect, and to open and close channels.
fn crossing_broker(mut stream: TcpStream) {
    let mut greeting = [0; 8];
    stream.read_exact(&mut greeting).unwrap();
    let start = [&[0, 10, 0, 10, 0, 9][..], &long(b""), &long(b"PLAIN"), &long(b"en_US")].concat();
    stream.write_all(&frame(1, 0, &start)).unwrap();
    let mut head = [0; 7];
    while stream.read_exact(&mut head).is_ok() {
        let mut payload = vec![0; u32::from_be_bytes(head[3..].try_into().unwrap()) as usize + 1];
        stream.read_exact(&mut payload).unwrap();
        let channel = u16::from_be_bytes([head[1], head[2]]);
        let mut say = |said: &[&[u8]]| stream.write_all(&frame(1, channel, &said.concat())).unwrap();
        match &payload[..4] {
            [0, 10, 0, 11] => say(&[&[0, 10, 0, 30, 7, 255, 0, 2, 0, 0, 0, 60]]),
            [0, 10, 0, 40] => say(&[&[0, 10, 0, 41, 0]]),
            [0, 10, 0, 50] => return say(&[&[0, 10, 0, 51]]),
            [0, 20, 0, 10] => say(&[&[0, 20, 0, 11], &long(b"")]),
            [0, 20, 0, 40] => {
                say(&[&[0, 20, 0, 40, 1, 150], &short(b"PRECONDITION_FAILED"), &[0; 4]]);
                say(&[&[0, 20, 0, 41]]);
            }
            // Tune-ok, close-ok, heartbeats.
            _ => {}
        }
    }
}

#[test]
fn amqps_takes_the_certificates_that_the_system_trusts() {
    let broker = Broker::start();
    let (url, certificate) = broker.tls();
    // The variable is read by a process of its own: this one has others' tests in it.
    let connects = |certificate: &str| {
        let mut test = Command::new(std::env::current_exe().unwrap());
        test.args([
            "--exact",
            "--ignored",
            "bridge::tests::brokers::connects_to_the_url_in_esper_test_tls_url",
        ]);
        let output = test.env("ESPER_TEST_TLS_URL", &url).env("SSL_CERT_FILE", certificate).output().unwrap();
        (output.status.success(), String::from_utf8(output.stdout).unwrap())
    };
    let (trusted, said) = connects(certificate.to_str().unwrap());
    assert!(trusted, "{said}");
    let (trusted, said) = connects("/etc/ssl/certs/ca-certificates.crt");
    assert!(!trusted && said.contains("invalid peer certificate") && !said.contains("guest"), "{said}");
}

#[test]
#[ignore = "a part of the one before"]
fn connects_to_the_url_in_esper_test_tls_url() {
    let url = std::env::var("ESPER_TEST_TLS_URL").unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    if let Err(reason) = runtime.block_on(Link::connect(&url.parse().unwrap(), None)) {
        panic!("{reason}");
    }
}
