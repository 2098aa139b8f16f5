//! `kill -9` at random moments under load, and orderly ends: nothing that was acknowledged is lost, and nothing comes twice.

use std::collections::BTreeSet;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use fastrand::Rng;

use super::model::{BEGIN, BOUNDS, END, Entry, Publish, Reader, Source, TOPICS, Target, USERS};
use super::{Data, is_all, seed, text};
use crate::support::sessions::{SECRET, Sessions};
use crate::support::{Publisher, Server, esper, wait_until};

/// The first is the emitter.
const SOURCES: usize = 4;
const ALL: [&str; 3] = ["alex", "bea", "alex"];

/// How a round ends.
#[derive(Clone, Copy, Eq, PartialEq)]
enum RoundEnd {
    Kill,
    Terminate,
}

struct Rounds {
    data: Data,
    flags: &'static [&'static str],
    random: Rng,
    sources: Vec<Source>,
    readers: Vec<Reader>,
    acknowledged: BTreeSet<Entry>,
    starts: usize,
    start_time: Duration,
}

impl Rounds {
    fn new(seed: u64, flags: &'static [&'static str]) -> Rounds {
        let mut random = Rng::with_seed(seed);
        let sources = (0..SOURCES).map(|number| Source::new(number, random.fork())).collect();
        let mut reader =
            |path, topics, is_ordered| Reader::new(Target::Public(path), topics, is_ordered, random.fork());
        let readers = vec![
            reader("/subscribe/tree0000/a", &[1], true),
            reader("/subscribe/tree0002", &[5], true),
            reader("/subscribe/tree0000", &[0, 1, 2], true),
            reader("/subscribe/tree0001", &[3, 4], true),
            reader("/subscribe?topic=tree0001%2Fb&topic=tree0002&topic=tree0000%2Fb", &[2, 4, 5], false),
            reader("/subscribe/", &[0, 1, 2, 3, 4, 5], false),
        ];
        let (acknowledged, starts, start_time) = (BTreeSet::new(), 0, Duration::ZERO);
        Rounds { data: Data::new(), flags, random, sources, readers, acknowledged, starts, start_time }
    }

    fn start(&mut self) -> Sessions {
        // Now and then a start is killed as well.
        if self.random.u8(..6) == 0 {
            let mut child = self.command().stderr(Stdio::null()).spawn().expect("it starts");
            thread::sleep(Duration::from_millis(self.random.u64(..60)));
            child.kill().and_then(|()| child.wait()).expect("ours");
        }
        let command = self.command();
        let start = Instant::now();
        let sessions = Sessions::of(Server::spawn(command));
        self.start_time += start.elapsed();
        self.starts += 1;
        sessions
    }

    /// One more start, on one CPU or on two.
    fn command(&mut self) -> Command {
        let data = self.data.path();
        let cores = if self.random.bool() { "1" } else { "2" };
        let flags = ["--data-dir", text(&data), "--cores", cores, "--namespaces", "--port", "0"];
        let control = ["--bind-control", "127.0.0.1:0", "--public-publish"];
        esper(&[&flags[..], &control, self.flags].concat(), &[("ESPER_SESSION_SECRET", SECRET)])
    }

    /// Has everybody see an event of each of their topics, so that all have a place to come back to.
    fn begin(&mut self) {
        let sessions = self.start();
        for user in ALL {
            let token = sessions.token(user, "chat");
            let topics = if user == "alex" { &[6, 8] } else { &[7, 8] };
            self.readers.push(Reader::new(Target::Session(token), topics, false, self.random.fork()));
        }
        let address = sessions.public;
        let mut streams: Vec<_> =
            self.readers.iter_mut().map(|reader| reader.connect(address).expect("it listens")).collect();
        self.bound(&sessions, BEGIN);
        for (reader, stream) in self.readers.iter_mut().zip(&mut streams) {
            while !reader.has_all(BEGIN) {
                reader.take(stream.event());
            }
        }
    }

    /// Publishes an event to each topic, which is its first or its last.
    fn bound(&mut self, sessions: &Sessions, number: usize) {
        let [public, control] = [sessions.public, sessions.control];
        for topic in 0..TOPICS.len() {
            let publish = Publish::one(topic, BOUNDS, number);
            let address = if topic < USERS { public } else { control };
            let mut connection = Publisher::try_at(address).expect("it listens");
            connection.send_request(&publish.request());
            let answer = connection.answer().expect("an answer");
            assert_eq!(answer.status, 200, "{answer:?}");
            self.acknowledged.extend(publish.entries());
        }
    }

    fn round(&mut self, round_end: RoundEnd) {
        let sessions = self.start();
        let [public, control] = [sessions.public, sessions.control];
        let publishes = match self.random.u8(..8) {
            0 => 0,
            1 => 1,
            _ => self.random.usize(..300),
        };
        let later = Duration::from_micros(self.random.u64(..20_000));
        let (count, never) = (AtomicUsize::new(0), AtomicBool::new(false));
        let before: usize = self.readers.iter().map(|reader| reader.farewells).sum();
        let is_orderly = round_end == RoundEnd::Terminate;
        thread::scope(|scope| {
            for reader in &mut self.readers {
                scope.spawn(move || reader.run(public, false, is_orderly));
            }
            for (number, source) in self.sources.iter_mut().enumerate() {
                let address = if number == 0 { control } else { public };
                let (never, count) = (&never, &count);
                scope.spawn(move || source.run(address, never, count));
            }
            wait_until("there is load", || count.load(Ordering::Relaxed) >= publishes);
            thread::sleep(later);
            let log = sessions.server.log();
            assert!(!log.contains(" ERROR ") && log.contains("was read back"), "{log}");
            match round_end {
                RoundEnd::Kill => drop(sessions),
                RoundEnd::Terminate => assert!(sessions.server.stop().success()),
            }
        });
        let after: usize = self.readers.iter().map(|reader| reader.farewells).sum();
        assert!(!is_orderly || publishes < 100 || after > before, "streams are told when to come back");
    }

    /// Has everybody read to the end, and checks what they saw.
    fn finish(mut self) -> String {
        let sessions = self.start();
        let [public, control] = [sessions.public, sessions.control];
        let (count, now) = (AtomicUsize::new(0), AtomicBool::new(true));
        // What a crash left open comes first.
        for (number, source) in self.sources.iter_mut().enumerate() {
            source.run(if number == 0 { control } else { public }, &now, &count);
        }
        let mut readers = std::mem::take(&mut self.readers);
        thread::scope(|scope| {
            for reader in &mut readers {
                scope.spawn(move || reader.run(public, true, false));
            }
            self.bound(&sessions, END);
        });
        self.sources.iter().for_each(|source| self.acknowledged.extend(&source.acknowledged));
        for reader in &readers {
            reader.check(&self.acknowledged);
        }
        for (topic, name) in TOPICS.iter().enumerate() {
            let mut orders = readers.iter().filter_map(|reader| reader.of_topic(topic));
            let first = orders.next().expect("everything has a reader");
            assert!(orders.all(|order| order == first), "all see one order in {name}");
        }
        let of = |count: fn(&Source) -> usize| self.sources.iter().map(count).sum::<usize>();
        let read = |count: fn(&Reader) -> usize| readers.iter().map(count).sum::<usize>();
        format!(
            "{} starts of {:?} on average, {} events acknowledged, {} publishes unanswered and {} sent again, \
             {} deliveries on {} connections",
            self.starts,
            self.start_time / self.starts as u32,
            self.acknowledged.len(),
            of(|source| source.unanswered),
            of(|source| source.sent_again),
            read(|reader| reader.deliveries),
            read(|reader| reader.connections),
        )
    }
}

fn run(rounds: usize, round_end: RoundEnd, flags: &'static [&'static str]) {
    let mut world = Rounds::new(seed(), flags);
    world.begin();
    (0..rounds).for_each(|_| world.round(round_end));
    println!("{rounds} rounds: {}", world.finish());
}

#[test]
fn what_was_answered_200_outlives_kill_9_and_everybody_resumes_with_nothing_lost_or_doubled() {
    run(if is_all() { 200 } else { 8 }, RoundEnd::Kill, &[]);
}

#[test]
fn a_sync_every_50_ms_loses_nothing_by_kill_9() {
    run(if is_all() { 40 } else { 4 }, RoundEnd::Kill, &["--sync", "50ms"]);
}

#[test]
fn a_restart_under_load_tells_streams_when_to_come_back_and_loses_and_doubles_nothing() {
    run(if is_all() { 40 } else { 4 }, RoundEnd::Terminate, &["--retry-min", "10ms", "--retry-max", "20ms"]);
}
