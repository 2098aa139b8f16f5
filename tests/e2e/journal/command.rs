//! `esper journal`: what it says of itself, how it ends, and a backup while a server writes.

use std::fs;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use super::{Data, after, journal, start_on, text};
use crate::support::{Publisher, data, wait_until};

#[test]
fn help_says_what_each_command_does_and_exits_0() {
    for (arguments, about) in [
        (&[][..], "Usage: esper journal <COMMAND>"),
        (&["--help"], "Check, repair or copy the directory of --data-dir"),
        (&["--help"], "verify  Read all of it, say what is there and what is damaged, and change nothing"),
        (&["--help"], "repair  Copy what is whole into a new directory"),
        (
            &["--help"],
            "copy    Copy it as it is at one moment, also while a server writes it: this makes a backup",
        ),
        (&["verify", "--help"], "Usage: esper journal verify <DIR>"),
        (&["repair", "--help"], "Usage: esper journal repair <DIR> <TO>"),
        (&["copy", "--help"], "Usage: esper journal copy <DIR> <TO>"),
    ] {
        let ended = journal(arguments);
        assert_eq!((ended.code, &*ended.stderr), (Some(0), ""), "{arguments:?}");
        assert!(ended.stdout.contains(about), "{arguments:?}: {}", ended.stdout);
    }
}

#[test]
fn what_cannot_be_done_is_said_in_one_line() {
    let whole = Data::new();
    assert!(whole.start(&[]).stop().success());
    let path = whole.path();
    let (dir, none) = (text(&path), whole.beside("none"));
    let file = whole.beside("file");
    fs::write(&file, "mine").unwrap();
    for (arguments, code, about) in [
        (&["mend", dir][..], 2, "mend"),
        (&["verify"], 2, "arguments were not provided: <DIR>; --help"),
        (&["copy", dir], 2, "not provided: <TO>; --help"),
        (&["verify", text(&none)], 1, "none"),
        (&["verify", text(&file)], 1, "is not a directory"),
        (&["repair", text(&none), text(&whole.beside("to"))], 1, "none"),
        (&["copy", dir, text(&file)], 1, "is not a directory"),
        (&["copy", dir, dir], 1, "is not empty: name a new directory"),
        (&["repair", dir, dir], 1, "is not empty: name a new directory"),
    ] {
        let ended = journal(arguments);
        assert_eq!((ended.code, &*ended.stdout), (Some(code), ""), "{arguments:?}: {ended:?}");
        assert!(ended.stderr.contains(about), "{arguments:?}: {}", ended.stderr);
        assert!(code == 2 || ended.stderr.lines().count() == 1, "{arguments:?}: {}", ended.stderr);
    }
    assert!(!whole.beside("to").exists(), "nothing is made for nothing");
    let ended = journal(&["verify", dir]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.stdout.ends_with("0 events\nnothing is damaged\n"), "{ended:?}");
}

#[test]
fn a_copy_under_load_starts_and_holds_all_that_was_acknowledged_before_and_a_prefix_of_the_rest() {
    const TOPIC: &str = "backup001";
    let original = Data::new();
    let flags = ["--history-events", "1000000", "--history-bytes", "64MiB"];
    let server = original.start(&flags);
    let first = server.publish(TOPIC, "data: first");
    let (end, acknowledged) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut connection = Publisher::new(&server);
            while !end.load(Ordering::Relaxed) {
                let count = acknowledged.load(Ordering::Relaxed);
                let answer = connection.publish(TOPIC, &format!("data: {count}")).unwrap();
                assert_eq!(answer.status, 200, "{answer:?}");
                acknowledged.store(count + 1, Ordering::Relaxed);
            }
        });
        let count = || acknowledged.load(Ordering::Relaxed);
        for n in 0..4 {
            let before = count();
            wait_until("there is load", || count() > before + 50);
            let (before, to) = (count(), original.beside(&format!("copy {n}")));
            let ended = journal(&["copy", text(&original.path()), text(&to)]);
            let after_it = count();
            assert_eq!((ended.code, &*ended.stderr), (Some(0), ""), "{ended:?}");
            let verified = journal(&["verify", text(&to)]);
            assert_eq!(verified.code, Some(0), "{verified:?}");
            assert!(!verified.stdout.contains("torn"), "{verified:?}");

            // A restore: the copy is moved to where it is to be, and started.
            let restored = original.beside(&format!("restored {n}"));
            fs::rename(&to, &restored).unwrap();
            let restored = start_on(&restored, &flags);
            let events = after(&restored, TOPIC, &first);
            let expected: Vec<String> = (0..events.len()).map(|n| n.to_string()).collect();
            assert_eq!(data(&events), expected);
            // The publish that was under way when it was counted may be there, too.
            assert!((before..=after_it + 1).contains(&events.len()), "{before} {} {after_it}", events.len());
        }
        end.store(true, Ordering::Relaxed);
    });
}
