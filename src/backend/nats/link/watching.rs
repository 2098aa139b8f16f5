//! Watches the connection and the stream: when the node is cut off, what it missed, and whether the stream is still the
//! one it read.

use std::time::Instant;

use super::{
    ANOTHER_MIN, DELETED_MIN, HERE_INTERVAL, Link, NOT_READY_AFTER, Polled, READY_LAG_MAX, RESET_TIME,
    SEND_AWAY_AFTER, SEND_AWAY_STEP, SENT_KNOWN, SILENT_MAX, SILENT_MOVE, STALL,
};
use crate::backend::nats::ClusterError;
use crate::backend::nats::connect::is_connected;
use crate::backend::nats::reader::read_from;
use crate::backend::nats::start::begin;
use crate::backend::nats::stream::{NoFacts, StreamFacts};
use crate::core::fanout::SEND_AWAY_STEPS;
use crate::core::message::OrderError;
use crate::journal::cluster::events::{ClusterEvents, ClusterNews};
use crate::journal::cluster::inbound::Inbound;
use crate::journal::cluster::message::end_of;

impl<E: ClusterEvents> Link<E> {
    pub(super) fn connection_changed(&mut self) {
        if is_connected(&self.client) {
            self.state.reconnects.add(1);
            self.stay();
            // What the server sent meanwhile is lost: the consumer begins again, and the stream is looked at.
            read_from(&self.from, self.inbound.last() + 1);
            self.ask.send_replace(self.inbound.clone());
        } else {
            self.disconnected.get_or_insert_with(|| (Instant::now() + SEND_AWAY_AFTER, SEND_AWAY_STEPS));
            self.cut_off("the connection is lost");
        }
    }

    /// Keeps the streams that were to be sent to other nodes: there is a connection again.
    fn stay(&mut self) {
        if self.disconnected.take().is_some_and(|(_, steps_left)| steps_left < SEND_AWAY_STEPS) {
            self.tell_all(|| ClusterNews::SendAway(0));
        }
    }

    pub(super) fn cut_off(&mut self, reason: &str) {
        if self.cut_off_since.is_some() {
            return;
        }
        tracing::warn!("cut off from the cluster: {reason}; publishes are refused, and streams stay");
        self.cut_off_since = Some(Instant::now());
        self.state.set_cut_off(true);
        self.refuse_waiting();
    }

    /// Refuses what was not sent yet.
    fn refuse_waiting(&mut self) {
        for (partition, wish) in self.outbound.take_waiting() {
            self.refuse(partition, wish, OrderError::CutOff);
        }
    }

    /// Refuses what was sent and is not confirmed, whose fate nobody knows.
    fn refuse_under_way(&mut self) {
        for (partition, wishes) in self.outbound.take_under_way() {
            self.state.unconfirmed.add(wishes.len() as u64);
            self.refuse_all(partition, wishes, OrderError::Unconfirmed);
        }
    }

    /// Refuses all that has no answer yet.
    pub(super) fn give_up(&mut self) {
        self.refuse_waiting();
        self.refuse_under_way();
    }

    /// Takes in what the stream's leader said.
    ///
    /// # Errors
    /// The stream was made again by a node that did not know it: this one would look for topics in other partitions.
    pub(super) async fn polled(&mut self, polled: Polled) -> Result<(), ClusterError> {
        let Polled { facts, epoch, last, has_last } = polled;
        // It was asked before the order began anew.
        if epoch != self.inbound.epoch() {
            return Ok(());
        }
        let facts = match facts {
            Ok(facts) => facts,
            Err(NoFacts::Deleted) => {
                self.silent(&format!("the stream {} is not there", self.stream.name)).await;
                self.deleted += 1;
                // A leader that has just come up may not know it yet.
                if self.deleted >= DELETED_MIN {
                    tracing::error!("the stream {} was deleted; it is made again", self.stream.name);
                    if let Err(error) = self.stream.make_again().await {
                        tracing::error!("{error}");
                    }
                }
                return Ok(());
            }
            Err(NoFacts::Silent(reason)) => {
                let reason = format!("the stream {} has no leader that answers ({reason})", self.stream.name);
                self.silent(&reason).await;
                return Ok(());
            }
        };
        (self.silent, self.deleted) = (0, 0);
        self.stay();
        let agreed = match self.stream.agreed(&facts, &self.config) {
            Ok(agreed) => agreed,
            Err(reason) => {
                self.cannot_take_part(&reason);
                return Ok(());
            }
        };
        if agreed.secret != self.agreed.secret {
            return Err(ClusterError::Other { stream: self.stream.name.clone() });
        }
        if self.unfit.take().is_some() {
            self.state.set_unfit(None);
            read_from(&self.from, self.inbound.last() + 1);
        }
        self.check_window(&facts);
        self.state.tail.set(facts.last);
        self.decoder.ahead_ms = facts.ahead_ms;
        let is_another = agreed.id != self.agreed.id || facts.last < last || has_last == Some(false);
        self.another = if is_another { self.another + 1 } else { 0 };
        if self.must_reset || self.another >= ANOTHER_MIN {
            tracing::error!(
                "the stream {} is not what was read of it: the order begins anew",
                self.stream.name
            );
            self.reset().await;
            return Ok(());
        }
        if is_another {
            return Ok(());
        }
        if !self.is_epoch_noted {
            self.is_epoch_noted = agreed.epoch == self.inbound.epoch();
            if !self.is_epoch_noted {
                self.stream.note_epoch(&facts, self.inbound.epoch(), self.inbound.ended()).await;
            }
        }
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
        self.look_for_stall(lag);
        let (applied, end) = (end_of(self.inbound.last()), end_of(facts.last));
        self.tell_all(|| ClusterNews::Advanced(applied));
        self.tell_all(|| ClusterNews::StreamEnd(end));
        Ok(())
    }

