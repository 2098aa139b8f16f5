//! A client's queue of another broker, delivered as an event stream: which queue it is, and in which headers.

use std::borrow::Cow;

use super::{Action, Call, Methods};
use crate::auth;
use crate::config::Queues;
use crate::http::{Extra, Method, Refusal, Status, target};
use crate::routes::public::last_event_id;

/// A queue that a client asks for.
#[derive(Debug)]
pub(crate) struct Queue {
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

    /// Where queues are asked for.
    pub(crate) fn path(&self) -> &str {
        &self.queues.path
    }

    /// Whether queues are asked for here.
    pub(crate) fn is_at(&self, path: &[u8]) -> bool {
        *path == *self.queues.path.as_bytes()
    }
}

impl Call<'_> {
    /// `GET` of the queues' path.
    pub(super) fn queue(&self, queues: &QueueAccess) -> Result<Action, Refusal> {
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
            Ok(Action::Queue(Queue { name, last_event_id: last_event_id(self.head) }))
        })
    }
}

/// 503 with the reason in a header too, where a client looks that knows no other server's answers.
pub(crate) fn queue_refused(reason: Cow<'static, str>) -> Refusal {
    Refusal::new(Status::ServiceUnavailable, reason).with(Extra::StatusReason)
}
