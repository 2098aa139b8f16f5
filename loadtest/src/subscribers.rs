//! The listening side: one reader opens its share of the subscribers and reads them all through one buffer.

use crate::churn::{Churn, Course, ON_ITS_WAY_NS, Turn};
use crate::connect::{begin_connect, read, send_request};
use crate::http::subscribe_request;
use crate::plan::{Plan, Role};
use crate::poll::{Poll, READ, WRITE};
use crate::shared::{Shared, thread_cpu_ns};
use crate::stream::{Reader, Stream};
use crate::tally::{Received, Tally};
use std::net::TcpStream;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

/// Read at once from one socket. One buffer for the thread: it stays in the second-level cache, and a subscriber costs
/// some hundred bytes instead of a buffer of its own.
const READ_BYTES_MAX: usize = 256 * 1024;
/// Subscribers that are read from before a thread says how much all have got. All of 1,000 may take a second, and a flood
/// that hears nothing for a quarter of one takes events for lost. Told after each subscriber, a flood publishes one event
/// whenever one was delivered, and not several at once.
const TOLD_AFTER: usize = 64;
/// Bounds how late a thread notices that it shall stop.
const STOP_CHECK: Duration = Duration::from_millis(20);
/// Reads of what a server has sent to one stalled subscriber, at the end, to see whether it was cut: 16 MiB.
const STALLED_READS_MAX: usize = 64;

/// Subscribers number `first`, `first + step`, ... of the plan: those of reader number `first`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Share {
    pub(crate) first: usize,
    pub(crate) step: usize,
}

/// Where a reader says that all its subscribers are open, or why not.
pub(crate) type Opened = Sender<Result<(), String>>;

