//! What bad input gets: a status, one line that says why, and nothing published or lost.

mod hostile;
mod limits;

use serde_json::json;

use crate::support::{Client, Server, Stream, check_refusal, publish_request};

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
    for name in ["Host", "Content-Type", "Authorization", "Origin", "Last-Event-ID", "Expect"] {
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
        rows.push(keeps(400, about, publish_request(&format!("/publish/{topic}"), "", "data: x")));
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
        rows.push(keeps(400, about, publish_request(&format!("/publish/refused01?{query}"), "", "data")));
    }
    rows.push(keeps(400, "not UTF-8", get("/subscribe?topic=%ff")));
    rows.push(keeps(
        400,
        "a subscription by GET has no body",
        get("/subscribe/refused01").replace("\r\n\r\n", "\r\nContent-Length: 9\r\n\r\nGET /none"),
    ));
    rows
}

fn bad_bodies() -> Vec<Row> {
    let mut rows = vec![
        keeps(400, "empty body", text("")),
        keeps(400, "empty body", with("")),
        keeps(400, "empty body", chunked("0\r\n\r\n")),
        keeps(
            400,
            "empty body",
            publish_request("/publish/refused01", "Content-Type: application/json\r\n", ""),
        ),
        keeps(400, "event 1 has an id longer than 128 bytes", text(format!("data\nid:{}", "i".repeat(129)))),
        keeps(400, "event 2 has an id with U+0001 in it", text("data\n\ndata\nid: a\u{1}b")),
        keeps(400, "event 1 has an id with U+007F in it", text("id:\u{7f}\ndata")),
        keeps(400, "more than 4096 events", text("data\n\n".repeat(4097))),
        keeps(400, "event 2 begins with a byte-order mark", text("data: x\n\n\u{feff}data: y\ndata: z")),
        // Each of its lines becomes a `data:` line, seven times as long.
        keeps(400, "are longer than", publish_request("/publish/refused01?wrap", "", &"\n".repeat(60_000))),
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
        rows.push(keeps(400, about, publish_request("/publish/refused01?wrap", "", body)));
        rows.push(keeps(
            400,
            about,
            publish_request("/publish/refused01", "Content-Type: application/json\r\n", body),
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
        rows.push(keeps(404, "no such path", publish_request(target, "", "data: x")));
        rows.push(keeps(404, "no such path", get(target).replace("GET", "OPTIONS")));
    }
    // Without a topic it is nothing to GET, but a body may name some.
    rows.push(keeps(404, "no such path; there are GET /subscribe/{topic}", get("/subscribe")));
    for (method, target, allow) in [
        ("PUT", "/subscribe", "GET, HEAD, POST, QUERY, OPTIONS"),
        ("GET", "/ticket", "POST, OPTIONS"),
        ("GET", "/renew", "POST, OPTIONS"),
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
        let long = publish_request(target, "", "data: x").replacen("POST", method, 1);
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
    let coded = |coding: &str| with(&format!("Transfer-Encoding: {coding}\r\n")) + "5\r\ndata:\r\n0\r\n\r\n";
    for coding in
        ["gzip", "chunked, gzip", "chunked, chunked", "chunked,", "identity", "", "xchunked", "\"chunked\""]
    {
        rows.push(closes(400, "send 'chunked' alone", coded(coding)));
    }
    rows.push(closes(501, "unknown Transfer-Encoding: send 'chunked' alone", coded("gzip, chunked")));
    let twice = with("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n");
    rows.push(closes(501, "unknown Transfer-Encoding", twice + "0\r\n\r\n"));
    for version in ["0.9", "2.0", "3.0", "9.9"] {
        let request = format!("GET /healthz HTTP/{version}\r\nHost: h\r\n\r\n");
        rows.push(closes(505, "send HTTP/1.1 or HTTP/1.0", request));
    }
    rows.push(closes(505, "send HTTP/1.1", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"));
    rows
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
        let behind = publish_request("/publish/refused01", "", &format!("data: behind {n}"));
        // A refusal may overtake what is still being sent.
        client.try_send([&request[..], behind.as_bytes()].concat());
        let answer = client.answer();
        println!("{what:?}: {answer:?}");
        check_refusal(&answer, status, about);
        if let Some((name, value)) = field {
            assert_eq!(answer.field(name), Some(value));
        }
        client.check_behind(&answer, closes);
        if !closes {
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
