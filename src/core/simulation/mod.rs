//! Several shards, their mailboxes and their clients in one thread under one seed, against a naive model.
//!
//! The shipped [`Homes`] and [`Fanout`] run here as they are; only their surroundings are simulated: messages are
//! delayed at random (but stay in order between two shards), sends go out in pieces or not at all, clients come, stall,
//! vanish and resume, histories and logs are trimmed, and in half of the worlds order is final only when it is synced,
//! and the process dies now and then. The model is a list per partition of the events it ordered. Each client must see
//! every event of its topics once, each partition's in order, or be told of the gap. Topics are ids, paths or those of
//! sessions; a client takes one topic, more, or everything.
//!
//! `ESPER_SIM_SEED=<n>` replays one seed; `ESPER_SIM_SEEDS=<n>` runs more of them.

mod client;
mod connection;
mod crash;
mod played_journal;
mod rest;
mod topics;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;

use crate::core::arena::Key;
use crate::core::budget::Budget;
use crate::core::epochs::Epochs;
use crate::core::event::{EventLimits, Events};
use crate::core::event_id::{Epoch, RUN_MIN};
use crate::core::fanout::{Fanout, FanoutLimits};
use crate::core::home::{HistoryLimits, HomeSettings, Homes, TopicCount};
use crate::core::memory::Memory;
use crate::core::message::{Message, Post, Publish, ReplayPage, ReplyTo, ShardId, Ticket, ToFanout, ToHome};
use crate::core::partition::{Partitioner, Placement};
use crate::core::topic::{Topic, TopicHasher};
use client::{Model, SimulatedClient};
use crash::fanouts;
use played_journal::PlayedJournal;
use topics::Topics;

/// A bug put in on purpose, to prove that it is found. Each is simulated around the types under test, as a fault of
/// theirs would show.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum Canary {
    #[default]
    None,
    /// A client sees its 200 before home has answered the Join.
    EarlyHead,
    /// A mailbox delivers its newest message first now and then.
    NewestFirst,
    /// The bytes of a send that the kernel did not take are dropped.
    RestDropped,
    /// The bytes of a send that the kernel took are sent once more.
    SentTwice,
    /// A stream is not woken now and then.
    LostWake,
    /// A stream is not told of the room of its socket now and then.
    LostRoom,
    /// A home gets a Leave for a topic that streams still take.
    EarlyLeave,
    /// A client is not told of a gap.
    GapUntold,
    /// Subscribers see events that are not synced, and a crash takes these.
    FinalTooEarly,
}

struct World {
    random: fastrand::Rng,
    now_ms: u64,
    placement: Placement,
    homes: Vec<Homes>,
    journal: PlayedJournal,
    settings: HomeSettings,
    fanout_limits: FanoutLimits,
    seed: u64,
    /// The number of the process's current life, from 0.
    life: u64,
    fanouts: Vec<Fanout>,
    /// By sender and receiver.
    channels: Vec<Vec<VecDeque<Message>>>,
    topics: Vec<Topic>,
    model: Model,
    clients: Vec<SimulatedClient>,
    budget: Arc<Budget>,
    published: u64,
    canary: Canary,
    /// Publishes and disconnects without an answer so far.
    unanswered: usize,
    /// Set when topics may be forgotten, which allows false gaps.
    may_forget: bool,
    /// Set when some events are so large that limits of bytes are reached.
    has_large: bool,
    /// Set when there is room for all pending bytes of a client.
    has_room: bool,
}

