//! What a backend counts.

use crate::stats::Counter;

/// A backend's counters; its thread alone changes them.
#[derive(Debug, Default)]
pub(crate) struct BackendStats {
    /// Connections to brokers that are wanted: one for each node's URL.
    pub(crate) brokers_configured: Counter,
    /// Connections to brokers that are there.
    pub(crate) brokers_connected: Counter,
    /// Queues that are clients' at this moment.
    pub(crate) consumers: Counter,
    /// Messages handed to clients' streams.
    pub(crate) delivered: Counter,
    /// Messages acknowledged, those of queues alone.
    pub(crate) acknowledged: Counter,
    /// Messages that brokers sent again.
    pub(crate) redelivered: Counter,
    /// Messages acknowledged because a client that came back had them; counted among `acknowledged` too.
    pub(crate) acknowledged_unsent: Counter,
    /// Messages published to topics.
    pub(crate) published: Counter,
    /// Clients that asked for a queue and did not get it.
    pub(crate) refused: Counter,
}
