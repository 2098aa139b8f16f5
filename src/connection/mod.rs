//! HTTP/1.1 over sockets: reads requests and writes answers until a connection closes or becomes a stream.
//!
//! Connections see the shard whose thread they run on, and post publishes and commands to the homes of partitions. The
//! shard sees only [`ConnectionHooks`] of them.
//!
//! | module | idea |
//! |---|---|
//! | [`accept`] | the listeners of each shard |
//! | [`acceptor`] | the listeners that all shards share |
//! | [`newcomers`] | new connections wait until their shard has time for them |
//! | [`machine`] | one connection: its states and transitions |
//! | [`request`] | decides what to do for a request once its head is read |
//! | [`body`] | reads the body of a publish or a command |
//! | [`client`] | says who asks, to those who ask who is connected and to the access log |
//! | [`streaming`] | makes a stream of a connection: its head, or the bytes that refuse it |
//! | [`input`], [`waiting`] | bytes received, and waiting for more with a deadline |
//! | [`pipeline`], [`answer`], [`sending`] | answers, in the order of their requests |
//! | [`request_memory`], [`holding`], [`shedding`], [`shortage`], [`linger`] | memory of connections, and which of them give way |
//! | [`service`] | what the connections of all shards share |

pub(crate) mod accept;
pub(crate) mod acceptor;
mod answer;
mod body;
mod client;
mod holding;
mod input;
mod linger;
mod machine;
mod newcomers;
mod pipeline;
mod request;
pub(crate) mod request_memory;
mod sending;
pub(crate) mod service;
mod shedding;
pub(crate) mod shortage;
mod streaming;
#[cfg(test)]
mod tests;
mod waiting;

use std::cell::{Cell, RefCell};
use std::net::Shutdown;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use tokio_uring::net::TcpStream;

use self::answer::Answer;
use self::holding::Holding;
use self::input::DRAIN_BYTES;
use self::linger::Lingering;
use self::machine::{Connection, End};
use self::newcomers::Newcomers;
use self::pipeline::Pipeline;
use self::service::{Service, busy};
use self::shedding::Evictions;
use crate::clock::Date;
use crate::core::arena::Arena;
use crate::core::budget::Charge;
use crate::core::message::Ticket;
use crate::core::survey::ClientAddress;
use crate::dialects::Port;
use crate::shard::message::{Accepted, TicketReply};
use crate::shard::sockets::reset_at_close;
use crate::shard::{ConnectionHooks, Shard, shares, stream};

/// The connections of one shard that are not streams; owned by the shard's thread.
pub(crate) struct Connections {
    shard: Rc<Shard>,
    service: Arc<Service>,
    /// Their requests under way, by the connection's key in tickets.
    pipelines: RefCell<Arena<Rc<Pipeline>>>,
    lingering: Lingering,
    evictions: Evictions,
    newcomers: Newcomers,
    /// The shared buffer of [`Input::drain`](input::Input::drain).
    scratch: RefCell<Box<[u8]>>,
    date: RefCell<Date>,
    /// The time at which the shard last warned that it cannot take a connection.
    warned: Cell<Option<Instant>>,
}

impl Connections {
    pub(crate) fn new(shard: Rc<Shard>, service: Arc<Service>) -> Rc<Self> {
        Rc::new(Connections {
            shard,
            service,
            pipelines: RefCell::new(Arena::default()),
            lingering: Lingering::default(),
            evictions: Evictions::default(),
            newcomers: Newcomers::new(shares::LEAST.steps),
            scratch: RefCell::new(vec![0; DRAIN_BYTES].into()),
            date: RefCell::new(Date::new()),
            warned: Cell::new(None),
        })
    }

    /// Counts a connection that was accepted, before it has a task: a server that stops waits for its answers.
    fn enter(&self) {
        self.shard.stats().connections.add(1);
    }

    /// Returns when a new connection may take its next step.
    async fn newcomer_step(&self) {
        self.newcomers.step(&self.shard.mailbox).await;
    }

    /// Counts one that has ended, or became a stream.
    fn leave(&self) {
        self.shard.stats().connections.subtract(1);
    }

    fn date(&self) -> [u8; 29] {
        self.date.borrow().text()
    }
}

impl ConnectionHooks for Rc<Connections> {
    fn accepted(&self, accepted: Accepted) {
        self.enter();
        drop(tokio_uring::spawn(accept::take(Rc::clone(self), accepted)));
    }

    fn reply(&self, ticket: Ticket, reply: TicketReply) {
        let mut pipelines = self.pipelines.borrow_mut();
        // Dropping the reply closes a queue's stream when its client has left.
        let Some(pipeline) = pipelines.get_mut(ticket.connection) else { return };
        match reply {
            TicketReply::Core(reply) => {
                let epoch = self.shard.common.epochs.load().current();
                pipeline.answer(ticket.request, Answer::to_command(&reply, epoch));
            }
            TicketReply::Queue(result) => pipeline.opens(result),
            TicketReply::Json(Some((json, charge))) => {
                pipeline.answer(ticket.request, Answer::charged(json, charge));
            }
            TicketReply::Json(None) => pipeline.answer(ticket.request, busy().into()),
        }
    }

    fn let_in(&self, steps: usize) -> bool {
        self.newcomers.let_in(steps)
    }

    fn wake_all(&self) {
        self.newcomers.let_all_in();
        for (_, pipeline) in self.pipelines.borrow_mut().iter_mut() {
            pipeline.wake();
        }
    }

    fn sweep(&self, now_ms: u64, unix_s: u64) {
        self.date.borrow_mut().update(unix_s);
        if self.service.files_short.is_recent(now_ms) || self.service.request_memory.is_crowded(now_ms) {
            self.evict();
        }
    }
}

/// Serves a connection, which was counted, until it closes or becomes a stream. `charge` is the connection's share of the
/// memory for requests, already taken.
async fn run(
    connections: Rc<Connections>,
    stream: TcpStream,
    peer: ClientAddress,
    port: Port,
    charge: Charge,
) {
    let shard = &connections.shard;
    let pipeline = Rc::new(Pipeline::default());
    let key = connections.pipelines.borrow_mut().insert(Rc::clone(&pipeline));
    let mut holding = Holding::new(&connections.service.request_memory, shard.common.clock, charge);
    let lent = shard.sockets.lend_connection(&stream);
    let end = Connection::new(&connections, &stream, (peer, port), pipeline, key, &mut holding).serve().await;
    if matches!(end, End::Cut) {
        reset_at_close(&stream);
    }
    if matches!(end, End::Closed | End::Cut) {
        // Dropping the stream is not enough: a read under way would keep the socket open.
        let _ = stream.shutdown(Shutdown::Both);
    }
    drop(lent);
    let refused = match end {
        End::Stream(start, received) => stream::begin(shard, stream, *start, received).await,
        End::Refused => Some(stream),
        End::Closed | End::Cut => None,
    };
    // Everything it asked for is answered, so a stopping server need not wait for this connection any more.
    connections.pipelines.borrow_mut().remove(key);
    connections.leave();
    if let Some(stream) = refused {
        holding.set(0);
        let lent = shard.sockets.lend_connection(&stream);
        connections.lingering.linger(&stream).await;
        drop(lent);
    }
}
