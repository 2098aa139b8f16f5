//! The shipped [`Outbound`] and [`Inbound`] of several nodes against a model of JetStream, whose messages and answers are
//! delayed, repeated, reordered and lost, under a seed.
//!
//! What must hold: every node applies the same events in the same order; an event that its publisher is told of was
//! stored once; what is not answered 504 is applied or refused; publishes of one node to one partition keep their order,
//! unless one of them was given up.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;

use super::inbound::{Inbound, ReadMessage, StreamMessage};
use super::message::{MessageItem, decode};
use super::outbound::{Ack, GIVE_UP_MS, OutMessage, Outbound, Wish};
use crate::core::budget::Budget;
use crate::core::event::{EventLimits, Events};
use crate::core::event_id::Epoch;
use crate::core::message::{OrderError, Publish, ReplyTo};
use crate::core::partition::PartitionId;
use crate::core::topic::{Topic, TopicHasher};

const NODES: usize = 3;
const PARTITIONS: u8 = 4;
/// Steps with faults, and the most without, after which everything must be settled.
const STEPS: u64 = 400;
const CALM_STEPS: u64 = 400;
/// Milliseconds of a step.
const STEP_MS: u64 = 250;
/// Bytes of a message: small, so that publishes wait for the next one.
const BYTES_MAX: usize = 1200;

/// A bug put in on purpose, to see that the simulation looks.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum ClusterCanary {
    None,
    /// A message that is sent again has another number.
    OtherNumber,
    /// A message that was sent again is refused as if nothing of it could be stored.
    FirmRefusal,
    /// The stream forgets which numbers it has.
    NoDuplicates,
    /// A node reads past a message.
    SkippedMessage,
}

/// One node, and what became of its wishes, by the number of each.
struct Node {
    outbound: Outbound,
    inbound: Inbound,
    /// Those that were wished, in order, by partition.
    wished: HashMap<PartitionId, Vec<u64>>,
    /// Those that came back, in order, by partition.
    came_back: HashMap<PartitionId, Vec<u64>>,
    given_up: HashSet<u64>,
    refused: HashSet<u64>,
    /// What it applied, of all nodes.
    applied: Vec<u64>,
    /// It reads nothing until then.
    paused_until_ms: u64,
}

/// JetStream: what it stored, and the numbers it knows.
#[derive(Default)]
struct StoredStream {
    messages: Vec<(PartitionId, Bytes)>,
    known: HashSet<(usize, u64)>,
}

/// Something under way between a node and the stream.
enum Packet {
    Message(usize, OutMessage),
    Ack(usize, u64, Ack),
}

struct World {
    random: fastrand::Rng,
    canary: ClusterCanary,
    nodes: Vec<Node>,
    stream: StoredStream,
    network: Vec<Packet>,
    hasher: TopicHasher,
    now_ms: u64,
    last_wish: u64,
}

impl World {
    fn new(seed: u64, canary: ClusterCanary) -> Self {
        let epoch = Epoch::at(7);
        let node = |number| Node {
            outbound: Outbound::new(epoch, number, PARTITIONS, BYTES_MAX),
            inbound: Inbound::new(0, (0, epoch, Vec::new())),
            wished: HashMap::new(),
            came_back: HashMap::new(),
            given_up: HashSet::new(),
            refused: HashSet::new(),
            applied: Vec::new(),
            paused_until_ms: 0,
        };
        World {
            random: fastrand::Rng::with_seed(seed),
            canary,
            nodes: (0..NODES as u64).map(node).collect(),
            stream: StoredStream::default(),
            network: Vec::new(),
            hasher: TopicHasher::of(PARTITIONS),
            now_ms: 0,
            last_wish: 0,
        }
    }

    fn run(&mut self) {
        for step in 0..STEPS + CALM_STEPS {
            let is_calm = step >= STEPS;
            self.now_ms += STEP_MS;
            if !is_calm {
                for _ in 0..self.random.usize(0..4) {
                    self.wish();
                }
            }
            for node in 0..NODES {
                self.send(node);
            }
            self.carry(is_calm);
            for node in 0..NODES {
                self.read(node, is_calm);
            }
        }
        self.check();
    }

