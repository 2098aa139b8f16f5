//! The thread of one CPU: its turn, in which the core decides, and the streams that carry the decisions out.
//!
//! Each turn hands messages from the mailbox to the shard's [`Homes`] and [`Fanout`], posts their replies, and sends
//! what is due on streams. Connections run beside it and see the shard; it sees only [`ConnectionHooks`] of them.
//!
//! | module | idea |
//! |---|---|
//! | [`message`], [`mailbox`] | messages of the core and of shards, and the only way between shards |
//! | [`shares`] | the shares of a turn's work |
//! | [`stream`] | a stream begins, is sent what is due, and ends |
//! | [`sockets`], [`readiness`] | sockets and sends to them, and what the kernel tells of them |
//! | [`queue`] | a stream of a message broker's queue, and the backend's way to it |
//! | [`common`] | what all shards share |
//! | `cluster` | what comes through the stream of a cluster |
//! | `access_log` | what the access log is told of streams |
//!
//! Decisions without I/O are not here but in [`core`](crate::core).

mod access_log;
mod cluster;
pub(crate) mod common;
pub(crate) mod mailbox;
pub(crate) mod message;
pub(crate) mod queue;
pub(crate) mod readiness;
pub(crate) mod shares;
pub(crate) mod sockets;
pub(crate) mod stream;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use mio::Registry;
use tokio::sync::Notify;

use crate::access_log::StreamRecords;
use crate::clock::unix_s;
use crate::config::SlowPolicy;
use crate::core::ahead::{self, Ahead};
use crate::core::budget::Budget;
use crate::core::fanout::sending::Outgoing;
use crate::core::fanout::{Fanout, FanoutLimits};
use crate::core::home::Homes;
use crate::core::message::{Message, OrderError, Post, ShardId, Ticket, ToFanout, ToHome};
use crate::core::survey::{Clients, Walk};
use crate::journal::ShardJournal;
use crate::journal::disk::log::Lost;
use crate::journal::queue::UnderWay;
use crate::shard::common::Common;
use crate::shard::mailbox::{MailboxReceiver, Mailboxes, ShardMailbox};
use crate::shard::message::{Accepted, ShardControl, ShardMessage, TicketReply};
use crate::shard::sockets::Sockets;
use crate::stats::ShardStats;

/// Events that expire before other tasks have a turn: some 0.5 ms.
const EXPIRED_PER_TURN: usize = 2048;
/// Topics that one sweep forgets to make room for those of other shards: some 0.5 ms.
const FORGOTTEN_PER_SWEEP: usize = 1024;
/// A full sweep takes a second at most, in this many parts so that none is noticed.
const SWEEP_PARTS: u32 = 16;

/// One shard: its homes, its fan-out and its sockets; owned by its thread.
pub(crate) struct Shard {
    pub(crate) id: ShardId,
    pub(crate) common: Arc<Common>,
    homes: RefCell<Homes>,
    journal: RefCell<ShardJournal>,
    fanout: RefCell<Fanout>,
    pub(crate) mailbox: ShardMailbox,
    /// Its lane of the budget of messages on their way between shards.
    pub(crate) budget: Arc<Budget>,
    pub(crate) sockets: Sockets,
    clients: RefCell<Clients>,
    /// `None` without an access log.
    records: Option<StreamRecords>,
    /// Surveys under way; the last one is continued first.
    walks: RefCell<Vec<Walk>>,
    /// Posts between a decision and the mailboxes; kept so that a turn allocates nothing.
    outbox: RefCell<Vec<Post>>,
    phase: Cell<Phase>,
    /// Set when a connection publishes or a home orders an event, until the turn has seen it.
    publishes: Cell<bool>,
    /// The time of the last turn in which somebody published, in milliseconds since the Unix epoch.
    published_ms: Cell<u64>,
    stops_serving: Notify,
}

/// The calls that a shard's turn makes to its connections.
pub(crate) trait ConnectionHooks {
    /// Serves a connection that was accepted for this shard.
    fn accepted(&self, accepted: Accepted);

    /// Hands a reply to the connection that waits for it; dropped if the connection is gone.
    fn reply(&self, ticket: Ticket, reply: TicketReply);

    /// Lets new connections take so many steps; returns whether more wait.
    fn let_in(&self, steps: usize) -> bool;

    /// Wakes all connections: the shard takes no further request.
    fn wake_all(&self);

    /// Does the connections' periodic work; called several times a second.
    fn sweep(&self, now_ms: u64, unix_s: u64);
}

/// The progress of a shard's shutdown.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Phase {
    Serving,
    /// No further connection or request is taken.
    Finishing,
    /// Streams are being closed.
    Closing,
    Stopped,
}

