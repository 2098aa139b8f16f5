//! Idempotency keys: a publish that is sent again gets the first one's reply, and its events are ordered once.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use crate::core::memory::Memory;
use crate::core::message::{OrderError, Ordered, PublishKey, ReplyTo};

/// Time for which a key is known after its publish was ordered, in milliseconds.
pub(crate) const KEYS_KNOWN_MS: u64 = 120_000;
/// Keys that one partition may know at a time: with 16 partitions some 8,700 publishes a second may have one.
const KEYS_MAX: usize = 64 << 10;
/// Bytes that a key takes beside its name.
const KEY_BYTES: usize = 256;

/// The keys that one partition knows, owned by its home.
#[derive(Debug)]
pub(super) struct KnownKeys {
    known: HashMap<Arc<[u8]>, Known>,
    /// The keys whose publish was ordered, and when, oldest first.
    by_age: VecDeque<(u64, Arc<[u8]>)>,
    memory: Arc<Memory>,
}

#[derive(Debug)]
struct Known {
    /// The digest of the body.
    digest: [u8; 32],
    state: KeyState,
}

#[derive(Debug)]
enum KeyState {
    /// The journal has the publish; these wait for its reply, besides its first sender.
    UnderWay(Vec<ReplyTo>),
    Ordered {
        published: Ordered,
        at_ms: u64,
    },
}

/// A sender that waited for a publish with its key, and its reply.
pub(super) type WithReply = (ReplyTo, Result<Ordered, OrderError>);

/// The result of looking up a publish's key.
#[derive(Debug)]
pub(super) enum Seen {
    /// It is the first with its key, to be ordered.
    First,
    /// It was ordered, with this reply.
    Ordered(Ordered),
    /// The first one is still under way; this sender gets its reply.
    UnderWay,
}

impl KnownKeys {
    /// Returns the keys of a partition that knows none; their bytes are counted in `memory`.
    pub(super) fn new(memory: Arc<Memory>) -> Self {
        KnownKeys { known: HashMap::new(), by_age: VecDeque::new(), memory }
    }

    /// Looks up the key of a publish. `reply` is taken if it waits for the first one.
    ///
    /// With `asks_only` an old key stays known: in a cluster only the order of its stream decides when it is forgotten.
    ///
    /// # Errors
    /// The key was used with another body, or too many keys are known.
    pub(super) fn see(
        &mut self,
        key: &PublishKey,
        reply: &mut Option<ReplyTo>,
        now_ms: u64,
        asks_only: bool,
    ) -> Result<Seen, OrderError> {
        if !asks_only {
            self.expire(now_ms, usize::MAX);
        }
        let is_old = |known: &Known| matches!(known.state, KeyState::Ordered { at_ms, .. } if now_ms.saturating_sub(at_ms) > KEYS_KNOWN_MS);
        let is_full = self.known.len() >= KEYS_MAX;
        match self.known.entry(Arc::clone(&key.name)) {
            Entry::Occupied(known) if is_old(known.get()) => Ok(Seen::First),
            Entry::Occupied(known) if known.get().digest != key.digest => Err(OrderError::KeyReused),
            Entry::Occupied(known) => match &mut known.into_mut().state {
                KeyState::Ordered { published, .. } => Ok(Seen::Ordered(published.clone())),
                KeyState::UnderWay(waiting) => {
                    waiting.extend(reply.take());
                    Ok(Seen::UnderWay)
                }
            },
            Entry::Vacant(_) if is_full => Err(OrderError::KeysFull),
            Entry::Vacant(vacant) => {
                self.memory.hold(KEY_BYTES + key.name.len());
                vacant.insert(Known { digest: key.digest, state: KeyState::UnderWay(Vec::new()) });
                Ok(Seen::First)
            }
        }
    }

