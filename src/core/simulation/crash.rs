//! The journal's side of a world: order that is final only when it is synced, and a process that dies and is followed
//! by one that goes on from the disk.

use std::collections::VecDeque;
use std::sync::Arc;

use super::World;
use crate::core::epochs::{EarlierEpoch, Epochs};
use crate::core::event_id::{Epoch, RUN_MIN};
use crate::core::fanout::{Fanout, FanoutLimits};
use crate::core::home::{HomeSettings, Homes};
use crate::core::message::ShardId;
use crate::core::partition::Placement;

impl World {
    /// Makes some of the journal's publishes final; returns false when there are none.
    pub(super) fn sync(&mut self) -> bool {
        let count = self.random.usize(1..10);
        let mut busy = false;
        for _ in 0..count {
            let Some((partition, first, publish)) = self.journal.sync() else { break };
            busy = true;
            let shard = usize::from(self.placement.home(partition));
            let mut out = Vec::new();
            self.model.order(partition.into(), &publish.topic, &publish.events, first);
            self.homes[shard].journaled(partition, first, publish, self.now_ms, &mut out);
            self.post(shard, out);
        }
        if self.random.u8(0..4) == 0 {
            let dropped = self.homes.iter_mut().flat_map(Homes::take_dropped).collect();
            self.journal.trim(dropped);
        }
        busy
    }

    /// Ends the process, with everything not on disk, and begins another from the disk.
    pub(super) fn crash(&mut self) {
        let kept = self.random.usize(0..4);
        for written in self.journal.crash(kept) {
            let partition = usize::from(written.partition);
            self.model.order(partition, &written.topic, &written.events, written.first);
        }
        self.model.truncate(self.journal.last());
        self.life += 1;
        let epochs = &self.settings.epochs;
        let ended = EarlierEpoch { epoch: epochs.current(), last: self.journal.last().into() };
        let epoch = Epoch::at(RUN_MIN + self.seed + (self.life << 32));
        let earlier = [ended].into_iter().chain(epochs.earlier().iter().cloned()).collect();
        let epochs = Arc::new(Epochs::new(epoch, earlier));
        self.model.epoch = Some(epoch);
        self.settings.epochs = Arc::clone(&epochs);
        self.fanout_limits.epochs = Some(Arc::clone(&epochs));
        // Another number of shards must do as well.
        let shards = self.random.usize(1..=4);
        let placement = Placement::new(self.model.ordered.len() as u8, shards);
        self.placement = placement;
        self.settings.placement = placement;
        self.settings.topic_count = Arc::new(self.settings.topic_count.emptied());
        self.clients.iter_mut().for_each(|client| client.stream = None);
        self.channels = (0..shards).map(|_| (0..shards).map(|_| VecDeque::new()).collect()).collect();
        self.unanswered = 0;
        self.fanouts = fanouts(&self.settings, &self.fanout_limits, self.seed);
        self.homes = (0..shards).map(|shard| Homes::new(shard as ShardId, &self.settings)).collect();
        self.note_what_is_dropped();
        for kept in self.journal.kept() {
            self.homes[usize::from(placement.home(kept.partition))].recover(kept);
        }
        for homes in &mut self.homes {
            homes.recovered(&epochs, self.journal.last(), self.journal.ends(), self.now_ms);
        }
    }

    pub(super) fn note_what_is_dropped(&mut self) {
        if self.journal.is_on_disk {
            self.homes.iter_mut().for_each(Homes::note_what_is_dropped);
        }
    }
}

/// Returns the fan-outs of all shards.
pub(super) fn fanouts(settings: &HomeSettings, limits: &FanoutLimits, seed: u64) -> Vec<Fanout> {
    let HomeSettings { placement, memory, .. } = settings;
    let fanout = |shard| Fanout::new(shard, *placement, limits.clone(), Arc::clone(memory), seed);
    (0..placement.shards()).map(fanout).collect()
}
