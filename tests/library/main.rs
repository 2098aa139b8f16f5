//! The library, used as a program that embeds it uses it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test says what it expects by unwrapping it"
)]

mod process;
#[path = "../support/mod.rs"]
mod support;

use std::collections::HashMap;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::thread;
use std::time::Duration;

use esper::config::{BindAddress, Config};
use esper::{Event, Inherited, PublishError, Publisher, Receipt, Server, ServerBuilder, StartError};
use support::{Answer, PATIENCE, Stream, TempDir, ask, eventually, exchange, try_connect_unix, wait_until};

#[test]
fn servers_in_one_process_have_settings_and_topics_of_their_own() {
    let _process = shared_process();
    let plain = builder().namespaces(false).start().unwrap();
    let paths = builder().shards(2).history_events(0).start().unwrap();
    let guarded = builder().namespaces(false).subscriber_secret("x".repeat(32)).start().unwrap();
    assert_ne!(plain.address(), paths.address());

    let mut of_plain = subscribe(plain.address(), "/subscribe/abcdef123");
    let mut of_paths = subscribe(paths.address(), "/subscribe/abcdef123");
    let id = plain.publisher().publish("abcdef123", Event::data("plain")).unwrap().wait().unwrap().id;
    paths.publisher().publish("abcdef123", Event::data("paths")).unwrap().wait().unwrap();

    assert_eq!(of_plain.event().lines, format!("data:plain\nid:{id}"));
    assert_eq!(of_paths.event().lines, "data:paths");
    assert!(matches!(plain.publisher().publish("pets", Event::data("-")), Err(PublishError::Topic(_))));
    assert!(paths.publisher().publish("pets", Event::data("-")).is_ok());
    assert_eq!(get(guarded.address(), "/subscribe/abcdef123").status, 401);
    let clients = |server: &Server| server.stats()["clients"].clone();
    assert_eq!((clients(&plain), clients(&paths), clients(&guarded)), (1.into(), 1.into(), 0.into()));

    // One that ends takes no other with it.
    plain.stop();
    paths.publisher().publish("abcdef123", Event::data("still here")).unwrap();
    assert_eq!(of_paths.event().lines, "data:still here");
}

#[test]
fn a_server_listens_on_a_socket_of_the_file_system() {
    let _process = shared_process();
    let dir = TempDir::new();
    let path = dir.path("s");
    let server = builder().bind_unix(&path).configure(|config| config.bind_mode = 0o600).start().unwrap();
    assert_eq!(server.addresses(), [BindAddress::Unix(path.clone().into())]);
    assert_eq!(server.address(), SocketAddr::from(([0, 0, 0, 0], 0)), "there is none");
    let answer = ask(try_connect_unix(&path).unwrap(), "GET", "/healthz", &[], "");
    assert_eq!(answer.status, 200);
    let again = builder().bind_unix(&path).start().unwrap_err();
    assert!(matches!(again, StartError::ListenUnix { .. }), "{again}");
    drop(server);
    assert!(!std::fs::exists(&path).unwrap());
}

#[test]
fn a_server_takes_a_socket_that_listens_and_leaves_it_to_the_next_one() {
    let _process = shared_process();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let start = || {
        let listeners = Inherited { public: vec![listener.try_clone().unwrap().into()], control: Vec::new() };
        // No other address is used.
        Server::start_on(Config { port: 1, ..Config::default() }, listeners, || ()).unwrap()
    };
    for _ in 0..3 {
        // It waits for the server.
        let early = TcpStream::connect(address).unwrap();
        let server = start();
        assert_eq!(server.address(), address);
        assert_eq!(ask(early, "GET", "/healthz", &[], "").status, 200);
        let mut probe = server.probe();
        wait_until("every shard lives", || probe.is_answered());
        assert!(server.is_ready());
        server.stop();
    }
    let connected = TcpStream::connect(address).unwrap();
    let listeners = Inherited { public: vec![connected.into()], control: Vec::new() };
    let refused = Server::start_on(Config::default(), listeners, || ()).unwrap_err();
    assert!(matches!(refused, StartError::Inherited(_)), "{refused}");
}

