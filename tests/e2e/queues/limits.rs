//! What RabbitMQ itself limits, refuses and interrupts.

use std::io::Write as _;

use super::brokers::{opened_when_there, told_to_come_back};
use super::*;
use rabbitmq::Broker;

const FULL: &str = "every channel of every broker is taken; repeat a URL in broker.node for more";

/// One of the numbers of `/debug/vars`.
fn counted(server: &Server, group: &str, name: &str) -> u64 {
    let vars: serde_json::Value = serde_json::from_str(&server.get("/debug/vars").body).unwrap();
    vars["eventsourced"][group][name].as_u64().unwrap()
}

/// Why the queue of a client that is new is refused for now.
fn newcomer_refused(server: &Server) -> String {
    refused_for_now(server, &format!("/?id={}", unique("refused")))
}

#[test]
fn a_url_that_stands_twice_has_room_for_twice_as_many() {
    let url = format!("{}?channel_max=2", url());
    let server = start_at(&[&url, &url], &[]);
    let mut streams: Vec<_> = (0..4).map(|_| opened(&server, &unique("twice"), None)).collect();
    assert_eq!(newcomer_refused(&server), FULL);
    drop(streams.pop());
    opened_at_last(&server, &unique("twice"));
}

/// RabbitMQ ends the connection of who opens one channel more than its user may.
#[test]
fn a_client_beyond_the_users_limit_of_channels_ends_the_streams_of_others_once_at_most() {
    let broker = Broker::start();
    broker.ctl(&["set_user_limits", "guest", r#"{"max-channels": 4}"#]);
    let server = start_at(&[&broker.url], &SHORT);
    let queues: Vec<_> = (0..5).map(|_| unique("limit")).collect();
    let mut streams: Vec<_> = queues[..4].iter().map(|queue| opened(&server, queue, None)).collect();
    // It may be the first on the next connection.
    let fifth = open(&server, &queues[4], None);
    streams.iter_mut().for_each(told_to_come_back);
    drop(fifth);
    let mut streams: Vec<_> =
        queues[..4].iter().map(|queue| opened_when_there(&server, queue, None)).collect();
    for _ in 0..3 {
        assert_eq!(newcomer_refused(&server), FULL);
    }
    assert_eq!((counted(&server, "Consumer", "Open"), counted(&server, "Broker", "Connected")), (4, 1));

    // Where one leaves there is room for another.
    drop(streams.pop());
    opened_at_last(&server, &queues[4]);
    assert_eq!(counted(&server, "Broker", "Connected"), 1);
}

/// Queues expire, and then there is room.
#[test]
fn a_limit_on_queues_refuses_for_now() {
    let broker = Broker::start();
    broker.ctl(&["set_vhost_limits", r#"{"max-queues": 1}"#]);
    let server = start_at(&[&broker.url], &["--queue-expire", "1s"]);
    let stream = opened(&server, &unique("only"), None);
    let reason = newcomer_refused(&server);
    assert!(reason.contains("queue limit in vhost"), "{reason}");
    drop(stream);
    opened_at_last(&server, &unique("next"));
}

/// Each refusal costs a channel, which must cost no more.
#[test]
fn many_refusals_at_once_disturb_nobody() {
    let (server, holder) = (start(&[]), start(&[]));
    let (publisher, queue) = (Publisher::new(), unique("many"));
    let mut held = opened(&holder, &queue, None);
    let ask = |queue: &str| {
        let mut connection = server.connect();
        write!(connection, "GET /?id={queue} HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
        connection
    };
    let others: Vec<_> = (0..200).map(|_| ask(&unique("many"))).collect();
    let refused: Vec<_> = (0..200).map(|_| ask(&queue)).collect();
    let others: Vec<_> = others.into_iter().map(Stream::of).collect();
    assert!(others.iter().all(is_there));
    assert!(refused.into_iter().map(Stream::of).all(|answer| answer.head.status == 503));
    drop(others);
    publisher.queue(&queue, &bodies(0..10));
    assert_eq!(data(&take(&mut held, 10)), bodies(0..10));
    eventually("the count", || (counted(&server, "Consumer", "Open") == 0).then_some(()));
    assert_eq!(counted(&server, "Broker", "Connected"), 1);
    assert!(!server.log().contains("the broker is lost"), "{}", server.log());
}

#[test]
fn streams_come_back_after_a_pause_of_the_broker_alone() {
    let broker = Broker::start();
    let (server, queue) = (start_at(&[&broker.url], &SHORT), unique("pause"));
    let mut stream = opened(&server, &queue, None);
    Publisher::at(&broker.url).queue(&queue, &bodies(0..10));
    let seen = take(&mut stream, 6);
    broker.ctl(&["stop_app"]);
    told_to_come_back(&mut stream);
    broker.ctl(&["start_app"]);
    let mut stream = opened_when_there(&server, &queue, Some(&seen[5].id));
    assert_eq!(data(&take(&mut stream, 4)), bodies(6..10));
    assert_eq!(counted(&server, "Consumer", "Open"), 1);
}

#[test]
fn amqps_takes_the_certificates_that_the_system_trusts() {
    let broker = Broker::start();
    let (url, certificate) = broker.tls();
    let start = |certificate: &str| {
        Server::start_with(&[], &[("ESPER_BROKER_NODE", &url), ("SSL_CERT_FILE", certificate)])
    };
    let server = start(certificate.to_str().unwrap());
    wait_connected(&server, 1);
    let queue = unique("tls");
    let mut stream = opened(&server, &queue, None);
    Publisher::at(&broker.url).queue(&queue, &["hidden"]);
    assert_eq!(stream.event().data, "hidden");

    let server = start("/etc/ssl/certs/ca-certificates.crt");
    let log = not_reachable(&server);
    assert!(log.contains("invalid peer certificate") && !log.contains("guest"), "{log}");
}

#[test]
fn a_login_and_a_virtual_host_that_are_not_there_are_told_of_without_credentials() {
    let wrong = url().replace("guest:guest@", "rabbit:hunter2@");
    let log = not_reachable(&start_alone(&[&wrong], &[]));
    assert!(log.contains("ACCESS_REFUSED") && !log.contains("hunter2") && !log.contains("rabbit:"), "{log}");
    let log = not_reachable(&start_alone(&[&format!("{}nowhere", url())], &[]));
    let (_, reason) = log.split_once("the broker is not reachable: ").unwrap();
    let (reason, _) = reason.split_once("broker=").unwrap();
    assert!(reason.contains("nowhere") && !log.contains("guest"), "{log}");
}

/// The log as soon as it says that the broker is not reachable.
fn not_reachable(server: &Server) -> String {
    eventually("it is told of", || {
        Some(server.log()).filter(|log| log.contains("the broker is not reachable: "))
    })
}
