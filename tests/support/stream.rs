//! Streams and their events, as an EventSource sees them.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::client::Publisher;
use super::http::{Answer, connect, read_head};
use super::machine::PATIENCE;
use super::server::Server;

/// An event as EventSource would dispatch it, comments apart.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Event {
    pub(crate) name: String,
    pub(crate) data: String,
    pub(crate) id: String,
    pub(crate) retry: Option<u64>,
    /// Its lines as they came.
    pub(crate) lines: String,
}

/// An open stream, its head read.
pub(crate) struct Stream {
    reader: BufReader<TcpStream>,
    pub(crate) head: Answer,
    /// Undecoded text that came with the last chunk.
    text: String,
    /// The retry time that it began with.
    pub(crate) first_retry: Option<Event>,
    /// Nothing else came yet.
    is_empty: bool,
    /// Whether the body came to its orderly end, not just the connection.
    pub(crate) is_complete: bool,
}

impl Stream {
    pub(crate) fn open(server: &Server, path: &str) -> Stream {
        Stream::open_with(server, path, &[])
    }

    pub(crate) fn open_with(server: &Server, path: &str, fields: &[&str]) -> Stream {
        let mut request = format!("GET {path} HTTP/1.1\r\nHost: {}\r\n", server.address);
        for field in fields {
            request += &format!("{field}\r\n");
        }
        Stream::send(server.address, &format!("{request}\r\n"))
    }

    /// Subscribes to a topic as a client that has seen the event with this id.
    pub(crate) fn resume(server: &Server, topic: &str, last_event_id: &str) -> Stream {
        let field = format!("Last-Event-ID: {last_event_id}");
        Stream::open_with(server, &format!("/subscribe/{topic}"), &[&field])
    }

    /// Sends a request as it is and reads the head of its answer.
    pub(crate) fn send(address: SocketAddr, request: &str) -> Stream {
        let mut connection = connect(address);
        connection.write_all(request.as_bytes()).expect("sent");
        Stream::of(connection)
    }

    /// Reads the head of the answer on a connection on which a stream was asked for.
    pub(crate) fn of(connection: TcpStream) -> Stream {
        Stream::try_of(connection).expect("a head before the end")
    }

    /// The same; none when the server is gone.
    pub(crate) fn try_of(connection: TcpStream) -> Option<Stream> {
        let mut reader = BufReader::new(connection);
        let head = read_head(&mut reader).ok().filter(|head| head.ends_with("\r\n\r\n"))?;
        let (head, text) = (Answer::parse(&head), String::new());
        let mut stream = Stream { reader, head, text, first_retry: None, is_empty: true, is_complete: false };
        stream.take_first_retry();
        Some(stream)
    }

    /// Takes the retry time that came with the head, if there is one.
    fn take_first_retry(&mut self) {
        let came = String::from_utf8_lossy(self.reader.buffer());
        let is_chunked = self.head.field("Transfer-Encoding").is_some();
        let text = if is_chunked { came.split_once("\r\n").map_or("", |(_, text)| text) } else { &came };
        if is_retry(text) {
            // A proxy may send more with it.
            let piece = self.read_some().expect("it is there");
            let (line, rest) = piece.split_once('\n').expect("a whole line");
            (self.first_retry, self.text) = (Some(parse_event(line)), rest.to_owned());
        }
    }

    /// The next event; heartbeats and other comments are passed over, and so is the retry time at the beginning.
    pub(crate) fn event(&mut self) -> Event {
        self.next_event().expect("an event before the end")
    }

    /// The next event, or none at the end of the stream.
    pub(crate) fn next_event(&mut self) -> Option<Event> {
        let start = Instant::now();
        self.next_event_while(|| {
            // Heartbeats alone would keep a read from ever giving up.
            assert!(start.elapsed() < PATIENCE, "no event in {PATIENCE:?}");
            true
        })
    }

    /// The next event, or none at the end of the stream, or when `goes_on` says so, which is asked between what comes.
    pub(crate) fn next_event_while(&mut self, goes_on: impl Fn() -> bool) -> Option<Event> {
        while goes_on() {
            if let Some(rest) = self.text.strip_prefix('\n') {
                self.text = rest.to_owned();
            } else if let Some(rest) =
                self.text.strip_prefix(":\n").or_else(|| self.text.strip_prefix(": SSE stream\n"))
            {
                self.text = rest.to_owned();
            } else if self.is_empty
                && self.first_retry.is_none()
                && let Some((line, rest)) = self.text.split_once('\n')
                && is_retry(line)
            {
                // A proxy sent it later than the head.
                self.first_retry = Some(parse_event(line));
                self.text = rest.to_owned();
            } else if let Some((lines, rest)) = self.text.split_once("\n\n") {
                let event = parse_event(lines);
                self.text = rest.to_owned();
                if event.lines.lines().any(|line| !line.starts_with(':')) {
                    self.is_empty = false;
                    return Some(event);
                }
            } else if let Some(more) = self.read_some() {
                self.text.push_str(&more);
            } else {
                // What is left has no blank line: the time at which to come back. A stream that is refused has no other.
                let left = std::mem::take(&mut self.text);
                let last = left.strip_suffix('\n').map(parse_event);
                let is_cut = !self.is_complete && self.head.field("Transfer-Encoding").is_some();
                let last = last.or_else(|| self.first_retry.take_if(|_| self.is_empty));
                self.is_empty = false;
                return last.filter(|_| !is_cut);
            }
        }
        None
    }

