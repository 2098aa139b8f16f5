//! Endings of streams: by their token, the server, a disconnect, a home without room.

use super::*;
use crate::core::fanout::expiry::EXPIRED;

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
fn what_ends_a_stream_waits_for_the_rest_of_what_was_begun() {
    let mut tester = Tester::new(LIMITS);
    let key = tester.idle(1, 100);
    tester.gain(1, "event\n\n");
    tester.fanout.seal_all();
    let take_three = |fanout: &mut Fanout, now_ms| {
        fanout.send_ready(9, now_ms, &mut Vec::new(), |_, outgoing| {
            bytes::Buf::advance(&mut outgoing.buffers[0], 3);
            Some(3)
        })
    };
    assert!(!take_three(&mut tester.fanout, 0));
    tester.sweep(100);
    let Next::Send(Outgoing { buffers, .. }) = tester.next(key) else { panic!() };
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
fn an_emit_counts_no_stream_that_was_disconnected_however_late_it_leaves() {
    let mut tester = Tester::new(LIMITS);
    let keys: Vec<_> = (0..3).map(|_| tester.idle(1, u64::MAX)).collect();
    tester.fanout.disconnect(&tester.topic(1), 0);
    let late = tester.idle(1, u64::MAX);
    assert_eq!(tester.emit(tester.topic(1)).0, 1);
    tester.fanout.leave(keys[0], &mut Vec::new());
    assert_eq!(tester.emit(tester.topic(1)).0, 1);
    tester.fanout.leave(late, &mut Vec::new());
    assert_eq!(tester.emit(tester.topic(1)).0, 0);
    keys[1..].iter().for_each(|key| tester.fanout.leave(*key, &mut Vec::new()));
    tester.idle(1, u64::MAX);
    assert_eq!(tester.emit(tester.topic(1)).0, 1, "whose log may have the number of theirs");
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
        let delivery_count = DeliveryCount::new(CountFor::Connection(ticket), None);
        let message = ToFanout::Disconnect { topic, upto: 7, delivery_count };
        assert_eq!(tester.fanout.handle(message, &mut out), work);
    }
}

#[test]
fn a_stream_that_is_ended_after_an_event_is_sent_none_behind_it() {
    let mut tester = Tester::new(LIMITS);
    let (topic, key) = (tester.topic(1), tester.idle(1, u64::MAX));
    // Seven events were ordered before it joined.
    tester.sequence = 7;
    tester.block_on(&topic, "first\n\n");
    tester.fanout.disconnect(&topic, tester.sequence);
    assert_eq!(tester.send(key), "first\n\n");
    tester.block_on(&topic, "second\n\n");
    tester.sent(key);
    assert_eq!(tester.send(key), "event:disconnected\ndata:disconnected\n\n");
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
fn a_stream_knows_why_it_ends_from_the_decision_until_it_is_removed() {
    type End = fn(&mut Tester, Key);
    let rows: [(EndReason, End); 8] = [
        (EndReason::Expired, |tester, _| tester.sweep(100)),
        (EndReason::Draining, |tester, _| tester.fanout.close_streams()),
        (EndReason::Disconnected, |tester, _| {
            tester.fanout.disconnect(&tester.topic(1), 7);
        }),
        (EndReason::CutOff, |tester, _| {
            (1..=SEND_AWAY_STEPS).rev().for_each(|steps| tester.fanout.send_away(steps));
        }),
        (EndReason::Reset, |tester, _| {
            tester.fanout.reset(&Arc::new(Epochs::new(Epoch::at(2), Vec::new())), 0);
        }),
        (EndReason::Refused, |tester, key| {
            tester.fanout.handle(ToFanout::Refused { key }, &mut Vec::new());
        }),
        (EndReason::Slow, |tester, key| {
            let Tester { fanout, .. } = tester;
            fanout.subscribers.get_mut(key).unwrap().cut(&mut fanout.logs);
        }),
        (EndReason::Left, |_, _| ()),
    ];
    for (reason, end) in rows {
        let mut tester = Tester::new(LIMITS);
        let key = tester.idle(1, 100);
        assert_eq!(tester.fanout.end_reason(key), EndReason::Left, "if nothing but its client ends it");
        end(&mut tester, key);
        assert_eq!(tester.fanout.end_reason(key), reason);
        tester.send(key);
        assert_eq!(tester.fanout.end_reason(key), reason, "while its last bytes are sent");
        tester.sent(key);
        assert_eq!(tester.fanout.end_reason(key), reason, "and after");
    }
}

#[test]
fn a_response_has_begun_once_its_first_bytes_are_taken_be_it_a_refusal() {
    for is_refused in [false, true] {
        let mut tester = Tester::new(LIMITS);
        let key = tester.subscribe(1, u64::MAX);
        assert!(!tester.fanout.has_begun(key));
        if is_refused {
            tester.fanout.handle(ToFanout::Refused { key }, &mut Vec::new());
        } else {
            tester.page(key, &["page\n\n"], false);
        }
        assert!(!tester.fanout.has_begun(key));
        tester.send(key);
        assert!(tester.fanout.has_begun(key));
        assert_eq!(tester.fanout.end_reason(key) == EndReason::Refused, is_refused);
    }
}

#[test]
fn a_client_that_leaves_or_sends_too_much_ends_its_stream_unless_it_ends_already() {
    let mut tester = Tester::new(LIMITS);
    for (is_disconnected, reason, expected) in [
        (false, EndReason::Left, EndReason::Left),
        (false, EndReason::Flooded, EndReason::Flooded),
        (true, EndReason::Left, EndReason::Disconnected),
    ] {
        let key = tester.idle(1, u64::MAX);
        if is_disconnected {
            tester.fanout.disconnect(&tester.topic(1), 7);
        }
        tester.wakes();
        tester.fanout.end_for(key.index, reason);
        assert_eq!((tester.fanout.end_reason(key), tester.send(key).as_str()), (expected, "CLOSE"));
        tester.fanout.leave(key, &mut tester.out);
        assert_eq!(tester.wakes(), 0, "it left");
    }
}
