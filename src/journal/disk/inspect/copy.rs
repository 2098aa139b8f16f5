//! Writes a journal from the whole batches of a damaged one.

use std::collections::BTreeMap;
use std::io;

use super::super::batch::Batch;
use super::super::encoding::Reader;
use super::super::ends::TopicEnds;
use super::super::epochs::EpochTable;
use super::super::format::{
    BatchKind, Rewritten, SEGMENT_HEADER_BYTES, SegmentHeader, crc_seed, new_name, segment_name,
};
use super::super::layout::ReadError;
use super::super::record::{ControlRecord, PublishRecord, SegmentEntry};
use super::super::storage::{Disk, DiskFile, write_all_at};
use crate::core::event_id::Sequence;

/// A journal that is being written from the whole batches of another: a rewritten segment for each, and a newest one.
pub(super) struct RepairedCopy<'a, T: Disk> {
    to: &'a T,
    salt: u64,
    segment: Option<CopiedSegment<T::File>>,
    entries: Vec<SegmentEntry>,
    /// The last sequence of each partition that was copied.
    last: BTreeMap<u8, u64>,
    /// The number of batches written. They are numbered anew, because those of a damaged journal may be out of order.
    batches: u64,
}

struct CopiedSegment<F> {
    file: F,
    /// The number of the segment that it copies.
    source: u64,
    header: SegmentHeader,
    offset: u64,
    last_batch: u64,
}

impl<'a, T: Disk> RepairedCopy<'a, T> {
    /// Returns a copy to write into an empty directory.
    pub(super) fn new(to: &'a T, salt: u64) -> Self {
        RepairedCopy { to, salt, segment: None, entries: Vec::new(), last: BTreeMap::new(), batches: 0 }
    }

    /// Writes the events of a whole batch of a segment with this header.
    pub(super) fn push(&mut self, header: &SegmentHeader, payload: &[u8]) -> Result<(), ReadError> {
        if self.segment.as_ref().is_none_or(|segment| segment.source != header.first) {
            self.finish_segment()?;
            self.salt = self.salt.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            // Numbered anew as well: one header may claim to cover the other's segment.
            let number = self.entries.len() as u64 + 1;
            let file = self.to.create(&new_name(number));
            self.segment = Some(CopiedSegment {
                file: file.map_err(|error| ReadError::Io("create a segment".to_owned(), error))?,
                source: header.first,
                header: SegmentHeader {
                    first: number,
                    last: number,
                    salt: self.salt,
                    first_batch: self.batches + 1,
                    ..header.clone()
                },
                offset: SEGMENT_HEADER_BYTES as u64,
                last_batch: 0,
            });
        }
        let Some(segment) = &mut self.segment else { return Ok(()) };
        let mut copy = Batch::new(BatchKind::Events, Vec::new());
        let mut records = Reader::new(payload);
        while !records.is_empty() {
            let Ok(publish) = PublishRecord::decode(&mut records) else { break };
            let last = self.last.entry(publish.partition).or_default();
            // Without a newest segment the removed ones are not known: a leftover may hold events that were read
            // before.
            if *last < publish.first && publish.partition < header.partitions {
                *last = publish.last();
                copy.push_copied(&publish);
            }
        }
        let seed = crc_seed(segment.header.salt);
        self.batches += 1;
        copy.write(&segment.file, segment.offset, self.batches, self.batches - 1, seed)
            .map_err(|error| ReadError::Io("write a segment".to_owned(), error))?;
        segment.offset += copy.bytes();
        segment.last_batch = self.batches;
        Ok(())
    }

    /// Completes the segment that is being written.
    pub(super) fn finish_segment(&mut self) -> Result<(), ReadError> {
        let Some(mut segment) = self.segment.take() else { return Ok(()) };
        segment.header.rewritten =
            Some(Rewritten { last_batch: segment.last_batch, file_bytes: segment.offset });
        self.entries.push(SegmentEntry { number: segment.header.last, last_batch: segment.last_batch });
        self.name(&segment.file, &segment.header)
            .map_err(|error| ReadError::Io("finish a segment".to_owned(), error))
    }

    /// Writes the newest segment, in which sequences go on after `last`; with it the journal is complete.
    pub(super) fn finish(
        &mut self,
        header: &SegmentHeader,
        epoch: u64,
        last: &[Sequence],
        ends: &TopicEnds,
    ) -> Result<(), ReadError> {
        let number = self.entries.len() as u64 + 1;
        let epochs = EpochTable { last: last.into(), ..EpochTable::new(epoch, header.partitions) };
        let opening = Batch::control(&[
            ControlRecord::Epochs(epochs),
            ControlRecord::Ends(ends.list()),
            ControlRecord::Segments(self.entries.clone()),
        ]);
        let header = SegmentHeader {
            first: number,
            last: number,
            salt: !self.salt,
            epoch,
            first_batch: self.batches + 1,
            rewritten: None,
            ..header.clone()
        };
        let seed = crc_seed(header.salt);
        let written = self.to.create(&new_name(number)).and_then(|file| {
            opening.write(&file, SEGMENT_HEADER_BYTES as u64, header.first_batch, self.batches, seed)?;
            self.name(&file, &header)
        });
        written.map_err(|error| ReadError::Io("write the newest segment".to_owned(), error))
    }

    /// Writes a segment's header, syncs it, and gives it its name.
    fn name(&self, file: &T::File, header: &SegmentHeader) -> io::Result<()> {
        write_all_at(file, &mut [io::IoSlice::new(&header.encode())], 0)?;
        file.sync_all()?;
        self.to.rename(&new_name(header.first), &segment_name(header.first))?;
        self.to.sync()
    }
}
