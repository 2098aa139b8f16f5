//! The publishing side: one thread, pipelined requests on keep-alive connections, answers told apart.

use crate::backlog::Backlog;
use crate::http::{Body, PublishRequest, ResponseHead, first_line};
use crate::plan::{Pace, Plan};
use crate::poll::{Poll, READ, WRITE};
use crate::schedule::{Next, Schedule};
use crate::shared::{Shared, thread_cpu_ns};
use crate::stamp::Stamp;
use crate::tally::Latencies;
use crate::wire::Wire;
use std::collections::{BTreeMap, VecDeque};
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// The same topics at random in every run.
const RANDOM_SEED: u64 = 1;
/// The time between two looks whether subscribers have caught up.
const BEHIND_CHECK: Duration = Duration::from_micros(200);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The longest sleep: how soon a thread notices that it shall stop, or that nothing moves.
const WAIT_MAX: Duration = Duration::from_millis(50);
/// Written before the next look at the answers, so that a flood over a fast connection reads too.
const WRITE_BYTES_MAX: usize = 256 * 1024;
/// Kept of a refusal's body, to show it.
const REASON_BYTES_MAX: usize = 300;

/// The answers to a topic's publishes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Published {
    /// Answered 2xx.
    pub(crate) acknowledged: u64,
    /// Sent, and the connection ended or fell silent before the answer.
    pub(crate) unanswered: u64,
    /// Answered otherwise.
    pub(crate) refused: u64,
}

/// The answers to all publishes.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// By index of the topic.
    pub(crate) topics: Vec<Published>,
    /// Answers other than 2xx, by status.
    pub(crate) refused: BTreeMap<u16, u64>,
    /// The first refusal, in the server's words.
    pub(crate) first_refusal: Option<String>,
    /// Due and never written, for the server had stopped answering.
    pub(crate) unsent: u64,
    /// When the first was due.
    pub(crate) start_ns: u64,
    pub(crate) last_answer_ns: u64,
    /// The longest a publish waited between due and written.
    pub(crate) late_ns_max: u64,
    /// From due to acknowledged.
    pub(crate) answers: Latencies,
    /// Why a connection ended.
    pub(crate) trouble: Option<String>,
    /// From the first publish to when nothing more was to be answered.
    pub(crate) publishing_ns: u64,
    pub(crate) cpu_ns: u64,
    /// From when to when a flood stood still for events that did not come.
    pub(crate) stood_still_ns: Vec<(u64, u64)>,
}

impl Outcome {
    /// Sums one of the counts over all topics.
    pub(crate) fn sum(&self, count: fn(&Published) -> u64) -> u64 {
        self.topics.iter().map(count).sum()
    }

    /// Returns the seconds from the first publish to `end_ns` in which a flood stood still for events that did not come.
    pub(crate) fn stood_still_s(&self, end_ns: u64) -> f64 {
        let until = |(from, to): &(u64, u64)| to.min(&end_ns).saturating_sub(*from);
        self.stood_still_ns.iter().map(until).sum::<u64>() as f64 / 1e9
    }

    fn of_topic(&mut self, stamp: &Stamp, count: impl FnOnce(&mut Published)) {
        if let Some(topic) = self.topics.get_mut(stamp.topic as usize) {
            count(topic);
        }
    }

    fn acknowledge(&mut self, stamp: &Stamp, now_ns: u64) {
        self.of_topic(stamp, |topic| topic.acknowledged += 1);
        self.answers.record(now_ns.saturating_sub(stamp.due_ns), 1);
        self.last_answer_ns = now_ns;
    }
}

/// Connections and requests, ready to begin.
pub(crate) struct Publisher<'a> {
    plan: &'a Plan,
    /// By topic; on a wire, which has one topic, by connection.
    requests: Vec<PublishRequest>,
    connections: Vec<Connection>,
    poll: Poll,
    /// The next sequence number by connection and topic.
    sequences: Vec<u64>,
    outcome: Outcome,
    moved_ns: u64,
    backlog: Backlog,
    random: fastrand::Rng,
}

#[derive(Default)]
struct Connection {
    link: Link,
    /// Requests to write; the first `written` bytes are with the kernel.
    out: Vec<u8>,
    written: usize,
    /// Bytes of an answer not yet whole.
    input: Vec<u8>,
    /// The answer whose body is being read.
    answer: Option<Answer>,
    /// Sent or about to be, in order.
    unanswered: VecDeque<Stamp>,
    waits_for_room: bool,
}

