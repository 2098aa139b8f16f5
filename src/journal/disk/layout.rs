//! Checks the files of a directory: the newest segment names the others and their ends, and the checks find what is
//! damaged. Used by recovery and by [`super::inspect`].

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;

use super::encoding::{Malformed, Reader};
use super::ends::TopicEnds;
use super::epochs::EpochTable;
use super::error::{Damage, OpenError};
use super::format::{
    BatchKind, HeaderError, SEGMENT_HEADER_BYTES, SegmentHeader, VERSION, segment_name, segment_number,
};
use super::gone::{self, Gone, gone_name, gone_number};
use super::record::{ControlRecord, SegmentEntry};
use super::scan::{BatchReader, ReadBatch, Scanned, read_header};
use super::storage::{Disk, DiskFile, read_full_at};

/// The damage of a publish whose sequence is not past the one before of its partition, or that is of no partition.
pub(super) const OUT_OF_ORDER: &str = "a sequence is not past the one before";

/// The content of the newest segment that describes the log.
pub(super) struct Newest {
    pub(super) epochs: EpochTable,
    pub(super) ends: TopicEnds,
    /// The segments before it.
    pub(super) segments: Vec<SegmentEntry>,
    pub(super) removed: Vec<(u64, u64)>,
    /// The last whole batch.
    pub(super) last_batch: u64,
    /// The newest batch known to have been synced.
    pub(super) synced_batch: u64,
    /// The start of the first batch not known to have been synced.
    pub(super) synced_bytes: u64,
    /// The end of the last whole batch.
    pub(super) bytes: u64,
    pub(super) torn: Option<Damage>,
}

/// The reason why a directory cannot be read.
#[derive(Debug)]
pub(super) enum ReadError {
    Damage(Damage),
    Newer { file: String, version: u16 },
    Io(String, io::Error),
}

/// The segments of a directory that belong to its log.
pub(super) struct Layout {
    /// By the number of the file. The last one is the newest.
    pub(super) headers: BTreeMap<u64, SegmentHeader>,
    /// Files of segments that were removed or replaced, and were not unlinked yet.
    pub(super) leftovers: Vec<String>,
    /// The segments with a file of dropped events, which may be one of an earlier segment of the same number.
    pub(super) gone: BTreeSet<u64>,
}

impl Layout {
    /// Separates the files of the log from leftovers, and checks that none is missing.
    pub(super) fn new(
        mut headers: BTreeMap<u64, SegmentHeader>,
        newest: &Newest,
        names: &[String],
    ) -> Result<Self, ReadError> {
        let newest_number = headers.last_key_value().map_or(0, |(number, _)| *number);
        let is_removed =
            |number: u64| newest.removed.iter().any(|(first, last)| (*first..=*last).contains(&number));
        let mut leftovers = Vec::new();
        let mut covered = 0;
        headers.retain(|number, header| {
            let is_listed = newest.segments.iter().any(|entry| entry.number == header.last);
            let is_kept =
                *number == newest_number || (*number > covered && is_listed && !is_removed(*number));
            match is_kept {
                true => covered = header.last,
                false => leftovers.push(segment_name(*number)),
            }
            is_kept
        });
        for entry in newest.segments.iter().filter(|entry| !is_removed(entry.number)) {
            let holder = headers.range(..=entry.number).next_back();
            if holder.is_none_or(|(_, header)| header.last < entry.number) {
                return Err(damage(entry.number, 0, "the segment is missing"));
            }
        }
        let (gone, of_none) = (names.iter().filter_map(|name| gone_number(name)))
            .partition::<BTreeSet<_>, _>(|number| headers.contains_key(number));
        leftovers.extend(of_none.into_iter().map(gone_name));
        Ok(Layout { headers, leftovers, gone })
    }
}

/// Checks the order and the end of one segment's batches.
pub(super) struct Check<'a> {
    header: &'a SegmentHeader,
    /// The last batch of the segment.
    end: u64,
    /// The number of the batch before the next.
    last_batch: u64,
    /// The offset at which the segment must end; the newest one has more behind it.
    end_bytes: Option<u64>,
}

