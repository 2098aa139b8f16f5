//! Merges the blocks that a multi-topic stream is sent of one partition, in the partition's order.
//!
//! A send takes whole blocks, so that a cursor is always between two of them. Every block left over begins after the
//! newest event taken. Blocks of one turn may overlap and those of two turns do not, so a send that began with one
//! turn's blocks need not go on beyond that turn.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use smallvec::SmallVec;

use crate::core::chunk::Framing;
use crate::core::event_id::Sequence;
use crate::core::fanout::log::{Block, SEND_BLOCKS_MAX, SEND_BYTES_MAX};
use crate::core::fanout::logs::Logs;
use crate::core::fanout::part::Cursor;
use crate::core::fanout::positions::{Pieces, PositionIds};
use crate::core::fanout::wire::Buffers;
use crate::core::memory::Memory;
use crate::core::partition::PartitionId;

/// The blocks of one send to one stream.
#[derive(Debug, Default)]
pub(crate) struct Merged<'l> {
    /// In the order of their first events.
    blocks: SmallVec<[&'l Block; 4]>,
    taken: Taken,
}

/// The part of the logs that a send covers, for moving the cursors.
#[derive(Debug, Default)]
pub(crate) struct Taken {
    /// The number of each cursor, and of the blocks taken from its log.
    pub(crate) blocks: SmallVec<[(usize, usize); 4]>,
    pub(crate) events: u32,
    /// The newest event.
    pub(crate) last: Sequence,
    /// When the oldest publish was parsed, in microseconds of the server's clock.
    pub(crate) at_us: u64,
}

/// A run of events of one block, in the order of sending.
#[derive(Debug)]
enum MergeRun<'l> {
    /// A block that overlaps no other.
    Whole(&'l Block),
    /// Consecutive events of one block, by their numbers among its marks.
    Part(&'l Block, Range<usize>),
}

impl<'l> Merged<'l> {
    /// Returns the blocks to send from these cursors' logs, of one partition: none while one of the logs is not sealed,
    /// because it may hold older events than the others.
    pub(crate) fn of(cursors: &[Cursor], logs: &'l Logs) -> Self {
        if cursors.iter().any(|cursor| logs[cursor.log].log.is_open()) {
            return Merged::default();
        }
        // The blocks of each cursor, with its number and how many of them are taken.
        let mut ahead: SmallVec<[_; 4]> = cursors
            .iter()
            .enumerate()
            .filter_map(|(number, cursor)| {
                let mut blocks = logs[cursor.log].log.blocks_from(cursor.place);
                blocks.next().map(|next| (number, 0, Some(next), blocks))
            })
            .collect();
        let mut merged = Merged::default();
        let mut bytes = 0;
        while let Some((_, count, next, blocks)) = ahead
            .iter_mut()
            .min_by_key(|(.., next, _)| next.map_or(Sequence::MAX, |block: &Block| block.first))
            && let Some(block) = *next
        {
            let is_full =
                merged.blocks.len() >= SEND_BLOCKS_MAX || bytes + block.chunk.bytes() > SEND_BYTES_MAX;
            if is_full && !merged.blocks.is_empty() && block.first > merged.taken.last {
                break;
            }
            if merged.blocks.is_empty() {
                merged.taken.at_us = block.at_us;
            }
            bytes += block.chunk.bytes();
            merged.taken.events += block.events;
            merged.taken.last = merged.taken.last.max(block.last);
            merged.blocks.push(block);
            *count += 1;
            *next = blocks.next();
        }
        merged.taken.blocks = ahead.iter().map(|(number, count, ..)| (*number, *count)).collect();
        merged
    }

    /// Returns whether there is nothing to send.
    pub(crate) fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    /// Returns the extent of the send, after its bytes were written.
    pub(crate) fn taken(self) -> Taken {
        self.taken
    }

    /// Returns the buffers: blocks whole, and events of overlapping blocks cut out and framed together.
    pub(crate) fn as_they_are(&self, framing: Framing, memory: &Arc<Memory>) -> Buffers {
        let mut buffers = Vec::new();
        let mut cut_out = Pieces::default();
        let flush = |cut_out: &mut Pieces, buffers: &mut Vec<Bytes>| {
            framing.frame_some(std::mem::take(cut_out).into_buffers(memory), buffers);
        };
        self.for_each_run(|run| match run {
            MergeRun::Whole(block) => {
                flush(&mut cut_out, &mut buffers);
                buffers.push(block.chunk.body(framing));
            }
            MergeRun::Part(block, marks) => {
                cut_out.push(&block.chunk, block.start_of(marks.start)..block.start_of(marks.end));
            }
        });
        flush(&mut cut_out, &mut buffers);
        buffers.into()
    }

    /// Returns the buffers with the stream's own position as each event's id.
    pub(crate) fn with_positions<P: Iterator<Item = (PartitionId, Sequence)> + Clone>(
        &self,
        ids: &PositionIds<P>,
        framing: Framing,
        memory: &Arc<Memory>,
    ) -> Buffers {
        let mut pieces = Pieces::default();
        self.for_each_run(|run| {
            let (block, marks) = match run {
                MergeRun::Whole(block) => (block, 0..block.marks.len()),
                MergeRun::Part(block, marks) => (block, marks),
            };
            for mark in marks {
                ids.write_event(&block.chunk, block.start_of(mark), block.marks[mark], &mut pieces);
            }
        });
        let mut buffers = Vec::with_capacity(3);
        framing.frame_some(pieces.into_buffers(memory), &mut buffers);
        buffers.into()
    }

    /// Runs `each` for all events in order.
    fn for_each_run(&self, mut each: impl FnMut(MergeRun<'l>)) {
        let mut rest = &self.blocks[..];
        while let Some(block) = rest.first() {
            // All blocks that overlap this one; maybe none.
            let mut upto = block.last;
            let overlapping = rest[1..].iter().take_while(|block| {
                let overlaps = block.first <= upto;
                upto = upto.max(block.last);
                overlaps
            });
            let (together, others) = rest.split_at(1 + overlapping.count());
            match together {
                [block] => each(MergeRun::Whole(block)),
                blocks => interleave(blocks, &mut each),
            }
            rest = others;
        }
    }
}

/// Runs `each` for the events of blocks that overlap.
fn interleave<'l>(blocks: &[&'l Block], each: &mut impl FnMut(MergeRun<'l>)) {
    let marks = |(number, block): (usize, &&'l Block)| {
        (0..block.marks.len()).map(move |mark| (number, mark)).collect::<Vec<_>>()
    };
    let mut events: Vec<_> = blocks.iter().enumerate().flat_map(marks).collect();
    events.sort_unstable_by_key(|(number, mark)| blocks[*number].marks[*mark].sequence);
    for run in events.chunk_by(|(one, _), (next, _)| one == next) {
        let (number, first) = run[0];
        each(MergeRun::Part(blocks[number], first..first + run.len()));
    }
}
