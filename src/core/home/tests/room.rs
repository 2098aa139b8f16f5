//! Known topics: the ones that make room for others, and what is kept of those forgotten.

use super::*;

#[test]
fn the_idlest_topic_is_forgotten_first_and_one_with_subscribers_never() {
    let mut tester = Tester::new(LIMITS);
    let _ = tester.publish(1, "data:a");
    let _ = tester.publish(2, "data:b");
    let _ = tester.publish(1, "data:c");
    let _ = tester.publish(3, "data:d");
    assert_eq!(tester.homes.topics(), 2);
    assert!(tester.join(1, 0, Some("9-1")).unwrap().0.contains("data:c"), "topic 1 was used after topic 2");
    tester.join(3, 0, None);
    assert_eq!(tester.publish(4, "data:e").1, Err(OrderError::TopicsFull));
    assert_eq!(tester.join(4, 0, None), None);
    tester.leave(1, 0);
    assert!(tester.publish(4, "data:e").1.is_ok());
}

#[test]
fn to_find_the_idlest_topic_only_so_many_are_looked_at() {
    let mut tester = Tester::with_topics(LIMITS, 65);
    // All but the last are used once more, which the eviction finds out one after the other.
    for topic in (0..65).chain(0..64) {
        let _ = tester.publish(topic, "data:a");
    }
    let knows = |tester: &mut Tester, topic| {
        let topic = tester.topic(topic);
        tester.history().topics().find(&topic).is_some()
    };
    let _ = tester.publish(65, "data:a");
    assert_eq!((knows(&mut tester, 0), knows(&mut tester, 64)), (false, true), "the oldest of 64");
    let _ = tester.publish(66, "data:a");
    assert_eq!((knows(&mut tester, 1), knows(&mut tester, 64)), (true, false));
    assert_eq!(tester.history().ages().1, 128);
    tester.homes.release(usize::MAX);
    assert_eq!((tester.homes.topics(), tester.homes.bytes()), (0, 0));
}

#[test]
fn a_topic_that_was_held_makes_room_again_once_it_is_not() {
    let mut tester = Tester::with_topics(LIMITS, 3);
    let [tree, leaf] = ["a", "a/b"].map(|path| paths(&mut tester, path));
    let join = |tester: &mut Tester, topic: &Topic| {
        let selection = selection(slice::from_ref(topic));
        tester.ask(ToHome::Join { selection, from: 0, key: tester.key, last_event_id: None });
    };
    for topic in [&tree, &leaf] {
        join(&mut tester, topic);
    }
    let _ = tester.publish_to(leaf.clone(), "data:a");
    for topic in 0..3 {
        assert!(tester.publish(topic, "data:b").1.is_ok());
        assert_eq!(tester.homes.topics(), 3, "those that are held stay");
    }
    for topic in [&leaf, &tree] {
        tester.ask(ToHome::Leave { topic: topic.clone(), from: 0 });
    }
    for topic in 3..6 {
        tester.join(topic, 0, None);
    }
    assert_eq!((tester.homes.topics(), tester.history().topics().find(&tree)), (3, None));
    assert_eq!(tester.publish(6, "data:c").1, Err(OrderError::TopicsFull));
}

#[test]
fn what_is_forgotten_below_a_topic_is_lost_to_it() {
    let mut tester = Tester::with_topics(LIMITS, 4);
    let [tree, leaf, other] = ["a", "a/b", "a/c"].map(|path| paths(&mut tester, path));
    let selection = selection(&[tree]);
    tester.ask(ToHome::Join { selection: selection.clone(), from: 0, key: tester.key, last_event_id: None });
    for topic in [&leaf, &other, &other] {
        let _ = tester.publish_to(topic.clone(), "data:a");
    }
    // The former topics make room for these.
    for topic in 0..2 {
        let _ = tester.publish(topic, "data:b");
    }
    assert_eq!(tester.history().topics().find(&leaf), None);
    for (last_id, reason) in [("9-0", Some(GapReason::Trimmed)), ("9-1", None), ("9-3", None)] {
        let (selection, last_event_id) = (selection.clone(), Some(last_id.into()));
        let join = ToHome::Join { selection, from: 0, key: tester.key, last_event_id };
        let [Message::Fanout(ToFanout::Page { page, .. })] = &tester.ask(join)[..] else { panic!() };
        assert_eq!(page.gap.as_ref().map(|gap| gap.reason), reason, "{last_id}");
    }
}

