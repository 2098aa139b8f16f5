//! The barest possible fan-out: what arrived from publishers in one read is written to every subscriber by one `write`
//! each. No topics, ids, history, chunk framing or limits, and as good as no HTTP. What it costs is what the kernel costs.
//!
//! With a folder it answers and delivers what is on disk, by the barest group commit.

use crate::args::ServeArgs;
use crate::poll::{Poll, READ};
use crate::process::make_room;
use crate::serve::commit::{Batch, Commit};
use crate::stamp::MARK;
use memchr::memmem;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

/// As much as 256 publishes of 128 bytes in flight, a few times over.
const READ_BYTES_MAX: usize = 256 * 1024;
/// Brokers set this, so that a slow subscriber does not cost megabytes of the kernel's memory.
const SEND_BUFFER_BYTES: usize = 64 * 1024;
/// A subscriber that takes nothing for so long is dropped.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
const BACKLOG: i32 = 4_096;
const STREAM_HEAD: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n";
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
const HEAD_END: &[u8] = b"\r\n\r\n";
const EVENT_END: &[u8] = &[MARK, b'\n', b'\n'];

/// Serves for ever, on one thread.
pub(crate) fn serve(args: &ServeArgs) -> Result<(), String> {
    make_room(0, 0, 1)?;
    let commit = args.commit.as_deref().map(Commit::start).transpose();
    let floor = commit.and_then(|commit| Floor::bind(args.port, commit));
    floor.and_then(Floor::serve).map_err(|error| format!("port {}: {error}", args.port))
}

struct Floor {
    listener: TcpListener,
    poll: Poll,
    /// Connections that said nothing yet, and publishers with what they sent of a request not yet whole; by descriptor
    /// number in the poll.
    talking: Vec<Option<(TcpStream, Vec<u8>)>>,
    subscribers: Vec<TcpStream>,
    commit: Option<Commit>,
    buffer: Vec<u8>,
}

/// The listener's number in the poll; connections count from 0.
const LISTENER: usize = usize::MAX;
/// The number of what is on disk.
const COMMITTED: usize = LISTENER - 1;

impl Floor {
    fn bind(port: u16, commit: Option<Commit>) -> std::io::Result<Floor> {
        let listener = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
        listener.set_reuse_address(true)?;
        listener.set_send_buffer_size(SEND_BUFFER_BYTES)?;
        listener.set_tcp_nodelay(true)?;
        listener.set_nonblocking(true)?;
        listener.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], port)).into())?;
        listener.listen(BACKLOG)?;
        let listener = TcpListener::from(listener);
        let poll = Poll::new()?;
        poll.add(&listener, LISTENER, READ)?;
        if let Some(commit) = &commit {
            poll.add(commit.waker(), COMMITTED, READ)?;
        }
        let buffer = vec![0; READ_BYTES_MAX];
        Ok(Floor { listener, poll, talking: Vec::new(), subscribers: Vec::new(), commit, buffer })
    }

    fn serve(mut self) -> std::io::Result<()> {
        let mut ready = Vec::new();
        loop {
            self.poll.wait(Duration::from_secs(60), &mut ready)?;
            for &number in &ready {
                match number {
                    LISTENER => self.accept()?,
                    COMMITTED => self.committed()?,
                    _ => self.read(number)?,
                }
            }
            // Behind all reads of this turn: they are one batch.
            if let Some(commit) = &mut self.commit {
                commit.begin();
            }
        }
    }

    fn accept(&mut self) -> std::io::Result<()> {
        loop {
            match self.listener.accept() {
                // Blocking, and with no thought for it: a ready socket is read once, and a full one is waited for.
                Ok((socket, _)) => {
                    socket.set_write_timeout(Some(WRITE_TIMEOUT))?;
                    let free = self.talking.iter().position(Option::is_none).unwrap_or(self.talking.len());
                    self.poll.add(&socket, free, READ)?;
                    let connection = Some((socket, Vec::new()));
                    match self.talking.get_mut(free) {
                        Some(slot) => *slot = connection,
                        None => self.talking.push(connection),
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    fn read(&mut self, number: usize) -> std::io::Result<()> {
        let Some(slot) = self.talking.get_mut(number) else { return Ok(()) };
        let Some((mut socket, mut begun)) = slot.take() else { return Ok(()) };
        let Ok(bytes @ 1..) = socket.read(&mut self.buffer) else { return Ok(()) };
        let input = self.buffer.get(..bytes).unwrap_or_default();
        if begun.is_empty() && input.first() == Some(&b'G') {
            self.poll.remove(&socket)?;
            if socket.write_all(STREAM_HEAD).is_ok() {
                self.subscribers.push(socket);
            }
            return Ok(());
        }
        begun.extend_from_slice(input);
        let Block { events, count, rest } = Block::of(&begun);
        *slot = Some((socket, begun.split_off(rest)));
        match &mut self.commit {
            _ if count == 0 => {}
            Some(commit) => commit.gather(number, &events, count),
            None => {
                self.answer(number, count);
                self.deliver(&events);
            }
        }
        Ok(())
    }

    fn committed(&mut self) -> std::io::Result<()> {
        let batch = self.commit.as_mut().map(Commit::ended).transpose()?;
        let Some(Batch { events, answers }) = batch.flatten() else { return Ok(()) };
        answers.into_iter().for_each(|(number, count)| self.answer(number, count));
        self.deliver(&events);
        Ok(())
    }

    fn answer(&mut self, number: usize, count: usize) {
        let Some(slot) = self.talking.get_mut(number) else { return };
        slot.take_if(|(socket, _)| socket.write_all(&ANSWER.repeat(count)).is_err());
    }

    fn deliver(&mut self, events: &[u8]) {
        self.subscribers.retain_mut(|subscriber| subscriber.write_all(events).is_ok());
    }
}

/// The events of all whole requests.
#[derive(Debug, Default, PartialEq)]
struct Block {
    events: Vec<u8>,
    count: usize,
    /// Where the request begins that is not whole.
    rest: usize,
}

impl Block {
    /// Takes every request for one of the load generator's own, whose bodies alone hold an event's end.
    fn of(requests: &[u8]) -> Block {
        let (head_end, event_end) = (memmem::Finder::new(HEAD_END), memmem::Finder::new(EVENT_END));
        let mut block = Block::default();
        loop {
            let begun = requests.get(block.rest..).unwrap_or_default();
            let Some(head) = head_end.find(begun) else { return block };
            let body = begun.get(head + HEAD_END.len()..).unwrap_or_default();
            let Some(end) = event_end.find(body) else { return block };
            let event = body.get(..end + EVENT_END.len()).unwrap_or_default();
            block.events.extend_from_slice(event);
            block.count += 1;
            block.rest += head + HEAD_END.len() + event.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_publishes_become_one_block_and_the_rest_waits() {
        let one = b"POST /p HTTP/1.1\r\nHost: a\r\n\r\ndata:1~\n\n";
        let requests = [&one[..], one, &one[..20]].concat();
        let block = Block::of(&requests);
        assert_eq!(
            block,
            Block { events: b"data:1~\n\ndata:1~\n\n".to_vec(), count: 2, rest: 2 * one.len() }
        );
        for end in 0..one.len() {
            assert_eq!(Block::of(&one[..end]), Block::default(), "{end}");
        }
    }
}
