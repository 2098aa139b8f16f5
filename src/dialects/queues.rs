//! The queues interface: one queue of a message broker for each client, delivered as an event stream.

use std::borrow::Cow;

use super::Action;
use super::call::{Call, Methods};
use super::native::last_event_id;
use crate::auth;
use crate::config::Queues;
use crate::http::{Extra, Method, Refusal, Status, target};

/// A client's request for its queue.
#[derive(Debug)]
pub(crate) struct QueueRequest {
    pub(crate) name: String,
    pub(crate) last_event_id: Option<Box<str>>,
}

/// The settings of the queues interface, made of the configuration once; [`Access`](super::Access) owns them.
#[derive(Debug)]
pub(crate) struct QueueAccess {
    queues: Queues,
    /// CORS header lines of every answer.
    pub(crate) cors_lines: Box<[u8]>,
    /// Header lines of a stream.
    pub(crate) stream_lines: Box<[u8]>,
    /// Whether a stream's body has no chunks and ends at the close.
    pub(crate) is_identity: bool,
}

/// The path of queues takes only these, so a page cannot use another method. All other fields of a preflight are the
/// operator's.
const METHODS: Methods = Methods { names: "GET, OPTIONS", methods: &[Method::Get], options: Extra::Allow };

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

    /// Returns whether this is the path of queues.
    pub(crate) fn is_at(&self, path: &[u8]) -> bool {
        *path == *self.queues.path.as_bytes()
    }
}

/// Returns the action for the path of queues.
pub(super) fn route(call: &Call<'_>) -> Option<Result<Action, Refusal>> {
    let queues = call.access.queues.as_ref().filter(|queues| queues.is_at(&call.head.path))?;
    Some(call.queue(queues))
}

pub(super) fn paths(call: &Call<'_>, paths: &mut Vec<Cow<'static, str>>) {
    paths.extend(call.access.queues.as_ref().map(|queues| Cow::Owned(format!("GET {}", queues.path()))));
}

impl Call<'_> {
    /// Returns the request for the client's queue; 503 when it names none.
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

/// Returns 503 with the reason in a header as well, where clients of eventsourced look for it.
pub(crate) fn queue_refused(reason: Cow<'static, str>) -> Refusal {
    Refusal::new(Status::ServiceUnavailable, reason).with(Extra::StatusReason)
}
