//! A line of those who wait for room in a [`Budget`](super::budget::Budget): they are given it in the order in which they
//! came, whatever thread they wait on.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

/// The line: who came first is given room of type `R` first.
#[derive(Debug)]
pub(crate) struct Line<R> {
    /// The length of the line, so that nobody takes the lock to see that nobody waits.
    length: AtomicUsize,
    places: Mutex<Places<R>>,
}

#[derive(Debug)]
struct Places<R> {
    /// The size of the room that each waits for, first in line first; also of some who left.
    waiting: VecDeque<(usize, Arc<Slot<R>>)>,
    /// The length at which those who left are looked for, so that they are never more than half.
    cleared_at: usize,
}

/// The shortest line in which those who left are looked for.
const CLEARED_AT_MIN: usize = 64;

/// The room that was given to one place, and the waker of whoever waits there.
#[derive(Debug)]
struct Slot<R>(Mutex<(Option<R>, Option<Waker>)>);

/// A place in the line; dropping it leaves the line.
#[derive(Debug)]
pub(crate) struct PlaceInLine<R>(Arc<Slot<R>>);

impl<R> Default for Line<R> {
    fn default() -> Self {
        let places = Places { waiting: VecDeque::new(), cleared_at: CLEARED_AT_MIN };
        Line { length: AtomicUsize::new(0), places: Mutex::new(places) }
    }
}

impl<R> Line<R> {
    /// Returns whether nobody waits.
    pub(crate) fn is_empty(&self) -> bool {
        // In one order with the counts of the room: who joins looks for room behind this, and who gives room back looks
        // here behind that, so one of them sees the other.
        self.length.load(Ordering::SeqCst) == 0
    }

    /// Returns a place at the end of the line, for room of `size`. The caller then lets in whoever fits: room may have
    /// come up meanwhile.
    pub(crate) fn join(&self, size: usize) -> PlaceInLine<R> {
        let slot = Arc::new(Slot(Mutex::new((None, None))));
        let mut places = self.places();
        if places.waiting.len() >= places.cleared_at {
            places.waiting.retain(|(_, slot)| is_waited_at(slot));
            places.cleared_at = CLEARED_AT_MIN.max(places.waiting.len() * 2);
        }
        places.waiting.push_back((size, Arc::clone(&slot)));
        self.length.store(places.waiting.len(), Ordering::SeqCst);
        PlaceInLine(slot)
    }

    /// Gives room to those in front, as long as `take` has some of their size.
    pub(crate) fn let_in(&self, take: impl Fn(usize) -> Option<R>) {
        // Each is dropped without the lock: one who leaves at this moment gives the room back, which comes here again.
        while self.let_first_in(&take).is_some() {}
    }

    /// Takes the first out of the line, with room unless it was left; returns `None` when there is none, or no room.
    fn let_first_in(&self, take: impl Fn(usize) -> Option<R>) -> Option<Arc<Slot<R>>> {
        let mut places = self.places();
        let (size, slot) = places.waiting.front()?;
        if is_waited_at(slot) {
            slot.give(take(*size)?);
        }
        let first = places.waiting.pop_front().map(|(_, slot)| slot);
        self.length.store(places.waiting.len(), Ordering::SeqCst);
        first
    }

    fn places(&self) -> MutexGuard<'_, Places<R>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns whether a place in the line was not left: the line alone refers to one that was.
fn is_waited_at<R>(slot: &Arc<Slot<R>>) -> bool {
    Arc::strong_count(slot) > 1
}

impl<R> Slot<R> {
    fn state(&self) -> MutexGuard<'_, (Option<R>, Option<Waker>)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn give(&self, room: R) {
        let mut state = self.state();
        state.0 = Some(room);
        if let Some(waker) = state.1.take() {
            waker.wake();
        }
    }
}

impl<R> PlaceInLine<R> {
    /// Returns the room that this place was given, once.
    pub(crate) fn take(&self) -> Option<R> {
        self.0.state().0.take()
    }

    /// Returns whether it was given room; if not, `waker` is woken when it is.
    pub(crate) fn poll_given(&self, waker: &Waker) -> bool {
        let mut state = self.0.state();
        if state.0.is_none() {
            state.1 = Some(waker.clone());
        }
        state.0.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_who_left_are_never_more_than_half_of_a_long_line() {
        let line: Line<()> = Line::default();
        let waiting: Vec<_> = (0..40).map(|_| line.join(1)).collect();
        for _ in 0..10_000 {
            drop(line.join(1));
            assert!(line.places().waiting.len() <= 80);
        }
        line.let_in(|_| Some(()));
        assert!(waiting.iter().all(|place| place.take().is_some()) && line.is_empty());
    }
}
