//! The streams that the shard is to ask for their next send, because something other than a block came for them.

use std::collections::VecDeque;

use super::ending::EndReason;
use super::sending::Outgoing;
use super::{Fanout, Subscriber};
use crate::core::arena::Key;

/// The numbers of woken streams, each listed once; owned by the [`Fanout`].
#[derive(Debug, Default)]
pub(super) struct WakeList(VecDeque<u32>);

impl WakeList {
    /// Lists a stream with this number, unless it is listed already.
    pub(super) fn add(&mut self, index: u32, subscriber: &mut Subscriber) {
        if !std::mem::replace(&mut subscriber.is_woken, true) {
            self.0.push_back(index);
        }
    }
}

impl Fanout {
    /// Takes the stream that was woken first; returns `None` when there is none.
    pub(crate) fn take_woken(&mut self) -> Option<Key> {
        loop {
            let index = self.woken.0.pop_front()?;
            // A stream that left meanwhile is gone, and another with its number was not woken.
            if let Some(subscriber) = self.subscribers.at_mut(index)
                && std::mem::take(&mut subscriber.is_woken)
            {
                return self.subscribers.key_at(index);
            }
        }
    }

    /// Returns whether a turn has something to do: streams are woken, or wait for [`Fanout::send_ready`].
    pub(crate) fn is_due(&self) -> bool {
        !self.woken.0.is_empty() || self.has_ready()
    }

    /// Notes that the socket of a stream has room, so that what was kept for it is sent; returns whether anything was. A
    /// stream that follows its topics waits in one line with those that have a new block: in a line of its own it would be
    /// sent to less often, or those would, and each send carry less.
    pub(crate) fn has_room(&mut self, index: u32) -> bool {
        let Some(subscriber) = self.subscribers.at_mut(index) else { return false };
        match subscriber.cursors() {
            [cursor, ..] if subscriber.goes_on() => {
                let number = cursor.log;
                let log = &mut self.logs[number];
                log.ready.push_back(index);
                log.list(number, &mut self.ready);
            }
            _ if subscriber.has_unsent() => self.woken.add(index, subscriber),
            _ => return false,
        }
        true
    }

    /// Keeps what the socket of a stream had no room for until it has; `sent` bytes of it went out now.
    ///
    /// For a queue's stream a part is as good as a send, or a message that takes longer than the timeout would be
    /// redelivered again and again and hold up those behind it.
    pub(super) fn keep_unsent(&mut self, index: u32, unsent: Outgoing, sent: usize, now_ms: u64) {
        let Some(subscriber) = self.subscribers.at_mut(index) else { return };
        if sent > 0 && subscriber.cursors().iter().any(|cursor| self.logs[cursor.log].follower.is_some()) {
            subscriber.touched_ms = now_ms;
        }
        subscriber.keep_unsent(unsent);
    }

    /// Ends a stream at once because of what its client did: it left, or sent too much. A reason that it has to end keeps.
    pub(crate) fn end_for(&mut self, index: u32, reason: EndReason) {
        if let Some(subscriber) = self.subscribers.at_mut(index) {
            let reason = match subscriber.end_reason() {
                EndReason::Left => reason,
                known => known,
            };
            subscriber.close_for(reason, &mut self.logs);
            self.woken.add(index, subscriber);
        }
    }
}