impl Shard {
    pub(crate) fn new(
        id: ShardId,
        common: Arc<Common>,
        receiver: MailboxReceiver,
        mailboxes: Mailboxes,
        homes: Homes,
        journal: ShardJournal,
        registry: Registry,
    ) -> Rc<Self> {
        let (placement, memory) = (common.homes.placement, common.memory.lane());
        let fanout = Fanout::new(id, placement, fanout_limits(&common), memory, fastrand::u64(..));
        Rc::new(Shard {
            id,
            homes: RefCell::new(homes),
            journal: RefCell::new(journal),
            fanout: RefCell::new(fanout),
            mailbox: ShardMailbox::new(id, receiver, mailboxes),
            budget: common.budget.lane(common.shards),
            sockets: Sockets::new(registry),
            clients: RefCell::default(),
            records: common.access_log.is_some().then(StreamRecords::default),
            walks: RefCell::default(),
            outbox: RefCell::new(Vec::new()),
            phase: Cell::new(Phase::Serving),
            publishes: Cell::new(false),
            published_ms: Cell::new(0),
            stops_serving: Notify::new(),
            common,
        })
    }

    /// Takes turns until the server stops the shard.
    pub(crate) async fn run(&self, hooks: &impl ConnectionHooks) {
        loop {
            let more = self.turn(hooks);
            if self.phase() == Phase::Stopped {
                return;
            }
            if more {
                // Nothing reaches the kernel before the thread parks or the submission queue is full, and a busy shard
                // does not park: this lets connections have their turn.
                let _ = tokio_uring::no_op().await;
            } else {
                self.mailbox.wait().await;
            }
        }
    }

    /// Handles messages, seals blocks of what topics gained, and sends what is due. Returns whether more work waits.
    fn turn(&self, hooks: &impl ConnectionHooks) -> bool {
        let began_us = self.common.clock.now_us();
        let work_max = shares::messages(self.fanout.borrow().is_behind());
        let (mut work, mut ahead) = (0, Ahead::default());
        while work < work_max {
            if ahead.is_due() {
                self.look_ahead();
            }
            let Some(message) = self.mailbox.take() else { break };
            work += message.work();
            work += self.handle(message, hooks);
        }
        self.flush_journal();
        self.with_fanout(|fanout, now_ms, out| {
            fanout.seal_all();
            fanout.send_ready(shares::SENDS, now_ms, out, |index, outgoing| self.send(index, outgoing));
        });
        let spent_us = self.common.clock.now_us() - began_us;
        let shares = shares::after_sends(spent_us, self.quiet_ms());
        self.serve_woken(shares.woken);
        // Clients may have taken what kept publishes out.
        self.common.budget.let_in();
        let (memory, history_bytes) = (&self.common.memory, self.note_history());
        // It looks at the counters of all shards, a cache miss each: not in every turn of many shards.
        if memory.is_filling() || history_bytes > memory.bytes_max() / 2 / self.common.shards {
            self.keep_to_memory();
        }
        let newcomers_wait = hooks.let_in(shares.steps);
        // Skipping forward seals a block, for which others wait.
        self.walk() || newcomers_wait || self.fanout.borrow().is_due() || !self.mailbox.is_empty()
    }

    /// Returns the milliseconds since a connection of this shard last published or one of its homes ordered an event.
    fn quiet_ms(&self) -> u64 {
        let now_ms = self.common.clock.now_ms();
        if self.publishes.take() {
            self.published_ms.set(now_ms);
        }
        now_ms.saturating_sub(self.published_ms.get())
    }

    /// Notes that a connection publishes: the next turns are kept short for those that will.
    pub(crate) fn note_publish(&self) {
        self.publishes.set(true);
    }

    /// Counts events that a home of this shard ordered, and notes the publish.
    fn count_ordered(&self, events: u64) {
        self.stats().published.add(events);
        if events > 0 {
            self.note_publish();
        }
    }

    /// Looks ahead at what the next messages need.
    fn look_ahead(&self) {
        let (homes, fanout) = (self.homes.borrow(), self.fanout.borrow());
        self.mailbox.show_next(ahead::STEPS, |message| match message {
            ShardMessage::Core(Message::Home(partition, ToHome::Publish(publish))) => {
                homes.look_ahead(*partition, &publish.topic);
            }
            ShardMessage::Core(Message::Fanout(ToFanout::Events { topics, .. })) => {
                topics.iter().for_each(|topic| fanout.look_ahead(topic));
            }
            _ => {}
        });
    }