    /// Notes that the publish with this key was ordered; returns the others that wait for its reply, with theirs. In a
    /// cluster they may have another body than the publish, if that came from another node.
    pub(super) fn ordered(&mut self, key: &PublishKey, published: &Ordered, at_ms: u64) -> Vec<WithReply> {
        let published = Ordered { streams: None, ..published.clone() };
        let result =
            |digest| if digest == key.digest { Ok(published.clone()) } else { Err(OrderError::KeyReused) };
        let state = KeyState::Ordered { published: published.clone(), at_ms };
        self.by_age.push_back((at_ms, Arc::clone(&key.name)));
        match self.known.insert(Arc::clone(&key.name), Known { digest: key.digest, state }) {
            Some(Known { state: KeyState::UnderWay(waiting), digest }) => {
                waiting.into_iter().map(|reply| (reply, result(digest))).collect()
            }
            Some(_) => Vec::new(),
            None => {
                self.memory.hold(KEY_BYTES + key.name.len());
                Vec::new()
            }
        }
    }

    /// Returns the reply to a publish that the cluster ordered at `at_ms`, if it repeats one that was ordered before:
    /// that one's, or an error if its body is another.
    pub(super) fn repeated(&self, key: &PublishKey, at_ms: u64) -> Option<Result<Ordered, OrderError>> {
        let Known { digest, state } = self.known.get(&key.name)?;
        match state {
            KeyState::Ordered { published, at_ms: first_ms }
                if at_ms.saturating_sub(*first_ms) <= KEYS_KNOWN_MS =>
            {
                let is_same = *digest == key.digest;
                Some(if is_same { Ok(published.clone()) } else { Err(OrderError::KeyReused) })
            }
            _ => None,
        }
    }

    /// Forgets the keys of all publishes that were ordered.
    pub(super) fn forget_ordered(&mut self) {
        self.expire(u64::MAX, usize::MAX);
    }

    /// Forgets a key whose publish was not ordered, unless another node of the cluster had one ordered; returns the
    /// others that wait for its reply.
    pub(super) fn refused(&mut self, key: &PublishKey) -> Vec<ReplyTo> {
        let is_under_way =
            |known: &Known| matches!(known.state, KeyState::UnderWay(_)) && known.digest == key.digest;
        if !self.known.get(&key.name).is_some_and(is_under_way) {
            return Vec::new();
        }
        match self.remove(&key.name) {
            Some(Known { state: KeyState::UnderWay(waiting), .. }) => waiting,
            _ => Vec::new(),
        }
    }

    /// Forgets keys past their age, at most `keys_max`; returns how many.
    pub(super) fn expire(&mut self, now_ms: u64, keys_max: usize) -> usize {
        let mut expired = 0;
        while expired < keys_max
            && let Some((at_ms, name)) = self.by_age.front()
            && now_ms.saturating_sub(*at_ms) > KEYS_KNOWN_MS
        {
            let (at_ms, name) = (*at_ms, Arc::clone(name));
            self.by_age.pop_front();
            // In a cluster it may have been ordered again since.
            let is_it =
                |known: &Known| matches!(known.state, KeyState::Ordered { at_ms: of, .. } if of == at_ms);
            if self.known.get(&name).is_some_and(is_it) {
                self.remove(&name);
            }
            expired += 1;
        }
        expired
    }

    fn remove(&mut self, name: &[u8]) -> Option<Known> {
        let known = self.known.remove(name)?;
        self.memory.release(KEY_BYTES + name.len());
        Some(known)
    }
}

