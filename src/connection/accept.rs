//! A shard's listeners: they accept connections and start a task for each.

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
use crate::dialects::Port;
use crate::shard::{Phase, sockets};

/// Accepts under way at a time per listener, so that one trip into the kernel brings several connections.
const ACCEPTS: usize = 8;
/// How long accepting pauses when no descriptor is left: until one is free, every accept fails at once.
const PAUSE: Duration = Duration::from_millis(100);
/// The least time between two warnings of one listener.
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
    let warned = Rc::new(Cell::new(None));
    for _ in 0..ACCEPTS {
        tokio_uring::spawn(accept(Rc::clone(&connections), port, Rc::clone(&listener), Rc::clone(&warned)));
    }
    connections.shard.stops_serving().await;
    let _ = SockRef::from(&handle).shutdown(Shutdown::Both);
}

async fn accept(
    connections: Rc<Connections>,
    port: Port,
    listener: Rc<TcpListener>,
    warned: Rc<Cell<Option<Instant>>>,
) {
    while connections.shard.phase() == Phase::Serving {
        match listener.accept().await {
            Ok((stream, peer)) => match admit(&connections).await {
                Some(charge) => {
                    let connection = super::run(Rc::clone(&connections), stream, peer.ip(), port, charge);
                    drop(tokio_uring::spawn(connection));
                }
                None if connections.shard.phase() > Phase::Serving => return,
                None => refuse(&connections, stream, &warned),
            },
            Err(_) if connections.shard.phase() > Phase::Serving => return,
            Err(error) => {
                if is_shortage(&error) {
                    connections.service.files_short.note(connections.shard.common.clock.now_ms());
                    if connections.evict() {
                        tokio::time::sleep(EVICTION_TIME).await;
                        continue;
                    }
                }
                warn(&warned, || {
                    tracing::warn!(
                        shard = connections.shard.id,
                        %error,
                        "cannot accept, and goes on when connections close; if descriptors ran out, \
                         raise the file limit (ulimit -n, LimitNOFILE=)"
                    );
                });
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// Returns whether an accept failed because descriptors or kernel memory ran out, which closing connections remedies.
/// Linux returns errors of the network from accept as well (accept(2)).
fn is_shortage(error: &io::Error) -> bool {
    let shortages = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM];
    Errno::from_io_error(error).is_some_and(|errno| shortages.contains(&errno))
}

/// Takes memory for a new connection. While there is none it evicts connections that only wait. Returns `None` when
/// none can be evicted, when `mailbox.wait_max` has passed, or when the shard stops serving.
async fn admit(connections: &Connections) -> Option<Charge> {
    let memory = &connections.service.request_memory;
    let end = Instant::now() + connections.shard.common.config.mailbox.wait_max;
    loop {
        if let Some(charge) = memory.admit() {
            return Some(charge);
        }
        memory.note_short(connections.shard.common.clock.now_ms());
        if !connections.evict() || Instant::now() >= end || connections.shard.phase() > Phase::Serving {
            return None;
        }
        tokio::time::sleep(EVICTION_TIME).await;
    }
}

/// Resets a connection that there is no memory for. An answer would need memory too, and an EventSource that gets 503
/// never reconnects.
fn refuse(connections: &Connections, stream: TcpStream, warned: &Cell<Option<Instant>>) {
    connections.shard.stats().refused.add(1);
    warn(warned, || {
        tracing::warn!(
            shard = connections.shard.id,
            "a connection is reset because there is no memory for it; raise --request-memory"
        );
    });
    sockets::reset_at_close(&stream);
}

/// Calls `say`, unless it did within [`WARNING_INTERVAL`].
fn warn(warned: &Cell<Option<Instant>>, say: impl FnOnce()) {
    if warned.get().is_none_or(|at| at.elapsed() > WARNING_INTERVAL) {
        warned.set(Some(Instant::now()));
        say();
    }
}
