//! The journal makes the order of events final: in memory at once, on disk when it is synced.
//!
//! ```text
//! shard: home ──> DiskQueue: its place, and what is under way ──Turn──> writer: gathers, appends, syncs ──> disk
//!        home <── in order <──────────────────────Journaled──────────────┘
//! ```
//!
//! | module | idea |
//! |---|---|
//! | [`start`] | reads a directory's events back into the homes' histories |
//! | [`writer`] | the thread that owns the log: one sync for all publishes that came meanwhile |
//! | [`queue`] | the publishes of a shard that are under way |
//! | [`stats`] | the writer's counters |
//! | [`config`] | what it needs of the server's configuration |
//! | [`disk`] | a log of batches in segment files, which outlives a crash |
//! | [`cluster`] | the order of several nodes, in NATS JetStream |

pub(crate) mod cluster;
pub(crate) mod config;
pub(crate) mod disk;
pub(crate) mod queue;
pub(crate) mod start;
pub(crate) mod stats;
pub(crate) mod writer;

use crate::core::event_id::Sequence;
use crate::core::home::TopicEnd;
use crate::core::journal::{Journal, MemoryJournal};
use crate::core::message::{Disconnect, OrderError, Publish};
use crate::core::partition::PartitionId;
use cluster::queue::ClusterQueue;
use queue::DiskQueue;

/// The journal as one shard sees it; owned by the shard.
#[derive(Debug)]
pub(crate) enum ShardJournal {
    /// Keeps nothing beyond the process.
    Memory(MemoryJournal),
    Disk(DiskQueue),
    Cluster(ClusterQueue),
}

impl Journal for ShardJournal {
    fn place(&mut self, partition: PartitionId, events: u32) -> Option<Sequence> {
        match self {
            ShardJournal::Memory(journal) => journal.place(partition, events),
            ShardJournal::Disk(_) | ShardJournal::Cluster(_) => None,
        }
    }

    fn append(&mut self, partition: PartitionId, publish: Publish, previous: TopicEnd) -> Option<Sequence> {
        match self {
            ShardJournal::Memory(journal) => journal.append(partition, publish, previous),
            ShardJournal::Disk(queue) => Some(queue.append(partition, publish, previous)),
            ShardJournal::Cluster(queue) => {
                queue.append(partition, publish);
                None
            }
        }
    }

    fn disconnect(&mut self, partition: PartitionId, disconnect: Disconnect) -> Option<Disconnect> {
        match self {
            ShardJournal::Memory(_) | ShardJournal::Disk(_) => Some(disconnect),
            ShardJournal::Cluster(queue) => {
                queue.disconnect(partition, disconnect);
                None
            }
        }
    }

    fn refusal(&self) -> Option<OrderError> {
        match self {
            ShardJournal::Memory(_) | ShardJournal::Disk(_) => None,
            ShardJournal::Cluster(queue) => queue.refusal(),
        }
    }
}