#[derive(Default)]
enum Link {
    Open(TcpStream),
    /// The server closed it as HTTP allows; it is opened again when there is something to send.
    #[default]
    Closed,
    /// It broke, or could not be opened again.
    Dead,
}

struct Answer {
    head: ResponseHead,
    /// The start of a refusal's body.
    reason: Vec<u8>,
}

impl<'a> Publisher<'a> {
    /// Opens the connections.
    pub(crate) fn connect(plan: &'a Plan) -> Result<Publisher<'a>, String> {
        let poll = Poll::new().map_err(|error| format!("no epoll: {error}"))?;
        let open = |number| {
            let link = Link::Open(connect(plan, &poll, number)?);
            Ok::<_, String>(Connection { link, ..Connection::default() })
        };
        let connections = (0..plan.flags.publishers).map(open).collect::<Result<_, _>>()?;
        let topics = vec![Published::default(); plan.topics.len()];
        Ok(Publisher {
            plan,
            requests: requests(plan),
            connections,
            poll,
            sequences: vec![0; plan.flags.publishers * plan.topics.len()],
            outcome: Outcome { topics, ..Outcome::default() },
            moved_ns: 0,
            backlog: Backlog::new(plan.steady_by_topic(), plan.behind_events_max),
            random: fastrand::Rng::with_seed(RANDOM_SEED),
        })
    }

    /// Publishes to the end of the plan, waits for the answers, and returns what became of them.
    pub(crate) fn publish(mut self, shared: &Shared) -> Outcome {
        let mut schedule = Schedule::new(self.plan.pace);
        let mut ready = Vec::new();
        let mut buffer = vec![0; 64 * 1024];
        let cpu_ns = thread_cpu_ns();
        let start_ns = shared.clock.now_ns();
        shared.begin_publishing(start_ns);
        self.outcome.start_ns = start_ns;
        self.moved_ns = start_ns;
        while !shared.stopped() {
            let wait = self.issue_due(&mut schedule, start_ns, shared);
            for number in 0..self.connections.len() {
                self.write(number, shared);
            }
            let over = schedule.next(shared.clock.now_ns() - start_ns) == Next::Over;
            if over && self.all(|connection| connection.unanswered.is_empty()) {
                break;
            }
            let silent_ns = shared.clock.now_ns().saturating_sub(self.moved_ns);
            let stuck = over || self.all(|connection| !self.has_room(connection));
            if stuck && u128::from(silent_ns) > self.plan.flags.drain.as_nanos()
                || self.all(|connection| matches!(connection.link, Link::Dead))
            {
                break;
            }
            if let Err(error) = self.poll.wait(wait, &mut ready) {
                self.outcome.trouble.get_or_insert(format!("epoll: {error}"));
                break;
            }
            for &number in &ready {
                self.read(number, &mut buffer, shared);
            }
        }
        for connection in &mut self.connections {
            connection.give_up(&mut self.outcome);
        }
        self.outcome.unsent = schedule.unissued();
        self.outcome.stood_still_ns = self.backlog.stood_still_ns;
        self.outcome.publishing_ns = shared.clock.now_ns().saturating_sub(start_ns);
        self.outcome.cpu_ns = thread_cpu_ns().saturating_sub(cpu_ns);
        self.outcome
    }

    fn all(&self, is: impl Fn(&Connection) -> bool) -> bool {
        self.connections.iter().all(is)
    }

    /// Makes the requests that are due, as far as connections have room; returns how long to wait for the next.
    fn issue_due(&mut self, schedule: &mut Schedule, start_ns: u64, shared: &Shared) -> Duration {
        let paced = matches!(self.plan.pace, Pace::Rate { .. });
        let topics = self.plan.topics.len();
        loop {
            let now_ns = shared.clock.now_ns();
            let due_ns = match schedule.next(now_ns - start_ns) {
                Next::Over => return WAIT_MAX,
                Next::At(at_ns) => {
                    return Duration::from_nanos((start_ns + at_ns).saturating_sub(now_ns)).min(WAIT_MAX);
                }
                Next::Due(due_ns) => start_ns + due_ns,
            };
            if !paced && self.backlog.full(shared.delivered(), &self.outcome.topics, now_ns) {
                return BEHIND_CHECK;
            }
            let Some(number) = self.next_with_room(schedule.issued()) else { return WAIT_MAX };
            let topic = match self.plan.flags.random_topics {
                true => self.random.usize(..topics),
                false => (schedule.issued() % topics as u64) as usize,
            };
            self.backlog.issued(topic);
            self.issue(number, topic, due_ns);
            schedule.issue();
            if paced {
                self.outcome.late_ns_max = self.outcome.late_ns_max.max(now_ns - due_ns);
            }
        }
    }

    fn next_with_room(&self, turn: u64) -> Option<usize> {
        let count = self.connections.len();
        let first = (turn % count as u64) as usize;
        let mut numbers = (first..count).chain(0..first);
        numbers
            .find(|number| self.connections.get(*number).is_some_and(|connection| self.has_room(connection)))
    }

    fn has_room(&self, connection: &Connection) -> bool {
        !matches!(connection.link, Link::Dead)
            && connection.unanswered.len() < self.plan.flags.in_flight
            && connection.out.len() < WRITE_BYTES_MAX.max(2 * self.plan.payload.size())
    }

    fn issue(&mut self, number: usize, topic: usize, due_ns: u64) {
        let Some(sequence) = self.sequences.get_mut(number * self.plan.topics.len() + topic) else { return };
        let stamp = Stamp { topic: topic as u32, publisher: number as u16, sequence: *sequence, due_ns };
        *sequence += 1;
        let request = if self.plan.wire.is_some() { number } else { topic };
        if let (Some(connection), Some(request)) =
            (self.connections.get_mut(number), self.requests.get(request))
        {
            request.write(&stamp, &mut connection.out);
            connection.unanswered.push_back(stamp);
        }
    }

    fn write(&mut self, number: usize, shared: &Shared) {
        let Some(connection) = self.connections.get_mut(number) else { return };
        if connection.out.is_empty() || connection.waits_for_room {
            return;
        }
        if matches!(connection.link, Link::Closed) {
            match connect(self.plan, &self.poll, number) {
                Ok(socket) => connection.link = Link::Open(socket),
                Err(why) => return connection.die(&why, &mut self.outcome),
            }
        }
        let Link::Open(socket) = &mut connection.link else { return };
        match socket.write(connection.out.get(connection.written..).unwrap_or_default()) {
            Ok(bytes) => {
                connection.written += bytes;
                self.moved_ns = shared.clock.now_ns();
            }
            Err(error) if is_passing(&error) => {}
            // Its answers so far may still be there to read, and with them the reason; the read tells the end.
            Err(_) => connection.written = connection.out.len(),
        }
        if connection.written == connection.out.len() {
            connection.out.clear();
            connection.written = 0;
        } else if self.poll.modify(&*socket, number, READ | WRITE).is_ok() {
            connection.waits_for_room = true;
        }
    }

    fn read(&mut self, number: usize, buffer: &mut [u8], shared: &Shared) {
        let Some(connection) = self.connections.get_mut(number) else { return };
        let Link::Open(socket) = &mut connection.link else { return };
        if connection.waits_for_room && self.poll.modify(&*socket, number, READ).is_ok() {
            connection.waits_for_room = false;
        }
        let read = socket.read(buffer);
        let now_ns = shared.clock.now_ns();
        let goes_on = match read {
            Ok(0) => connection.ended(&mut self.outcome, now_ns).map(|()| false),
            Ok(bytes) => {
                self.moved_ns = now_ns;
                connection.input.extend_from_slice(buffer.get(..bytes).unwrap_or_default());
                match &self.plan.wire {
                    None => connection.answers(&mut self.outcome, now_ns),
                    Some(wire) => connection.lines(wire, &mut self.outcome, now_ns),
                }
            }
            Err(error) if is_passing(&error) => Ok(true),
            Err(error) => Err(format!("the connection broke ({error})")),
        };
        match goes_on {
            Ok(true) => {}
            Ok(false) => connection.reopen_later(&self.requests),
            Err(why) => connection.die(&why, &mut self.outcome),
        }
    }
}

impl Connection {
    /// Takes the whole answers out of the input. False when the server closes the connection after the last of them.
    fn answers(&mut self, outcome: &mut Outcome, now_ns: u64) -> Result<bool, String> {
        let input = std::mem::take(&mut self.input);
        let mut rest = &input[..];
        loop {
            let answer = match &mut self.answer {
                Some(answer) => answer,
                None => match ResponseHead::read(rest)? {
                    None => break,
                    Some(head) => {
                        rest = rest.get(head.head_bytes..).unwrap_or_default();
                        if head.status < 200 {
                            continue;
                        }
                        self.answer.insert(Answer { head, reason: Vec::new() })
                    }
                },
            };
            while let Some(piece) = answer.head.body.next(&mut rest)? {
                let room = REASON_BYTES_MAX.saturating_sub(answer.reason.len());
                if answer.head.status >= 300 {
                    answer.reason.extend_from_slice(piece.get(..room).unwrap_or(piece));
                }
            }
            if !answer.head.body.ended() {
                break;
            }
            let Some(answer) = self.answer.take() else { break };
            self.answered(&answer, outcome, now_ns);
            if answer.head.closes {
                return Ok(false);
            }
        }
        self.input.extend_from_slice(rest);
        Ok(true)
    }

