//! Sessions behind the real Apache and nginx, as Simple SSE Server's README has them and as deploy/ does; in a real browser
//! with the polyfill of that README, and with an EventSource.

use std::fs;
use std::net::SocketAddr;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::support::browser::{Browser, Cutter};
use crate::support::proxy::{Proxy, apache, nginx, replace};
use crate::support::sessions::{Sessions, stream_at};
use crate::support::{Answer, Server, Stream, esper, eventually, exchange, wait_until};

const APACHE: &str = include_str!("../../../deploy/apache.conf");
const NGINX: &str = include_str!("../../../deploy/nginx-sessions.conf");

/// Simple SSE Server's, but for TLS.
const SEED_APACHE: &str = "
<VirtualHost *:80>
    ServerName yoursite.com
    ProxyPass /api/sse/ http://127.0.0.1:8000/events/
    ProxyPassReverse /api/sse/ http://127.0.0.1:8000/events/
    ProxyPreserveHost On
</VirtualHost>
";

/// What Apache answers while the server is away, as the configuration's first lines have it made but for the time.
const AWAY: &str = "Status: 200 OK\nContent-Type: text/event-stream\n\nretry: 10\n\n";

const POLYFILL: &str = include_str!("../pages/event-source-polyfill/eventsource.min.js");
const SEED_PAGE: &str = include_str!("../pages/simple-sse.html");
const PAGE: &str = include_str!("../pages/sessions.html");

/// Behind Simple SSE Server's configuration, the one here, and that through a compressing Apache; and nginx.
fn all(server: SocketAddr) -> [Proxy; 4] {
    let compressed = replace(APACHE, "ServerName", "SetOutputFilter DEFLATE\nServerName");
    [apache(SEED_APACHE, server), apache(APACHE, server), apache(&compressed, server), start_nginx(server)]
}

fn start_nginx(server: SocketAddr) -> Proxy {
    nginx(NGINX, [server; 2])
}

#[test]
fn the_walk_through_of_simple_sse_server_goes_through_with_its_flags_its_apache_and_its_page() {
    let flags = ["-bind", "127.0.0.1:0", "-bindctl", "127.0.0.1:0", "-secret", "MySuperPassword42"];
    let sessions = Sessions::of(Server::spawn(esper(&flags, &[])));
    let apache = apache(SEED_APACHE, sessions.public);
    let control = |path: &str| format!("http://{}{path}", sessions.control);

    let token = curl(&["-d", "userId=alex&channel=chat&exp=86400", &control("/token/")]);
    let browser = open(&apache, &replace(SEED_PAGE, "YOUR_JWT_TOKEN", &token));
    wait_until("the page is subscribed", || sessions.listed("chat")["users"][0]["userId"] == "alex");
    let mut count = 0;
    for (user, channel, text) in [
        ("bob", "chat", "not for alex"),
        ("alex", "news", "nor this"),
        ("alex", "chat", "hi"),
        ("*", "chat", "all"),
    ] {
        let fields = format!("userId={user}&channel={channel}");
        let payload = format!("payload=event: message\ndata: {{\"text\":\"{text}\"}}");
        let answer = curl(&["-d", &fields, "--data-urlencode", &payload, &control("/emit/")]);
        let answer: Value = serde_json::from_str(&answer).unwrap();
        let streams = u64::from(channel == "chat" && user != "bob");
        assert_eq!((&answer["events"], &answer["streams"]), (&json!(1), &json!(streams)), "{user} {channel}");
        count += streams;
        browser.until(&format!("seen.length == {count}"));
    }
    assert_eq!(browser.run("return seen"), json!([{ "text": "hi" }, { "text": "all" }]));
}

#[test]
fn each_event_comes_through_at_once_and_a_last_event_id_resumes() {
    let sessions = Sessions::start(&["--heartbeat", "200ms"]);
    let token = sessions.token("alex", "chat");
    for (n, proxy) in all(sessions.public).iter().enumerate() {
        let mut stream = subscribe(proxy, &token, "");
        let mut ids = Vec::new();
        // Each is emitted only when the one before has come out: a proxy that holds back even a little waits for ever.
        for (number, user) in ["alex", "*", "alex", "*"].into_iter().enumerate() {
            sessions.emit(user, "chat", &format!("event: e{number}\ndata: {n} {number}"));
            let event = stream.event();
            assert_eq!((event.name, event.data), (format!("e{number}"), format!("{n} {number}")));
            ids.push(event.id);
        }
        // The comments of a quiet stream come through, else the proxy would take it for dead.
        while !stream.read_some().expect("a heartbeat").starts_with(':') {}
        let long = "0123456789".repeat(50_000);
        sessions.emit("alex", "chat", &format!("data: {long}"));
        assert_eq!(stream.event().data, long);

        let mut resumed = subscribe(proxy, &token, &ids[1]);
        assert_eq!(resumed.event().data, format!("{n} 2"));
        assert_eq!(resumed.event().data, format!("{n} 3"));
    }
}

