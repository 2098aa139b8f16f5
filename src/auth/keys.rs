//! The keys that a token may be signed with, each for one algorithm.

use std::fmt;
use std::iter;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, DecodingKey, Validation, crypto, decode, decode_header};
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::claims::Claims;
use super::{AuthError, Grant, SessionGrant, Signers, TOKEN_BYTES_MAX, TokenTime};

/// The algorithms of all kinds of keys, by their names in a token's header (RFC 7518, section 3.1; RFC 8037).
const ALGORITHMS: [(Algorithm, &str); 4] = [
    (Algorithm::HS256, "HS256"),
    (Algorithm::RS256, "RS256"),
    (Algorithm::ES256, "ES256"),
    (Algorithm::EdDSA, "EdDSA"),
];

/// The keys of one kind of token: subscribers', publishers' or sessions'; [`Keyring`](super::Keyring) owns them. A
/// token is valid if one of them verifies it. `Debug` shows none of them.
pub(crate) struct Keys {
    keys: Vec<VerifyingKey>,
    pub(super) algorithms: Algorithms,
    leeway_s: u64,
}

impl Keys {
    /// Returns keys of the secrets, whose bytes are used as they are, and of the public keys; `None` when there are
    /// none. Times of tokens are taken with so many seconds of leeway.
    pub(crate) fn new(signers: &Signers, leeway_s: u64) -> Option<Self> {
        let pairs = signers.secret.iter();
        let secrets = pairs.flat_map(|pair| iter::once(&pair.current).chain(&pair.previous));
        let secrets = secrets
            .map(|secret| VerifyingKey::new(Algorithm::HS256, DecodingKey::from_secret(secret.expose())));
        let public_keys = signers.public_keys.iter();
        let public_keys = public_keys.map(|key| VerifyingKey::new(key.algorithm(), key.decoding_key()));
        let keys: Vec<VerifyingKey> = secrets.chain(public_keys).collect();
        (!keys.is_empty()).then(|| Keys { algorithms: Algorithms::of(&keys), keys, leeway_s })
    }

    /// Returns what a subscriber's or publisher's token grants at `now_s`, in Unix seconds. Its signature must be
    /// right, `exp` must be there and later than now, and `nbf`, where it is there, not later than now, both with the
    /// leeway. Claims other than these, `sub` and `topics` are ignored.
    ///
    /// # Errors
    /// [`AuthError`] says why the token is refused; for a wrong signature it says no more than that.
    pub(crate) fn verify(&self, token: &str, now_s: u64) -> Result<Grant, AuthError> {
        self.claims(token)?.grant(TokenTime { now_s, leeway_s: self.leeway_s })
    }

    /// Returns what a ticket grants at `now_s`, in Unix seconds, its number, and until when it admits.
    ///
    /// # Errors
    /// As [`Keys::verify`].
    pub(super) fn verify_ticket(&self, ticket: &str, now_s: u64) -> Result<(Grant, u128, u64), AuthError> {
        self.claims(ticket)?.ticket(TokenTime { now_s, leeway_s: self.leeway_s })
    }

    /// Returns whom a session token is for at `now_s`, in Unix seconds; verified as in [`Keys::verify`], with the
    /// claims `userId` and `channel`.
    ///
    /// # Errors
    /// As [`Keys::verify`].
    pub(crate) fn verify_session(&self, token: &str, now_s: u64) -> Result<SessionGrant, AuthError> {
        self.claims(token)?.session_grant(TokenTime { now_s, leeway_s: self.leeway_s })
    }

    /// Returns the claims of a token that one of the keys has signed.
    fn claims(&self, token: &str) -> Result<Claims, AuthError> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(AuthError::TooLong);
        }
        let mut refusal = AuthError::Algorithm(self.algorithms);
        for key in &self.keys {
            match key.claims(token) {
                Ok(claims) => return Ok(claims),
                Err(KeyError::Algorithm) => {}
                Err(KeyError::Signature) => refusal = AuthError::Signature,
                Err(KeyError::Token(error)) => return Err(error),
            }
        }
        Err(refusal)
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys").finish_non_exhaustive()
    }
}

/// The algorithms that a kind of token may be signed with: those of its keys.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Algorithms([Option<&'static str>; ALGORITHMS.len()]);

