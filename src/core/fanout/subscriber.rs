//! One stream: where it stands in each of its topics, and what to send it next.
//!
//! It has a cursor for each topic, which is a place in that topic's log, and a part for each partition it takes something of:
//! what a partition orders is replayed together, joins at one seam, and is sent in that order.

use std::ops::Range;
use std::sync::Arc;
use std::task::Waker;

use bytes::Bytes;
use smallvec::{SmallVec, smallvec};

use crate::core::chunk::Framing;
use crate::core::event_id::{Epoch, Sequence};
use crate::core::fanout::log::{Place, SEND_BLOCKS_MAX, SEND_BYTES_MAX, Span};
use crate::core::fanout::logs::Logs;
use crate::core::fanout::merge::{Merged, Taken};
use crate::core::fanout::positions::{Pieces, PositionIds};
use crate::core::fanout::wire::{Buffers, gap_event};
use crate::core::memory::Memory;
use crate::core::message::{Gap, GapReason, ReplayPage};
use crate::core::partition::PartitionId;

/// What a connection does next for its stream.
#[derive(Debug)]
pub(crate) enum Next {
    /// Send these bytes, all of them, then say so.
    Send(Outgoing),
    /// Nothing now: it is woken when there is.
    Wait,
    /// Close the connection: all was sent that was to be sent.
    Close,
    /// Close the connection of a client that is too slow, whatever it has not taken yet.
    Cut,
}

/// Bytes to send and what they stand for.
#[derive(Debug, Default)]
pub(crate) struct Outgoing {
    pub(crate) buffers: Buffers,
    /// Events among them.
    pub(crate) events: u32,
    /// When the oldest of those was published, in microseconds of the server's clock; 0 when that was long
    /// ago.
    pub(crate) at_us: u64,
    /// What the kernel had no room for a moment ago.
    pub(crate) is_rest: bool,
}

/// How a stream ends.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Ends {
    /// There was no room for its topics; nothing of it was sent before.
    Refused,
    /// In the middle.
    Now,
    /// After everything that was coming.
    Flushed,
}

/// A stream's place in the log of one topic.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cursor {
    /// The log's number.
    pub(crate) log: u32,
    /// Where the stream stands among the log's idle streams, if it is idle.
    pub(crate) idle_at: u32,
    /// Means nothing until its part is live.
    pub(crate) place: Place,
}

/// What a stream takes of one partition, or of topics that come past the homes.
#[derive(Debug)]
struct Part {
    partition: Option<PartitionId>,
    stage: Stage,
    /// Which of the stream's cursors are in logs of this partition: from this one on...
    first_cursor: u16,
    /// ...up to this one.
    end_cursor: u16,
    /// The newest event that was sent, or the place where home let it in.
    sent: Sequence,
}

/// How far a part has come.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Stage {
    /// Home has not answered its Join.
    Joining,
    /// Home holds further pages for it.
    Replaying,
    /// It follows its logs.
    Live,
    /// A log was trimmed past it, and the policy is to skip it forward.
    Skipped,
}

/// Where a page of replay ends.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Replayed {
    /// Its last event.
    pub(crate) upto: Sequence,
    /// The stream was told if anything up to here is missing.
    pub(crate) told: Sequence,
}

/// A stream.
#[derive(Debug)]
pub(crate) struct Subscriber {
    cursors: SmallVec<[Cursor; 1]>,
    parts: SmallVec<[Part; 1]>,
    framing: Framing,
    /// Whether its ids name its place in each partition, because it takes several topics.
    has_positions: bool,
    is_closed: bool,
    /// It was closed because its client is too slow.
    is_cut: bool,
    flight: Flight,
    /// The part that is sent first next time.
    turn: u16,
    /// A page was sent last: blocks have their turn, or those of a partition that is live would wait until others have
    /// replayed.
    sent_page: bool,
    /// Bytes of the send under way.
    flight_bytes: u32,
    // The next five are there for moments only; boxed, they save an idle stream 130 bytes.
    /// What its response begins with, until that is sent.
    opening: Option<Box<Opening>>,
    /// What of the send under way its connection is still to begin.
    unsent: Option<Box<Outgoing>>,
    /// Pages of replay and notices of gaps, which go out before the logs.
    #[expect(clippy::box_collection, reason = "a list would cost every idle stream 16 bytes more")]
    pending: Option<Box<Vec<Pending>>>,
    /// Where the page that is sent now ends.
    replayed: Option<Box<Replayed>>,
    /// How the stream ends, once it is to end.
    ending: Option<Box<Ending>>,
    /// Events among all that was sent.
    pub(crate) delivered: u64,
    /// When the last send began or ended, in milliseconds of the server's clock.
    pub(crate) touched_ms: u64,
    /// When its token expires, in Unix seconds; `u64::MAX` without a token.
    pub(crate) expires_s: u64,
    /// Set by the sweep when it got nothing for long.
    pub(crate) heartbeat_due: bool,
    waker: Option<Waker>,
}

