//! Several topics on one connection: one Last-Event-ID resumes them all, in whatever partitions they are.

pub(crate) mod page;
mod stream;

use std::collections::BTreeMap;
use std::thread;

use crate::support::{CPUS, Publisher, Stream, gap_reason, wait_until};
use page::{PARTITIONS, Page, Rounds, TREES, position, setups, start, tree};

#[test]
fn an_events_id_is_the_place_reached_in_each_partition_and_never_goes_back() {
    for cpus in CPUS {
        for setup in setups() {
            let server = start(cpus, setup.flags);
            let mut stream = Page::new(&setup.target).connect(&server);
            let mut rounds = Rounds::new(&server, &setup);
            let own = (setup.topic)(0, 0);
            let answered = server.publish(&own, "id: of the publisher\ndata: x\nid: mine");
            assert_eq!(answered, "mine");
            let first = stream.event();
            rounds.publish();
            let (run, _) = position(&first.id);
            let answered = server.publish(&own, "data: last");
            assert_eq!(answered.split_once('-').unwrap().0, run.to_string(), "{answered}");

            let mut events = vec![first];
            events.extend((0..=rounds.total()).map(|_| stream.event()));
            let mut last = BTreeMap::new();
            for event in &events {
                let (again, places) = position(&event.id);
                assert_eq!(again, run, "{}", event.id);
                assert!(places != last, "no two events are at one place: {}", event.id);
                for (home, place) in &last {
                    assert!(places.get(home).is_some_and(|now| now >= place), "{last:?}, then {}", event.id);
                }
                last = places;
            }
            assert!(last.keys().all(|partition| *partition < PARTITIONS as u64), "{last:?}");
            let used = last.values().filter(|place| **place > 0).count();
            assert!(used > 1, "trees in several partitions: {last:?}");
        }
    }
}

#[test]
fn resuming_after_any_event_loses_and_doubles_nothing() {
    let seed = fastrand::u64(..);
    let mut random = fastrand::Rng::with_seed(seed);
    for cpus in CPUS {
        for setup in setups() {
            let server = start(cpus, setup.flags);
            let mut rounds = Rounds::new(&server, &setup);
            rounds.before();
            let mut page = Page::new(&setup.target);
            let mut stream = page.connect(&server);
            rounds.publish();
            // What the page is when it is cut after each of the events.
            let mut cut = Vec::new();
            while page.data.len() < rounds.total() {
                page.take(stream.event());
                cut.push(page.clone());
            }
            for (n, mut page) in cut.into_iter().enumerate() {
                let about = format!("{} {cpus:?} cut after {n}, seed {seed}", setup.target);
                // Cut again within the replay, so that the ids of that are tried too.
                let again = random.usize(page.data.len()..=rounds.total());
                page.read_to(&mut page.connect(&server), again);
                let mut stream = page.connect(&server);
                rounds.publish();
                page.read_to(&mut stream, rounds.total());
                page.check(TREES, rounds.count, &about);
            }
        }
    }
}

#[test]
fn an_id_may_come_in_the_query_and_the_order_of_the_topics_makes_no_difference() {
    for cpus in CPUS {
        let [setup, ..] = setups();
        let server = start(cpus, setup.flags);
        let mut rounds = Rounds::new(&server, &setup);
        let mut page = Page::new(&setup.target);
        let mut stream = page.connect(&server);
        rounds.publish();
        page.read_to(&mut stream, TREES);
        drop(stream);
        let backwards: Vec<String> = (0..TREES).rev().map(|n| format!("topic={}", tree(n))).collect();
        let target = format!("/subscribe/?{}&lastEventId={}", backwards.join("&"), page.last_id);
        let mut stream = Stream::open(&server, &target);
        rounds.publish();
        page.read_to(&mut stream, rounds.total());
        page.check(TREES, rounds.count, &target);
    }
}

