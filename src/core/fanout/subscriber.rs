//! One stream: its place in each of its topics, and its next send.
//!
//! It has a cursor for each topic, which is a place in that topic's log, and a part for each partition of its topics:
//! one partition's events are replayed together, join at one seam, and are sent in that order.

mod slow_client;

use bytes::Bytes;
use smallvec::SmallVec;

use crate::core::ahead;
use crate::core::chunk::Framing;
use crate::core::event_id::{Epoch, Sequence};
use crate::core::fanout::ending::EndReason;
use crate::core::fanout::log::Place;
use crate::core::fanout::logs::Logs;
use crate::core::fanout::part::{Cursor, Part, Replayed, Stage, attach, detach};
use crate::core::fanout::positions::write_code;
use crate::core::fanout::sending::{Next, Outgoing, Pending, Sender};
use crate::core::message::ReplayPage;
use crate::core::partition::PartitionId;
use crate::core::selection::StreamIds;

/// The ways in which a stream ends.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum EndKind {
    /// Refused: there was no room for its topics, and nothing was sent before.
    Refused,
    /// At once, before pending events.
    Now,
    /// After everything pending.
    Flushed,
}

/// The life of a stream.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Life {
    Open,
    /// Everything due was sent, or it is removed.
    Closed(EndReason),
    /// Closed because its client is too slow.
    Cut,
}

/// A stream of one client; owned by the shard's [`Fanout`](super::Fanout).
#[derive(Debug)]
pub(crate) struct Subscriber {
    pub(super) cursors: SmallVec<[Cursor; 1]>,
    pub(super) parts: SmallVec<[Part; 1]>,
    pub(super) framing: Framing,
    pub(super) ids: StreamIds,
    /// Whether the fan-out has extras of it.
    pub(super) has_extras: bool,
    pub(super) life: Life,
    pub(super) flight: Flight,
    /// The part whose blocks are sent first next time.
    pub(super) turn: u16,
    /// A page was sent last: blocks go first next time, or those of a live partition would wait until others have
    /// replayed.
    sent_page: bool,
    /// Bytes of the send under way.
    flight_bytes: u32,
    // The next five are set only for moments; boxed, they save an idle stream 130 bytes.
    /// The start of its response, until that is sent.
    opening: Option<Box<Opening>>,
    /// Bytes of the send under way that its socket had no room for.
    unsent: Option<Box<Outgoing>>,
    /// Pages of replay and notices of gaps, which go out before the logs.
    #[expect(clippy::box_collection, reason = "a list would cost every idle stream 16 bytes more")]
    pub(super) pending: Option<Box<Vec<Pending>>>,
    /// The end of the page that is being sent.
    pub(super) replayed: Option<Box<Replayed>>,
    /// Set when the stream is to end.
    pub(super) ending: Option<Box<Ending>>,
    /// Events among all that was sent.
    pub(crate) delivered: u64,
    /// When the last send began or ended, in milliseconds of the server's clock.
    pub(crate) touched_ms: u64,
    /// When its token expires, in Unix seconds; `u64::MAX` without a token.
    pub(crate) expires_s: u64,
    /// Set by the sweep when it was sent nothing for long.
    pub(crate) heartbeat_due: bool,
    /// Set when it is listed in [`WakeList`](super::woken::WakeList).
    pub(super) is_woken: bool,
    /// Set when it was ended by request, and is counted in [`Disconnected`](super::ending::Disconnected).
    pub(super) is_disconnected: bool,
}

/// The start of a stream's response, made by its connection.
#[derive(Debug, Default)]
pub(crate) struct Opening {
    /// The head of the 200.
    pub(crate) head: Bytes,
    /// The whole response if a home has no room for its topic.
    pub(crate) refusal: Bytes,
    /// Whether the id of the place where it begins follows the head.
    pub(crate) tells_place: bool,
}

/// The send under way.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) enum Flight {
    #[default]
    None,
    /// A page of this part.
    Page(u16),
    /// Anything but a page.
    Other,
    Farewell(EndReason),
}

/// The last bytes of a stream.
#[derive(Debug)]
pub(super) struct Ending {
    farewell: Bytes,
    ends: EndKind,
    reason: EndReason,
    /// No event after this one is sent before the farewell, except those in one send with it.
    pub(super) upto: Sequence,
}