/// What a stream's response begins with.
#[derive(Debug, Default)]
pub(crate) struct Opening {
    /// The 200's head.
    pub(crate) head: Bytes,
    /// The whole answer if home has no room for its topic.
    pub(crate) refusal: Bytes,
}

/// What is being sent.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum Flight {
    #[default]
    None,
    /// A page of this part.
    Page(u16),
    /// What is in no page.
    Other,
    Farewell,
}

#[derive(Debug)]
struct Pending {
    part: u16,
    gap: Option<Gap>,
    frames: Vec<Bytes>,
    /// Where the page ends; none for the notice of a gap that a slow client made.
    replayed: Option<Replayed>,
}

/// The last thing a stream is sent.
#[derive(Debug)]
struct Ending {
    farewell: Bytes,
    ends: Ends,
    /// No event after this one is sent before it, but for those of one send with it.
    upto: Sequence,
}

/// What a stream is sent with, beside itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sender<'s> {
    /// What ids begin with; none when there are no ids.
    pub(crate) epoch: Option<Epoch>,
    /// Where bytes are counted that are made for one stream.
    pub(crate) memory: &'s Arc<Memory>,
    pub(crate) now_ms: u64,
}

/// What a new stream is made of.
#[derive(Debug)]
pub(crate) struct NewSubscriber {
    pub(crate) framing: Framing,
    pub(crate) has_positions: bool,
    pub(crate) expires_s: u64,
    pub(crate) opening: Opening,
}

impl Subscriber {
    pub(crate) fn new(new: NewSubscriber, now_ms: u64) -> Self {
        let NewSubscriber { framing, has_positions, expires_s, opening } = new;
        Subscriber {
            cursors: SmallVec::new(),
            parts: SmallVec::new(),
            framing,
            has_positions,
            is_closed: false,
            is_cut: false,
            flight: Flight::None,
            turn: 0,
            sent_page: false,
            flight_bytes: 0,
            opening: Some(Box::new(opening)),
            unsent: None,
            pending: None,
            replayed: None,
            ending: None,
            delivered: 0,
            touched_ms: now_ms,
            expires_s,
            heartbeat_due: false,
            waker: None,
        }
    }

    /// Adds what it takes of a partition: the topics that have these logs. `place` is where it was there before, 0 when that is
    /// not known.
    pub(crate) fn add_part(
        &mut self,
        partition: Option<PartitionId>,
        logs: impl Iterator<Item = u32>,
        place: Sequence,
    ) {
        let first_cursor = self.cursors.len() as u16;
        self.cursors.extend(logs.map(|log| Cursor { log, idle_at: u32::MAX, place: Place::default() }));
        // A stream takes 64 topics at most, or one of each partition.
        let end_cursor = self.cursors.len() as u16;
        self.parts.push(Part { partition, stage: Stage::Joining, first_cursor, end_cursor, sent: place });
    }

