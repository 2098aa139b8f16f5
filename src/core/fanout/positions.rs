//! Writes the ids of a stream over several partitions.
//!
//! Such a stream has a place in each partition, and wherever it breaks off, the last id that the client has must name
//! them all. So each event's id becomes a position. That costs a copy for each subscriber, which streams on one topic
//! are spared.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use crate::core::chunk::{Chunk, Mark};
use crate::core::event_id::{CODE_SEPARATOR, Epoch, Sequence, TOPIC_SEPARATOR};
use crate::core::fanout::log::SHARED_BYTES_MIN;
use crate::core::fanout::sending::Sender;
use crate::core::memory::Memory;
use crate::core::named::topic_of;
use crate::core::partition::PartitionId;
use crate::core::selection::StreamIds;

/// Most shared pieces; what comes after is copied. The kernel takes 1024 buffers in one call (IOV_MAX).
const PIECES_MAX: usize = 512;

/// The ids to write while a stream is sent events of one partition.
#[derive(Clone, Debug)]
pub(super) struct PositionIds<'c, P> {
    /// `None` without history: then there are no ids.
    epoch: Option<Epoch>,
    code: Option<&'c str>,
    /// Whether the topic that an event's first line names follows its position.
    names_topics: bool,
    /// The stream's place in each partition.
    places: P,
    /// The partition whose events are being sent.
    moving: Option<PartitionId>,
}

impl<'c, P: Iterator<Item = (PartitionId, Sequence)> + Clone> PositionIds<'c, P> {
    /// Returns the ids of a stream at `places`, while events of partition `moving` are sent.
    pub(super) fn new(sender: Sender<'c>, ids: StreamIds, places: P, moving: Option<PartitionId>) -> Self {
        let Sender { epoch, code, .. } = sender;
        PositionIds { epoch, code, names_topics: ids.name_topics(), places, moving }
    }

    /// Appends an event of a block, which begins at `start` among its frames, with its position as id.
    pub(super) fn write_event(&self, frames: &Chunk, start: usize, mark: Mark, out: &mut Pieces) {
        let Some(epoch) = self.epoch else { return out.push(frames, start..mark.end as usize) };
        out.push(frames, start..mark.id_at as usize);
        self.write_id(epoch, mark.sequence, &frames.frames()[start..], out);
    }

    /// Appends an event of a replay, or a notice, with its position as id if it has an id; returns its place in that
    /// case.
    pub(super) fn write_text(&self, text: &Bytes, out: &mut Pieces) -> Option<Sequence> {
        let found = self.epoch.and_then(|epoch| Some((epoch, place_in(text, epoch)?)));
        let Some((epoch, (lines, place))) = found else {
            out.push_bytes(text.clone());
            return None;
        };
        out.push_bytes(text.slice_ref(lines));
        self.write_id(epoch, place, text, out);
        Some(place)
    }

    /// Appends the `id:` line of an event, which begins at `event`, and the blank line that ends it.
    fn write_id(&self, epoch: Epoch, place: Sequence, event: &[u8], out: &mut Pieces) {
        let moved = |(of, at)| (of, if self.moving == Some(of) { place } else { at });
        out.own.extend_from_slice(b"id:");
        epoch.write_position(self.places.clone().map(moved), &mut out.own);
        write_code(self.code, &mut out.own);
        if self.names_topics
            && let Some(topic) = topic_of(event)
        {
            out.own.push(TOPIC_SEPARATOR);
            out.own.extend_from_slice(topic);
        }
        out.own.extend_from_slice(b"\n\n");
    }
}

/// The bytes of one send: own ones, and large events that are shared with other streams.
#[derive(Debug, Default)]
pub(super) struct Pieces {
    ended: Vec<Piece>,
    own: Vec<u8>,
}

#[derive(Debug)]
enum Piece {
    Own(Vec<u8>),
    Shared(Bytes),
}

impl Pieces {
    /// Appends a part of `frames`.
    pub(super) fn push(&mut self, frames: &Chunk, part: Range<usize>) {
        match self.shares(part.len()) {
            true => self.push_shared(frames.slice(part)),
            false => self.own.extend_from_slice(&frames.frames()[part]),
        }
    }

    fn push_bytes(&mut self, text: Bytes) {
        match self.shares(text.len()) {
            true => self.push_shared(text),
            false => self.own.extend_from_slice(&text),
        }
    }

    fn shares(&self, bytes: usize) -> bool {
        bytes >= SHARED_BYTES_MIN && self.ended.len() < PIECES_MAX
    }

    fn push_shared(&mut self, bytes: Bytes) {
        self.ended.push(Piece::Own(std::mem::take(&mut self.own)));
        self.ended.push(Piece::Shared(bytes));
    }

    /// Returns the buffers; own bytes are counted in `memory`.
    pub(super) fn into_buffers(self, memory: &Arc<Memory>) -> impl Iterator<Item = Bytes> {
        self.ended.into_iter().chain([Piece::Own(self.own)]).filter_map(move |piece| match piece {
            Piece::Own(own) => (!own.is_empty()).then(|| memory.share(own)),
            Piece::Shared(shared) => Some(shared),
        })
    }
}

