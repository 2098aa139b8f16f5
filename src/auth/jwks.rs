//! Reads a JWK Set (RFC 7517, with RFC 7518 and 8037): the document in which an identity provider publishes its keys.
//!
//! Real ones hold more than keys of tokens: keys for encryption, of types that came later, with certificates. Those are
//! skipped, as RFC 7517, section 5, asks for. What is secret is refused with the whole document.

use std::fmt;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;
use spki::der::asn1::UintRef;
use spki::der::{Encode, Header, Tag};

use super::algorithm::Algorithms;
use super::public_key::{KeyType, PublicKey};

/// The largest document, in bytes: a key with its certificates takes some 2 KiB.
pub(crate) const JWKS_BYTES_MAX: usize = 256 * 1024;
/// The most keys of one document that tokens may be verified with: a forged token without a `kid` is tried with each.
const JWKS_KEYS_MAX: usize = 32;

const NO_SET: &str = "this is no JWK Set: give a JSON object whose member keys is the list of keys, as an identity \
                      provider publishes it at its jwks_uri";
const SYMMETRIC: &str = "it has a symmetric key (kty oct), with which whoever reads the document can sign: take the key out of \
                         it and make another one; a secret is given in a file of its own or by its variable";
const PRIVATE: &str =
    "it has a private key (member d): give the public keys alone, and make another one in the place of this";

/// The keys of a document.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct JwkSet {
    /// 1 to 32 keys.
    pub(crate) keys: Vec<PublicKey>,
    /// The number of others, which were skipped.
    pub(crate) skipped: usize,
}

impl JwkSet {
    /// Reads a document.
    ///
    /// # Errors
    /// It is not a JWK Set, has a key that is not public, or none with which a token can be verified; in one line.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let document: Document<'_> = serde_json::from_str(text).map_err(|_| NO_SET)?;
        let (mut keys, mut skips) = (Vec::new(), Vec::new());
        for key in &document.keys {
            match jwk(key.get()) {
                Ok(key) => keys.push(key),
                Err(Refused(reason)) => return Err(reason.to_owned()),
                Err(Skipped(reason)) => skips.push(reason),
            }
        }
        if keys.len() > JWKS_KEYS_MAX {
            return Err(format!("{} keys: give at most {JWKS_KEYS_MAX}", keys.len()));
        }
        if !keys.is_empty() {
            return Ok(JwkSet { keys, skipped: skips.len() });
        }
        skips.sort_unstable();
        skips.dedup();
        let what = match skips.is_empty() {
            true => "it is empty".to_owned(),
            false => format!("it has {}", skips.join(", and ")),
        };
        Err(format!(
            "no key in it can verify a token ({what}): give one with RSA, P-256, P-384, P-521 or Ed25519 keys"
        ))
    }
}

#[derive(Deserialize)]
struct Document<'a> {
    #[serde(borrow)]
    keys: Vec<&'a RawValue>,
}

/// The members of a key that count.
#[derive(Deserialize)]
struct Jwk {
    kty: String,
    kid: Option<String>,
    alg: Option<String>,
    #[serde(rename = "use")]
    usage: Option<String>,
    key_ops: Option<Vec<String>>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
    d: Option<IgnoredAny>,
}

/// The reason why a member of a document is no key for tokens.
enum NoKey {
    /// It is of no use here.
    Skipped(&'static str),
    /// It should be in no document.
    Refused(&'static str),
}

use NoKey::{Refused, Skipped};

impl fmt::Debug for Jwk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Jwk").field("kty", &self.kty).finish_non_exhaustive()
    }
}

/// Reads one key of a document.
fn jwk(text: &str) -> Result<PublicKey, NoKey> {
    let jwk: Jwk = serde_json::from_str(text).map_err(|_| Skipped("malformed keys"))?;
    if jwk.kty == "oct" {
        return Err(Refused(SYMMETRIC));
    }
    if jwk.d.is_some() {
        return Err(Refused(PRIVATE));
    }
    let is_for_signatures = jwk.usage.as_ref().is_none_or(|usage| usage == "sig")
        && jwk.key_ops.as_ref().is_none_or(|ops| ops.iter().any(|op| op == "verify"));
    if !is_for_signatures {
        return Err(Skipped("keys that are not for signatures"));
    }
    let (key_type, bytes) = jwk.number()?;
    let key = PublicKey::new(key_type, bytes)
        .map_err(|_| Skipped("keys that are damaged, too short or too long"))?;
    let restricted = jwk.alg.as_deref().map_or(key.algorithms(), Algorithms::named).and(key.algorithms());
    if restricted.is_empty() {
        return Err(Skipped("keys for algorithms that sign no tokens"));
    }
    Ok(key.with(jwk.kid.map(Into::into), restricted))
}

impl Jwk {
    /// Returns the key's type and its bytes, as [`PublicKey`] has them.
    fn number(&self) -> Result<(KeyType, Vec<u8>), NoKey> {
        let number = |text: &Option<String>| {
            let bytes = text.as_ref().and_then(|text| BASE64_URL_SAFE_NO_PAD.decode(text).ok());
            bytes.ok_or(Skipped("malformed keys"))
        };
        let point = |bytes: usize| {
            let (x, y) = (number(&self.x)?, number(&self.y)?);
            // In their full length (RFC 7518, section 6.2.1.2).
            match x.len() == bytes && y.len() == bytes {
                true => Ok([&[4][..], &x, &y].concat()),
                false => Err(Skipped("malformed keys")),
            }
        };
        match (&*self.kty, self.crv.as_deref()) {
            ("RSA", _) => {
                let der = rsa_der(&number(&self.n)?, &number(&self.e)?);
                Ok((KeyType::Rsa, der.ok_or(Skipped("malformed keys"))?))
            }
            ("EC", Some("P-256")) => Ok((KeyType::P256, point(32)?)),
            ("EC", Some("P-384")) => Ok((KeyType::P384, point(48)?)),
            ("EC", Some("P-521")) => Ok((KeyType::P521, point(66)?)),
            ("OKP", Some("Ed25519")) => Ok((KeyType::Ed25519, number(&self.x)?)),
            _ => Err(Skipped("keys of other types")),
        }
    }
}

/// Returns an `RSAPublicKey` (RFC 8017, A.1.1) of these numbers.
fn rsa_der(n: &[u8], e: &[u8]) -> Option<Vec<u8>> {
    let (n, e) = (UintRef::new(n).ok()?, UintRef::new(e).ok()?);
    let length = (n.encoded_len().ok()? + e.encoded_len().ok()?).ok()?;
    let mut der = Vec::new();
    Header::new(Tag::Sequence, length).ok()?.encode_to_vec(&mut der).ok()?;
    n.encode_to_vec(&mut der).ok()?;
    e.encode_to_vec(&mut der).ok()?;
    Some(der)
}

#[cfg(test)]
mod tests;
