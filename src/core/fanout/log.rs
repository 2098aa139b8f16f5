//! A topic's recent blocks on one shard, and how far each of its subscribers has been sent.
//!
//! The log is at once what joins events into one send, and what decides that a client is too slow. It keeps a
//! block only while a cursor is at or before it, so with clients that keep up it is empty. Each block counts
//! the cursors that point at it, as a replication backlog counts its readers: nothing walks over subscribers
//! to find out what may go.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use smallvec::SmallVec;

use crate::core::event_id::Sequence;
use crate::core::fanout::wire::{Buffers, CHUNK_END, Framing, write_chunk_head};
use crate::core::memory::Memory;

/// Most blocks in one send: one `writev` of so many buffers costs little more than their bytes.
const SEND_BLOCKS_MAX: usize = 64;
/// Most bytes in one send (but one block always goes): what a stalled client's last send may pin.
const SEND_BYTES_MAX: usize = 256 << 10;

/// What one publish brings a log that shares its blocks with others is shared from here on, and copied below where the
/// turn brings more: a copy of 4 KiB costs about as much as the block of its own.
pub(super) const SHARED_BYTES_MIN: usize = 4 << 10;

/// What a block takes beside its bytes. Where thousands of logs share these, it is all that they take.
const BLOCK_BYTES: usize = size_of::<Block>();

/// The next block a subscriber has not been sent, counted from the log's first.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct Cursor(u64);

/// What one send covers.
#[derive(Debug, Default)]
pub(crate) struct Span {
    pub(crate) buffers: Buffers,
    /// The cursor once it is sent.
    pub(crate) to: Cursor,
    pub(crate) events: u32,
    /// The newest event in it.
    pub(crate) last: Sequence,
    /// When its oldest publish was parsed, in microseconds of the server's clock.
    pub(crate) at_us: u64,
}

/// Frames, with or without what makes one HTTP chunk of them around them. Cheap to clone: many logs may share it.
#[derive(Clone, Debug)]
pub(crate) struct Chunk {
    bytes: Bytes,
    /// Length of the chunk's size line, which a connection without chunks is not sent.
    head_bytes: u8,
    /// Length of what ends the chunk. Both are 0 in the log of a part, which is never read in chunks.
    end_bytes: u8,
}

/// Blocks `trimmed..tail` and the events of this turn.
#[derive(Debug)]
pub(crate) struct Log {
    blocks: VecDeque<Block>,
    /// The place of the first retained block: `trimmed`.
    trimmed: u64,
    bytes: usize,
    /// Bytes of all blocks there ever were.
    written: u64,
    memory: Arc<Memory>,
    /// Cursors at the tail: they have been sent everything.
    at_tail: u32,
    open: Open,
    /// Whether streams of several read it, which frame what they send themselves.
    is_part: bool,
    /// Whether a block was sealed for somebody since this was last asked.
    has_readers: bool,
}

/// The frames that a topic gained in one turn, contiguous, as one HTTP chunk.
#[derive(Debug)]
struct Block {
    chunk: Chunk,
    /// Bytes of the blocks before it.
    start: u64,
    /// Cursors that point here.
    readers: u32,
    events: u32,
    last: Sequence,
    at_us: u64,
}

/// What was gained since the last block was sealed.
#[derive(Debug, Default)]
struct Open {
    chunks: SmallVec<[Chunk; 4]>,
    bytes: usize,
    events: u32,
    last: Sequence,
    at_us: u64,
}

impl Log {
    /// An empty log, whose blocks are counted in `memory`.
    pub(crate) fn new(memory: Arc<Memory>, is_part: bool) -> Self {
        Log {
            is_part,
            has_readers: false,
            blocks: VecDeque::new(),
            trimmed: 0,
            bytes: 0,
            written: 0,
            memory,
            at_tail: 0,
            open: Open::default(),
        }
    }

    /// Adds `events` frames to the turn's block.
    pub(crate) fn gain(&mut self, frames: impl Into<Chunk>, events: u32, last: Sequence, at_us: u64) {
        let chunk = frames.into();
        let is_shared = self.shares(&chunk) && chunk.frame_bytes() >= SHARED_BYTES_MIN;
        if is_shared {
            self.cut();
        }
        if self.open.chunks.is_empty() {
            self.open.at_us = at_us;
        }
        self.open.bytes += chunk.frame_bytes();
        self.open.events += events;
        self.open.last = last;
        self.open.chunks.push(chunk);
        if is_shared {
            self.cut();
        }
    }

