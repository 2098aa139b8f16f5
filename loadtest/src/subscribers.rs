//! The listening side: one thread opens its share of the subscribers and reads them all through one buffer.

use crate::args::Plan;
use crate::count::{Counted, Counter, EventLine};
use crate::http::{Body, HEAD_BYTES_MAX, ResponseHead, subscribe_request};
use crate::poll::{Interest, Poll};
use crate::sequence::{Arrival, Series};
use crate::shared::Shared;
use crate::tally::{Received, Tally};
use crate::verify::{Found, Verifier};
use socket2::{Domain, Protocol, Socket, Type};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

/// Read at once from one socket. One buffer for the thread: it stays in the second-level cache, and a subscriber costs
/// some hundred bytes instead of a buffer of its own.
const READ_BYTES_MAX: usize = 256 * 1024;
/// How soon a thread notices that it shall stop.
const STOP_CHECK: Duration = Duration::from_millis(20);

/// Subscribers number `first`, `first + step`, ... of the plan.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Share {
    pub(crate) first: usize,
    pub(crate) step: usize,
}

/// Opens the share, says so on `opened` (or why not), and reads until the run is stopped.
pub(crate) fn listen(
    plan: &Plan,
    share: Share,
    shared: &Shared,
    opened: &Sender<Result<(), String>>,
) -> Tally {
    let mut thread = Thread::new(plan, share, shared);
    let poll = Poll::new().map_err(|error| format!("no epoll: {error}"));
    let opened_all = poll.and_then(|poll| thread.open_all(&poll).map(|()| poll));
    match opened_all {
        Ok(poll) => {
            if opened.send(Ok(())).is_ok() {
                thread.read_until_stopped(&poll);
            }
        }
        // Nobody listens any more when another thread has failed before.
        Err(why) => drop(opened.send(Err(why))),
    }
    thread.finish()
}

struct Thread<'a> {
    plan: &'a Plan,
    share: Share,
    shared: &'a Shared,
    members: Vec<Member>,
    reader: Reader<'a>,
    buffer: Vec<u8>,
}

/// One subscriber.
struct Member {
    topic: u32,
    state: State,
}

enum State {
    Unopened,
    /// The connect is on its way.
    Connecting(TcpStream),
    /// The request is sent; the head as far as it came.
    Waiting(TcpStream, Vec<u8>),
    Streaming(TcpStream, Stream),
    Cut(Stream),
}

/// The body of one subscriber's response.
struct Stream {
    body: Body,
    scan: Scan,
    /// Different events that came; when only counting, all that came.
    received: u64,
}

enum Scan {
    Count(Counter),
    /// Boxed: three times the size of the other.
    Verify(Box<(Verifier, Vec<Series>)>),
}

/// What the thread keeps beside its subscribers, apart so that a member and this can be borrowed together.
struct Reader<'a> {
    plan: &'a Plan,
    event_line: EventLine,
    tally: Tally,
}

