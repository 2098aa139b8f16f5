mod clustered;
mod journaled;
mod pages;
mod partitions;
mod room;

use std::slice;

use bytes::Bytes;

use super::idempotency::Seen;
use super::*;
use crate::core::arena::{Arena, Key};
use crate::core::budget::Budget;
use crate::core::epochs::Epochs;
use crate::core::event::EventLimits;
use crate::core::event::Events;
use crate::core::event_id::EventId;
use crate::core::journal::MemoryJournal;
use crate::core::memory::Memory;
use crate::core::message::{
    CountFor, Gap, GapReason, ListenerId, OrderError, Ordered, Publish, PublishKey, ReplayPage, Reply,
    ReplyTo, ShardId, Ticket,
};
use crate::core::partition::{Partitioner, Placement};
use crate::core::selection::{Selection, StreamIds};
use crate::core::topic::{Topic, TopicHasher};

const LIMITS: HistoryLimits =
    HistoryLimits { events_max: 3, bytes_max: 1 << 20, age_max_ms: 1000, page_frames_max: 1000 };

type PublishResult = Result<Ordered, OrderError>;

fn selection(topics: &[Topic]) -> Selection {
    Selection::of(topics, StreamIds::of(topics, false, false), Placement::new(1, 1)).pop().unwrap()
}

struct Tester {
    homes: Homes,
    memory: Arc<Memory>,
    journal: MemoryJournal,
    hasher: TopicHasher,
    key: Key,
    now_ms: u64,
}

impl Tester {
    /// Returns a home of two topics at most.
    fn new(limits: HistoryLimits) -> Self {
        Self::with_topics(limits, 2)
    }

    fn with_topics(limits: HistoryLimits, topics_max: usize) -> Self {
        Self::with_partitions(limits, topics_max, 1)
    }

    fn with_partitions(limits: HistoryLimits, topics_max: usize, partitions: u8) -> Self {
        let memory = Memory::new(usize::MAX);
        let settings = HomeSettings {
            placement: Placement::new(partitions, 1),
            partitioner: Partitioner::new(partitions, [7; 16]),
            epochs: Arc::new(Epochs::new(Epoch::at(9), Vec::new())),
            limits,
            memory: Arc::clone(&memory),
            topic_count: Arc::new(TopicCount::new(topics_max)),
        };
        Tester {
            homes: Homes::new(0, &settings),
            memory,
            journal: MemoryJournal::default(),
            hasher: TopicHasher::of(partitions),
            key: Arena::default().insert(()),
            now_ms: 0,
        }
    }

    fn history(&mut self) -> &mut PartitionHistory {
        &mut self.homes.iter_mut().next().unwrap().history
    }

    fn topic(&self, n: usize) -> Topic {
        Topic::parse(format!("topicnumber{n}").as_bytes(), &self.hasher).unwrap()
    }

    /// Returns a topic of each of these partitions.
    fn topics_of<const N: usize>(&self, partitions: [PartitionId; N]) -> [Topic; N] {
        let mut numbers = 0..;
        partitions.map(|partition| {
            let mut topics = numbers.by_ref().map(|n| self.topic(n));
            topics.find(|topic| topic.partition() == Some(partition)).unwrap()
        })
    }

    fn ask(&mut self, message: ToHome) -> Vec<Message> {
        let partition = match &message {
            ToHome::Publish(Publish { topic, .. }) => topic.partition().unwrap(),
            _ => 0,
        };
        let mut out = Vec::new();
        self.homes.handle(partition, message, self.now_ms, &mut self.journal, &mut out);
        out.into_iter().map(|post| post.message).collect()
    }

    /// Publishes; returns the frames each member is sent, and the answer.
    fn publish(&mut self, topic: usize, body: &'static str) -> (Vec<String>, PublishResult) {
        let topic = self.topic(topic);
        self.publish_to(topic, body)
    }

    fn new_publish(&self, topic: Topic, body: impl Into<Bytes>, key: Option<PublishKey>) -> Publish {
        Publish {
            topic,
            events: Events::parse(body.into(), &EventLimits::of(1 << 20)).unwrap(),
            reply: ReplyTo::Connection(Ticket { shard: 0, connection: self.key, request: 0 }),
            at_us: 0,
            charge: Budget::new(9, 9).take(1).unwrap(),
            key: key.map(Box::new),
        }
    }

