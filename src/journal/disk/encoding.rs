//! Encodes and decodes the numbers and byte strings of a record: LEB128 varints, and byte strings after their length.
//!
//! The input may be damaged or forged: a length is compared with the bytes that are left before anything is taken or
//! allocated.

use thiserror::Error;

/// The reason why bytes are no record.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
#[error("{0}")]
pub(crate) struct Malformed(pub(in crate::journal) &'static str);

/// Appends an unsigned LEB128 number, of 1 to 10 bytes.
pub(in crate::journal) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends a byte string after its length.
pub(in crate::journal) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// The bytes that are still to be decoded, from front to back.
#[derive(Debug)]
pub(in crate::journal) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(in crate::journal) fn new(bytes: &'a [u8]) -> Self {
        Reader { rest: bytes }
    }

    pub(in crate::journal) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// Returns the number of bytes left.
    pub(in crate::journal) fn len(&self) -> usize {
        self.rest.len()
    }

    pub(in crate::journal) fn u8(&mut self) -> Result<u8, Malformed> {
        let [byte] = self.array()?;
        Ok(byte)
    }

    pub(in crate::journal) fn u64(&mut self) -> Result<u64, Malformed> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    pub(in crate::journal) fn u32(&mut self) -> Result<u32, Malformed> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(in crate::journal) fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        Ok(*self.array_ref()?)
    }

    pub(in crate::journal) fn array_ref<const N: usize>(&mut self) -> Result<&'a [u8; N], Malformed> {
        let (array, rest) = self.rest.split_first_chunk().ok_or(Malformed("it ends too early"))?;
        self.rest = rest;
        Ok(array)
    }

    /// Returns a LEB128 number. Refuses one past 64 bits, and one in a longer form than it needs: every value has one
    /// form, so that input can be compared with output.
    pub(in crate::journal) fn varint(&mut self) -> Result<u64, Malformed> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                break;
            }
            value |= bits << shift;
            if byte < 0x80 {
                return if byte == 0 && shift > 0 { Err(LONG) } else { Ok(value) };
            }
        }
        Err(LONG)
    }

    /// Returns a number that fits 32 bits.
    pub(in crate::journal) fn varint32(&mut self) -> Result<u32, Malformed> {
        u32::try_from(self.varint()?).map_err(|_| LONG)
    }

    /// Returns a count of items of at least `bytes_min` bytes each, all of which must still be there.
    pub(in crate::journal) fn count(&mut self, bytes_min: usize) -> Result<usize, Malformed> {
        let count = usize::try_from(self.varint()?).map_err(|_| LONG)?;
        if count > self.len() / bytes_min { Err(Malformed("a count is past its end")) } else { Ok(count) }
    }

    pub(in crate::journal) fn bytes(&mut self) -> Result<&'a [u8], Malformed> {
        let length = self.count(1)?;
        let (bytes, rest) =
            self.rest.split_at_checked(length).ok_or(Malformed("a length is past its end"))?;
        self.rest = rest;
        Ok(bytes)
    }

    pub(in crate::journal) fn str(&mut self) -> Result<&'a str, Malformed> {
        str::from_utf8(self.bytes()?).map_err(|_| Malformed("a text is not UTF-8"))
    }
}

const LONG: Malformed = Malformed("a number is too long");

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_number_is_read_back_and_has_one_form(value: u64, shift in 0..64u32) {
            let value = value >> shift;
            let mut bytes = Vec::new();
            put_varint(&mut bytes, value);
            let mut reader = Reader::new(&bytes);
            prop_assert_eq!(reader.varint(), Ok(value));
            prop_assert!(reader.is_empty());
            // The same number with a redundant zero byte after it.
            let last = bytes.len() - 1;
            bytes[last] |= 0x80;
            bytes.push(0);
            prop_assert!(Reader::new(&bytes).varint().is_err());
        }

        #[test]
        fn whatever_is_read_as_a_number_is_written_the_same(bytes: Vec<u8>) {
            let mut reader = Reader::new(&bytes);
            if let Ok(value) = reader.varint() {
                let mut again = Vec::new();
                put_varint(&mut again, value);
                prop_assert_eq!(&again[..], &bytes[..bytes.len() - reader.len()]);
            }
        }
    }

    #[test]
    fn a_length_past_the_end_is_refused_before_anything_is_taken() {
        let mut bytes = Vec::new();
        put_varint(&mut bytes, u64::MAX);
        assert!(Reader::new(&bytes).bytes().is_err());
        assert!(Reader::new(&bytes).count(1).is_err());
        assert!(Reader::new(&[3, 1, 2]).bytes().is_err());
        assert_eq!(Reader::new(&[2, 1, 2]).bytes(), Ok(&[1, 2][..]));
    }
}