impl<'a> Thread<'a> {
    fn new(plan: &'a Plan, share: Share, shared: &'a Shared) -> Thread<'a> {
        let topics = plan.topics.len();
        let members = (share.first..plan.subscribers.count)
            .step_by(share.step)
            .map(|index| Member { topic: (index % topics) as u32, state: State::Unopened })
            .collect();
        let reader = Reader { plan, event_line: EventLine::new(), tally: Tally::default() };
        Thread { plan, share, shared, members, reader, buffer: vec![0; READ_BYTES_MAX] }
    }

    fn open_all(&mut self, poll: &Poll) -> Result<(), String> {
        let timeout = self.plan.subscribers.connect_timeout;
        let deadline = Instant::now() + timeout;
        let batch = self.plan.subscribers.connect_batch.div_ceil(self.share.step);
        let mut ready = Vec::new();
        let (mut begun, mut open) = (0, 0);
        while open < self.members.len() {
            while begun < self.members.len() && begun - open < batch {
                self.begin(begun, poll).map_err(|why| self.name(begun, &why))?;
                begun += 1;
            }
            poll.wait(STOP_CHECK, &mut ready).map_err(|error| format!("epoll: {error}"))?;
            for &number in &ready {
                let was_open = self.members.get(number).is_some_and(Member::is_open);
                self.step(number, poll).map_err(|why| self.name(number, &why))?;
                if !was_open && self.members.get(number).is_some_and(Member::is_open) {
                    open += 1;
                    self.shared.one_connected();
                }
            }
            if self.shared.stopped() {
                return Err("stopped while connecting".to_owned());
            }
            if Instant::now() > deadline {
                return Err(format!(
                    "only {} of {} subscribers had their 200 after {timeout:?}; give --connect-timeout more or \
                     --subscribers less",
                    self.shared.connected(),
                    self.plan.subscribers.count
                ));
            }
        }
        Ok(())
    }

    fn read_until_stopped(&mut self, poll: &Poll) {
        let mut ready = Vec::new();
        while !self.shared.stopped() {
            if let Err(error) = poll.wait(STOP_CHECK, &mut ready) {
                self.reader.tally.trouble.get_or_insert(format!("epoll: {error}"));
                return;
            }
            for &number in &ready {
                if let Err(why) = self.step(number, poll) {
                    let why = self.name(number, &why);
                    self.reader.tally.trouble.get_or_insert(why);
                }
            }
            self.shared.set_delivered(self.share.first, self.reader.tally.deliveries);
        }
    }

    fn finish(self) -> Tally {
        let mut tally = self.reader.tally;
        for member in self.members {
            let (stream, cut) = match member.state {
                State::Streaming(_, stream) => (stream, false),
                State::Cut(stream) => (stream, true),
                _ => continue,
            };
            tally.subscribers.push(Received { topic: member.topic, events: stream.received, cut });
        }
        tally
    }

    fn name(&self, number: usize, why: &str) -> String {
        format!(
            "subscriber {} of {}: {why}",
            self.share.first + number * self.share.step,
            self.plan.subscribers.count
        )
    }

    fn begin(&mut self, number: usize, poll: &Poll) -> Result<(), String> {
        let source = self.plan.subscribers.sources.of(self.share.first + number * self.share.step);
        let socket = begin_connect(self.plan.target.address, source.map(|ip| SocketAddr::new(ip, 0)))?;
        poll.add(&socket, number, Interest::Write).map_err(|error| format!("epoll: {error}"))?;
        if let Some(member) = self.members.get_mut(number) {
            member.state = State::Connecting(socket);
        }
        Ok(())
    }

    /// Goes on with a subscriber whose socket is ready. An error means that it could not be opened.
    fn step(&mut self, number: usize, poll: &Poll) -> Result<(), String> {
        let Some(member) = self.members.get_mut(number) else { return Ok(()) };
        member.state = match std::mem::replace(&mut member.state, State::Unopened) {
            State::Connecting(socket) => {
                let topic = self.plan.topics.get(member.topic as usize).map_or("", String::as_str);
                let path = self.plan.subscribers.path.of(topic);
                let request = subscribe_request(&self.plan.target, &path, &self.plan.subscribers.headers);
                send_request(&socket, self.plan.target.address, &request)?;
                poll.modify(&socket, number, Interest::Read).map_err(|error| format!("epoll: {error}"))?;
                State::Waiting(socket, Vec::new())
            }
            State::Waiting(socket, head) => match read(&socket, &mut self.buffer) {
                Ok(None) => State::Waiting(socket, head),
                Ok(Some(bytes)) => self.reader.head(member.topic, socket, head, bytes, self.shared)?,
                Err(why) => return Err(format!("{why} before it answered")),
            },
            State::Streaming(socket, mut stream) => {
                let result = match read(&socket, &mut self.buffer) {
                    Ok(None) => Ok(()),
                    Ok(Some(bytes)) => self.reader.body(member.topic, &mut stream, bytes, self.shared),
                    Err(why) => Err(why),
                };
                match result {
                    Ok(()) => State::Streaming(socket, stream),
                    Err(why) => {
                        self.reader.tally.cut_reason.get_or_insert(why);
                        State::Cut(stream)
                    }
                }
            }
            other => other,
        };
        Ok(())
    }
}

impl Member {
    fn is_open(&self) -> bool {
        matches!(self.state, State::Streaming(..) | State::Cut(_))
    }
}

