//! One subscriber: where it stands, and what to send it next.

use std::task::Waker;

use bytes::Bytes;

use crate::core::event_id::{Epoch, Sequence};
use crate::core::fanout::log::{Cursor, Log, Span};
use crate::core::fanout::wire::{Buffers, Framing, gap_event};
use crate::core::message::Gap;
use crate::core::message::GapReason;

/// What a connection does next for its subscriber.
#[derive(Debug)]
pub(crate) enum Next {
    /// Send these bytes, all of them, then say so.
    Send(Outgoing),
    /// Nothing now: it is woken when there is.
    Wait,
    /// Close the connection: all was sent that was to be sent, or nothing is under way.
    Close,
    /// Close the connection although its client has not taken what is under way.
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
    /// Whether nothing follows it, and why.
    pub(crate) ends: Option<Ends>,
    /// What the kernel had no room for a moment ago.
    pub(crate) is_rest: bool,
}

/// How a stream ends.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Ends {
    /// There was no room for its topics; nothing of it was sent before.
    Refused,
    /// In the middle.
    Now,
    /// After everything that was coming.
    Flushed,
}

/// A subscriber's place in its topic.
#[derive(Debug)]
pub(crate) struct Subscriber {
    /// Where on this shard what it takes is kept.
    pub(crate) channel: u32,
    pub(crate) framing: Framing,
    pub(crate) stage: Stage,
    flight: Flight,
    // The next three are there for moments only; boxed, they save an idle subscriber 100 bytes.
    /// What of the send under way its connection is still to begin.
    unsent: Option<Box<Outgoing>>,
    pending: Option<Box<Pending>>,
    /// How the stream ends, once it is to end.
    ending: Option<Box<Ending>>,
    /// Whether its response's head went out, which is the first of what is pending until then.
    begun: bool,
    /// The newest event that was sent, or the place a replay has come to.
    pub(crate) sent: Sequence,
    /// Events among all that was sent.
    pub(crate) delivered: u64,
    /// When the last send began or ended, in milliseconds of the server's clock.
    pub(crate) touched_ms: u64,
    /// When its token expires, in Unix seconds; `u64::MAX` without a token.
    pub(crate) expires_s: u64,
    /// Where it stands among its topic's idle subscribers, if it is idle.
    pub(crate) idle_at: u32,
    /// Set by the sweep when it got nothing for long.
    pub(crate) heartbeat_due: bool,
    waker: Option<Waker>,
}

/// How far a subscriber has come.
#[derive(Debug)]
pub(crate) enum Stage {
    /// Home has not answered its Join; no byte was sent. Holds what begins its response.
    Joining(Box<Opening>),
    /// Home holds further pages for it; it was told if anything up to here is missing.
    Replaying(Sequence),
    /// It follows the log.
    Live(Cursor),
    /// The log was trimmed past it, and the policy is to skip it forward.
    Skipped,
    /// It gets nothing more.
    Closed,
}

/// How far a page of replay goes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reached {
    /// It holds what is retained up to here.
    pub(crate) upto: Sequence,
    /// It tells if anything up to here is missing.
    pub(crate) told: Sequence,
    /// Nothing follows but what is live.
    pub(crate) joined: bool,
}

/// What a subscriber's response begins with.
#[derive(Debug, Default)]
pub(crate) struct Opening {
    /// The 200's head.
    pub(crate) head: Bytes,
    /// The whole answer if home has no room for its topic.
    pub(crate) refusal: Bytes,
}

#[derive(Debug, Default)]
enum Flight {
    #[default]
    None,
    /// What was pending.
    Pending,
    /// The log up to here.
    Blocks(Cursor),
    Heartbeat,
    Farewell,
}

/// What goes out before the log: the response's head, pages of replay, notices.
#[derive(Debug, Default)]
struct Pending {
    buffers: Vec<Bytes>,
    /// Events among them.
    events: u32,
}

/// The last thing a subscriber is sent.
#[derive(Debug)]
struct Ending {
    farewell: Bytes,
    ends: Ends,
    /// No event after this one is sent before it, but for those of one send with it.
    upto: Sequence,
}

impl Subscriber {
    pub(crate) fn new(channel: u32, framing: Framing, expires_s: u64, opening: Opening, now_ms: u64) -> Self {
        Subscriber {
            channel,
            framing,
            stage: Stage::Joining(Box::new(opening)),
            flight: Flight::None,
            unsent: None,
            pending: None,
            ending: None,
            begun: false,
            sent: 0,
            delivered: 0,
            touched_ms: now_ms,
            expires_s,
            idle_at: u32::MAX,
            heartbeat_due: false,
            waker: None,
        }
    }

