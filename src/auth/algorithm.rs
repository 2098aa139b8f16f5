//! The algorithms by which tokens are signed (RFC 7518, section 3.1; RFC 8037; RFC 9864), and keys that verify by them.

use std::fmt;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey, crypto};
use p521::ecdsa::signature::Verifier as _;
use p521::ecdsa::{Signature, VerifyingKey as P521Key};

/// An algorithm by which tokens are signed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum TokenAlgorithm {
    /// An algorithm that the library knows.
    Library(Algorithm),
    /// ECDSA on the curve P-521, which the library does not know.
    Es512,
}

use TokenAlgorithm::{Es512, Library};

/// All algorithms, by their names in a token's header.
const NAMES: [(&str, TokenAlgorithm); 13] = [
    ("HS256", Library(Algorithm::HS256)),
    ("HS384", Library(Algorithm::HS384)),
    ("HS512", Library(Algorithm::HS512)),
    ("RS256", Library(Algorithm::RS256)),
    ("RS384", Library(Algorithm::RS384)),
    ("RS512", Library(Algorithm::RS512)),
    ("PS256", Library(Algorithm::PS256)),
    ("PS384", Library(Algorithm::PS384)),
    ("PS512", Library(Algorithm::PS512)),
    ("ES256", Library(Algorithm::ES256)),
    ("ES384", Library(Algorithm::ES384)),
    ("ES512", Es512),
    ("EdDSA", Library(Algorithm::EdDSA)),
];

/// The newer name of EdDSA with its one curve here (RFC 9864, section 2.2).
const ED25519: &str = "Ed25519";

/// Some of the algorithms: those of a key, or of all keys of a kind of token. `Display` lists their names.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Algorithms(u16);

impl Algorithms {
    pub(crate) const HMAC: Self = Self(0b111);
    pub(crate) const RSA: Self = Self(0b1_1111_1000);
    pub(crate) const P256: Self = Self(1 << 9);
    pub(crate) const P384: Self = Self(1 << 10);
    pub(crate) const P521: Self = Self(1 << 11);
    pub(crate) const ED25519: Self = Self(1 << 12);

    /// Returns the one algorithm of this name; none for a name that is not known.
    pub(crate) fn named(name: &str) -> Self {
        let name = if name == ED25519 { "EdDSA" } else { name };
        let index = NAMES.iter().position(|(known, _)| *known == name);
        index.map_or(Self::default(), |index| Self(1 << index))
    }

    pub(crate) fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Returns those that are in both.
    pub(crate) fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Returns those that are in either.
    pub(crate) fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Returns the algorithms one by one, each with its name.
    fn each(self) -> impl Iterator<Item = &'static (&'static str, TokenAlgorithm)> {
        NAMES.iter().enumerate().filter(move |(index, _)| self.0 & (1 << index) != 0).map(|(_, named)| named)
    }

    /// Returns the first of them.
    pub(crate) fn first(self) -> Option<TokenAlgorithm> {
        self.each().next().map(|(_, algorithm)| *algorithm)
    }
}

impl fmt::Display for Algorithms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.each().map(|(name, _)| *name).collect();
        match &names[..] {
            [] => f.write_str("the algorithm of a key"),
            [name] => f.write_str(name),
            [names @ .., last] => write!(f, "{} or {last}", names.join(", ")),
        }
    }
}

/// A key in the form that verifies signatures. `Debug` does not show it.
pub(super) enum Verifier {
    Library(DecodingKey),
    P521(Box<P521Key>),
}

/// The refusal of a signature that is not base64url without padding.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct NotBase64;

impl Verifier {
    /// Returns the verifier of a point on P-521 (SEC 1, 2.3.3); `None` for anything else.
    pub(super) fn p521(point: &[u8]) -> Option<Self> {
        P521Key::from_sec1_bytes(point).ok().map(|key| Self::P521(Box::new(key)))
    }

    /// Returns whether the signature of a message is this key's. It never is for an algorithm of other keys: a public key,
    /// which everybody knows, must not be taken for a secret.
    ///
    /// # Errors
    /// The signature is not base64url.
    pub(super) fn verify(
        &self,
        algorithm: TokenAlgorithm,
        message: &str,
        signature: &str,
    ) -> Result<bool, NotBase64> {
        match (self, algorithm) {
            (Self::Library(key), Library(algorithm)) if key.family() == algorithm.family() => {
                crypto::verify(signature, message.as_bytes(), key, algorithm).map_err(|_| NotBase64)
            }
            (Self::P521(key), Es512) => {
                let signature = BASE64_URL_SAFE_NO_PAD.decode(signature).map_err(|_| NotBase64)?;
                let signature = Signature::from_slice(&signature);
                Ok(signature.is_ok_and(|signature| key.verify(message.as_bytes(), &signature).is_ok()))
            }
            _ => Ok(false),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_algorithms_of_each_type_of_key_are_told_by_their_names() {
        for (algorithms, expected) in [
            (Algorithms::HMAC, "HS256, HS384 or HS512"),
            (Algorithms::RSA, "RS256, RS384, RS512, PS256, PS384 or PS512"),
            (Algorithms::P256, "ES256"),
            (Algorithms::P384, "ES384"),
            (Algorithms::P521, "ES512"),
            (Algorithms::ED25519, "EdDSA"),
            (Algorithms::P256.or(Algorithms::ED25519), "ES256 or EdDSA"),
        ] {
            assert_eq!(algorithms.to_string(), expected);
        }
    }

    #[test]
    fn a_name_is_known_in_its_own_case_alone() {
        for (name, algorithm) in NAMES {
            assert_eq!(Algorithms::named(name).first(), Some(algorithm), "{name}");
            assert!(Algorithms::named(&name.to_lowercase()).is_empty(), "{name}");
        }
        assert_eq!(Algorithms::named("Ed25519"), Algorithms::ED25519);
        for name in ["none", "None", "", "HS1", "ES256K", "Ed448", "RSA-OAEP", "HS256 ", "ed25519"] {
            assert!(Algorithms::named(name).is_empty(), "{name}");
        }
    }
}
