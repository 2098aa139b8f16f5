//! What histories dropped leaves the disk: a segment of which nothing is alive is removed, neighbours of which little is are
//! rewritten as one, and above the journal's limit the oldest goes.
//!
//! What that loses is recorded and synced before: where each topic ended, and which segments are to go. To know the topics, the
//! segments are read once more, a little at a time. A crash at any point leaves either the old segments or the new one, with or without some that are
//! named as removed or covered, which the next start unlinks.

use std::collections::{HashMap, VecDeque};
use std::io;

use super::batch::Batch;
use super::encoding::Reader;
use super::ends::Ends;
use super::error::{AppendError, Fatal, Full};
use super::format::{
    BatchKind, Rewritten, SEGMENT_HEADER_BYTES, SegmentHeader, crc_seed, new_name, segment_name,
};
use super::gone::{self, gone_name};
use super::log::{BatchNumber, Log, Lost};
use super::record::{Control, Publish};
use super::scan::{BatchReader, ReadBatch, Scanned, read_header};
use super::segments::{Segment, Segments};
use super::storage::{Disk, DiskFile, is_full, write_all_at};
use crate::core::event_id::Sequence;

/// Bytes that a step reads at least: about 1 ms from a warm cache.
const STEP_BYTES: u64 = 1 << 20;
/// Segments that become one at most.
const NEIGHBOURS_MAX: usize = 8;

/// What a step of [`Log::trim`] did.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Trimmed {
    /// There is nothing to do.
    Nothing,
    /// There is more to do.
    Some,
}

/// Segments that are being removed or rewritten.
pub(super) struct Trimming<F> {
    /// The numbers that they cover.
    first: u64,
    last: u64,
    /// Numbers of the files that were not read yet.
    files: VecDeque<u64>,
    reader: Option<Source<F>>,
    /// Where topics ended, by what is lost.
    ends: Ends,
    /// None if they are removed.
    output: Option<Output<F>>,
    /// Whether they go with what of them is alive.
    is_forced: bool,
    /// What histories dropped meanwhile, and the bytes of its lines. It is kept: what is lost was dropped before this
    /// began, so that no older event of its topic is kept.
    dropped: HashMap<(u8, Sequence), usize>,
}

/// A segment that is being read.
struct Source<F> {
    number: u64,
    rewritten: Option<Rewritten>,
    last_read: BatchNumber,
    reader: BatchReader<F>,
}

/// A segment that is being rewritten from others.
struct Output<F> {
    file: F,
    header: SegmentHeader,
    offset: u64,
    segment: Segment,
}

/// What to do next.
struct Plan {
    first: u64,
    last: u64,
    files: VecDeque<u64>,
    is_rewriting: bool,
    is_forced: bool,
}

impl<D: Disk> Log<D> {
    /// Notes that a history has dropped an event whose lines were so many bytes: it need not be kept. A topic's events are
    /// dropped oldest first.
    pub(crate) fn dropped(&mut self, partition: u8, sequence: Sequence, lines_bytes: usize) {
        if let Some(trimming) = self.trimming.as_mut().filter(|trimming| trimming.output.is_some()) {
            trimming.dropped.entry((partition, sequence)).or_insert(lines_bytes);
        }
        self.segments.dropped(partition, sequence, lines_bytes);
    }

    /// Frees room that events take which no history has any more, one step of about 1 ms at a time. Segments with idempotency keys of
    /// this time (in ms of the Unix epoch) or later are kept.
    ///
    /// # Errors
    /// [`AppendError::Full`] if there is no room to record what would be lost; nothing is lost then.
    pub(crate) fn trim(&mut self, keys_since_ms: u64) -> Result<Trimmed, AppendError> {
        self.check_open()?;
        if self.trimming.is_none() {
            let Some(plan) = self.plan(keys_since_ms) else { return Ok(Trimmed::Nothing) };
            self.begin_trimming(plan)?;
        }
        match self.trim_step(STEP_BYTES) {
            Ok(()) => Ok(Trimmed::Some),
            Err(AppendError::Full(full)) => {
                // What is being rewritten takes room itself. A removal goes on where it is.
                if self.trimming.as_ref().is_some_and(|trimming| trimming.output.is_some()) {
                    self.abandon_trimming()?;
                }
                Err(full.into())
            }
            Err(error) => Err(error),
        }
    }