    fn publish_to(&mut self, topic: Topic, body: impl Into<Bytes>) -> (Vec<String>, PublishResult) {
        let publish = self.new_publish(topic, body, None);
        let mut frames = Vec::new();
        let mut answer = None;
        for message in self.ask(ToHome::Publish(publish)) {
            match message {
                Message::Fanout(ToFanout::Events { frames: gained, .. }) => {
                    frames.push(String::from_utf8(gained.frames().to_vec()).unwrap());
                }
                Message::Reply(_, Reply::Published(result)) => answer = Some(result),
                other => panic!("{other:?}"),
            }
        }
        (frames, answer.unwrap())
    }

    fn join(
        &mut self,
        topic: usize,
        from: ShardId,
        last_event_id: Option<&str>,
    ) -> Option<(String, Option<Gap>)> {
        let selection = selection(&[self.topic(topic)]);
        let last_event_id = last_event_id.map(Into::into);
        match &self.ask(ToHome::Join { selection, from, key: self.key, last_event_id })[..] {
            [
                Message::Fanout(ToFanout::Page {
                    page: ReplayPage { frames, gap, joined: true, .. }, ..
                }),
            ] => Some((String::from_utf8(frames.concat()).unwrap(), gap.clone())),
            [Message::Fanout(ToFanout::Refused { .. })] => None,
            other => panic!("{other:?}"),
        }
    }

    fn leave(&mut self, topic: usize, from: ShardId) {
        let topic = self.topic(topic);
        assert!(self.ask(ToHome::Leave { topic, from }).is_empty());
    }
}

#[test]
fn an_event_is_given_an_id_unless_it_has_one_and_goes_to_each_member_once() {
    let mut tester = Tester::new(LIMITS);
    for from in [0, 3, 3] {
        tester.join(1, from, None);
    }
    let (frames, answer) = tester.publish(1, "data:a\n\ndata:b\nid:own\n\n");
    assert_eq!(frames, ["data:a\nid:9-1\n\ndata:b\nid:own\n\n"; 2]);
    assert_eq!(
        answer,
        Ok(Ordered { last_id: EventId::Own("own".into()), events: 2, ids_replaced: 0, streams: None })
    );
    let (frames, answer) = tester.publish(1, "id:\ndata:c");
    assert_eq!(frames[0], "id:\ndata:c\nid:9-3\n\n", "an empty id counts as none");
    assert_eq!(
        answer,
        Ok(Ordered { last_id: EventId::Sequence(3), events: 1, ids_replaced: 0, streams: None })
    );
    tester.leave(1, 3);
    assert_eq!(tester.publish(1, "data:d").0.len(), 1);
}

#[test]
fn without_history_frames_are_the_publishers_lines_and_nothing_is_kept() {
    let mut tester = Tester::new(HistoryLimits { events_max: 0, ..LIMITS });
    let _ = tester.publish(1, "data:before");
    assert_eq!(tester.join(1, 0, Some("9-1")), Some((String::new(), None)), "no id means anything");
    assert_eq!(tester.publish(1, ": hi\ndata:a\n").0, [": hi\ndata:a\n\n"]);
    tester.leave(1, 0);
    assert_eq!((tester.homes.topics(), tester.homes.bytes()), (0, 0));
}

#[test]
fn without_history_a_publish_needs_no_room_and_goes_to_who_listens_above_it() {
    let mut tester = Tester::with_topics(HistoryLimits { events_max: 0, ..LIMITS }, 1);
    let [above, topic, other] = ["a", "a/b/c", "b"].map(|path| paths(&mut tester, path));
    let selection = selection(&[above]);
    tester.ask(ToHome::Join { selection, from: 0, key: tester.key, last_event_id: None });
    assert_eq!(tester.publish_to(topic, "data:a").0, ["data:a\n\n"]);
    let (frames, answer) = tester.publish_to(other, "data:b");
    assert_eq!((frames.len(), answer.map(|published| published.last_id)), (0, Ok(EventId::Sequence(2))));
    assert_eq!(tester.homes.topics(), 1);
}