/// The properties of a new stream.
#[derive(Debug)]
pub(crate) struct NewSubscriber {
    pub(crate) framing: Framing,
    pub(crate) ids: StreamIds,
    pub(crate) has_extras: bool,
    pub(crate) expires_s: u64,
    pub(crate) opening: Opening,
}

impl Subscriber {
    pub(crate) fn new(new: NewSubscriber, now_ms: u64) -> Self {
        let NewSubscriber { framing, ids, has_extras, expires_s, opening } = new;
        Subscriber {
            cursors: SmallVec::new(),
            parts: SmallVec::new(),
            framing,
            ids,
            has_extras,
            life: Life::Open,
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
            is_woken: false,
            is_disconnected: false,
        }
    }

    /// Adds its topics of a partition, by the numbers of their logs. `place` is its place there from an earlier
    /// connection, 0 when not known.
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

    /// Returns what to do now. A live stream that gets [`Next::Wait`] is idle: its topics must wake it.
    pub(crate) fn next(&mut self, logs: &mut Logs, sender: Sender<'_>) -> Next {
        match self.life {
            Life::Open => {}
            Life::Closed(_) => return Next::Close,
            Life::Cut => return Next::Cut,
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
            // The response's head was not sent, and an ending cannot come before it.
            return Next::Wait;
        }
        self.skip_forward(logs);
        let opening = self.opening.take().map(|opening| self.first_bytes(*opening, sender));
        let ends_now = self.ending.as_ref().is_some_and(|ending| ending.ends != EndKind::Flushed);
        let next = match ends_now {
            true => None,
            false if self.sent_page => {
                self.blocks_to_send(logs, sender).or_else(|| self.page_to_send(sender))
            }
            false => self.page_to_send(sender).or_else(|| self.blocks_to_send(logs, sender)),
        };
        let (flight, mut outgoing) = if let Some(next) = next {
            next
        } else if let Some(ending) = self.ending.take() {
            (Flight::Farewell(ending.reason), ending.farewell.into())
        } else if opening.is_some() {
            (Flight::Other, Outgoing::default())
        } else if self.heartbeat_due {
            (Flight::Other, self.framing.heartbeat(sender.heartbeat).into())
        } else {
            return Next::Wait;
        };
        if let Some(first) = opening {
            outgoing.buffers.insert_many(0, first);
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

    /// Keeps the bytes of the last [`Outgoing`] that could not be sent at once, to be sent before anything else.
    pub(crate) fn keep_unsent(&mut self, unsent: Outgoing) {
        self.unsent = Some(Box::new(unsent));
    }

    /// Returns whether bytes are kept until its socket has room.
    pub(crate) fn has_unsent(&self) -> bool {
        self.unsent.is_some()
    }

    /// Notes that all bytes of the last [`Outgoing`] went out. Returns the partition to ask for its next page and the
    /// end of the page sent, if there are further pages.
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
            Flight::Farewell(reason) => self.close_for(reason, logs),
            Flight::None | Flight::Page(_) | Flight::Other => {}
        }
        None
    }

    /// Takes a page of a partition's replay. The last page makes that part live from the tails of its logs on, whose
    /// blocks of this turn must be sealed.
    pub(crate) fn page(&mut self, partition: Option<PartitionId>, page: ReplayPage, logs: &mut Logs) {
        let ReplayPage { gap, frames, upto, told, joined } = page;
        let Some(number) = self.parts.iter().position(|part| part.partition == partition) else { return };
        if self.life != Life::Open {
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
            // It begins where the home let it in.
            part.sent = part.sent.max(upto);
        } else {
            // An empty page is queued too: once it is "sent", the home is asked for the next.
            let replayed = Some(Replayed { upto, told });
            let pending = Pending { part: number as u16, gap, frames, replayed };
            self.pending.get_or_insert_default().push(pending);
        }
    }

