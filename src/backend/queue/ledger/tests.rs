//! Cases by hand, and a random run of a queue, its brokers and its client, with checks of what each may see.

use std::collections::{HashMap, VecDeque};

use proptest::prelude::*;

use super::*;

const LIMITS: AckLimits = AckLimits { prefetch: 8, ack_window: 3, ack_delay_ms: 1000 };

fn body(text: &str) -> MessageName {
    MessageName::new(None, &[text.as_bytes()])
}

/// Returns a ledger that has received, handed over and sent these messages at 0 ms.
fn sent(limits: AckLimits, bodies: &str) -> Ledger {
    let mut ledger = Ledger::new(limits, None, Occurrences::default());
    receive(&mut ledger, bodies, false);
    ledger.resume(0);
    hand_over(&mut ledger, bodies.len());
    ledger.sent(bodies.len() as u64, 0);
    ledger
}

/// Receives messages whose bodies are these letters; tags count on.
fn receive(ledger: &mut Ledger, bodies: &str, redelivered: bool) -> Vec<String> {
    let first = ledger.received() + 1;
    let one =
        |(tag, letter): (u64, char)| ledger.receive(tag, body(&letter.to_string()), redelivered).to_string();
    (first..).zip(bodies.chars()).map(one).collect()
}

fn hand_over(ledger: &mut Ledger, count: usize) {
    for _ in 0..count {
        ledger.hand_over();
    }
}

#[test]
fn a_message_is_acknowledged_when_a_window_of_newer_ones_was_sent() {
    let mut ledger = sent(LIMITS, "abcd");
    assert_eq!(ledger.acknowledge(0), None, "one is due, and half of what may be due is two");
    receive(&mut ledger, "e", false);
    ledger.hand_over();
    assert_eq!(ledger.acknowledge(0), None);
    ledger.sent(5, 0);
    assert_eq!(ledger.acknowledge(0), Some(Acknowledged { tag: 2, count: 2, unsent: 0 }));
    assert_eq!(ledger.acknowledge(0), None);
}

#[test]
fn a_message_is_acknowledged_when_its_stream_has_lived_long_enough() {
    let mut ledger = sent(LIMITS, "a");
    receive(&mut ledger, "b", false);
    ledger.hand_over();
    ledger.sent(2, 400);
    assert_eq!((ledger.due_at_ms(), ledger.acknowledge(999)), (Some(1000), None));
    assert_eq!(ledger.acknowledge(1000), Some(Acknowledged { tag: 1, count: 1, unsent: 0 }));
    assert_eq!((ledger.due_at_ms(), ledger.acknowledge(1399)), (Some(1400), None));
    assert_eq!(ledger.acknowledge(1400), Some(Acknowledged { tag: 2, count: 1, unsent: 0 }));
    assert_eq!((ledger.due_at_ms(), ledger.is_empty()), (None, true));
}

#[test]
fn what_was_not_sent_is_never_acknowledged() {
    let mut ledger = sent(LIMITS, "ab");
    receive(&mut ledger, "cdefgh", false);
    ledger.hand_over();
    assert_eq!(ledger.acknowledge(1_000_000), Some(Acknowledged { tag: 2, count: 2, unsent: 0 }));
    assert_eq!(ledger.acknowledge(1_000_000), None);
    // Messages that were not handed over do not count as sent.
    ledger.sent(100, 1_000_000);
    assert_eq!(ledger.acknowledge(2_000_000), Some(Acknowledged { tag: 3, count: 1, unsent: 0 }));
    assert_eq!((ledger.acknowledge(9_000_000), ledger.due_at_ms()), (None, None));
}

#[test]
fn what_a_client_has_is_acknowledged_unsent() {
    let ids = receive(&mut Ledger::new(LIMITS, None, Occurrences::default()), "abc", true);
    let mut ledger = Ledger::new(LIMITS, Some(&ids[1]), Occurrences::default());
    receive(&mut ledger, "abc", true);
    receive(&mut ledger, "d", false);
    assert_eq!(ledger.resume(7), 2);
    assert_eq!(ledger.acknowledge(7), Some(Acknowledged { tag: 2, count: 2, unsent: 2 }));
    assert_eq!(ledger.hand_over(), 1);
    ledger.sent(1, 8);
    assert_eq!(ledger.acknowledge(1008), Some(Acknowledged { tag: 3, count: 1, unsent: 0 }));
}

