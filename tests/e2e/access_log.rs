//! The access log: a line for each request and for each stream's end, no secret in any, and nobody who waits for it.

mod ends;
mod files;

use std::io::Write as _;
use std::path::PathBuf;

use serde_json::Value;

use crate::support::sessions::SECRET;
use crate::support::tokens::{BOTH, PUBLISHER, SUBSCRIBER, bearer, token};
use crate::support::{
    Answer, Client, Server, Stream, TempDir, check_refusal, eventually, exchange, run, wait_until,
};

const DROPPED: &str = "esper_access_log_lines_dropped_total";

/// A server that logs to a file.
struct Logged {
    server: Server,
    dir: TempDir,
}

impl Logged {
    fn start(flags: &[&str], variables: &[(&str, &str)]) -> Logged {
        let dir = TempDir::new();
        let path = dir.0.join("access.log");
        let flags = [&["--access-log", path.to_str().unwrap()], flags].concat();
        Logged { server: Server::start_with(&flags, variables), dir }
    }

    fn path(&self) -> PathBuf {
        self.dir.0.join("access.log")
    }

    /// The whole lines so far.
    fn lines(&self) -> Vec<Value> {
        lines(&std::fs::read_to_string(self.path()).unwrap())
    }

    /// Waits for the one line for which this holds.
    #[track_caller]
    fn line(&self, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
        eventually(what, || self.lines().into_iter().find(&holds))
    }

    /// Waits for the line of the request for this path.
    #[track_caller]
    fn request(&self, path: &str) -> Value {
        self.line(path, |line| line["event"] == "request" && line["path"] == path)
    }

    /// Waits for the line of the end of the stream at this path.
    #[track_caller]
    fn end(&self, path: &str) -> Value {
        self.line(path, |line| line["event"] == "stream_end" && line["path"] == path)
    }
}

/// The whole lines of a log, each of which is JSON.
fn lines(text: &str) -> Vec<Value> {
    let whole = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
    whole.map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON: {line:?}"))).collect()
}

#[test]
fn a_publish_a_stream_and_its_end_have_a_line_each_with_all_fields() {
    let logged = Logged::start(&["--trusted-proxy", "127.0.0.1", "--namespaces"], &[]);
    let server = &logged.server;
    let fields = [
        "Origin: https://app.example.org",
        "User-Agent: a \"browser\" \u{e9}",
        "X-Forwarded-For: 192.0.2.7, 198.51.100.9",
    ];
    let mut stream = Stream::open_with(server, "/subscribe?topic=pets/dogs&topic=cars", &fields);
    let answer = server.request("POST", "/publish/pets/dogs", &fields, "data: one");
    assert_eq!((answer.status, stream.event().data), (200, "one".to_owned()));

    let line = logged.request("/publish/pets/dogs");
    let time = humantime::parse_rfc3339(line["time"].as_str().unwrap()).unwrap();
    assert!(time.elapsed().unwrap().as_secs() < 60 && line["time"].as_str().unwrap().len() == 24, "{line}");
    assert!(line["duration_ms"].as_f64().unwrap() > 0.0, "{line}");
    let sent = answer.head.len() + "\r\n\r\n".len() + answer.body.len();
    for (field, value) in [
        ("event", "request".into()),
        ("client", "198.51.100.9".into()),
        ("method", "POST".into()),
        ("kind", "publish".into()),
        ("status", 200.into()),
        ("bytes", sent.into()),
        ("origin", "https://app.example.org".into()),
        ("user_agent", "a \"browser\" \u{e9}".into()),
        ("refused", Value::Null),
        ("topics", Value::Null),
    ] {
        assert_eq!(line[field], value, "{field} in {line}");
    }

    let line = logged.request("/subscribe");
    let head = stream.head.head.len() + "\r\n\r\n".len();
    assert!(line["bytes"].as_u64() >= Some(head as u64), "{line}");
    for (field, value) in [
        ("client", "198.51.100.9".into()),
        ("method", "GET".into()),
        ("kind", "subscribe".into()),
        ("status", 200.into()),
        ("topics", serde_json::json!(["pets/dogs", "cars"])),
        ("topic_count", 2.into()),
        ("resumed", false.into()),
    ] {
        assert_eq!(line[field], value, "{field} in {line}");
    }

    let id = server.publish("cars", "data: two");
    drop(stream);
    let line = logged.end("/subscribe");
    for (field, value) in [
        ("client", "198.51.100.9".into()),
        ("kind", "subscribe".into()),
        ("topics", serde_json::json!(["pets/dogs", "cars"])),
        ("reason", "left".into()),
        ("origin", "https://app.example.org".into()),
        ("status", Value::Null),
    ] {
        assert_eq!(line[field], value, "{field} in {line}");
    }
    assert!(line["events"].as_u64() >= Some(1) && line["bytes"].as_u64() > Some(head as u64), "{line}");
    assert!(line["duration_ms"].as_f64() > Some(0.0), "{line}");

    drop(Stream::resume(server, "cars", &id));
    assert_eq!(logged.end("/subscribe/cars")["resumed"], true);
    drop(Stream::open(server, "/subscribe"));
    let all = logged.line("of everything", |line| line["topics"] == serde_json::json!(["*"]));
    assert_eq!(all["topic_count"], 1);
}