impl World {
    fn new(seed: u64, canary: Canary) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let placement = Placement::new(random.choice([1, 2, 5, 16]).unwrap(), random.usize(1..=4));
        let shards = usize::from(placement.shards());
        let partitions = placement.partitions().count();
        let kind = random.choice([Topics::Ids, Topics::Paths, Topics::Sessions]).unwrap();
        let epoch = Epoch::at(RUN_MIN + seed);
        let may_forget = random.u8(0..5) == 0;
        let topics_max = match (may_forget, kind) {
            (false, _) => 100,
            (true, Topics::Ids) => 1,
            // A session takes two topics.
            (true, Topics::Sessions) => random.usize(2..=4),
            // With those above them: some have room, and not all.
            (true, Topics::Paths) => random.usize(5..=11),
        };
        let history_limits = HistoryLimits {
            events_max: random.choice([0, 5, 40, 1000]).unwrap(),
            bytes_max: random.choice([2_000, 1 << 20]).unwrap(),
            age_max_ms: random.choice([300, 1 << 40]).unwrap(),
            page_frames_max: random.choice([1, 3, 1000]).unwrap(),
        };
        let epochs = Arc::new(Epochs::new(epoch, Vec::new()));
        let fanout_limits = FanoutLimits {
            lag_bytes_max: random.choice([200, 2_000, 1 << 20]).unwrap(),
            epochs: (history_limits.events_max > 0).then(|| Arc::clone(&epochs)),
            skip_slow: random.bool(),
            heartbeat_ms: 100,
            send_timeout_ms: 1_000,
            retry_min_ms: 1,
            retry_max_ms: 9,
        };
        let has_large = random.u8(0..4) == 0;
        // With too little memory slow clients have less time.
        let memory = Memory::new(random.choice([usize::MAX, usize::MAX, 20_000]).unwrap());
        let has_room =
            !has_large && fanout_limits.lag_bytes_max == 1 << 20 && memory.bytes_max() == usize::MAX;
        let topics = kind.list(&TopicHasher::seeded(partitions as u8, seed), &mut random);
        let settings = HomeSettings {
            placement,
            partitioner: Partitioner::new(partitions as u8, [7; 16]),
            epochs,
            limits: history_limits,
            memory: Arc::clone(&memory),
            topic_count: Arc::new(TopicCount::new(topics_max)),
        };
        let fanouts = fanouts(&settings, &fanout_limits, seed);
        let is_hasty = canary == Canary::FinalTooEarly;
        let is_on_disk = history_limits.events_max > 0 && (is_hasty || random.bool());
        let mut world = World {
            now_ms: 0,
            placement,
            homes: (0..shards).map(|shard| Homes::new(shard as ShardId, &settings)).collect(),
            journal: PlayedJournal::new(is_on_disk, is_hasty, partitions, settings.partitioner),
            settings,
            fanout_limits,
            seed,
            life: 0,
            fanouts,
            channels: (0..shards).map(|_| (0..shards).map(|_| VecDeque::new()).collect()).collect(),
            model: Model {
                ordered: vec![Vec::new(); partitions],
                place: HashMap::new(),
                own_ids: HashMap::new(),
                epoch: (history_limits.events_max > 0).then_some(epoch),
            },
            clients: (0..random.usize(1..=12))
                .map(|_| {
                    let names_topics = random.u8(0..4) == 0;
                    let has_code = random.u8(0..4) == 0;
                    SimulatedClient::new(
                        kind.choose(&topics, &mut random),
                        names_topics,
                        has_code,
                        partitions,
                    )
                })
                .collect(),
            topics,
            random,
            budget: Budget::new(usize::MAX, usize::MAX),
            published: 0,
            unanswered: 0,
            canary,
            may_forget,
            has_large,
            has_room,
        };
        world.note_what_is_dropped();
        world
    }

    fn run(mut self, steps: usize) -> Self {
        for _ in 0..steps {
            self.step();
        }
        self.settle();
        self
    }

    fn step(&mut self) {
        let shard = self.random.usize(0..self.homes.len());
        let client = self.random.usize(0..self.clients.len());
        match self.random.u8(0..100) {
            0..15 => self.publish(shard),
            15..48 => {
                self.deliver();
            }
            48..50 => {
                self.sync();
            }
            50..60 => self.end_turn(shard),
            60..65 => self.connect(client),
            65..95 => {
                self.serve(client);
            }
            95 if self.journal.is_on_disk && self.random.u8(0..20) == 0 => self.crash(),
            95 => self.vanish(client),
            96 => self.stall(client),
            97 if self.random.u8(0..8) == 0 => self.disconnect(),
            97 if self.canary == Canary::EarlyLeave => self.leave_early(),
            97 => self.now_ms += self.random.u64(0..100),
            98 => self.fanouts[shard].sweep(2, self.now_ms, self.now_ms / 1000),
            _ => self.trim(shard),
        }
    }

    fn publish(&mut self, shard: usize) {
        let published = self.topics.iter().filter(|topic| !topic.is_everything()).count();
        let topic = self.random.usize(0..published);
        let mut body = String::new();
        for _ in 0..self.random.usize(1..=3) {
            self.published += 1;
            let own_id = match self.random.u8(0..16) {
                0 => format!("id:own{}\n", self.published),
                // Own ids that are used again and again.
                1 => format!("id:mine{}\n", self.published % 3),
                2 => format!("id:{}\n", self.id_of_the_brokers()),
                _ => String::new(),
            };
            let padding = match self.has_large && self.random.u8(0..8) == 0 {
                true => format!("data:{}\n", "x".repeat(self.random.usize(3_000..80_000))),
                false => String::new(),
            };
            body += &format!("data:{}\n{padding}{own_id}\n", self.published);
        }
        let limits =
            EventLimits { text_bytes_max: 1 << 20, id_bytes_max: 128, name_bytes_max: 128, events_max: 100 };
        let publish = Publish {
            topic: self.topics[topic].clone(),
            events: Events::parse(Bytes::from(body), &limits).unwrap(),
            reply: match self.random.bool() {
                true => ReplyTo::Connection(ticket(shard)),
                false => ReplyTo::Emitter(ticket(shard)),
            },
            at_us: 0,
            charge: self.budget.take(1).unwrap(),
            key: None,
        };
        self.unanswered += 1;
        self.post(shard, vec![Post::publish(publish, self.placement)]);
    }

    /// Returns an id of the broker's form, as a relay might pass it on: of an event that was, will be or never was, of
    /// this run or another.
    fn id_of_the_brokers(&mut self) -> String {
        let run = self.model.epoch.filter(|_| self.random.bool()).unwrap_or(Epoch::at(u64::MAX));
        let sequence = self.random.u64(0..self.published + 3);
        match self.random.bool() {
            true => run.text(sequence),
            false => format!("{}-0.{sequence}-1.{sequence}", run.text(0).trim_end_matches("-0")),
        }
    }

    /// Posts a Leave for a topic, whether streams here take it or not.
    fn leave_early(&mut self) {
        let Some(topic) = self.random.choice(&self.topics).cloned() else { return };
        let partition = topic.partition().unwrap_or_default();
        let leave = ToHome::Leave { topic, from: self.random.usize(0..self.homes.len()) as ShardId };
        self.post(0, vec![Post::to_home(partition, self.placement, leave)]);
    }

    /// Ends the streams of a session.
    fn disconnect(&mut self) {
        let Some(topic) = self.topics.iter().rfind(|topic| topic.is_of_session()).cloned() else { return };
        self.unanswered += 1;
        self.post(0, vec![Post::disconnect(topic, self.placement, ticket(0))]);
    }

    /// Delivers one message of a mailbox; returns false when all are empty.
    fn deliver(&mut self) -> bool {
        let shards = self.homes.len();
        let start = self.random.usize(0..shards * shards);
        for n in 0..shards * shards {
            let (from, to) = ((start + n) % (shards * shards) / shards, (start + n) % shards);
            let newest_first = self.canary == Canary::NewestFirst && self.random.u8(0..16) == 0;
            let channel = &mut self.channels[from][to];
            if let Some(message) = if newest_first { channel.pop_back() } else { channel.pop_front() } {
                self.take(to, message);
                return true;
            }
        }
        false
    }

    fn take(&mut self, shard: usize, message: Message) {
        let mut out = Vec::new();
        match message {
            Message::Home(partition, message) => {
                let published = match &message {
                    ToHome::Publish(Publish { topic, events, .. }) => Some((topic.clone(), events.clone())),
                    _ => None,
                };
                self.journal.now_ms = self.now_ms;
                // A publish without room for its topic orders nothing, nor does one that is not final yet.
                let first = self.journal.last()[usize::from(partition)] + 1;
                if self.homes[shard].handle(partition, message, self.now_ms, &mut self.journal, &mut out) > 0
                    && let Some((topic, events)) = published
                {
                    self.model.order(partition.into(), &topic, &events, first);
                }
            }
            Message::Fanout(message) => {
                let joined = matches!(message, ToFanout::Page { page: ReplayPage { joined: true, .. }, .. });
                self.fanouts[shard].handle(message, &mut out);
                if joined && self.random.bool() {
                    self.end_turn(shard);
                }
            }
            Message::Reply(..) => self.unanswered -= 1,
        }
        self.post(shard, out);
    }

    fn post(&mut self, from: usize, out: Vec<Post>) {
        for Post { to, message } in out {
            self.channels[from][usize::from(to)].push_back(message);
        }
    }

    fn end_turn(&mut self, shard: usize) {
        self.fanouts[shard].seal_all();
        let sends_max = self.random.usize(1..10);
        self.send_ready(shard, sends_max);
    }

    /// Runs a turn's own sends, of which the kernel takes all, some or nothing.
    fn send_ready(&mut self, shard: usize, sends_max: usize) -> bool {
        let World { fanouts, clients, random, canary, .. } = self;
        let mut out = Vec::new();
        let more = fanouts[shard].send_ready(sends_max, self.now_ms, &mut out, |index, outgoing| {
            let streams = clients.iter_mut().filter_map(|client| client.stream.as_mut());
            let mut here = streams.filter(|stream| stream.shard == shard && stream.key.index == index);
            let Some(stream) = here.next() else { panic!("sent to nobody") };
            Some(stream.take(outgoing, *canary, random))
        });
        self.post(shard, out);
        more
    }

    fn trim(&mut self, shard: usize) {
        if self.random.bool() {
            self.homes[shard].expire(self.now_ms, 3);
        } else {
            let bytes = self.random.usize(0..2_000);
            self.homes[shard].release(bytes);
        }
    }
}

