//! Sessions: a server with a control port, and its routes.

use std::net::SocketAddr;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use super::{Answer, Server, Stream, exchange};

/// What signs session tokens, unless a test says otherwise.
pub(crate) const SECRET: &str = "a secret for sessions, long enough for HS256";

/// A server with a control port, which signs session tokens with [`SECRET`].
pub(crate) struct Sessions {
    pub(crate) server: Server,
    pub(crate) public: SocketAddr,
    pub(crate) control: SocketAddr,
}

impl Sessions {
    /// Starts one with these flags as well.
    pub(crate) fn start(flags: &[&str]) -> Sessions {
        Sessions::start_with(flags, &[("ESPER_SESSION_SECRET", SECRET)])
    }

    /// The same with these variables instead of the secret's.
    pub(crate) fn start_with(flags: &[&str], variables: &[(&str, &str)]) -> Sessions {
        let flags = [&["--bind-control", "127.0.0.1:0"], flags].concat();
        Sessions::of(Server::start_with(&flags, variables))
    }

    /// A server that was started otherwise.
    pub(crate) fn of(server: Server) -> Sessions {
        Sessions { public: server.address, control: server.control(), server }
    }

    /// One request to the control port.
    pub(crate) fn control(&self, method: &str, path: &str, fields: &[&str], body: &str) -> Answer {
        Answer::parse(&exchange(self.control, method, path, fields, body))
    }

    /// A form posted to the control port.
    pub(crate) fn post(&self, path: &str, form: &[(&str, &str)]) -> Answer {
        self.control("POST", path, &[FORM], &encode(form))
    }

    /// A token for an hour.
    #[track_caller]
    pub(crate) fn token(&self, user: &str, channel: &str) -> String {
        let answer = self.post("/token/", &[("userId", user), ("channel", channel), ("exp", "3600")]);
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.body
    }

    /// Emits event-stream text, and returns what it was answered: `id`, `events` and `streams`.
    #[track_caller]
    pub(crate) fn emit(&self, user: &str, channel: &str, payload: &str) -> Value {
        let form = [("userId", user), ("channel", channel), ("payload", payload)];
        self.post("/emit/", &form).json()
    }

    /// Who is connected to a channel: `channel`, `streams`, `cut` and `users`.
    #[track_caller]
    pub(crate) fn listed(&self, channel: &str) -> Value {
        let path = format!("/sessions/?{}", encode(&[("channel", channel)]));
        self.control("GET", &path, &[], "").json()
    }

    /// Ends the streams of a user, and returns how many they were.
    #[track_caller]
    pub(crate) fn disconnect(&self, user: &str, channel: &str) -> u64 {
        let answer = self.post("/disconnect/", &[("userId", user), ("channel", channel)]).json();
        answer["streams"].as_u64().expect("a number of streams")
    }

    /// `/stats`, of the control port.
    pub(crate) fn stats(&self) -> Value {
        self.control("GET", "/stats", &[], "").json()
    }

    /// An open stream of this user on this channel.
    #[track_caller]
    pub(crate) fn stream(&self, user: &str, channel: &str) -> Stream {
        self.resume(&self.token(user, channel), "")
    }

    /// A stream with this token, after this event unless it is empty.
    #[track_caller]
    pub(crate) fn resume(&self, token: &str, last_event_id: &str) -> Stream {
        let stream = stream_at(self.public, "/events/", token, last_event_id);
        assert_eq!(stream.head.status, 200, "{:?}", stream.head);
        assert_eq!(stream.head.field("Content-Type"), Some("text/event-stream; charset=utf-8"));
        stream
    }
}

/// The header field of a form's body.
pub(crate) const FORM: &str = "Content-Type: application/x-www-form-urlencoded";

/// A form's body or a query.
pub(crate) fn encode(form: &[(&str, &str)]) -> String {
    let pairs: Vec<_> = form
        .iter()
        .map(|(name, value)| format!("{name}={}", utf8_percent_encode(value, NON_ALPHANUMERIC)))
        .collect();
    pairs.join("&")
}

/// A session's stream, whatever it was answered, at this path of this server or of a proxy before it.
pub(crate) fn stream_at(address: SocketAddr, path: &str, token: &str, last_event_id: &str) -> Stream {
    let mut request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {token}\r\n");
    if !last_event_id.is_empty() {
        request += &format!("Last-Event-ID: {last_event_id}\r\n");
    }
    Stream::send(address, &format!("{request}\r\n"))
}
