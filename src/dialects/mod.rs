//! The interfaces that clients speak: what a request asks for, and whether whoever asks may have it. Decided from the head
//! alone, so that a request that is refused never gets to fill memory with its body.
//!
//! A dialect is a folder or file here and a row of [`DIALECTS`].
//!
//! | module | interface |
//! |---|---|
//! | [`native`] | `/subscribe` and `/publish`: topics by name |
//! | [`sessions`] | `/events/`, and the control port's commands: channels and users |
//! | [`queues`] | one queue of another broker for each client |
//! | [`admin`] | what operators see: the admin page, statistics, health |
//! | [`control`] | who is let in at the control port |
//! | [`access`], [`call`], [`mod@client_address`] | what requests are judged by, a request, where it comes from |

pub(crate) mod access;
pub(crate) mod admin;
mod call;
mod client_address;
mod control;
pub(crate) mod native;
pub(crate) mod queues;
pub(crate) mod sessions;
#[cfg(test)]
mod tests;

use std::borrow::Cow;

use smallvec::SmallVec;

pub(crate) use access::Access;
pub(crate) use client_address::client_address;

use crate::http::{Extra, Head, Method, Refusal, Status, target};
use admin::{Question, Report};
use call::Call;
use native::{PublishRequest, Subscribe};
use queues::QueueRequest;
use sessions::Command;

/// What a request asks for.
#[derive(Debug)]
pub(crate) enum Action {
    Subscribe(Subscribe),
    Publish(PublishRequest),
    Queue(QueueRequest),
    /// What its body says is to be done.
    Command(Command),
    /// What can be composed at once.
    Report(Report),
    /// What is composed elsewhere, from all shards.
    Ask(Question),
    /// OPTIONS: the methods that may be used here.
    Options(Extra),
}

/// The listener by which a request came.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Port {
    /// For the world.
    Public,
    /// For the programs and people that run it: it serves everything.
    Control,
}

/// Whether pages of other origins may read an answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Sharing {
    None,
    /// As far as CORS is set so.
    Cors,
    /// As the header lines of queues say.
    Queue,
}

/// One interface that clients speak.
struct Dialect {
    /// Returns what the request asks for, or why it may not have it; `None` if its path is of no interest to this dialect.
    route: fn(&Call<'_>) -> Option<Result<Action, Refusal>>,
    /// Adds the paths that are named to a client that asks for one there is not.
    paths: fn(&Call<'_>, &mut Vec<Cow<'static, str>>),
}

/// All of them. The path of queues is the operator's own and comes before the others.
const DIALECTS: [Dialect; 4] = [
    Dialect { route: queues::route, paths: queues::paths },
    Dialect { route: native::route, paths: native::paths },
    Dialect { route: sessions::route, paths: sessions::paths },
    Dialect { route: admin::route, paths: admin::paths },
];

/// Finds what the request asks for; `now_s` tells Unix time, and is asked only where a token expires: 30 ns of a publish's
/// 2 us.
///
/// # Errors
/// The refusal to send instead: 400, 401, 403, 404 or 405.
pub(crate) fn route(head: &Head, port: Port, access: &Access, now_s: fn() -> u64) -> Result<Action, Refusal> {
    let keyring = access.keyring.load();
    // Split before it is decoded: an encoded slash is a character of a segment, never a separator.
    let mut segments = target::segments(&head.path);
    let (first, malformed) = match target::decode(segments.next().unwrap_or_default()) {
        Ok(first) => (first, None),
        Err(refusal) => (Cow::Borrowed(&b""[..]), Some(refusal)),
    };
    let rest: SmallVec<[&[u8]; 8]> = segments.collect();
    let mut call =
        Call { head, first: &first, rest: &rest, access, keyring: &keyring, port, is_operator: false, now_s };
    if port == Port::Control {
        call.is_operator = control::enter(&call)?;
    }
    if head.method == Method::Options && head.path[..] == *b"*" {
        return Ok(Action::Options(Extra::Preflight("GET, HEAD, POST, OPTIONS")));
    }
    let found = DIALECTS.iter().find_map(|dialect| (dialect.route)(&call));
    found.unwrap_or_else(|| Err(malformed.unwrap_or_else(|| not_found(&call))))
}

fn not_found(call: &Call<'_>) -> Refusal {
    let mut paths = Vec::new();
    DIALECTS.iter().for_each(|dialect| (dialect.paths)(call, &mut paths));
    let (last, others) =
        paths.split_last().map_or(("".into(), &[][..]), |(last, others)| (last.clone(), others));
    Refusal::new(Status::NotFound, format!("no such path; there are {} and {last}", others.join(", ")))
}

/// Returns whether the token that this request shows may have been tried with public keys: up to 0.5 ms for each. A request
/// without one never is, and a turn for others would more than double what a publish costs its connection (1.2 us).
pub(crate) fn may_have_taken_long(head: &Head, access: &Access) -> bool {
    access.keyring.load().has_public_keys
        && (head.authorization.is_some() || head.cookie.is_some() || target::query_has(&head.query, "token"))
}

impl Action {
    /// Returns who may read the answer, if the request may have it: `at_listener` says what holds by default where it came in.
    ///
    /// Scrapers and the admin page are of no other origin: no page needs what they get, and any page could ask for it from
    /// within a network.
    pub(crate) fn sharing(&self, at_listener: Sharing) -> Sharing {
        match self {
            Action::Subscribe(subscribe) if subscribe.feeds_admin_page => Sharing::None,
            Action::Report(Report::Metrics | Report::Vars | Report::AdminPage) | Action::Ask(_) => {
                Sharing::None
            }
            _ => at_listener,
        }
    }
}

fn unauthorized(reason: String) -> Refusal {
    Refusal::new(Status::Unauthorized, reason).with(Extra::Bearer)
}

fn bad_request(reason: impl Into<Cow<'static, str>>) -> Refusal {
    Refusal::new(Status::BadRequest, reason)
}
