//! A server just good enough to be measured, and one that makes each mistake on purpose.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// What the server does to its first subscriber (or, where it says so, to publishers).
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Habit {
    /// Nothing wrong: each event is one chunk.
    Good,
    /// Nothing wrong: an event in chunks of seven bytes, written in pieces that split chunks too.
    SmallChunks,
    /// Nothing wrong: no chunk framing, HTTP/1.0.
    Unframed,
    /// Nothing wrong: heartbeats, ids, CRLF line ends, a greeting.
    Talkative,
    /// Nothing wrong: every answer to a publish closes its connection.
    ClosesEachAnswer,
    /// Leaves out the third event.
    Loses,
    /// Leaves out the third event, for everybody.
    LosesForAll,
    /// Leaves out the last of ten events.
    LosesLast,
    /// Sends the third event twice.
    Doubles,
    /// Sends the last of ten events twice.
    DoublesLast,
    /// Sends the third event after the fourth.
    Reorders,
    /// Leaves out the third event and says so.
    Gaps,
    /// Changes a byte of the third event.
    Corrupts,
    /// Closes the stream after the third event.
    Cuts,
    /// Ends the stream properly after the third event.
    Ends,
    /// Gives a subscriber an event of another topic, the third.
    Misroutes,
    /// Publishers: every other one gets 503.
    Refuses,
    /// Publishers: the third gets 503 and is delivered all the same.
    RefusesYetDelivers,
    /// Publishers: all get 401.
    Unauthorized,
    /// Publishers: the connection breaks at the third, unanswered.
    HangsUp,
    /// Publishers: the third is never answered.
    Stalls,
    /// Subscribers: all get 503.
    RefusesSubscribers,
    /// Subscribers: 200, but no event stream.
    WebPage,
    /// Subscribers: no answer.
    Silent,
    /// Who comes after the first publish gets a 200 and nothing else.
    ForgetsLatecomers,
    /// Who comes after the first publish misses the next one.
    JoinsLatecomersLate,
    /// Who comes after the first publish gets no answer.
    LeavesLatecomersWaiting,
}

struct State {
    habit: Habit,
    subscribers: Vec<(String, TcpStream)>,
    /// Nothing is sent to them, or not yet.
    latecomers: Vec<(String, TcpStream)>,
    published: usize,
    /// An event to be sent after the next.
    held: Option<Vec<u8>>,
}

/// Starts the server and tells its URL. It lives as long as the test.
pub(crate) fn start(habit: Habit) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let state = State { habit, subscribers: Vec::new(), latecomers: Vec::new(), published: 0, held: None };
    let state = Arc::new(Mutex::new(state));
    std::thread::spawn(move || {
        for socket in listener.incoming() {
            let state = state.clone();
            std::thread::spawn(move || serve(socket.unwrap(), &state));
        }
    });
    url
}

fn serve(socket: TcpStream, state: &Mutex<State>) {
    socket.set_nodelay(true).unwrap();
    let mut reader = BufReader::new(socket.try_clone().unwrap());
    while let Some((method, path, headers)) = read_head(&mut reader) {
        let topic = path.rsplit('/').next().unwrap().to_owned();
        if method == "GET" {
            return subscribe(socket, topic, state);
        }
        let length: usize = headers["content-length"].parse().unwrap();
        let mut body = vec![0; length];
        reader.read_exact(&mut body).unwrap();
        let habit = state.lock().unwrap().habit;
        match publish(&topic, &body, state) {
            Answer::Ok if habit == Habit::ClosesEachAnswer => {
                answer(&socket, "200 OK\r\nConnection: close", "{}");
                return;
            }
            // As some servers do it: no length, in chunks.
            Answer::Ok if habit == Habit::SmallChunks => {
                let wire = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n";
                (&socket).write_all(wire).unwrap();
            }
            Answer::Ok => answer(&socket, "200 OK", "{}"),
            Answer::Status(status) => answer(&socket, status, "not now\n"),
            Answer::None => {}
            Answer::HangUp => return,
        }
    }
}

fn read_head(reader: &mut BufReader<TcpStream>) -> Option<(String, String, HashMap<String, String>)> {
    let mut line = String::new();
    if reader.read_line(&mut line).ok()? == 0 {
        return None;
    }
    let mut words = line.split_whitespace();
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = HashMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim().split_once(':') else { return Some((method, path, headers)) };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
}

fn answer(mut socket: &TcpStream, status: &str, body: &str) {
    let wire = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    // The client may have gone already.
    let _ = socket.write_all(wire.as_bytes());
}

