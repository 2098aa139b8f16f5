//! `GET /debug/vars`: the counters of queues, where users of eventsourced look for them.
//!
//! The form is that of Go's expvar: one object of JSON, in which each program has a name of its own beside `cmdline`.

use serde_json::{Value, json};

use super::Monitor;
use crate::backend::BackendStats;

/// Returns all variables. Without message brokers they are zeros, so that readers always find them.
pub(super) fn vars(monitor: &Monitor) -> Value {
    let none = BackendStats::default();
    let stats = monitor.backend.as_deref().unwrap_or(&none);
    json!({
        "cmdline": monitor.common.config.command_line,
        "version": env!("CARGO_PKG_VERSION"),
        "eventsourced": {
            "Broker": {
                "Configured": stats.brokers_configured.value(),
                "Connected": stats.brokers_connected.value(),
            },
            "Consumer": {
                "Open": stats.consumers.value(),
                "Refused": stats.refused.value(),
            },
            "Delivery": {
                "Delivered": stats.delivered.value(),
                "Redelivered": stats.redelivered.value(),
                "Acknowledged": stats.acknowledged.value(),
                "AcknowledgedUnsent": stats.acknowledged_unsent.value(),
                "Published": stats.published.value(),
            },
            "Uptime": monitor.common.clock.elapsed().as_secs(),
        },
    })
}
