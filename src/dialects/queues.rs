//! A client's queue of another broker, delivered as an event stream: which queue it is, and in which headers.

use std::borrow::Cow;

use super::Action;
use super::call::{Call, Methods};
use super::native::last_event_id;
use crate::auth;
use crate::config::Queues;
use crate::http::{Extra, Method, Refusal, Status, target};

/// A queue that a client asks for.
#[derive(Debug)]
pub(crate) struct QueueRequest {
    pub(crate) name: String,
    pub(crate) last_event_id: Option<Box<str>>,
}

/// How queues are asked for, made ready once.
#[derive(Debug)]
pub(crate) struct QueueAccess {
    queues: Queues,
    /// Header lines of every answer.
    pub(crate) cors_lines: Box<[u8]>,
    /// Header lines of a stream.
    pub(crate) stream_lines: Box<[u8]>,
    /// A stream's body goes to the close, without chunks.
    pub(crate) is_identity: bool,
}

/// How little a queue's path takes: a page cannot ask for another.
const METHODS: Methods = Methods { names: "GET, OPTIONS", methods: &[Method::Get] };

impl QueueAccess {
    pub(crate) fn new(queues: &Queues) -> Self {
        let is_coding = |name: &str| name.eq_ignore_ascii_case("Transfer-Encoding");
        let lines = |headers: &[(String, String)]| {
            let headers = headers.iter().filter(|(name, _)| !is_coding(name));
            headers
                .map(|(name, value)| format!("{name}: {value}\r\n"))
                .collect::<String>()
                .into_bytes()
                .into()
        };
        let is_identity = queues
            .headers_sse
            .iter()
            .any(|(name, value)| is_coding(name) && value.trim().eq_ignore_ascii_case("identity"));
        QueueAccess {
            cors_lines: lines(&queues.headers_cors),
            stream_lines: lines(&queues.headers_sse),
            is_identity,
            queues: queues.clone(),
        }
    }

    fn path(&self) -> &str {
        &self.queues.path
    }

    /// Returns whether queues are asked for here.
    pub(crate) fn is_at(&self, path: &[u8]) -> bool {
        *path == *self.queues.path.as_bytes()
    }
}

/// Finds whether it is the queues' path that is asked for.
pub(super) fn route(call: &Call<'_>) -> Option<Result<Action, Refusal>> {
    let queues = call.access.queues.as_ref().filter(|queues| queues.is_at(&call.head.path))?;
    let action = call.queue(queues);
    // All other fields of a preflight are the operator's own.
    Some(action.map(|action| match action {
        Action::Options(_) => Action::Options(Extra::Allow(METHODS.names)),
        action => action,
    }))
}

pub(super) fn paths(call: &Call<'_>, paths: &mut Vec<Cow<'static, str>>) {
    paths.extend(call.access.queues.as_ref().map(|queues| Cow::Owned(format!("GET {}", queues.path()))));
}

impl Call<'_> {
    /// Returns the queue that is asked for.
    fn queue(&self, queues: &QueueAccess) -> Result<Action, Refusal> {
        self.allow(&METHODS, || {
            let query = |name: &str| Some(target::query_value(&self.head.query, name).ok()??.into_owned());
            let cookie = |name: &str| {
                let value = auth::cookie_value(self.head.cookie.as_deref()?, name)?;
                String::from_utf8(value.to_vec()).ok()
            };
            let name = queues
                .queues
                .pattern
                .name(query, cookie)
                .map_err(|error| queue_refused(error.to_string().into()))?;
            Ok(Action::Queue(QueueRequest { name, last_event_id: last_event_id(self.head) }))
        })
    }
}

/// 503 with the reason in a header too, where a client looks that knows no other server's answers.
pub(crate) fn queue_refused(reason: Cow<'static, str>) -> Refusal {
    Refusal::new(Status::ServiceUnavailable, reason).with(Extra::StatusReason)
}
