//! What connections of all shards are served with.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::mpsc::UnboundedSender;

use super::request_memory::RequestMemory;
use crate::backend::ToBackend;
use crate::clock::Clock;
use crate::core::message::Ticket;
use crate::dialects::Access;
use crate::dialects::admin::{Question, Report};
use crate::http::{Cors, Refusal, Response};

/// How long after an accept found no free descriptor connections that only wait still give way: two pauses of accepting.
const FILES_SHORT_MS: u64 = 200;

/// What connections of all shards are served with.
#[derive(Debug)]
pub(crate) struct Service {
    pub(crate) access: Arc<Access>,
    pub(crate) cors: Cors,
    /// What connections hold that are no streams.
    pub(crate) request_memory: Arc<RequestMemory>,
    /// The way to the thread that has clients' queues, if there is one.
    pub(crate) backend: Option<UnboundedSender<ToBackend>>,
    pub(crate) reports: Arc<dyn Reports>,
    pub(crate) shortage: FileShortage,
}

/// What operators are shown.
pub(crate) trait Reports: std::fmt::Debug + Send + Sync {
    /// Composes a report at once.
    ///
    /// # Errors
    /// The server is not well: 503.
    fn report(self: Arc<Self>, report: Report) -> Result<Response, Refusal>;

    /// Has a question asked of all shards, whose answer goes to the ticket; returns false when too many wait.
    fn ask(&self, question: Question, ticket: Ticket) -> bool;
}

/// Returns what is answered when too many ask, or their answers are not taken.
pub(super) fn busy() -> Refusal {
    Refusal::unavailable("too many ask for the status or for sessions at once; ask again later")
}

/// When an accept last found no free descriptor.
#[derive(Debug, Default)]
pub(crate) struct FileShortage {
    /// In milliseconds of the server's clock; 0 for never.
    at_ms: AtomicU64,
}

impl Service {
    /// Has all shards make room: an accept found no free descriptor.
    pub(super) fn note_files_short(&self, clock: Clock) {
        self.shortage.at_ms.store(clock.now_ms().max(1), Ordering::Relaxed);
    }

    /// Returns whether an accept found no free descriptor a moment ago.
    pub(super) fn files_are_short(&self, now_ms: u64) -> bool {
        let at_ms = self.shortage.at_ms.load(Ordering::Relaxed);
        at_ms > 0 && now_ms.saturating_sub(at_ms) < FILES_SHORT_MS
    }
}
