//! What all shards share: what was configured, and what is counted. Nothing in it is ever waited for.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use arc_swap::ArcSwap;
use smallvec::SmallVec;
use tokio::sync::mpsc::UnboundedSender;

use crate::admin::Desk;
use crate::backend::{BackendStats, ToBackend};
use crate::clock::Clock;
use crate::config::{Config, IpNet};
use crate::core::budget::{Budget, Charge};
use crate::core::event::Events;
use crate::core::home::HomeSettings;
use crate::core::memory::Memory;
use crate::core::topic::{Topic, TopicError, TopicHasher};
use crate::http::Cors;
use crate::keyring::Keyring;
use crate::request_memory::RequestMemory;
use crate::routes::QueueAccess;
use crate::shard::queue::QueueStream;
use crate::stats::Stats;

/// What each event costs between shards beside its text.
const EVENT_BYTES: usize = 256;

/// How long after an accept found no free descriptor connections that only wait still give way: two pauses of accepting.
const FILES_SHORT_MS: u64 = 200;

/// What all shards share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) access: Access,
    pub(crate) cors: Cors,
    pub(crate) clock: Clock,
    pub(crate) stats: Stats,
    /// What may be under way between shards.
    pub(crate) budget: Arc<Budget>,
    /// What events hold, wherever they are.
    pub(crate) memory: Arc<Memory>,
    /// What connections hold that are no streams.
    pub(crate) request_memory: Arc<RequestMemory>,
    /// When an accept last found no free descriptor, in milliseconds of the server's clock; 0 for never.
    pub(crate) files_short_at_ms: AtomicU64,
    pub(crate) streams: Streams,
    /// The way to the thread that puts together what the admin page shows, and who is connected.
    pub(crate) admin: Desk,
    /// The way to the thread that speaks with other brokers, and what it counts.
    pub(crate) bridge: Option<BridgeLine>,
    /// The server is about to stop: balancers are told to look elsewhere.
    pub(crate) draining: AtomicBool,
    pub(crate) shards: usize,
    /// What their homes have in common.
    pub(crate) homes: HomeSettings,
}

/// The way to the bridge.
#[derive(Debug)]
pub(crate) struct BridgeLine {
    pub(crate) sender: UnboundedSender<ToBackend>,
    pub(crate) stats: Arc<BackendStats>,
}

/// Who may do what.
#[derive(Debug)]
pub(crate) struct Access {
    /// Read anew when a process is told so.
    pub(crate) keyring: ArcSwap<Keyring>,
    pub(crate) cookie_name: String,
    /// How long a token that is minted here may be good for, in seconds.
    pub(crate) session_s_max: u64,
    /// There is a control port, and what it is called beside addresses and `localhost`.
    pub(crate) control_hosts: Option<Vec<String>>,
    /// Publishing and what shows the broker from inside are on the public port.
    pub(crate) public_publish: bool,
    pub(crate) hasher: TopicHasher,
    /// How clients ask for queues of another broker.
    pub(crate) queues: Option<QueueAccess>,
    /// Topics are paths.
    pub(crate) namespaces: bool,
    /// There is an admin page.
    pub(crate) admin: bool,
    /// What feeds it; no request can name it.
    pub(crate) admin_topic: Topic,
    /// Peers whose `X-Forwarded-For` is believed.
    pub(crate) trusted_proxies: Vec<IpNet>,
}

impl Shared {
    /// Takes room for these events on their way between shards, with a key of `key_bytes`; nothing when there is none.
    pub(crate) fn room(&self, events: &Events, key_bytes: usize) -> Option<Charge> {
        if self.memory.is_exhausted() {
            return None;
        }
        self.budget.take(events.text_bytes() + events.len() * EVENT_BYTES + key_bytes)
    }

    /// Has all shards make room: an accept found no free descriptor.
    pub(crate) fn note_files_short(&self) {
        self.files_short_at_ms.store(self.clock.now_ms().max(1), Ordering::Relaxed);
    }

