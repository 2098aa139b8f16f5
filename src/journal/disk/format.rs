//! The bytes on disk. This format is a contract: a journal outlives the program that wrote it.
//!
//! # The directory
//! - `lock`: held by `flock` while a process uses the directory, with its pid in decimal.
//! - `<number>.segment`, the number with 20 digits: the log, in ascending order. Numbers are never used twice.
//! - `<number>.gone`: which events of a segment were dropped; see [`super::gone`].
//! - `<number>.new`: one of these that is being made. It gets its name when all that it must hold is synced, and is
//!   removed at the next start otherwise: so the header and the first batch of a `.segment` are never torn.
//!
//! # A segment
//! A header of [`SEGMENT_HEADER_BYTES`], then batches, one behind the other, then zeros. Fixed-width numbers are
//! little-endian.
//!
//! | bytes | |
//! |---|---|
//! | 8 | `esperlog` |
//! | 2 | format version, [`VERSION`]; the place of it and of the CRC are the same in all versions |
//! | 1 | kind: 0 as appended, 1 rewritten |
//! | 1 | number of partitions, 1 to 64 |
//! | 8, 8 | its number, and the last of the numbers whose records it holds: the same but in a rewritten one |
//! | 8 | salt: random, drawn anew for each file |
//! | 16 | secret of the hashes: random, drawn once for the journal; segments of two journals differ in it |
//! | 8 | epoch of the process that created it |
//! | 8 | number of its first batch |
//! | 8, 8 | of a rewritten one: the last batch that its records came from, the file's length; else 0 |
//! | 8 | zeros |
//! | 4 | CRC32C of the above |
//!
//! An **appended** segment starts with a batch of control records: all epochs that are known, where topics ended whose
//! events are gone, and the segments that there are, each with its last batch. So the newest segment alone tells all
//! that older ones told beside their events, and which files must be there. Its batches have consecutive numbers. It
//! has its whole size by `fallocate` before the first batch; when the next segment is created, or at the next start, it
//! is cut to its length, synced, and never written again. Each start creates one: no process appends to a file that
//! another wrote.
//!
//! A **rewritten** segment takes the place of one or several neighbours, most of whose events are gone, and holds the
//! others with their sequences, in their order, in batches with the numbers that they came in. It is complete when it
//! gets its name, by which it replaces the first of the segments whose numbers it covers; those of the others that are
//! still there are leftovers.
//!
//! # A batch
//! | bytes | |
//! |---|---|
//! | 4 | `EspE`: events, or `EspC`: control records |
//! | 8 | number, counted over all segments |
//! | 8 | number of the newest batch that was known to be synced when this one was written |
//! | 4 | bytes of the payload |
//! | 4 | CRC32C of the payload, seeded with the CRC of the salt |
//! | 4 | CRC32C of the above, seeded with the CRC of the salt |
//!
//! then the payload: records, one behind the other. See [`super::record`] for them.
//!
//! # A bad batch
//! At the end of the newest segment a batch may be torn: it was being written when power failed. A batch is bad if its
//! header or its payload has not the CRC that it says. It is **torn** if no header behind it in its segment says that
//! it was synced: it is cut, with what is behind it. (With `--sync TIME` several batches may be lost, in any order, and
//! the ones that are there be behind those that are not.) Else it is **damage**. In any other segment a bad batch is
//! damage, and so are bytes behind the last batch, or a segment that is missing.

use super::encoding::{Malformed, Reader};
use crate::core::partition::PARTITIONS_MAX;

/// The version of the format that this program writes. It reads this one alone: there is no older one.
pub(super) const VERSION: u16 = 1;
/// Bytes of a segment's header.
pub(super) const SEGMENT_HEADER_BYTES: usize = 96;
/// Bytes of a batch's header.
pub(super) const BATCH_HEADER_BYTES: usize = 32;
/// The bytes with which the headers of batches of both kinds begin.
pub(super) const BATCH_MAGIC: &[u8; 3] = b"Esp";

const SEGMENT_MAGIC: &[u8; 8] = b"esperlog";

/// The reason why a segment's header is refused.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum HeaderError {
    /// It has this later version of the format.
    Newer(u16),
    /// It is not what was written.
    Bad(&'static str),
}

/// The header of a segment.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct SegmentHeader {
    pub(super) partitions: u8,
    pub(super) first: u64,
    /// The last of the numbers it covers.
    pub(super) last: u64,
    pub(super) salt: u64,
    pub(super) secret: [u8; 16],
    pub(super) epoch: u64,
    pub(super) first_batch: u64,
    /// Set if it is rewritten.
    pub(super) rewritten: Option<Rewritten>,
}

