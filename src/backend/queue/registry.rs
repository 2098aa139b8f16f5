//! Who has which queue on this node, and who may have it next.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::pending;
use std::hash::{BuildHasher as _, RandomState};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, Semaphore, mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::ledger::{AckLimits, Ledger, Occurrences};
use super::stream::{StreamCommand, StreamTask};
use crate::backend::broker::{BrokerMessage, MessageBroker, OpenFailure, QueueConsumer as _};
use crate::backend::throttle::Throttle;
use crate::backend::{
    BackendConfig, BackendStats, NoQueue, OpenedQueue, StreamId, StreamOutlet, without_queue,
};
use crate::core::message::Ticket;

/// Queues that are asked of the brokers at once. Each takes some messages to and fro: when all clients come back
/// together, those in front are served while the rest wait, instead of all being too late. And what a queue has is
/// counted when it is there.
const OPENING_MAX: u32 = 16;
/// Of these one takes so many when much is held already.
const OPENING_WEIGHT: u32 = 8;
/// How often a queue that is another's is tried.
const TRY_EVERY: Duration = Duration::from_millis(500);
/// Queues for which it is kept what a stream leaves to its queue's next, for as long as the queue may live without a
/// client; a message is rarely called other than by its place in the queue.
const LEFT_MAX: usize = 10_000;

/// How long a client waits for a queue that is another's when it does not say that it had it: a page that is loaded
/// anew may be here before its own end is.
const RELOAD_TIME: Duration = Duration::from_millis(300);
/// How long a client waits for the first connection to a broker: one that comes while esper starts would be
/// refused for want of milliseconds. And for room: slow clients are cut in a second.
const START_TIME: Duration = Duration::from_secs(2);
/// Refusals are told of no more often than this.
const TELL_EVERY: Duration = Duration::from_secs(10);

const TAKEN: &str = "another client has this queue";
const EXHAUSTED: &str = "too much is held for slow clients; try again later, or raise --history-memory";
const LATE: &str = "the broker does not answer; try again later";
const STOPPING: &str = "esper is stopping";

/// The queues of a node and all that their streams share. The backend's thread owns it.
pub(in crate::backend) struct QueueRegistry<B> {
    config: BackendConfig,
    pub(super) outlet: Box<dyn StreamOutlet>,
    pub(super) stats: Arc<BackendStats>,
    started: Instant,
    broker: Rc<B>,
    holders: RefCell<HashMap<Rc<str>, QueueHolder>>,
    /// Where commands for a stream go, and the queue it has.
    streams: RefCell<HashMap<StreamId, (Commands, Rc<str>)>>,
    /// What the last stream of a queue left, and when.
    left: RefCell<HashMap<Rc<str>, (Instant, Occurrences)>>,
    /// First ids that were given.
    first_ids: Cell<u64>,
    first_id_key: RandomState,
    opening: Semaphore,
    refusals: RefCell<Throttle>,
    /// Told whenever a queue becomes free.
    freed: Notify,
}

type Commands = mpsc::UnboundedSender<StreamCommand>;

/// Whose a queue is on this node, from the first attempt to open it until its consumer is closed.
struct QueueHolder {
    /// Once there is a stream.
    stream: Option<(Commands, Rc<RefCell<Ledger>>)>,
    /// The queue will be free as soon as the broker has its messages back.
    is_closing: bool,
    /// Closed when it is free.
    gone: watch::Receiver<()>,
}

/// A queue that is one task's alone on this node, until this is dropped.
pub(super) struct QueueClaim<B> {
    pub(super) registry: Rc<QueueRegistry<B>>,
    queue: Rc<str>,
    stream: Cell<Option<StreamId>>,
    _gone: watch::Sender<()>,
}

impl<B: MessageBroker> QueueRegistry<B> {
    /// Returns a registry of a node whose queues are nobody's.
    pub(in crate::backend) fn new(
        config: BackendConfig,
        outlet: Box<dyn StreamOutlet>,
        broker: Rc<B>,
        stats: Arc<BackendStats>,
    ) -> Rc<Self> {
        Rc::new(Self {
            config,
            outlet,
            stats,
            started: Instant::now(),
            broker,
            holders: RefCell::default(),
            streams: RefCell::default(),
            left: RefCell::default(),
            first_ids: Cell::new(0),
            first_id_key: RandomState::new(),
            opening: Semaphore::new(OPENING_MAX as usize),
            refusals: RefCell::new(Throttle::new(TELL_EVERY)),
            freed: Notify::new(),
        })
    }

