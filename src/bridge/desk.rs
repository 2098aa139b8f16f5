//! Who has which queue on this node, and who may have it next.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::marker::PhantomData;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore, mpsc, watch};
use tokio::time::{Instant, sleep, timeout};

use super::brokers::Brokers;
use super::consuming::{Consuming, NotOpened};
use super::ledger::{Carried, Ledger, Limits};
use super::link::{self, CLOSE_TIME};
use super::stats::BridgeStats;
use super::stream::{Order, Stream};
use super::throttle::Throttle;
use super::ticker::Ticker;
use super::{BridgeConfig, NoQueue, Opened, Outlet, StreamId};

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
const CARRIED_MAX: usize = 10_000;

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

/// What all streams share.
pub(super) struct Desk<T, O> {
    pub(super) config: BridgeConfig,
    pub(super) outlet: O,
    pub(super) stats: Arc<BridgeStats>,
    pub(super) ticker: Ticker,
    brokers: Rc<Brokers>,
    places: RefCell<HashMap<Rc<str>, Place>>,
    /// Where orders for a stream go, and the queue it has.
    streams: RefCell<HashMap<StreamId, (Orders, Rc<str>)>>,
    carried: RefCell<HashMap<Rc<str>, (Instant, Carried)>>,
    /// First ids that were given.
    first_ids: Cell<u64>,
    first_id_key: RandomState,
    opening: Semaphore,
    refusals: RefCell<Throttle>,
    /// Told whenever a place becomes free.
    freed: Notify,
    tickets: PhantomData<fn(T)>,
}

type Orders = mpsc::UnboundedSender<Order>;

/// Whose a queue is on this node, from the first attempt to open it until its channel is closed.
struct Place {
    /// Once there is a stream.
    stream: Option<(Orders, Rc<RefCell<Ledger>>)>,
    /// It will be free as soon as the broker has its messages back.
    is_closing: bool,
    /// Closed when it is free.
    gone: watch::Receiver<()>,
}

/// A queue that is one task's alone on this node, until this is dropped.
pub(super) struct Claim<T, O> {
    pub(super) desk: Rc<Desk<T, O>>,
    pub(super) queue: Rc<str>,
    stream: Cell<Option<StreamId>>,
    _gone: watch::Sender<()>,
}

