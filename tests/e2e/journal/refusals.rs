//! Directories that a start refuses, each with a clear line.

use std::fs;

use super::mounts::MountSpace;
use super::{Data, last_error, refused, segments, text};
use crate::support::{Ended, Server, launched};

#[track_caller]
fn check(ended: &Ended, about: &str) {
    assert_eq!(ended.code, Some(1), "{ended:?}");
    let said = last_error(ended);
    assert!(said.contains(about), "{said}");
    assert_eq!(ended.stderr.lines().filter(|line| line.contains(" ERROR ")).count(), 1, "{ended:?}");
}

#[test]
fn another_number_of_partitions_is_refused_with_the_one_that_the_data_have() {
    let data = Data::new();
    assert!(data.start(&["--partitions", "7"]).stop().success());
    let path = data.path();
    let line = format!("the journal in {} has 7 partitions, not 16: start with 7, or with", text(&path));
    check(&refused(&[], &path, &[]), &line);
    check(&refused(&[], &path, &["--partitions", "8"]), "has 7 partitions, not 8");
    assert!(data.start(&["--partitions", "7"]).stop().success());
}

#[test]
fn a_second_process_is_refused_with_the_firsts_pid_until_that_is_gone() {
    let data = Data::new();
    let first = data.start(&[]);
    let pid = first.pid();
    let line = format!("{} is in use by another esper, process {pid}:", text(&data.path()));
    check(&refused(&[], &data.path(), &[]), &line);
    first.publish("still0001", "data: x");
    // Killed, it leaves no lock behind.
    drop(first);
    assert!(data.start(&[]).stop().success());
}

#[test]
fn a_file_in_the_place_of_the_directory_or_of_its_parent_is_refused() {
    let data = Data::new();
    fs::write(data.path(), "mine").unwrap();
    let line = format!("{} is not a directory:", text(&data.path()));
    check(&refused(&[], &data.path(), &[]), &line);
    check(&refused(&[], &data.path().join("below"), &[]), "is not a directory:");
    assert_eq!(fs::read_to_string(data.path()).unwrap(), "mine");
}

#[test]
fn a_later_format_is_refused_with_its_version_and_left_as_it_is() {
    let data = Data::new();
    assert!(data.start(&[]).stop().success());
    let path = segments(&data.path()).pop().unwrap();
    let mut bytes = fs::read(&path).unwrap();
    // As src/journal/disk/format.rs says: the version, and the CRC at the header's end, are where they are in all versions.
    bytes[8] = 9;
    let crc = crc32c::crc32c(&bytes[..92]);
    bytes[92..96].copy_from_slice(&crc.to_le_bytes());
    fs::write(&path, &bytes).unwrap();
    for ended in [refused(&[], &data.path(), &[]), super::journal(&["verify", text(&data.path())])] {
        assert_eq!(ended.code, Some(1), "{ended:?}");
        let about = format!("{} has format version 9, and this esper reads version 1 at most", text(&path));
        assert!(ended.stderr.contains(&about), "{ended:?}");
    }
    assert_eq!(fs::read(&path).unwrap(), bytes);
}

#[test]
fn a_read_only_file_system_is_refused_with_and_without_a_journal_on_it() {
    let Some(space) = MountSpace::new() else { return };
    let data = Data::new();
    fs::create_dir(data.path()).unwrap();
    space.mount_memory(&data.path(), "200m");
    let journal = data.path().join("journal");
    let flags = ["--data-dir", text(&journal)];
    assert!(Server::spawn(launched(&space.launcher(), &flags)).stop().success());
    space.run(&format!("mount -o remount,ro {}", text(&data.path())));
    for dir in [journal, data.path(), data.path().join("new")] {
        check(&refused(&space.launcher(), &dir, &[]), "is on a read-only file system: remount it");
    }
}
