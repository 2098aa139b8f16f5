//! Waits for the next thing a connection can act on, up to a deadline, and acts on a deadline that passed.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::machine::{Connection, ConnectionState};
use super::pipeline::ClientWait;
use super::shedding::Awaited;
use crate::http::{Refusal, Status};
use crate::shard::Phase;

/// How soon a starved connection asks for memory again; the longer interval after a long wait, because thousands may
/// wait.
const STARVED_RETRY_MIN: Duration = Duration::from_millis(5);
const STARVED_RETRY_MAX: Duration = Duration::from_millis(100);

/// The time that a stopping server gives a new connection for its first request: most clients send it at once, and many at
/// other ends of the world within this time.
const FIRST_REQUEST_TIME: Duration = Duration::from_millis(300);

/// The reason why [`Connection::wait`] returned.
pub(super) enum Woken {
    Read(std::io::Result<usize>),
    Answers,
    /// A blocked publish was given room.
    Room,
    /// The connection is to be closed to make room for others.
    Evicted,
    TimedOut,
}

impl Connection<'_, '_> {
    /// Waits for bytes, answers or the deadline, whichever comes first.
    pub(super) async fn wait(&mut self) -> Woken {
        if self.may_read() && !self.input.is_reading() {
            self.input.start();
        }
        self.pipeline.set_client_wait(self.client_wait());
        let phase = self.phase();
        let mut deadline = pin!(self.deadline().map(sleep_until));
        let woken = poll_fn(|cx| {
            self.pipeline.remember_waker(cx.waker());
            if let Poll::Ready(result) = self.input.poll(cx) {
                return Poll::Ready(Woken::Read(result));
            }
            if self.pipeline.is_evicted() {
                return Poll::Ready(Woken::Evicted);
            }
            if self.pipeline.is_ready() || self.phase() != phase {
                return Poll::Ready(Woken::Answers);
            }
            if let ConnectionState::Blocked { room, .. } = &self.state
                && room.poll_given(cx.waker())
            {
                return Poll::Ready(Woken::Room);
            }
            match deadline.as_mut().as_pin_mut() {
                Some(deadline) => deadline.poll(cx).map(|()| Woken::TimedOut),
                None => Poll::Pending,
            }
        })
        .await;
        self.pipeline.set_client_wait(None);
        woken
    }

    /// Returns what it waits for its client to send; `None` when it does not read or owes an answer.
    fn client_wait(&self) -> Option<ClientWait> {
        let (awaited, since) = match self.state {
            _ if !self.input.is_reading() || self.pipeline.len() > 0 => return None,
            ConnectionState::Head if self.is_between() => (Awaited::Request, self.since),
            ConnectionState::Body { .. } => (Awaited::Body, self.heard),
            _ => (Awaited::Head, self.since),
        };
        Some(ClientWait { awaited, since })
    }

    /// Returns whether a request was answered and nothing of the next one has come.
    fn is_between(&self) -> bool {
        matches!(self.state, ConnectionState::Head) && self.input.bytes() == 0 && !self.is_fresh
    }

    /// Returns whether more bytes of the client can be used.
    fn may_read(&self) -> bool {
        // While an answer must be flushed, the buffer holds requests behind it, and a read would take the buffer away.
        !self.last_request_seen
            && !self.must_flush
            && self.holding.starved().is_none()
            && match self.state {
                ConnectionState::Head => self.may_ask(),
                ConnectionState::Body { .. } | ConnectionState::Skip { .. } => true,
                ConnectionState::Blocked { .. }
                | ConnectionState::Queue(..)
                | ConnectionState::Stream(..) => false,
            }
    }

    /// Returns when the connection must act again without bytes or answers.
    fn deadline(&self) -> Option<Instant> {
        if let ConnectionState::Blocked { since, .. } = self.state {
            return Some(since + self.connections.shard.common.config.mailbox.wait_max);
        }
        let patience_end = self.patience_end()?;
        if let Some(end) = self.first_request_end() {
            return Some(end.min(patience_end));
        }
        if let Some(since) = self.holding.starved() {
            let retry = (since.elapsed() / 4).clamp(STARVED_RETRY_MIN, STARVED_RETRY_MAX);
            return Some(Instant::now() + retry);
        }
        match self.holding.window_end() {
            Some(window_end) if !self.is_between() => Some(window_end.min(patience_end)),
            _ => Some(patience_end),
        }
    }

    /// Returns when a stopping server gives up the first request of a connection that it has just accepted: the client
    /// does not know that it stops. `None` if it waits for none, or no longer.
    pub(super) fn first_request_end(&self) -> Option<Instant> {
        let end = self.since + FIRST_REQUEST_TIME;
        let is_awaited = self.is_fresh && self.input.bytes() == 0 && self.phase() == Phase::Finishing;
        Some(end).filter(|end| is_awaited && !self.last_request_seen && Instant::now() < *end)
    }

    /// Returns when the client's time for a head, a body or the next request ends; `None` while it is not waited for.
    pub(super) fn patience_end(&self) -> Option<Instant> {
        let http = &self.connections.shard.common.config.http;
        let patience = match self.state {
            ConnectionState::Head if self.pipeline.len() > 0 => return None,
            ConnectionState::Head if self.input.bytes() > 0 || self.is_fresh => http.head_timeout,
            ConnectionState::Head => http.idle_timeout,
            ConnectionState::Body { .. } | ConnectionState::Skip { .. } => http.body_timeout,
            ConnectionState::Blocked { .. } | ConnectionState::Queue(..) | ConnectionState::Stream(..) => {
                return None;
            }
        };
        Some(self.since + patience)
    }

    /// Acts on a deadline that passed. Returns false when the connection is closed without an answer.
    pub(super) fn time_out(&mut self) -> bool {
        let wait_max = self.connections.shard.common.config.mailbox.wait_max;
        if let ConnectionState::Blocked { since, .. } = self.state {
            if since.elapsed() >= wait_max
                && let ConnectionState::Blocked { request, .. } =
                    std::mem::replace(&mut self.state, ConnectionState::Head)
            {
                let reason = "no room on the way between CPUs; publish again later, or raise --mailbox-bytes or --mailbox-messages";
                self.push(request, Refusal::unavailable(reason));
            }
            return true;
        }
        let refusal = if self.holding.starved().is_some_and(|since| since.elapsed() >= wait_max) {
            let reason = "too much is arriving at once; send it again later, or raise --request-memory";
            Refusal { close: true, ..Refusal::unavailable(reason) }
        } else if self.holding.gives_way() {
            let reason =
                "sent too slowly while others find no room; send it faster, or raise --request-memory";
            Refusal::closing(Status::RequestTimeout, reason)
        } else if self.patience_end().is_some_and(|end| Instant::now() >= end) {
            let what = if let ConnectionState::Head = self.state { "head" } else { "body" };
            let reason = format!("the {what} took too long; send it faster, or raise --{what}-timeout");
            Refusal::closing(Status::RequestTimeout, reason)
        } else {
            return true;
        };
        let request = match std::mem::replace(&mut self.state, ConnectionState::Head) {
            ConnectionState::Head if self.input.bytes() == 0 => return false,
            ConnectionState::Body { request, .. } | ConnectionState::Skip { request, .. } => request,
            _ => self.unread(),
        };
        self.push(request, refusal)
    }
}
