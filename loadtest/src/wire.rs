//! Servers that speak no HTTP: what is sent to them, and how their answers are told apart, from a few lines of templates in
//! `peers.toml`. Their events hold the same bytes as over HTTP, so that what reads a stream reads theirs.

use memchr::{memchr, memmem};
use serde::{Deserialize, Serialize};
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// A server that has not answered a publisher's first words by then will not.
const OPEN_TIME: Duration = Duration::from_secs(5);
/// More words of a server than this before it is open are none of ours.
const OPENING_BYTES_MAX: usize = 64 * 1024;

/// A protocol of lines over TCP with one topic, of which every publish is answered in its order by one line.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Wire {
    /// Sent by a subscriber when it is connected.
    pub(crate) subscribe: String,
    /// Found in the line that tells a subscriber that it listens.
    subscribed: String,
    /// Sent by publisher number `{publisher}` when it is connected.
    open: String,
    /// Found in the line that tells a publisher that it may begin.
    opened: String,
    /// Sent for each event. `{publisher}` becomes the publisher's number, each `{body}` the event's text, and `{length}`
    /// that text's length in bytes.
    publish: String,
    /// Begins the line that acknowledges a publish.
    acknowledged: String,
    /// Begin the lines that refuse a publish, a subscription or a connection.
    refused: Vec<String>,
}

impl Wire {
    /// Reads the value of `--wire`, which is JSON.
    pub(crate) fn parse(text: &str) -> Result<Wire, String> {
        let wire: Wire = serde_json::from_str(text).map_err(|error| format!("--wire: {error}"))?;
        if !wire.publish.contains("{body}") {
            return Err("--wire: publish must hold {body}".to_owned());
        }
        Ok(wire)
    }

    /// Returns the frame of publisher number `publisher`, which still holds `{body}`, for bodies of `length` bytes.
    pub(crate) fn frame(&self, publisher: usize, length: usize) -> String {
        numbered(&self.publish, publisher).replace("{length}", &length.to_string())
    }

    /// Returns what came behind the line that tells a subscriber that it listens; `None` while that line is not whole.
    pub(crate) fn subscribed<'a>(&self, input: &'a [u8]) -> Result<Option<&'a [u8]>, String> {
        self.behind(input, &self.subscribed)
    }

    /// Sends a publisher's first words and waits until the server has let it in.
    pub(crate) fn open(&self, mut socket: &TcpStream, publisher: usize) -> Result<(), String> {
        let failed = |error: std::io::Error| format!("the server did not let a publisher in ({error})");
        socket.set_read_timeout(Some(OPEN_TIME)).map_err(failed)?;
        socket.write_all(numbered(&self.open, publisher).as_bytes()).map_err(failed)?;
        let (mut said, mut buffer) = (Vec::new(), [0; 4096]);
        while self.behind(&said, &self.opened)?.is_none() {
            let bytes = match socket.read(&mut buffer) {
                Ok(bytes @ 1..) => bytes,
                Err(error) if error.kind() == ErrorKind::Interrupted => 0,
                _ => return Err(format!("a publisher was not let in: {}", text(&said))),
            };
            said.extend_from_slice(buffer.get(..bytes).unwrap_or_default());
        }
        Ok(())
    }

    fn behind<'a>(&self, input: &'a [u8], sign: &str) -> Result<Option<&'a [u8]>, String> {
        let mut rest = input;
        while let Some(line) = next_line(&mut rest) {
            self.refusal(line)?;
            if memmem::find(line, sign.as_bytes()).is_some() {
                return Ok(Some(rest));
            }
        }
        if input.len() > OPENING_BYTES_MAX {
            Err("the server talks and does not begin".to_owned())
        } else {
            Ok(None)
        }
    }

    /// Takes whole lines out of `input` and returns how many publishes they acknowledge. An error is a refusal, in the
    /// server's words.
    pub(crate) fn acknowledged(&self, input: &mut &[u8]) -> Result<u64, String> {
        let mut acknowledged = 0;
        while let Some(line) = next_line(input) {
            self.refusal(line)?;
            acknowledged += u64::from(line.starts_with(self.acknowledged.as_bytes()));
        }
        Ok(acknowledged)
    }

    fn refusal(&self, line: &[u8]) -> Result<(), String> {
        match self.refused.iter().any(|start| line.starts_with(start.as_bytes())) {
            true => Err(format!("the server said {}", text(line))),
            false => Ok(()),
        }
    }
}

fn numbered(template: &str, publisher: usize) -> String {
    template.replace("{publisher}", &publisher.to_string())
}

/// Takes the next whole line out of `input`.
fn next_line<'a>(input: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (line, rest) = input.split_at(memchr(b'\n', input)? + 1);
    *input = rest;
    Some(line)
}

fn text(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let line = text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("nothing");
    line.chars().filter(|c| !c.is_control()).take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire() -> Wire {
        let text = r#"{"subscribe": "SUB\n", "subscribed": "PONG", "open": "HI {publisher}\n", "opened": "OK",
            "publish": "PUB {publisher} {length}\n{body}\n", "acknowledged": "+", "refused": ["-"]}"#;
        Wire::parse(text).unwrap()
    }

    #[test]
    fn acknowledgements_are_counted_by_whole_lines() {
        let mut input = &b"+1\r\n$3\r\n+2\r\n+3"[..];
        assert_eq!((wire().acknowledged(&mut input), input), (Ok(2), &b"+3"[..]));
        let refused = wire().acknowledged(&mut &b"+1\n-ERR disk full\r\n"[..]).unwrap_err();
        assert_eq!(refused, "the server said -ERR disk full");
    }

    #[test]
    fn a_subscriber_listens_behind_the_whole_line_that_says_so() {
        let said = b"INFO {}\r\nPONG\r\nMSG";
        for end in 0..said.len() - 3 {
            assert_eq!(wire().subscribed(&said[..end]), Ok(None), "{end}");
        }
        assert_eq!(wire().subscribed(said), Ok(Some(&b"MSG"[..])));
        assert!(wire().subscribed(b"-ERR no\r\nPONG\r\n").unwrap_err().contains("-ERR no"));
    }

    #[test]
    fn a_frame_has_its_publisher_and_length() {
        assert_eq!(wire().frame(7, 135), "PUB 7 135\n{body}\n");
        assert!(Wire::parse("{}").unwrap_err().starts_with("--wire: missing field"));
    }
}