#[test]
fn pages_that_come_and_go_while_events_are_published_lose_and_double_nothing() {
    const EVENTS: usize = 150;
    let seed = fastrand::u64(..);
    for cpus in CPUS {
        for setup in setups() {
            let server = start(cpus, setup.flags);
            Rounds::new(&server, &setup).before();
            // Streams of several and of one topic, which share what they can; and one on some of the trees.
            let some: Vec<String> = (0..5).map(|n| format!("topic={}", tree(n))).collect();
            let pages = [
                (setup.target.clone(), TREES),
                (setup.target.clone(), TREES),
                (format!("/subscribe?{}", some.join("&")), some.len()),
                (format!("/subscribe/{}", tree(0)), 1),
            ];
            let pages = pages.map(|(target, trees)| {
                let page = Page::new(&target);
                let stream = page.connect(&server);
                (page, trees, stream)
            });
            thread::scope(|scope| {
                for half in 0..2 {
                    let (server, topic) = (&server, setup.topic);
                    scope.spawn(move || {
                        let mut publisher = Publisher::new(server);
                        for number in 0..EVENTS {
                            let own = (half..TREES).step_by(2);
                            for n in own.clone() {
                                let event = format!("data: {} {number}", tree(n));
                                publisher.send(&topic(n, number), &event);
                            }
                            for _ in own {
                                assert_eq!(publisher.answer().expect("an answer").status, 200);
                            }
                        }
                    });
                }
                for (n, (mut page, trees, mut stream)) in pages.into_iter().enumerate() {
                    let (server, cpus) = (&server, &cpus);
                    scope.spawn(move || {
                        let mut random = fastrand::Rng::with_seed(seed ^ n as u64);
                        let total = trees * EVENTS;
                        while page.data.len() < total {
                            let more = 1 + random.usize(..total / 30);
                            page.read_to(&mut stream, total.min(page.data.len() + more));
                            drop(stream);
                            stream = page.connect(server);
                        }
                        page.check(trees, EVENTS, &format!("{} {cpus:?} page {n}, seed {seed}", page.target));
                    });
                }
            });
        }
    }
}

#[test]
fn what_is_published_after_a_page_saw_200_reaches_it_from_all_homes() {
    for cpus in CPUS {
        let server = start(cpus, &["--namespaces"]);
        for round in 0..200 {
            // Each round leaves a stream behind, so joins race with leaves.
            let target = match round % 3 {
                0 => "/subscribe/",
                1 => {
                    "/subscribe?topic=tree0001&topic=tree0002/a&topic=tree0002/b&topic=tree0003&topic=tree0004"
                }
                _ => "/subscribe?topic=tree0004&topic=tree0003/a&topic=tree0002&topic=tree0001/a",
            };
            let mut stream = Stream::open(&server, target);
            let topic = format!("{}/a", tree(1 + round % 4));
            server.publish(&topic, &format!("data: {round}"));
            assert_eq!(stream.event().data, round.to_string(), "{target} {topic}");
        }
    }
}

#[test]
fn a_gap_is_told_until_a_page_is_behind_it_and_nothing_that_is_kept_is_lost_by_it() {
    for cpus in CPUS {
        let server = start(cpus, &["--namespaces", "--history-events", "3"]);
        let target = "/subscribe?topic=pets/dogs&topic=pets/cats&topic=plants";
        let mut page = Page::new(target);
        let mut stream = page.connect(&server);
        server.publish("pets/cats", "data: cat 0");
        server.publish("plants", "data: plant 0");
        page.read_to(&mut stream, 2);
        drop(stream);
        // Meanwhile dogs come that are not all kept, between what is.
        server.publish("pets/cats", "data: cat 1");
        for n in 0..6 {
            server.publish("pets/dogs", &format!("data: dog {n}"));
        }
        server.publish("pets/cats", "data: cat 2");
        server.publish("plants", "data: plant 1");

        let mut stream = page.connect(&server);
        let mut cut = vec![page.clone()];
        while page.data.len() < 8 {
            page.take(stream.event());
            cut.push(page.clone());
        }
        for (n, mut page) in cut.into_iter().enumerate() {
            // Until it has an event from behind the gap, its place is still before that.
            let told = page.gaps.len();
            let again = if page.data.iter().any(|data| data == "dog 3") { told..=told } else { 1..=told + 1 };
            let mut stream = page.connect(&server);
            page.read_to(&mut stream, 8);
            let (plants, pets): (Vec<&str>, Vec<&str>) =
                page.data.iter().map(|data| &**data).partition(|data| data.contains("plant"));
            assert_eq!(plants, ["plant 0", "plant 1"], "cut after {n}");
            assert_eq!(pets, ["cat 0", "cat 1", "dog 3", "dog 4", "dog 5", "cat 2"], "cut after {n}");
            assert!(page.gaps.iter().all(|gap| gap_reason(gap) == "trimmed"), "{page:?}");
            assert!(again.contains(&page.gaps.len()), "cut after {n}: {again:?}, but {page:?}");
        }

        // With all of it seen there is no gap any more.
        let mut stream = page.connect(&server);
        server.publish("plants", "data: end");
        server.publish("pets/cats", "data: end");
        assert_eq!([stream.event().data, stream.event().data], ["end", "end"]);
    }
}

