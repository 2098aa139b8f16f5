//! Opens a journal: makes the homes' histories of its directory's events, before any client connects.

use std::io;
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use bytes::Bytes;
use crossbeam_channel::unbounded;

use super::config::DiskConfig;
use super::disk::alive::Segments;
use super::disk::error::{Fatal, OpenError};
use super::disk::log::{Log, SEGMENT_BYTES, Settings};
use super::disk::record;
use super::disk::recovery::{Recovery, Sink};
use super::disk::storage::Directory;
use super::queue::DiskQueue;
use super::stats::JournalStats;
use super::writer::{JournalEvents, Writer};
use crate::clock::Clock;
use crate::core::epochs::{EarlierEpoch, Epochs};
use crate::core::event::Events;
use crate::core::event_id::{Epoch, EventId, Sequence};
use crate::core::home::{Dropped, HomeSettings, Homes, KEYS_KNOWN_MS, TopicEnd, excess_share};
use crate::core::journal::Kept;
use crate::core::message::{Ordered, PublishKey, ShardId};
use crate::core::partition::Partitioner;
use crate::core::random::random_u64;
use crate::core::topic::{Topic, TopicHasher};

/// Time between two lines in the log about the progress of a start.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(2);
/// Bytes of events between two checks of the memory that histories hold, and the bytes counted for each event beside
/// its text.
const MEMORY_LOOK_BYTES: usize = 1 << 20;
const EVENT_BYTES: usize = 256;

/// An open journal and its recovered content, for the server to start with.
pub(crate) struct Opened {
    /// The settings of all homes.
    pub(crate) settings: HomeSettings,
    /// The hasher of the homes' topics: every topic must be hashed by it.
    pub(crate) hasher: TopicHasher,
    /// By shard, each with the history of its partitions.
    pub(crate) homes: Vec<Homes>,
    /// The writer's counters, with the results of this start.
    pub(crate) stats: Arc<JournalStats>,
    log: Log<Directory>,
    last: Box<[Sequence]>,
}

/// Opens the journal of a directory.
///
/// Tells why the directory cannot be used, and what to do about it.
pub(crate) fn open(
    config: &DiskConfig,
    clock: Clock,
    settings: impl Fn(Partitioner, Epoch) -> HomeSettings,
) -> Result<Opened, OpenError> {
    let (directory, warnings) = Directory::open(&config.dir)?;
    warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    let epoch = Epoch::new();
    let log_settings = Settings {
        partitions: config.partitions,
        segment_bytes: SEGMENT_BYTES,
        data_bytes_max: config.bytes_max.map_or(u64::MAX, |bytes| bytes as u64),
        epoch: epoch.run(),
        random: Box::new(random_u64),
    };
    let make = |secret| settings(Partitioner::new(config.partitions, secret), epoch);
    let mut found = Found {
        make: &make,
        namespaces: config.namespaces,
        now_ms: clock.now_ms(),
        world: None,
        since_look: 0,
        said: None,
    };
    let (log, recovery) = Log::open(directory, log_settings, &mut found)?;
    let world = found.world.unwrap_or_else(|| World::new(make(log.secret())));
    let earlier = log.epochs().past.iter();
    let earlier = earlier.map(|past| EarlierEpoch { epoch: Epoch::at(past.epoch), last: past.last.clone() });
    let epochs = Arc::new(Epochs::new(epoch, earlier.collect()));
    let World { settings, hasher, mut homes } = world;
    for homes in &mut homes {
        let ends = log.ends().entries().map(|(partition, hash, sequence, own_id)| {
            (partition, hash, TopicEnd { sequence, own_id: own_id.map(Into::into) })
        });
        homes.recovered(&epochs, &recovery.last, ends, clock.now_ms());
    }
    let stats = Arc::<JournalStats>::default();
    say(&recovery, config, &stats);
    let settings = HomeSettings { epochs, ..settings };
    Ok(Opened { settings, hasher, homes, stats, last: recovery.last, log })
}

/// Logs and counts what was recovered.
fn say(recovery: &Recovery, config: &DiskConfig, stats: &JournalStats) {
    let Recovery { events, bytes, ms, segments, torn, is_full, .. } = recovery;
    stats.recovered_events.set(*events);
    stats.recovered_bytes.set(*bytes);
    stats.recovered_ms.set(*ms);
    if let Some(torn) = torn {
        tracing::warn!(
            "the journal's end was torn, and is cut: {torn}; nothing of it was answered 200, unless with --sync TIME"
        );
    }
    if *is_full {
        tracing::error!(
            "no room for a segment of the journal: publishes are refused with 507 until there is; free some"
        );
    }
    let dir = config.dir.display();
    tracing::info!(events, bytes, ms, segments, "the journal in {dir} was read back");
}

