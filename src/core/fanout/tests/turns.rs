//! The turns of streams to be sent to.

use super::*;
use crate::core::fanout::log::SEND_BYTES_MAX;

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
    // The large topic was sealed first, and yet the small one comes right after its first share.
    let (sent_to, more) = tester.send_ready(TOPIC_WORK_PER_TURN + 1);
    assert_eq!((sent_to.len(), sent_to.last(), more), (TOPIC_WORK_PER_TURN + 1, Some(&other.index), true));
    for _ in 0..2 {
        let (sent_to, more) = tester.send_ready(1);
        assert_eq!((sent_to.len(), more), (1, true));
    }
    let (sent_to, more) = tester.send_ready(usize::MAX);
    assert_eq!((sent_to.len(), more), (2 * TOPIC_WORK_PER_TURN - 2, false));
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
        more = tester.fanout.send_ready(7, 0, &mut Vec::new(), |index, outgoing| {
            sends += 1;
            take_all(index, outgoing)
        });
        turns.push(sends);
    }
    // Each send is work of 1, and of 2 for its bytes.
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
fn an_idle_subscriber_is_sent_a_block_once_however_often_it_asks() {
    let mut tester = Tester::new(LIMITS);
    let key = tester.idle(1, u64::MAX);
    for _ in 0..3 {
        assert_eq!(tester.send(key), "");
    }
    tester.gain(1, "event\n\n");
    tester.fanout.seal_all();
    assert_eq!(tester.send_ready(usize::MAX), (vec![key.index], false));
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
    assert_eq!(tester.send_ready(usize::MAX), (vec![keys[2].index, keys[1].index], false));
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

#[test]
fn streams_of_a_topic_stand_in_one_line_however_many_blocks_come_meanwhile() {
    let mut tester = Tester::new(LIMITS);
    let keys: Vec<_> = (0..4).map(|_| tester.idle(1, u64::MAX)).collect();
    let mut served = Vec::new();
    for _ in 0..4 {
        tester.gain(1, "event\n\n");
        tester.fanout.seal_all();
        tester.fanout.send_ready(2, 0, &mut Vec::new(), |index, outgoing| {
            served.push((index, outgoing.events));
            take_all(index, outgoing)
        });
    }
    // Those that were sent to wait until all others were, and are sent everything of the time between.
    let [a, b, c, d] = [0, 1, 2, 3].map(|n: usize| keys[n].index);
    assert_eq!(served, [(a, 1), (b, 1), (c, 2), (d, 2), (a, 2), (b, 2), (c, 2), (d, 2)]);
}

#[test]
fn a_stream_with_room_again_stands_in_the_line_of_its_topic() {
    let mut tester = Tester::new(LIMITS);
    let [full, other] = [(); 2].map(|()| tester.idle(1, u64::MAX));
    tester.gain(1, "event\n\n");
    tester.fanout.seal_all();
    tester.wakes();
    assert_eq!(tester.send_ready(1), (vec![full.index], true));
    tester.fanout.has_room(full.index);
    let mut sent = Vec::new();
    let more = tester.fanout.send_ready(usize::MAX, 0, &mut Vec::new(), |index, outgoing| {
        sent.push((index, outgoing.buffers.concat()));
        take_all(index, outgoing)
    });
    assert_eq!(sent, [other, full].map(|key| (key.index, b"event\n\n".to_vec())));
    assert!(!more && !tester.fanout.is_due());
    tester.fanout.has_room(full.index);
    assert!(!tester.fanout.is_due(), "nothing is kept for it");
}

#[test]
fn room_for_a_stream_that_does_not_follow_its_topics_wakes_it() {
    let mut tester = Tester::new(LIMITS);
    let key = tester.subscribe(1, u64::MAX);
    tester.page(key, &["page\n\n"], false);
    let Next::Send(outgoing) = tester.next(key) else { panic!() };
    tester.fanout.keep_unsent(key.index, outgoing, 0, 0);
    tester.wakes();
    assert!(!tester.fanout.is_due());
    tester.fanout.has_room(key.index);
    assert!(tester.fanout.is_due());
    assert_eq!((tester.wakes(), tester.send(key).as_str()), (1, "HEAD\npage\n\n"));
}

/// A kernel that takes everything.
fn take_all(_: u32, outgoing: &mut Outgoing) -> Option<usize> {
    Some(std::mem::take(&mut outgoing.buffers).concat().len())
}

#[test]
fn publishers_are_to_be_slowed_when_a_log_gains_much_while_streams_stand_in_its_line() {
    for (lag_bytes_max, bytes_max) in [(1000, 1000 / LAG_PARTS), (4 << 20, LINE_BYTES_MAX)] {
        let mut tester = Tester::new(FanoutLimits { lag_bytes_max, ..LIMITS });
        for _ in 0..4 {
            tester.idle(1, u64::MAX);
        }
        let mut send = |work, bytes: usize| {
            if bytes > 0 {
                tester.gain(1, &"x".repeat(bytes));
            }
            tester.fanout.seal_all();
            tester.fanout.send_ready(work, 0, &mut Vec::new(), take_all);
            tester.fanout.is_behind()
        };
        assert!(!send(1, bytes_max + 1), "nothing came after what they wait for");
        assert!(!send(1, bytes_max / 2));
        assert!(send(1, bytes_max), "the last one has waited since the beginning");
        assert!(!send(1, 0), "it was sent to, and the line is counted anew");
        assert!(!send(1, bytes_max / 2));
        assert!(!send(usize::MAX, 2 * bytes_max), "nobody waits");
    }
}

#[test]
fn a_topic_that_had_no_turn_is_behind_too_and_a_slow_client_or_a_queue_is_not() {
    let mut tester = Tester::new(LIMITS);
    let large = "x".repeat(LIMITS.lag_bytes_max / LAG_PARTS + 1);
    for topic in [1, 2] {
        tester.idle(topic, u64::MAX);
        tester.gain(topic, "small\n\n");
    }
    tester.fanout.seal_all();
    assert!(tester.fanout.send_ready(1, 0, &mut Vec::new(), take_all));
    assert!(!tester.fanout.is_behind());
    // The last turn sent to one of the two streams; the other stands in line still.
    [1, 2].iter().for_each(|topic| tester.gain(*topic, &large));
    tester.fanout.seal_all();
    assert!(tester.fanout.send_ready(0, 0, &mut Vec::new(), take_all));
    assert!(tester.fanout.is_behind());
    tester.send_ready(usize::MAX);
    // A slow client: its socket has no room, so that it stands in no line while its topic gains.
    let slow = tester.idle(3, u64::MAX);
    tester.block_on(&tester.topic(3), &large);
    tester.fanout.send_ready(usize::MAX, 0, &mut Vec::new(), |_, _| Some(0));
    tester.block_on(&tester.topic(3), &large);
    tester.block_on(&tester.topic(3), &large);
    tester.fanout.has_room(slow.index);
    assert!(tester.fanout.send_ready(0, 0, &mut Vec::new(), take_all), "it stands in line now");
    assert!(!tester.fanout.is_behind());
    tester.send_ready(usize::MAX);
    let (of_queue, queue_topic, _) = tester.follow();
    tester.send(of_queue);
    tester.sent(of_queue);
    tester.send(of_queue);
    tester.block_on(&queue_topic, &large);
    tester.block_on(&queue_topic, &large);
    assert!(tester.fanout.send_ready(0, 0, &mut Vec::new(), take_all), "the queue's stream stands in line");
    assert!(!tester.fanout.is_behind());
}

#[test]
fn a_send_that_is_stopped_for_others_goes_on_in_the_line() {
    let mut tester = Tester::new(FanoutLimits { lag_bytes_max: 4 * SEND_BYTES_MAX, ..LIMITS });
    let [large, other] = [1, 2].map(|topic| tester.idle(topic, u64::MAX));
    for topic in [1, 2] {
        tester.block_on(&tester.topic(topic), &"x".repeat(2 * SEND_BYTES_MAX));
    }
    let mut served = Vec::new();
    let mut more = true;
    while more {
        more = tester.fanout.send_ready(1, 0, &mut Vec::new(), |index, outgoing| {
            served.push(index);
            bytes::Buf::advance(&mut outgoing.buffers[0], SEND_BYTES_MAX);
            if outgoing.buffers[0].is_empty() {
                outgoing.buffers.clear();
            }
            Some(SEND_BYTES_MAX)
        });
    }
    assert_eq!(served, [large, other, large, other].map(|key| key.index));
}

#[test]
fn who_leaves_a_line_is_not_sent_to_and_holds_nobody_up() {
    let mut tester = Tester::new(LIMITS);
    let [first, second] = [(); 2].map(|()| tester.idle(1, u64::MAX));
    tester.gain(1, "event\n\n");
    tester.fanout.seal_all();
    tester.fanout.leave(first, &mut tester.out);
    // Its number is another's now, which has not joined yet.
    let joining = tester.subscribe(2, u64::MAX);
    assert_eq!(joining.index, first.index);
    tester.wakes();
    assert_eq!(tester.send_ready(usize::MAX), (vec![second.index], false));
    assert_eq!((tester.wakes(), tester.send(joining).as_str()), (1, ""), "woken for nothing");
    tester.page(joining, &[], true);
    assert_eq!(tester.send(joining), "HEAD\n");
}

#[test]
fn a_stream_that_is_told_of_room_twice_is_sent_everything_once() {
    let mut tester = Tester::new(LIMITS);
    let key = tester.idle(1, u64::MAX);
    tester.gain(1, "event\n\n");
    tester.fanout.seal_all();
    tester.send_ready(usize::MAX);
    assert!(tester.fanout.has_room(key.index) && tester.fanout.has_room(key.index));
    let mut sent = Vec::new();
    tester.fanout.send_ready(usize::MAX, 0, &mut Vec::new(), |_, outgoing| {
        sent.push(outgoing.buffers.concat());
        take_all(0, outgoing)
    });
    assert_eq!(sent, [b"event\n\n"]);
    tester.wakes();
    assert!(!tester.fanout.has_room(key.index) && !tester.fanout.is_due());
}

#[test]
fn a_slow_client_that_is_skipped_forward_is_told_after_the_rest_of_its_send() {
    let mut tester = Tester::new(FanoutLimits { skip_slow: true, ..LIMITS });
    let key = tester.idle(1, u64::MAX);
    tester.gain(1, "begun\n\n");
    tester.fanout.seal_all();
    tester.send_ready(usize::MAX);
    for _ in 0..4 {
        tester.gain(1, &"x".repeat(600));
        tester.fanout.seal_all();
    }
    tester.fanout.has_room(key.index);
    let mut sent = Vec::new();
    let mut send = |_, outgoing: &mut Outgoing| {
        sent.extend(outgoing.buffers.concat());
        take_all(0, outgoing)
    };
    tester.fanout.send_ready(usize::MAX, 0, &mut Vec::new(), &mut send);
    while let Some(key) = tester.fanout.take_woken() {
        tester.fanout.serve(key.index, 0, &mut Vec::new(), &mut send);
    }
    let text = String::from_utf8(sent).unwrap();
    assert!(text.starts_with("begun\n\nevent:gap\n"), "{text}");
}

#[test]
fn a_stream_whose_socket_takes_nothing_any_more_is_ended_by_the_turn() {
    let mut tester = Tester::new(LIMITS);
    let [gone, other] = [(); 2].map(|()| tester.idle(1, u64::MAX));
    tester.gain(1, "event\n\n");
    tester.fanout.seal_all();
    tester.wakes();
    tester.fanout.send_ready(usize::MAX, 0, &mut Vec::new(), |index, outgoing| {
        if index == gone.index { None } else { take_all(index, outgoing) }
    });
    assert_eq!(tester.fanout.take_woken(), Some(gone));
    assert_eq!((tester.send(gone).as_str(), tester.send(other).as_str()), ("CLOSE", ""));
    assert_eq!((tester.fanout.end_reason(gone), tester.fanout.log_bytes()), (EndReason::Left, 0));
}
