//! The admin page and what feeds it.

use super::{Action, READ, allow, not_found, verify_insider};
use crate::http::{Head, Refusal, Status, target};
use crate::shared::Access;

/// The page, with all it needs.
pub(crate) const ADMIN_PAGE: &str = include_str!("admin.html");

/// What is asked for below `/admin`.
#[derive(Debug, Eq, PartialEq)]
pub(crate) enum AdminAction {
    /// The page: the same for everybody, so it needs no token.
    Page,
    /// How the broker is, once.
    Status {
        /// List only connections on topics whose names contain this.
        topic: Option<String>,
        /// Connections to list at most, 0 to 10,000.
        max: usize,
    },
    /// As much again and again, as an event stream.
    Events {
        /// When the token expires, in Unix seconds; `u64::MAX` without one.
        expires_s: u64,
    },
}

/// Connections listed unless another number is asked for.
const CONNECTIONS_DEFAULT: usize = 1000;
/// The most connections that are listed. An entry is some 200 bytes, so this is 2 MB of JSON.
const CONNECTIONS_MAX: usize = 10_000;

/// Finds what is asked for at `path`, the raw segments after `/admin`.
pub(super) fn route(head: &Head, path: &[&[u8]], access: &Access, now_s: u64) -> Result<Action, Refusal> {
    if !access.admin {
        return Err(Refusal::new(Status::Forbidden, "the admin page is off (--no-admin)"));
    }
    let action = |action: AdminAction| Ok(Action::Admin(action));
    match path {
        [] | [b""] => allow(head, &READ, || action(AdminAction::Page)),
        [b"status.json"] => allow(head, &READ, || {
            verify_insider(head, access, now_s)?;
            action(status(&head.query)?)
        }),
        [b"events"] => allow(head, &READ, || {
            action(AdminAction::Events { expires_s: verify_insider(head, access, now_s)? })
        }),
        _ => Err(not_found()),
    }
}

fn status(query: &[u8]) -> Result<AdminAction, Refusal> {
    let topic = target::query_value(query, "topic")?.filter(|topic| !topic.is_empty());
    let max = match target::query_value(query, "max")? {
        None => CONNECTIONS_DEFAULT,
        Some(text) => count(&text).ok_or_else(|| {
            let reason = format!("bad max: write a whole number from 0 to {CONNECTIONS_MAX}");
            Refusal::new(Status::BadRequest, reason)
        })?,
    };
    Ok(AdminAction::Status { topic: topic.map(Into::into), max })
}

/// Digits alone: `parse` by itself would take `+5` too.
fn count(text: &str) -> Option<usize> {
    let number = text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())??;
    (number <= CONNECTIONS_MAX).then_some(number)
}