impl Reader<'_> {
    /// Takes bytes of the response's head; with its end the stream begins.
    fn head(
        &mut self,
        topic: u32,
        socket: TcpStream,
        mut head: Vec<u8>,
        bytes: &[u8],
        shared: &Shared,
    ) -> Result<State, String> {
        head.extend_from_slice(bytes);
        let mut rest = &head[..];
        let response = loop {
            let Some(response) = ResponseHead::read(rest)? else {
                if head.len() > 2 * HEAD_BYTES_MAX {
                    return Err("the server's response head does not end".to_owned());
                }
                return Ok(State::Waiting(socket, head));
            };
            rest = rest.get(response.head_bytes..).unwrap_or_default();
            if response.status >= 200 {
                break response;
            }
        };
        if response.status != 200 {
            return Err(format!(
                "the server answered {}{}",
                response.status,
                first_line(response.body, rest)
            ));
        }
        if !response.event_stream {
            return Err("the server answered 200 without Content-Type: text/event-stream".to_owned());
        }
        let scan = if self.plan.verify {
            let series = (0..self.plan.publishing.connections).map(|_| Series::default()).collect();
            Scan::Verify(Box::new((Verifier::default(), series)))
        } else {
            Scan::Count(Counter::new())
        };
        let mut stream = Stream { body: response.body, scan, received: 0 };
        self.body(topic, &mut stream, rest, shared)?;
        Ok(State::Streaming(socket, stream))
    }

    /// Takes bytes of the body. An error means that the stream is over.
    fn body(
        &mut self,
        topic: u32,
        stream: &mut Stream,
        mut bytes: &[u8],
        shared: &Shared,
    ) -> Result<(), String> {
        let now_ns = shared.clock.now_ns();
        let tally = &mut self.tally;
        let mut counted = Counted::default();
        let over = loop {
            let piece = match stream.body.next(&mut bytes) {
                Ok(Some(piece)) => piece,
                Ok(None) => break stream.body.ended().then(|| "the server ended the stream".to_owned()),
                Err(why) => break Some(why),
            };
            match &mut stream.scan {
                Scan::Count(counter) => counter.feed(piece, &self.event_line, &mut counted),
                Scan::Verify(state) => {
                    let (verifier, series) = &mut **state;
                    verifier.feed(piece, &self.plan.payload, |found| match found {
                        Found::Gap => tally.gaps += 1,
                        Found::Corrupt => tally.corrupt += 1,
                        Found::Event(stamp) => {
                            let series = series.get_mut(usize::from(stamp.publisher));
                            let Some(series) = series.filter(|_| stamp.topic == topic) else {
                                tally.corrupt += 1;
                                return;
                            };
                            tally.delivered(1, now_ns);
                            tally.latency(now_ns, stamp.due_ns);
                            match series.arrive(stamp.sequence) {
                                Arrival::InOrder => stream.received += 1,
                                Arrival::Reordered => {
                                    stream.received += 1;
                                    tally.reordered += 1;
                                }
                                Arrival::Doubled => tally.doubled += 1,
                            }
                        }
                    });
                }
            }
        };
        if counted.events > 0 {
            stream.received += counted.events;
            tally.delivered(counted.events, now_ns);
            for due_ns in [counted.first_due_ns, counted.last_due_ns].into_iter().flatten() {
                tally.latency(now_ns, due_ns);
            }
        }
        tally.gaps += counted.gaps;
        over.map_or(Ok(()), Err)
    }
}

fn begin_connect(server: SocketAddr, source: Option<SocketAddr>) -> Result<TcpStream, String> {
    let socket =
        Socket::new(Domain::for_address(server), Type::STREAM.nonblocking().cloexec(), Some(Protocol::TCP))
            .map_err(|error| {
            format!("no socket ({error}); raise the file limit (ulimit -n) or lower --subscribers")
        })?;
    if let Some(source) = source {
        socket.bind(&source.into()).map_err(|error| {
            format!("cannot connect from {} ({error}); give an address of this machine", source.ip())
        })?;
    }
    match socket.connect(&server.into()) {
        Ok(()) => {}
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::INPROGRESS.raw_os_error()) => {}
        Err(error) if error.kind() == ErrorKind::AddrNotAvailable => {
            return Err(
                "no local port is left; add --source-address or lower --connections-per-address".to_owned()
            );
        }
        Err(error) => return Err(unreachable(server, &error)),
    }
    Ok(socket.into())
}

fn send_request(mut socket: &TcpStream, server: SocketAddr, request: &[u8]) -> Result<(), String> {
    if let Some(error) = socket.take_error().unwrap_or_else(Some) {
        return Err(unreachable(server, &error));
    }
    // A new socket's buffer takes any request of sane length at once.
    match socket.write(request) {
        Ok(sent) if sent == request.len() => Ok(()),
        Ok(_) => Err("the request is too long to be sent at once; send fewer or shorter headers".to_owned()),
        Err(error) => Err(format!("the request could not be sent: {error}")),
    }
}

/// Reads once. `None` when nothing was there after all; an error when the connection is over.
fn read<'b>(mut socket: &TcpStream, buffer: &'b mut [u8]) -> Result<Option<&'b [u8]>, String> {
    match socket.read(buffer) {
        Ok(0) => Err("the server closed the connection".to_owned()),
        Ok(bytes) => Ok(buffer.get(..bytes)),
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(None),
        Err(error) => Err(format!("the connection broke ({error})")),
    }
}

/// `: <first line>` of a refusal's body, as far as it came with its head.
fn first_line(mut body: Body, mut rest: &[u8]) -> String {
    let piece = body.next(&mut rest).ok().flatten().unwrap_or_default();
    let text = String::from_utf8_lossy(piece);
    let line: String =
        text.lines().next().unwrap_or("").chars().filter(|c| !c.is_control()).take(200).collect();
    if line.is_empty() { line } else { format!(": {line}") }
}

fn unreachable(server: SocketAddr, error: &std::io::Error) -> String {
    format!("cannot connect to {server} ({error}); is the server running and listening there?")
}
