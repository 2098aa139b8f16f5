//! The admin page in a real browser, as a person uses it.

mod away;
mod look;
mod status;

use std::thread;
use std::time::Duration;

use jsonwebtoken::Algorithm;
use serde_json::json;

use crate::guide::GUIDE;
use crate::readme::block;
use crate::support::admin_page::{fill_in, open_page, prepare, prepare_again, press, shown, until};
use crate::support::browser::Browser;
use crate::support::tokens::{BOTH, PUBLISHER, SUBSCRIBER, sign, token, token_for};
use crate::support::{Server, Stream, wait_until};

#[test]
fn subscribers_appear_on_the_page_oldest_first_and_go() {
    let server = Server::start(&["--namespaces"]);
    let browser = open_page(&server);
    let mut dogs = Stream::open_with(&server, "/subscribe/pets/dogs", &["User-Agent: first/1"]);
    until(&browser, "rows().length == 1");
    // Ages are whole seconds.
    thread::sleep(Duration::from_millis(1100));
    let both = Stream::open_with(&server, "/subscribe?topic=time&topic=pets", &["User-Agent: second/2"]);
    until(&browser, "rows().length == 2");
    let columns = [0, 1, 2, 4, 5];
    let expected = json!([
        ["pets/dogs", "127.0.0.1", "first/1", "0", "0 B"],
        ["pets, time", "127.0.0.1", "second/2", "0", "0 B"],
    ]);
    assert_eq!(browser.run(&format!("return rows({columns:?})")), expected);

    server.post("/publish/pets/dogs", "data: 1\n\ndata: 2");
    server.post("/publish/time", "data: now");
    assert_eq!(dogs.event().data, "1");
    until(&browser, "rows([4]).join() == '2,3'");
    until(&browser, "shown('tile-published') == '3' && shown('tile-delivered') == '5'");
    assert_eq!(browser.run("return $('chart-subscribers').querySelector('b').textContent"), "2");

    fill_in(&browser, "filter", "/pets/d");
    assert_eq!(browser.run("return rows([0])"), json!([["pets/dogs"]]), "only the first one's contains it");
    assert_eq!(shown(&browser, "connections-note"), "1 of 2 match.");
    fill_in(&browser, "filter", "");
    drop(dogs);
    until(&browser, "rows([0]).join() == 'pets, time'");
    drop(both);
    until(&browser, "rows().length == 0");
}

#[test]
fn what_is_published_from_the_page_arrives_there_and_elsewhere() {
    let server = Server::start(&["--namespaces"]);
    let browser = open_page(&server);
    assert_eq!(browser.run("return $('topic').value"), "pets/dogs", "something to begin with");
    let mut elsewhere = Stream::open(&server, "/subscribe/pets");
    press(&browser, "listen");
    until(&browser, "shown('listening') == 'subscribed to pets/dogs'");

    fill_in(&browser, "name", "new-dog");
    fill_in(&browser, "data", " a Corgi\n\n\u{1f415}");
    press(&browser, "publish");
    until(&browser, "tried().length == 1");
    let event = elsewhere.event();
    assert_eq!((&*event.name, &*event.data), ("new-dog", " a Corgi\n\n\u{1f415}"));
    assert_eq!(browser.run("return tried()[0]"), json!([event.name, event.id, event.data]));
    assert_eq!(shown(&browser, "published"), format!("published with the id {}", event.id));

    // A publisher's own event, without a name, of a topic below.
    server.post("/publish/pets/dogs/small", "id: \u{e9}\ndata: Terrier");
    until(&browser, "tried().length == 2");
    assert_eq!(browser.run("return tried()[1]"), json!(["message", "\u{e9}", "Terrier"]));

    press(&browser, "listen");
    until(&browser, "shown('listening') == 'not subscribed'");
    until(&browser, "rows([0]).join() == 'pets'");
    fill_in(&browser, "topic", "pets/two words");
    press(&browser, "publish");
    until(&browser, "shown('published').startsWith('refused: ')");
    press(&browser, "listen");
    until(&browser, "shown('listening').startsWith('refused: ')");
    assert_eq!(browser.run("return tried().length"), 2);
}

