//! Two `kill -9` in a row around the rewriting of segments: one while it is under way, and one while the next start reads
//! the journal, or goes on rewriting.
//!
//! Whether a kill hit is not guessed from the time: the files that it left say so.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use fastrand::Rng;

use super::{Data, is_all, journal, seed, segments, text};
use crate::support::{PATIENCE, Publisher, Server, Stream, esper};

/// Events kept of each topic while segments are filled...
const KEPT_AT_FIRST: usize = 1000;
/// ...and by the starts that are killed: what was dropped at once is in neighbours, which are rewritten as one.
const KEPT: usize = 32;
/// Events of the short-lived topic in a segment.
const SEGMENT_EVENTS: usize = 150;
const SHORT_LIVED_BYTES: usize = 4 << 10;
/// Events of each long-lived topic, fewer than are kept.
const LONG_LIVED_EVENTS: usize = 28;

/// How far a rewriting has come.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Stage {
    /// Events were copied to the new segment.
    Copying,
    /// The new segment has its header, and not its name.
    Complete,
    /// It is in its place, and there is one that it covers.
    Named,
}

/// Returns how far the rewriting is that has written after this time; none if there is none, or no more.
fn rewriting(data: &Path, since: SystemTime) -> Option<Stage> {
    let is_new = |file: &File| file.metadata().and_then(|it| it.modified()).is_ok_and(|at| at >= since);
    let at = |path: &Path, offset| {
        let (mut bytes, file) = ([0; 8], File::open(path).ok().filter(is_new)?);
        file.read_exact_at(&mut bytes, offset).is_ok().then_some(bytes)
    };
    segments(data).iter().find_map(|segment| {
        // Also the name of a list of dropped events that is being made: in that one no batch begins behind a header.
        let new = segment.with_extension("new");
        if at(&new, 96).is_some_and(|bytes| bytes.starts_with(b"EspE")) {
            let has_header = at(&new, 0).is_some_and(|bytes| bytes == *b"esperlog");
            return Some(if has_header { Stage::Complete } else { Stage::Copying });
        }
        let [first, last] = [12, 20].map(|offset| at(segment, offset).map(u64::from_le_bytes));
        let is_there = |number| data.join(format!("{number:020}.segment")).exists();
        (first? + 1..=last?).any(is_there).then_some(Stage::Named)
    })
}

fn has_come_to(aim: Stage, data: &Path, since: SystemTime) -> bool {
    rewriting(data, since).is_some_and(|stage| aim == Stage::Copying || stage != Stage::Copying)
}

/// Waits for a moment that soon passes, and does not fail without it: a server that is to be killed must not be left behind.
fn watch(holds: impl Fn() -> bool) {
    let start = Instant::now();
    while !holds() && start.elapsed() < Duration::from_secs(5) {
        thread::sleep(Duration::from_micros(50));
    }
}

/// A topic, as its publisher knows it: numbered events.
struct Numbered {
    topic: String,
    /// Bytes of each event beside its number.
    padding: String,
    events_per_publish: usize,
    next: usize,
    /// Those that a crash left without an answer: they may be there.
    unanswered: Vec<usize>,
    /// The number and the id of the oldest event that was there at the last look.
    oldest: Option<(usize, String)>,
}

impl Numbered {
    fn new(topic: String, padding: usize, events_per_publish: usize) -> Numbered {
        let (unanswered, oldest) = (Vec::new(), None);
        Numbered { topic, padding: "x".repeat(padding), events_per_publish, next: 0, unanswered, oldest }
    }

    /// Publishes up to this many events, some publishes at a time, until the server is gone; counts those answered.
    fn publish(&mut self, server: std::net::SocketAddr, events_max: usize, count: &AtomicUsize) {
        let Some(mut connection) = Publisher::try_at(server) else { return };
        let end = self.next + events_max;
        while self.next < end {
            let first = self.next;
            for _ in 0..4 {
                let numbers = self.next..self.next + self.events_per_publish;
                self.next = numbers.end;
                let events = numbers.map(|number| format!("data: {number} {}\n\n", self.padding));
                connection.send(&self.topic, &events.collect::<String>());
            }
            for publish in (first..self.next).step_by(self.events_per_publish) {
                let Some(answer) = connection.answer() else {
                    self.unanswered.extend(publish..self.next);
                    return;
                };
                assert_eq!(answer.status, 200, "{answer:?}");
                count.fetch_add(self.events_per_publish, Ordering::Relaxed);
            }
        }
    }