impl<T: Send + 'static, O: Outlet<T>> Desk<T, O> {
    pub(super) fn new(
        config: BridgeConfig,
        outlet: O,
        brokers: Rc<Brokers>,
        stats: Arc<BridgeStats>,
    ) -> Rc<Self> {
        Rc::new(Self {
            config,
            outlet,
            stats,
            ticker: Ticker::new(),
            brokers,
            places: RefCell::default(),
            streams: RefCell::default(),
            carried: RefCell::default(),
            first_ids: Cell::new(0),
            first_id_key: RandomState::new(),
            opening: Semaphore::new(OPENING_MAX as usize),
            refusals: RefCell::new(Throttle::new(TELL_EVERY)),
            freed: Notify::new(),
            tickets: PhantomData,
        })
    }

    /// Serves a client that asks for a queue until its stream ends.
    pub(super) async fn serve(self: Rc<Self>, queue: String, last_event_id: Option<Box<str>>, ticket: T) {
        // With it a page that has had no message yet comes back as one that had the queue, too.
        let first_id = last_event_id.is_none().then(|| format!("{:016x}", self.next_first_id()));
        match self.open(&queue, last_event_id.as_deref(), first_id.as_deref()).await {
            Ok(stream) => {
                let opened = Opened { stream: stream.id, first_id, sent: stream.sent() };
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

    /// Whoever knows it may take the queue over, so none follows from others: SipHash under a random key.
    fn next_first_id(&self) -> u64 {
        let number = self.first_ids.get() + 1;
        self.first_ids.set(number);
        self.first_id_key.hash_one(number)
    }

    /// Tells of what a page is refused for that is not its own doing: it cannot read the answer.
    fn tell(&self, reason: &str) {
        if reason == TAKEN || reason == STOPPING {
            tracing::debug!("a queue was refused: {reason}");
        } else if let Some(times) = self.refusals.borrow_mut().count() {
            tracing::warn!(times, "queues are refused, the last one: {}", link::without_queue(reason));
        }
    }

    /// Passes on what the shard says of a stream.
    pub(super) fn order(&self, stream: StreamId, order: Order) {
        let streams = self.streams.borrow();
        // A stream that has ended meanwhile is not there.
        let Some((orders, queue)) = streams.get(&stream) else { return };
        if order == Order::Close
            && let Some(place) = self.places.borrow_mut().get_mut(queue)
        {
            place.is_closing = true;
        }
        let _ = orders.send(order);
    }

    /// Ends every stream, without a word to its client, and returns when their messages are back in their queues.
    pub(super) async fn close(&self) {
        for (orders, _) in self.streams.borrow().values() {
            let _ = orders.send(Order::Close);
        }
        self.opening.close();
        while !self.places.borrow().is_empty() {
            self.freed.notified().await;
        }
    }

    async fn open(
        self: &Rc<Self>,
        queue: &str,
        last_event_id: Option<&str>,
        first_id: Option<&str>,
    ) -> Result<Stream<T, O>, NoQueue> {
        let patience = match last_event_id {
            Some(_) => self.config.patience,
            None if self.brokers.are_starting() || self.outlet.is_exhausted() => START_TIME,
            None => RELOAD_TIME,
        };
        let until = Instant::now() + patience;
        let claim = self.claim(queue, last_event_id, until).await?;
        let consuming = loop {
            let weight = if self.outlet.is_filling() { OPENING_WEIGHT } else { 1 };
            let Ok(permit) = self.opening.acquire_many(weight).await else {
                return Err(NoQueue::passing(STOPPING));
            };
            let failed = match self.brokers.lease() {
                // What slow clients' queues hold is given back soon, when they are cut.
                Ok(_) if self.outlet.is_exhausted() => NoQueue::passing(EXHAUSTED),
                Ok(lease) => match Consuming::open(lease, queue, &self.config).await {
                    Ok(consuming) if self.opening.is_closed() => {
                        // Too late to be told to close with the others.
                        link::close(&consuming.channel).await;
                        return Err(NoQueue::passing(STOPPING));
                    }
                    Ok(consuming) => break consuming,
                    Err(NotOpened::Taken) => NoQueue::lasting(TAKEN),
                    // Another is asked next.
                    Err(NotOpened::Late) if self.brokers.are_well() => continue,
                    Err(NotOpened::Late) => NoQueue::passing(LATE),
                    Err(NotOpened::Later(reason)) => NoQueue::passing(reason),
                    Err(NotOpened::Never(reason)) => return Err(NoQueue::lasting(reason)),
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
        };
        let limits = Limits {
            prefetch: self.config.prefetch.into(),
            ack_window: self.config.ack_window.into(),
            ack_delay_ms: u64::try_from(self.config.ack_delay.as_millis()).unwrap_or(u64::MAX),
        };
        let carried = self
            .carried
            .borrow_mut()
            .remove(queue)
            .filter(|(since, _)| since.elapsed() <= self.config.expire());
        let carried = carried.map(|(_, carried)| carried).unwrap_or_default();
        let ledger = Rc::new(RefCell::new(Ledger::new(limits, last_event_id.or(first_id), carried)));
        let (orders, received) = mpsc::unbounded_channel();
        let id = StreamId::next();
        claim.stream.set(Some(id));
        self.streams.borrow_mut().insert(id, (orders.clone(), Rc::clone(&claim.queue)));
        if let Some(place) = self.places.borrow_mut().get_mut(queue) {
            place.stream = Some((orders, Rc::clone(&ledger)));
        }
        Ok(Stream::new(id, claim, consuming, ledger, received))
    }

    /// Waits for the queue to be free on this node.
    async fn claim(
        self: &Rc<Self>,
        queue: &str,
        last_event_id: Option<&str>,
        until: Instant,
    ) -> Result<Claim<T, O>, NoQueue> {
        loop {
            let Some((is_closing, mut gone)) = self.ask(queue, last_event_id) else { break };
            let left = match is_closing {
                true => 2 * CLOSE_TIME,
                false => until.saturating_duration_since(Instant::now()),
            };
            if left.is_zero() || (timeout(left, gone.changed()).await.is_err() && is_closing) {
                return Err(NoQueue::lasting(TAKEN));
            }
        }
        let (sender, gone) = watch::channel(());
        let queue: Rc<str> = queue.into();
        let place = Place { stream: None, is_closing: false, gone };
        self.places.borrow_mut().insert(Rc::clone(&queue), place);
        Ok(Claim { desk: Rc::clone(self), queue, stream: Cell::new(None), _gone: sender })
    }

    /// Whether the queue's place is about to be free, and what tells of that; `None` where it is free. Its stream
    /// is told to give way to the client whose it is.
    fn ask(&self, queue: &str, last_event_id: Option<&str>) -> Option<(bool, watch::Receiver<()>)> {
        let mut places = self.places.borrow_mut();
        let place = places.get_mut(queue)?;
        if let (Some((orders, ledger)), Some(id), false) = (&place.stream, last_event_id, place.is_closing)
            && ledger.borrow().has_issued(id)
        {
            place.is_closing = true;
            let _ = orders.send(Order::TakeOver);
        }
        Some((place.is_closing, place.gone.clone()))
    }
}

impl<T, O> Claim<T, O> {
    /// The stream ends; who asks for the queue now need only wait for the broker.
    pub(super) fn closing(&self) {
        if let Some(place) = self.desk.places.borrow_mut().get_mut(&self.queue) {
            place.is_closing = true;
        }
    }

    /// Keeps what the queue's next stream must know.
    pub(super) fn carry(&self, carried: Carried) {
        if carried.is_empty() {
            return;
        }
        let mut kept = self.desk.carried.borrow_mut();
        if kept.len() >= CARRIED_MAX {
            kept.retain(|_, (since, _)| since.elapsed() <= self.desk.config.expire());
        }
        if kept.len() < CARRIED_MAX {
            kept.insert(Rc::clone(&self.queue), (Instant::now(), carried));
        }
    }
}

impl<T, O> Drop for Claim<T, O> {
    fn drop(&mut self) {
        if let Some(stream) = self.stream.take() {
            self.desk.streams.borrow_mut().remove(&stream);
        }
        self.desk.places.borrow_mut().remove(&self.queue);
        self.desk.freed.notify_one();
    }
}

impl StreamId {
    fn next() -> Self {
        // Of the process: several servers may be in it.
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}
