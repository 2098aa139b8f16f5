//! Connections that are kept for one request after another.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};

use super::http::{Answer, connect, read_head, try_connect};
use super::server::Server;

/// Sends bytes as they are, reads one answer at a time, and fails its test when the connection fails.
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
    pub(crate) fn sender(&self) -> TcpStream {
        self.reader.get_ref().try_clone().unwrap()
    }

    /// The head of the next answer; none when the server has closed instead.
    pub(crate) fn try_head(&mut self) -> Option<Answer> {
        let head = read_head(&mut self.reader).unwrap();
        assert!(head.is_empty() || head.ends_with("\r\n\r\n"), "closed within a head: {head:?}");
        (!head.is_empty()).then(|| Answer::parse(&head))
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

    /// The next line of a stream.
    pub(crate) fn line(&mut self) -> String {
        let mut line = String::new();
        self.reader.read_line(&mut line).unwrap();
        line
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

    /// Checks that the connection goes as the answer says, with one more request sent behind the one that it is for: that
    /// one has no answer because the connection is closed, or is answered 200.
    #[track_caller]
    pub(crate) fn check_behind(&mut self, answer: &Answer, closes: bool) {
        if closes {
            assert_eq!(answer.field("Connection"), Some("close"));
            self.assert_closed();
        } else {
            assert_eq!(answer.field("Connection"), None);
            assert_eq!(self.answer().status, 200);
        }
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

/// Returns a publish after which the connection goes on, with these fields, each of which ends with CRLF.
pub(crate) fn publish_request(target: &str, fields: &str, body: &str) -> String {
    format!("POST {target} HTTP/1.1\r\nHost: h\r\n{fields}Content-Length: {}\r\n\r\n{body}", body.len())
}

/// Publishes one event after another, and may find that the server has ended.
pub(crate) struct Publisher {
    reader: BufReader<TcpStream>,
}

impl Publisher {
    pub(crate) fn new(server: &Server) -> Publisher {
        Publisher { reader: BufReader::new(server.connect()) }
    }

    /// Connects to an address; none when nobody listens there.
    pub(crate) fn try_at(address: SocketAddr) -> Option<Publisher> {
        Some(Publisher { reader: BufReader::new(try_connect(address)?) })
    }

    /// Publishes and waits for the answer; none when the connection ended before it.
    pub(crate) fn publish(&mut self, topic: &str, body: &str) -> Option<Answer> {
        self.send(topic, body);
        self.answer()
    }

    /// Publishes without waiting. A connection that has ended shows in the answer.
    pub(crate) fn send(&mut self, topic: &str, body: &str) {
        self.send_request(&publish_request(&format!("/publish/{topic}"), "", body));
    }

    /// Sends a request as it is.
    pub(crate) fn send_request(&mut self, request: &str) {
        let _ = self.reader.get_mut().write_all(request.as_bytes());
    }

    /// The next answer, or none at the connection's end.
    pub(crate) fn answer(&mut self) -> Option<Answer> {
        let head = read_head(&mut self.reader).ok().filter(|head| head.ends_with("\r\n\r\n"))?;
        let mut answer = Answer::parse(&head);
        let bytes = answer.field("Content-Length").and_then(|length| length.parse().ok()).expect("a length");
        let mut body = vec![0; bytes];
        self.reader.read_exact(&mut body).ok()?;
        answer.body = String::from_utf8(body).expect("UTF-8");
        Some(answer)
    }
}
