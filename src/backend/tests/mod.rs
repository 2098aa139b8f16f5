//! Queues and topics over a broker within the process. The behaviour of RabbitMQ itself is tested with the real one,
//! from outside.

mod outages;
mod queues;
mod subscribe;

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

use super::interface::MessageBroker;
use super::memory::{MemoryServer, StoredMessage};
use super::*;
use crate::backend::SubscribeRule;
use crate::core::arena::Arena;
use crate::core::message::Ticket;
use crate::core::sent_count::SentCount;

/// Long enough for anything that happens at all.
const PATIENCE: Duration = Duration::from_secs(20);

/// A node: a backend, and in place of its shards a record of its messages to them.
pub(super) struct TestNode {
    backend: Option<BackendThread>,
    sender: UnboundedSender<ToBackend>,
    stats: Arc<BackendStats>,
    heard: Heard,
}

#[derive(Clone, Default)]
struct Heard(Arc<(Mutex<HeardState>, Condvar)>);

#[derive(Default)]
struct HeardState {
    /// By the number of the ticket's request.
    answers: HashMap<u64, Result<OpenedQueue, NoQueue>>,
    texts: HashMap<StreamId, Vec<(String, u32, u64)>>,
    ended: HashSet<StreamId>,
    published: Vec<(String, String, String)>,
    full: u32,
    is_exhausted: bool,
}

impl Heard {
    /// Waits until `ask` finds what it looks for in the state, and returns it.
    fn wait<R>(&self, what: &str, mut ask: impl FnMut(&mut HeardState) -> Option<R>) -> R {
        let mut found = None;
        let state = self.0.0.lock().unwrap();
        let unfound = |state: &mut HeardState| {
            found = ask(state);
            found.is_none()
        };
        drop(self.0.1.wait_timeout_while(state, PATIENCE, unfound).unwrap());
        found.unwrap_or_else(|| panic!("waited in vain for {what}"))
    }

    fn change(&self, change: impl FnOnce(&mut HeardState)) {
        change(&mut self.0.0.lock().unwrap());
        self.0.1.notify_all();
    }
}

impl StreamOutlet for Heard {
    fn answer(&self, ticket: Ticket, answer: Result<OpenedQueue, NoQueue>) {
        self.change(|state| drop(state.answers.insert(ticket.request, answer)));
    }

    fn deliver(&self, stream: StreamId, text: Vec<u8>, events: u32, last: u64) {
        let text = String::from_utf8(text).unwrap();
        self.change(|state| state.texts.entry(stream).or_default().push((text, events, last)));
    }

    fn share(&self, bytes: Vec<u8>) -> Bytes {
        bytes.into()
    }

    fn is_filling(&self) -> bool {
        self.is_exhausted()
    }

    fn is_exhausted(&self) -> bool {
        self.0.0.lock().unwrap().is_exhausted
    }

    fn end(&self, stream: StreamId) {
        self.change(|state| assert!(state.ended.insert(stream), "{stream:?} ended twice"));
    }
}

impl TopicPublisher for Heard {
    async fn publish(&self, topic: &str, data: String, id: String) -> Result<(), PublishFailure> {
        let mut result = Ok(());
        self.change(|state| {
            if state.full > 0 {
                state.full -= 1;
                result = Err(PublishFailure::Full);
            } else if topic.is_empty() {
                result = Err(PublishFailure::Refused("a topic without a name".to_owned()));
            } else {
                state.published.push((topic.to_owned(), data, id));
            }
        });
        result
    }
}

/// Returns a configuration with one node, and times short enough for tests.
pub(super) fn config_at(url: &str) -> BackendConfig {
    BackendConfig {
        nodes: vec![url.parse().unwrap()],
        expire_s: 60,
        prefetch: 20,
        ack_window: 10,
        ack_delay: Duration::from_millis(400),
        patience: Duration::from_secs(2),
        subscribe: Vec::new(),
    }
}

/// Returns the same configuration for a broker that needs no address.
fn config() -> BackendConfig {
    config_at("amqp://memory/")
}

/// Returns a node with an empty broker, and the queue's name.
fn start(queue: String) -> (TestNode, MemoryServer, String) {
    let broker = MemoryServer::default();
    (TestNode::start(&broker, config()), broker, queue)
}

impl TestNode {
    /// Starts a node and waits until it is connected.
    fn start(server: &MemoryServer, config: BackendConfig) -> Self {
        let server = server.clone();
        let node = Self::start_with(move |config, stats| server.broker(config, stats), config);
        node.wait_connected();
        node
    }

    /// Starts a node with any broker.
    pub(super) fn start_with<B: MessageBroker>(
        broker: impl FnOnce(&BackendConfig, &Arc<BackendStats>) -> B + Send + 'static,
        config: BackendConfig,
    ) -> Self {
        let heard = Heard::default();
        let stats = Arc::<BackendStats>::default();
        let channel = unbounded_channel();
        let sender = channel.0.clone();
        let outlet = Box::new(heard.clone());
        let backend =
            BackendThread::start(broker, config, channel, outlet, heard.clone(), Arc::clone(&stats));
        Self { backend: Some(backend.unwrap()), sender, stats, heard }
    }

