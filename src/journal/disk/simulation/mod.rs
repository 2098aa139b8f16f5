//! The shipped log on a disk that forgets, under a seed, against a naive model.
//!
//! Batches are appended, synced, dropped and trimmed in tiny segments; the disk is full, fails, and the power fails at
//! any operation, also while the log is opened, twice and more in a row. After each restart the model says what must be
//! there, what may, and what must not.
//!
//! `ESPER_JOURNAL_SEED=<n>` replays one seed, `ESPER_JOURNAL_SEEDS=<n>` runs more of them. A million:
//! `ESPER_JOURNAL_SEEDS=1000000 cargo test --release --lib journal::disk::simulation`.

mod model;

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::error::{AppendError, Full, OpenError};
use super::format::{SEGMENT_HEADER_BYTES, SegmentHeader, crc_seed, segment_number};
use super::fuzz::sign_batches;
use super::log::{Log, Settings};
use super::record::{EventSpan, EventSpans, KeyRecord, Previous, PublishRecord};
use super::storage::Disk as _;
use super::storage::simulated::{DiskCanary, Faults, SimulatedDisk};
use super::trim::Trimmed;
use crate::core::event_id::Sequence;
use model::{LogModel, ModelEvent, Place, RecoveredLog};

/// A bug put in on purpose, to prove that it is found.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum LogCanary {
    None,
    Disk(DiskCanary),
    /// A torn batch gets the CRCs of its remains, as if recovery did not check them.
    TailUnchecked,
}

struct World {
    random: fastrand::Rng,
    disk: SimulatedDisk,
    model: LogModel,
    log: Option<Log<SimulatedDisk>>,
    partitions: u8,
    segment_bytes: u64,
    data_bytes_max: u64,
    /// Each batch is synced before the next is written.
    is_always: bool,
    topics: u64,
    history_events_max: usize,
    histories: HashMap<(u8, String), Vec<(Sequence, usize)>>,
    now_ms: u64,
    published: u64,
    starts: u64,
    has_crashes: bool,
    canary: LogCanary,
    figures: Figures,
}

/// Counts of what happened, over all seeds.
#[derive(Clone, Copy, Debug, Default)]
struct Figures {
    restarts: u64,
    torn: u64,
    full: u64,
    fatal: u64,
    interrupted: u64,
    lost: u64,
    trims: u64,
    events: u64,
}

