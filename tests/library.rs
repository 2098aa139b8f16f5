//! The library, used as a program that embeds it uses it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test says what it expects by unwrapping it"
)]

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::thread;
use std::time::{Duration, Instant};

use esper::config::{Config, Cpus};
use esper::{Event, PublishError, Publisher, Receipt, Server, ServerBuilder, StartError};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// How long anything is waited for before a test fails: far longer than it takes.
const PATIENCE: Duration = Duration::from_secs(20);

#[test]
fn servers_in_one_process_have_settings_and_topics_of_their_own() {
    let _process = shared_process();
    let plain = builder().namespaces(false).start().unwrap();
    let paths = builder().shards(2).history_events(0).start().unwrap();
    let guarded = builder().namespaces(false).subscriber_secret("x".repeat(32)).start().unwrap();
    assert_ne!(plain.address(), paths.address());

    let mut of_plain = Subscriber::open(plain.address(), "/subscribe/abcdef123");
    let mut of_paths = Subscriber::open(paths.address(), "/subscribe/abcdef123");
    let id = plain.publisher().publish("abcdef123", Event::data("plain")).unwrap().wait().unwrap().id;
    paths.publisher().publish("abcdef123", Event::data("paths")).unwrap().wait().unwrap();

    assert_eq!(of_plain.next(), format!("data:plain\nid:{id}\n"));
    assert_eq!(of_paths.next(), "data:paths\n");
    assert!(matches!(plain.publisher().publish("pets", Event::data("-")), Err(PublishError::Topic(_))));
    assert!(paths.publisher().publish("pets", Event::data("-")).is_ok());
    assert!(get(guarded.address(), "/subscribe/abcdef123").starts_with("HTTP/1.1 401"));
    let clients = |server: &Server| server.stats()["clients"].clone();
    assert_eq!((clients(&plain), clients(&paths), clients(&guarded)), (1.into(), 1.into(), 0.into()));

    // One that ends takes no other with it.
    plain.stop();
    paths.publisher().publish("abcdef123", Event::data("still here")).unwrap();
    assert_eq!(of_paths.next(), "data:still here\n");
}

/// It may hold secrets of which a server within knows nothing.
#[test]
fn the_programs_command_line_is_not_shown() {
    let _process = shared_process();
    let server = builder().start().unwrap();
    let answer = get(server.address(), "/debug/vars");
    assert!(answer.contains("\"cmdline\":[]"), "{answer}");
    server.stop();
}

#[test]
fn events_from_eight_threads_arrive_once_and_in_the_order_of_each_thread() {
    const EVENTS: usize = 2000;
    let _process = shared_process();
    let server = builder().shards(2).history_events(0).start().unwrap();
    let mut subscriber = Subscriber::open(server.address(), "/subscribe/pets");
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
            let event = subscriber.next();
            let (thread, n) = event.trim().strip_prefix("data:").unwrap().split_once(' ').unwrap();
            let expected = next.entry(thread.parse().unwrap()).or_default();
            assert_eq!(n.parse(), Ok(*expected), "thread {thread}");
            *expected += 1;
        }
    });
    server.stop();
    assert_eq!(subscriber.rest_of_events(), Vec::<String>::new());
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
    eventually("all of it is counted", || server.stats()["published"] == published);
}

#[test]
fn a_subscriber_that_reads_nothing_holds_up_no_publish_and_no_other_subscriber() {
    const EVENTS: usize = 400;
    let _process = shared_process();
    let server = builder().start().unwrap();
    let _stuck = Subscriber::open(server.address(), "/subscribe/pets");
    let mut reading = Subscriber::open(server.address(), "/subscribe/pets");
    let publisher = server.publisher();
    // 25 MiB: more than the kernel's buffers and what a subscriber may be behind hold together.
    let much = "x".repeat(64 << 10);
    for n in 0..EVENTS {
        let event = Event::data(much.as_str()).id(n.to_string());
        let published = wait(publish_when_there_is_room(&publisher, "pets", &event)).unwrap();
        assert_eq!(published.id, n.to_string());
        assert!(reading.next().starts_with(&format!("id:{n}\n")));
    }
    eventually("the one that reads nothing is cut", || server.stats()["evicted"] == 1);
}