    /// The next piece of text, comments and all: a chunk, or for HTTP/1.0 a line.
    pub(crate) fn read_some(&mut self) -> Option<String> {
        let is_chunked = self.head.field("Transfer-Encoding").is_some();
        let mut line = String::new();
        if self.reader.read_line(&mut line).unwrap_or(0) == 0 {
            return None;
        }
        if !is_chunked {
            return Some(line);
        }
        let size =
            usize::from_str_radix(line.trim_end(), 16).unwrap_or_else(|_| panic!("no chunk: {line:?}"));
        let mut chunk = vec![0; size + 2];
        self.reader.read_exact(&mut chunk).ok()?;
        assert!(chunk.ends_with(b"\r\n"), "a chunk ends with CRLF");
        chunk.truncate(size);
        self.is_complete = size == 0;
        (size > 0).then(|| String::from_utf8(chunk).expect("UTF-8"))
    }

    /// Reads events up to the one with this data, and returns their data.
    pub(crate) fn data_until(&mut self, last: &str) -> Vec<String> {
        let mut all = Vec::new();
        while all.last().is_none_or(|data| data != last) {
            all.push(self.event().data);
        }
        all
    }

    /// Returns all events up to the orderly end of the body.
    pub(crate) fn rest_of_events(&mut self) -> Vec<Event> {
        let events = std::iter::from_fn(|| self.next_event()).collect();
        assert!(self.is_complete, "the body ends in order: {events:?}");
        events
    }

    pub(crate) fn socket(&self) -> &TcpStream {
        self.reader.get_ref()
    }
}

/// Whether it is a retry time as esper writes it; in an event of a publisher a blank may follow the colon.
fn is_retry(text: &str) -> bool {
    text.strip_prefix("retry:").is_some_and(|text| text.starts_with(|c: char| c.is_ascii_digit()))
}

/// Returns the data of events.
pub(crate) fn data(events: &[Event]) -> Vec<&str> {
    events.iter().map(|event| &*event.data).collect()
}

fn parse_event(lines: &str) -> Event {
    let mut event = Event { lines: lines.to_owned(), ..Event::default() };
    let mut data = Vec::new();
    for line in lines.lines() {
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => event.name = value.to_owned(),
            "data" => data.push(value),
            "id" => event.id = value.to_owned(),
            "retry" => event.retry = value.parse().ok(),
            _ => {}
        }
    }
    event.data = data.join("\n");
    event
}

/// Takes the farewell off the end: a `retry:` and nothing else.
pub(crate) fn farewell(events: &mut Vec<Event>) -> u64 {
    let last = events.pop().expect("a farewell");
    let retry = last.retry.expect("a retry");
    assert_eq!(last.lines, format!("retry:{retry}"));
    retry
}

/// Returns why a gap is there, of its data.
#[track_caller]
pub(crate) fn gap_reason(gap: &str) -> String {
    let gap: Value = serde_json::from_str(gap).unwrap();
    assert!(gap.get("from").is_some(), "{gap}");
    gap["reason"].as_str().unwrap().to_owned()
}

/// Publishes to `topic` until `stream` was busy for three heartbeats of 600 ms on end, and expects no comment in that time.
///
/// # Panics
/// When a comment comes, and when the machine never publishes for so long without a pause, which would show nothing.
pub(crate) fn check_no_heartbeat_while_busy(server: &Server, stream: &mut Stream, topic: &str) {
    let mut publisher = Publisher::new(server);
    let start = Instant::now();
    let (mut busy_since, mut quiet_since) = (start, start);
    while busy_since.elapsed() < Duration::from_secs(2) {
        assert!(start.elapsed() < PATIENCE, "not two seconds without a pause in {PATIENCE:?}");
        let began = Instant::now();
        publisher.publish(topic, "data: x").unwrap();
        let mut comments = 0;
        loop {
            let text = stream.read_some().unwrap();
            comments += text.lines().filter(|line| *line == ":").count();
            if text.contains("data: x") {
                break;
            }
        }
        // No less than the time between two events on the wire. In so long a pause a heartbeat may have been due, and the
        // time before it proves nothing.
        if quiet_since.elapsed() > Duration::from_millis(400) {
            busy_since = Instant::now();
        } else {
            assert_eq!(comments, 0, "{comments} comments on a stream that is busy");
        }
        quiet_since = began;
        thread::sleep(Duration::from_millis(10));
    }
}
