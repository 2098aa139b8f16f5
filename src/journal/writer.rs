//! The writer thread, which owns the log: it appends all publishes that came during the last sync, and syncs them once.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};

use super::config::SyncPolicy;
use super::disk::error::{AppendError, Fatal};
use super::disk::log::{Log, Lost};
use super::disk::record::{self, EventSpan, KeyRecord, Previous};
use super::disk::storage::Disk;
use super::disk::trim::Trimmed;
use super::stats::JournalStats;
use crate::clock::Clock;
use crate::core::home::{Dropped, KEYS_KNOWN_MS};
use crate::core::journal::Kept;
use crate::core::message::{OrderError, ShardId, work_of};
use crate::core::partition::Placement;

/// Publishes from which on a batch takes no further turn: a write delays those that come meanwhile.
const BATCH_RECORDS_MAX: usize = 16 << 10;
/// Bytes of events from which on a batch takes no further turn.
const BATCH_BYTES_MAX: usize = 8 << 20;
/// Time between two log lines about a full disk.
const FULL_SAID: Duration = Duration::from_secs(10);
/// Time after which room is made while nothing is published.
const TRIM_INTERVAL: Duration = Duration::from_millis(100);

/// The input of one turn of a shard for the log, sent to the writer.
#[derive(Debug)]
pub(crate) struct Turn {
    pub(super) shard: ShardId,
    pub(super) publishes: Vec<Kept>,
    /// Events that no history has any more.
    pub(super) dropped: Vec<Dropped>,
}

impl Turn {
    pub(super) fn of(shard: ShardId) -> Self {
        Turn { shard, publishes: Vec::new(), dropped: Vec::new() }
    }
}

/// Returns the record of a publish.
fn record(kept: &Kept) -> record::PublishRecord<'_> {
    let Kept { partition, first, at_ms, topic, events, previous, key } = kept;
    record::PublishRecord {
        partition: *partition,
        first: *first,
        at_ms: *at_ms,
        topic: topic.name(),
        key: key.as_ref().map(|key| KeyRecord { key: &key.name, body_digest: &key.digest }),
        previous: Previous { sequence: previous.sequence, id: previous.own_id.as_deref() },
        text: events.text(),
        events: events.spans().map(|(lines, id)| EventSpan { lines, id }).collect(),
    }
}

/// Carries the writer's results to the shards; implemented by their mailboxes.
pub(crate) trait JournalEvents: Send + 'static {
    /// Reports that the oldest `publishes` of a shard are final, or refused; handling them takes it `work`, in the
    /// units of [`Message::work`](crate::core::message::Message::work).
    fn settled(&self, shard: ShardId, publishes: usize, work: usize, result: Result<(), OrderError>);

    /// Reports lost events to the shard that is home to their partition.
    fn lost(&self, shard: ShardId, lost: Lost);
}

/// The state of the writer thread.
pub(super) struct Writer<D: Disk, S: JournalEvents> {
    pub(super) log: Log<D>,
    pub(super) turns: Receiver<Turn>,
    pub(super) shards: S,
    pub(super) placement: Placement,
    pub(super) sync: SyncPolicy,
    pub(super) clock: Clock,
    pub(super) stats: Arc<JournalStats>,
    /// The time of the next sync, if anything is written and not synced.
    pub(super) sync_due: Option<Instant>,
    pub(super) full_said: Option<Instant>,
}

impl<D: Disk, S: JournalEvents> Writer<D, S> {
    /// Writes until no shard is left, and closes the log.
    ///
    /// The disk failed. Publishes under way are not answered.
    pub(super) fn run(mut self) -> Result<(), Fatal> {
        self.count_files();
        loop {
            let deadline = Instant::now() + TRIM_INTERVAL;
            match self.turns.recv_deadline(self.sync_due.unwrap_or(deadline).min(deadline)) {
                Ok(turn) => {
                    let turns = self.gather(turn);
                    self.write(&turns)?;
                }
                Err(RecvTimeoutError::Timeout) => self.trim()?,
                Err(RecvTimeoutError::Disconnected) => return self.log.close(),
            }
            if self.sync_due.is_some_and(|due| due <= Instant::now()) {
                self.sync()?;
            }
        }
    }

