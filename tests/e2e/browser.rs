//! A real browser: its EventSource and its fetch, on a page of another origin.

use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::guide::GUIDE;
use crate::readme::block;
use crate::support::browser::{Browser, Cutter, serve_page};
use crate::support::tokens::{PUBLISHER, SUBSCRIBER, token, token_for};
use crate::support::{Publisher, Server, Stream, eventually, wait_until};

#[test]
fn an_event_source_gets_names_data_and_ids_as_they_were_published() {
    let server = Server::start(&[]);
    let browser = Browser::open(&serve_page(""));
    browser.run(&format!("subscribe({:?})", server.url("/subscribe/browser01")));
    browser.until("opened == 1");

    let long = "0123456789".repeat(20_000);
    let texts = [
        "data: hello",
        "event: testing\ndata: {\"some\":[\"data\",1]}",
        "id: my own id\ndata: \u{fc}\u{1f600}\ndata:  two spaces, one of them data\ndata",
        "data:\r\nid: \u{e9}\r\n\r\n: a comment\r\revent: unheard\rdata: nobody listens for this\r\rdata: last",
    ];
    let mut ids = Vec::new();
    for text in texts.iter().copied().chain([&*format!("data: {long}")]) {
        let answer = server.post("/publish/browser01", text);
        ids.push(answer.id());
    }

    browser.until("seen.length == 6");
    let expected = json!([
        ["message", "hello", ids[0]],
        ["testing", "{\"some\":[\"data\",1]}", ids[1]],
        ["message", "\u{fc}\u{1f600}\n two spaces, one of them data\n", "my own id"],
        ["message", "", "\u{e9}"],
        ["message", "last", ids[3]],
        ["message", long, ids[4]],
    ]);
    assert_eq!(browser.run("return seen"), expected);
    assert_eq!(ids[2], "my own id");
    assert_eq!(browser.run("return JSON.parse(seen[1][1])"), json!({ "some": ["data", 1] }));
    assert_eq!(browser.run("return [opened, source.readyState]"), json!([1, 1]));
}

/// 300 events, and a network that cuts the connection every few hundred bytes, within a line or a chunk as it happens, and
/// some before they carry anything.
#[test]
fn no_event_is_lost_or_doubled_when_connections_are_cut() {
    let seed = fastrand::u64(..);
    let server = Server::start(&[]);
    let browser = Browser::open(&serve_page(""));
    let mut random = fastrand::Rng::with_seed(seed);
    let mut is_first = true;
    let cutter = Cutter::start(server.address, move || {
        // The first one lives until the page has an id to resume after. None ends within the head, of some 200 bytes in one
        // packet: Chromium takes the beginning of a head for all of it, and gives up when that has no Content-Type.
        let is_refused = !std::mem::take(&mut is_first) && random.u8(..) < 50;
        Some(if is_refused { 0 } else { random.usize(500..3000) })
    });
    browser.run(&format!("subscribe({:?})", cutter.url("/subscribe/cutting01")));
    browser.until("opened == 1");
    let mut publisher = Publisher::new(&server);
    assert_eq!(publisher.publish("cutting01", "retry: 10\ndata: first").unwrap().status, 200);
    browser.until("seen.length == 1");

    for n in 0..300 {
        // About as fast as the page comes back, so that some events find it there and some are replayed.
        thread::sleep(Duration::from_millis(5));
        let answer = publisher.publish("cutting01", &format!("event: testing\ndata: {{\"n\":{n}}}")).unwrap();
        assert_eq!(answer.status, 200);
    }

    browser.until("seen.length && seen.at(-1)[1] == '{\"n\":299}'");
    let seen = browser.run("return seen");
    let data: Vec<_> = seen.as_array().unwrap().iter().map(|event| event[1].as_str().unwrap()).collect();
    let expected: Vec<_> =
        ["first".to_owned()].into_iter().chain((0..300).map(|n| format!("{{\"n\":{n}}}"))).collect();
    assert_eq!(data, expected, "seed {seed}");
    assert!(cutter.cuts() >= 5, "{} cuts of {} connections", cutter.cuts(), cutter.connections());
}

