//! Counts the messages sent on a queue's stream, for the task that acknowledges them to the queue.

use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use futures_util::task::AtomicWaker;

/// The number of a queue's messages that the kernel has taken, and the number at which its reader is woken. The
/// stream's shard writes it, one task of another thread reads it.
///
/// A wake costs the shard a system call where the other thread sleeps, and that thread a turn of its own. So the reader
/// sets the number it waits for, and every other message costs an atomic store and a load.
#[derive(Debug)]
pub(crate) struct SentCount {
    sent: AtomicU64,
    wake_at: AtomicU64,
    waker: AtomicWaker,
}

impl Default for SentCount {
    fn default() -> Self {
        SentCount { sent: AtomicU64::new(0), wake_at: AtomicU64::new(u64::MAX), waker: AtomicWaker::new() }
    }
}

impl SentCount {
    /// Sets the number of messages sent to `sent`, and wakes the reader if it waits for that.
    pub(crate) fn advance(&self, sent: u64) {
        // Each side writes its own number before it reads the other's, all in one order: at least one sees both.
        self.sent.store(sent, Ordering::SeqCst);
        if sent >= self.wake_at.load(Ordering::SeqCst) {
            self.waker.wake();
        }
    }

    /// Returns the number of messages sent.
    pub(crate) fn value(&self) -> u64 {
        self.sent.load(Ordering::SeqCst)
    }

    /// Returns ready when `wake_at` messages were sent; until then wakes the last task that polled as soon as they are.
    pub(crate) fn poll_reached(&self, wake_at: u64, cx: &mut Context<'_>) -> Poll<()> {
        self.waker.register(cx.waker());
        self.wake_at.store(wake_at, Ordering::SeqCst);
        if self.value() >= wake_at { Poll::Ready(()) } else { Poll::Pending }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicUsize;
    use std::task::{Wake, Waker};
    use std::thread::{self, Thread};

    use super::*;

    #[derive(Default)]
    struct Wakes(AtomicUsize);

    impl Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Wakes a thread that is parked.
    struct Unpark(Thread);

    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }

    #[test]
    fn a_reader_is_woken_once_and_not_before_what_it_waits_for() {
        let (count, wakes) = (SentCount::default(), Arc::<Wakes>::default());
        let waker = Waker::from(Arc::clone(&wakes));
        let poll = |wake_at| count.poll_reached(wake_at, &mut Context::from_waker(&waker));
        let woken = || wakes.0.load(Ordering::Relaxed);
        count.advance(3);
        assert_eq!((count.value(), poll(3), poll(10)), (3, Poll::Ready(()), Poll::Pending));
        count.advance(9);
        assert_eq!(woken(), 0);
        count.advance(12);
        count.advance(13);
        assert_eq!((woken(), poll(10), poll(u64::MAX)), (1, Poll::Ready(()), Poll::Pending));
    }

    #[test]
    fn no_wake_is_lost_between_threads() {
        const ROUNDS: u64 = 20_000;
        let count = Arc::new(SentCount::default());
        let reader = Arc::clone(&count);
        let thread = thread::spawn(move || {
            let waker = Waker::from(Arc::new(Unpark(thread::current())));
            for wake_at in 1..=ROUNDS {
                while reader.poll_reached(wake_at, &mut Context::from_waker(&waker)).is_pending() {
                    thread::park();
                }
            }
        });
        for sent in 1..=ROUNDS {
            count.advance(sent);
            if sent % 64 == 0 {
                thread::yield_now();
            }
        }
        // Hangs if a wake was lost: nothing else would wake the reader.
        thread.join().unwrap();
    }
}
