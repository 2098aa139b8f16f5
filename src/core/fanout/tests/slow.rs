//! Clients that are too slow.

use super::*;
use crate::core::fanout::expiry::SEND_TIMEOUT_OVER_MS;

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
fn a_log_is_trimmed_an_eighth_below_its_limit_once_it_is_past_it() {
    let mut tester = Tester::new(LIMITS);
    let mut bytes = Vec::new();
    for _ in 0..11 {
        // One more stream each time, so that each block, of 125 bytes as a chunk, has a reader.
        tester.idle(1, u64::MAX);
        tester.gain(1, &"x".repeat(119));
        tester.fanout.seal_all();
        bytes.push(tester.fanout.log_bytes());
    }
    assert_eq!(bytes[5..], [750, 875, 1000, 875, 1000, 875]);
}

#[test]
fn a_block_larger_than_the_lag_reaches_those_who_keep_up() {
    let mut tester = Tester::new(LIMITS);
    let (idle, sending) = (tester.idle(1, u64::MAX), tester.idle(1, u64::MAX));
    tester.gain(1, "begun\n\n");
    tester.fanout.seal_all();
    for key in [idle, sending] {
        assert_eq!(tester.send(key), "begun\n\n");
    }
    tester.sent(idle);
    tester.gain(1, &"x".repeat(5000));
    tester.fanout.seal_all();
    tester.sweep(0);
    tester.sent(sending);
    for key in [idle, sending] {
        assert_eq!(tester.send(key).len(), 5000);
    }
    assert_eq!(tester.fanout.evicted, 0);
}

#[test]
fn while_too_much_is_held_a_send_has_less_time() {
    let mut tester = Tester::new(LIMITS);
    let key = tester.idle(1, u64::MAX);
    tester.gain(1, &"x".repeat(MEMORY_BYTES + 1));
    tester.fanout.seal_all();
    assert_eq!(tester.send(key).len(), MEMORY_BYTES + 1);
    // As the send under way holds memory.
    let _held = tester.memory.share(vec![0; MEMORY_BYTES + 1]);
    tester.now_ms = SEND_TIMEOUT_OVER_MS;
    tester.sweep(0);
    assert_eq!(tester.send(key), "");
    tester.now_ms = SEND_TIMEOUT_OVER_MS + 1;
    tester.sweep(0);
    assert_eq!(tester.send(key), "CLOSE");
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

#[test]
fn what_a_stream_that_is_skipped_forward_had_coming_lies_before_its_gap() {
    let mut tester = Tester::new(FanoutLimits { skip_slow: true, ..LIMITS });
    let key = tester.left_behind();
    tester.gain(1, "this turn's, so far\n\n");
    tester.sent(key);
    assert_eq!(tester.send(key), "event:gap\ndata:{\"from\":null,\"reason\":\"slow\"}\n\n");
    tester.gain(1, "and the rest of it\n\n");
    tester.fanout.seal_all();
    tester.sent(key);
    assert_eq!(tester.send(key), "and the rest of it\n\n");
}
