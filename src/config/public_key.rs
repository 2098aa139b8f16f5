//! Public keys that verify tokens: read from PEM, their type known.

/// A public key and its type, which alone says by which algorithm a token is verified.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PublicKey {
    key_type: KeyType,
    /// One PEM block, `BEGIN PUBLIC KEY` (RFC 7468, section 13).
    pem: String,
}

/// The type of a public key.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum KeyType {
    /// RSA of at least 2048 bits, for RS256.
    Rsa,
    /// On the curve P-256, for ES256.
    P256,
    /// Ed25519, for EdDSA.
    Ed25519,
}

impl PublicKey {
    /// Its type.
    pub fn key_type(&self) -> KeyType {
        self.key_type
    }

    /// As PEM.
    pub fn pem(&self) -> &str {
        &self.pem
    }
}