/// It may hold secrets of which a server within knows nothing.
#[test]
fn the_programs_command_line_is_not_shown() {
    let _process = shared_process();
    let server = builder().start().unwrap();
    let answer = get(server.address(), "/debug/vars");
    assert!(answer.body.contains("\"cmdline\":[]"), "{answer:?}");
    server.stop();
}

#[test]
fn events_from_eight_threads_arrive_once_and_in_the_order_of_each_thread() {
    const EVENTS: usize = 2000;
    let _process = shared_process();
    let server = builder().shards(2).history_events(0).start().unwrap();
    let mut subscriber = subscribe(server.address(), "/subscribe/pets");
    thread::scope(|scope| {
        for thread in 0..8 {
            let publisher = server.publisher();
            // Of one tree, which has one order.
            let topic = ["pets", "/pets", "pets/dogs", "pets/cats/persian"][thread % 4];
            scope.spawn(move || {
                for n in 0..EVENTS {
                    publish_when_there_is_room(&publisher, topic, &Event::data(format!("{thread} {n}")));
                }
            });
        }
        let mut next: HashMap<usize, usize> = HashMap::new();
        for _ in 0..8 * EVENTS {
            let event = subscriber.event().lines;
            let (thread, n) = event.strip_prefix("data:").unwrap().split_once(' ').unwrap();
            let expected = next.entry(thread.parse().unwrap()).or_default();
            assert_eq!(n.parse(), Ok(*expected), "thread {thread}");
            *expected += 1;
        }
    });
    server.stop();
    assert_eq!(rest_of_events(&mut subscriber), Vec::<String>::new());
}

#[test]
fn full_is_said_while_there_is_no_room_and_passes() {
    let _process = shared_process();
    let server = builder().configure(|config| config.mailbox.messages_max = 1).start().unwrap();
    let publisher = server.publisher();
    // About a millisecond of work for the shard, in which there is room for nothing else.
    let text = "data:x\n\n".repeat(4096);
    let mut receipts = Vec::new();
    let full = (0..10_000).find_map(|_| match publisher.publish_text("pets", text.as_str()) {
        Ok(receipt) => {
            receipts.push(receipt);
            None
        }
        Err(error) => Some(error),
    });
    assert_eq!(full, Some(PublishError::Full));
    receipts.push(publish_when_there_is_room(&publisher, "pets", &Event::data("x")));
    // What was taken is published, and nothing else.
    let mut published = 0;
    for receipt in receipts {
        published += wait(receipt).unwrap().events;
    }
    wait_until("all of it is counted", || server.stats()["published"] == published);
}

#[test]
fn a_subscriber_that_reads_nothing_holds_up_no_publish_and_no_other_subscriber() {
    const EVENTS: usize = 400;
    let _process = shared_process();
    let server = builder().start().unwrap();
    let _stuck = subscribe(server.address(), "/subscribe/pets");
    let mut reading = subscribe(server.address(), "/subscribe/pets");
    let publisher = server.publisher();
    // 25 MiB: more than the kernel's buffers and what a subscriber may be behind hold together.
    let much = "x".repeat(64 << 10);
    for n in 0..EVENTS {
        let event = Event::data(much.as_str()).id(n.to_string());
        let published = wait(publish_when_there_is_room(&publisher, "pets", &event)).unwrap();
        assert_eq!(published.id, n.to_string());
        assert!(reading.event().lines.starts_with(&format!("id:{n}\n")));
    }
    wait_until("the one that reads nothing is cut", || server.stats()["evicted"] == 1);
}

#[test]
fn what_was_published_before_the_stop_reaches_its_subscribers() {
    const EVENTS: usize = 300;
    let _process = shared_process();
    let server = builder().shards(2).history_events(0).start().unwrap();
    // Enough of both that some topics' homes are not where their subscribers are.
    let topics: Vec<String> = (0..8).map(|n| format!("topic{n}/sub")).collect();
    let mut subscribers: Vec<Stream> =
        topics.iter().map(|topic| subscribe(server.address(), &format!("/subscribe/{topic}"))).collect();
    let publisher = server.publisher();
    for n in 0..EVENTS {
        for topic in &topics {
            publish_when_there_is_room(&publisher, topic, &Event::data(n.to_string()));
        }
    }
    server.stop();
    let expected: Vec<String> = (0..EVENTS).map(|n| format!("data:{n}")).collect();
    for subscriber in &mut subscribers {
        assert_eq!(rest_of_events(subscriber), expected);
    }
}