/// Appends the code of a ticket to an id.
pub(super) fn write_code(code: Option<&str>, id: &mut Vec<u8>) {
    if let Some(code) = code {
        id.push(CODE_SEPARATOR);
        id.extend_from_slice(code.as_bytes());
    }
}

/// Returns the lines of an event before its last line, and the place that the last line's id names.
fn place_in(event: &[u8], epoch: Epoch) -> Option<(&[u8], Sequence)> {
    let text = event.strip_suffix(b"\n\n")?;
    let start = memchr::memrchr(b'\n', text).map_or(0, |at| at + 1);
    let id = str::from_utf8(text[start..].strip_prefix(b"id:")?).ok()?;
    Some((&event[..start], epoch.sequence(id)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::fanout::wire::Heartbeat;

    const EPOCH: u64 = 7;

    fn sender(epoch: Option<Epoch>, memory: &Arc<Memory>) -> Sender<'_> {
        Sender { epoch, code: None, heartbeat: Heartbeat::Comment, memory, now_ms: 0 }
    }

    fn text(pieces: Pieces) -> String {
        String::from_utf8(pieces.into_buffers(&Memory::new(usize::MAX)).collect::<Vec<_>>().concat()).unwrap()
    }

    #[test]
    fn an_id_on_the_wire_names_the_place_in_each_partition() {
        let places = [(0, 3), (2, 5)];
        let memory = Memory::new(usize::MAX);
        let sender = Sender { code: Some("code"), ..sender(Some(Epoch::at(EPOCH)), &memory) };
        let ids = PositionIds::new(sender, StreamIds::PositionsAndTopics, places.into_iter(), Some(2));
        let mut out = Pieces::default();
        let events = [
            "topic:a/b\ndata:a\nid:7-8\n\n",
            ":\n\n",
            "event:gap\ndata:{}\n\n",
            "data:b\nid:own\n\n",
            "event:gap\nid:7-9\n\n",
        ];
        let written = events.map(|event| ids.write_text(&Bytes::from(event), &mut out));
        assert_eq!(written, [Some(8), None, None, None, Some(9)]);
        let expected = [
            "topic:a/b\ndata:a\nid:7-0.3-2.8~code@a/b\n\n",
            ":\n\n",
            "event:gap\ndata:{}\n\n",
            "data:b\nid:own\n\n",
            "event:gap\nid:7-0.3-2.9~code\n\n",
        ];
        assert_eq!(text(out), expected.concat());
    }

    #[test]
    fn an_event_of_a_block_has_its_position_behind_whatever_id_its_publisher_gave_it() {
        let memory = Memory::new(usize::MAX);
        let frames = "data:a\nid:7-4\n\nid:own\ndata:b\n\n";
        let chunk = Chunk::of([frames.as_bytes()], frames.len(), &memory);
        let marks = [Mark { sequence: 4, end: 15, id_at: 7 }, Mark { sequence: 5, end: 30, id_at: 29 }];
        for (epoch, expected) in [
            (Some(Epoch::at(EPOCH)), "data:a\nid:7-1.4\n\nid:own\ndata:b\nid:7-1.5\n\n"),
            // Without history frames are sent unchanged.
            (None, frames),
        ] {
            let ids =
                PositionIds::new(sender(epoch, &memory), StreamIds::Positions, [(1, 3)].into_iter(), Some(1));
            let mut out = Pieces::default();
            ids.write_event(&chunk, 0, marks[0], &mut out);
            ids.write_event(&chunk, 15, marks[1], &mut out);
            assert_eq!(text(out), expected);
        }
    }

    #[test]
    fn large_events_are_shared_as_long_as_the_kernel_takes_so_many_buffers_and_small_ones_are_copied() {
        let memory = Memory::new(usize::MAX);
        for (bytes, count, buffers) in [
            (SHARED_BYTES_MIN, 1, 2),
            (SHARED_BYTES_MIN, 256, 512),
            // Bytes past those go with the last id.
            (SHARED_BYTES_MIN, 300, 512),
            (SHARED_BYTES_MIN - 1, 300, 1),
        ] {
            let chunk = Chunk::of([&*vec![b'x'; bytes]], bytes, &memory);
            let places = [(1, 3)].into_iter();
            let ids = PositionIds::new(
                sender(Some(Epoch::at(EPOCH)), &memory),
                StreamIds::Positions,
                places,
                Some(1),
            );
            let mark = Mark { sequence: 4, end: bytes as u32, id_at: bytes as u32 };
            let [mut of_blocks, mut of_texts] = [Pieces::default(), Pieces::default()];
            for _ in 0..count {
                ids.write_event(&chunk, 0, mark, &mut of_blocks);
                of_texts.push_bytes(chunk.slice(0..bytes));
                ids.write_id(Epoch::at(EPOCH), 4, b"", &mut of_texts);
            }
            for pieces in [of_blocks, of_texts] {
                let sent: Vec<_> = pieces.into_buffers(&memory).collect();
                assert_eq!(sent.len(), buffers, "{count} of {bytes} bytes");
                assert_eq!(sent.concat().len(), count * (bytes + "id:7-1.4\n\n".len()));
            }
        }
    }
}