impl World {
    fn new(seed: u64, canary: LogCanary) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let disk = SimulatedDisk::new(random.u64(..));
        if let LogCanary::Disk(canary) = canary {
            disk.set_canary(canary);
        }
        let partitions = random.u8(1..=3);
        let segment_bytes = random.u64(1_500..8_000);
        let has_limit = random.u8(0..4) == 0;
        World {
            model: LogModel::new(partitions, has_limit),
            log: None,
            partitions,
            segment_bytes,
            data_bytes_max: if has_limit { segment_bytes * random.u64(3..10) } else { u64::MAX },
            is_always: random.bool(),
            topics: random.choice([2, 5, 30, 400]).unwrap(),
            history_events_max: random.choice([0, 1, 3, 20]).unwrap(),
            histories: HashMap::new(),
            now_ms: 1000,
            published: 0,
            starts: 0,
            has_crashes: random.u8(0..8) > 0,
            disk,
            random,
            canary,
            figures: Figures::default(),
        }
    }

    fn run(mut self, steps: usize) -> Figures {
        for _ in 0..steps {
            self.step();
        }
        self.restart(false);
        self.restart(true);
        self.figures
    }

    fn step(&mut self) {
        if self.log.is_none() {
            self.start(false);
        }
        self.now_ms += self.random.u64(0..10);
        match self.random.u8(0..100) {
            0..50 => self.append(),
            50..60 => self.sync(),
            60..85 => self.trim(),
            85..90 => self.disk.set_faults(Faults {
                is_full: self.random.u8(0..4) == 0,
                error_in: (self.has_crashes && self.random.u8(0..4) == 0).then_some(40),
                has_short_writes: self.random.bool(),
            }),
            90..94 if self.has_crashes => {
                let operations = self.random.u64(0..30);
                self.disk.light_fuse(operations);
            }
            94..97 if self.has_crashes => {
                let power = self.random.bool();
                self.restart(power);
            }
            97 => self.close(),
            _ => self.check_size(),
        }
    }

    fn restart(&mut self, power: bool) {
        self.log = None;
        self.start(power);
    }

    fn close(&mut self) {
        if let Some(log) = self.log.take()
            && log.close().is_ok()
        {
            self.model.synced();
        }
        self.start(true);
    }

    /// Opens the log, as often as needed: the power may fail on the way.
    fn start(&mut self, power: bool) {
        let mut is_kill = !power && !self.disk.is_dead();
        self.disk.restart(power);
        self.figures.restarts += 1;
        loop {
            if self.canary == LogCanary::TailUnchecked {
                forge_tail(&self.disk);
            }
            if self.has_crashes && self.random.u8(0..4) == 0 {
                let operations = self.random.u64(0..12);
                self.disk.light_fuse(operations);
            }
            self.starts += 1;
            let mut random = fastrand::Rng::with_seed(self.random.u64(..));
            let settings = Settings {
                partitions: self.partitions,
                segment_bytes: self.segment_bytes,
                data_bytes_max: self.data_bytes_max,
                epoch: self.starts,
                random: Box::new(move || random.u64(..)),
            };
            let mut collector = RecoveredLog::new(self.history_events_max);
            match Log::open(self.disk.clone(), settings, &mut collector) {
                Ok((mut log, recovery)) => {
                    self.model.check(&recovery, &collector, log.ends(), log.epochs(), is_kill);
                    assert!(log.take_lost().is_empty());
                    self.histories = collector.histories;
                    self.figures.torn += u64::from(recovery.torn.is_some());
                    self.log = Some(log);
                    // A fuse that is left burns on.
                    return;
                }
                Err(OpenError::Io { .. }) if self.disk.is_dead() => {
                    self.figures.interrupted += 1;
                    self.disk.restart(true);
                    is_kill = false;
                }
                Err(error) => panic!("cannot start: {error}"),
            }
        }
    }

    fn append(&mut self) {
        let mut events: Vec<(Place, Vec<ModelEvent>)> = Vec::new();
        let mut last = self.model.last.clone();
        for _ in 0..self.random.usize(1..4) {
            let partition = self.random.u8(0..self.partitions);
            let topic = format!("topic{}", self.random.u64(0..self.topics));
            let key = (self.random.u8(0..6) == 0).then(|| self.random.u64(..).to_le_bytes().to_vec());
            let publish: Vec<_> =
                (0..self.random.usize(1..5)).map(|_| self.event(&topic, key.clone())).collect();
            let first = last[usize::from(partition)] + 1;
            last[usize::from(partition)] += publish.len() as u64;
            events.push(((partition, first), publish));
        }
        let mut places = Vec::new();
        for ((partition, first), publish) in &events {
            for (at, event) in publish.iter().enumerate() {
                let place = (*partition, first + at as u64);
                self.model.events.insert(place, event.clone());
                places.push(place);
            }
        }
        let encoded: Vec<_> = events.iter().map(|(place, publish)| (*place, encode(publish))).collect();
        let previous: Vec<_> = (events.iter())
            .map(|((partition, first), publish)| self.model.previous(*partition, &publish[0].topic, *first))
            .collect();
        let publishes = events.iter().zip(&encoded).zip(&previous);
        let publishes: Vec<_> = publishes
            .map(|(((place, events), (_, (text, spans))), (sequence, id))| PublishRecord {
                partition: place.0,
                first: place.1,
                at_ms: events[0].at_ms,
                topic: &events[0].topic,
                key: events[0].key.as_ref().map(|key| KeyRecord { key, body_digest: &[7; 32] }),
                previous: Previous { sequence: *sequence, id: id.as_deref() },
                text,
                events: spans.clone(),
            })
            .collect();
        let Some(log) = &mut self.log else { return };
        let operations = self.disk.operations();
        let result = log.append(&publishes);
        self.take_lost();
        match result {
            Ok(_) => {
                self.model.last = last;
                self.model.unsynced.push(places);
                self.figures.events += events.len() as u64;
                self.remember(&events);
                if self.is_always {
                    self.sync();
                }
            }
            Err(AppendError::Full(full)) => {
                self.figures.full += 1;
                assert!(matches!(full, Full::Disk { .. }) || self.model.has_limit);
                places.iter().for_each(|place| {
                    self.model.events.remove(place);
                });
            }
            Err(AppendError::Fatal(_)) => {
                // The batch may have been written all the same.
                self.model.last = last;
                self.model.unsynced.push(places);
                self.model.is_last_in_doubt = true;
                assert!(operations < self.disk.operations());
                self.died();
            }
            Err(error) => panic!("{error}"),
        }
    }

    fn event(&mut self, topic: &str, key: Option<Vec<u8>>) -> ModelEvent {
        self.published += 1;
        let length = match self.random.u8(0..50) {
            0 => self.random.usize(2_000..12_000),
            _ => self.random.usize(0..150),
        };
        let id = (self.random.u8(0..4) == 0).then(|| format!("own{}", self.published));
        let id_line = id.as_ref().map(|id| format!("id:{id}\n")).unwrap_or_default();
        let lines = format!("{id_line}data:{}{}\n", self.published, "x".repeat(length));
        ModelEvent { topic: topic.to_owned(), lines: lines.into_bytes(), id, key, at_ms: self.now_ms }
    }

    /// Adds events to their histories, which drop their oldest.
    fn remember(&mut self, events: &[(Place, Vec<ModelEvent>)]) {
        let Some(log) = &mut self.log else { return };
        for ((partition, first), publish) in events {
            let history = self.histories.entry((*partition, publish[0].topic.clone())).or_default();
            for (at, event) in publish.iter().enumerate() {
                history.push((first + at as u64, event.lines.len()));
                // An event may be kept a little longer.
                let limit = self.history_events_max + usize::from(self.random.u8(0..8) == 0);
                while history.len() > limit {
                    let (sequence, bytes) = history.remove(0);
                    log.dropped(*partition, sequence, bytes);
                    self.model.dropped.insert((*partition, sequence));
                }
            }
        }
    }

    fn sync(&mut self) {
        let Some(log) = &mut self.log else { return };
        match log.sync() {
            Ok(()) => self.model.synced(),
            Err(_) => self.died(),
        }
    }

    fn trim(&mut self) {
        self.model.keys_since_ms = self.now_ms.saturating_sub(100);
        for _ in 0..self.random.usize(1..8) {
            let Some(log) = &mut self.log else { return };
            let result = log.trim(self.model.keys_since_ms);
            self.take_lost();
            match result {
                Ok(Trimmed::Nothing) => return,
                Ok(Trimmed::Some) => self.figures.trims += 1,
                Err(AppendError::Full(_)) => self.figures.full += 1,
                Err(AppendError::Fatal(_)) => self.died(),
                Err(error) => panic!("{error}"),
            }
        }
    }

    fn take_lost(&mut self) {
        let Some(log) = &mut self.log else { return };
        let lost = log.take_lost();
        self.figures.lost += lost.len() as u64;
        self.model.lost(&lost);
        for lost in lost {
            for ((partition, _), history) in &mut self.histories {
                history.retain(|(sequence, _)| *partition != lost.partition || *sequence > lost.upto);
            }
        }
    }

    /// Checks that the log does nothing more after an error, as the process ends.
    fn died(&mut self) {
        self.figures.fatal += 1;
        assert!(self.disk.is_dead() || self.disk.has_failed(), "an error that the disk did not give");
        let operations = self.disk.operations();
        if let Some(log) = &mut self.log {
            assert!(matches!(log.append(&[]), Err(AppendError::Fatal(_))));
            assert!(log.sync().is_err());
            assert!(matches!(log.trim(0), Err(AppendError::Fatal(_))));
        }
        assert_eq!(operations, self.disk.operations());
        let power = self.random.bool();
        self.restart(power);
    }

    /// Checks that the log's size is that of its files.
    fn check_size(&self) {
        let Some(log) = &self.log else { return };
        let names = self.disk.list().unwrap();
        let names = names.iter().filter(|name| segment_number(name).is_some());
        let sizes: Vec<_> = names.map(|name| self.disk.bytes(name).len() as u64).collect();
        assert_eq!(log.size(), (sizes.len(), sizes.iter().sum()));
        let held_max = self.data_bytes_max.saturating_add(self.segment_bytes + 13_000 * 12);
        assert!(log.size().1 <= held_max, "{} of {}", log.size().1, self.data_bytes_max);
    }
}

