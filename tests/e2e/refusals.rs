//! What bad input gets: a status, one line that says why, and nothing published or lost.

use std::io::Write;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::{Answer, Server, Stream, eventually};
use crate::requests::{Client, publish};

/// A request that is refused.
struct Row {
    request: Vec<u8>,
    status: u16,
    /// Words of the reason.
    about: &'static str,
    /// Whether nobody can know where the next request begins.
    closes: bool,
    /// A header field that goes with the status.
    field: Option<(&'static str, &'static str)>,
}

/// A refusal after which the connection closes.
fn closes(status: u16, about: &'static str, request: impl Into<Vec<u8>>) -> Row {
    Row { request: request.into(), status, about, closes: true, field: None }
}

/// A refusal after which the connection goes on.
fn keeps(status: u16, about: &'static str, request: impl Into<Vec<u8>>) -> Row {
    Row { closes: false, ..closes(status, about, request) }
}

/// A head with these lines; a body may follow.
fn with(lines: &str) -> String {
    format!("POST /publish/refused01 HTTP/1.1\r\nHost: h\r\n{lines}\r\n")
}

fn get(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: h\r\n\r\n")
}

/// A publish of this text.
fn text(body: impl AsRef<[u8]>) -> Vec<u8> {
    let length = format!("Content-Length: {}\r\n", body.as_ref().len());
    [with(&length).as_bytes(), body.as_ref()].concat()
}

fn chunked(body: &str) -> String {
    with("Transfer-Encoding: chunked\r\n") + body
}

fn malformed_heads() -> Vec<Row> {
    let mut rows = Vec::new();
    for line in [
        "GARBAGE",
        "GET /healthz",
        "GET  /healthz HTTP/1.1",
        "GET /healthz  HTTP/1.1",
        "GET\t/healthz HTTP/1.1",
        "GET /healthz HTTP/1.1 ",
        "GET /healthz HTTP/11",
        "GET /healthz HTTP/1.10",
        "GET /healthz http/1.1",
        "GET /healthz XTTP/1.1",
        "GET /a b HTTP/1.1",
        "GET / \0 HTTP/1.1",
        "G@T /healthz HTTP/1.1",
        "GET /health\u{7f}z HTTP/1.1",
    ] {
        rows.push(closes(400, "malformed request line", format!("{line}\r\nHost: h\r\n\r\n")));
    }
    for target in ["healthz", "*", "ftp://h/healthz", "http:///healthz", "http://u@h/", "h:80", "http:/h"] {
        rows.push(closes(400, "malformed request target", get(target)));
    }
    rows.push(closes(400, "fragment", get("/healthz#here")));
    for line in [
        "Host : h",
        "Content-Length : 7",
        "Transfer-Encoding\t: chunked",
        "X: first\r\n folded",
        "X: first\r\n\tfolded",
        " Folded: at once",
        "no colon",
        ": no name",
        "B\u{e4}d: name",
        "B(a)d: name",
        "B\0d: name",
    ] {
        rows.push(closes(400, "malformed header field", with(&format!("{line}\r\n"))));
    }
    for line in ["X: a\0b", "X: a\u{1}b", "X: a\u{7f}b", "X: a\rb", "Content-Length: 5\rX: y"] {
        rows.push(closes(400, "malformed header", with(&format!("{line}\r\n"))));
    }
    for request in
        ["GET /healthz HTTP/1.1\r\n\r\n", "POST /publish/refused01 HTTP/1.1\r\nContent-Length: 0\r\n\r\n"]
    {
        rows.push(closes(400, "Host header field is missing", request));
    }
    for host in ["a b", "a/b", "u@h", "a, b", "a\u{e9}"] {
        rows.push(closes(400, "malformed Host", format!("GET /healthz HTTP/1.1\r\nHost: {host}\r\n\r\n")));
    }
    for name in ["Host", "Content-Type", "Authorization", "Cookie", "Origin", "Last-Event-ID", "Expect"] {
        rows.push(closes(400, "was sent twice", with(&format!("{name}: a\r\n{name}: a\r\n"))));
    }
    for first in
        [" GET / HTTP/1.1\r\n\r\n", "\0\0\0\0", "{\"json\":1}\r\n\r\n", "\u{16}\u{3}\u{1}\u{2}\0\u{1}\0"]
    {
        rows.push(closes(400, "not HTTP", first));
    }
    rows.push(closes(400, "empty lines", "\r\n".repeat(9)));
    rows
}

