//! Bounds what is under way between shards: one budget of bytes and messages for the whole server.
//!
//! Mailboxes are unbounded in form, because two full ones waiting for each other would never move again. They are
//! bounded at their entry instead: a publish is posted only with a [`Charge`] in hand, and the charge is given back
//! when the last shard that got it has drained its message. Publishes that find no room wait in a [`Line`].
//!
//! Each shard has a lane with a small part of the room in advance, so that most publishes change no count that all shards
//! have in common: six such changes for each would end the growth at some millions of publishes a second. A
//! publish that finds no room calls all parts in.

use std::sync::Arc;
use std::sync::atomic::{AtomicIsize, Ordering};

use super::lanes::Lanes;
use super::line::{Line, PlaceInLine};
use super::memory::Memory;

/// All lanes together hold at most twice this part of the room in advance.
const ADVANCE_PARTS: usize = 8;

/// A lane of the budget: the first, or that of a shard.
// Lanes are made one after another, and each belongs to another CPU.
#[derive(Debug)]
#[repr(align(128))]
pub(crate) struct Budget {
    pool: Arc<Pool>,
    /// Room that was taken from the pool in advance. Less than nothing for a moment where more was asked for.
    advance: Room,
    /// Bytes and messages that are taken in advance at a time; 0 in the first lane.
    step: (isize, isize),
}

/// The part that all lanes have in common.
#[derive(Debug)]
struct Pool {
    bytes_max: usize,
    messages_max: usize,
    /// Taken by messages under way, and in advance.
    taken: Room,
    line: Line<Charge>,
    /// The shards' lanes.
    lanes: Lanes<Budget>,
    /// While this is exhausted there is no room.
    memory: Option<Arc<Memory>>,
}

/// Bytes and messages, each counted by itself.
#[derive(Debug, Default)]
struct Room {
    bytes: AtomicIsize,
    messages: AtomicIsize,
}

impl Room {
    /// Adds to both; returns what there was before.
    // In one order with the length of the line; the counts themselves order nothing.
    fn add(&self, bytes: isize, messages: isize) -> (isize, isize) {
        (self.bytes.fetch_add(bytes, Ordering::SeqCst), self.messages.fetch_add(messages, Ordering::SeqCst))
    }

    /// Takes all of both.
    fn empty(&self) -> (isize, isize) {
        (self.bytes.swap(0, Ordering::SeqCst), self.messages.swap(0, Ordering::SeqCst))
    }

    fn now(&self) -> (isize, isize) {
        (self.bytes.load(Ordering::Relaxed), self.messages.load(Ordering::Relaxed))
    }
}

impl Budget {
    /// Returns the first lane.
    pub(crate) fn new(bytes_max: usize, messages_max: usize) -> Arc<Self> {
        Self::first(bytes_max, messages_max, None)
    }

    /// Returns the first lane of a budget that has no room while `memory` is exhausted.
    pub(crate) fn beside(memory: Arc<Memory>, bytes_max: usize, messages_max: usize) -> Arc<Self> {
        Self::first(bytes_max, messages_max, Some(memory))
    }

    fn first(bytes_max: usize, messages_max: usize, memory: Option<Arc<Memory>>) -> Arc<Self> {
        let (taken, line, lanes) = (Room::default(), Line::default(), Lanes::default());
        let pool = Arc::new(Pool { bytes_max, messages_max, taken, line, lanes, memory });
        Arc::new(Budget { pool, advance: Room::default(), step: (0, 0) })
    }

    /// Returns a further lane, one of `lanes`.
    pub(crate) fn lane(&self, lanes: usize) -> Arc<Self> {
        let part = |max: usize| isize::try_from(max / (ADVANCE_PARTS * lanes.max(1))).unwrap_or(0);
        let step = (part(self.pool.bytes_max), part(self.pool.messages_max));
        let lane = Arc::new(Budget { pool: Arc::clone(&self.pool), advance: Room::default(), step });
        self.pool.lanes.add(&lane);
        lane
    }