#[test]
fn each_refusal_has_a_line_with_its_status() {
    let limits =
        ["--head-max", "2048", "--body-max", "1024", "--head-timeout", "300ms", "--idle-timeout", "300ms"];
    let logged = Logged::start(&limits, &[]);
    let server = &logged.server;
    for (request, status, method, path) in [
        ("GET /nowhere?x=1 HTTP/1.1\r\nHost: h\r\n\r\n", 404, Some("GET"), Some("/nowhere")),
        (
            "DELETE /publish/abcdefgh HTTP/1.1\r\nHost: h\r\n\r\n",
            405,
            Some("OTHER"),
            Some("/publish/abcdefgh"),
        ),
        (
            "GET /subscribe/short?place=9 HTTP/1.1\r\nHost: h\r\n\r\n",
            400,
            Some("GET"),
            Some("/subscribe/short"),
        ),
        ("nonsense\r\n\r\n", 400, None, None),
        ("GET /%zz HTTP/1.1\r\nHost: h\r\n\r\n", 400, Some("GET"), Some("/%zz")),
        ("POST /publish/toolarge1 HTTP/1.1\r\nHost: h\r\nContent-Length: 2000\r\n\r\n", 413, None, None),
        (&format!("GET /{} HTTP/1.1\r\n", "x".repeat(3000)), 414, None, None),
        (&format!("GET / HTTP/1.1\r\nHost: h\r\nX: {}\r\n\r\n", "x".repeat(3000)), 431, None, None),
    ] {
        let answer = Answer::parse(&server.raw(request));
        assert_eq!(answer.status, status, "{request:?}");
        let line = logged.line(request, |line| line["status"] == status && line["path"] == path.into_value());
        assert_eq!((&line["method"], &line["refused"]), (&method.into_value(), &true.into()), "{line}");
        assert_eq!((&line["client"], &line["kind"]), (&"127.0.0.1".into(), &Value::Null), "{line}");
    }
    // A head that does not end in time, and a body that never comes.
    let mut slow = server.connect();
    slow.write_all(b"GET / HT").unwrap();
    let line = logged.line("408", |line| line["status"] == 408);
    assert!(line["duration_ms"].as_f64() >= Some(300.0), "{line}");
    let mut leaving = server.connect();
    leaving
        .write_all(b"POST /publish/unfinished HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\nda")
        .unwrap();
    drop(leaving);
    let line = logged.request("/publish/unfinished");
    assert_eq!((&line["status"], &line["bytes"]), (&Value::Null, &0.into()), "nothing was answered: {line}");
}

/// A field that may be missing, as [`Value`] has it.
trait IntoValue {
    fn into_value(self) -> Value;
}

impl IntoValue for Option<&str> {
    fn into_value(self) -> Value {
        self.map_or(Value::Null, Value::from)
    }
}

#[test]
fn pipelined_requests_have_a_line_each_in_order() {
    let logged = Logged::start(&[], &[]);
    let paths: Vec<String> = (0..50).map(|number| format!("/publish/pipeline{number:02}")).collect();
    let mut client = Client::at(logged.server.address);
    for path in &paths {
        client.send(format!("POST {path} HTTP/1.1\r\nHost: h\r\nContent-Length: 7\r\n\r\ndata: x"));
    }
    wait_until("all lines", || logged.lines().len() == 50);
    let logged: Vec<String> =
        logged.lines().iter().map(|line| line["path"].as_str().unwrap().to_owned()).collect();
    assert_eq!(logged, paths);
}

