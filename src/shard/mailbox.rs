//! Mailboxes: the only way between shards.
//!
//! A mailbox is unbounded and never full, because a shard that waited for room in another's could wait for itself. What
//! lies in all of them together is bounded by the [`Budget`](crate::core::budget::Budget), charged before a publish is
//! posted; beside publishes there is at most one question of each subscriber, or its answer, and the admin page's
//! requests.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, unbounded};
use tokio::sync::Notify;

use crate::core::message::{Message, OrderError, Post, Reply, ShardId, Ticket};
use crate::journal::cluster::events::{ClusterEvents, ClusterNews};
use crate::journal::disk::log::Lost;
use crate::journal::writer::JournalEvents;
use crate::shard::message::ShardMessage;

/// The senders of all mailboxes, by shard; shared by all threads, and cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Mailboxes(Arc<[MailboxSender]>);

impl Mailboxes {
    /// Posts a message to a shard; a number that no shard has is ignored.
    pub(crate) fn post(&self, to: ShardId, message: impl Into<ShardMessage>) {
        if let Some(mailbox) = self.0.get(usize::from(to)) {
            mailbox.post(message.into());
        }
    }

    /// Posts a message to every shard.
    pub(crate) fn post_to_all(&self, mut message: impl FnMut() -> ShardMessage) {
        self.0.iter().for_each(|mailbox| mailbox.post(message()));
    }

    /// Returns the number of shards.
    pub(crate) fn shards(&self) -> usize {
        self.0.len()
    }
}

/// The sending side of one mailbox.
#[derive(Debug)]
struct MailboxSender {
    sender: Sender<ShardMessage>,
    bell: Arc<Notify>,
}

impl MailboxSender {
    fn post(&self, message: ShardMessage) {
        // The receiver is gone only while the server is stopping.
        let _ = self.sender.send(message);
        self.bell.notify_one();
    }
}

impl JournalEvents for Mailboxes {
    fn settled(&self, shard: ShardId, publishes: usize, work: usize, result: Result<(), OrderError>) {
        self.post(shard, ShardMessage::Journaled { publishes, work, result });
    }

    fn lost(&self, shard: ShardId, lost: Lost) {
        self.post(shard, ShardMessage::JournalLost(lost));
    }
}

impl ClusterEvents for Mailboxes {
    fn tell(&self, shard: ShardId, news: ClusterNews) {
        self.post(shard, ShardMessage::Cluster(news));
    }

    fn reply(&self, ticket: Ticket, reply: Reply) {
        self.post(ticket.shard, Message::Reply(ticket, reply));
    }
}

/// The receiving side, owned by its shard. Messages of a shard to itself have a queue of their own, which costs no
/// atomic operation: most events of a topic whose subscribers are on its home shard take it.
#[derive(Debug)]
pub(crate) struct ShardMailbox {
    shard: ShardId,
    receiver: Receiver<ShardMessage>,
    own: RefCell<VecDeque<ShardMessage>>,
    own_first: Cell<bool>,
    bell: Arc<Notify>,
    mailboxes: Mailboxes,
}

/// A mailbox's receiver on its way to the shard's thread, which makes a [`ShardMailbox`] of it.
#[derive(Debug)]
pub(crate) struct MailboxReceiver {
    receiver: Receiver<ShardMessage>,
    bell: Arc<Notify>,
}

/// Returns the senders and receivers of mailboxes for this many shards.
pub(crate) fn mailboxes(shards: usize) -> (Mailboxes, Vec<MailboxReceiver>) {
    let (mailboxes, receivers): (Vec<_>, Vec<_>) = (0..shards)
        .map(|_| {
            let (sender, receiver) = unbounded();
            let bell = Arc::new(Notify::new());
            (MailboxSender { sender, bell: Arc::clone(&bell) }, MailboxReceiver { receiver, bell })
        })
        .unzip();
    (Mailboxes(mailboxes.into()), receivers)
}

impl ShardMailbox {
    pub(crate) fn new(shard: ShardId, inner: MailboxReceiver, mailboxes: Mailboxes) -> Self {
        ShardMailbox {
            shard,
            receiver: inner.receiver,
            own: RefCell::new(VecDeque::new()),
            own_first: Cell::new(false),
            bell: inner.bell,
            mailboxes,
        }
    }

    /// Posts a message of the core to any shard, this one included.
    pub(crate) fn post(&self, Post { to, message }: Post) {
        self.send(to, message.into());
    }

    /// Posts any message to any shard, this one included.
    pub(crate) fn send(&self, to: ShardId, message: ShardMessage) {
        if to == self.shard {
            let mut own = self.own.borrow_mut();
            // With messages of its own the shard takes turns until there are none, and waits for the bell only then.
            if own.is_empty() {
                self.bell.notify_one();
            }
            own.push_back(message);
        } else {
            self.mailboxes.post(to, message);
        }
    }

