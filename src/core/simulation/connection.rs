//! The connections of a world's clients: they come, are sent, stall and vanish.

use super::client::{CODE, HEAD, REFUSAL, Stream};
use super::{Canary, World};
use crate::core::chunk::Framing;
use crate::core::fanout::sending::Outgoing;
use crate::core::fanout::subscriber::Opening;
use crate::core::fanout::{Served, StreamExtras, StreamTerms, Subscription};
use crate::core::selection::StreamIds;

impl World {
    pub(super) fn connect(&mut self, client: usize) {
        let shard = self.random.usize(0..self.homes.len());
        let framing = if self.random.bool() { Framing::Chunked } else { Framing::Plain };
        let state = &mut self.clients[client];
        if state.stream.is_some() {
            return;
        }
        state.connects(&self.model);
        state.is_deaf_to_gaps = self.canary == Canary::GapUntold;
        if state.last_id.is_none() {
            state.first_max =
                (self.canary == Canary::EarlyHead).then(|| self.model.ordered.iter().map(Vec::len).collect());
        }
        let expires_s = if self.random.u8(0..10) == 0 { self.now_ms / 1000 + 1 } else { u64::MAX };
        let tells_place = state.last_id.is_none() && self.random.bool();
        let terms = StreamTerms {
            last_event_id: state.last_id.as_deref().map(Into::into),
            names_topics: state.names_topics,
            extras: state
                .has_code
                .then(|| Box::new(StreamExtras { code: Some(CODE.into()), ..StreamExtras::default() })),
            expires_s,
            ..StreamTerms::of(state.topics.clone().into())
        };
        let opening = Opening { head: HEAD.into(), refusal: REFUSAL.into(), tells_place };
        let subscription = Subscription { terms, framing, opening };
        let mut out = Vec::new();
        let key = self.fanouts[shard].subscribe(subscription, self.now_ms, &mut out);
        state.stream = Some(Stream {
            shard,
            key,
            is_single: !StreamIds::of(&state.topics, state.names_topics, state.has_code).are_positions(),
            framing,
            is_woken: false,
            awaits_room: false,
            stalled: false,
            received: Vec::new(),
            begun: false,
        });
        self.post(shard, out);
    }

    /// Acts as a shard that serves a stream which was woken, or whose socket has room. Returns false when there is nothing
    /// to do.
    pub(super) fn serve(&mut self, client: usize) -> bool {
        if let Some(stream) = self.clients[client].stream.as_mut().filter(|stream| !stream.stalled)
            // The kernel tells once of room that a send did not find.
            && std::mem::take(&mut stream.awaits_room)
            && (self.canary != Canary::LostRoom || self.random.u8(0..16) > 0)
        {
            self.fanouts[stream.shard].has_room(stream.key.index);
        }
        self.take_woken();
        let Some(mut stream) = self.clients[client].stream.take() else { return false };
        let is_woken = std::mem::take(&mut stream.is_woken);
        let is_forgotten = self.canary == Canary::LostWake && self.random.u8(0..16) == 0;
        let mut out = Vec::new();
        let mut closed = false;
        if is_woken && !is_forgotten {
            let World { fanouts, random, canary, .. } = self;
            let (shard, index) = (stream.shard, stream.key.index);
            let send = &mut |_, outgoing: &mut Outgoing| Some(stream.take(outgoing, *canary, random));
            closed = fanouts[shard].serve(index, self.now_ms, &mut out, send).0 != Served::Waits;
        }
        self.clients[client].read(&mut stream, &self.model, self.may_forget);
        let shard = stream.shard;
        if closed {
            self.fanouts[shard].leave(stream.key, &mut out);
        } else {
            self.clients[client].stream = Some(stream);
        }
        self.post(shard, out);
        is_woken
    }

    /// Notes which streams were woken.
    fn take_woken(&mut self) {
        for (shard, fanout) in self.fanouts.iter_mut().enumerate() {
            while let Some(key) = fanout.take_woken() {
                let mut streams = self.clients.iter_mut().filter_map(|client| client.stream.as_mut());
                let woken = streams.find(|stream| (stream.shard, stream.key) == (shard, key));
                woken.into_iter().for_each(|stream| stream.is_woken = true);
            }
        }
    }

    pub(super) fn vanish(&mut self, client: usize) {
        if let Some(stream) = self.clients[client].stream.take() {
            let mut out = Vec::new();
            self.fanouts[stream.shard].leave(stream.key, &mut out);
            self.post(stream.shard, out);
        }
    }

    pub(super) fn stall(&mut self, client: usize) {
        if let Some(stream) = &mut self.clients[client].stream {
            stream.stalled = !stream.stalled;
        }
    }
}

impl Stream {
    /// Acts as a kernel that takes all of a send, some or nothing, which it removes; returns how many bytes it took.
    pub(super) fn take(
        &mut self,
        outgoing: &mut Outgoing,
        canary: Canary,
        random: &mut fastrand::Rng,
    ) -> usize {
        let bytes = outgoing.buffers.concat();
        let taken = match random.u8(0..4) {
            _ if self.stalled => 0,
            0 => 0,
            1 => random.usize(0..=bytes.len()),
            _ => bytes.len(),
        };
        self.received.extend(&bytes[..taken]);
        outgoing.buffers.clear();
        let rest = match canary {
            Canary::RestDropped => &[],
            Canary::SentTwice if taken > 0 && random.u8(0..16) == 0 => &bytes[..],
            _ => &bytes[taken..],
        };
        if !rest.is_empty() {
            outgoing.buffers.push(rest.to_vec().into());
            self.awaits_room = true;
        }
        taken
    }
}
