//! Asks shards for a sign of life.

use crossbeam_channel::{Receiver, unbounded};

use crate::shard::mailbox::Mailboxes;
use crate::shard::message::ShardMessage;

/// A question to every shard whether it lives.
#[derive(Debug)]
pub struct Probe {
    answers: Receiver<()>,
    missing: usize,
}

impl Probe {
    /// Asks every shard, behind all that is in its mailbox.
    pub(super) fn of(mailboxes: &Mailboxes) -> Self {
        let (answer, answers) = unbounded();
        mailboxes.post_to_all(|| ShardMessage::Probe(answer.clone()));
        Probe { answers, missing: mailboxes.shards() }
    }

    /// Returns whether every shard has answered by now.
    pub fn is_answered(&mut self) -> bool {
        self.missing -= self.answers.try_iter().take(self.missing).count();
        self.missing == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::mailbox::{ShardMailbox, mailboxes};

    #[test]
    fn it_is_answered_once_every_shard_has_answered() {
        let (mailboxes, receivers) = mailboxes(2);
        let mut probe = Probe::of(&mailboxes);
        let mut answers = Vec::new();
        for (id, receiver) in (0..).zip(receivers) {
            match ShardMailbox::new(id, receiver, mailboxes.clone()).take() {
                Some(ShardMessage::Probe(answer)) => answers.push(answer),
                other => panic!("{other:?}"),
            }
        }
        assert!(!probe.is_answered());
        answers.pop().unwrap().send(()).unwrap();
        assert!(!probe.is_answered(), "one has not");
        answers.pop().unwrap().send(()).unwrap();
        assert!(probe.is_answered() && probe.is_answered());
    }
}
