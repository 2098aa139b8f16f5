//! A message broker within the process, for tests: queues with one consumer each, and topic exchanges, as in RabbitMQ.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::{Notify, watch};

use super::interface::{BrokerMessage, ConsumerEnd, MessageBroker, OpenFailure, QueueConsumer};
use super::queue::subscribe::SUBSCRIPTION_PREFETCH;
use super::{BackendConfig, BackendStats};
use crate::backend::SubscribeRule;

/// The server that nodes connect to and tests publish to. Clones share it.
#[derive(Clone)]
pub(super) struct MemoryServer {
    state: Arc<Mutex<ServerState>>,
    is_up: Arc<watch::Sender<bool>>,
}

#[derive(Default)]
struct ServerState {
    queues: HashMap<String, MemoryQueue>,
    exchanges: HashSet<String>,
    bindings: Vec<Binding>,
    /// How many consumers there have been.
    consumers: u64,
}

struct Binding {
    exchange: String,
    pattern: String,
    queue: String,
}

#[derive(Default)]
struct MemoryQueue {
    ready: VecDeque<StoredMessage>,
    consumer: Option<ServedConsumer>,
    /// Whether it was declared with other properties than esper's.
    is_foreign: bool,
}

/// A consumer as the server sees it.
struct ServedConsumer {
    number: u64,
    prefetch: usize,
    tag: u64,
    unacknowledged: VecDeque<(u64, StoredMessage)>,
    /// Notified when there may be a message, or the end.
    bell: Arc<Notify>,
}

/// A message as its publisher wrote it.
#[derive(Clone, Default)]
pub(super) struct StoredMessage {
    pub(super) body: Vec<u8>,
    pub(super) message_id: Option<String>,
    pub(super) routing_key: String,
    /// It was delivered before.
    pub(super) is_redelivered: bool,
}

impl Default for MemoryServer {
    fn default() -> Self {
        Self { state: Arc::default(), is_up: Arc::new(watch::Sender::new(true)) }
    }
}

impl MemoryServer {
    /// Returns a node's connection to the server.
    pub(super) fn broker(&self, config: &BackendConfig, stats: &Arc<BackendStats>) -> MemoryBroker {
        MemoryBroker {
            server: self.clone(),
            prefetch: config.prefetch.into(),
            connections: config.nodes.len() as u64,
            stats: Arc::clone(stats),
        }
    }

    /// Publishes to a queue.
    pub(super) fn queue(&self, queue: &str, bodies: &[impl AsRef<[u8]>]) {
        let bodies = bodies.iter().map(|body| body.as_ref().to_vec());
        let message =
            |body| StoredMessage { body, routing_key: queue.to_owned(), ..StoredMessage::default() };
        bodies.for_each(|body| self.publish("", message(body)));
    }

    /// Publishes to an exchange, or for the empty one to the queue that the routing key names. A message for no queue
    /// is lost.
    pub(super) fn publish(&self, exchange: &str, message: StoredMessage) {
        let mut state = self.state();
        let ServerState { queues, bindings, .. } = &mut *state;
        let key: Vec<_> = message.routing_key.split('.').collect();
        let bound = bindings.iter().filter(|binding| {
            binding.exchange == exchange && matches(&binding.pattern.split('.').collect::<Vec<_>>(), &key)
        });
        let named = Some(&message.routing_key).filter(|_| exchange.is_empty());
        for name in bound.map(|binding| &binding.queue).chain(named) {
            if let Some(queue) = queues.get_mut(name) {
                queue.ready.push_back(message.clone());
                queue.ring();
            }
        }
    }

    /// Returns how many messages are ready in a queue; `None` when there is no such queue.
    pub(super) fn ready(&self, queue: &str) -> Option<usize> {
        self.state().queues.get(queue).map(|queue| queue.ready.len())
    }

