//! Topics that are paths (`--namespaces`): who receives what, and in which order.

mod doors;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use crate::support::slow_clients::numbered;
use crate::support::{CPUS, Event, Publisher, Server, Stream, data, eventually, farewell, wait_until};

fn start(cpus: &[&str], flags: &[&str]) -> Server {
    Server::start(&[&["--namespaces"], cpus, flags].concat())
}

fn subscribe(server: &Server, topic: &str) -> Stream {
    Stream::open(server, &format!("/subscribe/{topic}"))
}

/// What these streams got in all; the server is stopped for it.
fn received(server: Server, streams: Vec<Stream>) -> Vec<Vec<Event>> {
    assert!(server.stop().success());
    let all = streams.into_iter().map(|mut stream| {
        let mut events = stream.rest_of_events();
        farewell(&mut events);
        events
    });
    all.collect()
}

/// Whether a subscriber of `parent` receives what is published to `topic`.
fn covers(parent: &str, topic: &str) -> bool {
    parent.is_empty() || topic == parent || topic.starts_with(&format!("{parent}/"))
}

/// The example of mroth/sseserver: topic, event name, data.
const PETSTORE: [(&str, &str, &str); 13] = [
    ("time", "", "6:07:17 pm (EDT)"),
    ("time", "", "6:07:18 pm (EDT)"),
    ("time", "", "6:07:19 pm (EDT)"),
    ("time", "", "6:07:20 pm (EDT)"),
    ("pets", "new-dog", "Corgi"),
    ("pets", "new-cat", "Persian"),
    ("time", "", "6:07:21 pm (EDT)"),
    ("pets", "new-dog", "Terrier"),
    ("pets", "new-dog", "Dauchsand"),
    ("time", "", "6:07:22 pm (EDT)"),
    ("time", "", "6:07:23 pm (EDT)"),
    ("pets", "new-cat", "LOLcat"),
    ("time", "", "6:07:24 pm (EDT)"),
];

/// What its page prints.
const PRINTED: &str = "\
TICK! The time is currently: 6:07:17 pm (EDT)
TICK! The time is currently: 6:07:18 pm (EDT)
TICK! The time is currently: 6:07:19 pm (EDT)
TICK! The time is currently: 6:07:20 pm (EDT)
WOOF! Hello Corgi
MEOW! Hello Persian
TICK! The time is currently: 6:07:21 pm (EDT)
WOOF! Hello Terrier
WOOF! Hello Dauchsand
TICK! The time is currently: 6:07:22 pm (EDT)
TICK! The time is currently: 6:07:23 pm (EDT)
MEOW! Hello LOLcat
TICK! The time is currently: 6:07:24 pm (EDT)
";

/// What `curl` prints there of `/subscribe/pets`.
const CURLED: &str = "\
event:new-dog
data:Corgi

event:new-cat
data:Persian

event:new-dog
data:Terrier

event:new-dog
data:Dauchsand

event:new-cat
data:LOLcat

";

#[test]
fn the_petstore_puts_out_what_it_does_there_but_for_ids_and_without_history_byte_for_byte() {
    for (history, ids) in [("1000", 5), ("0", 0)] {
        for cpus in CPUS {
            let flags = ["--history-events", history, "--retry-min", "7ms", "--retry-max", "7ms"];
            let server = start(cpus, &flags);
            let (mut time, mut pets) = (subscribe(&server, "time"), subscribe(&server, "pets"));
            let mut curl = subscribe(&server, "pets");
            let mut printed = String::new();
            for (n, (topic, name, text)) in PETSTORE.into_iter().enumerate() {
                // The server wraps what it is given as data, and takes an event as it was written.
                let (target, body) = if n % 2 == 0 {
                    (format!("/publish/{topic}?wrap&event={name}"), text.to_owned())
                } else {
                    let event = if name.is_empty() { String::new() } else { format!("event:{name}\n") };
                    (format!("/publish/{topic}"), format!("{event}data:{text}"))
                };
                assert_eq!(server.post(&target, &body).status, 200);
                let event = if topic == "time" { time.event() } else { pets.event() };
                printed += &match &*event.name {
                    "new-dog" => format!("WOOF! Hello {}\n", event.data),
                    "new-cat" => format!("MEOW! Hello {}\n", event.data),
                    _ => format!("TICK! The time is currently: {}\n", event.data),
                };
            }
            assert_eq!(printed, PRINTED);
            assert!(server.stop().success());
            let text: String = std::iter::from_fn(|| curl.read_some()).collect();
            let text = text.strip_suffix("retry:7\n").expect("a farewell");
            let (id_lines, others): (Vec<&str>, Vec<&str>) =
                text.split_inclusive('\n').partition(|line| line.starts_with("id:"));
            assert_eq!((id_lines.len(), &*others.concat()), (ids, CURLED));
        }
    }
}

