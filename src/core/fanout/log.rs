//! A topic's recent blocks on one shard, each with a count of the streams that stand before it.
//!
//! The log joins events into one send, and decides that a client is too slow. It keeps a block only while a cursor is
//! at or before it, so with clients that keep up it is empty. Each block counts the cursors that point at it, as a
//! replication backlog counts its readers: no walk over streams finds out what may go, and a stream that a trim left
//! behind notices when it goes on.

use std::collections::VecDeque;
use std::sync::Arc;

use smallvec::SmallVec;

use crate::core::ahead;
use crate::core::chunk::{Chunk, Framing, Mark};
use crate::core::event_id::Sequence;
use crate::core::fanout::wire::Buffers;
use crate::core::memory::Memory;

/// Most blocks in one send: one `writev` of so many buffers costs little more than their bytes.
pub(crate) const SEND_BLOCKS_MAX: usize = 64;
/// Most bytes in one send (but one block always goes): the last send of a stalled client pins no more.
pub(crate) const SEND_BYTES_MAX: usize = 256 << 10;

/// Frames of one publish are shared from this size on, and copied below it if the turn brings more: a copy of 4 KiB
/// costs about as much as a block of its own.
pub(crate) const SHARED_BYTES_MIN: usize = 4 << 10;

/// Memory of a block beside its bytes and marks.
const BLOCK_BYTES: usize = size_of::<Block>();

/// A position in a log: the next block to send, counted from the log's first.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct Place(u64);

impl Place {
    /// Returns the place so many blocks further.
    pub(crate) fn further(self, blocks: usize) -> Place {
        Place(self.0 + blocks as u64)
    }
}

/// The bytes of one send from one log, and how far they reach.
#[derive(Debug, Default)]
pub(crate) struct Span {
    pub(crate) buffers: Buffers,
    /// The stream's place once this is sent.
    pub(crate) to: Place,
    pub(crate) events: u32,
    /// The newest event in it.
    pub(crate) last: Sequence,
    /// When its oldest publish was parsed, in microseconds of the server's clock.
    pub(crate) at_us: u64,
}

/// The frames of one publish, as a log takes them in.
#[derive(Debug)]
pub(crate) struct Gain<'g> {
    pub(crate) chunk: &'g Chunk,
    pub(crate) events: u32,
    /// The newest of its events; they follow one another.
    pub(crate) last: Sequence,
    pub(crate) at_us: u64,
    /// The places of its events; empty for a log that is read alone.
    pub(crate) marks: &'g [Mark],
}

/// The log of a topic: blocks `trimmed..tail` and the events of this turn. Owned by the shard's
/// [`Logs`](super::logs::Logs).
#[derive(Debug)]
pub(crate) struct BlockLog {
    blocks: VecDeque<Block>,
    /// The place of the first retained block: `trimmed`.
    trimmed: u64,
    bytes: usize,
    /// Bytes of all blocks there ever were.
    pub(super) written: u64,
    memory: Arc<Memory>,
    /// Cursors at the tail: their streams have been sent everything.
    at_tail: u32,
    open: Open,
    /// Set when a block was made since the last [`BlockLog::seal`].
    has_new_block: bool,
}

/// The frames that a topic gained in one turn, contiguous, as one HTTP chunk.
#[derive(Debug)]
pub(crate) struct Block {
    pub(crate) chunk: Chunk,
    /// Bytes of the blocks before it.
    start: u64,
    /// Cursors that point here.
    readers: u32,
    pub(crate) events: u32,
    /// Its oldest event, and its newest.
    pub(crate) first: Sequence,
    pub(crate) last: Sequence,
    pub(crate) at_us: u64,
    /// The places of its events, for streams that read other logs too; empty where none does.
    pub(crate) marks: Box<[Mark]>,
}

/// The frames gained since the last block was made.
#[derive(Debug, Default)]
struct Open {
    /// Most topics gain one publish in a turn; room for more would cost each topic 120 bytes.
    chunks: SmallVec<[Chunk; 1]>,
    marks: Vec<Mark>,
    bytes: usize,
    events: u32,
    first: Sequence,
    last: Sequence,
    at_us: u64,
}

impl BlockLog {
    /// Returns an empty log, whose blocks are counted in `memory`.
    pub(crate) fn new(memory: Arc<Memory>) -> Self {
        BlockLog {
            has_new_block: false,
            blocks: VecDeque::new(),
            trimmed: 0,
            bytes: 0,
            written: 0,
            memory,
            at_tail: 0,
            open: Open::default(),
        }
    }

    /// Adds a publish to the turn's block; a large one becomes a block of its own, which is not copied.
    pub(crate) fn gain(&mut self, gain: &Gain<'_>) {
        let Gain { chunk, events, last, at_us, marks } = gain;
        debug_assert!(u64::from(*events) <= last + 1, "events are numbered from 1");
        let is_large = chunk.frame_bytes() >= SHARED_BYTES_MIN;
        if is_large {
            self.cut();
        }
        let open = &mut self.open;
        if open.chunks.is_empty() {
            open.at_us = *at_us;
            open.first = last + 1 - u64::from(*events);
        }
        open.marks.extend(marks.iter().map(|mark| mark.behind(open.bytes)));
        open.bytes += chunk.frame_bytes();
        open.events += events;
        open.last = *last;
        open.chunks.push((*chunk).clone());
        if is_large {
            self.cut();
        }
    }