#[test]
fn an_id_of_nobody_or_of_a_message_that_nobody_has_had_resumes_nothing() {
    let ids = receive(&mut Ledger::new(LIMITS, None, Occurrences::default()), "ab", true);
    for (last_event_id, redelivered) in [("x", true), ("", true), (&*ids[0], false)] {
        let mut ledger = Ledger::new(LIMITS, Some(last_event_id), Occurrences::default());
        receive(&mut ledger, "ab", redelivered);
        assert_eq!((ledger.resume(0), ledger.acknowledge(0)), (0, None), "{last_event_id}");
    }
}

#[test]
fn equal_messages_have_ids_of_their_own_and_are_acknowledged_together() {
    let mut ledger = sent(LIMITS, "aab");
    let ids: Vec<_> = ledger.entries.iter().map(|entry| entry.id.to_string()).collect();
    assert!(ids[0].ends_with("-0") && ids[1].ends_with("-1") && ids[2].ends_with("-0"), "{ids:?}");
    receive(&mut ledger, "ac", false);
    hand_over(&mut ledger, 2);
    ledger.sent(5, 500);
    // Two a are due; the third, which is not, keeps all of them.
    assert_eq!(ledger.acknowledge(1000), None);
    assert_eq!(ledger.acknowledge(1500), Some(Acknowledged { tag: 5, count: 5, unsent: 0 }));
}

#[test]
fn equal_messages_do_not_stop_a_queue() {
    let mut ledger = sent(LIMITS, "aaaaaaaa");
    assert_eq!(ledger.acknowledge(0), Some(Acknowledged { tag: 8, count: 8, unsent: 0 }));
    // Nor do they wait so long that the broker takes its consumer for dead.
    let mut ledger = sent(LIMITS, "ab");
    for now_ms in (0..1_000_000).step_by(900) {
        receive(&mut ledger, "b", false);
        ledger.hand_over();
        ledger.sent(ledger.handed, now_ms);
        ledger.acknowledge(now_ms);
        assert!(ledger.entries.len() <= LIMITS.prefetch);
    }
    let roomy = AckLimits { prefetch: 10_000, ack_window: 9000, ..LIMITS };
    let mut ledger = sent(roomy, "a");
    let ended = (0..2_000_000).step_by(900).find(|&now_ms| {
        receive(&mut ledger, "a", false);
        ledger.hand_over();
        ledger.sent(ledger.handed, now_ms);
        ledger.acknowledge(now_ms).is_some()
    });
    assert!(ended.is_some_and(|ended_ms| ended_ms < 20 * 60 * 1000), "{ended:?}");
}

/// The client's last message is acknowledged; an equal one comes and is lost with the connection.
#[test]
fn a_message_is_not_taken_for_an_equal_one_that_the_client_had() {
    let mut ledger = sent(LIMITS, "a");
    let had = ledger.entries[0].id.to_string();
    assert!(ledger.acknowledge(1000).is_some());
    assert!(ledger.has_issued(&had));
    let lost = receive(&mut ledger, "ba", false);
    hand_over(&mut ledger, 2);
    ledger.sent(2, 2000);
    let mut next = Ledger::new(LIMITS, Some(&had), ledger.occurrences());
    assert_eq!(receive(&mut next, "ba", true), lost);
    assert_eq!(next.resume(0), 0);
}

#[test]
fn ids_that_may_be_the_clients_are_known() {
    let mut ledger = sent(LIMITS, "ab");
    let [a, b] = [0, 1].map(|at| ledger.entries[at].id.to_string());
    let c = receive(&mut ledger, "c", false).remove(0);
    assert!(
        ledger.has_issued(&a) && ledger.has_issued(&b) && !ledger.has_issued(&c) && !ledger.has_issued("")
    );
    ledger.acknowledge(1000);
    assert!(!ledger.has_issued(&a) && ledger.has_issued(&b));
}