    /// Returns what to send now. A live stream that is told to wait is idle: its topics must wake it.
    pub(crate) fn next(&mut self, logs: &mut Logs, sender: Sender<'_>) -> Next {
        if self.is_closed {
            return if self.is_cut { Next::Cut } else { Next::Close };
        }
        if let Some(unsent) = self.unsent.take() {
            return Next::Send(*unsent);
        }
        if self.is_sending() {
            return Next::Wait;
        }
        if self.is_refused() {
            self.opening = None;
        } else if self.opening.is_some() && self.parts.iter().any(|part| part.stage == Stage::Joining) {
            // Its head is still to come: an ending would not be understood before it.
            return Next::Wait;
        }
        self.skip_forward(logs);
        let head = self.opening.take().map(|opening| opening.head);
        let ends_now = self.ending.as_ref().is_some_and(|ending| ending.ends != Ends::Flushed);
        let next = match ends_now {
            true => None,
            false if self.sent_page => {
                self.blocks_to_send(logs, sender).or_else(|| self.page_to_send(sender))
            }
            false => self.page_to_send(sender).or_else(|| self.blocks_to_send(logs, sender)),
        };
        let (flight, mut outgoing) = match next {
            Some(next) => next,
            None if let Some(ending) = self.ending.take() => (Flight::Farewell, ending.farewell.into()),
            None if head.is_some() => (Flight::Other, Outgoing::default()),
            None if self.heartbeat_due && self.is_idle() => (Flight::Other, self.framing.heartbeat().into()),
            None => return Next::Wait,
        };
        if let Some(head) = head {
            outgoing.buffers.insert(0, head);
        }
        self.flight = flight;
        self.sent_page = matches!(flight, Flight::Page(_));
        let bytes: usize = outgoing.buffers.iter().map(Bytes::len).sum();
        self.flight_bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        self.touched_ms = sender.now_ms;
        self.delivered += u64::from(outgoing.events);
        self.heartbeat_due = false;
        Next::Send(outgoing)
    }

    /// Keeps what of the last [`Outgoing`] could not be sent at once: it is what to send next, before
    /// anything else.
    pub(crate) fn keep_unsent(&mut self, unsent: Outgoing) {
        self.unsent = Some(Box::new(Outgoing { is_rest: true, ..unsent }));
    }

    /// All bytes of the last [`Outgoing`] went out. Returns which partition is to go on, and where its page ended, if there are
    /// further pages.
    pub(crate) fn sent(&mut self, logs: &mut Logs, now_ms: u64) -> Option<(PartitionId, Replayed)> {
        self.touched_ms = now_ms;
        if let [cursor] = *self.cursors {
            logs[cursor.log].tell_sent(self.last_sent());
        }
        match std::mem::take(&mut self.flight) {
            Flight::Page(part) if self.ending.is_none() => {
                let replayed = *self.replayed.take()?;
                let Part { partition, stage, .. } = self.parts.get(usize::from(part))?;
                return (*stage == Stage::Replaying).then_some(((*partition)?, replayed));
            }
            Flight::Farewell => self.close(logs),
            Flight::None | Flight::Page(_) | Flight::Other => {}
        }
        None
    }

    /// Takes a page of what a partition replays; the last one makes that part live from the tails of its logs on, whose
    /// blocks of this turn must be sealed.
    pub(crate) fn page(&mut self, partition: Option<PartitionId>, page: ReplayPage, logs: &mut Logs) {
        let ReplayPage { gap, frames, upto, told, joined } = page;
        let Some(number) = self.parts.iter().position(|part| part.partition == partition) else { return };
        if self.is_closed {
            return;
        }
        let part = &mut self.parts[number];
        if joined {
            part.stage = Stage::Live;
            attach(&mut self.cursors[part.cursors()], logs);
        } else {
            part.stage = Stage::Replaying;
        }
        if gap.is_none() && frames.is_empty() && joined {
            // It begins where home let it in.
            part.sent = part.sent.max(upto);
        } else {
            // One that is empty all the same has home asked for the next.
            let replayed = Some(Replayed { upto, told });
            let pending = Pending { part: number as u16, gap, frames, replayed };
            self.pending.get_or_insert_default().push(pending);
        }
    }

    /// Home has no room for its topic: it is sent the refusal, or `text` in the middle of a replay, and
    /// closed.
    pub(crate) fn refused(&mut self, text: &str) {
        match &self.opening {
            Some(opening) => {
                let farewell = opening.refusal.clone();
                self.ending = Some(Box::new(Ending { farewell, ends: Ends::Refused, upto: 0 }));
            }
            None => self.end(text, false),
        }
    }