    /// Ends the turn's block. Returns whether there is a new block to read.
    pub(crate) fn seal(&mut self) -> bool {
        self.cut();
        std::mem::take(&mut self.has_new_block)
    }

    /// Looks ahead at what an event needs.
    pub(crate) fn look_ahead(&self) {
        ahead::read((
            self.blocks.len(),
            self.written,
            self.at_tail,
            self.open.chunks.len(),
            self.open.events,
        ));
    }

    /// Returns whether something was gained that is not sealed.
    pub(crate) fn is_open(&self) -> bool {
        !self.open.chunks.is_empty()
    }

    /// Makes a block of what was gained.
    fn cut(&mut self) {
        if self.open.chunks.is_empty() {
            return;
        }
        let Open { chunks, marks, bytes, events, first, last, at_us } = std::mem::take(&mut self.open);
        let readers = std::mem::take(&mut self.at_tail);
        if readers == 0 && self.blocks.is_empty() {
            // No stream needs it, now or later.
            return;
        }
        let chunk = match &chunks[..] {
            [chunk] => chunk.clone(),
            chunks => Chunk::of(chunks.iter().map(Chunk::frames), bytes, &self.memory),
        };
        let start = self.written;
        self.bytes += chunk.bytes();
        self.written += chunk.bytes() as u64;
        let marks = marks.into_boxed_slice();
        let block = Block { chunk, start, readers, events, first, last, at_us, marks };
        self.memory.hold(block.bytes_beside());
        self.blocks.push_back(block);
        self.has_new_block = true;
    }

    /// Adds a cursor and returns its place, after all sealed blocks. The turn's block must be sealed first.
    pub(crate) fn attach(&mut self) -> Place {
        self.at_tail += 1;
        self.tail()
    }

    /// Removes a cursor that is not behind, and the blocks kept for it alone.
    pub(crate) fn detach(&mut self, place: Place) {
        self.check(place);
        *self.readers(place) -= 1;
        self.trim();
    }

    /// Returns whether blocks from this place on were dropped before they were sent. Such a cursor is not counted any
    /// more and must be neither advanced nor detached.
    pub(crate) fn is_behind(&self, place: Place) -> bool {
        place.0 < self.trimmed
    }

    /// Returns whether there is no block from the place on.
    pub(crate) fn is_at_tail(&self, place: Place) -> bool {
        place == self.tail()
    }

    /// Returns everything from the place on that fits one send; `None` at the tail.
    pub(crate) fn read(&self, place: Place, framing: Framing) -> Option<Span> {
        let mut blocks = self.blocks_from(place).peekable();
        let mut span = Span { to: place, at_us: blocks.peek()?.at_us, ..Span::default() };
        let mut bytes = 0;
        for block in blocks.take(SEND_BLOCKS_MAX) {
            bytes += block.chunk.bytes();
            if bytes > SEND_BYTES_MAX && !span.buffers.is_empty() {
                break;
            }
            span.buffers.push(block.chunk.body(framing));
            span.to.0 += 1;
            span.events += block.events;
            span.last = block.last;
        }
        Some(span)
    }

    /// Returns the blocks from the place on.
    pub(crate) fn blocks_from(&self, place: Place) -> impl Iterator<Item = &Block> {
        self.check(place);
        self.blocks.range((place.0 - self.trimmed) as usize..)
    }

    /// Moves a cursor past the blocks that are sent now.
    pub(crate) fn advance(&mut self, from: Place, to: Place) {
        self.check(from);
        self.check(to);
        *self.readers(from) -= 1;
        *self.readers(to) += 1;
        self.trim();
    }

    /// Drops the oldest blocks until at most `bytes_max` remain, but never the newest block, which no stream has had
    /// time to read.
    pub(crate) fn trim_to(&mut self, bytes_max: usize) {
        while self.bytes > bytes_max && self.blocks.len() > 1 {
            self.drop_first();
        }
        self.trim();
    }

    /// Returns the bytes from the place on.
    pub(crate) fn bytes_from(&self, place: Place) -> usize {
        let first = self.blocks.get(place.0.saturating_sub(self.trimmed) as usize);
        first.map_or(0, |block| (self.written - block.start) as usize)
    }

