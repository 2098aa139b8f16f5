//! Many sessions on many channels under random emits and reconnects, against a model too plain to be wrong.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use fastrand::Rng;
use jsonwebtoken::Algorithm;
use serde_json::json;

use super::control::request;
use crate::support::sessions::{SECRET, Sessions, encode};
use crate::support::tokens::{now_s, sign};
use crate::support::{Client, PATIENCE, behind_first_retry, connect, dechunk};

/// Each is a file here and one in the server, and a process may have 20,000 of them in many places.
const SESSIONS: usize = 10_000;
const CHANNELS: usize = 1_000;
const ROUNDS: usize = 40;
/// Sessions that connect before the first of them are answered.
const CONNECTS_MAX: usize = 1_000;
/// Sent in one go: fewer than a connection may leave unanswered.
const EMITS_PER_ROUND: usize = 300;
/// Streams that are cut in a round, and come back in one of the next three.
const CUTS_PER_ROUND: usize = 100;

/// Users on a channel. There are more sessions than users on most, and emits to users who have none.
const USERS: [&str; 9] = ["u0", "u1", "u2", "u3", "u4", "u5", "u6", "u/7 \u{1f98a}", "*"];

/// What is emitted to everybody first, so that all have a place to come back to, and last.
const BEGIN: &str = "begin";
const END: &str = "end";

/// What one session saw, and what the model says it is to see: data and id of each event.
struct Session {
    channel: usize,
    user: &'static str,
    token: String,
    connection: Option<TcpStream>,
    /// As it came on this connection.
    bytes: Vec<u8>,
    /// From the connections before.
    seen: Vec<(String, String)>,
    expected: Vec<(String, String)>,
    /// The round in which it comes back.
    back: usize,
}

impl Session {
    fn new(number: usize, random: &mut Rng, expires_s: u64) -> Session {
        let channel = number % CHANNELS;
        let user = random.choice(USERS).unwrap();
        let claims = json!({"userId": user, "channel": channel_name(channel), "exp": expires_s});
        let token = sign(SECRET, Algorithm::HS256, &claims);
        let (bytes, seen, expected) = (Vec::new(), Vec::new(), Vec::new());
        Session { channel, user, token, connection: None, bytes, seen, expected, back: 0 }
    }

    /// Connects, and asks for what comes after the last event it saw. Does not wait for the answer.
    fn connect(&mut self, sessions: &Sessions) {
        let place = self.seen.last().map_or(String::new(), |(_, id)| format!("Last-Event-ID: {id}\r\n"));
        let authorization = format!("Authorization: Bearer {}\r\n", self.token);
        let mut connection = connect(sessions.public);
        write!(connection, "GET /events/ HTTP/1.1\r\nHost: h\r\n{authorization}{place}\r\n").unwrap();
        connection.set_nonblocking(true).unwrap();
        self.connection = Some(connection);
    }

    /// Reads what has come.
    fn read(&mut self, buffer: &mut [u8]) {
        let Some(connection) = &mut self.connection else { return };
        match connection.read(buffer) {
            Ok(0) => panic!("a stream ended: {:?}", String::from_utf8_lossy(&self.bytes)),
            Ok(read) => self.bytes.extend_from_slice(&buffer[..read]),
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}"),
        }
    }

    /// Cuts the connection, with all that was not read from it.
    fn cut(&mut self) {
        self.connection = None;
        let bytes = std::mem::take(&mut self.bytes);
        let text = String::from_utf8_lossy(&bytes);
        let Some((head, body)) = text.split_once("\r\n\r\n") else { return };
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        let events = dechunk(body.as_bytes());
        // What stands behind the last blank line was cut short.
        let Some((whole, _)) = events.rsplit_once("\n\n") else { return };
        let whole = behind_first_retry(whole);
        // Heartbeats stand before the event that ended the quiet.
        let events = whole.split("\n\n").map(|event| event.trim_start_matches(":\n"));
        self.seen.extend(events.filter(|event| !event.is_empty()).map(|event| {
            let (data, id) = event.split_once("\nid:").unwrap_or((event, ""));
            (data.strip_prefix("data: ").unwrap_or(data).to_owned(), id.to_owned())
        }));
    }

    /// Whether this is the last that was read.
    fn has_read(&self, data: &str) -> bool {
        let tail = &self.bytes[self.bytes.len().saturating_sub(100)..];
        String::from_utf8_lossy(tail).contains(&format!("data: {data}\n"))
    }
}

fn channel_name(channel: usize) -> String {
    format!("channel {channel}/*")
}

