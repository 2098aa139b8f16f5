//! A request whose head is read, and the checks that all dialects share: method and token.

use super::{Access, Action, Port, refuse_token};
use crate::auth::{self, AuthError, Grant, Keyring, Keys};
use crate::http::{Extra, Head, Method, Refusal, Status, target};

/// A request on its way through the dialects: its head, its listener, and what it is checked against.
pub(super) struct Call<'a> {
    pub(super) head: &'a Head,
    /// The first segment of the path, decoded; the others are not.
    pub(super) first: &'a [u8],
    pub(super) rest: &'a [&'a [u8]],
    pub(super) access: &'a Access,
    pub(super) keyring: &'a Keyring,
    pub(super) port: Port,
    /// It showed the control port's token, so it needs no other.
    pub(super) is_operator: bool,
    /// Returns Unix time in seconds.
    pub(super) now_s: fn() -> u64,
}

/// The methods that a path takes.
pub(super) struct Methods {
    /// The value of `Allow`.
    pub(super) names: &'static str,
    /// All but OPTIONS.
    pub(super) methods: &'static [Method],
    /// Makes the answer to OPTIONS of the names.
    pub(super) options: fn(&'static str) -> Extra,
}

pub(super) const READ: Methods =
    Methods { names: "GET, HEAD, OPTIONS", methods: &[Method::Get, Method::Head], options: Extra::Preflight };
pub(super) const WRITE: Methods =
    Methods { names: "POST, OPTIONS", methods: &[Method::Post], options: Extra::Preflight };

/// For a subscription whose options may be in a body (QUERY: RFC 10008).
pub(super) const READ_BY_BODY: Methods = Methods {
    names: "GET, HEAD, POST, QUERY, OPTIONS",
    methods: &[Method::Get, Method::Head, Method::Post, Method::Query],
    options: Extra::Preflight,
};

impl Call<'_> {
    /// Returns whether publishing and inside views are served on this listener.
    pub(super) fn is_inside(&self) -> bool {
        self.port == Port::Control || self.access.public_publish
    }

    /// Returns the action if the path takes the request's method, else 405. OPTIONS needs no token: browsers send none
    /// with it.
    pub(super) fn allow(
        &self,
        allowed: &Methods,
        action: impl FnOnce() -> Result<Action, Refusal>,
    ) -> Result<Action, Refusal> {
        if self.head.method == Method::Options {
            return Ok(Action::Options((allowed.options)(allowed.names)));
        }
        if !allowed.methods.contains(&self.head.method) {
            let reason = format!("this path does not take this method; use {}", allowed.names);
            return Err(Refusal::new(Status::MethodNotAllowed, reason).with(Extra::Allow(allowed.names)));
        }
        action()
    }

    /// Refuses a body that is compressed: its text would be published as it came.
    ///
    /// # Errors
    /// 415 for any `Content-Encoding` but `identity`.
    pub(super) fn check_encoding(&self) -> Result<(), Refusal> {
        match self.head.content_encoding.as_deref() {
            None | Some(b"") => Ok(()),
            Some(coding) if coding.eq_ignore_ascii_case(b"identity") => Ok(()),
            Some(_) => {
                let reason = "a Content-Encoding is not undone here: send the body as it is";
                Err(Refusal::new(Status::UnsupportedMediaType, reason).with(Extra::AcceptIdentity))
            }
        }
    }

    /// Returns the grant of the request's token, from the query, the header, or the cookie of this name.
    pub(super) fn verify(&self, keys: &Keys, cookie_name: Option<&str>) -> Result<Grant, Refusal> {
        self.with_token(cookie_name, |token| keys.verify(token, (self.now_s)()))
    }

    /// Finds the request's token and has `judge` check it; returns 401 when there is none or `judge` fails.
    pub(super) fn with_token<T>(
        &self,
        cookie_name: Option<&str>,
        judge: impl FnOnce(&str) -> Result<T, AuthError>,
    ) -> Result<T, Refusal> {
        // The control port's own token does not count here: another one may stand in another place.
        let is_other = |token: &[u8]| !(self.is_operator && self.keyring.is_control_token(token));
        let query =
            target::query_value(&self.head.query, "token")?.filter(|token| is_other(token.as_bytes()));
        let header = self.head.authorization.as_deref();
        let header = header.filter(|header| auth::bearer(header).is_none_or(is_other));
        let cookie = self.head.cookie.as_deref().zip(cookie_name);
        auth::token(query, header, cookie).and_then(|token| judge(&token)).map_err(refuse_token)
    }

    /// Returns the refusal of a stream: for a reason that passes, one after which an EventSource comes back.
    pub(super) fn refuse_stream(&self, refusal: Refusal) -> Result<Action, Refusal> {
        match refusal.is_passing && self.head.method == Method::Get {
            true => Ok(Action::RefuseStream(refusal)),
            false => Err(refusal),
        }
    }

    /// Checks that the request may see the broker from inside: with any publisher's token, whatever its topics. Returns
    /// the Unix second at which it expires; `u64::MAX` where none is needed.
    pub(super) fn verify_insider(&self) -> Result<u64, Refusal> {
        let Some(keys) = self.keyring.publisher.as_ref().filter(|_| !self.is_operator) else {
            return Ok(u64::MAX);
        };
        let grant = self.verify(keys, None)?;
        // One issuer may sign session tokens with the same key.
        if grant.is_empty() {
            let reason = "this token is for no topic: send a publisher's, whose sub or topics name one";
            return Err(Refusal::new(Status::Forbidden, reason));
        }
        Ok(grant.expires_s)
    }
}
