//! What a connection waits for, and until when.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::{Connection, Stage};
use crate::http::{Refusal, Status};
use crate::shard::pipeline::Answer;

/// How often a publisher that is not read from asks for room again.
const BLOCKED_RETRY: Duration = Duration::from_millis(5);

/// Why waiting ended.
pub(super) enum Woken {
    Read(std::io::Result<usize>),
    Answers,
    TimedOut,
}

impl Connection<'_> {
    /// Waits for bytes, answers or the deadline, whichever comes first.
    pub(super) async fn wait(&mut self) -> Woken {
        // What must be flushed first has requests behind it in the buffer, which a read would take away.
        let may_read = !self.last_request_seen
            && !self.must_flush
            && match self.stage {
                Stage::Head => self.pipeline.len() < self.shard.shared.config.http.unanswered_max,
                Stage::Body { full: None, .. } | Stage::Skip { .. } => true,
                Stage::Body { .. } | Stage::Blocked { .. } | Stage::Queue(..) | Stage::Subscribe(..) => false,
            };
        if may_read && !self.input.is_reading() {
            if self.pipeline.len() == 0 {
                self.input.rest();
            }
            self.input.start();
        }
        let phase = self.shard.phase();
        let mut deadline = pin!(self.deadline().map(sleep_until));
        poll_fn(|cx| {
            self.pipeline.remember_waker(cx.waker());
            if let Poll::Ready(result) = self.input.poll(cx) {
                return Poll::Ready(Woken::Read(result));
            }
            if self.pipeline.is_ready() || self.shard.phase() != phase {
                return Poll::Ready(Woken::Answers);
            }
            match deadline.as_mut().as_pin_mut() {
                Some(deadline) => deadline.poll(cx).map(|()| Woken::TimedOut),
                None => Poll::Pending,
            }
        })
        .await
    }

    /// When patience ends with what the connection is in the middle of.
    fn deadline(&self) -> Option<Instant> {
        let http = &self.shard.shared.config.http;
        let patience = match self.stage {
            Stage::Head if self.pipeline.len() > 0 => return None,
            Stage::Head if self.input.bytes() > 0 || self.is_fresh => http.head_timeout,
            Stage::Head => http.idle_timeout,
            Stage::Body { full: None, .. } | Stage::Skip { .. } => http.body_timeout,
            Stage::Body { .. } | Stage::Blocked { .. } => return Some(Instant::now() + BLOCKED_RETRY),
            Stage::Queue(..) | Stage::Subscribe(..) => return None,
        };
        Some(self.since + patience)
    }

    /// Acts on a deadline; false when the connection is just closed.
    pub(super) fn time_out(&mut self) -> bool {
        let refused = |what: &str| {
            let reason = format!("the {what} took too long; send it faster, or raise --{what}-timeout");
            Answer::Refused(Refusal::closing(Status::RequestTimeout, reason))
        };
        let wait_max = self.shard.shared.config.mailbox.wait_max;
        match std::mem::replace(&mut self.stage, Stage::Head) {
            Stage::Head if self.input.bytes() > 0 => {
                self.push(self.unread(None), refused("head"));
            }
            Stage::Head => return false,
            Stage::Body { request, full: Some(since), .. } if since.elapsed() >= wait_max => {
                let reason = "too many large bodies are arriving at once; publish again later, or raise --mailbox-bytes";
                let refusal = Refusal { close: true, ..Refusal::unavailable(reason) };
                self.push(request, Answer::Refused(refusal));
            }
            Stage::Body { request, full: None, .. } | Stage::Skip { request, .. } => {
                self.push(request, refused("body"));
            }
            Stage::Blocked { request, since, .. } if since.elapsed() >= wait_max => {
                let reason = "no room on the way between CPUs; publish again later, or raise --mailbox-bytes or --mailbox-messages";
                self.push(request, Answer::Refused(Refusal::unavailable(reason)));
            }
            stage => self.stage = stage,
        }
        true
    }
}