    /// Removes the oldest segment at once, whatever of it is alive. Returns false if there is none but the newest.
    pub(super) fn remove_oldest(&mut self) -> Result<bool, AppendError> {
        let [oldest, _, ..] = self.segments.list() else { return Ok(false) };
        let (first, last) = (oldest.first, oldest.last);
        let is_under_way =
            self.trimming.as_ref().is_some_and(|trimming| trimming.is_forced && trimming.first == first);
        if !is_under_way {
            self.abandon_trimming()?;
            self.begin_trimming(Plan {
                first,
                last,
                files: [first].into(),
                is_rewriting: false,
                is_forced: true,
            })?;
        }
        while self.trimming.is_some() {
            self.trim_step(u64::MAX)?;
        }
        Ok(true)
    }

    fn plan(&self, keys_since_ms: u64) -> Option<Plan> {
        let (newest, sealed) = self.segments.list().split_last()?;
        let tail = self.tail.as_ref()?;
        let is_nearly_full = tail.offset > tail.capacity / 4 * 3;
        let file_bytes = self.segments.file_bytes() - newest.file_bytes + tail.offset;
        let is_past_limit =
            is_nearly_full && file_bytes + self.settings.segment_bytes > self.settings.data_bytes_max;
        let plan = |segments: &[Segment], is_rewriting| {
            Some(Plan {
                first: segments.first()?.first,
                last: segments.last()?.last,
                files: segments.iter().map(|segment| segment.first).collect(),
                is_rewriting,
                is_forced: is_past_limit,
            })
        };
        if is_past_limit && let Some(oldest) = sealed.first() {
            return plan(std::slice::from_ref(oldest), false);
        }
        let small_bytes = self.settings.segment_bytes / 8;
        let run = |is_one: &dyn Fn(&Segment) -> bool| {
            let fits = |segment: &&Segment| segment.keyed_ms < keys_since_ms && is_one(segment);
            let start = sealed.iter().position(|segment| fits(&segment))?;
            let from_start = sealed.get(start..)?;
            let mut bytes = 0;
            let length = from_start.iter().take(NEIGHBOURS_MAX).take_while(|segment| {
                bytes += segment.alive_file_bytes();
                fits(segment) && bytes <= self.settings.segment_bytes
            });
            from_start.get(..length.count().max(1))
        };
        if let Some(dead) = run(&|segment| segment.alive_events == 0) {
            return plan(dead, false);
        }
        if let Some(sparse) = run(&|segment| segment.alive_bytes < segment.event_bytes / 4) {
            return plan(sparse, true);
        }
        let small = run(&|segment| segment.file_bytes < small_bytes)?;
        if small.len() == NEIGHBOURS_MAX { plan(small, true) } else { None }
    }

    fn begin_trimming(&mut self, plan: Plan) -> Result<(), AppendError> {
        let output = match plan.is_rewriting {
            true => Some(self.begin_output(&plan)?),
            false => None,
        };
        self.trimming = Some(Trimming {
            first: plan.first,
            last: plan.last,
            files: plan.files,
            reader: None,
            ends: Ends::new(self.secret),
            output,
            is_forced: plan.is_forced,
            dropped: HashMap::new(),
        });
        Ok(())
    }

    fn begin_output(&mut self, plan: &Plan) -> Result<Output<D::File>, AppendError> {
        let name = new_name(plan.first);
        let file = match self.disk.create(&name) {
            Ok(file) => file,
            Err(source) if is_full(&source) => return Err(Full::Disk { source }.into()),
            Err(error) => return Err(self.fail(format!("create {name}"), error).into()),
        };
        let before = self.segments.list().iter().rev().find(|segment| segment.last < plan.first);
        let upto: Vec<_> = (0..self.settings.partitions)
            .map(|partition| before.map_or(0, |segment| segment.upto(partition)))
            .collect();
        let salt = (self.settings.random)();
        let mut segment = Segment::new(plan.first, plan.last, &upto);
        segment.salt = salt;
        Ok(Output {
            file,
            header: SegmentHeader {
                partitions: self.settings.partitions,
                first: plan.first,
                last: plan.last,
                salt,
                secret: self.secret,
                epoch: self.epochs.current,
                first_batch: 0,
                rewritten: None,
            },
            offset: SEGMENT_HEADER_BYTES as u64,
            segment,
        })
    }

