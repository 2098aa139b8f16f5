//! The backend's counters.

use serde_json::{Value, json};

use crate::stats::Counter;

/// Counters of the backend, which only its thread changes.
#[derive(Debug, Default)]
pub(crate) struct BackendStats {
    /// Configured connections to brokers: one for each node's URL.
    pub(crate) brokers_configured: Counter,
    /// Open connections to brokers.
    pub(crate) brokers_connected: Counter,
    /// Queues that are open for clients.
    pub(crate) consumers: Counter,
    /// Messages handed to clients' streams.
    pub(crate) delivered: Counter,
    /// Messages of queues acknowledged.
    pub(crate) acknowledged: Counter,
    /// Messages that brokers delivered again.
    pub(crate) redelivered: Counter,
    /// Messages acknowledged because a returning client had them; counted in `acknowledged` too.
    pub(crate) acknowledged_unsent: Counter,
    /// Messages published to topics.
    pub(crate) published: Counter,
    /// Clients that asked for a queue and did not get it.
    pub(crate) refused: Counter,
}

impl BackendStats {
    /// Returns the counters as `/stats` shows them.
    pub(crate) fn json(&self) -> Value {
        json!({
            "brokers": self.brokers_configured.value(),
            "brokers_connected": self.brokers_connected.value(),
            "open": self.consumers.value(),
            "refused": self.refused.value(),
            "delivered": self.delivered.value(),
            "redelivered": self.redelivered.value(),
            "acknowledged": self.acknowledged.value(),
            "acknowledged_unsent": self.acknowledged_unsent.value(),
            "published": self.published.value(),
        })
    }
}