    fn is_acknowledged(&self, number: usize) -> bool {
        number < self.next && !self.unanswered.contains(&number)
    }

    /// Checks that what was acknowledged and is within retention is there, in order and once, and that a client which comes
    /// back is told of a gap if there is one.
    fn check(&mut self, server: &Server) {
        let Some(last) = (0..self.next).rev().find(|number| self.is_acknowledged(*number)) else { return };
        let mut stream = Stream::resume(server, &self.topic, "0-0");
        let mut seen = Vec::new();
        let topic = &self.topic;
        while seen.last().is_none_or(|(number, _)| *number < last) {
            let event = stream.event();
            if event.name == "gap" && seen.is_empty() {
                continue;
            }
            let number = event.data.split(' ').next().and_then(|number| number.parse::<usize>().ok());
            let number = number.unwrap_or_else(|| panic!("no event of ours in {topic}: {event:?}"));
            assert!(event.data.ends_with(&self.padding), "all of {number} in {topic}");
            seen.push((number, event.id));
        }
        assert!(seen.is_sorted_by(|a, b| a.0 < b.0), "in order and once in {topic}: {seen:?}");
        let first = seen[0].0;
        // Those without an answer may be there, and count among those that are kept.
        let within = first.min(self.next.saturating_sub(KEPT))..=last;
        let is_seen = |number: &usize| seen.binary_search_by_key(number, |(number, _)| *number).is_ok();
        let lost: Vec<_> =
            within.filter(|number| self.is_acknowledged(*number) && !is_seen(number)).collect();
        assert!(lost.is_empty(), "lost in {topic}, of {}: {lost:?}", self.next);
        if let Some((number, id)) = &self.oldest {
            let event = Stream::resume(server, topic, id).event();
            assert_eq!(event.name == "gap", first > number + 1, "after {number} in {topic}: {event:?}");
        }
        self.oldest = seen.into_iter().next();
    }
}

struct Crashes {
    data: Data,
    random: Rng,
    /// Of which the newest events alone are kept.
    short_lived: Numbered,
    /// One more for each start; all of their events are kept.
    long_lived: Vec<Numbered>,
    /// How long the last start has read.
    reading: Duration,
}

impl Crashes {
    fn new(seed: u64) -> Crashes {
        let random = Rng::with_seed(seed);
        let short_lived = Numbered::new("shortlived".to_owned(), SHORT_LIVED_BYTES, 3);
        Crashes { data: Data::new(), random, short_lived, long_lived: Vec::new(), reading: Duration::ZERO }
    }

    /// Checks everything, and fills a segment.
    fn write(&mut self) {
        let server = Server::spawn(self.command(KEPT_AT_FIRST));
        self.short_lived.check(&server);
        self.long_lived.iter_mut().for_each(|topic| topic.check(&server));
        self.load(server, |count| count >= SEGMENT_EVENTS, Duration::ZERO);
    }

    /// Kills a start under load while it rewrites; returns how far that was.
    fn crash(&mut self, aim: Stage) -> Option<Stage> {
        let (since, path) = (SystemTime::now(), self.data.path());
        let later = self.later(aim);
        let server = Server::spawn(self.command(KEPT));
        self.load(server, |_| has_come_to(aim, &path, since), later);
        rewriting(&path, since)
    }

    /// Kills one more start while it reads the journal; returns whether it did.
    fn crash_reading(&mut self) -> bool {
        let later = self.reading.mul_f64(self.random.f64());
        let lock = self.data.path().join("lock");
        let is_read = self.start_and_kill(|pid| {
            watch(|| fs::read_to_string(&lock).is_ok_and(|has| has.trim_end() == pid));
            thread::sleep(later);
        });
        !is_read
    }

