//! Requests as HTTP lets clients write them, and what publishers and subscribers get for them.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::thread;

use serde_json::{Value, json};

use crate::harness::{Answer, Event, Server, Stream, connect, eventually};

/// A connection that is kept: sends bytes as they are and reads one answer at a time.
pub(crate) struct Client {
    reader: BufReader<TcpStream>,
}

impl Client {
    pub(crate) fn new(server: &Server) -> Client {
        Client::at(server.address)
    }

    /// One to another address, such as the control port's.
    pub(crate) fn at(address: SocketAddr) -> Client {
        let socket = connect(address);
        // What a test sends in pieces is to arrive in pieces.
        socket.set_nodelay(true).unwrap();
        Client { reader: BufReader::new(socket) }
    }

    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.reader.get_mut().write_all(bytes.as_ref()).unwrap();
    }

    /// Sends bytes unless the server has closed already.
    pub(crate) fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.reader.get_mut().write_all(bytes.as_ref()).is_ok()
    }

    /// Says that nothing more will be sent.
    pub(crate) fn end(&mut self) {
        self.reader.get_ref().shutdown(Shutdown::Write).unwrap();
    }

    /// Another handle on the connection, to send on while answers are read.
    fn sender(&self) -> TcpStream {
        self.reader.get_ref().try_clone().unwrap()
    }

    /// The head of the next answer; none when the server has closed instead.
    pub(crate) fn try_head(&mut self) -> Option<Answer> {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if self.reader.read_line(&mut head).unwrap() == 0 {
                assert_eq!(head, "", "closed within a head");
                return None;
            }
        }
        Some(Answer::parse(&head))
    }

    pub(crate) fn head(&mut self) -> Answer {
        self.try_head().expect("an answer before the close")
    }

    /// The next answer with its body.
    pub(crate) fn answer(&mut self) -> Answer {
        self.try_answer().expect("an answer before the close")
    }

    /// The next answer with its body; none when the server has closed instead.
    pub(crate) fn try_answer(&mut self) -> Option<Answer> {
        let mut answer = self.try_head()?;
        if let Some(length) = answer.field("Content-Length") {
            let mut body = vec![0; length.parse().unwrap()];
            self.reader.read_exact(&mut body).unwrap();
            answer.body = String::from_utf8(body).unwrap();
        }
        Some(answer)
    }

    /// Whether something has come that was not read yet.
    pub(crate) fn has_answer(&self) -> bool {
        let socket = self.reader.get_ref();
        socket.set_nonblocking(true).unwrap();
        let result = socket.peek(&mut [0]);
        socket.set_nonblocking(false).unwrap();
        !self.reader.buffer().is_empty() || result.is_ok()
    }

    /// Sends a request and reads its answer.
    pub(crate) fn ask(&mut self, request: impl AsRef<[u8]>) -> Answer {
        self.send(request);
        self.answer()
    }

    #[track_caller]
    pub(crate) fn assert_open(&mut self) {
        let health = self.ask("GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n");
        assert_eq!((health.status, &*health.body), (200, "ok\n"));
    }

    #[track_caller]
    pub(crate) fn assert_closed(&mut self) {
        let mut rest = Vec::new();
        self.reader.read_to_end(&mut rest).unwrap();
        assert_eq!(String::from_utf8_lossy(&rest), "", "nothing follows, and the connection is closed");
    }
}

/// A publish on a connection that is kept.
pub(crate) fn publish(target: &str, fields: &str, body: &str) -> String {
    format!("POST {target} HTTP/1.1\r\nHost: h\r\n{fields}Content-Length: {}\r\n\r\n{body}", body.len())
}

fn published(answer: &Answer) -> Value {
    assert_eq!(answer.status, 200, "{answer:?}");
    serde_json::from_str(&answer.body).unwrap()
}

/// The id in a publish's answer.
fn id_of(answer: &Answer) -> String {
    published(answer)["id"].as_str().unwrap().to_owned()
}

/// Reads events up to the one with this data.
fn data_until(stream: &mut Stream, last: &str) -> Vec<String> {
    let mut all = Vec::new();
    while all.last().is_none_or(|data| data != last) {
        all.push(stream.event().data);
    }
    all
}

