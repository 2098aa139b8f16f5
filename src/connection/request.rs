//! A request whose head is read: what its answer depends on, and what is to be done.

use std::sync::Arc;

use super::answer::Answer;
use super::body::Purpose;
use super::pipeline::Encoding;
use super::service::{Reports, Service};
use crate::access_log::RequestRecord;
use crate::auth::TOKEN_BYTES_DEFAULT;
use crate::config::Config;
use crate::dialects::admin::Question;
use crate::dialects::native::{BodySubscription, Subscribe};
use crate::dialects::queues::QueueRequest;
use crate::dialects::{Action, Port, SUBSCRIPTION_BODY, Sharing};
use crate::http::{
    Asking, Context, Head, HttpLimits, Method, Refusal, Response, Status, TARGET_BYTES_MAX, Version,
};

/// The most header fields of one request.
const HEADERS_MAX: usize = 100;

/// The part of a request that its answer depends on.
#[derive(Debug)]
pub(crate) struct RequestInfo {
    pub(crate) version: Version,
    pub(crate) keep_alive: bool,
    pub(crate) head_only: bool,
    /// The origin that asks, for CORS.
    pub(crate) asking: Asking,
    pub(crate) sharing: Sharing,
    /// `None` without an access log.
    pub(crate) record: Option<Box<RequestRecord>>,
}

impl RequestInfo {
    /// Returns the info of a request with this head.
    pub(super) fn of(
        head: &Head,
        keep_alive: bool,
        port: Port,
        action: &Result<Action, Refusal>,
        service: &Service,
    ) -> Self {
        let is_queue = service.access.queues.as_ref().is_some_and(|queues| queues.is_at(&head.path));
        let at_port = if is_queue { Sharing::Queue } else { sharing_at(port) };
        RequestInfo {
            version: head.version,
            keep_alive,
            head_only: head.method == Method::Head,
            asking: service.cors.find(head.origin.as_deref()),
            sharing: action.as_ref().map_or(at_port, |action| action.sharing(at_port)),
            record: None,
        }
    }

    /// Returns the info of a request whose head could not be read, except perhaps its `Origin`.
    pub(super) fn unread(origin: Option<&[u8]>, port: Port, service: &Service) -> Self {
        RequestInfo {
            version: Version::Http11,
            keep_alive: false,
            head_only: false,
            asking: service.cors.find(origin),
            sharing: sharing_at(port),
            record: None,
        }
    }

    /// Returns the info of the answer by which the client is told to send its body.
    pub(super) fn interim(&self) -> Self {
        RequestInfo { record: None, asking: self.asking.clone(), ..*self }
    }

    /// Returns the memory that it takes beside itself, in bytes.
    pub(super) fn held_bytes(&self) -> usize {
        self.record.as_ref().map_or(0, |record| record.held_bytes())
    }

    pub(crate) fn context<'a>(&'a self, encoding: Encoding<'a>) -> Context<'a> {
        Context {
            version: self.version,
            keep_alive: self.keep_alive,
            head_only: self.head_only,
            date: encoding.date,
            cors: match self.sharing {
                Sharing::None => b"",
                Sharing::Cors => encoding.cors.lines(&self.asking),
                Sharing::Queue => encoding.queue_lines,
            },
        }
    }
}

fn sharing_at(port: Port) -> Sharing {
    match port {
        Port::Public => Sharing::Cors,
        Port::Control => Sharing::None,
    }
}

/// Returns the limits of a request.
pub(super) fn limits(config: &Config) -> HttpLimits {
    let (http, token) = (&config.http, config.auth.token_bytes_max);
    HttpLimits {
        head_bytes_max: http.head_bytes_max,
        body_bytes_max: http.body_bytes_max,
        headers_max: HEADERS_MAX,
        // An EventSource sends its token in the target.
        target_bytes_max: TARGET_BYTES_MAX + token.saturating_sub(TOKEN_BYTES_DEFAULT),
    }
}

/// The next step for a request whose head is read.
pub(super) enum Plan {
    /// Read its body, then carry it out.
    Read(Purpose),
    /// Read the topics to subscribe to.
    ReadTopics(BodySubscription),
    /// Send this answer; a body is skipped.
    Answer(Answer),
    Subscribe(Subscribe),
    /// Refuse a stream for a passing reason.
    RefuseStream(Refusal),
    OpenQueue(QueueRequest),
    Ask(Question),
}

/// Decides what to do for a request.
pub(super) fn plan(action: Result<Action, Refusal>, head: &Head, reports: &Arc<dyn Reports>) -> Plan {
    let refuse = |reason| Plan::Answer(Refusal::new(Status::BadRequest, reason).into());
    match action {
        Ok(Action::Publish(publish)) => Plan::Read(Purpose::Publish(publish)),
        Ok(Action::Command(command)) => Plan::Read(Purpose::Command(command)),
        Ok(Action::RefuseStream(refusal)) if head.has_body() => Plan::Answer(refusal.into()),
        Ok(Action::RefuseStream(refusal)) => Plan::RefuseStream(refusal),
        Ok(Action::Subscribe(_) | Action::Queue(_)) if head.has_body() => refuse(SUBSCRIPTION_BODY),
        Ok(Action::SubscribeByBody(subscription)) => Plan::ReadTopics(subscription),
        Ok(Action::Subscribe(subscribe)) => Plan::Subscribe(subscribe),
        Ok(Action::Queue(queue)) => Plan::OpenQueue(queue),
        Ok(Action::Ask(_)) if head.has_body() => refuse("this request has no body; send none"),
        Ok(Action::Ask(question)) => Plan::Ask(question),
        Ok(Action::Report(report)) => match Arc::clone(reports).report(report) {
            Ok(response) => Plan::Answer(response.into()),
            Err(refusal) => Plan::Answer(refusal.into()),
        },
        Ok(Action::Answer(response)) => Plan::Answer(response.into()),
        Ok(Action::Options(extra)) => Plan::Answer(Response::options(extra).into()),
        Err(refusal) => Plan::Answer(refusal.into()),
    }
}