    /// Gives up what is under way: nothing of it counts.
    fn abandon_trimming(&mut self) -> Result<(), Fatal> {
        let Some(trimming) = self.trimming.take() else { return Ok(()) };
        match trimming.output {
            Some(_) => self.unlink(&new_name(trimming.first)),
            None => Ok(()),
        }
    }

    /// Reads some more of the segments, or finishes when all were read.
    fn trim_step(&mut self, bytes_max: u64) -> Result<(), AppendError> {
        let Some(mut trimming) = self.trimming.take() else { return Ok(()) };
        let result = match trimming.read(&self.disk, &self.segments, bytes_max) {
            Ok(false) => Ok(()),
            Ok(true) => return self.finish_trimming(trimming),
            Err(TrimError::Full(source)) => Err(Full::Disk { source }.into()),
            Err(TrimError::Io(what, error)) => return Err(self.fail(what, error).into()),
        };
        self.trimming = Some(trimming);
        result
    }

    fn finish_trimming(&mut self, mut trimming: Trimming<D::File>) -> Result<(), AppendError> {
        for entry in trimming.ends.list() {
            self.ends.merge(entry);
        }
        let is_replaced = trimming.output.as_ref().is_some_and(|output| output.segment.alive_events > 0);
        if let Some(output) = trimming.output.as_mut().filter(|_| is_replaced)
            && let Err(error) = output.complete()
        {
            return Err(self.fail(format!("write {}", new_name(trimming.first)), error).into());
        }
        let (first, last) = (trimming.first, trimming.last);
        if let Err(error) = self.write_gone(first) {
            self.trimming = self.tail.is_some().then_some(trimming);
            return Err(error);
        }
        let mut records = Vec::new();
        if !trimming.ends.is_empty() {
            records.push(Control::Ends(trimming.ends.list()));
        }
        if !is_replaced {
            records.push(Control::Removed { first, last });
        }
        if !records.is_empty() {
            if let Err(error) = self.append_control(&records) {
                // Tried again by the next step, if there is one.
                self.trimming = self.tail.is_some().then_some(trimming);
                return Err(error);
            }
            self.sync()?;
        }
        let covered =
            self.segments.list().iter().filter(|segment| first <= segment.first && segment.last <= last);
        let covered: Vec<_> = covered.map(|segment| (segment.first, segment.has_gone_file)).collect();
        if trimming.is_forced {
            self.note_lost(first);
        }
        if trimming.output.is_some() {
            match is_replaced {
                true => self.rename_output(first)?,
                false => self.unlink(&new_name(first))?,
            }
        }
        for (number, has_gone_file) in covered {
            if !is_replaced || number != first {
                self.unlink(&segment_name(number))?;
            }
            if has_gone_file {
                self.unlink(&gone_name(number))?;
            }
        }
        if let Err(error) = self.disk.sync() {
            return Err(self.fail("sync the directory".to_owned(), error).into());
        }
        let segment = trimming.output.filter(|_| is_replaced).map(|output| output.segment);
        self.segments.replace(first, last, segment);
        for ((partition, sequence), lines_bytes) in trimming.dropped {
            self.segments.dropped(partition, sequence, lines_bytes);
        }
        Ok(())
    }

    /// Writes which events of the segments before this one are gone: it is about to lose events, perhaps of the same topics.
    fn write_gone(&mut self, number: u64) -> Result<(), AppendError> {
        let changed = self.segments.before_mut(number).filter(|segment| segment.has_gone_more);
        let files: Vec<_> =
            changed.map(|segment| (segment.first, gone::encode(segment.salt, segment.gone()))).collect();
        for (number, bytes) in files {
            match write_file(&self.disk, &new_name(number), &gone_name(number), &bytes) {
                Ok(()) => {}
                Err(TrimError::Full(source)) => return Err(Full::Disk { source }.into()),
                Err(TrimError::Io(what, error)) => return Err(self.fail(what, error).into()),
            }
            // Each before the next: a power failure must not keep the later one alone.
            if let Err(error) = self.disk.sync() {
                return Err(self.fail("sync the directory".to_owned(), error).into());
            }
            if let Some(segment) = self.segments.get_mut(number) {
                (segment.has_gone_file, segment.has_gone_more) = (true, false);
            }
        }
        Ok(())
    }

