//! A token's claims, read once its signature is verified.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};
use serde_json::{Map, Value};
use smallvec::SmallVec;

use super::{AuthError, Grant, SessionGrant, TokenTime};
use crate::core::session::Session;
use crate::core::topic::TOPICS_PER_STREAM_MAX;

/// A token's claims: a JSON object in which no name occurs twice.
pub(super) struct Claims(Map<String, Value>);

impl Claims {
    /// Checks that a token is for one of these audiences and from one of these issuers (RFC 7519, sections 4.1.1 and 4.1.3);
    /// where there are none it may be for, and from, anybody.
    ///
    /// # Errors
    /// [`AuthError`] names the claim.
    pub(super) fn check_parties(&self, audiences: &[String], issuers: &[String]) -> Result<(), AuthError> {
        let is_one_of = |known: &[String], value: &Value| {
            value.as_str().is_some_and(|value| known.iter().any(|known| known == value))
        };
        if !issuers.is_empty() {
            let issuer = self.0.get("iss").ok_or(AuthError::NoParty { claim: "iss" })?;
            if !is_one_of(issuers, issuer) {
                return Err(AuthError::Issuer);
            }
        }
        if !audiences.is_empty() {
            let is_for_us = match self.0.get("aud").ok_or(AuthError::NoParty { claim: "aud" })? {
                Value::Array(list) => list.iter().any(|one| is_one_of(audiences, one)),
                one => is_one_of(audiences, one),
            };
            if !is_for_us {
                return Err(AuthError::Audience);
            }
        }
        Ok(())
    }

    /// Returns what a subscriber's or publisher's token grants at this time.
    ///
    /// # Errors
    /// [`AuthError`] names the claim.
    pub(super) fn grant(&self, now: TokenTime) -> Result<Grant, AuthError> {
        let expires_s = self.expires_s(now, seconds)?;
        Ok(Grant { subs: self.subjects()?, has_sub: self.0.contains_key("sub"), expires_s })
    }

    /// Returns what a ticket grants at this time, its number, and until when it admits, in Unix seconds.
    ///
    /// # Errors
    /// [`AuthError`] names the claim.
    pub(super) fn ticket(&self, now: TokenTime) -> Result<(Grant, u128, u64), AuthError> {
        let id = self.0.get("jti").and_then(Value::as_str).and_then(|id| u128::from_str_radix(id, 16).ok());
        let admits_until_s = self.0.get("admit").and_then(Value::as_u64);
        let (id, admits_until_s) = id.zip(admits_until_s).ok_or(AuthError::Malformed)?;
        Ok((self.grant(now)?, id, admits_until_s))
    }

    /// Returns what a session token grants at this time. Its `exp` may also be a string of digits.
    ///
    /// # Errors
    /// [`AuthError`] names the claim.
    pub(super) fn session_grant(&self, now: TokenTime) -> Result<SessionGrant, AuthError> {
        let expires_s = self.expires_s(now, |exp| exp.as_str().map_or_else(|| seconds(exp), digits))?;
        let (user, channel) = (self.text("userId")?, self.text("channel")?);
        let session = Session::new(user, channel).map_err(AuthError::Name)?;
        Ok(SessionGrant { session, expires_s })
    }

    /// Returns when the token is no longer taken, in Unix seconds: the leeway after `exp`. `exp` must be there and later
    /// than now, and `nbf`, where it is there, not later than now (RFC 7519, sections 4.1.4 and 4.1.5).
    fn expires_s(
        &self,
        TokenTime { now_s, leeway_s }: TokenTime,
        read: impl Fn(&Value) -> Option<u64>,
    ) -> Result<u64, AuthError> {
        let exp = self.0.get("exp").ok_or(AuthError::NoExpiry)?;
        let expires_s = read(exp).ok_or(AuthError::Time { claim: "exp" })?.saturating_add(leeway_s);
        if expires_s <= now_s {
            return Err(AuthError::Expired);
        }
        let from_s = self.0.get("nbf").map(|nbf| seconds(nbf).ok_or(AuthError::Time { claim: "nbf" }));
        if from_s.transpose()?.is_some_and(|from_s| now_s.saturating_add(leeway_s) < from_s) {
            return Err(AuthError::NotYet);
        }
        Ok(expires_s)
    }

    /// Returns the topics of a token: its `sub` and each of its `topics`.
    fn subjects(&self) -> Result<SmallVec<[String; 1]>, AuthError> {
        let claims = &self.0;
        let mut subs = SmallVec::new();
        match claims.get("sub") {
            None => {}
            Some(Value::String(sub)) => subs.push(sub.clone()),
            Some(_) => return Err(AuthError::Subject),
        }
        match claims.get("topics") {
            None => {}
            Some(Value::Array(topics)) if topics.len() > TOPICS_PER_STREAM_MAX => {
                return Err(AuthError::TooManyTopics);
            }
            Some(Value::Array(topics)) => {
                for topic in topics {
                    subs.push(topic.as_str().ok_or(AuthError::Topics)?.to_owned());
                }
            }
            Some(_) => return Err(AuthError::Topics),
        }
        Ok(subs)
    }

    fn text(&self, claim: &'static str) -> Result<&str, AuthError> {
        let value = self.0.get(claim).ok_or(AuthError::NoName { claim })?;
        value.as_str().ok_or(AuthError::Text { claim })
    }
}

impl<'de> Deserialize<'de> for Claims {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ClaimsVisitor)
    }
}

struct ClaimsVisitor;

impl<'de> Visitor<'de> for ClaimsVisitor {
    type Value = Claims;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Claims, A::Error> {
        let mut claims = Map::new();
        while let Some((name, value)) = map.next_entry()? {
            // RFC 7519, section 4: the signer may have meant the first one and not the last.
            if claims.insert(name, value).is_some() {
                return Err(A::Error::custom("a claim stands twice"));
            }
        }
        Ok(Claims(claims))
    }
}

/// Reads a NumericDate, which may have a fraction (RFC 7519, section 2), as whole seconds; `None` below 0.
fn seconds(value: &Value) -> Option<u64> {
    // Rounded down; a number too large for 64 bits becomes their largest.
    value.as_u64().or_else(|| value.as_f64().filter(|seconds| *seconds >= 0.0).map(|seconds| seconds as u64))
}

/// Parses a whole number in ASCII digits alone: without a sign, a space or a fraction.
fn digits(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}