    /// Returns the turns that are in the channel, `first` before them, up to the limits of a batch.
    fn gather(&self, first: Turn) -> Vec<Turn> {
        let weight = |turn: &Turn| turn.publishes.iter().map(|kept| kept.events.text_bytes()).sum::<usize>();
        let (mut records, mut bytes) = (first.publishes.len(), weight(&first));
        let mut turns = vec![first];
        while records < BATCH_RECORDS_MAX
            && bytes < BATCH_BYTES_MAX
            && let Ok(turn) = self.turns.try_recv()
        {
            records += turn.publishes.len();
            bytes += weight(&turn);
            turns.push(turn);
        }
        turns
    }

    fn write(&mut self, turns: &[Turn]) -> Result<(), Fatal> {
        for Dropped { partition, sequence, lines_bytes } in turns.iter().flat_map(|turn| &turn.dropped) {
            self.log.dropped(*partition, *sequence, *lines_bytes);
        }
        let publishes: Vec<_> = turns.iter().flat_map(|turn| &turn.publishes).map(record).collect();
        if publishes.is_empty() {
            return self.trim();
        }
        let result = match self.log.append(&publishes) {
            Ok(_) => {
                self.stats.wrote(publishes.len(), publishes.iter().map(|publish| publish.text.len()).sum());
                match self.sync {
                    SyncPolicy::Always => self.sync()?,
                    SyncPolicy::Every(time) => {
                        self.sync_due.get_or_insert_with(|| Instant::now() + time);
                    }
                }
                if self.full_said.take().is_some() {
                    tracing::info!("the journal has room again");
                }
                Ok(())
            }
            Err(AppendError::Fatal(error)) => return Err(error),
            // A bug, after which nothing written can be trusted.
            Err(error @ (AppendError::OutOfOrder { .. } | AppendError::Unencodable)) => {
                return Err(Fatal { what: format!("append: {error}"), source: None });
            }
            Err(AppendError::Full(error)) => {
                self.stats.refused(publishes.len());
                if self.full_said.is_none_or(|said| said.elapsed() > FULL_SAID) {
                    self.full_said = Some(Instant::now());
                    tracing::error!("publishes are refused with 507: {error}");
                }
                Err(OrderError::DiskFull)
            }
        };
        for turn in turns.iter().filter(|turn| !turn.publishes.is_empty()) {
            let work = turn.publishes.iter().map(|kept| work_of(&kept.events)).sum();
            self.shards.settled(turn.shard, turn.publishes.len(), work, result);
        }
        self.tell_lost();
        self.trim()
    }

    fn sync(&mut self) -> Result<(), Fatal> {
        let start = Instant::now();
        self.log.sync()?;
        self.sync_due = None;
        self.stats.synced(start.elapsed());
        self.count_files();
        Ok(())
    }

    fn count_files(&self) {
        let (segments, bytes) = self.log.size();
        self.stats.is_now(segments, bytes);
    }

    /// Frees the room of events that no history has any more: one step, and more until a shard has something to write
    /// or a sync is due.
    fn trim(&mut self) -> Result<(), Fatal> {
        loop {
            match self.log.trim(self.clock.now_ms().saturating_sub(KEYS_KNOWN_MS)) {
                Ok(Trimmed::Nothing) => break,
                Ok(_) => {}
                Err(AppendError::Fatal(error)) => return Err(error),
                // Nothing is lost, and the next trim tries again.
                Err(_) => break,
            }
            if !self.turns.is_empty() || self.sync_due.is_some_and(|due| due <= Instant::now()) {
                break;
            }
        }
        self.count_files();
        self.tell_lost();
        Ok(())
    }

    /// Reports events to their homes that are gone because the journal reached its limit.
    fn tell_lost(&mut self) {
        for lost in self.log.take_lost() {
            self.shards.lost(self.placement.home(lost.partition), lost);
        }
    }
}
