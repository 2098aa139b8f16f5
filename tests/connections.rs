//! Thousands of connections that never become streams, and clients that do not read: what they cost, and whom they delay.
//!
//! A process of its own, because one test takes most of the files that a process may open; its tests take turns.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test says what it expects by unwrapping it"
)]

mod support;

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Resource, getrlimit};
use support::{PATIENCE, Server, connect, eventually, launched, wait_until};

const MIB: usize = 1 << 20;
/// Of each kind, unless the limit on open files is lower.
const CONNECTIONS: usize = 15_000;

/// Lets one test open thousands of files at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn half_head() -> Vec<u8> {
    let mut head = b"GET /subscribe/abcdefgh HTTP/1.1\r\nHost: h\r\nX: ".to_vec();
    head.resize(2_100, b'x');
    head
}

fn half_body(framing: &str) -> Vec<u8> {
    let mut text = format!("POST /publish/abcdefgh HTTP/1.1\r\nHost: h\r\n{framing}").into_bytes();
    text.resize(text.len() + 2_100, b'x');
    text
}

/// The beginning of a request to a path that there is not.
const NOWHERE: &str = "POST /nowhere/abcdefgh HTTP/1.1\r\nHost: h\r\n";

/// Publishes that are refused, whose answers fill the client's window if nobody takes them.
fn pipelined() -> Vec<u8> {
    b"POST /publish/abcdefgh HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello".repeat(200)
}

#[test]
fn unfinished_requests_cost_little_memory_which_is_counted_and_comes_back() {
    let _alone = alone();
    let files = usize::try_from(getrlimit(Resource::Nofile).current.unwrap()).unwrap();
    let count = CONNECTIONS.min(files.saturating_sub(500));
    type Send = fn(&mut TcpStream) -> std::io::Result<()>;
    let kinds: [(&str, Send); 12] = [
        ("nothing sent", |_| Ok(())),
        ("half a head", |client| client.write_all(&half_head())),
        ("half a body", |client| client.write_all(&half_body("Content-Length: 100000\r\n\r\n"))),
        ("half a chunked body", |client| {
            client.write_all(&half_body("Transfer-Encoding: chunked\r\n\r\n10000\r\n"))
        }),
        ("half a body that nobody wants", |client| {
            let text = half_body("Content-Length: 100000\r\n\r\n");
            client.write_all(String::from_utf8(text).unwrap().replacen("publish", "nowhere", 1).as_bytes())
        }),
        ("a head in single bytes", |client| {
            client.set_nodelay(true)?;
            half_head()[..40].iter().try_for_each(|byte| client.write_all(&[*byte]))
        }),
        ("pipelined requests whose answers nobody reads", |client| {
            // 30 KB each: more than both sides' kernels hold.
            client.write_all(&b"GET /admin/ HTTP/1.1\r\nHost: h\r\n\r\n".repeat(12))
        }),
        // A request must keep nothing of the buffer that its head came in.
        ("an origin behind a long body, and half a body", |client| {
            let skipped = format!("{}Content-Length: 60000\r\n\r\n{}", NOWHERE, "x".repeat(60_000));
            client.write_all(skipped.as_bytes())?;
            let next = format!("{NOWHERE}Origin: https://a.example\r\nContent-Length: 10\r\n\r\n");
            client.write_all(next.as_bytes())
        }),
        ("a long query, and no body", |client| {
            let query = "x".repeat(7_900);
            let target = format!("/publish/abcdefgh?wrap&event={query}");
            let head = format!("POST {target} HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\n");
            client.write_all(head.as_bytes())
        }),
        ("a long answer behind a body that does not come", |client| {
            client.write_all(b"GET /metrics HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\n")
        }),
        ("an answer, and nothing more", |client| {
            client.write_all(b"GET /healthz HTTP/1.1\r\nHost: h\r\nOrigin: https://a.example\r\n\r\n")
        }),
        ("half a head, and the end of sending", |client| {
            client.write_all(&half_head())?;
            client.shutdown(Shutdown::Write)
        }),
    ];
    let flags = ["--head-timeout", "10m", "--body-timeout", "10m", "--request-memory", "128MiB"];
    let left = kinds.map(|(kind, send)| {
        let server = Server::start(&flags);
        let resident_before = server.resident_bytes();
        let mut clients = Vec::with_capacity(count);
        for _ in 0..count {
            let mut client = TcpStream::connect(server.address).expect("it listens");
            // One that was refused meanwhile is no matter.
            let _ = send(&mut client);
            clients.push(client);
        }
        // For want of memory it may be refused for a moment.
        let stats = eventually("there is memory for statistics", || {
            serde_json::from_str::<serde_json::Value>(&server.get("/stats").body).ok()
        });
        let (resident, counted) =
            (server.resident_bytes() - resident_before, number(&stats["request_bytes"]));
        let open = number(&stats["connections"]);
        println!("{kind}: {open} of {count} open, {} MiB, {} counted", resident / MIB, counted / MIB);
        assert!(resident < 200 * MIB, "{kind}: {} MiB resident", resident / MIB);
        match kind {
            // What is past the limit gave way, and these ended by themselves.
            kind if kind.starts_with("pipelined")
                || kind.ends_with("of sending")
                || kind.contains("long") => {}
            // Beside what is counted there is half as much again: the allocator's, and what was freed a moment ago.
            _ => {
                assert!(open > count / 2 && resident < counted * 3 / 2 + 60 * MIB, "{kind}: {open} are left")
            }
        }
        assert!(counted <= 128 * MIB, "{kind}: {counted} counted");
        // Both are counted, but not at one moment: connections end meanwhile.
        wait_until(kind, || {
            let stats = server.stats();
            number(&stats["request_bytes"]) >= number(&stats["connections"]) * 4096
        });
        drop(clients);
        wait_until(kind, || number(&server.stats()["connections"]) == 1);
        assert_eq!(number(&server.stats()["request_bytes"]), 4096, "{kind}: what asks for it");
        (kind, server, resident_before)
    });
    let start = Instant::now();
    for (kind, server, resident_before) in left {
        while server.resident_bytes() > resident_before + 40 * MIB {
            let resident = server.resident_bytes() / MIB;
            assert!(start.elapsed() < PATIENCE, "{kind}: {resident} MiB stay");
            std::thread::sleep(Duration::from_millis(200));
        }
    }
}