    fn wish(&mut self) {
        self.last_wish += 1;
        let number = self.last_wish;
        let topic = format!("topicnumber{}", self.random.u8(0..12));
        let topic = Topic::parse(topic.as_bytes(), &self.hasher).unwrap();
        let padding = "x".repeat(self.random.usize(0..300));
        let text = format!("data:{number}\ndata:{padding}\n\n");
        let events = Events::parse(text.into(), &EventLimits::of(1 << 20)).unwrap();
        let charge = Budget::new(1 << 30, 1 << 30).take(1).unwrap();
        let partition = topic.partition().unwrap();
        let publish = Publish { topic, events, reply: ReplyTo::Nobody, at_us: 0, charge, key: None };
        let node = &mut self.nodes[self.random.usize(0..NODES)];
        node.wished.entry(partition).or_default().push(number);
        assert!(node.outbound.push(partition, Wish::Publish(publish)).is_none());
    }

    fn send(&mut self, node: usize) {
        let (again, given_up) = self.nodes[node].outbound.overdue(self.now_ms);
        for (_, wishes) in given_up {
            let numbers = wishes.iter().map(number_of);
            self.nodes[node].given_up.extend(numbers);
        }
        let next = self.nodes[node].outbound.next(self.now_ms, self.now_ms, |_| 0);
        for mut message in again {
            if self.canary == ClusterCanary::OtherNumber {
                message.number += 1 << 40;
            }
            self.network.push(Packet::Message(node, message));
        }
        self.network.extend(next.into_iter().map(|message| Packet::Message(node, message)));
    }

    /// Delivers some of what is under way, in any order, and loses and repeats some; all of it when it is calm.
    fn carry(&mut self, is_calm: bool) {
        self.random.shuffle(&mut self.network);
        let packets = std::mem::take(&mut self.network);
        for packet in packets {
            match self.random.u8(0..10) {
                0 if !is_calm => {}
                1..=3 if !is_calm => self.network.push(packet),
                5 if !is_calm => {
                    if let Packet::Ack(node, number, ack) = &packet {
                        self.network.push(Packet::Ack(*node, *number, *ack));
                    }
                    self.deliver(packet, is_calm);
                }
                _ => self.deliver(packet, is_calm),
            }
        }
    }

    fn deliver(&mut self, packet: Packet, is_calm: bool) {
        match packet {
            Packet::Message(node, OutMessage { partition, number, payload }) => {
                let ack = match self.random.u8(0..12) {
                    0 if !is_calm => Ack::Again,
                    1 if !is_calm && !self.stream.known.contains(&(node, number)) => {
                        Ack::Refused(OrderError::StreamFull)
                    }
                    _ => Ack::Stored,
                };
                let is_new =
                    self.canary == ClusterCanary::NoDuplicates || self.stream.known.insert((node, number));
                if ack == Ack::Stored && is_new {
                    self.stream.messages.push((partition, payload));
                } else if is_new && ack != Ack::Stored {
                    // A message that it did not store, JetStream does not know.
                    self.stream.known.remove(&(node, number));
                }
                self.network.push(Packet::Ack(node, number, ack));
            }
            Packet::Ack(node, number, ack) => {
                let node = &mut self.nodes[node];
                if let Some((_, wishes, error)) = node.outbound.acknowledged(number, ack) {
                    let is_firm =
                        error != OrderError::Unconfirmed || self.canary == ClusterCanary::FirmRefusal;
                    let settled = if is_firm { &mut node.refused } else { &mut node.given_up };
                    settled.extend(wishes.iter().map(number_of));
                }
            }
        }
    }

    /// Has a node read some of what the stream has.
    fn read(&mut self, node: usize, is_calm: bool) {
        if !is_calm && self.random.u8(0..40) == 0 {
            self.nodes[node].paused_until_ms = self.now_ms + self.random.u64(0..12_000);
        }
        let Node { inbound, paused_until_ms, .. } = &self.nodes[node];
        if !is_calm && *paused_until_ms > self.now_ms {
            return;
        }
        let (from, all) = (inbound.last() as usize, self.stream.messages.len());
        let count = if is_calm { all - from } else { self.random.usize(0..=all - from) };
        for at in from..from + count {
            if self.canary == ClusterCanary::SkippedMessage && self.random.u8(0..50) == 0 {
                continue;
            }
            let (partition, payload) = self.stream.messages[at].clone();
            let message = StreamMessage {
                number: at as u64 + 1,
                partition: Some(partition),
                at_ms: self.now_ms,
                payload,
            };
            // The reader begins again somewhere before, now and then.
            let repeated =
                self.nodes[node].inbound.take(&message).map(|read| self.apply(node, partition, read));
            assert!(repeated.is_some());
            assert!(self.nodes[node].inbound.take(&message).is_none());
        }
    }