    /// Ends the turn's block. Whoever was at the tail has it to read; returns whether anybody was.
    pub(crate) fn seal(&mut self) -> bool {
        self.cut();
        std::mem::take(&mut self.has_readers)
    }

    /// Makes a block of what was gained.
    fn cut(&mut self) {
        if self.open.chunks.is_empty() {
            return;
        }
        let open = std::mem::take(&mut self.open);
        let readers = std::mem::take(&mut self.at_tail);
        if readers == 0 && self.blocks.is_empty() {
            // Nobody to send it to, now or later. The tail still moves: cursors never name two blocks alike.
            self.trimmed += 1;
            return;
        }
        let chunk = match &open.chunks[..] {
            // The same bytes in every log that gains them: 15,000 pages, each on a topic of its own and one of all, or
            // 15,000 users of one channel, are 15,000 logs.
            [chunk] if self.shares(chunk) => chunk.clone(),
            chunks => Chunk::of(chunks.iter().map(Chunk::frames), open.bytes, &self.memory),
        };
        let start = self.written;
        self.bytes += chunk.bytes.len();
        self.written += chunk.bytes.len() as u64;
        let Open { events, last, at_us, .. } = open;
        self.memory.hold(BLOCK_BYTES);
        self.blocks.push_back(Block { chunk, start, readers, events, last, at_us });
        self.has_readers |= readers > 0;
    }

    /// Whether a block may be this very chunk, without a copy.
    fn shares(&self, chunk: &Chunk) -> bool {
        self.is_part || chunk.end_bytes > 0
    }

    /// A newcomer's cursor: it gets what comes after what is sealed. The turn's block must be sealed first.
    pub(crate) fn attach(&mut self) -> Cursor {
        self.at_tail += 1;
        self.tail()
    }

    /// Counts a cursor again that a trim left behind, where its send under way will bring it.
    pub(crate) fn reattach(&mut self, cursor: Cursor) {
        self.check(cursor);
        *self.readers(cursor) += 1;
    }

    /// Takes a cursor away, and with it the blocks kept for it alone.
    pub(crate) fn detach(&mut self, cursor: Cursor) {
        self.check(cursor);
        *self.readers(cursor) -= 1;
        self.trim();
    }

    /// Whether blocks the cursor had not been sent were dropped.
    pub(crate) fn is_behind(&self, cursor: Cursor) -> bool {
        cursor.0 < self.trimmed
    }

    /// Everything from the cursor on that fits one send; nothing at the tail.
    pub(crate) fn read(&self, cursor: Cursor, framing: Framing) -> Option<Span> {
        self.check(cursor);
        let start = (cursor.0 - self.trimmed) as usize;
        let first = self.blocks.get(start)?;
        let mut span = Span { to: cursor, at_us: first.at_us, ..Span::default() };
        let mut bytes = 0;
        for block in self.blocks.range(start..).take(SEND_BLOCKS_MAX) {
            bytes += block.chunk.bytes.len();
            if bytes > SEND_BYTES_MAX && !span.buffers.is_empty() {
                break;
            }
            span.buffers.push(block.body(framing));
            span.to.0 += 1;
            span.events += block.events;
            span.last = block.last;
        }
        Some(span)
    }

    /// Moves a cursor over what was sent.
    pub(crate) fn advance(&mut self, from: Cursor, to: Cursor) {
        self.check(from);
        self.check(to);
        *self.readers(from) -= 1;
        *self.readers(to) += 1;
        self.trim();
    }

    /// Drops the oldest blocks until at most `bytes_max` remain, but never the newest block, which nobody has
    /// had time to read. Cursors before what remains are behind: they are not counted any more and must be
    /// neither advanced nor detached. Returns whether there are any.
    pub(crate) fn trim_to(&mut self, bytes_max: usize) -> bool {
        let mut left_behind = false;
        while self.bytes > bytes_max && self.blocks.len() > 1 {
            left_behind |= self.drop_first() > 0;
        }
        left_behind
    }

