//! A turn's sends: blocks are sealed, and the streams that have one to read are sent it, topics taking turns and the streams
//! of each standing in line.

use smallvec::SmallVec;

use super::Fanout;
use super::logs::TopicLog;
use super::sending::{Next, Outgoing};
use super::subscriber::Subscriber;

/// Work of sends for one topic before the next topic's turn.
pub(super) const TOPIC_WORK_PER_TURN: usize = 64;
/// Bytes that double the time of a small send, 3 us.
pub(crate) const SEND_BYTES_OF_WORK: usize = 16 << 10;
/// A trim by force goes this much below the limit, so that it is not needed for every block.
const TRIM_SLACK: usize = 8;
/// A stream may wait until it is behind by this part of what it may be: blocks grow, so that a send carries more.
pub(super) const LAG_PARTS: usize = 4;
/// Emptied lists of idle subscribers kept for reuse, so that a turn allocates none.
pub(super) const SPARE_LISTS_MAX: usize = 64;

impl Fanout {
    /// Ends the turn: makes one block of the events each topic gained.
    pub(crate) fn seal_all(&mut self) {
        while let Some(log) = self.gained.pop() {
            self.seal(log);
        }
    }

    /// Makes blocks of the events that the topics of one stream gained.
    pub(super) fn seal_all_of(&mut self, index: u32) {
        let cursors = self.subscribers.at(index).map_or(&[][..], Subscriber::cursors);
        let logs: SmallVec<[u32; 2]> = cursors.iter().map(|cursor| cursor.log).collect();
        logs.into_iter().for_each(|log| self.seal(log));
    }

    /// Sends to idle subscribers that have a block to read, topics taking turns, until `work_max` units of work are
    /// done: one for each send and one for each 16 KiB. `send` gets a subscriber's index and bytes, removes the bytes
    /// that its socket has room for, and returns their number; the rest is kept until [`Fanout::has_room`]. Returns
    /// whether more subscribers are waiting.
    pub(crate) fn send_ready(
        &mut self,
        work_max: usize,
        now_ms: u64,
        mut send: impl FnMut(u32, &mut Outgoing) -> usize,
    ) -> bool {
        let mut work = 0;
        self.is_behind = false;
        while work < work_max
            && let Some(number) = self.ready.pop_front()
        {
            // One that all have left is not there.
            let Some(log) = self.logs.get_mut(number) else { continue };
            let mut list = std::mem::take(&mut log.ready);
            let turn_end = work + TOPIC_WORK_PER_TURN;
            while work < turn_end.min(work_max)
                && let Some(index) = list.pop_front()
            {
                work += 1 + self.send_to(index, now_ms, &mut send) / SEND_BYTES_OF_WORK;
            }
            if list.is_empty() {
                self.keep_spare(list.into());
            } else {
                // It has waited longest.
                let next = list.front().and_then(|index| self.subscribers.at(*index));
                let lag_bytes = next.map_or(0, |next| next.lag_bytes(&self.logs));
                self.is_behind |= lag_bytes > self.limits.lag_bytes_max / LAG_PARTS;
                if let Some(log) = self.logs.get_mut(number) {
                    log.ready = list;
                    self.ready.push_back(number);
                }
            }
        }
        self.has_ready()
    }

    /// Returns whether the last [`Fanout::send_ready`] left a stream that has room further behind than a part of what it
    /// may be, which is the shard's fault and not its client's: publishers are to be slowed.
    pub(crate) fn is_behind(&self) -> bool {
        self.is_behind
    }

    /// Returns whether subscribers wait for [`Fanout::send_ready`].
    pub(crate) fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Sends one subscriber all it has pending; returns the bytes sent at once.
    fn send_to(
        &mut self,
        index: u32,
        now_ms: u64,
        send: &mut impl FnMut(u32, &mut Outgoing) -> usize,
    ) -> usize {
        let mut sent = 0;
        // The index of a stream that left meanwhile may be another's now, which is then served early or woken for
        // nothing.
        let Some(subscriber) = self.subscribers.at_mut(index) else { return sent };
        if !subscriber.is_idle() && !subscriber.goes_on() {
            self.woken.add(index, subscriber);
            return sent;
        }
        loop {
            match self.next_of(index, now_ms) {
                Next::Send(mut outgoing) => {
                    let bytes = send(index, &mut outgoing);
                    sent += bytes;
                    if !outgoing.buffers.is_empty() {
                        self.keep_unsent(index, outgoing, bytes, now_ms);
                        return sent;
                    }
                    let Some(subscriber) = self.subscribers.at_mut(index) else { return sent };
                    let more = subscriber.sent(&mut self.logs, now_ms);
                    debug_assert!(more.is_none(), "only a stream that replays asks for more");
                }
                Next::Wait => return sent,
                Next::Close | Next::Cut => {
                    let Self { subscribers, woken, .. } = self;
                    subscribers.at_mut(index).into_iter().for_each(|subscriber| woken.add(index, subscriber));
                    return sent;
                }
            }
        }
    }

    fn keep_spare(&mut self, list: Vec<u32>) {
        if self.spare.len() < SPARE_LISTS_MAX {
            self.spare.push(list);
        }
    }

    fn seal(&mut self, number: u32) {
        let Some(log) = self.logs.get_mut(number) else { return };
        log.gained = false;
        let TopicLog { log, idle, ready, follower, .. } = log;
        if log.seal() && !idle.is_empty() {
            if ready.is_empty() {
                *ready = std::mem::replace(idle, self.spare.pop().unwrap_or_default()).into();
                self.ready.push_back(number);
            } else {
                // Behind those that wait for an earlier block.
                ready.extend(idle.drain(..));
            }
        }
        let lag_bytes_max = self.limits.lag_bytes_max;
        // A follower's log is bounded at the queue; and an event longer than the limit could never be sent.
        if follower.is_none() && log.bytes() > lag_bytes_max {
            log.trim_to(lag_bytes_max - lag_bytes_max / TRIM_SLACK);
        }
    }
}