/// The fields that only the header of a rewritten segment has.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Rewritten {
    pub(super) last_batch: u64,
    pub(super) file_bytes: u64,
}

impl SegmentHeader {
    pub(super) fn encode(&self) -> Vec<u8> {
        let rewritten = self.rewritten.unwrap_or(Rewritten { last_batch: 0, file_bytes: 0 });
        let mut out = Vec::with_capacity(SEGMENT_HEADER_BYTES);
        out.extend_from_slice(SEGMENT_MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&[u8::from(self.rewritten.is_some()), self.partitions]);
        for number in [self.first, self.last, self.salt] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.extend_from_slice(&self.secret);
        for number in [self.epoch, self.first_batch, rewritten.last_batch, rewritten.file_bytes, 0] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        let crc = crc32c::crc32c(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        out
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<SegmentHeader, HeaderError> {
        const SHORT: HeaderError = HeaderError::Bad("the segment's header is cut off");
        let (checked, crc) = bytes.split_last_chunk().ok_or(SHORT)?;
        let version = match bytes.get(8..10) {
            Some(&[low, high]) if bytes.len() == SEGMENT_HEADER_BYTES => u16::from_le_bytes([low, high]),
            _ => return Err(SHORT),
        };
        // The CRC first: a flipped bit of the version is damage, not a later version.
        if !bytes.starts_with(SEGMENT_MAGIC) || crc32c::crc32c(checked) != u32::from_le_bytes(*crc) {
            return Err(HeaderError::Bad("the segment's header is not what was written"));
        }
        if version != VERSION {
            return Err(HeaderError::Newer(version));
        }
        Self::decode_fields(&mut Reader::new(checked.get(10..).unwrap_or_default()))
            .map_err(|Malformed(what)| HeaderError::Bad(what))
    }

    fn decode_fields(reader: &mut Reader<'_>) -> Result<SegmentHeader, Malformed> {
        let kind = reader.u8()?;
        let header = SegmentHeader {
            partitions: reader.u8()?,
            first: reader.u64()?,
            last: reader.u64()?,
            salt: reader.u64()?,
            secret: reader.array()?,
            epoch: reader.u64()?,
            first_batch: reader.u64()?,
            rewritten: match kind {
                0 => None,
                1 => Some(Rewritten { last_batch: reader.u64()?, file_bytes: reader.u64()? }),
                _ => return Err(Malformed("the segment is of no kind that is known")),
            },
        };
        let covers_itself = header.first == header.last || header.rewritten.is_some();
        if !(1..=PARTITIONS_MAX).contains(&header.partitions) {
            return Err(Malformed("the segment has no number of partitions"));
        }
        if header.rewritten.is_none() && header.first_batch == 0 {
            return Err(Malformed("the segment begins with no batch"));
        }
        // Numbers are incremented: those of a forged header must not overflow.
        if header.first > header.last || !covers_itself || header.last.max(header.first_batch) > NUMBER_MAX {
            return Err(Malformed("the segment covers no numbers"));
        }
        Ok(header)
    }
}

/// The highest number of a segment or a batch: far from where adding to one would overflow.
pub(super) const NUMBER_MAX: u64 = u64::MAX >> 1;

/// The kind of a batch's records.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum BatchKind {
    Events,
    Control,
}

/// The header of a batch.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct BatchHeader {
    pub(super) kind: BatchKind,
    pub(super) number: u64,
    /// The newest batch that was known to be synced when this one was written.
    pub(super) synced: u64,
    pub(super) payload_bytes: u32,
    pub(super) payload_crc: u32,
}

impl BatchHeader {
    pub(super) fn encode(&self, seed: u32) -> [u8; BATCH_HEADER_BYTES] {
        let mut out = [0; BATCH_HEADER_BYTES];
        let kind = match self.kind {
            BatchKind::Events => b'E',
            BatchKind::Control => b'C',
        };
        let [a, b, c] = *BATCH_MAGIC;
        let (fields, crc) = out.split_at_mut(BATCH_HEADER_BYTES - 4);
        let parts: [&[u8]; 5] = [
            &[a, b, c, kind],
            &self.number.to_le_bytes(),
            &self.synced.to_le_bytes(),
            &self.payload_bytes.to_le_bytes(),
            &self.payload_crc.to_le_bytes(),
        ];
        let bytes = parts.into_iter().flatten();
        fields.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
        crc.copy_from_slice(&crc32c::crc32c_append(seed, fields).to_le_bytes());
        out
    }

