//! What a request asks for, and whether whoever asks may have it. Decided from the head alone, so that a
//! request that is refused never gets to fill memory with its body.

mod admin;
mod client;
mod command;
mod control;
mod fields;
mod idempotency;
mod public;
mod queue;
mod session;
#[cfg(test)]
mod tests;

use std::borrow::Cow;

use smallvec::{SmallVec, smallvec};

pub(crate) use admin::{ADMIN_PAGE, AdminAction};
pub(crate) use client::client_address;
pub(crate) use command::{Command, Order};
pub(crate) use idempotency::IdempotencyKey;
pub(crate) use public::{BodyForm, Publish, Subscribe};
pub(crate) use queue::{Queue, QueueAccess, queue_refused};

use crate::auth::{self, AuthError, Grant, Keys};
use crate::core::topic::Topic;
use crate::http::{Extra, Head, Method, Refusal, Status, target};
use crate::keyring::Keyring;
use crate::shared::Access;

/// What a request asks for.
#[derive(Debug)]
pub(crate) enum Action {
    Subscribe(Subscribe),
    Publish(Publish),
    Queue(Queue),
    /// What its body says is to be done.
    Command(Command),
    /// Who is connected on the channel whose topic this is.
    Sessions(Topic),
    Stats,
    Metrics,
    /// What Go programs call `/debug/vars`.
    Vars,
    Health,
    Admin(AdminAction),
    /// OPTIONS: the methods that may be used here.
    Methods(&'static str),
}

/// The listener by which a request came.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Door {
    /// For the world.
    Public,
    /// For the programs and people that run it: it serves everything.
    Control,
}

/// A request, by whom it was sent, and what that is judged by.
struct Call<'a> {
    head: &'a Head,
    access: &'a Access,
    keyring: &'a Keyring,
    door: Door,
    /// Who showed the control port's token need show no other.
    is_operator: bool,
    /// Unix seconds.
    now_s: u64,
}

/// Finds what the request asks for; `now_s` is Unix time.
///
/// # Errors
/// The refusal to send instead: 400, 401, 403, 404 or 405.
pub(crate) fn route(head: &Head, door: Door, access: &Access, now_s: u64) -> Result<Action, Refusal> {
    let keyring = access.keyring.load();
    let mut call = Call { head, access, keyring: &keyring, door, is_operator: false, now_s };
    if door == Door::Control {
        call.is_operator = control::enter(&call)?;
    }
    if head.method == Method::Options && head.path[..] == *b"*" {
        return Ok(Action::Methods("GET, HEAD, POST, OPTIONS"));
    }
    if let Some(queues) = access.queues.as_ref().filter(|queues| queues.is_at(&head.path)) {
        return call.queue(queues);
    }
    // Split before it is decoded: an encoded slash is a character of a segment, never a separator.
    let mut segments = target::segments(&head.path);
    let first = target::decode(segments.next().unwrap_or_default())?;
    let rest: SmallVec<[&[u8]; 8]> = segments.collect();
    call.route(&first, &rest)
}

/// Whether the token that this request shows may have been tried with public keys: up to 0.5 ms for each. A request
/// without one never is, and a turn for others would more than double what a publish costs its connection (1.2 us).
pub(crate) fn may_have_taken_long(head: &Head, access: &Access) -> bool {
    access.keyring.load().has_public_keys
        && (head.authorization.is_some() || head.cookie.is_some() || target::query_has(&head.query, "token"))
}

