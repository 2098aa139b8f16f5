//! The listeners that all shards share, and the thread that accepts there for all of them.
//!
//! Each shard has a listener of its own at an IP address (`SO_REUSEPORT`), among which the kernel parts the connections. A
//! socket in the file system, and one that was handed to the process, exists once. There this thread accepts and gives
//! each shard its turn, so that long-lived streams are spread evenly; if the shards accepted themselves, each connection
//! would wake all of them, and the first one awake would get whatever comes at once. It waits for readiness in place of
//! accepting through a ring, because ending a pending accept takes a shutdown, which would end the listener for
//! everybody: for systemd, too, which keeps it for the next start.

use std::cell::Cell;
use std::io::{self, PipeReader, PipeWriter};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::SockRef;

use super::accept::{CANNOT_ACCEPT, PAUSE, is_shortage, warn};
use super::service::Service;
use crate::core::message::ShardId;
use crate::core::survey::ClientAddress;
use crate::dialects::Port;
use crate::shard::common::Common;
use crate::shard::mailbox::Mailboxes;
use crate::shard::message::{Accepted, ShardMessage};

/// Connections accepted at one listener before the others, and the order to stop, are looked at again.
const ACCEPTS_PER_ROUND: usize = 64;

/// A listener that all shards share, and the port that it serves. It does not block.
#[derive(Debug)]
pub(crate) struct SharedListener {
    pub(crate) port: Port,
    pub(crate) socket: OwnedFd,
    /// The bound of what the kernel holds of each connection's events, where it is not inherited.
    pub(crate) send_buffer_bytes: Option<usize>,
}

/// The thread that accepts for all shards.
#[derive(Debug)]
pub(crate) struct Acceptor {
    thread: JoinHandle<()>,
    /// Dropped to stop it.
    stop: PipeWriter,
}

impl Acceptor {
    /// Starts the thread.
    ///
    /// # Errors
    /// The kernel's error, when there is no descriptor or no thread left.
    pub(crate) fn start(
        listeners: Vec<SharedListener>,
        common: Arc<Common>,
        service: Arc<Service>,
        mailboxes: Mailboxes,
    ) -> io::Result<Self> {
        let (stopped, stop) = io::pipe()?;
        let accepting = Accepting {
            listeners,
            stopped,
            common,
            service,
            mailboxes,
            next: Cell::new(0),
            warned: Cell::new(None),
        };
        let thread = std::thread::Builder::new().name("esper-accept".to_owned());
        Ok(Acceptor { thread: thread.spawn(move || accepting.run())?, stop })
    }

    /// Stops accepting; each connection that was accepted is in its shard's mailbox then. The listeners stay open as long as
    /// anybody else has them, and connections wait in them.
    pub(crate) fn stop(self) {
        drop(self.stop);
        let _ = self.thread.join();
    }
}

struct Accepting {
    listeners: Vec<SharedListener>,
    /// A pipe that is at its end once the thread is to stop.
    stopped: PipeReader,
    common: Arc<Common>,
    service: Arc<Service>,
    mailboxes: Mailboxes,
    next: Cell<usize>,
    warned: Cell<Option<Instant>>,
}

impl Accepting {
    fn run(&self) {
        loop {
            let mut polled = vec![PollFd::new(self.stopped.as_fd(), PollFlags::POLLIN)];
            polled.extend(
                self.listeners.iter().map(|listener| PollFd::new(listener.socket.as_fd(), PollFlags::POLLIN)),
            );
            // An interrupted wait begins anew.
            if poll(&mut polled, PollTimeout::NONE).is_err() {
                continue;
            }
            let ready: Vec<bool> = polled.iter().map(|polled| polled.any().unwrap_or(true)).collect();
            if ready[0] {
                return;
            }
            for (listener, _) in self.listeners.iter().zip(&ready[1..]).filter(|(_, ready)| **ready) {
                self.accept(listener);
            }
        }
    }

    fn accept(&self, listener: &SharedListener) {
        for _ in 0..ACCEPTS_PER_ROUND {
            match SockRef::from(&listener.socket).accept() {
                Ok((socket, peer)) => {
                    if let Some(bytes) = listener.send_buffer_bytes {
                        // Without it more memory is held for a slow client, and nothing else.
                        let _ = socket.set_send_buffer_size(bytes);
                    }
                    let peer =
                        peer.as_socket().map_or(ClientAddress::Unix, |peer| ClientAddress::Ip(peer.ip()));
                    let accepted = Accepted { socket: socket.into(), peer, port: listener.port };
                    self.mailboxes.post(self.next_shard(), ShardMessage::Accepted(accepted));
                }
                // All have been accepted, here or by another process.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => {
                    if is_shortage(&error) {
                        // Every shard then makes room.
                        self.service.files_short.note(self.common.clock.now_ms());
                    }
                    warn(&self.warned, || tracing::warn!(%error, "{CANNOT_ACCEPT}"));
                    self.pause(PAUSE);
                    return;
                }
            }
        }
    }

    /// Returns the shard whose turn it is.
    fn next_shard(&self) -> ShardId {
        let next = self.next.get();
        self.next.set((next + 1) % self.mailboxes.shards());
        next as ShardId
    }

    /// Waits, but not longer than until it is to stop.
    fn pause(&self, time: Duration) {
        let mut stopped = [PollFd::new(self.stopped.as_fd(), PollFlags::POLLIN)];
        let _ = poll(&mut stopped, PollTimeout::try_from(time).unwrap_or(PollTimeout::ZERO));
    }
}