    /// Returns a charge for one message of `bytes`, or `None` when there is no room or others wait for it. A message
    /// larger than the whole budget is let through alone, or it could never pass.
    pub(crate) fn take(self: &Arc<Self>, bytes: usize) -> Option<Charge> {
        if !self.pool.line.is_empty() || self.is_closed() {
            return None;
        }
        if self.take_of_advance(bytes) {
            return Some(self.charge(bytes));
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
        let place = self.pool.line.join(bytes);
        self.let_in();
        place
    }

    /// Gives room to those who wait for it, in their order, as far as there is some. Whoever gives room back does so by
    /// itself; this is for memory that is no longer exhausted.
    pub(crate) fn let_in(self: &Arc<Self>) {
        if !self.pool.line.is_empty() {
            self.pool.line.let_in(|bytes| self.take_unasked(bytes));
        }
    }

    /// Returns whether there is no room for anything.
    fn is_closed(&self) -> bool {
        self.pool.memory.as_ref().is_some_and(|memory| memory.is_exhausted())
    }

    fn charge(self: &Arc<Self>, bytes: usize) -> Charge {
        Charge { budget: Arc::clone(self), bytes }
    }

    /// Takes room that this lane has in advance, and more in advance if the pool has it; returns false when neither has
    /// enough.
    fn take_of_advance(&self, bytes: usize) -> bool {
        let (step_bytes, step_messages) = self.step;
        // A larger message asks the pool.
        let Some(bytes) = isize::try_from(bytes).ok().filter(|bytes| *bytes <= step_bytes) else {
            return false;
        };
        if step_messages == 0 {
            return false;
        }
        let (bytes_before, messages_before) = self.advance.add(-bytes, -1);
        if bytes_before >= bytes && messages_before >= 1 {
            return true;
        }
        if self.pool.take(step_bytes, step_messages) {
            // The rest is in advance; what others took meanwhile is in it, too.
            self.advance.add(step_bytes, step_messages);
            let (bytes_now, messages_now) = self.advance.now();
            if bytes_now >= 0 && messages_now >= 0 {
                return true;
            }
        }
        self.advance.add(bytes, 1);
        false
    }

    /// Returns a charge whether or not others wait.
    fn take_unasked(self: &Arc<Self>, bytes: usize) -> Option<Charge> {
        if self.is_closed() {
            return None;
        }
        // A message is in memory, so it is far below half of the address space.
        let taken = self.pool.take(bytes as isize, 1) || {
            self.call_in();
            self.pool.take(bytes as isize, 1)
        };
        taken.then(|| self.charge(bytes))
    }

    /// Returns a charge for one message of `bytes` even when there is no room: the caller looked before.
    pub(crate) fn take_anyway(self: &Arc<Self>, bytes: usize) -> Charge {
        self.pool.taken.add(bytes as isize, 1);
        self.charge(bytes)
    }

    /// Returns what all lanes have in advance to the pool.
    fn call_in(&self) {
        self.pool.lanes.for_each(|lane| lane.give_up());
    }

    fn give_up(&self) {
        let (bytes, messages) = self.advance.empty();
        self.pool.taken.add(-bytes, -messages);
    }

    /// Takes a message back out of the counts.
    fn uncount(&self, bytes: usize) {
        let (bytes, (step_bytes, step_messages)) = (bytes as isize, self.step);
        if step_messages == 0 {
            self.pool.taken.add(-bytes, -1);
            return;
        }
        let (bytes_before, messages_before) = self.advance.add(bytes, 1);
        if bytes_before + bytes > 2 * step_bytes || messages_before + 1 > 2 * step_messages {
            self.give_up();
        }
    }

    /// Takes bytes of a message that stays back out of the counts, and lets in who waits for them.
    fn uncount_bytes(self: &Arc<Self>, bytes: usize) {
        self.pool.taken.bytes.fetch_sub(bytes as isize, Ordering::SeqCst);
        self.let_in();
    }

    /// Returns the bytes and messages under way.
    fn under_way(&self) -> (usize, usize) {
        let (mut bytes, mut messages) = self.pool.taken.now();
        self.pool.lanes.for_each(|lane| {
            let in_advance = lane.advance.now();
            (bytes, messages) = (bytes - in_advance.0, messages - in_advance.1);
        });
        (usize::try_from(bytes).unwrap_or(0), usize::try_from(messages).unwrap_or(0))
    }

    /// Returns the bytes under way now.
    pub(crate) fn bytes(&self) -> usize {
        self.under_way().0
    }

    /// Returns the bytes that may be under way at one time.
    pub(crate) fn bytes_max(&self) -> usize {
        self.pool.bytes_max
    }

    /// Returns the number of messages under way now.
    pub(crate) fn messages(&self) -> usize {
        self.under_way().1
    }
}

impl Drop for Budget {
    fn drop(&mut self) {
        self.give_up();
    }
}

impl Pool {
    /// Takes both, or neither when there is no room; whatever its size, one message alone has room.
    fn take(&self, bytes: isize, messages: isize) -> bool {
        let (bytes_before, messages_before) = self.taken.add(bytes, messages);
        let fits = |before: isize, more: isize, max: usize| {
            usize::try_from(before.saturating_add(more)).is_ok_and(|sum| sum <= max)
        };
        let has_room =
            fits(bytes_before, bytes, self.bytes_max) && fits(messages_before, messages, self.messages_max);
        if has_room || messages_before == 0 && messages == 1 {
            return true;
        }
        self.taken.add(-bytes, -messages);
        false
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
        let pool = &self.budget.pool;
        let Some(more) = bytes.checked_sub(self.bytes) else {
            self.budget.uncount_bytes(self.bytes - bytes);
            self.bytes = bytes;
            return true;
        };
        let before = pool.taken.bytes.fetch_add(more as isize, Ordering::SeqCst);
        let fits = usize::try_from(before).is_ok_and(|before| before.saturating_add(more) <= pool.bytes_max);
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
    use std::sync::atomic::AtomicUsize;
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
    fn no_place_is_forgotten_when_many_threads_take_and_wait_in_one_lane_or_in_many() {
        for (bytes_max, messages_max) in [(10, 2), (1000, 64), (4000, 200)] {
            let first = Budget::new(bytes_max, messages_max);
            let lanes = [(); 4].map(|()| first.lane(4));
            for lanes in [[(); 4].map(|()| Arc::clone(&first)), lanes] {
                let given = lanes.map(|budget| {
                    thread::spawn(move || {
                        let mut held = Vec::new();
                        for turn in 0..2_000 {
                            let bytes = 1 + turn % bytes_max;
                            let charge = budget.take(bytes).unwrap_or_else(|| {
                                // A thread that held something while it waits could wait for itself.
                                held.clear();
                                let place = budget.wait(bytes);
                                let waker = Waker::from(Arc::new(Unpark(thread::current())));
                                while !place.poll_given(&waker) {
                                    thread::park();
                                }
                                place.take().unwrap()
                            });
                            held.push(charge);
                            if turn % 3 == 0 {
                                held.clear();
                            }
                        }
                    })
                });
                given.into_iter().for_each(|thread| thread.join().unwrap());
                assert_eq!((first.bytes(), first.messages()), (0, 0));
            }
        }
    }

    #[test]
    fn lanes_have_some_room_in_advance_and_give_it_up_when_another_needs_it() {
        let first = Budget::new(1600, 160);
        let [one, other] = [(); 2].map(|()| first.lane(2));
        let charge = one.take(10).unwrap();
        assert_eq!((first.bytes(), first.messages()), (10, 1));
        assert_eq!(first.pool.taken.now(), (100, 10), "a sixteenth of the room");
        // The whole of the rest is there for another, in one message or many.
        let rest = other.take(1590).unwrap();
        assert_eq!((first.bytes(), first.messages()), (1600, 2));
        assert!(one.take(1).is_none() && first.take(1).is_none());
        drop(rest);
        let many: Vec<_> = std::iter::from_fn(|| other.take(1)).collect();
        assert_eq!((many.len(), first.messages()), (159, 160));
        drop((charge, many));
        assert_eq!((first.bytes(), first.messages()), (0, 0));
        let in_advance = first.pool.taken.now();
        assert!(in_advance.0 <= 400 && in_advance.1 <= 40, "{in_advance:?}");
        // Something larger than the budget passes alone, whatever is in advance.
        assert!(other.take(5000).is_some());
    }

    #[test]
    fn what_is_given_back_to_a_lane_goes_to_who_waits() {
        let first = Budget::new(160, 16);
        let lane = first.lane(1);
        let charges: Vec<_> = std::iter::from_fn(|| lane.take(10)).collect();
        assert_eq!(charges.len(), 16);
        let places = [150, 10].map(|bytes| first.wait(bytes));
        assert!(places.iter().all(|place| place.take().is_none()));
        drop(charges);
        assert!(places.iter().all(|place| place.take().is_some()));
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
