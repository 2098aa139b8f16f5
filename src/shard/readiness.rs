//! Takes what the kernel tells of streams' sockets: that a client left or sent something, or that there is room again.
//!
//! One set of descriptors for each shard (epoll, by mio), in which an idle stream takes nothing of the process's memory: with
//! a read under way on the ring each of 14,000 took 340 bytes more, in its future, its buffer and its slot. The kernel takes
//! some 200 bytes for each.

use std::convert::Infallible;
use std::io::{self, ErrorKind};
use std::time::Duration;

use mio::event::Event;
use mio::{Events, Poll, Registry};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::Shard;
use crate::core::fanout::EndReason;

/// The most that is taken from the kernel between two turns. A stream whose readiness is not taken yet stands in no line, and
/// the line is what shows that a stream waits for long.
const EVENTS: usize = 1024;

/// The set of descriptors of one shard, until [`Readiness::watch`] has it.
#[derive(Debug)]
pub(crate) struct Readiness(Poll);

impl Readiness {
    /// Returns an empty set, and the registry by which descriptors are added to it.
    ///
    /// # Errors
    /// Those of epoll_create(2): no descriptor or memory is left.
    pub(crate) fn new() -> io::Result<(Self, Registry)> {
        let poll = Poll::new()?;
        let registry = poll.registry().try_clone()?;
        Ok((Readiness(poll), registry))
    }

    /// Tells the fan-out of a shard what the kernel says, for as long as the shard runs.
    ///
    /// # Errors
    /// Those of epoll_wait(2).
    pub(crate) async fn watch(self, shard: &Shard) -> io::Result<Infallible> {
        // What replaces it asks by `unsafe` for a promise that `Poll` keeps: it has one descriptor until it is dropped.
        #[expect(deprecated)]
        let mut poll = AsyncFd::with_interest(self.0, Interest::READABLE)?;
        let mut events = Events::with_capacity(EVENTS);
        loop {
            let mut guard = poll.readable_mut().await?;
            match guard.get_inner_mut().poll(&mut events, Some(Duration::ZERO)) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                result => result?,
            }
            let mut told = 0;
            for event in &events {
                shard.take_readiness(event);
                told += 1;
            }
            // More may wait when there was room for no more.
            if told < EVENTS {
                guard.clear_ready();
            }
            shard.ring_if_due();
            // A turn serves those that were woken before the kernel is asked for more.
            let _ = tokio_uring::no_op().await;
        }
    }
}

impl Shard {
    /// Ends a stream whose client left, drops what a client sent, or has the rest of a send sent.
    fn take_readiness(&self, event: &Event) {
        // Only `Sockets` adds to the set, by streams' numbers.
        let index = event.token().0 as u32;
        let has_left = event.is_read_closed() || event.is_error();
        let end = match has_left {
            true => Some(EndReason::Left),
            false if event.is_readable() => self.sockets.discard(index),
            false => None,
        };
        let mut fanout = self.fanout.borrow_mut();
        match end {
            Some(reason) => fanout.end_for(index, reason),
            // A socket of the file system tells of room whenever its client took something.
            None if event.is_writable() && !fanout.has_room(index) => self.sockets.await_room(index, false),
            None => {}
        }
    }

    /// Has a turn serve the streams for which something came outside of one.
    pub(super) fn ring_if_due(&self) {
        if self.fanout.borrow().is_due() {
            self.mailbox.ring();
        }
    }
}