/// Deflate gathers what it gets into blocks; Chromium says that it takes them, and undoes them as they come.
#[test]
fn an_event_comes_through_a_compressing_apache_at_once() {
    let sessions = Sessions::start(&[]);
    let [_, _, apache, _] = all(sessions.public);
    let browser = open(&apache, PAGE);
    for way in ["header", "query"] {
        browser.run(&format!("follow({way:?}, {:?})", sessions.token(way, "zipped")));
        browser.until(&format!("sources.{way}.readyState == 1"));
        for n in 1..=3 {
            sessions.emit(way, "zipped", &format!("data: {n}"));
            browser.until(&format!("seen.{way}.length == {n}"));
        }
    }
    let encoding = "return (await fetch('/api/sse/?token=' + arguments[0])).headers.get('Content-Encoding')";
    let script = encoding.replace("arguments[0]", &format!("{:?}", sessions.token("x", "zipped")));
    assert_eq!(browser.run(&script), "gzip");
}

#[test]
fn a_page_subscribes_through_each_proxy_by_header_by_query_and_by_cookie() {
    let sessions = Sessions::start(&[]);
    for proxy in all(sessions.public) {
        let browser = open(&proxy, PAGE);
        for way in ["header", "query", "cookie"] {
            browser.run(&format!("follow({way:?}, {:?})", sessions.token(way, "ways")));
            browser.until(&format!("sources.{way}.readyState == 1"));
        }
        sessions.emit("*", "ways", "data: to all");
        for way in ["cookie", "query", "header"] {
            sessions.emit(way, "ways", &format!("event: testing\ndata: to {way}"));
        }
        for way in ["header", "query", "cookie"] {
            browser.until(&format!("seen.{way}.length == 2"));
            let expected = json!([["message", "to all"], ["testing", format!("to {way}")]]);
            assert_eq!(browser.run(&format!("return seen.{way}")), expected);
        }
        assert_eq!(sessions.disconnect("*", "ways"), 3);
    }
}

/// A network between Apache and esper that cuts every stream after some hundred bytes, within an event as it happens.
#[test]
fn a_page_with_the_polyfill_loses_and_doubles_nothing_when_its_streams_are_cut() {
    const EVENTS: usize = 40;
    let seed = fastrand::u64(..);
    let mut random = fastrand::Rng::with_seed(seed);
    let sessions = Sessions::start(&[]);
    // None ends within the head: Apache answers that with 502, on which the polyfill gives up.
    let cutter = Cutter::start(sessions.public, move || Some(random.usize(1000..2000)));
    let apache = apache(SEED_APACHE, cutter.address);
    let browser = open(&apache, &replace(SEED_PAGE, "YOUR_JWT_TOKEN", &sessions.token("alex", "cut")));
    wait_until("the page is subscribed", || sessions.listed("cut")["streams"] == 1);
    for n in 0..EVENTS {
        let user = ["alex", "*"][n % 2];
        sessions.emit(user, "cut", &format!("data: {{\"n\":{n},\"padding\":\"{}\"}}", "x".repeat(100)));
        sessions.emit("bob", "cut", "data: {\"n\":\"somebody else's\"}");
    }
    browser.until(&format!("seen.length >= {EVENTS}"));
    let expected: Vec<_> = (0..EVENTS).collect();
    assert_eq!(browser.run("return seen.map(({ n }) => n)"), json!(expected), "seed {seed}");
    assert!(cutter.cuts() >= 3, "{} cuts of {} connections", cutter.cuts(), cutter.connections());
}

#[test]
fn pages_come_back_after_a_restart_of_the_server_and_learn_of_the_gap() {
    for start in [(|server| apache(APACHE, server)) as fn(SocketAddr) -> Proxy, start_nginx] {
        let flags = ["--retry-min", "10ms", "--retry-max", "20ms"];
        let sessions = Sessions::start(&flags);
        let port = sessions.public.port().to_string();
        let proxy = start(sessions.public);
        fs::write(proxy.dir.0.join("www/sse-away"), AWAY).unwrap();
        let ways = ["header", "query", "cookie"];
        let tokens = ways.map(|way| sessions.token(way, "restart"));
        let browser = open(&proxy, PAGE);
        for (way, token) in ways.iter().zip(&tokens) {
            browser.run(&format!("follow({way:?}, {token:?})"));
            browser.until(&format!("sources.{way}.readyState == 1"));
        }
        sessions.emit("*", "restart", "data: before");
        for way in ways {
            browser.until(&format!("seen.{way}.length == 1"));
        }

        assert!(sessions.server.stop().success());
        let log = proxy.dir.0.join("access.log");
        let tries = || fs::read_to_string(&log).unwrap_or_default().matches("/api/sse/").count();
        let before = tries();
        wait_until("the pages have tried again in vain", || tries() >= before + 10);
        let closed = "return Object.values(sources).filter((source) => source.readyState == 2).length";
        assert_eq!(browser.run(closed), 0, "none gave up");

        let sessions = Sessions::start(&[&flags[..], &["--port", &port]].concat());
        sessions.emit("*", "restart", "data: after");
        for way in ways {
            browser.until(&format!("seen.{way}.length >= 3"));
            let seen = browser.run(&format!("return seen.{way}"));
            let types: Vec<_> = seen.as_array().unwrap().iter().map(|event| event[0].clone()).collect();
            assert_eq!(types, ["message", "gap", "message"], "{way}: {seen}");
            assert_eq!((&seen[0][1], &seen[2][1]), (&json!("before"), &json!("after")), "{way}");
        }
    }
}