/// A queue with its broker, a client, and the one stream between them.
struct QueueModel {
    limits: AckLimits,
    /// Whether the next stream is on this node and so knows what the last one left.
    same_node: bool,
    published: usize,
    /// Messages in the queue, by their number; those delivered before are `redelivered`.
    queue: VecDeque<Queued>,
    unacknowledged: VecDeque<(u64, Queued)>,
    ledger: Ledger,
    /// Received and not handed over.
    waiting: VecDeque<(usize, String)>,
    /// Handed over; sent messages move to `wire`, with the time.
    handed: VecDeque<(usize, String)>,
    wire: VecDeque<(usize, String, u64)>,
    sent: u64,
    tag: u64,
    now_ms: u64,
    last_event_id: Option<String>,
    /// The messages that the page got since it was loaded.
    got: Vec<usize>,
    seen: Vec<bool>,
    ids: HashMap<usize, String>,
    all_unlike: bool,
}

#[derive(Clone, Debug)]
struct Queued {
    number: usize,
    name: MessageName,
    redelivered: bool,
}

#[derive(Clone, Copy, Debug)]
enum QueueStep {
    Publish(u8),
    Deliver(u8),
    HandOver(u8),
    Send(u8),
    Receive(u8),
    Pass(u16),
    Die,
    Reload,
}

impl QueueModel {
    fn new(limits: AckLimits, same_node: bool, all_unlike: bool) -> Self {
        Self {
            limits,
            same_node,
            published: 0,
            queue: VecDeque::new(),
            unacknowledged: VecDeque::new(),
            ledger: Ledger::new(limits, None, Occurrences::default()),
            waiting: VecDeque::new(),
            handed: VecDeque::new(),
            wire: VecDeque::new(),
            sent: 0,
            tag: 0,
            now_ms: 0,
            last_event_id: None,
            got: Vec::new(),
            seen: Vec::new(),
            ids: HashMap::new(),
            all_unlike,
        }
    }

    fn step(&mut self, step: QueueStep) {
        match step {
            QueueStep::Publish(kind) => {
                let text =
                    if self.all_unlike { format!("{}", self.published) } else { format!("{}", kind % 3) };
                // Some messages have ids of their own, and some publishers use one twice.
                let own = (kind % 2 == 0).then_some(&*text);
                let name = MessageName::new(own, &[text.as_bytes()]);
                self.queue.push_back(Queued { number: self.published, name, redelivered: false });
                self.published += 1;
                self.seen.push(false);
            }
            QueueStep::Deliver(count) => (0..count).for_each(|_| self.deliver()),
            QueueStep::HandOver(count) => {
                for _ in 0..count {
                    let Some(message) = self.waiting.pop_front() else { break };
                    self.ledger.hand_over();
                    self.handed.push_back(message);
                }
            }
            QueueStep::Send(count) => {
                for _ in 0..count {
                    let Some((number, id)) = self.handed.pop_front() else { break };
                    let due_at_sent = self.ledger.due_at_sent();
                    self.wire.push_back((number, id, self.now_ms));
                    self.sent += 1;
                    // A connection holds less than a window of messages.
                    while self.wire.len() as u64 > self.limits.ack_window {
                        self.receive();
                    }
                    self.ledger.sent(self.sent, self.now_ms);
                    let acknowledged = self.acknowledge();
                    // A stream looks again at that number. Equal messages may be due sooner, and can wait till then.
                    assert!(acknowledged == 0 || self.sent >= due_at_sent || !self.all_unlike);
                }
            }
            QueueStep::Receive(count) => (0..count).for_each(|_| self.receive()),
            QueueStep::Pass(ms) => {
                self.now_ms += u64::from(ms);
                // Nor is a message in transit for that long: the connection would have ended.
                while self.wire.front().is_some_and(|(_, _, at)| at + self.limits.ack_delay_ms <= self.now_ms)
                {
                    self.receive();
                }
                self.acknowledge();
            }
            QueueStep::Die => self.reconnect(),
            QueueStep::Reload => {
                self.last_event_id = None;
                self.got.clear();
                self.reconnect();
            }
        }
    }

    fn deliver(&mut self) {
        if self.unacknowledged.len() >= self.limits.prefetch {
            return;
        }
        let Some(message) = self.queue.pop_front() else { return };
        self.tag += 1;
        let id = self.ledger.receive(self.tag, message.name.clone(), message.redelivered).to_string();
        let known = self.ids.entry(message.number).or_insert_with(|| id.clone());
        assert_eq!(*known, id, "message {} changed its id", message.number);
        self.waiting.push_back((message.number, id));
        self.unacknowledged.push_back((self.tag, message));
    }

