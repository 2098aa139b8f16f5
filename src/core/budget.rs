//! Bounds what is under way between shards: one budget of bytes and messages for the whole server.
//!
//! Mailboxes are unbounded in form, because two full ones waiting for each other would never move again. They are
//! bounded at their entry instead: a publish is posted only with a [`Charge`] in hand, and the charge is given back
//! when the last shard that got it has drained its message. Publishes that find no room wait in a [`Line`].

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::line::{Line, PlaceInLine};
use super::memory::Memory;

/// The bytes and messages under way, and their limits; one for the whole server, shared by all shards.
#[derive(Debug)]
pub(crate) struct Budget {
    bytes_max: usize,
    messages_max: usize,
    bytes: AtomicUsize,
    messages: AtomicUsize,
    line: Line<Charge>,
    /// While this is exhausted there is no room.
    memory: Option<Arc<Memory>>,
}

impl Budget {
    pub(crate) fn new(bytes_max: usize, messages_max: usize) -> Arc<Self> {
        Arc::new(Self::of(bytes_max, messages_max, None))
    }

    /// Returns a budget that has no room while `memory` is exhausted.
    pub(crate) fn beside(memory: Arc<Memory>, bytes_max: usize, messages_max: usize) -> Arc<Self> {
        Arc::new(Self::of(bytes_max, messages_max, Some(memory)))
    }

    fn of(bytes_max: usize, messages_max: usize, memory: Option<Arc<Memory>>) -> Self {
        let [bytes, messages] = [0, 0].map(AtomicUsize::new);
        Budget { bytes_max, messages_max, bytes, messages, line: Line::default(), memory }
    }

    /// Returns a charge for one message of `bytes`, or `None` when there is no room or others wait for it. A message
    /// larger than the whole budget is let through alone, or it could never pass.
    pub(crate) fn take(self: &Arc<Self>, bytes: usize) -> Option<Charge> {
        if !self.line.is_empty() {
            return None;
        }
        let charge = self.take_unasked(bytes);
        if charge.is_none() {
            // For a moment this one's bytes were counted, and may have kept others out.
            self.let_in();
        }
        charge
    }

    /// Returns a place in the line of those who wait for room, which is given a charge for one message of `bytes`.
    pub(crate) fn wait(self: &Arc<Self>, bytes: usize) -> PlaceInLine<Charge> {
        let place = self.line.join(bytes);
        self.let_in();
        place
    }

    /// Gives room to those who wait for it, in their order, as far as there is some. Whoever gives room back does so by
    /// itself; this is for memory that is no longer exhausted.
    pub(crate) fn let_in(self: &Arc<Self>) {
        if !self.line.is_empty() {
            self.line.let_in(|bytes| self.take_unasked(bytes));
        }
    }

    /// Returns a charge whether or not others wait.
    fn take_unasked(self: &Arc<Self>, bytes: usize) -> Option<Charge> {
        if self.memory.as_ref().is_some_and(|memory| memory.is_exhausted()) {
            return None;
        }
        let bytes_before = self.bytes.fetch_add(bytes, Ordering::SeqCst);
        let messages_before = self.messages.fetch_add(1, Ordering::SeqCst);
        let fits =
            bytes_before.saturating_add(bytes) <= self.bytes_max && messages_before < self.messages_max;
        if fits || messages_before == 0 {
            return Some(Charge { budget: Arc::clone(self), bytes });
        }
        self.uncount(bytes);
        None
    }

    /// Returns a charge for one message of `bytes` even when there is no room: the caller looked before.
    pub(crate) fn take_anyway(self: &Arc<Self>, bytes: usize) -> Charge {
        self.bytes.fetch_add(bytes, Ordering::SeqCst);
        self.messages.fetch_add(1, Ordering::SeqCst);
        Charge { budget: Arc::clone(self), bytes }
    }

    /// Takes a message back out of the counts.
    fn uncount(&self, bytes: usize) {
        // In one order with the length of the line; the counts themselves order nothing.
        self.bytes.fetch_sub(bytes, Ordering::SeqCst);
        self.messages.fetch_sub(1, Ordering::SeqCst);
    }

    /// Takes bytes of a message that stays back out of the counts, and lets in who waits for them.
    fn uncount_bytes(self: &Arc<Self>, bytes: usize) {
        self.bytes.fetch_sub(bytes, Ordering::SeqCst);
        self.let_in();
    }

    /// Returns the bytes under way now.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Returns the bytes that may be under way at one time.
    pub(crate) fn bytes_max(&self) -> usize {
        self.bytes_max
    }

    /// Returns the number of messages under way now.
    pub(crate) fn messages(&self) -> usize {
        self.messages.load(Ordering::Relaxed)
    }
}

/// Room taken from a [`Budget`], held by the message it pays for; dropping it gives the room back.
#[derive(Debug)]
pub(crate) struct Charge {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Charge {
    /// Returns the bytes charged.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Changes the charge to `bytes`; returns false and leaves it as it was when there is no room for more.
    pub(crate) fn resize(&mut self, bytes: usize) -> bool {
        let Some(more) = bytes.checked_sub(self.bytes) else {
            self.budget.uncount_bytes(self.bytes - bytes);
            self.bytes = bytes;
            return true;
        };
        let before = self.budget.bytes.fetch_add(more, Ordering::SeqCst);
        let fits = before.saturating_add(more) <= self.budget.bytes_max;
        if fits {
            self.bytes = bytes;
        } else {
            self.budget.uncount_bytes(more);
        }
        fits
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.budget.uncount(self.bytes);
        self.budget.let_in();
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Wake, Waker};
    use std::thread;

