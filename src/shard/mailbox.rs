//! The only door between shards.
//!
//! Unbounded in form and never full: a shard that waited for another's mailbox could wait for itself. What
//! may lie in all of them together is bounded by the [`Budget`](crate::core::budget::Budget), taken before a
//! publish is posted; beside publishes there is at most one question of each subscriber, or its answer, and what
//! the admin page asks for.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, unbounded};
use tokio::sync::Notify;

use crate::core::message::{Post, ShardId};
use crate::shard::message::ShardMessage;

/// The outer sides of all mailboxes.
pub(crate) type Doors = Arc<[Door]>;

/// The outer side of one mailbox.
#[derive(Debug)]
pub(crate) struct Door {
    sender: Sender<ShardMessage>,
    bell: Arc<Notify>,
}

impl Door {
    pub(crate) fn post(&self, message: impl Into<ShardMessage>) {
        // A mailbox nobody reads any more belongs to a server that is ending.
        let _ = self.sender.send(message.into());
        self.bell.notify_one();
    }
}

/// The inner side, with a way of its own for what a shard tells itself: most messages of a topic whose
/// subscribers are at home take it, and it costs no atomic operation.
#[derive(Debug)]
pub(crate) struct Mailbox {
    shard: ShardId,
    receiver: Receiver<ShardMessage>,
    own: RefCell<VecDeque<ShardMessage>>,
    own_first: Cell<bool>,
    bell: Arc<Notify>,
    doors: Doors,
}

/// What a shard's thread is given to make its mailbox of.
#[derive(Debug)]
pub(crate) struct Inside {
    receiver: Receiver<ShardMessage>,
    bell: Arc<Notify>,
}

/// Mailboxes for so many shards.
pub(crate) fn mailboxes(shards: usize) -> (Doors, Vec<Inside>) {
    let (doors, insides): (Vec<_>, Vec<_>) = (0..shards)
        .map(|_| {
            let (sender, receiver) = unbounded();
            let bell = Arc::new(Notify::new());
            (Door { sender, bell: Arc::clone(&bell) }, Inside { receiver, bell })
        })
        .unzip();
    (doors.into(), insides)
}

impl Mailbox {
    pub(crate) fn new(shard: ShardId, inside: Inside, doors: Doors) -> Self {
        Mailbox {
            shard,
            receiver: inside.receiver,
            own: RefCell::new(VecDeque::new()),
            own_first: Cell::new(false),
            bell: inside.bell,
            doors,
        }
    }

    /// Posts what the core says to any shard, this one included.
    pub(crate) fn post(&self, Post { to, message }: Post) {
        self.send(to, message.into());
    }

    /// Posts any message to any shard, this one included.
    pub(crate) fn send(&self, to: ShardId, message: ShardMessage) {
        if to == self.shard {
            self.own.borrow_mut().push_back(message);
            self.bell.notify_one();
        } else if let Some(door) = self.doors.get(usize::from(to)) {
            door.post(message);
        }
    }

    /// The next message; its own and the others' take turns.
    pub(crate) fn take(&self) -> Option<ShardMessage> {
        let own_first = self.own_first.replace(!self.own_first.get());
        let own = || self.own.borrow_mut().pop_front();
        let others = || self.receiver.try_recv().ok();
        if own_first { own().or_else(others) } else { others().or_else(own) }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.own.borrow().is_empty() && self.receiver.is_empty()
    }

    /// Makes a turn come without a message.
    pub(crate) fn ring(&self) {
        self.bell.notify_one();
    }

    /// Returns when there may be a message.
    pub(crate) async fn wait(&self) {
        self.bell.notified().await;
    }
}
