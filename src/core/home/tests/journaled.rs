//! Publishes whose order becomes final later, and their recovery after a restart.

use super::*;
use crate::core::epochs::EarlierEpoch;
use crate::core::journal::Kept;

/// A journal that keeps publishes until it is asked to give them back, or none while it is not `late`.
#[derive(Default)]
struct LateJournal {
    is_prompt: bool,
    last: Sequence,
    /// Each with the sequence of its first event, and the newest earlier event of its topic.
    publishes: VecDeque<(Sequence, Publish, TopicEnd)>,
}

impl Journal for LateJournal {
    fn place(&mut self, _: PartitionId, events: u32) -> Option<Sequence> {
        let first = self.last + 1;
        self.is_prompt.then(|| {
            self.last += u64::from(events);
            first
        })
    }

    fn append(&mut self, _: PartitionId, publish: Publish, previous: TopicEnd) -> Option<Sequence> {
        let first = self.last + 1;
        self.last += publish.events.len() as u64;
        self.publishes.push_back((first, publish, previous));
        Some(self.last)
    }
}

/// A tester whose publishes go to the journal first.
struct Late {
    tester: Tester,
    journal: LateJournal,
}

impl Late {
    fn new(topics_max: usize) -> Self {
        Late { tester: Tester::with_topics(LIMITS, topics_max), journal: LateJournal::default() }
    }

    /// Sends a message to the home; returns the posts as text, and the number of events that became final.
    fn ask(&mut self, message: ToHome) -> (Vec<String>, u64) {
        let (mut out, now_ms) = (Vec::new(), self.tester.now_ms);
        let events = self.tester.homes.handle(0, message, now_ms, &mut self.journal, &mut out);
        (shown(out), events)
    }

    fn publish(&mut self, topic: &Topic, body: &'static str) -> Vec<String> {
        self.publish_with(topic, body, None)
    }

    fn publish_with(&mut self, topic: &Topic, body: &'static str, key: Option<PublishKey>) -> Vec<String> {
        let (posts, events) = self.ask(ToHome::Publish(self.tester.new_publish(topic.clone(), body, key)));
        assert_eq!(events, u64::from(self.journal.is_prompt));
        posts
    }

    /// Has the journal give the oldest publish back as final.
    fn finish(&mut self) -> (Vec<String>, u64) {
        let (first, publish, _) = self.journal.publishes.pop_front().unwrap();
        let mut out = Vec::new();
        let events = self.tester.homes.journaled(0, first, publish, self.tester.now_ms, &mut out);
        (shown(out), events)
    }

    /// Has the journal refuse the oldest publish.
    fn refuse(&mut self) -> Vec<String> {
        let (first, publish, _) = self.journal.publishes.pop_front().unwrap();
        let mut out = Vec::new();
        self.tester.homes.refuse(0, first, publish, OrderError::DiskFull, &mut out);
        shown(out)
    }

    /// Returns the newest earlier event of the topic of the newest publish that the journal has.
    fn previous(&self) -> (Sequence, Option<&str>) {
        let (_, _, TopicEnd { sequence, own_id }) = self.journal.publishes.back().unwrap();
        (*sequence, own_id.as_deref())
    }
}

fn shown(posts: Vec<Post>) -> Vec<String> {
    let shown = |Post { to, message }| match message {
        Message::Fanout(ToFanout::Events { frames, .. }) => {
            format!("{to}: {}", str::from_utf8(frames.frames()).unwrap().trim_end().replace('\n', " "))
        }
        Message::Fanout(ToFanout::Disconnect { upto, .. }) => format!("{to}: disconnect after {upto}"),
        Message::Reply(_, Reply::Published(Ok(published))) => format!("{} published", published.events),
        Message::Reply(_, Reply::Published(Err(error))) => format!("{error:?}"),
        other => panic!("{other:?}"),
    };
    posts.into_iter().map(shown).collect()
}

fn nothing() -> Vec<String> {
    Vec::new()
}

fn key(name: &str) -> Option<PublishKey> {
    Some(PublishKey { name: name.as_bytes().into(), digest: [0; 32] })
}