    /// Declares a queue with other properties than esper's.
    pub(super) fn declare_foreign(&self, queue: &str) {
        let foreign = MemoryQueue { is_foreign: true, ..MemoryQueue::default() };
        self.state().queues.insert(queue.to_owned(), foreign);
    }

    /// Deletes a queue, which ends its consumer.
    pub(super) fn delete(&self, queue: &str) {
        let deleted = self.state().queues.remove(queue);
        deleted.iter().for_each(MemoryQueue::ring);
    }

    pub(super) fn declare_exchange(&self, exchange: &str) {
        self.state().exchanges.insert(exchange.to_owned());
    }

    /// Ends every connection, and accepts none until [`MemoryServer::start`]. Queues stay.
    pub(super) fn stop(&self) {
        self.is_up.send_replace(false);
        self.state().queues.values_mut().for_each(MemoryQueue::end_consumer);
    }

    /// Accepts connections again.
    pub(super) fn start(&self) {
        self.is_up.send_replace(true);
    }

    fn is_up(&self) -> bool {
        *self.is_up.borrow()
    }

    fn state(&self) -> MutexGuard<'_, ServerState> {
        self.state.lock().unwrap()
    }
}

impl MemoryQueue {
    fn ring(&self) {
        self.consumer.iter().for_each(|consumer| consumer.bell.notify_one());
    }

    /// Ends the consumer, and puts its unacknowledged messages back.
    fn end_consumer(&mut self) {
        let Some(consumer) = self.consumer.take() else { return };
        for (_, message) in consumer.unacknowledged.into_iter().rev() {
            self.ready.push_front(StoredMessage { is_redelivered: true, ..message });
        }
        consumer.bell.notify_one();
    }

    /// Takes the next message for the consumer, unless its prefetch is used up.
    fn take(&mut self) -> Option<BrokerMessage> {
        let consumer = self.consumer.as_mut()?;
        if consumer.unacknowledged.len() >= consumer.prefetch {
            return None;
        }
        let stored = self.ready.pop_front()?;
        consumer.tag += 1;
        let StoredMessage { body, message_id, routing_key, is_redelivered } = stored.clone();
        consumer.unacknowledged.push_back((consumer.tag, stored));
        Some(BrokerMessage { tag: consumer.tag, is_redelivered, message_id, timestamp: 0, routing_key, body })
    }
}

/// A node's connection to a [`MemoryServer`].
pub(super) struct MemoryBroker {
    server: MemoryServer,
    prefetch: usize,
    connections: u64,
    stats: Arc<BackendStats>,
}

impl MemoryBroker {
    /// Begins to consume a queue; `None` when it has a consumer already.
    fn consumer(&self, state: &mut ServerState, name: &str, prefetch: usize) -> Option<MemoryConsumer> {
        state.consumers += 1;
        let number = state.consumers;
        let queue = state.queues.entry(name.to_owned()).or_default();
        if queue.consumer.is_some() {
            return None;
        }
        let bell = Arc::<Notify>::default();
        let (unacknowledged, served_bell) = (VecDeque::new(), Arc::clone(&bell));
        queue.consumer = Some(ServedConsumer { number, prefetch, tag: 0, unacknowledged, bell: served_bell });
        let server = self.server.clone();
        Some(MemoryConsumer { server, queue: name.to_owned(), number, is_subscription: false, bell })
    }
}

impl MessageBroker for MemoryBroker {
    type Lease = ();
    type Consumer = MemoryConsumer;

    const CLOSE_TIME: Duration = Duration::from_secs(1);

    async fn keep_connected(&self) {
        let mut is_up = self.server.is_up.subscribe();
        loop {
            let connected = if *is_up.borrow_and_update() { self.connections } else { 0 };
            self.stats.brokers_connected.set(connected);
            if is_up.changed().await.is_err() {
                return;
            }
        }
    }

    fn is_starting(&self) -> bool {
        false
    }

    fn is_answering(&self) -> bool {
        self.server.is_up()
    }