    /// Returns the milliseconds since the start.
    pub(super) fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Waits until `at_ms` after the start, for ever when that is `None`.
    pub(super) async fn wait_until(&self, at_ms: Option<u64>) {
        match at_ms {
            Some(at_ms) => sleep_until(self.started + Duration::from_millis(at_ms)).await,
            None => pending().await,
        }
    }

    /// Serves a client that asks for a queue until its stream ends.
    pub(in crate::backend) async fn serve(
        self: Rc<Self>,
        queue: String,
        last_event_id: Option<Box<str>>,
        ticket: Ticket,
    ) {
        // With it a page that has had no message yet comes back as one that had the queue, too.
        let first_id = last_event_id.is_none().then(|| format!("{:016x}", self.next_first_id()));
        match self.open(&queue, last_event_id.as_deref(), first_id.as_deref()).await {
            Ok(stream) => {
                let opened = OpenedQueue { stream: stream.id, first_id, sent: stream.sent() };
                self.outlet.answer(ticket, Ok(opened));
                stream.run().await;
            }
            Err(refused) => {
                self.stats.refused.add(1);
                self.tell(&refused.reason);
                self.outlet.answer(ticket, Err(refused));
            }
        }
    }

    /// Passes on what a stream's shard says of it.
    pub(in crate::backend) fn command(&self, stream: StreamId, command: StreamCommand) {
        let streams = self.streams.borrow();
        // A stream that has ended meanwhile is not there.
        let Some((commands, queue)) = streams.get(&stream) else { return };
        if command == StreamCommand::Close
            && let Some(holder) = self.holders.borrow_mut().get_mut(queue)
        {
            holder.is_closing = true;
        }
        let _ = commands.send(command);
    }

    /// Ends every stream, without a word to its client, and returns when their messages are back in their queues.
    pub(in crate::backend) async fn close(&self) {
        for (commands, _) in self.streams.borrow().values() {
            let _ = commands.send(StreamCommand::Close);
        }
        self.opening.close();
        while !self.holders.borrow().is_empty() {
            self.freed.notified().await;
        }
    }

    /// Returns an id that follows from no other: whoever knows it may take the queue over. SipHash under a random key.
    fn next_first_id(&self) -> u64 {
        let number = self.first_ids.get() + 1;
        self.first_ids.set(number);
        self.first_id_key.hash_one(number)
    }

    /// Logs what a page is refused for that is not its own doing: it cannot read the answer.
    fn tell(&self, reason: &str) {
        if reason == TAKEN || reason == STOPPING {
            tracing::debug!("a queue was refused: {reason}");
        } else if let Some(times) = self.refusals.borrow_mut().count() {
            tracing::warn!(times, "queues are refused, the last one: {}", without_queue(reason));
        }
    }

    /// Opens a queue for one client. Waits where that may help: for the client's own end, a broker, or room.
    ///
    /// # Errors
    /// Why the client does not get it.
    async fn open(
        self: &Rc<Self>,
        queue: &str,
        last_event_id: Option<&str>,
        first_id: Option<&str>,
    ) -> Result<StreamTask<B>, NoQueue> {
        let patience = match last_event_id {
            Some(_) => self.config.patience,
            None if self.broker.is_starting() || self.outlet.is_exhausted() => START_TIME,
            None => RELOAD_TIME,
        };
        let until = Instant::now() + patience;
        let claim = self.claim(queue, last_event_id, until).await?;
        let (consumer, held) = self.consume(queue, until).await?;
        let left = self.left.borrow_mut().remove(queue);
        let left = left.filter(|(since, _)| since.elapsed() <= self.config.expire());
        let left = left.map(|(_, left)| left).unwrap_or_default();
        let limits = AckLimits {
            prefetch: self.config.prefetch.into(),
            ack_window: self.config.ack_window.into(),
            // Configured durations end at a year.
            ack_delay_ms: self.config.ack_delay.as_millis() as u64,
        };
        let ledger = Rc::new(RefCell::new(Ledger::new(limits, last_event_id.or(first_id), left)));
        let (commands, received) = mpsc::unbounded_channel();
        let id = StreamId::next();
        claim.stream.set(Some(id));
        self.streams.borrow_mut().insert(id, (commands.clone(), Rc::clone(&claim.queue)));
        if let Some(holder) = self.holders.borrow_mut().get_mut(queue) {
            holder.stream = Some((commands, Rc::clone(&ledger)));
        }
        Ok(StreamTask::new(id, claim, (consumer, held), ledger, received))
    }