    /// Ends a stream that a home has no room for: with the refusal as its response, or with `text` in the middle of a
    /// replay.
    pub(crate) fn refused(&mut self, text: &str) {
        match &self.opening {
            Some(opening) => {
                let (farewell, reason) = (opening.refusal.clone(), EndReason::Refused);
                self.ending = Some(Box::new(Ending { farewell, ends: EndKind::Refused, reason, upto: 0 }));
            }
            None => self.end(text, false, EndReason::Refused),
        }
    }

    /// Ends the stream with `text` after the event `upto`, however many come meanwhile and however slowly it reads.
    pub(crate) fn end_after(&mut self, upto: Sequence, text: &str) {
        self.end(text, true, EndReason::Disconnected);
        if let Some(ending) = &mut self.ending {
            ending.upto = ending.upto.min(upto);
        }
    }

    /// Ends the stream with `text`; after everything in the logs if `flush`.
    pub(crate) fn end(&mut self, text: &str, flush: bool, reason: EndReason) {
        // A stream that expires while it drains says that it expired. A refused one never began.
        let is_over = match self.ending.as_ref().map(|ending| ending.ends) {
            None => false,
            Some(EndKind::Refused) => true,
            Some(EndKind::Now | EndKind::Flushed) => flush,
        };
        if !is_over {
            let ends = if flush { EndKind::Flushed } else { EndKind::Now };
            let farewell = self.framing.farewell(text);
            self.ending = Some(Box::new(Ending { farewell, ends, reason, upto: Sequence::MAX }));
        }
    }

    /// Returns whether its farewell is due, under way or sent, or it was cut.
    pub(crate) fn is_ending(&self) -> bool {
        self.ending.is_some() || matches!(self.flight, Flight::Farewell(_)) || self.life != Life::Open
    }

    /// Returns the reason why it ends; that its client left where nothing else ends it.
    pub(crate) fn end_reason(&self) -> EndReason {
        match (self.life, self.flight, &self.ending) {
            (Life::Cut, ..) => EndReason::Slow,
            (Life::Closed(reason), ..) | (_, Flight::Farewell(reason), _) => reason,
            (.., Some(ending)) => ending.reason,
            _ => EndReason::Left,
        }
    }

    /// Releases its cursors and pages because its client is gone; nothing more is sent.
    pub(crate) fn close(&mut self, logs: &mut Logs) {
        self.close_for(EndReason::Left, logs);
    }

    /// Releases its cursors and pages, so that nothing more is sent, for this reason unless it is closed already.
    pub(crate) fn close_for(&mut self, reason: EndReason, logs: &mut Logs) {
        for part in self.parts.iter().filter(|part| self.is_live(part)) {
            detach(&self.cursors[part.cursors()], logs);
        }
        if self.life == Life::Open {
            self.life = Life::Closed(reason);
        }
        self.pending = None;
    }

    /// Returns the bytes not yet sent: those of the send under way, and those of its logs behind its places.
    pub(crate) fn lag_bytes(&self, logs: &Logs) -> usize {
        let under_way = if self.is_sending() { self.flight_bytes as usize } else { 0 };
        under_way + self.bytes_behind(logs)
    }

    /// Returns the bytes that its logs hold from its places on.
    fn bytes_behind(&self, logs: &Logs) -> usize {
        let live = self.parts.iter().filter(|part| self.is_live(part));
        live.map(|part| self.lag_of(part, logs)).sum()
    }

    fn lag_of(&self, part: &Part, logs: &Logs) -> usize {
        let cursors = self.cursors[part.cursors()].iter();
        cursors.map(|cursor| logs[cursor.log].log.bytes_from(cursor.place)).sum()
    }

    fn is_live(&self, part: &Part) -> bool {
        self.life == Life::Open && part.stage == Stage::Live
    }

    /// Returns whether there was no room for its topics.
    fn is_refused(&self) -> bool {
        self.ending.as_ref().is_some_and(|ending| ending.ends == EndKind::Refused)
    }

    /// Returns whether its response has begun, be it a refusal.
    pub(crate) fn has_begun(&self) -> bool {
        self.opening.is_none()
    }

    /// Returns whether it takes something of a partition, and not of a queue or of the server's own.
    pub(crate) fn is_of_homes(&self) -> bool {
        self.parts.iter().any(|part| part.partition.is_some())
    }

