//! Inspects a journal from outside: lists all its damage, copies its whole parts, and copies it while it is written.
//!
//! None of these changes the directory or asks for its lock.

mod copy;

use std::collections::BTreeMap;
use std::{io, mem};

use self::copy::RepairedCopy;
use super::encoding::Reader;
use super::ends::TopicEnds;
use super::error::{Damage, OpenError};
use super::format::{BatchKind, SegmentHeader, segment_name, segment_number};
use super::gone::gone_number;
use super::layout::{
    Check, Layout, Newest, OUT_OF_ORDER, ReadError, damage, open_reader, read_gone, read_header_of,
    read_headers, read_newest,
};
use super::record::{ControlRecord, PublishRecord};
use super::scan::Scanned;
use super::storage::{Disk, DiskFile, read_full_at, write_all_at};

/// The content of a directory, for `esper journal`.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct DirectoryReport {
    /// Segments whose records are read at a start.
    pub(crate) segments: usize,
    /// Bytes of their whole batches.
    pub(crate) bytes: u64,
    /// Events in the whole batches, dropped ones included.
    pub(crate) events: u64,
    /// All places that differ from what was written. A start refuses any.
    pub(crate) damage: Vec<Damage>,
    /// The end that a start would cut.
    pub(crate) torn: Option<Damage>,
    /// Files that a start would remove: their events were removed, or are in another file.
    pub(crate) leftovers: Vec<String>,
}

/// Reads a whole directory; returns its content and all damage.
///
/// Tells why it cannot be read, or that it is of a later format. Damage is no error.
pub(crate) fn verify<D: Disk>(disk: &D) -> Result<DirectoryReport, OpenError> {
    let dir = disk.name();
    survey(disk, |_, _| Ok(())).map_err(|error| error.into_open_error(&dir)).map(|found| found.report)
}

/// Copies the whole batches into an empty directory, which can be opened then. The copy knows no earlier epoch, since
/// the losses are unknown: each client that resumes is told of a gap.
///
/// Returns the content that was found.
///
/// Tells why one of the directories cannot be read or written; the files copied so far are to be removed then.
pub(crate) fn repair<D: Disk, T: Disk>(
    disk: &D,
    to: &T,
    epoch: u64,
    mut random: impl FnMut() -> u64,
) -> Result<DirectoryReport, OpenError> {
    let dir = disk.name();
    let mut copy = RepairedCopy::new(to, random());
    let found = survey(disk, |header, payload| copy.push(header, payload))
        .map_err(|error| error.into_open_error(&dir))?;
    let finished = copy.finish_segment().and_then(|()| match &found.header {
        Some(header) => copy.finish(header, epoch, &found.last, &found.ends),
        None => Ok(()),
    });
    finished.map_err(|error| error.into_open_error(&to.name()))?;
    Ok(found.report)
}

/// Copies a journal as it is at one moment, also while another process writes it. The copy holds everything synced
/// before, and ends between two batches.
///
/// Tells why one of the directories cannot be read or written, or that the journal is damaged.
pub(crate) fn copy<D: Disk, T: Disk>(disk: &D, to: &T) -> Result<(), OpenError> {
    /// Attempts to open all files while trims unlink some between the list and the last open; each takes microseconds.
    const ATTEMPTS_MAX: usize = 100;
    let dir = disk.name();
    let mut attempts = 0;
    let files = loop {
        attempts += 1;
        match open_all(disk) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && attempts < ATTEMPTS_MAX => {}
            result => break result.map_err(|error| io_error("open the segments of", &dir, error))?,
        }
    };
    // Sealed segments do not change, and the newest one has all that the others lack. Files that it names as removed
    // since are open here all the same.
    let newest = files.keys().filter_map(|name| segment_number(name)).max();
    for (name, file) in &files {
        let length = match segment_number(name) {
            Some(number) if Some(number) == newest => {
                whole_bytes(disk, number).map_err(|error| error.into_open_error(&dir))?
            }
            _ => file.len().map_err(|error| io_error("copy", name, error))?,
        };
        copy_file(file, length, to, name).map_err(|error| io_error("copy", name, error))?;
    }
    to.sync().map_err(|error| io_error("sync", &to.name(), error))
}

