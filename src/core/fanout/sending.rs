//! Chooses the next bytes of a stream: pages of replay, notices of gaps, and blocks of its logs.

use std::sync::Arc;

use bytes::Bytes;
use smallvec::smallvec;

use crate::core::event_id::{Epoch, Sequence};
use crate::core::fanout::log::{SEND_BLOCKS_MAX, SEND_BYTES_MAX, Span};
use crate::core::fanout::logs::Logs;
use crate::core::fanout::merge::{Merged, Taken};
use crate::core::fanout::part::{Replayed, Stage, attach};
use crate::core::fanout::positions::{Pieces, PositionIds};
use crate::core::fanout::subscriber::{Flight, Subscriber};
use crate::core::fanout::wire::{Buffers, Heartbeat, gap_event};
use crate::core::memory::Memory;
use crate::core::message::{Gap, GapReason};
use crate::core::partition::PartitionId;

/// The next step of a stream.
#[derive(Debug)]
pub(crate) enum Next {
    /// Send these bytes, and keep what there is no room for.
    Send(Outgoing),
    /// Do nothing until woken.
    Wait,
    /// Close the connection: everything was sent.
    Close,
    /// Close the connection of a client that is too slow, whatever it has not taken yet.
    Cut,
}

/// Bytes to send, and the events in them.
#[derive(Debug, Default)]
pub(crate) struct Outgoing {
    pub(crate) buffers: Buffers,
    /// Events among them.
    pub(crate) events: u32,
    /// When the oldest of those was published, in microseconds of the server's clock; 0 for a replay.
    pub(crate) at_us: u64,
}

impl From<Bytes> for Outgoing {
    fn from(bytes: Bytes) -> Self {
        Outgoing { buffers: smallvec![bytes], ..Outgoing::default() }
    }
}

/// Values from the fan-out that a send needs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sender<'s> {
    /// The epoch of ids; `None` when there are no ids.
    pub(crate) epoch: Option<Epoch>,
    /// The code behind the stream's ids, if they have one.
    pub(crate) code: Option<&'s str>,
    /// What the stream gets when it is quiet.
    pub(crate) heartbeat: Heartbeat,
    /// Counts the bytes that are made for one stream.
    pub(crate) memory: &'s Arc<Memory>,
    pub(crate) now_ms: u64,
}

/// A page of replay, or a notice of a gap, that is still to be sent.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) part: u16,
    pub(super) gap: Option<Gap>,
    pub(super) frames: Vec<Bytes>,
    /// The end of the page; `None` for the notice of a gap that a slow client made.
    pub(super) replayed: Option<Replayed>,
}

impl Subscriber {
    /// Returns the next page or notice to send, if there is one.
    pub(super) fn page_to_send(&mut self, sender: Sender<'_>) -> Option<(Flight, Outgoing)> {
        let pending = self.pending.as_mut()?;
        let Pending { part, mut gap, frames, replayed } = pending.remove(0);
        if pending.is_empty() {
            self.pending = None;
        }
        let number = usize::from(part);
        let events = frames.len() as u32;
        if let (Some(gap), None) = (&mut gap, replayed) {
            gap.from = sender.epoch.map(|epoch| epoch.text(self.parts[number].sent).into());
        }
        let texts = gap.as_ref().map(gap_event).into_iter().chain(frames);
        let mut buffers = Vec::with_capacity(events as usize + 3);
        if self.has_positions() {
            let mut pieces = Pieces::default();
            let ids = PositionIds::new(sender, self.ids, self.places(), self.parts[number].partition);
            let place = texts.fold(None, |place, text| ids.write_text(&text, &mut pieces).or(place));
            drop(ids);
            if let Some(place) = place {
                self.parts[number].sent = place;
            }
            self.framing.frame_some(pieces.into_buffers(sender.memory), &mut buffers);
        } else {
            self.framing.frame_some(texts, &mut buffers);
        }
        // With positions the place is that of the last id written: a page without events leaves it.
        if let Some(replayed) = replayed.filter(|_| events > 0 || !self.has_positions()) {
            self.parts[number].sent = replayed.upto;
        }
        self.replayed = replayed.map(Box::new);
        Some((Flight::Page(part), Outgoing { buffers: buffers.into(), events, ..Outgoing::default() }))
    }

