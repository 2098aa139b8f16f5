//! As much of an HTTP/1.1 client as the measuring needs: where the server is, requests as bytes, response heads. No I/O
//! but the look-up of a name.

use crate::chunked::ChunkDecoder;
use crate::stamp::{Payload, STAMP_BYTES, Stamp};
use crate::wire::Wire;
use std::net::{SocketAddr, ToSocketAddrs};

/// A response head longer than this is refused.
pub(crate) const HEAD_BYTES_MAX: usize = 64 * 1024;
const HEADERS_MAX: usize = 64;

/// The server under test.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) address: SocketAddr,
    /// Sent as `Host`.
    pub(crate) authority: String,
    /// Stands before every path, without a slash at its end.
    base: String,
}

impl Target {
    /// Reads `http://host[:port][/base]` and looks the host up.
    pub(crate) fn resolve(url: &str) -> Result<Target, String> {
        let wrong = |why: &str| format!("{url}: {why}; write it as http://127.0.0.1:3000");
        if url.starts_with("https://") {
            return Err(wrong("TLS is not spoken here, measure the plain port behind it"));
        }
        let rest = url.strip_prefix("http://").ok_or_else(|| wrong("no http:// in front"))?;
        if rest.contains(['?', '#', '@', ' ']) {
            return Err(wrong("only host, port and path belong here"));
        }
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        if authority.is_empty() {
            return Err(wrong("no host"));
        }
        let has_port =
            authority.rsplit_once(':').is_some_and(|(host, _)| !host.contains(':') || host.ends_with(']'));
        let with_port = if has_port { authority.to_owned() } else { format!("{authority}:80") };
        let address = with_port
            .to_socket_addrs()
            .map_err(|error| wrong(&format!("the host is not found ({error})")))?
            .next()
            .ok_or_else(|| wrong("the host has no address"))?;
        let base = path.trim_end_matches('/').to_owned();
        Ok(Target { address, authority: authority.to_owned(), base })
    }
}

/// `name: value` lines sent with each request, checked.
#[derive(Clone, Debug, Default)]
pub(crate) struct Headers(Vec<(String, String)>);

impl Headers {
    /// Adds a line; what would break the request apart is refused.
    pub(crate) fn add(&mut self, name: &str, value: &str) -> Result<(), String> {
        let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        if name.is_empty() || !name.bytes().all(token) {
            return Err(format!("'{name}' is no header name; write 'Name: value'"));
        }
        if value.bytes().any(|byte| byte < b' ' && byte != b'\t' || byte == 0x7f) {
            return Err(format!("the value of {name} has a control character"));
        }
        self.0.push((name.to_owned(), value.to_owned()));
        Ok(())
    }

    /// Writes the head of a request; a `default` line is left out where a line of that name was added.
    fn head(&self, method: &str, target: &Target, path: &str, defaults: &[(&str, &str)]) -> String {
        let mut head = format!("{method} {}{path} HTTP/1.1\r\n", target.base);
        let own = self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let has = |name: &str| self.0.iter().any(|(known, _)| known.eq_ignore_ascii_case(name));
        let host = ("Host", target.authority.as_str());
        let added = [host].into_iter().chain(defaults.iter().copied()).filter(|(name, _)| !has(name));
        for (name, value) in added.chain(own) {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head + "\r\n"
    }
}

/// Returns the request that opens a stream.
pub(crate) fn subscribe_request(target: &Target, path: &str, headers: &Headers) -> Vec<u8> {
    let defaults = [("Accept", "text/event-stream"), ("Cache-Control", "no-cache")];
    headers.head("GET", target, path, &defaults).into_bytes()
}

/// A publish with its stamp left blank. Making one is a copy and a few digits, well under what sending it costs.
#[derive(Debug, Default)]
pub(crate) struct PublishRequest {
    bytes: Vec<u8>,
    /// Where the stamp goes, in bytes from the start: one place over HTTP, and one for each `{body}` of a [`Wire`].
    stamps_at: Vec<usize>,
}

impl PublishRequest {
    /// Makes a request whose body is `before`, the payload and `after`.
    pub(crate) fn new(
        target: &Target,
        path: &str,
        headers: &Headers,
        (before, after): (&str, &str),
        payload: &Payload,
    ) -> PublishRequest {
        let length = (before.len() + payload.size() + after.len()).to_string();
        let defaults = [("Content-Type", "text/event-stream"), ("Content-Length", length.as_str())];
        let bytes = headers.head("POST", target, path, &defaults).into_bytes();
        let mut request = PublishRequest { bytes, ..PublishRequest::default() };
        request.add_body((before, after), payload);
        request
    }

    /// Makes that of publisher number `publisher` for a server that speaks no HTTP.
    pub(crate) fn on_wire(
        wire: &Wire,
        publisher: usize,
        (before, after): (&str, &str),
        payload: &Payload,
    ) -> PublishRequest {
        let frame = wire.frame(publisher, before.len() + payload.size() + after.len());
        let mut request = PublishRequest::default();
        for (number, piece) in frame.split("{body}").enumerate() {
            if number > 0 {
                request.add_body((before, after), payload);
            }
            request.bytes.extend_from_slice(piece.as_bytes());
        }
        request
    }

