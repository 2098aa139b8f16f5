//! What such a stream is on the wire, what is refused, and how it ends.

use std::collections::BTreeMap;
use std::io::Read;
use std::time::Duration;

use jsonwebtoken::Algorithm;
use serde_json::json;

use super::page::{Page, Rounds, TREES, position, setups, start, tree};
use crate::support::slow_clients::{STALLING, read_until, stall};
use crate::support::tokens::{BOTH, SUBSCRIBER, bearer, now_s, sign};
use crate::support::{
    CPUS, PATIENCE, Publisher, Server, Stream, behind_first_retry, check_no_heartbeat_while_busy,
    check_refusal, check_unauthorized, dechunk, eventually, farewell, gap_reason, wait_until,
};

#[test]
fn duplicates_and_topics_that_another_covers_count_once() {
    for cpus in CPUS {
        let server = start(cpus, &["--namespaces"]);
        let targets = [
            // What is left is one topic, and its stream as that of one.
            "/subscribe?topic=pets",
            "/subscribe?topic=pets&topic=pets",
            "/subscribe?topic=pets%2Fdogs&topic=pets&topic=pets/dogs/corgi",
            // What is left are two.
            "/subscribe?topic=pets/dogs&topic=plants&topic=pets/dogs/corgi&topic=plants&topic=pets%2fdogs",
        ];
        let mut streams = targets.map(|target| Stream::open(&server, target));
        assert_eq!(server.stats()["clients"], 4);
        let ids: Vec<String> =
            ["data: 1", "data: 2\nid: mine"].map(|body| server.publish("pets/dogs/corgi", body)).into();
        server.publish("pets/dogs-2", "data: 3");
        server.publish("plants", "data: 4");
        assert!(server.stop().success());
        for (stream, target) in streams.iter_mut().zip(targets) {
            let mut events = stream.rest_of_events();
            farewell(&mut events);
            events.sort_by_key(|event| event.data.clone());
            let data: Vec<&str> = events.iter().map(|event| &*event.data).collect();
            if target.contains("plants") {
                assert_eq!(data, ["1", "2", "4"]);
                events.iter().for_each(|event| drop(position(&event.id)));
            } else {
                assert_eq!(data, ["1", "2", "3"]);
                assert_eq!([&*events[0].id, &*events[1].id], [&*ids[0], "mine"]);
            }
        }
    }
    let server = Server::start(&[]);
    let mut stream = Stream::open(&server, "/subscribe?topic=AbcDef123&topic=abcdef123");
    let id = server.publish("abcdef123", "data: one");
    assert_eq!(stream.read_some().unwrap(), format!("data: one\nid:{id}\n\n"));
}

#[test]
fn sixty_four_topics_are_taken_and_a_further_one_is_refused() {
    let query = |count: usize| -> String {
        let topics: Vec<String> = (0..count).map(|n| format!("topic={n:064}")).collect();
        format!("/subscribe?{}", topics.join("&"))
    };
    for flags in [&[][..], &["--namespaces"]] {
        let server = Server::start(flags);
        let mut stream = Stream::open(&server, &query(64));
        for n in 0..64 {
            server.publish(&format!("{n:064}"), &format!("data: {n}"));
            let event = stream.event();
            assert_eq!(event.data, n.to_string());
            position(&event.id);
        }
        check_refusal(&server.get(&query(65)), 400, "64");
    }
}