    /// What to send now. A live subscriber that is told to wait is idle: its topic must wake it.
    pub(crate) fn next(&mut self, log: &mut Log, epoch: Option<Epoch>, now_ms: u64) -> Next {
        if matches!(self.stage, Stage::Closed) {
            return if self.is_sending() { Next::Cut } else { Next::Close };
        }
        if let Some(unsent) = self.unsent.take() {
            return Next::Send(*unsent);
        }
        if self.is_sending() {
            return Next::Wait;
        }
        if matches!(self.stage, Stage::Skipped) {
            self.skip_to_tail(log, epoch);
        }
        let ends_now = self.ending.as_ref().is_some_and(|ending| ending.ends != Ends::Flushed);
        if !ends_now && let Some(pending) = self.pending.take() {
            self.begun = true;
            let Pending { buffers, events } = *pending;
            let outgoing = Outgoing { buffers: buffers.into(), events, ..Outgoing::default() };
            return self.send(Flight::Pending, outgoing, now_ms);
        }
        let span = match self.stage {
            Stage::Live(cursor) if !ends_now && self.sent < self.last_to_send() => {
                log.read(cursor, self.framing)
            }
            // Its head is still to come: an ending would not be understood before it.
            Stage::Joining(_) => return Next::Wait,
            _ => None,
        };
        match (span, self.ending.take()) {
            (Some(Span { buffers, to, events, last, at_us }), ending) => {
                self.ending = ending;
                self.sent = last;
                self.send(
                    Flight::Blocks(to),
                    Outgoing { buffers, events, at_us, ..Outgoing::default() },
                    now_ms,
                )
            }
            (None, Some(ending)) => {
                let pending = self.pending.take().filter(|_| !self.begun);
                let head = pending.and_then(|pending| pending.buffers.into_iter().next());
                let buffers = head.into_iter().chain([ending.farewell]).collect();
                let ends = Some(ending.ends);
                self.send(Flight::Farewell, Outgoing { buffers, ends, ..Outgoing::default() }, now_ms)
            }
            (None, None) if self.heartbeat_due && self.is_idle() => {
                self.send(Flight::Heartbeat, self.framing.heartbeat().into(), now_ms)
            }
            (None, None) => Next::Wait,
        }
    }

    /// Keeps what of the last [`Outgoing`] could not be sent at once: it is what to send next, before
    /// anything else.
    pub(crate) fn keep_unsent(&mut self, unsent: Outgoing) {
        self.unsent = Some(Box::new(Outgoing { is_rest: true, ..unsent }));
    }

    /// All bytes of the last [`Outgoing`] went out. Returns where home is to go on, if it holds further
    /// pages, and up to where it was told of what is missing.
    pub(crate) fn sent(&mut self, log: &mut Log, now_ms: u64) -> Option<(Sequence, Sequence)> {
        self.touched_ms = now_ms;
        match std::mem::take(&mut self.flight) {
            Flight::Blocks(to) => {
                if let Stage::Live(cursor) = &mut self.stage {
                    log.advance(*cursor, to);
                    *cursor = to;
                }
            }
            Flight::Pending if self.ending.is_none() => {
                if let Stage::Replaying(told) = self.stage {
                    return Some((self.sent, told));
                }
            }
            Flight::Farewell => self.close(log),
            Flight::None | Flight::Pending | Flight::Heartbeat => {}
        }
        None
    }

    /// Takes a page of replay; the last one makes it live from the log's tail on.
    pub(crate) fn page(&mut self, log: &mut Log, gap: Option<&Gap>, frames: Vec<Bytes>, reached: Reached) {
        let Reached { upto, told, joined } = reached;
        if matches!(self.stage, Stage::Closed) {
            return;
        }
        let stage = if joined { Stage::Live(log.attach()) } else { Stage::Replaying(told) };
        if let Stage::Joining(opening) = std::mem::replace(&mut self.stage, stage) {
            self.pending.get_or_insert_default().buffers.push(opening.head);
        }
        self.sent = upto;
        if gap.is_some() || !frames.is_empty() {
            let pending = self.pending.get_or_insert_default();
            pending.events += frames.len() as u32;
            self.framing.frame(gap.map(gap_event).into_iter().chain(frames), &mut pending.buffers);
        } else if !joined {
            // A send of nothing, whose end asks home for the next page.
            self.pending.get_or_insert_default();
        }
    }

    /// Home has no room for its topic: it is sent the refusal, or `text` in the middle of a replay, and
    /// closed.
    pub(crate) fn refused(&mut self, text: &str) {
        match std::mem::replace(&mut self.stage, Stage::Replaying(0)) {
            Stage::Joining(opening) => {
                let farewell = opening.refusal;
                self.ending = Some(Box::new(Ending { farewell, ends: Ends::Refused, upto: 0 }));
            }
            stage => {
                self.stage = stage;
                self.end(text, false);
            }
        }
    }