#[test]
fn a_client_that_leaves_frees_its_place() {
    // nginx looks for it, Apache notices when it has something to send: the second comment after.
    for heartbeat in ["200ms", "0s"] {
        let sessions = Sessions::start(&["--heartbeat", heartbeat]);
        let token = sessions.token("alex", "leaving");
        let mut proxies = vec![start_nginx(sessions.public)];
        if heartbeat != "0s" {
            proxies.extend([apache(SEED_APACHE, sessions.public), apache(APACHE, sessions.public)]);
        }
        for proxy in proxies {
            let stream = subscribe(&proxy, &token, "");
            assert_eq!(sessions.listed("leaving")["streams"], 1);
            drop(stream);
            wait_until("its place is free", || sessions.listed("leaving")["streams"] == 0);
        }
    }
}

#[test]
fn refusals_come_through_as_they_are_and_no_path_leads_out_of_the_sessions() {
    let sessions = Sessions::start(&["--public-publish"]);
    let token = sessions.token("alex", "paths");
    for proxy in all(sessions.public) {
        let get = |path: &str| Answer::parse(&exchange(proxy.address, "GET", path, &[], ""));
        for path in ["/api/sse/", "/api/sse/?token=x", "/api/sse/?token=x.y.z"] {
            let (there, here) = (get(path), sessions.server.get(&path.replace("/api/sse", "/events")));
            assert_eq!((here.status, there.status), (401, 401), "{path}");
            assert!(there.body.contains(here.body.trim_end()), "{path}: {there:?}");
            assert_eq!(there.field("WWW-Authenticate"), here.field("WWW-Authenticate"), "{path}");
        }
        for path in ["publish/abcdef123", "stats", "admin/", "token/", "emit/", "sessions/", "healthz"] {
            for before in
                ["/", "/api/sse/../", "/api/sse/%2e%2e/", "/api/sse/..%2f", "/api/sse//../../", "/api/sse/"]
            {
                let path = format!("{before}{path}?token={token}");
                let answer = get(&path);
                assert!([400, 404].contains(&answer.status), "{path}: {answer:?}");
            }
        }
    }
}

#[test]
fn the_access_logs_hold_no_token() {
    let sessions = Sessions::start(&[]);
    let token = sessions.token("alex", "logging");
    for proxy in [apache(APACHE, sessions.public), start_nginx(sessions.public)] {
        let path = format!("/api/sse/?token={token}");
        let head = exchange(proxy.address, "HEAD", &path, &[], "");
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        let log = eventually("the request is logged", || {
            let log = fs::read_to_string(proxy.dir.0.join("access.log")).ok()?;
            log.ends_with('\n').then_some(log)
        });
        assert!(log.contains("HEAD /api/sse/ 200") && !log.contains(&token), "{log}");
    }
}

/// A session's stream through a proxy.
#[track_caller]
fn subscribe(proxy: &Proxy, token: &str, last_event_id: &str) -> Stream {
    let stream = stream_at(proxy.address, "/api/sse/", token, last_event_id);
    assert_eq!(
        (stream.head.status, stream.head.field("Content-Type")),
        (200, Some("text/event-stream; charset=utf-8"))
    );
    stream
}

/// Serves a page and the polyfill beside the streams, and opens it.
fn open(proxy: &Proxy, page: &str) -> Browser {
    let www = proxy.dir.0.join("www");
    fs::write(www.join("page.html"), page).unwrap();
    fs::create_dir_all(www.join("js")).unwrap();
    fs::write(www.join("js/eventsource.min.js"), POLYFILL).unwrap();
    Browser::open(&format!("http://{}/page.html", proxy.address))
}

/// What curl prints.
fn curl(arguments: &[&str]) -> String {
    let mut command = Command::new("curl");
    command.args(["-sS", "--fail-with-body", "--noproxy", "*"]).args(arguments).stdin(Stdio::null());
    let output = command.output().expect("curl is installed");
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    assert!(output.status.success(), "{text} {}", String::from_utf8_lossy(&output.stderr));
    text
}