#[test]
fn what_the_journal_has_is_seen_and_answered_when_its_order_is_final() {
    let mut late = Late::new(2);
    late.tester.join(1, 4, None);
    let topic = late.tester.topic(1);
    assert_eq!(late.publish(&topic, "data:a\n\ndata:b\n\ndata:c"), nothing());
    assert_eq!(late.publish(&topic, "data:d"), nothing());
    let frames = "4: data:a id:9-1  data:b id:9-2  data:c id:9-3";
    assert_eq!(late.finish(), (vec![frames.to_owned(), "3 published".to_owned()], 3));
    assert_eq!(late.finish(), (vec!["4: data:d id:9-4".to_owned(), "1 published".to_owned()], 1));
}

#[test]
fn the_journal_is_told_the_newest_event_that_a_topic_had_before_wherever_that_is() {
    let mut late = Late::new(9);
    late.tester.join(1, 0, None);
    let [one, other] = [1, 2].map(|n| late.tester.topic(n));
    late.publish(&one, "data:a");
    assert_eq!(late.previous(), (0, None));
    late.publish(&one, "data:b\n\ndata:c\nid:mine");
    assert_eq!(late.previous(), (1, None), "it is under way");
    late.publish(&other, "data:d");
    assert_eq!(late.previous(), (0, None));
    late.finish();
    late.publish(&one, "data:e");
    assert_eq!(late.previous(), (3, Some("mine")), "that of the first is not");
    (0..3).for_each(|_| drop(late.finish()));
    late.publish(&one, "data:f");
    assert_eq!(late.previous(), (5, None), "it is retained");
    late.finish();
    assert!(!late.tester.homes.expire(9000, 100));
    late.publish(&one, "data:g\nid:mine");
    assert_eq!(late.previous(), (6, None), "it was retained");
    late.finish();
    // A publish whose order is final at once comes after those.
    late.journal.is_prompt = true;
    late.publish(&one, "data:h");
    late.journal.is_prompt = false;
    late.publish(&one, "data:i");
    assert_eq!(late.previous(), (8, None));
}

#[test]
fn streams_end_after_what_was_published_before_they_were_to_end() {
    let mut late = Late::new(9);
    let topic = Topic::of_session("chat", None, &late.tester.hasher);
    let ticket = Ticket { shard: 0, connection: late.tester.key, request: 0 };
    let disconnect = || {
        ToHome::Disconnect(Disconnect {
            topic: topic.clone(),
            shards: 2,
            count_for: CountFor::Connection(ticket),
        })
    };
    let ended = |upto| (0..2).map(move |shard| format!("{shard}: disconnect after {upto}"));
    let published = || "1 published".to_owned();
    late.publish(&topic, "data:a");
    late.publish(&topic, "data:b");
    assert_eq!(late.ask(disconnect()), (nothing(), 0));
    late.publish(&topic, "data:c");
    assert_eq!(late.ask(disconnect()), (nothing(), 0));
    assert_eq!(late.finish().0, [published()]);
    assert_eq!(late.finish().0, [published()].into_iter().chain(ended(2)).collect::<Vec<_>>());
    assert_eq!(late.finish().0, [published()].into_iter().chain(ended(3)).collect::<Vec<_>>());
    assert_eq!(late.ask(disconnect()).0, ended(3).collect::<Vec<_>>(), "nothing is under way");
}

#[test]
fn who_sends_a_publish_again_is_answered_with_the_first_whatever_becomes_of_it() {
    let mut late = Late::new(9);
    let topic = late.tester.topic(1);
    for _ in 0..2 {
        assert_eq!(late.publish_with(&topic, "data:a", key("k")), nothing());
    }
    assert_eq!(late.refuse(), ["DiskFull", "DiskFull"]);
    for _ in 0..3 {
        assert_eq!(late.publish_with(&topic, "data:a", key("k")), nothing(), "it may come again");
    }
    assert_eq!(late.finish(), (vec!["1 published".to_owned(); 3], 1));
    let again = late.ask(ToHome::Publish(late.tester.new_publish(topic.clone(), "data:a", key("k"))));
    assert_eq!(again, (vec!["1 published".to_owned()], 0));
    assert!(late.journal.publishes.is_empty());
    let other = PublishKey { digest: [1; 32], ..key("k").unwrap() };
    assert_eq!(late.publish_with(&topic, "data:b", Some(other)), ["KeyReused"]);
}