#[test]
fn what_was_published_before_the_stop_reaches_its_subscribers() {
    const EVENTS: usize = 300;
    let _process = shared_process();
    let server = builder().shards(2).history_events(0).start().unwrap();
    // Enough of both that some topics' homes are not where their subscribers are.
    let topics: Vec<String> = (0..8).map(|n| format!("topic{n}/sub")).collect();
    let mut subscribers: Vec<Subscriber> = topics
        .iter()
        .map(|topic| Subscriber::open(server.address(), &format!("/subscribe/{topic}")))
        .collect();
    let publisher = server.publisher();
    for n in 0..EVENTS {
        for topic in &topics {
            publish_when_there_is_room(&publisher, topic, &Event::data(n.to_string()));
        }
    }
    server.stop();
    let expected: Vec<String> = (0..EVENTS).map(|n| format!("data:{n}\n")).collect();
    for subscriber in &mut subscribers {
        assert_eq!(subscriber.rest_of_events(), expected);
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
    let mut subscriber = Subscriber::open(server.address(), "/subscribe/pets");
    for (event, lines) in [
        (Event::data("Corgi").name("new-dog"), "event:new-dog\ndata:Corgi\n"),
        (Event::data(" led").name(" x").id("7"), "event:  x\nid:7\ndata:  led\n"),
        (Event::data("one\r\ntwo\rthree\n").name("").id(""), "data:one\ndata:two\ndata:three\ndata:\n"),
    ] {
        server.publisher().publish("pets", event).unwrap();
        assert_eq!(subscriber.next(), lines);
    }
    server.publisher().publish_text("/pets", ": why\nevent: a\ndata: 1\n\ndata: 2").unwrap();
    assert_eq!(subscriber.next(), ": why\nevent: a\ndata: 1\n");
    assert_eq!(subscriber.next(), "data: 2\n");
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
    let mut subscriber = Subscriber::open(here.address(), &path);
    let mut data =
        || subscriber.next().lines().find_map(|line| Some(line.strip_prefix("data:")?.trim().to_owned()));
    let seen: Vec<_> = (0..7).map(|_| data().unwrap()).collect();
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
        (Event::data(""), "empty"),
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

#[test]
fn a_configuration_that_cannot_hold_and_a_port_that_is_taken_are_refused() {
    let _process = alone();
    let mut config = Config { port: 0, ..Config::default() };
    config.stream.retry_max = Duration::ZERO;
    let refused = Server::start(config).unwrap_err();
    assert!(
        matches!(&refused, StartError::Config(line) if line.starts_with("stream.retry_max")),
        "{refused}"
    );
    assert!(matches!(builder().shards(0).start(), Err(StartError::Config(_))));
    assert!(matches!(builder().shards(usize::MAX).start(), Err(StartError::Config(_))));

    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let refused = builder().port(taken.local_addr().unwrap().port()).start().unwrap_err();
    assert!(matches!(refused, StartError::Listen { .. }), "{refused}");
    no_thread_is_left();
}

#[test]
fn nothing_of_the_process_is_changed_unless_it_is_asked_for() {
    let _process = alone();
    // Lower than it may be, or raising it would not be seen.
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let lowered = Rlimit { current: maximum.map(|files| files - 1), maximum };
    setrlimit(Resource::Nofile, lowered).unwrap();
    let before = Process::now();

    let quiet = || builder().admin(false);
    let servers = [quiet().shards(2).start().unwrap(), quiet().start().unwrap()];
    let during = Process::now();
    assert_eq!(during.threads.len(), 3, "{during:?}");
    assert!(during.threads.iter().all(|(_, cpus)| *cpus == before.cpus), "{during:?}");
    assert_eq!(during.cpus, before.cpus);
    assert_eq!(during.signals_caught, before.signals_caught);
    assert_eq!(getrlimit(Resource::Nofile), lowered);
    drop(servers);
    no_thread_is_left();

    // And now it is asked for.
    let last_cpu: usize = before.cpus.rsplit([',', '-']).next().unwrap().parse().unwrap();
    let asked = quiet().configure(|config| {
        config.cpus = Cpus { ids: vec![last_cpu], pin: true };
        config.raise_file_limit = true;
    });
    let _server = asked.start().unwrap();
    let [(_, cpus)] = &Process::now().threads[..] else { panic!("one shard") };
    assert_eq!(*cpus, last_cpu.to_string());
    assert_eq!(getrlimit(Resource::Nofile), Rlimit { current: maximum, maximum });
}

#[test]
fn a_server_that_is_dropped_while_clients_come_and_go_closes_every_connection() {
    let _process = alone();
    builder().start().unwrap().stop();
    let descriptors = open_descriptors();
    for _ in 0..30 {
        let server = builder().shards(2).start().unwrap();
        let address = server.address();
        let clients: Vec<_> = (0..4)
            .map(|_| {
                thread::spawn(move || {
                    while let Ok(mut connection) = TcpStream::connect(address) {
                        let _ = connection.write_all(b"GET /subscribe/pets HTTP/1.1\r\n\r\n");
                    }
                })
            })
            .collect();
        thread::sleep(Duration::from_millis(5));
        drop(server);
        for client in clients {
            client.join().unwrap();
        }
    }
    eventually("every descriptor is closed", || open_descriptors() == descriptors);
}

#[test]
fn a_server_that_ends_leaves_no_thread_no_descriptor_and_no_listener() {
    let _process = alone();
    // The first one makes what a process makes once.
    builder().start().unwrap().stop();
    let descriptors = open_descriptors();
    for round in 0..6 {
        let server = builder().shards(2).start().unwrap();
        let address = server.address();
        assert!(!Process::now().threads.is_empty());
        let subscribers: Vec<_> =
            (0..5).map(|n| Subscriber::open(address, &format!("/subscribe/topic{n}"))).collect();
        let idle: Vec<_> = (0..5).map(|_| TcpStream::connect(address).unwrap()).collect();
        let mut half_sent = TcpStream::connect(address).unwrap();
        half_sent.write_all(b"POST /publish/pets HTTP/1.1\r\nContent-Length: 100\r\n\r\ndata:").unwrap();
        if round % 2 == 0 {
            drop(server)
        } else {
            server.stop()
        }

        no_thread_is_left();
        for mut subscriber in subscribers {
            assert_eq!(subscriber.rest_of_events(), Vec::<String>::new());
        }
        drop((idle, half_sent));
        TcpListener::bind(address).expect("nobody listens there any more");
        eventually("every descriptor is closed", || open_descriptors() == descriptors);
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
    let mut receipt = None;
    eventually("there is room", || match publisher.publish(topic, event.clone()) {
        Ok(posted) => {
            receipt = Some(posted);
            true
        }
        Err(error) => {
            assert_eq!(error, PublishError::Full);
            false
        }
    });
    receipt.unwrap()
}

/// Waits for a receipt, but not for ever.
fn wait(receipt: Receipt) -> Result<esper::Published, PublishError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(PATIENCE, receipt).await }).expect("every receipt ends")
}

fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < PATIENCE, "it never came about: {what}");
        thread::sleep(Duration::from_micros(200));
    }
}

/// Everything that comes back for a GET.
fn get(address: SocketAddr, path: &str) -> String {
    let mut connection = TcpStream::connect(address).unwrap();
    connection.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(connection, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).unwrap();
    answer
}

/// A raw socket that subscribes by HTTP/1.0, whose body has no frames.
struct Subscriber(BufReader<TcpStream>);

impl Subscriber {
    /// Returns when the 200 has come: whatever is published from now on reaches it.
    fn open(address: SocketAddr, path: &str) -> Subscriber {
        let mut connection = TcpStream::connect(address).unwrap();
        connection.set_read_timeout(Some(PATIENCE)).unwrap();
        write!(connection, "GET {path} HTTP/1.0\r\n\r\n").unwrap();
        let mut subscriber = Subscriber(BufReader::new(connection));
        let mut line = String::new();
        subscriber.0.read_line(&mut line).unwrap();
        assert!(line.starts_with("HTTP/1.1 200"), "{line}");
        while line != "\r\n" {
            line.clear();
            assert!(subscriber.0.read_line(&mut line).unwrap() > 0, "the head ends");
        }
        subscriber
    }

    /// The lines of the next event, heartbeats left out.
    fn next(&mut self) -> String {
        self.read_event().expect("the stream goes on")
    }

    /// All events until the server closes, but for the farewell, which is a `retry` alone.
    fn rest_of_events(&mut self) -> Vec<String> {
        let events = std::iter::from_fn(|| self.read_event());
        events.filter(|event| !event.starts_with("retry:")).collect()
    }

    fn read_event(&mut self) -> Option<String> {
        let mut event = String::new();
        loop {
            let mut line = String::new();
            let is_over = self.0.read_line(&mut line).unwrap() == 0 || line == "\n";
            let is_heartbeat = event.lines().all(|line| line.starts_with(':'));
            if line.is_empty() && event.is_empty() {
                return None;
            }
            if !is_over {
                event.push_str(&line);
            } else if !is_heartbeat || line.is_empty() {
                return Some(event);
            } else {
                event.clear();
            }
        }
    }
}

/// What a server could change about its process.
#[derive(Debug)]
struct Process {
    /// The CPUs the main thread may use, as the kernel lists them: `0-3,6`.
    cpus: String,
    signals_caught: String,
    /// Threads of servers, and the CPUs each may use.
    threads: Vec<(String, String)>,
}

impl Process {
    fn now() -> Process {
        let status = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let field = |status: &str, name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.unwrap_or_default().trim_start_matches(':').trim().to_owned()
        };
        let main = status("/proc/self/status");
        let threads = fs::read_dir("/proc/self/task").unwrap().flatten().map(|task| {
            let status = status(&task.path().join("status").display().to_string());
            (field(&status, "Name"), field(&status, "Cpus_allowed_list"))
        });
        Process {
            cpus: field(&main, "Cpus_allowed_list"),
            signals_caught: field(&main, "SigCgt"),
            threads: threads.filter(|(name, _)| name.starts_with("esper-")).collect(),
        }
    }
}

/// The kernel may list a thread for a moment after it was joined.
fn no_thread_is_left() {
    eventually("every thread is gone", || Process::now().threads.is_empty());
}

fn open_descriptors() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Tests that look at the process run alone, the others side by side.
static PROCESS: RwLock<()> = RwLock::new(());

fn shared_process() -> RwLockReadGuard<'static, ()> {
    PROCESS.read().unwrap_or_else(PoisonError::into_inner)
}

fn alone() -> RwLockWriteGuard<'static, ()> {
    PROCESS.write().unwrap_or_else(PoisonError::into_inner)
}
