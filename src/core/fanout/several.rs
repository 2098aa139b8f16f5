//! A stream on several topics, or on all: one subscriber for each home it takes something of, and what joins them.
//!
//! The parts are subscribers like any other, with logs, cursors and replay of their own. They are sent in turns, a block
//! at a time, with ids that name the place of all of them.

use std::task::Waker;

use bytes::Bytes;
use smallvec::SmallVec;

use crate::core::arena::Key;
use crate::core::fanout::positions::{Pieces, Places};
use crate::core::fanout::subscriber::{Ends, Next, Opening, Outgoing};
use crate::core::fanout::wire::Framing;
use crate::core::fanout::{Fanout, Joined, Subscription};
use crate::core::message::Post;
use crate::core::selection::Selection;
use crate::core::topic::Topic;

/// The subscribers that a stream is: one, or one at each home.
pub(crate) type Subscribers = SmallVec<[Key; 1]>;

/// Where a stream's bytes come from.
#[derive(Debug)]
pub(crate) enum Feed {
    /// One subscriber: of a topic with all below it, or of a session.
    Single(Key),
    Several(Box<Several>),
}

impl Feed {
    /// Takes in who asks for these topics, of `shards` homes.
    pub(crate) fn subscribe(
        request: Request,
        shards: usize,
        fanout: &mut Fanout,
        now_ms: u64,
        out: &mut Vec<Post>,
    ) -> Self {
        let Request { topics, framing, last_event_id, expires_s, opening } = request;
        if let Some(selection) = Selection::whole(&topics, shards) {
            let subscription = Subscription { selection, framing, last_event_id, expires_s, opening };
            return Feed::Single(fanout.subscribe(subscription, now_ms, out));
        }
        let parts = Selection::parts(&topics, shards);
        let request = Request { topics: SmallVec::new(), framing, last_event_id, expires_s, opening };
        Feed::Several(Box::new(Several::subscribe(parts, request, fanout, now_ms, out)))
    }

    /// What its connection does now. It is woken by `waker` whenever it should ask again.
    pub(crate) fn next(
        &mut self,
        fanout: &mut Fanout,
        waker: &Waker,
        now_ms: u64,
        out: &mut Vec<Post>,
    ) -> Next {
        match self {
            Feed::Single(key) => fanout.next(*key, waker, now_ms),
            Feed::Several(several) => several.next(fanout, waker, now_ms, out),
        }
    }

    /// All bytes that [`Feed::next`] gave went out.
    pub(crate) fn sent(&mut self, fanout: &mut Fanout, now_ms: u64, out: &mut Vec<Post>) {
        match self {
            Feed::Single(key) => fanout.sent(*key, now_ms, out),
            Feed::Several(several) => several.sent(fanout, now_ms, out),
        }
    }

    /// Its connection is gone.
    pub(crate) fn leave(&self, fanout: &mut Fanout, out: &mut Vec<Post>) {
        self.subscribers().into_iter().for_each(|key| fanout.leave(key, out));
    }

    /// All its subscribers.
    pub(crate) fn subscribers(&self) -> Subscribers {
        match self {
            Feed::Single(key) => [*key].into(),
            Feed::Several(several) => several.parts.iter().map(|part| part.key).collect(),
        }
    }

    /// The subscriber that the whole stream is.
    pub(crate) fn single(&self) -> Option<Key> {
        match self {
            Feed::Single(key) => Some(*key),
            Feed::Several(_) => None,
        }
    }
}

/// What a stream asks for.
#[derive(Debug)]
pub(crate) struct Request {
    /// None of which covers another.
    pub(crate) topics: SmallVec<[Topic; 1]>,
    pub(crate) framing: Framing,
    pub(crate) last_event_id: Option<Box<str>>,
    /// Unix seconds; `u64::MAX` for never.
    pub(crate) expires_s: u64,
    pub(crate) opening: Opening,
}

/// A stream made of parts.
#[derive(Debug)]
pub(crate) struct Several {
    parts: Vec<Part>,
    places: Places,
    framing: Framing,
    /// What its response begins with, until that was sent.
    opening: Option<Opening>,
    /// Whether nothing is known of a last id, so that each part begins where its home let it in.
    is_fresh: bool,
    /// The part whose turn it is.
    turn: usize,
    flight: Flight,
    /// When it was last sent something, in milliseconds of the server's clock.
    sent_ms: u64,
}

#[derive(Clone, Copy, Debug)]
struct Part {
    key: Key,
    /// It has sent all it will.
    has_ended: bool,
}

#[derive(Debug)]
enum Flight {
    None,
    Head,
    /// Of this part.
    Part(usize),
    Farewell,
    /// Nothing follows.
    Landed,
}