fn lengths_in_doubt() -> Vec<Row> {
    let mut rows = Vec::new();
    for lines in [
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 0\r\n",
        "Transfer-Encoding: identity\r\nContent-Length: 5\r\n",
        "Transfer-encoding: x\r\ncontent-length: x\r\n",
    ] {
        rows.push(closes(400, "both Content-Length and Transfer-Encoding", with(lines) + "0\r\n\r\n"));
    }
    for length in
        ["", "+5", "-5", "5,5", "5, 5", "5 5", "0x5", "5;", "five", "5.0", "18446744073709551616", "\u{b2}"]
    {
        let request = with(&format!("Content-Length: {length}\r\n")) + "data:";
        rows.push(closes(400, "malformed Content-Length", request));
    }
    for lengths in
        ["Content-Length: 5\r\nContent-Length: 5\r\n", "Content-Length: 5\r\ncontent-length: 6\r\n"]
    {
        rows.push(closes(400, "was sent twice", with(lengths) + "data:"));
    }
    for size in ["zz", "-5", "+5", "0x5", " 5", "5 ", "5 5", "", ";x", "5,", "fffffffffffffffff"] {
        rows.push(closes(400, "chunk size", chunked(&format!("{size}\r\ndata:\r\n0\r\n\r\n"))));
    }
    for body in [
        "5\r\ndata:x\r\n0\r\n\r\n",
        "5\r\ndata:0\r\n\r\n",
        "5\r\ndata:\n0\r\n\r\n",
        "4\r\ndata:\r\n0\r\n\r\n",
    ] {
        rows.push(closes(400, "does not end where its size says", chunked(body)));
    }
    for body in ["5\ndata:\r\n0\r\n\r\n", "5\r\ndata:\r\n0\n\r\n", "5\r\ndata:\r\n0\r\nA: b\n\r\n"] {
        rows.push(closes(400, "bare LF", chunked(body)));
    }
    for body in ["5;a\rb\r\ndata:\r\n0\r\n\r\n", "0\r\nA: b\rc\r\n\r\n"] {
        rows.push(closes(400, "control character", chunked(body)));
    }
    for trailer in ["GET / HTTP/1.1", ": a", "a : b", " a: b"] {
        rows.push(closes(400, "malformed trailer", chunked(&format!("0\r\n{trailer}\r\n\r\n"))));
    }
    let extension = "x".repeat(300);
    rows.push(closes(400, "size line is too long", chunked(&format!("5;{extension}\r\ndata:\r\n0\r\n\r\n"))));
    let old = "POST /publish/refused01 HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n5\r\ndata:\r\n0\r\n\r\n";
    rows.push(closes(400, "HTTP/1.0 has no Transfer-Encoding", old));
    // A body that nobody wants is checked like any other.
    let unwanted = "POST /nowhere HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n";
    rows.push(closes(400, "chunk size", unwanted));
    rows
}