fn subscribe(mut socket: TcpStream, topic: String, state: &Mutex<State>) {
    let mut state = state.lock().unwrap();
    let late = state.published > 0;
    let head = match state.habit {
        Habit::RefusesSubscribers => return answer(&socket, "503 Busy", "too many subscribers\n"),
        Habit::WebPage => return answer(&socket, "200 OK", "<html>"),
        Habit::Silent => "",
        Habit::LeavesLatecomersWaiting if late => "",
        Habit::Unframed => "HTTP/1.0 200 OK\r\nContent-Type: text/event-stream\r\n\r\n",
        _ => "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n",
    };
    socket.write_all(head.as_bytes()).unwrap();
    if state.habit == Habit::Talkative {
        send(&socket, Habit::Talkative, b"retry: 5000\r\n\r\nevent: hello\r\ndata: you\r\n\r\n");
    }
    match state.habit {
        Habit::ForgetsLatecomers | Habit::JoinsLatecomersLate if late => {
            state.latecomers.push((topic, socket))
        }
        _ => state.subscribers.push((topic, socket)),
    }
}

enum Answer {
    Ok,
    Status(&'static str),
    None,
    HangUp,
}

fn publish(topic: &str, event: &[u8], state: &Mutex<State>) -> Answer {
    let mut state = state.lock().unwrap();
    let state = &mut *state;
    state.published += 1;
    let number = state.published;
    match state.habit {
        Habit::Unauthorized => return Answer::Status("401 Unauthorized"),
        Habit::Refuses if number.is_multiple_of(2) => return Answer::Status("503 Busy"),
        Habit::HangsUp if number == 3 => return Answer::HangUp,
        Habit::Stalls if number >= 3 => return Answer::None,
        _ => {}
    }
    let mut cut = false;
    // Whichever came first may be a subscriber of this very topic: the fault needs one of another.
    let misrouted = (state.habit == Habit::Misroutes && number == 3)
        .then(|| state.subscribers.iter().position(|(of, _)| of != topic))
        .flatten();
    for (index, (of, socket)) in state.subscribers.iter().enumerate() {
        if of != topic && misrouted != Some(index) || state.habit == Habit::LosesForAll && number == 3 {
            continue;
        }
        if index > 0 {
            send(socket, state.habit, event);
            continue;
        }
        let sent: Vec<Vec<u8>> = match (state.habit, number) {
            (Habit::Loses, 3) | (Habit::LosesLast, 10) => vec![],
            (Habit::Doubles, 3) | (Habit::DoublesLast, 10) => vec![event.to_vec(); 2],
            (Habit::Reorders, 3) => {
                state.held = Some(event.to_vec());
                vec![]
            }
            (Habit::Reorders, 4) => vec![event.to_vec(), state.held.take().unwrap()],
            (Habit::Gaps, 3) => vec![b"event: gap\ndata: {\"reason\":\"slow\"}\n\n".to_vec()],
            (Habit::Corrupts, 3) => {
                let mut event = event.to_vec();
                event[10] = b'y';
                vec![event]
            }
            _ => vec![event.to_vec()],
        };
        for event in sent {
            send(socket, state.habit, &event);
        }
        cut = number == 3 && matches!(state.habit, Habit::Cuts | Habit::Ends);
    }
    if state.habit == Habit::JoinsLatecomersLate {
        state.subscribers.append(&mut state.latecomers);
    }
    if cut {
        let (_, socket) = &state.subscribers[0];
        if state.habit == Habit::Ends {
            (&mut &*socket).write_all(b"0\r\n\r\n").unwrap();
        } else {
            socket.shutdown(std::net::Shutdown::Both).unwrap();
        }
        // Stays in the list, so that nobody else becomes the first; nothing is sent to the topic `-`.
        state.subscribers[0].0 = "-".to_owned();
    }
    if state.habit == Habit::RefusesYetDelivers && number == 3 {
        return Answer::Status("503 Busy");
    }
    Answer::Ok
}

fn send(mut socket: &TcpStream, habit: Habit, event: &[u8]) {
    let chunk = |bytes: &[u8]| [format!("{:x}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat();
    let wire = match habit {
        Habit::Unframed => event.to_vec(),
        Habit::SmallChunks => event.chunks(7).flat_map(chunk).collect(),
        Habit::Talkative => {
            let text = format!(": beat\n\nid: 17-1\n{}", String::from_utf8_lossy(event));
            chunk(text.replace("\r\n", "\n").replace('\n', "\r\n").as_bytes())
        }
        _ => chunk(event),
    };
    let pieces = if habit == Habit::SmallChunks { wire.chunks(11) } else { wire.chunks(usize::MAX) };
    for piece in pieces {
        // The client may have gone already.
        let _ = socket.write_all(piece);
    }
}
