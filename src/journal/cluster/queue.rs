//! A shard's way to the cluster: what it wants ordered goes to the thread that has the connection.

use std::sync::Arc;

use serde_json::Value;
use tokio::sync::mpsc::UnboundedSender;

use super::outbound::Wish;
use super::question::AskNodes;
use super::state::ClusterState;
use crate::core::message::{Disconnect, OrderError, Publish, Reply};
use crate::core::partition::PartitionId;

/// What the thread that has the connection is told.
#[derive(Debug)]
pub(crate) enum ToCluster {
    /// To be ordered, in this order within a partition.
    Wishes(Vec<(PartitionId, Wish)>),
    /// Tells `node` how many streams here its count with this number reached.
    Counted { node: u64, count: u64, streams: u32 },
    /// This node's own reply to what it counts under this number.
    OwnReply { count: u64, reply: Reply },
    /// Asks all other nodes a question, whose answers go to a thread of this process.
    Ask(AskNodes),
    /// Answers another node's question.
    Answer { node: u64, id: u64, body: Value },
    /// Refuses what waits and what is under way: its publishers' connections are about to be closed.
    GiveUp,
    /// Sends what waits, then ends.
    Stop,
}

/// The wishes of one shard; owned by it.
#[derive(Debug)]
pub(crate) struct ClusterQueue {
    sender: UnboundedSender<ToCluster>,
    state: Arc<ClusterState>,
    /// Those of the shard's current turn.
    turn: Vec<(PartitionId, Wish)>,
}

impl ClusterQueue {
    pub(crate) fn new(sender: UnboundedSender<ToCluster>, state: Arc<ClusterState>) -> Self {
        ClusterQueue { sender, state, turn: Vec::new() }
    }

    pub(in crate::journal) fn append(&mut self, partition: PartitionId, publish: Publish) {
        self.turn.push((partition, Wish::Publish(publish)));
    }

    pub(in crate::journal) fn disconnect(&mut self, partition: PartitionId, disconnect: Disconnect) {
        let Disconnect { topic, shards: _, count_for } = disconnect;
        self.turn.push((partition, Wish::Disconnect { topic: topic.name().into(), count_for }));
    }

    pub(in crate::journal) fn refusal(&self) -> Option<OrderError> {
        self.state.is_cut_off().then_some(OrderError::CutOff)
    }

    /// Ends the shard's turn.
    pub(crate) fn flush(&mut self) {
        if !self.turn.is_empty() {
            // A thread that is gone answers nobody, and the server ends.
            let _ = self.sender.send(ToCluster::Wishes(std::mem::take(&mut self.turn)));
        }
    }

    /// Notes how many subscribers of a shard wait for events of other nodes.
    pub(crate) fn note_waiting(&self, shard: usize, waiting: usize) {
        self.state.note_waiting(shard, waiting);
    }
}
