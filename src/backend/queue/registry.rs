//! The registry of queues on this node: which client has each one, and which may have it next.

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
use crate::backend::interface::{BrokerMessage, MessageBroker, OpenFailure, QueueConsumer as _};
use crate::backend::throttle::Throttle;
use crate::backend::{
    BackendConfig, BackendStats, NoQueue, OpenedQueue, StreamId, StreamOutlet, without_queue,
};
use crate::core::message::Ticket;

/// The most queues opened at once. Each takes a few round trips to the broker: when all clients come back together, the
/// first are served while the rest wait, instead of all being too late. It also bounds the messages that queues hold
/// before they are counted as memory.
const OPENING_MAX: u32 = 16;
/// The weight of one opening, of [`OPENING_MAX`], while memory is filling up.
const OPENING_WEIGHT: u32 = 8;
/// How often a queue that another consumer has is tried again.
const TRY_EVERY: Duration = Duration::from_millis(500);
/// The most queues whose [`Occurrences`] are kept for their next stream, each as long as its queue may live without a
/// client; few messages have an occurrence other than by counting.
const LEFT_MAX: usize = 10_000;

/// How long a client waits for a queue that another has, when it does not say that it had it: the new connection of a
/// reloaded page may come before the end of its old one.
const RELOAD_TIME: Duration = Duration::from_millis(300);
/// How long a client waits for the first connection to a broker: one that comes while esper starts would be refused for
/// want of milliseconds. It also waits so long for memory: slow clients are cut within a second.
const START_TIME: Duration = Duration::from_secs(2);
/// The least time between two log lines about refusals.
const TELL_EVERY: Duration = Duration::from_secs(10);

const TAKEN: &str = "another client has this queue";
const EXHAUSTED: &str = "too much is held for slow clients; try again later, or raise --history-memory";
const LATE: &str = "the broker does not answer; try again later";
const STOPPING: &str = "esper is stopping";

/// The queues of a node and all that their streams share; the backend's thread owns it.
pub(in crate::backend) struct QueueRegistry<B> {
    config: BackendConfig,
    pub(super) outlet: Box<dyn StreamOutlet>,
    pub(super) stats: Arc<BackendStats>,
    started: Instant,
    broker: Rc<B>,
    holders: RefCell<HashMap<Rc<str>, QueueHolder>>,
    /// The channel for commands to a stream, and its queue's name.
    streams: RefCell<HashMap<StreamId, (Commands, Rc<str>)>>,
    /// The occurrences that the last stream of a queue left, and when.
    left: RefCell<HashMap<Rc<str>, (Instant, Occurrences)>>,
    /// How many first ids were given.
    first_ids: Cell<u64>,
    first_id_key: RandomState,
    opening: Semaphore,
    refusals: RefCell<Throttle>,
    /// Notified whenever a queue becomes free.
    freed: Notify,
}

type Commands = mpsc::UnboundedSender<StreamCommand>;

/// The holder of a queue on this node, from the first attempt to open it until its consumer is closed.
struct QueueHolder {
    /// `None` until there is a stream.
    stream: Option<(Commands, Rc<RefCell<Ledger>>)>,
    /// Whether the queue will be free as soon as the broker has its messages back.
    is_closing: bool,
    /// Closed when the queue is free.
    gone: watch::Receiver<()>,
}

/// A task's sole right to a queue on this node, until this is dropped.
pub(super) struct QueueClaim<B> {
    pub(super) registry: Rc<QueueRegistry<B>>,
    queue: Rc<str>,
    stream: Cell<Option<StreamId>>,
    _gone: watch::Sender<()>,
}

impl<B: MessageBroker> QueueRegistry<B> {
    /// Returns the registry of a node on which no client has a queue.
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

    /// Waits until `at_ms` milliseconds after the start; for ever when that is `None`.
    pub(super) async fn wait_until(&self, at_ms: Option<u64>) {
        match at_ms {
            Some(at_ms) => sleep_until(self.started + Duration::from_millis(at_ms)).await,
            None => pending().await,
        }
    }