    fn add_body(&mut self, (before, after): (&str, &str), payload: &Payload) {
        self.bytes.extend_from_slice(before.as_bytes());
        self.bytes.extend_from_slice(&payload.blank());
        self.stamps_at.push(self.bytes.len() - STAMP_BYTES);
        self.bytes.extend_from_slice(after.as_bytes());
    }

    /// Appends the request for one event.
    pub(crate) fn write(&self, stamp: &Stamp, out: &mut Vec<u8>) {
        let begin = out.len();
        out.extend_from_slice(&self.bytes);
        for at in &self.stamps_at {
            if let Some(blank) = out.get_mut(begin + at..).and_then(|rest| rest.first_chunk_mut()) {
                stamp.write(blank);
            }
        }
    }
}

#[derive(Debug)]
pub(crate) struct ResponseHead {
    /// 1xx ones come before the real response.
    pub(crate) status: u16,
    pub(crate) event_stream: bool,
    /// The server closes the connection after this response.
    pub(crate) closes: bool,
    pub(crate) body: Body,
    pub(crate) head_bytes: usize,
}

impl ResponseHead {
    /// Reads the head at the front of `input`; `None` while it is not whole.
    pub(crate) fn read(input: &[u8]) -> Result<Option<ResponseHead>, String> {
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut response = httparse::Response::new(&mut headers);
        let head_bytes = match response.parse(input) {
            Ok(httparse::Status::Complete(bytes)) => bytes,
            Ok(httparse::Status::Partial) if input.len() > HEAD_BYTES_MAX => {
                return Err("the response head does not end".to_owned());
            }
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(error) => return Err(format!("no HTTP/1 response ({error})")),
        };
        let status = response.code.unwrap_or(0);
        let mut head = ResponseHead {
            status,
            event_stream: false,
            closes: response.version == Some(0),
            body: Body::UntilClose,
            head_bytes,
        };
        let mut length = None;
        let mut chunked = false;
        for header in response.headers.iter() {
            let value = header.value.trim_ascii();
            let is = |name: &str| header.name.eq_ignore_ascii_case(name);
            if is("content-type") {
                let start = b"text/event-stream";
                head.event_stream =
                    value.get(..start.len()).is_some_and(|front| front.eq_ignore_ascii_case(start));
            } else if is("content-length") {
                let text = std::str::from_utf8(value).map_err(|_| "a malformed Content-Length".to_owned())?;
                length = Some(text.parse().map_err(|_| format!("a malformed Content-Length '{text}'"))?);
            } else if is("transfer-encoding") {
                chunked = value.eq_ignore_ascii_case(b"chunked");
            } else if is("connection") {
                head.closes = value.eq_ignore_ascii_case(b"close")
                    || head.closes && !value.eq_ignore_ascii_case(b"keep-alive");
            }
        }
        head.body = match (chunked, length) {
            _ if status < 200 || status == 204 || status == 304 => Body::Length(0),
            (true, _) => Body::Chunked(ChunkDecoder::default()),
            (false, Some(length)) => Body::Length(length),
            (false, None) => Body::UntilClose,
        };
        head.closes |= matches!(head.body, Body::UntilClose);
        Ok(Some(head))
    }
}

/// A body on its way in: how much is still to come, or how its end is known.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Body {
    Length(u64),
    Chunked(ChunkDecoder),
    UntilClose,
}

impl Body {
    /// Returns the next piece of the body in `input`, moving `input` past it; `None` when `input` holds no more of it.
    pub(crate) fn next<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<&'a [u8]>, String> {
        let taken = match self {
            Body::Chunked(decoder) => {
                return decoder.next(input).map_err(|_| "broken chunk framing".to_owned());
            }
            Body::Length(left) => usize::try_from(*left).unwrap_or(usize::MAX).min(input.len()),
            Body::UntilClose => input.len(),
        };
        let (piece, rest) = input.split_at(taken);
        *input = rest;
        if let Body::Length(left) = self {
            *left -= taken as u64;
        }
        Ok((!piece.is_empty()).then_some(piece))
    }

    /// Tells whether all of it was read.
    pub(crate) fn ended(&self) -> bool {
        match self {
            Body::Length(left) => *left == 0,
            Body::Chunked(decoder) => decoder.ended(),
            Body::UntilClose => false,
        }
    }
}

