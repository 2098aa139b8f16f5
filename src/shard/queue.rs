//! A stream of a queue of another broker: what a shard and the bridge know of it.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::mpsc::UnboundedSender;

use crate::bridge::{Opened, StreamId, ToBridge};
use crate::core::message::{ShardId, Ticket};
use crate::core::topic::Topic;

/// A queue that is the client's until this is dropped.
pub(crate) struct QueueStream {
    stream: StreamId,
    /// What carries its events, on the client's shard alone.
    pub(crate) topic: Topic,
    /// The id that it begins with, when the client came without one.
    pub(crate) first_id: Option<String>,
    /// The number of the newest of them that the kernel took.
    pub(crate) sent: Arc<AtomicU64>,
    bridge: UnboundedSender<ToBridge<Ticket>>,
    places: Arc<Places>,
}

impl QueueStream {
    pub(crate) fn new(
        opened: Opened,
        topic: Topic,
        bridge: UnboundedSender<ToBridge<Ticket>>,
        places: Arc<Places>,
    ) -> Self {
        let Opened { stream, first_id, sent } = opened;
        QueueStream { stream, topic, first_id, sent, bridge, places }
    }

    /// The client's stream is there: what the queue has may come.
    pub(crate) fn is_ready(&self) {
        // A bridge that ended delivers nothing.
        let _ = self.bridge.send(ToBridge::Ready { stream: self.stream });
    }
}

impl fmt::Debug for QueueStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.stream.fmt(f)
    }
}

impl Drop for QueueStream {
    fn drop(&mut self) {
        self.places.remove(self.stream);
        let _ = self.bridge.send(ToBridge::Closed { stream: self.stream });
    }
}

/// Where each stream is.
#[derive(Debug, Default)]
pub(crate) struct Places(Mutex<HashMap<StreamId, Place>>);

/// A stream's shard, and what carries its events there.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) shard: ShardId,
    pub(crate) topic: Topic,
}

impl Places {
    pub(crate) fn insert(&self, stream: StreamId, place: Place) {
        self.map().insert(stream, place);
    }

    pub(crate) fn find(&self, stream: StreamId) -> Option<Place> {
        self.map().get(&stream).cloned()
    }

    /// The stream is no more.
    pub(crate) fn remove(&self, stream: StreamId) {
        self.map().remove(&stream);
    }

    // Nothing that could panic is done while it is held.
    fn map(&self) -> MutexGuard<'_, HashMap<StreamId, Place>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
