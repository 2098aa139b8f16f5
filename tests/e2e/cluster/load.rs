//! Publishers and subscribers that live through everything that a test does to the cluster.

use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use fastrand::Rng;

use super::PATIENCE;
use super::model::{BEGIN, END, Fate, Number, Reading, Seen, Sent, Story};
use super::world::{Addresses, World};
use crate::support::{Answer, Event, Stream, exchange, publish_request};

/// Where events go.
pub(super) const TOPICS: [&str; 4] = ["clustera1", "clusterb2", "clusterc3", "clusterd4"];
const PUBLISHERS: usize = 6;
/// How long a publisher tries again with its key: less than the two minutes that it is good for.
const KEY_TRIED: Duration = Duration::from_secs(60);
/// How long a publisher waits for an answer: longer than a node does for the cluster.
const ANSWER_TIME: Duration = Duration::from_secs(30);
/// A stream on which nothing comes for so long, not even a heartbeat, is given up.
const SILENCE: Duration = Duration::from_secs(8);

/// The load on a cluster.
pub(super) struct Load {
    addresses: Addresses,
    shared: Arc<Shared>,
    publishers: Vec<JoinHandle<Vec<Sent>>>,
    subscribers: Vec<JoinHandle<Reading>>,
    sent: Vec<Sent>,
}

struct Shared {
    /// Tells its events from those of another load on the same cluster.
    round: u64,
    stop: AtomicBool,
    taken: AtomicUsize,
    /// Subscribers that saw the first events.
    begun: AtomicUsize,
    connected: AtomicUsize,
    /// When a publish was taken last, and the longest time between two.
    outage: Mutex<(Instant, Duration)>,
    /// Until when subscribers wait for the last events.
    deadline: Mutex<Option<Instant>>,
}

impl Shared {
    fn note_taken(&self) {
        self.taken.fetch_add(1, Ordering::SeqCst);
        let mut outage = self.outage.lock().expect("no panic under it");
        outage.1 = outage.1.max(outage.0.elapsed());
        outage.0 = Instant::now();
    }

    fn is_late(&self) -> bool {
        self.deadline.lock().expect("no panic under it").is_some_and(|deadline| Instant::now() > deadline)
    }
}

/// How a subscriber behaves.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Manner {
    /// Stays with its node, and comes back to it.
    Stays(usize),
    /// Goes from node to node.
    Moves,
}

impl Load {
    /// Starts subscribers of all manners at all nodes, then publishers.
    pub(super) fn start(world: &World, seed: u64) -> Load {
        let mut random = Rng::with_seed(seed);
        let addresses = world.addresses.clone();
        let shared = Arc::new(Shared {
            round: random.u64(..),
            stop: false.into(),
            taken: 0.into(),
            begun: 0.into(),
            connected: 0.into(),
            outage: Mutex::new((Instant::now(), Duration::ZERO)),
            deadline: Mutex::new(None),
        });
        let mut manners: Vec<_> = (0..world.nodes()).map(Manner::Stays).collect();
        manners.extend([Manner::Moves, Manner::Moves]);
        let mut subscribers = Vec::new();
        for (number, manner) in manners.into_iter().enumerate() {
            for topics in [vec![number % TOPICS.len()], vec![(number + 1) % TOPICS.len()], vec![0, 1, 2, 3]] {
                let what = match manner {
                    Manner::Stays(node) => format!("who stays at node {node}"),
                    Manner::Moves => format!("mover {number}"),
                };
                let reading = Reading {
                    name: format!("{what} for {topics:?}"),
                    topics,
                    seen: Vec::new(),
                    connections: 0,
                };
                let (addresses, shared, random) = (addresses.clone(), Arc::clone(&shared), random.fork());
                subscribers.push(thread::spawn(move || {
                    Subscriber {
                        reading,
                        manner,
                        addresses,
                        shared,
                        random,
                        last_id: String::new(),
                        begun: 0,
                        ended: 0,
                    }
                    .run()
                }));
            }
        }
        let mut load = Load { addresses, shared, publishers: Vec::new(), subscribers, sent: Vec::new() };
        load.wait("all are connected", |shared| &shared.connected, load.subscribers.len());
        (0..TOPICS.len()).for_each(|topic| load.bound(topic, BEGIN));
        load.wait("all have begun", |shared| &shared.begun, load.subscribers.len());
        *load.shared.outage.lock().expect("no panic under it") = (Instant::now(), Duration::ZERO);
        for number in 0..PUBLISHERS {
            let (addresses, shared, random) =
                (load.addresses.clone(), Arc::clone(&load.shared), random.fork());
            load.publishers.push(thread::spawn(move || publish(number, random, &addresses, &shared)));
        }
        load.run_on(60);
        load
    }

