//! The bridge against a real RabbitMQ: that of ESPER_TEST_AMQP_URL, or one that `scripts/rabbitmq` starts for the
//! tests and stops after them.

mod brokers;
mod queues;
#[path = "../../../tests/rabbitmq/mod.rs"]
mod rabbitmq;
mod subscribe;

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use tokio::sync::mpsc::unbounded_channel;

use super::*;

/// Long enough for anything that happens at all.
const PATIENCE: Duration = Duration::from_secs(20);

/// A node: a bridge, and in the place of its shards what they would have heard.
struct Node {
    bridge: Option<Bridge<u32>>,
    orders: UnboundedSender<ToBridge<u32>>,
    stats: Arc<BridgeStats>,
    heard: Heard,
}

#[derive(Clone, Default)]
struct Heard(Arc<(Mutex<State>, Condvar)>);

#[derive(Default)]
struct State {
    answers: HashMap<u32, Result<Opened, NoQueue>>,
    texts: HashMap<StreamId, Vec<(String, u32, u64)>>,
    ended: HashSet<StreamId>,
    published: Vec<(String, String, String)>,
    full: u32,
    is_exhausted: bool,
}

impl Heard {
    /// What the state has, as soon as it has it.
    fn wait<R>(&self, what: &str, mut ask: impl FnMut(&mut State) -> Option<R>) -> R {
        let mut found = None;
        let state = self.0.0.lock().unwrap();
        let unfound = |state: &mut State| {
            found = ask(state);
            found.is_none()
        };
        drop(self.0.1.wait_timeout_while(state, PATIENCE, unfound).unwrap());
        found.unwrap_or_else(|| panic!("waited in vain for {what}"))
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.0.0.lock().unwrap());
        self.0.1.notify_all();
    }
}

impl Outlet<u32> for Heard {
    fn answer(&self, ticket: u32, answer: Result<Opened, NoQueue>) {
        self.change(|state| drop(state.answers.insert(ticket, answer)));
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

impl Inlet for Heard {
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

/// Short times, so that what takes long in life is seen.
fn config(url: &str) -> BridgeConfig {
    BridgeConfig {
        nodes: vec![url.parse().unwrap()],
        expire_s: 60,
        prefetch: 20,
        ack_window: 10,
        ack_delay: Duration::from_millis(400),
        patience: Duration::from_secs(2),
        subscribe: Vec::new(),
    }
}

impl Node {
    /// Connected to every broker.
    fn start(config: BridgeConfig) -> Self {
        let node = Self::start_alone(config);
        node.wait_connected();
        node
    }

    fn start_alone(config: BridgeConfig) -> Self {
        let heard = Heard::default();
        let stats = Arc::<BridgeStats>::default();
        let channel = unbounded_channel();
        let orders = channel.0.clone();
        let bridge =
            Bridge::start(config, channel, heard.clone(), heard.clone(), Arc::clone(&stats)).unwrap();
        Self { bridge: Some(bridge), orders, stats, heard }
    }

    fn stats(&self) -> &BridgeStats {
        &self.stats
    }

    fn wait_connected(&self) {
        let stats = self.stats();
        until("the brokers", || stats.brokers_connected.value() == stats.brokers_configured.value());
    }

    fn send(&self, order: ToBridge<u32>) {
        self.orders.send(order).unwrap();
    }

    /// Asks for a queue, and says the ticket.
    fn ask(&self, queue: &str, last_event_id: Option<&str>) -> u32 {
        static TICKET: AtomicU32 = AtomicU32::new(0);
        let ticket = TICKET.fetch_add(1, Ordering::Relaxed);
        let last_event_id = last_event_id.map(Box::from);
        self.send(ToBridge::Open { queue: queue.to_owned(), last_event_id, ticket });
        ticket
    }

    fn answer(&self, ticket: u32) -> Result<Client<'_>, NoQueue> {
        let opened = self.heard.wait("an answer", |state| state.answers.remove(&ticket))?;
        let Opened { stream, sent, .. } = opened;
        Ok(Client { node: self, stream, sent, taken: 0, auto: true })
    }

    /// A client whose queue may be delivered.
    fn open(&self, queue: &str, last_event_id: Option<&str>) -> Result<Client<'_>, NoQueue> {
        let client = self.answer(self.ask(queue, last_event_id))?;
        self.send(ToBridge::Ready { stream: client.stream });
        Ok(client)
    }

    fn stop(mut self) {
        self.bridge.take().unwrap().stop();
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(bridge) = self.bridge.take() {
            bridge.stop();
        }
    }
}

/// A client's stream, as its shard knows it.
struct Client<'a> {
    node: &'a Node,
    stream: StreamId,
    sent: Arc<AtomicU64>,
    taken: usize,
    /// Whether what is taken is said to be sent.
    auto: bool,
}

impl Client<'_> {
    /// The next events, each its id and its data.
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

    /// Whatever has arrived and was not taken.
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
        self.sent.store(count, Ordering::Release);
    }

    fn close(self) {
        self.node.send(ToBridge::Closed { stream: self.stream });
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

/// Numbers as messages' texts.
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

/// A queue's name that no other test, and no other run, has.
fn unique(name: &str) -> String {
    format!("esper-test-{name}-{:016x}", fastrand::u64(..))
}
