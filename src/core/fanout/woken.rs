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
            // One that left meanwhile is not there, or another with its number was not woken.
            if let Some(subscriber) = self.subscribers.at_mut(index)
                && std::mem::take(&mut subscriber.is_woken)
            {
                return self.subscribers.key_at(index);
            }
        }
    }

    /// Returns whether a stream is woken.
    pub(crate) fn has_woken(&self) -> bool {
        !self.woken.0.is_empty()
    }

    /// Notes that the socket of a stream has room: what was kept for it is sent next.
    pub(crate) fn has_room(&mut self, index: u32) {
        if let Some(subscriber) = self.subscribers.at_mut(index)
            && subscriber.has_unsent()
        {
            self.woken.add(index, subscriber);
        }
    }

    /// Keeps what the socket of a stream had no room for until it has.
    pub(crate) fn keep_unsent(&mut self, key: Key, unsent: Outgoing) {
        if let Some(subscriber) = self.subscribers.get_mut(key) {
            subscriber.keep_unsent(unsent);
        }
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
