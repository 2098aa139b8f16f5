//! Streams of more than one topic, and of more than one partition.

use super::*;
use crate::core::fanout::log::{SEND_BYTES_MAX, SHARED_BYTES_MIN};
use crate::core::message::{Gap, GapReason};

/// No limit but that of one send applies.
const NO_LIMITS: FanoutLimits = FanoutLimits { lag_bytes_max: 1 << 30, ..LIMITS };

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
        let mut sent = Vec::new();
        tester.fanout.send_ready(usize::MAX, 0, &mut Vec::new(), |index, outgoing| {
            sent.push((index, outgoing.buffers.concat()));
            Some(0)
        });
        assert_eq!(sent, [(key.index, format!("{number}\n\n").into_bytes())]);
        tester.send(key);
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
        // Each log stays below its limit.
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

/// However large the send is: a stream of one topic may take a block that is longer than the limit, too.
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
    tester.block_on(&topics[1], "x");
    assert_eq!(tester.fanout.progress(key).unwrap().lag_bytes, 5006, "with what it has not begun to be sent");
    tester.sent(key);
    assert_eq!(tester.fanout.progress(key).unwrap().lag_bytes, 6);
}

#[test]
fn only_a_topic_that_is_read_with_others_keeps_where_its_events_lie() {
    let mut tester = Tester::new(LIMITS);
    let session = [None, Some("ann")].map(|user| Topic::of_session("chat", user, &tester.hasher));
    for topics in [[tester.topic(1), tester.topic(2)], session] {
        tester.idle_on(&topics[..1], u64::MAX);
        let marks = |tester: &mut Tester| {
            tester.block_on(&topics[0], "event\n\n");
            tester.log(&topics[0]).log.blocks_from(Default::default()).last().unwrap().marks.len()
        };
        assert_eq!(marks(&mut tester), 0);
        let both = [(); 2].map(|()| tester.idle_on(&topics, u64::MAX));
        assert_eq!(marks(&mut tester), 1);
        tester.fanout.leave(both[0], &mut Vec::new());
        assert_eq!(marks(&mut tester), 1);
        tester.fanout.leave(both[1], &mut Vec::new());
        assert_eq!(marks(&mut tester), 0);
    }
}

#[test]
fn a_topic_that_is_sealed_before_others_of_a_stream_waits_for_them() {
    let mut tester = Tester::new(LIMITS);
    let topics = [tester.topic(1), tester.topic(2)];
    let key = tester.idle_on(&topics, u64::MAX);
    tester.gain(1, "a\n\n");
    tester.gain(2, "b\n\n");
    // Its seam makes a block of topic 2, with an event later than those that topic 1 still gathers.
    let newcomer = tester.subscribe(2, u64::MAX);
    tester.page(newcomer, &[], true);
    assert_eq!((tester.send(key).as_str(), tester.send(newcomer).as_str()), ("", "HEAD\n"));
    tester.fanout.seal_all();
    tester.sent(newcomer);
    assert_eq!((tester.send(key).as_str(), tester.send(newcomer).as_str()), ("a\n\nb\n\n", ""));
}

#[test]
fn a_send_of_several_topics_is_bounded_but_takes_what_lies_between_the_events_of_a_block() {
    let events_of_next = |tester: &mut Tester, key| match tester.next(key) {
        Next::Send(Outgoing { buffers, events, .. }) => (events, buffers.concat().len()),
        next => panic!("{next:?}"),
    };
    // Limited by blocks.
    let mut tester = Tester::new(NO_LIMITS);
    let topics = [tester.topic(1), tester.topic(2)];
    let key = tester.idle_on(&topics, u64::MAX);
    (0..70).for_each(|n| tester.block_on(&topics[n % 2], "x"));
    assert_eq!(events_of_next(&mut tester, key), (64, 64));
    tester.sent(key);
    assert_eq!(events_of_next(&mut tester, key), (6, 6));
    tester.sent(key);
    assert_eq!((tester.send(key), tester.fanout.log_bytes()), (String::new(), 0));

    // Limited by bytes: two of these, with nine bytes of chunk framing each, fill one send exactly.
    let mut tester = Tester::new(NO_LIMITS);
    let key = tester.idle_on(&topics, u64::MAX);
    let half = "x".repeat(SEND_BYTES_MAX / 2 - 9);
    (0..3).for_each(|n| tester.block_on(&topics[n % 2], &half));
    assert_eq!(events_of_next(&mut tester, key), (2, 2 * half.len()));
    tester.sent(key);
    assert_eq!(events_of_next(&mut tester, key), (1, half.len()));
    tester.sent(key);

    // Not limited within a turn whose blocks overlap.
    for (number, frame) in [(0, "x"), (1, &*"x".repeat(SEND_BYTES_MAX)), (0, "x")] {
        tester.gain_on(topics[number].clone(), frame);
    }
    tester.fanout.seal_all();
    tester.block_on(&topics[0], "x");
    assert_eq!(events_of_next(&mut tester, key), (3, SEND_BYTES_MAX + 2));
    tester.sent(key);
    assert_eq!(events_of_next(&mut tester, key), (1, 1));
}