#[test]
fn a_wrong_token_is_refused_and_a_right_one_lets_in_and_stays_in_the_tab() {
    let server = Server::start_with(&[], BOTH);
    let browser = Browser::open(&server.url("/admin/"));
    prepare(&browser);
    until(&browser, "is_shown('door')");
    assert_eq!(
        browser.run("return [is_shown('main'), state(), shown('refusal'), is_shown('pause')]"),
        json!([false, "token needed", "", false])
    );
    // Nothing looks stopped, and it says how to get a token: with the command of the guide, which a test runs.
    assert_ne!(browser.run("return $('state').dataset.is"), "bad");
    let prompt = browser.run("return $('door').innerText");
    for part in [
        "The server runs",
        "ESPER_PUBLISHER_SECRET",
        "--publisher-secret-file",
        block(GUIDE, "admin-token").trim(),
    ] {
        assert!(prompt.as_str().unwrap().contains(part), "{part}: {prompt}");
    }
    assert!(!prompt.as_str().unwrap().contains("control"), "{prompt}");
    let wrong = token(SUBSCRIBER, "abcdef123");
    for (text, refusal) in [
        ("two words", "no token has such characters in it"),
        ("garbage", "malformed token"),
        (&wrong, "wrong signature"),
        (&sign(PUBLISHER, Algorithm::HS256, &json!({"sub": "abcdef123", "exp": 1})), "expired token"),
    ] {
        fill_in(&browser, "token", text);
        press(&browser, "door");
        until(&browser, &format!("shown('refusal').startsWith({refusal:?})"));
        assert_eq!(
            browser.run("return [is_shown('main'), state()]"),
            json!([false, "token needed"]),
            "{refusal}"
        );
    }

    let right = token(PUBLISHER, "abcdef123");
    fill_in(&browser, "token", &right);
    press(&browser, "door");
    until(&browser, "state() == 'live' && !is_shown('door') && is_shown('main')");
    let kept = "return [Object.values(sessionStorage), localStorage.length, document.cookie]";
    assert_eq!(browser.run(kept), json!([[right], 0, ""]));
    assert_eq!(browser.run("return $('token').value"), "");
    let addresses =
        "performance.getEntriesByType('resource').map((entry) => entry.name).join() + location.href";
    let seen = browser.run(&format!("return document.documentElement.outerHTML + {addresses}")).to_string();
    assert!(!seen.contains(&right), "neither shown nor in an address");

    // It lets publish, where it is for the topic; subscribing needs its own.
    press(&browser, "listen");
    until(&browser, "shown('listening').startsWith('refused: no token')");
    fill_in(&browser, "reader", &token(SUBSCRIBER, "abcdef123"));
    press(&browser, "listen");
    until(&browser, "shown('listening') == 'subscribed to abcdef123'");
    press(&browser, "publish");
    until(&browser, "tried().length == 1");
    fill_in(&browser, "topic", "another01");
    press(&browser, "publish");
    until(&browser, "shown('published').startsWith('refused: this token is for another topic')");

    browser.run("location.reload()");
    prepare_again(&browser);
    until(&browser, "state() == 'live'");
    press(&browser, "forget");
    prepare_again(&browser);
    until(&browser, "is_shown('door')");
    assert_eq!(browser.run(kept), json!([[""], 0, ""]));
}

#[test]
fn a_token_that_expires_is_asked_for_again() {
    let server = Server::start_with(&[], &[("ESPER_PUBLISHER_SECRET", PUBLISHER)]);
    let browser = Browser::open(&server.url("/admin/"));
    prepare(&browser);
    until(&browser, "is_shown('door')");
    fill_in(&browser, "token", &token_for(PUBLISHER, "abcdef123", Duration::from_secs(4)));
    press(&browser, "door");
    until(&browser, "state() == 'live'");
    until(&browser, "is_shown('door') && shown('refusal').startsWith('expired token')");
    assert_eq!(
        browser.run("return [state(), is_stale()]"),
        json!(["token needed", true]),
        "what was shown is dimmed"
    );
    assert!(shown(&browser, "why").starts_with("All numbers below are of "));
}