    use super::*;

    #[test]
    fn past_either_bound_nothing_is_taken_and_a_drop_gives_it_back() {
        let budget = Budget::new(100, 2);
        let first = budget.take(60).unwrap();
        assert!(budget.take(41).is_none(), "bytes");
        let second = budget.take(40).unwrap();
        assert!(budget.take(0).is_none(), "messages");
        assert_eq!((budget.bytes(), budget.bytes_max(), budget.messages()), (100, 100, 2));
        drop((first, second));
        assert_eq!((budget.bytes(), budget.messages()), (0, 0));
    }

    fn counted() -> (Arc<AtomicUsize>, Waker) {
        struct WakeCount(Arc<AtomicUsize>);
        impl Wake for WakeCount {
            fn wake(self: Arc<Self>) {
                self.0.fetch_add(1, Ordering::Relaxed);
            }
        }
        let woken = Arc::new(AtomicUsize::new(0));
        (Arc::clone(&woken), Arc::new(WakeCount(woken)).into())
    }

    #[test]
    fn room_is_given_in_the_order_of_the_line_and_a_newcomer_does_not_pass_it() {
        let budget = Budget::new(100, 9);
        let (first, second) = (budget.take(60).unwrap(), budget.take(40).unwrap());
        let (woken, waker) = counted();
        let places = [50, 10, 40].map(|bytes| budget.wait(bytes));
        assert!(places.iter().all(|place| !place.poll_given(&waker) && place.take().is_none()));
        drop(second);
        assert!(budget.take(1).is_none(), "40 bytes are free, but the first in line wants 50");
        assert!(places[1].take().is_none(), "nor does one who fits pass the first");
        drop(first);
        assert_eq!(woken.load(Ordering::Relaxed), 3);
        assert!(places.iter().all(|place| place.poll_given(&waker)));
        let charges = places.each_ref().map(|place| place.take().unwrap());
        assert!(places.iter().all(|place| place.take().is_none()), "given once");
        assert_eq!((charges.map(|charge| charge.bytes()), budget.bytes()), ([50, 10, 40], 0));
        assert!(budget.take(100).is_some(), "the line is empty");
    }

    #[test]
    fn who_leaves_the_line_is_skipped_and_what_it_was_given_goes_back() {
        let budget = Budget::new(100, 9);
        let all = budget.take(100).unwrap();
        let places = [80, 80, 20].map(|bytes| budget.wait(bytes));
        let [first, second, third] = places;
        drop(first);
        drop(all);
        assert_eq!(budget.bytes(), 100, "given to the second and the third");
        let fourth = budget.wait(30);
        drop(second);
        assert!(fourth.take().is_some() && third.take().is_some());
        assert_eq!((budget.bytes(), budget.messages()), (0, 0));
    }

    #[test]
    fn nobody_is_let_in_while_memory_is_exhausted() {
        let memory = Memory::new(100);
        let budget = Budget::beside(Arc::clone(&memory), 100, 9);
        memory.hold(300);
        assert!(budget.take(1).is_none());
        let place = budget.wait(1);
        budget.let_in();
        assert!(place.take().is_none());
        memory.release(300);
        budget.let_in();
        assert!(place.take().is_some());
    }

    /// Takers on several threads give back at once what they were given: whoever is forgotten waits for ever.
    #[test]
    fn no_place_is_forgotten_when_many_threads_take_and_wait() {
        let budget = Budget::new(10, 2);
        let given: Vec<_> = (0..4)
            .map(|thread: usize| {
                let budget = Arc::clone(&budget);
                thread::spawn(move || {
                    for turn in 0..2_000 {
                        let bytes = 1 + (thread + turn) % 10;
                        if budget.take(bytes).is_none() {
                            let place = budget.wait(bytes);
                            let waker = Waker::from(Arc::new(Unpark(thread::current())));
                            while !place.poll_given(&waker) {
                                thread::park();
                            }
                        }
                    }
                })
            })
            .collect();
        given.into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!((budget.bytes(), budget.messages()), (0, 0));
    }

    struct Unpark(thread::Thread);

    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }

    #[test]
    fn a_message_larger_than_the_budget_passes_alone() {
        let budget = Budget::new(100, 2);
        let huge = budget.take(500).unwrap();
        assert!(budget.take(1).is_none());
        drop(huge);
        assert!(budget.take(1).is_some());
    }

    #[test]
    fn a_charge_grows_only_while_there_is_room_and_shrinks_always() {
        let budget = Budget::new(100, 10);
        let mut first = budget.take(50).unwrap();
        let mut second = budget.take(10).unwrap();
        assert!(first.resize(90));
        assert!(!second.resize(11));
        assert_eq!((second.bytes(), budget.bytes()), (10, 100));
        assert!(first.resize(70) && second.resize(30));
        assert_eq!((first.bytes(), second.bytes(), budget.bytes()), (70, 30, 100));
    }
}
