//! The line in which new connections wait until their shard has time for them, so that thousands at once hold up nobody
//! who is there already: publishes beside 10,000 streams that came back at once had a p99 of 106 ms without it.

use tokio::sync::{Semaphore, TryAcquireError};
use tokio::task::unconstrained;

use crate::shard::mailbox::ShardMailbox;

/// The steps that new connections of one shard may take: to be served at all, and to have their first request read. Owned
/// by the shard's [`Connections`](super::Connections).
#[derive(Debug)]
pub(super) struct Newcomers(Semaphore);

impl Newcomers {
    /// Returns an empty line; the first `steps` are taken at once.
    pub(super) fn new(steps: usize) -> Self {
        Newcomers(Semaphore::new(steps))
    }

    /// Returns when the next step may be taken, first come, first served. Wakes the shard by its mailbox when it has to
    /// wait.
    pub(super) async fn step(&self, mailbox: &ShardMailbox) {
        match self.0.try_acquire() {
            Ok(step) => step.forget(),
            Err(TryAcquireError::NoPermits) => {
                mailbox.ring();
                // It stands in the line before the turn that it rang for: its first poll is now, and never put off.
                if let Ok(step) = unconstrained(self.0.acquire()).await {
                    step.forget();
                }
            }
            Err(TryAcquireError::Closed) => {}
        }
    }

    /// Lets so many steps be taken from now on, whatever was left before; returns whether more are waited for, as far as
    /// is known.
    pub(super) fn let_in(&self, steps: usize) -> bool {
        self.0.forget_permits(usize::MAX);
        // The connections in the line take these at once, so what is left is wanted by none.
        self.0.add_permits(steps);
        self.0.available_permits() == 0
    }

    /// Lets all steps be taken, now and later: the shard stops, and may take no further turn.
    pub(super) fn let_all_in(&self) {
        self.0.close();
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;
    use crate::config::Config;
    use crate::server::tests::parts;

    #[test]
    fn steps_are_taken_in_order_as_many_as_a_turn_lets_in() {
        let shard = parts(Config::default()).shard();
        let rings = || {
            let mut cx = Context::from_waker(Waker::noop());
            pin!(shard.mailbox.wait()).poll(&mut cx) == Poll::Ready(())
        };
        let newcomers = Newcomers::new(1);
        let mut steps: Vec<_> = (0..5).map(|_| Box::pin(newcomers.step(&shard.mailbox))).collect();
        let mut taken = |which: std::ops::Range<usize>| -> Vec<bool> {
            let mut cx = Context::from_waker(Waker::noop());
            steps[which].iter_mut().map(|step| step.as_mut().poll(&mut cx).is_ready()).collect()
        };
        assert_eq!((taken(0..1), rings()), (vec![true], false));
        assert_eq!((taken(1..5), rings()), (vec![false; 4], true), "the shard is to take a turn");
        assert!(newcomers.let_in(2), "more wait");
        assert_eq!(taken(1..5), [true, true, false, false]);
        assert!(!newcomers.let_in(1_000));
        assert_eq!(taken(3..5), [true, true]);
        assert!(!newcomers.let_in(3));
        assert_eq!(newcomers.0.available_permits(), 3, "those that nobody took are gone");
    }

    #[test]
    fn a_shard_that_stops_lets_all_in() {
        let shard = parts(Config::default()).shard();
        let newcomers = Newcomers::new(0);
        let mut cx = Context::from_waker(Waker::noop());
        let mut waits = pin!(newcomers.step(&shard.mailbox));
        assert!(waits.as_mut().poll(&mut cx).is_pending());
        newcomers.let_all_in();
        assert!(waits.poll(&mut cx).is_ready());
        assert!(pin!(newcomers.step(&shard.mailbox)).poll(&mut cx).is_ready());
        assert!(!newcomers.let_in(1));
    }
}