#[test]
fn an_id_of_the_brokers_form_is_replaced_and_counted() {
    let mut tester = Tester::new(LIMITS);
    tester.join(1, 0, None);
    let ours = Epoch::at(u64::MAX).text(1);
    let topic = tester.topic(1);
    let body = format!("data:a\nid:{ours}\n\ndata:b\nid:own\n\ndata:c\n\ndata:d\nid:{ours}");
    let (frames, answer) = tester.publish_to(topic, body);
    let last_lines: Vec<_> = frames[0].split("\n\n").filter_map(|frame| frame.lines().last()).collect();
    assert_eq!(last_lines, ["id:9-1", "id:own", "id:9-3", "id:9-4"]);
    assert_eq!(answer.map(|published| published.ids_replaced), Ok(2));
}

#[test]
fn limits_of_events_age_and_memory_drop_the_oldest_first() {
    let mut tester = Tester::new(LIMITS);
    for body in ["data:1", "data:2", "data:3", "data:4"] {
        let _ = tester.publish(1, body);
        tester.now_ms += 400;
    }
    let replay = |tester: &mut Tester| tester.join(1, 0, Some("9-1")).unwrap().0.matches("data").count();
    assert_eq!(replay(&mut tester), 3, "events");
    tester.homes.expire(1400, usize::MAX);
    assert_eq!(replay(&mut tester), 3, "that of 400 ms is just as old as it may be");
    tester.homes.expire(1401, usize::MAX);
    assert_eq!(replay(&mut tester), 2, "age");
    tester.homes.release(1);
    assert_eq!(replay(&mut tester), 1, "memory");
    tester.homes.release(usize::MAX);
    assert_eq!((replay(&mut tester), tester.homes.bytes()), (0, 0));
}

#[test]
fn a_key_is_forgotten_with_time_though_no_other_publish_has_one() {
    // Otherwise keys that exhaust the memory would stay for good: publishers are refused before a home sees their keys.
    let mut tester = Tester::new(LIMITS);
    let keys = &mut tester.homes.iter_mut().next().unwrap().keys;
    let published = Ordered { last_id: EventId::Sequence(1), events: 1, ids_replaced: 0, streams: None };
    for name in [&b"a"[..], b"b"] {
        let key = PublishKey { name: name.into(), digest: [0; 32] };
        assert!(matches!(keys.see(&key, &mut None, 0, false), Ok(Seen::First)));
        keys.ordered(&key, &published, 0);
    }
    assert!(!tester.homes.expire(120_000, 1), "they are known for so long");
    assert!(tester.homes.expire(120_001, 1), "there may be more than the one");
    assert!(tester.homes.expire(120_001, 1));
    assert!(!tester.homes.expire(120_001, 1));
}

#[test]
fn as_many_events_expire_at_a_time_as_are_asked_for_and_their_memory_goes_with_them() {
    let mut tester = Tester::with_topics(LIMITS, 10_000);
    for topic in 0..5_000 {
        let _ = tester.publish(topic, "data:a");
    }
    let mut turns = 1;
    while tester.homes.expire(9000, 1000) {
        turns += 1;
    }
    assert_eq!((turns, tester.homes.topics()), (6, 0));
    let kept = tester.history().capacities();
    assert!(kept.iter().all(|kept| *kept < 500), "{kept:?}");
}

#[test]
fn the_order_of_ages_does_not_grow_with_what_is_gone() {
    let mut tester = Tester::with_topics(LIMITS, 10);
    let _ = tester.publish(2, "data:quiet");
    for _ in 0..1000 {
        let _ = tester.publish(1, "data:busy");
    }
    let (ages, events) = tester.history().ages();
    assert!(ages <= 2 * events + 65, "{ages}");
    assert_eq!(events, 4);
}

#[test]
fn the_order_of_ages_is_swept_only_when_twice_as_much_is_gone() {
    let mut tester = Tester::with_topics(LIMITS, 10);
    for published in 1..200 {
        let _ = tester.publish(1, "data:busy");
        // Three events are retained, so the order of ages is swept past 2 * 3 + 64 entries.
        let expected = if published <= 70 { published } else { 3 + (published - 71) % 68 };
        assert_eq!(tester.history().ages().0, expected, "after {published}");
    }
}

