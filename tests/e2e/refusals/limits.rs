//! What is past a limit: of time, of subscribers and topics, and of memory.

use std::io::Write;
use std::thread;
use std::time::Duration;

use serde_json::json;

use super::{chunked, get, with};
use crate::support::{Client, Server, Stream, check_refusal, eventually, publish_request, wait_until};

#[test]
fn a_head_that_takes_too_long_is_408() {
    let server = Server::start(&["--head-timeout", "200ms"]);
    for start in ["G", "GET /healthz HTTP/1.1\r\nHost: h\r\n", "\r"] {
        let mut client = Client::new(&server);
        check_refusal(&client.ask(start), 408, "head took too long; send it faster, or raise --head-timeout");
        client.assert_closed();
    }
    // A byte now and then does not make it start anew.
    let mut client = Client::new(&server);
    client.send("GET /healthz HTTP/1.1\r\nX: ");
    while !client.has_answer() {
        client.try_send("x");
        thread::sleep(Duration::from_millis(5));
    }
    check_refusal(&client.answer(), 408, "head took too long");
    // Whoever says nothing at all is owed no answer.
    Client::new(&server).assert_closed();
}

#[test]
fn a_body_that_takes_too_long_is_408_and_nothing_is_published() {
    let server = Server::start(&["--body-timeout", "200ms"]);
    for request in [
        with("Content-Length: 100\r\n") + "data: half",
        chunked("7\r\ndata: x\r\n"),
        chunked("7\r\ndata: x\r\n0\r\n"),
        with("Content-Length: 100\r\n").replace("/publish/refused01", "/nowhere"),
    ] {
        let mut client = Client::new(&server);
        check_refusal(
            &client.ask(&request),
            408,
            "body took too long; send it faster, or raise --body-timeout",
        );
        client.assert_closed();
    }
    assert_eq!(server.stats()["published"], 0);
}

#[test]
fn a_heads_time_begins_with_its_first_byte_however_long_the_body_before_it_took() {
    let server = Server::start(&["--head-timeout", "2s"]);
    let mut client = Client::new(&server);
    client.send(with("Content-Length: 9\r\n") + "data:");
    thread::sleep(Duration::from_millis(2500));
    // The end of the body and the first byte of the next head come together.
    client.send(" oneG");
    let published = client.answer();
    assert_eq!(published.status, 200, "{published:?}");
    thread::sleep(Duration::from_millis(100));
    client.send("ET /healthz HTTP/1.1\r\nHost: h\r\n\r\n");
    let health = client.answer();
    assert_eq!(health.status, 200, "{health:?}");
}

#[test]
fn a_connection_between_requests_is_closed_without_a_word_when_it_idles() {
    let server = Server::start(&["--idle-timeout", "200ms"]);
    let mut client = Client::new(&server);
    client.assert_open();
    client.assert_closed();
}

/// The time to come back after, of a stream that was refused with a 200.
fn retry_ms(mut stream: Stream) -> u64 {
    assert_eq!(
        (stream.head.status, stream.head.field("Content-Type")),
        (200, Some("text/event-stream; charset=utf-8"))
    );
    let refusal = stream.event();
    assert_eq!((&*refusal.data, &*refusal.name), ("", ""), "nothing is dispatched: {refusal:?}");
    assert!(stream.next_event().is_none());
    refusal.retry.expect("a time to come back after")
}

#[test]
fn a_stream_past_subscribers_max_is_told_to_come_back() {
    let server = Server::start(&["--subscribers-max", "2", "--retry-min", "1234ms", "--retry-max", "1300ms"]);
    let streams =
        [Stream::open(&server, "/subscribe/toomany01"), Stream::open(&server, "/subscribe/toomany02")];
    for _ in 0..10 {
        let ms = retry_ms(Stream::open(&server, "/subscribe/toomany01"));
        assert!((1234..=1300).contains(&ms), "{ms}");
    }
    // HTTP/1.0 gets the same, to the close.
    let old = Stream::send(server.address, "GET /subscribe/toomany01 HTTP/1.0\r\n\r\n");
    assert!((1234..=1300).contains(&retry_ms(old)));
    let stats = server.stats();
    assert_eq!((&stats["clients"], &stats["refused"]), (&json!(2), &json!(11)));
    drop(streams);
    let mut stream = eventually("there is room again", || {
        let mut stream = Stream::open(&server, "/subscribe/toomany03");
        server.post("/publish/toomany03", "data: served");
        (stream.event().data == "served").then_some(stream)
    });
    server.post("/publish/toomany03", "data: more");
    assert_eq!(stream.event().data, "more");
}

#[test]
fn a_stream_past_subscribers_max_is_503_when_that_is_asked_for() {
    let server = Server::start(&["--subscribers-max", "1", "--refuse-streams", "503"]);
    let _stream = Stream::open(&server, "/subscribe/toomany04");
    let mut client = Client::new(&server);
    let answer = client.ask(get("/subscribe/toomany04"));
    check_refusal(&answer, 503, "raise --subscribers-max");
    assert_eq!((answer.field("Retry-After"), answer.field("Connection")), (Some("1"), Some("close")));
    client.assert_closed();
    assert_eq!(server.post("/publish/toomany04", "data: publishing goes on").status, 200);
}