    /// Puts the rewritten segment in the place of the first that it covers; the others may be unlinked after that alone.
    fn rename_output(&mut self, first: u64) -> Result<(), Fatal> {
        let renamed = self.disk.rename(&new_name(first), &segment_name(first));
        match renamed.and_then(|()| self.disk.sync()) {
            Ok(()) => Ok(()),
            Err(error) => Err(self.fail(format!("rename {}", new_name(first)), error)),
        }
    }

    fn note_lost(&mut self, first: u64) {
        let Some(segment) = self.segments.get(first).filter(|segment| segment.alive_events > 0) else {
            return;
        };
        let lost = |partition| Lost { partition, upto: segment.upto(partition) };
        self.lost.extend((0..self.settings.partitions).map(lost).filter(|lost| lost.upto > 0));
    }

    fn unlink(&mut self, name: &str) -> Result<(), Fatal> {
        self.disk.unlink(name).map_err(|error| self.fail(format!("remove {name}"), error))
    }
}

/// Why a step ends early.
enum TrimError {
    Full(io::Error),
    Io(String, io::Error),
}

impl<F: DiskFile> Trimming<F> {
    /// Reads the segments on; returns true when all were read.
    fn read<D: Disk<File = F>>(
        &mut self,
        disk: &D,
        segments: &Segments,
        bytes_max: u64,
    ) -> Result<bool, TrimError> {
        let Trimming { reader, files, ends, output, is_forced, first, dropped, .. } = self;
        let mut read_bytes = 0;
        while read_bytes < bytes_max {
            let Some(source) = reader else {
                let Some(number) = files.pop_front() else { return Ok(true) };
                let io = |error| TrimError::Io(format!("read {}", segment_name(number)), error);
                *reader = Some(Source::open(disk, number).map_err(io)?);
                continue;
            };
            let number = source.number;
            let io = |error| TrimError::Io(format!("read {}", segment_name(number)), error);
            let segment = segments.get(number).ok_or_else(|| io(io::ErrorKind::NotFound.into()))?;
            let is_complete = source.is_complete(segment.last_batch);
            let batch = match source.reader.next().map_err(io)? {
                Scanned::Batch(batch) => batch,
                Scanned::End if is_complete => {
                    if let Some(output) = output {
                        // Batches at its end may have nothing that is kept.
                        output.segment.last_batch = segment.last_batch;
                    }
                    *reader = None;
                    continue;
                }
                Scanned::End => return Err(io(damage("batches are missing at its end"))),
                Scanned::Bad(what) => return Err(io(damage(what))),
            };
            read_bytes += batch.bytes.len() as u64;
            source.last_read = batch.number;
            if batch.kind == BatchKind::Control {
                continue;
            }
            let is_kept = |partition, sequence| {
                let was_alive =
                    || segment.is_alive(partition, sequence) || dropped.contains_key(&(partition, sequence));
                !*is_forced && was_alive()
            };
            let kept = sift(&batch, ends, output.as_mut(), is_kept).map_err(|what| io(damage(what)))?;
            if let Some(output) = output {
                let written = output.write(&kept, batch.number, batch.synced);
                written.map_err(|error| match error {
                    TrimError::Io(what, error) => {
                        TrimError::Io(format!("{what} {}", new_name(*first)), error)
                    }
                    full => full,
                })?;
            }
        }
        Ok(false)
    }
}

