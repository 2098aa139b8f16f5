//! What all shards share: what was configured, and what is counted. Nothing in it is ever waited for.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::auth::Keys;
use crate::budget::Budget;
use crate::clock::Clock;
use crate::config::{Auth, Config, SecretPair};
use crate::event_id::Epoch;
use crate::http::Cors;
use crate::memory::Memory;
use crate::stats::Stats;
use crate::topic::TopicHasher;

/// What all shards share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) access: Access,
    pub(crate) cors: Cors,
    pub(crate) epoch: Epoch,
    pub(crate) clock: Clock,
    pub(crate) stats: Stats,
    /// What may be under way between shards.
    pub(crate) budget: Arc<Budget>,
    /// What events hold, wherever they are.
    pub(crate) memory: Arc<Memory>,
    /// What bodies may hold while they arrive.
    pub(crate) uploads: Arc<Budget>,
    pub(crate) streams: Streams,
    /// The server is about to stop: balancers are told to look elsewhere.
    pub(crate) draining: AtomicBool,
    pub(crate) shards: usize,
}

/// Who may do what.
#[derive(Debug)]
pub(crate) struct Access {
    /// Keys that a subscriber's token must be signed with; none when anybody may subscribe.
    pub(crate) subscriber: Option<Keys>,
    /// The same for publishing, and for `/stats`.
    pub(crate) publisher: Option<Keys>,
    pub(crate) cookie_name: String,
    pub(crate) hasher: TopicHasher,
}

impl Access {
    pub(crate) fn new(auth: &Auth, hasher: TopicHasher) -> Self {
        let keys = |pair: &Option<SecretPair>| {
            let pair = pair.as_ref().filter(|_| auth.enabled)?;
            Some(Keys::new(pair.current.expose(), pair.previous.as_ref().map(|secret| secret.expose())))
        };
        Access {
            subscriber: keys(&auth.subscriber),
            publisher: keys(&auth.publisher),
            cookie_name: auth.cookie_name.clone(),
            hasher,
        }
    }
}

/// Streams open on all shards together, and how many may be.
#[derive(Debug)]
pub(crate) struct Streams {
    max: usize,
    open: AtomicUsize,
}

impl Streams {
    pub(crate) fn new(max: usize) -> Self {
        Streams { max, open: AtomicUsize::new(0) }
    }

    /// Counts one more stream, or nothing when the limit is reached.
    pub(crate) fn open(shared: &Arc<Shared>) -> Option<OpenStream> {
        let stream = OpenStream(Arc::clone(shared));
        let before = shared.streams.open.fetch_add(1, Ordering::Relaxed);
        (before < shared.streams.max).then_some(stream)
    }

    /// How many may be open.
    pub(crate) fn max(&self) -> usize {
        self.max
    }
}

/// One stream, counted until this is dropped.
#[derive(Debug)]
pub(crate) struct OpenStream(Arc<Shared>);

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.0.streams.open.fetch_sub(1, Ordering::Relaxed);
    }
}
