//! Puts a batch together and writes it: small records are copied together, large texts are written from where they are.

use std::io::{self, IoSlice};

use super::format::{BATCH_HEADER_BYTES, BatchHeader, BatchKind};
use super::record::{ControlRecord, PublishRecord};
use super::storage::{DiskFile, write_all_at};

/// Most bytes of a text that is copied next to the rest of its record: a buffer of its own costs the kernel about as
/// much as copying 2 KiB.
const COPY_BYTES_MAX: usize = 2048;

/// A batch being put together.
#[derive(Debug)]
pub(super) struct Batch<'a> {
    kind: BatchKind,
    /// Room for the header, then the copied bytes.
    copied: Vec<u8>,
    /// Texts that are not copied, each with its place in `copied`.
    borrowed: Vec<(usize, &'a [u8])>,
    borrowed_bytes: usize,
}

impl<'a> Batch<'a> {
    /// Returns an empty batch, which reuses the memory of `scratch`.
    pub(super) fn new(kind: BatchKind, mut scratch: Vec<u8>) -> Self {
        scratch.clear();
        scratch.resize(BATCH_HEADER_BYTES, 0);
        Batch { kind, copied: scratch, borrowed: Vec::new(), borrowed_bytes: 0 }
    }

    pub(super) fn control(records: &[ControlRecord]) -> Self {
        let mut batch = Batch::new(BatchKind::Control, Vec::new());
        records.iter().for_each(|record| record.encode(&mut batch.copied));
        batch
    }

    pub(super) fn push(&mut self, publish: &PublishRecord<'a>) {
        publish.encode_head(&mut self.copied);
        if publish.text.len() <= COPY_BYTES_MAX {
            self.copied.extend_from_slice(publish.text);
        } else {
            self.borrowed.push((self.copied.len(), publish.text));
            self.borrowed_bytes += publish.text.len();
        }
    }

    /// Adds a publish as [`Batch::push`] does, for a text that does not live as long.
    pub(super) fn push_copied(&mut self, publish: &PublishRecord<'_>) {
        publish.encode_head(&mut self.copied);
        self.copied.extend_from_slice(publish.text);
    }

    /// Returns a batch of encoded records.
    #[cfg(test)]
    pub(super) fn of_payload(kind: BatchKind, payload: &[u8]) -> Self {
        let mut batch = Batch::new(kind, Vec::new());
        batch.copied.extend_from_slice(payload);
        batch
    }

    /// Returns the length of header and payload in bytes.
    pub(super) fn bytes(&self) -> u64 {
        (self.copied.len() + self.borrowed_bytes) as u64
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes() == BATCH_HEADER_BYTES as u64
    }

    /// Writes the batch under this number. The payload must be below 4 GiB.
    pub(super) fn write<F: DiskFile>(
        &self,
        file: &F,
        offset: u64,
        number: u64,
        synced: u64,
        seed: u32,
    ) -> io::Result<()> {
        let mut slices = self.slices();
        let header = BatchHeader {
            kind: self.kind,
            number,
            synced,
            payload_bytes: u32::try_from(self.bytes() - BATCH_HEADER_BYTES as u64)
                .map_err(|_| io::ErrorKind::FileTooLarge)?,
            payload_crc: slices.iter().skip(1).fold(seed, |crc, slice| crc32c::crc32c_append(crc, slice)),
        };
        let header = header.encode(seed);
        if let Some(first) = slices.first_mut() {
            *first = IoSlice::new(&header);
        }
        write_all_at(file, &mut slices, offset)
    }

    /// Returns the memory for the next batch.
    pub(super) fn into_scratch(self) -> Vec<u8> {
        self.copied
    }

    /// Returns the room for the header, then the payload's pieces.
    fn slices(&self) -> Vec<IoSlice<'_>> {
        let mut slices = Vec::with_capacity(2 + 2 * self.borrowed.len());
        let (header, mut rest) = self.copied.split_at(BATCH_HEADER_BYTES.min(self.copied.len()));
        slices.push(IoSlice::new(header));
        let mut start = BATCH_HEADER_BYTES;
        for (end, text) in &self.borrowed {
            let (copied, behind) = rest.split_at(end - start);
            slices.push(IoSlice::new(copied));
            slices.push(IoSlice::new(text));
            (start, rest) = (*end, behind);
        }
        slices.push(IoSlice::new(rest));
        slices
    }
}