    /// Returns the next blocks of its logs, if there are any.
    pub(super) fn blocks_to_send(
        &mut self,
        logs: &mut Logs,
        sender: Sender<'_>,
    ) -> Option<(Flight, Outgoing)> {
        let has_positions = self.has_positions();
        let outgoing = match &mut self.cursors[..] {
            [cursor] if !has_positions => {
                let cursor = *cursor;
                let log = &mut logs[cursor.log].log;
                if !self.may_send_blocks(0) {
                    return None;
                }
                let Span { buffers, to, events, last, at_us } = log.read(cursor.place, self.framing)?;
                log.advance(cursor.place, to);
                self.cursors[0].place = to;
                self.parts[0].sent = last;
                Outgoing { buffers, events, at_us }
            }
            _ => self.merged_to_send(logs, sender)?,
        };
        Some((Flight::Other, outgoing))
    }

    /// Returns whether a part may be sent blocks: not before its last page, nor after the event at which the stream
    /// ends.
    fn may_send_blocks(&self, number: usize) -> bool {
        let part = &self.parts[number];
        let has_page = |pending: &Pending| usize::from(pending.part) == number;
        part.stage == Stage::Live
            && self.ending.as_ref().is_none_or(|ending| part.sent < ending.upto)
            && !self.pending.iter().flat_map(|pending| pending.iter()).any(has_page)
    }

    /// Returns the next blocks of its logs, one part after the other until a send is full: between partitions there is
    /// no order.
    fn merged_to_send(&mut self, logs: &mut Logs, sender: Sender<'_>) -> Option<Outgoing> {
        let (count, first) = (self.parts.len(), usize::from(self.turn));
        let mut all = Outgoing::default();
        let mut bytes = 0;
        for number in (first..first + count).map(|number| number % count) {
            if !self.may_send_blocks(number) {
                continue;
            }
            let cursors = &self.cursors[self.parts[number].cursors()];
            // Most of many parts gained nothing, which this sees without building a list.
            if cursors.iter().all(|cursor| logs[cursor.log].log.is_at_tail(cursor.place)) {
                continue;
            }
            let merged = Merged::of(cursors, logs);
            if merged.is_empty() {
                continue;
            }
            let part = &self.parts[number];
            let buffers = match self.has_positions() {
                true => {
                    let ids = PositionIds::new(sender, self.ids, self.places(), part.partition);
                    merged.with_positions(&ids, self.framing, sender.memory)
                }
                false => merged.as_they_are(self.framing, sender.memory),
            };
            bytes += buffers.iter().map(Bytes::len).sum::<usize>();
            let Taken { blocks: taken, events, last, at_us } = merged.taken();
            let part = &mut self.parts[number];
            part.sent = last;
            let cursors = &mut self.cursors[part.cursors()];
            for (number, blocks) in taken {
                let cursor = &mut cursors[number];
                let to = cursor.place.further(blocks);
                logs[cursor.log].log.advance(cursor.place, to);
                cursor.place = to;
            }
            all.at_us = if all.events == 0 { at_us } else { all.at_us.min(at_us) };
            all.events += events;
            all.buffers.extend(buffers);
            self.turn = number as u16 + 1;
            if bytes >= SEND_BYTES_MAX || all.buffers.len() >= SEND_BLOCKS_MAX {
                break;
            }
        }
        (!all.buffers.is_empty()).then_some(all)
    }

    /// Returns its place in each of its partitions.
    pub(super) fn places(&self) -> impl Iterator<Item = (PartitionId, Sequence)> + Clone {
        self.parts.iter().filter_map(|part| Some((part.partition?, part.sent)))
    }

    /// Lets parts that fell behind go on at the tails of their logs, after a notice. The logs' blocks of this turn must
    /// be sealed.
    pub(super) fn skip_forward(&mut self, logs: &mut Logs) {
        for (number, part) in self.parts.iter_mut().enumerate() {
            if part.stage != Stage::Skipped {
                continue;
            }
            part.stage = Stage::Live;
            attach(&mut self.cursors[part.cursors()], logs);
            // No id: when it reconnects, the history may still have what it was too slow for.
            let gap = Some(Gap { from: None, reason: GapReason::Slow, id: None });
            let notice = Pending { part: number as u16, gap, frames: Vec::new(), replayed: None };
            self.pending.get_or_insert_default().push(notice);
        }
    }
}