    fn apply(&mut self, node: usize, partition: PartitionId, read: ReadMessage) {
        assert_eq!(read.missed, None, "a message was skipped");
        let head = read.head.unwrap();
        let state = &mut self.nodes[node];
        let numbers: Vec<u64> = read.items.iter().map(number_of_item).collect();
        state.applied.extend(&numbers);
        if head.node == node as u64
            && let Some(wishes) = state.outbound.came_back(head.number)
        {
            let own: Vec<u64> = wishes.iter().map(number_of).collect();
            assert_eq!(own, numbers, "the wishes of a message are those it has");
            state.came_back.entry(partition).or_default().extend(own);
        }
    }

    fn check(&self) {
        let stored: Vec<u64> = self
            .stream
            .messages
            .iter()
            .flat_map(|(partition, payload)| {
                let (_, items) = decode(payload, *partition).unwrap();
                items.iter().map(number_of_item).collect::<Vec<_>>()
            })
            .collect();
        let mut times: HashMap<u64, u32> = HashMap::new();
        stored.iter().for_each(|number| *times.entry(*number).or_default() += 1);
        assert!(times.values().all(|times| *times == 1), "stored twice");
        for node in &self.nodes {
            assert_eq!(node.applied, stored, "all apply what is stored, in its order");
            assert!(node.outbound.is_empty(), "everything is settled {GIVE_UP_MS} ms after the last fault");
            for (partition, wished) in &node.wished {
                let came_back = node.came_back.get(partition).map_or(&[][..], Vec::as_slice);
                let lost = wished.iter().find(|number| {
                    !came_back.contains(number)
                        && !node.given_up.contains(number)
                        && !node.refused.contains(number)
                });
                assert_eq!(lost, None, "answered nothing");
                assert!(came_back.iter().all(|number| times.contains_key(number)));
                assert!(node.refused.iter().all(|number| !times.contains_key(number)), "refused and stored");
                // In the order of the wishes: only what was given up may have been stored late.
                assert!(came_back.is_sorted(), "out of order");
            }
        }
    }
}

fn number_of(wish: &Wish) -> u64 {
    let Wish::Publish(publish) = wish else { panic!("{wish:?}") };
    number_in(&publish.events)
}

fn number_of_item(item: &MessageItem) -> u64 {
    let MessageItem::Publish(publish) = item else { panic!("{item:?}") };
    number_in(&publish.events)
}

fn number_in(events: &Events) -> u64 {
    let lines = events.iter().next().unwrap().lines;
    let text = str::from_utf8(lines).unwrap();
    text.lines().next().unwrap().strip_prefix("data:").unwrap().parse().unwrap()
}

fn seeds() -> u64 {
    std::env::var("ESPER_CLUSTER_SEEDS").ok().map_or(100, |seeds| seeds.parse().unwrap())
}

#[test]
fn what_is_answered_is_stored_once_and_applied_in_one_order_whatever_the_network_does() {
    for seed in 0..seeds() {
        let result = std::panic::catch_unwind(|| World::new(seed, ClusterCanary::None).run());
        assert!(result.is_ok(), "seed {seed}");
    }
}

#[test]
fn bugs_put_in_on_purpose_are_found() {
    for canary in [
        ClusterCanary::OtherNumber,
        ClusterCanary::FirmRefusal,
        ClusterCanary::NoDuplicates,
        ClusterCanary::SkippedMessage,
    ] {
        let found =
            (0..50).find(|seed| std::panic::catch_unwind(|| World::new(*seed, canary).run()).is_err());
        assert!(found.is_some(), "{canary:?} is not found");
    }
}
