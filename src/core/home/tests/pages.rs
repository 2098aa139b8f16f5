//! Pages of replay: their limits, and the gaps that they tell of.

use super::*;

#[test]
fn a_page_asked_for_after_a_trim_says_once_that_something_is_missing() {
    let mut tester = Tester::new(HistoryLimits { page_frames_max: 1, ..LIMITS });
    for body in ["data:1", "data:2", "data:3"] {
        let _ = tester.publish(1, body);
    }
    let selection = selection(&[tester.topic(1)]);
    let more =
        |after, told| ToHome::More { selection: selection.clone(), from: 0, key: tester.key, after, told };
    let (unseen, seen, told) = (more(1, 0), more(2, 0), more(1, 2));
    assert_eq!(tester.history().trim(2, |_, _| true), 2);
    let mut gap = |ask| match &tester.ask(ask)[..] {
        [Message::Fanout(ToFanout::Page { page: ReplayPage { gap, told: 2, .. }, .. })] => gap.clone(),
        other => panic!("{other:?}"),
    };
    assert_eq!(gap(unseen).unwrap().reason, GapReason::Trimmed);
    assert_eq!((gap(seen), gap(told)), (None, None));
}

/// Reads the pages of these topics after `after` up to the last; returns each page's data, and where it ends.
fn pages(tester: &mut Tester, topics: &[Topic], mut after: Sequence) -> Vec<(String, Sequence)> {
    let selection = selection(topics);
    let mut pages = Vec::new();
    loop {
        let (selection, key) = (selection.clone(), tester.key);
        let more = ToHome::More { selection, from: 0, key, after, told: Sequence::MAX };
        let [Message::Fanout(ToFanout::Page { page, .. })] = &tester.ask(more)[..] else { panic!() };
        let text = String::from_utf8(page.frames.concat()).unwrap();
        let data = text.lines().filter_map(|line| line.strip_prefix("data:")).collect::<Vec<_>>().join(" ");
        pages.push((data, page.upto));
        after = page.upto;
        if page.joined {
            return pages;
        }
    }
}

#[test]
fn a_gap_says_what_was_seen_last_and_where_to_go_on_if_no_event_does() {
    let mut tester = Tester::new(LIMITS);
    for body in ["data:1", "data:2", "data:3", "data:4", "data:5"] {
        let _ = tester.publish(1, body);
    }
    let selection = selection(&[tester.topic(1)]);
    let gap = |tester: &mut Tester, after| {
        let (selection, key) = (selection.clone(), tester.key);
        match &tester.ask(ToHome::More { selection, from: 0, key, after, told: 0 })[..] {
            [Message::Fanout(ToFanout::Page { page: ReplayPage { gap, .. }, .. })] => gap.clone().unwrap(),
            other => panic!("{other:?}"),
        }
    };
    let trimmed = |from: Option<&str>, id: Option<&str>| {
        let [from, id] = [from, id].map(|id| id.map(Into::into));
        Gap { from, reason: GapReason::Trimmed, id }
    };
    assert_eq!(gap(&mut tester, 0), trimmed(None, None));
    assert_eq!(gap(&mut tester, 1), trimmed(Some("9-1"), None));
    tester.homes.expire(9000, usize::MAX);
    assert_eq!(gap(&mut tester, 1), trimmed(Some("9-1"), Some("9-5")));
    assert_eq!(
        tester.join(1, 0, Some("9-2")),
        Some((String::new(), Some(trimmed(Some("9-2"), Some("9-5")))))
    );
}

