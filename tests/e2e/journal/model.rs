//! Publishers and subscribers that live through crashes, and a model of what each is to see, too plain to be wrong.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use fastrand::Rng;
use serde_json::Value;

use crate::support::sessions::{FORM, encode};
use crate::support::{Answer, Event, Publisher, Stream, publish_request, try_connect};

/// Where events go, by their number: paths of three trees, then two users of a channel and all of them.
pub(super) const TOPICS: [&str; 9] =
    ["tree0000", "tree0000/a", "tree0000/b/c", "tree0001/a", "tree0001/b", "tree0002", "alex", "bea", "*"];
/// The first of the session's.
pub(super) const USERS: usize = 6;
/// Publishes that are sent before the first answer is read.
const PIPELINED_MAX: usize = 8;
/// How long a key is used again: less than the two minutes that it is good for.
const KEYS_ASKED: Duration = Duration::from_secs(60);

/// One event, as its data says.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct Entry {
    pub(super) topic: usize,
    pub(super) source: usize,
    /// Counted over all of the source's publishes.
    pub(super) publish: usize,
    /// Within the publish, and how many that has.
    pub(super) event: usize,
    pub(super) of: usize,
}

impl Entry {
    fn data(&self) -> String {
        format!("{} {} {} {} {}", self.topic, self.source, self.publish, self.event, self.of)
    }

    fn parse(data: &str) -> Entry {
        let numbers: Vec<usize> = data.split(' ').filter_map(|number| number.parse().ok()).collect();
        let &[topic, source, publish, event, of] = &*numbers else { panic!("no event of ours: {data:?}") };
        Entry { topic, source, publish, event, of }
    }
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Publish {
    topic: usize,
    source: usize,
    number: usize,
    events: usize,
    has_own_ids: bool,
    has_key: bool,
}

impl Publish {
    /// One event, without a key.
    pub(super) fn one(topic: usize, source: usize, number: usize) -> Publish {
        Publish { topic, source, number, events: 1, has_own_ids: false, has_key: false }
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = Entry> + use<> {
        let Publish { topic, source, number, events, .. } = *self;
        (0..events).map(move |event| Entry { topic, source, publish: number, event, of: events })
    }

    pub(super) fn request(&self) -> String {
        let mut body = String::new();
        for entry in self.entries() {
            if self.has_own_ids {
                body += &format!("id: own/{}/{}/{}\n", self.source, self.number, entry.event);
            }
            body += &format!("data: {}\n\n", entry.data());
        }
        if self.topic >= USERS {
            let form = encode(&[("userId", TOPICS[self.topic]), ("channel", "chat"), ("payload", &body)]);
            return publish_request("/emit/", &format!("{FORM}\r\n"), &form).replacen(
                "Host: h",
                "Host: localhost",
                1,
            );
        }
        let key = if self.has_key {
            format!("Idempotency-Key: {}/{}\r\n", self.source, self.number)
        } else {
            String::new()
        };
        publish_request(&format!("/publish/{}", TOPICS[self.topic]), &key, &body)
    }
}

/// One who publishes or emits, sends again what has a key and was not answered, and nothing else.
pub(super) struct Source {
    number: usize,
    random: Rng,
    next: usize,
    /// What a crash left without an answer, and may be sent again.
    again: VecDeque<Publish>,
    /// Publishes with a key: when the answer came, and the event that it named.
    answered: VecDeque<(Publish, Instant, String)>,
    /// Whose answer was 200.
    pub(super) acknowledged: BTreeSet<Entry>,
    pub(super) sent_again: usize,
    pub(super) unanswered: usize,
}

impl Source {
    pub(super) fn new(number: usize, random: Rng) -> Source {
        Source {
            number,
            random,
            next: 0,
            again: VecDeque::new(),
            answered: VecDeque::new(),
            acknowledged: BTreeSet::new(),
            sent_again: 0,
            unanswered: 0,
        }
    }

    /// Publishes until the server is gone or all is to end.
    pub(super) fn run(&mut self, address: SocketAddr, end: &AtomicBool, count: &AtomicUsize) {
        let Some(mut connection) = Publisher::try_at(address) else { return };
        if !self.ask_again(&mut connection) {
            return;
        }
        loop {
            let batch: VecDeque<Publish> = match self.again.is_empty() {
                false => self.again.drain(..).collect(),
                true if end.load(Ordering::Relaxed) => return,
                true => (0..self.random.usize(1..=PIPELINED_MAX)).map(|_| self.draw()).collect(),
            };
            if !self.publish(batch, &mut connection, count) {
                return;
            }
        }
    }

