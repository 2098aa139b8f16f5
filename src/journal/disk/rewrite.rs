//! The segments that are being removed or rewritten: what of them is kept goes into the new one, what is lost into the ends.

use std::collections::{HashMap, VecDeque};
use std::io;

use super::alive::{Segment, Segments};
use super::batch::Batch;
use super::encoding::Reader;
use super::ends::TopicEnds;
use super::format::{BatchKind, Rewritten, SegmentHeader, crc_seed, new_name, segment_name};
use super::log::BatchNumber;
use super::record::PublishRecord;
use super::scan::{BatchReader, ReadBatch, Scanned, read_header};
use super::storage::{Disk, DiskFile, is_full, write_all_at};
use crate::core::event_id::Sequence;

/// The removal or rewriting of neighbouring segments that is under way, owned by the log.
pub(super) struct Trimming<F> {
    /// The first and last number that they cover.
    pub(super) first: u64,
    pub(super) last: u64,
    /// Numbers of the files that were not read yet.
    pub(super) files: VecDeque<u64>,
    pub(super) reader: Option<Source<F>>,
    /// The ends of topics, from the lost events.
    pub(super) ends: TopicEnds,
    /// `None` if they are removed.
    pub(super) output: Option<Output<F>>,
    /// Set if they are removed with their alive events.
    pub(super) is_forced: bool,
    /// Events that histories dropped meanwhile, and the bytes of their lines. They are kept here: the lost events were
    /// dropped before this began, so that no older event of their topics is kept.
    pub(super) dropped: HashMap<(u8, Sequence), usize>,
}

/// A segment that is being read.
pub(super) struct Source<F> {
    number: u64,
    rewritten: Option<Rewritten>,
    last_read: BatchNumber,
    reader: BatchReader<F>,
}

/// A segment that is being made from others.
pub(super) struct Output<F> {
    pub(super) file: F,
    pub(super) header: SegmentHeader,
    pub(super) offset: u64,
    pub(super) segment: Segment,
}

/// The reason why a step ends early.
pub(super) enum TrimError {
    Full(io::Error),
    Io(String, io::Error),
}

impl<F: DiskFile> Trimming<F> {
    /// Reads on in the segments; returns true when all were read.
    pub(super) fn read<D: Disk<File = F>>(
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
                        // Batches at its end may have no kept event.
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

/// Notes the lost events of a batch in `ends`; returns a batch of the kept ones.
fn sift(
    batch: &ReadBatch<'_>,
    ends: &mut TopicEnds,
    mut output: Option<&mut Output<impl DiskFile>>,
    is_kept: impl Fn(u8, Sequence) -> bool,
) -> Result<Batch<'static>, &'static str> {
    let mut kept = Batch::new(BatchKind::Events, Vec::new());
    let mut records = Reader::new(batch.payload);
    while !records.is_empty() {
        let publish = PublishRecord::decode(&mut records).map_err(|malformed| malformed.0)?;
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
                // Only the last of the run: an earlier one of the same topic has a lower sequence.
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

    /// Returns whether the file was read up to the end that it was sealed with.
    fn is_complete(&self, last_batch: BatchNumber) -> bool {
        match self.rewritten {
            Some(rewritten) => rewritten.file_bytes == self.reader.offset(),
            None => self.last_read == last_batch,
        }
    }
}

impl<F: DiskFile> Output<F> {
    /// Appends a batch under the number of the batch its records came from.
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
    pub(super) fn complete(&mut self) -> io::Result<()> {
        self.segment.file_bytes = self.offset;
        let rewritten = Rewritten { last_batch: self.segment.last_batch, file_bytes: self.offset };
        self.header.rewritten = Some(rewritten);
        write_all_at(&self.file, &mut [io::IoSlice::new(&self.header.encode())], 0)?;
        self.file.sync_all()
    }
}

/// Writes a file that gets its name once it is synced.
pub(super) fn write_file<D: Disk>(
    disk: &D,
    new_name: &str,
    name: &str,
    bytes: &[u8],
) -> Result<(), TrimError> {
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
