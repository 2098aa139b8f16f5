//! Opens a log: hands out its events, cuts a torn end, and refuses a damaged log.
//!
//! The newest segment is read first, since it lists the others. Then all are read from front to back, oldest first.
//! Then the newest is sealed, and a new one begins with the new epoch: no process appends to a file that another wrote.

use std::collections::BTreeMap;
use std::time::Instant;
use std::{io, mem};

use super::alive::{Segment, Segments};
use super::encoding::Reader;
use super::ends::TopicEnds;
use super::epochs::EpochTable;
use super::error::{AppendError, Damage, Fatal, Full, OpenError};
use super::format::{BatchKind, segment_name};
use super::gone::gone_number;
use super::layout::{
    Check, Layout, Newest, OUT_OF_ORDER, ReadError, damage, open_reader, read_gone, read_headers, read_newest,
};
use super::log::{Log, Settings, segment_capacity};
use super::record::{ControlRecord, PublishRecord};
use super::storage::{Disk, DiskFile, read_full_at, write_all_at};
use crate::core::event_id::Sequence;

/// Bytes between two calls of [`Sink::progress`]: a tenth of a second from a warm cache.
const PROGRESS_BYTES: u64 = 64 << 20;

/// Takes the content of a log as it is opened; implemented by the journal's start.
pub(crate) trait Sink {
    /// Takes the secret of the journal's hashes, before all else.
    fn begin(&mut self, _secret: [u8; 16]) {}

    /// Takes a publish: each event comes once, and a partition's events come in ascending order of their sequences. The
    /// sink reports events that need not be kept, this or earlier ones, to `segments`, a topic's oldest first.
    ///
    /// A publish with dropped events in it comes as several. Returns false if the events are not valid.
    fn publish(&mut self, publish: &PublishRecord<'_>, segments: &mut Segments) -> bool;

    /// Takes a publish with an idempotency key, before its events and also if those are gone. It is as it was appended if
    /// its key was to be kept; see [`Log::trim`].
    fn key(&mut self, _publish: &PublishRecord<'_>) {}

    /// Reports from time to time that `bytes` of `of_bytes` were read.
    fn progress(&mut self, _bytes: u64, _of_bytes: u64) {}
}

/// The results of opening a log.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Recovery {
    /// Events handed out.
    pub(crate) events: u64,
    /// Bytes read.
    pub(crate) bytes: u64,
    /// The time it took, in milliseconds.
    pub(crate) ms: u64,
    /// Segments found.
    pub(crate) segments: usize,
    /// The last sequence of each partition: the next event's is higher.
    pub(crate) last: Box<[Sequence]>,
    /// Set if the end of the log was torn and is cut. It was not synced, so no publisher was told that it is final.
    pub(crate) torn: Option<Damage>,
    /// Set if there was no room for a whole segment: appends are refused until there is.
    pub(crate) is_full: bool,
}

impl<D: Disk> Log<D> {
    /// Opens the log of a directory, or creates one, and hands its content to the sink. The new epoch is synced when
    /// this returns.
    ///
    /// Tells what is wrong with the directory, and what to do about it. What the sink took is to be dropped then.
    pub(crate) fn open(
        disk: D,
        settings: Settings,
        sink: &mut impl Sink,
    ) -> Result<(Log<D>, Recovery), OpenError> {
        let start = Instant::now();
        let dir = disk.name();
        let refuse = |error: ReadError| error.into_open_error(&dir);
        let names = disk.list().map_err(|error| io_error("list", &dir, error))?;
        let headers = read_headers(&disk, &names).map_err(refuse)?;
        let mut recovery = Recovery { segments: headers.len(), ..Recovery::default() };
        let mut log = match headers.last_key_value() {
            None => Log::empty(disk, settings),
            Some((_, header)) if header.partitions != settings.partitions => {
                return Err(OpenError::Partitions {
                    dir,
                    found: header.partitions,
                    asked: settings.partitions,
                });
            }
            Some((_, header)) => {
                let secret = header.secret;
                let mut newest = read_newest(&disk, header).map_err(refuse)?;
                let layout = Layout::new(headers, &newest, &names).map_err(refuse)?;
                let mut log = Log::empty(disk, settings);
                (log.secret, log.ends) = (secret, mem::take(&mut newest.ends));
                sink.begin(secret);
                log.read_all(&layout, &newest, sink, &mut recovery).map_err(refuse)?;
                log.adopt(layout, newest, &mut recovery)?;
                log
            }
        };
        log.begin(&names, &mut recovery)?;
        recovery.last = log.last.clone();
        recovery.ms = start.elapsed().as_millis() as u64;
        Ok((log, recovery))
    }

