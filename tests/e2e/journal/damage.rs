//! Bytes that are not what was written: each is found, by a start and by `esper journal verify`.

use std::fs;
use std::path::Path;

use super::{Data, after, is_all, journal, last_error, refused, seed, segments, start_on, text};
use crate::support::data;

const TOPIC: &str = "damage001";
const FLAGS: [&str; 4] = ["--partitions", "2", "--cores", "1"];

/// A journal of three segments with this many events each, and the ids of all.
fn written(events: usize) -> (Data, Vec<String>) {
    let data = Data::new();
    let mut ids = Vec::new();
    for start in 0..3 {
        let server = data.start(&FLAGS);
        let n = start * events..(start + 1) * events;
        ids.extend(n.map(|n| server.publish(TOPIC, &format!("data: {n}"))));
        assert!(server.stop().success());
    }
    (data, ids)
}

fn copy_files(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for segment in segments(from) {
        fs::copy(&segment, to.join(segment.file_name().unwrap())).unwrap();
    }
}

#[test]
fn every_flipped_bit_is_found_by_verify_and_refused_or_cut_by_a_start() {
    let (whole, ids) = written(4);
    let mut random = fastrand::Rng::with_seed(seed());
    let expected: Vec<String> = (1..ids.len()).map(|n| n.to_string()).collect();
    let files = segments(&whole.path());
    let newest = files.last().unwrap().clone();
    let (mut verified, mut started, mut torn) = (0, 0, 0);
    for file in files {
        let bytes = fs::read(&file).unwrap();
        let sample = 100 * (1 + bytes.len() / 1000);
        for place in 0..bytes.len() {
            if !is_all() && random.usize(..bytes.len()) >= sample.min(40) {
                continue;
            }
            let flipped = whole.beside("flipped");
            copy_files(&whole.path(), &flipped);
            let mut bytes = bytes.clone();
            bytes[place] ^= 1 << random.u8(..8);
            let name = file.file_name().unwrap().to_str().unwrap();
            fs::write(flipped.join(name), &bytes).unwrap();
            let about = format!("byte {place} of {name}");

            let ended = journal(&["verify", text(&flipped)]);
            verified += 1;
            let is_torn = ended.stdout.contains("torn end, which the next start cuts: ");
            let is_damaged = ended.stdout.contains(&format!("damage: {name} is damaged at byte "));
            assert!(is_torn || is_damaged, "{about}: {ended:?}");
            assert_eq!(ended.code, Some(i32::from(is_damaged)), "{about}: {ended:?}");
            assert!(is_damaged || file == newest, "{about}: {ended:?}");
            torn += usize::from(is_torn);

            if is_all() || random.u8(..4) == 0 {
                started += 1;
                if is_damaged {
                    let ended = refused(&[], &flipped, &FLAGS);
                    assert_eq!(ended.code, Some(1), "{about}: {ended:?}");
                    let said = last_error(&ended);
                    let is_told = said.contains(&format!("{name} is damaged at byte "))
                        && said.contains("esper journal verify")
                        && said.contains("esper journal repair");
                    assert!(is_told, "{about}: {said}");
                } else {
                    let server = start_on(&flipped, &FLAGS);
                    assert!(server.log().contains("the journal's end was torn, and is cut"), "{about}");
                    // Each of them was synced, and the end in order said so: what is cut is that alone.
                    let events = after(&server, TOPIC, &ids[0]);
                    assert_eq!(data(&events), expected, "{about}");
                }
            }
            fs::remove_dir_all(&flipped).unwrap();
        }
    }
    println!("{verified} flips verified, {torn} of them a torn end, {started} started");
}