    /// Ends the stream with `text` after the event `upto`, however many come meanwhile and however slowly it reads.
    pub(crate) fn end_after(&mut self, upto: Sequence, text: &str) {
        self.end(text, true);
        if let Some(ending) = &mut self.ending {
            ending.upto = ending.upto.min(upto);
        }
    }

    /// Ends the stream with `text`; after everything in the logs if `flush`.
    pub(crate) fn end(&mut self, text: &str, flush: bool) {
        // A stream that expires while it drains says that it expired. One that is refused never began.
        let is_over = match self.ending.as_ref().map(|ending| ending.ends) {
            None => false,
            Some(Ends::Refused) => true,
            Some(Ends::Now | Ends::Flushed) => flush,
        };
        if !is_over {
            let ends = if flush { Ends::Flushed } else { Ends::Now };
            let farewell = self.framing.farewell(text);
            self.ending = Some(Box::new(Ending { farewell, ends, upto: Sequence::MAX }));
        }
    }

    /// Returns whether its farewell is due, under way or sent, or it was cut.
    pub(crate) fn is_ending(&self) -> bool {
        self.ending.is_some() || self.flight == Flight::Farewell || self.is_closed
    }

    /// Looks whether a log dropped what the stream was not sent. With `skip` it is told of the gap when it goes on, else it
    /// gets nothing more; returns whether that is so from now on.
    pub(crate) fn falls_behind(&mut self, logs: &mut Logs, skip: bool) -> bool {
        for number in 0..self.parts.len() {
            let part = &self.parts[number];
            let is_behind = |cursor: &Cursor| logs[cursor.log].log.is_behind(cursor.place);
            if self.is_live(part)
                && self.cursors[part.cursors()].iter().any(is_behind)
                && self.drop_back(number, logs, skip)
            {
                return true;
            }
        }
        false
    }

    /// The same for a stream that has more than `bytes_max` to be sent in the logs of all its topics together: the partition
    /// that it is furthest behind in is given up. What is under way is not counted, as it is not in a log's own limit.
    pub(crate) fn drops_back(&mut self, bytes_max: usize, logs: &mut Logs, skip: bool) -> bool {
        let live = (0..self.parts.len()).filter(|part| self.is_live(&self.parts[*part]));
        match live.max_by_key(|part| self.lag_of(&self.parts[*part], logs)) {
            Some(part) if self.unsent_bytes(logs) > bytes_max => self.drop_back(part, logs, skip),
            _ => false,
        }
    }

    fn drop_back(&mut self, part: usize, logs: &mut Logs, skip: bool) -> bool {
        if skip {
            let part = &mut self.parts[part];
            part.stage = Stage::Skipped;
            detach(&self.cursors[part.cursors()], logs);
        } else {
            self.cut(logs);
        }
        !skip
    }

    /// Lets go of the logs, and of all that was still to come.
    pub(crate) fn close(&mut self, logs: &mut Logs) {
        for part in self.parts.iter().filter(|part| self.is_live(part)) {
            detach(&self.cursors[part.cursors()], logs);
        }
        self.is_closed = true;
        self.pending = None;
    }

    /// The same for a client that is too slow.
    pub(crate) fn cut(&mut self, logs: &mut Logs) {
        self.close(logs);
        self.is_cut = true;
    }

    /// Returns the bytes that wait for it: those of the send under way, and of its logs those that it has not begun to be
    /// sent.
    pub(crate) fn lag_bytes(&self, logs: &Logs) -> usize {
        let under_way = if self.is_sending() { self.flight_bytes as usize } else { 0 };
        under_way + self.unsent_bytes(logs)
    }

    /// Returns the bytes that its logs hold behind its places.
    fn unsent_bytes(&self, logs: &Logs) -> usize {
        let live = self.parts.iter().filter(|part| self.is_live(part));
        live.map(|part| self.lag_of(part, logs)).sum()
    }

    fn lag_of(&self, part: &Part, logs: &Logs) -> usize {
        let cursors = self.cursors[part.cursors()].iter();
        cursors.map(|cursor| logs[cursor.log].log.bytes_from(cursor.place)).sum()
    }

    fn is_live(&self, part: &Part) -> bool {
        !self.is_closed && part.stage == Stage::Live
    }

