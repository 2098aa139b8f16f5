//! Disks that are full and disks that fail.

use std::fs;
use std::process::Command;

use super::mounts::MountSpace;
use super::{Data, after, last_error, refused, text};
use crate::support::{Answer, Server, Stream, check_refusal, data, launched, wait_until};

const TOPIC: &str = "faults001";

fn post(server: &Server, body: &str) -> Answer {
    server.post(&format!("/publish/{TOPIC}"), body)
}

/// Waits until the log has this text, which is to be there once.
#[track_caller]
fn check_said_once(server: &Server, text: &str) {
    let count = || server.log().lines().filter(|line| line.contains(text)).count();
    wait_until("it is said", || count() > 0);
    assert_eq!(count(), 1, "{}", server.log());
}

#[test]
fn a_start_without_room_for_the_least_segment_is_refused_and_leaves_what_was_there() {
    let Some(space) = MountSpace::new() else { return };
    let data = Data::new();
    fs::create_dir(data.path()).unwrap();
    space.mount_memory(&data.path(), "4m");
    let ended = refused(&space.launcher(), &data.path(), &[]);
    assert_eq!(ended.code, Some(1), "{ended:?}");
    let about = format!("no room for a segment in {} (", text(&data.path()));
    assert!(last_error(&ended).contains(&about), "{ended:?}");
    space.run(&format!("! ls {} | grep -v lock", text(&data.path())));
}

#[test]
fn a_full_disk_is_507_with_one_line_and_streams_go_on_and_it_heals() {
    let Some(space) = MountSpace::new() else { return };
    let journal = Data::new();
    let path = journal.path();
    fs::create_dir(&path).unwrap();
    // Room for the least segment, which takes no event.
    space.mount_memory(&path, "20m");
    let flags = ["--data-dir", text(&path), "--history-bytes", "200MiB"];
    let server = Server::spawn(launched(&space.launcher(), &flags));
    check_said_once(&server, "no room for a segment of the journal: publishes are refused with 507");
    let mut stream = Stream::open(&server, &format!("/subscribe/{TOPIC}"));
    for _ in 0..5 {
        check_refusal(&post(&server, "data: refused"), 507, "disk");
    }
    check_said_once(&server, "publishes are refused with 507: no room for the journal (");

    space.resize(&path, "80m");
    let first = server.publish(TOPIC, "data: healed");
    assert_eq!(stream.event().data, "healed");
    check_said_once(&server, "the journal has room again");

    // Now under way: the segment is filled, and there is no room for another.
    let mut sent = vec!["healed".to_owned()];
    let mut publish_large = |n: usize, stream: &mut Stream| {
        let large = format!("{n} {}", "x".repeat(1_000_000));
        let answer = post(&server, &format!("data: {large}"));
        match answer.status {
            200 => {
                assert!(stream.event().data == large, "it comes whole");
                sent.push(large);
            }
            _ => check_refusal(&answer, 507, "disk"),
        }
        answer.status
    };
    let filled = (0..100).find(|n| publish_large(*n, &mut stream) == 507).expect("it is full");
    assert!(filled > 40, "{filled}");
    assert_eq!(publish_large(filled, &mut stream), 507);
    assert_eq!(server.get("/healthz").status, 200);
    space.resize(&path, "200m");
    assert_eq!(publish_large(filled, &mut stream), 200);
    drop(server);

    let server = Server::spawn(launched(&space.launcher(), &flags));
    let events = after(&server, TOPIC, &first);
    assert!(data(&events) == sent[1..], "{} of {} are there", events.len(), sent.len() - 1);
}