#[test]
fn one_bad_topic_among_good_ones_is_refused_with_its_rule() {
    let server = Server::start(&["--namespaces"]);
    for (query, about) in [
        ("topic=pets&topic=pets/./dogs", "a segment is '.' or '..'"),
        ("topic=%2e%2e&topic=pets", "a segment is '.' or '..'"),
        ("topic=pets&topic=a/b/c/d/e/f/g/h/i", "9 segments; use 1 to 8"),
        ("topic=pets&topic=pets//dogs", "a segment of 0 characters"),
        ("topic=pets&topic=pets%2F", "a segment of 0 characters"),
        ("topic=pets&topic=a+b", "a character is not allowed"),
        ("topic=pets&topic=pets%252Fdogs", "a character is not allowed"),
        ("topic=pets&topic=*", "a character is not allowed"),
        ("topic=pets&topic=%zz", "bad percent-encoding"),
    ] {
        check_refusal(&server.get(&format!("/subscribe?{query}")), 400, about);
    }
    let server = Server::start(&[]);
    for (query, about) in [
        ("topic=abcdef123&topic=pets", "bad topic id: 4 characters"),
        ("topic=abcdef123&topic=abcdef124/x", "bad topic id: a character"),
        ("topic=abcdef123&topic=", "bad topic id: 0 characters"),
    ] {
        check_refusal(&server.get(&format!("/subscribe?{query}")), 400, about);
    }
    check_refusal(&server.post("/subscribe?topic=abcdef123", "data: x"), 400, "into the body");
    check_refusal(&server.post("/subscribe/abcdef123", "data: x"), 405, "use GET");
}

#[test]
fn without_history_a_page_gets_the_publishers_lines_alone() {
    for cpus in CPUS {
        for setup in setups() {
            let flags = ["--history-events", "0", "--retry-min", "7ms", "--retry-max", "7ms"];
            let server = start(cpus, &[setup.flags, &flags].concat());
            let page = Page { last_id: "1-0.5".to_owned(), ..Page::new(&setup.target) };
            let mut stream = page.connect(&server);
            for n in 0..3 {
                server.publish(&(setup.topic)(0, n), &format!("event: e{n}\ndata:{n}"));
            }
            assert!(server.stop().success());
            let text: String = std::iter::from_fn(|| stream.read_some()).collect();
            let expected = "event: e0\ndata:0\n\nevent: e1\ndata:1\n\nevent: e2\ndata:2\n\nretry:7\n";
            assert_eq!(text, expected);
        }
    }
}

#[test]
fn an_http_1_0_client_gets_the_events_of_several_topics_bare_up_to_the_close() {
    for cpus in CPUS {
        let flags = ["--heartbeat", "1h", "--retry-min", "7ms", "--retry-max", "7ms"];
        let server = start(cpus, &flags);
        let topics: Vec<String> = (0..TREES).map(|n| format!("topic={}", tree(n))).collect();
        let request = format!("GET /subscribe?{} HTTP/1.0\r\n\r\n", topics.join("&"));
        let mut stream = Stream::send(server.address, &request);
        assert_eq!(stream.head.field("Transfer-Encoding"), None);
        assert_eq!(stream.head.field("Connection"), Some("close"));
        for n in 0..TREES {
            server.publish(&tree(n), &format!("event:e{n}\ndata: {n}"));
            let [event, data, id, end] = [(); 4].map(|()| stream.read_some().unwrap());
            assert_eq!(
                [event, data, end],
                [format!("event:e{n}\n"), format!("data: {n}\n"), "\n".to_owned()]
            );
            position(id.strip_prefix("id:").unwrap().trim_end());
        }
        assert!(server.stop().success());
        let rest: String = std::iter::from_fn(|| stream.read_some()).collect();
        assert_eq!(rest, "retry:7\n");
    }
}

#[test]
fn a_quiet_page_gets_a_comment_each_heartbeat_and_nothing_else() {
    for cpus in CPUS {
        for setup in setups() {
            let server = start(cpus, &[setup.flags, &["--heartbeat", "200ms"]].concat());
            let mut stream = Page::new(&setup.target).connect(&server);
            for _ in 0..3 {
                assert_eq!(stream.read_some().unwrap(), ":\n");
            }
        }
    }
}

#[test]
fn a_page_that_is_busy_at_one_home_gets_no_heartbeat_for_the_others() {
    let server = start(&[], &["--heartbeat", "600ms"]);
    let mut stream = Stream::open(&server, &slow_target());
    check_no_heartbeat_while_busy(&server, &mut stream, &tree(0));
}