#[test]
fn a_connection_serves_one_request_after_another() {
    let server = Server::start(&[]);
    let mut stream = Stream::open(&server, "/subscribe/kept00001");
    let mut client = Client::new(&server);
    for n in 0..20 {
        let answer = client.ask(publish("/publish/kept00001", "", &format!("data: {n}\nid: id-{n}")));
        assert_eq!(published(&answer), json!({"id": format!("id-{n}"), "events": 1}));
        assert_eq!(answer.field("Content-Type"), Some("application/json"));
        assert_eq!(answer.field("Connection"), None);
        client.assert_open();
        // Some clients send a line end behind a body.
        client.send("\r\n");
    }
    assert_eq!(data_until(&mut stream, "19").len(), 20);
    let bye = client.ask("GET /healthz HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
    assert_eq!((bye.status, bye.field("Connection")), (200, Some("close")));
    client.assert_closed();
}

#[test]
fn thousands_of_pipelined_publishes_are_answered_in_order() {
    // With room for one message between shards each publish waits for the one before it, and none is lost.
    for flags in [&[][..], &["--mailbox-messages", "1"], &["--unanswered-max", "3"]] {
        let server = Server::start(flags);
        let mut streams = [(); 3].map(|()| Stream::open(&server, "/subscribe/pipeline1"));
        let mut client = Client::new(&server);
        let mut sender = client.sender();
        let sending = thread::spawn(move || {
            let requests: String = (0..3000)
                .map(|n| publish("/publish/pipeline1", "", &format!("id: {n}\ndata: {n}")))
                .collect();
            sender.write_all(requests.as_bytes()).unwrap();
        });
        for n in 0..3000 {
            let answer = client.answer();
            assert_eq!((answer.status, n, flags), (200, n, flags), "{}", answer.body);
            assert_eq!(published(&answer), json!({"id": n.to_string(), "events": 1}));
        }
        sending.join().unwrap();
        let expected: Vec<_> = (0..3000).map(|n| n.to_string()).collect();
        for stream in &mut streams {
            assert_eq!(data_until(stream, "2999"), expected, "{flags:?}");
        }
        client.assert_open();
    }
}

#[test]
fn answers_of_every_kind_keep_the_order_of_their_requests() {
    let server = Server::start(&[]);
    let round = [
        publish("/publish/mixture01", "", "data: a\nid: first"),
        "GET /stats HTTP/1.1\r\nHost: h\r\n\r\n".to_owned(),
        publish("/publish/mixture02", "", "event: without data"),
        "HEAD /healthz HTTP/1.1\r\nHost: h\r\n\r\n".to_owned(),
        publish("/publish/mixture03", "", "data: b\nid: second"),
        publish("/nowhere", "", "data: c"),
        "OPTIONS /publish/mixture01 HTTP/1.1\r\nHost: h\r\n\r\n".to_owned(),
        "GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n".to_owned(),
    ]
    .concat();
    let mut client = Client::new(&server);
    client.send(round.repeat(20));
    for _ in 0..20 {
        assert_eq!(id_of(&client.answer()), "first");
        assert!(client.answer().body.contains("\"uptime_s\""));
        assert_eq!(client.answer().status, 400);
        assert_eq!(client.head().status, 200);
        assert_eq!(id_of(&client.answer()), "second");
        assert_eq!(client.answer().status, 404);
        assert_eq!(client.answer().status, 204);
        assert_eq!(client.answer().body, "ok\n");
    }
    client.end();
    client.assert_closed();
}

#[test]
fn what_was_published_is_answered_though_the_client_stops_within_the_next_request() {
    // It sends whole publishes and a part of another one, and closes its side.
    let server = Server::start(&[]);
    for round in 0..20 {
        let whole = (0..50)
            .map(|n| publish(&format!("/publish/halfway{n:03}"), "", &format!("id: {n}\ndata: {round}")))
            .collect::<String>();
        let part = "POST /publish/halfway00 HTTP/1.1\r\nHost: h\r\nContent-Length: 100\r\n\r\ndata: never";
        for part in [part, "POST /publish/half", ""] {
            let mut client = Client::new(&server);
            client.send(format!("{whole}{part}"));
            client.end();
            for n in 0..50 {
                let answer =
                    client.try_answer().unwrap_or_else(|| panic!("no answer to {n} before {part:?}"));
                assert_eq!(id_of(&answer), n.to_string());
            }
        }
    }
}

#[test]
fn a_subscription_may_follow_publishes_on_one_connection() {
    let server = Server::start(&[]);
    let mut client = Client::new(&server);
    client.send(publish("/publish/become001", "", "data: before\nid: own"));
    client.send("GET /subscribe/become001 HTTP/1.1\r\nHost: h\r\nLast-Event-ID: none\r\n\r\n");
    assert_eq!(id_of(&client.answer()), "own");
    let head = client.head();
    assert_eq!((head.status, head.field("Content-Type")), (200, Some("text/event-stream")));
    server.post("/publish/become001", "data: after\nid: other");
    let mut text = String::new();
    while !text.contains("data: after") {
        client.reader.read_line(&mut text).unwrap();
    }
    assert!(text.contains("data: before\nid: own\n\n"), "{text:?}");
}

#[test]
fn a_chunked_body_may_be_split_anywhere() {
    let server = Server::start(&[]);
    let mut stream = Stream::open(&server, "/subscribe/chunked01");
    let mut client = Client::new(&server);
    let request = "POST /publish/chunked01 HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n\
                   6;name=\"value\"\r\ndata: \r\n00b\r\nhello\nid: o\r\n2 ; x\r\nwn\r\n0\r\nTrailer: t\r\n\r\n";
    let expect = |client: &mut Client, stream: &mut Stream| {
        assert_eq!(published(&client.answer()), json!({"id": "own", "events": 1}));
        assert_eq!(stream.event().lines, "data: hello\nid: own");
    };
    for split in 1..request.len() {
        let (first, second) = request.split_at(split);
        client.send(first);
        client.send(second);
        expect(&mut client, &mut stream);
    }
    for byte in request.bytes() {
        client.send([byte]);
    }
    expect(&mut client, &mut stream);
    client.send(request.repeat(3));
    for _ in 0..3 {
        expect(&mut client, &mut stream);
    }
}

#[test]
fn a_client_that_waits_for_100_continue_gets_it_before_it_sends_the_body() {
    let server = Server::start(&[]);
    let mut stream = Stream::open(&server, "/subscribe/continue1");
    let mut client = Client::new(&server);
    for framing in ["Content-Length: 8", "Transfer-Encoding: chunked"] {
        client.send(format!(
            "POST /publish/continue1 HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\n{framing}\r\n\r\n"
        ));
        let interim = client.head();
        assert_eq!((interim.status, &*interim.head), (100, "HTTP/1.1 100 Continue"));
        client.send(if framing.contains("chunked") { "8\r\ndata: ok\r\n0\r\n\r\n" } else { "data: ok" });
        assert_eq!(published(&client.answer())["events"], 1);
        assert_eq!(stream.event().data, "ok");
    }
    client.assert_open();
}

#[test]
fn a_client_that_waits_for_100_continue_is_refused_before_it_sends_the_body() {
    let server = Server::start(&["--body-max", "1KiB"]);
    for (target, length, status) in [
        ("/publish/continue2", 1025, 413),
        ("/publish/bad", 8, 400),
        ("/nowhere", 8, 404),
        ("/stats", 8, 405),
        ("/subscribe/continue2", 8, 405),
    ] {
        let mut client = Client::new(&server);
        client.send(format!(
            "POST {target} HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: {length}\r\n\r\n"
        ));
        let answer = client.answer();
        assert_eq!((answer.status, answer.field("Connection")), (status, Some("close")), "{target}");
        client.assert_closed();
    }
    assert_eq!(server.stats()["published"], 0);
}

#[test]
fn http_1_0_publishes_and_its_connection_closes_unless_it_asks() {
    let server = Server::start(&[]);
    let mut stream = Stream::open(&server, "/subscribe/http10001");
    let mut client = Client::new(&server);
    let answer = client.ask("POST /publish/http10001 HTTP/1.0\r\nContent-Length: 9\r\n\r\ndata: one");
    assert_eq!((published(&answer)["events"].clone(), answer.field("Connection")), (json!(1), Some("close")));
    client.assert_closed();
    assert_eq!(stream.event().data, "one");

    let mut kept = Client::new(&server);
    for data in ["two", "six"] {
        let answer = kept.ask(format!(
            "POST /publish/http10001 HTTP/1.0\r\nConnection: Keep-Alive\r\nContent-Length: 9\r\n\r\ndata: {data}"
        ));
        assert_eq!((answer.status, answer.field("Connection")), (200, Some("keep-alive")));
        assert_eq!(stream.event().data, data);
    }
}

#[test]
fn http_1_0_gets_the_stream_without_chunks_to_the_close() {
    let server = Server::start(&["--heartbeat", "100ms"]);
    let request = "GET /subscribe/http10002 HTTP/1.0\r\nConnection: keep-alive\r\n\r\n";
    let mut stream = Stream::send(server.address, request);
    assert_eq!(stream.head.status, 200);
    assert_eq!(stream.head.field("Content-Type"), Some("text/event-stream"));
    assert_eq!(stream.head.field("Transfer-Encoding"), None);
    assert_eq!(stream.head.field("Connection"), Some("close"));
    assert_eq!(stream.read_some().as_deref(), Some(":\n"), "a heartbeat");
    assert_eq!(stream.read_some().as_deref(), Some("\n"));
    for n in 0..3 {
        let id = id_of(&server.post("/publish/http10002", &format!("data: {n}\n\ndata: and {n}\nevent: e")));
        assert_eq!(stream.event().data, n.to_string());
        assert_eq!(stream.event().lines, format!("data: and {n}\nevent: e\nid:{id}"));
    }
}

#[test]
fn head_gets_the_head_of_get_and_no_body() {
    let server = Server::start(&[]);
    let mut client = Client::new(&server);
    let fields_of = |answer: &Answer| {
        let names = answer.head.lines().skip(1).filter_map(|line| line.split_once(": "));
        // These change from one moment to the next.
        names
            .filter(|(name, _)| !["Date", "Content-Length"].contains(name))
            .map(|f| format!("{f:?}"))
            .collect()
    };
    for target in ["/healthz", "/stats", "/nowhere", "/publish/headroute", "/subscribe/bad", "/"] {
        let got = client.ask(format!("GET {target} HTTP/1.1\r\nHost: h\r\n\r\n"));
        client.send(format!("HEAD {target} HTTP/1.1\r\nHost: h\r\n\r\n"));
        let head = client.head();
        assert_eq!(head.status, got.status, "{target}");
        let (head_fields, got_fields): (Vec<_>, Vec<_>) = (fields_of(&head), fields_of(&got));
        assert_eq!(head_fields, got_fields, "{target}");
        assert!(head.field("Content-Length").unwrap().parse::<usize>().unwrap() > 0, "{target}");
        client.assert_open();
    }
    client.send("HEAD /subscribe/headroute HTTP/1.1\r\nHost: h\r\n\r\n");
    let head = client.head();
    let stream = Stream::open(&server, "/subscribe/headroute");
    let (head_fields, got_fields): (Vec<_>, Vec<_>) = (fields_of(&head), fields_of(&stream.head));
    assert_eq!((head.status, head_fields), (200, got_fields));
    client.assert_open();
}

#[test]
fn a_stream_says_that_it_is_not_to_be_cached_nor_held_back() {
    let server = Server::start(&[]);
    let stream = Stream::open(&server, "/subscribe/headers01");
    assert!(stream.head.head.starts_with("HTTP/1.1 200 OK\r\n"));
    for (name, value) in [
        ("Content-Type", "text/event-stream"),
        ("Cache-Control", "no-cache"),
        ("X-Accel-Buffering", "no"),
        ("Transfer-Encoding", "chunked"),
        ("Access-Control-Allow-Origin", "*"),
    ] {
        assert_eq!(stream.head.field(name), Some(value));
    }
    assert_eq!((stream.head.field("Connection"), stream.head.field("Content-Length")), (None, None));
}

#[test]
fn any_page_may_read_the_answers_by_default_without_credentials() {
    let server = Server::start(&[]);
    let origin = "Origin: https://anywhere.example";
    for (method, path, body, status) in [
        ("POST", "/publish/crossing1", "data: x", 200),
        ("POST", "/publish/crossing1", "no data", 400),
        ("GET", "/stats", "", 200),
        ("GET", "/healthz", "", 200),
        ("GET", "/nowhere", "", 404),
        ("OPTIONS", "/publish/crossing1", "", 204),
        ("OPTIONS", "*", "", 204),
    ] {
        for fields in [&[][..], &[origin], &["Origin: null"]] {
            let answer = server.request(method, path, fields, body);
            assert_eq!(answer.status, status, "{method} {path}");
            assert_eq!(answer.field("Access-Control-Allow-Origin"), Some("*"), "{method} {path}");
            assert_eq!(answer.field("Access-Control-Allow-Credentials"), None, "{method} {path}");
        }
    }
    let stream = Stream::open_with(&server, "/subscribe/crossing1", &[origin]);
    assert_eq!(stream.head.field("Access-Control-Allow-Origin"), Some("*"));
}

#[test]
fn pages_of_listed_origins_alone_may_read_the_answers_and_send_credentials() {
    let flags = ["--cors-origin", "https://one.example", "--cors-origin", "http://two.example:8080"];
    let server = Server::start(&flags);
    let check = |answer: &Answer, allowed: Option<&str>| {
        assert_eq!(answer.field("Access-Control-Allow-Origin"), allowed, "{answer:?}");
        assert_eq!(answer.field("Access-Control-Allow-Credentials"), allowed.map(|_| "true"), "{answer:?}");
        assert_eq!(answer.field("Vary"), Some("Origin"), "{answer:?}");
    };
    for (origin, is_allowed) in [
        ("https://one.example", true),
        ("http://two.example:8080", true),
        ("http://one.example", false),
        ("http://two.example", false),
        ("https://one.example.evil.example", false),
        ("https://evil-one.example", false),
        ("null", false),
        ("", false),
    ] {
        let allowed = is_allowed.then_some(origin);
        let field = format!("Origin: {origin}");
        for (method, path, body) in [
            ("POST", "/publish/crossing2", "data: x"),
            ("POST", "/publish/crossing2", ""),
            ("GET", "/stats", ""),
            ("GET", "/healthz", ""),
            ("GET", "/nowhere", ""),
            ("OPTIONS", "/subscribe/crossing2", ""),
        ] {
            check(&server.request(method, path, &[&field], body), allowed);
        }
        check(&Stream::open_with(&server, "/subscribe/crossing2", &[&field]).head, allowed);
    }
    check(&server.get("/healthz"), None);
}

#[test]
fn a_preflight_allows_what_a_publisher_in_a_browser_sends() {
    let server = Server::start(&[]);
    let mut client = Client::new(&server);
    for (path, methods) in [
        ("/publish/preflight", "POST, OPTIONS"),
        ("/subscribe/preflight", "GET, HEAD, OPTIONS"),
        ("/stats", "GET, HEAD, OPTIONS"),
        ("/healthz", "GET, HEAD, OPTIONS"),
        ("*", "GET, HEAD, POST, OPTIONS"),
    ] {
        client.send(format!(
            "OPTIONS {path} HTTP/1.1\r\nHost: h\r\nOrigin: https://o.example\r\n\
             Access-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: authorization,content-type\r\n\r\n"
        ));
        let answer = client.answer();
        assert_eq!(answer.status, 204, "{path}");
        assert_eq!(answer.field("Allow"), Some(methods), "{path}");
        assert_eq!(answer.field("Access-Control-Allow-Methods"), Some(methods), "{path}");
        let fields = answer.field("Access-Control-Allow-Headers").unwrap().to_ascii_lowercase();
        for field in ["authorization", "content-type", "last-event-id", "idempotency-key"] {
            assert!(fields.split(", ").any(|allowed| allowed == field), "{path}: {fields}");
        }
        assert!(answer.field("Access-Control-Max-Age").is_some());
        assert_eq!((answer.field("Content-Length"), answer.field("Transfer-Encoding")), (None, None));
    }
    client.assert_open();
}

#[test]
fn a_target_in_absolute_form_is_the_same_as_its_path() {
    let server = Server::start(&[]);
    let mut stream = Stream::send(
        server.address,
        "GET http://broker.example:81/subscribe/absolute1?x=y HTTP/1.1\r\nHost: other\r\n\r\n",
    );
    let mut client = Client::new(&server);
    for target in ["http://broker.example/publish/absolute1", "HTTPS://[::1]:443/publish/absolute1?y"] {
        assert_eq!(published(&client.ask(publish(target, "", "data: x")))["events"], 1);
        assert_eq!(stream.event().data, "x");
    }
    assert_eq!(client.ask("GET http://broker.example HTTP/1.1\r\nHost: h\r\n\r\n").status, 404);
    client.assert_open();
}

#[test]
fn a_topic_is_percent_decoded_after_the_path_is_split_and_has_no_case() {
    let server = Server::start(&[]);
    let mut stream = Stream::open(&server, "/subscribe/AbcDef123");
    for path in [
        "/publish/abcdef123",
        "/publish/ABCDEF123",
        "/publish/%61bcdef12%33",
        "/publish/%41%42%43%44%45%46%31%32%33",
        "/%70ublish/aBcDeF123?query=a/b",
    ] {
        assert_eq!(server.post(path, &format!("data: {path}")).status, 200);
        assert_eq!(stream.event().data, path);
    }
    for (path, status) in [
        ("/subscribe/a%2Fbcdef123", 400),
        ("/subscribe/abcdef123%2F", 400),
        ("/subscribe/%2561bcdef123", 400),
        ("/subscribe%2Fabcdef123", 404),
        ("/subscribe/abcdef123/", 404),
        ("//subscribe/abcdef123", 404),
        ("/subscribe/../subscribe/abcdef123", 404),
    ] {
        assert_eq!(server.get(path).status, status, "{path}");
    }
}

/// Publishes, and returns the answer's id and the events that a subscriber got.
fn roundtrip(
    server: &Server,
    stream: &mut Stream,
    target: &str,
    field: &str,
    body: &str,
) -> (String, Vec<Event>) {
    let answer = server.request("POST", target, &[field], body);
    let count = published(&answer)["events"].as_u64().unwrap();
    (id_of(&answer), (0..count).map(|_| stream.event()).collect())
}

#[test]
fn event_stream_text_reaches_subscribers_as_it_was_meant() {
    let server = Server::start(&[]);
    let mut stream = Stream::open(&server, "/subscribe/texts0001");
    // What was sent, and the lines of each event without the id that the broker adds.
    for (body, expected) in [
        ("data: x", &["data: x"][..]),
        ("data: x\n", &["data: x"]),
        ("data: x\n\n\n\n", &["data: x"]),
        ("\n\n\ndata: x", &["data: x"]),
        ("data:x\r\ndata:y\r\n\r\n", &["data:x\ndata:y"]),
        ("data:x\rdata:y\r\r", &["data:x\ndata:y"]),
        ("data:1\n\ndata:2\r\n\r\ndata:3\r\rdata:4", &["data:1", "data:2", "data:3", "data:4"]),
        ("event: e\ndata: {\"a\": 1}\nretry: 1000", &["event: e\ndata: {\"a\": 1}\nretry: 1000"]),
        (": comment\ndata: x\n:", &[": comment\ndata: x\n:"]),
        (": alone\n\ndata: x", &[": alone\ndata: x"]),
        ("data: x\n\n: last", &["data: x\n: last"]),
        ("unknown: field\ndata: x\nno colon", &["unknown: field\ndata: x\nno colon"]),
        ("data", &["data"]),
        ("data:", &["data:"]),
        ("data:  two spaces \n", &["data:  two spaces "]),
        ("data: müsli \u{1f600}", &["data: müsli \u{1f600}"]),
        ("\u{feff}data: x", &["data: x"]),
        ("id:\ndata: x", &["id:\ndata: x"]),
    ] {
        // What the type says does not matter: these are curl's and fetch's own.
        for field in
            ["Content-Type: application/x-www-form-urlencoded", "Content-Type: text/plain;charset=UTF-8"]
        {
            let (id, events) = roundtrip(&server, &mut stream, "/publish/texts0001", field, body);
            let lines: Vec<_> = events.iter().map(|event| event.lines.clone()).collect();
            let (head, sequence) = id.split_once('-').unwrap();
            let last: usize = sequence.parse().unwrap();
            let with_ids: Vec<_> = (last + 1 - expected.len()..=last)
                .zip(expected)
                .map(|(n, lines)| format!("{lines}\nid:{head}-{n}"))
                .collect();
            assert_eq!(lines, with_ids, "{body:?}");
            assert_eq!(events.last().unwrap().id, id, "{body:?}");
        }
    }
}

#[test]
fn a_publishers_own_id_is_kept_and_is_the_answers_id() {
    let server = Server::start(&[]);
    let mut stream = Stream::open(&server, "/subscribe/ownids001");
    for (body, id) in [
        ("id: a\ndata: x", "a"),
        ("data: x\nid:b:c", "b:c"),
        ("id: first\nid: second\ndata: x", "second"),
        ("id: \u{e9}\u{1f600} \"quoted\\\"\ndata: x", "\u{e9}\u{1f600} \"quoted\\\""),
        ("data: 1\n\nid: last\ndata: 2", "last"),
    ] {
        let (answered, events) = roundtrip(&server, &mut stream, "/publish/ownids001", "X: y", body);
        assert_eq!(answered, id, "{body:?}");
        let lines: Vec<_> = body.split("\n\n").collect();
        assert_eq!(events.last().unwrap().lines, *lines.last().unwrap(), "{body:?}");
        assert_eq!(events.last().unwrap().id, id, "{body:?}");
    }
}

#[test]
fn json_and_wrapped_bodies_are_the_data_of_one_event() {
    let server = Server::start(&[]);
    let mut stream = Stream::open(&server, "/subscribe/wrapped01");
    let json_type = "Content-Type: application/json";
    for (field, query, body, name, data) in [
        (json_type, "", "{\"a\":1}", "", "{\"a\":1}"),
        (json_type, "", "{\"a\":1}\n", "", "{\"a\":1}"),
        ("Content-Type: Application/JSON; charset=utf-8", "", "[1,\r\n2]", "", "[1,\n2]"),
        (json_type, "?event=testing", "null", "testing", "null"),
        (json_type, "?event=a%20b+c&x=y", "\"data: x\\n\\ndata: y\"", "a b c", "\"data: x\\n\\ndata: y\""),
        ("X: y", "?wrap", "any text", "", "any text"),
        ("X: y", "?wrap=", "data: x\n\ndata: y", "", "data: x\n\ndata: y"),
        ("X: y", "?event=e&wrap=1", " leading\n\ntrailing\n", "e", " leading\n\ntrailing\n"),
        ("Content-Type: text/event-stream", "?wrap&event=%C3%A9", "\r", "\u{e9}", "\n"),
    ] {
        let target = format!("/publish/wrapped01{query}");
        let (id, events) = roundtrip(&server, &mut stream, &target, field, body);
        assert_eq!(events.len(), 1, "{body:?}");
        let event = &events[0];
        assert_eq!((&*event.name, &*event.data, &event.id), (name, data, &id), "{query} {body:?}");
    }
    // An id of the publisher's is in the query, for here no line of the body is one.
    let (id, events) = roundtrip(&server, &mut stream, "/publish/wrapped01?id=my+id", json_type, "1");
    assert_eq!((&*id, &*events[0].id, &*events[0].data), ("my id", "my id", "1"));
    // These are event-stream text, though they look alike.
    for field in
        ["Content-Type: application/jsonp", "Content-Type: text/json", "Content-Type: application/json+x"]
    {
        assert_eq!(
            server.request("POST", "/publish/wrapped01?event=e", &[field], "{}").status,
            400,
            "{field}"
        );
    }
}

#[test]
fn without_history_subscribers_get_exactly_the_publishers_lines() {
    let server = Server::start(&["--history-events", "0"]);
    let mut stream = Stream::open_with(&server, "/subscribe/bare00001", &["Last-Event-ID: whatever"]);
    for (body, wire) in [
        ("data: x", "data: x\n\n"),
        ("event: testing\ndata: {\"some\":\"data\"}\n", "event: testing\ndata: {\"some\":\"data\"}\n\n"),
        ("data:1\r\n\r\n\r\ndata:2\rretry:5\r", "data:1\n\ndata:2\nretry:5\n\n"),
        ("id:\nid: own\n: comment\nfoo: bar\ndata", "id:\nid: own\n: comment\nfoo: bar\ndata\n\n"),
        ("id:\ndata: x", "id:\ndata: x\n\n"),
    ] {
        let answer = server.post("/publish/bare00001", body);
        assert!(published(&answer)["id"].is_string());
        assert_eq!(stream.read_some().as_deref(), Some(wire), "{body:?}");
    }
    // The same bytes for HTTP/1.0, without a chunk around them.
    let request = "GET /subscribe/bare00001 HTTP/1.0\r\n\r\n";
    let mut plain = Stream::send(server.address, request);
    server.post("/publish/bare00001", "data: a\rdata: b");
    let lines: Vec<_> = (0..3).map(|_| plain.read_some().unwrap()).collect();
    assert_eq!(lines.concat(), "data: a\ndata: b\n\n");
}

#[test]
fn a_subscriber_resumes_after_the_event_it_names() {
    let server = Server::start(&[]);
    let publish = |n: usize| {
        let own = if n.is_multiple_of(3) { format!("\nid: own {n}") } else { String::new() };
        id_of(&server.post("/publish/resume001", &format!("data: {n}{own}")))
    };
    let ids: Vec<_> = (0..10).map(publish).collect();
    let mut streams = Vec::new();
    for (n, id) in ids.iter().enumerate() {
        let expected: Vec<_> = (n + 1..10).map(|n| n.to_string()).chain(["live".to_owned()]).collect();
        // The header outranks the query, which a polyfill's URL may still hold from long ago.
        let header = format!("Last-Event-ID: {id}");
        let by_header = Stream::open_with(&server, "/subscribe/resume001?lastEventId=old", &[&header]);
        let query = format!("/subscribe/resume001?x=y&lastEventId={}", id.replace(' ', "+"));
        streams.push((by_header, expected.clone()));
        streams.push((Stream::open(&server, &query), expected));
    }
    for path in ["/subscribe/resume001", "/subscribe/resume001?lastEventId="] {
        // Without an id, or with an empty one, nothing is replayed.
        streams.push((Stream::open(&server, path), vec!["live".to_owned()]));
    }
    server.post("/publish/resume001", "data: live");
    for (mut stream, expected) in streams {
        assert_eq!(data_until(&mut stream, "live"), expected);
    }
}

#[test]
fn an_own_id_is_found_again_whatever_it_looks_like() {
    let server = Server::start(&[]);
    // Browsers send the id as UTF-8 in a header, where white space around it is lost.
    for (n, id) in
        ["a b", " x ", "é\u{1f600}", "\u{a0}", "\"{}", "1700000000000-5", "a,b", "0"].iter().enumerate()
    {
        let topic = format!("ownagain{n}");
        let path = format!("/publish/{topic}");
        server.post(&path, &format!("id:{}{id}\ndata: 1", if id.starts_with(' ') { " " } else { "" }));
        server.post(&path, "data: 2");
        let mut stream = Stream::open_with(
            &server,
            &format!("/subscribe/{topic}"),
            &[&format!("Last-Event-ID: {}", id.trim_matches([' ', '\t']))],
        );
        let event = stream.event();
        assert_eq!((&*event.name, &*event.data), ("", "2"), "{id:?}");
    }
}

#[test]
fn a_long_history_is_replayed_without_loss_or_doubles_while_publishing_goes_on() {
    // 2,000 events of 1.5 KiB are some 50 pages of 64 KiB; as many again are published meanwhile.
    let server = Server::start(&["--history-events", "10000", "--history-bytes", "32MiB"]);
    let padding = "x".repeat(1500);
    let body = |n: usize| format!("data: {n}\ndata: {padding}");
    let mut client = Client::new(&server);
    let fill: String = (0..2000).map(|n| publish("/publish/history01", "", &body(n))).collect();
    let mut sender = client.sender();
    let filling = thread::spawn(move || sender.write_all(fill.as_bytes()).unwrap());
    let ids: Vec<_> = (0..2000).map(|_| id_of(&client.answer())).collect();
    filling.join().unwrap();

    let number = |event: &Event| event.data.lines().next().unwrap().parse::<usize>().unwrap();
    thread::scope(|scope| {
        for after in [0, 1, 700, 1400, 1990, 1999] {
            let (server, id) = (&server, &ids[after]);
            scope.spawn(move || {
                let field = format!("Last-Event-ID: {id}");
                let mut stream = Stream::open_with(server, "/subscribe/history01", &[&field]);
                for n in after + 1..4000 {
                    let event = stream.event();
                    assert_eq!((&*event.name, number(&event)), ("", n), "after {after}");
                }
            });
        }
        for n in 2000..4000 {
            assert_eq!(client.ask(publish("/publish/history01", "", &body(n))).status, 200);
        }
    });
}

#[test]
fn a_subscriber_that_reconnects_again_and_again_misses_nothing_and_sees_nothing_twice() {
    let server = Server::start(&["--history-events", "10000"]);
    let last = 3000;
    let mut first = Stream::open(&server, "/subscribe/reconnect1");
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut client = Client::new(&server);
            for n in 0..=last {
                let own = if n % 7 == 0 { format!("id: own-{n}\n") } else { String::new() };
                let request = publish("/publish/reconnect1", "", &format!("{own}data: {n}"));
                assert_eq!(client.ask(request).status, 200);
            }
        });
        let (mut next, mut id) = (0, String::new());
        let mut take = |stream: &mut Stream, count: usize| {
            for _ in 0..count {
                let event = stream.event();
                assert_eq!((&*event.name, &*event.data), ("", &*next.to_string()));
                id = event.id;
                next += 1;
                if next > last {
                    return None;
                }
            }
            Some(id.clone())
        };
        let mut resume = take(&mut first, 1);
        for round in 1.. {
            let Some(id) = resume else { break };
            let field = format!("Last-Event-ID: {id}");
            let mut stream = Stream::open_with(&server, "/subscribe/reconnect1", &[&field]);
            resume = take(&mut stream, round % 50 + 1);
        }
    });
}