    /// Handles one message; returns its work beyond [`ShardMessage::work`].
    fn handle(&self, message: ShardMessage, hooks: &impl ConnectionHooks) -> usize {
        match message {
            ShardMessage::Core(Message::Home(partition, message)) => {
                let mut outbox = self.outbox.borrow_mut();
                let (now_ms, journal) = (self.common.clock.now_ms(), &mut *self.journal.borrow_mut());
                let mut homes = self.homes.borrow_mut();
                let ordered = homes.handle(partition, message, now_ms, journal, &mut outbox);
                self.count_ordered(ordered);
                self.post_all(&mut outbox);
            }
            ShardMessage::Core(Message::Fanout(message)) => {
                let mut outbox = self.outbox.borrow_mut();
                let work = self.fanout.borrow_mut().handle(message, &mut outbox);
                self.post_all(&mut outbox);
                return work;
            }
            ShardMessage::Core(Message::Reply(ticket, reply)) => {
                hooks.reply(ticket, TicketReply::Core(reply))
            }
            ShardMessage::Connection(ticket, reply) => hooks.reply(ticket, reply),
            ShardMessage::Journaled { publishes, result, work: _ } => self.journaled(publishes, result),
            ShardMessage::JournalLost(lost @ Lost { partition, upto }) => {
                if self.homes.borrow_mut().lose(partition, upto, EXPIRED_PER_TURN) {
                    self.mailbox.send(self.id, ShardMessage::JournalLost(lost));
                }
                return EXPIRED_PER_TURN;
            }
            ShardMessage::Cluster(news) => self.take_news(news),
            ShardMessage::Accepted(accepted) => hooks.accepted(accepted),
            // Nobody may be waiting for it any more.
            ShardMessage::Probe(answer) => drop(answer.send(())),
            ShardMessage::Survey(survey) => self.walks.borrow_mut().push(Walk::new(survey)),
            ShardMessage::Control(control) => self.control(control, hooks),
        }
        0
    }

    /// Takes the oldest publishes back from the journal, with its result for them.
    fn journaled(&self, publishes: usize, result: Result<(), OrderError>) {
        let (now_ms, mut outbox) = (self.common.clock.now_ms(), self.outbox.borrow_mut());
        let (mut homes, mut journal) = (self.homes.borrow_mut(), self.journal.borrow_mut());
        let ShardJournal::Disk(queue) = &mut *journal else { return };
        for UnderWay { partition, first, publish } in (0..publishes).map_while(|_| queue.take()) {
            match result {
                Ok(()) => {
                    let events = homes.journaled(partition, first, publish, now_ms, &mut outbox);
                    self.count_ordered(events);
                }
                Err(error) => homes.refuse(partition, first, publish, error, &mut outbox),
            }
        }
        self.post_all(&mut outbox);
    }

    /// Hands what was added to the journal to its writer.
    fn flush_journal(&self) {
        match &mut *self.journal.borrow_mut() {
            ShardJournal::Memory(_) => {}
            ShardJournal::Disk(queue) => queue.flush(self.homes.borrow_mut().take_dropped()),
            ShardJournal::Cluster(queue) => queue.flush(),
        }
    }

    /// Continues a survey, if one is under way; returns whether one still is.
    fn walk(&self) -> bool {
        let mut walks = self.walks.borrow_mut();
        let ended = walks
            .last_mut()
            .is_some_and(|walk| walk.step(self.id, &self.clients.borrow(), &self.fanout.borrow()));
        if ended {
            walks.pop();
        }
        !walks.is_empty()
    }

    fn control(&self, control: ShardControl, hooks: &impl ConnectionHooks) {
        match control {
            ShardControl::StopAccepting => {
                self.phase.set(Phase::Finishing);
                self.stops_serving.notify_waiters();
                hooks.wake_all();
            }
            ShardControl::CloseStreams => {
                self.phase.set(Phase::Closing);
                self.fanout.borrow_mut().close_streams();
            }
            ShardControl::Stop => self.phase.set(Phase::Stopped),
        }
    }

    /// Keeps the memory of the whole server under its limit: histories give way first, oldest events first. What slow
    /// clients hold is left to the sweep, because cutting it costs them their connection.
    fn keep_to_memory(&self) {
        let (memory, stats) = (&self.common.memory, self.stats());
        let mut homes = self.homes.borrow_mut();
        let histories = self.common.stats.sum(|shard| &shard.history_bytes) as usize;
        // A history accounts for more than its bytes, and events are held elsewhere too.
        let excess = memory.bytes().max(histories).saturating_sub(memory.bytes_max());
        let oldest_ms = homes.oldest_at_ms().unwrap_or(u64::MAX);
        stats.history_oldest_ms.set(oldest_ms);
        if excess == 0 || histories == 0 {
            return;
        }
        // The shard with the oldest event frees all of it; others help when that one is too slow.
        let is_oldest = oldest_ms <= self.common.stats.least(|shard| &shard.history_oldest_ms);
        if is_oldest || excess > memory.bytes_max() / 8 {
            homes.release(excess);
            stats.history_bytes.set(homes.bytes() as u64);
        }
    }