    /// Bytes from the cursor on.
    pub(crate) fn bytes_from(&self, cursor: Cursor) -> usize {
        let first = self.blocks.get(cursor.0.saturating_sub(self.trimmed) as usize);
        first.map_or(0, |block| (self.written - block.start) as usize)
    }

    /// Bytes of the blocks kept.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    fn tail(&self) -> Cursor {
        Cursor(self.trimmed + self.blocks.len() as u64)
    }

    /// The invariant: `trimmed <= cursor <= tail`.
    fn check(&self, cursor: Cursor) {
        assert!(
            self.trimmed <= cursor.0 && cursor <= self.tail(),
            "cursor {} outside {}..={}",
            cursor.0,
            self.trimmed,
            self.tail().0
        );
    }

    fn readers(&mut self, cursor: Cursor) -> &mut u32 {
        match self.blocks.get_mut((cursor.0 - self.trimmed) as usize) {
            Some(block) => &mut block.readers,
            None => &mut self.at_tail,
        }
    }

    /// Drops the blocks that no cursor is at or before.
    pub(crate) fn trim(&mut self) {
        while self.blocks.front().is_some_and(|block| block.readers == 0) {
            self.drop_first();
        }
    }

    /// Drops the first block; returns how many cursors pointed at it.
    fn drop_first(&mut self) -> u32 {
        let Some(block) = self.blocks.pop_front() else { return 0 };
        self.memory.release(BLOCK_BYTES);
        self.trimmed += 1;
        self.bytes -= block.chunk.bytes.len();
        block.readers
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.memory.release(self.blocks.len() * BLOCK_BYTES);
    }
}

impl Chunk {
    /// One HTTP chunk of these frames, which have `bytes` together, in one allocation that `memory` counts.
    pub(crate) fn of<'f>(
        frames: impl IntoIterator<Item = &'f [u8]>,
        bytes: usize,
        memory: &Arc<Memory>,
    ) -> Self {
        let mut chunk = Vec::with_capacity(bytes + 16);
        write_chunk_head(bytes, &mut chunk);
        let head_bytes = chunk.len() as u8;
        frames.into_iter().for_each(|frames| chunk.extend_from_slice(frames));
        chunk.extend_from_slice(CHUNK_END);
        Chunk { bytes: memory.share(chunk), head_bytes, end_bytes: CHUNK_END.len() as u8 }
    }

    /// Without what is around them. Borrowed: a handle of each frame would cost 12 ns where 64 are joined.
    fn frames(&self) -> &[u8] {
        &self.bytes[self.range()]
    }

    fn frame_bytes(&self) -> usize {
        self.range().len()
    }

    /// Where the frames are among the bytes.
    fn range(&self) -> Range<usize> {
        usize::from(self.head_bytes)..self.bytes.len() - usize::from(self.end_bytes)
    }
}

/// Frames with nothing around them.
impl From<Bytes> for Chunk {
    fn from(bytes: Bytes) -> Self {
        Chunk { bytes, head_bytes: 0, end_bytes: 0 }
    }
}