impl<'a> Check<'a> {
    /// Begins to check a segment that follows one with the last batch `last_batch`.
    pub(super) fn new(
        header: &'a SegmentHeader,
        end: u64,
        last_batch: u64,
        newest_bytes: Option<u64>,
    ) -> Result<Self, ReadError> {
        let last_batch = match header.rewritten {
            Some(_) => last_batch,
            None if header.first_batch > last_batch => header.first_batch - 1,
            None => {
                return Err(damage(header.first, 0, "the segment begins before the end of the one before"));
            }
        };
        let end_bytes = newest_bytes.or(header.rewritten.map(|rewritten| rewritten.file_bytes));
        Ok(Check { header, end, last_batch, end_bytes })
    }

    /// Returns the next batch; `None` at the segment's end.
    pub(super) fn next<'b, F: DiskFile>(
        &mut self,
        reader: &'b mut BatchReader<F>,
    ) -> Result<Option<ReadBatch<'b>>, ReadError> {
        let (number, offset) = (self.header.first, reader.offset());
        let damaged = |what| damage(number, offset, what);
        let is_newest = self.header.rewritten.is_none() && self.end_bytes.is_some();
        if self.end_bytes.map_or(self.last_batch == self.end, |end_bytes| end_bytes <= offset) {
            let ends_here = self.end_bytes.is_none_or(|end_bytes| end_bytes == offset);
            return match ends_here && (is_newest || offset == reader.file_bytes()) {
                true => Ok(None),
                false => Err(damaged("the segment goes on behind its last batch")),
            };
        }
        let next = reader.next();
        let batch =
            match next.map_err(|error| ReadError::Io(format!("read {}", segment_name(number)), error))? {
                Scanned::Batch(batch) => batch,
                Scanned::End => return Err(damaged("batches are missing")),
                Scanned::Bad(what) => return Err(damaged(what)),
            };
        let follows = match self.header.rewritten {
            Some(_) => self.last_batch < batch.number && batch.number <= self.end,
            None => self.last_batch + 1 == batch.number,
        };
        if !follows {
            return Err(damaged("a batch has not the number that follows"));
        }
        self.last_batch = batch.number;
        Ok(Some(batch))
    }
}

/// Reads the headers of all segments.
pub(super) fn read_headers<D: Disk>(
    disk: &D,
    names: &[String],
) -> Result<BTreeMap<u64, SegmentHeader>, ReadError> {
    let mut headers = BTreeMap::new();
    let mut journal = None;
    for number in names.iter().filter_map(|name| segment_number(name)) {
        let header = read_header_of(disk, number)?;
        let own = (header.secret, header.partitions);
        if *journal.get_or_insert(own) != own {
            return Err(damage(number, 0, "the segment is of another journal than the others"));
        }
        headers.insert(number, header);
    }
    Ok(headers)
}

pub(super) fn read_header_of<D: Disk>(disk: &D, number: u64) -> Result<SegmentHeader, ReadError> {
    let file = segment_name(number);
    let bytes = disk.open(&file).and_then(|file| read_header(&file));
    let bytes = bytes.map_err(|error| ReadError::Io(format!("read {file}"), error))?;
    match SegmentHeader::decode(&bytes) {
        Ok(header) if header.first == number => Ok(header),
        Ok(_) => Err(damage(number, 0, "the segment has another number than its file")),
        Err(HeaderError::Newer(version)) => Err(ReadError::Newer { file, version }),
        Err(HeaderError::Bad(what)) => Err(damage(number, 0, what)),
    }
}

