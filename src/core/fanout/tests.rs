mod cluster;
mod ending;
mod queue;
mod several;
mod slow;
mod turns;

use std::slice;
use std::sync::Arc;

use bytes::Bytes;

use super::ending::Ended;
use super::logs::TopicLog;
use super::sending::Outgoing;
use super::turn::{LAG_PARTS, LINE_BYTES_MAX, SEND_BYTES_OF_WORK, SPARE_LISTS_MAX, TOPIC_WORK_PER_TURN};
use super::*;
use crate::core::chunk::Framing;
use crate::core::chunk::{Chunk, Mark};
use crate::core::delivery_count::DeliveryCount;
use crate::core::epochs::Epochs;
use crate::core::event_id::Epoch;
use crate::core::fanout::subscriber::Opening;
use crate::core::message::{CountFor, Message, Reply, Ticket};
use crate::core::partition::Placement;
use crate::core::sent_count::SentCount;
use crate::core::topic::TopicHasher;

const LIMITS: FanoutLimits = FanoutLimits {
    lag_bytes_max: 1000,
    epochs: None,
    skip_slow: false,
    heartbeat_ms: 1000,
    send_timeout_ms: 5000,
    retry_min_ms: 10,
    retry_max_ms: 20,
};

/// More than any test holds, except the one about memory.
const MEMORY_BYTES: usize = 100_000;

struct Tester {
    fanout: Fanout,
    memory: Arc<Memory>,
    hasher: TopicHasher,
    out: Vec<Post>,
    now_ms: u64,
    at_us: u64,
    sequence: u64,
}

impl Tester {
    fn new(limits: FanoutLimits) -> Self {
        Self::with_partitions(limits, 1)
    }

    fn with_partitions(limits: FanoutLimits, partitions: u8) -> Self {
        let memory = Memory::new(MEMORY_BYTES);
        Tester {
            fanout: Fanout::new(0, Placement::new(partitions, 1), limits, Arc::clone(&memory), 0),
            memory,
            hasher: TopicHasher::of(partitions),
            out: Vec::new(),
            now_ms: 0,
            at_us: 0,
            sequence: 0,
        }
    }

    fn topic(&self, n: usize) -> Topic {
        Topic::parse(format!("topicnumber{n}").as_bytes(), &self.hasher).unwrap()
    }

    fn subscribe(&mut self, topic: usize, expires_s: u64) -> Key {
        self.subscribe_to(&[self.topic(topic)], expires_s)
    }

    fn subscribe_to(&mut self, topics: &[Topic], expires_s: u64) -> Key {
        self.fanout.subscribe(subscription(topics, expires_s), self.now_ms, &mut self.out)
    }

    /// Returns the stream of a queue, its topic, and the count of messages sent on it.
    fn follow(&mut self) -> (Key, Topic, Arc<SentCount>) {
        let (topic, sent) = (Topic::of_queue(7, &self.hasher), Arc::<SentCount>::default());
        let subscription = subscription(slice::from_ref(&topic), u64::MAX);
        (self.fanout.follow(subscription, Arc::clone(&sent), self.now_ms), topic, sent)
    }

    /// Returns a subscriber that was sent its head and is idle.
    fn idle(&mut self, topic: usize, expires_s: u64) -> Key {
        self.idle_on(&[self.topic(topic)], expires_s)
    }

    fn idle_on(&mut self, topics: &[Topic], expires_s: u64) -> Key {
        let key = self.subscribe_to(topics, expires_s);
        self.page(key, &[], true);
        assert_eq!(self.send(key), "HEAD\n");
        self.sent(key);
        assert_eq!(self.send(key), "");
        key
    }

    /// Returns a stream whose send is under way, and whose log was trimmed past it meanwhile.
    fn left_behind(&mut self) -> Key {
        let key = self.idle(1, u64::MAX);
        self.gain(1, "begun\n\n");
        self.fanout.seal_all();
        assert_eq!(self.send(key), "begun\n\n");
        for _ in 0..4 {
            self.gain(1, &"x".repeat(600));
            self.fanout.seal_all();
        }
        key
    }

