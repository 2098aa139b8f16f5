//! Tickets in place of tokens in URLs, and streams whose end a newer token moves.

use std::collections::HashMap;
use std::io::{BufReader, Write};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use jsonwebtoken::Algorithm;
use serde_json::{Value, json};

use crate::support::browser::{Browser, Cutter, serve_page};
use crate::support::tokens::{PUBLISHER, SUBSCRIBER, bearer, now_s, sign, token, token_for};
use crate::support::{
    Answer, Publisher, Server, Stream, check_refusal, connect, exchange, read_head, wait_until,
};

const SUBSCRIBERS: &[(&str, &str)] = &[("ESPER_SUBSCRIBER_SECRET", SUBSCRIBER)];
/// How many tickets are tried twice at once; 100,000 is the long form.
const TICKETS: &str = "ESPER_TEST_TICKETS";
const BATCH: usize = 500;

fn start(flags: &[&str]) -> Server {
    Server::start_with(&[&["--heartbeat", "1h", "--namespaces"], flags].concat(), SUBSCRIBERS)
}

/// Gets a ticket for a token.
fn ticket(server: &Server, token: &str) -> String {
    let answer = server.request("POST", "/ticket", &[&bearer(token)], "").json();
    let (now_s, until_s) = (now_s(), answer["expires_at"].as_u64().unwrap());
    assert!((now_s + 20..=now_s + 31).contains(&until_s), "{answer}");
    answer["ticket"].as_str().unwrap().to_owned()
}

#[test]
fn a_ticket_opens_one_stream_and_again_for_whoever_shows_an_id_of_it() {
    let server = start(&[]);
    // Another node, or this one after a restart, has the same secret.
    let other = start(&[]);
    let token = token(SUBSCRIBER, "pets");
    for with in ["", "&with=topic"] {
        let target = format!("/subscribe/pets?ticket={}{with}", ticket(&server, &token));
        // Nothing is opened by these.
        assert_eq!(server.request("HEAD", &target, &[], "").status, 200);
        assert_eq!(server.request("GET", &target, &[], "x").status, 400);
        let cars = target.replace("pets", "cars");
        check_refusal(&server.get(&cars), 403, "must cover cars");

        let mut stream = Stream::open(&server, &target);
        let place = stream.event().id;
        assert_eq!(server.post("/publish/pets/dogs", "data: one\nid: own").status, 200);
        let first = stream.event();
        assert_eq!(first.data, "one");
        drop(stream);
        check_refusal(&server.get(&target), 401, "used ticket");
        let mut foreign =
            Stream::open(&server, &format!("/subscribe/pets?ticket={}", ticket(&server, &token)));
        let foreign = foreign.event().id;
        for wrong in ["", "own", &foreign, first.id.split('~').next().unwrap(), "~"] {
            let answer = server.request("GET", &target, &[&format!("Last-Event-ID: {wrong}")], "");
            check_refusal(&answer, 401, "used ticket");
        }
        assert_eq!(server.post("/publish/pets", "data: two").status, 200);
        for (id, seen) in [(&place, &["one", "two"][..]), (&first.id, &["two"])] {
            let mut resumed = Stream::open_with(&server, &target, &[&format!("Last-Event-ID: {id}")]);
            assert_eq!(resumed.event().lines, format!("event: place\nid: {}", id.split('@').next().unwrap()));
            for data in seen {
                assert_eq!(resumed.event().data, *data, "after {id}");
            }
            let by_query = format!("{target}&lastEventId={}", id.replace('~', "%7E"));
            let mut resumed = Stream::open(&server, &by_query);
            assert_eq!(
                (resumed.event().name, resumed.event().data),
                ("place".to_owned(), seen[0].to_owned())
            );
            let elsewhere = Stream::open_with(&other, &target, &[&format!("Last-Event-ID: {id}")]);
            assert_eq!(elsewhere.head.status, 200);
        }
    }
    // A page whose ticket is over brings its id to a new one, and is cut before anything was published.
    let (old, new) = (ticket(&server, &token), ticket(&server, &token));
    let id = Stream::open(&server, &format!("/subscribe/pets?ticket={old}")).event().id;
    let target = format!("/subscribe/pets?ticket={new}");
    let told = Stream::open(&server, &format!("{target}&lastEventId={id}")).event().id;
    assert_ne!(told, id);
    assert_eq!(server.post("/publish/pets", "data: three").status, 200);
    let mut resumed = Stream::open_with(&server, &target, &[&format!("Last-Event-ID: {told}")]);
    assert_eq!((resumed.event().name, resumed.event().data), ("place".to_owned(), "three".to_owned()));

    let answer = server.request("POST", "/subscribe?ticket=x", &[], "topic=pets");
    check_refusal(&answer, 401, "malformed token");
    let by_body = format!("/subscribe?ticket={}", ticket(&server, &token));
    let mut connection = connect(server.address);
    write!(connection, "POST {by_body} HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\ntopic=pets").unwrap();
    assert!(Stream::of(connection).event().id.contains('~'));
    check_refusal(&server.request("POST", &by_body, &[], "topic=pets"), 401, "used ticket");
}