#[test]
fn a_topic_past_topics_max_is_refused_while_all_have_subscribers() {
    for mode in ["retry", "503"] {
        let server = Server::start(&["--cores", "1", "--topics-max", "2", "--refuse-streams", mode]);
        let mut streams = vec![
            Stream::open(&server, "/subscribe/limited01"),
            Stream::open(&server, "/subscribe/limited02"),
        ];
        let mut client = Client::new(&server);
        let answer = client.ask(publish_request("/publish/limited03", "", "data: x\n\ndata: y"));
        check_refusal(&answer, 503, "topics");
        assert_eq!((answer.field("Retry-After"), answer.field("Connection")), (Some("1"), None));
        client.assert_open();
        if mode == "retry" {
            retry_ms(Stream::open(&server, "/subscribe/limited03"));
        } else {
            let answer = Client::new(&server).ask(get("/subscribe/limited03"));
            check_refusal(&answer, 503, "--topics-max");
            assert_eq!(answer.field("Retry-After"), Some("1"));
        }
        for (n, stream) in streams.iter_mut().enumerate() {
            server.post(&format!("/publish/limited0{}", n + 1), "data: still served");
            assert_eq!(stream.event().data, "still served");
        }
        assert_eq!(server.stats()["published"], 2, "what was refused was not published");
        wait_until("a publish and a stream are counted as refused, and no topic more", || {
            let stats = server.stats();
            stats["refused"] == 2 && stats["topics"] == 2
        });
        // A topic without subscribers makes room.
        drop(streams);
        wait_until("they are gone", || server.stats()["clients"] == 0);
        wait_until("there is room", || server.post("/publish/limited03", "data: x").status == 200);
    }
}

#[test]
fn an_idle_topic_makes_room_however_often_topics_were_used() {
    // Nobody subscribes to any of them, and each was published to more than once.
    let server = Server::start(&["--cores", "1", "--topics-max", "100"]);
    for n in (0..100).chain(0..100).chain(100..300) {
        let answer = server.post(&format!("/publish/often{n:04}"), "data: x");
        assert_eq!(answer.status, 200, "{n}: {}", answer.body);
    }
}

#[test]
fn an_idle_topic_makes_room_however_many_are_in_use() {
    // A hundred topics with subscribers were used before the idle ones were, so they are the oldest.
    let server = Server::start(&["--cores", "1", "--topics-max", "150"]);
    let mut streams: Vec<_> =
        (0..100).map(|n| Stream::open(&server, &format!("/subscribe/inuse{n:04}"))).collect();
    for n in 0..100 {
        let answer = server.post(&format!("/publish/idle{n:05}"), "data: x");
        assert_eq!(answer.status, 200, "{n}: {}", answer.body);
    }
    wait_until("the topics are counted", || server.stats()["topics"] == 150);
    for (n, stream) in streams.iter_mut().enumerate() {
        server.post(&format!("/publish/inuse{n:04}"), "data: kept");
        assert_eq!(stream.event().data, "kept");
    }
}

#[test]
fn bodies_that_hold_too_much_memory_while_they_arrive_are_503() {
    // Two megabytes may be held by unfinished bodies; three clients send one each, but for the end. Nobody is waited for,
    // or those that send no more would make way.
    let server = Server::start(&["--body-max", "1MiB", "--request-memory", "2MiB", "--mailbox-wait", "1ms"]);
    let mut clients = [(); 3].map(|()| {
        let mut client = Client::new(&server);
        client.try_send(with("Content-Length: 1048576\r\n") + &"x".repeat(1_000_000));
        client
    });
    let refused =
        eventually("one of them is refused", || clients.iter().position(|client| client.has_answer()));
    let refused = &mut clients[refused];
    let answer = refused.answer();
    check_refusal(&answer, 503, "too much is arriving at once");
    assert_eq!((answer.field("Retry-After"), answer.field("Connection")), (Some("1"), Some("close")));
    refused.assert_closed();
    // Small ones are not in their way.
    assert_eq!(server.post("/publish/refused01", "data: small").status, 200);
    drop(clients);
    let body = format!("data: {}", "x".repeat(1_000_000));
    wait_until("there is room again", || server.post("/publish/refused01", &body).status == 200);
}

#[test]
fn a_subscriber_that_sends_on_is_cut_after_a_kilobyte() {
    let server = Server::start(&[]);
    let mut stream = Stream::open(&server, "/subscribe/talkative");
    stream.socket().write_all(&[b'x'; 1024]).unwrap();
    server.post("/publish/talkative", "data: still there");
    assert_eq!(stream.event().data, "still there");
    stream.socket().write_all(b"x").unwrap();
    assert!(stream.next_event().is_none());
}
