//! HTTP as bytes: connections, one request at a time, and answers taken apart.

use std::io::{self, BufRead, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use serde_json::Value;

use super::machine::PATIENCE;

/// Returns a new connection with a time limit on reads.
pub(crate) fn connect(address: SocketAddr) -> TcpStream {
    try_connect(address).expect("it listens")
}

/// Returns a new connection with a time limit on reads, or nothing when nobody listens.
pub(crate) fn try_connect(address: SocketAddr) -> Option<TcpStream> {
    let connection = TcpStream::connect(address).ok()?;
    connection.set_read_timeout(Some(PATIENCE)).expect("a socket");
    Some(connection)
}

/// Returns a new connection to a socket of the file system with a time limit on reads, or nothing when nobody listens. It
/// is used as one of TCP: only what all stream sockets have in common is asked of it.
pub(crate) fn try_connect_unix(path: &str) -> Option<TcpStream> {
    let connection = TcpStream::from(OwnedFd::from(UnixStream::connect(path).ok()?));
    connection.set_read_timeout(Some(PATIENCE)).expect("a socket");
    Some(connection)
}

/// Sends one request on a connection of its own, and takes the answer apart.
pub(crate) fn ask(
    mut connection: TcpStream,
    method: &str,
    path: &str,
    fields: &[&str],
    body: &str,
) -> Answer {
    let request = request_text("localhost", method, path, fields, body);
    connection.write_all(request.as_bytes()).expect("sent");
    let mut answer = Vec::new();
    let _ = connection.read_to_end(&mut answer);
    Answer::parse(&String::from_utf8_lossy(&answer))
}

/// Sends one request on a connection of its own, and returns all that comes back. The sending side stays open, because
/// proxies take its end for the end of the client.
pub(crate) fn exchange(address: SocketAddr, method: &str, path: &str, fields: &[&str], body: &str) -> String {
    let mut connection = connect(address);
    connection.write_all(request_text(address, method, path, fields, body).as_bytes()).expect("sent");
    let mut answer = Vec::new();
    let _ = connection.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

/// Returns a request after which the connection closes.
pub(super) fn request_text(
    address: impl std::fmt::Display,
    method: &str,
    path: &str,
    fields: &[&str],
    body: &str,
) -> String {
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n");
    for field in fields {
        head += &format!("{field}\r\n");
    }
    if !body.is_empty() {
        head += &format!("Content-Length: {}\r\n", body.len());
    }
    format!("{head}\r\n{body}")
}

/// Reads up to the blank line that ends a head. What is returned has no such end where the connection ended before it.
///
/// # Errors
/// Those of the connection.
pub(crate) fn read_head(reader: &mut impl BufRead) -> io::Result<String> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") && reader.read_line(&mut head)? > 0 {}
    Ok(head)
}

/// An answer, taken apart.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    /// Takes the first answer in `text` apart.
    pub(crate) fn parse(text: &str) -> Answer {
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {text:?}"));
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status line");
        Answer { status, head: head.to_owned(), body: body.to_owned() }
    }

    /// A header field's value.
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (field, value) = line.split_once(':')?;
            field.eq_ignore_ascii_case(name).then_some(value.trim())
        })
    }
    /// The body of an answer that is 200 and JSON.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        assert_eq!(self.status, 200, "{self:?}");
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The id in the answer to a publish.
    #[track_caller]
    pub(crate) fn id(&self) -> String {
        self.json()["id"].as_str().expect("an id").to_owned()
    }
}

/// Everything between the chunks' sizes, up to the connection's end. The last chunk may be cut short.
pub(crate) fn dechunk(mut bytes: &[u8]) -> String {
    let mut text = Vec::new();
    while let Some(at) = bytes.windows(2).position(|pair| pair == b"\r\n") {
        let size = usize::from_str_radix(std::str::from_utf8(&bytes[..at]).unwrap(), 16).unwrap();
        let chunk = &bytes[at + 2..];
        text.extend_from_slice(&chunk[..size.min(chunk.len())]);
        bytes = chunk.get(size + 2..).unwrap_or_default();
    }
    String::from_utf8(text).unwrap()
}

/// The text of a stream behind the retry time that it begins with.
pub(crate) fn behind_first_retry(text: &str) -> &str {
    let rest = text.strip_prefix("retry:").expect("a retry time");
    rest.trim_start_matches(|c: char| c.is_ascii_digit()).strip_prefix('\n').expect("one line")
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

#[track_caller]
pub(crate) fn check_unauthorized(answer: &Answer, about: &str) {
    check_refusal(answer, 401, about);
    assert_eq!(answer.field("WWW-Authenticate"), Some("Bearer"));
}
