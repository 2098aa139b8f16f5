//! What streams get when a cluster's node missed events, is alone, or has to begin anew.

use super::*;
use crate::core::epochs::Epochs;
use crate::core::event_id::Epoch;
use crate::core::fanout::SEND_AWAY_STEPS;

fn tester() -> Tester {
    let epochs = Some(Arc::new(Epochs::new(Epoch::at(7), Vec::new())));
    Tester::new(FanoutLimits { epochs, ..LIMITS })
}

#[test]
fn missed_events_are_told_in_their_place() {
    let mut tester = tester();
    let key = tester.idle(1, u64::MAX);
    tester.gain(1, "before\n\n");
    tester.fanout.handle(ToFanout::Missed { partition: 0, upto: 99 }, &mut Vec::new());
    tester.gain(1, "after\n\n");
    tester.fanout.seal_all();
    let gap = "event:gap\ndata:{\"from\":null,\"reason\":\"trimmed\"}\nid:7-99\n\n";
    assert_eq!(tester.send(key), format!("before\n\n{gap}after\n\n"));
}

#[test]
fn an_order_that_begins_anew_ends_streams_with_the_place_to_go_on_from() {
    let mut tester = tester();
    let key = tester.idle(1, u64::MAX);
    let joining = tester.subscribe(2, u64::MAX);
    tester.gain(1, "of the old order\n\n");
    tester.fanout.seal_all();
    tester.fanout.reset(&Arc::new(Epochs::new(Epoch::at(8), Vec::new())), 500);
    let told = tester.send(key);
    let gap = "event:gap\ndata:{\"from\":null,\"reason\":\"reset\"}\nid:8-500\n\nretry:";
    assert!(told.starts_with(gap), "{told}");
    tester.sent(key);
    assert_eq!(tester.send(key), "CLOSE");
    assert_eq!(tester.send(joining), "NO\n", "it comes again");
}

#[test]
fn all_streams_are_sent_away_by_the_last_step_but_those_that_came_meanwhile() {
    let mut tester = Tester::new(LIMITS);
    let keys: Vec<_> = (0..130).map(|_| tester.idle(1, u64::MAX)).collect();
    let mut late = None;
    let mut ended = 0;
    for steps_left in (1..=SEND_AWAY_STEPS).rev() {
        tester.fanout.send_away(steps_left);
        let now = keys.iter().filter(|key| tester.fanout.subscribers.get(**key).unwrap().is_ending()).count();
        assert!((2..=3).contains(&(now - ended)), "{steps_left}: {now} after {ended}");
        ended = now;
        late = late.or_else(|| Some(tester.idle(1, u64::MAX)));
    }
    assert_eq!(ended, 130);
    assert!(!tester.fanout.subscribers.get(late.unwrap()).unwrap().is_ending());
    // Stopped on its way, the others stay.
    let fresh: Vec<_> = (0..10).map(|_| tester.idle(2, u64::MAX)).collect();
    tester.fanout.send_away(SEND_AWAY_STEPS);
    tester.fanout.send_away(0);
    tester.fanout.send_away(1);
    let is_ending = |key: &&Key| tester.fanout.subscribers.get(**key).unwrap().is_ending();
    assert!((1..5).contains(&fresh.iter().filter(is_ending).count()));
}