/// What a stream is told at the end of its server holds for the browser until the next one is there.
#[test]
fn a_browser_comes_back_to_a_server_that_was_restarted_and_learns_of_the_gap() {
    let flags = ["--retry-min", "10ms", "--retry-max", "20ms"];
    let server = Server::start(&flags);
    let browser = Browser::open(&serve_page(""));
    let cutter = Cutter::start(server.address, || None);
    browser.run(&format!("subscribe({:?})", cutter.url("/subscribe/restart01")));
    browser.until("opened == 1");
    server.post("/publish/restart01", "id: before\ndata: 1");
    browser.until("seen.length == 1");

    assert!(server.stop().success());
    // With the browser's own waiting time of some seconds, it would not come so often in the time this may take.
    let connections = cutter.connections();
    wait_until("the browser tries again and again", || cutter.connections() >= connections + 50);
    assert_eq!(browser.run("return source.readyState"), json!(0), "connecting");

    let server = Server::start(&flags);
    server.post("/publish/restart01", "id: after\ndata: 2");
    cutter.point_to(server.address);
    browser.until("seen.length == 3");
    let gap = r#"{"from":"before","reason":"unknown"}"#;
    let expected = json!([["message", "1", "before"], ["gap", gap, "before"], ["message", "2", "after"]]);
    assert_eq!(browser.run("return seen"), expected);
}

#[test]
fn a_browser_that_found_no_room_comes_back_until_there_is_some() {
    let server = Server::start(&["--subscribers-max", "1", "--retry-min", "10ms", "--retry-max", "20ms"]);
    let taken = Stream::open(&server, "/subscribe/crowded01");
    let browser = Browser::open(&serve_page(""));
    browser.run(&format!("subscribe({:?})", server.url("/subscribe/crowded01")));
    wait_until("the browser was refused several times", || server.stats()["refused"].as_u64().unwrap() >= 5);

    drop(taken);
    eventually("the place is free and taken again", || {
        server.post("/publish/crowded01", "data: room");
        browser.run("return seen.length > 0").as_bool().unwrap().then_some(())
    });
}

#[test]
fn a_token_that_expires_is_announced_and_then_refused_for_good() {
    let server = Server::start_with(&[], &[("ESPER_SUBSCRIBER_SECRET", SUBSCRIBER)]);
    let browser = Browser::open(&serve_page(""));
    let path =
        format!("/subscribe/expiring1?token={}", token_for(SUBSCRIBER, "expiring1", Duration::from_secs(4)));
    browser.run(&format!("subscribe({:?})", server.url(&path)));
    browser.until("opened == 1");
    server.post("/publish/expiring1", "retry: 10\ndata: still good");

    browser.until("source.readyState == EventSource.CLOSED");
    let seen = browser.run("return seen.map(([name, data]) => [name, data])");
    assert_eq!(seen, json!([["message", "still good"], ["expired", "token expired"]]));
    assert_eq!(server.stats()["clients"], json!(0));
    assert_eq!(server.stats()["refused"], json!(1));
}

