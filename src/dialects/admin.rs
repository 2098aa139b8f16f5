//! The operators' interface: admin page and its data, statistics, health.

use std::borrow::Cow;
use std::net::IpAddr;

use super::call::{Call, READ};
use super::native::Subscribe;
use super::{Action, Port};
use crate::core::fanout::StreamTerms;
use crate::core::topic::Topic;
use crate::http::{Refusal, Status, target};

/// A report that can be composed at once.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Report {
    /// `/healthz`: whether it runs, and does not drain.
    Health,
    /// `/readyz`: whether balancers may send requests here; in a cluster also whether this node has what the others have.
    Ready,
    Stats,
    Metrics,
    /// `/debug/vars`, under the name that Go programs use.
    Vars,
    /// The admin page: it holds no data, so it needs no token.
    AdminPage,
}

/// A question that all shards must answer before its reply can be composed.
#[derive(Debug, Eq, PartialEq)]
pub(crate) enum Question {
    /// The broker's status, once.
    Status {
        /// List only connections on topics whose names contain this.
        topic: Option<String>,
        /// Connections to list at most, 0 to 10,000.
        streams_max: usize,
    },
    /// Who is connected on the channel with this topic.
    Sessions { channel: Topic },
}

/// The number of connections listed by default.
const CONNECTIONS_DEFAULT: usize = 1000;
/// The most connections listed. An entry is some 200 bytes, so this is 2 MB of JSON.
const CONNECTIONS_MAX: usize = 10_000;

/// Returns the action for one of the operators' paths.
pub(super) fn route(call: &Call<'_>) -> Option<Result<Action, Refusal>> {
    let inside = |report| {
        call.allow(&READ, || {
            call.check_name()?;
            call.verify_insider().map(|_| Action::Report(report))
        })
    };
    Some(match (call.first, call.rest) {
        (b"healthz", []) => call.allow(&READ, || Ok(Action::Report(Report::Health))),
        (b"readyz", []) => call.allow(&READ, || Ok(Action::Report(Report::Ready))),
        _ if !call.is_inside() => return None,
        (b"stats", []) => inside(Report::Stats),
        (b"metrics", []) => inside(Report::Metrics),
        (b"debug", [b"vars"]) => inside(Report::Vars),
        (b"admin", path) => call.admin(path)?,
        _ => return None,
    })
}

pub(super) fn paths(call: &Call<'_>, paths: &mut Vec<Cow<'static, str>>) {
    if call.is_inside() {
        paths.extend(["GET /stats", "GET /metrics", "GET /debug/vars", "GET /admin/"].map(Cow::Borrowed));
    }
    paths.push("GET /healthz".into());
    paths.push("GET /readyz".into());
}

impl Call<'_> {
    /// Returns the action for `path`, the raw segments after `/admin`.
    fn admin(&self, path: &[&[u8]]) -> Option<Result<Action, Refusal>> {
        if !self.access.admin {
            return Some(Err(Refusal::new(Status::Forbidden, "the admin page is off (--no-admin)")));
        }
        Some(match path {
            [] | [b""] => self.allow(&READ, || Ok(Action::Report(Report::AdminPage))),
            [b"status.json"] => self.allow(&READ, || {
                self.check_name()?;
                self.verify_insider()?;
                Ok(Action::Ask(status(&self.head.query)?))
            }),
            [b"events"] => self.allow(&READ, || {
                self.check_name()?;
                let topics = [self.access.admin_topic.clone()].into();
                let expires_s = match self.verify_insider() {
                    Ok(expires_s) => expires_s,
                    Err(refusal) => return self.refuse_stream(refusal),
                };
                Ok(Action::Subscribe(Subscribe {
                    terms: StreamTerms { expires_s, ..StreamTerms::of(topics) },
                    tells_place: false,
                    echoed_id: None,
                    feeds_admin_page: true,
                }))
            }),
            _ => return None,
        })
    }

    /// Refuses with 403 a page that was loaded under a name, where no secret protects the data: an attacker's name may
    /// since have been pointed at this address (DNS rebinding), and its page would share an origin with the data and
    /// read it. The control port has checked all names already.
    fn check_name(&self) -> Result<(), Refusal> {
        if self.port == Port::Control
            || self.keyring.publisher.is_some()
            || self.head.host.as_deref().is_none_or(is_fixed_name)
        {
            return Ok(());
        }
        Err(Refusal::new(
            Status::Forbidden,
            "without a secret this is for an address or localhost as the host; set ESPER_PUBLISHER_SECRET to use a name",
        ))
    }
}

/// Returns whether it is an address or `localhost`, with or without a port: nobody can point these elsewhere.
pub(super) fn is_fixed_name(host: &[u8]) -> bool {
    let Ok(name) = str::from_utf8(without_port(host)) else { return false };
    let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    bare.eq_ignore_ascii_case("localhost") || bare.parse::<IpAddr>().is_ok()
}

/// Returns a `Host` without its port, which is digits or nothing.
pub(super) fn without_port(host: &[u8]) -> &[u8] {
    let end = host.iter().rposition(|byte| !byte.is_ascii_digit());
    end.filter(|end| host[*end] == b':').map_or(host, |end| &host[..end])
}

fn status(query: &[u8]) -> Result<Question, Refusal> {
    let topic = target::query_value(query, "topic")?.filter(|topic| !topic.is_empty());
    let streams_max = match target::query_value(query, "max")? {
        None => CONNECTIONS_DEFAULT,
        Some(text) => count(&text).ok_or_else(|| {
            let reason = format!("bad max: write a whole number from 0 to {CONNECTIONS_MAX}");
            Refusal::new(Status::BadRequest, reason)
        })?,
    };
    Ok(Question::Status { topic: topic.map(Into::into), streams_max })
}

/// Reads digits alone: `parse` by itself would take `+5` too.
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