fn open_all<D: Disk>(disk: &D) -> io::Result<BTreeMap<String, D::File>> {
    let names = disk.list()?;
    let is_part = |name: &String| segment_number(name).is_some() || gone_number(name).is_some();
    // A file of dropped events comes and goes with its segment: it is opened first, so that it is not one of a later
    // segment.
    let mut names: Vec<_> = names.into_iter().filter(is_part).collect();
    names.sort_by_key(|name| segment_number(name).is_some());
    names.into_iter().map(|name| disk.open(&name).map(|file| (name, file))).collect()
}

/// Returns the end of the last whole batch of the newest segment, which may be written meanwhile.
///
/// A batch that was synced is bad: a copy without it and what follows would look whole and lack acknowledged events.
fn whole_bytes<D: Disk>(disk: &D, number: u64) -> Result<u64, ReadError> {
    let header = read_header_of(disk, number)?;
    let name = segment_name(number);
    let io = |error| ReadError::Io(format!("read {name}"), error);
    if header.rewritten.is_some() {
        return disk.open(&name).and_then(|file| file.len()).map_err(io);
    }
    let mut reader = open_reader(disk, number, header.salt)?;
    let (mut next_batch, mut read_again_at) = (header.first_batch, None);
    loop {
        let what = loop {
            match reader.next().map_err(io)? {
                Scanned::Batch(batch) => next_batch = batch.number + 1,
                Scanned::End => break "batches are missing",
                Scanned::Bad(what) => break what,
            }
        };
        let mut is_synced = false;
        reader.headers_behind(|header, _| is_synced |= header.synced >= next_batch).map_err(io)?;
        let offset = reader.offset();
        if !is_synced {
            return Ok(offset);
        }
        // It may have been read while it was written: then it is whole once it is read after those behind it.
        if read_again_at.replace(offset) == Some(offset) {
            return Err(damage(number, offset, what));
        }
        reader = open_reader(disk, number, header.salt)?;
        reader.seek(offset);
    }
}

fn copy_file<F: DiskFile, T: Disk>(from: &F, length: u64, to: &T, name: &str) -> io::Result<()> {
    let copy = to.create(name)?;
    let mut chunk = vec![0; length.min(1 << 20) as usize];
    let mut offset = 0;
    while offset < length {
        let bytes = chunk.len().min((length - offset) as usize);
        let filled = read_full_at(from, chunk.get_mut(..bytes).unwrap_or_default(), offset)?;
        if filled == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        write_all_at(&copy, &mut [io::IoSlice::new(chunk.get(..filled).unwrap_or_default())], offset)?;
        offset += filled as u64;
    }
    copy.sync_all()
}

/// The results of a survey, beside the batches.
struct Surveyed {
    report: DirectoryReport,
    /// The header of the newest segment whose header is whole.
    header: Option<SegmentHeader>,
    ends: TopicEnds,
    /// The last sequence of each partition that any record names.
    last: Vec<u64>,
    /// The last sequence of each partition among the events read; empty without a newest segment to name the removed
    /// ones, so that a leftover may come again.
    last_read: Vec<u64>,
}

