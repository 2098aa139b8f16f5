//! Brokers that come, go, and refuse.

use std::io::Write as _;

use super::*;
use crate::support::{esper, run};
use rabbitmq::Broker;

/// Opens the queue as soon as a broker is there for it: up to ten seconds after it came, by the backoff.
pub(super) fn opened_when_there(server: &Server, queue: &str, last_event_id: Option<&str>) -> Stream {
    for _ in 0..600 {
        let stream = open(server, queue, last_event_id);
        assert_eq!(stream.head.status, 200);
        if is_there(&stream) {
            return stream;
        }
        pause(Duration::from_millis(100));
    }
    panic!("no broker in a minute: {}", server.log());
}

/// All up to the `retry:` at the end.
pub(super) fn told_to_come_back(stream: &mut Stream) {
    let mut last = None;
    while let Some(event) = stream.next_event() {
        last = Some(event);
    }
    let last = last.expect("a farewell");
    assert!(last.retry.is_some() && stream.is_complete, "{last:?}");
}

#[test]
fn nothing_is_lost_or_doubled_when_the_broker_stops_or_dies_and_comes_back() {
    let broker = Broker::start();
    let server = start_at(&[&broker.url], &SHORT);
    let queue = unique("restart");
    let mut stream = opened(&server, &queue, None);
    let ends: [&dyn Fn(); 2] = [&|| broker.stop(), &|| broker.kill()];
    let mut at = 0;
    for end in ends {
        Publisher::at(&broker.url).queue(&queue, &bodies(at..at + 10));
        let seen = take(&mut stream, 6);
        assert_eq!(data(&seen), bodies(at..at + 6));
        end();
        told_to_come_back(&mut stream);
        let reason = refused_for_now(&server, &format!("/?id={queue}"));
        assert_eq!(reason, "no broker is reachable; try again later");
        assert_eq!(server.get("/healthz").status, 200);
        broker.again();
        stream = opened_when_there(&server, &queue, Some(&seen[5].id));
        assert_eq!(data(&take(&mut stream, 4)), bodies(at + 6..at + 10));
        at += 10;
    }
    assert!(!server.log().contains("guest"), "{}", server.log());
}

/// EventSource, which gives up for ever on a 503, comes back after a second or two: sooner than RabbitMQ.
#[test]
fn a_page_that_comes_back_before_its_broker_waits_for_it() {
    let broker = Broker::start();
    // The server waits as long as it takes to notice a dead client: longer than the slowest start of a RabbitMQ.
    let patient = ["--send-timeout", "2m", "--queue-ack-delay", "3m"];
    let (server, queue) = (start_at(&[&broker.url], &patient), unique("page"));
    let mut stream = opened(&server, &queue, None);
    Publisher::at(&broker.url).queue(&queue, &bodies(0..10));
    let seen = take(&mut stream, 6);
    broker.kill();
    told_to_come_back(&mut stream);
    let connection = server.connect();
    connection.set_read_timeout(Some(3 * PATIENCE)).unwrap();
    let id = &seen[5].id;
    write!(&connection, "GET /?id={queue} HTTP/1.1\r\nHost: h\r\nLast-Event-ID: {id}\r\n\r\n").unwrap();
    broker.again();
    let mut stream = Stream::of(connection);
    assert!(is_there(&stream), "{:?} {}", stream.head, server.log());
    assert_eq!(data(&take(&mut stream, 4)), bodies(6..10));
}

#[test]
fn streams_come_back_when_the_broker_closes_the_connection() {
    let broker = Broker::start();
    let (server, queue) = (start_at(&[&broker.url], &SHORT), unique("closed"));
    let mut stream = opened(&server, &queue, None);
    Publisher::at(&broker.url).queue(&queue, &bodies(0..10));
    let seen = take(&mut stream, 6);
    broker.ctl(&["close_all_connections", "for a test"]);
    told_to_come_back(&mut stream);
    let mut stream = opened_when_there(&server, &queue, Some(&seen[5].id));
    assert_eq!(data(&take(&mut stream, 4)), bodies(6..10));
}

#[test]
fn of_two_connections_the_one_that_is_left_serves_all() {
    let brokers = [Broker::start(), Broker::start()];
    let server = start_at(&[&brokers[0].url, &brokers[1].url], &SHORT);
    let queues: Vec<_> = (0..10).map(|_| unique("spread")).collect();
    let mut streams: Vec<_> = queues.iter().map(|queue| opened(&server, queue, None)).collect();
    let publishers = [0, 1].map(|at: usize| Publisher::at(&brokers[at].url));
    let at_first = |queue: &&String| publishers[0].consumers(queue).is_some();
    assert_eq!(queues.iter().filter(at_first).count(), 5, "they are spread evenly");
    let is_first: Vec<_> = queues.iter().map(|queue| at_first(&queue)).collect();
    brokers[0].kill();
    for ((queue, stream), is_first) in queues.iter().zip(&mut streams).zip(is_first) {
        if is_first {
            told_to_come_back(stream);
            *stream = opened_when_there(&server, queue, None);
        }
        publishers[1].queue(queue, &["from the second"]);
        assert_eq!(stream.event().data, "from the second");
    }
}

#[test]
fn a_server_starts_without_its_broker_says_so_and_heals_by_itself() {
    let broker = Broker::start();
    broker.stop();
    let server = start_alone(&[&broker.url], &SHORT);
    let queue = unique("later");
    let reason = refused_for_now(&server, &format!("/?id={queue}"));
    assert_eq!(reason, "no broker is reachable; try again later");
    wait_until("it tells of it", || server.log().contains("the broker is not reachable"));
    assert!(server.log().contains("amqp://***@127.0.0.1:"), "and which it is: {}", server.log());
    broker.again();
    let mut stream = opened_when_there(&server, &queue, None);
    Publisher::at(&broker.url).queue(&queue, &["at last"]);
    assert_eq!(stream.event().data, "at last");
}

/// For what is no EventSource, and does not come back by itself.
#[test]
fn a_queue_is_refused_with_503_where_that_is_asked_for() {
    let server = start_alone(&["amqp://guest:guest@127.0.0.1:9/"], &["--refuse-streams", "503"]);
    assert_eq!(refused(&server, "/?id=x", &[]), "no broker is reachable; try again later");
}

#[test]
fn a_brokers_credentials_are_shown_nowhere() {
    let address = url().rsplit_once('@').unwrap().1;
    let wrong = format!("amqp://somebody:hunter2hunter2@{address}");
    let server = start_alone(&[&wrong], &["--log-level", "debug"]);
    wait_until("it is refused", || server.log().contains("the broker is not reachable: "));
    let reason = refused_for_now(&server, "/?id=secret1");
    let dumped = run(esper(&["--dump-config"], &[("ESPER_BROKER_NODE", &wrong)]));
    assert_eq!((dumped.code, dumped.stdout.contains("amqp://***@")), (Some(0), true), "{dumped:?}");
    let unread = run(esper(&["--broker-node", &format!("{wrong}#")], &[]));
    assert_eq!(unread.code, Some(2), "{unread:?}");
    let shown = [server.log(), reason, server.get("/stats").body, server.get("/metrics").body]
        .into_iter()
        .chain([&dumped, &unread].map(|ended| format!("{}{}", ended.stdout, ended.stderr)));
    for shown in shown {
        assert!(!shown.contains("hunter2") && !shown.contains("somebody"), "{shown}");
    }
}
