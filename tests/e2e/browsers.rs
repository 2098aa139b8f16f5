//! What a page is promised, in Chromium, Firefox and WebKit alike: their EventSource and their fetch, on a page of another
//! origin.

use std::thread;
use std::time::Duration;

use serde_json::json;

use crate::support::browser::{Browser, Cutter, Kind, serve_page};
use crate::support::{Publisher, Server, wait_until};

/// One promise, and what shows that it is kept.
type Case = (&'static str, fn(&Browser));

/// What each browser is put through, one after the other, each time on a page that was just loaded.
const CASES: &[Case] = &[
    ("a quiet stream is announced at once", announces_a_quiet_stream_at_once),
    ("fetch hands on a quiet stream and its events at once", fetches_a_stream_at_once),
    ("names, data and ids are those that were published", has_what_was_published),
    ("a page hears no heartbeats and no retry times", hears_only_events),
    ("a page that asks for heartbeats hears them", hears_heartbeats_if_it_asks),
    ("a stream that is cut is resumed", loses_and_doubles_nothing_when_cut),
    ("a restarted server is found again", comes_back_after_a_restart),
];

#[test]
fn chromium_keeps_what_a_page_is_promised() {
    goes_through(Kind::Chromium);
}

#[test]
fn firefox_keeps_what_a_page_is_promised() {
    goes_through(Kind::Firefox);
}

#[test]
fn webkit_keeps_what_a_page_is_promised() {
    goes_through(Kind::WebKit);
}

fn goes_through(kind: Kind) {
    let page = serve_page("");
    let browser = Browser::open_in(kind, &page);
    for (promise, case) in CASES {
        // Shown when it fails.
        println!("{kind:?}: {promise}");
        browser.visit(&page);
        case(&browser);
    }
}

/// Nothing but the head and what comes with it is ever sent.
fn announces_a_quiet_stream_at_once(browser: &Browser) {
    let server = Server::start(&["--heartbeat", "0s"]);
    browser.run(&format!("subscribe({:?})", server.url("/subscribe/quiet001")));
    browser.until("opened == 1");
    assert_eq!(browser.run("return [seen, source.readyState]"), json!([[], 1]));
}

fn fetches_a_stream_at_once(browser: &Browser) {
    let server = Server::start(&["--heartbeat", "0s"]);
    let script = "
        const answer = await fetch(URL);
        window.reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
        window.text = '';
        window.readUntil = async (end) => {
            while (!text.endsWith(end)) text += (await reader.read()).value;
            return text;
        };
        return [answer.status, answer.headers.get('Content-Type')];
    ";
    let url = server.url("/subscribe/fetched1");
    // A function that waits, in a browser where the body of a script cannot.
    let script = format!("return (async () => {{ {} }})()", script.replace("URL", &format!("{url:?}")));
    assert_eq!(browser.run(&script), json!([200, "text/event-stream; charset=utf-8"]));
    let first = browser.run("return readUntil('\\n')");
    assert!(first.as_str().unwrap().starts_with("retry:"), "{first}");
    for n in 0..3 {
        server.post("/publish/fetched1", &format!("data: {n}"));
        let text = browser.run("return readUntil('\\n\\n')");
        assert!(text.as_str().unwrap().contains(&format!("data: {n}\n")), "{text}");
        browser.run("text = ''");
    }
}

fn has_what_was_published(browser: &Browser) {
    let server = Server::start(&[]);
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

fn hears_only_events(browser: &Browser) {
    let server = Server::start(&["--heartbeat", "100ms"]);
    browser.run(&format!("subscribe({:?})", server.url("/subscribe/hearing1")));
    browser.until("opened == 1");
    let before = server.stats()["bytes"].as_u64().unwrap();
    // Of a few bytes each.
    wait_until("heartbeats are sent", || server.stats()["bytes"].as_u64().unwrap() >= before + 20);
    server.post("/publish/hearing1", "id: 1\nretry: 100\ndata: x");
    browser.until("seen.length > 0");
    assert_eq!(browser.run("return [seen, opened]"), json!([[["message", "x", "1"]], 1]));
}

fn hears_heartbeats_if_it_asks(browser: &Browser) {
    let server = Server::start(&["--heartbeat", "100ms"]);
    browser.run(&format!("subscribe({:?})", server.url("/subscribe/hearing2?heartbeat=event")));
    browser.until("seen.length >= 2");
    server.post("/publish/hearing2", "id: 1\ndata: x");
    browser.until("seen.some(([, data]) => data == 'x') && seen.at(-1)[0] == 'heartbeat'");
    // The last id stays what it was, else the page would resume after a heartbeat.
    let all = "return [seen[0], seen.at(-1), seen.filter(([name]) => name == 'message'), opened]";
    let expected = json!([["heartbeat", "{}", ""], ["heartbeat", "{}", "1"], [["message", "x", "1"]], 1]);
    assert_eq!(browser.run(all), expected);
}

/// 300 events, and a network that cuts the connection every few hundred bytes, within a line or a chunk as it happens, and
/// some before they carry anything.
fn loses_and_doubles_nothing_when_cut(browser: &Browser) {
    let seed = fastrand::u64(..);
    // Each connection begins with a time of these.
    let server = Server::start(&["--retry-min", "10ms", "--retry-max", "20ms"]);
    let mut random = fastrand::Rng::with_seed(seed);
    let mut is_first = true;
    let cutter = Cutter::start(server.address, move || {
        // The first one lives until the page has an id to resume after. None ends within the head, of some 200 bytes in one
        // packet: Chromium takes the beginning of a head for all of it, and gives up when that has no Content-Type.
        let is_refused = !std::mem::take(&mut is_first) && random.u8(..) < 50;
        Some(if is_refused { 0 } else { random.usize(500..3000) })
    });
    // When a connection fails within an event, WebKit takes what the next one brings for the rest of that event. A stream that
    // tells its place ends it first.
    let query = if browser.kind == Kind::WebKit { "?place=1" } else { "" };
    browser.run(&format!("subscribe({:?})", cutter.url(&format!("/subscribe/cutting01{query}"))));
    browser.until("opened == 1");
    let mut publisher = Publisher::new(&server);
    assert_eq!(publisher.publish("cutting01", "data: first").unwrap().status, 200);
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
fn comes_back_after_a_restart(browser: &Browser) {
    let flags = ["--retry-min", "10ms", "--retry-max", "20ms"];
    for is_same_origin in [true, false] {
        let server = Server::start(&flags);
        let cutter = Cutter::start(server.address, || None);
        browser.visit(&if is_same_origin { cutter.url("/") } else { serve_page("") });
        browser.run(&format!("subscribe({:?})", cutter.url("/subscribe/restart01")));
        browser.until("opened == 1");
        server.post("/publish/restart01", "id: before\ndata: 1");
        browser.until("seen.length == 1");

        assert!(server.stop().success());
        if browser.kind == Kind::Firefox && !is_same_origin {
            // It takes a server of another origin that it cannot reach for one that forbids the page to ask.
            browser.until("source.readyState == EventSource.CLOSED");
            return;
        }
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
}