    /// Publishes all of these; false when the server is gone.
    fn publish(
        &mut self,
        mut batch: VecDeque<Publish>,
        connection: &mut Publisher,
        count: &AtomicUsize,
    ) -> bool {
        batch.iter().for_each(|publish| connection.send_request(&publish.request()));
        while let Some(publish) = batch.pop_front() {
            let Some(answer) = connection.answer() else {
                batch.push_front(publish);
                self.unanswered += batch.len();
                self.again = batch.into_iter().filter(|publish| publish.has_key).collect();
                self.sent_again += self.again.len();
                return false;
            };
            let id = id_of(&answer, publish.events);
            self.acknowledged.extend(publish.entries());
            count.fetch_add(1, Ordering::Relaxed);
            if publish.has_key {
                self.answered.push_back((publish, Instant::now(), id));
            }
        }
        true
    }

    /// Sends again what was answered before, which must name the same event; false when the server is gone.
    fn ask_again(&mut self, connection: &mut Publisher) -> bool {
        while self.answered.front().is_some_and(|(_, at, _)| at.elapsed() > KEYS_ASKED) {
            self.answered.pop_front();
        }
        for _ in 0..3.min(self.answered.len()) {
            let (publish, _, id) = &self.answered[self.random.usize(..self.answered.len())];
            connection.send_request(&publish.request());
            let Some(answer) = connection.answer() else { return false };
            assert_eq!(place(&id_of(&answer, publish.events)), place(id), "the same event: {publish:?}");
        }
        true
    }

    fn draw(&mut self) -> Publish {
        let random = &mut self.random;
        let is_emitter = self.number == 0;
        self.next += 1;
        Publish {
            topic: random.usize(if is_emitter { USERS..TOPICS.len() } else { 0..USERS }),
            source: self.number,
            number: self.next,
            events: if random.bool() { 1 } else { random.usize(1..=3) },
            has_own_ids: !is_emitter && random.u8(..4) == 0,
            has_key: !is_emitter && random.u8(..3) == 0,
        }
    }
}

/// The id of the last event of a publish that was taken.
#[track_caller]
fn id_of(answer: &Answer, events: usize) -> String {
    assert_eq!(answer.status, 200, "{answer:?}");
    let body: Value = serde_json::from_str(&answer.body).expect("JSON");
    assert_eq!(body["events"], events, "{answer:?}");
    body["id"].as_str().expect("an id").to_owned()
}

/// What of an id says which event it is: each start gives its own epoch to those that are numbers.
fn place(id: &str) -> &str {
    if id.starts_with("own/") { id } else { id.split_once('-').expect("an epoch and a number").1 }
}

/// Where a reader's stream is.
pub(super) enum Target {
    Public(&'static str),
    /// A session's, with its token.
    Session(String),
}

/// An EventSource that comes back after each crash with the id of the last event it saw, now and then with an earlier one.
pub(super) struct Reader {
    target: Target,
    /// What it is to see, by number.
    topics: &'static [usize],
    random: Rng,
    /// Set if its events have one order, in which it may go back.
    is_ordered: bool,
    pub(super) seen: Vec<(Entry, String)>,
    /// So many of these it has seen on this connection or those before, as far as its id says.
    at: usize,
    pub(super) connections: usize,
    pub(super) deliveries: usize,
    pub(super) farewells: usize,
}

impl Reader {
    pub(super) fn new(target: Target, topics: &'static [usize], is_ordered: bool, random: Rng) -> Reader {
        let (seen, at, connections, deliveries, farewells) = (Vec::new(), 0, 0, 0, 0);
        Reader { target, topics, random, is_ordered, seen, at, connections, deliveries, farewells }
    }