#[test]
fn a_topic_receives_what_is_below_it_by_segments_and_nothing_above_or_beside_it() {
    let published =
        ["pets", "pets/dogs", "pets/dogs/corgi", "petshop", "pets/cats", "pets/dogs-2", "pet", "Pets/dogs"];
    for (cpus, history) in [(CPUS[0], "0"), (CPUS[0], "9"), (CPUS[1], "0"), (CPUS[1], "9")] {
        let server = start(cpus, &["--history-events", history]);
        let expected = [
            ("pets", &["pets", "pets/dogs", "pets/dogs/corgi", "pets/cats", "pets/dogs-2"][..]),
            ("pets/dogs", &["pets/dogs", "pets/dogs/corgi"]),
            ("pets/dogs/corgi", &["pets/dogs/corgi"]),
            ("pets/cats", &["pets/cats"]),
            ("pets/fish", &[]),
            ("petshop", &["petshop"]),
            ("pet", &["pet"]),
            ("Pets", &["Pets/dogs"]),
            ("dogs", &[]),
            ("p%65ts/%64ogs%2D2", &["pets/dogs-2"]),
        ];
        let mut streams: Vec<Stream> = expected.iter().map(|(topic, _)| subscribe(&server, topic)).collect();
        streams.extend([Stream::open(&server, "/subscribe/"), Stream::open(&server, "/subscribe")]);
        for topic in published {
            server.publish(topic, &format!("data: {topic}"));
        }
        let mut received = received(server, streams);
        for all in received.drain(expected.len()..) {
            // Trees of several homes have no order among them.
            let mut all = data(&all);
            all.sort_by_key(|topic| published.iter().position(|published| published == topic));
            assert_eq!(all, published, "everything");
        }
        for ((topic, expected), events) in expected.iter().zip(received) {
            assert_eq!(data(&events), *expected, "{topic}");
        }
    }
}

#[test]
fn a_path_may_have_eight_segments_of_64_characters() {
    let server = start(&[], &[]);
    let long = format!("{}.~_-{}", "x".repeat(30), "9".repeat(30));
    for topic in ["a", "...", "-", "~", "a.b", "0", &*[&*long; 8].join("/")] {
        let mut stream = subscribe(&server, topic);
        assert_eq!(stream.head.status, 200, "{topic}");
        let id = server.publish(topic, "data: taken");
        assert_eq!((&*stream.event().data, id.is_empty()), ("taken", false), "{topic}");
    }
    let mut everything = Stream::open(&server, "/subscribe/");
    let mut parent = subscribe(&server, &[&*long; 7].join("/"));
    server.publish(&[&*long; 8].join("/"), "data: below");
    assert_eq!((&*parent.event().data, &*everything.event().data), ("below", "below"));
}

#[test]
fn whoever_leaves_takes_nothing_from_those_that_stay() {
    let targets = [
        "/subscribe/pets",
        "/subscribe/pets/dogs",
        "/subscribe/pets/dogs/corgi",
        "/subscribe/",
        "/subscribe?topic=pets/dogs&topic=pets/cats",
        "/subscribe?topic=pets/dogs&topic=plants",
    ];
    for (cpus, history) in [(CPUS[0], "0"), (CPUS[0], "9"), (CPUS[1], "0"), (CPUS[1], "9")] {
        let server = start(cpus, &["--history-events", history]);
        // Two of each, so that they are on one shard and on both.
        let mut streams: Vec<(&str, Stream)> =
            targets.iter().chain(&targets).map(|target| (*target, Stream::open(&server, target))).collect();
        let mut random = fastrand::Rng::new();
        for round in 0..streams.len() {
            server.publish("pets/dogs/corgi", &format!("data: {round}"));
            for (target, stream) in &mut streams {
                assert_eq!(stream.event().data, round.to_string(), "{target}");
            }
            let (_, leaves) = streams.swap_remove(random.usize(..streams.len()));
            drop(leaves);
            wait_until("it is gone", || server.stats()["clients"] == streams.len());
        }
    }
}