/// Reads the newest segment: its control records, its end, and whether that is torn.
pub(super) fn read_newest<D: Disk>(disk: &D, header: &SegmentHeader) -> Result<Newest, ReadError> {
    let number = header.first;
    if header.rewritten.is_some() {
        return Err(damage(number, 0, "the newest segment is missing"));
    }
    let mut reader = open_reader(disk, number, header.salt)?;
    let io = |error| ReadError::Io(format!("read {}", segment_name(number)), error);
    let mut newest = Newest {
        epochs: EpochTable::new(header.epoch, header.partitions),
        ends: TopicEnds::new(header.secret),
        segments: Vec::new(),
        removed: Vec::new(),
        last_batch: header.first_batch - 1,
        // A segment gets its name when its first batch is synced.
        synced_batch: header.first_batch,
        synced_bytes: 0,
        bytes: SEGMENT_HEADER_BYTES as u64,
        torn: None,
    };
    let mut unsynced: VecDeque<(u64, u64)> = VecDeque::new();
    let bad = loop {
        let offset = reader.offset();
        let batch = match reader.next().map_err(io)? {
            Scanned::Batch(batch) if batch.number == newest.last_batch + 1 => batch,
            Scanned::Batch(_) => {
                return Err(damage(number, offset, "a batch has not the number that follows"));
            }
            Scanned::End => break None,
            Scanned::Bad(what) => break Some(what),
        };
        if batch.kind == BatchKind::Control {
            let is_read = newest.read_control(batch.payload);
            is_read.map_err(|malformed| damage(number, offset, malformed.0))?;
            if newest.segments.last().is_some_and(|entry| entry.number >= number) {
                return Err(damage(number, offset, "a segment is listed that does not come before it"));
            }
        }
        newest.last_batch = batch.number;
        newest.synced_batch = newest.synced_batch.max(batch.synced);
        unsynced.push_back((batch.number, batch.offset));
        while unsynced.front().is_some_and(|(number, _)| *number <= newest.synced_batch) {
            unsynced.pop_front();
        }
        newest.bytes = reader.offset();
    };
    newest.synced_bytes = unsynced.front().map_or(newest.bytes, |(_, offset)| *offset);
    let next_batch = newest.last_batch + 1;
    let (mut is_behind, mut is_synced) = (false, newest.synced_batch >= next_batch);
    let behind = reader.headers_behind(|header, _| {
        is_behind |= header.number > next_batch;
        is_synced |= header.synced >= next_batch;
    });
    behind.map_err(io)?;
    let torn =
        damage_of(number, reader.offset(), bad.unwrap_or("a batch is missing, and later ones are there"));
    if is_synced {
        return Err(ReadError::Damage(torn));
    }
    newest.torn = (bad.is_some() || is_behind).then_some(torn);
    Ok(newest)
}

impl Newest {
    pub(super) fn read_control(&mut self, payload: &[u8]) -> Result<(), Malformed> {
        let mut records = Reader::new(payload);
        while !records.is_empty() {
            match ControlRecord::decode(&mut records)? {
                ControlRecord::Epochs(epochs) if epochs.last.len() != self.epochs.last.len() => {
                    return Err(Malformed("the epochs are of another number of partitions"));
                }
                ControlRecord::Epochs(epochs) => self.epochs = epochs,
                ControlRecord::Ends(entries) => entries.into_iter().for_each(|entry| self.ends.merge(entry)),
                ControlRecord::Segments(segments) => self.segments = segments,
                ControlRecord::Removed { first, last } => self.removed.push((first, last)),
            }
        }
        Ok(())
    }
}

pub(super) fn open_reader<D: Disk>(
    disk: &D,
    number: u64,
    salt: u64,
) -> Result<BatchReader<D::File>, ReadError> {
    let reader = disk.open(&segment_name(number)).and_then(|file| BatchReader::new(file, salt));
    reader.map_err(|error| ReadError::Io(format!("open {}", segment_name(number)), error))
}

/// Reads a segment's file of dropped events; returns `None` if the file is of another segment.
pub(super) fn read_gone<D: Disk>(disk: &D, header: &SegmentHeader) -> Result<Option<Gone>, ReadError> {
    let name = gone_name(header.first);
    let read = disk.open(&name).and_then(|file| {
        let mut bytes = vec![0; file.len()? as usize];
        let filled = read_full_at(&file, &mut bytes, 0)?;
        bytes.truncate(filled);
        Ok(bytes)
    });
    let bytes = read.map_err(|error| ReadError::Io(format!("read {name}"), error))?;
    gone::decode(&bytes, header.salt, header.partitions)
        .map_err(|malformed| ReadError::Damage(Damage { file: name, offset: 0, what: malformed.0 }))
}

pub(super) fn damage(number: u64, offset: u64, what: &'static str) -> ReadError {
    ReadError::Damage(damage_of(number, offset, what))
}

fn damage_of(number: u64, offset: u64, what: &'static str) -> Damage {
    Damage { file: segment_name(number), offset, what }
}

impl ReadError {
    pub(super) fn into_open_error(self, dir: &str) -> OpenError {
        let dir = dir.to_owned();
        match self {
            ReadError::Damage(damage) => OpenError::Damage { dir, damage },
            ReadError::Newer { file, version } => OpenError::Newer { dir, file, version, known: VERSION },
            ReadError::Io(what, source) => OpenError::Io { what: format!("{what} in {dir}"), source },
        }
    }
}
