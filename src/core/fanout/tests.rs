mod queue;
mod several;
mod slow;

use std::slice;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::Wake;

use bytes::Bytes;

use super::ending::Ended;
use super::*;
use crate::core::chunk::{Chunk, Mark};
use crate::core::delivery_count::DeliveryCount;
use crate::core::epochs::Epochs;
use crate::core::event_id::Epoch;
use crate::core::message::{Message, Reply, Ticket};
use crate::core::partition::Placement;
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

/// More than any test holds, but for the one about it.
const MEMORY_BYTES: usize = 100_000;

/// Counts wake-ups.
#[derive(Default)]
struct Bell(AtomicUsize);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

struct Tester {
    fanout: Fanout,
    memory: Arc<Memory>,
    hasher: TopicHasher,
    bell: Arc<Bell>,
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
            bell: Arc::default(),
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

    /// The stream of a queue, and where is told how far it has come.
    fn follow(&mut self) -> (Key, Topic, Arc<AtomicU64>) {
        let (topic, sent) = (Topic::of_queue(7, &self.hasher), Arc::new(AtomicU64::new(0)));
        let subscription = subscription(slice::from_ref(&topic), u64::MAX);
        (self.fanout.follow(subscription, Arc::clone(&sent), self.now_ms), topic, sent)
    }

    /// A subscriber that has its head and is idle.
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

    /// A stream whose send is under way, and whose log was trimmed past it meanwhile.
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

    /// Returns the work that it was.
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
            count: 1,
            last: self.sequence,
            at_us: self.at_us,
            charge: None,
            delivery_count: None,
        };
        self.fanout.handle(message, &mut Vec::new())
    }

    /// One event on a topic, which is all of its turn.
    fn block_on(&mut self, topic: &Topic, frame: &str) {
        self.gain_on(topic.clone(), frame);
        self.fanout.seal_all();
    }

    /// The log of a topic that one partition orders, or none.
    fn log(&self, topic: &Topic) -> &TopicLog {
        &self.fanout.logs[self.fanout.logs.find(topic, topic.partition()).unwrap()]
    }

    fn next(&mut self, key: Key) -> Next {
        self.fanout.next(key, &Waker::from(Arc::clone(&self.bell)), self.now_ms)
    }

    /// What the subscriber is sent now; nothing when it waits.
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

    /// Nothing is taken at once, so everybody whose turn it is is woken.
    fn send_ready(&mut self, work_max: usize) -> bool {
        self.fanout.send_ready(work_max, self.now_ms, |_, _| 0)
    }

    fn sweep(&mut self, unix_s: u64) {
        self.fanout.sweep(1, self.now_ms, unix_s);
    }

    fn wakes(&self) -> usize {
        self.bell.0.swap(0, Ordering::Relaxed)
    }
}

