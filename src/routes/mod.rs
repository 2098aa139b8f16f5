//! What a request asks for, and whether whoever asks may have it. Decided from the head alone, so that a
//! request that is refused never gets to fill memory with its body.

mod admin;
mod client;
mod public;
#[cfg(test)]
mod tests;

use smallvec::{SmallVec, smallvec};

pub(crate) use admin::{ADMIN_PAGE, AdminAction};
pub(crate) use client::client_address;
pub(crate) use public::{BodyForm, Publish, Subscribe};

use crate::auth::{self, AuthError, Grant, Keys};
use crate::http::{Extra, Head, Method, Refusal, Status, target};
use crate::shared::Access;
use crate::topic::Topic;

/// What a request asks for.
#[derive(Debug)]
pub(crate) enum Action {
    Subscribe(Subscribe),
    Publish(Publish),
    Stats,
    Metrics,
    Health,
    Admin(AdminAction),
    /// OPTIONS: the methods that may be used here.
    Methods(&'static str),
}

const NOT_FOUND: &str = "no such path; there are GET /subscribe/{topic}, GET /subscribe?topic={topic}, \
                         POST /publish/{topic}, GET /stats, GET /metrics, GET /admin/ and GET /healthz";

/// Finds what the request asks for; `now_s` is Unix time.
///
/// # Errors
/// The refusal to send instead: 400, 401, 403, 404 or 405.
pub(crate) fn route(head: &Head, access: &Access, now_s: u64) -> Result<Action, Refusal> {
    if head.method == Method::Options && head.path[..] == *b"*" {
        return Ok(Action::Methods("GET, HEAD, POST, OPTIONS"));
    }
    // Split before it is decoded: an encoded slash is a character of a segment, never a separator.
    let mut segments = target::segments(&head.path);
    let first = target::decode(segments.next().unwrap_or_default())?;
    let rest: SmallVec<[&[u8]; 8]> = segments.collect();
    match (&*first, &*rest) {
        (b"subscribe", [] | [b""]) if target::query_has(&head.query, "topic") => allow(head, &READ, || {
            let topics = public::topics_in_query(&head.query, access)?;
            public::subscribe(head, topics, access, now_s)
        }),
        (b"subscribe", [] | [b""]) if access.namespaces => allow(head, &READ, || {
            public::subscribe(head, smallvec![Topic::everything(&access.hasher)], access, now_s)
        }),
        (b"subscribe", path) if is_topic(path, access) => allow(head, &READ, || {
            let topic = public::topic_in_path(head, path, access)?;
            public::subscribe(head, smallvec![topic], access, now_s)
        }),
        (b"publish", path) if is_topic(path, access) => {
            allow(head, &WRITE, || public::publish(head, path, access, now_s))
        }
        (b"stats", []) => allow(head, &READ, || {
            verify_insider(head, access, now_s)?;
            Ok(Action::Stats)
        }),
        (b"metrics", []) => allow(head, &READ, || {
            verify_insider(head, access, now_s)?;
            Ok(Action::Metrics)
        }),
        (b"healthz", []) => allow(head, &READ, || Ok(Action::Health)),
        (b"admin", path) => admin::route(head, path, access, now_s),
        _ => Err(not_found()),
    }
}

/// Whether there may be a topic at this path, well-formed or not.
fn is_topic(path: &[&[u8]], access: &Access) -> bool {
    match path {
        [] => false,
        [_] => true,
        _ => access.namespaces,
    }
}

fn not_found() -> Refusal {
    Refusal::new(Status::NotFound, NOT_FOUND)
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

/// The action, if the path takes the request's method. OPTIONS asks for no token: browsers send none with it.
fn allow(
    head: &Head,
    allowed: &Methods,
    action: impl FnOnce() -> Result<Action, Refusal>,
) -> Result<Action, Refusal> {
    if head.method == Method::Options {
        return Ok(Action::Methods(allowed.names));
    }
    if !allowed.methods.contains(&head.method) {
        let reason = format!("this path does not take this method; use {}", allowed.names);
        return Err(Refusal::new(Status::MethodNotAllowed, reason).with(Extra::Allow(allowed.names)));
    }
    action()
}

/// What the request's token grants: of the query, the header, or the cookie where its name is given.
fn verify(head: &Head, keys: &Keys, cookie_name: Option<&str>, now_s: u64) -> Result<Grant, Refusal> {
    let refuse = |error: AuthError| Refusal::new(Status::Unauthorized, error.to_string()).with(Extra::Bearer);
    let query = target::query_value(&head.query, "token")?;
    let cookie = head.cookie.as_deref().zip(cookie_name);
    let token = auth::token(query, head.authorization.as_deref(), cookie).map_err(refuse)?;
    keys.verify(&token, now_s).map_err(refuse)
}

/// What shows the broker from inside is for those who hold a publisher's token, whatever its topics. Returns
/// the Unix second at which it expires; `u64::MAX` where none is needed.
fn verify_insider(head: &Head, access: &Access, now_s: u64) -> Result<u64, Refusal> {
    match &access.publisher {
        Some(keys) => verify(head, keys, None, now_s).map(|grant| grant.expires_s),
        None => Ok(u64::MAX),
    }
}
