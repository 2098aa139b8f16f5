//! The keys of one kind of token: public keys, and secrets, which are never shown; and the parties it must be from and for.

use std::fmt;

use super::{JwksUrl, PublicKey};
use crate::core::random::random_key;

/// The secrets and keys that tokens of one kind may be signed with, any of these, and the claims that all of them need.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Signers {
    /// A secret, for HS256, HS384 and HS512.
    pub secret: Option<SecretPair>,
    /// Public keys, whose type decides the algorithms of each.
    pub public_keys: Vec<PublicKey>,
    /// The URL at which an identity provider publishes further keys, which are fetched again and again.
    pub jwks_url: Option<JwksUrl>,
    /// A token must be for one of these (its claim `aud`); none: it may be for anybody.
    pub audiences: Vec<String>,
    /// A token must be from one of these (its claim `iss`); none: it may be from anybody.
    pub issuers: Vec<String>,
}

impl Signers {
    /// Returns whether there is neither a secret nor a key, nor a place to fetch keys from.
    pub fn is_empty(&self) -> bool {
        self.secret.is_none() && self.public_keys.is_empty() && self.jwks_url.is_none()
    }
}

/// A secret as its variable or its file gave it; never empty. Printing one, by `{}` or `{:?}`, shows `***`.
#[derive(Clone, Eq, PartialEq)]
pub struct Secret(String);

impl Secret {
    /// Returns `None` for an empty text: with it anybody could sign.
    pub fn new(text: impl Into<String>) -> Option<Self> {
        let text = text.into();
        if text.is_empty() { None } else { Some(Self(text)) }
    }

    /// Returns a secret of 128 random bits.
    pub(crate) fn random() -> Self {
        Self(format!("{:032x}", u128::from_ne_bytes(random_key())))
    }

    /// Returns the bytes to make a key of. Nothing else needs them.
    pub fn expose(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// A side's secret and the previous one, whose tokens are still accepted while the secret is being changed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SecretPair {
    /// The secret new tokens are signed with.
    pub current: Secret,
    /// The secret older tokens were signed with.
    pub previous: Option<Secret>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_never_printed() {
        let secret = Secret::new("hunter2").unwrap();
        let pair = SecretPair { current: secret.clone(), previous: Some(secret.clone()) };
        assert_eq!(format!("{secret} {secret:?} {secret:#?}"), "*** *** ***");
        assert!(!format!("{pair:#?}").contains("hunter2"));
        assert_eq!(secret.expose(), b"hunter2");
    }

    #[test]
    fn an_empty_secret_is_none() {
        assert_eq!(Secret::new(""), None);
    }
}