    /// Delivers to the client the next message in transit.
    fn receive(&mut self) {
        let Some((number, id, _)) = self.wire.pop_front() else { return };
        match self.got.last() {
            Some(last) => assert_eq!(number, last + 1, "got {:?}", self.got),
            // A reloaded page gets the messages that were not known to be received, and none later.
            None => assert!(self.seen[..number].iter().all(|seen| *seen), "{number} before others"),
        }
        self.got.push(number);
        self.seen[number] = true;
        self.last_event_id = Some(id);
    }

    fn acknowledge(&mut self) -> u64 {
        let mut count = 0;
        while let Some(acknowledged) = self.ledger.acknowledge(self.now_ms) {
            count += acknowledged.count;
            for _ in 0..acknowledged.count {
                let (tag, message) = self.unacknowledged.pop_front().unwrap();
                assert!(tag <= acknowledged.tag);
                while !self.seen[message.number] && !self.wire.is_empty() {
                    // Many equal messages are acknowledged once they are sent, because nothing else is possible.
                    assert!(!self.all_unlike, "{} was acknowledged and not received", message.number);
                    self.receive();
                }
                assert!(self.seen[message.number]);
            }
        }
        count
    }

    fn reconnect(&mut self) {
        let previous = if self.same_node { self.ledger.occurrences() } else { Occurrences::default() };
        while let Some((_, message)) = self.unacknowledged.pop_back() {
            self.queue.push_front(Queued { redelivered: true, ..message });
        }
        self.waiting.clear();
        self.handed.clear();
        self.wire.clear();
        self.sent = 0;
        self.ledger = Ledger::new(self.limits, self.last_event_id.as_deref(), previous);
        (0..self.limits.prefetch).for_each(|_| self.deliver());
        let had = self.ledger.resume(self.now_ms);
        for (number, _) in self.waiting.drain(..had) {
            assert!(self.got.contains(&number), "{number} was acknowledged unsent");
        }
        self.acknowledge();
    }

    /// Runs until every message is delivered and acknowledged.
    fn finish(&mut self) {
        while !(self.queue.is_empty() && self.ledger.is_empty()) {
            let rest = [
                QueueStep::Deliver(8),
                QueueStep::HandOver(8),
                QueueStep::Send(8),
                QueueStep::Receive(8),
                QueueStep::Pass(500),
            ];
            rest.into_iter().for_each(|step| self.step(step));
        }
        assert!(self.seen.iter().all(|seen| *seen));
    }
}

fn steps() -> impl Strategy<Value = Vec<QueueStep>> {
    let step = prop_oneof![
        6 => any::<u8>().prop_map(QueueStep::Publish),
        4 => (1..4u8).prop_map(QueueStep::Deliver),
        4 => (1..4u8).prop_map(QueueStep::HandOver),
        4 => (1..4u8).prop_map(QueueStep::Send),
        3 => (1..4u8).prop_map(QueueStep::Receive),
        2 => (1..1500u16).prop_map(QueueStep::Pass),
        2 => Just(QueueStep::Die),
        1 => Just(QueueStep::Reload),
    ];
    prop::collection::vec(step, 1..200)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn every_message_is_received_once_in_order_on_whatever_node(steps in steps()) {
        let mut model = QueueModel::new(LIMITS, false, true);
        steps.into_iter().for_each(|step| model.step(step));
        model.finish();
    }

    #[test]
    fn equal_messages_are_received_once_in_order_on_one_node(steps in steps()) {
        let mut model = QueueModel::new(LIMITS, true, false);
        steps.into_iter().for_each(|step| model.step(step));
        model.finish();
    }

    #[test]
    fn every_window_keeps_a_queue_going((window, room) in (1..6u64, 1..6usize), steps in steps()) {
        let prefetch = room + window as usize;
        let limits = AckLimits { prefetch, ack_window: window, ack_delay_ms: 1000 };
        let mut model = QueueModel::new(limits, false, true);
        steps.into_iter().for_each(|step| model.step(step));
        model.finish();
    }
}
