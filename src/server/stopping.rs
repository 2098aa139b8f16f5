//! Stops a server in order: tells balancers, answers what is under way, closes streams, ends threads.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::Server;
use crate::backend::jwks::JwksThread;
use crate::config::Drain;
use crate::shard::common::Common;
use crate::shard::message::ShardControl;

/// The time between two looks of a stopping server whether all connections are gone.
const LOOK_INTERVAL: Duration = Duration::from_millis(5);
/// Time for the answers to publishes that the cluster did not confirm in time.
const ANSWER_TIME: Duration = Duration::from_millis(500);
/// The drain of a server that is dropped: long enough for clients that read to get their last bytes, and no longer.
const DROPPED: Drain = Drain { delay: Duration::ZERO, time_max: Duration::from_millis(100) };

impl Server {
    /// Ends it within the time of `drain`; does nothing the second time.
    pub(super) fn end(&mut self, drain: Drain) {
        if self.threads.is_empty() {
            return;
        }
        let deadline = Instant::now() + drain.delay + drain.time_max;
        self.common.draining.store(true, Ordering::Relaxed);
        std::thread::sleep(drain.delay);
        self.publisher.close();
        if let Some(acceptor) = self.acceptor.take() {
            acceptor.stop();
        }
        self.files.clear();
        self.tell(ShardControl::StopAccepting);
        // Until then connections that were accepted may lie in a mailbox, where nobody counts them.
        let mut probe = self.probe();
        // Publishers get half of the time at most, so that some is left for subscribers. Messages between shards still
        // go to those.
        let halfway = Instant::now() + drain.time_max / 2;
        wait_until(halfway, || probe.is_answered());
        let Common { stats, budget, .. } = &*self.common;
        let are_answered = || stats.sum(|shard| &shard.connections) == 0 && budget.messages() == 0;
        if let Some(cluster) = &self.cluster {
            // While NATS hangs they would be closed without an answer.
            wait_until(halfway - ANSWER_TIME.min(drain.time_max / 4), are_answered);
            cluster.give_up();
        }
        wait_until(halfway, are_answered);
        self.tell(ShardControl::CloseStreams);
        wait_until(deadline, || stats.sum(|shard| &shard.clients) == 0);
        self.tell(ShardControl::Stop);
        if self.service.access.can_survey() {
            self.monitor.close();
        }
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
        if let Some(log) = &self.common.access_log {
            log.close();
        }
        self.providers.drain(..).for_each(JwksThread::stop);
        // Once no stream is left, all unacknowledged messages are back in their queues.
        if let Some(backend) = self.backend.take() {
            backend.stop();
        }
        if let Some(cluster) = self.cluster.take() {
            cluster.stop();
        }
    }
}

/// A server that failed to start leaves no thread behind either.
impl Drop for Server {
    fn drop(&mut self) {
        self.end(DROPPED);
    }
}

fn wait_until(deadline: Instant, mut is_done: impl FnMut() -> bool) {
    while !is_done() && Instant::now() < deadline {
        std::thread::sleep(LOOK_INTERVAL);
    }
}
