//! The admin page and what feeds it.

use std::net::IpAddr;

use super::{Action, Call, Door, READ};
use crate::http::{Refusal, Status, target};

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

impl Call<'_> {
    /// Finds what is asked for at `path`, the raw segments after `/admin`.
    pub(super) fn admin(&self, path: &[&[u8]]) -> Result<Action, Refusal> {
        if !self.access.admin {
            return Err(Refusal::new(Status::Forbidden, "the admin page is off (--no-admin)"));
        }
        let action = |action: AdminAction| Ok(Action::Admin(action));
        match path {
            [] | [b""] => self.allow(&READ, || action(AdminAction::Page)),
            [b"status.json"] => self.allow(&READ, || {
                self.check_name()?;
                self.verify_insider()?;
                action(status(&self.head.query)?)
            }),
            [b"events"] => self.allow(&READ, || {
                self.check_name()?;
                action(AdminAction::Events { expires_s: self.verify_insider()? })
            }),
            _ => Err(self.not_found()),
        }
    }

    /// Without a secret, the name a page was loaded under is all that tells this server's own from one whose name was
    /// pointed at this address since: that page would be of one origin with the data, and read it. At the control port
    /// all names were looked at already.
    fn check_name(&self) -> Result<(), Refusal> {
        if self.door == Door::Control
            || self.keyring.publisher.is_some()
            || self.head.host.as_deref().is_none_or(is_fixed_name)
        {
            return Ok(());
        }
        Err(Refusal::new(
            Status::Forbidden,
            "without a secret the admin page is for an address or localhost; set ESPER_PUBLISHER_SECRET to use a name",
        ))
    }
}

/// An address or `localhost`, with or without a port: nobody can point these elsewhere.
pub(super) fn is_fixed_name(host: &[u8]) -> bool {
    let Ok(name) = str::from_utf8(without_port(host)) else { return false };
    let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    bare.eq_ignore_ascii_case("localhost") || bare.parse::<IpAddr>().is_ok()
}

/// The host of a `Host`, whose port is digits or nothing.
pub(super) fn without_port(host: &[u8]) -> &[u8] {
    let end = host.iter().rposition(|byte| !byte.is_ascii_digit());
    end.filter(|end| host[*end] == b':').map_or(host, |end| &host[..end])
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_nobody_can_point_elsewhere_are_fixed() {
        for host in ["localhost", "LOCALHOST:3000", "127.0.0.1", "10.0.0.1:80", "[::1]", "[::1]:3000"] {
            assert!(is_fixed_name(host.as_bytes()), "{host}");
        }
        for host in
            ["evil.example", "evil.example:3000", "localhost.evil.example", "", "127.0.0.1.evil.example"]
        {
            assert!(!is_fixed_name(host.as_bytes()), "{host}");
        }
    }
}