#[test]
fn repair_gives_what_is_whole_and_lists_what_is_not_and_a_resume_there_is_a_gap() {
    let (whole, ids) = written(5);
    let broken = segments(&whole.path())[1].clone();
    flip_in(&broken, "data: 7");
    let name = broken.file_name().unwrap().to_str().unwrap();

    let to = whole.beside("repaired");
    let ended = journal(&["repair", text(&whole.path()), text(&to)]);
    assert_eq!((ended.code, &*ended.stderr), (Some(0), ""), "{ended:?}");
    assert!(ended.stdout.contains(&format!("damage: {name} is damaged at byte ")), "{ended:?}");
    assert!(ended.stdout.ends_with(&format!("copied what is whole to {}\n", text(&to))), "{ended:?}");
    let verified = journal(&["verify", text(&to)]);
    assert_eq!(verified.code, Some(0), "{verified:?}");
    assert!(verified.stdout.ends_with(" 14 events\nnothing is damaged\n"), "{verified:?}");

    let server = start_on(&to, &FLAGS);
    for id in [&ids[0], &ids[8], &ids[14]] {
        let events = after(&server, TOPIC, id);
        assert_eq!(events[0].name, "gap", "{id}: {events:?}");
    }
    let events = after(&server, TOPIC, "0-0");
    let events = data(&events);
    let expected: Vec<String> = (0..15).filter(|n| *n != 7).map(|n| n.to_string()).collect();
    let at = events.iter().position(|data| *data == "0").unwrap_or_else(|| panic!("{events:?}"));
    assert_eq!(events[at..at + 14], expected);
    // What is published now goes on behind all of it.
    let id = server.publish(TOPIC, "data: more");
    server.publish(TOPIC, "data: and more");
    assert_eq!(data(&after(&server, TOPIC, &id)), ["and more"]);
}

/// Flips a bit in the text of an event, which is there once.
fn flip_in(file: &Path, text: &str) {
    let mut bytes = fs::read(file).unwrap();
    let place = bytes.windows(text.len()).position(|window| window == text.as_bytes()).expect("its text");
    bytes[place] ^= 1;
    fs::write(file, bytes).unwrap();
}

#[test]
fn the_last_event_before_an_end_in_order_is_not_taken_for_a_torn_end_when_it_is_bad() {
    let (whole, _) = written(3);
    let newest = segments(&whole.path()).pop().unwrap();
    flip_in(&newest, "data: 8");
    let ended = refused(&[], &whole.path(), &FLAGS);
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(last_error(&ended).contains(" is damaged at byte "), "{ended:?}");
}

#[test]
fn a_copy_of_a_newest_segment_that_is_damaged_is_refused_and_not_cut_there() {
    let (whole, _) = written(3);
    let newest = segments(&whole.path()).pop().unwrap();
    flip_in(&newest, "data: 7");
    let ended = journal(&["copy", text(&whole.path()), text(&whole.beside("copy"))]);
    assert_eq!((ended.code, &*ended.stdout), (Some(1), ""), "{ended:?}");
    let about = format!("{} is damaged at byte ", text(&newest));
    assert!(ended.stderr.contains(&about), "{ended:?}");
}

#[test]
fn a_missing_segment_is_damage() {
    let (whole, _) = written(1);
    let files = segments(&whole.path());
    fs::remove_file(&files[1]).unwrap();
    let name = files[1].file_name().unwrap().to_str().unwrap();
    let ended = refused(&[], &whole.path(), &FLAGS);
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(last_error(&ended).contains(&format!("{name} is damaged at byte 0: the segment is missing")));
    let ended = journal(&["verify", text(&whole.path())]);
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.stdout.contains("the segment is missing"), "{ended:?}");
}

#[test]
fn without_its_newest_segment_a_journal_is_as_it_was_before_and_later_ids_are_a_gap() {
    let (whole, ids) = written(2);
    fs::remove_file(segments(&whole.path()).pop().unwrap()).unwrap();
    let server = start_on(&whole.path(), &FLAGS);
    assert_eq!(data(&after(&server, TOPIC, &ids[0])), ["1", "2", "3"]);
    for id in &ids[4..] {
        assert_eq!(after(&server, TOPIC, id)[0].name, "gap", "{id}");
    }
}
