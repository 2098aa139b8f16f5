//! Frames as they travel: one or more of them as one HTTP chunk, which a home writes once and logs share.

use std::ops::Range;
use std::sync::Arc;

use bytes::{Buf, Bytes};

use crate::core::event_id::Sequence;
use crate::core::memory::Memory;

/// Ends a chunk.
pub(crate) const CHUNK_END: &[u8] = b"\r\n";
const DIGITS: &[u8; 16] = b"0123456789abcdef";
/// Most bytes of a chunk's size line: 8 digits, for 4 GiB, and the line end.
const HEAD_BYTES: usize = 10;

/// How a connection's body is delimited (RFC 9112, section 6.3).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Framing {
    /// HTTP/1.1: `Transfer-Encoding: chunked`.
    Chunked,
    /// HTTP/1.0, nginx's default towards an upstream: the body ends with the connection.
    Plain,
}

/// Frames with the HTTP chunk's size line and end around them. Made by a home; cheap to clone, so many logs may share
/// it.
#[derive(Clone, Debug)]
pub(crate) struct Chunk {
    bytes: Bytes,
    /// Length of the chunk's size line, which a connection without chunks is not sent.
    head_bytes: u8,
}

/// The place of one event among the frames of a [`Chunk`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Mark {
    pub(crate) sequence: Sequence,
    /// The event's end, in bytes from the start of the frames.
    pub(crate) end: u32,
    /// The start of its last `id:` line, or the place where that would be added: before the blank line.
    pub(crate) id_at: u32,
}

impl Chunk {
    /// Returns one HTTP chunk of these frames, which have `bytes` together, in one allocation that `memory` counts.
    pub(crate) fn of<'f>(
        frames: impl IntoIterator<Item = &'f [u8]>,
        bytes: usize,
        memory: &Arc<Memory>,
    ) -> Self {
        let mut writer = ChunkWriter::with_capacity(bytes);
        frames.into_iter().for_each(|frames| writer.text().extend_from_slice(frames));
        writer.finish(memory)
    }

    /// Returns the bytes to send under this framing.
    pub(crate) fn body(&self, framing: Framing) -> Bytes {
        match framing {
            Framing::Chunked => self.bytes.clone(),
            Framing::Plain => self.bytes.slice(self.range()),
        }
    }

    /// Returns a part of the frames, given in bytes from their start.
    pub(crate) fn slice(&self, part: Range<usize>) -> Bytes {
        let start = self.range().start;
        self.bytes.slice(start + part.start..start + part.end)
    }

    /// Returns the frames. Borrowed: a handle of each would cost 12 ns where 64 are joined.
    pub(crate) fn frames(&self) -> &[u8] {
        &self.bytes[self.range()]
    }

    /// Returns the length of the frames in bytes.
    pub(crate) fn frame_bytes(&self) -> usize {
        self.range().len()
    }

    /// Returns the length in bytes, chunk framing included.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Returns the range of the frames within the bytes.
    fn range(&self) -> Range<usize> {
        usize::from(self.head_bytes)..self.bytes.len() - CHUNK_END.len()
    }
}

/// A [`Chunk`] while it is written: frames, with room around them for the chunk framing.
#[derive(Debug)]
pub(crate) struct ChunkWriter(Vec<u8>);

impl ChunkWriter {
    /// Returns a writer with room for `frame_bytes`.
    pub(crate) fn with_capacity(frame_bytes: usize) -> Self {
        let mut text = Vec::with_capacity(HEAD_BYTES + frame_bytes + CHUNK_END.len());
        text.resize(HEAD_BYTES, 0);
        ChunkWriter(text)
    }

    /// Returns the buffer that frames are appended to.
    pub(crate) fn text(&mut self) -> &mut Vec<u8> {
        &mut self.0
    }

    /// Returns the length of the frames so far, in bytes.
    pub(crate) fn frame_bytes(&self) -> usize {
        self.0.len() - HEAD_BYTES
    }

    /// Returns the chunk, counted in `memory`.
    pub(crate) fn finish(self, memory: &Arc<Memory>) -> Chunk {
        let bytes = self.frame_bytes();
        let mut text = self.0;
        let start = write_size_line(bytes, &mut text[..HEAD_BYTES]);
        text.extend_from_slice(CHUNK_END);
        let mut bytes = memory.share(text);
        bytes.advance(start);
        Chunk { bytes, head_bytes: (HEAD_BYTES - start) as u8 }
    }
}

impl Mark {
    /// Returns this mark moved back by `bytes`, for frames that follow that many bytes of others.
    pub(crate) fn behind(self, bytes: usize) -> Mark {
        // A block is far below 4 GiB: chunks below 4 KiB, 2,048 of them in a turn.
        let bytes = bytes as u32;
        Mark { end: self.end + bytes, id_at: self.id_at + bytes, ..self }
    }
}

impl Framing {
    /// Appends `parts` to `out` as one chunk, or bare without chunked framing.
    pub(crate) fn frame(self, parts: impl IntoIterator<Item = Bytes>, out: &mut Vec<Bytes>) {
        let at = out.len();
        if self == Framing::Chunked {
            out.push(Bytes::new());
        }
        out.extend(parts);
        if self == Framing::Chunked {
            let bytes = out[at..].iter().map(Bytes::len).sum();
            let mut head = Vec::with_capacity(8);
            write_chunk_head(bytes, &mut head);
            out[at] = head.into();
            out.push(Bytes::from_static(CHUNK_END));
        }
    }

    /// Appends `parts` as [`Framing::frame`] does, and nothing at all when there are none.
    pub(crate) fn frame_some(self, parts: impl IntoIterator<Item = Bytes>, out: &mut Vec<Bytes>) {
        let mut parts = parts.into_iter().peekable();
        if parts.peek().is_some() {
            self.frame(parts, out);
        }
    }
}

/// Appends the size line that begins a chunk of `bytes` (RFC 9112, section 7.1).
pub(crate) fn write_chunk_head(bytes: usize, out: &mut Vec<u8>) {
    // A digit for each 4 bits of a 64-bit size, and the line end.
    let mut line = [0; 18];
    let start = write_size_line(bytes, &mut line);
    out.extend_from_slice(&line[start..]);
}

/// Writes a chunk's size line at the end of `room`, and returns where it begins.
fn write_size_line(bytes: usize, room: &mut [u8]) -> usize {
    let mut start = room.len() - CHUNK_END.len();
    room[start..].copy_from_slice(CHUNK_END);
    let mut rest = bytes;
    loop {
        start -= 1;
        room[start] = DIGITS[rest & 0xf];
        rest >>= 4;
        if rest == 0 {
            return start;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_head_is_the_size_in_hex() {
        for bytes in [0, 1, 9, 10, 15, 16, 255, 256, 4095, 65_536, 0x1234_5678, usize::MAX] {
            let mut out = Vec::new();
            write_chunk_head(bytes, &mut out);
            assert_eq!(out, format!("{bytes:x}\r\n").into_bytes());
        }
    }

    #[test]
    fn a_chunk_is_sent_whole_or_as_its_frames_alone() {
        let memory = Memory::new(usize::MAX);
        let chunk = Chunk::of([&b"abc"[..], b"defghij"], 10, &memory);
        assert_eq!(chunk.body(Framing::Chunked), "a\r\nabcdefghij\r\n");
        assert_eq!(chunk.body(Framing::Plain), "abcdefghij");
        assert_eq!((chunk.frames(), chunk.frame_bytes(), chunk.bytes()), (&b"abcdefghij"[..], 10, 15));
        assert_eq!(chunk.slice(3..5), "de");
    }
}