/// Returns the first line of a body, to show it.
pub(crate) fn first_line(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    text.lines().next().unwrap_or("").chars().filter(|c| !c.is_control()).take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_split_into_address_host_and_base() {
        for (url, port, authority, base) in [
            ("http://127.0.0.1:3000", 3000, "127.0.0.1:3000", ""),
            ("http://127.0.0.1/sse/", 80, "127.0.0.1", "/sse"),
            ("http://[::1]", 80, "[::1]", ""),
            ("http://[::1]:81", 81, "[::1]:81", ""),
        ] {
            let target = Target::resolve(url).unwrap();
            assert_eq!((target.address.port(), &*target.authority, &*target.base), (port, authority, base));
        }
    }

    #[test]
    fn a_wrong_url_is_refused_with_what_is_right() {
        for url in [
            "127.0.0.1:3000",
            "https://127.0.0.1",
            "http://",
            "http:///x",
            "http://h:1/?q",
            "http://127.0.0.1:x",
        ] {
            let refusal = Target::resolve(url).unwrap_err();
            assert!(refusal.contains("http://127.0.0.1:3000"), "{refusal}");
        }
    }

    #[test]
    fn a_header_cannot_break_the_request_apart() {
        let mut headers = Headers::default();
        for (name, value) in [("a b", "c"), ("", "c"), ("a:", "c"), ("a", "b\r\nc: d"), ("a", "b\n")] {
            assert!(headers.add(name, value).is_err(), "{name:?} {value:?}");
        }
        assert!(headers.add("X-Tenant", "blue team").is_ok());
    }

    #[test]
    fn a_given_header_takes_the_place_of_a_default() {
        let target = Target::resolve("http://127.0.0.1:3000/x").unwrap();
        let mut headers = Headers::default();
        headers.add("accept", "*/*").unwrap();
        let request = String::from_utf8(subscribe_request(&target, "/s/a", &headers)).unwrap();
        assert_eq!(
            request,
            "GET /x/s/a HTTP/1.1\r\nHost: 127.0.0.1:3000\r\nCache-Control: no-cache\r\naccept: */*\r\n\r\n"
        );
    }

    #[test]
    fn each_publish_carries_its_own_stamp_and_the_right_length() {
        let target = Target::resolve("http://127.0.0.1:3000").unwrap();
        let template = ("data:", "\n\n");
        let payload = Payload::new(40);
        let request = PublishRequest::new(&target, "/p/a", &Headers::default(), template, &payload);
        let mut out = Vec::new();
        for sequence in 0..2 {
            request.write(&Stamp { topic: 0, publisher: 0, sequence, due_ns: 7 }, &mut out);
        }
        let one = "POST /p/a HTTP/1.1\r\nHost: 127.0.0.1:3000\r\nContent-Type: text/event-stream\r\n\
                   Content-Length: 47\r\n\r\ndata:xxxxxxxxx0000000000000000N0000000000007~\n\n";
        let expected = one.replace('N', "0") + &one.replace('N', "1");
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[test]
    fn an_event_that_stands_twice_on_a_wire_carries_its_stamp_twice() {
        let wire = r#"{"subscribe": "", "subscribed": "", "open": "", "opened": "", "acknowledged": "", "refused": [],
            "publish": "ADD {length} {body} TELL {body}{publisher}"}"#;
        let request = PublishRequest::on_wire(&Wire::parse(wire).unwrap(), 5, ("<", ">"), &Payload::new(32));
        let mut out = Vec::new();
        request.write(&Stamp { topic: 0, publisher: 5, sequence: 1, due_ns: 7 }, &mut out);
        let body = "<x000000050000000010000000000007~>";
        assert_eq!(String::from_utf8(out).unwrap(), format!("ADD 34 {body} TELL {body}5"));
    }

    #[test]
    fn a_head_is_read_once_it_is_whole() {
        let wire = b"HTTP/1.1 200 OK\r\nContent-Type: Text/Event-Stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n";
        for end in 0..wire.len() - 3 {
            assert!(ResponseHead::read(&wire[..end]).unwrap().is_none(), "{end}");
        }
        let head = ResponseHead::read(wire).unwrap().unwrap();
        assert!(head.event_stream && !head.closes && matches!(head.body, Body::Chunked(_)));
        assert_eq!((head.status, head.head_bytes), (200, wire.len() - 3));
    }

    #[test]
    fn how_a_response_ends_is_told_from_its_head() {
        let read = |head: &str| ResponseHead::read(format!("{head}\r\n\r\n").as_bytes()).unwrap().unwrap();
        assert!(read("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 3").closes);
        assert!(read("HTTP/1.0 200 OK\r\nContent-Length: 3").closes);
        assert!(!read("HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 3").closes);
        assert!(read("HTTP/1.1 200 OK").closes);
        assert!(read("HTTP/1.1 204 No Content").body.ended());
        assert!(read("HTTP/1.1 100 Continue").body.ended());
        assert!(!read("HTTP/1.1 503 Busy\r\nContent-Length: 3").body.ended());
    }

    #[test]
    fn what_is_no_http_is_refused() {
        assert!(ResponseHead::read(b"SSH-2.0-OpenSSH\r\n\r\n").is_err());
        assert!(ResponseHead::read(b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n").is_err());
        assert!(
            ResponseHead::read(&[b"HTTP/1.1 200 OK\r\nA: ", &[b'a'; HEAD_BYTES_MAX][..]].concat()).is_err()
        );
    }

    #[test]
    fn a_body_of_given_length_ends_there() {
        let mut body = Body::Length(3);
        let mut input = &b"abcHTTP"[..];
        assert_eq!(body.next(&mut input), Ok(Some(&b"abc"[..])));
        assert_eq!((body.next(&mut input), body.ended(), input), (Ok(None), true, &b"HTTP"[..]));
    }
}
