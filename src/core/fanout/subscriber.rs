//! One stream: where it stands in each of its topics, and what to send it next.
//!
//! It has a cursor for each topic, which is a place in that topic's log, and a part for each partition it takes something of:
//! what a partition orders is replayed together, joins at one seam, and is sent in that order.

use std::task::Waker;

use bytes::Bytes;
use smallvec::SmallVec;

use crate::core::chunk::Framing;
use crate::core::event_id::Sequence;
use crate::core::fanout::log::Place;
use crate::core::fanout::logs::Logs;
use crate::core::fanout::part::{Cursor, Part, Replayed, Stage, attach, detach};
use crate::core::fanout::sending::{Next, Outgoing, Pending, Sender};
use crate::core::message::ReplayPage;
use crate::core::partition::PartitionId;

/// How a stream ends.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum EndKind {
    /// There was no room for its topics; nothing of it was sent before.
    Refused,
    /// In the middle.
    Now,
    /// After everything that was coming.
    Flushed,
}

/// A stream.
#[derive(Debug)]
pub(crate) struct Subscriber {
    pub(super) cursors: SmallVec<[Cursor; 1]>,
    pub(super) parts: SmallVec<[Part; 1]>,
    pub(super) framing: Framing,
    /// Whether its ids name its place in each partition, because it takes several topics.
    pub(super) has_positions: bool,
    is_closed: bool,
    /// It was closed because its client is too slow.
    is_cut: bool,
    pub(super) flight: Flight,
    /// The part that is sent first next time.
    pub(super) turn: u16,
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
    pub(super) pending: Option<Box<Vec<Pending>>>,
    /// Where the page that is sent now ends.
    pub(super) replayed: Option<Box<Replayed>>,
    /// How the stream ends, once it is to end.
    pub(super) ending: Option<Box<Ending>>,
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
pub(super) enum Flight {
    #[default]
    None,
    /// A page of this part.
    Page(u16),
    /// What is in no page.
    Other,
    Farewell,
}

/// The last thing a stream is sent.
#[derive(Debug)]
pub(super) struct Ending {
    farewell: Bytes,
    ends: EndKind,
    /// No event after this one is sent before it, but for those of one send with it.
    pub(super) upto: Sequence,
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
        let ends_now = self.ending.as_ref().is_some_and(|ending| ending.ends != EndKind::Flushed);
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
            None if self.heartbeat_due => (Flight::Other, self.framing.heartbeat().into()),
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
                self.ending = Some(Box::new(Ending { farewell, ends: EndKind::Refused, upto: 0 }));
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
            Some(EndKind::Refused) => true,
            Some(EndKind::Now | EndKind::Flushed) => flush,
        };
        if !is_over {
            let ends = if flush { EndKind::Flushed } else { EndKind::Now };
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
        self.ending.as_ref().is_some_and(|ending| ending.ends == EndKind::Refused)
    }

    /// Returns whether it only waits for its topics.
    pub(crate) fn is_idle(&self) -> bool {
        !self.is_closed && !self.is_sending() && self.parts.iter().all(|part| part.stage == Stage::Live)
    }

    /// Has its topics wake it, as far as their parts are live, unless it is sending. It is number `index` of its shard.
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
}