#[test]
fn hostile_bytes_are_escaped_and_long_texts_cut() {
    let logged = Logged::start(&[], &[]);
    let agent = [&b"\xff\x80\t\\\"{}"[..], "\u{2028}".as_bytes(), &[b'a'; 900]].concat();
    let path = format!("/nowhere/{}", "%0a%22\u{e9}".repeat(300));
    let head =
        [format!("GET {path} HTTP/1.1\r\nHost: h\r\nUser-Agent: ").as_bytes(), &agent, b"\r\n\r\n"].concat();
    assert!(logged.server.raw(&head).starts_with("HTTP/1.1 404"));
    let line = logged.line("it", |line| line["status"] == 404);
    let (shown, agent) = (line["path"].as_str().unwrap(), line["user_agent"].as_str().unwrap());
    assert!(shown.starts_with("/nowhere/%0a%22\u{e9}") && shown.ends_with('\u{2026}'), "{line}");
    assert!((1020..=1024 + 3).contains(&shown.len()), "{}", shown.len());
    assert!(
        agent.starts_with("\u{fffd}\u{fffd}\t\\\"{}\u{2028}aaa") && agent.ends_with("a\u{2026}"),
        "{line}"
    );
    assert!(agent.len() < 270, "{}", agent.len());
    assert_eq!(std::fs::read_to_string(logged.path()).unwrap().lines().count(), 1);
}

#[test]
fn no_token_ticket_code_or_cookie_is_in_it_wherever_it_is_sent() {
    let control = "a-token-of-the-control-port";
    let secret_dir = TempDir::new();
    let file = secret_dir.0.join("control");
    std::fs::write(&file, control).unwrap();
    let variables = [BOTH, &[("ESPER_SESSION_SECRET", SECRET)]].concat();
    let flags = ["--bind-control", "127.0.0.1:0", "--control-token-file", file.to_str().unwrap()];
    let logged = Logged::start(&flags, &variables);
    let server = &logged.server;
    let (subscriber, publisher) = (token(SUBSCRIBER, "secrets01"), token(PUBLISHER, "secrets01"));
    let mut secrets = vec![control.to_owned(), subscriber.clone(), publisher.clone()];
    secrets.extend([SUBSCRIBER, PUBLISHER, SECRET].map(str::to_owned));

    let ask = |method, target: &str, fields: &[&str], body: &str| {
        Answer::parse(&exchange(server.control(), method, target, fields, body))
    };
    let operator = bearer(control);
    assert_eq!(
        ask("POST", &format!("/publish/secrets01?token={publisher}"), &[&operator], "data: x").status,
        200
    );
    assert_eq!(ask("GET", &format!("/stats?token={control}"), &[], "").status, 200);
    check_refusal_status(&ask("GET", "/stats?token=no-token-of-anybody", &[], ""), 401);
    let session = ask(
        "POST",
        "/token/",
        &[&operator, "Content-Type: application/json"],
        r#"{"userId":"u","channel":"c"}"#,
    );
    assert_eq!(session.status, 200, "{session:?}");
    secrets.push(session.body.trim().to_owned());
    let ticket = server.request("POST", "/ticket", &[&bearer(&subscriber)], "").json();
    let ticket = ticket["ticket"].as_str().unwrap().to_owned();

    let cookie = format!("Cookie: esper_token={subscriber}");
    drop(Stream::open(server, &format!("/subscribe/secrets01?token={subscriber}")));
    drop(Stream::open_with(server, "/subscribe/secrets01", &[&bearer(&subscriber)]));
    drop(Stream::open_with(server, "/subscribe/secrets01", &[&cookie]));
    drop(Stream::open(server, &format!("/events/?token={}", session.body.trim())));
    let mut by_ticket = Stream::open(server, &format!("/subscribe/secrets01?ticket={ticket}"));
    let id = by_ticket.event().id;
    drop(by_ticket);
    let code = id.split_once('~').expect("a code").1.split('@').next().unwrap().to_owned();
    drop(Stream::open(
        server,
        &format!("/subscribe/secrets01?ticket={ticket}&lastEventId={}", id.replace('~', "%7E")),
    ));
    check_refusal(&server.get(&format!("/subscribe/secrets01?ticket={ticket}")), 401, "ticket");
    // In an absolute-form there may be user and password before the host.
    let absolute = "GET http://user:passw0rd@h/healthz?token=in-the-query HTTP/1.1\r\nHost: h\r\n\r\n";
    let _ = server.raw(absolute);
    secrets.extend([
        ticket,
        code,
        "no-token-of-anybody".to_owned(),
        "passw0rd".to_owned(),
        "in-the-query".to_owned(),
    ]);

    let is_end = |line: &Value| line["event"] == "stream_end";
    wait_until("all ends", || logged.lines().iter().filter(|line| is_end(line)).count() == 6);
    wait_until("the last request", || logged.lines().iter().any(|line| line["path"] == "/stats"));
    let text = std::fs::read_to_string(logged.path()).unwrap();
    for secret in secrets {
        assert!(!secret.is_empty() && !text.contains(&secret), "{secret} in {text}");
    }
    assert!(!text.contains('?') && !text.to_lowercase().contains("bearer"), "{text}");
    // A session is named as the admin page does it.
    let session = logged.end("/events/");
    assert_eq!(session["topics"], serde_json::json!(["c/*", "c/u"]), "{session}");
}