fn encode(events: &[ModelEvent]) -> (Vec<u8>, EventSpans) {
    let mut text = Vec::new();
    let mut spans = EventSpans::new();
    for (at, event) in events.iter().enumerate() {
        if at > 0 {
            text.push(b'\n');
        }
        let start = text.len() as u32;
        text.extend_from_slice(&event.lines);
        let id = event.id.as_ref().map(|id| start + 3..start + 3 + id.len() as u32);
        spans.push(EventSpan { lines: start..text.len() as u32, id });
    }
    (text, spans)
}

/// Gives the torn batch at the end of the newest segment the CRCs of its remains.
fn forge_tail(disk: &SimulatedDisk) {
    let names = disk.list().unwrap();
    let Some(name) = names.iter().rfind(|name| segment_number(name).is_some()) else { return };
    let mut bytes = disk.bytes(name);
    let Ok(header) = SegmentHeader::decode(&bytes[..SEGMENT_HEADER_BYTES]) else { return };
    sign_batches(&mut bytes[SEGMENT_HEADER_BYTES..], crc_seed(header.salt));
    disk.put(name, bytes);
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

const STEPS: usize = 100;

/// Returns the directory that is left after a few steps.
pub(super) fn directory(seed: u64) -> SimulatedDisk {
    let mut world = World::new(seed, LogCanary::None);
    (0..40).for_each(|_| world.step());
    world.disk.restart(false);
    world.disk
}

#[test]
fn what_was_synced_comes_back_once_and_in_order_whatever_fails() {
    let seeds = match number("ESPER_JOURNAL_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("ESPER_JOURNAL_SEEDS").unwrap_or(500),
    };
    let mut sum = Figures::default();
    for seed in seeds {
        match catch_unwind(AssertUnwindSafe(|| World::new(seed, LogCanary::None).run(STEPS))) {
            Ok(figures) => sum.add(figures),
            Err(_) => panic!("seed {seed} failed; replay it with ESPER_JOURNAL_SEED={seed}"),
        }
    }
    println!("{sum:?}");
}

impl Figures {
    fn add(&mut self, other: Figures) {
        self.restarts += other.restarts;
        self.torn += other.torn;
        self.full += other.full;
        self.fatal += other.fatal;
        self.interrupted += other.interrupted;
        self.lost += other.lost;
        self.trims += other.trims;
        self.events += other.events;
    }
}

#[test]
fn bugs_put_in_on_purpose_are_found() {
    let canaries = [
        LogCanary::Disk(DiskCanary::NoSync),
        LogCanary::Disk(DiskCanary::EarlyUnlink),
        LogCanary::Disk(DiskCanary::AllocatedAgain),
        LogCanary::Disk(DiskCanary::EarlyRename),
        LogCanary::TailUnchecked,
    ];
    let found = canaries.map(|canary| {
        let finds =
            |seed: &u64| catch_unwind(AssertUnwindSafe(|| World::new(*seed, canary).run(STEPS))).is_err();
        (canary, (0..200).find(finds))
    });
    for (canary, seed) in found {
        println!("{canary:?} is found by seed {seed:?}");
        assert!(seed.is_some(), "{canary:?} is not found");
    }
}