/// Reads all whole batches of the log's segments, and calls `take` with each batch of events.
fn survey<D: Disk>(
    disk: &D,
    mut take: impl FnMut(&SegmentHeader, &[u8]) -> Result<(), ReadError>,
) -> Result<Surveyed, ReadError> {
    let names = disk.list().map_err(|error| ReadError::Io("list the files".to_owned(), error))?;
    let mut report = DirectoryReport::default();
    let mut whole_names = Vec::new();
    for name in names {
        match segment_number(&name).map(|number| read_header_of(disk, number)) {
            Some(Err(ReadError::Damage(damage))) => report.damage.push(damage),
            Some(Err(error)) => return Err(error),
            Some(Ok(_)) | None => whole_names.push(name),
        }
    }
    let mut found = Surveyed {
        header: None,
        ends: TopicEnds::default(),
        last: Vec::new(),
        last_read: Vec::new(),
        report,
    };
    let mut headers =
        read_headers(disk, &whole_names).or_else(|error| found.note(error).map(|()| BTreeMap::new()))?;
    let Some((_, header)) = headers.last_key_value() else { return Ok(found) };
    found.header = Some(header.clone());
    found.ends = TopicEnds::new(header.secret);
    found.last = vec![0; usize::from(header.partitions)];
    let newest = match read_newest(disk, header) {
        Ok(newest) => Some(newest),
        Err(error) => {
            found.note(error)?;
            None
        }
    };
    if let Some(newest) = &newest {
        found.last_read.clone_from(&found.last);
        found.report.torn.clone_from(&newest.torn);
        match Layout::new(headers.clone(), newest, &whole_names) {
            Ok(layout) => {
                found.report.leftovers = layout.leftovers;
                headers = layout.headers;
                for number in &layout.gone {
                    if let Some(header) = headers.get(number)
                        && let Err(error) = read_gone(disk, header)
                    {
                        found.note(error)?;
                    }
                }
            }
            Err(error) => found.note(error)?,
        }
    }
    let mut covered = 0;
    headers.retain(|number, header| {
        let is_kept = covered < *number;
        covered = covered.max(header.last);
        is_kept
    });
    found.report.segments = headers.len();
    let newest_number = headers.keys().next_back().copied();
    let mut last_batch = 0;
    for (number, header) in &headers {
        let end = newest.as_ref().filter(|_| newest_number == Some(*number));
        found.read_segment(disk, header, end.map(|newest| newest.bytes), &mut take)?;
        if let Some(newest) = &newest {
            found.check_end(disk, header, newest, newest_number, &mut last_batch)?;
        }
    }
    Ok(found)
}

impl Surveyed {
    /// Records damage; returns any other error.
    fn note(&mut self, error: ReadError) -> Result<(), ReadError> {
        match error {
            ReadError::Damage(damage) if !self.report.damage.contains(&damage) => {
                self.report.damage.push(damage)
            }
            ReadError::Damage(_) => {}
            error => return Err(error),
        }
        Ok(())
    }

    /// Reads a segment's batches; after a bad one it goes on with the next whole one.
    fn read_segment<D: Disk>(
        &mut self,
        disk: &D,
        header: &SegmentHeader,
        end_bytes: Option<u64>,
        take: &mut impl FnMut(&SegmentHeader, &[u8]) -> Result<(), ReadError>,
    ) -> Result<(), ReadError> {
        let name = segment_name(header.first);
        let mut reader = open_reader(disk, header.first, header.salt)?;
        while end_bytes.is_none_or(|end_bytes| reader.offset() < end_bytes) {
            let offset = reader.offset();
            let next = reader.next().map_err(|error| ReadError::Io(format!("read {name}"), error))?;
            let what = match next {
                Scanned::Batch(batch) => {
                    self.report.bytes += batch.bytes.len() as u64;
                    let bad = match batch.kind {
                        BatchKind::Control => self.read_control(batch.payload).err(),
                        BatchKind::Events => match self.read_events(batch.payload) {
                            Ok(is_ordered) => {
                                // Records that are out of order are records: whoever takes them leaves out those alone.
                                take(header, batch.payload)?;
                                (!is_ordered).then_some(OUT_OF_ORDER)
                            }
                            Err(what) => Some(what),
                        },
                    };
                    if let Some(what) = bad {
                        self.note(ReadError::Damage(Damage { file: name.clone(), offset, what }))?;
                    }
                    continue;
                }
                Scanned::End => None,
                Scanned::Bad(what) => Some(what),
            };
            let mut next_offset = None;
            let behind = reader.headers_behind(|_, offset| {
                next_offset.get_or_insert(offset);
            });
            behind.map_err(|error| ReadError::Io(format!("read {name}"), error))?;
            let what = match (what, next_offset) {
                (None, None) => return Ok(()),
                (what, _) => what.unwrap_or("batches are missing"),
            };
            self.note(ReadError::Damage(Damage { file: name.clone(), offset, what }))?;
            match next_offset {
                Some(next_offset) => reader.seek(next_offset),
                None => return Ok(()),
            }
        }
        Ok(())
    }

