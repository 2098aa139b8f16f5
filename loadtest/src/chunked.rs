//! Takes HTTP/1.1's chunk framing off a body, at any split of its bytes (RFC 9112, section 7.1). No I/O.

/// The place in a body. 16 bytes, for there is one for each subscriber.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ChunkDecoder {
    /// In a size line: the size read so far. In data: bytes still to come.
    remaining: u64,
    phase: Phase,
}

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum Phase {
    #[default]
    Size,
    SizeDigits,
    Extension,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    TrailerStart,
    Trailer,
    TrailerLf,
    EndLf,
    End,
}

/// The framing is not what RFC 9112 says.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct BadChunk;

impl ChunkDecoder {
    /// Returns the next piece of the body in `input`, moving `input` past it; `None` when `input` holds no more.
    pub(crate) fn next<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<&'a [u8]>, BadChunk> {
        while self.phase != Phase::End {
            if self.phase == Phase::Data {
                if input.is_empty() {
                    return Ok(None);
                }
                let taken = usize::try_from(self.remaining).unwrap_or(usize::MAX).min(input.len());
                let (data, rest) = input.split_at(taken);
                *input = rest;
                self.remaining -= taken as u64;
                if self.remaining == 0 {
                    self.phase = Phase::DataCr;
                }
                return Ok(Some(data));
            }
            let Some((&byte, rest)) = input.split_first() else { return Ok(None) };
            *input = rest;
            self.phase = self.frame_byte(byte)?;
        }
        Ok(None)
    }

    /// Tells whether the last chunk and its trailers were read.
    pub(crate) fn ended(&self) -> bool {
        self.phase == Phase::End
    }

    fn frame_byte(&mut self, byte: u8) -> Result<Phase, BadChunk> {
        let size_read = if self.remaining == 0 { Phase::TrailerStart } else { Phase::Data };
        Ok(match (self.phase, byte) {
            (Phase::Size | Phase::SizeDigits, _) if byte.is_ascii_hexdigit() => {
                if self.remaining >> 60 != 0 {
                    return Err(BadChunk);
                }
                let digit = (byte as char).to_digit(16).unwrap_or(0);
                self.remaining = self.remaining << 4 | u64::from(digit);
                Phase::SizeDigits
            }
            (Phase::SizeDigits | Phase::Extension, b'\r') => Phase::SizeLf,
            (Phase::SizeDigits, b';' | b' ' | b'\t') | (Phase::Extension, _) => Phase::Extension,
            (Phase::SizeLf, b'\n') => size_read,
            (Phase::DataCr, b'\r') => Phase::DataLf,
            (Phase::DataLf, b'\n') => Phase::Size,
            (Phase::TrailerStart, b'\r') => Phase::EndLf,
            (Phase::Trailer, b'\r') => Phase::TrailerLf,
            (Phase::TrailerStart | Phase::Trailer, _) => Phase::Trailer,
            (Phase::TrailerLf, b'\n') => Phase::TrailerStart,
            (Phase::EndLf, b'\n') => Phase::End,
            _ => return Err(BadChunk),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stamp::split_at;
    use proptest::prelude::*;

    fn decode(pieces: &[&[u8]]) -> Result<(Vec<u8>, bool), BadChunk> {
        let mut decoder = ChunkDecoder::default();
        let mut body = Vec::new();
        for mut piece in pieces.iter().copied() {
            while let Some(data) = decoder.next(&mut piece)? {
                body.extend_from_slice(data);
            }
        }
        Ok((body, decoder.ended()))
    }

    #[test]
    fn extensions_and_trailers_are_no_body() {
        let wire = b"5;a=b\r\nhello\r\n6 \r\n world\r\n0\r\nDigest: x\r\n\r\n";
        assert_eq!(decode(&[wire]), Ok((b"hello world".to_vec(), true)));
    }

    #[test]
    fn what_follows_the_last_chunk_is_left_alone() {
        let mut decoder = ChunkDecoder::default();
        let mut input = &b"0\r\n\r\nHTTP/1.1 200 OK"[..];
        assert_eq!(decoder.next(&mut input), Ok(None));
        assert!(decoder.ended());
        assert_eq!(input, b"HTTP/1.1 200 OK");
    }

    #[test]
    fn bad_framing_is_refused() {
        for wire in
            [&b"\r\n"[..], b"x\r\n", b"5\n", b"1\r\nab\r\n", b"1\r\na\n", b"11111111111111111\r\n", b";\r\n"]
        {
            assert_eq!(decode(&[wire]), Err(BadChunk), "{:?}", String::from_utf8_lossy(wire));
        }
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same_body(
            chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..8),
            cuts in prop::collection::vec(0..60usize, 0..12),
        ) {
            let mut wire = Vec::new();
            for chunk in &chunks {
                wire.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                wire.extend_from_slice(chunk);
                wire.extend_from_slice(b"\r\n");
            }
            wire.extend_from_slice(b"0\r\n\r\n");
            prop_assert_eq!(decode(&split_at(&wire, &cuts)), Ok((chunks.concat(), true)));
        }

        #[test]
        fn arbitrary_bytes_never_panic(wire in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&[&wire]);
        }
    }
}