    /// Returns the header in these bytes; `None` if their CRC is not that of a header in a segment of this seed.
    pub(super) fn decode(bytes: &[u8; BATCH_HEADER_BYTES], seed: u32) -> Option<BatchHeader> {
        let (fields, crc) = bytes.split_last_chunk()?;
        if !fields.starts_with(BATCH_MAGIC) || crc32c::crc32c_append(seed, fields) != u32::from_le_bytes(*crc)
        {
            return None;
        }
        let mut reader = Reader::new(fields.get(BATCH_MAGIC.len()..)?);
        let kind = match reader.u8().ok()? {
            b'E' => BatchKind::Events,
            b'C' => BatchKind::Control,
            _ => return None,
        };
        let header = BatchHeader {
            kind,
            number: reader.u64().ok()?,
            synced: reader.u64().ok()?,
            payload_bytes: reader.u32().ok()?,
            payload_crc: reader.u32().ok()?,
        };
        (header.number <= NUMBER_MAX).then_some(header)
    }
}

/// Returns the seed of a segment's CRCs. A batch that the file held earlier, or that a publisher sent as text, has
/// another seed.
pub(super) fn crc_seed(salt: u64) -> u32 {
    crc32c::crc32c(&salt.to_le_bytes())
}

/// Returns the name of a segment's file.
pub(super) fn segment_name(number: u64) -> String {
    format!("{number:020}.segment")
}

/// Returns the name of the file of a segment that is being made.
pub(super) fn new_name(number: u64) -> String {
    format!("{number:020}.new")
}

/// Returns the number in the name of a segment's file; `None` for any other name.
pub(super) fn segment_number(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".segment")?;
    let is_number = digits.len() == 20 && digits.bytes().all(|digit| digit.is_ascii_digit());
    digits.parse().ok().filter(|number| is_number && *number <= NUMBER_MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn header() -> SegmentHeader {
        SegmentHeader {
            partitions: 16,
            first: 3,
            last: 5,
            salt: 0x0123_4567_89ab_cdef,
            secret: *b"0123456789abcdef",
            epoch: 1 << 63 | 9,
            first_batch: 77,
            rewritten: Some(Rewritten { last_batch: 99, file_bytes: 1 << 20 }),
        }
    }

    #[test]
    fn a_segments_header_is_read_back_and_no_flipped_bit_passes() {
        let appended = SegmentHeader { last: 3, rewritten: None, ..header() };
        for header in [header(), appended] {
            let bytes = header.encode();
            assert_eq!(bytes.len(), SEGMENT_HEADER_BYTES);
            assert_eq!(SegmentHeader::decode(&bytes), Ok(header));
            for bit in 0..bytes.len() * 8 {
                let mut flipped = bytes.clone();
                flipped[bit / 8] ^= 1 << (bit % 8);
                assert!(matches!(SegmentHeader::decode(&flipped), Err(HeaderError::Bad(_))), "bit {bit}");
            }
        }
    }

    #[test]
    fn a_header_of_a_later_version_is_told_from_damage() {
        let mut bytes = header().encode();
        bytes[8] = 2;
        let crc = crc32c::crc32c(&bytes[..SEGMENT_HEADER_BYTES - 4]);
        bytes[SEGMENT_HEADER_BYTES - 4..].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(SegmentHeader::decode(&bytes), Err(HeaderError::Newer(2)));
    }

    #[test]
    fn the_name_of_a_segment_gives_its_number_and_no_other_name_does() {
        assert_eq!(segment_number(&segment_name(7)), Some(7));
        assert_eq!(segment_name(7), "00000000000000000007.segment");
        for other in ["7.segment", "00000000000000000007.new", "+0000000000000000007.segment", "lock", ""] {
            assert_eq!(segment_number(other), None, "{other}");
        }
        assert_eq!(segment_number("18446744073709551615.segment"), None);
    }

    proptest! {
        #[test]
        fn a_batch_header_is_read_back_by_its_own_seed_alone(
            number in 0..NUMBER_MAX, synced: u64, payload_bytes: u32, payload_crc: u32, salt: u64, bit in 0..256usize,
        ) {
            let header = BatchHeader { kind: BatchKind::Control, number, synced, payload_bytes, payload_crc };
            let mut bytes = header.encode(crc_seed(salt));
            prop_assert_eq!(BatchHeader::decode(&bytes, crc_seed(salt)), Some(header));
            prop_assert_eq!(BatchHeader::decode(&bytes, crc_seed(salt ^ 1)), None);
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(BatchHeader::decode(&bytes, crc_seed(salt)), None);
        }

        #[test]
        fn any_bytes_are_a_header_or_are_refused(bytes: [u8; BATCH_HEADER_BYTES], more: Vec<u8>) {
            let _ = BatchHeader::decode(&bytes, 0);
            prop_assert!(SegmentHeader::decode(&more).is_err());
        }
    }
}
