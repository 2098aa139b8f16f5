//! The node of a cluster, as the server starts and ends it. It is there whether or not this build has the client of
//! NATS; without it no node can be opened.

// No node can be opened without the client, so nothing ever holds one.
#[cfg(not(feature = "nats"))]
use std::convert::Infallible as NodeLink;
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use serde_json::Value;
use tokio::sync::mpsc::UnboundedSender;

use super::NodeConfig;
#[cfg(feature = "nats")]
use super::nats::{self, NodeLink};
use crate::clock::Clock;
use crate::core::event_id::Epoch;
use crate::core::home::{HomeSettings, Homes};
use crate::core::partition::Partitioner;
use crate::core::topic::TopicHasher;
use crate::journal::cluster::events::ClusterEvents;
use crate::journal::cluster::question::NodeQuestion;
use crate::journal::cluster::queue::ToCluster;
use crate::journal::cluster::state::ClusterState;

/// A node that has read the stream, for the server to start with.
pub(crate) struct OpenedCluster {
    /// The settings of all homes.
    pub(crate) settings: HomeSettings,
    /// The hasher of the homes' topics: every topic must be hashed by it.
    pub(crate) hasher: TopicHasher,
    /// By shard, each with the history of its partitions.
    pub(crate) homes: Vec<Homes>,
    pub(crate) state: Arc<ClusterState>,
    /// The way to the thread, for shards and others.
    pub(crate) sender: UnboundedSender<ToCluster>,
    /// The connection and its state, for the thread.
    pub(super) link: NodeLink,
}

/// Answers a question of another node, by calling the function it is given, on any thread.
pub(crate) type AnswerQuestion = Box<dyn Fn(NodeQuestion, Box<dyn FnOnce(Value) + Send>) + Send>;

/// The thread that has the connection; the server owns it.
#[derive(Debug)]
pub(crate) struct ClusterThread {
    pub(super) sender: UnboundedSender<ToCluster>,
    pub(super) thread: JoinHandle<()>,
}

/// Joins the cluster; waits as long as no server answers.
///
/// # Errors
/// A server answered, and this node cannot take part; the remedy is in the line. Or this build has no client of NATS: the
/// server has refused such a configuration before.
pub(crate) fn open(
    config: &NodeConfig,
    clock: Clock,
    settings: impl Fn(Partitioner, Epoch) -> HomeSettings,
) -> Result<OpenedCluster, String> {
    #[cfg(feature = "nats")]
    return nats::open(config, clock, settings).map_err(|error| error.to_string());
    #[cfg(not(feature = "nats"))]
    {
        let _ = (config, clock, settings);
        Err("this esper was built without the feature nats".to_owned())
    }
}

impl ClusterThread {
    /// Starts the thread, which passes its result to `ended`.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub(crate) fn start(
        opened: OpenedCluster,
        events: impl ClusterEvents,
        answers: AnswerQuestion,
        name: String,
        ended: impl FnOnce(Result<(), String>) + Send + 'static,
    ) -> io::Result<Self> {
        #[cfg(feature = "nats")]
        return nats::start(opened, events, answers, name, ended);
        #[cfg(not(feature = "nats"))]
        {
            let _ = (events, answers, name, ended);
            match opened.link {}
        }
    }

    /// Has what is not confirmed yet be answered now.
    pub(crate) fn give_up(&self) {
        let _ = self.sender.send(ToCluster::GiveUp);
    }

    /// Sends what waits, and returns when the thread has ended.
    pub(crate) fn stop(self) {
        let _ = self.sender.send(ToCluster::Stop);
        // The panic hook has reported a panic already.
        let _ = self.thread.join();
    }
}
