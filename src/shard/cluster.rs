//! What a shard does with what comes through the stream of a cluster.

use std::sync::Arc;

use super::Shard;
use crate::core::home::Reset;
use crate::journal::ShardJournal;
use crate::journal::cluster::events::ClusterNews;

impl Shard {
    pub(super) fn take_news(&self, news: ClusterNews) {
        let mut outbox = self.outbox.borrow_mut();
        let mut homes = self.homes.borrow_mut();
        match news {
            ClusterNews::Applied(publishes) => {
                for (partition, applied) in publishes {
                    self.count_ordered(homes.apply(partition, applied, &mut outbox));
                }
            }
            ClusterNews::Disconnect(partition, disconnect) => {
                homes.apply_disconnect(partition, disconnect, &mut outbox);
            }
            ClusterNews::Refused(partition, publish, error) => {
                // It has no place.
                homes.refuse(partition, 0, publish, error, &mut outbox);
            }
            ClusterNews::Advanced(upto) => homes.advance(upto, &mut outbox),
            ClusterNews::Missed(upto) => homes.miss(upto, self.common.homes.placement.shards(), &mut outbox),
            ClusterNews::StreamEnd(end) => homes.stream_ends_at(end, &mut outbox),
            ClusterNews::SendAway(steps_left) => self.fanout.borrow_mut().send_away(steps_left),
            ClusterNews::Reset(reset) => {
                homes.reset(&reset);
                let Reset { epochs, ready_at, .. } = &reset;
                self.common.epochs.store(Arc::clone(epochs));
                self.fanout.borrow_mut().reset(epochs, *ready_at);
            }
        }
        self.post_all(&mut outbox);
    }

    /// Refuses subscribers that waited too long for events of other nodes, and notes how many wait.
    pub(super) fn sweep_cluster(&self, now_ms: u64) {
        let ShardJournal::Cluster(queue) = &mut *self.journal.borrow_mut() else { return };
        let (mut outbox, mut homes) = (self.outbox.borrow_mut(), self.homes.borrow_mut());
        homes.refuse_waiting(now_ms, &mut outbox);
        queue.note_waiting(usize::from(self.id), homes.waiting());
        self.post_all(&mut outbox);
    }
}