#[test]
fn partitions_take_turns_in_filling_a_send() {
    let mut tester = Tester::with_partitions(NO_LIMITS, 3);
    let everything = Topic::everything(&tester.hasher);
    let key = tester.subscribe_to(slice::from_ref(&everything), u64::MAX);
    (0..3).for_each(|partition| tester.page_of(key, partition, &[], true));
    assert_eq!(tester.send(key), "HEAD\n");
    tester.sent(key);
    for turn in 0..2 {
        for partition in 0..3 {
            // Two of these fill one send.
            let frame = format!("{partition}{turn}").repeat(SEND_BYTES_MAX / 4);
            tester.at_us = 100 - u64::from(10 * partition) + turn;
            tester.gain_in(Some(partition), everything.clone(), &frame);
        }
        tester.fanout.seal_all();
    }
    for (expected, oldest_us) in [("0010", 90), ("2001", 80), ("1121", 81)] {
        let Next::Send(Outgoing { buffers, events, at_us, .. }) = tester.next(key) else { panic!() };
        let text = String::from_utf8(buffers.concat()).unwrap();
        let began = text[..2].to_owned() + &text[SEND_BYTES_MAX / 2..][..2];
        assert_eq!((began.as_str(), text.len(), events, at_us), (expected, SEND_BYTES_MAX, 2, oldest_us));
        tester.sent(key);
    }
    assert_eq!((tester.send(key), tester.fanout.log_bytes()), (String::new(), 0));
}

#[test]
fn a_send_of_several_partitions_is_bounded_by_the_buffers_it_has_too() {
    let epochs = Some(Arc::new(Epochs::new(Epoch::at(9), Vec::new())));
    let mut tester = Tester::with_partitions(FanoutLimits { epochs, ..NO_LIMITS }, 2);
    let everything = Topic::everything(&tester.hasher);
    let key = tester.subscribe_to(slice::from_ref(&everything), u64::MAX);
    (0..2).for_each(|partition| tester.page_of(key, partition, &[], true));
    assert_eq!(tester.send(key), "HEAD\n");
    tester.sent(key);
    for partition in 0..2 {
        for _ in 0..32 {
            // Large enough to be shared, and followed by an id of the stream's own.
            tester.gain_in(Some(partition), everything.clone(), &"x".repeat(SHARED_BYTES_MIN + 1));
        }
    }
    tester.fanout.seal_all();
    for _ in 0..2 {
        let Next::Send(Outgoing { buffers, events, .. }) = tester.next(key) else { panic!() };
        assert_eq!((buffers.len(), events), (64, 32));
        tester.sent(key);
    }
}

#[test]
fn a_partition_that_gains_nothing_stays_where_it_is_in_every_position() {
    let epochs = Some(Arc::new(Epochs::new(Epoch::at(9), Vec::new())));
    let mut tester = Tester::with_partitions(FanoutLimits { epochs, ..LIMITS }, 2);
    let everything = Topic::everything(&tester.hasher);
    let key = tester.subscribe_to(slice::from_ref(&everything), u64::MAX);
    (0..2).for_each(|partition| tester.page_of(key, partition, &[], true));
    assert_eq!(tester.send(key), "HEAD\n");
    for n in 1..3 {
        tester.sent(key);
        tester.gain_in(Some(0), everything.clone(), "data:a\n\n");
        tester.fanout.seal_all();
        assert_eq!(tester.send(key), format!("data:a\nid:9-0.{n}-1.7\n\n"));
    }
}

#[test]
fn a_partition_that_is_live_and_one_that_replays_take_turns() {
    let mut tester = Tester::with_partitions(LIMITS, 2);
    let everything = Topic::everything(&tester.hasher);
    let key = tester.subscribe_to(slice::from_ref(&everything), u64::MAX);
    tester.page_of(key, 0, &[], true);
    tester.page_of(key, 1, &["page 1\n\n"], false);
    assert_eq!(tester.send(key), "HEAD\npage 1\n\n");
    for n in 2..4 {
        tester.gain_in(Some(0), everything.clone(), "live\n\n");
        tester.fanout.seal_all();
        tester.sent(key);
        assert!(matches!(tester.out.pop().unwrap().message, Message::Home(1, ToHome::More { .. })));
        tester.page_of(key, 1, &[["page 2\n\n", "page 3\n\n"][n - 2]], n == 3);
        assert_eq!(tester.send(key), "live\n\n", "after a page");
        tester.gain_in(Some(0), everything.clone(), "live too\n\n");
        tester.fanout.seal_all();
        tester.sent(key);
        assert_eq!(tester.send(key), format!("page {n}\n\n"), "before more blocks");
        tester.sent(key);
        assert_eq!(tester.send(key), "live too\n\n");
        tester.sent(key);
        if n == 2 {
            tester.page_of(key, 1, &["page\n\n"], false);
            assert_eq!(tester.send(key), "page\n\n");
        }
    }
}