#[test]
fn after_the_server_has_ended_a_publish_says_so() {
    let _process = shared_process();
    let (stopped, dropped) = (builder().start().unwrap(), builder().start().unwrap());
    let publishers = [stopped.publisher(), dropped.publisher()];
    stopped.stop();
    drop(dropped);
    for publisher in publishers {
        let publish = publisher.clone().publish("pets", Event::data("-"));
        assert_eq!(publish.unwrap_err(), PublishError::Stopped);
        assert_eq!(publisher.publish_text("pets", "data:-").unwrap_err(), PublishError::Stopped);
    }
}

#[test]
fn every_receipt_ends_though_the_server_ends_first() {
    let _process = shared_process();
    for _ in 0..10 {
        let server = builder().shards(2).start().unwrap();
        let publisher = server.publisher();
        let publishing = thread::spawn(move || {
            let mut receipts = Vec::new();
            loop {
                match publisher.publish(&format!("topic{}", receipts.len() % 7), Event::data("x")) {
                    Ok(receipt) => receipts.push(receipt),
                    Err(PublishError::Full) => thread::yield_now(),
                    Err(error) => return (receipts, error),
                }
            }
        });
        drop(server);
        let (receipts, error) = publishing.join().unwrap();
        assert_eq!(error, PublishError::Stopped);
        for receipt in receipts {
            assert!(matches!(wait(receipt), Ok(_) | Err(PublishError::Stopped)));
        }
    }
}

#[test]
fn a_receipt_is_a_future_on_any_runtime() {
    let _process = shared_process();
    let server = builder().start().unwrap();
    let receipt = server.publisher().publish("pets", Event::data("Corgi").id("dog-7")).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let published = runtime.block_on(receipt).unwrap();
    assert_eq!((published.id.as_str(), published.events), ("dog-7", 1));
}

#[test]
fn an_event_is_written_as_the_wire_has_it() {
    let _process = shared_process();
    let server = builder().history_events(0).start().unwrap();
    let mut subscriber = subscribe(server.address(), "/subscribe/pets");
    for (event, lines) in [
        (Event::data("Corgi").name("new-dog"), "event:new-dog\ndata:Corgi"),
        (Event::data(" led").name(" x").id("7"), "event:  x\nid:7\ndata:  led"),
        (Event::data("one\r\ntwo\rthree\n").name("").id(""), "data:one\ndata:two\ndata:three\ndata:"),
    ] {
        server.publisher().publish("pets", event).unwrap();
        assert_eq!(subscriber.event().lines, lines);
    }
    server.publisher().publish_text("/pets", ": why\nevent: a\ndata: 1\n\ndata: 2").unwrap();
    assert_eq!(subscriber.event().lines, ": why\nevent: a\ndata: 1");
    assert_eq!(subscriber.event().lines, "data: 2");
}

/// As a relay between two servers does it.
#[test]
fn an_id_that_another_server_gave_is_replaced_and_the_receipt_says_so() {
    let _process = shared_process();
    let [here, there] = [0, 1].map(|_| builder().start().unwrap());
    let publish = |server: &Server, event| server.publisher().publish("pets", event).unwrap().wait().unwrap();
    let [first, second] = ["1", "2"].map(|data| publish(&here, Event::data(data)));
    assert_eq!((first.ids_replaced, second.ids_replaced), (0, 0));
    let foreign = publish(&there, Event::data("-"));
    assert_ne!(foreign.id.split_once('-').unwrap().0, first.id.split_once('-').unwrap().0);
    let own = publish(&here, Event::data("own").id("1700000000000-1"));
    assert_eq!((own.id.as_str(), own.ids_replaced), ("1700000000000-1", 0), "as those of Redis streams are");

    for id in [&first.id, &foreign.id] {
        let replaced = publish(&here, Event::data("relayed").id(id.as_str()));
        assert_eq!(replaced.ids_replaced, 1);
        assert!(![&first.id, &second.id, &foreign.id].contains(&&replaced.id), "{replaced:?}");
    }
    let text = format!("id: {}\ndata: 1\n\ndata: 2\n\nid:{}\ndata: 3", second.id, foreign.id);
    let published = here.publisher().publish_text("pets", text).unwrap().wait().unwrap();
    assert_eq!((published.events, published.ids_replaced), (3, 2));

    let path = format!("/subscribe/pets?lastEventId={}", first.id);
    let mut subscriber = subscribe(here.address(), &path);
    let seen: Vec<_> = (0..7).map(|_| subscriber.event().data).collect();
    assert_eq!(seen, ["2", "own", "relayed", "relayed", "1", "2", "3"]);
}