#[test]
fn an_event_takes_its_frame_in_memory_and_no_more() {
    for topics in [1, 3] {
        let mut tester = Tester::with_topics(LIMITS, 9);
        for topic in 0..topics {
            let _ = tester.publish(topic, "data:a\nid:own\n\ndata:b");
        }
        // Each event of a publish of two has a copy.
        let frames = "data:a\nid:own\n\n".len() + "data:b\nid:9-2\n\n".len();
        assert_eq!(tester.memory.total(), topics * frames);
        // A single event keeps its chunk's framing too.
        let _ = tester.publish(7, "data:c");
        assert_eq!(tester.memory.total(), topics * frames + 10 + "data:c\nid:9-3\n\n".len() + 2);
        tester.homes.release(usize::MAX);
        assert_eq!(tester.memory.total(), 0);
    }
}

#[test]
fn what_is_dropped_is_told_once_with_the_bytes_of_its_lines_however_it_is_dropped() {
    let mut tester = Tester::with_topics(LIMITS, 2);
    let _ = tester.publish(1, "data:before");
    assert!(tester.homes.take_dropped().is_empty(), "nobody asked to be told");
    tester.homes.note_what_is_dropped();
    let dropped = |tester: &mut Tester| {
        let dropped = tester.homes.take_dropped().into_iter();
        dropped.map(|event| (event.sequence, event.lines_bytes)).collect::<Vec<_>>()
    };
    let _ = tester.publish(1, "data:a\nid:own\n\ndata:bc\n\ndata:def");
    assert_eq!(dropped(&mut tester), [(1, "data:before\n".len())], "by its topic's limit");
    assert!(tester.homes.expire(9000, 1));
    assert_eq!(dropped(&mut tester), [(2, "data:a\nid:own\n".len())], "by its age");
    for topic in [2, 3] {
        let _ = tester.publish(topic, "data:g");
    }
    assert_eq!(
        dropped(&mut tester),
        [(3, "data:bc\n".len()), (4, "data:def\n".len())],
        "with its topic, which made room"
    );
    assert!(dropped(&mut tester).is_empty());
}

#[test]
fn of_the_events_of_one_moment_no_more_are_dropped_than_are_asked_for() {
    let mut tester = Tester::new(LIMITS);
    let _ = tester.publish(1, "data:a\n\ndata:b\n\ndata:c");
    let bytes = tester.homes.bytes() / 3;
    for (asked, left) in [(bytes, 2), (bytes + 1, 0)] {
        tester.homes.release(asked);
        assert_eq!(tester.homes.bytes(), left * bytes);
    }
}

#[test]
fn a_listener_to_several_topics_above_an_event_is_sent_it_once_with_all_of_them() {
    let mut tester = Tester::with_topics(LIMITS, 9);
    let [a, ab, abc] = ["a", "a/b", "a/b/c"].map(|path| paths(&mut tester, path));
    for (topic, from) in [(&a, 4), (&ab, 4), (&ab, 5), (&abc, 5), (&a, 6), (&a, 6)] {
        let selection = selection(slice::from_ref(topic));
        tester.ask(ToHome::Join { selection, from, key: tester.key, last_event_id: None });
    }
    let mut reached = |topic: &Topic| {
        let publish = tester.new_publish(topic.clone(), "data:a", None);
        let mut out = Vec::new();
        tester.homes.handle(0, ToHome::Publish(publish), 0, &mut tester.journal, &mut out);
        let mut reached = Vec::new();
        for Post { to, message } in out {
            if let Message::Fanout(ToFanout::Events { topics, .. }) = message {
                reached.push((
                    to,
                    topics.iter().map(|topic| topic.name().to_owned()).collect::<Vec<_>>().join(" "),
                ));
            }
        }
        reached.sort();
        reached
    };
    let of = |reached: &[(ListenerId, &str)]| {
        reached.iter().map(|(to, topics)| (*to, (*topics).to_owned())).collect::<Vec<_>>()
    };
    assert_eq!(reached(&abc), of(&[(4, "a/b a"), (5, "a/b/c a/b"), (6, "a")]));
    assert_eq!(reached(&ab), of(&[(4, "a/b a"), (5, "a/b"), (6, "a")]));
    assert_eq!(reached(&a), of(&[(4, "a"), (6, "a")]));
    for (topic, from) in [(&ab, 4), (&ab, 9), (&a, 6)] {
        tester.ask(ToHome::Leave { topic: topic.clone(), from });
    }
    let mut tester = tester;
    let publish = tester.new_publish(abc, "data:a", None);
    let posts = tester.ask(ToHome::Publish(publish));
    assert_eq!(posts.len(), 3, "two listeners and the answer");
    for (topic, from) in [(&a, 4), (&ab, 5), (&ab, 9)] {
        tester.ask(ToHome::Leave { topic: topic.clone(), from });
    }
    let publish = tester.new_publish(ab, "data:a", None);
    assert_eq!(tester.ask(ToHome::Publish(publish)).len(), 1, "nobody but who published");
}

