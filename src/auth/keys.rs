//! The keys that a token may be signed with.

use std::fmt;
use std::iter;
use std::sync::Arc;

use jsonwebtoken::DecodingKey;

use super::algorithm::{NotBase64, Verifier};
use super::claims::Claims;
use super::token_text::TokenText;
use super::{
    Algorithms, AuthError, Grant, KeyProvider, PublicKey, SessionGrant, Signers, TOKEN_BYTES_DEFAULT,
    TokenTime,
};

/// The keys of one kind of token: subscribers', publishers' or sessions'; [`Keyring`](super::Keyring) owns them. A
/// token is valid if one of them verifies it. `Debug` shows none of them.
pub(crate) struct Keys {
    keys: Vec<VerifyingKey>,
    pub(super) algorithms: Algorithms,
    leeway_s: u64,
    token_bytes_max: usize,
    audiences: Vec<String>,
    issuers: Vec<String>,
    /// The identity provider whose keys are fetched.
    provider: Option<Arc<KeyProvider>>,
}

/// A key, and the algorithms by which it verifies. They follow from the key and never from a token; otherwise a public
/// key, which everybody knows, could be used as a secret.
struct VerifyingKey {
    verifier: Verifier,
    algorithms: Algorithms,
    /// The name that a token must call it by, if it calls its key by any; `None`: whatever the token says.
    key_id: Option<Box<str>>,
}

impl Keys {
    /// Returns keys of the secrets, whose bytes are used as they are, and of the public keys; `None` when there are
    /// neither these nor a provider's. Times of tokens are taken with so many seconds of leeway.
    pub(crate) fn new(signers: &Signers, leeway_s: u64) -> Option<Self> {
        if signers.is_empty() {
            return None;
        }
        let pairs = signers.secret.iter();
        let secrets = pairs.flat_map(|pair| iter::once(&pair.current).chain(&pair.previous));
        let secrets = secrets.map(|secret| VerifyingKey {
            verifier: Verifier::Library(DecodingKey::from_secret(secret.expose())),
            algorithms: Algorithms::HMAC,
            key_id: None,
        });
        let mut keys = Keys {
            keys: secrets.collect(),
            algorithms: Algorithms::default(),
            leeway_s,
            token_bytes_max: TOKEN_BYTES_DEFAULT,
            audiences: signers.audiences.clone(),
            issuers: signers.issuers.clone(),
            provider: None,
        };
        keys.add(&signers.public_keys);
        Some(keys)
    }

    /// Returns the keys with tokens of up to so many bytes.
    pub(super) fn up_to(self, token_bytes_max: usize) -> Self {
        Keys { token_bytes_max, ..self }
    }

    /// Returns the keys with those that were fetched from this provider.
    pub(super) fn with_fetched(mut self, provider: &Arc<KeyProvider>, public_keys: &[PublicKey]) -> Self {
        self.add(public_keys);
        self.provider = Some(Arc::clone(provider));
        self
    }

    fn add(&mut self, public_keys: &[PublicKey]) {
        self.keys.extend(public_keys.iter().filter_map(|key| {
            let (algorithms, key_id) = (key.algorithms(), key.key_id().map(Box::from));
            Some(VerifyingKey { verifier: key.verifier()?, algorithms, key_id })
        }));
        let algorithms = self.keys.iter().map(|key| key.algorithms);
        self.algorithms = algorithms.fold(Algorithms::default(), Algorithms::or);
    }

    /// Returns what a subscriber's or publisher's token grants at `now_s`, in Unix seconds. Its signature must be
    /// right, `exp` must be there and later than now, and `nbf`, where it is there, not later than now, both with the
    /// leeway; `iss` and `aud` must be one of those that are asked for. Claims other than these, `sub` and `topics` are
    /// ignored.
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
        let bytes_max = self.token_bytes_max;
        if token.len() > bytes_max {
            return Err(AuthError::TooLong { bytes_max });
        }
        let token = TokenText::read(token)?;
        let named = token.header.alg.as_deref().map(Algorithms::named).unwrap_or_default();
        let Some(algorithm) = named.first() else {
            return Err(AuthError::Algorithm(self.algorithms));
        };
        let mut refusal = match named.and(self.algorithms).is_empty() {
            true => AuthError::Algorithm(self.algorithms),
            false => AuthError::UnknownKey,
        };
        for key in self.keys.iter().filter(|key| key.may_have_signed(named, &token)) {
            match key.verifier.verify(algorithm, token.message, token.signature) {
                Ok(true) => return self.accepted(&token),
                Ok(false) => refusal = AuthError::Signature,
                Err(NotBase64) => return Err(AuthError::Malformed),
            }
        }
        Err(self.unsigned(named, &token, refusal))
    }

    /// Returns the claims of a token whose signature is right.
    fn accepted(&self, token: &TokenText<'_>) -> Result<Claims, AuthError> {
        // RFC 7515, section 4.1.11: a critical extension that is not understood is refused.
        if token.header.is_critical {
            return Err(AuthError::Critical);
        }
        let claims = token.claims()?;
        claims.check_parties(&self.audiences, &self.issuers)?;
        Ok(claims)
    }

    /// Returns the refusal of a token that no key here has signed: `refusal`, unless a key that is still to be fetched may
    /// have signed it.
    fn unsigned(&self, named: Algorithms, token: &TokenText<'_>, refusal: AuthError) -> AuthError {
        // A provider has public keys alone.
        let is_public = named.and(Algorithms::HMAC).is_empty();
        let Some(provider) = self.provider.as_ref().filter(|_| is_public) else { return refusal };
        let is_known = |key_id: &str| self.keys.iter().any(|key| key.key_id.as_deref() == Some(key_id));
        match token.header.kid.as_deref() {
            Some(key_id) if is_known(key_id) => refusal,
            Some(key_id) => {
                let may_come = provider.ask_for(key_id);
                match (provider.is_fetched(), may_come) {
                    (false, _) => AuthError::NoKeysYet,
                    (true, true) => AuthError::KeyAsked,
                    (true, false) => AuthError::UnknownKey,
                }
            }
            None if provider.is_fetched() => refusal,
            None => AuthError::NoKeysYet,
        }
    }
}

impl VerifyingKey {
    /// Returns whether it is worth a try: the token names an algorithm of it, and does not call its key by another name.
    fn may_have_signed(&self, named: Algorithms, token: &TokenText<'_>) -> bool {
        let is_named_otherwise = |key_id: &str| token.header.kid.as_deref().is_some_and(|kid| kid != key_id);
        !named.and(self.algorithms).is_empty() && !self.key_id.as_deref().is_some_and(is_named_otherwise)
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