#[test]
fn one_order_holds_for_a_whole_tree_whoever_looks_at_it() {
    const EVENTS: usize = 200;
    let topics = ["pets", "pets/dogs", "pets/cats/persian", "pets/dogs/corgi"];
    for cpus in CPUS {
        let server = start(cpus, &[]);
        let views = ["pets", "pets", "pets", "pets", "", "", "pets/dogs", "pets/dogs/corgi", "pets/cats"];
        let mut streams: Vec<Stream> = views.iter().map(|topic| subscribe(&server, topic)).collect();
        streams.push(Stream::open(&server, "/subscribe?topic=pets%2Fdogs&topic=pets/cats"));
        thread::scope(|scope| {
            for publisher in 0..4 {
                let mut connection = Publisher::new(&server);
                scope.spawn(move || {
                    for number in 0..EVENTS {
                        // Some of them two at a time.
                        let topic = topics[(publisher + number) % topics.len()];
                        let event = format!("data: {publisher} {number} {topic}\n\n");
                        let body = if number % 5 == 0 { event.repeat(2) } else { event };
                        assert_eq!(connection.publish(topic, &body).unwrap().status, 200);
                    }
                });
            }
        });
        let received = received(server, streams);
        let tree = data(&received[0]);
        assert_eq!(tree.len(), 4 * (EVENTS + EVENTS / 5));
        for publisher in 0..4 {
            let own = tree.iter().filter_map(|data| data.strip_prefix(&format!("{publisher} ")));
            let numbers: Vec<usize> =
                own.map(|data| data.split(' ').next().unwrap().parse().unwrap()).collect();
            let sent: Vec<usize> =
                (0..EVENTS).flat_map(|number| vec![number; if number % 5 == 0 { 2 } else { 1 }]).collect();
            assert_eq!(numbers, sent, "publisher {publisher}");
        }
        let part = |parents: &[&str]| -> Vec<&str> {
            let is_below =
                |data: &&&str| parents.iter().any(|parent| covers(parent, data.rsplit(' ').next().unwrap()));
            tree.iter().filter(is_below).copied().collect()
        };
        for (view, events) in views.iter().zip(&received) {
            assert!(data(events) == part(&[view]), "{view:?} saw another order, or not all");
        }
        let several = received.last().unwrap();
        assert!(data(several) == part(&["pets/dogs", "pets/cats"]), "two topics of one tree");
        // Each event has the same id wherever it is seen.
        let ids = |events: &[Event]| -> Vec<String> { events.iter().map(|event| event.id.clone()).collect() };
        assert_eq!(ids(&received[0]), ids(&received[3]));
        let dogs: Vec<Event> = received[0]
            .iter()
            .filter(|event| covers("pets/dogs", event.data.rsplit(' ').next().unwrap()))
            .cloned()
            .collect();
        assert_eq!(ids(&dogs), ids(&received[6]));
    }
}

/// What a stream that resumes after `id` gets, up to what is published once it is open.
fn resumed(server: &Server, topic: &str, id: &str) -> Vec<Event> {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let mut stream = Stream::resume(server, topic, id);
    // To a topic of its own, so that it takes no other event's place in a history.
    let end = format!("end {}", COUNT.fetch_add(1, Ordering::Relaxed));
    server.publish(&format!("{topic}/{}", end.replace(' ', "")), &format!("data: {end}"));
    std::iter::from_fn(|| Some(stream.event()).filter(|event| event.data != end))
        .filter(|event| !event.data.starts_with("end "))
        .collect()
}