    /// Returns a log without segments. Nothing can be appended before [`Log::begin`].
    fn empty(disk: D, mut settings: Settings) -> Self {
        let mut secret = [0; 16];
        for part in secret.chunks_mut(8) {
            part.copy_from_slice(&(settings.random)().to_le_bytes());
        }
        Log {
            disk,
            secret,
            epochs: EpochTable::new(settings.epoch, settings.partitions),
            ends: TopicEnds::new(secret),
            segments: Segments::default(),
            last: vec![0; usize::from(settings.partitions)].into(),
            next_batch: 1,
            synced_batch: 0,
            tail: None,
            trimming: None,
            lost: Vec::new(),
            scratch: Vec::new(),
            settings,
        }
    }

    /// Reads all segments, oldest first.
    fn read_all(
        &mut self,
        layout: &Layout,
        newest: &Newest,
        sink: &mut impl Sink,
        recovery: &mut Recovery,
    ) -> Result<(), ReadError> {
        let expected: BTreeMap<u64, u64> =
            newest.segments.iter().map(|entry| (entry.number, entry.last_batch)).collect();
        let of_bytes = self.total_bytes(layout)?;
        let mut told_bytes = 0;
        let mut last_batch = 0;
        let newest_number = layout.headers.last_key_value().map_or(0, |(number, _)| *number);
        for (number, header) in &layout.headers {
            let mut reader = open_reader(&self.disk, *number, header.salt)?;
            let end = match (header.rewritten, expected.get(&header.last)) {
                (Some(rewritten), _) => rewritten.last_batch,
                (None, Some(last_batch)) => *last_batch,
                (None, None) => newest.last_batch,
            };
            let mut check =
                Check::new(header, end, last_batch, (*number == newest_number).then_some(newest.bytes))?;
            let mut segment = Segment::new(header.first, header.last, &self.last);
            (segment.last_batch, segment.salt) = (end, header.salt);
            let gone = if layout.gone.contains(number) { read_gone(&self.disk, header)? } else { None };
            self.segments.push(match gone {
                Some(gone) => segment.with_gone(gone),
                None => segment,
            });
            while let Some(batch) = check.next(&mut reader)? {
                recovery.bytes += batch.bytes.len() as u64;
                let damaged = |what| damage(*number, batch.offset, what);
                let mut records = Reader::new(batch.payload);
                if batch.kind == BatchKind::Control {
                    // Those of the newest segment are in use already; the others are checked all the same.
                    while !records.is_empty() {
                        ControlRecord::decode(&mut records).map_err(|malformed| damaged(malformed.0))?;
                    }
                    continue;
                }
                while !records.is_empty() {
                    let publish =
                        PublishRecord::decode(&mut records).map_err(|malformed| damaged(malformed.0))?;
                    match self.last.get_mut(usize::from(publish.partition)) {
                        Some(last) if *last < publish.first => *last = publish.last(),
                        _ => return Err(damaged(OUT_OF_ORDER)),
                    }
                    if let Some(segment) = self.segments.last_mut() {
                        segment.add(&publish);
                    }
                    if publish.key.is_some() {
                        sink.key(&publish);
                    }
                    let handed_out = self.hand_out(&publish, sink);
                    recovery.events += handed_out.ok_or_else(|| damaged("a publish is none"))?;
                }
                if recovery.bytes - told_bytes >= PROGRESS_BYTES {
                    told_bytes = recovery.bytes;
                    sink.progress(recovery.bytes, of_bytes);
                }
            }
            last_batch = end;
            if let Some(segment) = self.segments.last_mut() {
                segment.file_bytes = reader.offset();
            }
        }
        sink.progress(recovery.bytes, recovery.bytes);
        Ok(())
    }

    /// Hands out the alive events of a publish; returns their number, or `None` if they are not valid.
    fn hand_out(&mut self, publish: &PublishRecord<'_>, sink: &mut impl Sink) -> Option<u64> {
        let segment = self.segments.list().last()?;
        let count = publish.events.len();
        let is_alive = |event: usize| segment.is_alive(publish.partition, publish.first + event as u64);
        if !segment.has_gone_file || (0..count).all(is_alive) {
            return sink.publish(publish, &mut self.segments).then_some(count as u64);
        }
        let (alive, gone): (Vec<usize>, Vec<usize>) = (0..count).partition(|event| is_alive(*event));
        // It counts as lost from now on, like events that left the disk.
        if let Some(last) = gone.last() {
            let sequence = publish.first + *last as u64;
            self.ends.note(publish.partition, publish.topic, sequence, publish.own_id(*last));
        }
        for run in alive.chunk_by(|before, after| before + 1 == *after) {
            if let [first, ..] = run
                && !sink.publish(&publish.part(*first..*first + run.len()), &mut self.segments)
            {
                return None;
            }
        }
        Some(alive.len() as u64)
    }

