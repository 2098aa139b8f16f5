//! Waiting for sockets: epoll, level-triggered, with waits as fine as nanoseconds.
//!
//! Level-triggered on purpose: one big read for each readiness is enough, where edge-triggered needs a second call only to
//! hear that there is no more.

use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

/// Sockets told of in one wait; more stay ready for the next one.
const EVENTS_MAX: usize = 1024;

/// Wakes for bytes to read, or the end.
pub(crate) const READ: EventFlags = EventFlags::IN;
/// Wakes for room to write, or a connect that is done.
pub(crate) const WRITE: EventFlags = EventFlags::OUT;

/// A set of sockets, each with a number to tell it by. A closed socket leaves by itself.
#[derive(Debug)]
pub(crate) struct Poll(OwnedFd);

impl Poll {
    pub(crate) fn new() -> io::Result<Poll> {
        Ok(Poll(epoll::create(CreateFlags::CLOEXEC)?))
    }

    pub(crate) fn add(&self, socket: impl AsFd, number: usize, wake_for: EventFlags) -> io::Result<()> {
        Ok(epoll::add(&self.0, socket, EventData::new_u64(number as u64), wake_for)?)
    }

    pub(crate) fn modify(&self, socket: impl AsFd, number: usize, wake_for: EventFlags) -> io::Result<()> {
        Ok(epoll::modify(&self.0, socket, EventData::new_u64(number as u64), wake_for)?)
    }

    /// Takes an open socket out of the set.
    pub(crate) fn remove(&self, socket: impl AsFd) -> io::Result<()> {
        Ok(epoll::delete(&self.0, socket)?)
    }

    /// Waits and puts the numbers of the ready sockets into `ready`; none when the time is up or a signal came.
    pub(crate) fn wait(&self, timeout: Duration, ready: &mut Vec<usize>) -> io::Result<()> {
        let mut events = [const { MaybeUninit::uninit() }; EVENTS_MAX];
        ready.clear();
        let timeout =
            Timespec { tv_sec: timeout.as_secs().min(3600) as i64, tv_nsec: timeout.subsec_nanos().into() };
        match epoll::wait(&self.0, &mut events, Some(&timeout)) {
            Ok((events, _)) => ready.extend(events.iter().map(|event| event.data.u64() as usize)),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }
}
