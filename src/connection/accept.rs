//! A shard's listener: connections in, one task each.

use std::cell::Cell;
use std::io;
use std::net::{Shutdown, TcpListener as StdListener};
use std::rc::Rc;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use socket2::SockRef;
use tokio_uring::net::{TcpListener, TcpStream};

use super::Connections;
use super::eviction::EVICTION_TIME;
use crate::core::budget::Charge;
use crate::dialects::Port;
use crate::shard::{Phase, sockets};

/// Accepts under way at a time, so that one trip into the kernel brings several connections.
const ACCEPTS: usize = 8;
/// How long accepting pauses when there is no descriptor left. An accept then fails at once, again and again.
const PAUSE: Duration = Duration::from_millis(100);
/// A server at its limit says so no more often than this.
const WARNING_INTERVAL: Duration = Duration::from_secs(10);

/// One of a shard's listeners.
#[derive(Debug)]
pub(crate) struct Listener {
    pub(crate) port: Port,
    pub(crate) listener: StdListener,
    /// The same listener once more, to end it.
    pub(crate) handle: StdListener,
}

/// Accepts connections until the shard stops serving.
///
/// An accept cannot be taken back: dropped, it would take a connection and leak it. `handle`, a second one of
/// the same listener, ends the listener under it instead.
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
                    connections.service.note_files_short(connections.shard.common.clock);
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

/// Whether an accept failed because descriptors or the kernel's memory ran out: connections that end cure that. Linux hands
/// an accept errors of the network as well (accept(2)).
fn is_shortage(error: &io::Error) -> bool {
    let shortages = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM];
    Errno::from_io_error(error).is_some_and(|errno| shortages.contains(&errno))
}

/// Takes memory for a new connection; while there is none, that of others which only wait. None when there are none such, or
/// not within the time that a publisher waits.
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

/// Resets a connection that there is no memory for. An answer would need some, and an EventSource that got 503 would never
/// come back.
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

/// Says something, unless something was said a moment ago.
fn warn(warned: &Cell<Option<Instant>>, say: impl FnOnce()) {
    if warned.get().is_none_or(|at| at.elapsed() > WARNING_INTERVAL) {
        warned.set(Some(Instant::now()));
        say();
    }
}