#[test]
fn a_page_of_any_topics_is_bounded_by_frames_and_bytes_but_never_empty() {
    let limits = HistoryLimits { events_max: 100, page_frames_max: 3, ..LIMITS };
    let mut tester = Tester::with_topics(limits, 9);
    let leaves = [1, 2].map(|n| tester.topic(n));
    for (number, body) in [(0, "data:1"), (1, "data:2"), (1, "data:3"), (0, "data:4"), (1, "data:5")] {
        let _ = tester.publish_to(leaves[number].clone(), body);
    }
    for (body, topic) in [("data:6", "a"), ("data:7", "a/b"), ("data:8", "a/c"), ("data:9", "a/b")] {
        let topic = paths(&mut tester, topic);
        let _ = tester.publish_to(topic, body);
    }
    let tree = paths(&mut tester, "a");
    let of = |pages: &[(&str, Sequence)]| {
        pages.iter().map(|(data, upto)| ((*data).to_owned(), *upto)).collect::<Vec<_>>()
    };
    assert_eq!(pages(&mut tester, &leaves[..1], 0), of(&[("1 4", 4)]));
    assert_eq!(pages(&mut tester, &leaves, 0), of(&[("1 2 3", 3), ("4 5", 5)]));
    assert_eq!(pages(&mut tester, &leaves, 3), of(&[("4 5", 5)]));
    assert_eq!(pages(&mut tester, slice::from_ref(&tree), 0), of(&[("6 7 8", 8), ("9", 9)]));
    assert_eq!(pages(&mut tester, slice::from_ref(&tree), 8), of(&[("9", 9)]));

    // Two of these fill a page exactly; the next is larger than a page.
    let mut tester = Tester::with_topics(limits, 9);
    let body = |name: &str, bytes: usize, n: u64| {
        let rest = bytes - name.len() - format!("data:\nid:9-{n}\n\n:\n").len();
        format!("data:{name}\n:{}", "x".repeat(rest))
    };
    let half = 32 << 10;
    for (n, bytes) in (1..).zip([half, half, half, 3 * half, half]) {
        for topic in ["a/b", "c"] {
            let topic = paths(&mut tester, topic);
            let body = body(&n.to_string(), bytes, 2 * n - u64::from(topic.name() == "a/b"));
            assert_eq!(tester.publish_to(topic, body).1.map(|published| published.events), Ok(1));
        }
    }
    let topics = ["a", "a/b", "c"].map(|path| paths(&mut tester, path));
    assert_eq!(pages(&mut tester, &topics[..1], 0), of(&[("1 2", 4), ("3", 6), ("4", 8), ("5", 10)]));
    assert_eq!(pages(&mut tester, &topics[1..2], 0), of(&[("1 2", 3), ("3", 5), ("4", 7), ("5", 9)]));
    assert_eq!(
        pages(&mut tester, &topics[1..], 0),
        of(&[("1 1", 2), ("2 2", 4), ("3 3", 6), ("4", 7), ("4", 8), ("5 5", 10)])
    );
}

#[test]
fn a_page_of_a_tree_looks_at_so_many_events_of_others() {
    let mut tester = Tester::with_topics(HistoryLimits { events_max: 10_000, ..LIMITS }, 9);
    let [tree, leaf, other] = ["a", "a/b", "c"].map(|path| paths(&mut tester, path));
    let _ = tester.publish_to(leaf.clone(), "data:first");
    for _ in 0..5 {
        let _ = tester.publish_to(other.clone(), "data:another\n\n".repeat(1000));
    }
    let _ = tester.publish_to(leaf, "data:last");
    assert_eq!(
        pages(&mut tester, slice::from_ref(&tree), 0),
        [("first".to_owned(), 4096), ("last".to_owned(), 5002)]
    );
}

#[test]
fn a_publishers_own_id_is_looked_for_among_so_many_of_a_tree() {
    let mut tester = Tester::with_topics(HistoryLimits { events_max: 10_000, ..LIMITS }, 9);
    let [tree, leaf] = ["a", "a/b"].map(|path| paths(&mut tester, path));
    let body: String = (0..2049).map(|n| format!("data:a\nid:own{n}\n\n")).collect();
    let _ = tester.publish_to(leaf.clone(), body);
    let mut gap = |topic: &Topic, id: &str| {
        let (selection, last_event_id) = (selection(slice::from_ref(topic)), Some(id.into()));
        match &tester.ask(ToHome::Join { selection, from: 0, key: tester.key, last_event_id })[..] {
            [Message::Fanout(ToFanout::Page { page, .. })] => page.gap.clone().map(|gap| gap.reason),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(gap(&tree, "own0"), Some(GapReason::Unknown));
    assert_eq!(gap(&tree, "own1"), None);
    assert_eq!(gap(&leaf, "own0"), None, "what a topic has is known of it alone");
}

#[test]
fn a_page_of_a_part_has_the_brokers_ids_alone() {
    let mut tester = Tester::with_topics(LIMITS, 9);
    let topic = tester.topic(1);
    for body in ["data:a", "data:b\nid:own"] {
        let _ = tester.publish(1, body);
    }
    let line = format!("topic:{}\n", topic.name());
    for (ids, expected) in [
        (StreamIds::Plain, "data:a\nid:9-1\n\ndata:b\nid:own\n\n".to_owned()),
        (StreamIds::Positions, "data:a\nid:9-1\n\ndata:b\nid:own\nid:9-2\n\n".to_owned()),
        (StreamIds::PositionsAndTopics, format!("{line}data:a\nid:9-1\n\n{line}data:b\nid:own\nid:9-2\n\n")),
    ] {
        let selection = Selection::new(0, [topic.clone()].into(), ids);
        let more = ToHome::More { selection, from: 0, key: tester.key, after: 0, told: 0 };
        let [Message::Fanout(ToFanout::Page { page, .. })] = &tester.ask(more)[..] else { panic!() };
        assert_eq!(page.frames.concat(), expected.as_bytes());
    }
}
