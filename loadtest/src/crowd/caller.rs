//! A connection that publishes: it sends a request and reads its answer, one after the other.

use super::site::Site;
use crate::http::{Body, PublishRequest, ResponseHead};
use crate::shared::Clock;
use crate::stamp::Stamp;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// A server that does not answer for so long never will.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// A keep-alive connection.
pub(super) struct Caller {
    socket: TcpStream,
    /// A request on its way out.
    out: Vec<u8>,
    /// Read, and not used yet.
    input: Vec<u8>,
    sent: u64,
}

impl Caller {
    /// Connects to the server.
    pub(super) fn connect(site: &Site) -> Result<Caller, String> {
        let connect = || {
            let socket = TcpStream::connect(site.address())?;
            socket.set_nodelay(true)?;
            socket.set_read_timeout(Some(ANSWER_TIMEOUT))?;
            socket.set_write_timeout(Some(ANSWER_TIMEOUT))?;
            Ok(socket)
        };
        let socket =
            connect().map_err(|error: std::io::Error| format!("no connection to publish: {error}"))?;
        Ok(Caller { socket, out: Vec::new(), input: Vec::new(), sent: 0 })
    }

    /// Publishes one event, due at that time of the measurement's clock, and waits for the answer.
    pub(super) fn publish(&mut self, request: &PublishRequest, due_ns: u64) -> Result<(), String> {
        self.send(request, due_ns)?;
        self.answer()
    }

    /// Publishes an event each `every_ns`, the first at once, while `goes_on` with the time at which the next is due; tells
    /// `answered` when each was due.
    pub(super) fn publish_paced(
        &mut self,
        request: &PublishRequest,
        clock: Clock,
        every_ns: u64,
        mut goes_on: impl FnMut(u64) -> bool,
        mut answered: impl FnMut(u64),
    ) -> Result<(), String> {
        let mut due_ns = clock.now_ns();
        while goes_on(due_ns) {
            std::thread::sleep(Duration::from_nanos(due_ns.saturating_sub(clock.now_ns())));
            self.publish(request, due_ns)?;
            answered(due_ns);
            due_ns += every_ns;
        }
        Ok(())
    }

    /// Sends one event and does not wait for the answer.
    pub(super) fn send(&mut self, request: &PublishRequest, due_ns: u64) -> Result<(), String> {
        self.out.clear();
        request.write(&Stamp { topic: 0, publisher: 0, sequence: self.sent, due_ns }, &mut self.out);
        self.sent += 1;
        self.write()
    }

    /// Sends a request for a stream.
    pub(super) fn ask(&mut self, request: &[u8]) -> Result<(), String> {
        self.out.clear();
        self.out.extend_from_slice(request);
        self.write()
    }

    fn write(&mut self) -> Result<(), String> {
        self.socket.write_all(&self.out).map_err(|error| format!("a publish could not be sent: {error}"))
    }

    /// Waits for the answer to what was sent; the error is another status than 2xx, or none in time.
    pub(super) fn answer(&mut self) -> Result<(), String> {
        let head = self.head()?;
        if !(200..300).contains(&head.status) {
            return Err(format!("a publish was answered {}", head.status));
        }
        let mut body = head.body;
        loop {
            let mut rest = self.input.as_slice();
            while body.next(&mut rest)?.is_some() {}
            let used = self.input.len() - rest.len();
            self.input.drain(..used);
            if body.ended() || matches!(body, Body::UntilClose) {
                return Ok(());
            }
            self.read()?;
        }
    }

    /// Reads a response's head.
    pub(super) fn head(&mut self) -> Result<ResponseHead, String> {
        loop {
            if let Some(head) = ResponseHead::read(&self.input)? {
                self.input.drain(..head.head_bytes);
                return Ok(head);
            }
            self.read()?;
        }
    }

    /// Reads once, behind what is there already, and returns all that is not used yet.
    pub(super) fn read(&mut self) -> Result<&[u8], String> {
        let mut buffer = [0; 4096];
        match self.socket.read(&mut buffer) {
            Ok(0) => Err("the server closed the connection".to_owned()),
            Ok(bytes) => {
                self.input.extend_from_slice(buffer.get(..bytes).unwrap_or_default());
                Ok(&self.input)
            }
            Err(error) => Err(format!("no answer: {error}")),
        }
    }
}
