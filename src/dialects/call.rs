//! A request whose head is read, and what is asked of it in every dialect: its method and its token.

use super::{Access, Action, Port, unauthorized};
use crate::auth::{self, AuthError, Grant, Keyring, Keys};
use crate::http::{Extra, Head, Method, Refusal, Status, target};

/// A request, by whom it was sent, and what that is judged by.
pub(super) struct Call<'a> {
    pub(super) head: &'a Head,
    /// The first segment of the path, decoded, and the others, which are not.
    pub(super) first: &'a [u8],
    pub(super) rest: &'a [&'a [u8]],
    pub(super) access: &'a Access,
    pub(super) keyring: &'a Keyring,
    pub(super) port: Port,
    /// Who showed the control port's token need show no other.
    pub(super) is_operator: bool,
    /// Tells Unix seconds.
    pub(super) now_s: fn() -> u64,
}

/// The methods a path takes.
pub(super) struct Methods {
    /// As `Allow` lists them.
    pub(super) names: &'static str,
    /// All but OPTIONS.
    pub(super) methods: &'static [Method],
}

pub(super) const READ: Methods =
    Methods { names: "GET, HEAD, OPTIONS", methods: &[Method::Get, Method::Head] };
pub(super) const WRITE: Methods = Methods { names: "POST, OPTIONS", methods: &[Method::Post] };

impl Call<'_> {
    /// Returns whether publishing, and what shows the broker from inside, is served at this listener.
    pub(super) fn is_inside(&self) -> bool {
        self.port == Port::Control || self.access.public_publish
    }

    /// Returns the action, if the path takes the request's method. OPTIONS asks for no token: browsers send none with it.
    pub(super) fn allow(
        &self,
        allowed: &Methods,
        action: impl FnOnce() -> Result<Action, Refusal>,
    ) -> Result<Action, Refusal> {
        if self.head.method == Method::Options {
            return Ok(Action::Options(Extra::Preflight(allowed.names)));
        }
        if !allowed.methods.contains(&self.head.method) {
            let reason = format!("this path does not take this method; use {}", allowed.names);
            return Err(Refusal::new(Status::MethodNotAllowed, reason).with(Extra::Allow(allowed.names)));
        }
        action()
    }

    /// Returns what the request's token grants: of the query, the header, or the cookie where its name is given.
    pub(super) fn verify(&self, keys: &Keys, cookie_name: Option<&str>) -> Result<Grant, Refusal> {
        self.with_token(cookie_name, |token| keys.verify(token, (self.now_s)()))
    }

    /// Judges the request's token.
    pub(super) fn with_token<T>(
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
    pub(super) fn verify_insider(&self) -> Result<u64, Refusal> {
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