/// Opens the share, says so on `opened` (or why not), and reads until the run is stopped.
pub(crate) fn listen(plan: &Plan, share: Share, shared: &Shared, opened: &Opened) -> Tally {
    let mut thread = Thread::new(plan, share, shared);
    let cpu_ns = thread_cpu_ns();
    let poll = Poll::new().map_err(|error| format!("no epoll: {error}"));
    let opened_all = poll.and_then(|poll| thread.open_all(&poll).map(|()| poll));
    thread.reader.tally.readers_connect_cpu_ns = vec![thread_cpu_ns().saturating_sub(cpu_ns)];
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

struct Member {
    topic: u32,
    role: Role,
    /// When it last set out to connect.
    set_out_ns: u64,
    state: State,
}

enum State {
    Unopened,
    Connecting(TcpStream),
    /// The request is sent; the head as far as it came.
    Waiting(TcpStream, Vec<u8>),
    Streaming(TcpStream, Stream),
    /// Open and not read.
    Stalled(TcpStream),
    /// The server ended the stream, at this time.
    Cut(Stream, u64),
}

impl<'a> Thread<'a> {
    fn new(plan: &'a Plan, share: Share, shared: &'a Shared) -> Thread<'a> {
        let member = |index: usize| Member {
            topic: (index % plan.topics.len()) as u32,
            role: plan.role(index),
            set_out_ns: 0,
            state: State::Unopened,
        };
        let members = (share.first..plan.flags.subscribers).step_by(share.step).map(member).collect();
        Thread { plan, share, shared, members, reader: Reader::new(plan), buffer: vec![0; READ_BYTES_MAX] }
    }

    fn open_all(&mut self, poll: &Poll) -> Result<(), String> {
        let timeout = self.plan.flags.connect_timeout;
        let deadline = Instant::now() + timeout;
        let batch = self.plan.flags.connect_batch.div_ceil(self.share.step);
        let mut ready = Vec::new();
        let (mut begun, mut open) = (0, 0);
        while open < self.members.len() {
            while begun < self.members.len() && begun - open < batch {
                self.begin(begun, poll).map_err(|why| self.name(begun, &why))?;
                begun += 1;
            }
            poll.wait(STOP_CHECK, &mut ready).map_err(epoll_failed)?;
            for &number in &ready {
                let was_open = self.is_open(number);
                self.step(number, poll).map_err(|why| self.name(number, &why))?;
                open += usize::from(!was_open && self.is_open(number));
            }
            self.shared.set_connected(self.share.first, open as u64);
            if self.shared.stopped() {
                return Err("stopped while connecting".to_owned());
            }
            if Instant::now() > deadline {
                return Err(format!(
                    "only {} of {} subscribers had their 200 after {timeout:?}; give --connect-timeout more or \
                     --subscribers less",
                    self.shared.connected(),
                    self.plan.flags.subscribers
                ));
            }
        }
        Ok(())
    }

    fn is_open(&self, number: usize) -> bool {
        let state = self.members.get(number).map(|member| &member.state);
        matches!(state, Some(State::Streaming(..) | State::Stalled(_) | State::Cut(..)))
    }

    fn read_until_stopped(&mut self, poll: &Poll) {
        let cpu_ns = thread_cpu_ns();
        let mut ready = Vec::new();
        let mut churn = self.churn();
        while !self.shared.stopped() {
            let wait = self.come_and_go(&mut churn, poll).unwrap_or(STOP_CHECK).min(STOP_CHECK);
            if let Err(error) = poll.wait(wait, &mut ready) {
                self.reader.tally.trouble.get_or_insert(epoll_failed(error));
                return;
            }
            for some in ready.chunks(TOLD_AFTER) {
                for &number in some {
                    if let Err(why) = self.step(number, poll) {
                        self.not_let_in(number, &why);
                    }
                }
                self.shared.set_delivered(self.share.first, self.reader.tally.deliveries);
            }
        }
        self.reader.tally.readers_cpu_ns = vec![thread_cpu_ns().saturating_sub(cpu_ns)];
    }

    fn churn(&self) -> Churn {
        let churning = self.members.iter().enumerate().filter(|(_, member)| member.role == Role::Churning);
        let members: Vec<_> = churning.map(|(number, _)| number).collect();
        let share = members.len() as f64 / self.plan.flags.churning.max(1) as f64;
        Churn::new(members, self.plan.flags.churn_per_second() * share)
    }

    /// Lets those leave and come again whose turn it is; returns when the next one's is.
    fn come_and_go(&mut self, churn: &mut Churn, poll: &Poll) -> Option<Duration> {
        self.shared.published_from_ns()?;
        loop {
            let number = match churn.turn(self.shared.clock.now_ns()) {
                Turn::Now(number) => number,
                Turn::In(wait) => return Some(wait),
                Turn::Never => return None,
            };
            if self.leave(number)
                && let Err(why) = self.begin(number, poll)
            {
                self.not_let_in(number, &why);
            }
        }
    }

    /// Closes the connection of a subscriber that comes and goes. False when it is still on its way in, as long as it may
    /// be.
    fn leave(&mut self, number: usize) -> bool {
        let (course, now_ns) = (self.course(), self.shared.clock.now_ns());
        let timeout = self.plan.flags.connect_timeout;
        let Some(member) = self.members.get_mut(number) else { return false };
        let churn = &mut self.reader.tally.churn;
        match std::mem::replace(&mut member.state, State::Unopened) {
            State::Streaming(socket, stream) => {
                churn.stayed(stream.missed(course.as_ref(), member.topic, now_ns));
                if churn.stays.is_multiple_of(2) {
                    // Every other one leaves by a reset, as a browser's may; it also leaves no port behind in TIME_WAIT.
                    let _ = socket2::SockRef::from(&socket).set_linger(Some(Duration::ZERO));
                }
            }
            State::Cut(stream, cut_ns) => {
                churn.stayed(stream.missed(course.as_ref(), member.topic, cut_ns));
                churn.cut += 1;
            }
            State::Unopened => {}
            _ if u128::from(now_ns.saturating_sub(member.set_out_ns)) > timeout.as_nanos() => {
                self.not_let_in(number, &format!("no 200 within {timeout:?}"));
            }
            coming => {
                member.state = coming;
                return false;
            }
        }
        true
    }

    /// Returns what those who come and go are promised, once publishing has begun.
    fn course(&self) -> Option<Course> {
        Course::of(self.plan, self.shared.published_from_ns()?)
    }

    fn finish(mut self) -> Tally {
        let (course, now_ns) = (self.course(), self.shared.clock.now_ns());
        let mut tally = std::mem::take(&mut self.reader.tally);
        for member in self.members {
            let churning = member.role == Role::Churning;
            let (stream, cut_ns) = match member.state {
                State::Stalled(socket) => {
                    tally.stalled += 1;
                    tally.stalled_cut += u64::from(was_cut(&socket, &mut self.buffer));
                    continue;
                }
                State::Streaming(_, stream) => (stream, None),
                State::Cut(stream, cut_ns) => (stream, Some(cut_ns)),
                State::Connecting(_) | State::Waiting(..) if churning => {
                    // Who set out a moment ago is on its way rightly.
                    let late = now_ns.saturating_sub(member.set_out_ns) > ON_ITS_WAY_NS;
                    tally.churn.failed += u64::from(late);
                    continue;
                }
                _ => continue,
            };
            let cut = cut_ns.is_some();
            if churning {
                let left_ns = cut_ns.unwrap_or(now_ns);
                tally.churn.stayed(stream.missed(course.as_ref(), member.topic, left_ns));
                tally.churn.cut += u64::from(cut);
            } else {
                tally.subscribers.push(Received { topic: member.topic, events: stream.received, cut });
            }
        }
        tally
    }

    fn index(&self, number: usize) -> usize {
        self.share.first + number * self.share.step
    }

    fn name(&self, number: usize, why: &str) -> String {
        format!("subscriber {} of {}: {why}", self.index(number), self.plan.flags.subscribers)
    }

    fn not_let_in(&mut self, number: usize, why: &str) {
        let why = self.name(number, why);
        self.reader.tally.churn.failed += 1;
        self.reader.tally.trouble.get_or_insert(why);
    }

    fn begin(&mut self, number: usize, poll: &Poll) -> Result<(), String> {
        let source = self.plan.sources.of(self.index(number));
        let Some(member) = self.members.get_mut(number) else { return Ok(()) };
        member.set_out_ns = self.shared.clock.now_ns();
        let stalled = member.role == Role::Stalled;
        let (socket, connected) = begin_connect(self.plan.target.address, source, stalled)?;
        if connected {
            // Saves two system calls and a turn of the poll.
            ask(self.plan, member.topic, &socket)?;
        }
        poll.add(&socket, number, if connected { READ } else { WRITE }).map_err(epoll_failed)?;
        member.state = if connected { State::Waiting(socket, Vec::new()) } else { State::Connecting(socket) };
        Ok(())
    }

    /// Goes on with a subscriber whose socket is ready. An error means that it could not be opened.
    fn step(&mut self, number: usize, poll: &Poll) -> Result<(), String> {
        let Some(member) = self.members.get_mut(number) else { return Ok(()) };
        let (topic, role) = (member.topic, member.role);
        member.state = match std::mem::replace(&mut member.state, State::Unopened) {
            State::Connecting(socket) => {
                ask(self.plan, topic, &socket)?;
                poll.modify(&socket, number, READ).map_err(epoll_failed)?;
                State::Waiting(socket, Vec::new())
            }
            State::Waiting(socket, mut head) => match read(&socket, &mut self.buffer) {
                Ok(None) => State::Waiting(socket, head),
                Ok(Some(bytes)) => {
                    head.extend_from_slice(bytes);
                    match self.reader.head(topic, role, &head, self.shared.clock.now_ns())? {
                        None => State::Waiting(socket, head),
                        Some(_) if role == Role::Stalled => {
                            poll.remove(&socket).map_err(epoll_failed)?;
                            State::Stalled(socket)
                        }
                        Some(stream) => State::Streaming(socket, stream),
                    }
                }
                Err(why) => return Err(format!("{why} before it answered")),
            },
            State::Streaming(socket, mut stream) => {
                let result = match read(&socket, &mut self.buffer) {
                    Ok(None) => Ok(()),
                    Ok(Some(bytes)) => {
                        let now_ns = self.shared.clock.now_ns();
                        self.reader.body(topic, role, &mut stream, bytes, now_ns)
                    }
                    Err(why) => Err(why),
                };
                match result {
                    Ok(()) => State::Streaming(socket, stream),
                    Err(why) => {
                        self.reader.tally.cut_reason.get_or_insert(why);
                        State::Cut(stream, self.shared.clock.now_ns())
                    }
                }
            }
            other => other,
        };
        Ok(())
    }
}

fn epoll_failed(error: std::io::Error) -> String {
    format!("epoll: {error}")
}

/// Asks for the stream of a topic.
fn ask(plan: &Plan, topic: u32, socket: &TcpStream) -> Result<(), String> {
    let name = plan.topics.get(topic as usize).map_or("", String::as_str);
    let request = match &plan.wire {
        None => {
            let path = plan.flags.subscribe_path.replace("{topic}", name);
            subscribe_request(&plan.target, &path, &plan.subscriber_headers)
        }
        Some(wire) => wire.subscribe.clone().into_bytes(),
    };
    send_request(socket, plan.target.address, &request)
}

/// Tells whether behind all that was sent to a subscriber that did not read there is an end.
fn was_cut(socket: &TcpStream, buffer: &mut [u8]) -> bool {
    for _ in 0..STALLED_READS_MAX {
        match read(socket, buffer) {
            Ok(Some(_)) => {}
            Ok(None) => return false,
            Err(_) => return true,
        }
    }
    false
}