#[test]
fn a_gap_behind_which_nothing_is_kept_is_told_once_too() {
    for cpus in CPUS {
        let [setup, ..] = setups();
        let server = start(cpus, &["--history-age", "300ms", "--heartbeat", "200ms"]);
        let mut rounds = Rounds::new(&server, &setup);
        let mut page = Page::new(&setup.target);
        let mut stream = page.connect(&server);
        rounds.publish();
        page.read_to(&mut stream, 1);
        drop(stream);
        wait_until("all are dropped", || server.stats()["history_bytes"] == 0);
        let mut stream = page.connect(&server);
        let gap = stream.event();
        assert_eq!((&*gap.name, &*gap_reason(&gap.data)), ("gap", "trimmed"), "{gap:?}");
        position(&gap.id);
        page.take(gap);
        // Cut right behind it. Each partition may tell a gap of its own.
        let mut told = 1..=PARTITIONS;
        for count in [1 + TREES, 1 + 2 * TREES] {
            let mut stream = page.connect(&server);
            for n in 0..TREES {
                server.publish(&tree(n), "data: new");
            }
            page.read_to(&mut stream, count);
            assert!(told.contains(&page.gaps.len()), "{told:?}, but {:?}", page.gaps);
            told = page.gaps.len()..=page.gaps.len();
            wait_until("all are dropped", || server.stats()["history_bytes"] == 0);
        }
    }
}

#[test]
fn an_id_that_is_not_known_is_a_gap_and_then_all_that_is_kept_comes_once() {
    for cpus in CPUS {
        for setup in setups() {
            let server = start(cpus, setup.flags);
            let mut rounds = Rounds::new(&server, &setup);
            let id = server.publish(&tree(TREES), "data: elsewhere");
            rounds.publish();
            let (run, _) = id.split_once('-').unwrap();
            let count = rounds.total();
            let is_all = setup.target == "/subscribe/";
            let unknown = [
                "nonsense",
                "0",
                "1-0.5-1.5",
                "-0.1-1.1",
                &id,
                &format!("{run}-"),
                &format!("{run}0-0.1-1.1"),
                &format!("0{run}-0.1-1.1"),
                "\u{e9}\u{1f600}",
            ];
            for (n, id) in unknown.into_iter().enumerate() {
                let mut page = Page { last_id: id.to_owned(), ..Page::new(&setup.target) };
                let mut stream = page.connect(&server);
                let gap = stream.event();
                assert_eq!((&*gap.name, &*gap_reason(&gap.data)), ("gap", "unknown"), "{id}: {gap:?}");
                page.take(gap);
                page.read_to(&mut stream, count + usize::from(is_all) + n);
                drop(stream);
                assert!(page.gaps.iter().all(|gap| gap_reason(gap) == "unknown"), "{id}: {page:?}");
                page.gaps.clear();
                page.data.retain(|data| data.contains(' '));
                page.check(TREES, rounds.count, id);
                // The gap is over.
                let mut stream = page.connect(&server);
                let topic = (setup.topic)(1, 1);
                assert_eq!(server.post(&format!("/publish/{topic}?wrap"), "end").status, 200);
                let end = stream.event();
                assert_eq!((&*end.name, &*end.data), ("", "end"), "{id}");
            }
        }
    }
}

#[test]
fn a_position_that_cannot_be_harms_nobody() {
    for cpus in CPUS {
        let server = start(cpus, &["--namespaces"]);
        let id = server.publish("pets", "data: kept");
        let (run, _) = id.split_once('-').unwrap();
        let impossible = [
            "0.999999",
            "0.1-1.999999",
            "0.1-99.1",
            "99.1",
            "0.1-0.2",
            "0.",
            "0.x",
            ".1",
            "0.-1",
            "0.1-",
            "0.1--1.1",
            "-1.1",
            "0.+1",
            "0.01",
            "0.1.1",
            "65536.1",
            "0.18446744073709551615",
            "0.18446744073709551616",
            "18446744073709551616.1",
            &"0.1-".repeat(500),
        ];
        for places in impossible {
            for target in ["/subscribe/", "/subscribe?topic=pets&topic=plants", "/subscribe/pets"] {
                let page = Page { last_id: format!("{run}-{places}"), ..Page::new(target) };
                let mut stream = page.connect(&server);
                let new = format!("{places} {target}");
                server.publish("pets", &format!("data: {new}"));
                while stream.event().data != new {}
            }
        }
    }
}