    /// Takes the whole answers out of the input where no HTTP is spoken.
    fn lines(&mut self, wire: &Wire, outcome: &mut Outcome, now_ns: u64) -> Result<bool, String> {
        let mut rest = &self.input[..];
        let acknowledged = wire.acknowledged(&mut rest);
        let left = rest.len();
        self.input.drain(..self.input.len() - left);
        for _ in 0..acknowledged? {
            let Some(stamp) = self.unanswered.pop_front() else { break };
            outcome.acknowledge(&stamp, now_ns);
        }
        Ok(true)
    }

    /// Takes the end of the connection of which the server has not said so first. An error where something was to come.
    fn ended(&mut self, outcome: &mut Outcome, now_ns: u64) -> Result<(), String> {
        match self.answer.take_if(|answer| matches!(answer.head.body, Body::UntilClose)) {
            Some(answer) => self.answered(&answer, outcome, now_ns),
            None if self.unanswered.is_empty() => {}
            None => return Err("the server closed the connection".to_owned()),
        }
        Ok(())
    }

    fn answered(&mut self, answer: &Answer, outcome: &mut Outcome, now_ns: u64) {
        let Some(stamp) = self.unanswered.pop_front() else { return };
        if (200..300).contains(&answer.head.status) {
            return outcome.acknowledge(&stamp, now_ns);
        }
        *outcome.refused.entry(answer.head.status).or_default() += 1;
        let refusal = format!("{} {}", answer.head.status, first_line(&answer.reason));
        outcome.first_refusal.get_or_insert(refusal.trim_end().to_owned());
        outcome.of_topic(&stamp, |topic| topic.refused += 1);
    }