    /// Returns whether there was no room for its topics.
    fn is_refused(&self) -> bool {
        self.ending.as_ref().is_some_and(|ending| ending.ends == Ends::Refused)
    }

    /// Returns whether it only waits for its topics.
    pub(crate) fn is_idle(&self) -> bool {
        !self.is_closed && !self.is_sending() && self.parts.iter().all(|part| part.stage == Stage::Live)
    }

    /// Has its topics wake it, as far as their parts are live, unless it is sending. It is number `index` of its shard.
    pub(crate) fn list_idle(&mut self, index: u32, logs: &mut Logs) {
        if self.is_closed || self.is_sending() {
            return;
        }
        for part in self.parts.iter().filter(|part| part.stage == Stage::Live) {
            for cursor in &mut self.cursors[part.cursors()] {
                logs[cursor.log].list_idle(index, &mut cursor.idle_at);
            }
        }
    }

    /// Returns whether its gap is told with the next send.
    pub(crate) fn skips_now(&self) -> bool {
        !self.is_sending() && self.parts.iter().any(|part| part.stage == Stage::Skipped)
    }

    /// Returns whether its send takes too long.
    pub(crate) fn is_stuck(&self, now_ms: u64, timeout_ms: u64) -> bool {
        self.is_sending() && !self.is_closed && now_ms.saturating_sub(self.touched_ms) > timeout_ms
    }

    /// Returns whether it got nothing for the heartbeat's interval, or for up to a quarter less: `index` spreads
    /// those that were sent to at the same time.
    pub(crate) fn is_quiet(&self, index: u32, now_ms: u64, heartbeat_ms: u64) -> bool {
        // Fibonacci hashing: neighbours in the slab land far apart.
        let spread = u64::from(index.wrapping_mul(0x9e37_79b9) >> 24);
        let earlier_ms = heartbeat_ms * spread / 1024;
        self.is_idle() && now_ms.saturating_sub(self.touched_ms) >= heartbeat_ms - earlier_ms
    }

    /// Returns its cursors, in the order of its topics.
    pub(crate) fn cursors(&self) -> &[Cursor] {
        &self.cursors
    }

    pub(crate) fn cursors_mut(&mut self) -> &mut [Cursor] {
        &mut self.cursors
    }

    /// Returns whether its logs must know where events lie.
    pub(crate) fn is_merging(&self) -> bool {
        self.has_positions || self.cursors.len() > 1
    }

    pub(crate) fn has_positions(&self) -> bool {
        self.has_positions
    }

    /// Returns the newest event it was sent of its first partition.
    pub(crate) fn last_sent(&self) -> Sequence {
        self.parts.first().map_or(0, |part| part.sent)
    }

    pub(crate) fn remember_waker(&mut self, waker: &Waker) {
        if !self.waker.as_ref().is_some_and(|known| known.will_wake(waker)) {
            self.waker = Some(waker.clone());
        }
    }

    pub(crate) fn wake(&self) {
        if let Some(waker) = &self.waker {
            waker.wake_by_ref();
        }
    }

    pub(crate) fn is_sending(&self) -> bool {
        self.flight != Flight::None
    }

    /// The next page or notice, if there is one.
    fn page_to_send(&mut self, sender: Sender<'_>) -> Option<(Flight, Outgoing)> {
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
        if self.has_positions {
            let mut pieces = Pieces::default();
            let ids = PositionIds::new(sender.epoch, self.places(), self.parts[number].partition);
            let place = texts.fold(None, |place, text| ids.write_text(&text, &mut pieces).or(place));
            drop(ids);
            if let Some(place) = place {
                self.parts[number].sent = place;
            }
            self.framing.frame_some(pieces.into_buffers(sender.memory), &mut buffers);
        } else {
            self.framing.frame_some(texts, &mut buffers);
        }
        // What a position names was written: a page without events leaves it.
        if let Some(replayed) = replayed.filter(|_| events > 0 || !self.has_positions) {
            self.parts[number].sent = replayed.upto;
        }
        self.replayed = replayed.map(Box::new);
        Some((Flight::Page(part), Outgoing { buffers: buffers.into(), events, ..Outgoing::default() }))
    }