fn subscription(topics: &[Topic], expires_s: u64) -> Subscription {
    Subscription {
        topics: topics.into(),
        framing: Framing::Plain,
        last_event_id: None,
        expires_s,
        opening: Opening { head: "HEAD\n".into(), refusal: "NO\n".into() },
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
fn topics_take_turns_in_starting_their_sends() {
    let mut tester = Tester::new(LIMITS);
    for _ in 0..3 * TOPIC_WORK_PER_TURN {
        tester.idle(1, u64::MAX);
    }
    let other = tester.idle(2, u64::MAX);
    tester.gain(2, "small\n\n");
    tester.gain(1, "large\n\n");
    tester.fanout.seal_all();
    tester.wakes();
    // The large topic was sealed first, and yet the small one comes right after its first share.
    assert!(tester.send_ready(TOPIC_WORK_PER_TURN + 1));
    assert_eq!(tester.wakes(), TOPIC_WORK_PER_TURN + 1);
    assert_eq!(tester.send(other), "small\n\n");
    for _ in 0..2 {
        assert!(tester.send_ready(1));
        assert_eq!(tester.wakes(), 1);
    }
    assert!(!tester.send_ready(usize::MAX));
    assert_eq!(tester.wakes(), 2 * TOPIC_WORK_PER_TURN - 2);
}

#[test]
fn what_is_sent_at_once_is_work_by_its_bytes_and_wakes_nobody() {
    let mut tester = Tester::new(LIMITS);
    for _ in 0..10 {
        tester.idle(1, u64::MAX);
    }
    tester.gain(1, &"x".repeat(2 * SEND_BYTES_OF_WORK));
    tester.fanout.seal_all();
    tester.wakes();
    let mut turns = Vec::new();
    let mut more = true;
    while more {
        let mut sends = 0;
        more = tester.fanout.send_ready(7, 0, |_, outgoing| {
            sends += 1;
            std::mem::take(&mut outgoing.buffers).concat().len()
        });
        turns.push(sends);
    }
    // Each is work of 1 and of 2 for its bytes.
    assert_eq!((turns, tester.wakes()), (vec![3, 3, 3, 1], 0));
    assert_eq!(tester.fanout.log_bytes(), 0);
}

#[test]
fn lists_of_the_idle_are_used_again_and_only_so_many_are_kept() {
    let mut tester = Tester::new(LIMITS);
    for n in 0..SPARE_LISTS_MAX + 10 {
        tester.idle(n, u64::MAX);
        tester.gain(n, "event\n\n");
    }
    assert!(!tester.fanout.has_ready(), "nothing is sealed");
    tester.fanout.seal_all();
    assert!(tester.fanout.has_ready());
    tester.send_ready(usize::MAX);
    assert_eq!(tester.fanout.spare.len(), SPARE_LISTS_MAX);
    tester.idle(0, u64::MAX);
    tester.gain(0, "event\n\n");
    tester.fanout.seal_all();
    assert_eq!(tester.fanout.spare.len(), SPARE_LISTS_MAX - 1);
}

#[test]
fn a_newcomers_seam_has_nobody_sent_to() {
    let mut tester = Tester::new(LIMITS);
    tester.idle(1, u64::MAX);
    let newcomer = tester.subscribe(1, u64::MAX);
    tester.page(newcomer, &[], true);
    assert!(!tester.fanout.has_ready(), "the topic gained nothing");
    tester.send(newcomer);
    tester.gain(1, "event\n\n");
    tester.fanout.seal_all();
    tester.send_ready(usize::MAX);
    tester.gain(1, "event\n\n");
    tester.fanout.seal_all();
    assert!(!tester.fanout.has_ready(), "nobody is idle");
}

#[test]
fn an_idle_subscriber_is_woken_once_a_block_however_often_it_asks() {
    let mut tester = Tester::new(LIMITS);
    let key = tester.idle(1, u64::MAX);
    for _ in 0..3 {
        assert_eq!(tester.send(key), "");
    }
    tester.gain(1, "event\n\n");
    tester.fanout.seal_all();
    tester.wakes();
    tester.send_ready(usize::MAX);
    assert_eq!(tester.wakes(), 1);
}

#[test]
fn who_leaves_takes_only_itself_off_the_list_of_the_idle() {
    let mut tester = Tester::new(LIMITS);
    let keys: Vec<_> = (0..4).map(|_| tester.idle(1, u64::MAX)).collect();
    tester.fanout.leave(keys[0], &mut tester.out);
    tester.fanout.leave(keys[3], &mut tester.out);
    assert_eq!(tester.log(&tester.topic(1)).idle, [2, 1].map(|n: usize| keys[n].index));
    tester.gain(1, "event\n\n");
    tester.fanout.seal_all();
    tester.wakes();
    tester.send_ready(usize::MAX);
    assert_eq!(tester.wakes(), 2);
    for key in &keys[1..3] {
        assert_eq!(tester.send(*key), "event\n\n");
    }
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
    assert_eq!((tester.send(quiet).as_str(), tester.send(busy).as_str()), (":\n\n", ""));
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
        beats.push(keys.iter().filter(|key| tester.send(**key) == ":\n\n").count());
    }
    assert_eq!(beats.iter().sum::<usize>(), 400);
    assert!(beats.iter().all(|count| (40..120).contains(count)), "{beats:?}");
}

#[test]
fn a_stream_whose_token_expires_says_so_and_ends() {
    let mut tester = Tester::new(LIMITS);
    let key = tester.idle(1, 100);
    tester.gain(1, "not for it any more\n\n");
    tester.fanout.seal_all();
    tester.sweep(99);
    tester.wakes();
    tester.sweep(100);
    assert_eq!(tester.wakes(), 1);
    assert_eq!(tester.send(key), "event:expired\ndata:token expired\n\n");
    tester.sent(key);
    assert_eq!(tester.send(key), "CLOSE");
    assert_eq!(tester.fanout.log_bytes(), 0);
}

#[test]
fn a_stream_that_expires_before_it_begins_has_a_head_all_the_same() {
    let mut tester = Tester::new(LIMITS);
    let key = tester.subscribe(1, 100);
    tester.sweep(100);
    assert_eq!(tester.send(key), "");
    tester.page(key, &["page\n\n"], true);
    assert_eq!(tester.send(key), "HEAD\nevent:expired\ndata:token expired\n\n");
}

#[test]
fn closing_streams_sends_what_is_due_and_draws_each_return_at_random() {
    let mut tester = Tester::new(LIMITS);
    let keys: Vec<_> = (0..20).map(|_| tester.idle(1, u64::MAX)).collect();
    tester.gain(1, "last\n\n");
    tester.fanout.seal_all();
    tester.fanout.close_streams();
    let mut drawn = Vec::new();
    for key in keys {
        assert_eq!(tester.send(key), "last\n\n");
        tester.sent(key);
        let retry = tester.send(key);
        let ms: u64 = retry.trim_end().strip_prefix("retry:").unwrap().parse().unwrap();
        assert!((10..=20).contains(&ms));
        drawn.push(ms);
        tester.sent(key);
        assert_eq!(tester.send(key), "CLOSE");
    }
    drawn.sort_unstable();
    drawn.dedup();
    assert!(drawn.len() > 1);
}

#[test]
fn a_topic_that_home_has_no_room_for_is_refused_with_its_answer() {
    let mut tester = Tester::new(LIMITS);
    let key = tester.subscribe(1, u64::MAX);
    tester.fanout.handle(ToFanout::Refused { key }, &mut Vec::new());
    assert_eq!((tester.send(key).as_str(), tester.fanout.refused), ("NO\n", 1));
    tester.sent(key);
    assert_eq!(tester.send(key), "CLOSE");
}

#[test]
fn a_replay_that_home_has_no_more_room_for_ends_with_when_to_come_back() {
    let mut tester = Tester::new(LIMITS);
    let key = tester.subscribe(1, u64::MAX);
    tester.page(key, &["page\n\n"], false);
    assert_eq!(tester.send(key), "HEAD\npage\n\n");
    tester.sent(key);
    tester.fanout.handle(ToFanout::Refused { key }, &mut Vec::new());
    let ms = tester.send(key).trim_end().strip_prefix("retry:").and_then(|ms| ms.parse().ok());
    assert!(ms.is_some_and(|ms| (10..=20).contains(&ms)), "{ms:?}");
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
fn an_idle_subscriber_is_small() {
    // It is held 15,000 times and more.
    assert!(size_of::<Subscriber>() <= 152, "{}", size_of::<Subscriber>());
}

#[test]
fn what_ends_a_stream_waits_for_the_rest_of_what_was_begun() {
    let mut tester = Tester::new(LIMITS);
    let key = tester.idle(1, 100);
    tester.gain(1, "event\n\n");
    tester.fanout.seal_all();
    let bell = |fanout: &mut Fanout, now_ms| {
        fanout.send_ready(9, now_ms, |_, outgoing| {
            bytes::Buf::advance(&mut outgoing.buffers[0], 3);
            3
        })
    };
    assert!(!bell(&mut tester.fanout, 0));
    tester.sweep(100);
    let Next::Send(Outgoing { buffers, is_rest: true, .. }) = tester.next(key) else { panic!() };
    assert_eq!(buffers.concat(), b"nt\n\n");
    assert_eq!(tester.send(key), "", "one send at a time");
    tester.sent(key);
    assert_eq!(tester.send(key), EXPIRED);
    tester.sent(key);
    assert_eq!(tester.send(key), "CLOSE");
}

#[test]
fn a_disconnect_ends_the_streams_of_its_topic_alone_and_counts_each_once() {
    let mut tester = Tester::new(LIMITS);
    let (first, second, other) =
        (tester.idle(1, u64::MAX), tester.idle(1, u64::MAX), tester.idle(2, u64::MAX));
    assert_eq!(tester.fanout.disconnect(&tester.topic(1), 7).streams, 2);
    assert_eq!(tester.fanout.disconnect(&tester.topic(1), 7).streams, 0, "they are ending already");
    assert_eq!(tester.fanout.disconnect(&tester.topic(3), 7), Ended::default());
    for key in [first, second] {
        assert_eq!(tester.send(key), "event:disconnected\ndata:disconnected\n\n");
        assert_eq!(tester.fanout.disconnect(&tester.topic(1), 7).streams, 0, "nor while that is sent");
        tester.sent(key);
        assert_eq!(tester.send(key), "CLOSE");
        assert_eq!(tester.fanout.disconnect(&tester.topic(1), 7).streams, 0, "nor after");
    }
    assert_eq!(tester.send(other), "");
}

#[test]
fn an_emit_is_answered_with_the_streams_that_take_it() {
    let mut tester = Tester::new(LIMITS);
    let user = Topic::of_session("chat", Some("ann"), &tester.hasher);
    let all = Topic::of_session("chat", None, &tester.hasher);
    let other = tester.idle_on(slice::from_ref(&all), u64::MAX);
    for _ in 0..2 {
        tester.idle_on(&[all.clone(), user.clone()], u64::MAX);
    }
    let ticket = Ticket { shard: 0, connection: other, request: 1 };
    for (topic, streams) in [(all, 3), (user, 2), (tester.topic(1), 0)] {
        let partition = topic.partition();
        let (mut out, count) = (Vec::new(), DeliveryCount::new(ticket, None));
        let message = ToFanout::Events {
            partition,
            topics: [topic].into(),
            frames: Chunk::of([&b"x"[..]], 1, &tester.memory),
            marks: [Mark { sequence: 1, end: 1, id_at: 0 }].into(),
            count: 1,
            last: 1,
            at_us: 0,
            charge: None,
            delivery_count: Some(count),
        };
        assert_eq!(tester.fanout.handle(message, &mut out), usize::from(streams > 0), "one log, or none");
        let [Post { message: Message::Reply(_, reply), .. }] = &out[..] else { panic!("{out:?}") };
        assert_eq!(reply, &Reply::Disconnected(streams));
    }
}

#[test]
fn a_disconnect_looks_no_further_than_the_last_stream_of_its_topic_and_that_is_its_work() {
    let mut tester = Tester::new(LIMITS);
    let ticket = Ticket { shard: 0, connection: tester.idle(1, u64::MAX), request: 0 };
    for _ in 0..4 * 26 {
        tester.idle(2, u64::MAX);
    }
    tester.idle(3, u64::MAX);
    for (topic, work) in [(1, 0), (3, 4), (4, 0)] {
        let (topic, mut out) = (tester.topic(topic), Vec::new());
        let delivery_count = DeliveryCount::new(ticket, None);
        let message = ToFanout::Disconnect { topic, upto: 7, delivery_count };
        assert_eq!(tester.fanout.handle(message, &mut out), work);
    }
}

#[test]
fn a_stream_that_is_ended_after_an_event_is_sent_none_behind_it() {
    let mut tester = Tester::new(LIMITS);
    let (topic, key) = (tester.topic(1), tester.idle(1, u64::MAX));
    // Behind what was ordered when it joined.
    tester.sequence = 7;
    tester.block_on(&topic, "first\n\n");
    tester.fanout.disconnect(&topic, tester.sequence);
    assert_eq!(tester.send(key), "first\n\n");
    tester.block_on(&topic, "second\n\n");
    tester.sent(key);
    assert_eq!(tester.send(key), "event:disconnected\ndata:disconnected\n\n");
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
    let Next::Send(Outgoing { events, at_us, is_rest, .. }) = tester.next(key) else { panic!() };
    assert_eq!((events, at_us, is_rest), (2, 30, false));
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

#[test]
fn a_stream_that_is_to_end_asks_for_no_further_page() {
    let mut tester = Tester::new(LIMITS);
    let key = tester.subscribe(1, u64::MAX);
    tester.page(key, &["page\n\n"], false);
    assert_eq!(tester.send(key), "HEAD\npage\n\n");
    tester.fanout.close_streams();
    tester.out.clear();
    tester.sent(key);
    assert!(tester.out.is_empty());
    assert!(tester.send(key).starts_with("retry:"));
}

#[test]
fn a_stream_that_is_not_idle_is_woken_for_neither_a_comment_nor_a_block() {
    let mut tester = Tester::new(LIMITS);
    let [joining, replaying, sending] = [(); 3].map(|()| tester.subscribe(1, u64::MAX));
    tester.page(replaying, &[], false);
    tester.page(sending, &[], true);
    for key in [replaying, sending] {
        assert_eq!(tester.send(key), "HEAD\n");
    }
    tester.sent(replaying);
    for key in [joining, replaying, sending] {
        assert_eq!(tester.send(key), "", "it waits");
    }
    tester.wakes();
    tester.now_ms = 4000;
    tester.sweep(0);
    tester.gain(1, "event\n\n");
    tester.fanout.seal_all();
    assert_eq!((tester.wakes(), tester.fanout.has_ready()), (0, false));
}