    /// Ends the stream with `text` after the event `upto`, however many come meanwhile and however slowly it reads.
    pub(crate) fn end_after(&mut self, upto: Sequence, text: &str) {
        self.end(text, true);
        if let Some(ending) = &mut self.ending {
            ending.upto = ending.upto.min(upto);
        }
    }

    /// Ends the stream with `text`; after everything in the log if `flush`.
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

    /// Whether its farewell is due, under way or sent, or it was cut.
    pub(crate) fn is_ending(&self) -> bool {
        self.ending.is_some()
            || matches!(self.flight, Flight::Farewell)
            || matches!(self.stage, Stage::Closed)
    }

    /// The log was trimmed past its cursor, which must not be used any more.
    pub(crate) fn fell_behind(&mut self, skip: bool) {
        self.stage = if skip { Stage::Skipped } else { Stage::Closed };
    }

    /// Lets go of the log.
    pub(crate) fn close(&mut self, log: &mut Log) {
        if let Stage::Live(cursor) = std::mem::replace(&mut self.stage, Stage::Closed) {
            log.detach(cursor);
        }
    }

    /// Bytes of the log it has not been sent.
    pub(crate) fn lag_bytes(&self, log: &Log) -> usize {
        match self.stage {
            Stage::Live(cursor) => log.bytes_from(cursor),
            _ => 0,
        }
    }

    /// Whether there was no room for its topics.
    pub(crate) fn is_refused(&self) -> bool {
        self.ending.as_ref().is_some_and(|ending| ending.ends == Ends::Refused)
    }

    /// Whether it only waits for its topic.
    pub(crate) fn is_idle(&self) -> bool {
        matches!(self.stage, Stage::Live(_)) && !self.is_sending()
    }

    /// Whether its gap is told with the next send.
    pub(crate) fn skips_now(&self) -> bool {
        matches!(self.stage, Stage::Skipped) && !self.is_sending()
    }

    /// Whether the log dropped what it was not sent. One whose send under way reaches far enough only moves
    /// up.
    pub(crate) fn is_overtaken(&mut self, log: &mut Log) -> bool {
        let Stage::Live(cursor) = &mut self.stage else { return false };
        if !log.is_behind(*cursor) {
            return false;
        }
        match self.flight {
            Flight::Blocks(to) if !log.is_behind(to) => {
                log.reattach(to);
                *cursor = to;
                false
            }
            _ => true,
        }
    }

    /// Whether its send takes too long.
    pub(crate) fn is_stuck(&self, now_ms: u64, timeout_ms: u64) -> bool {
        let is_closed = matches!(self.stage, Stage::Closed);
        self.is_sending() && !is_closed && now_ms.saturating_sub(self.touched_ms) > timeout_ms
    }

    /// Whether it got nothing for the heartbeat's interval, or for up to a quarter less: `index` spreads
    /// those that were sent to at the same time.
    pub(crate) fn is_quiet(&self, index: u32, now_ms: u64, heartbeat_ms: u64) -> bool {
        // Fibonacci hashing: neighbours in the slab land far apart.
        let spread = u64::from(index.wrapping_mul(0x9e37_79b9) >> 24);
        let earlier_ms = heartbeat_ms * spread / 1024;
        self.is_idle() && now_ms.saturating_sub(self.touched_ms) >= heartbeat_ms - earlier_ms
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

    /// The newest event it is sent before it ends.
    fn last_to_send(&self) -> Sequence {
        self.ending.as_ref().map_or(Sequence::MAX, |ending| ending.upto)
    }

    fn is_sending(&self) -> bool {
        !matches!(self.flight, Flight::None)
    }

    fn skip_to_tail(&mut self, log: &mut Log, epoch: Option<Epoch>) {
        self.stage = Stage::Live(log.attach());
        let from = epoch.map(|epoch| epoch.text(self.sent).into());
        // No id: coming back, it may still get from the history what it was too slow for.
        let gap = Gap { from, reason: GapReason::Slow, id: None };
        self.framing.frame([gap_event(&gap)], &mut self.pending.get_or_insert_default().buffers);
    }

    fn send(&mut self, flight: Flight, outgoing: Outgoing, now_ms: u64) -> Next {
        self.flight = flight;
        self.touched_ms = now_ms;
        self.delivered += u64::from(outgoing.events);
        self.heartbeat_due = false;
        Next::Send(outgoing)
    }
}

impl From<Bytes> for Outgoing {
    fn from(bytes: Bytes) -> Self {
        Outgoing { buffers: Buffers::from_buf([bytes]), ..Outgoing::default() }
    }
}