/// A gap's data.
fn gap(event: &Event) -> Value {
    assert_eq!(event.name, "gap", "{event:?}");
    serde_json::from_str(&event.data).unwrap()
}

#[test]
fn a_gap_behind_which_nothing_is_kept_is_told_once() {
    let server = Server::start(&["--heartbeat", "200ms"]);
    let mut stream = Stream::open_with(&server, "/subscribe/gaponce01", &["Last-Event-ID: never"]);
    let told = stream.event();
    assert_eq!(gap(&told), json!({"from": "never", "reason": "unknown"}));
    let field = format!("Last-Event-ID: {}", told.id);
    let mut stream = Stream::open_with(&server, "/subscribe/gaponce01", &[&field]);
    server.post("/publish/gaponce01", "data: 1");
    assert_eq!(stream.event().data, "1");
}

#[test]
fn whoever_resumes_after_an_unknown_id_is_told_of_a_gap_and_gets_what_is_kept() {
    let server = Server::start(&[]);
    let id = id_of(&server.post("/publish/unknown01", "data: 1\n\ndata: 2"));
    let (run, last) = id.split_once('-').unwrap();
    let later = last.parse::<u64>().unwrap() + 1000;
    for unknown in ["never", "1-1", &format!("{run}-0{last}"), &format!("{run}-{later}"), "a\"b", "é"] {
        let field = format!("Last-Event-ID: {unknown}");
        let mut stream = Stream::open_with(&server, "/subscribe/unknown01", &[&field]);
        assert_eq!(gap(&stream.event()), json!({"from": unknown, "reason": "unknown"}));
        assert_eq!((stream.event().data, stream.event().data), ("1".to_owned(), "2".to_owned()));
    }
    // A topic that nobody has published to knows no id either.
    let mut stream = Stream::open_with(&server, "/subscribe/unknown02", &["Last-Event-ID: never"]);
    assert_eq!(gap(&stream.event()), json!({"from": "never", "reason": "unknown"}));
}

