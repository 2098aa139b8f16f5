//! Reads the batches of one segment from front to back, and looks for headers behind a bad one.

use std::io;

use memchr::memmem;

use super::format::{
    BATCH_HEADER_BYTES, BATCH_MAGIC, BatchHeader, BatchKind, SEGMENT_HEADER_BYTES, crc_seed,
};
use super::storage::{DiskFile, read_full_at};

/// Bytes of one read: larger reads are no faster from the page cache.
const READ_BYTES: usize = 1 << 20;

/// Reads a segment's batches one after the other.
#[derive(Debug)]
pub(super) struct BatchReader<F> {
    file: F,
    seed: u32,
    file_bytes: u64,
    /// The start of the next batch.
    offset: u64,
    /// The bytes read from `buffer_offset` on.
    buffer: Vec<u8>,
    buffer_offset: u64,
}

/// The result of reading at the place of a batch.
#[derive(Debug)]
pub(super) enum Scanned<'a> {
    Batch(ReadBatch<'a>),
    /// The end of the file, or zeros where the next header would be.
    End,
    /// Neither a batch nor zeros.
    Bad(&'static str),
}

/// A batch whose CRCs are right.
#[derive(Debug)]
pub(super) struct ReadBatch<'a> {
    pub(super) kind: BatchKind,
    pub(super) number: u64,
    pub(super) synced: u64,
    /// Its start in the file.
    pub(super) offset: u64,
    pub(super) payload: &'a [u8],
    /// Header and payload.
    pub(super) bytes: &'a [u8],
}

impl<F: DiskFile> BatchReader<F> {
    pub(super) fn new(file: F, salt: u64) -> io::Result<Self> {
        let file_bytes = file.len()?;
        Ok(BatchReader {
            file,
            seed: crc_seed(salt),
            file_bytes,
            offset: SEGMENT_HEADER_BYTES as u64,
            buffer: Vec::new(),
            buffer_offset: 0,
        })
    }

    /// Returns the start of the next batch, or of the bad one.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    pub(super) fn file_bytes(&self) -> u64 {
        self.file_bytes
    }

    #[cfg(test)]
    pub(super) fn file(&self) -> &F {
        &self.file
    }

    /// Moves to a batch that was found elsewhere.
    pub(super) fn seek(&mut self, offset: u64) {
        self.offset = offset;
    }

    /// Returns the next batch and moves past it; stays at the end and at a bad batch.
    pub(super) fn next(&mut self) -> io::Result<Scanned<'_>> {
        let header_bytes = BATCH_HEADER_BYTES as u64;
        let (seed, offset) = (self.seed, self.offset);
        let rest = self.file_bytes.saturating_sub(self.offset);
        let bytes = self.fill(rest.min(header_bytes) as usize)?;
        if bytes.iter().all(|byte| *byte == 0) {
            return Ok(Scanned::End);
        }
        let Some(header) = bytes.first_chunk().and_then(|bytes| BatchHeader::decode(bytes, seed)) else {
            return Ok(Scanned::Bad("the header of a batch is not what was written"));
        };
        let batch_bytes = header_bytes + u64::from(header.payload_bytes);
        // Checked before anything is allocated: a payload is as long as the file at most.
        if batch_bytes > rest {
            return Ok(Scanned::Bad("the file ends within a batch"));
        }
        self.offset += batch_bytes;
        let bytes = self.fill_at(offset, batch_bytes as usize)?;
        let payload = bytes.get(BATCH_HEADER_BYTES..).unwrap_or_default();
        if bytes.len() as u64 != batch_bytes || crc32c::crc32c_append(seed, payload) != header.payload_crc {
            self.offset = offset;
            return Ok(Scanned::Bad("the records of a batch are not what was written"));
        }
        // Looked up again, because the borrow above must end before the offset is reset.
        let bytes = self.fill_at(offset, batch_bytes as usize)?;
        let payload = bytes.get(BATCH_HEADER_BYTES..).unwrap_or_default();
        let BatchHeader { kind, number, synced, .. } = header;
        Ok(Scanned::Batch(ReadBatch { kind, number, synced, offset, payload, bytes }))
    }

    /// Looks for headers of batches after the reader's place; calls `found` with each header and its offset.
    ///
    /// A header's own CRC suffices: this program wrote it, whatever became of its payload. A publisher's text does not
    /// have the segment's seed, so nobody can plant a header.
    pub(super) fn headers_behind(&self, mut found: impl FnMut(&BatchHeader, u64)) -> io::Result<()> {
        let mut chunk = vec![0; READ_BYTES.min(self.file_bytes as usize)];
        let finder = memmem::Finder::new(BATCH_MAGIC);
        let mut offset = self.offset + 1;
        loop {
            let filled = read_full_at(&self.file, &mut chunk, offset)?;
            let bytes = chunk.get(..filled).unwrap_or_default();
            for at in finder.find_iter(bytes) {
                let header = bytes.get(at..).and_then(|bytes| bytes.first_chunk());
                if let Some(header) = header.and_then(|bytes| BatchHeader::decode(bytes, self.seed)) {
                    found(&header, offset + at as u64);
                }
            }
            if filled < BATCH_HEADER_BYTES || filled < chunk.len() {
                return Ok(());
            }
            // A header that is cut by the end of the chunk is whole in the next one.
            offset += (filled - (BATCH_HEADER_BYTES - 1)) as u64;
        }
    }

    fn fill(&mut self, bytes: usize) -> io::Result<&[u8]> {
        self.fill_at(self.offset, bytes)
    }

    /// Returns these bytes of the file, fewer at its end; reads them, and some after them, if they are not in the
    /// buffer.
    fn fill_at(&mut self, offset: u64, bytes: usize) -> io::Result<&[u8]> {
        let within = offset.checked_sub(self.buffer_offset).map(|start| start as usize);
        let held = within.filter(|start| start + bytes <= self.buffer.len());
        let start = match held {
            Some(start) => start,
            None => {
                let kept = within.filter(|start| *start < self.buffer.len());
                // The rest of the buffer is moved to its front, not read again.
                match kept {
                    Some(start) => self.buffer.drain(..start),
                    None => self.buffer.drain(..),
                };
                self.buffer_offset = offset;
                let have = self.buffer.len();
                let rest = self.file_bytes.saturating_sub(offset).min(usize::MAX as u64) as usize;
                self.buffer.resize(bytes.max(READ_BYTES).min(rest).max(have), 0);
                let target = self.buffer.get_mut(have..).unwrap_or_default();
                let filled = read_full_at(&self.file, target, offset + have as u64)?;
                self.buffer.truncate(have + filled);
                0
            }
        };
        let end = self.buffer.len().min(start + bytes);
        Ok(self.buffer.get(start..end).unwrap_or_default())
    }
}