    /// Returns the next message, alternating between the shard's own and those of others.
    pub(crate) fn take(&self) -> Option<ShardMessage> {
        let own_first = self.own_first.replace(!self.own_first.get());
        let own = || self.own.borrow_mut().pop_front();
        let others = || self.receiver.try_recv().ok();
        if own_first { own().or_else(others) } else { others().or_else(own) }
    }

    /// Calls `look` with the next messages of the shard to itself, `messages_max` at most. Those of other shards cannot be
    /// seen before they are taken.
    pub(crate) fn show_next(&self, messages_max: usize, look: impl FnMut(&ShardMessage)) {
        self.own.borrow().iter().take(messages_max).for_each(look);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.own.borrow().is_empty() && self.receiver.is_empty()
    }

    /// Wakes the shard for a turn without a message.
    pub(crate) fn ring(&self) {
        self.bell.notify_one();
    }

    /// Returns when there may be a message.
    pub(crate) async fn wait(&self) {
        self.bell.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    fn new_mailboxes(shards: u16) -> Vec<ShardMailbox> {
        let (mailboxes, receivers) = mailboxes(shards.into());
        (0..shards)
            .zip(receivers)
            .map(|(shard, inner)| ShardMailbox::new(shard, inner, mailboxes.clone()))
            .collect()
    }

    fn message(number: usize) -> ShardMessage {
        ShardMessage::Journaled { publishes: number, work: 1, result: Ok(()) }
    }

    fn take(mailbox: &ShardMailbox) -> Option<usize> {
        mailbox.take().map(|message| match message {
            ShardMessage::Journaled { publishes, .. } => publishes,
            other => panic!("{other:?}"),
        })
    }

    fn rings(mailbox: &ShardMailbox) -> bool {
        pin!(mailbox.wait()).poll(&mut Context::from_waker(Waker::noop())) == Poll::Ready(())
    }

    #[test]
    fn its_own_messages_and_those_of_others_are_first_in_first_out_and_take_turns() {
        let shards = new_mailboxes(2);
        (0..5).for_each(|n| shards[0].send(0, message(n)));
        (100..103).for_each(|n| shards[1].send(0, message(n)));
        let taken: Vec<_> = std::iter::from_fn(|| take(&shards[0])).collect();
        assert_eq!(taken, [100, 0, 101, 1, 102, 2, 3, 4]);
    }

    #[test]
    fn however_posts_and_takes_come_nothing_is_lost_or_overtaken_and_neither_waits_for_two_of_the_other() {
        for seed in 0..100 {
            let mut random = fastrand::Rng::with_seed(seed);
            let shards = new_mailboxes(3);
            // One message of its own and one of another shard wait.
            let mut waiting = [VecDeque::new(), VecDeque::new()];
            let mut last_from = None;
            for number in 0..1000 {
                let from = random.u16(0..6);
                if let Some(shard) = shards.get(usize::from(from)) {
                    shard.send(0, message(number));
                    waiting[usize::from(from > 0)].push_back(number);
                    continue;
                }
                let both_wait = waiting.iter().all(|numbers| !numbers.is_empty());
                let taken = take(&shards[0]);
                let from = waiting.iter().position(|numbers| numbers.front().copied() == taken);
                let Some(from) = from else { panic!("seed {seed}: {taken:?} of {waiting:?}") };
                waiting[from].pop_front();
                assert!(!both_wait || last_from != Some(from), "seed {seed}: twice in turn");
                last_from = both_wait.then_some(from);
            }
            let left: usize = waiting.iter().map(VecDeque::len).sum();
            assert_eq!(std::iter::from_fn(|| take(&shards[0])).count(), left, "seed {seed}");
        }
    }

    #[test]
    fn a_message_is_for_one_shard_whose_bell_it_rings() {
        let shards = new_mailboxes(3);
        for (from, to) in [(0, 0), (1, 0), (1, 2), (2, 2)] {
            let mailbox = &shards[usize::from(to)];
            assert!(mailbox.is_empty() && !rings(mailbox));
            shards[from].send(to, message(7));
            for other in &shards {
                let is_it = other.shard == to;
                assert_eq!((other.is_empty(), rings(other)), (!is_it, is_it), "{from} to {to}");
            }
            assert_eq!((take(mailbox), take(mailbox)), (Some(7), None));
        }
        shards[0].send(3, message(7));
        assert!(shards.iter().all(ShardMailbox::is_empty), "there is no such shard");
    }

    #[test]
    fn a_bell_rings_without_a_message_and_posts_to_one_that_ended_are_dropped() {
        let mut shards = new_mailboxes(2);
        shards[0].ring();
        assert!(rings(&shards[0]) && shards[0].is_empty());
        drop(shards.pop());
        shards[0].send(1, message(7));
        assert!(shards[0].is_empty());
    }
}
