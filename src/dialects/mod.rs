//! The interfaces that clients speak: decides what a request asks for and whether it may have it, from its head alone,
//! so that the body of a refused request never fills memory.
//!
//! A dialect is a folder or file here and a row of [`DIALECTS`].
//!
//! | module | interface |
//! |---|---|
//! | [`native`] | `/subscribe` and `/publish`: topics by name |
//! | [`sessions`] | `/events/`, and the control port's commands: channels and users |
//! | [`queues`] | one queue of another broker for each client |
//! | [`admin`] | what operators see: the admin page, statistics, health |
//! | [`control`] | access to the control port |
//! | [`access`], [`call`], [`form`], [`mod@client_address`] | what requests are checked against, a request, the encoding of a body's fields, a client's address |

pub(crate) mod access;
pub(crate) mod admin;
mod call;
mod client_address;
mod control;
mod form;
pub(crate) mod native;
pub(crate) mod queues;
pub(crate) mod sessions;
#[cfg(test)]
mod tests;

use std::borrow::Cow;

use smallvec::SmallVec;

pub(crate) use access::Access;
pub(crate) use client_address::client_address;

use crate::auth::AuthError;
use crate::http::{Extra, Head, Method, Refusal, Response, Status, target};
use admin::{Question, Report};
use call::Call;
use native::{BodySubscription, PublishRequest, Subscribe};
use queues::QueueRequest;
use sessions::Command;

/// The refusal of a body that nobody reads.
pub(crate) const SUBSCRIPTION_BODY: &str =
    "a subscription by GET has no body: send none, or POST the topics to /subscribe";

/// The action that a request asks for; dialects return it, and connections carry it out.
#[derive(Debug)]
pub(crate) enum Action {
    Subscribe(Subscribe),
    /// A subscription whose topics are in its body.
    SubscribeByBody(BodySubscription),
    Publish(PublishRequest),
    Queue(QueueRequest),
    /// A command whose details are in its body.
    Command(Command),
    /// A request that is done: its answer.
    Answer(Response),
    /// A stream that there may be soon, and why there is none now.
    RefuseStream(Refusal),
    /// A report that can be composed at once.
    Report(Report),
    /// A question that all shards answer.
    Ask(Question),
    /// OPTIONS: answered with the methods of the path.
    Options(Extra),
}

/// The listener on which a request came.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Port {
    /// The listener for the outside world.
    Public,
    /// The listener for operators and their programs, which serves everything.
    Control,
}

/// The right of pages of other origins to read an answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Sharing {
    None,
    /// As the CORS settings say.
    Cors,
    /// As the header lines of queues say.
    Queue,
}

/// One interface that clients speak.
struct Dialect {
    /// Returns what the request asks for, or its refusal; `None` if the path is not this dialect's.
    route: fn(&Call<'_>) -> Option<Result<Action, Refusal>>,
    /// Adds this dialect's paths, which a 404 lists.
    paths: fn(&Call<'_>, &mut Vec<Cow<'static, str>>),
}

/// All dialects. The path of queues is the operator's choice and comes before the others.
const DIALECTS: [Dialect; 4] = [
    Dialect { route: queues::route, paths: queues::paths },
    Dialect { route: native::route, paths: native::paths },
    Dialect { route: sessions::route, paths: sessions::paths },
    Dialect { route: admin::route, paths: admin::paths },
];

/// Returns what the request asks for. `now_s` returns Unix time in seconds; it is called only where a token expires,
/// because it costs 30 ns of a publish's 2 us.
///
/// # Errors
/// The refusal to send instead: 400, 401, 403, 404 or 405.
pub(crate) fn route(head: &Head, port: Port, access: &Access, now_s: fn() -> u64) -> Result<Action, Refusal> {
    let keyring = access.keyring.load();
    // Split before decoding: an encoded slash is a character of a segment, never a separator.
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
        return Ok(Action::Options(Extra::Preflight("GET, HEAD, POST, QUERY, OPTIONS")));
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

/// Returns whether checking this request's token may have used public keys, which takes up to 0.5 ms each. Without a
/// token it never does, and yielding to other tasks would more than double what a publish costs its connection (1.2
/// us).
pub(crate) fn may_have_taken_long(head: &Head, access: &Access) -> bool {
    access.keyring.load().has_public_keys
        && (head.authorization.is_some() || head.cookie.is_some() || target::query_has(&head.query, "token"))
}

impl Action {
    /// Returns what kind of request it is, as the access log names it.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Action::Subscribe(subscribe) if subscribe.feeds_admin_page => "report",
            Action::Subscribe(_) | Action::SubscribeByBody(_) | Action::RefuseStream(_) => "subscribe",
            Action::Publish(_) => "publish",
            Action::Queue(_) => "queue",
            Action::Command(_) | Action::Answer(_) => "command",
            Action::Report(_) | Action::Ask(_) => "report",
            Action::Options(_) => "options",
        }
    }

    /// Returns whether pages of other origins may read the answer; `at_listener` is the default of the listener.
    ///
    /// Statistics, metrics and the admin page's data are shared with no other origin: no page needs them, and any page could fetch
    /// them from within a network.
    pub(crate) fn sharing(&self, at_listener: Sharing) -> Sharing {
        match self {
            Action::Subscribe(subscribe) if subscribe.feeds_admin_page => Sharing::None,
            Action::Report(Report::Stats | Report::Metrics | Report::Vars | Report::AdminPage)
            | Action::Ask(_) => Sharing::None,
            _ => at_listener,
        }
    }
}

/// Returns the refusal of a token or a ticket.
fn refuse_token(error: AuthError) -> Refusal {
    match error {
        AuthError::TooManyTickets => Refusal::unavailable(error.to_string()),
        AuthError::NoKeysYet => Refusal::unavailable(error.to_string()).passing(),
        AuthError::KeyAsked => unauthorized(error.to_string()).passing(),
        error => unauthorized(error.to_string()),
    }
}

fn unauthorized(reason: String) -> Refusal {
    Refusal::new(Status::Unauthorized, reason).with(Extra::Bearer)
}

fn bad_request(reason: impl Into<Cow<'static, str>>) -> Refusal {
    Refusal::new(Status::BadRequest, reason)
}
