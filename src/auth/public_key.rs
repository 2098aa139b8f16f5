//! Public keys that verify tokens, each with its type: read from PEM (RFC 7468), or made of a JWK.

use std::ops::RangeInclusive;

use jsonwebtoken::DecodingKey;
use jsonwebtoken::crypto::rust_crypto::DEFAULT_PROVIDER;
use pem::Pem;
use spki::der::asn1::UintRef;
use spki::der::{Decode, Reader, SliceReader};
use spki::{ObjectIdentifier, SubjectPublicKeyInfoRef};

use super::algorithm::{Algorithms, TokenAlgorithm, Verifier};

/// The most keys of one file: a forged token is tried with each key of its algorithm.
const KEYS_MAX: usize = 8;

/// The bits of an RSA key. RFC 7518, section 3.3, requires the lower end; the library verifies up to the upper.
const RSA_BITS: RangeInclusive<usize> = 2048..=4096;

const RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
const EC: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
const P256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7");
const P384: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.34");
const P521: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.35");
const ED25519: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.101.112");

/// Keys of other kinds that people may give, by the object identifier of the key's type or of its curve.
const OTHERS: [(ObjectIdentifier, &str); 7] = [
    (ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.10"), "an RSA-PSS key"),
    (ObjectIdentifier::new_unwrap("1.2.840.10040.4.1"), "a DSA key"),
    (ObjectIdentifier::new_unwrap("1.3.101.110"), "an X25519 key"),
    (ObjectIdentifier::new_unwrap("1.3.101.111"), "an X448 key"),
    (ObjectIdentifier::new_unwrap("1.3.101.113"), "an Ed448 key"),
    (ObjectIdentifier::new_unwrap("1.3.132.0.10"), "a key on the curve secp256k1"),
    (ObjectIdentifier::new_unwrap("1.3.132.0.33"), "a key on the curve P-224"),
];

// Why keys are refused, each with the remedy.
const PRIVATE: &str =
    "this is a private key: give its public half alone, which openssl pkey -in KEY -pubout writes";
const CERTIFICATE: &str =
    "this is a certificate: give its key, which openssl x509 -in CERT -pubkey -noout writes";
const NO_BLOCK: &str =
    "no PEM block in it: give -----BEGIN PUBLIC KEY-----, as openssl pkey -in KEY -pubout writes it";
const OTHER_BLOCK: &str = "this is no public key: give -----BEGIN PUBLIC KEY-----";
const DAMAGED_BLOCK: &str =
    "a PEM block is damaged: give it from its BEGIN to its END line, base64 between them";
const DAMAGED_KEY: &str = "the key is damaged: give it as openssl pkey -in KEY -pubout writes it";
const NO_CURVE: &str = "this key does not name its curve: write it anew by openssl ec -pubin -in KEY \
                        -param_enc named_curve";
const BAD_NUMBERS: &str = "the key's numbers are no key: give another copy of it";

/// A public key and its type, which alone decides the algorithms that verify a token.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PublicKey {
    key_type: KeyType,
    /// By type: an `RSAPublicKey` (RFC 8017, A.1.1), a point (SEC 1, 2.3.3), or the 32 bytes of RFC 8032.
    bytes: Vec<u8>,
    /// The name by which tokens say that it signed them; `None` for one that has no name.
    key_id: Option<Box<str>>,
    /// The algorithms of its type, or the one that a JWK names.
    algorithms: Algorithms,
}

/// The type of a public key.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum KeyType {
    /// RSA of 2048 to 4096 bits, for RS256, RS384, RS512, PS256, PS384 and PS512.
    Rsa,
    /// On the curve P-256, for ES256.
    P256,
    /// On the curve P-384, for ES384.
    P384,
    /// On the curve P-521, for ES512.
    P521,
    /// Ed25519, for EdDSA.
    Ed25519,
}

impl KeyType {
    fn algorithms(self) -> Algorithms {
        match self {
            KeyType::Rsa => Algorithms::RSA,
            KeyType::P256 => Algorithms::P256,
            KeyType::P384 => Algorithms::P384,
            KeyType::P521 => Algorithms::P521,
            KeyType::Ed25519 => Algorithms::ED25519,
        }
    }
}

impl PublicKey {
    /// Returns the keys of a PEM file: 1 to 8 blocks `BEGIN PUBLIC KEY` (RFC 7468, section 13) or `BEGIN RSA PUBLIC
    /// KEY` (RFC 8017, A.1.1). Text around the blocks is ignored.
    ///
    /// # Errors
    /// One line that says what is wrong and what to give instead, and shows nothing of the text.
    pub fn list_from_pem(text: &str) -> Result<Vec<PublicKey>, String> {
        // Checked first: whoever gives a private key must learn of that before anything else.
        if text.contains("PRIVATE KEY-----") {
            return Err(PRIVATE.to_owned());
        }
        // The parser silently skips a block without its end.
        let is_whole = |blocks: &Vec<Pem>| blocks.len() == text.matches("-----BEGIN ").count();
        let blocks = pem::parse_many(text).ok().filter(is_whole).ok_or(DAMAGED_BLOCK)?;
        match blocks.as_slice() {
            [] => Err(NO_BLOCK.to_owned()),
            [block] => Ok(vec![PublicKey::from_block(block)?]),
            blocks if blocks.len() > KEYS_MAX => {
                Err(format!("{} keys: give at most {KEYS_MAX}", blocks.len()))
            }
            blocks => {
                let say_which = |n, error| format!("block {n} of {}: {error}", blocks.len());
                let keys = (1..).zip(blocks);
                keys.map(|(n, block)| PublicKey::from_block(block).map_err(|error| say_which(n, error)))
                    .collect()
            }
        }
    }