#[test]
fn what_cannot_be_published_is_refused_in_one_line() {
    let _process = shared_process();
    let server = builder().start().unwrap();
    let publisher = server.publisher();
    for topic in ["", "/", "//pets", "pets/", "pets//dogs", "pets/..", "a b", "ä", &"x/".repeat(9), "%70ets"]
    {
        let refused = publisher.publish(topic, Event::data("-")).unwrap_err();
        assert!(
            matches!(&refused, PublishError::Topic(line) if !line.contains('\n')),
            "{topic:?}: {refused:?}"
        );
    }
    let long = "x".repeat(129);
    for (event, start) in [
        (Event::data("a\0"), "NUL at byte 1"),
        (Event::data("-").name("a\nb"), "the event name has a line end"),
        (Event::data("-").name(long.as_str()), "the event name is longer than 128 bytes"),
        (Event::data("-").id("a\rb"), "event 1 has an id with U+000D in it"),
        (Event::data("-").id("\u{7f}"), "event 1 has an id with U+007F in it"),
        (Event::data("-").id(long.as_str()), "event 1 has an id longer than 128 bytes"),
        (Event::data("x".repeat(3 << 20)), "the events are longer than 2097152 bytes"),
    ] {
        let refused = publisher.publish("pets", event).unwrap_err();
        assert!(matches!(&refused, PublishError::Event(line) if line.starts_with(start)), "{refused:?}");
        assert!(!refused.to_string().contains("body"), "{refused}: there is none");
    }
    for (text, start) in [
        ("", "empty"),
        (": a comment\n\n", "no event in the text"),
        ("data: 1\n\nevent: 2\n\n", "event 2 has no data: line"),
        ("data: 1\n\nid: \u{1}\ndata: 2", "event 2 has an id with U+0001 in it"),
    ] {
        let refused = publisher.publish_text("pets", text).unwrap_err();
        assert!(matches!(&refused, PublishError::Event(line) if line.starts_with(start)), "{refused:?}");
    }
}

/// A server with paths on a free port, for settings to be added.
fn builder() -> ServerBuilder {
    // Ends soon where a client does not.
    Server::builder()
        .port(0)
        .namespaces(true)
        .configure(|config| config.drain.time_max = Duration::from_secs(1))
}

fn publish_when_there_is_room(publisher: &Publisher, topic: &str, event: &Event) -> Receipt {
    eventually("there is room", || match publisher.publish(topic, event.clone()) {
        Ok(receipt) => Some(receipt),
        Err(error) => {
            assert_eq!(error, PublishError::Full);
            None
        }
    })
}

/// Waits for a receipt, but not for ever.
fn wait(receipt: Receipt) -> Result<esper::Published, PublishError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(PATIENCE, receipt).await }).expect("every receipt ends")
}

fn get(address: SocketAddr, path: &str) -> Answer {
    Answer::parse(&exchange(address, "GET", path, &[], ""))
}

/// Returns when the 200 has come: whatever is published from now on reaches it.
fn subscribe(address: SocketAddr, path: &str) -> Stream {
    let stream = Stream::send(address, &format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n"));
    assert_eq!(stream.head.status, 200, "{:?}", stream.head);
    stream
}

/// The lines of all events until the server closes, but for the farewell, which is a `retry` alone.
fn rest_of_events(stream: &mut Stream) -> Vec<String> {
    let events = std::iter::from_fn(|| stream.next_event()).map(|event| event.lines);
    events.filter(|lines| !lines.starts_with("retry:")).collect()
}

/// Tests that look at the process run alone, the others side by side.
static PROCESS: RwLock<()> = RwLock::new(());

fn shared_process() -> RwLockReadGuard<'static, ()> {
    PROCESS.read().unwrap_or_else(PoisonError::into_inner)
}

fn alone() -> RwLockWriteGuard<'static, ()> {
    PROCESS.write().unwrap_or_else(PoisonError::into_inner)
}