    /// Returns the id by which it resumes after this place of each of its partitions, with the code of its ids.
    pub(crate) fn id_at(&self, epoch: Epoch, place: Sequence, code: Option<&str>) -> String {
        if !self.has_positions() {
            return epoch.text(place);
        }
        let mut id = Vec::new();
        let partitions = self.parts.iter().filter_map(|part| part.partition);
        epoch.write_position(partitions.map(|partition| (partition, place)), &mut id);
        write_code(code, &mut id);
        String::from_utf8_lossy(&id).into_owned()
    }

    /// Returns the head of the response and, if it was asked for, the id of the place from which the stream begins: without
    /// data it is no event, but sets a page's Last-Event-ID (WHATWG HTML, section 9.2.6). Without history there is none.
    fn first_bytes(&self, opening: Opening, sender: Sender<'_>) -> Vec<Bytes> {
        let mut bytes = vec![opening.head];
        if let Some(epoch) = sender.epoch.filter(|_| opening.tells_place) {
            let mut id = Vec::from(b"id:");
            match self.has_positions() {
                true => epoch.write_position(self.places(), &mut id),
                false => epoch.write(self.last_sent(), &mut id),
            }
            write_code(sender.code, &mut id);
            id.extend_from_slice(b"\n\n");
            self.framing.frame([Bytes::from(id)], &mut bytes);
        }
        bytes
    }

    /// Returns whether it waits for its topics alone.
    pub(crate) fn is_idle(&self) -> bool {
        self.follows() && !self.is_sending()
    }

    /// Returns whether it follows its topics and is kept from them only by bytes that its socket had no room for.
    pub(crate) fn goes_on(&self) -> bool {
        self.follows() && self.has_unsent()
    }

    /// Returns whether it is open and follows the logs of all its topics.
    fn follows(&self) -> bool {
        self.life == Life::Open && self.parts.iter().all(|part| part.stage == Stage::Live)
    }

    /// Lists it as idle in the logs of its live parts, so that they wake it, unless it is sending. `index` is its
    /// number in the shard.
    pub(crate) fn list_idle(&mut self, index: u32, logs: &mut Logs) {
        if self.is_sending() {
            return;
        }
        for part in self.parts.iter().filter(|part| part.stage == Stage::Live) {
            for cursor in &mut self.cursors[part.cursors()] {
                logs[cursor.log].list_idle(index, &mut cursor.idle_at);
            }
        }
    }

    /// Returns whether it was sent nothing for the heartbeat's interval, or for up to a quarter less: `index` spreads
    /// those that were sent to at the same time.
    pub(crate) fn is_quiet(&self, index: u32, now_ms: u64, heartbeat_ms: u64) -> bool {
        // Fibonacci hashing: neighbours in the slab land far apart.
        let spread = u64::from(index.wrapping_mul(0x9e37_79b9) >> 24);
        let earlier_ms = heartbeat_ms * spread / 1024;
        self.is_idle() && now_ms.saturating_sub(self.touched_ms) >= heartbeat_ms - earlier_ms
    }

    /// Looks ahead at what a send needs.
    pub(super) fn look_ahead(&self) {
        let cursor = self.cursors.first().map(|cursor| (cursor.log, cursor.place));
        ahead::read((cursor, self.parts.len(), self.flight, self.delivered, self.touched_ms, self.expires_s));
    }

    /// Returns its cursors, in the order of its topics.
    pub(crate) fn cursors(&self) -> &[Cursor] {
        &self.cursors
    }

    pub(crate) fn cursors_mut(&mut self) -> &mut [Cursor] {
        &mut self.cursors
    }

    /// Returns whether its logs must keep the places of events.
    pub(crate) fn is_merging(&self) -> bool {
        self.has_positions() || self.cursors.len() > 1
    }

    pub(crate) fn ids(&self) -> StreamIds {
        self.ids
    }

    /// Returns whether its ids name its place in each partition.
    pub(crate) fn has_positions(&self) -> bool {
        self.ids.are_positions()
    }

    /// Returns the newest event sent of its first partition.
    pub(crate) fn last_sent(&self) -> Sequence {
        self.parts.first().map_or(0, |part| part.sent)
    }

    pub(crate) fn is_sending(&self) -> bool {
        self.flight != Flight::None
    }
}