impl Several {
    /// Takes all parts in. The response begins when each home has answered.
    fn subscribe(
        selections: Vec<Selection>,
        request: Request,
        fanout: &mut Fanout,
        now_ms: u64,
        out: &mut Vec<Post>,
    ) -> Self {
        let Request { framing, last_event_id, expires_s, opening, .. } = request;
        let homes = selections.iter().map(Selection::home);
        let places = Places::new(fanout.epoch(), homes, last_event_id.as_deref());
        let mut parts = Vec::with_capacity(selections.len());
        for selection in selections {
            let subscription = Subscription {
                selection,
                framing: Framing::Plain,
                last_event_id: last_event_id.clone(),
                // The first one's end is the end of all.
                expires_s: if parts.is_empty() { expires_s } else { u64::MAX },
                opening: Opening::default(),
            };
            parts.push(Part { key: fanout.subscribe(subscription, now_ms, out), has_ended: false });
        }
        let (opening, is_fresh) = (Some(opening), last_event_id.is_none());
        Several { parts, places, framing, opening, is_fresh, turn: 0, flight: Flight::None, sent_ms: now_ms }
    }

    fn next(&mut self, fanout: &mut Fanout, waker: &Waker, now_ms: u64, out: &mut Vec<Post>) -> Next {
        match self.flight {
            Flight::None => {}
            Flight::Landed => return Next::Close,
            // Asked all the same: a part may have been cut.
            Flight::Head | Flight::Part(_) | Flight::Farewell => {
                let cut = self.parts.iter().any(|part| !part.has_ended && fanout.is_closed(part.key));
                return if cut { Next::Cut } else { Next::Wait };
            }
        }
        if self.opening.is_some() {
            return self.open(fanout, waker);
        }
        let (count, first) = (self.parts.len(), self.turn);
        for number in (first..first + count).map(|n| n % count) {
            match self.part(number, fanout, waker, now_ms, out) {
                Next::Wait => {}
                next => {
                    self.turn = (number + 1) % count;
                    return next;
                }
            }
        }
        Next::Wait
    }

    /// Begins the response once all parts have joined.
    fn open(&mut self, fanout: &mut Fanout, waker: &Waker) -> Next {
        let mut all_joined = true;
        for part in &self.parts {
            match fanout.joined(part.key, waker) {
                Joined::Yes => {}
                Joined::NotYet => all_joined = false,
                Joined::Closed => return Next::Close,
                Joined::Refused => {
                    self.flight = Flight::Farewell;
                    let refusal = self.opening.take().unwrap_or_default().refusal;
                    return Next::Send(refusal.into());
                }
            }
        }
        if !all_joined {
            return Next::Wait;
        }
        if self.is_fresh {
            for (number, part) in self.parts.iter().enumerate() {
                self.places.set(number, fanout.place(part.key));
            }
        }
        self.flight = Flight::Head;
        Next::Send(self.opening.take().unwrap_or_default().head.into())
    }

    /// What part number `number` has to send.
    fn part(
        &mut self,
        number: usize,
        fanout: &mut Fanout,
        waker: &Waker,
        now_ms: u64,
        out: &mut Vec<Post>,
    ) -> Next {
        let Part { key, has_ended } = self.parts[number];
        if has_ended {
            return Next::Wait;
        }
        loop {
            let outgoing = match fanout.next(key, waker, now_ms) {
                Next::Send(outgoing) => outgoing,
                next => return next,
            };
            if let Some(ends) = outgoing.ends {
                let others_ended =
                    self.parts.iter().enumerate().all(|(other, part)| other == number || part.has_ended);
                // What all have coming is sent before the last word.
                if ends == Ends::Flushed && !others_ended {
                    self.parts[number].has_ended = true;
                    fanout.sent(key, now_ms, out);
                    return Next::Wait;
                }
                // Until it is sent this part is sending, and the sweep cuts a client that does not take it.
                self.flight = Flight::Farewell;
                return Next::Send(
                    self.framing.farewell(&String::from_utf8_lossy(&outgoing.buffers.concat())).into(),
                );
            }
            let is_heartbeat = outgoing.events == 0 && outgoing.buffers[..] == [Framing::Plain.heartbeat()];
            if outgoing.buffers.iter().all(Bytes::is_empty)
                || (is_heartbeat && !fanout.is_long_ago(self.sent_ms, now_ms))
            {
                // It had only joined, or is quiet while others are not.
                fanout.sent(key, now_ms, out);
                continue;
            }
            let mut pieces = Pieces::default();
            outgoing.buffers.iter().for_each(|buffer| self.places.write(number, buffer, &mut pieces));
            let mut framed = Vec::with_capacity(3);
            self.framing.frame(pieces.into_buffers(|own| fanout.share(own)), &mut framed);
            self.flight = Flight::Part(number);
            return Next::Send(Outgoing { buffers: framed.into(), ..outgoing });
        }
    }

    fn sent(&mut self, fanout: &mut Fanout, now_ms: u64, out: &mut Vec<Post>) {
        self.sent_ms = now_ms;
        self.flight = match self.flight {
            Flight::Farewell | Flight::Landed => Flight::Landed,
            Flight::Part(number) => {
                fanout.sent(self.parts[number].key, now_ms, out);
                Flight::None
            }
            Flight::None | Flight::Head => Flight::None,
        };
    }
}