/// Whoever knows a ticket and the code of its ids may open its stream.
#[test]
fn the_log_has_no_ticket_no_code_and_no_token() {
    let server = start(&["--log-level", "debug"]);
    let token = token(SUBSCRIBER, "pets");
    let ticket = ticket(&server, &token);
    let target = format!("/subscribe/pets?ticket={ticket}&handle={HANDLE}");
    let id = Stream::open(&server, &target).event().id;
    check_refusal(&server.get(&target), 401, "used ticket");
    let resumed = Stream::open_with(&server, &target, &[&format!("Last-Event-ID: {id}")]);
    let mut connection = connect(server.address);
    let head = format!("POST /subscribe?ticket={ticket} HTTP/1.1\r\nHost: h\r\nLast-Event-ID: {id}");
    let body = format!("topic=pets&handle={HANDLE}");
    write!(connection, "{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len()).unwrap();
    let by_body = Stream::of(connection);
    assert_eq!(by_body.head.status, 200);
    assert_eq!(renew(&server, HANDLE, &token).status, 200);
    drop((resumed, by_body));
    wait_until("it is logged", || server.log().matches("stream asked for").count() == 3);
    let code = id.split('~').nth(1).unwrap();
    for secret in [&*ticket, code, &token, HANDLE] {
        assert!(!server.log().contains(secret), "{secret} is in {}", server.log());
    }
}

#[test]
fn a_ticket_lasts_as_long_as_its_token() {
    let server = start(&["--leeway", "0s"]);
    let ticket = ticket(&server, &token_for(SUBSCRIBER, "pets", Duration::from_secs(2)));
    let target = format!("/subscribe/pets?ticket={ticket}");
    let mut stream = Stream::open(&server, &target);
    let id = stream.event().id;
    assert_eq!(stream.event().name, "expired");
    let answer = server.request("GET", &target, &[&format!("Last-Event-ID: {id}")], "");
    check_refusal(&answer, 401, "expired");
}

#[test]
fn a_ticket_is_for_those_who_have_a_token_and_for_the_control_port() {
    let server = start(&["--bind-control", "127.0.0.1:0"]);
    check_refusal(&server.request("POST", "/ticket", &[], ""), 401, "no token");
    let foreign = bearer(&token(PUBLISHER, "pets"));
    check_refusal(&server.request("POST", "/ticket", &[&foreign], ""), 401, "wrong signature");
    check_refusal(&server.request("POST", "/ticket?topic=pets", &[], ""), 401, "no token");
    assert_eq!(server.get("/ticket").status, 405);
    let control =
        |query: &str| Answer::parse(&exchange(server.control(), "POST", &format!("/ticket{query}"), &[], ""));
    for (query, opens, refuses) in [
        ("?topic=pets&topic=cars&exp=60", "/subscribe?topic=pets/dogs&topic=cars", Some("/subscribe/trees")),
        ("?topic=*", "/subscribe/", None),
    ] {
        let ticket = control(query).json()["ticket"].as_str().unwrap().to_owned();
        let with = |target: &str| {
            let separator = if target.contains('?') { '&' } else { '?' };
            format!("{target}{separator}ticket={ticket}")
        };
        if let Some(refused) = refuses {
            check_refusal(&server.get(&with(refused)), 403, "another topic");
        }
        assert_eq!(Stream::open(&server, &with(opens)).head.status, 200, "{query}");
    }
    for (query, about) in [
        ("?topic=pets&exp=0", "bad exp"),
        ("?topic=pets&exp=-1", "bad exp"),
        ("?topic=pets&exp=99999999999", "bad exp"),
        ("?topic=a+b", "not allowed"),
    ] {
        let answer = control(query);
        assert!(answer.status == 400 && answer.body.contains(about), "{query}: {answer:?}");
    }
    let open = Server::start(&[]);
    check_refusal(&open.request("POST", "/ticket", &[], ""), 404, "need no token");
    check_refusal(&open.request("POST", "/renew?handle=x", &[], ""), 404, "nothing to renew");
}

#[test]
fn of_two_that_come_with_a_ticket_at_once_one_is_admitted() {
    let count = std::env::var(TICKETS).map_or(500, |count| count.parse().expect("a number"));
    let server = start(&[]);
    let token = token(SUBSCRIBER, "pets");
    // No more at a time than are used within their thirty seconds.
    for left in (0..count).rev().step_by(BATCH) {
        let batch = BATCH.min(left + 1);
        let admitted: HashMap<String, AtomicUsize> =
            (0..batch).map(|_| (ticket(&server, &token), AtomicUsize::new(0))).collect();
        let refused = AtomicUsize::new(0);
        thread::scope(|scope| {
            // Both go the same way, so that they meet at nearly every ticket.
            for _ in 0..2 {
                scope.spawn(|| {
                    for (ticket, admitted) in &admitted {
                        let mut connection = connect(server.address);
                        let head = format!("GET /subscribe/pets?ticket={ticket} HTTP/1.1\r\nHost: h\r\n\r\n");
                        connection.write_all(head.as_bytes()).unwrap();
                        match Answer::parse(&read_head(&mut BufReader::new(connection)).unwrap()).status {
                            200 => admitted.fetch_add(1, Ordering::Relaxed),
                            401 => refused.fetch_add(1, Ordering::Relaxed),
                            other => panic!("{other}"),
                        };
                    }
                });
            }
        });
        assert!(admitted.values().all(|times| times.load(Ordering::Relaxed) == 1));
        assert_eq!(refused.into_inner(), batch);
    }
}

#[test]
fn a_page_comes_back_by_the_url_of_its_ticket_and_misses_nothing() {
    let server = start(&[]);
    let browser = Browser::open(&serve_page(""));
    let mut random = fastrand::Rng::with_seed(7);
    // Behind the head and the id of its place, which come in one packet.
    let cutter = Cutter::start(server.address, move || Some(random.usize(500..1500)));
    let target = format!("/subscribe/pets?ticket={}", ticket(&server, &token(SUBSCRIBER, "pets")));
    browser.run(&format!("subscribe({:?})", cutter.url(&target)));
    browser.until("opened == 1");
    let mut publisher = Publisher::new(&server);
    for n in 0..100 {
        let retry = if n == 0 { "retry: 10\n" } else { "" };
        assert_eq!(publisher.publish("pets", &format!("{retry}data: {n}")).unwrap().status, 200);
        thread::sleep(Duration::from_millis(5));
    }
    browser.until("seen.length && seen.at(-1)[1] == '99'");
    let seen = browser.run("return seen.map(event => event[1])");
    assert_eq!(seen, json!((0..100).map(|n| n.to_string()).collect::<Vec<_>>()));
    assert!(cutter.connections() > 2);
}

/// Returns a token of a subject for topics, good for so many seconds.
fn token_of(sub: &str, topics: &[&str], seconds: u64) -> String {
    let claims: Value = json!({ "sub": sub, "topics": topics, "exp": now_s() + seconds });
    sign(SUBSCRIBER, Algorithm::HS256, &claims)
}

const HANDLE: &str = "0b6e1f3c-7a52-4c1e";

fn renew(server: &Server, handle: &str, token: &str) -> Answer {
    server.request("POST", &format!("/renew?handle={handle}"), &[&bearer(token)], "")
}

#[test]
fn a_newer_token_moves_the_end_of_an_open_stream() {
    let server = start(&["--leeway", "0s"]);
    let open = |seconds| {
        let target = format!("/subscribe/pets?handle={HANDLE}&token={}", token_of("ann", &["pets"], seconds));
        Stream::open(&server, &target)
    };
    let mut stream = open(3);
    let until_s = now_s() + 8;
    let answer = renew(&server, HANDLE, &token_of("ann", &["pets"], 8)).json();
    assert!((until_s..until_s + 3).contains(&answer["expires_at"].as_u64().unwrap()), "{answer}");
    // An earlier end moves nothing.
    assert_eq!(renew(&server, HANDLE, &token_of("ann", &["pets"], 1)).json(), answer);
    wait_until("its first end has passed", || now_s() >= until_s - 3);
    thread::sleep(Duration::from_millis(1500));
    assert_eq!(server.post("/publish/pets", "data: still there").status, 200);
    assert_eq!(stream.event().data, "still there");
    assert_eq!(stream.event().name, "expired");
    assert!(now_s() >= until_s, "it ended at {}, not at {until_s}", now_s());
    check_refusal(
        &renew(&server, HANDLE, &token_of("ann", &["pets"], 60)),
        404,
        "no stream of this subject with this handle",
    );

    // And one of a ticket.
    let ticket = ticket(&server, &token_of("ann", &["pets"], 2));
    let mut stream = Stream::open(&server, &format!("/subscribe/pets?handle={HANDLE}&ticket={ticket}"));
    assert!(stream.event().id.contains('~'));
    assert_eq!(renew(&server, HANDLE, &token_of("ann", &["pets"], 60)).status, 200);
    let until_s = now_s() + 4;
    wait_until("its first end has passed", || now_s() >= until_s);
    assert_eq!(server.post("/publish/pets", "data: still there").status, 200);
    assert_eq!(stream.event().data, "still there");
}

#[test]
fn a_stream_is_renewed_by_its_own_subject_for_no_more_than_it_had() {
    let server = start(&[]);
    let token = token_of("ann", &["pets", "cars"], 60);
    let target = format!("/subscribe?topic=pets&topic=cars&handle={HANDLE}&token={token}");
    let stream = Stream::open(&server, &target);
    let again = |sub: &str, topics: &[&str]| renew(&server, HANDLE, &token_of(sub, topics, 120));
    assert_eq!(again("ann", &["cars", "pets"]).status, 200);
    // Nobody else finds it, also with a stream of the same handle.
    check_refusal(&again("eve", &["pets", "cars"]), 404, "no stream of this subject");
    let foreign = format!("/subscribe/trees?handle={HANDLE}&token={}", token_of("eve", &["trees"], 60));
    drop(Stream::open(&server, &foreign));
    assert_eq!(again("ann", &["cars", "pets"]).status, 200);
    // Nor does a request that opens nothing take it.
    for (method, body, status) in [("HEAD", "", 200), ("GET", "x", 400)] {
        assert_eq!(server.request(method, &target, &[], body).status, status);
    }
    assert_eq!(again("ann", &["cars", "pets"]).status, 200);
    check_refusal(&again("ann", &["pets", "cars", "trees"]), 403, "topics that the stream's did not");
    check_refusal(&again("ann", &["*"]), 403, "topics that the stream's did not");
    check_refusal(&again("ann", &["pets"]), 403, "must cover cars");
    check_refusal(
        &renew(&server, "0b6e1f3c-7a52-4c1f", &token),
        404,
        "no stream of this subject with this handle",
    );
    check_refusal(&renew(&server, HANDLE, "x"), 401, "malformed token");
    check_refusal(&server.request("POST", "/renew", &[&bearer(&token)], ""), 400, "no handle");
    drop(stream);
    wait_until("it is gone", || again("ann", &["pets", "cars"]).status == 404);
    // Whoever may everything may renew for less.
    let target = format!("/subscribe/pets?handle={HANDLE}&token={}", token_of("*", &[], 60));
    let _stream = Stream::open(&server, &target);
    assert_eq!(renew(&server, HANDLE, &token_of("*", &["pets"], 120)).status, 200);

    let nobodys = sign(SUBSCRIBER, Algorithm::HS256, &json!({ "topics": ["pets"], "exp": now_s() + 60 }));
    let answer = server.get(&format!("/subscribe/pets?handle={HANDLE}&token={nobodys}"));
    check_refusal(&answer, 400, "tokens with a sub");
    for handle in ["short", "has a space in it..", &"x".repeat(65)] {
        let target = format!("/subscribe/pets?handle={}&token={token}", handle.replace(' ', "+"));
        check_refusal(&server.get(&target), 400, "bad handle");
    }
}