    /// Sends what is unanswered again, in its order, on the next connection: after a close announced by the server nothing
    /// behind the last answer was taken (RFC 9112, section 9.6).
    fn reopen_later(&mut self, requests: &[PublishRequest]) {
        let unanswered = std::mem::take(&mut self.unanswered);
        *self = Connection { unanswered, ..Connection::default() };
        for stamp in &self.unanswered {
            if let Some(request) = requests.get(stamp.topic as usize) {
                request.write(stamp, &mut self.out);
            }
        }
    }

    fn die(&mut self, why: &str, outcome: &mut Outcome) {
        self.link = Link::Dead;
        self.out.clear();
        let waiting = self.unanswered.len();
        outcome.trouble.get_or_insert(format!("publishing: {why}, {waiting} publishes unanswered"));
        self.give_up(outcome);
    }

    fn give_up(&mut self, outcome: &mut Outcome) {
        for stamp in self.unanswered.drain(..) {
            outcome.of_topic(&stamp, |topic| topic.unanswered += 1);
        }
    }
}

fn is_passing(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

fn requests(plan: &Plan) -> Vec<PublishRequest> {
    let body = |topic: &str| plan.publish_body.clone().map(|part| part.replace("{topic}", topic));
    if let Some(wire) = &plan.wire {
        let [before, after] = body("");
        let request = |number| PublishRequest::on_wire(wire, number, (&before, &after), &plan.payload);
        return (0..plan.flags.publishers).map(request).collect();
    }
    let request = |topic: &String| {
        let [before, after] = body(topic);
        let path = plan.flags.publish_path.replace("{topic}", topic);
        PublishRequest::new(
            &plan.publish_target,
            &path,
            &plan.publisher_headers,
            (&before, &after),
            &plan.payload,
        )
    };
    plan.topics.iter().map(request).collect()
}

fn connect(plan: &Plan, poll: &Poll, number: usize) -> Result<TcpStream, String> {
    let address = plan.publish_target.address;
    let socket = TcpStream::connect_timeout(&address, CONNECT_TIMEOUT).map_err(|error| {
        format!(
            "cannot connect to {address} to publish ({error}); is the server running and listening there?"
        )
    })?;
    if let Some(wire) = &plan.wire {
        wire.open(&socket, number)?;
    }
    let prepared = socket
        .set_nodelay(true)
        .and_then(|()| socket.set_nonblocking(true))
        .and_then(|()| poll.add(&socket, number, READ));
    prepared.map_err(|error| format!("the publishing socket could not be prepared: {error}"))?;
    Ok(socket)
}
