//! A token's parts (RFC 7515, section 7.1): found and read, but not verified.

use std::fmt;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde::de::{Deserialize, Deserializer, IgnoredAny};

use super::AuthError;
use super::claims::Claims;

/// A token whose header is read. Nothing of it is to be believed.
pub(super) struct TokenText<'a> {
    pub(super) header: TokenHeader,
    /// The text that is signed: header and claims.
    pub(super) message: &'a str,
    pub(super) signature: &'a str,
    claims: &'a str,
}

/// The members of a token's header that count. Keys in a header (`jwk`), and places of keys (`jku`, `x5u`, `x5c`), do not:
/// whoever signs may write anything there.
#[derive(serde::Deserialize)]
pub(super) struct TokenHeader {
    pub(super) alg: Option<String>,
    /// The name of the key that signed it; compared with those of known keys, and used for nothing else.
    pub(super) kid: Option<String>,
    /// Set if there are extensions that must be understood; none is.
    #[serde(default, rename = "crit", deserialize_with = "is_there")]
    pub(super) is_critical: bool,
}

impl<'a> TokenText<'a> {
    /// Reads a token's header.
    ///
    /// # Errors
    /// [`AuthError::Malformed`]: it is not three parts, or the first is not the base64url of a JSON object in which each of
    /// these members stands once.
    pub(super) fn read(token: &'a str) -> Result<Self, AuthError> {
        let parts = |text: &'a str| text.rsplit_once('.').ok_or(AuthError::Malformed);
        let (message, signature) = parts(token)?;
        let (header, claims) = parts(message)?;
        Ok(TokenText { header: json(header)?, message, signature, claims })
    }

    /// Returns its claims, for one whose signature was verified.
    ///
    /// # Errors
    /// [`AuthError::Malformed`].
    pub(super) fn claims(&self) -> Result<Claims, AuthError> {
        json(self.claims)
    }
}

impl fmt::Debug for TokenText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenText").finish_non_exhaustive()
    }
}

/// Reads the JSON object of a part.
fn json<T: for<'de> Deserialize<'de>>(part: &str) -> Result<T, AuthError> {
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(part).map_err(|_| AuthError::Malformed)?;
    // An array would do for an object otherwise.
    let is_object = bytes.trim_ascii_start().starts_with(b"{");
    is_object.then(|| serde_json::from_slice(&bytes).ok()).flatten().ok_or(AuthError::Malformed)
}

fn is_there<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    IgnoredAny::deserialize(deserializer).map(|_| true)
}