    /// Waits until so many more publishes were taken.
    pub(super) fn run_on(&self, publishes: usize) {
        let upto = self.shared.taken.load(Ordering::SeqCst) + publishes;
        self.wait("there is load", |shared| &shared.taken, upto);
    }

    fn wait(&self, what: &str, counter: fn(&Shared) -> &AtomicUsize, upto: usize) {
        let start = Instant::now();
        while counter(&self.shared).load(Ordering::SeqCst) < upto {
            let failed = self.subscribers.iter().any(JoinHandle::is_finished)
                || self.publishers.iter().any(JoinHandle::is_finished);
            assert!(!failed, "a publisher or a subscriber failed; see the lines above");
            assert!(start.elapsed() < PATIENCE, "not in {PATIENCE:?}: {what}");
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Publishes the first or the last event of a topic.
    fn bound(&mut self, topic: usize, number: Number) {
        let start = Instant::now();
        let mut fate = Fate::Refused;
        for node in (0..self.addresses.count()).cycle() {
            fate = self
                .addresses
                .of(node)
                .map_or(fate, |(_, control)| send(control, self.shared.round, topic, number, true));
            if matches!(fate, Fate::Taken(_)) {
                break;
            }
            assert!(start.elapsed() < PATIENCE, "no node takes a publish");
            thread::sleep(Duration::from_millis(50));
        }
        self.sent.push(Sent { topic, number, fate, at: Instant::now() });
    }

    /// Ends publishers, has subscribers read to the end, and returns what happened.
    pub(super) fn finish(mut self) -> Story {
        self.shared.stop.store(true, Ordering::SeqCst);
        for publisher in std::mem::take(&mut self.publishers) {
            self.sent.extend(publisher.join().expect("a publisher"));
        }
        let longest_outage = self.shared.outage.lock().expect("no panic under it").1;
        (0..TOPICS.len()).for_each(|topic| self.bound(topic, END));
        *self.shared.deadline.lock().expect("no panic under it") = Some(Instant::now() + PATIENCE);
        let readings = std::mem::take(&mut self.subscribers).into_iter();
        let readings = readings.map(|subscriber| subscriber.join().expect("a subscriber")).collect();
        Story { sent: std::mem::take(&mut self.sent), readings, longest_outage }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        // After a failure nobody waits for them.
        self.shared.stop.store(true, Ordering::SeqCst);
        *self.shared.deadline.lock().expect("no panic under it") = Some(Instant::now());
    }
}

/// Sends one event, and says what came of it.
fn send(address: SocketAddr, round: u64, topic: usize, (publisher, number): Number, has_key: bool) -> Fate {
    let key =
        if has_key { format!("Idempotency-Key: {round}/{publisher}/{number}\r\n") } else { String::new() };
    let body = format!("data: {round} {topic} {publisher} {number}");
    let request = publish_request(&format!("/publish/{}", TOPICS[topic]), &key, &body);
    let Ok(mut connection) = TcpStream::connect_timeout(&address, Duration::from_secs(5)) else {
        return Fate::Refused;
    };
    let _ = connection.set_read_timeout(Some(ANSWER_TIME));
    let request = request.replacen("Host: h\r\n", "Host: localhost\r\nConnection: close\r\n", 1);
    if std::io::Write::write_all(&mut connection, request.as_bytes()).is_err() {
        return Fate::Unknown;
    }
    let mut text = Vec::new();
    let _ = std::io::Read::read_to_end(&mut connection, &mut text);
    let text = String::from_utf8_lossy(&text);
    if !text.contains("\r\n\r\n") {
        return Fate::Unknown;
    }
    let answer = Answer::parse(&text);
    match answer.status {
        // Cut off within the body.
        200 => serde_json::from_str::<serde_json::Value>(&answer.body)
            .map_or(Fate::Unknown, |body| Fate::Taken(body["id"].as_str().expect("an id").to_owned())),
        504 => Fate::Unknown,
        503 | 507 => {
            assert!(answer.field("Retry-After").is_some(), "{answer:?}");
            Fate::Refused
        }
        _ => panic!("{answer:?}"),
    }
}

/// Publishes one event after another, at any node, until all is to end.
fn publish(publisher: usize, mut random: Rng, addresses: &Addresses, shared: &Shared) -> Vec<Sent> {
    let mut all = Vec::new();
    while !shared.stop.load(Ordering::SeqCst) {
        let number = (publisher, all.len() + 1);
        let (topic, has_key) = (random.usize(..TOPICS.len()), random.bool());
        let (start, mut fate) = (Instant::now(), Fate::Refused);
        loop {
            let node = random.usize(..addresses.count());
            if let Some((_, control)) = addresses.of(node) {
                fate = match (fate, send(control, shared.round, topic, number, has_key)) {
                    // It may have come through the first time.
                    (Fate::Unknown, Fate::Refused) => Fate::Unknown,
                    (_, fate) => fate,
                };
            }
            if matches!(fate, Fate::Taken(_)) {
                shared.note_taken();
                break;
            }
            // With a key it is sent again, at another node perhaps.
            if !has_key || start.elapsed() > KEY_TRIED || shared.stop.load(Ordering::SeqCst) {
                break;
            }
            thread::sleep(Duration::from_millis(random.u64(20..100)));
        }
        let is_refused = fate == Fate::Refused;
        all.push(Sent { topic, number, fate, at: Instant::now() });
        thread::sleep(Duration::from_millis(if is_refused { 50 } else { random.u64(..10) }));
    }
    all
}

struct Subscriber {
    reading: Reading,
    manner: Manner,
    addresses: Addresses,
    shared: Arc<Shared>,
    random: Rng,
    last_id: String,
    /// Topics of which it has seen the first event, and the last.
    begun: usize,
    ended: usize,
}

impl Subscriber {
    fn run(mut self) -> Reading {
        while !self.is_done() {
            assert!(!self.shared.is_late(), "{} did not see the end: {:?}", self.reading.name, self.last());
            let node = match self.manner {
                Manner::Stays(node) => node,
                Manner::Moves => self.random.usize(..self.addresses.count()),
            };
            let Some(mut stream) = self.addresses.of(node).and_then(|(public, _)| self.connect(public))
            else {
                thread::sleep(Duration::from_millis(50));
                continue;
            };
            let leaves_at = Instant::now() + Duration::from_millis(self.random.u64(50..1500));
            let is_to_stay = self.manner != Manner::Moves || self.last_id.is_empty();
            let shared = Arc::clone(&self.shared);
            let goes_on = move || (is_to_stay || Instant::now() < leaves_at) && !shared.is_late();
            while let Some(event) = stream.next_event_while(&goes_on) {
                self.take(event);
                if self.is_done() {
                    break;
                }
            }
        }
        self.reading
    }

    fn is_done(&self) -> bool {
        self.ended >= self.reading.topics.len()
    }

    fn last(&self) -> &[Seen] {
        &self.reading.seen[self.reading.seen.len().saturating_sub(3)..]
    }

    fn connect(&mut self, address: SocketAddr) -> Option<Stream> {
        let topics: Vec<_> =
            self.reading.topics.iter().map(|topic| format!("topic={}", TOPICS[*topic])).collect();
        let id = match &*self.last_id {
            "" => String::new(),
            id => format!("Last-Event-ID: {id}\r\n"),
        };
        let mut connection = TcpStream::connect_timeout(&address, Duration::from_secs(5)).ok()?;
        let request = format!("GET /subscribe?{} HTTP/1.1\r\nHost: {address}\r\n{id}\r\n", topics.join("&"));
        let _ = connection.set_read_timeout(Some(SILENCE));
        std::io::Write::write_all(&mut connection, request.as_bytes()).ok()?;
        let stream = Stream::try_of(connection)?;
        // It may not know yet what this one has seen.
        if stream.head.status == 503 {
            return None;
        }
        assert_eq!(stream.head.status, 200, "{:?}", stream.head);
        if self.reading.connections == 0 {
            self.shared.connected.fetch_add(1, Ordering::SeqCst);
        }
        self.reading.connections += 1;
        Some(stream)
    }

    fn take(&mut self, event: Event) {
        if !event.id.is_empty() {
            self.last_id = event.id.clone();
        }
        if event.name == "gap" {
            let gap: serde_json::Value = serde_json::from_str(&event.data).expect("JSON");
            self.reading
                .seen
                .push(Seen::Gap(gap["reason"].as_str().expect("a reason").to_owned(), Instant::now()));
            return;
        }
        if event.data.is_empty() {
            assert!(event.retry.is_some(), "{event:?}");
            return;
        }
        let numbers: Vec<u64> = event.data.split(' ').filter_map(|number| number.parse().ok()).collect();
        let &[round, topic, publisher, number] = &*numbers else { panic!("no event of ours: {event:?}") };
        if round != self.shared.round {
            return;
        }
        let (topic, number) = (topic as usize, (publisher as usize, number as usize));
        assert!(self.reading.topics.contains(&topic), "{} is not for topic {topic}", self.reading.name);
        self.reading.seen.push(Seen::Event { topic, number, id: event.id });
        self.ended += usize::from(number == END);
        self.begun += usize::from(number == BEGIN);
        if number == BEGIN && self.begun == self.reading.topics.len() {
            self.shared.begun.fetch_add(1, Ordering::SeqCst);
        }
    }
}

/// Publishes one event at a node, and returns its id.
#[track_caller]
pub(super) fn publish_at(world: &World, node: usize, topic: &str, data: &str) -> String {
    let address = world.node(node).control;
    let answer = exchange(address, "POST", &format!("/publish/{topic}"), &[], &format!("data: {data}"));
    Answer::parse(&answer).id()
}