#[test]
fn a_topic_with_a_publish_under_way_stays_whoever_leaves_and_however_little_room_there_is() {
    let mut late = Late::new(1);
    late.tester.join(1, 0, None);
    let topic = late.tester.topic(1);
    late.publish(&topic, "data:a");
    late.tester.leave(1, 0);
    assert_eq!(late.tester.join(2, 0, None), None, "there is no room for another");
    late.publish(&topic, "data:b");
    assert_eq!(late.previous(), (1, None), "what is under way came before");
    late.finish();
    late.finish();
    assert_eq!(late.tester.join(1, 0, Some("9-1")).unwrap().0, "data:b\nid:9-2\n\n");
    late.tester.leave(1, 0);
    assert!(late.tester.join(2, 0, None).is_some(), "it makes room then");
}

#[test]
fn a_publish_that_was_refused_leaves_nothing_behind() {
    let mut late = Late::new(9);
    let chat = Topic::of_session("chat", None, &late.tester.hasher);
    let ticket = Ticket { shard: 0, connection: late.tester.key, request: 0 };
    late.publish(&chat, "data:a");
    let disconnect = Disconnect { topic: chat.clone(), shards: 1, count_for: CountFor::Connection(ticket) };
    assert_eq!(late.ask(ToHome::Disconnect(disconnect)), (nothing(), 0));
    assert_eq!(late.refuse(), ["DiskFull", "0: disconnect after 0"], "what waited for it goes on");
    assert_eq!(late.tester.homes.topics(), 0);
    late.publish(&chat, "data:b");
    assert_eq!(late.previous(), (0, None), "nothing came before");
}

#[test]
fn a_publish_under_way_reaches_who_came_above_it_meanwhile_however_little_room_there_is() {
    let mut late = Late::new(3);
    let [tree, leaf] = ["a", "a/b"].map(|path| paths(&mut late.tester, path));
    late.publish(&leaf, "data:a");
    for topic in [&tree, &late.tester.topic(1), &late.tester.topic(2)] {
        let selection = selection(slice::from_ref(topic));
        let (from, key) = (0, late.tester.key);
        late.tester.ask(ToHome::Join { selection, from, key, last_event_id: None });
    }
    assert_eq!(late.finish(), (vec!["0: data:a id:9-1".to_owned(), "1 published".to_owned()], 1));
}

/// The journal kept events 3, 5 and 6 of topic 1, of which 6 came last, and nothing of topic 2, which ended with 4.
#[test]
fn what_the_journal_kept_is_replayed_after_a_restart_and_what_it_did_not_keep_is_a_gap() {
    let mut tester = Tester::with_topics(HistoryLimits { age_max_ms: 1 << 40, ..LIMITS }, 9);
    let [one, two] = [1, 2].map(|n| tester.topic(n));
    let end = |sequence, own_id: Option<&str>| TopicEnd { sequence, own_id: own_id.map(Into::into) };
    for (first, body, previous) in
        [(3, "data:a", end(2, Some("old"))), (5, "data:b\n\ndata:c\nid:new", end(3, None))]
    {
        let events = tester.new_publish(one.clone(), body, None).events;
        let kept = Kept { partition: 0, first, at_ms: 0, topic: one.clone(), events, previous, key: None };
        tester.homes.recover(kept);
    }
    let published = Ordered { last_id: EventId::Sequence(6), events: 2, ids_replaced: 0, streams: None };
    for (name, at_ms) in [("early", 0), ("late", 1)] {
        tester.homes.recover_key(0, &key(name).unwrap(), &published, at_ms);
    }
    let earlier = EarlierEpoch { epoch: Epoch::at(8), last: [8].into() };
    let epochs = Arc::new(Epochs::new(Epoch::at(9), vec![earlier]));
    let hash = Partitioner::new(1, [7; 16]).end_hash(two.name());
    let ends = [(0, hash, end(4, Some("two"))), (1, hash, end(9, None))];
    tester.now_ms = KEYS_KNOWN_MS + 1;
    tester.homes.recovered(&epochs, &[8], ends.into_iter(), tester.now_ms);

    for (topic, last_id, frames, reason) in [
        (1, "8-1", "abc", Some(GapReason::Trimmed)),
        (1, "8-2", "abc", None),
        (1, "old", "abc", None),
        (1, "8-3", "bc", None),
        (1, "new", "", None),
        (1, "8-8", "", None),
        (1, "8-9", "abc", Some(GapReason::Unknown)),
        (2, "8-3", "", Some(GapReason::Trimmed)),
        (2, "8-4", "", None),
        (2, "two", "", None),
        (3, "8-1", "", None),
    ] {
        let (text, gap) = tester.join(topic, 0, Some(last_id)).unwrap();
        let found: String = text.lines().filter_map(|line| line.strip_prefix("data:")).collect();
        assert_eq!((found.as_str(), gap.map(|gap| gap.reason)), (frames, reason), "{topic} after {last_id}");
    }
    // Keys are known for as long as they would be without the restart.
    let mut see = |name: &str| {
        let publish = tester.new_publish(one.clone(), "data:d", key(name));
        let mut journal = LateJournal { last: 8, is_prompt: true, ..LateJournal::default() };
        let mut out = Vec::new();
        let events = tester.homes.handle(0, ToHome::Publish(publish), tester.now_ms, &mut journal, &mut out);
        (events, shown(out).last().cloned().unwrap())
    };
    assert_eq!(see("late"), (0, "2 published".to_owned()));
    assert_eq!(see("early"), (1, "1 published".to_owned()));
    let (text, _) = tester.join(1, 0, Some("8-8")).unwrap();
    assert_eq!(text, "data:d\nid:9-9\n\n", "new events come behind all that was ordered");
}

