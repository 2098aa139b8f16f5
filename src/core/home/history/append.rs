//! Appends events: writes their frames, the bytes on the wire, once for all receivers, and retains them.

use super::topics::DroppedFrame;
use super::{Aged, PartitionHistory, TopicEnd, TopicKey};
use crate::core::chunk::{Chunk, ChunkWriter, Mark};
use crate::core::event::Events;
use crate::core::event_id::{EventId, Sequence};
use crate::core::message::{Marks, OrderError};
use crate::core::topic::Topic;

/// The frames of one publish, as its home posts them.
#[derive(Debug)]
pub(crate) struct Frames {
    pub(crate) frames: Chunk,
    /// The place of each event.
    pub(crate) marks: Marks,
    pub(crate) last_id: EventId,
    /// The number of publisher's ids that were replaced.
    pub(crate) ids_replaced: u32,
}

impl PartitionHistory {
    /// Returns the key under which a topic's events are appended. `Ok(None)` when nothing is retained and no topic
    /// above is known.
    ///
    /// # Errors
    /// There is no room for a further topic.
    pub(crate) fn place(&mut self, topic: &Topic) -> Result<Option<TopicKey>, OrderError> {
        match self.topics.find(topic) {
            Some(key) => Ok(Some(key)),
            None if self.is_on() => match self.topics.find_or_insert(topic) {
                Some(key) => Ok(Some(key)),
                None => Err(OrderError::TopicsFull),
            },
            // Nothing is retained: the event goes to listeners above, or to none.
            None => Ok(self.topics.nearest_above(topic)),
        }
    }

    /// Returns the key under which a topic's events are appended, even when there are more topics than the limit: the
    /// rest of the cluster has them.
    pub(crate) fn place_always(&mut self, topic: &Topic) -> Option<TopicKey> {
        match self.topics.find(topic) {
            None if self.is_on() => self.topics.insert_always(topic),
            None => self.topics.nearest_above(topic),
            key => key,
        }
    }

    /// Appends events to the topic of this key, if there is one. The first has the place `first`, after all that was
    /// appended.
    pub(crate) fn append(
        &mut self,
        key: Option<TopicKey>,
        events: &Events,
        first: Sequence,
        now_ms: u64,
    ) -> Frames {
        debug_assert!(first > self.sequence, "appended in order");
        let frames = self.serialise(events, first);
        if let Some(key) = key {
            self.topics.touch(key);
            if self.is_on() {
                self.retain(key, events, &frames, now_ms);
            }
        }
        frames
    }

    /// Writes all frames, one after the other, into one allocation.
    fn serialise(&mut self, events: &Events, first: Sequence) -> Frames {
        let with_ids = self.is_on();
        let last = first + events.len() as u64 - 1;
        // `id:...\n` and the blank line: exact but where a batch crosses a power of ten, so that what the
        // history accounts for is what the heap holds.
        let tail_bytes = "id:".len() + self.epoch.text_bytes(last) + 2;
        let mut writer = ChunkWriter::with_capacity(events.text_bytes() + events.len() * tail_bytes);
        let mut marks = Marks::with_capacity(events.len());
        let mut last_id = EventId::Sequence(last);
        let mut ids_replaced = 0;
        for (event, sequence) in events.iter().zip(first..) {
            writer.text().extend_from_slice(event.lines);
            // Without history nobody resumes, and no id can stand for another event.
            let own_id = if with_ids { event.own_id() } else { event.id };
            last_id = match own_id {
                Some(id) => EventId::Own(id.into()),
                None => EventId::Sequence(sequence),
            };
            let id_at = writer.frame_bytes() as u32;
            if with_ids && own_id.is_none() {
                // Last of the event's lines, so that it overrules an `id:` of the publisher's.
                self.epoch.write_line(sequence, writer.text());
                ids_replaced += u32::from(event.id.is_some());
            }
            writer.text().push(b'\n');
            marks.push(Mark { sequence, end: writer.frame_bytes() as u32, id_at });
        }
        self.sequence = last;
        Frames { frames: writer.finish(&self.memory), marks, last_id, ids_replaced }
    }

    fn retain(&mut self, key: TopicKey, events: &Events, frames: &Frames, now_ms: u64) {
        let Frames { frames, marks, .. } = frames;
        let mut start = 0;
        for (event, &Mark { sequence, end, .. }) in events.iter().zip(marks) {
            let end = end as usize;
            let frame = match marks.len() {
                1 => frames.slice(0..end),
                // A copy: a small event that outlives a large one of the same publish must not keep its memory.
                _ => self.memory.share(frames.frames()[start..end].to_vec()),
            };
            let own_id = event.own_id();
            self.topics.retain(key, sequence, frame, own_id, now_ms);
            let aged = Aged { topic: key, own_id: own_id.is_some(), sequence };
            if aged.own_id {
                self.own_by_age.push_back(aged);
            }
            self.by_age.push_back(aged);
            start = end;
        }
        loop {
            let history = &self.topics[key].history;
            if history.len() <= self.limits.events_max && history.bytes() <= self.limits.bytes_max {
                break;
            }
            self.topics.drop_first(key);
        }
        // Swept when stale entries are the majority: that costs each past event a constant.
        for ages in [&mut self.by_age, &mut self.own_by_age] {
            if ages.len() > 2 * self.topics.events + 64 {
                ages.retain(|aged| self.topics.retains(aged.topic, aged.sequence));
            }
        }
    }

    /// Notes the loss of recovered events whose topic has no room.
    pub(crate) fn lose_unplaced(&mut self, topic: &Topic, events: &Events, first: Sequence) {
        for (event, sequence) in events.iter().zip(first..) {
            let own_id = event.own_id().map(Into::into);
            self.topics.lose_unknown(topic, TopicEnd { sequence, own_id });
            let frame_bytes = event.lines.len() + 1;
            self.topics.note_dropped(DroppedFrame { sequence, frame_bytes, has_own_id: true });
        }
    }

    /// Forgets a topic that retains nothing and that nobody needs, for example one whose event was too large for its
    /// history.
    pub(crate) fn forget_if_unneeded(&mut self, key: TopicKey) {
        self.topics.forget_if_unneeded(key);
    }
}
