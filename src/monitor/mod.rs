//! The operators' views: statistics, metrics, the admin page, and who is connected.
//!
//! | module | idea |
//! |---|---|
//! | `metrics`, [`vars`] | the counters in Prometheus's and in Go's format |
//! | [`questions`] | questions to all shards, whose answers are put together on a thread of its own |

#[cfg(feature = "metrics")]
mod metrics;
mod questions;
mod vars;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use serde_json::{Value, json};
use tokio::sync::mpsc::UnboundedSender;

use crate::auth::KeyProvider;
use crate::backend::BackendStats;
use crate::connection::request_memory::RequestMemory;
use crate::connection::service::Reports;
use crate::core::message::Ticket;
use crate::dialects::Access;
use crate::dialects::admin::{Question, Report};
use crate::http::{Refusal, Response, Status};
use crate::journal::cluster::question::NodeQuestion;
use crate::journal::cluster::queue::ToCluster;
use crate::journal::cluster::state::ClusterState;
use crate::journal::stats::JournalStats;
use crate::shard::common::Common;
use crate::shard::mailbox::Mailboxes;
use crate::stats::Counter;
use questions::Questions;

/// The admin page, complete in one file.
const ADMIN_PAGE: &str = include_str!("admin.html");

/// The counters of all parts, and the channel to the thread that asks all shards; the server owns it.
#[derive(Debug)]
pub(crate) struct Monitor {
    pub(crate) common: Arc<Common>,
    pub(crate) access: Arc<Access>,
    pub(crate) request_memory: Arc<RequestMemory>,
    /// Counters of the journal on disk, if there is one.
    pub(crate) journal: Option<Arc<JournalStats>>,
    /// The state of the cluster, and the way to its other nodes, if there is one.
    pub(crate) cluster: Option<(Arc<ClusterState>, UnboundedSender<ToCluster>)>,
    /// Counters of the backend, if there is one.
    pub(crate) backend: Option<Arc<BackendStats>>,
    pub(crate) questions: Questions,
}

impl Monitor {
    /// Returns the JSON that `/stats` shows.
    pub(crate) fn stats(&self) -> Value {
        let Common { stats, memory, clock, .. } = &*self.common;
        let mut all = stats.json();
        all["held_bytes"] = memory.total().into();
        all["request_bytes"] = self.request_memory.bytes().into();
        all["uptime_s"] = clock.elapsed().as_secs().into();
        if let Some(log) = &self.common.access_log {
            all["access_log"] = json!({ "lines_dropped": log.lost() });
        }
        if let Some(journal) = &self.journal {
            all["journal"] = journal.json();
        }
        if let Some((cluster, _)) = &self.cluster {
            all["cluster"] = cluster.json();
        }
        if !self.access.providers.is_empty() {
            let [fetches, failures] = self.key_fetches();
            all["jwks"] = json!({ "fetches": fetches, "failures": failures });
        }
        if let Some(backend) = &self.backend {
            all["queues"] = backend.json();
        }
        all
    }

    /// Returns how many documents of keys were fetched from identity providers, and how many attempts failed.
    fn key_fetches(&self) -> [u64; 2] {
        let of = |counter: fn(&KeyProvider) -> &Counter| {
            self.access.providers.iter().map(|provider| counter(provider).value()).sum()
        };
        [of(|provider| &provider.fetches), of(|provider| &provider.failures)]
    }

    /// Answers questions and feeds admin pages on this thread until [`Monitor::close`].
    pub(crate) fn run(&self, mailboxes: &Mailboxes) {
        questions::run(self, mailboxes);
    }

    /// Answers another node of the cluster, or drops `answer` when too many questions wait.
    pub(crate) fn answer_node(&self, question: NodeQuestion, answer: Box<dyn FnOnce(Value) + Send>) {
        match question {
            // Here, on the asking thread: the other one may be waiting for the answer of the node that asks.
            NodeQuestion::Stats => answer(self.stats()),
            NodeQuestion::Sessions { .. } => self.questions.answer_node(question, answer),
        }
    }

    /// Ends the thread that [`Monitor::run`] keeps busy.
    pub(crate) fn close(&self) {
        self.questions.close();
    }
}

impl Reports for Monitor {
    fn report(self: Arc<Self>, report: Report) -> Result<Response, Refusal> {
        Ok(match report {
            Report::Health | Report::Ready if self.common.draining.load(Ordering::Relaxed) => {
                return Err(Refusal::new(Status::ServiceUnavailable, "draining"));
            }
            Report::Ready if self.cluster.as_ref().is_some_and(|(cluster, _)| !cluster.is_ready()) => {
                let unfit = self.cluster.as_ref().and_then(|(cluster, _)| cluster.unfit());
                let reason = unfit.unwrap_or_else(|| "cut off from the cluster, or far behind it".to_owned());
                return Err(Refusal::new(Status::ServiceUnavailable, reason));
            }
            Report::Ready => match self.access.without_keys() {
                None => Response::text("ok\n"),
                Some(side) => {
                    let reason =
                        format!("the keys of --{side}-jwks were not fetched yet, and there are no others");
                    return Err(Refusal::new(Status::ServiceUnavailable, reason));
                }
            },
            Report::Health => Response::text("ok\n"),
            Report::Stats => Response::json(self.stats().to_string().into_bytes()),
            #[cfg(feature = "metrics")]
            Report::Metrics => Response::ok(metrics::CONTENT_TYPE, metrics::text(&self).into_bytes()),
            #[cfg(not(feature = "metrics"))]
            Report::Metrics => {
                let reason = "this server was built without the feature metrics; /stats has the same numbers";
                return Err(Refusal::new(Status::NotFound, reason));
            }
            Report::Vars => Response::json(vars::vars(&self).to_string().into_bytes()),
            Report::AdminPage => Response::page(ADMIN_PAGE),
        })
    }

    fn ask(&self, question: Question, ticket: Ticket) -> bool {
        self.questions.ask(question, ticket)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::server::tests::parts;

    /// Returns the monitor of a server that does not run.
    pub(super) fn monitor(config: Config) -> Monitor {
        parts(config).monitor()
    }
}
