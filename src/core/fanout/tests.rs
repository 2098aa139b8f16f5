use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Wake;

use bytes::Bytes;

use super::ending::Ended;
use super::*;
use crate::core::chunk::{Chunk, Mark};
use crate::core::epochs::Epochs;
use crate::core::event_id::Epoch;
use crate::core::message::Message;
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
    sequence: u64,
}

impl Tester {
    fn new(limits: FanoutLimits) -> Self {
        let memory = Memory::new(MEMORY_BYTES);
        Tester {
            fanout: Fanout::new(0, Placement::new(1, 1), limits, Arc::clone(&memory), 0),
            memory,
            hasher: TopicHasher::of(1),
            bell: Arc::default(),
            out: Vec::new(),
            now_ms: 0,
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
        let subscription = Subscription {
            topics: topics.into(),
            framing: Framing::Plain,
            last_event_id: None,
            expires_s,
            opening: Opening { head: "HEAD\n".into(), refusal: "NO\n".into() },
        };
        self.fanout.subscribe(subscription, self.now_ms, &mut self.out)
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
        let frames = frames.iter().map(|frame| Bytes::from_static(frame.as_bytes())).collect();
        let page = ReplayPage { gap: None, frames, upto: 7, told: 0, joined };
        self.fanout.handle(ToFanout::Page { key, partition: 0, page }, &mut Vec::new());
    }

    fn gain(&mut self, topic: usize, frame: &str) {
        self.gain_on(self.topic(topic), frame);
    }

    /// Returns the work that it was.
    fn gain_on(&mut self, topic: Topic, frame: &str) -> usize {
        self.sequence += 1;
        let end = frame.len() as u32;
        let mark = Mark { sequence: self.sequence, end, id_at: end.saturating_sub(1) };
        let message = ToFanout::Events {
            partition: Some(0),
            topics: [topic].into(),
            frames: Chunk::of([frame.as_bytes()], frame.len(), &self.memory),
            marks: [mark].into(),
            count: 1,
            last: self.sequence,
            at_us: 0,
            charge: None,
            delivery_count: None,
        };
        self.fanout.handle(message, &mut Vec::new())
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
    assert!(!tester.send_ready(usize::MAX));
    assert_eq!(tester.wakes(), 2 * TOPIC_WORK_PER_TURN);
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
fn a_send_that_takes_too_long_ends_the_connection_under_either_policy() {
    for skip_slow in [false, true] {
        let mut tester = Tester::new(FanoutLimits { skip_slow, ..LIMITS });
        let key = tester.idle(1, u64::MAX);
        tester.gain(1, "event\n\n");
        tester.fanout.seal_all();
        assert_eq!(tester.send(key), "event\n\n");
        tester.now_ms = 5000;
        tester.sweep(0);
        assert_eq!(tester.send(key), "");
        tester.now_ms = 5001;
        tester.sweep(0);
        assert_eq!((tester.send(key).as_str(), tester.fanout.evicted), ("CLOSE", 1));
    }
}

#[test]
fn the_log_of_a_stalled_subscriber_is_bounded_and_its_end_or_gap_follows() {
    for (skip_slow, expected) in
        [(false, "CLOSE"), (true, "event:gap\ndata:{\"from\":\"9-7\",\"reason\":\"slow\"}\n\n")]
    {
        let mut tester = Tester::new(FanoutLimits {
            skip_slow,
            epochs: Some(Arc::new(Epochs::new(Epoch::at(9), Vec::new()))),
            ..LIMITS
        });
        let key = tester.idle(1, u64::MAX);
        for _ in 0..100 {
            tester.gain(1, &"x".repeat(100));
            tester.fanout.seal_all();
            assert!(tester.fanout.log_bytes() <= 1000, "{}", tester.fanout.log_bytes());
        }
        assert_eq!(tester.send(key), expected);
    }
}

#[test]
fn a_block_larger_than_the_lag_reaches_those_who_keep_up() {
    let mut tester = Tester::new(LIMITS);
    let key = tester.idle(1, u64::MAX);
    tester.gain(1, &"x".repeat(5000));
    tester.fanout.seal_all();
    assert_eq!(tester.send(key).len(), 5000);
}

#[test]
fn while_too_much_is_held_a_send_has_less_time() {
    let mut tester = Tester::new(LIMITS);
    let key = tester.idle(1, u64::MAX);
    tester.gain(1, &"x".repeat(MEMORY_BYTES + 1));
    tester.fanout.seal_all();
    assert_eq!(tester.send(key).len(), MEMORY_BYTES + 1);
    // As the send does that is under way.
    let _held = tester.memory.share(vec![0; MEMORY_BYTES + 1]);
    tester.now_ms = SEND_TIMEOUT_OVER_MS;
    tester.sweep(0);
    assert_eq!(tester.send(key), "");
    tester.now_ms = SEND_TIMEOUT_OVER_MS + 1;
    tester.sweep(0);
    assert_eq!(tester.send(key), "CLOSE");
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
    assert_eq!(tester.send(key), "NO\n");
    tester.sent(key);
    assert_eq!(tester.send(key), "CLOSE");
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
    assert_eq!(tester.send(key), "nt\n\n");
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
fn what_several_topics_gain_in_a_turn_is_sent_in_the_order_of_their_partition() {
    for is_session in [false, true] {
        let mut tester = Tester::new(LIMITS);
        let topics = match is_session {
            true => [None, Some("user")].map(|user| Topic::of_session("channel", user, &tester.hasher)),
            false => [1, 2].map(|n| tester.topic(n)),
        };
        let key = tester.idle_on(&topics, u64::MAX);
        for (number, frame) in [(0, "a\n\n"), (1, "b\n\n"), (1, "c\n\n"), (0, "d\n\n"), (1, "e\n\n")] {
            tester.gain_on(topics[number].clone(), frame);
        }
        assert_eq!(tester.send(key), "", "another topic may still gain something older");
        tester.fanout.seal_all();
        assert_eq!(tester.send(key), "a\n\nb\n\nc\n\nd\n\ne\n\n");
        tester.sent(key);
        assert_eq!(tester.send(key), "");
        assert_eq!(tester.fanout.log_bytes(), 0);
    }
}

#[test]
fn a_stream_of_several_topics_is_woken_by_each_of_them() {
    let mut tester = Tester::new(LIMITS);
    let topics: Vec<_> = (0..5).map(|n| tester.topic(n)).collect();
    let key = tester.idle_on(&topics, u64::MAX);
    for (number, topic) in topics.iter().enumerate() {
        tester.gain_on(topic.clone(), &format!("{number}\n\n"));
        tester.fanout.seal_all();
        tester.wakes();
        tester.send_ready(usize::MAX);
        assert_eq!((tester.wakes(), tester.send(key)), (1, format!("{number}\n\n")));
        tester.sent(key);
        assert_eq!(tester.send(key), "");
    }
}

#[test]
fn a_topic_read_with_many_others_is_one_block_for_all() {
    let mut tester = Tester::new(LIMITS);
    let hot = tester.topic(0);
    let keys: Vec<_> = (1..100).map(|n| tester.idle_on(&[hot.clone(), tester.topic(n)], u64::MAX)).collect();
    let work = tester.gain_on(hot, &"x".repeat(500));
    assert_eq!(work, 1, "however many selections there are");
    tester.fanout.seal_all();
    assert_eq!(tester.fanout.log_bytes(), 507);
    for key in keys {
        assert_eq!(tester.send(key), "x".repeat(500));
    }
}

#[test]
fn the_lag_of_a_stream_is_that_of_all_its_topics() {
    for (skip_slow, expected) in
        [(false, "CLOSE"), (true, "event:gap\ndata:{\"from\":null,\"reason\":\"slow\"}\n\n")]
    {
        let mut tester = Tester::new(FanoutLimits { skip_slow, ..LIMITS });
        let topics = [tester.topic(1), tester.topic(2)];
        let (slow, quick) = (tester.idle_on(&topics, u64::MAX), tester.idle_on(&topics[..1], u64::MAX));
        tester.gain_on(topics[0].clone(), "begun\n\n");
        tester.fanout.seal_all();
        assert_eq!((tester.send(slow), tester.send(quick)), ("begun\n\n".into(), "begun\n\n".into()));
        tester.sent(quick);
        // Less than the limit of each.
        for topic in &topics {
            tester.gain_on(topic.clone(), &"x".repeat(600));
            tester.fanout.seal_all();
        }
        assert_eq!(tester.send(slow), "", "its send is under way");
        tester.sweep(0);
        assert_eq!(tester.fanout.evicted, u64::from(!skip_slow));
        tester.sent(slow);
        assert_eq!(tester.send(slow), expected);
        assert_eq!(tester.send(quick).len(), 600, "others are not");
    }
}

/// However large it is: a stream of one topic may take a block that is longer than the limit, too.
#[test]
fn what_is_under_way_is_shown_as_lag_and_cuts_no_stream() {
    let mut tester = Tester::new(LIMITS);
    let topics = [tester.topic(1), tester.topic(2)];
    let key = tester.idle_on(&topics, u64::MAX);
    tester.gain_on(topics[0].clone(), &"x".repeat(5000));
    tester.fanout.seal_all();
    assert_eq!(tester.send(key).len(), 5000);
    tester.sweep(0);
    assert_eq!(tester.fanout.evicted, 0);
    assert_eq!(tester.fanout.progress(key).unwrap().lag_bytes, 5000);
    tester.sent(key);
    assert_eq!(tester.fanout.progress(key).unwrap().lag_bytes, 0);
}

#[test]
fn a_stream_that_a_trim_left_behind_is_cut_by_the_sweep_while_its_send_is_under_way() {
    let mut tester = Tester::new(LIMITS);
    let key = tester.left_behind();
    assert_eq!(tester.fanout.evicted, 0);
    tester.wakes();
    tester.sweep(0);
    assert_eq!((tester.fanout.evicted, tester.wakes()), (1, 1));
    assert!(matches!(tester.next(key), Next::Cut));
}

#[test]
fn a_slow_client_is_cut_and_not_just_closed_although_the_kernel_took_its_last_send() {
    let mut tester = Tester::new(LIMITS);
    let key = tester.left_behind();
    tester.sent(key);
    assert!(matches!(tester.next(key), Next::Cut));
    assert_eq!(tester.fanout.evicted, 1);
}
