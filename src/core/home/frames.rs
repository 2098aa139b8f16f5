//! Events become frames: their bytes on the wire, written once, whoever is sent them.

use super::Home;
use crate::core::chunk::{Chunk, ChunkWriter, Mark};
use crate::core::event::Events;
use crate::core::event_id::EventId;
use crate::core::message::Marks;

/// The frames of one publish.
pub(super) struct Frames {
    pub(super) frames: Chunk,
    /// Where each event lies.
    pub(super) marks: Marks,
    pub(super) last_id: EventId,
    /// How many of the publisher's ids were replaced.
    pub(super) ids_replaced: u32,
}

impl Home {
    /// Gives each event its place and writes all frames, one behind the other, into one allocation.
    pub(super) fn serialise(&mut self, events: &Events, with_ids: bool) -> Frames {
        let last = self.sequence + events.len() as u64;
        // `id:...\n` and the blank line: exact but where a batch crosses a power of ten, so that what the
        // history accounts for is what the heap holds.
        let tail_bytes = "id:".len() + self.epoch.text_bytes(last) + 2;
        let mut writer = ChunkWriter::with_capacity(events.text_bytes() + events.len() * tail_bytes);
        let mut marks = Marks::with_capacity(events.len());
        let mut last_id = EventId::Sequence(self.sequence);
        let mut ids_replaced = 0;
        for event in events.iter() {
            self.sequence += 1;
            writer.text().extend_from_slice(event.lines);
            // Without history nobody resumes, and no id can stand for another event.
            let own_id = if with_ids { event.own_id() } else { event.id };
            last_id = match own_id {
                Some(id) => EventId::Own(id.into()),
                None => EventId::Sequence(self.sequence),
            };
            let id_at = writer.frame_bytes() as u32;
            if with_ids && own_id.is_none() {
                // Last of the event's lines: an `id:` of the publisher's before it is overruled.
                self.epoch.write_line(self.sequence, writer.text());
                ids_replaced += u32::from(event.id.is_some());
            }
            writer.text().push(b'\n');
            marks.push(Mark { sequence: self.sequence, end: writer.frame_bytes() as u32, id_at });
        }
        Frames { frames: writer.finish(&self.memory), marks, last_id, ids_replaced }
    }
}
