//! Who may do what: JSON Web Tokens (RFC 7519) signed with HS256, and where a request carries one.

use std::borrow::Cow;
use std::fmt;

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, DecodingKey, TokenData, Validation, decode, decode_header};
use serde_json::{Map, Value};
use smallvec::SmallVec;
use thiserror::Error;

use crate::topic::{TOPICS_PER_STREAM_MAX, Topic};

/// Longest token that is looked at. A token of ours is under 200 bytes; one with an identity provider's
/// claims may be a few kilobytes.
const TOKEN_BYTES_MAX: usize = 8 * 1024;

/// The keys of one of the two secrets, the subscribers' or the publishers': the current one and, while
/// secrets are being rotated, the one before. `Debug` shows nothing of them.
pub(crate) struct Keys {
    current: DecodingKey,
    previous: Option<DecodingKey>,
    validation: Validation,
}

impl Keys {
    /// Keys made of the secrets' bytes as they are. The caller sees to it that no secret is empty: whoever
    /// knows that could sign.
    pub(crate) fn new(secret: &[u8], previous: Option<&[u8]>) -> Self {
        // The library compares times with a clock of its own and with leeway, and refuses any `aud`. `verify`
        // keeps to the times itself, and to whom a token is addressed is not this server's business.
        let mut validation = Validation::new(Algorithm::HS256);
        validation.required_spec_claims.clear();
        validation.validate_exp = false;
        validation.validate_nbf = false;
        validation.validate_aud = false;
        Keys {
            current: DecodingKey::from_secret(secret),
            previous: previous.map(DecodingKey::from_secret),
            validation,
        }
    }

    /// What a token grants at `now_s`, in Unix seconds: its signature must be right, `exp` be there and later
    /// than now, and `nbf`, where it is there, not be later than now (RFC 7519 4.1.4, 4.1.5). No leeway.
    /// Other claims are left alone.
    ///
    /// # Errors
    /// [`AuthError`] says why the token is refused. A token with a wrong signature is never told more than
    /// that.
    pub(crate) fn verify(&self, token: &str, now_s: u64) -> Result<Grant, AuthError> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(AuthError::TooLong);
        }
        let data = match (self.decode(token, &self.current), &self.previous) {
            (Err(AuthError::Signature), Some(previous)) => self.decode(token, previous),
            (data, _) => data,
        }?;
        // RFC 7515 4.1.11: what must be understood and is not, is refused. No extension is understood here.
        if data.header.crit.is_some() {
            return Err(AuthError::Critical);
        }
        let expires_s = whole_seconds(&data.claims, "exp")?.ok_or(AuthError::NoExpiry)?;
        if expires_s <= now_s {
            return Err(AuthError::Expired);
        }
        if whole_seconds(&data.claims, "nbf")?.is_some_and(|from_s| now_s < from_s) {
            return Err(AuthError::NotYet);
        }
        Ok(Grant { subs: subjects(&data.claims)?, expires_s })
    }

    fn decode(&self, token: &str, key: &DecodingKey) -> Result<TokenData<Map<String, Value>>, AuthError> {
        // A map and not a struct: serde would fill a struct from a JSON array too.
        decode(token, key, &self.validation).map_err(|error| match error.kind() {
            ErrorKind::InvalidSignature => AuthError::Signature,
            ErrorKind::InvalidAlgorithm => AuthError::Algorithm,
            // `"alg":"none"` and other algorithms unknown to the library fail as JSON of the wrong shape.
            ErrorKind::Json(_) if has_unknown_header(token) => AuthError::Algorithm,
            _ => AuthError::Malformed,
        })
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys").finish_non_exhaustive()
    }
}

/// What a verified token allows, until it expires.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Grant {
    subs: SmallVec<[String; 1]>,
    /// Unix seconds. At this moment the token is no longer good.
    pub(crate) expires_s: u64,
}

impl Grant {
    /// Whether the token is for this topic: its `sub`, or one of its `topics`, is `*`, the topic's id in any
    /// case, or the topic's path or one above it in the very case. One without both is for none. Everything
    /// needs `*`.
    pub(crate) fn covers(&self, topic: &Topic) -> bool {
        let is_path = topic.parent().is_some();
        self.subs.iter().any(|sub| {
            sub == "*"
                || topic.lineage().filter(|covered| !covered.is_everything()).any(|covered| {
                    // ASCII case alone: the Kelvin sign lower-cases to `k` and is not one.
                    if is_path { sub == covered.name() } else { sub.eq_ignore_ascii_case(covered.name()) }
                })
        })
    }
}

