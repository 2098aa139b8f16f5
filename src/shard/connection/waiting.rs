//! What a connection waits for, and until when.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::{Connection, Stage};
use crate::http::{Refusal, Status};
use crate::shard::connection::eviction::Awaited;
use crate::shard::pipeline::{Answer, ClientWait};

/// How soon a publish that is not posted asks for room again.
const BLOCKED_RETRY: Duration = Duration::from_millis(5);
/// How soon a connection that there is no memory for does, and how late when it has waited for long: thousands may.
const STARVED_RETRY_MIN: Duration = Duration::from_millis(5);
const STARVED_RETRY_MAX: Duration = Duration::from_millis(100);

/// Why waiting ended.
pub(super) enum Woken {
    Read(std::io::Result<usize>),
    Answers,
    /// It is to make room for others.
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
        let phase = self.shard.phase();
        let mut deadline = pin!(self.deadline().map(sleep_until));
        let woken = poll_fn(|cx| {
            self.pipeline.remember_waker(cx.waker());
            if let Poll::Ready(result) = self.input.poll(cx) {
                return Poll::Ready(Woken::Read(result));
            }
            if self.pipeline.is_evicted() {
                return Poll::Ready(Woken::Evicted);
            }
            if self.pipeline.is_ready() || self.shard.phase() != phase {
                return Poll::Ready(Woken::Answers);
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

    /// What it waits for its client to send, if it owes it no answer.
    fn client_wait(&self) -> Option<ClientWait> {
        let (awaited, since) = match self.stage {
            _ if !self.input.is_reading() || self.pipeline.len() > 0 => return None,
            Stage::Head if self.is_between() => (Awaited::Request, self.since),
            Stage::Body { .. } => (Awaited::Body, self.heard),
            _ => (Awaited::Head, self.since),
        };
        Some(ClientWait { awaited, since })
    }

    /// Whether a request was answered and nothing of the next one has come.
    fn is_between(&self) -> bool {
        matches!(self.stage, Stage::Head) && self.input.bytes() == 0 && !self.is_fresh
    }

    /// Whether more of what the client sends can be used.
    fn may_read(&self) -> bool {
        // What must be flushed first has requests behind it in the buffer, which a read would take away.
        !self.last_request_seen
            && !self.must_flush
            && self.holding.starved().is_none()
            && match self.stage {
                Stage::Head => self.may_ask(),
                Stage::Body { .. } | Stage::Skip { .. } => true,
                Stage::Blocked { .. } | Stage::Queue(..) | Stage::Subscribe(..) => false,
            }
    }

    /// When to look again at what the connection is in the middle of.
    fn deadline(&self) -> Option<Instant> {
        if let Stage::Blocked { .. } = self.stage {
            return Some(Instant::now() + BLOCKED_RETRY);
        }
        let patience_end = self.patience_end()?;
        if let Some(since) = self.holding.starved() {
            let retry = (since.elapsed() / 4).clamp(STARVED_RETRY_MIN, STARVED_RETRY_MAX);
            return Some(Instant::now() + retry);
        }
        match self.holding.window_end() {
            Some(window_end) if !self.is_between() => Some(window_end.min(patience_end)),
            _ => Some(patience_end),
        }
    }

    /// When patience ends with a client that is waited for.
    fn patience_end(&self) -> Option<Instant> {
        let http = &self.shard.shared.config.http;
        let patience = match self.stage {
            Stage::Head if self.pipeline.len() > 0 => return None,
            Stage::Head if self.input.bytes() > 0 || self.is_fresh => http.head_timeout,
            Stage::Head => http.idle_timeout,
            Stage::Body { .. } | Stage::Skip { .. } => http.body_timeout,
            Stage::Blocked { .. } | Stage::Queue(..) | Stage::Subscribe(..) => return None,
        };
        Some(self.since + patience)
    }

    /// Acts on a deadline; false when the connection is just closed.
    pub(super) fn time_out(&mut self) -> bool {
        if let Stage::Blocked { .. } = self.stage {
            return self.time_out_blocked();
        }
        let wait_max = self.shard.shared.config.mailbox.wait_max;
        let refusal = if self.holding.starved().is_some_and(|since| since.elapsed() >= wait_max) {
            let reason =
                "too much is arriving at once; send it again later, or raise --request-memory".to_owned();
            Refusal { close: true, ..Refusal::unavailable(reason) }
        } else if self.holding.gives_way() {
            let reason =
                "sent too slowly while others find no room; send it faster, or raise --request-memory";
            Refusal::closing(Status::RequestTimeout, reason)
        } else if self.patience_end().is_some_and(|end| Instant::now() >= end) {
            let what = if let Stage::Head = self.stage { "head" } else { "body" };
            let reason = format!("the {what} took too long; send it faster, or raise --{what}-timeout");
            Refusal::closing(Status::RequestTimeout, reason)
        } else {
            return true;
        };
        let request = match std::mem::replace(&mut self.stage, Stage::Head) {
            Stage::Head if self.input.bytes() == 0 => return false,
            Stage::Body { request, .. } | Stage::Skip { request, .. } => request,
            _ => self.unread(None),
        };
        self.push(request, Answer::Refused(refusal));
        true
    }

    /// Refuses a publish that has waited long enough for room between shards.
    fn time_out_blocked(&mut self) -> bool {
        let wait_max = self.shard.shared.config.mailbox.wait_max;
        match std::mem::replace(&mut self.stage, Stage::Head) {
            Stage::Blocked { request, since, .. } if since.elapsed() >= wait_max => {
                let reason = "no room on the way between CPUs; publish again later, or raise --mailbox-bytes or --mailbox-messages";
                self.push(request, Answer::Refused(Refusal::unavailable(reason)));
            }
            stage => self.stage = stage,
        }
        true
    }
}