#[test]
fn whoever_missed_what_is_no_longer_kept_is_told_of_a_gap_and_nobody_else() {
    let server = Server::start(&["--history-events", "3"]);
    let ids: Vec<_> = (0..8)
        .map(|n| {
            let own = if n % 2 == 0 { format!("\nid: own-{n}") } else { String::new() };
            id_of(&server.post("/publish/trimmed01", &format!("data: {n}{own}")))
        })
        .collect();
    for (n, id) in ids.iter().enumerate() {
        let field = format!("Last-Event-ID: {id}");
        let mut stream = Stream::open_with(&server, "/subscribe/trimmed01", &[&field]);
        if n < 4 {
            // An own id that is no longer kept is one that nobody knows.
            let reason = if n % 2 == 0 { "unknown" } else { "trimmed" };
            assert_eq!(gap(&stream.event()), json!({"from": id, "reason": reason}), "after {n}");
        }
        for kept in 5.max(n + 1)..8 {
            assert_eq!(stream.event().data, kept.to_string(), "after {n}");
        }
    }
}

#[test]
fn a_quiet_topic_yields_no_false_gap() {
    // Everything is dropped for its age, other topics go on, and the subscriber had seen the last event.
    let server = Server::start(&["--history-age", "50ms"]);
    for (topic, own) in [("quiet0001", ""), ("quiet0002", "\nid: own")] {
        let path = format!("/publish/{topic}");
        let missed = id_of(&server.post(&path, "data: missed"));
        let last = id_of(&server.post(&path, &format!("data: last{own}")));
        for n in 0..100 {
            server.post("/publish/noisy0001", &format!("data: {n}"));
        }
        eventually("history is empty", || {
            let is_empty = server.stats()["shards"].as_array()?.iter().all(|s| s["history_bytes"] == 0);
            is_empty.then_some(())
        });
        let resume = |id: &str| {
            let field = format!("Last-Event-ID: {id}");
            Stream::open_with(&server, &format!("/subscribe/{topic}"), &[&field])
        };
        let (mut up_to_date, mut behind) = (resume(&last), resume(&missed));
        server.post(&path, "data: live");
        assert_eq!(up_to_date.event().data, "live", "{topic}");
        assert_eq!(gap(&behind.event()), json!({"from": missed, "reason": "trimmed"}), "{topic}");
        assert_eq!(behind.event().data, "live", "{topic}");
    }
}