    /// Records damage if a segment's batches, though each is whole, are not those that must be there.
    fn check_end<D: Disk>(
        &mut self,
        disk: &D,
        header: &SegmentHeader,
        newest: &Newest,
        newest_number: Option<u64>,
        last_batch: &mut u64,
    ) -> Result<(), ReadError> {
        let is_newest = newest_number == Some(header.first);
        let listed = newest.segments.iter().find(|entry| entry.number == header.last);
        let end = match (header.rewritten, listed) {
            (Some(rewritten), _) => rewritten.last_batch,
            (None, Some(entry)) => entry.last_batch,
            (None, None) => newest.last_batch,
        };
        let mut reader = open_reader(disk, header.first, header.salt)?;
        let before = mem::replace(last_batch, end);
        let mut check = match Check::new(header, end, before, is_newest.then_some(newest.bytes)) {
            Ok(check) => check,
            Err(error) => return self.note(error),
        };
        loop {
            match check.next(&mut reader) {
                Ok(Some(_)) => {}
                Ok(None) => return Ok(()),
                // Damage of the segment was noted as it was read, unless it is one of order.
                Err(ReadError::Damage(damage))
                    if self.report.damage.iter().any(|known| known.file == damage.file) =>
                {
                    return Ok(());
                }
                Err(error) => return self.note(error),
            }
        }
    }

    fn read_control(&mut self, payload: &[u8]) -> Result<(), &'static str> {
        let mut records = Reader::new(payload);
        while !records.is_empty() {
            match ControlRecord::decode(&mut records).map_err(|malformed| malformed.0)? {
                ControlRecord::Epochs(epochs) => {
                    self.note_last(epochs.last.iter().copied().enumerate());
                }
                ControlRecord::Ends(entries) => entries.into_iter().for_each(|entry| self.ends.merge(entry)),
                ControlRecord::Segments(_) | ControlRecord::Removed { .. } => {}
            }
        }
        Ok(())
    }

    /// Reads the events of a batch; returns whether their sequences are past those before.
    fn read_events(&mut self, payload: &[u8]) -> Result<bool, &'static str> {
        let mut records = Reader::new(payload);
        let (mut events, mut last, mut is_ordered) = (0, Vec::new(), true);
        let is_checked = !self.last_read.is_empty();
        while !records.is_empty() {
            let publish = PublishRecord::decode(&mut records).map_err(|malformed| malformed.0)?;
            events += publish.events.len() as u64;
            let partition = usize::from(publish.partition);
            match self.last_read.get_mut(partition) {
                Some(last) if *last < publish.first => *last = publish.last(),
                _ => is_ordered &= !is_checked,
            }
            last.push((partition, publish.last()));
        }
        self.report.events += events;
        self.note_last(last.into_iter());
        Ok(is_ordered)
    }

    fn note_last(&mut self, sequences: impl Iterator<Item = (usize, u64)>) {
        for (partition, sequence) in sequences {
            if let Some(last) = self.last.get_mut(partition) {
                *last = (*last).max(sequence);
            }
        }
    }
}

fn io_error(what: &str, name: &str, source: io::Error) -> OpenError {
    OpenError::Io { what: format!("{what} {name}"), source }
}

#[cfg(test)]
mod tests;