fn bad_urls() -> Vec<Row> {
    let mut rows = Vec::new();
    for (topic, about) in [
        ("", "bad topic id: 0 characters; use 8 to 64 ASCII letters and digits"),
        ("short12", "bad topic id: 7 characters"),
        (&*"a".repeat(65), "bad topic id: 65 characters"),
        ("abc-def12", "bad topic id: a character"),
        ("abcdef.12", "bad topic id: a character"),
        ("a%2Fbcdefgh", "bad topic id: a character"),
        ("abcdefgh%20", "bad topic id: a character"),
        ("abcdefgh%00", "bad topic id: a character"),
        ("abcdefgh%ff", "bad topic id: a character"),
        ("abcdefgh%E2%84%AA", "bad topic id: a character"),
        ("%2561bcdefgh", "bad topic id: a character"),
        ("abcdefgh+", "bad topic id: a character"),
        ("abcdefgh%", "bad percent-encoding"),
        ("abcdefgh%4", "bad percent-encoding"),
        ("abcdefgh%zz", "bad percent-encoding"),
        ("abcdefgh%+1", "bad percent-encoding"),
    ] {
        rows.push(keeps(400, about, get(&format!("/subscribe/{topic}"))));
        rows.push(keeps(400, about, publish(&format!("/publish/{topic}"), "", "data: x")));
    }
    rows.push(keeps(400, "bad percent-encoding", get("/%zz/refused01")));
    for (query, about) in [
        ("wrap&event=%zz", "bad percent-encoding"),
        ("wrap&id=%", "bad percent-encoding"),
        ("wrap&event=%ff", "not UTF-8"),
        ("wrap&id=%C3%28", "not UTF-8"),
        ("wrap&event=a%0Ab", "event name has a line end or a NUL"),
        ("wrap&event=a%0Db", "event name has a line end or a NUL"),
        ("wrap&event=a%00b", "event name has a line end or a NUL"),
        ("wrap&id=a%0Ab", "event 1 has an id with U+000A in it, which no Last-Event-ID header can carry"),
        ("wrap&id=a%00b", "event 1 has an id with U+0000 in it"),
        ("wrap&id=a%7Fb", "event 1 has an id with U+007F in it"),
        (&*format!("wrap&event={}", "e".repeat(129)), "event name is longer than 128 bytes"),
        (&*format!("wrap&id={}", "e".repeat(129)), "id longer than 128 bytes"),
    ] {
        rows.push(keeps(400, about, publish(&format!("/publish/refused01?{query}"), "", "data")));
    }
    rows.push(keeps(400, "not UTF-8", get("/subscribe?topic=%ff")));
    rows.push(keeps(
        400,
        "a subscription has no body",
        get("/subscribe/refused01").replace("\r\n\r\n", "\r\nContent-Length: 9\r\n\r\nGET /none"),
    ));
    rows
}

fn bad_bodies() -> Vec<Row> {
    let mut rows = vec![
        keeps(400, "empty body", text("")),
        keeps(400, "empty body", with("")),
        keeps(400, "empty body", chunked("0\r\n\r\n")),
        keeps(400, "empty body", publish("/publish/refused01?wrap", "", "")),
        keeps(400, "empty body", publish("/publish/refused01", "Content-Type: application/json\r\n", "")),
        keeps(400, "event 1 has an id longer than 128 bytes", text(format!("data\nid:{}", "i".repeat(129)))),
        keeps(400, "event 2 has an id with U+0001 in it", text("data\n\ndata\nid: a\u{1}b")),
        keeps(400, "event 1 has an id with U+007F in it", text("id:\u{7f}\ndata")),
        keeps(400, "more than 4096 events", text("data\n\n".repeat(4097))),
        keeps(400, "event 2 begins with a byte-order mark", text("data: x\n\n\u{feff}data: y\ndata: z")),
        // Each of its lines becomes a `data:` line, seven times as long.
        keeps(400, "are longer than", publish("/publish/refused01?wrap", "", &"\n".repeat(60_000))),
    ];
    for body in ["\n", "\r\n\r\n", "\r\r", ": comment\n\n: another", "\u{feff}", "\u{feff}\n"] {
        rows.push(keeps(400, "no event in the body", text(body)));
    }
    for (body, about) in [
        ("event: x", "event 1 has no data"),
        ("Data: x", "event 1 has no data"),
        (" data: x", "event 1 has no data"),
        ("data : x", "event 1 has no data"),
        ("{\"json\":true}", "event 1 has no data"),
        ("id: 1\nretry: 5\n\ndata: x", "event 1 has no data"),
        ("data: x\n\nevent: y\n\n", "event 2 has no data"),
        ("data: x\r\rdata: y\r\n\r\nretry: 1", "event 3 has no data"),
        ("event: e\n\ndata: its data", "event 1 has no data"),
    ] {
        rows.push(keeps(400, about, text(body)));
    }
    for (body, about) in
        [("\0", "NUL at byte 0"), ("data: a\0b", "NUL at byte 7"), ("data: x\nid: \0", "NUL at byte 12")]
    {
        rows.push(keeps(400, about, text(body)));
        rows.push(keeps(400, about, publish("/publish/refused01?wrap", "", body)));
        rows.push(keeps(
            400,
            about,
            publish("/publish/refused01", "Content-Type: application/json\r\n", body),
        ));
    }
    for bytes in [&b"\xff"[..], b"\xc0\xaf", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"caf\xe9", b"\xe2\x82"] {
        rows.push(keeps(400, "invalid UTF-8", text([b"data: ", bytes].concat())));
    }
    rows
}