#[test]
fn a_page_without_events_has_the_next_one_asked_for_and_moves_no_position() {
    let epochs = Some(Arc::new(Epochs::new(Epoch::at(9), Vec::new())));
    let mut tester = Tester::new(FanoutLimits { epochs, ..LIMITS });
    let key = tester.subscribe_to(&[tester.topic(1), tester.topic(2)], u64::MAX);
    tester.page(key, &[], false);
    assert_eq!(tester.send(key), "HEAD\n");
    tester.out.clear();
    tester.sent(key);
    let [Post { message: Message::Home(0, ToHome::More { after: 7, selection, .. }), .. }] = &tester.out[..]
    else {
        panic!("{:?}", tester.out)
    };
    assert!(selection.is_part() && selection.topics().len() == 2);
    let gap = Gap { from: None, reason: GapReason::Trimmed, id: Some("9-7".into()) };
    let page = ReplayPage { gap: Some(gap), upto: 7, joined: true, ..ReplayPage::default() };
    let last_sent = |tester: &Tester| tester.fanout.subscribers.get(key).unwrap().last_sent();
    assert_eq!(last_sent(&tester), 0, "no event said so");
    tester.fanout.handle(ToFanout::Page { key, partition: 0, page }, &mut Vec::new());
    assert_eq!(
        tester.send(key),
        "event:gap\ndata:{\"from\":null,\"reason\":\"trimmed\"}\nid:9-0.7\n\n",
        "only the notice does"
    );
    assert_eq!(last_sent(&tester), 7);
}

#[test]
fn a_stream_is_where_its_last_page_ends_even_if_no_event_is_that_far() {
    let epochs = Some(Arc::new(Epochs::new(Epoch::at(9), Vec::new())));
    let mut tester = Tester::new(FanoutLimits { epochs, ..LIMITS });
    let topics = [tester.topic(1), tester.topic(2)];
    for (topics, frames, text, sent) in [
        (&topics[..], &["data:a\nid:9-3\n\n"][..], "HEAD\ndata:a\nid:9-0.3\n\n", 7),
        (&topics[..1], &["data:a\nid:9-3\n\n"], "HEAD\ndata:a\nid:9-3\n\n", 7),
        (&topics[..1], &[], "HEAD\n", 7),
        (&topics[..], &[], "HEAD\n", 0),
    ] {
        let key = tester.subscribe_to(topics, u64::MAX);
        tester.page(key, frames, false);
        assert_eq!(tester.send(key), text);
        assert_eq!(tester.fanout.subscribers.get(key).unwrap().last_sent(), sent);
        assert_eq!(tester.fanout.progress(key).unwrap().delivered, frames.len() as u64);
    }
}

#[test]
fn the_one_part_of_everything_has_positions_too() {
    let epochs = Some(Arc::new(Epochs::new(Epoch::at(9), Vec::new())));
    let mut tester = Tester::new(FanoutLimits { epochs, ..LIMITS });
    let everything = Topic::everything(&tester.hasher);
    let key = tester.idle_on(slice::from_ref(&everything), u64::MAX);
    tester.gain_in(Some(0), everything, "data:a\n\n");
    tester.fanout.seal_all();
    assert_eq!(tester.send(key), "data:a\nid:9-0.1\n\n");
}

#[test]
fn a_stream_is_cut_when_all_its_topics_together_have_more_than_the_limit() {
    for (bytes, evicted) in [(1000, 0), (1001, 1)] {
        let mut tester = Tester::new(LIMITS);
        let topics = [tester.topic(1), tester.topic(2)];
        let key = tester.idle_on(&topics, u64::MAX);
        tester.block_on(&topics[0], "begun\n\n");
        assert_eq!(tester.send(key), "begun\n\n");
        // With seven bytes of chunk framing each.
        tester.block_on(&topics[0], &"x".repeat(493));
        tester.block_on(&topics[1], &"x".repeat(bytes - 507));
        tester.sweep(0);
        assert_eq!(tester.fanout.evicted, evicted, "{bytes}");
    }
}
