//! Many subscribers on one thread: each connects, asks, and counts the events it gets.

use super::TIMEOUT;
use super::site::Site;
use crate::connect::{self, Sources, begin_connect, send_request};
use crate::poll::{Poll, READ, WRITE};
use crate::stamp::MARK;
use memchr::memchr_iter;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// Fewer reads of gigabytes.
const READ_BYTES: usize = 256 * 1024;
/// The longest wait before the end is looked at.
const TURN: Duration = Duration::from_millis(10);

/// The clients and what they got. All leave with this value.
pub(super) struct Crowd {
    poll: Poll,
    server: SocketAddr,
    sources: Sources,
    /// Clients name theirs by its place.
    requests: Vec<Vec<u8>>,
    clients: Vec<Visitor>,
    buffer: Vec<u8>,
    ready: Vec<usize>,
    /// Clients that have sent their request.
    pub(super) asked: usize,
    /// Clients that have read the head of a 200.
    pub(super) heads: usize,
    /// Events read by all.
    pub(super) marks: u64,
    /// Clients that the server left; the reason of the first.
    ended: Option<String>,
}

/// A client of the crowd, and its progress.
struct Visitor {
    socket: Option<TcpStream>,
    request: usize,
    asked: bool,
    head: bool,
    reads: bool,
    marks: u64,
}

impl Crowd {
    /// Returns a crowd without clients, for `count` of them that send one of these requests each.
    pub(super) fn new(site: &Site, count: usize, requests: Vec<Vec<u8>>) -> Result<Crowd, String> {
        Ok(Crowd {
            poll: Poll::new().map_err(|error| format!("no epoll: {error}"))?,
            server: site.address(),
            sources: Sources::of_flags(&[], None, &site.plan().target, count)?,
            requests,
            clients: Vec::with_capacity(count),
            buffer: vec![0; READ_BYTES],
            ready: Vec::new(),
            asked: 0,
            heads: 0,
            marks: 0,
            ended: None,
        })
    }

    /// Returns so many subscribers of a topic, each with its stream.
    pub(super) fn joined(site: &Site, topic: &str, count: usize) -> Result<Crowd, String> {
        let mut crowd = Crowd::new(site, count, vec![site.subscribe(topic, None)?])?;
        for _ in 0..count {
            crowd.connect(0, true)?;
        }
        crowd.until(TIMEOUT, |_| {}, |crowd| crowd.heads == count)?;
        Ok(crowd)
    }

    /// Begins to connect one more client, which sends that request as soon as it can; without `reads` it reads nothing
    /// behind the head.
    pub(super) fn connect(&mut self, request: usize, reads: bool) -> Result<(), String> {
        let number = self.clients.len();
        let (socket, connected) = begin_connect(self.server, self.sources.of(number), !reads)?;
        let wake_for = if connected { READ } else { WRITE };
        self.poll.add(&socket, number, wake_for).map_err(|error| format!("epoll: {error}"))?;
        if connected {
            let request = self.requests.get(request).map_or(&[][..], Vec::as_slice);
            send_request(&socket, self.server, request)?;
            self.asked += 1;
        }
        let socket = Some(socket);
        self.clients.push(Visitor { socket, request, asked: connected, head: false, reads, marks: 0 });
        Ok(())
    }

    /// Waits at most so long for sockets and serves those that are ready; `seen` is given what is read.
    pub(super) fn turn(&mut self, timeout: Duration, seen: &mut impl FnMut(&[u8])) -> Result<(), String> {
        let mut ready = std::mem::take(&mut self.ready);
        let waited = self.poll.wait(timeout, &mut ready).map_err(|error| format!("epoll: {error}"));
        for number in &ready {
            self.serve(*number, seen)?;
        }
        self.ready = ready;
        waited
    }

    fn serve(&mut self, number: usize, seen: &mut impl FnMut(&[u8])) -> Result<(), String> {
        let Some(client) = self.clients.get_mut(number) else { return Ok(()) };
        let Some(socket) = &client.socket else { return Ok(()) };
        let epoll = |error| format!("epoll: {error}");
        if !client.asked {
            let request = self.requests.get(client.request).map_or(&[][..], Vec::as_slice);
            send_request(socket, self.server, request)?;
            self.poll.modify(socket, number, READ).map_err(epoll)?;
            client.asked = true;
            self.asked += 1;
            return Ok(());
        }
        match connect::read(socket, &mut self.buffer) {
            Ok(None) => {}
            Ok(Some(bytes)) => {
                if !client.head {
                    if !bytes.starts_with(b"HTTP/1.1 200") {
                        let line = bytes.split(|byte| *byte == b'\r').next().unwrap_or_default();
                        return Err(format!("a stream was answered {}", String::from_utf8_lossy(line)));
                    }
                    client.head = true;
                    self.heads += 1;
                    if !client.reads {
                        self.poll.remove(socket).map_err(epoll)?;
                    }
                }
                let marks = memchr_iter(MARK, bytes).count() as u64;
                client.marks += marks;
                self.marks += marks;
                seen(bytes);
            }
            Err(why) => {
                self.ended.get_or_insert(why);
                client.socket = None;
            }
        }
        Ok(())
    }

    /// Serves the clients until `done`. The error is that this took too long, or that the server left one of them.
    pub(super) fn until(
        &mut self,
        time: Duration,
        mut seen: impl FnMut(&[u8]),
        done: impl Fn(&Crowd) -> bool,
    ) -> Result<(), String> {
        let began = Instant::now();
        while !done(self) {
            if began.elapsed() > time {
                let (all, seconds) = (self.clients.len(), time.as_secs_f64());
                return Err(format!(
                    "after {seconds:.0} s {} of {all} clients had asked, {} were answered, and they had {} events",
                    self.asked, self.heads, self.marks
                ));
            }
            self.turn(TURN, &mut seen)?;
            self.all_are_there()?;
        }
        Ok(())
    }

    /// Serves the clients for so long.
    pub(super) fn stay(&mut self, time: Duration) -> Result<(), String> {
        let began = Instant::now();
        self.until(time + TURN, |_| {}, |_| began.elapsed() >= time)
    }

    /// Refuses a client that the server left.
    fn all_are_there(&self) -> Result<(), String> {
        self.ended.as_ref().map_or(Ok(()), |why| Err(format!("a client was left: {why}")))
    }

    /// Returns how many clients have fewer and how many have more events than that.
    pub(super) fn other_than(&self, events: u64) -> (usize, usize) {
        let count =
            |wrong: fn(u64, u64) -> bool| self.clients.iter().filter(|one| wrong(one.marks, events)).count();
        (count(|marks, events| marks < events), count(|marks, events| marks > events))
    }
}