    /// Kills one more start while it goes on rewriting; returns how far that was.
    fn crash_again(&mut self, aim: Stage) -> Option<Stage> {
        let (since, path) = (SystemTime::now(), self.data.path());
        let later = self.later(aim);
        self.start_and_kill(|_| {
            watch(|| has_come_to(aim, &path, since));
            thread::sleep(later);
        });
        rewriting(&path, since)
    }

    /// A time to wait at a stage, about as long as it takes.
    fn later(&mut self, aim: Stage) -> Duration {
        Duration::from_micros(self.random.u64(..if aim == Stage::Copying { 20_000 } else { 2_000 }))
    }

    fn command(&self, kept: usize) -> Command {
        let (data, kept) = (self.data.path(), kept.to_string());
        let flags = ["--data-dir", text(&data), "--history-events", &kept, "--history-bytes", "64MiB"];
        esper(&[&flags[..], &["--partitions", "2", "--port", "0"]].concat(), &[])
    }

    /// Publishes until the condition holds for the number of answered events of the short-lived topic, and kills the server
    /// some time later.
    fn load(&mut self, server: Server, holds: impl Fn(usize) -> bool, later: Duration) {
        let log = server.log();
        let ms = log.split_once(" ms=").and_then(|(_, rest)| rest.split(' ').next()?.parse().ok());
        self.reading = Duration::from_millis(ms.expect("a start says how long it has read"));
        let topic = format!("longlived{}", self.long_lived.len());
        let mut long_lived = Numbered::new(topic, 200, 1);
        let (address, count) = (server.address, AtomicUsize::new(0));
        thread::scope(|scope| {
            scope.spawn(|| self.short_lived.publish(address, usize::MAX / 2, &count));
            scope.spawn(|| long_lived.publish(address, LONG_LIVED_EVENTS, &AtomicUsize::new(0)));
            watch(|| holds(count.load(Ordering::Relaxed)));
            thread::sleep(later);
            let log = server.log();
            drop(server);
            assert!(!log.contains(" ERROR "), "{log}");
        });
        self.long_lived.push(long_lived);
    }

    /// Starts a server, and kills it after a wait; returns whether it had read the journal.
    fn start_and_kill(&self, wait: impl FnOnce(&str)) -> bool {
        let mut child = self.command(KEPT).stderr(Stdio::piped()).spawn().expect("it starts");
        wait(&child.id().to_string());
        child.kill().expect("ours");
        let output = child.wait_with_output().expect("ours");
        let log = String::from_utf8_lossy(&output.stderr);
        assert!(!log.contains(" ERROR "), "{log}");
        self.verify();
        log.contains("was read back")
    }

    fn verify(&self) {
        let ended = journal(&["verify", text(&self.data.path())]);
        assert_eq!(ended.code, Some(0), "{ended:?}");
        assert!(ended.stdout.ends_with("nothing is damaged\n"), "{ended:?}");
    }
}

#[test]
fn two_kills_in_a_row_while_segments_are_rewritten_lose_and_double_nothing_within_retention() {
    let pairs = if is_all() { 50 } else { 5 };
    let time = PATIENCE * (pairs as u32 / 5);
    let mut world = Crashes::new(seed());
    let start = Instant::now();
    let (mut hits, mut tries) = (Vec::new(), 0);
    // A slow machine does fewer, but one of each kind.
    while hits.len() < pairs && (start.elapsed() < time || hits.len() < 2) {
        assert!(start.elapsed() < 5 * time, "in {tries} tries: {hits:?}");
        tries += 1;
        world.write();
        world.write();
        // More often where the files change their names, which is what has an order.
        let aim = if world.random.u8(..3) == 0 { Stage::Copying } else { Stage::Complete };
        let Some(first) = world.crash(aim) else { continue };
        let second = match hits.len() % 2 {
            0 => world.crash_reading().then_some(None),
            _ => world.crash_again(aim).map(Some),
        };
        hits.extend(second.map(|second| (first, second)));
    }
    world.write();
    println!("{tries} tries in {:?}: {hits:?}", start.elapsed());
}