#[test]
fn browsers_may_ask_beforehand_and_for_the_head_alone() {
    for (flags, targets) in [
        (&[][..], &["/subscribe?topic=abcdef123&topic=abcdef124", "/subscribe/?topic=abcdef123"][..]),
        (
            &["--namespaces"],
            &["/subscribe", "/subscribe/", "/subscribe/a/b/c", "/subscribe?topic=a/b&topic=c"],
        ),
    ] {
        let server = Server::start(flags);
        for target in targets {
            let answer = server.request("OPTIONS", target, &[], "");
            let allowed = match target.strip_prefix("/subscribe/a") {
                Some(_) => "GET, HEAD, OPTIONS",
                None => "GET, HEAD, POST, QUERY, OPTIONS",
            };
            assert_eq!((answer.status, answer.field("Allow")), (204, Some(allowed)), "{target}");
            let answer = server.request("HEAD", target, &[], "");
            assert_eq!((answer.status, &*answer.body), (200, ""), "{target}");
            assert_eq!(answer.field("Content-Type"), Some("text/event-stream; charset=utf-8"));
        }
        assert_eq!(server.stats()["clients"], 0);
    }
}

#[test]
fn a_page_whose_token_expires_is_told_so_once_and_ends() {
    for cpus in CPUS {
        let flags = [cpus, &["--namespaces"]].concat();
        let server = Server::start_with(&flags, &BOTH[..1]);
        let exp = now_s() + 3;
        let token =
            sign(SUBSCRIBER, Algorithm::HS256, &json!({"topics": ["*", "pets", "plants"], "exp": exp}));
        let targets =
            ["/subscribe?topic=pets&topic=plants&topic=stones".to_owned(), "/subscribe/".to_owned()];
        let mut streams: Vec<Stream> = targets
            .iter()
            .flat_map(|target| {
                let old = format!("GET {target} HTTP/1.0\r\n{}\r\n\r\n", bearer(&token));
                [Stream::open_with(&server, target, &[&bearer(&token)]), Stream::send(server.address, &old)]
            })
            .collect();
        server.publish("pets", "data: in time");
        for stream in &mut streams {
            assert_eq!(stream.head.status, 200);
            assert_eq!(stream.event().data, "in time");
            let last = stream.event();
            assert_eq!((&*last.name, &*last.data, &*last.id), ("expired", "token expired", ""));
            assert_eq!(stream.next_event(), None, "the stream ends");
        }
        assert!(now_s() >= exp, "not before its time");
        wait_until("they are gone", || server.stats()["clients"] == 0);
        let answer = server.request("GET", &targets[0], &[&bearer(&token)], "");
        check_unauthorized(&answer, "expired token");
    }
}

#[test]
fn a_drain_gives_a_page_all_its_events_then_one_retry_then_the_orderly_end() {
    for cpus in CPUS {
        for setup in setups() {
            let server = start(cpus, &[setup.flags, &["--retry-min", "2s", "--retry-max", "3s"]].concat());
            let mut rounds = Rounds::new(&server, &setup);
            let mut pages: Vec<(Page, Stream)> = (0..5)
                .map(|_| {
                    let page = Page::new(&setup.target);
                    let stream = page.connect(&server);
                    (page, stream)
                })
                .collect();
            (0..5).for_each(|_| rounds.publish());
            assert!(server.stop().success());
            for (page, stream) in &mut pages {
                let mut events = stream.rest_of_events();
                let retry = farewell(&mut events);
                assert!((2000..=3000).contains(&retry), "{retry}");
                assert!(events.iter().all(|event| event.retry.is_none()), "it is told once");
                events.into_iter().for_each(|event| page.take(event));
                page.check(TREES, rounds.count, &setup.target);
            }
        }
    }
}