    /// Counts the bytes of this shard's histories; returns them.
    fn note_history(&self) -> usize {
        let bytes = self.homes.borrow().bytes();
        self.stats().history_bytes.set(bytes as u64);
        bytes
    }

    /// Does all periodic work until the shard stops: heartbeats, expiries, stuck sends, ages.
    pub(crate) async fn sweep(&self, hooks: &impl ConnectionHooks) {
        let stream = &self.common.config.stream;
        let shortest = stream.heartbeat.unwrap_or(stream.send_timeout).min(stream.send_timeout);
        // Four sweeps within the shortest interval keep each one accurate to a quarter.
        let round = (shortest / 4).min(Duration::from_secs(1));
        while self.phase.get() < Phase::Stopped {
            tokio::time::sleep(round / SWEEP_PARTS).await;
            let (now_ms, unix_s) = (self.common.clock.now_ms(), unix_s());
            hooks.sweep(now_ms, unix_s);
            while self.homes.borrow_mut().expire(now_ms, EXPIRED_PER_TURN) {
                let _ = tokio_uring::no_op().await;
            }
            // Homes of other shards may have taken in topics, so that there are too many.
            self.homes.borrow_mut().keep_to_count(FORGOTTEN_PER_SWEEP);
            self.fanout.borrow_mut().sweep(SWEEP_PARTS, now_ms, unix_s);
            self.ring_if_due();
            self.note_history();
            self.keep_to_memory();
            self.common.budget.let_in();
            self.sweep_cluster(now_ms);
            self.flush_journal();
            self.stats().topics.set(self.homes.borrow().topics() as u64);
        }
    }

    /// Counts `bytes` that the kernel took of the stream at this index; when nothing is left of `outgoing`, counts its
    /// events and latency.
    fn account(&self, index: u32, bytes: usize, outgoing: &Outgoing) {
        let stats = self.stats();
        stats.bytes.add(bytes as u64);
        if let Some(records) = &self.records {
            records.sent(index, bytes);
        }
        if !outgoing.buffers.is_empty() {
            return;
        }
        if outgoing.events > 0 {
            stats.delivered.add(u64::from(outgoing.events));
        }
        if outgoing.at_us > 0 {
            stats.record_latency_us(self.common.clock.now_us().saturating_sub(outgoing.at_us));
        }
    }

    /// Posts what was decided.
    fn post_all(&self, outbox: &mut Vec<Post>) {
        outbox.drain(..).for_each(|post| self.mailbox.post(post));
    }

    /// Runs a decision of the fan-out, posts its messages and returns its result.
    pub(crate) fn with_fanout<T>(&self, decide: impl FnOnce(&mut Fanout, u64, &mut Vec<Post>) -> T) -> T {
        let mut outbox = self.outbox.borrow_mut();
        let result = decide(&mut self.fanout.borrow_mut(), self.common.clock.now_ms(), &mut outbox);
        self.post_all(&mut outbox);
        result
    }

    pub(crate) fn stats(&self) -> &ShardStats {
        self.common.stats.shard(usize::from(self.id))
    }

    /// Returns when the shard takes no further connection.
    pub(crate) async fn stops_serving(&self) {
        let notified = self.stops_serving.notified();
        if self.phase() == Phase::Serving {
            notified.await;
        }
    }

    pub(crate) fn phase(&self) -> Phase {
        self.phase.get()
    }

    /// Returns a random time after which a refused client may come again, in milliseconds.
    pub(crate) fn retry_ms(&self) -> u64 {
        self.fanout.borrow_mut().retry_ms()
    }
}

fn fanout_limits(common: &Common) -> FanoutLimits {
    let stream = &common.config.stream;
    FanoutLimits {
        lag_bytes_max: stream.lag_bytes_max,
        epochs: (common.config.history.events_max > 0).then(|| common.epochs.load_full()),
        skip_slow: stream.slow_policy == SlowPolicy::Skip,
        heartbeat_ms: stream.heartbeat.map_or(0, millis),
        send_timeout_ms: millis(stream.send_timeout),
        retry_min_ms: millis(stream.retry_min),
        retry_max_ms: millis(stream.retry_max),
    }
}

fn millis(duration: Duration) -> u64 {
    // Configured durations are at most a year.
    duration.as_millis() as u64
}
