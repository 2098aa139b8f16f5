//! What a start finds of the time before it.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::{Data, after, journal, segments, start_on, text};
use crate::support::sessions::Sessions;
use crate::support::{Event, Publisher, Server, Stream, data, free_port, gap_reason, wait_until};

/// The first `count` events of a stream that resumes here: nothing is published meanwhile.
fn replay(server: &Server, topic: &str, last_event_id: &str, count: usize) -> Vec<Event> {
    let mut stream = Stream::resume(server, topic, last_event_id);
    (0..count).map(|_| stream.event()).collect()
}

#[track_caller]
fn check_gap(event: &Event, why: &str) {
    assert_eq!((&*event.name, &*gap_reason(&event.data)), ("gap", why), "{event:?}");
}

#[test]
fn the_limits_of_history_hold_after_a_restart_also_lower_ones() {
    let journal = Data::new();
    let limited = ["--history-events", "3"];
    let server = journal.start(&limited);
    let ids: Vec<String> = (0..6).map(|n| server.publish("limits001", &format!("data: {n}"))).collect();
    drop(server);
    for (flags, kept) in [(&limited[..], &["3", "4", "5"][..]), (&["--history-events", "1"], &["5"])] {
        let server = journal.start(flags);
        // Whoever has seen all that is lost has no gap.
        let last_lost = 5 - kept.len();
        assert_eq!(data(&replay(&server, "limits001", &ids[last_lost], kept.len())), kept);
        let events = replay(&server, "limits001", &ids[last_lost - 1], kept.len() + 1);
        check_gap(&events[0], "trimmed");
        assert_eq!(data(&events)[1..], *kept);
    }
}

#[test]
fn the_age_of_events_counts_the_time_before_the_restart() {
    let journal = Data::new();
    let server = journal.start(&[]);
    let id = server.publish("ages00001", "data: old");
    server.publish("ages00001", "data: older than a second");
    drop(server);
    let server = journal.start(&[]);
    assert_eq!(data(&after(&server, "ages00001", &id)), ["older than a second"]);
    drop(server);
    // Longer than the events may be kept, on any machine.
    thread::sleep(Duration::from_millis(1100));
    let server = journal.start(&["--history-age", "1s"]);
    check_gap(&replay(&server, "ages00001", &id, 1)[0], "trimmed");
}

#[test]
fn an_id_from_beyond_what_a_copy_holds_is_a_gap_and_never_another_event() {
    let original = Data::new();
    let server = original.start(&["--partitions", "1"]);
    let mut ids: Vec<String> = (0..3).map(|n| server.publish("copied001", &format!("data: {n}"))).collect();
    let copy = original.beside("copy");
    let copied = journal(&["copy", text(&original.path()), text(&copy)]);
    assert_eq!(copied.code, Some(0), "{copied:?}");
    ids.extend((3..9).map(|n| server.publish("copied001", &format!("data: {n}"))));

    let server = start_on(&copy, &["--partitions", "1"]);
    let others: Vec<String> = (3..9).map(|n| format!("other {n}")).collect();
    for data in &others {
        server.publish("copied001", &format!("data: {data}"));
    }
    for id in &ids[3..] {
        let events = after(&server, "copied001", id);
        check_gap(&events[0], "unknown");
    }
    let events = after(&server, "copied001", &ids[2]);
    assert_eq!(data(&events)[..others.len()], others, "{events:?}");
}

#[test]
fn own_ids_and_the_epochs_of_many_starts_resume() {
    let journal = Data::new();
    let (mut ids, mut expected) = (Vec::new(), Vec::new());
    for start in 0..6 {
        let server = journal.start(&["--cores", if start % 2 == 0 { "1" } else { "2" }]);
        for n in 0..2 {
            let own = if n == 0 { format!("id: own {start}\n") } else { String::new() };
            ids.push(server.publish("epochs001", &format!("{own}data: {start} {n}")));
            expected.push(format!("{start} {n}"));
        }
        for (n, id) in ids.iter().enumerate() {
            let events = after(&server, "epochs001", id);
            assert_eq!(data(&events), expected[n + 1..], "{id} in start {start}");
        }
    }
}

#[test]
fn what_sessions_lost_is_no_gap_for_a_stream_of_everything() {
    let journal = Data::new();
    let dir = journal.path();
    let flags = ["--data-dir", text(&dir), "--partitions", "1", "--namespaces", "--history-events", "2"];
    let flags = [&flags[..], &["--public-publish"]].concat();
    let sessions = Sessions::start(&flags);
    let id = sessions.server.publish("pets/dogs", "data: seen");
    for n in 0..50 {
        sessions.emit("alex", "chat/room", &format!("data: {n}"));
    }
    drop(sessions);
    // This start copies what is alive of the segment before, and the next one knows the rest by its end alone.
    let sessions = Sessions::start(&flags);
    let segment = segments(&dir)[0].clone();
    let is_whole = || fs::read(&segment).is_ok_and(|bytes| bytes.windows(8).any(|text| text == b"data: 25"));
    wait_until("what is gone leaves the disk", || !is_whole());
    drop(sessions);
    let sessions = Sessions::start(&flags);
    sessions.server.publish("pets/cats", "data: new");
    let field = format!("Last-Event-ID: {id}");
    let mut stream = Stream::open_with(&sessions.server, "/subscribe/pets", &[&field]);
    assert_eq!(stream.event().data, "new");
    let position = format!("Last-Event-ID: {}", id.replacen('-', "-0.", 1));
    let mut stream = Stream::open_with(&sessions.server, "/subscribe/", &[&position]);
    assert_eq!(stream.event().data, "new");
}

/// Not asserted: how long a publisher waits from its last answer before an end to the first one after the start.
#[test]
fn a_publisher_that_connects_again_is_soon_answered_after_a_restart() {
    let journal = Data::new();
    let port = free_port();
    let start = || journal.start(&["--port", &port]);
    let mut server = start();
    let address = server.address;
    let ended = AtomicBool::new(false);
    let (waits, mut stream) =
        (std::sync::Mutex::new(Vec::new()), Stream::open(&server, "/subscribe/waits0001"));
    thread::scope(|scope| {
        let (ended, waits) = (&ended, &waits);
        scope.spawn(move || {
            let mut last = Instant::now();
            while !ended.load(Ordering::Relaxed) {
                let Some(mut connection) = Publisher::try_at(address) else { continue };
                while let Some(answer) = connection.publish("waits0001", "data: x") {
                    assert_eq!(answer.status, 200, "{answer:?}");
                    waits.lock().unwrap().push(last.elapsed());
                    last = Instant::now();
                    if ended.load(Ordering::Relaxed) {
                        break;
                    }
                }
            }
        });
        for _ in 0..3 {
            let before = waits.lock().unwrap().len();
            wait_until("there is load", || waits.lock().unwrap().len() > before + 100);
            server.terminate();
            assert!(server.wait().success());
            server = start();
        }
        ended.store(true, Ordering::Relaxed);
    });
    while stream.next_event().is_some() {}
    assert!(stream.is_complete, "the stream came to its end in order");
    let mut waits = waits.into_inner().unwrap();
    waits.sort();
    println!("publishes were refused for {:?} at restarts", &waits[waits.len() - 3..]);
}
