//! A shard's own listeners: they accept connections and start a task for each.

use std::cell::Cell;
use std::io;
use std::net::{Shutdown, TcpListener as StdListener};
use std::rc::Rc;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use socket2::SockRef;
use tokio_uring::net::{TcpListener, TcpStream};

use super::Connections;
use super::shedding::EVICTION_TIME;
use crate::core::budget::Charge;
use crate::core::survey::ClientAddress;
use crate::dialects::Port;
use crate::shard::message::Accepted;
use crate::shard::{Phase, sockets};

/// Accepts under way at a time per listener, so that one trip into the kernel brings several connections.
const ACCEPTS: usize = 8;
/// How long accepting pauses when no descriptor is left: until one is free, every accept fails at once.
pub(super) const PAUSE: Duration = Duration::from_millis(100);
/// The line of an accept that failed.
pub(super) const CANNOT_ACCEPT: &str = "cannot accept, and goes on when connections close; if descriptors ran out, raise the \
     file limit (ulimit -n, LimitNOFILE=)";
/// The least time between two warnings of one shard.
const WARNING_INTERVAL: Duration = Duration::from_secs(10);

/// A listener of one shard and the port that it serves.
#[derive(Debug)]
pub(crate) struct Listener {
    pub(crate) port: Port,
    pub(crate) listener: StdListener,
    /// A duplicate of `listener`'s descriptor, which ends it.
    pub(crate) handle: StdListener,
}

/// Accepts connections until the shard stops serving.
///
/// An accept cannot be cancelled: dropping it would take a connection and leak it. Shutting down `handle`, a duplicate
/// of the listener's descriptor, ends the pending accepts instead.
pub(crate) async fn run(connections: Rc<Connections>, listener: Listener) {
    let Listener { port, listener, handle } = listener;
    let listener = Rc::new(TcpListener::from_std(listener));
    for _ in 0..ACCEPTS {
        tokio_uring::spawn(accept(Rc::clone(&connections), port, Rc::clone(&listener)));
    }
    connections.shard.stops_serving().await;
    let _ = SockRef::from(&handle).shutdown(Shutdown::Both);
}

async fn accept(connections: Rc<Connections>, port: Port, listener: Rc<TcpListener>) {
    while connections.shard.phase() == Phase::Serving {
        match listener.accept().await {
            Ok((stream, peer)) => {
                connections.enter();
                let peer = ClientAddress::Ip(peer.ip());
                match admit(&connections).await {
                    Some(charge) => {
                        let connection = super::run(Rc::clone(&connections), stream, peer, port, charge);
                        drop(tokio_uring::spawn(connection));
                    }
                    None => give_up(&connections, stream),
                }
            }
            Err(_) if connections.shard.phase() > Phase::Serving => return,
            Err(error) => {
                if is_shortage(&error) {
                    connections.service.files_short.note(connections.shard.common.clock.now_ms());
                    if connections.evict() {
                        tokio::time::sleep(EVICTION_TIME).await;
                        continue;
                    }
                }
                warn(&connections.warned, || {
                    tracing::warn!(shard = connections.shard.id, %error, "{CANNOT_ACCEPT}");
                });
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// Serves a connection that another thread accepted and that was counted. The socket has no owner but the returned future,
/// so it is closed where it cannot be served.
pub(super) async fn take(connections: Rc<Connections>, accepted: Accepted) {
    let Accepted { socket, peer, port } = accepted;
    // Only what all stream sockets have in common is asked of it, so that it may be one of the file system, too.
    let stream = TcpStream::from_std(socket.into());
    match admit(&connections).await {
        Some(charge) => super::run(connections, stream, peer, port, charge).await,
        None => give_up(&connections, stream),
    }
}

/// Returns whether an accept failed because descriptors or kernel memory ran out, which closing connections remedies.
/// Linux returns errors of the network from accept as well (accept(2)).
pub(super) fn is_shortage(error: &io::Error) -> bool {
    let shortages = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM];
    Errno::from_io_error(error).is_some_and(|errno| shortages.contains(&errno))
}

/// Takes memory for a new connection, and waits until the shard has time for it. While there is no memory it evicts
/// connections that only wait. Returns `None` when none can be evicted, when `mailbox.wait_max` has passed, or when the
/// shard stops serving.
async fn admit(connections: &Connections) -> Option<Charge> {
    let memory = &connections.service.request_memory;
    let end = Instant::now() + connections.shard.common.config.mailbox.wait_max;
    loop {
        if let Some(charge) = memory.admit() {
            connections.newcomer_step().await;
            return Some(charge);
        }
        memory.note_short(connections.shard.common.clock.now_ms());
        if !connections.evict() || Instant::now() >= end || connections.shard.phase() > Phase::Serving {
            return None;
        }
        tokio::time::sleep(EVICTION_TIME).await;
    }
}

/// Closes a connection that was counted and not admitted, with a reset unless the server stops. An answer would need memory
/// too, and an EventSource that gets 503 never reconnects.
fn give_up(connections: &Connections, stream: TcpStream) {
    connections.leave();
    if connections.shard.phase() > Phase::Serving {
        return;
    }
    connections.shard.stats().refused.add(1);
    warn(&connections.warned, || {
        tracing::warn!(
            shard = connections.shard.id,
            "a connection is reset because there is no memory for it; raise --request-memory"
        );
    });
    sockets::reset_at_close(&stream);
}

/// Calls `say`, unless it did within [`WARNING_INTERVAL`].
pub(super) fn warn(warned: &Cell<Option<Instant>>, say: impl FnOnce()) {
    if warned.get().is_none_or(|at| at.elapsed() > WARNING_INTERVAL) {
        warned.set(Some(Instant::now()));
        say();
    }
}