impl Algorithms {
    fn of(keys: &[VerifyingKey]) -> Self {
        Algorithms(ALGORITHMS.map(|(algorithm, name)| {
            let is_taken = keys.iter().any(|key| key.validation.algorithms.contains(&algorithm));
            is_taken.then_some(name)
        }))
    }
}

impl fmt::Display for Algorithms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, name) in self.0.iter().flatten().enumerate() {
            if n > 0 {
                f.write_str(" or ")?;
            }
            f.write_str(name)?;
        }
        Ok(())
    }
}

/// A key, and the algorithm that tokens signed with it must name.
struct VerifyingKey {
    key: DecodingKey,
    /// Holds the one algorithm that this key verifies by. It follows from the key's type and never from a token;
    /// otherwise a public key, which everybody knows, could be used as a secret.
    validation: Validation,
}

/// The reason why a key does not accept a token.
enum KeyError {
    /// It names another algorithm, which may be another key's.
    Algorithm,
    /// Its signature is another key's or nobody's.
    Signature,
    /// Every key refuses it.
    Token(AuthError),
}

impl VerifyingKey {
    fn new(algorithm: Algorithm, key: DecodingKey) -> Self {
        // The library compares times by its own clock and with leeway, and refuses any `aud`. `Claims` checks the times
        // itself, and whom a token is addressed to does not concern this server.
        let mut validation = Validation::new(algorithm);
        validation.required_spec_claims.clear();
        validation.validate_exp = false;
        validation.validate_nbf = false;
        validation.validate_aud = false;
        VerifyingKey { key, validation }
    }

    fn claims(&self, token: &str) -> Result<Claims, KeyError> {
        let data = decode(token, &self.key, &self.validation).map_err(|error| match error.kind() {
            ErrorKind::InvalidSignature => KeyError::Signature,
            ErrorKind::InvalidAlgorithm => KeyError::Algorithm,
            // `"alg":"none"` and other algorithms unknown to the library fail as JSON of the wrong shape.
            ErrorKind::Json(_) if has_unknown_header(token) => KeyError::Algorithm,
            _ => KeyError::Token(AuthError::Malformed),
        });
        let data = match data {
            Err(KeyError::Algorithm) => {
                return self.ed25519_claims(token).unwrap_or(Err(KeyError::Algorithm));
            }
            data => data?,
        };
        // RFC 7515, section 4.1.11: a critical extension that is not understood is refused. No extension is understood
        // here.
        match data.header.crit {
            Some(_) => Err(KeyError::Token(AuthError::Critical)),
            None => Ok(data.claims),
        }
    }

    /// Returns the claims of a token that calls EdDSA's one curve here by its new name (RFC 9864, section 2.2), which the
    /// library does not know; `None` for any other token or key.
    fn ed25519_claims(&self, token: &str) -> Option<Result<Claims, KeyError>> {
        let (message, signature) = token.rsplit_once('.')?;
        let (header, payload) = message.split_once('.')?;
        let header = BASE64_URL_SAFE_NO_PAD.decode(header).ok()?;
        let Ed25519Header { alg, crit } = serde_json::from_slice(&header).ok()?;
        if alg != "Ed25519" || !self.validation.algorithms.contains(&Algorithm::EdDSA) {
            return None;
        }
        let malformed = KeyError::Token(AuthError::Malformed);
        let is_signed = crypto::verify(signature, message.as_bytes(), &self.key, Algorithm::EdDSA);
        Some(match is_signed {
            Ok(true) if crit.is_some() => Err(KeyError::Token(AuthError::Critical)),
            Ok(true) => BASE64_URL_SAFE_NO_PAD
                .decode(payload)
                .ok()
                .and_then(|claims| serde_json::from_slice(&claims).ok())
                .ok_or(malformed),
            Ok(false) => Err(KeyError::Signature),
            Err(_) => Err(malformed),
        })
    }
}

/// The fields of a token's header by which `Ed25519` tokens are recognized.
#[derive(Deserialize)]
struct Ed25519Header {
    alg: String,
    crit: Option<IgnoredAny>,
}

/// Returns whether the header is JSON, but not a header that the library knows.
fn has_unknown_header(token: &str) -> bool {
    decode_header(token).is_err_and(|error| matches!(error.kind(), ErrorKind::Json(json) if json.is_data()))
}

#[cfg(test)]
mod tests;
