//! Chromium's EventSource and fetch, on a page of another origin. What each browser does is in `browsers.rs`.

use std::time::Duration;

use serde_json::{Value, json};

use crate::guide::GUIDE;
use crate::readme::block;
use crate::support::browser::{Browser, serve_page};
use crate::support::tokens::{PUBLISHER, SUBSCRIBER, token, token_for};
use crate::support::{Server, Stream, eventually, wait_until};

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