    pub(super) fn stats(&self) -> &BackendStats {
        &self.stats
    }

    fn wait_connected(&self) {
        let stats = self.stats();
        until("the brokers", || stats.brokers_connected.value() == stats.brokers_configured.value());
    }

    fn send(&self, message: ToBackend) {
        self.sender.send(message).unwrap();
    }

    /// Asks for a queue. Returns the number of the request.
    fn ask(&self, queue: &str, last_event_id: Option<&str>) -> u64 {
        static REQUEST: AtomicU64 = AtomicU64::new(0);
        let request = REQUEST.fetch_add(1, Ordering::Relaxed);
        let ticket = Ticket { shard: 0, connection: Arena::default().insert(()), request };
        let last_event_id = last_event_id.map(Box::from);
        self.send(ToBackend::Open { queue: queue.to_owned(), last_event_id, ticket });
        request
    }

    fn answer(&self, request: u64) -> Result<QueueClient<'_>, NoQueue> {
        let opened = self.heard.wait("an answer", |state| state.answers.remove(&request))?;
        let OpenedQueue { stream, sent, .. } = opened;
        Ok(QueueClient { node: self, stream, sent, taken: 0, auto: true })
    }

    /// Opens a queue for a client and has it delivered.
    fn open(&self, queue: &str, last_event_id: Option<&str>) -> Result<QueueClient<'_>, NoQueue> {
        let client = self.answer(self.ask(queue, last_event_id))?;
        self.send(ToBackend::Ready { stream: client.stream });
        Ok(client)
    }

    /// Returns why a queue is refused for now.
    pub(super) fn refusal(&self) -> String {
        let refused = self.open(&unique("refused"), None).err().unwrap();
        assert!(refused.is_passing, "{refused:?}");
        refused.reason
    }

    pub(super) fn stop(mut self) {
        self.backend.take().unwrap().stop();
    }
}

impl Drop for TestNode {
    fn drop(&mut self) {
        if let Some(backend) = self.backend.take() {
            backend.stop();
        }
    }
}

/// A client's stream as its shard sees it.
struct QueueClient<'a> {
    node: &'a TestNode,
    stream: StreamId,
    sent: Arc<SentCount>,
    taken: usize,
    /// Whether what is taken is reported as sent.
    auto: bool,
}

impl QueueClient<'_> {
    /// Takes the next events, each as id and data.
    fn take(&mut self, count: usize) -> Vec<(String, String)> {
        let (mut events, mut last) = (Vec::new(), 0);
        while events.len() < count {
            let (text, number, to) = self.node.heard.wait(&format!("{count} events"), |state| {
                let texts = state.texts.get_mut(&self.stream)?;
                (self.taken < texts.len()).then(|| texts[self.taken].clone())
            });
            self.taken += 1;
            let parsed: Vec<_> = text.split_terminator("\n\n").map(event).collect();
            assert_eq!(parsed.len(), number as usize);
            events.extend(parsed);
            last = to;
            if self.auto {
                self.sent(to);
            }
        }
        assert_eq!(events.len(), count, "more than was asked for, up to {last}: {events:?}");
        events
    }

    /// Takes all events that have arrived.
    fn take_ready(&mut self) -> Vec<(String, String)> {
        let mut state = self.node.heard.0.0.lock().unwrap();
        let texts = state.texts.entry(self.stream).or_default().split_off(self.taken);
        drop(state);
        let mut events = Vec::new();
        for (text, _, last) in texts {
            events.extend(text.split_terminator("\n\n").map(event));
            self.sent(last);
        }
        events
    }

    fn sent(&self, count: u64) {
        self.sent.advance(count);
    }

    fn close(self) {
        self.node.send(ToBackend::Closed { stream: self.stream });
    }

    fn wait_ended(&self) {
        self.node.heard.wait("the stream's end", |state| state.ended.contains(&self.stream).then_some(()));
    }
}

fn event(text: &str) -> (String, String) {
    let (id, data) = text.strip_prefix("id: ").unwrap().split_once('\n').unwrap();
    let data: Vec<_> = data.lines().map(|line| line.strip_prefix("data: ").unwrap()).collect();
    (id.to_owned(), data.join("\n"))
}

fn data(events: Vec<(String, String)>) -> Vec<String> {
    events.into_iter().map(|(_, data)| data).collect()
}

/// Returns numbers as texts of messages.
fn texts(numbers: std::ops::Range<usize>) -> Vec<String> {
    numbers.map(|number| number.to_string()).collect()
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = std::time::Instant::now();
    while !holds() {
        assert!(begun.elapsed() < PATIENCE, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Returns a queue's name that no other test has.
fn unique(name: &str) -> String {
    format!("esper-test-{name}-{:016x}", fastrand::u64(..))
}
