//! A turn's sends: blocks are sealed, and the streams that have one to read are sent it, topics taking turns and the streams
//! of each standing in line.

use smallvec::SmallVec;

use super::Fanout;
use super::ending::EndReason;
use super::log::SEND_BYTES_MAX;
use super::logs::TopicLog;
use super::sending::{Next, Outgoing};
use super::subscriber::Subscriber;
use crate::core::ahead::{self, Ahead};
use crate::core::message::Post;

/// Work of sends for one topic before the next topic's turn.
pub(super) const TOPIC_WORK_PER_TURN: usize = 64;
/// Bytes that double the time of a small send, 3 us.
pub(super) const SEND_BYTES_OF_WORK: usize = 16 << 10;
/// A trim by force goes this much below the limit, so that it is not needed for every block.
const TRIM_SLACK: usize = 8;
/// The most bytes that a log may gain while streams wait in its line: blocks grow, so that a send carries more. Half of the
/// 128 KiB that a socket takes at once, so that a stream which is behind catches up: where a log gained 175 to 600 KiB, some
/// of 1,000 streams whose clients read all they got were cut.
pub(super) const LINE_BYTES_MAX: usize = 64 << 10;
/// But no more than this part of what a stream may be behind.
pub(super) const LAG_PARTS: usize = 4;
/// Emptied lists of idle subscribers kept for reuse, so that a turn allocates none.
pub(super) const SPARE_LISTS_MAX: usize = 64;