    /// Connects; none when the server is gone.
    pub(super) fn connect(&mut self, address: SocketAddr) -> Option<Stream> {
        if self.is_ordered && self.random.u8(..4) == 0 {
            self.at -= self.random.usize(..50).min(self.at.saturating_sub(1));
        }
        let id = self.at.checked_sub(1).map(|last| &self.seen[last].1);
        let id = id.map_or(String::new(), |id| format!("Last-Event-ID: {id}\r\n"));
        let (path, token) = match &self.target {
            Target::Public(path) => (*path, String::new()),
            Target::Session(token) => ("/events/", format!("Authorization: Bearer {token}\r\n")),
        };
        let mut connection = try_connect(address)?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n{token}{id}\r\n");
        std::io::Write::write_all(&mut connection, request.as_bytes()).ok()?;
        let stream = Stream::try_of(connection)?;
        assert_eq!(stream.head.status, 200, "{:?}", stream.head);
        self.connections += 1;
        Some(stream)
    }

    /// Reads until the server is gone; with `is_last` until it has seen the end.
    pub(super) fn run(&mut self, address: SocketAddr, is_last: bool, is_orderly: bool) {
        if !is_last && self.random.u8(..6) == 0 {
            return;
        }
        while let Some(mut stream) = self.connect(address) {
            let cut = if is_last || self.random.bool() { usize::MAX } else { self.random.usize(1..200) };
            for _ in 0..cut {
                match stream.next_event() {
                    Some(event) => self.take(event),
                    None => {
                        assert!(!is_orderly || stream.is_complete, "the body ends in order");
                        return;
                    }
                }
                if self.is_done() {
                    return;
                }
            }
        }
    }

    pub(super) fn take(&mut self, event: Event) {
        assert_ne!(event.name, "gap", "after {:?}: {event:?}", self.seen.get(self.at.saturating_sub(1)));
        if event.retry.is_some() && event.data.is_empty() {
            self.farewells += 1;
            return;
        }
        let entry = Entry::parse(&event.data);
        self.deliveries += 1;
        match self.seen.get_mut(self.at) {
            Some((seen, id)) => {
                assert_eq!(*seen, entry, "what it saw before is what is there");
                *id = event.id;
            }
            None => self.seen.push((entry, event.id)),
        }
        self.at += 1;
    }

    /// Whether it has seen the last event of each of its topics, or while there is none the first.
    pub(super) fn has_all(&self, number: usize) -> bool {
        let is_one = |entry: &Entry| entry.source == BOUNDS && entry.publish == number;
        self.seen.iter().rev().filter(|(entry, _)| is_one(entry)).count() == self.topics.len()
    }

    fn is_done(&self) -> bool {
        self.seen.last().is_some_and(|(entry, _)| entry.source == BOUNDS) && self.has_all(END)
    }

    /// Asserts that it saw all that was acknowledged once each, in order, and of what was not all or nothing.
    pub(super) fn check(&self, acknowledged: &BTreeSet<Entry>) {
        let mut rest: BTreeSet<Entry> =
            acknowledged.iter().filter(|entry| self.topics.contains(&entry.topic)).copied().collect();
        let mut last: BTreeMap<(usize, usize), Entry> = BTreeMap::new();
        for (entry, id) in &self.seen {
            rest.remove(entry);
            let key = (entry.topic, entry.source);
            let previous = last.insert(key, *entry);
            let is_next_of = |previous: Entry| {
                previous.publish == entry.publish
                    && previous.event + 1 == entry.event
                    && previous.of == entry.of
            };
            let is_first_after = |previous: Option<Entry>| {
                previous.is_none_or(|previous| {
                    previous.publish < entry.publish && previous.event + 1 == previous.of
                }) && entry.event == 0
            };
            let follows = previous.is_some_and(is_next_of) || is_first_after(previous);
            assert!(follows, "{entry:?} {id} cannot follow {previous:?} in {:?}", self.topics);
        }
        assert!(
            rest.is_empty(),
            "{} events were lost to {:?}, first {:?}",
            rest.len(),
            self.topics,
            rest.first()
        );
    }

    /// The events of one topic in their order; none if it does not take that.
    pub(super) fn of_topic(&self, topic: usize) -> Option<Vec<Entry>> {
        let of_topic = || self.seen.iter().map(|(entry, _)| *entry).filter(|entry| entry.topic == topic);
        self.topics.contains(&topic).then(|| of_topic().collect())
    }
}

/// The source of the first and the last event of each topic.
pub(super) const BOUNDS: usize = 99;
pub(super) const BEGIN: usize = 0;
pub(super) const END: usize = 1;
