//! What the shards are told of the cluster's stream.

use crate::core::event_id::Sequence;
use crate::core::home::{Applied, Reset};
use crate::core::message::work_of;
use crate::core::message::{Disconnect, OrderError, Publish, Reply, ShardId, Ticket};
use crate::core::partition::PartitionId;

/// News of the cluster's stream, for one shard.
#[derive(Debug)]
pub(crate) enum ClusterNews {
    /// These publishes are final, in this order.
    Applied(Vec<(PartitionId, Applied)>),
    /// Streams end, after everything that was applied.
    Disconnect(PartitionId, Disconnect),
    /// A publish of this node is refused.
    Refused(PartitionId, Publish, OrderError),
    /// Everything up to this event is applied, on all shards.
    Advanced(Sequence),
    /// Events up to this one may be missing.
    Missed(Sequence),
    /// The order begins anew.
    Reset(Reset),
    /// No NATS server can be reached: streams end, this many steps before the last, for their clients to go to other
    /// nodes.
    SendAway(u32),
    /// The stream's leader says that it ends here.
    StreamEnd(Sequence),
}

impl ClusterNews {
    /// Returns about how long handling it takes, in the units of
    /// [`Message::work`](crate::core::message::Message::work).
    pub(crate) fn work(&self) -> usize {
        match self {
            ClusterNews::Applied(publishes) => {
                publishes.iter().map(|(_, applied)| work_of(&applied.publish.events)).sum()
            }
            _ => 1,
        }
    }
}

/// Carries news to the shards; implemented by their mailboxes.
pub(crate) trait ClusterEvents: Send + 'static {
    /// Tells one shard.
    fn tell(&self, shard: ShardId, news: ClusterNews);

    /// Answers a connection.
    fn reply(&self, ticket: Ticket, reply: Reply);
}