    /// Waits for the queue to be free on this node.
    ///
    /// # Errors
    /// It is another client's, and stays so.
    async fn claim(
        self: &Rc<Self>,
        queue: &str,
        last_event_id: Option<&str>,
        until: Instant,
    ) -> Result<QueueClaim<B>, NoQueue> {
        loop {
            let Some((is_closing, mut gone)) = self.ask(queue, last_event_id) else { break };
            let left = match is_closing {
                true => 2 * B::CLOSE_TIME,
                false => until.saturating_duration_since(Instant::now()),
            };
            if left.is_zero() || (timeout(left, gone.changed()).await.is_err() && is_closing) {
                return Err(NoQueue::lasting(TAKEN));
            }
        }
        let (sender, gone) = watch::channel(());
        let queue: Rc<str> = queue.into();
        let holder = QueueHolder { stream: None, is_closing: false, gone };
        self.holders.borrow_mut().insert(Rc::clone(&queue), holder);
        Ok(QueueClaim { registry: Rc::clone(self), queue, stream: Cell::new(None), _gone: sender })
    }

    /// Returns whether the queue is about to be free, and what tells of that; `None` where it is free. Its stream
    /// is told to give way to the client whose it is.
    fn ask(&self, queue: &str, last_event_id: Option<&str>) -> Option<(bool, watch::Receiver<()>)> {
        let mut holders = self.holders.borrow_mut();
        let holder = holders.get_mut(queue)?;
        if let (Some((commands, ledger)), Some(id), false) =
            (&holder.stream, last_event_id, holder.is_closing)
            && ledger.borrow().has_issued(id)
        {
            holder.is_closing = true;
            let _ = commands.send(StreamCommand::TakeOver);
        }
        Some((holder.is_closing, holder.gone.clone()))
    }

    /// Has the broker deliver the queue to this node. Tries again until `until` where that may help.
    ///
    /// # Errors
    /// Why the last attempt failed.
    async fn consume(
        &self,
        queue: &str,
        until: Instant,
    ) -> Result<(B::Consumer, Vec<BrokerMessage>), NoQueue> {
        loop {
            let weight = if self.outlet.is_filling() { OPENING_WEIGHT } else { 1 };
            let Ok(permit) = self.opening.acquire_many(weight).await else {
                return Err(NoQueue::passing(STOPPING));
            };
            let failed = match self.broker.lease() {
                // What slow clients' queues hold is given back soon, when they are cut.
                Ok(_) if self.outlet.is_exhausted() => NoQueue::passing(EXHAUSTED),
                Ok(lease) => match self.broker.consume(lease, queue).await {
                    Ok((mut consumer, _)) if self.opening.is_closed() => {
                        // Too late to be told to close with the others.
                        consumer.close().await;
                        return Err(NoQueue::passing(STOPPING));
                    }
                    Ok(consumed) => return Ok(consumed),
                    Err(OpenFailure::Taken) => NoQueue::lasting(TAKEN),
                    // Another is asked next.
                    Err(OpenFailure::Late) if self.broker.is_answering() => continue,
                    Err(OpenFailure::Late) => NoQueue::passing(LATE),
                    Err(OpenFailure::Later(reason)) => NoQueue::passing(reason),
                    Err(OpenFailure::Never(reason)) => return Err(NoQueue::lasting(reason)),
                },
                // A page whose broker starts anew comes back before that is there.
                Err(reason) => NoQueue::passing(reason),
            };
            drop(permit);
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(failed);
            }
            sleep(TRY_EVERY.min(left)).await;
        }
    }
}

impl<B> QueueClaim<B> {
    /// Notes that the stream ends: who asks for the queue now need only wait for the broker.
    pub(super) fn closing(&self) {
        if let Some(holder) = self.registry.holders.borrow_mut().get_mut(&self.queue) {
            holder.is_closing = true;
        }
    }

    /// Keeps what the queue's next stream must know.
    pub(super) fn leave(&self, left: Occurrences) {
        if left.is_empty() {
            return;
        }
        let mut kept = self.registry.left.borrow_mut();
        if kept.len() >= LEFT_MAX {
            kept.retain(|_, (since, _)| since.elapsed() <= self.registry.config.expire());
        }
        if kept.len() < LEFT_MAX {
            kept.insert(Rc::clone(&self.queue), (Instant::now(), left));
        }
    }
}

impl<B> Drop for QueueClaim<B> {
    fn drop(&mut self) {
        if let Some(stream) = self.stream.take() {
            self.registry.streams.borrow_mut().remove(&stream);
        }
        self.registry.holders.borrow_mut().remove(&self.queue);
        self.registry.freed.notify_one();
    }
}