#[test]
fn a_restart_tells_topics_what_ended_below_them() {
    let mut tester = Tester::with_topics(LIMITS, 9);
    let [tree, leaf] = ["a", "a/b"].map(|path| paths(&mut tester, path));
    let events = tester.new_publish(leaf.clone(), "data:a", None).events;
    let previous = TopicEnd::default();
    tester.homes.recover(Kept {
        partition: 0,
        first: 7,
        at_ms: 0,
        topic: leaf.clone(),
        events,
        previous,
        key: None,
    });
    // Another topic below it is gone, and so is its own end: the end of the tree tells of that.
    let hash = Partitioner::new(1, [7; 16]).end_hash(tree.name());
    let epochs = Arc::new(Epochs::new(Epoch::at(9), Vec::new()));
    let end = TopicEnd { sequence: 5, own_id: None };
    tester.homes.recovered(&epochs, &[7], [(0, hash, end)].into_iter(), 0);
    let everything = Topic::everything(&tester.hasher);
    for (topic, lost) in [(leaf, 0), (tree, 5), (everything, 5)] {
        let key = tester.history().topics().find(&topic).unwrap();
        assert_eq!(tester.history().lost(&[key]), lost, "{topic:?}");
    }
}

#[test]
fn what_was_kept_of_more_topics_than_there_is_room_for_is_lost_and_the_rest_is_not() {
    let mut tester = Tester::with_topics(LIMITS, 1);
    tester.join(9, 0, None);
    let topic = tester.topic(1);
    for first in [1, 2] {
        let events = tester.new_publish(topic.clone(), "data:a", None).events;
        let previous = TopicEnd { sequence: first - 1, own_id: None };
        tester.homes.recover(Kept {
            partition: 0,
            first,
            at_ms: 0,
            topic: topic.clone(),
            events,
            previous,
            key: None,
        });
    }
    assert_eq!((tester.homes.bytes(), tester.history().sequence()), (0, 2));
    tester.leave(9, 0);
    assert_eq!(tester.join(1, 0, Some("9-1")).unwrap().1.unwrap().reason, GapReason::Trimmed);
    assert_eq!(tester.join(1, 0, Some("9-2")).unwrap().1, None);
}

#[test]
fn what_the_journal_has_no_more_is_dropped_and_nothing_behind_it() {
    let mut tester = Tester::with_topics(LIMITS, 9);
    for (topic, body) in
        [(1, "data:a"), (1, "data:b"), (1, "data:c"), (1, "data:d"), (2, "data:e"), (1, "data:f")]
    {
        // The first two are dropped by their topic's limit, and their entries in the order of ages are stale.
        let _ = tester.publish(topic, body);
    }
    tester.homes.note_what_is_dropped();
    assert!(!tester.homes.lose(0, 5, usize::MAX));
    let dropped = tester.homes.take_dropped();
    assert_eq!(dropped.iter().map(|event| event.sequence).collect::<Vec<_>>(), [3, 4, 5]);
    assert!(tester.homes.take_dropped().is_empty());
    assert_eq!((tester.homes.topics(), tester.history().ages().1), (1, 1));
    assert_eq!(tester.join(1, 0, Some("9-5")), Some(("data:f\nid:9-6\n\n".to_owned(), None)));
}