#[test]
fn a_tree_is_replayed_in_the_order_it_was_published_over_many_pages() {
    let topics = ["pets/dogs", "pets/cats", "petshop", "pets", "pets/dogs/corgi", "plants/ferns"];
    for cpus in CPUS {
        let server = start(cpus, &[]);
        let log: Vec<(&str, String, String)> = (0..500)
            .map(|number| {
                let topic = topics[number * 5 % 7 % 6];
                // A page ends after 128 events, or 64 KiB.
                let body = numbered(number, if number % 60 == 0 { 30_000 } else { 10 });
                let id = server.publish(topic, &body);
                (topic, body["data: ".len()..].to_owned(), id)
            })
            .collect();
        let of_tree: Vec<usize> = (0..log.len()).filter(|&n| covers("pets", log[n].0)).collect();
        assert!(of_tree.len() > 300);
        for &after in [0, 1, 126, 127, 128, 129, 255, 256, 257].map(|n| &of_tree[n]).iter().copied() {
            for topic in ["pets", "pets/dogs", "pets/dogs/corgi", "pets/cats", "pets/fish"] {
                let expected: Vec<(&str, &str)> = log[after + 1..]
                    .iter()
                    .filter(|(published, ..)| covers(topic, published))
                    .map(|(_, data, id)| (&**data, &**id))
                    .collect();
                let events = resumed(&server, topic, &log[after].2);
                let got: Vec<(&str, &str)> = events.iter().map(|event| (&*event.data, &*event.id)).collect();
                assert!(got == expected, "{topic} after {after}: {} of {}", got.len(), expected.len());
            }
        }
    }
}

#[test]
fn what_others_published_between_two_events_of_a_tree_does_not_keep_them_from_it() {
    // So many that they are not all looked at for one page.
    const OTHERS: usize = 4000;
    for target in ["/subscribe/pets", "/subscribe?topic=pets/dogs&topic=stones"] {
        let server = start(&["--cores", "1"], &["--history-events", "100000"]);
        let mut publisher = Publisher::new(&server);
        let mut others = || {
            let answer = publisher.publish("plants", &"data: x\n\n".repeat(OTHERS)).unwrap();
            assert_eq!(answer.status, 200);
        };
        let mut stream = Stream::open(&server, target);
        server.publish("pets/dogs", "data: first");
        let first = stream.event();
        for number in 0..3 {
            (0..4).for_each(|_| others());
            server.publish("pets/dogs", &format!("data: {number}"));
        }
        let mut stream = Stream::open_with(&server, target, &[&format!("Last-Event-ID: {}", first.id)]);
        server.publish("pets/dogs", "data: 3");
        for number in 0..4 {
            assert_eq!(stream.event().data, number.to_string(), "{target}");
        }
    }
}

#[test]
fn a_publishers_own_id_is_found_again_by_all_parents_at_its_latest_use_there() {
    for cpus in CPUS {
        let server = start(cpus, &[]);
        for (topic, id, number) in [
            ("pets/dogs", "mine", 1),
            ("pets/cats", "", 2),
            ("pets/dogs", "other", 3),
            ("pets/cats", "mine", 4),
            ("pets", "", 5),
            ("pets/dogs/corgi", "deep", 6),
            ("petshop", "mine", 7),
            ("pets/cats", "", 8),
        ] {
            let id_line = if id.is_empty() { String::new() } else { format!("id: {id}\n") };
            let answered = server.publish(topic, &format!("{id_line}data: {number}"));
            assert!(id.is_empty() || answered == id);
        }
        for (topic, id, expected) in [
            ("pets", "mine", &["5", "6", "8"][..]),
            ("pets", "other", &["4", "5", "6", "8"]),
            ("pets", "deep", &["8"]),
            ("pets/dogs", "mine", &["3", "6"]),
            ("pets/dogs", "deep", &[]),
            ("pets/cats", "mine", &["8"]),
            ("petshop", "mine", &[]),
        ] {
            let events = resumed(&server, topic, id);
            assert_eq!(data(&events), expected, "{topic} after {id}");
        }
        let ids: Vec<String> = resumed(&server, "pets", "other").into_iter().map(|event| event.id).collect();
        assert_eq!((&*ids[0], &*ids[2]), ("mine", "deep"));
    }
}

#[test]
fn what_a_child_no_longer_keeps_is_a_gap_for_its_parents_and_none_for_a_quiet_topic() {
    for cpus in CPUS {
        let server = start(cpus, &["--history-events", "3"]);
        let cats = server.publish("pets/cats", "data: cat");
        let dogs: Vec<String> =
            (0..5).map(|number| server.publish("pets/dogs", &format!("data: {number}"))).collect();
        server.publish("pets/cats", "data: another cat");
        for (topic, id, expected) in [
            ("pets", &cats, &["gap", "2", "3", "4", "another cat"][..]),
            ("pets", &dogs[0], &["gap", "2", "3", "4", "another cat"]),
            // The last that was dropped: nothing after it is missing.
            ("pets", &dogs[1], &["2", "3", "4", "another cat"]),
            ("pets", &dogs[3], &["4", "another cat"]),
            ("pets/dogs", &cats, &["gap", "2", "3", "4"]),
            ("pets/cats", &cats, &["another cat"]),
            ("pets/cats", &dogs[4], &["another cat"]),
            ("pets/dogs/corgi", &cats, &[]),
            ("pets/fish", &cats, &[]),
        ] {
            let events = resumed(&server, topic, id);
            let gap = format!("{{\"from\":\"{id}\",\"reason\":\"trimmed\"}}");
            let shown: Vec<&str> =
                data(&events).into_iter().map(|data| if data == gap { "gap" } else { data }).collect();
            assert_eq!(shown, expected, "{topic} after {id}");
        }
    }
}