impl Opened {
    /// Starts the writer thread, which passes its result to `ended`; returns it with each shard's queue.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub(crate) fn start(
        self,
        config: &DiskConfig,
        clock: Clock,
        shards: impl JournalEvents,
        ended: impl FnOnce(Result<(), Fatal>) + Send + 'static,
    ) -> io::Result<(JoinHandle<()>, Vec<DiskQueue>)> {
        let (sender, turns) = unbounded();
        let queue = |shard| DiskQueue::new(shard as ShardId, clock, self.last.clone(), sender.clone());
        let queues = (0..self.settings.placement.shards()).map(queue).collect();
        let writer = Writer {
            log: self.log,
            turns,
            shards,
            placement: self.settings.placement,
            sync: config.sync,
            clock,
            stats: self.stats,
            sync_due: None,
            full_said: None,
        };
        let thread = Builder::new().name("esper-journal".to_owned());
        Ok((thread.spawn(move || ended(writer.run()))?, queues))
    }
}

/// The homes that take the recovered events.
struct World {
    settings: HomeSettings,
    hasher: TopicHasher,
    homes: Vec<Homes>,
}

impl World {
    fn new(settings: HomeSettings) -> Self {
        let home = |shard| {
            let mut homes = Homes::new(shard, &settings);
            homes.note_what_is_dropped();
            homes
        };
        let homes = (0..settings.placement.shards()).map(home).collect();
        World { hasher: TopicHasher::new(settings.partitioner), homes, settings }
    }
}

/// The receiver of the recovered events.
struct Found<'a> {
    make: &'a dyn Fn([u8; 16]) -> HomeSettings,
    namespaces: bool,
    now_ms: u64,
    /// `None` until the data's secret is known.
    world: Option<World>,
    /// Bytes of events since the last check of the memory that histories hold.
    since_look: usize,
    /// The time of the last log line about progress.
    said: Option<Instant>,
}

impl Sink for Found<'_> {
    fn begin(&mut self, secret: [u8; 16]) {
        self.world = Some(World::new((self.make)(secret)));
    }

    fn publish(&mut self, publish: &record::PublishRecord<'_>, segments: &mut Segments) -> bool {
        let Some(World { settings, hasher, homes }) = &mut self.world else { return false };
        let record::PublishRecord { partition, first, at_ms, previous, text, events, .. } = publish;
        let spans = events.iter().map(|span| (span.lines.clone(), span.id.clone()));
        let Some(events) = Events::from_parts(Bytes::copy_from_slice(text), spans) else { return false };
        let topic = Topic::kept(publish.topic, self.namespaces, hasher);
        let Some(homes) = homes.get_mut(usize::from(settings.placement.home(*partition))) else {
            return false;
        };
        let previous = TopicEnd { sequence: previous.sequence, own_id: previous.id.map(Into::into) };
        let (partition, first, at_ms) = (*partition, *first, *at_ms);
        homes.recover(Kept { partition, first, at_ms, topic, events, previous, key: None });
        self.since_look += publish.text.len() + EVENT_BYTES * publish.events.len();
        if self.since_look >= MEMORY_LOOK_BYTES {
            self.since_look = 0;
            self.release(segments);
        }
        true
    }

    fn key(&mut self, publish: &record::PublishRecord<'_>) {
        if publish.at_ms + KEYS_KNOWN_MS < self.now_ms {
            return;
        }
        let (Some(World { settings, homes, .. }), Some(key)) = (&mut self.world, publish.key) else { return };
        let Some(homes) = homes.get_mut(usize::from(settings.placement.home(publish.partition))) else {
            return;
        };
        let events = publish.events.len();
        let last_id = match publish.own_id(events - 1) {
            Some(id) => EventId::Own(id.into()),
            None => EventId::Sequence(publish.last()),
        };
        let ids = publish.events.iter().filter(|event| event.id.is_some()).count();
        let own_ids = (0..events).filter(|event| publish.own_id(*event).is_some()).count();
        let ids_replaced = (ids - own_ids) as u32;
        let published = Ordered { last_id, events: events as u32, ids_replaced, streams: None };
        let key = PublishKey { name: key.key.into(), digest: *key.body_digest };
        homes.recover_key(publish.partition, &key, &published, publish.at_ms);
    }

    fn progress(&mut self, bytes: u64, of_bytes: u64) {
        let now = Instant::now();
        let said = *self.said.get_or_insert(now);
        if now - said >= PROGRESS_INTERVAL {
            self.said = Some(now);
            tracing::info!(bytes, of_bytes, "reading the journal: {} %", bytes * 100 / of_bytes.max(1));
        }
    }
}

impl Found<'_> {
    /// Drops the oldest events that exceed the limit of memory, and tells `segments` of them. Those dropped after the
    /// last call are reported by the shards.
    fn release(&mut self, segments: &mut Segments) {
        let Some(World { settings, homes, .. }) = &mut self.world else { return };
        let share = excess_share(homes, &settings.memory);
        for homes in homes {
            homes.release(share);
            for Dropped { partition, sequence, lines_bytes } in homes.take_dropped() {
                segments.dropped(partition, sequence, lines_bytes);
            }
        }
    }
}