fn ticket(shard: usize) -> Ticket {
    Ticket { shard: shard as ShardId, connection: no_connection(), request: 0 }
}

fn no_connection() -> Key {
    crate::core::arena::Arena::default().insert(())
}

fn seeds() -> std::ops::Range<u64> {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    match number("ESPER_SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("ESPER_SIM_SEEDS").unwrap_or(400),
    }
}

fn run(seed: u64, canary: Canary) -> std::thread::Result<World> {
    std::panic::catch_unwind(|| World::new(seed, canary).run(4_000))
}

#[test]
fn every_subscriber_sees_every_event_once_in_order_or_is_told_of_the_gap() {
    let (mut events, mut gaps, mut evicted) = (0, 0, 0);
    for seed in seeds() {
        let Ok(world) = run(seed, Canary::None) else {
            panic!("seed {seed} failed; replay it with ESPER_SIM_SEED={seed}");
        };
        events += world.clients.iter().map(|client| client.events).sum::<usize>();
        gaps += world.clients.iter().map(|client| client.gaps).sum::<usize>();
        evicted += world.fanouts.iter().map(|fanout| fanout.evicted).sum::<u64>();
    }
    // A simulation in which nothing happens proves nothing.
    if seeds().count() > 100 {
        assert!(
            events > 10_000 && gaps > 100 && evicted > 100,
            "{events} events, {gaps} gaps, {evicted} evicted"
        );
    }
}

#[test]
fn the_simulation_finds_each_bug_that_is_put_in() {
    for canary in [
        Canary::EarlyHead,
        Canary::NewestFirst,
        Canary::RestDropped,
        Canary::SentTwice,
        Canary::LostWake,
        Canary::LostRoom,
        Canary::EarlyLeave,
        Canary::GapUntold,
        Canary::FinalTooEarly,
    ] {
        let found = (0..400).find(|seed| run(*seed, canary).is_err());
        assert!(found.is_some(), "{canary:?} was not noticed");
    }
}