fn paths(tester: &mut Tester, path: &str) -> Topic {
    let segments: Vec<_> = path.split('/').map(|segment| segment.as_bytes().into()).collect();
    Topic::parse_path(&segments, &tester.hasher).unwrap()
}

#[test]
fn the_last_of_all_shards_answers_with_the_streams_of_all() {
    let mut tester = Tester::new(LIMITS);
    let ticket = Ticket { shard: 3, connection: tester.key, request: 5 };
    let topic = Topic::of_session("chat", None, &tester.hasher);
    let mut posts = Vec::new();
    let disconnect =
        ToHome::Disconnect(Disconnect { topic, shards: 3, count_for: CountFor::Connection(ticket) });
    tester.homes.handle(0, disconnect, 0, &mut tester.journal, &mut posts);
    assert_eq!(posts.iter().map(|post| post.to).collect::<Vec<_>>(), [0, 1, 2]);
    let mut counts = posts.into_iter().map(|post| match post.message {
        Message::Fanout(ToFanout::Disconnect { delivery_count, upto: 0, .. }) => delivery_count,
        other => panic!("{other:?}"),
    });
    assert!(counts.next().unwrap().add(2).is_none() && counts.next().unwrap().add(0).is_none());
    assert_eq!(counts.next().unwrap().add(5), Some((ticket, Reply::Disconnected(7))));
}

#[test]
fn an_id_of_the_future_or_of_another_run_is_unknown_and_all_that_is_retained_follows_the_gap() {
    let mut tester = Tester::new(LIMITS);
    tester.publish(1, "data:a").1.unwrap();
    for id in ["9-2", "8-1", "nonsense"] {
        let (frames, gap) = tester.join(1, 0, Some(id)).unwrap();
        assert_eq!(
            (frames.as_str(), gap.map(|gap| gap.reason)),
            ("data:a\nid:9-1\n\n", Some(GapReason::Unknown))
        );
    }
    let (frames, gap) = tester.join(1, 0, Some("9-1")).unwrap();
    assert_eq!((frames.as_str(), gap), ("", None));
}

#[test]
fn resuming_after_the_newest_event_lost_has_no_gap_and_before_it_has_one() {
    let mut tester = Tester::new(LIMITS);
    for body in ["data:a", "data:b\nid:mine", "data:c", "data:d", "data:e"] {
        tester.publish(1, body).1.unwrap();
    }
    for (id, reason) in
        [("9-1", Some(GapReason::Trimmed)), ("9-2", None), ("mine", None), ("9-3", None), ("9-5", None)]
    {
        let (_, gap) = tester.join(1, 0, Some(id)).unwrap();
        assert_eq!(gap.map(|gap| gap.reason), reason, "{id}");
    }
    tester.publish(1, "data:f").1.unwrap();
    let (_, gap) = tester.join(1, 0, Some("mine")).unwrap();
    assert_eq!(gap.map(|gap| gap.reason), Some(GapReason::Unknown), "a later event was lost too");
}

#[test]
fn a_topic_gone_quiet_is_resumed_without_a_gap() {
    let mut tester = Tester::new(LIMITS);
    tester.join(1, 0, None);
    tester.publish(1, "data:a").1.unwrap();
    tester.publish(1, "data:b\nid:mine").1.unwrap();
    assert!(!tester.homes.expire(5000, 9));
    assert_eq!(tester.homes.bytes(), 0);
    for id in ["9-2", "mine"] {
        assert_eq!(tester.join(1, 0, Some(id)), Some((String::new(), None)), "{id}");
    }
}