    fn lease(&self) -> Result<(), String> {
        self.server.is_up().then_some(()).ok_or_else(|| "no broker is reachable; try again later".to_owned())
    }

    async fn consume(&self, (): (), name: &str) -> Result<(MemoryConsumer, Vec<BrokerMessage>), OpenFailure> {
        let mut state = self.server.state();
        if state.queues.get(name).is_some_and(|queue| queue.is_foreign) {
            return Err(OpenFailure::Never("the broker refuses the queue: PRECONDITION_FAILED".to_owned()));
        }
        let consumer = self.consumer(&mut state, name, self.prefetch).ok_or(OpenFailure::Taken)?;
        let queue = state.queues.get_mut(name);
        let held = queue.map(|queue| std::iter::from_fn(|| queue.take()).collect()).unwrap_or_default();
        Ok((consumer, held))
    }

    async fn subscribe(&self, (): (), rule: &SubscribeRule) -> Result<MemoryConsumer, String> {
        let mut state = self.server.state();
        if !state.exchanges.contains(&rule.exchange) {
            return Err("NOT_FOUND - no exchange".to_owned());
        }
        let name = format!("amq.gen-{}", state.consumers);
        let (exchange, pattern) = (rule.exchange.clone(), rule.routing_key.clone());
        state.bindings.push(Binding { exchange, pattern, queue: name.clone() });
        let consumer = self.consumer(&mut state, &name, SUBSCRIPTION_PREFETCH.into());
        let consumer = consumer.ok_or("its name is taken")?;
        Ok(MemoryConsumer { is_subscription: true, ..consumer })
    }

    async fn close(&self) {
        self.stats.brokers_connected.set(0);
    }
}

/// A consumer as its node sees it.
pub(super) struct MemoryConsumer {
    server: MemoryServer,
    queue: String,
    number: u64,
    is_subscription: bool,
    bell: Arc<Notify>,
}

impl MemoryConsumer {
    /// Runs `served` on this consumer's queue.
    ///
    /// # Errors
    /// The reason why the queue is no longer this consumer's.
    fn with_queue<R>(&self, served: impl FnOnce(&mut MemoryQueue) -> R) -> Result<R, ConsumerEnd> {
        let mut state = self.server.state();
        let queue = state.queues.get_mut(&self.queue).ok_or(ConsumerEnd::Deleted)?;
        match &queue.consumer {
            Some(consumer) if consumer.number == self.number => Ok(served(queue)),
            _ => Err(ConsumerEnd::Lost("the connection was closed".to_owned())),
        }
    }
}

impl QueueConsumer for MemoryConsumer {
    async fn next(&mut self) -> Result<BrokerMessage, ConsumerEnd> {
        loop {
            if let Some(message) = self.with_queue(MemoryQueue::take)? {
                return Ok(message);
            }
            self.bell.notified().await;
        }
    }

    fn acknowledge(&self, tag: u64) {
        let _ = self.with_queue(|queue| {
            if let Some(consumer) = &mut queue.consumer {
                consumer.unacknowledged.retain(|(unacknowledged, _)| *unacknowledged > tag);
            }
            queue.ring();
        });
    }

    async fn close(&mut self) {
        let _ = self.with_queue(MemoryQueue::end_consumer);
        if self.is_subscription {
            let mut state = self.server.state();
            state.queues.remove(&self.queue);
            state.bindings.retain(|binding| binding.queue != self.queue);
        }
    }
}

/// Returns whether a routing key's words match a pattern's; `*` stands for any one word and `#` for any number.
fn matches(pattern: &[&str], key: &[&str]) -> bool {
    match (pattern, key) {
        ([], []) => true,
        (["#", rest @ ..], _) => matches(rest, key) || (!key.is_empty() && matches(pattern, &key[1..])),
        (["*", rest @ ..], [_, others @ ..]) => matches(rest, others),
        ([word, rest @ ..], [first, others @ ..]) => word == first && matches(rest, others),
        _ => false,
    }
}
