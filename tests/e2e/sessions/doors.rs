//! Which port serves what, to whom, and with which token.

use jsonwebtoken::Algorithm;
use serde_json::json;

use super::control::{TOPIC, ask, check_private, check_refused, request, routes};
use super::refusals::post;
use crate::support::sessions::{FORM, SECRET, Sessions, encode, stream_at};
use crate::support::tokens::{BOTH, PUBLISHER, SUBSCRIBER, bearer, now_s, sign};
use crate::support::{
    Answer, Client, Server, Stream, TempDir, check_refusal, check_unauthorized, eventually,
};

/// A control token's file.
pub(super) fn token_file(dir: &TempDir, text: &str) -> String {
    let path = dir.0.join("control-token");
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

pub(super) const CONTROL_TOKEN: &str = "the-control-token-4f1e";

/// All of an answer but when it was sent.
fn undated(answer: &Answer) -> (Vec<&str>, &str) {
    (answer.head.lines().filter(|line| !line.starts_with("Date:")).collect(), &answer.body)
}

#[test]
fn on_the_public_port_control_routes_are_answered_as_if_they_did_not_exist() {
    let control =
        ["/token/", "/token", "/emit/", "/emit", "/sessions/", "/sessions", "/disconnect/", "/disconnect"];
    let insiders = [
        "/publish/control01",
        "/stats",
        "/metrics",
        "/debug/vars",
        "/admin",
        "/admin/",
        "/admin/status.json",
        "/admin/events",
    ];
    for (flags, hidden, served) in [
        // Without a control port too: nobody opened one.
        (&[][..], &control[..], &insiders[..]),
        (&["--bind-control", "127.0.0.1:0"], &[&control[..], &insiders].concat(), &[]),
        (&["--bind-control", "127.0.0.1:0", "--public-publish"], &control, &insiders),
    ] {
        let server = Server::start_with(flags, &[("ESPER_SESSION_SECRET", SECRET)]);
        let body = "userId=alex&channel=chat&data=x";
        for method in ["GET", "HEAD", "POST", "PUT", "OPTIONS"] {
            let ask = |path: &str| {
                let mut client = Client::new(&server);
                let request = String::from_utf8(post(path, FORM, body)).unwrap().replacen("POST", method, 1);
                client.send(request);
                if method == "HEAD" { client.head() } else { client.answer() }
            };
            let unknown = ask("/nowhere");
            assert_eq!(unknown.status, 404);
            for path in hidden {
                for path in [(*path).to_owned(), format!("{path}?channel=chat&token=x")] {
                    let answer = ask(&path);
                    assert_eq!(undated(&answer), undated(&unknown), "{method} {path} with {flags:?}");
                }
            }
            // Which is not to say what there is elsewhere.
            for path in &control {
                assert!(!unknown.body.contains(path), "{}", unknown.body);
            }
            for path in served {
                assert_ne!(ask(path).status, 404, "{method} {path} with {flags:?}");
            }
        }
        assert_eq!(server.get("/events/").status, 401, "it is for the public");
        assert_eq!(server.get("/healthz").status, 200);
    }
}

#[test]
fn without_a_session_secret_there_are_no_sessions() {
    let server = Server::start_with(&["--bind-control", "127.0.0.1:0"], &[]);
    let sessions = Sessions::of(server);
    let token =
        sign(SECRET, Algorithm::HS256, &json!({"userId": "alex", "channel": "chat", "exp": now_s() + 600}));
    for path in ["/events", "/events/"] {
        for fields in [&[][..], &[&*bearer(&token)]] {
            check_refusal(&sessions.server.request("GET", path, fields, ""), 404, "no sessions");
            check_refused(&sessions.control("GET", path, fields, ""), 404, "");
        }
    }
    let form = "userId=alex&channel=chat&data=x";
    for path in ["/token/", "/emit/", "/disconnect/"] {
        let answer = sessions.control("POST", path, &[FORM], form);
        assert!(matches!(answer.status, 403 | 404), "{path}: {answer:?}");
        check_refused(&answer, answer.status, "");
    }
}

#[test]
fn with_a_control_token_nothing_but_health_and_the_page_is_served_without_it() {
    let dir = TempDir::new();
    let file = token_file(&dir, &format!("{CONTROL_TOKEN}\n"));
    let variables = [BOTH, &[("ESPER_SESSION_SECRET", SECRET)]].concat();
    let sessions = Sessions::start_with(&["--control-token-file", &file], &variables);
    let exp = now_s() + 600;
    let sign = |secret, claims| sign(secret, Algorithm::HS256, &claims);
    let publisher = sign(PUBLISHER, json!({"sub": "*", "exp": exp}));
    let subscriber = sign(SUBSCRIBER, json!({"sub": "*", "exp": exp}));
    let session = sign(SECRET, json!({"userId": "alex", "channel": "chat", "exp": exp}));
    let mut lacking: Vec<Vec<String>> = vec![
        vec![],
        vec!["Authorization: Bearer ".to_owned()],
        vec![format!("Authorization: Basic {CONTROL_TOKEN}")],
        vec![format!("Authorization: {CONTROL_TOKEN}")],
        vec![format!("Cookie: esper_token={CONTROL_TOKEN}")],
        vec![bearer(&CONTROL_TOKEN[1..])],
        vec![bearer(&CONTROL_TOKEN[..CONTROL_TOKEN.len() - 1])],
        vec![bearer(&format!("{CONTROL_TOKEN}x"))],
        vec![bearer(&CONTROL_TOKEN.to_uppercase())],
        vec![bearer(&format!("x {CONTROL_TOKEN}"))],
        vec![bearer("wrong")],
    ];
    // No other token is it.
    lacking.extend([&publisher, &subscriber, &session].map(|token| vec![bearer(token)]));
    for fields in &lacking {
        let fields: Vec<&str> = fields.iter().map(String::as_str).collect();
        for (method, target, body) in routes() {
            let is_open = target == "/healthz" || target == "/admin/";
            println!("{method} {target} {fields:?}");
            let answer = ask(sessions.control, method, &target, &fields, &body);
            if is_open {
                assert_eq!(answer.status, 200, "{answer:?}");
                check_private(&answer);
                assert_eq!(ask(sessions.control, "HEAD", &target, &fields, "").status, 200);
            } else {
                check_refused(&answer, 401, "token");
                assert_eq!(answer.field("WWW-Authenticate"), Some("Bearer"));
                assert!(!answer.body.contains(CONTROL_TOKEN));
            }
            // No page of another origin is to ask first whether it may.
            assert_eq!(ask(sessions.control, "OPTIONS", &target, &fields, &body).status, 401);
        }
    }
    for query in ["token=wrong", "token=", "Token=the-control-token-4f1e"] {
        let answer = ask(sessions.control, "GET", &format!("/sessions/?channel=chat&{query}"), &[], "");
        check_refused(&answer, 401, "token");
    }
    assert!(!sessions.server.log().contains(CONTROL_TOKEN));
}

#[test]
fn who_has_the_control_token_is_asked_for_no_publishers_or_subscribers() {
    let dir = TempDir::new();
    let file = token_file(&dir, CONTROL_TOKEN);
    let variables = [BOTH, &[("ESPER_SESSION_SECRET", SECRET)]].concat();
    let sessions = Sessions::start_with(&["--control-token-file", &file], &variables);
    let with_token = bearer(CONTROL_TOKEN);
    // A session's stream is somebody's: it needs a session's token too.
    let others = |target: &str| !target.starts_with("/events");
    for (method, target, body) in routes().into_iter().filter(|(_, target, _)| others(target)) {
        let status = if target == "/nowhere" { 404 } else { 200 };
        let query = format!("{target}{}token={CONTROL_TOKEN}", if target.contains('?') { '&' } else { '?' });
        let by_field = ask(sessions.control, method, &target, &[&with_token], &body);
        let by_query = ask(sessions.control, method, &query, &[], &body);
        for answer in [by_field, by_query] {
            assert_eq!(answer.status, status, "{method} {target}: {answer:?}");
            check_private(&answer);
        }
    }
    // Whose stream it is, a session's token says.
    let session =
        sign(SECRET, Algorithm::HS256, &json!({"userId": "alex", "channel": "chat", "exp": now_s() + 600}));
    let stream = ask(sessions.control, "GET", &format!("/events/?token={session}"), &[&with_token], "");
    assert_eq!(stream.status, 200, "{stream:?}");
    check_refused(&ask(sessions.control, "GET", "/events/", &[&with_token], ""), 401, "token");
    // It is no key to the public port.
    let public = ask(sessions.public, "GET", &format!("/subscribe/{TOPIC}"), &[&with_token], "");
    assert_eq!(public.status, 401);
}

#[test]
fn without_a_control_token_the_control_port_asks_for_the_same_tokens_as_the_public_one() {
    let variables = [BOTH, &[("ESPER_SESSION_SECRET", SECRET)]].concat();
    let sessions = Sessions::start_with(&[], &variables);
    let [subscriber, publisher] = [SUBSCRIBER, PUBLISHER].map(|secret| {
        let claims = json!({"sub": TOPIC, "exp": now_s() + 600});
        bearer(&sign(secret, Algorithm::HS256, &claims))
    });
    for (method, target, body, right) in [
        ("GET", format!("/subscribe/{TOPIC}"), "", &subscriber),
        ("POST", format!("/publish/{TOPIC}"), "data: x", &publisher),
        ("GET", "/stats".to_owned(), "", &publisher),
        ("GET", "/metrics".to_owned(), "", &publisher),
        ("GET", "/debug/vars".to_owned(), "", &publisher),
        ("GET", "/admin/status.json".to_owned(), "", &publisher),
    ] {
        check_refused(&ask(sessions.control, method, &target, &[], body), 401, "no token");
        let wrong = if *right == subscriber { &publisher } else { &subscriber };
        check_refused(&ask(sessions.control, method, &target, &[wrong], body), 401, "wrong signature");
        assert_eq!(ask(sessions.control, method, &target, &[right], body).status, 200, "{target}");
    }
    assert_eq!(sessions.emit("alex", "chat", "data: x")["streams"], 0);
}

#[test]
fn no_auth_opens_topics_and_neither_sessions_nor_what_the_control_token_guards() {
    let dir = TempDir::new();
    let file = token_file(&dir, CONTROL_TOKEN);
    let variables = [BOTH, &[("ESPER_SESSION_SECRET", SECRET)]].concat();
    let sessions = Sessions::start_with(&["--no-auth", "--control-token-file", &file], &variables);
    assert_eq!(ask(sessions.public, "GET", &format!("/subscribe/{TOPIC}"), &[], "").status, 200);
    check_unauthorized(&sessions.server.get("/events/"), "no token");
    for (method, target, body) in routes() {
        if target != "/healthz" && target != "/admin/" {
            check_refused(&ask(sessions.control, method, &target, &[], &body), 401, "token");
        }
    }
}

#[test]
fn topics_and_sessions_are_the_same_on_both_ports() {
    let sessions = Sessions::start(&["--public-publish"]);
    let mut streams: Vec<Stream> = Vec::new();
    for address in [sessions.public, sessions.control] {
        let subscribe = request(address, "GET", &format!("/subscribe/{TOPIC}"), &[], "");
        streams.push(Stream::send(address, &subscribe));
    }
    for (n, address) in [sessions.public, sessions.control].into_iter().enumerate() {
        let answer = ask(address, "POST", &format!("/publish/{TOPIC}"), &[], &format!("data: {n}"));
        assert_eq!(answer.status, 200, "{answer:?}");
        for stream in &mut streams {
            assert_eq!(stream.event().data, n.to_string());
        }
    }
    let token = sessions.token("alex", "chat");
    let mut own =
        [sessions.public, sessions.control].map(|address| stream_at(address, "/events/", &token, ""));
    assert_eq!(sessions.emit("alex", "chat", "data: hello")["streams"], 2);
    for stream in &mut own {
        assert_eq!(stream.event().data, "hello");
    }
}

#[test]
fn no_secret_and_no_token_is_ever_shown() {
    // Every way in, right and wrong, with the most talkative log.
    for format in ["text", "json"] {
        let dir = TempDir::new();
        let file = token_file(&dir, CONTROL_TOKEN);
        let flags = ["--control-token-file", &file, "--log-level", "debug", "--log-format", format];
        let sessions = Sessions::start(&flags);
        let operator = bearer(CONTROL_TOKEN);
        let session = encode(&[("userId", "alex"), ("channel", "chat")]);
        let minted = sessions.control("POST", "/token/", &[FORM, &operator], &session).body;
        let forged =
            sign("another", Algorithm::HS256, &json!({"userId": "a", "channel": "c", "exp": now_s() + 60}));
        let mut shown = String::new();
        for token in [&minted, &forged, CONTROL_TOKEN, "garbage-that-nobody-may-see"] {
            let (field, cookie) = (bearer(token), format!("Cookie: esper_token={token}"));
            for address in [sessions.public, sessions.control] {
                for (method, target, body) in routes() {
                    // A minted token is what it is answered with.
                    if target.starts_with("/token") && token == CONTROL_TOKEN {
                        continue;
                    }
                    let query =
                        format!("{target}{}token={token}", if target.contains('?') { '&' } else { '?' });
                    for (target, fields) in [(&query, &[][..]), (&target, &[&*field]), (&target, &[&*cookie])]
                    {
                        shown += &format!("{:?}", ask(address, method, target, fields, &body));
                    }
                }
                let form = encode(&[("userId", token), ("channel", ""), ("exp", token), ("payload", token)]);
                for path in ["/token/", "/emit/", "/disconnect/"] {
                    shown += &format!("{:?}", ask(address, "POST", path, &[&operator], &form));
                }
            }
        }
        // What is there of an open stream, too.
        let _stream = sessions.resume(&minted, "");
        for target in ["/stats", "/metrics", "/debug/vars", "/admin/status.json", "/sessions/?channel=chat"] {
            shown += &ask(sessions.control, "GET", target, &[&operator], "").body;
        }
        sessions.server.terminate();
        shown += &eventually("it has said all it has to say", || {
            let log = sessions.server.log();
            log.contains("stopped").then_some(log)
        });
        let parts = [&minted, &forged].map(|token| token.split('.').skip(1));
        for part in parts.into_iter().flatten().chain([SECRET, CONTROL_TOKEN, "garbage-that"]) {
            assert!(!shown.contains(part), "{part}: {shown}");
        }
    }
}