/// The result of serving a stream.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Served {
    /// It waits for its topics, for room or for a home.
    Waits,
    /// Its connection is to be closed: everything was sent.
    Closed,
    /// Its connection is to be cut: the client is too slow.
    Cut,
}

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

    /// Sends to streams that stand in the lines of their topics, topics taking turns, until `work_max` units of work are
    /// done: one for each send and one for each 16 KiB. `send` gets a stream's index and bytes, removes the bytes that its
    /// socket has room for, and returns their number, or `None` when the connection is gone; the rest is kept until
    /// [`Fanout::has_room`]. Returns whether more streams wait.
    pub(crate) fn send_ready(
        &mut self,
        work_max: usize,
        now_ms: u64,
        out: &mut Vec<Post>,
        mut send: impl FnMut(u32, &mut Outgoing) -> Option<usize>,
    ) -> bool {
        let mut work = 0;
        self.is_behind = false;
        let mut ahead = Ahead::default();
        while work < work_max {
            if ahead.is_due() {
                self.look_along_ready();
            }
            let Some(number) = self.ready.pop_front() else { break };
            // A log that all streams have left is gone, and its number may be another's.
            let Some(log) = self.logs.get_mut(number).filter(|log| log.is_listed) else { continue };
            let mut list = std::mem::take(&mut log.ready);
            let turn_end = work + TOPIC_WORK_PER_TURN;
            let mut served = 0;
            while work < turn_end.min(work_max)
                && let Some(index) = list.pop_front()
            {
                served += 1;
                work += self.serve_in_line(index, now_ms, out, &mut send);
            }
            let Some(log) = self.logs.get_mut(number) else { continue };
            // Some may have come back to the line meanwhile.
            list.append(&mut log.ready);
            log.is_listed = !list.is_empty();
            if list.is_empty() {
                self.keep_spare(list.into());
            } else {
                log.ready = list;
                log.note_served(served);
                self.ready.push_back(number);
                self.is_behind |= self.is_late(number);
            }
        }
        self.is_behind |= self.ready.front().is_some_and(|number| self.is_late(*number));
        self.has_ready()
    }

    /// Looks ahead at the streams that stand first in the lines of the next logs.
    fn look_along_ready(&self) {
        for number in self.ready.iter().take(ahead::STEPS) {
            let first = self.logs.get(*number).and_then(|log| log.ready.front());
            first.and_then(|index| self.subscribers.at(*index)).inspect(|first| first.look_ahead());
        }
    }

    /// Returns whether a log gained more since its line was counted than [`LINE_BYTES_MAX`] and [`LAG_PARTS`] allow. A queue's
    /// log is not looked at: its queue bounds it.
    fn is_late(&self, number: u32) -> bool {
        let bytes_max = LINE_BYTES_MAX.min(self.limits.lag_bytes_max / LAG_PARTS) as u64;
        let log = self.logs.get(number).filter(|log| log.follower.is_none());
        log.is_some_and(|log| log.is_listed && log.gained_meanwhile() > bytes_max)
    }

    /// Returns whether a log gained much while streams with room stood in its line in the last [`Fanout::send_ready`], which
    /// is the shard's fault and not their clients': publishers are to be slowed.
    pub(crate) fn is_behind(&self) -> bool {
        self.is_behind
    }

    /// Returns whether streams wait for [`Fanout::send_ready`].
    pub(crate) fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Serves a stream that stood in a line; returns the work.
    fn serve_in_line(
        &mut self,
        index: u32,
        now_ms: u64,
        out: &mut Vec<Post>,
        send: &mut impl FnMut(u32, &mut Outgoing) -> Option<usize>,
    ) -> usize {
        // The index of a stream that left meanwhile may be another's now, which is then served early or woken for
        // nothing; so is a stream that stands here twice, because its socket told of room twice.
        let Some(subscriber) = self.subscribers.at_mut(index) else { return 0 };
        if !subscriber.is_idle() && !subscriber.goes_on() {
            self.woken.add(index, subscriber);
            return 1;
        }
        let (served, work) = self.serve(index, now_ms, out, send);
        if served != Served::Waits
            && let Some(subscriber) = self.subscribers.at_mut(index)
        {
            self.woken.add(index, subscriber);
        }
        work
    }

    /// Sends what is due on a stream until its socket has no room, by `send` as in [`Fanout::send_ready`]. Returns what
    /// it comes to, and the work.
    pub(crate) fn serve(
        &mut self,
        index: u32,
        now_ms: u64,
        out: &mut Vec<Post>,
        send: &mut impl FnMut(u32, &mut Outgoing) -> Option<usize>,
    ) -> (Served, usize) {
        let mut work = 0;
        loop {
            let mut outgoing = match self.next_of(index, now_ms) {
                Next::Send(outgoing) => outgoing,
                Next::Wait => return (Served::Waits, work),
                Next::Close => return (Served::Closed, work),
                Next::Cut => return (Served::Cut, work),
            };
            let Some(bytes) = send(index, &mut outgoing) else {
                self.end_for(index, EndReason::Left);
                return (Served::Closed, work + 1);
            };
            work += 1 + bytes / SEND_BYTES_OF_WORK;
            if !outgoing.buffers.is_empty() {
                self.keep_unsent(index, outgoing, bytes, now_ms);
                if bytes >= SEND_BYTES_MAX {
                    // It was stopped for others and not by its socket, which tells nothing then.
                    self.has_room(index);
                }
                return (Served::Waits, work);
            }
            if let Some(key) = self.subscribers.key_at(index) {
                self.sent(key, now_ms, out);
            }
        }
    }

    fn keep_spare(&mut self, list: Vec<u32>) {
        if self.spare.len() < SPARE_LISTS_MAX && list.capacity() > 0 {
            self.spare.push(list);
        }
    }

    fn seal(&mut self, number: u32) {
        let Some(topic_log) = self.logs.get_mut(number) else { return };
        topic_log.gained = false;
        let TopicLog { log, idle, ready, .. } = topic_log;
        if log.seal() && !idle.is_empty() {
            if ready.is_empty() {
                *ready = std::mem::replace(idle, self.spare.pop().unwrap_or_default()).into();
            } else {
                // Behind those that wait for an earlier block.
                ready.extend(idle.drain(..));
            }
            topic_log.list(number, &mut self.ready);
        }
        let TopicLog { log, follower, .. } = topic_log;
        let lag_bytes_max = self.limits.lag_bytes_max;
        // A follower's log is bounded at the queue; and an event longer than the limit could never be sent.
        if follower.is_none() && log.bytes() > lag_bytes_max {
            log.trim_to(lag_bytes_max - lag_bytes_max / TRIM_SLACK);
        }
    }
}