/// A write that is cut short, and then one that fails: as a disk does that is taken away.
#[test]
fn a_failed_write_ends_the_process_with_the_cause_and_nothing_more_is_acknowledged() {
    let journal = Data::new();
    let path = journal.path();
    let launcher = ["sh", "-c", "trap '' XFSZ; exec \"$@\"", "sh"];
    let mut server = Server::spawn(launched(&launcher, &["--data-dir", text(&path)]));
    let first = server.publish(TOPIC, "data: before");
    server.publish(TOPIC, "data: before, too");
    let mut stream = Stream::resume(&server, TOPIC, &first);
    assert_eq!(stream.event().data, "before, too");
    let limit = Command::new("prlimit").args(["--pid", &server.pid().to_string(), "--fsize=65536:"]).status();
    assert!(limit.expect("prlimit is installed").success());
    let body = format!("data: {}", "x".repeat(200_000));
    let answer = server.raw(format!(
        "POST /publish/{TOPIC} HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    ));
    assert!(!answer.contains(" 200 "), "{answer}");
    assert_eq!(server.wait().code(), Some(1), "{}", server.log());
    assert!(server.log().contains("the journal failed: cannot write "), "{}", server.log());
    assert!(server.log().contains("(os error 27)"), "{}", server.log());
    let rest: Vec<_> = std::iter::from_fn(|| stream.next_event()).collect();
    assert!(rest.iter().all(|event| event.data.is_empty()), "nobody sees what is not there: {rest:?}");

    let server = journal.start(&[]);
    check_said_once(&server, "the journal's end was torn, and is cut");
    assert_eq!(data(&after(&server, TOPIC, &first)), ["before, too"]);
}

/// A file system on a device that has less than it says: what is written to it is lost, as `fdatasync` tells.
#[test]
fn a_failed_sync_ends_the_process_with_the_cause_and_nothing_more_is_acknowledged() {
    let Some(space) = MountSpace::new() else { return };
    let journal = Data::new();
    let (thin, path) = (journal.beside("thin"), journal.path());
    fs::create_dir(&thin).unwrap();
    fs::create_dir(&path).unwrap();
    space.mount_memory(&thin, "100m");
    let (image, ballast) = (thin.join("image"), thin.join("ballast"));
    let (image, ballast) = (text(&image), text(&ballast));
    space.run(&format!("truncate -s 300M {image} && mkfs.ext4 -q -E lazy_itable_init=1 {image}"));
    space.run(&format!("mount -o loop {image} {}", text(&path)));
    let flags = ["--data-dir", text(&path)];
    let mut server = Server::spawn(launched(&space.launcher(), &flags));
    let first = server.publish(TOPIC, "data: before");
    let mut stream = Stream::open(&server, &format!("/subscribe/{TOPIC}"));
    space.run(&format!("dd if=/dev/zero of={ballast} bs=1M 2>/dev/null; true"));
    let mut sent = Vec::new();
    // What is in the journal's page already has its room.
    for n in 0..50 {
        let body = format!("data: {n} {}", "x".repeat(100_000));
        let answer = server.raw(format!(
            "POST /publish/{TOPIC} HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        ));
        if !answer.starts_with("HTTP/1.1 200 ") {
            break;
        }
        sent.push(body["data: ".len()..].to_owned());
    }
    assert!(sent.len() < 50, "the disk has no end");
    assert_eq!(server.wait().code(), Some(1), "{}", server.log());
    assert!(server.log().contains("the journal failed: cannot "), "{}", server.log());
    println!("{}", server.log().lines().last().unwrap_or_default());
    let seen: Vec<_> = std::iter::from_fn(|| stream.next_event()).map(|event| event.data).collect();
    let seen: Vec<_> = seen.into_iter().filter(|data| !data.is_empty()).collect();
    assert!(seen == sent, "{} seen, {} acknowledged", seen.len(), sent.len());

    // The file system may have been made read-only by what happened; mounted again it is as it was.
    space.run(&format!("rm {ballast}; umount {0} && mount -o loop {image} {0}", text(&path)));
    let server = Server::spawn(launched(&space.launcher(), &flags));
    let events = after(&server, TOPIC, &first);
    assert!(
        data(&events).starts_with(&sent.iter().map(String::as_str).collect::<Vec<_>>()),
        "{}",
        events.len()
    );
    wait_until("it takes publishes", || post(&server, "data: after").status == 200);
}