#[test]
fn who_resumes_in_a_topic_that_was_forgotten_is_told_of_a_gap() {
    let mut tester = Tester::with_topics(LIMITS, 1);
    let _ = tester.publish(1, "data:a");
    let _ = tester.publish(1, "data:b");
    let _ = tester.publish(2, "data:c");
    let (frames, gap) = tester.join(1, 0, Some("9-1")).unwrap();
    assert_eq!(frames, "");
    assert_eq!(gap.unwrap().reason, GapReason::Trimmed);
}

#[test]
fn a_topic_with_neither_subscribers_nor_history_is_forgotten_and_resumed_without_a_gap() {
    let mut tester = Tester::with_topics(LIMITS, 10);
    let _ = tester.publish(1, "data:a");
    let _ = tester.publish(1, "data:b\nid:own");
    let _ = tester.publish(2, "data:c");
    let _ = tester.publish(3, "data:d");
    tester.join(3, 0, None);
    assert!(!tester.homes.expire(9000, 10));
    assert_eq!((tester.homes.topics(), tester.homes.bytes()), (1, 0), "that with a subscriber stays");
    tester.leave(3, 0);
    assert_eq!(tester.homes.topics(), 0);
    // The last event of each is known, whatever later events others have.
    for (topic, last_id) in [(1, "9-2"), (1, "own"), (2, "9-3"), (3, "9-4"), (4, "9-1")] {
        assert_eq!(
            tester.join(topic, 0, Some(last_id)),
            Some((String::new(), None)),
            "{topic} after {last_id}"
        );
        tester.leave(topic, 0);
    }
    for (topic, last_id) in [(1, "9-1"), (2, "9-2")] {
        let gap = tester.join(topic, 0, Some(last_id)).unwrap().1.unwrap();
        assert_eq!(gap.reason, GapReason::Trimmed, "{topic} after {last_id}");
    }
}

#[test]
fn a_join_that_is_refused_leaves_no_topic_behind() {
    let mut tester = Tester::new(LIMITS);
    let _ = tester.publish(1, "data:a");
    for topics in [&[2, 3, 4][..], &[1, 2, 3]] {
        let topics: Vec<_> = topics.iter().map(|topic| tester.topic(*topic)).collect();
        let selection = selection(&topics);
        let join = ToHome::Join { selection, from: 0, key: tester.key, last_event_id: None };
        let answer = tester.ask(join);
        assert!(matches!(answer[..], [Message::Fanout(ToFanout::Refused { .. })]), "{answer:?}");
        assert_eq!(tester.homes.topics(), 1, "that with an event stays");
    }
}

#[test]
fn a_subscriber_who_leaves_a_topic_without_history_takes_it_along() {
    let mut tester = Tester::new(LIMITS);
    for from in [0, 1] {
        tester.join(1, from, None);
    }
    tester.leave(1, 0);
    assert_eq!(tester.homes.topics(), 1);
    tester.leave(1, 1);
    assert_eq!(tester.homes.topics(), 0);
}

#[test]
fn an_event_too_large_for_its_history_leaves_no_topic_behind() {
    let mut tester = Tester::new(HistoryLimits { bytes_max: 1, ..LIMITS });
    assert!(tester.publish(1, "data:a").1.is_ok());
    assert_eq!((tester.homes.topics(), tester.homes.bytes()), (0, 0));
    assert_eq!(tester.join(1, 0, Some("9-0")).unwrap().1.unwrap().reason, GapReason::Trimmed);
}

#[test]
fn a_topic_is_kept_with_those_above_it_and_these_with_it() {
    let mut tester = Tester::with_topics(LIMITS, 3);
    let publish = |tester: &mut Tester, path: &str| {
        let topic = paths(tester, path);
        tester.publish_to(topic, "data:a").1
    };
    assert!(publish(&mut tester, "a/b/c").is_ok());
    assert_eq!(tester.homes.topics(), 3, "a, a/b and a/b/c; everything counts as none");
    assert!(publish(&mut tester, "d/e").is_ok(), "the others give way from the leaves up");
    let above_d = paths(&mut tester, "d");
    assert!(tester.history().topics().find(&above_d).is_some());
    assert_eq!(publish(&mut tester, "f/g/h/i"), Err(OrderError::TopicsFull), "no room for those above it");
}