/// Notes what of a batch is lost; returns a batch of what is kept.
fn sift(
    batch: &ReadBatch<'_>,
    ends: &mut Ends,
    mut output: Option<&mut Output<impl DiskFile>>,
    is_kept: impl Fn(u8, Sequence) -> bool,
) -> Result<Batch<'static>, &'static str> {
    let mut kept = Batch::new(BatchKind::Events, Vec::new());
    let mut records = Reader::new(batch.payload);
    while !records.is_empty() {
        let publish = Publish::decode(&mut records).map_err(|malformed| malformed.0)?;
        let is_kept = |event: usize| is_kept(publish.partition, publish.first + event as u64);
        let mut start = 0;
        while start < publish.events.len() {
            let is_run_kept = is_kept(start);
            let run = (start..publish.events.len()).take_while(|event| is_kept(*event) == is_run_kept);
            let end = start + run.count();
            match (&mut output, is_run_kept) {
                (Some(output), true) => {
                    let part = publish.part(start..end);
                    kept.push_copied(&part);
                    output.segment.add(&part);
                }
                // The last of them: an earlier one of the same topic has a lower sequence.
                _ => ends.note(
                    publish.partition,
                    publish.topic,
                    publish.first + end as u64 - 1,
                    publish.own_id(end - 1),
                ),
            }
            start = end;
        }
    }
    Ok(kept)
}

impl<F: DiskFile> Source<F> {
    fn open<D: Disk<File = F>>(disk: &D, number: u64) -> io::Result<Self> {
        let file = disk.open(&segment_name(number))?;
        let header = SegmentHeader::decode(&read_header(&file)?)
            .map_err(|_| damage("its header is not what was written"))?;
        Ok(Source {
            number,
            rewritten: header.rewritten,
            last_read: 0,
            reader: BatchReader::new(file, header.salt)?,
        })
    }

    /// Returns whether its end is where it was when it was sealed.
    fn is_complete(&self, last_batch: BatchNumber) -> bool {
        match self.rewritten {
            Some(rewritten) => rewritten.file_bytes == self.reader.offset(),
            None => self.last_read == last_batch,
        }
    }
}

impl<F: DiskFile> Output<F> {
    /// Appends a batch under the number that its records came in.
    fn write(
        &mut self,
        batch: &Batch<'static>,
        number: BatchNumber,
        synced: BatchNumber,
    ) -> Result<(), TrimError> {
        if batch.is_empty() {
            return Ok(());
        }
        if let Err(error) = self.file.allocate(self.offset, batch.bytes()) {
            return Err(match is_full(&error) {
                true => TrimError::Full(error),
                false => TrimError::Io("allocate".to_owned(), error),
            });
        }
        let seed = crc_seed(self.header.salt);
        if let Err(error) = batch.write(&self.file, self.offset, number, synced, seed) {
            return Err(TrimError::Io("write".to_owned(), error));
        }
        if self.header.first_batch == 0 {
            self.header.first_batch = number;
        }
        self.offset += batch.bytes();
        Ok(())
    }

    /// Writes the header and syncs the file.
    fn complete(&mut self) -> io::Result<()> {
        self.segment.file_bytes = self.offset;
        let rewritten = Rewritten { last_batch: self.segment.last_batch, file_bytes: self.offset };
        self.header.rewritten = Some(rewritten);
        write_all_at(&self.file, &mut [io::IoSlice::new(&self.header.encode())], 0)?;
        self.file.sync_all()
    }
}

impl Segment {
    /// Returns about how many bytes of the file the events take that are alive.
    fn alive_file_bytes(&self) -> u64 {
        let part = self.alive_bytes as f64 / self.event_bytes.max(1) as f64;
        (self.file_bytes as f64 * part) as u64
    }
}

/// Writes a file that gets its name when it is synced.
fn write_file<D: Disk>(disk: &D, new_name: &str, name: &str, bytes: &[u8]) -> Result<(), TrimError> {
    let io = |what: &str, error: io::Error| match is_full(&error) && what != "write" {
        true => TrimError::Full(error),
        false => TrimError::Io(format!("{what} {name}"), error),
    };
    let file = disk.create(new_name).map_err(|error| io("create", error))?;
    if let Err(error) = file.allocate(0, bytes.len() as u64) {
        disk.unlink(new_name).map_err(|error| TrimError::Io(format!("remove {new_name}"), error))?;
        return Err(io("allocate", error));
    }
    write_all_at(&file, &mut [io::IoSlice::new(bytes)], 0)
        .and_then(|()| file.sync_all())
        .and_then(|()| disk.rename(new_name, name))
        .map_err(|error| io("write", error))
}

fn damage(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}
