//! The state of an identity provider whose keys are fetched: shared by the shards, which ask for keys and never wait,
//! and the thread that fetches them.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::mem;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use super::JwksUrl;
use crate::stats::Counter;

/// The most unknown names of keys that are remembered, 8 bytes each. More of them are somebody who makes them up.
const NAMES_MAX: usize = 4096;

/// An identity provider whose keys are fetched.
#[derive(Debug)]
pub(crate) struct KeyProvider {
    pub(crate) url: JwksUrl,
    /// Documents that were fetched and taken.
    pub(crate) fetches: Counter,
    /// Attempts that brought none.
    pub(crate) failures: Counter,
    is_fetched: AtomicBool,
    is_stopped: AtomicBool,
    names: Mutex<UnknownNames>,
    hasher: RandomState,
    /// Holds at most one event: a second one would say nothing new.
    events: (Sender<ProviderEvent>, Receiver<ProviderEvent>),
}

/// An event that wakes the fetching thread up.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum ProviderEvent {
    /// A token named a key that is not known.
    Asked,
    /// Somebody wants the keys to be fetched at once, or the server ends.
    Hurry,
    /// It is time to fetch.
    Due,
}

/// Hashes of names of keys that tokens gave and no key has.
#[derive(Debug, Default)]
struct UnknownNames {
    /// Names that came since the last fetch began.
    asked: HashSet<u64>,
    /// Names that came before the fetch under way began.
    under_way: HashSet<u64>,
    /// Names that a fetched document did not have.
    absent: HashSet<u64>,
}

impl KeyProvider {
    pub(crate) fn new(url: JwksUrl) -> Self {
        KeyProvider {
            url,
            fetches: Counter::default(),
            failures: Counter::default(),
            is_fetched: AtomicBool::new(false),
            is_stopped: AtomicBool::new(false),
            names: Mutex::default(),
            hasher: RandomState::new(),
            events: bounded(1),
        }
    }

    /// Returns whether its keys were fetched once.
    pub(crate) fn is_fetched(&self) -> bool {
        self.is_fetched.load(Ordering::Acquire)
    }

    /// Asks for a key of this name. Returns whether it may still come: no document that was fetched since the name was
    /// first asked for is without it.
    pub(super) fn ask_for(&self, key_id: &str) -> bool {
        let name = self.hasher.hash_one(key_id);
        let may_come = {
            let mut names = self.names();
            let may_come = !names.absent.contains(&name);
            if may_come && names.asked.len() < NAMES_MAX {
                names.asked.insert(name);
            }
            may_come
        };
        // A full channel has an event that does as well.
        let _ = self.events.0.try_send(ProviderEvent::Asked);
        may_come
    }

    /// Has the keys fetched at once.
    pub(crate) fn hurry(&self) {
        let _ = self.events.1.try_recv();
        let _ = self.events.0.try_send(ProviderEvent::Hurry);
    }

    /// Ends the fetching thread, which may be waiting for the provider's answer.
    pub(crate) fn stop(&self) {
        self.is_stopped.store(true, Ordering::Release);
        self.hurry();
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.is_stopped.load(Ordering::Acquire)
    }

    /// Waits for an event until `due`.
    pub(crate) fn wait(&self, due: Instant) -> ProviderEvent {
        match self.events.1.recv_deadline(due) {
            Ok(event) => event,
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => ProviderEvent::Due,
        }
    }

    /// Notes that a fetch begins.
    pub(crate) fn begin(&self) {
        let names = &mut *self.names();
        // While the provider is away, those of the fetches that failed stay.
        let room = NAMES_MAX.saturating_sub(names.under_way.len());
        names.under_way.extend(names.asked.drain().take(room));
    }

    /// Notes that a fetch brought keys, which are in force.
    pub(crate) fn succeed(&self) {
        self.fetches.add(1);
        self.is_fetched.store(true, Ordering::Release);
        let names = &mut *self.names();
        if names.absent.len() + names.under_way.len() > NAMES_MAX {
            names.absent.clear();
        }
        let under_way = mem::take(&mut names.under_way);
        names.absent.extend(under_way.into_iter().take(NAMES_MAX));
    }

    /// Notes that a fetch brought nothing: what it was asked for may still come.
    pub(crate) fn fail(&self) {
        self.failures.add(1);
    }

    fn names(&self) -> MutexGuard<'_, UnknownNames> {
        // Nothing here panics; poisoned sets would be as good as before.
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[cfg(feature = "jwks-url")]
mod tests {
    use super::*;

    fn provider() -> KeyProvider {
        KeyProvider::new("https://idp.example/keys".parse().unwrap())
    }

    #[test]
    fn a_name_may_come_until_a_document_that_was_asked_for_later_is_without_it() {
        let provider = provider();
        assert!(provider.ask_for("b"));
        provider.begin();
        // Asked for after the fetch began: its document may be older.
        assert!(provider.ask_for("c"));
        provider.succeed();
        assert!(!provider.ask_for("b") && provider.ask_for("c"));
        provider.begin();
        provider.fail();
        assert!(provider.ask_for("c"), "nobody said that it is not there");
        provider.begin();
        provider.succeed();
        assert!(!provider.ask_for("c") && provider.ask_for("d"));
        assert_eq!((provider.fetches.value(), provider.failures.value()), (2, 1));
    }

    #[test]
    fn however_many_names_are_made_up_few_are_remembered_and_one_event_waits() {
        let provider = provider();
        for round in 0..3 {
            for name in 0..2 * NAMES_MAX {
                provider.ask_for(&format!("{round} {name}"));
            }
            provider.begin();
            provider.succeed();
            let names = provider.names();
            assert!(names.asked.is_empty() && names.absent.len() <= NAMES_MAX, "{}", names.absent.len());
        }
        // Nor while the provider is away.
        for round in 0..5 {
            for name in 0..NAMES_MAX {
                provider.ask_for(&format!("away {round} {name}"));
            }
            provider.begin();
            provider.fail();
            assert!(provider.names().under_way.len() <= NAMES_MAX, "{}", provider.names().under_way.len());
        }
        let now = Instant::now();
        assert_eq!([(); 2].map(|()| provider.wait(now)), [ProviderEvent::Asked, ProviderEvent::Due]);
        provider.ask_for("x");
        provider.hurry();
        assert_eq!([(); 2].map(|()| provider.wait(now)), [ProviderEvent::Hurry, ProviderEvent::Due]);
    }
}
