//! Watches the connection and the stream: when the node is cut off, what it missed, and whether the stream is still the
//! one it read.

use std::time::{Duration, Instant};

use super::{
    HERE_INTERVAL, Link, NOT_READY_AFTER, Polled, READY_LAG_MAX, SEND_AWAY_AFTER, SEND_AWAY_STEP, SILENT_MAX,
};
use crate::backend::nats::connect::is_connected;
use crate::backend::nats::reader::read_from;
use crate::backend::nats::start::begin;
use crate::backend::nats::stream::NoFacts;
use crate::core::event_id::Epoch;
use crate::core::fanout::SEND_AWAY_STEPS;
use crate::core::message::OrderError;
use crate::journal::cluster::events::{ClusterEvents, ClusterNews};
use crate::journal::cluster::inbound::Inbound;
use crate::journal::cluster::message::end_of;

impl<E: ClusterEvents> Link<E> {
    pub(super) fn connection_changed(&mut self) {
        if is_connected(&self.client) {
            self.state.reconnects.add(1);
            if self.disconnected.take().is_some_and(|(_, steps_left)| steps_left < SEND_AWAY_STEPS) {
                self.tell_all(|| ClusterNews::SendAway(0));
            }
            // What the server sent meanwhile is lost: the consumer begins again, and the stream is looked at.
            read_from(&self.from, self.inbound.last() + 1);
            self.ask.send_replace(self.inbound.clone());
        } else {
            self.disconnected.get_or_insert_with(|| (Instant::now() + SEND_AWAY_AFTER, SEND_AWAY_STEPS));
            self.cut_off("the connection is lost");
        }
    }

    pub(super) fn cut_off(&mut self, reason: &str) {
        if self.cut_off_since.is_some() {
            return;
        }
        tracing::warn!("cut off from the cluster: {reason}; publishes are refused, and streams stay");
        self.cut_off_since = Some(Instant::now());
        self.state.set_cut_off(true);
        for (partition, wish) in self.outbound.take_waiting() {
            self.refuse(partition, wish, OrderError::CutOff);
        }
    }

    /// Takes in what the stream's leader said.
    pub(super) async fn polled(&mut self, Polled { facts, last, has_last }: Polled) {
        let facts = match facts {
            Ok(facts) => facts,
            Err(NoFacts::Deleted) => {
                tracing::error!("the stream {} was deleted; it is made again", self.stream.name);
                self.stream.forget_epoch();
                if let Err(error) = self.stream.make().await {
                    tracing::error!("{error}");
                }
                self.ask.send_replace(self.inbound.clone());
                return;
            }
            Err(NoFacts::Silent(reason)) => {
                self.silent += 1;
                if self.silent >= SILENT_MAX {
                    self.cut_off(&format!(
                        "the stream {} has no leader that answers ({reason})",
                        self.stream.name
                    ));
                }
                return;
            }
        };
        self.silent = 0;
        self.state.tail.set(facts.last);
        self.decoder.ahead_ms = facts.ahead_ms;
        // Servers before 2.15 also change the time when somebody edits the stream (nats-server#8471).
        let is_made_again = facts.created_ns != self.created_ns && has_last != Some(true);
        let is_another = is_made_again || facts.last < last || has_last == Some(false);
        if is_another {
            let epoch = self.inbound.epoch();
            tracing::error!(
                "the stream {} is not what was read of it: the order begins anew",
                self.stream.name
            );
            return self.reset(epoch).await;
        }
        self.created_ns = facts.created_ns;
        if let Some(upto) = self.inbound.skip_to(facts.first) {
            self.missed(upto);
            read_from(&self.from, facts.first);
        }
        if self.cut_off_since.take().is_some() {
            tracing::info!("connected to the cluster again");
            self.state.set_cut_off(false);
        }
        let lag = facts.last.saturating_sub(self.inbound.last());
        self.state.set_ready(lag <= READY_LAG_MAX);
        // Behind at the same place twice: the consumer is dead and does not know it.
        let stalled_at = (lag > 0).then(|| self.inbound.last());
        if stalled_at.is_some() && stalled_at == self.stalled_at {
            read_from(&self.from, self.inbound.last() + 1);
        }
        self.stalled_at = stalled_at;
        let (applied, end) = (end_of(self.inbound.last()), end_of(facts.last));
        self.tell_all(|| ClusterNews::Advanced(applied));
        self.tell_all(|| ClusterNews::StreamEnd(end));
    }

    /// Begins the order anew after the epoch `old`.
    pub(super) async fn reset(&mut self, old: Epoch) {
        let begun = self.stream.begin_anew(old, self.inbound.ended(), self.node).await;
        let facts = self.stream.facts().await;
        let ((control, epoch, ended), facts) = match (begun, facts) {
            (Ok(begun), Ok(facts)) => (begun, facts),
            // The next answer of the leader leads here again.
            (begun, _) => {
                let reason = begun.err().unwrap_or_default();
                return tracing::warn!("a new epoch could not begin yet: {reason}");
            }
        };
        self.state.resets.add(1);
        for (partition, wish) in self.outbound.take_waiting() {
            self.refuse(partition, wish, OrderError::CutOff);
        }
        for (partition, wishes) in self.outbound.take_under_way() {
            for wish in wishes {
                self.refuse(partition, wish, OrderError::Unconfirmed);
            }
        }
        self.outbound.set_epoch(epoch);
        self.inbound = Inbound::new(facts.first.saturating_sub(1), epoch, ended);
        self.created_ns = facts.created_ns;
        let reset = begin(&self.inbound, control);
        self.tell_all(|| ClusterNews::Reset(reset.clone()));
        read_from(&self.from, self.inbound.last() + 1);
    }

    pub(super) async fn tick(&mut self) {
        let now = Instant::now();
        let (again, given_up) = self.outbound.overdue(self.now_ms());
        for sending in again {
            self.state.resent.add(1);
            self.send(sending).await;
        }
        for (partition, wishes) in given_up {
            self.state.unconfirmed.add(wishes.len() as u64);
            for wish in wishes {
                self.refuse(partition, wish, OrderError::Unconfirmed);
            }
        }
        self.sent.retain(|_, sent| now.duration_since(*sent) < Duration::from_secs(30));
        for done in self.counts.overdue(now) {
            self.reply(Some(done));
        }
        self.peers.sweep(now);
        self.state.nodes.set(1 + self.peers.others().len() as u64);
        if self.cut_off_since.is_some_and(|since| since.elapsed() > NOT_READY_AFTER) {
            self.state.set_ready(false);
        }
        if let Some((due, steps_left @ 1..)) = self.disconnected
            && now >= due
        {
            if steps_left == SEND_AWAY_STEPS {
                tracing::warn!(
                    "no NATS server can be reached: streams are sent to other nodes, within a minute"
                );
            }
            self.disconnected = Some((due + SEND_AWAY_STEP, steps_left - 1));
            self.tell_all(|| ClusterNews::SendAway(steps_left));
        }
        if now >= self.next_here {
            self.next_here = now + HERE_INTERVAL;
            let is_new = std::mem::take(&mut self.is_new);
            self.say_here(is_new).await;
        }
        // What the poll compares is never older than a tick.
        self.ask.send_if_modified(|inbound| {
            inbound.clone_from(&self.inbound);
            false
        });
    }
}