fn number(value: &serde_json::Value) -> usize {
    usize::try_from(value.as_u64().expect("a number")).unwrap()
}

/// A server that may have some 120 connections.
fn with_few_files() -> Server {
    Server::spawn(launched(&["prlimit", "--nofile=200:200"], &["--cores", "2"]))
}

/// Before, the first two kept others out for a second for every 120 clients, and the others for ten, thirty and sixty: all
/// of them for longer than a test waits for an answer.
#[test]
fn clients_that_do_not_close_keep_nobody_out_when_files_run_short() {
    let _alone = alone();
    let publish = |rest: &str| format!("POST /publish/abcdefgh HTTP/1.1\r\nHost: h\r\n{rest}");
    for (kind, count, request) in [
        ("refused", 3_000, "GARBAGE\r\n\r\n".to_owned()),
        ("refused with a body", 3_000, publish("Content-Length: 99999999\r\n\r\n")),
        ("idle after an answer", 3_000, "GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n".to_owned()),
        // These give way when they are a second old.
        ("silent", 1_000, String::new()),
        ("in the midst of a head", 1_000, "GET /healthz HTTP/1.1\r\nHost".to_owned()),
        ("in the midst of a body", 1_000, publish("Content-Length: 9\r\n\r\nda")),
    ] {
        let server = with_few_files();
        let mut clients = Vec::new();
        for _ in 0..count {
            let mut client = TcpStream::connect(server.address).expect("it listens");
            let _ = client.write_all(request.as_bytes());
            clients.push(client);
        }
        let start = Instant::now();
        for _ in 0..20 {
            let answer = server.post("/publish/abcdefgh", "data: x");
            assert_eq!(answer.status, 200, "{kind}: {}", answer.body);
        }
        println!("{kind}: 20 publishes in {:?}", start.elapsed());
        drop(clients);
    }
}