    /// Whether an accept found no free descriptor a moment ago.
    pub(crate) fn files_are_short(&self, now_ms: u64) -> bool {
        let short_at_ms = self.files_short_at_ms.load(Ordering::Relaxed);
        short_at_ms > 0 && now_ms.saturating_sub(short_at_ms) < FILES_SHORT_MS
    }
}

impl Access {
    /// The topic of this name, which is one id or, with namespaces, segments parted by `/`; nothing in it is
    /// percent-encoded.
    ///
    /// # Errors
    /// [`TopicError`] names what is wrong with it.
    pub(crate) fn topic(&self, name: &str) -> Result<Topic, TopicError> {
        if !self.namespaces {
            return Topic::parse(name.as_bytes(), &self.hasher);
        }
        let segments: SmallVec<[Cow<'_, [u8]>; 8]> =
            name.split('/').map(|segment| Cow::Borrowed(segment.as_bytes())).collect();
        Topic::parse_path(&segments, &self.hasher)
    }

    /// Whether somebody may ask who is connected.
    pub(crate) fn can_survey(&self) -> bool {
        self.admin || self.control_hosts.is_some()
    }

    pub(crate) fn new(config: &Config, hasher: TopicHasher) -> Self {
        let control = config.control.as_ref();
        Access {
            keyring: ArcSwap::from_pointee(Keyring::new(config)),
            cookie_name: config.auth.cookie_name.clone(),
            session_s_max: config.auth.session_time_max.as_secs(),
            control_hosts: control.map(|control| control.hosts.clone()),
            public_publish: control.is_none_or(|control| control.public_publish),
            admin_topic: Topic::internal("admin events", &hasher),
            hasher,
            queues: config.queues.as_ref().map(QueueAccess::new),
            namespaces: config.namespaces,
            admin: config.admin,
            trusted_proxies: config.trusted_proxies.clone(),
        }
    }
}

/// Admin pages beyond the limit of streams: an operator looks when the server is full.
const WATCHING_MAX: usize = 4;

/// Streams open on all shards together, and how many may be.
#[derive(Debug)]
pub(crate) struct Streams {
    max: usize,
    open: AtomicUsize,
    /// Those of them that feed an admin page.
    watching: AtomicUsize,
}

impl Streams {
    pub(crate) fn new(max: usize) -> Self {
        Streams { max, open: AtomicUsize::new(0), watching: AtomicUsize::new(0) }
    }

    /// Counts one more stream, or nothing when the limit is reached.
    pub(crate) fn open(shared: &Arc<Shared>, watches: bool) -> Option<OpenStream> {
        let stream = OpenStream { shared: Arc::clone(shared), watches, queue: None };
        shared.streams.watching.fetch_add(watches.into(), Ordering::Relaxed);
        let before = shared.streams.open.fetch_add(1, Ordering::Relaxed);
        let max = shared.streams.max + if watches { WATCHING_MAX } else { 0 };
        (before < max).then_some(stream)
    }

    /// Whether there is no room for one more.
    pub(crate) fn are_full(&self) -> bool {
        self.open.load(Ordering::Relaxed) >= self.max
    }

    /// How many feed an admin page.
    pub(crate) fn watching(&self) -> usize {
        self.watching.load(Ordering::Relaxed)
    }

    /// How many may be open.
    pub(crate) fn max(&self) -> usize {
        self.max
    }
}

/// One stream, counted until this is dropped.
#[derive(Debug)]
pub(crate) struct OpenStream {
    shared: Arc<Shared>,
    watches: bool,
    /// Boxed: most streams have none.
    queue: Option<Box<QueueStream>>,
}

impl OpenStream {
    /// Keeps a queue for as long.
    pub(crate) fn keep(&mut self, queue: QueueStream) {
        self.queue = Some(Box::new(queue));
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.shared.streams.open.fetch_sub(1, Ordering::Relaxed);
        self.shared.streams.watching.fetch_sub(self.watches.into(), Ordering::Relaxed);
    }
}
