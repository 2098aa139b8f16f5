//! The stream of a queue.

use super::*;

#[test]
fn the_stream_of_a_queue_begins_at_once_and_tells_how_far_it_has_come() {
    let mut tester = Tester::new(LIMITS);
    let (key, topic, told) = tester.follow();
    assert_eq!((tester.send(key).as_str(), tester.out.len()), ("HEAD\n", 0), "no home is asked");
    tester.sent(key);
    // The queue bounds it.
    (0..3).for_each(|_| tester.block_on(&topic, &"x".repeat(700)));
    assert_eq!(told.value(), 0);
    assert_eq!(tester.send(key), "x".repeat(2100));
    tester.sent(key);
    assert_eq!(told.value(), 3);
    tester.block_on(&topic, "last\n\n");
    tester.wakes();
    tester.fanout.handle(ToFanout::End { topic }, &mut Vec::new());
    assert_eq!((tester.wakes(), tester.send(key).as_str()), (1, "last\n\n"));
    tester.sent(key);
    assert!(tester.send(key).starts_with("retry:"));
    tester.sent(key);
    assert_eq!(tester.send(key), "CLOSE");
    assert_eq!(tester.fanout.end_reason(key), EndReason::QueueClosed);
}

#[test]
fn a_part_of_a_queues_message_is_as_good_as_a_send_and_of_an_event_it_is_not() {
    let mut tester = Tester::new(LIMITS);
    let (of_queue, topic, _) = tester.follow();
    let other = tester.idle(1, u64::MAX);
    assert_eq!(tester.send(of_queue), "HEAD\n");
    tester.sent(of_queue);
    for topic in [topic, tester.topic(1)] {
        tester.block_on(&topic, "event\n\n");
    }
    for key in [of_queue, other] {
        assert_eq!(tester.send(key), "event\n\n");
        tester.fanout.keep_unsent(key.index, Bytes::from("nt\n\n").into(), 5, 4000);
    }
    tester.now_ms = 5001;
    tester.sweep(0);
    assert_eq!((tester.send(of_queue).as_str(), tester.send(other).as_str()), ("nt\n\n", "CLOSE"));
    tester.now_ms = 9001;
    tester.sweep(0);
    assert_eq!(tester.send(of_queue), "CLOSE");
}

#[test]
fn each_part_of_a_queues_message_that_goes_out_in_the_line_counts_and_its_end_alone_is_told() {
    let mut tester = Tester::new(LIMITS);
    let (key, topic, told) = tester.follow();
    tester.send(key);
    tester.sent(key);
    tester.send(key);
    tester.block_on(&topic, "event\n\n");
    tester.wakes();
    for now_ms in [1000, 5000, 9000] {
        tester.now_ms = now_ms;
        tester.fanout.send_ready(9, now_ms, &mut Vec::new(), |_, outgoing| {
            bytes::Buf::advance(&mut outgoing.buffers[0], 2);
            Some(2)
        });
        tester.sweep(0);
        assert_eq!((told.value(), tester.wakes()), (0, 0), "{now_ms}");
        assert!(tester.fanout.has_room(key.index));
    }
    let rest = |_, outgoing: &mut Outgoing| Some(std::mem::take(&mut outgoing.buffers).concat().len());
    tester.fanout.send_ready(9, 9000, &mut Vec::new(), rest);
    assert_eq!(told.value(), tester.sequence);
}