/// The token of a request: of `?token=` first, then of `Authorization: Bearer` (the scheme in any case, RFC
/// 9110 11.1), then of the cookie with the name given. The cookie's argument is the `Cookie` header's value
/// and the name; `None` where cookies are not taken.
///
/// The first one found is the token, whatever the others are, so a wrong one in the query is not mended by a
/// right cookie. An empty one counts as none, and another scheme of `Authorization`, such as a proxy's
/// `Basic`, too.
///
/// # Errors
/// [`AuthError::Missing`] without a token, [`AuthError::Malformed`] when the one found is not UTF-8.
pub(crate) fn token<'a>(
    query_token: Option<Cow<'a, str>>,
    authorization: Option<&'a [u8]>,
    cookie: Option<(&'a [u8], &str)>,
) -> Result<Cow<'a, str>, AuthError> {
    if let Some(token) = query_token.filter(|token| !token.is_empty()) {
        return Ok(token);
    }
    authorization
        .and_then(bearer)
        .or_else(|| cookie.and_then(|(header, name)| cookie_value(header, name)))
        .ok_or(AuthError::Missing)
        .and_then(|token| str::from_utf8(token).map_err(|_| AuthError::Malformed))
        .map(Cow::Borrowed)
}

/// Why a token is refused. `Display` is the one line for the person who sent it, and holds nothing of the
/// token.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
pub(crate) enum AuthError {
    /// No token in the request.
    #[error("no token: send one as ?token=... or as Authorization: Bearer ...")]
    Missing,
    /// Too long to be looked at.
    #[error("token longer than {TOKEN_BYTES_MAX} bytes: leave out claims; exp and sub are enough")]
    TooLong,
    /// Not three parts of base64url with JSON objects in the first two.
    #[error(
        "malformed token: send a JSON Web Token, three parts of base64url without padding, parted by dots"
    )]
    Malformed,
    /// Signed with another algorithm than HS256, or not at all.
    #[error("token with an algorithm that is not taken: sign it with HS256, and say so in its header's alg")]
    Algorithm,
    /// The signature is of another secret or of another text.
    #[error("wrong signature of the token: sign it with this server's secret for what is asked")]
    Signature,
    /// The header asks for an extension to be understood.
    #[error("token with a crit header: leave it out, no extension is supported")]
    Critical,
    /// No `exp`.
    #[error("token without exp: add one, in whole Unix seconds")]
    NoExpiry,
    /// `exp` or `nbf` is something else than a whole number from 0.
    #[error(
        "{claim} of the token is not a whole number: give it in Unix seconds, without quotes or a fraction"
    )]
    Time {
        /// Which of the two.
        claim: &'static str,
    },
    /// `sub` is not a string.
    #[error("sub of the token is not a string: set it to the topic")]
    Subject,
    /// `topics` is something else than an array of strings.
    #[error("topics of the token is not an array of strings: list the topics in it, or leave it out")]
    Topics,
    /// `topics` is too long an array.
    #[error(
        "topics of the token has more than {TOPICS_PER_STREAM_MAX} entries: list fewer, or set it to [\"*\"]"
    )]
    TooManyTopics,
    /// At or after `exp`.
    #[error("expired token: get a new one")]
    Expired,
    /// Before `nbf`.
    #[error("token not valid yet (nbf): wait, or check the clock of who made it")]
    NotYet,
}

/// Whether the header is JSON, but not what the library knows as a header.
fn has_unknown_header(token: &str) -> bool {
    decode_header(token).is_err_and(|error| matches!(error.kind(), ErrorKind::Json(json) if json.is_data()))
}

/// A time claim. RFC 7519 would let it have a fraction; it is in whole seconds here.
fn whole_seconds(claims: &Map<String, Value>, claim: &'static str) -> Result<Option<u64>, AuthError> {
    claims.get(claim).map(|value| value.as_u64().ok_or(AuthError::Time { claim })).transpose()
}

/// What a token is for: its `sub` and each of its `topics`.
fn subjects(claims: &Map<String, Value>) -> Result<SmallVec<[String; 1]>, AuthError> {
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

/// The credentials of the `Bearer` scheme (RFC 6750 2.1).
fn bearer(authorization: &[u8]) -> Option<&[u8]> {
    let authorization = authorization.trim_ascii();
    let (scheme, credentials) = authorization.split_at_checked("Bearer".len())?;
    if !scheme.eq_ignore_ascii_case(b"Bearer") || !credentials.starts_with(b" ") {
        return None;
    }
    Some(credentials.trim_ascii()).filter(|token| !token.is_empty())
}

/// The first non-empty cookie of this name (RFC 6265 4.2.1), without the quotes a value may have.
fn cookie_value<'a>(header: &'a [u8], name: &str) -> Option<&'a [u8]> {
    header.split(|byte| *byte == b';').find_map(|pair| {
        let value = pair.trim_ascii().strip_prefix(name.as_bytes())?.strip_prefix(b"=")?;
        let value = value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\"")).unwrap_or(value);
        Some(value).filter(|token| !token.is_empty())
    })
}

#[cfg(test)]
mod tests;