impl Call<'_> {
    /// Finds what there is at a path, its first segment decoded and the rest not.
    fn route(&self, first: &[u8], rest: &[&[u8]]) -> Result<Action, Refusal> {
        let Call { head, access, .. } = self;
        match (first, rest) {
            (b"subscribe", [] | [b""]) if target::query_has(&head.query, "topic") => {
                self.allow(&READ, || self.subscribe(public::topics_in_query(&head.query, access)?))
            }
            (b"subscribe", [] | [b""]) if access.namespaces => {
                self.allow(&READ, || self.subscribe(smallvec![Topic::everything(&access.hasher)]))
            }
            (b"subscribe", path) if self.is_topic(path) => {
                self.allow(&READ, || self.subscribe(smallvec![public::topic_in_path(head, path, access)?]))
            }
            (b"publish", path) if self.is_topic(path) && self.is_inside() => {
                self.allow(&WRITE, || self.publish(path))
            }
            (b"stats", []) if self.is_inside() => {
                self.allow(&READ, || self.verify_insider().map(|_| Action::Stats))
            }
            (b"metrics", []) if self.is_inside() => {
                self.allow(&READ, || self.verify_insider().map(|_| Action::Metrics))
            }
            (b"debug", [b"vars"]) if self.is_inside() => {
                self.allow(&READ, || self.verify_insider().map(|_| Action::Vars))
            }
            (b"healthz", []) => self.allow(&READ, || Ok(Action::Health)),
            (b"admin", path) if self.is_inside() => self.admin(path),
            (b"events", [] | [b""]) => self.events(),
            (route, [] | [b""]) if self.door == Door::Control => self.control(route),
            _ => Err(self.not_found()),
        }
    }

    /// Whether there may be a topic at this path, well-formed or not.
    fn is_topic(&self, path: &[&[u8]]) -> bool {
        match path {
            [] => false,
            [_] => true,
            _ => self.access.namespaces,
        }
    }

    /// Whether publishing, and what shows the broker from inside, is behind this door.
    fn is_inside(&self) -> bool {
        self.door == Door::Control || self.access.public_publish
    }

    fn not_found(&self) -> Refusal {
        let queue_path = self.access.queues.as_ref().map(|queues| format!("GET {}", queues.path()));
        let mut paths = vec!["GET /subscribe/{topic}", "GET /subscribe?topic={topic}"];
        paths.extend(queue_path.as_deref());
        if self.keyring.session.is_some() {
            paths.push("GET /events/");
        }
        if self.is_inside() {
            paths.extend([
                "POST /publish/{topic}",
                "GET /stats",
                "GET /metrics",
                "GET /debug/vars",
                "GET /admin/",
            ]);
        }
        if self.door == Door::Control {
            paths.extend(control::PATHS);
        }
        Refusal::new(
            Status::NotFound,
            format!("no such path; there are {} and GET /healthz", paths.join(", ")),
        )
    }

    /// The action, if the path takes the request's method. OPTIONS asks for no token: browsers send none with it.
    fn allow(
        &self,
        allowed: &Methods,
        action: impl FnOnce() -> Result<Action, Refusal>,
    ) -> Result<Action, Refusal> {
        if self.head.method == Method::Options {
            return Ok(Action::Methods(allowed.names));
        }
        if !allowed.methods.contains(&self.head.method) {
            let reason = format!("this path does not take this method; use {}", allowed.names);
            return Err(Refusal::new(Status::MethodNotAllowed, reason).with(Extra::Allow(allowed.names)));
        }
        action()
    }

    /// What the request's token grants: of the query, the header, or the cookie where its name is given.
    fn verify(&self, keys: &Keys, cookie_name: Option<&str>) -> Result<Grant, Refusal> {
        self.with_token(cookie_name, |token| keys.verify(token, self.now_s))
    }

    /// Judges the request's token.
    fn with_token<T>(
        &self,
        cookie_name: Option<&str>,
        judge: impl FnOnce(&str) -> Result<T, AuthError>,
    ) -> Result<T, Refusal> {
        // The control port's own is none that says what else is asked: that may stand in another place.
        let is_other = |token: &[u8]| !(self.is_operator && self.keyring.is_control_token(token));
        let query =
            target::query_value(&self.head.query, "token")?.filter(|token| is_other(token.as_bytes()));
        let header = self.head.authorization.as_deref();
        let header = header.filter(|header| auth::bearer(header).is_none_or(is_other));
        let cookie = self.head.cookie.as_deref().zip(cookie_name);
        auth::token(query, header, cookie)
            .and_then(|token| judge(&token))
            .map_err(|error| unauthorized(error.to_string()))
    }

    /// What shows the broker from inside is for those who hold a publisher's token, whatever its topics. Returns
    /// the Unix second at which it expires; `u64::MAX` where none is needed.
    fn verify_insider(&self) -> Result<u64, Refusal> {
        let Some(keys) = self.keyring.publisher.as_ref().filter(|_| !self.is_operator) else {
            return Ok(u64::MAX);
        };
        let grant = self.verify(keys, None)?;
        // One issuer may sign sessions' tokens with the same key.
        if grant.is_empty() {
            let reason = "this token is for no topic: send a publisher's, whose sub or topics name one";
            return Err(Refusal::new(Status::Forbidden, reason));
        }
        Ok(grant.expires_s)
    }
}

/// The methods a path takes.
struct Methods {
    /// As `Allow` lists them.
    names: &'static str,
    /// All but OPTIONS.
    methods: &'static [Method],
}

const READ: Methods = Methods { names: "GET, HEAD, OPTIONS", methods: &[Method::Get, Method::Head] };
const WRITE: Methods = Methods { names: "POST, OPTIONS", methods: &[Method::Post] };

fn unauthorized(reason: String) -> Refusal {
    Refusal::new(Status::Unauthorized, reason).with(Extra::Bearer)
}

fn bad_request(reason: impl Into<Cow<'static, str>>) -> Refusal {
    Refusal::new(Status::BadRequest, reason)
}