    /// Opens a queue for a client, answers it, and serves its stream to the end.
    pub(in crate::backend) async fn serve(
        self: Rc<Self>,
        queue: String,
        last_event_id: Option<Box<str>>,
        ticket: Ticket,
    ) {
        // With a first id, a page that has had no message yet can show on its return that it had the queue.
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

    /// Sends a stream its shard's command.
    pub(in crate::backend) fn command(&self, stream: StreamId, command: StreamCommand) {
        let streams = self.streams.borrow();
        // The stream may have ended meanwhile.
        let Some((commands, queue)) = streams.get(&stream) else { return };
        if command == StreamCommand::Close
            && let Some(holder) = self.holders.borrow_mut().get_mut(queue)
        {
            holder.is_closing = true;
        }
        let _ = commands.send(command);
    }

    /// Ends every stream without notice to its client; returns when their messages are back in their queues.
    pub(in crate::backend) async fn close(&self) {
        for (commands, _) in self.streams.borrow().values() {
            let _ = commands.send(StreamCommand::Close);
        }
        self.opening.close();
        while !self.holders.borrow().is_empty() {
            self.freed.notified().await;
        }
    }

    /// Returns an id that cannot be guessed, because whoever knows it may take the queue over: SipHash under a random
    /// key.
    fn next_first_id(&self) -> u64 {
        let number = self.first_ids.get() + 1;
        self.first_ids.set(number);
        self.first_id_key.hash_one(number)
    }

    /// Logs refusals that are not the page's own doing, because the page cannot read the answer.
    fn tell(&self, reason: &str) {
        if reason == TAKEN || reason == STOPPING {
            tracing::debug!("a queue was refused: {reason}");
        } else if let Some(times) = self.refusals.borrow_mut().count() {
            tracing::warn!(times, "queues are refused, the last one: {}", without_queue(reason));
        }
    }

    /// Opens a queue for one client. Waits where that may help: for the end of its old connection, a broker, or memory.
    ///
    /// # Errors
    /// The reason why the client does not get it.
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

    /// Waits until the queue is free on this node, and claims it.
    ///
    /// # Errors
    /// Another client has it and keeps it.
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

    /// Returns whether the queue is about to be free, and a channel that closes when it is; `None` where it is free. If
    /// the asking client had the queue, its old stream is ordered to give way.
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

    /// Has the broker deliver the queue to this node; tries again until `until` where that may help.
    ///
    /// # Errors
    /// The reason of the last failure.
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
                // Slow clients are cut soon, and the memory of their queues is free again.
                Ok(_) if self.outlet.is_exhausted() => NoQueue::passing(EXHAUSTED),
                Ok(lease) => match self.broker.consume(lease, queue).await {
                    Ok((mut consumer, _)) if self.opening.is_closed() => {
                        // It was opened too late for [`QueueRegistry::close`] to end it.
                        consumer.close().await;
                        return Err(NoQueue::passing(STOPPING));
                    }
                    Ok(consumed) => return Ok(consumed),
                    Err(OpenFailure::Taken) => NoQueue::lasting(TAKEN),
                    // Another connection is tried next.
                    Err(OpenFailure::Late) if self.broker.is_answering() => continue,
                    Err(OpenFailure::Late) => NoQueue::passing(LATE),
                    Err(OpenFailure::Later(reason)) => NoQueue::passing(reason),
                    Err(OpenFailure::Never(reason)) => return Err(NoQueue::lasting(reason)),
                },
                // Pages of a restarting broker come back before it is reachable.
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
    /// Notes that the stream ends: whoever asks for the queue now need only wait for the broker.
    pub(super) fn closing(&self) {
        if let Some(holder) = self.registry.holders.borrow_mut().get_mut(&self.queue) {
            holder.is_closing = true;
        }
    }

    /// Keeps the occurrences that the queue's next stream must know.
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