#[test]
fn a_page_that_is_behind_at_all_homes_when_streams_are_closed_still_gets_all_it_has_coming() {
    for cpus in CPUS {
        let mut server = start(cpus, &["--drain-time", "1m"]);
        let mut behind = stall(&server, &slow_target());
        let mut other = Stream::open(&server, &slow_target());
        // More than the kernel holds for it, however it is shared out among the homes.
        for sent in 0..4 * SLOW_TREES {
            let body = format!("data: {} {sent} {}", tree(sent % SLOW_TREES), "x".repeat(100_000));
            server.publish(&tree(sent % SLOW_TREES), &body);
            assert!(other.event().data.len() > 100_000);
        }
        server.terminate();
        // The other's end says that streams are being closed.
        assert_eq!(other.rest_of_events().len(), 1);
        assert!(server.is_running());
        let mut rest = Vec::new();
        behind.read_to_end(&mut rest).unwrap();
        assert!(rest.ends_with(b"0\r\n\r\n"), "an orderly end");
        let text = dechunk(&rest);
        let (events, retry) = behind_first_retry(&text).rsplit_once("retry:").expect("a farewell");
        assert!(!events.contains("retry:") && retry.ends_with('\n'));
        for tree in (0..SLOW_TREES).map(tree) {
            let own: Vec<usize> = events
                .split(&format!("data: {tree} "))
                .skip(1)
                .map(|event| event.split(' ').next().unwrap().parse().unwrap())
                .collect();
            assert_eq!(own.len(), 4, "{tree}: {own:?}");
            assert!(own.is_sorted(), "{tree}: {own:?}");
        }
        assert_eq!(server.wait().code(), Some(0));
    }
}

#[test]
fn a_page_that_finds_no_room_is_refused_whole_and_leaves_nothing_behind() {
    let flags = ["--cores", "1", "--topics-max", "2", "--retry-min", "7ms", "--retry-max", "7ms"];
    let server = Server::start(&flags);
    let open = |topic: &str| Stream::open(&server, &format!("/subscribe/{topic}"));
    let (first, _second) = (open("limited01"), open("limited02"));
    for target in [
        "/subscribe?topic=limited02&topic=limited03",
        "/subscribe?topic=limited03&topic=limited02",
        "/subscribe?topic=limited03&topic=limited04&topic=limited05",
    ] {
        let mut refused = Stream::open(&server, target);
        let mut events = refused.rest_of_events();
        assert_eq!((farewell(&mut events), events.len()), (7, 0), "{target}");
    }
    wait_until("they are gone", || server.stats()["clients"] == 2);
    drop(first);
    wait_until("it is gone", || server.stats()["clients"] == 1);
    let mut stream = eventually("there is room for one more", || {
        let mut stream = Stream::open(&server, "/subscribe?topic=limited02&topic=limited03");
        server.post("/publish/limited03", "data: served");
        (stream.event().data == "served").then_some(stream)
    });
    server.publish("limited02", "data: and of the other");
    assert_eq!(stream.event().data, "and of the other");
}

#[test]
fn a_page_past_subscribers_max_is_told_when_to_come_back() {
    let server = Server::start(&["--subscribers-max", "1", "--retry-min", "7ms", "--retry-max", "7ms"]);
    let _taken = Stream::open(&server, "/subscribe?topic=abcdef123&topic=abcdef124");
    assert_eq!(server.stats()["clients"], 1, "several topics are one stream");
    let mut refused = Stream::open(&server, "/subscribe?topic=abcdef123&topic=abcdef124");
    let mut events = refused.rest_of_events();
    assert_eq!((farewell(&mut events), events.len()), (7, 0));
}

/// Trees of a page that stops reading.
const SLOW_TREES: usize = 8;

fn slow_target() -> String {
    let topics: Vec<String> = (0..SLOW_TREES).map(|n| format!("topic={}", tree(n))).collect();
    format!("/subscribe?{}", topics.join("&"))
}

/// Events of a flood: 12 MiB, because two homes have a megabyte of lag each, and the kernel holds some.
const FLOOD: usize = 192;

/// Publishes 64 KiB to each tree in turn; the other page reads along.
fn flood(publisher: &mut Publisher, other: &mut Stream) {
    for sent in 0..FLOOD {
        let data = format!("{} {sent}", tree(sent % SLOW_TREES));
        let body = format!("data: {data} {}", "x".repeat(64 << 10));
        assert_eq!(publisher.publish(&tree(sent % SLOW_TREES), &body).unwrap().status, 200);
        assert!(other.event().data.starts_with(&format!("{data} ")), "{sent}");
    }
}