    /// Returns its type.
    pub fn key_type(&self) -> KeyType {
        self.key_type
    }

    /// Returns the key of this type and these bytes, without a name.
    ///
    /// # Errors
    /// It cannot verify, or is too short or too long.
    pub(super) fn new(key_type: KeyType, bytes: Vec<u8>) -> Result<PublicKey, String> {
        let key = PublicKey { key_type, bytes, key_id: None, algorithms: key_type.algorithms() };
        key.check()?;
        Ok(key)
    }

    /// Returns the key with the name that tokens call it by, for these algorithms alone.
    pub(super) fn with(self, key_id: Option<Box<str>>, algorithms: Algorithms) -> PublicKey {
        PublicKey { key_id, algorithms, ..self }
    }

    /// Returns the name by which tokens say that it signed them.
    pub(super) fn key_id(&self) -> Option<&str> {
        self.key_id.as_deref()
    }

    /// Returns the algorithms that its tokens are signed with.
    pub(super) fn algorithms(&self) -> Algorithms {
        self.algorithms
    }

    /// Returns what verifies with it; `None` for a key that cannot, which was refused when it was read.
    pub(super) fn verifier(&self) -> Option<Verifier> {
        Some(Verifier::Library(match self.key_type {
            KeyType::Rsa => DecodingKey::from_rsa_der(&self.bytes),
            KeyType::P256 | KeyType::P384 => DecodingKey::from_ec_der(&self.bytes),
            KeyType::P521 => return Verifier::p521(&self.bytes),
            KeyType::Ed25519 => DecodingKey::from_ed_der(&self.bytes),
        }))
    }

    fn from_block(block: &Pem) -> Result<PublicKey, String> {
        match block.tag() {
            "PUBLIC KEY" => PublicKey::from_info(block.contents()),
            "RSA PUBLIC KEY" => PublicKey::new(KeyType::Rsa, block.contents().to_vec()),
            "CERTIFICATE" | "X509 CERTIFICATE" | "TRUSTED CERTIFICATE" => Err(CERTIFICATE.to_owned()),
            _ => Err(OTHER_BLOCK.to_owned()),
        }
    }

    /// Parses the key of a `SubjectPublicKeyInfo` (RFC 5280, section 4.1.2.7).
    fn from_info(der: &[u8]) -> Result<PublicKey, String> {
        let info = SubjectPublicKeyInfoRef::from_der(der).map_err(|_| DAMAGED_KEY)?;
        let key_type = match (info.algorithm.oid, info.algorithm.parameters_oid()) {
            (RSA, _) => KeyType::Rsa,
            (ED25519, _) => KeyType::Ed25519,
            (EC, Ok(P256)) => KeyType::P256,
            (EC, Ok(P384)) => KeyType::P384,
            (EC, Ok(P521)) => KeyType::P521,
            (EC, Err(_)) => return Err(NO_CURVE.to_owned()),
            (EC, Ok(other)) | (other, _) => {
                let named = OTHERS.iter().find(|(oid, _)| *oid == other);
                let name = named.map_or("a key of another type", |(_, name)| name);
                return Err(format!("this is {name}: give an RSA, P-256, P-384, P-521 or Ed25519 key"));
            }
        };
        let bytes = info.subject_public_key.as_bytes().ok_or(DAMAGED_KEY)?.to_vec();
        PublicKey::new(key_type, bytes)
    }

    /// Checks that the library can verify with the key, and that the key is long enough.
    fn check(&self) -> Result<(), String> {
        let is_usable = match self.key_type {
            KeyType::Rsa => {
                let bits = rsa_bits(&self.bytes).ok_or(DAMAGED_KEY)?;
                if !RSA_BITS.contains(&bits) {
                    let (min, max) = RSA_BITS.into_inner();
                    return Err(format!("this is an RSA key of {bits} bits: give one of {min} to {max}"));
                }
                (DEFAULT_PROVIDER.key_utils.rsa_pub_components_from_public_key)(&self.bytes).is_ok()
            }
            // The library takes the first 32 bytes, however many there are.
            KeyType::Ed25519 if self.bytes.len() != 32 => false,
            _ => self.algorithms.first().zip(self.verifier()).is_some_and(|pair| match pair {
                (TokenAlgorithm::Library(algorithm), Verifier::Library(key)) => {
                    (DEFAULT_PROVIDER.verifier_factory)(&algorithm, &key).is_ok()
                }
                // Made of the point, so it is one.
                (algorithm, _) => algorithm == TokenAlgorithm::Es512,
            }),
        };
        if is_usable { Ok(()) } else { Err(BAD_NUMBERS.to_owned()) }
    }
}

/// Returns the bits of the modulus of an `RSAPublicKey` (RFC 8017, A.1.1).
fn rsa_bits(der: &[u8]) -> Option<usize> {
    let mut reader = SliceReader::new(der).ok()?;
    let modulus = reader.sequence(|reader| {
        let modulus = UintRef::decode(reader)?;
        UintRef::decode(reader)?;
        Ok(modulus)
    });
    let bytes = modulus.ok()?.as_bytes();
    Some(8 * bytes.len() - bytes.first()?.leading_zeros() as usize)
}

#[cfg(test)]
mod tests;