    fn page(&mut self, key: Key, frames: &[&'static str], joined: bool) {
        self.page_of(key, 0, frames, joined);
    }

    fn page_of(&mut self, key: Key, partition: PartitionId, frames: &[&'static str], joined: bool) {
        let frames = frames.iter().map(|frame| Bytes::from_static(frame.as_bytes())).collect();
        let page = ReplayPage { gap: None, frames, upto: 7, told: 0, joined };
        self.fanout.handle(ToFanout::Page { key, partition, page }, &mut Vec::new());
    }

    fn gain(&mut self, topic: usize, frame: &str) {
        self.gain_on(self.topic(topic), frame);
    }

    /// Has a topic gain a frame; returns the work of that.
    fn gain_on(&mut self, topic: Topic, frame: &str) -> usize {
        self.gain_in(topic.partition(), topic, frame)
    }

    fn gain_in(&mut self, partition: Option<PartitionId>, topic: Topic, frame: &str) -> usize {
        self.sequence += 1;
        let end = frame.len() as u32;
        let mark = Mark { sequence: self.sequence, end, id_at: end.saturating_sub(1) };
        let message = ToFanout::Events {
            partition,
            topics: [topic].into(),
            frames: Chunk::of([frame.as_bytes()], frame.len(), &self.memory),
            marks: [mark].into(),

            published_to: None,
            count: 1,
            last: self.sequence,
            at_us: self.at_us,
            charge: None,
            delivery_count: None,
        };
        self.fanout.handle(message, &mut Vec::new())
    }

    /// Has a topic gain an event that is emitted; returns the streams that it is answered with, and the work.
    fn emit(&mut self, topic: Topic) -> (u32, usize) {
        let ticket = Ticket { shard: 0, connection: Arena::default().insert(()), request: 1 };
        let mut out = Vec::new();
        let message = ToFanout::Events {
            partition: topic.partition(),
            topics: [topic].into(),
            frames: Chunk::of([&b"x"[..]], 1, &self.memory),
            marks: [Mark { sequence: 1, end: 1, id_at: 0 }].into(),

            published_to: None,
            count: 1,
            last: 1,
            at_us: 0,
            charge: None,
            delivery_count: Some(DeliveryCount::new(CountFor::Connection(ticket), None)),
        };
        let work = self.fanout.handle(message, &mut out);
        let [Post { message: Message::Reply(_, Reply::Disconnected(streams)), .. }] = &out[..] else {
            panic!("{out:?}")
        };
        (*streams, work)
    }

    /// Makes a turn of one event on a topic.
    fn block_on(&mut self, topic: &Topic, frame: &str) {
        self.gain_on(topic.clone(), frame);
        self.fanout.seal_all();
    }

    /// Returns the log of a topic of one partition or of none.
    fn log(&self, topic: &Topic) -> &TopicLog {
        &self.fanout.logs[self.fanout.logs.of_part(topic, topic.partition())[0]]
    }

    fn next(&mut self, key: Key) -> Next {
        self.fanout.next(key, self.now_ms)
    }

    /// Returns the text that the subscriber is sent now; nothing when it waits.
    fn send(&mut self, key: Key) -> String {
        match self.next(key) {
            Next::Send(Outgoing { buffers, .. }) => String::from_utf8(buffers.concat()).unwrap(),
            Next::Wait => String::new(),
            Next::Close | Next::Cut => "CLOSE".to_owned(),
        }
    }

    fn sent(&mut self, key: Key) {
        self.fanout.sent(key, self.now_ms, &mut self.out);
    }

    /// Runs the turn's sends with a kernel that takes nothing; returns the streams that were to be sent something, and
    /// whether more wait.
    fn send_ready(&mut self, work_max: usize) -> (Vec<u32>, bool) {
        let mut sent_to = Vec::new();
        let more = self.fanout.send_ready(work_max, self.now_ms, &mut self.out, |index, _| {
            sent_to.push(index);
            Some(0)
        });
        (sent_to, more)
    }

    fn sweep(&mut self, unix_s: u64) {
        self.fanout.sweep(1, self.now_ms, unix_s);
    }

    /// Returns how many streams were woken since it was asked last.
    fn wakes(&mut self) -> usize {
        std::iter::from_fn(|| self.fanout.take_woken()).count()
    }
}

fn subscription(topics: &[Topic], expires_s: u64) -> Subscription {
    Subscription {
        terms: StreamTerms { expires_s, ..StreamTerms::of(topics.into()) },
        framing: Framing::Plain,
        opening: Opening { head: "HEAD\n".into(), refusal: "NO\n".into(), tells_place: false },
    }
}

#[test]
fn nothing_is_sent_before_home_has_answered_the_join() {
    let mut tester = Tester::new(LIMITS);
    let key = tester.subscribe(1, u64::MAX);
    assert!(matches!(&tester.out[..], [Post { to: 0, message: Message::Home(0, ToHome::Join { .. }) }]));
    tester.gain(1, "early\n\n");
    tester.fanout.seal_all();
    assert_eq!(tester.send(key), "");
    tester.page(key, &["page\n\n"], true);
    assert_eq!(tester.wakes(), 1);
    assert_eq!(tester.send(key), "HEAD\npage\n\n", "and what came before the seam is in the page");
}

#[test]
fn a_page_is_asked_for_when_the_last_one_is_sent() {
    let mut tester = Tester::new(LIMITS);
    let key = tester.subscribe(1, u64::MAX);
    tester.page(key, &["one\n\n"], false);
    assert_eq!(tester.send(key), "HEAD\none\n\n");
    tester.out.clear();
    assert_eq!(tester.send(key), "", "one send at a time");
    assert!(tester.out.is_empty());
    tester.sent(key);
    assert!(matches!(
        &tester.out[..],
        [Post { message: Message::Home(0, ToHome::More { after: 7, .. }), .. }]
    ));
    tester.page(key, &["two\n\n"], true);
    assert_eq!(tester.send(key), "two\n\n");
}

#[test]
fn the_last_to_leave_tells_home() {
    let mut tester = Tester::new(LIMITS);
    let (first, second) = (tester.idle(1, u64::MAX), tester.idle(1, u64::MAX));
    tester.out.clear();
    tester.fanout.leave(first, &mut tester.out);
    assert!(tester.out.is_empty());
    tester.fanout.leave(second, &mut tester.out);
    assert!(matches!(&tester.out[..], [Post { message: Message::Home(0, ToHome::Leave { .. }), .. }]));
}

#[test]
fn a_topic_that_all_have_left_begins_anew() {
    let mut tester = Tester::with_partitions(LIMITS, 2);
    for (topic, logs) in [(tester.topic(1), 1), (Topic::everything(&tester.hasher), 2)] {
        for _ in 0..3 {
            let key = tester.subscribe_to(slice::from_ref(&topic), u64::MAX);
            (0..2).for_each(|partition| tester.page_of(key, partition, &[], true));
            assert_eq!(tester.fanout.logs.of(&topic).len(), logs);
            tester.fanout.leave(key, &mut tester.out);
            assert!(tester.fanout.logs.of(&topic).is_empty());
        }
    }
}

#[test]
fn a_quiet_subscriber_gets_a_comment_within_the_interval_and_a_busy_one_none() {
    let mut tester = Tester::new(LIMITS);
    let (quiet, busy) = (tester.idle(1, u64::MAX), tester.idle(2, u64::MAX));
    tester.now_ms = 700;
    tester.sweep(0);
    assert_eq!(tester.send(quiet), "", "at most a quarter early");
    tester.gain(2, "event\n\n");
    tester.fanout.seal_all();
    assert_eq!(tester.send(busy), "event\n\n");
    tester.sent(busy);
    tester.now_ms = 1000;
    tester.sweep(0);
    assert_eq!((tester.send(quiet).as_str(), tester.send(busy).as_str()), (":\n", ""));
}

#[test]
fn without_an_interval_nobody_gets_a_comment() {
    let mut tester = Tester::new(FanoutLimits { heartbeat_ms: 0, ..LIMITS });
    let key = tester.idle(1, u64::MAX);
    tester.now_ms = 1 << 40;
    tester.sweep(0);
    assert_eq!(tester.send(key), "");
}

#[test]
fn each_part_of_the_subscribers_is_swept_in_its_turn() {
    let mut tester = Tester::new(LIMITS);
    for _ in 0..16 {
        tester.idle(1, 100);
    }
    assert_eq!(tester.fanout.subscribers.index_end(), 16);
    tester.wakes();
    let mut sweep = |parts| {
        tester.fanout.sweep(parts, 0, 100);
        let woken = tester.wakes();
        let subscribers = tester.fanout.subscribers.iter_mut();
        let ended = subscribers.filter(|(_, subscriber)| subscriber.is_ending());
        (woken, ended.map(|(index, _)| index).max().unwrap())
    };
    assert_eq!([sweep(3), sweep(3), sweep(3), sweep(3)], [(5, 4), (5, 9), (6, 15), (0, 15)]);
}

#[test]
fn heartbeats_of_a_crowd_are_spread() {
    let mut tester = Tester::new(LIMITS);
    let keys: Vec<_> = (0..400).map(|_| tester.idle(1, u64::MAX)).collect();
    let mut beats = Vec::new();
    for now_ms in [800, 850, 900, 950, 1000] {
        tester.now_ms = now_ms;
        tester.sweep(0);
        beats.push(keys.iter().filter(|key| tester.send(**key) == ":\n").count());
    }
    assert_eq!(beats.iter().sum::<usize>(), 400);
    assert!(beats.iter().all(|count| (40..120).contains(count)), "{beats:?}");
}

#[test]
fn a_late_answer_finds_nobody_in_the_place_of_one_that_left() {
    let mut tester = Tester::new(LIMITS);
    let old = tester.subscribe(1, u64::MAX);
    tester.fanout.leave(old, &mut tester.out);
    let new = tester.subscribe(2, u64::MAX);
    tester.page(old, &["another's\n\n"], true);
    assert_eq!(tester.send(new), "");
    assert_eq!(tester.send(old), "CLOSE");
}

#[test]
fn an_idle_subscriber_and_a_topic_are_small() {
    // Their sum stands in docs/architecture.md. There are 15,000 subscribers and more.
    assert!(size_of::<Subscriber>() <= 136, "{}", size_of::<Subscriber>());
    assert!(size_of::<TopicLog>() <= 328, "{}", size_of::<TopicLog>());
    assert!(size_of::<Topic>() <= 40, "{}", size_of::<Topic>());
}

#[test]
fn an_emit_is_answered_with_the_streams_that_take_it() {
    let mut tester = Tester::new(LIMITS);
    let user = Topic::of_session("chat", Some("ann"), &tester.hasher);
    let all = Topic::of_session("chat", None, &tester.hasher);
    tester.idle_on(slice::from_ref(&all), u64::MAX);
    for _ in 0..2 {
        tester.idle_on(&[all.clone(), user.clone()], u64::MAX);
    }
    for (topic, streams) in [(all, 3), (user, 2), (tester.topic(1), 0)] {
        assert_eq!(tester.emit(topic), (streams, usize::from(streams > 0)), "one log, or none");
    }
}

#[test]
fn a_send_says_how_many_events_it_has_and_when_the_oldest_was_published() {
    let mut tester = Tester::new(LIMITS);
    let key = tester.idle(1, u64::MAX);
    for at_us in [30, 40] {
        tester.at_us = at_us;
        tester.gain(1, "event\n\n");
        tester.fanout.seal_all();
    }
    let Next::Send(Outgoing { events, at_us, .. }) = tester.next(key) else { panic!() };
    assert_eq!((events, at_us), (2, 30));
    assert_eq!(tester.fanout.progress(key).unwrap().delivered, 2);
}

#[test]
fn a_stream_of_one_topic_does_not_wait_for_what_that_still_gathers() {
    let mut tester = Tester::new(LIMITS);
    let (topic, key) = (tester.topic(1), tester.idle(1, u64::MAX));
    tester.block_on(&topic, "a\n\n");
    tester.gain(1, "b\n\n");
    assert_eq!(tester.send(key), "a\n\n");
}