impl Drop for KnownKeys {
    fn drop(&mut self) {
        self.memory.release(self.known.keys().map(|name| KEY_BYTES + name.len()).sum());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::event_id::EventId;
    use crate::core::message::Ticket;

    fn key(name: &str, digest: u8) -> PublishKey {
        PublishKey { name: name.as_bytes().into(), digest: [digest; 32] }
    }

    fn reply() -> Option<ReplyTo> {
        let connection = crate::core::arena::Arena::default().insert(());
        Some(ReplyTo::Connection(Ticket { shard: 0, connection, request: 0 }))
    }

    const PUBLISHED: Ordered =
        Ordered { last_id: EventId::Sequence(3), events: 1, ids_replaced: 0, streams: None };

    #[test]
    fn the_second_waits_for_the_first_and_the_third_is_answered_as_they_were() {
        let mut keys = KnownKeys::new(Memory::new(usize::MAX));
        let mut second = reply();
        assert!(matches!(keys.see(&key("a", 1), &mut reply(), 0, false), Ok(Seen::First)));
        assert!(matches!(keys.see(&key("a", 1), &mut second, 0, false), Ok(Seen::UnderWay)));
        assert!(second.is_none(), "it is answered with the first");
        let with_streams = Ordered { streams: Some(7), ..PUBLISHED };
        assert_eq!(keys.ordered(&key("a", 1), &with_streams, 0).len(), 1);
        let third = keys.see(&key("a", 1), &mut reply(), KEYS_KNOWN_MS, false);
        assert!(matches!(third, Ok(Seen::Ordered(PUBLISHED))), "it is sent to no streams: {third:?}");
        assert!(
            matches!(keys.see(&key("a", 1), &mut reply(), KEYS_KNOWN_MS + 1, false), Ok(Seen::First)),
            "forgotten"
        );
    }

    #[test]
    fn another_body_is_refused_and_a_publish_that_was_refused_may_come_again() {
        let mut keys = KnownKeys::new(Memory::new(usize::MAX));
        let mut see = |name, digest| keys.see(&key(name, digest), &mut reply(), 0, false);
        assert!(matches!(see("a", 1), Ok(Seen::First)));
        assert_eq!(see("a", 2).unwrap_err(), OrderError::KeyReused);
        assert!(matches!(see("a", 1), Ok(Seen::UnderWay)));
        assert_eq!(keys.refused(&key("a", 1)).len(), 1);
        assert!(matches!(keys.see(&key("a", 2), &mut reply(), 0, false), Ok(Seen::First)));
    }

    #[test]
    fn what_another_node_had_ordered_stays_and_whoever_waits_with_another_body_is_refused() {
        let mut keys = KnownKeys::new(Memory::new(usize::MAX));
        for (digest, refused) in [(1, false), (2, true)] {
            let key_of = |digest| key(&format!("{refused}"), digest);
            assert!(matches!(keys.see(&key_of(1), &mut reply(), 0, false), Ok(Seen::First)));
            assert!(matches!(keys.see(&key_of(1), &mut reply(), 0, false), Ok(Seen::UnderWay)));
            let waited = keys.ordered(&key_of(digest), &PUBLISHED, 0);
            let expected = if refused { Err(OrderError::KeyReused) } else { Ok(PUBLISHED) };
            assert_eq!(waited.into_iter().map(|(_, result)| result).collect::<Vec<_>>(), [expected]);
            // This node's own publish is given up only now.
            assert!(keys.refused(&key_of(1)).is_empty());
            assert!(keys.repeated(&key_of(digest), 0).is_some(), "all nodes know the same keys");
        }
    }

    #[test]
    fn so_many_are_known_and_what_they_take_is_counted() {
        let memory = Memory::new(usize::MAX);
        let mut keys = KnownKeys::new(Arc::clone(&memory));
        for n in 0..KEYS_MAX {
            let key = key(&format!("{n:08}"), 0);
            assert!(matches!(keys.see(&key, &mut reply(), 0, false), Ok(Seen::First)));
            keys.ordered(&key, &PUBLISHED, 0);
        }
        assert_eq!(memory.bytes(), KEYS_MAX * (KEY_BYTES + 8));
        assert_eq!(keys.see(&key("more", 0), &mut reply(), 0, false).unwrap_err(), OrderError::KeysFull);
        assert_eq!(keys.expire(KEYS_KNOWN_MS + 1, 10), 10);
        assert_eq!(keys.expire(KEYS_KNOWN_MS + 1, usize::MAX), KEYS_MAX - 10);
        assert_eq!(memory.bytes(), 0);
        assert!(matches!(keys.see(&key("more", 0), &mut reply(), 0, false), Ok(Seen::First)));
        keys.ordered(&key("kept", 0), &PUBLISHED, 0);
        assert_eq!(memory.bytes(), 2 * (KEY_BYTES + 4), "one that was kept over a restart is as large");
        drop(keys);
        assert_eq!(memory.bytes(), 0);
    }
}