/// What is to be emitted: channel, user, data.
type Emit = (usize, &'static str, String);

/// Emits all in one go on a connection of its own, and tells the model. One that was kept would be closed for its silence
/// while a slow machine reads.
fn emit(sessions: &Sessions, all: &mut [Session], emits: &[Emit]) {
    let mut control = Client::at(sessions.control);
    let requests = emits.iter().map(|(channel, user, data)| {
        let form =
            [("userId", *user), ("channel", &channel_name(*channel)), ("payload", &format!("data: {data}"))];
        request(sessions.control, "POST", "/emit/", &[], &encode(&form))
    });
    control.send(requests.collect::<String>());
    for (channel, user, data) in emits {
        let event = (data.clone(), control.answer().id());
        // A session's number says its channel.
        for session in all.iter_mut().skip(*channel).step_by(CHANNELS) {
            assert_eq!(session.channel, *channel);
            if *user == "*" || *user == session.user {
                session.expected.push(event.clone());
            }
        }
    }
}

/// Emits to everybody, and reads until all have it.
fn emit_to_all(sessions: &Sessions, all: &mut [Session], data: &str) {
    let emits: Vec<Emit> = (0..CHANNELS).map(|channel| (channel, "*", data.to_owned())).collect();
    for emits in emits.chunks(EMITS_PER_ROUND) {
        emit(sessions, all, emits);
    }
    read_until(all, "all have it", |session| session.has_read(data));
}

/// Reads until all are done. Patience ends only where none of them gets on: how long 10,000 take is a slow machine's affair.
fn read_until(all: &mut [Session], what: &str, is_done: impl Fn(&Session) -> bool) {
    let mut buffer = vec![0; 64 << 10];
    let (mut behind, mut since) = (usize::MAX, Instant::now());
    loop {
        let mut left = 0;
        for session in all.iter_mut().filter(|session| !is_done(session)) {
            session.read(&mut buffer);
            left += usize::from(!is_done(session));
        }
        if left == 0 {
            return;
        }
        if left < behind {
            (behind, since) = (left, Instant::now());
        }
        assert!(since.elapsed() < PATIENCE, "not in {PATIENCE:?}: {what}; {left} sessions are behind");
        // The server has use for this CPU.
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn ten_thousand_sessions_see_what_the_model_says_once_and_in_order() {
    let seed =
        std::env::var("ESPER_SIM_SEED").map_or_else(|_| fastrand::u64(..), |seed| seed.parse().unwrap());
    println!("replay it with ESPER_SIM_SEED={seed}");
    let mut random = Rng::with_seed(seed);
    let sessions = Sessions::start(&[]);
    let expires_s = now_s() + 3600;
    let mut all: Vec<Session> = (0..SESSIONS).map(|n| Session::new(n, &mut random, expires_s)).collect();
    // No more at once than a listener holds for a server that is busy.
    for some in all.chunks_mut(CONNECTS_MAX) {
        some.iter_mut().for_each(|session| session.connect(&sessions));
        // Whatever is emitted to it after its 200 reaches it.
        read_until(some, "all are answered", |session| !session.bytes.is_empty());
    }
    emit_to_all(&sessions, &mut all, BEGIN);

    let mut buffer = vec![0; 64 << 10];
    for round in 0..ROUNDS {
        for _ in 0..CUTS_PER_ROUND {
            let session = &mut all[random.usize(..SESSIONS)];
            if session.connection.is_some() {
                session.cut();
                session.back = round + random.usize(1..=3);
            }
        }
        // Few channels are busy in a round, so that what one is sent is more than one event at a time.
        let busy = random.usize(1..=CHANNELS);
        let emits: Vec<Emit> = (0..EMITS_PER_ROUND)
            .map(|n| (random.usize(..busy), random.choice(USERS).unwrap(), format!("{round}.{n}")))
            .collect();
        emit(&sessions, &mut all, &emits);
        for session in &mut all {
            if session.connection.is_none() && session.back <= round {
                session.connect(&sessions);
            }
            // What is left unread is lost when it is cut.
            if random.bool() {
                session.read(&mut buffer);
            }
        }
    }
    for session in all.iter_mut().filter(|session| session.connection.is_none()) {
        session.connect(&sessions);
    }
    emit_to_all(&sessions, &mut all, END);

    for channel in (0..50).map(|_| random.usize(..CHANNELS)) {
        let mut users: BTreeMap<&str, u64> = BTreeMap::new();
        for session in all.iter().skip(channel).step_by(CHANNELS) {
            *users.entry(session.user).or_default() += 1;
        }
        let list = sessions.listed(&channel_name(channel));
        let listed = list["users"].as_array().unwrap().iter();
        let listed: BTreeMap<&str, u64> = listed
            .map(|user| (user["userId"].as_str().unwrap(), user["streams"].as_u64().unwrap()))
            .collect();
        assert_eq!(listed, users);
    }
    for (n, session) in all.iter_mut().enumerate() {
        session.cut();
        assert_eq!(session.seen, session.expected, "session {n}, {} on {}", session.user, session.channel);
    }
}
