//! The log: batches are appended to the newest segment and synced, and the next segment is made when one is full.

use std::mem;

use super::alive::{Segment, Segments};
use super::batch::Batch;
use super::ends::TopicEnds;
use super::epochs::EpochTable;
use super::error::{AppendError, Fatal, Full};
use super::format::{
    BATCH_HEADER_BYTES, BatchKind, SEGMENT_HEADER_BYTES, SegmentHeader, crc_seed, new_name, segment_name,
};
use super::record::{ControlRecord, PublishRecord, SegmentEntry};
use super::rewrite::Trimming;
use super::storage::{Disk, DiskFile, is_full, write_all_at};
use crate::core::event_id::Sequence;

/// The settings of a log, given when it is opened.
pub(crate) struct Settings {
    /// The number of partitions, 1 to 64. It belongs to the data: a journal with another is refused.
    pub(crate) partitions: u8,
    /// Bytes that are allocated for a segment. A larger batch gets a larger one.
    pub(crate) segment_bytes: u64,
    /// Bytes of all segments, `u64::MAX` without a limit.
    pub(crate) data_bytes_max: u64,
    /// The epoch that begins, which no other start has had.
    pub(crate) epoch: u64,
    /// Draws random numbers that nobody can guess.
    pub(crate) random: Box<dyn FnMut() -> u64 + Send>,
}

/// The default size of a segment: an unlink or a rewriting frees that much, and a start reads one in 0.1 s.
pub(crate) const SEGMENT_BYTES: u64 = 64 << 20;

/// The number of a batch, counted over all segments.
pub(crate) type BatchNumber = u64;

/// Events that were removed because of [`Settings::data_bytes_max`], though a history may keep them.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Lost {
    pub(crate) partition: u8,
    /// All events of the partition up to here are gone.
    pub(crate) upto: Sequence,
}

/// An open log, owned by the writer thread. After a [`Fatal`] error it does nothing more.
pub(crate) struct Log<D: Disk> {
    pub(super) disk: D,
    pub(super) settings: Settings,
    pub(super) secret: [u8; 16],
    pub(super) epochs: EpochTable,
    pub(super) ends: TopicEnds,
    pub(super) segments: Segments,
    /// The last sequence of each partition.
    pub(super) last: Box<[Sequence]>,
    pub(super) next_batch: BatchNumber,
    pub(super) synced_batch: BatchNumber,
    /// `None` after an error: without a file nothing can be written or synced.
    pub(super) tail: Option<Tail<D::File>>,
    pub(super) trimming: Option<Trimming<D::File>>,
    pub(super) lost: Vec<Lost>,
    pub(super) scratch: Vec<u8>,
}

/// The segment that is being appended to.
pub(super) struct Tail<F> {
    pub(super) file: F,
    pub(super) number: u64,
    pub(super) salt: u64,
    /// The offset of the next batch.
    pub(super) offset: u64,
    /// Bytes allocated for the file.
    pub(super) capacity: u64,
}