#[test]
fn a_cookie_is_taken_from_a_page_of_a_listed_origin_alone() {
    let cookie = format!("esper_token={}; Path=/; HttpOnly", token(SUBSCRIBER, "cookies01"));
    // Cookies know no ports, so the pages and the server share it.
    let (listed, other) = (serve_page(&cookie), serve_page(&cookie));
    let server = Server::start_with(&["--cors-origin", &listed], &[("ESPER_SUBSCRIBER_SECRET", SUBSCRIBER)]);
    let url = server.url("/subscribe/cookies01");

    let browser = Browser::open(&listed);
    browser.run(&format!("subscribe({url:?}, {{ withCredentials: true }})"));
    browser.until("opened == 1");
    server.post("/publish/cookies01", "data: for members");
    browser.until("seen.length == 1");
    assert_eq!(browser.run("return seen[0][1]"), json!("for members"));
    // Without credentials there is no cookie, hence no token.
    browser.run(&format!("source.close(); subscribe({url:?})"));
    browser.until("source.readyState == EventSource.CLOSED");
    let (status, answer) = (401, "no token: send one as ?token=... or as Authorization: Bearer ...\n");
    let told = browser.run(&format!("return ask({url:?})"));
    assert_eq!(told, json!([status, "text/plain; charset=utf-8", answer]));
    drop(browser);

    let browser = Browser::open(&other);
    browser.run(&format!("subscribe({url:?}, {{ withCredentials: true }})"));
    browser.until("source.readyState == EventSource.CLOSED");
    assert_eq!(browser.run("return [seen, opened]"), json!([[], 0]));
}

#[test]
fn a_page_publishes_by_fetch_and_can_read_every_answer() {
    let server = Server::start_with(&[], &[("ESPER_PUBLISHER_SECRET", PUBLISHER)]);
    let browser = Browser::open(&serve_page(""));
    browser.run(&format!("subscribe({:?})", server.url("/subscribe/fetching1")));
    browser.until("opened == 1");

    let url = server.url("/publish/fetching1");
    let token = token(PUBLISHER, "fetching1");
    // The browser asks beforehand (OPTIONS) whether it may send this header.
    let header = format!("Authorization: \"Bearer {token}\"");
    let publish = |url: &str, headers: &str, body: &str| {
        browser.run(&format!(
            "return ask({url:?}, {{ method: 'POST', headers: {{ {headers} }}, body: {body} }})"
        ))
    };
    // Text, whose type fetch itself sets to text/plain.
    let answer = publish(&url, &header, r#""event: testing\ndata: from fetch""#);
    assert_eq!(answer[0], 200, "{answer}");
    let headers = format!("{header}, 'Content-Type': 'application/json'");
    let answer = publish(&url, &headers, r#"JSON.stringify({ some: "data" }, null, 1)"#);
    assert_eq!(answer[0], 200, "{answer}");
    let published: Value = serde_json::from_str(answer[2].as_str().unwrap()).unwrap();
    assert_eq!(published["events"], 1);
    // A simple request, without an OPTIONS before it.
    let answer = publish(&format!("{url}?token={token}"), "", "'data: simple'");
    assert_eq!(answer[0], 200, "{answer}");
    browser.until("seen.length == 3");
    let expected =
        json!([["testing", "from fetch"], ["message", "{\n \"some\": \"data\"\n}"], ["message", "simple"]]);
    assert_eq!(browser.run("return seen.map(([name, data]) => [name, data])"), expected);
    assert_eq!(browser.run("return seen[1][2]"), published["id"]);

    let answer = publish(&url, "", "'data: x'");
    let reason = "no token: send one as ?token=... or as Authorization: Bearer ...\n";
    assert_eq!(answer, json!([401, "text/plain; charset=utf-8", reason]));
    let answer = publish(&url, &header, "'event: no data'");
    assert_eq!(answer[0], 400, "{answer}");
}

#[test]
fn the_guide_s_page_script_prints_what_it_says() {
    let server = Server::start(&[]);
    let browser = Browser::open(&serve_page(""));
    let script = block(GUIDE, "browser").replace("127.0.0.1:3000", &server.address.to_string());
    let printed = "window.printed = []; console.log = (...words) => printed.push(words);";
    browser.run(&format!("{printed} {script} window.source = source; seen.length"));
    wait_until("it is subscribed", || server.stats()["clients"] == 1);
    server.post("/publish/abcdef123", "data: plain\n\nevent: testing\ndata: {\"some\":\"data\"}");
    browser.until("printed.length == 2");
    let expected = json!([["without a name:", "plain"], ["testing:", { "some": "data" }]]);
    assert_eq!(browser.run("return printed"), expected);
}