    /// Notes that the stream is one that this node cannot take part in: it is cut off until somebody puts that right.
    fn cannot_take_part(&mut self, reason: &ClusterError) {
        let reason = reason.to_string();
        if self.unfit.as_ref() != Some(&reason) {
            tracing::error!("{reason}; this node waits until that is done, or for another stream");
        }
        self.cut_off("the stream that is there is not one that this node can take part in");
        self.state.set_ready(false);
        self.state.set_unfit(Some(reason.clone()));
        self.unfit = Some(reason);
    }

    /// Tells the log when the stream begins to forget numbers of messages too early.
    fn check_window(&mut self, facts: &StreamFacts) {
        match self.stream.check_window(facts) {
            Ok(()) => self.is_window_said = false,
            Err(reason) => {
                if !std::mem::replace(&mut self.is_window_said, true) {
                    tracing::error!("{reason}");
                }
            }
        }
    }

    /// Notes that the leader did not answer: the node is cut off, and tries another server, which may reach the others.
    async fn silent(&mut self, reason: &str) {
        self.silent += 1;
        if self.silent.is_multiple_of(SILENT_MOVE)
            && let Err(error) = self.client.force_reconnect().await
        {
            tracing::debug!("the NATS connection: {error}");
        }
        if self.silent >= SILENT_MAX {
            self.cut_off(reason);
        }
    }

    /// Has the reader begin again when it is behind and reads nothing: the consumer is dead and does not know it.
    fn look_for_stall(&mut self, lag: u64) {
        let last = self.inbound.last();
        match self.stalled {
            Some((at, since)) if lag > 0 && at == last => {
                if since.elapsed() > STALL && self.has_room() {
                    self.stalled = None;
                    read_from(&self.from, last + 1);
                }
            }
            _ => self.stalled = (lag > 0).then(|| (last, Instant::now())),
        }
    }

    /// Begins the order anew after the epoch in force. Until that worked nothing is applied, and the leader's next
    /// answer tries again.
    pub(super) async fn reset(&mut self) {
        self.must_reset = true;
        let stream = &self.stream;
        let secret = self.agreed.secret;
        let begin_anew = async {
            // Nothing is written to a stream that is none of ours.
            let facts = stream.facts().await.map_err(|reason| reason.to_string())?;
            let agreed = stream.agreed(&facts, &self.config).map_err(|reason| reason.to_string())?;
            if agreed.secret != secret {
                return Err("another node made it".to_owned());
            }
            let begun = stream.begin_anew(&self.inbound, self.node).await?;
            let facts = stream.facts().await.map_err(|reason| reason.to_string())?;
            Ok::<_, String>((begun, facts))
        };
        let begun = tokio::time::timeout(RESET_TIME, begin_anew).await;
        let (begun, facts) = match begun.unwrap_or_else(|_| Err("it does not answer in time".to_owned())) {
            Ok(begun) => begun,
            Err(reason) => {
                return tracing::warn!(
                    "a new epoch of the stream {} could not begin yet: {reason}",
                    stream.name
                );
            }
        };
        let Ok(agreed) = stream.agreed(&facts, &self.config) else { return };
        if agreed.secret != self.agreed.secret {
            // The next answer of its leader ends this node, with the reason.
            return;
        }
        (self.must_reset, self.another, self.is_epoch_noted) = (false, 0, false);
        self.agreed = agreed;
        self.state.resets.add(1);
        self.give_up();
        self.inbound = Inbound::new(facts.first.saturating_sub(1), begun);
        self.outbound.set_epoch(self.inbound.epoch());
        let reset = begin(&self.inbound, end_of(self.inbound.control()));
        self.tell_all(|| ClusterNews::Reset(reset.clone()));
        read_from(&self.from, self.inbound.last() + 1);
        self.ask.send_replace(self.inbound.clone());
    }

    pub(super) async fn tick(&mut self) {
        let now = Instant::now();
        let (again, given_up) = self.outbound.overdue(self.now_ms());
        // Without a connection the library would keep them all, and send them when there is one.
        if is_connected(&self.client) && self.unfit.is_none() {
            for sending in again {
                self.state.resent.add(1);
                self.send(sending).await;
            }
        }
        for (partition, wishes) in given_up {
            self.state.unconfirmed.add(wishes.len() as u64);
            self.refuse_all(partition, wishes, OrderError::Unconfirmed);
        }
        self.sent.retain(|_, sent| now.duration_since(*sent) < SENT_KNOWN);
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