    /// What its logs have for it, if anything.
    fn blocks_to_send(&mut self, logs: &mut Logs, sender: Sender<'_>) -> Option<(Flight, Outgoing)> {
        let outgoing = match &mut self.cursors[..] {
            [cursor] if !self.has_positions => {
                let cursor = *cursor;
                let log = &mut logs[cursor.log].log;
                if !self.may_send_blocks(0) {
                    return None;
                }
                let Span { buffers, to, events, last, at_us } = log.read(cursor.place, self.framing)?;
                log.advance(cursor.place, to);
                self.cursors[0].place = to;
                self.parts[0].sent = last;
                Outgoing { buffers, events, at_us, ..Outgoing::default() }
            }
            _ => self.merged_to_send(logs, sender)?,
        };
        Some((Flight::Other, outgoing))
    }

    /// Whether a part is sent blocks: not before its last page, nor behind the event after which the stream ends.
    fn may_send_blocks(&self, number: usize) -> bool {
        let part = &self.parts[number];
        let has_page = |pending: &Pending| usize::from(pending.part) == number;
        part.stage == Stage::Live
            && self.ending.as_ref().is_none_or(|ending| part.sent < ending.upto)
            && !self.pending.iter().flat_map(|pending| pending.iter()).any(has_page)
    }

    /// What its logs have, of one part after the other until a send is full: between partitions there is no order.
    fn merged_to_send(&mut self, logs: &mut Logs, sender: Sender<'_>) -> Option<Outgoing> {
        let (count, first) = (self.parts.len(), usize::from(self.turn));
        let mut all = Outgoing::default();
        let mut bytes = 0;
        for number in (first..first + count).map(|number| number % count) {
            if !self.may_send_blocks(number) {
                continue;
            }
            let merged = Merged::of(&self.cursors[self.parts[number].cursors()], logs);
            if merged.is_empty() {
                continue;
            }
            let part = &self.parts[number];
            let buffers = match self.has_positions {
                true => {
                    let ids = PositionIds::new(sender.epoch, self.places(), part.partition);
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
            self.turn = ((number + 1) % count) as u16;
            if bytes >= SEND_BYTES_MAX || all.buffers.len() >= SEND_BLOCKS_MAX {
                break;
            }
        }
        (!all.buffers.is_empty()).then_some(all)
    }

    /// Its place in each partition.
    fn places(&self) -> impl Iterator<Item = (PartitionId, Sequence)> + Clone {
        self.parts.iter().filter_map(|part| Some((part.partition?, part.sent)))
    }

    /// Parts that fell behind go on at the tails of their logs, whose blocks of this turn must be sealed, after a notice.
    fn skip_forward(&mut self, logs: &mut Logs) {
        for (number, part) in self.parts.iter_mut().enumerate() {
            if part.stage != Stage::Skipped {
                continue;
            }
            part.stage = Stage::Live;
            attach(&mut self.cursors[part.cursors()], logs);
            // No id: coming back, it may still get from the history what it was too slow for.
            let gap = Some(Gap { from: None, reason: GapReason::Slow, id: None });
            let notice = Pending { part: number as u16, gap, frames: Vec::new(), replayed: None };
            self.pending.get_or_insert_default().push(notice);
        }
    }
}

impl Part {
    /// Returns which of the stream's cursors are its.
    fn cursors(&self) -> Range<usize> {
        usize::from(self.first_cursor)..usize::from(self.end_cursor)
    }
}

/// Puts cursors at the tails of their logs.
fn attach(cursors: &mut [Cursor], logs: &mut Logs) {
    for cursor in cursors {
        cursor.place = logs[cursor.log].log.attach();
    }
}

/// Takes cursors off their logs.
fn detach(cursors: &[Cursor], logs: &mut Logs) {
    for cursor in cursors {
        let log = &mut logs[cursor.log].log;
        if !log.is_behind(cursor.place) {
            log.detach(cursor.place);
        }
    }
}

impl From<Bytes> for Outgoing {
    fn from(bytes: Bytes) -> Self {
        Outgoing { buffers: smallvec![bytes], ..Outgoing::default() }
    }
}