#[test]
fn html_from_anywhere_is_shown_as_text() {
    let html = "<script>taken = 1</script><img src=x onerror='taken = 2'><b>&amp;";
    let server = Server::start(&[]);
    let browser = open_page(&server);
    let _stream = Stream::open_with(&server, "/subscribe/abcdef123", &[&format!("User-Agent: {html}")]);
    until(&browser, "rows().length == 1");
    assert_eq!(browser.run("return rows([0, 2])"), json!([["abcdef123", html]]));

    press(&browser, "listen");
    until(&browser, "shown('listening') == 'subscribed to abcdef123'");
    server.post("/publish/abcdef123", &format!("event: {html}\nid: {html}\ndata: {html}"));
    until(&browser, "tried().length == 1");
    assert_eq!(browser.run("return tried()"), json!([[html, html, html]]));
    // No topic has such a name, so it comes back in words alone.
    press(&browser, "listen");
    fill_in(&browser, "topic", html);
    press(&browser, "listen");
    press(&browser, "publish");
    until(
        &browser,
        "shown('published').startsWith('refused: ') && shown('listening').startsWith('refused: ')",
    );
    fill_in(&browser, "filter", html);

    let intruders = "document.querySelectorAll('main :is(script, img, td b, pre b)').length";
    assert_eq!(browser.run(&format!("return [{intruders}, typeof taken]")), json!([0, "undefined"]));
    // Even if one got in, it could not run from elsewhere nor tell anybody else.
    let policy = server.get("/admin/");
    let policy = policy.field("Content-Security-Policy").unwrap();
    for part in ["default-src 'none'", "connect-src 'self'", "img-src data:"] {
        assert!(policy.contains(part), "{policy}");
    }
}

/// A text with every line end, cut in two at every place.
#[test]
fn the_page_takes_an_event_stream_apart_wherever_its_pieces_end() {
    let server = Server::start(&[]);
    let browser = open_page(&server);
    let text = "data: a\n\n: comment\r\ndata:  b\rdata\r\nid:1\r\n\r\nevent:x\rdata:c:d\r\rid: 2\nid: \0\n\nid\ndata: e\n\n\
                event: none\n\ndata: f\nid: 3\n";
    let text = json!(text);
    let parsed = browser.run(&format!(
        "const text = {text}, seen = new Set();
         for (let at = 0; at <= text.length; at++) {{
             const events = [], parse = eventParser('0', (event) => events.push(event));
             parse(text.slice(0, at));
             const id = parse(text.slice(at));
             seen.add(JSON.stringify([events.map(({{ type, data, id }}) => [type, data, id]), id]));
         }}
         return [...seen].map((each) => JSON.parse(each))"
    ));
    // Neither the last one nor its id, for its blank line has not come.
    let events =
        json!([["message", "a", "0"], ["message", " b\n", "1"], ["x", "c:d", "1"], ["message", "e", ""]]);
    assert_eq!(parsed, json!([[events, ""]]));
}

#[test]
fn the_page_can_be_paused_and_goes_on() {
    let server = Server::start(&[]);
    let browser = open_page(&server);
    browser.run("$('pause').click()");
    assert_eq!(browser.run("return [state(), shown('pause')]"), json!(["paused", "Go on"]));
    let _stream = Stream::open(&server, "/subscribe/abcdef123");
    wait_until("the server sees nobody but the stream", || server.stats()["clients"] == 1);
    assert_eq!(browser.run("return [state(), rows().length]"), json!(["paused", 0]));
    assert_eq!(browser.run("return is_stale()"), true);
    browser.run("$('pause').click()");
    until(&browser, "state() == 'live' && rows().length == 1 && !is_stale()");
}

#[test]
fn a_list_that_is_too_long_is_cut_and_the_filter_finds_what_was_cut_off() {
    let server = Server::start(&["--namespaces"]);
    let browser = open_page(&server);
    let _old: Vec<_> = (0..205).map(|n| Stream::open(&server, &format!("/subscribe/old/{n}"))).collect();
    until(&browser, "shown('connections-note') == 'These are the oldest 200 of 205; filter to see others.'");
    thread::sleep(Duration::from_millis(1100));
    let young = Stream::open_with(&server, "/subscribe/Young", &["User-Agent: newcomer/1"]);
    until(&browser, "shown('connections-note') == 'These are the oldest 200 of 206; filter to see others.'");
    assert_eq!(browser.run("return rows().length"), 200);

    fill_in(&browser, "filter", "oun");
    until(&browser, "rows([0, 2]).join() == 'Young,newcomer/1'");
    until(&browser, "shown('connections-note') == '1 of 206 match.'");
    // It is asked again and again.
    drop(young);
    until(&browser, "shown('connections-note') == '0 of 205 match.'");
    fill_in(&browser, "filter", "old/");
    until(&browser, "shown('connections-note') == 'These are the oldest 200 that match; there are more.'");
}