/// One that asks again in the moment in which it is to give way has its answer, or nothing of what it asked is done.
#[test]
fn a_publisher_whose_connection_gives_way_never_loses_an_answer_to_what_was_published() {
    let _alone = alone();
    let server = with_few_files();
    let published = |server: &Server| number(&server.stats()["published"]);
    let end = Instant::now() + Duration::from_secs(3);
    let publisher = move |address| {
        let (mut answered, mut pauses) = (0, (0..8).cycle());
        while Instant::now() < end {
            let mut client = connect(address);
            let mut publish = || {
                let text = "POST /publish/abcdefgh HTTP/1.1\r\nHost: h\r\nContent-Length: 7\r\n\r\ndata: x";
                let mut answer = [0; 1024];
                let sent = client.write_all(text.as_bytes()).and_then(|()| client.read(&mut answer));
                sent.is_ok_and(|bytes| answer[..bytes].starts_with(b"HTTP/1.1 200 "))
            };
            while Instant::now() < end && publish() {
                answered += 1;
                // About as long as a connection may wait before it may give way.
                let pause = 99_000 + 700 * pauses.next().unwrap_or(0);
                std::thread::sleep(Duration::from_micros(pause));
            }
        }
        answered
    };
    let address = server.address;
    let threads: Vec<_> = (0..8).map(|_| std::thread::spawn(move || publisher(address))).collect();
    // Others come all the time, and stay.
    while Instant::now() < end {
        let clients: Vec<_> = (0..200).filter_map(|_| TcpStream::connect(server.address).ok()).collect();
        std::thread::sleep(Duration::from_millis(20));
        drop(clients);
    }
    let answered: usize = threads.into_iter().map(|thread| thread.join().unwrap()).sum();
    assert!(answered > 0);
    wait_until("all are counted", || published(&server) >= answered);
    assert_eq!(published(&server), answered, "published and not answered");
}

