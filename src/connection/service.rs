//! The parts that the connections of all shards share.

use std::sync::Arc;

use tokio::sync::mpsc::UnboundedSender;

use super::request_memory::RequestMemory;
use super::shortage::Shortage;
use crate::backend::ToBackend;
use crate::core::message::Ticket;
use crate::dialects::Access;
use crate::dialects::admin::{Question, Report};
use crate::http::{Cors, Refusal, Response};

/// How long connections that only wait give way after an accept found no free descriptor: two pauses of accepting.
pub(crate) const FILES_SHORT_MS: u64 = 200;

/// The parts that the connections of all shards share: access rules, CORS, memory, backend and reports.
#[derive(Debug)]
pub(crate) struct Service {
    pub(crate) access: Arc<Access>,
    pub(crate) cors: Cors,
    /// The memory of connections that are not streams.
    pub(crate) request_memory: Arc<RequestMemory>,
    /// The channel to the thread that serves queues, if there is one.
    pub(crate) backend: Option<UnboundedSender<ToBackend>>,
    pub(crate) reports: Arc<dyn Reports>,
    /// That of file descriptors.
    pub(crate) files_short: Shortage,
}

/// Answers to operators; [`monitor`](crate::monitor) implements it.
pub(crate) trait Reports: std::fmt::Debug + Send + Sync {
    /// Returns a report that can be composed at once.
    ///
    /// # Errors
    /// The server is not well: 503.
    fn report(self: Arc<Self>, report: Report) -> Result<Response, Refusal>;

    /// Asks all shards a question, whose answer goes to `ticket`. Returns false when too many questions wait.
    fn ask(&self, question: Question, ticket: Ticket) -> bool;
}

/// Returns the refusal of a question when too many wait, or when their answers take too much memory.
pub(super) fn busy() -> Refusal {
    Refusal::unavailable("too many ask for the status or for sessions at once; ask again later")
}