/// Reads the bytes of a segment's header, fewer if the file is shorter.
pub(super) fn read_header<F: DiskFile>(file: &F) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; SEGMENT_HEADER_BYTES];
    let filled = read_full_at(file, &mut bytes, 0)?;
    bytes.truncate(filled);
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::super::batch::Batch;
    use super::super::storage::Disk;
    use super::super::storage::simulated::SimulatedDisk;
    use super::*;

    /// Returns a reader of a segment of these payloads, without a segment header.
    fn file_of(payloads: &[&[u8]]) -> BatchReader<<SimulatedDisk as Disk>::File> {
        let disk = SimulatedDisk::new(0);
        let file = disk.create("x").unwrap();
        let mut offset = SEGMENT_HEADER_BYTES as u64;
        file.allocate(0, 1 << 16).unwrap();
        for (number, payload) in payloads.iter().enumerate() {
            let batch = Batch::of_payload(BatchKind::Events, payload);
            batch.write(&file, offset, number as u64, 0, crc_seed(7)).unwrap();
            offset += batch.bytes();
        }
        BatchReader::new(file, 7).unwrap()
    }

    #[test]
    fn batches_are_read_in_order_to_the_zeros_behind_them() {
        let large = vec![1; 40_000];
        let mut reader = file_of(&[b"one", &large, b""]);
        for (number, payload) in [&b"one"[..], &large, b""].into_iter().enumerate() {
            let Scanned::Batch(batch) = reader.next().unwrap() else { panic!() };
            assert_eq!((batch.number, batch.payload), (number as u64, payload));
        }
        assert!(matches!(reader.next().unwrap(), Scanned::End));
        assert_eq!(reader.offset(), 96 + 3 * 32 + 40_003);
    }

    #[test]
    fn a_bad_batch_is_not_passed_and_the_headers_behind_it_are_found() {
        let mut reader = file_of(&[b"first", b"second", b"third"]);
        reader.file().write_at(&[io::IoSlice::new(b"x")], 96 + 32).unwrap();
        assert!(matches!(reader.next().unwrap(), Scanned::Bad(_)));
        assert!(matches!(reader.next().unwrap(), Scanned::Bad(_)));
        let mut numbers = Vec::new();
        reader.headers_behind(|header, offset| numbers.push((header.number, offset))).unwrap();
        assert_eq!(numbers, [(1, 96 + 37), (2, 96 + 37 + 38)]);
    }
}