#[test]
fn an_id_used_twice_means_its_later_use() {
    let server = Server::start(&[]);
    for body in ["data: 1\nid: same", "data: 2", "data: 3\nid: same", "data: 4"] {
        server.post("/publish/usedtwice", body);
    }
    let mut stream = Stream::open_with(&server, "/subscribe/usedtwice", &["Last-Event-ID: same"]);
    assert_eq!(stream.event().data, "4");
}

#[test]
fn stats_count_what_happened() {
    let server = Server::start(&[]);
    let before = server.stats();
    for name in ["clients", "topics", "published", "delivered", "bytes", "evicted", "refused"] {
        assert_eq!(before[name], 0, "{name}: {before}");
    }
    assert!(before["uptime_s"].is_number(), "{before}");

    let mut streams: Vec<_> =
        (0..6).map(|n| Stream::open(&server, &format!("/subscribe/counted0{}", n % 2))).collect();
    server.post("/publish/counted00", "data: 1\n\ndata: 2");
    server.post("/publish/counted01", "data: 3");
    server.post("/publish/counted02", "data: nobody listens");
    server.post("/publish/counted00", "no data");
    server.get("/nowhere");
    for (n, stream) in streams.iter_mut().enumerate() {
        data_until(stream, if n % 2 == 0 { "2" } else { "3" });
    }
    let expected =
        [("clients", 6), ("topics", 3), ("published", 4), ("delivered", 9), ("evicted", 0), ("refused", 2)];
    // A delivery is counted when the kernel has taken it, and a topic at the end of a turn.
    let stats = eventually("the counts are complete", || {
        let stats = server.stats();
        expected.iter().all(|(name, count)| stats[name] == *count).then_some(stats)
    });
    assert!(stats["bytes"].as_u64().unwrap() > 0, "{stats}");
    let latency = &stats["publish_to_send_us"];
    assert!(latency["count"].as_u64().unwrap() > 0, "{latency}");
    let [p50, p99, max] = ["p50", "p99", "max"].map(|name| latency[name].as_u64().unwrap());
    assert!(p50 <= p99 && p99 <= max, "{latency}");

    let shards = stats["shards"].as_array().unwrap();
    for (name, total) in expected {
        let sum: u64 = shards.iter().map(|shard| shard[name].as_u64().unwrap()).sum();
        assert_eq!(sum, total, "{name}: {stats}");
    }
    drop(streams);
    eventually("the subscribers are gone", || (server.stats()["clients"] == 0).then_some(()));
}