    fn total_bytes(&self, layout: &Layout) -> Result<u64, ReadError> {
        let length = |number: &u64| {
            let name = segment_name(*number);
            let length = self.disk.open(&name).and_then(|file| file.len());
            length.map_err(|error| ReadError::Io(format!("open {name}"), error))
        };
        layout.headers.keys().map(length).sum()
    }

    /// Adopts the segments that were read: seals the newest one, and unlinks leftovers.
    fn adopt(&mut self, layout: Layout, newest: Newest, recovery: &mut Recovery) -> Result<(), OpenError> {
        let dir = self.disk.name();
        let Some(number) = layout.headers.keys().next_back() else { return Ok(()) };
        self.next_batch = newest.last_batch + 1;
        self.synced_batch = newest.last_batch;
        // Trimmed events are in no segment.
        for (last, before) in self.last.iter_mut().zip(&newest.epochs.last) {
            *last = (*last).max(*before);
        }
        self.epochs = newest.epochs.followed_by(self.settings.epoch, &self.last);
        recovery.torn = newest.torn;
        let name = segment_name(*number);
        let file = self.disk.open_to_write(&name).map_err(|error| io_error("open", &name, error))?;
        rewrite(&file, newest.synced_bytes, newest.bytes)
            .and_then(|()| file.truncate(newest.bytes))
            .and_then(|()| file.sync_all())
            .map_err(|error| io_error("seal", &format!("{dir}/{name}"), error))?;
        // Files of dropped events are removed with those that no segment has, when the next one begins.
        for name in layout.leftovers.iter().filter(|name| gone_number(name).is_none()) {
            self.disk.unlink(name).map_err(|error| io_error("remove", name, error))?;
        }
        Ok(())
    }

    /// Begins the first segment of this start.
    fn begin(&mut self, names: &[String], recovery: &mut Recovery) -> Result<(), OpenError> {
        let dir = self.disk.name();
        // A `.gone` file without a segment could be taken for that of a later segment of its number.
        let is_unused = |number| !self.segments.get(number).is_some_and(|segment| segment.has_gone_file);
        let is_unused_gone = |name: &str| gone_number(name).is_some_and(is_unused);
        for name in names.iter().filter(|name| is_unfinished(name) || is_unused_gone(name)) {
            self.disk.unlink(name).map_err(|error| io_error("remove", name, error))?;
        }
        let number = self.segments.list().last().map_or(0, |segment| segment.last) + 1;
        let opening = self.opening();
        let reserve_bytes = self.reserve_bytes();
        let capacity = segment_capacity(&opening, reserve_bytes);
        let tail = match self.create(number, &opening, capacity.max(self.settings.segment_bytes)) {
            // A full disk does not keep the server from serving what is there: appends wait for room.
            Err(AppendError::Full(Full::Disk { .. })) => {
                recovery.is_full = true;
                self.create(number, &opening, capacity)
            }
            result => result,
        };
        let fatal = |Fatal { what, source }| OpenError::Io {
            what,
            source: source.unwrap_or_else(|| io::ErrorKind::Other.into()),
        };
        match tail {
            Ok(tail) => self.enter(tail).map_err(fatal),
            Err(AppendError::Full(Full::Disk { source })) => Err(OpenError::Full { dir, source }),
            Err(AppendError::Fatal(error)) => Err(fatal(error)),
            Err(error) => Err(OpenError::Io {
                what: format!("begin a segment in {dir}: {error}"),
                source: io::ErrorKind::Other.into(),
            }),
        }
    }
}

/// Returns whether this is the name of a file that was being made.
pub(super) fn is_unfinished(name: &str) -> bool {
    name.strip_suffix(".new").is_some_and(|number| number.bytes().all(|digit| digit.is_ascii_digit()))
}

fn io_error(what: &str, name: &str, source: io::Error) -> OpenError {
    OpenError::Io { what: format!("{what} {name}"), source }
}

/// Writes the bytes once more: after a failed sync the kernel may show bytes that it will never write, and a sync now
/// would not write them either. Events that were handed out must not vanish at the next power failure.
fn rewrite<F: DiskFile>(file: &F, start: u64, end: u64) -> io::Result<()> {
    let mut chunk = vec![0; (end.saturating_sub(start)).min(1 << 20) as usize];
    let mut offset = start;
    while offset < end {
        let length = chunk.len().min((end - offset) as usize);
        let bytes = chunk.get_mut(..length).unwrap_or_default();
        if read_full_at(file, bytes, offset)? != length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        write_all_at(file, &mut [io::IoSlice::new(bytes)], offset)?;
        offset += length as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