impl<D: Disk> Log<D> {
    /// Writes the publishes as one batch. They are final when a later [`Log::sync`] has returned; of two batches
    /// without a sync between them, the later one may outlive the earlier.
    ///
    /// Returns the batch's number.
    ///
    /// # Errors
    /// [`AppendError::Fatal`] ends the log. After any other nothing was written, and the log goes on.
    pub(crate) fn append(&mut self, publishes: &[PublishRecord<'_>]) -> Result<BatchNumber, AppendError> {
        self.check_open()?;
        self.check_order(publishes)?;
        let mut batch = Batch::new(BatchKind::Events, mem::take(&mut self.scratch));
        publishes.iter().for_each(|publish| batch.push(publish));
        let result = self.append_batch(&mut batch, self.reserve_bytes());
        self.scratch = batch.into_scratch();
        let number = result?;
        for publish in publishes {
            if let Some(segment) = self.segments.last_mut() {
                segment.add(publish);
            }
            if let Some(last) = self.last.get_mut(usize::from(publish.partition)) {
                *last = publish.last();
            }
        }
        Ok(number)
    }

    /// Makes all appended batches final.
    ///
    /// [`Fatal`]: batches appended since the last sync may be there at the next start, or not.
    pub(crate) fn sync(&mut self) -> Result<(), Fatal> {
        self.check_open()?;
        if self.synced_batch + 1 == self.next_batch {
            return Ok(());
        }
        if let Some(tail) = &self.tail
            && let Err(error) = tail.file.sync_data()
        {
            return Err(self.fail(format!("sync {}", segment_name(tail.number)), error));
        }
        self.synced_batch = self.next_batch - 1;
        Ok(())
    }

    /// Makes all batches final, and frees the room that the newest segment does not need.
    ///
    /// # Errors
    /// As [`Log::sync`].
    pub(crate) fn close(mut self) -> Result<(), Fatal> {
        self.sync()?;
        // Marks the batches before it as synced: were one of them bad at the next start, it would be damage and no torn
        // end. It needs no room beyond what is left.
        let mut mark = Batch::control(&[]);
        if self.tail.as_ref().is_some_and(|tail| tail.capacity.saturating_sub(tail.offset) >= mark.bytes())
            && let Err(AppendError::Fatal(error)) = self.append_batch(&mut mark, 0)
        {
            return Err(error);
        }
        self.seal()
    }

    /// Returns the events that were removed since the last call because the journal reached its limit.
    pub(crate) fn take_lost(&mut self) -> Vec<Lost> {
        mem::take(&mut self.lost)
    }

    /// Returns the secret of the journal's hashes. It is drawn once, when the journal is created.
    pub(crate) fn secret(&self) -> [u8; 16] {
        self.secret
    }

    /// Returns the ends of topics that have no event in the log.
    pub(crate) fn ends(&self) -> &TopicEnds {
        &self.ends
    }

    /// Returns this epoch and those before it.
    pub(crate) fn epochs(&self) -> &EpochTable {
        &self.epochs
    }

    /// Returns the number of segments, and the bytes of their files.
    pub(crate) fn size(&self) -> (usize, u64) {
        (self.segments.list().len(), self.segments.file_bytes())
    }

    pub(super) fn check_open(&self) -> Result<(), Fatal> {
        match self.tail {
            Some(_) => Ok(()),
            None => Err(Fatal { what: "go on after an earlier error".to_owned(), source: None }),
        }
    }

    /// Ends the log after an error, and returns the error to report.
    pub(super) fn fail(&mut self, what: String, error: std::io::Error) -> Fatal {
        self.tail = None;
        self.trimming = None;
        Fatal { what: format!("{what} in {}", self.disk.name()), source: Some(error) }
    }

    /// Appends control records. They may use the room that events leave free for them: freeing room must not need room.
    pub(super) fn append_control(&mut self, records: &[ControlRecord]) -> Result<(), AppendError> {
        self.append_batch(&mut Batch::control(records), 0)?;
        Ok(())
    }

    fn check_order(&self, publishes: &[PublishRecord<'_>]) -> Result<(), AppendError> {
        let mut last = self.last.clone();
        for publish in publishes {
            let (partition, first) = (publish.partition, publish.first);
            match last.get_mut(usize::from(partition)) {
                Some(last) if *last < first => *last = publish.last(),
                Some(last) => return Err(AppendError::OutOfOrder { partition, first, last: *last }),
                None => return Err(AppendError::OutOfOrder { partition, first, last: 0 }),
            }
            if !publish.is_encodable() {
                return Err(AppendError::Unencodable);
            }
        }
        Ok(())
    }

    /// Writes a batch to the newest segment if that has room for it and `reserve_bytes` more, else to a new one.
    fn append_batch(
        &mut self,
        batch: &mut Batch<'_>,
        reserve_bytes: u64,
    ) -> Result<BatchNumber, AppendError> {
        let bytes = batch.bytes();
        if bytes - BATCH_HEADER_BYTES as u64 > u64::from(u32::MAX) {
            return Err(AppendError::Unencodable);
        }
        let has_room = |tail: &Tail<_>| tail.capacity.saturating_sub(tail.offset) >= bytes + reserve_bytes;
        if !self.tail.as_ref().is_some_and(has_room) {
            self.roll(bytes, reserve_bytes > 0)?;
        }
        let (number, synced) = (self.next_batch, self.synced_batch);
        let Some(tail) = &mut self.tail else { return Ok(self.check_open().map(|()| number)?) };
        if let Err(error) = batch.write(&tail.file, tail.offset, number, synced, crc_seed(tail.salt)) {
            let name = segment_name(tail.number);
            return Err(self.fail(format!("write {name}"), error).into());
        }
        tail.offset += bytes;
        self.next_batch += 1;
        if let Some(segment) = self.segments.last_mut() {
            segment.last_batch = number;
        }
        Ok(number)
    }

    /// Returns the bytes at the end of a segment that only control records may take: the records of a segment's removal
    /// take 5 MB at the very most, and an eighth of a segment is 8.
    pub(super) fn reserve_bytes(&self) -> u64 {
        (self.settings.segment_bytes / 8).max(1)
    }

    /// Seals the newest segment and goes on in a new one, with room for `batch_bytes`.
    fn roll(&mut self, batch_bytes: u64, has_limit: bool) -> Result<(), AppendError> {
        let needed_bytes = batch_bytes + self.reserve_bytes();
        if has_limit {
            self.make_room(needed_bytes)?;
        }
        let opening = self.opening();
        let number = self.tail.as_ref().map_or(0, |tail| tail.number) + 1;
        let capacity = segment_capacity(&opening, needed_bytes).max(self.settings.segment_bytes);
        let tail = self.create(number, &opening, capacity)?;
        self.seal()?;
        self.enter(tail)?;
        Ok(())
    }

    /// Removes the oldest segments until a new one is within the journal's limit.
    fn make_room(&mut self, needed_bytes: u64) -> Result<(), AppendError> {
        loop {
            let data_bytes_max = self.settings.data_bytes_max;
            let unused = self.tail.as_ref().map_or(0, |tail| tail.capacity - tail.offset);
            let segment_bytes =
                segment_capacity(&self.opening(), needed_bytes).max(self.settings.segment_bytes);
            if self.segments.file_bytes() - unused + segment_bytes <= data_bytes_max {
                return Ok(());
            }
            if !self.remove_oldest()? {
                return Err(Full::Limit { data_bytes_max }.into());
            }
        }
    }

    /// Returns the control batch that begins a new segment.
    pub(super) fn opening(&self) -> Batch<'static> {
        let segments = self.segments.list().iter();
        let entry = |segment: &Segment| SegmentEntry { number: segment.last, last_batch: segment.last_batch };
        let epochs = EpochTable { last: self.last.clone(), ..self.epochs.clone() };
        Batch::control(&[
            ControlRecord::Epochs(epochs),
            ControlRecord::Ends(self.ends.list()),
            ControlRecord::Segments(segments.map(entry).collect()),
        ])
    }

    /// Creates a segment that begins with this batch, under the name of one not yet in use, and syncs it.
    ///
    /// # Errors
    /// Returns [`AppendError::Full`] if there is no room; nothing of the segment is left then.
    pub(super) fn create(
        &mut self,
        number: u64,
        opening: &Batch<'static>,
        capacity: u64,
    ) -> Result<Tail<D::File>, AppendError> {
        let name = new_name(number);
        let file = match self.disk.create(&name) {
            Ok(file) => file,
            Err(source) if is_full(&source) => return Err(Full::Disk { source }.into()),
            Err(error) => return Err(self.fail(format!("create {name}"), error).into()),
        };
        if let Err(source) = file.allocate(0, capacity) {
            if !is_full(&source) {
                return Err(self.fail(format!("allocate {name}"), source).into());
            }
            // A part may have been allocated.
            return match self.disk.unlink(&name) {
                Ok(()) => Err(Full::Disk { source }.into()),
                Err(error) => Err(self.fail(format!("remove {name}"), error).into()),
            };
        }
        let salt = (self.settings.random)();
        let header = SegmentHeader {
            partitions: self.settings.partitions,
            first: number,
            last: number,
            salt,
            secret: self.secret,
            epoch: self.epochs.current,
            first_batch: self.next_batch,
            rewritten: None,
        };
        let offset = SEGMENT_HEADER_BYTES as u64;
        let written = write_all_at(&file, &mut [std::io::IoSlice::new(&header.encode())], 0)
            .and_then(|()| opening.write(&file, offset, self.next_batch, self.synced_batch, crc_seed(salt)))
            .and_then(|()| file.sync_all());
        match written {
            Ok(()) => Ok(Tail { file, number, salt, offset: offset + opening.bytes(), capacity }),
            Err(error) => Err(self.fail(format!("write {name}"), error).into()),
        }
    }

    /// Gives a created segment its name, and appends to it from now on.
    pub(super) fn enter(&mut self, tail: Tail<D::File>) -> Result<(), Fatal> {
        let (from, to) = (new_name(tail.number), segment_name(tail.number));
        if let Err(error) = self.disk.rename(&from, &to).and_then(|()| self.disk.sync()) {
            return Err(self.fail(format!("rename {from}"), error));
        }
        let mut segment = Segment::new(tail.number, tail.number, &self.last);
        segment.file_bytes = tail.capacity;
        segment.last_batch = self.next_batch;
        segment.salt = tail.salt;
        self.segments.push(segment);
        self.synced_batch = self.next_batch;
        self.next_batch += 1;
        self.tail = Some(tail);
        Ok(())
    }

    /// Cuts the newest segment to its length and syncs it. It is not written again.
    fn seal(&mut self) -> Result<(), Fatal> {
        let Some(tail) = &self.tail else { return self.check_open() };
        if let Err(error) = tail.file.truncate(tail.offset).and_then(|()| tail.file.sync_all()) {
            return Err(self.fail(format!("seal {}", segment_name(tail.number)), error));
        }
        let bytes = tail.offset;
        if let Some(segment) = self.segments.last_mut() {
            segment.file_bytes = bytes;
        }
        self.synced_batch = self.next_batch - 1;
        Ok(())
    }
}

/// Returns the bytes of a segment that begins with this batch and has room for `needed_bytes`.
pub(super) fn segment_capacity(opening: &Batch<'static>, needed_bytes: u64) -> u64 {
    SEGMENT_HEADER_BYTES as u64 + opening.bytes() + needed_bytes
}
