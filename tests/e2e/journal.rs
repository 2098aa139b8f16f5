//! The journal: what was answered 200 is there after a crash, a restart, a full disk, a failed one.
//!
//! `ESPER_TEST_JOURNAL=all cargo test --test e2e journal -- --nocapture` does all of it: 200 rounds of `kill -9`, 50 pairs of
//! them around the rewriting of segments, and each byte of a journal flipped. Otherwise there are a few rounds and a sample.

mod command;
mod damage;
mod faults;
mod kills;
mod model;
mod mounts;
mod refusals;
mod restarts;
mod rewriting;

use std::fs;
use std::path::{Path, PathBuf};

use crate::support::{Ended, Event, Server, Stream, TempDir, esper, launched, run};

/// A directory for a journal, which is not there yet.
struct Data {
    dir: TempDir,
}

impl Data {
    fn new() -> Data {
        Data { dir: TempDir::new() }
    }

    fn path(&self) -> PathBuf {
        self.beside("data")
    }

    /// Another one on the same file system.
    fn beside(&self, name: &str) -> PathBuf {
        self.dir.0.join(name)
    }

    /// Starts a server on it.
    fn start(&self, flags: &[&str]) -> Server {
        start_on(&self.path(), flags)
    }
}

fn start_on(data: &Path, flags: &[&str]) -> Server {
    Server::start(&[&["--data-dir", text(data)], flags].concat())
}

/// Starts a server that cannot go on, and says how it ended.
fn refused(launcher: &[&str], data: &Path, flags: &[&str]) -> Ended {
    let launcher = if launcher.is_empty() { &["env"] } else { launcher };
    run(launched(launcher, &[&["--data-dir", text(data)], flags].concat()))
}

/// `esper journal` with these arguments.
fn journal(arguments: &[&str]) -> Ended {
    run(esper(&[&["journal"], arguments].concat(), &[]))
}

/// The text of the last line of a log, which must be an error.
#[track_caller]
fn last_error(ended: &Ended) -> &str {
    let last = ended.stderr.lines().last().unwrap_or_else(|| panic!("nothing was said: {ended:?}"));
    last.split_once(" ERROR ").unwrap_or_else(|| panic!("no error: {ended:?}")).1
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// What a subscriber gets that has seen this event, up to now, but for what earlier calls of this published.
fn after(server: &Server, topic: &str, last_event_id: &str) -> Vec<Event> {
    let mut stream = Stream::resume(server, topic, last_event_id);
    assert_eq!(stream.head.status, 200, "{:?}", stream.head);
    let here = format!("up to {}", fastrand::u64(..));
    server.publish(topic, &format!("data: {here}"));
    let events = std::iter::from_fn(|| Some(stream.event()).filter(|event| event.data != here));
    events.filter(|event| !event.data.starts_with("up to ")).collect()
}

/// The segments of a journal, in order.
fn segments(data: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(data).expect("a directory").map(|entry| entry.expect("an entry").path());
    let mut segments: Vec<_> =
        files.filter(|path| path.extension().is_some_and(|extension| extension == "segment")).collect();
    segments.sort();
    segments
}

/// Whether all is to be done, however long it takes.
fn is_all() -> bool {
    std::env::var("ESPER_TEST_JOURNAL").is_ok_and(|value| value == "all")
}

/// A seed, which is printed.
fn seed() -> u64 {
    let given = std::env::var("ESPER_SIM_SEED").ok().map(|seed| seed.parse().expect("a number"));
    let seed = given.unwrap_or_else(|| fastrand::u64(..));
    println!("ESPER_SIM_SEED={seed}");
    seed
}
