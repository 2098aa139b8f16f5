//! The connections of a world's clients: they come, are sent, stall and vanish.

use std::sync::Arc;
use std::task::Waker;

use super::client::{CODE, Flag, HEAD, REFUSAL, Stream};
use super::{Canary, World};
use crate::core::chunk::Framing;
use crate::core::fanout::sending::Next;
use crate::core::fanout::subscriber::Opening;
use crate::core::fanout::{Fanout, StreamExtras, StreamTerms, Subscription};
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
        let woken = Flag::raised();
        state.stream = Some(Stream {
            shard,
            key,
            is_single: !StreamIds::of(&state.topics, state.names_topics, state.has_code).are_positions(),
            framing,
            woken,
            flying: None,
            stalled: false,
            received: Vec::new(),
            begun: false,
        });
        self.post(shard, out);
    }

    /// Acts as a connection's task that was woken or whose bytes the kernel took. Returns false when there is nothing
    /// to do.
    pub(super) fn serve(&mut self, client: usize) -> bool {
        let Some(mut stream) = self.clients[client].stream.take() else { return false };
        let mut out = Vec::new();
        let mut busy = stream.woken.take();
        if busy && self.canary == Canary::LostWake && self.random.u8(0..16) == 0 {
            self.clients[client].stream = Some(stream);
            return true;
        }
        let mut closed = false;
        let fanout = &mut self.fanouts[stream.shard];
        if busy {
            closed = ask(fanout, &mut stream, self.now_ms);
        }
        if let Some(flying) = &mut stream.flying
            && !stream.stalled
            && !closed
        {
            busy = true;
            let taken = self.random.usize(0..=flying.len());
            stream.received.extend(flying.drain(..taken));
            if flying.is_empty() {
                stream.flying = None;
                fanout.sent(stream.key, self.now_ms, &mut out);
                closed = ask(fanout, &mut stream, self.now_ms);
            }
        }
        self.clients[client].read(&mut stream, &self.model, self.may_forget);
        let shard = stream.shard;
        if closed {
            self.fanouts[shard].leave(stream.key, &mut out);
        } else {
            self.clients[client].stream = Some(stream);
        }
        self.post(shard, out);
        busy
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

/// Asks for the next send; returns true when the connection is to be closed.
fn ask(fanout: &mut Fanout, stream: &mut Stream, now_ms: u64) -> bool {
    let waker = Waker::from(Arc::clone(&stream.woken));
    match fanout.next(stream.key, &waker, now_ms) {
        Next::Send(outgoing) => {
            assert!(stream.flying.is_none(), "two sends at a time");
            stream.flying = Some(outgoing.buffers.concat().into());
            false
        }
        Next::Wait => false,
        Next::Close | Next::Cut => true,
    }
}