#[test]
fn a_connection_between_requests_is_charged_four_kilobytes_and_stays_while_memory_is_short() {
    let _alone = alone();
    let server = Server::start(&["--request-memory", "16MiB", "--mailbox-wait", "10s"]);
    let ask = |client: &mut TcpStream| {
        client.write_all(b"GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
        let mut answer = [0; 1024];
        client.read(&mut answer).unwrap()
    };
    let mut clients: Vec<_> = (0..60).map(|_| connect(server.address)).collect();
    clients.iter_mut().for_each(|client| assert!(ask(client) > 0));
    assert_eq!(number(&server.stats()["request_bytes"]), 61 * 4096);
    // More than there is room for.
    let uploads = stalled_uploads(&server, 20, 900_000);
    // While there is no room, the question itself may be refused.
    eventually("uploads give way", || {
        let stats = Some(server.get("/stats")).filter(|answer| answer.status == 200)?;
        let stats: serde_json::Value = serde_json::from_str(&stats.body).unwrap();
        (number(&stats["refused"]) > 0).then_some(())
    });
    std::thread::sleep(Duration::from_millis(900));
    clients.iter_mut().for_each(|client| assert!(ask(client) > 0, "it was closed"));
    drop(uploads);
}

/// Opens so many connections, each with the first `bytes` of an upload of 1 MB or as many as its socket takes.
fn stalled_uploads(server: &Server, count: usize, bytes: usize) -> Vec<TcpStream> {
    let mut half = b"POST /publish/abcdefgh HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000\r\n\r\n".to_vec();
    half.resize(bytes, b'x');
    let upload = |_| {
        let mut client = connect(server.address);
        client.set_nonblocking(true).unwrap();
        let _ = client.write(&half);
        client
    };
    (0..count).map(upload).collect()
}

#[test]
fn uploads_that_stop_half_way_make_way_for_others() {
    let _alone = alone();
    let server = Server::start(&["--request-memory", "16MiB", "--mailbox-wait", "10s"]);
    let mut clients = stalled_uploads(&server, 320, 200_000);
    for kilobytes in [70, 200, 900] {
        let answer = server.post("/publish/abcdefgh", &format!("data: {}", "x".repeat(kilobytes * 1000)));
        assert_eq!(answer.status, 200, "{kilobytes} KB: {}", answer.body);
    }
    // They are told why.
    let refused = eventually("one is refused", || {
        clients.iter_mut().find_map(|client| {
            let mut answer = [0; 1024];
            let bytes = client.read(&mut answer).ok().filter(|bytes| *bytes > 0)?;
            Some(String::from_utf8_lossy(&answer[..bytes]).into_owned())
        })
    });
    let is_slow = refused.starts_with("HTTP/1.1 408 ") && refused.contains("--request-memory");
    let is_late = refused.starts_with("HTTP/1.1 503 ") && refused.contains("--request-memory");
    assert!(is_slow || is_late, "{refused}");
}

/// Waits until the connection is reset. Nothing is read: what was sent would come first.
fn is_reset(client: &TcpStream) -> bool {
    let error = eventually("the connection ends", || client.take_error().unwrap());
    error.kind() == ErrorKind::ConnectionReset
}

/// Its kernel would hold the connection for open for as long as the client does not read, and no page would come back.
#[test]
fn a_client_that_is_cut_with_data_unsent_sees_a_reset() {
    let _alone = alone();
    let lag = ["--slow-lag", "1MiB", "--body-max", "128KiB", "--history-memory", "4MiB", "--heartbeat", "1h"];
    for (kind, flags, target) in [
        ("too far behind", &["--send-timeout", "1h"][..], "/subscribe/abcdefgh"),
        ("of several topics", &["--send-timeout", "1h"], "/subscribe?topic=abcdefgh&topic=hgfedcba"),
        (
            "a send that takes too long",
            &["--send-timeout", "1s", "--slow-lag", "64MiB", "--history-memory", "64MiB"],
            "/subscribe/abcdefgh",
        ),
    ] {
        let overridden = |flag: &str| flags.contains(&flag);
        let kept = lag.chunks(2).filter(|pair| !overridden(pair[0])).flatten().copied();
        let flags: Vec<_> = kept.chain(flags.iter().copied()).collect();
        let server = Server::start(&flags);
        let mut client = connect(server.address);
        write!(client, "GET {target} HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
        wait_until("it subscribes", || server.stats()["clients"] == 1);
        let body = format!("data: {}", "x".repeat(100_000));
        wait_until("it is cut", || {
            server.post("/publish/abcdefgh", &body);
            server.stats()["clients"] == 0
        });
        assert!(is_reset(&client), "{kind}");
    }
}

#[test]
fn a_publisher_that_takes_no_answers_sees_a_reset() {
    let _alone = alone();
    let server = Server::start(&["--send-timeout", "1s"]);
    let client = connect(server.address);
    client.set_nonblocking(true).unwrap();
    wait_until("it is there", || server.stats()["connections"] == 2);
    // Whether it is told by a write or between two.
    let end = eventually("the connection ends", || match (&client).write(&pipelined()) {
        Err(error) if error.kind() != ErrorKind::WouldBlock => Some(error),
        _ => client.take_error().unwrap(),
    });
    assert_eq!(end.kind(), ErrorKind::ConnectionReset);
}

#[test]
fn a_stream_that_does_not_take_its_farewell_sees_a_reset_when_the_server_ends() {
    let _alone = alone();
    let server = Server::start(&["--drain-time", "500ms", "--send-timeout", "1h"]);
    let mut client = connect(server.address);
    write!(client, "GET /subscribe/abcdefgh HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
    wait_until("it subscribes", || server.stats()["clients"] == 1);
    let body = format!("data: {}", "x".repeat(900_000));
    for _ in 0..8 {
        assert_eq!(server.post("/publish/abcdefgh", &body).status, 200);
    }
    assert!(server.stop().success());
    assert!(is_reset(&client));
}