fn other_statuses() -> Vec<Row> {
    let mut rows = Vec::new();
    for target in [
        "/",
        "/nowhere",
        "/subscribe",
        "/publish",
        "/subscribe/refused01/x",
        "/publish/refused01/",
        "/Publish/refused01",
        "/stats/",
        "/healthz/x",
        "//healthz",
        "/publish%2Frefused01",
        "http://h",
    ] {
        rows.push(keeps(404, "no such path; there are GET /subscribe/{topic}", get(target)));
        rows.push(keeps(404, "no such path", publish(target, "", "data: x")));
        rows.push(keeps(404, "no such path", get(target).replace("GET", "OPTIONS")));
    }
    for (method, target, allow) in [
        ("GET", "/publish/refused01", "POST, OPTIONS"),
        ("PUT", "/publish/refused01", "POST, OPTIONS"),
        ("DELETE", "/publish/refused01", "POST, OPTIONS"),
        ("post", "/publish/refused01", "POST, OPTIONS"),
        ("POST", "/subscribe/refused01", "GET, HEAD, OPTIONS"),
        ("get", "/subscribe/refused01", "GET, HEAD, OPTIONS"),
        ("PATCH", "/stats", "GET, HEAD, OPTIONS"),
        ("POST", "/healthz", "GET, HEAD, OPTIONS"),
        ("TRACE", "/healthz", "GET, HEAD, OPTIONS"),
        ("X!#$%&'*+-.^_`|~", "/healthz", "GET, HEAD, OPTIONS"),
    ] {
        let bare = get(target).replacen("GET", method, 1);
        let long = publish(target, "", "data: x").replacen("POST", method, 1);
        for request in [bare, long] {
            let row = keeps(405, "does not take this method; use", request);
            rows.push(Row { field: Some(("Allow", allow)), ..row });
        }
    }
    rows.push(closes(413, "at most 65536 bytes", with("Content-Length: 65537\r\n")));
    rows.push(closes(413, "at most 65536 bytes", with("Content-Length: 18446744073709551615\r\n")));
    rows.push(closes(413, "at most 65536 bytes", with("Content-Length: 65537\r\nExpect: 100-continue\r\n")));
    rows.push(closes(413, "at most 65536 bytes", chunked("10001\r\n")));
    rows.push(closes(413, "at most 65536 bytes", chunked("5\r\ndata:\r\nffff\r\n")));
    rows.push(closes(413, "at most 65536 bytes", chunked("ffffffffffffffff\r\n")));
    rows.push(closes(
        414,
        "request target is too long: send at most 8192",
        get(&format!("/{}", "x".repeat(8192))),
    ));
    rows.push(closes(
        414,
        "request line is too long: send at most 16384",
        format!("GET /{}", "x".repeat(20_000)),
    ));
    rows.push(closes(431, "at most 16384 bytes", with(&format!("X: {}\r\n", "x".repeat(17_000)))));
    rows.push(closes(431, "at most 16384 bytes", with(&format!("X: {}\r\n", "x".repeat(900)).repeat(20))));
    rows.push(closes(431, "too many header fields", with(&"X: y\r\n".repeat(100))));
    let trailer = format!("0\r\n{}\r\n", "A: bcdef\r\n".repeat(2000));
    rows.push(closes(431, "trailer is too large", chunked(&trailer)));
    for expectation in ["200-ok", "100-continue, x", ""] {
        rows.push(closes(
            417,
            "only 100-continue",
            with(&format!("Expect: {expectation}\r\nContent-Length: 5\r\n")),
        ));
    }
    for coding in
        ["gzip", "gzip, chunked", "chunked, chunked", "chunked,", "identity", "", "xchunked", "\"chunked\""]
    {
        let request = with(&format!("Transfer-Encoding: {coding}\r\n")) + "5\r\ndata:\r\n0\r\n\r\n";
        rows.push(closes(501, "unknown Transfer-Encoding: send 'chunked' alone", request));
    }
    let twice = with("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n");
    rows.push(closes(501, "unknown Transfer-Encoding", twice + "0\r\n\r\n"));
    for version in ["0.9", "1.2", "2.0", "3.0", "9.9"] {
        let request = format!("GET /healthz HTTP/{version}\r\nHost: h\r\n\r\n");
        rows.push(closes(505, "send HTTP/1.1 or HTTP/1.0", request));
    }
    rows.push(closes(505, "send HTTP/1.1", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"));
    rows
}

/// What every refusal has: its status, one line of plain text, and the permission to read it.
#[track_caller]
pub(crate) fn check_refusal(answer: &Answer, status: u16, about: &str) {
    assert_eq!(answer.status, status, "{answer:?}");
    assert_eq!(answer.field("Content-Type"), Some("text/plain; charset=utf-8"), "{answer:?}");
    assert_eq!(answer.field("Access-Control-Allow-Origin"), Some("*"), "{answer:?}");
    let reason = answer.body.strip_suffix('\n').expect("a line");
    assert!(!reason.contains(|c: char| c.is_control()), "one line: {reason:?}");
    assert!(reason.contains(about), "{about:?} is not in {reason:?}");
}

/// Sends each row, with a publish pipelined behind it: that one is taken exactly if the connection goes on.
fn check_rows(rows: Vec<Row>) {
    let server = Server::start(&["--body-max", "64KiB"]);
    let mut stream = Stream::open(&server, "/subscribe/refused01");
    let mut expected = Vec::new();
    let count = rows.len();
    for (n, row) in rows.into_iter().enumerate() {
        let Row { request, status, about, closes, field } = row;
        let what = String::from_utf8_lossy(request.get(..200).unwrap_or(&request)).into_owned();
        let mut client = Client::new(&server);
        let behind = publish("/publish/refused01", "", &format!("data: behind {n}"));
        // A refusal may overtake what is still being sent.
        client.try_send([&request[..], behind.as_bytes()].concat());
        let answer = client.answer();
        println!("{what:?}: {answer:?}");
        check_refusal(&answer, status, about);
        if let Some((name, value)) = field {
            assert_eq!(answer.field(name), Some(value));
        }
        if closes {
            assert_eq!(answer.field("Connection"), Some("close"));
            client.assert_closed();
        } else {
            assert_eq!(answer.field("Connection"), None);
            assert_eq!(client.answer().status, 200);
            client.assert_open();
            expected.push(format!("behind {n}"));
        }
    }
    for data in &expected {
        assert_eq!(stream.event().data, *data);
    }
    server.post("/publish/refused01", "data: end");
    assert_eq!(stream.event().data, "end");
    let stats = server.stats();
    assert_eq!((&stats["published"], &stats["refused"]), (&json!(expected.len() + 1), &json!(count)));
}

#[test]
fn a_malformed_head_is_400_and_closes() {
    check_rows(malformed_heads());
}

#[test]
fn a_length_in_doubt_is_400_and_closes() {
    check_rows(lengths_in_doubt());
}

#[test]
fn a_bad_url_is_400_and_the_connection_goes_on() {
    check_rows(bad_urls());
}

#[test]
fn a_body_without_a_sound_event_is_400_and_the_connection_goes_on() {
    check_rows(bad_bodies());
}

#[test]
fn a_request_that_cannot_be_served_gets_the_status_that_says_why() {
    check_rows(other_statuses());
}

#[test]
fn a_listed_origin_may_read_why_it_was_refused() {
    let server = Server::start(&["--cors-origin", "https://one.example", "--body-max", "1KiB"]);
    for (status, rest) in [
        (400, "Content-Length: 5\r\n\r\nevent"),
        (404, "\r\n"),
        (413, "Content-Length: 1025\r\n\r\n"),
        (413, "Transfer-Encoding: chunked\r\n\r\n401\r\n"),
        (400, "Transfer-Encoding: chunked\r\n\r\nzz\r\n"),
        (501, "Transfer-Encoding: gzip\r\n\r\n"),
        (417, "Expect: else\r\n\r\n"),
        (400, "Content-Type: a\r\nContent-Type: b\r\n\r\n"),
        (400, "Content-Length: five\r\n\r\n"),
    ] {
        let path = if status == 404 { "/nowhere" } else { "/publish/origin001" };
        let mut client = Client::new(&server);
        client.send(format!("POST {path} HTTP/1.1\r\nHost: h\r\nOrigin: https://one.example\r\n{rest}"));
        let answer = client.answer();
        assert_eq!(answer.status, status, "{rest:?}");
        assert_eq!(answer.field("Access-Control-Allow-Origin"), Some("https://one.example"), "{rest:?}");
        assert_eq!(answer.field("Vary"), Some("Origin"), "{rest:?}");
    }
}

#[test]
fn nothing_is_smuggled_past_a_proxy_that_reads_lengths_in_another_way() {
    // Each hides a publish where some server would take it for a request of its own.
    let server = Server::start(&[]);
    let mut stream = Stream::open(&server, "/subscribe/smuggled1");
    let hidden = publish("/publish/smuggled1", "", "data: smuggled");
    let head = "POST /publish/smuggled2 HTTP/1.1\r\nHost: h\r\n";
    let size = hidden.len();
    for shape in [
        format!("{head}Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{hidden}"),
        format!("{head}Transfer-Encoding: chunked\r\nContent-Length: {size}\r\n\r\n0\r\n\r\n{hidden}"),
        format!("{head}Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n{hidden}"),
        format!("{head}Transfer-Encoding : chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n{hidden}"),
        format!("{head}Transfer-Encoding:\u{b}chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n{hidden}"),
        format!("{head}X: y\rTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{hidden}"),
        format!("{head}Content-Length: 0\r\nContent-Length: {size}\r\n\r\n{hidden}"),
        format!("{head}Content-Length: 0, {size}\r\n\r\n{hidden}"),
        format!("{head}Content-Length: +{size}\r\n\r\n{hidden}"),
        format!("{head}Content-Length: {size}\r\n\r\n{hidden}"),
        format!("{head}Transfer-Encoding: chunked\r\n\r\n{size:x}\r\n{hidden}\r\n0\r\n\r\n"),
        format!("{head}Transfer-Encoding: chunked\r\n\r\n5\r\ndata:\r\n0\r\n{hidden}"),
        format!("{head}Transfer-Encoding: chunked\r\n\r\n1;\n{hidden}\r\n0\r\n\r\n"),
        format!("{head}Transfer-Encoding: chunked\r\n\r\n0\n\n{hidden}"),
        format!("{head}Transfer-Encoding: chunked\r\n\r\n-1\r\n{hidden}\r\n0\r\n\r\n"),
        format!("GET /healthz HTTP/1.1\r\nHost: h\r\nContent-Length: {size}\r\n\r\n{hidden}"),
        format!(
            "GET /nowhere HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n{size:x}\r\n{hidden}\r\n0\r\n\r\n"
        ),
        format!("GET /healthz HTTP/1.1\r\nHost: h\r\nX: \r\n\r {hidden}"),
        format!("GET /healthz HTTP/1.0\r\n\r\n{hidden}"),
        format!("GET /healthz HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n{hidden}"),
        format!("GET /subscribe/smuggled2 HTTP/1.1\r\nHost: h\r\n\r\n{hidden}"),
    ] {
        server.raw(&shape);
    }
    server.post("/publish/smuggled1", "data: honest");
    assert_eq!(stream.event().data, "honest");
    assert_eq!(server.stats()["published"], 1);
}

#[test]
fn a_tls_handshake_is_told_at_once_that_this_is_plain_http() {
    let server = Server::start(&["--head-timeout", "10m"]);
    // The start of a ClientHello; the client then waits for the server's.
    let mut hello = vec![0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3];
    hello.extend([0xa5; 100]);
    let mut client = Client::new(&server);
    check_refusal(&client.ask(hello), 400, "not HTTP: send plain HTTP/1.1, not TLS");
    client.assert_closed();
}

#[test]
fn random_bytes_do_not_take_the_server_down() {
    // A pipeline of everything, with bytes changed, added, removed or doubled at random.
    let mut server = Server::start(&["--topics-max", "100"]);
    let pipeline = [
        publish("/publish/mutated01", "Content-Type: application/json\r\n", "{\"a\":1}"),
        chunked("5;x=y\r\ndata:\r\n3\r\nabc\r\n0\r\nT: u\r\n\r\n"),
        publish("/publish/mutated01?wrap&event=%65&id=1", "Expect: 100-continue\r\n", "a\r\nb\rc"),
        get("/stats") + &get("/healthz?x=%20") + &get("/nowhere").replace("GET", "OPTIONS"),
        publish("/publish/mutated02", "Cookie: esper_token=a.b.c\r\n", "id: 1\ndata: x\r\n\r\ndata: y"),
        get("/subscribe/mutated01?lastEventId=1&token=t"),
    ]
    .concat()
    .into_bytes();
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let start = Instant::now();
    thread::scope(|scope| {
        for part in 0..4 {
            let (server, pipeline) = (&server, &pipeline);
            scope.spawn(move || {
                let mut random = fastrand::Rng::with_seed(seed ^ part);
                for _ in 0..2500 {
                    // Enough for a slow machine; how many were tried is no promise.
                    if start.elapsed() > Duration::from_secs(10) {
                        return;
                    }
                    let mutated = mutate(pipeline, &mut random);
                    let answer = server.raw(&mutated);
                    let is_http = answer.is_empty() || answer.starts_with("HTTP/1.1 ");
                    assert!(is_http, "{:?} got {answer:?}", String::from_utf8_lossy(&mutated));
                    assert!(!answer.contains("HTTP/1.1 503"), "{answer:?}");
                }
            });
        }
    });
    assert!(server.is_running());
    assert!(!server.log().contains("panicked"), "{}", server.log());
    let mut stream = Stream::open(&server, "/subscribe/mutated03");
    server.post("/publish/mutated03", "data: well");
    assert_eq!(stream.event().data, "well");
    drop(stream);
    eventually("no stream is left over", || (server.stats()["clients"] == 0).then_some(()));
    assert!(server.stop().success());
}

fn mutate(bytes: &[u8], random: &mut fastrand::Rng) -> Vec<u8> {
    let mut out = bytes.to_vec();
    for _ in 0..random.usize(1..6) {
        if out.is_empty() {
            break;
        }
        let at = random.usize(..out.len());
        let interesting = b"\r\n\0 :;%/?&=0fF\t\x7f\xff,";
        match random.u8(..6) {
            0 => out[at] = random.u8(..),
            1 => out[at] = interesting[random.usize(..interesting.len())],
            2 => out.insert(at, interesting[random.usize(..interesting.len())]),
            3 => drop(out.remove(at)),
            4 => out.truncate(at.max(1)),
            _ => {
                let end = (at + random.usize(..64)).min(out.len());
                let doubled = out[at..end].to_vec();
                out.splice(at..at, doubled);
            }
        }
    }
    out
}

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
    assert_eq!((stream.head.status, stream.head.field("Content-Type")), (200, Some("text/event-stream")));
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
        let answer = client.ask(publish("/publish/limited03", "", "data: x\n\ndata: y"));
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
        eventually("a publish and a stream are counted as refused, and no topic more", || {
            let stats = server.stats();
            (stats["refused"] == 2 && stats["topics"] == 2).then_some(())
        });
        // A topic without subscribers makes room.
        drop(streams);
        eventually("they are gone", || (server.stats()["clients"] == 0).then_some(()));
        eventually("there is room", || {
            (server.post("/publish/limited03", "data: x").status == 200).then_some(())
        });
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
    eventually("the topics are counted", || (server.stats()["topics"] == 150).then_some(()));
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
    eventually("there is room again", || {
        (server.post("/publish/refused01", &body).status == 200).then_some(())
    });
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