    /// Returns the bytes of the blocks kept.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    fn tail(&self) -> Place {
        Place(self.trimmed + self.blocks.len() as u64)
    }

    /// Asserts the invariant: `trimmed <= place <= tail`.
    fn check(&self, place: Place) {
        assert!(
            self.trimmed <= place.0 && place <= self.tail(),
            "place {} outside {}..={}",
            place.0,
            self.trimmed,
            self.tail().0
        );
    }

    fn readers(&mut self, place: Place) -> &mut u32 {
        match self.blocks.get_mut((place.0 - self.trimmed) as usize) {
            Some(block) => &mut block.readers,
            None => &mut self.at_tail,
        }
    }

    /// Drops the blocks that no cursor is at or before.
    fn trim(&mut self) {
        while self.blocks.front().is_some_and(|block| block.readers == 0) {
            self.drop_first();
        }
    }

    fn drop_first(&mut self) {
        let Some(block) = self.blocks.pop_front() else { return };
        self.memory.release(block.bytes_beside());
        self.trimmed += 1;
        self.bytes -= block.chunk.bytes();
    }
}

impl Drop for BlockLog {
    fn drop(&mut self) {
        self.memory.release(self.blocks.iter().map(Block::bytes_beside).sum());
    }
}

impl Block {
    /// Returns the start of event number `mark` among the block's frames, in bytes; past the last event, the end of the
    /// frames.
    pub(crate) fn start_of(&self, mark: usize) -> usize {
        mark.checked_sub(1).map_or(0, |before| self.marks[before].end as usize)
    }

    /// Returns the memory it takes beside its frames, which may be shared.
    fn bytes_beside(&self) -> usize {
        BLOCK_BYTES + size_of_val(&*self.marks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new_log() -> BlockLog {
        BlockLog::new(Memory::new(usize::MAX))
    }

    fn gain(log: &mut BlockLog, text: impl AsRef<[u8]>) {
        let chunk = Chunk::of([text.as_ref()], text.as_ref().len(), &log.memory);
        log.gain(&Gain { chunk: &chunk, events: 1, last: 1, at_us: 0, marks: &[] });
    }

    fn block(log: &mut BlockLog, text: &'static str) -> bool {
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
    fn what_many_logs_gain_is_held_once() {
        let memory = Memory::new(usize::MAX);
        let frames = vec![b'x'; SHARED_BYTES_MIN];
        let chunk = Chunk::of([&frames[..]], frames.len(), &memory);
        let held = memory.bytes() + 10 * BLOCK_BYTES;
        let mut logs: Vec<_> = (0..10).map(|_| BlockLog::new(Arc::clone(&memory))).collect();
        for log in &mut logs {
            let place = log.attach();
            log.gain(&Gain { chunk: &chunk, events: 1, last: 1, at_us: 0, marks: &[] });
            log.seal();
            assert_eq!(log.read(place, Framing::Plain).unwrap().buffers.concat(), frames);
            assert_eq!(
                log.read(place, Framing::Chunked).unwrap().buffers.concat(),
                chunk.body(Framing::Chunked)
            );
        }
        assert_eq!(memory.bytes(), held);
        drop((logs, chunk));
        assert_eq!(memory.bytes(), 0);
    }

    #[test]
    fn the_marks_of_a_block_are_those_of_its_publishes_one_behind_the_other() {
        let mut log = new_log();
        let place = log.attach();
        let mark = |sequence, end, id_at| Mark { sequence, end, id_at };
        for (last, marks) in [(4, &[mark(3, 2, 1), mark(4, 5, 4)][..]), (9, &[mark(9, 3, 2)])] {
            let end = marks.last().unwrap().end as usize;
            let chunk = Chunk::of([&b"xxxxx"[..end]], end, &log.memory);
            log.gain(&Gain { chunk: &chunk, events: marks.len() as u32, last, at_us: 0, marks });
        }
        log.seal();
        let block = log.blocks_from(place).next().unwrap();
        assert_eq!(block.marks[..], [mark(3, 2, 1), mark(4, 5, 4), mark(9, 8, 7)]);
        assert_eq!((block.first, block.last, block.events), (3, 9, 3));
        assert_eq!([0, 1, 2, 3].map(|mark| block.start_of(mark)), [0, 2, 5, 8]);
        assert_eq!(log.memory.bytes() - block.chunk.bytes() - BLOCK_BYTES, 48 + 7);
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
        log.trim_to(1);
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
            gain(&mut log, vec![b'x'; SEND_BYTES_MAX + 1]);
            log.seal();
        }
        assert_eq!(log.read(cursor, Framing::Plain).unwrap().buffers.len(), 1);
    }

    #[test]
    fn a_send_is_as_large_as_it_may_be() {
        let mut log = new_log();
        let cursor = log.attach();
        for _ in 0..4 {
            // Less the nine bytes of chunk framing around each.
            gain(&mut log, vec![b'x'; SEND_BYTES_MAX / 2 - 9]);
            log.seal();
        }
        let span = log.read(cursor, Framing::Chunked).unwrap();
        assert_eq!((span.buffers.len(), span.buffers.concat().len()), (2, SEND_BYTES_MAX));
        assert_eq!(log.bytes_from(cursor), 2 * SEND_BYTES_MAX);
        assert_eq!(log.bytes_from(span.to), SEND_BYTES_MAX);
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