#[test]
fn a_page_that_stops_reading_is_cut_once_and_delays_no_other() {
    for cpus in CPUS {
        let server = start(cpus, &STALLING);
        let mut other = Stream::open(&server, &slow_target());
        let mut stalled = stall(&server, &slow_target());
        flood(&mut Publisher::new(&server), &mut other);
        wait_until("it is cut", || server.stats()["clients"] == 1);
        assert_eq!(server.stats()["evicted"], 1);
        // Of each tree it got an unbroken beginning.
        let mut rest = Vec::new();
        let _ = stalled.read_to_end(&mut rest);
        assert!(!rest.ends_with(b"0\r\n\r\n"), "it does not look whole");
        let mut next: Vec<usize> = (0..SLOW_TREES).collect();
        for event in dechunk(&rest).split_inclusive("\n\n").filter(|event| event.ends_with("\n\n")) {
            let Some(data) = event.strip_prefix("data: ") else { continue };
            let number: usize = data.split(' ').nth(1).unwrap().parse().unwrap();
            assert_eq!(number, next[number % SLOW_TREES]);
            next[number % SLOW_TREES] += SLOW_TREES;
        }
        server.publish(&tree(0), "data: goes on");
        assert_eq!(other.event().data, "goes on");
    }
}

#[test]
fn under_skip_a_page_that_stops_reading_is_told_of_the_gap_and_goes_on() {
    for cpus in CPUS {
        let server = start(cpus, &[&["--slow-policy", "skip"], &STALLING[..]].concat());
        let mut other = Stream::open(&server, &slow_target());
        let mut stalled = stall(&server, &slow_target());
        let mut publisher = Publisher::new(&server);
        flood(&mut publisher, &mut other);
        let mut sent = FLOOD;
        // It reads again. What is published before it has come to its gaps lies before them, so each tree is published to
        // until one arrives; from then on it follows.
        let mut bytes = Vec::new();
        stalled.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        for n in 0..SLOW_TREES {
            eventually("it follows again", || {
                while sent % SLOW_TREES != n {
                    sent += 1;
                }
                let body = format!("data: {} {sent} follows", tree(n));
                assert_eq!(publisher.publish(&tree(n), &body).unwrap().status, 200);
                sent += SLOW_TREES;
                read_until(&mut stalled, &mut bytes, body.strip_prefix("data: ").unwrap()).ok()
            });
        }
        stalled.set_read_timeout(Some(PATIENCE)).unwrap();
        assert_eq!(server.stats()["clients"], 2);
        assert_eq!(server.stats()["evicted"], 0);

        let text = dechunk(&bytes);
        let (mut gaps, mut last) = (0, BTreeMap::new());
        // Since when each tree's next number is sure.
        let mut next: Vec<Option<usize>> = (0..SLOW_TREES).map(Some).collect();
        // The last one's id may still be to come.
        for event in text.split_inclusive("\n\n").filter_map(|event| event.strip_suffix("\n\n")) {
            if let Some(gap) = event.strip_prefix("event:gap\ndata:") {
                assert_eq!(gap_reason(gap.lines().next().unwrap()), "slow");
                gaps += 1;
                next.fill(None);
            } else if let Some((data, id)) = event.split_once("\nid:") {
                let number: usize = data.split(' ').nth(2).unwrap().parse().unwrap();
                let next = &mut next[number % SLOW_TREES];
                // While it follows, numbers are left out.
                assert!(
                    next.is_none_or(|next| number == next || (number > next && number >= FLOOD)),
                    "{number}"
                );
                *next = Some(number + SLOW_TREES);
                let (_, places) = position(id);
                for (home, place) in &last {
                    assert!(places.get(home).is_some_and(|now| now >= place), "{last:?}, then {id}");
                }
                last = places;
            }
        }
        assert!(gaps > 0);
    }
}