#[test]
fn a_gap_is_told_once_however_many_pages_are_replayed() {
    for cpus in CPUS {
        let server = start(cpus, &["--history-events", "400"]);
        let first = server.publish("pets/cats", "data: 0");
        server.publish("pets/dogs", "data: x");
        (1..400).for_each(|number| drop(server.publish("pets/cats", &format!("data: {number}"))));
        // Of these the first are dropped, and all cats came before.
        (0..410).for_each(|_| drop(server.publish("pets/dogs", "data: x")));
        let events = resumed(&server, "pets", &first);
        let cats: Vec<&str> =
            data(&events).into_iter().filter(|data| data.parse::<usize>().is_ok()).collect();
        assert_eq!(cats, (1..400).map(|number| number.to_string()).collect::<Vec<_>>());
        assert_eq!(data(&events).iter().filter(|data| **data == "x").count(), 400);
        let gaps: Vec<&str> = data(&events).into_iter().filter(|data| data.contains("trimmed")).collect();
        assert_eq!(gaps, [format!("{{\"from\":\"{first}\",\"reason\":\"trimmed\"}}")]);
    }
}

#[test]
fn a_tree_that_has_gone_quiet_is_no_gap_after_its_newest_event() {
    for cpus in CPUS {
        for (id_line, topic) in
            [("", "pets/dogs"), ("", "pets"), ("id: mine\n", "pets/dogs"), ("id: mine\n", "pets")]
        {
            let server = start(cpus, &["--history-age", "300ms", "--heartbeat", "200ms"]);
            server.publish("pets/cats", "data: cat");
            let id = server.publish("pets/dogs", &format!("{id_line}data: dog"));
            wait_until("all are dropped", || server.stats()["history_bytes"] == 0);
            let events = resumed(&server, topic, &id);
            assert_eq!(data(&events), [""; 0], "{topic} after {id}");
        }
    }
}

#[test]
fn a_child_that_was_forgotten_is_a_gap_for_its_parents() {
    let server = start(&["--cores", "1"], &["--topics-max", "4"]);
    // It keeps its own place; the child alone is forgotten.
    let _pets = subscribe(&server, "pets");
    let first = server.publish("pets/dogs", "data: first");
    server.publish("pets/dogs", "data: second");
    for number in 0..20 {
        server.publish(&format!("plants/{number}"), "data: x");
    }
    let events = resumed(&server, "pets", &first);
    assert_eq!(data(&events), [format!("{{\"from\":\"{first}\",\"reason\":\"trimmed\"}}")]);
}

#[test]
fn an_event_is_kept_once_however_many_parents_receive_it() {
    let path = "a/b/c/d/e/f/g/h";
    let mut kept = Vec::new();
    for topic in ["a", path] {
        let server = start(&[], &[]);
        let mut streams = vec![Stream::open(&server, "/subscribe/")];
        streams.extend((1..=8).map(|n| subscribe(&server, &path[..2 * n - 1])));
        for _ in 0..10 {
            server.publish(topic, &numbered(0, 10_000));
        }
        let receivers = if topic == path { 9 } else { 2 };
        wait_until("all are sent", || server.stats()["delivered"] == 10 * receivers);
        kept.push(eventually("the history is counted", || {
            server.stats()["history_bytes"].as_u64().filter(|bytes| *bytes >= 100_000)
        }));
        let counts: Vec<usize> = received(server, streams).iter().map(Vec::len).collect();
        assert_eq!(counts.iter().sum::<usize>(), 10 * receivers, "{counts:?}");
    }
    assert!(kept[1] < kept[0] + kept[0] / 10, "{kept:?}");
}