impl Block {
    fn body(&self, framing: Framing) -> Bytes {
        match framing {
            Framing::Chunked => self.chunk.bytes.clone(),
            Framing::Plain => self.chunk.bytes.slice(self.chunk.range()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new_log() -> Log {
        Log::new(Memory::new(usize::MAX), false)
    }

    fn gain(log: &mut Log, text: &'static str) {
        log.gain(Bytes::from_static(text.as_bytes()), 1, 0, 0);
    }

    fn block(log: &mut Log, text: &'static str) -> bool {
        gain(log, text);
        log.seal()
    }

    fn text(span: &Span) -> String {
        String::from_utf8(span.buffers.concat()).unwrap()
    }

    #[test]
    fn what_a_turn_gains_is_one_chunk_and_one_buffer() {
        let mut log = new_log();
        let cursor = log.attach();
        gain(&mut log, "one ");
        gain(&mut log, "two");
        assert!(log.seal());
        let span = log.read(cursor, Framing::Chunked).unwrap();
        assert_eq!((text(&span).as_str(), span.buffers.len(), span.events), ("7\r\none two\r\n", 1, 2));
        assert_eq!(text(&log.read(cursor, Framing::Plain).unwrap()), "one two");
    }

    #[test]
    fn a_chunk_that_many_logs_gain_is_held_once() {
        let memory = Memory::new(usize::MAX);
        let frames = Bytes::from(vec![b'x'; SHARED_BYTES_MIN]);
        let chunk = Chunk::of([&frames[..]], frames.len(), &memory);
        let held = memory.bytes() + 10 * BLOCK_BYTES;
        let mut logs: Vec<_> = (0..10).map(|_| Log::new(Arc::clone(&memory), false)).collect();
        for log in &mut logs {
            let cursor = log.attach();
            log.gain(chunk.clone(), 1, 1, 0);
            log.seal();
            assert_eq!(log.read(cursor, Framing::Plain).unwrap().buffers.concat(), frames);
            assert_eq!(log.read(cursor, Framing::Chunked).unwrap().buffers.concat(), chunk.bytes);
        }
        assert_eq!(memory.bytes(), held);
        drop((logs, chunk));
        assert_eq!(memory.bytes(), 0);
        // Small ones of one turn are still one block.
        let small = Chunk::of([&b"ab"[..]], 2, &memory);
        let (mut log, cursor) = (new_log(), Cursor::default());
        log.attach();
        log.gain(small.clone(), 1, 1, 0);
        log.gain(small, 1, 2, 0);
        log.seal();
        assert_eq!(text(&log.read(cursor, Framing::Chunked).unwrap()), "4\r\nabab\r\n");
    }

    #[test]
    fn a_block_is_kept_only_while_a_cursor_is_at_or_before_it() {
        let mut log = new_log();
        assert!(!block(&mut log, "for nobody"));
        assert_eq!(log.bytes(), 0);
        let (slow, fast) = (log.attach(), log.attach());
        block(&mut log, "a");
        block(&mut log, "b");
        let span = log.read(fast, Framing::Plain).unwrap();
        assert_eq!(text(&span), "ab", "one send covers all that is behind");
        log.advance(fast, span.to);
        assert_eq!(text(&log.read(slow, Framing::Plain).unwrap()), "ab");
        log.detach(slow);
        assert_eq!(log.bytes(), 0);
        assert!(log.read(span.to, Framing::Plain).is_none());
    }

    #[test]
    fn a_newcomer_gets_nothing_of_what_was_sealed_before() {
        let mut log = new_log();
        let old = log.attach();
        block(&mut log, "before");
        let new = log.attach();
        block(&mut log, "after");
        assert_eq!(text(&log.read(old, Framing::Plain).unwrap()), "beforeafter");
        assert_eq!(text(&log.read(new, Framing::Plain).unwrap()), "after");
    }

    #[test]
    fn trimming_by_force_leaves_behind_only_cursors_before_what_remains() {
        let mut log = new_log();
        let slow = log.attach();
        block(&mut log, "aaaa");
        let late = log.attach();
        block(&mut log, "bbbb");
        assert!(log.trim_to(1));
        assert!(log.is_behind(slow));
        assert!(!log.is_behind(late));
        assert_eq!(
            text(&log.read(late, Framing::Plain).unwrap()),
            "bbbb",
            "the newest block is never dropped"
        );
        log.detach(late);
        assert_eq!(log.bytes(), 0);
    }

    #[test]
    fn one_send_is_bounded_but_never_empty() {
        let mut log = new_log();
        let cursor = log.attach();
        for _ in 0..SEND_BLOCKS_MAX + 1 {
            block(&mut log, "x");
        }
        assert_eq!(log.read(cursor, Framing::Plain).unwrap().buffers.len(), SEND_BLOCKS_MAX);
        let mut log = new_log();
        let cursor = log.attach();
        for _ in 0..2 {
            log.gain(Bytes::from(vec![b'x'; SEND_BYTES_MAX + 1]), 1, 0, 0);
            log.seal();
        }
        assert_eq!(log.read(cursor, Framing::Plain).unwrap().buffers.len(), 1);
    }

    #[test]
    #[should_panic(expected = "outside")]
    fn a_cursor_outside_the_log_is_a_bug_that_stops_at_once() {
        let mut log = new_log();
        let cursor = log.attach();
        block(&mut log, "a");
        block(&mut log, "b");
        log.trim_to(1);
        log.read(cursor, Framing::Plain);
    }
}