#[track_caller]
fn check_refusal_status(answer: &Answer, status: u16) {
    assert_eq!(answer.status, status, "{answer:?}");
}

#[test]
fn of_many_requests_a_sample_has_lines_and_every_refusal() {
    let logged = Logged::start(&["--access-log-sample", "1000000000"], &[]);
    for _ in 0..20 {
        logged.server.publish("sampled01", "data: x");
        check_refusal(&logged.server.get("/nowhere"), 404, "no such path");
    }
    drop(Stream::open(&logged.server, "/subscribe/sampled01"));
    wait_until("nobody is left", || logged.server.stats()["clients"] == 0);
    check_refusal(&logged.server.get("/nowhere/last"), 404, "no such path");
    logged.request("/nowhere/last");
    let paths: Vec<_> = logged.lines().iter().map(|line| line["status"].clone()).collect();
    assert_eq!(paths, vec![404; 21]);

    // Of 400 some half: to be outside of this is less likely than one in 10^20.
    let logged = Logged::start(&["--access-log-sample", "2"], &[]);
    let requests = "GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n".repeat(50);
    for _ in 0..8 {
        assert_eq!(logged.server.raw(&requests).matches("HTTP/1.1 200").count(), 50);
    }
    check_refusal(&logged.server.get("/nowhere"), 404, "no such path");
    logged.request("/nowhere");
    let drawn = logged.lines().len() - 1;
    assert!((100..=300).contains(&drawn), "{drawn}");
}

#[test]
fn nothing_is_logged_and_counted_without_the_flag_and_a_sample_alone_is_warned_of() {
    let server = Server::start(&["--access-log-sample", "7"]);
    assert!(
        server.log().contains("--access-log-sample does nothing without --access-log"),
        "{}",
        server.log()
    );
    assert!(!server.get("/metrics").body.contains("access_log"));
    assert_eq!(server.stats()["access_log"], Value::Null);
    let logged = Logged::start(&[], &[]);
    assert!(logged.server.get("/metrics").body.contains(&format!("\n{DROPPED} 0\n")));
    assert_eq!(logged.server.stats()["access_log"], serde_json::json!({"lines_dropped": 0}));
}

#[test]
fn a_file_that_cannot_be_opened_is_a_refusal_to_start_with_the_remedy() {
    for (path, reason) in [("/nowhere/access.log", "No such file or directory"), ("/tmp", "Is a directory")] {
        let ended = run(crate::support::esper(&["--access-log", path, "--port", "0"], &[]));
        assert_eq!(ended.code, Some(1), "{ended:?}");
        let said = format!("cannot open the access log {path}: {reason}");
        assert!(ended.stderr.contains(&said) && ended.stderr.contains("--access-log"), "{ended:?}");
    }
}

#[test]
fn a_query_that_was_encoded_and_control_characters_are_in_no_line() {
    let logged = Logged::start(&[], &[]);
    let answer = logged.server.request(
        "GET",
        "/subscribe/mistaken1%3Ftoken%3Dsecret",
        &["User-Agent: a\u{9b}31mb"],
        "",
    );
    assert_eq!(answer.status, 400, "{answer:?}");
    let line = logged.request("/subscribe/mistaken1");
    assert_eq!(line["user_agent"], "a\u{fffd}31mb", "{line}");
    let text = std::fs::read_to_string(logged.path()).unwrap();
    assert!(!text.contains("secret") && !text.chars().any(|c| c.is_control() && c != '\n'), "{text}");
}
