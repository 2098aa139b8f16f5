//! `<number>.gone` lists the events of a segment that were dropped, though they are still in it.
//!
//! It is written before a later segment loses events. Otherwise a start could recover an older event of a topic without
//! the newer, lost one, and nothing would reveal the loss if that was the topic's last: histories drop a topic's events
//! oldest first, and so must the log. While the oldest segment goes next there is nothing to write.
//!
//! | bytes | |
//! |---|---|
//! | 8 | `espergon` |
//! | 8 | salt of the segment: that of a rewritten one is another |
//! | | for each partition the number of words (varint), and so many words of 8 bytes: bit k of word w is event 64 w + k that the segment holds of the partition, and is set if it is gone |
//! | 4 | CRC32C of the above, seeded with that of the salt |

use super::encoding::{Malformed, Reader, put_varint};
use super::format::crc_seed;

const MAGIC: &[u8; 8] = b"espergon";

/// Bits of the events that are gone, for each partition.
pub(super) type Gone = Vec<Vec<u64>>;

pub(super) fn encode<'a>(salt: u64, gone: impl Iterator<Item = &'a [u64]>) -> Vec<u8> {
    let mut out = MAGIC.to_vec();
    out.extend_from_slice(&salt.to_le_bytes());
    for words in gone {
        put_varint(&mut out, words.len() as u64);
        words.iter().for_each(|word| out.extend_from_slice(&word.to_le_bytes()));
    }
    let crc = crc32c::crc32c_append(crc_seed(salt), &out);
    out.extend_from_slice(&crc.to_le_bytes());
    out
}

/// Decodes the bits of a segment with this salt; returns `None` if they are of an earlier segment with the same number.
pub(super) fn decode(bytes: &[u8], salt: u64, partitions: u8) -> Result<Option<Gone>, Malformed> {
    const BAD: Malformed = Malformed("it is not what was written");
    let (checked, crc) = bytes.split_last_chunk().ok_or(BAD)?;
    let mut reader = Reader::new(checked);
    let (magic, own_salt) = (reader.array::<8>()?, reader.u64()?);
    if magic != *MAGIC || crc32c::crc32c_append(crc_seed(own_salt), checked) != u32::from_le_bytes(*crc) {
        return Err(BAD);
    }
    if own_salt != salt {
        return Ok(None);
    }
    let mut gone = Gone::new();
    for _ in 0..partitions {
        let count = reader.count(8)?;
        gone.push((0..count).map(|_| reader.u64()).collect::<Result<_, _>>()?);
    }
    if reader.is_empty() { Ok(Some(gone)) } else { Err(BAD) }
}

/// Returns the name of a segment's file of dropped events.
pub(super) fn gone_name(number: u64) -> String {
    format!("{number:020}.gone")
}

/// Returns the number in the name of such a file; `None` for any other name.
pub(super) fn gone_number(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".gone")?;
    digits.parse().ok().filter(|number| gone_name(*number) == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_read_back_for_their_segment_alone_and_no_flipped_bit_passes() {
        let gone: Gone = vec![vec![1, u64::MAX], vec![], vec![9]];
        let bytes = encode(7, gone.iter().map(Vec::as_slice));
        assert_eq!(decode(&bytes, 7, 3), Ok(Some(gone)));
        assert_eq!(decode(&bytes, 8, 3), Ok(None));
        assert!(decode(&bytes, 7, 2).is_err());
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&flipped, 7, 3).is_err(), "bit {bit}");
        }
        assert_eq!(gone_number(&gone_name(12)), Some(12));
        assert_eq!(gone_number("12.gone"), None);
    }
}
