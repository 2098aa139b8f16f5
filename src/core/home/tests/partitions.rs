//! Several partitions of one shard.

use super::*;

#[test]
fn the_homes_of_a_shard_drop_the_oldest_of_all_and_as_much_together_as_is_asked_for() {
    let mut tester = Tester::with_partitions(LIMITS, 99, 3);
    let topics = tester.topics_of([0, 2, 1]);
    // Each round publishes one event to each partition.
    for now_ms in [0, 10, 20] {
        for (topic, later) in topics.iter().zip(0..) {
            tester.now_ms = now_ms + later;
            let _ = tester.publish_to(topic.clone(), "data:a");
        }
    }
    let bytes = tester.homes.bytes() / 9;
    assert_eq!((tester.homes.topics(), tester.homes.oldest_at_ms()), (3, Some(0)));
    for (asked, oldest_ms, left) in
        [(1, 1, 8), (bytes, 2, 7), (bytes + 1, 11, 5), (0, 11, 5), (2 * bytes, 20, 3)]
    {
        tester.homes.release(asked);
        assert_eq!((tester.homes.oldest_at_ms(), tester.homes.bytes() / bytes), (Some(oldest_ms), left));
    }
    assert!(tester.homes.expire(9000, 2), "there may be more");
    assert_eq!(tester.homes.bytes(), bytes);
    assert!(!tester.homes.expire(9000, 2));
    assert_eq!((tester.homes.oldest_at_ms(), tester.homes.topics()), (None, 0));
    tester.homes.release(1);
}

#[test]
fn the_topic_that_was_used_longest_ago_makes_room_whichever_partition_it_is_of() {
    let mut tester = Tester::with_partitions(LIMITS, 2, 3);
    let [first, second, third] = tester.topics_of([0, 1, 2]);
    for topic in [&first, &first, &first, &second, &third] {
        let _ = tester.publish_to(topic.clone(), "data:a");
    }
    assert_eq!(tester.homes.topics(), 2);
    let mut knows =
        |topic: &Topic| tester.homes.iter_mut().any(|home| home.history.topics().find(topic).is_some());
    assert_eq!([first, second, third].map(|topic| knows(&topic)), [false, true, true]);
}
