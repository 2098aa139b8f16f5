//! Authorisation: JSON Web Tokens (RFC 7519), and where a request carries one.
//!
//! `signers` says what tokens may be signed with, `public_key` parses public keys, and `jwks` the document of an identity
//! provider, whose URL is a `jwks_url`. `request` finds the token, `token_text` its parts, `keys` verifies its signature by
//! an `algorithm`, `claims` reads it; `keyring` holds the keys in force, `provider` what there is to know of an identity
//! provider whose keys are fetched, `mint` makes tokens, and `ticket` tickets, which stand for a token in a URL.

mod algorithm;
mod claims;
mod jwks;
mod jwks_url;
mod keyring;
mod keys;
pub(crate) mod mint;
mod provider;
mod public_key;
mod request;
mod signers;
mod ticket;
mod token_text;

use smallvec::SmallVec;
use thiserror::Error;

pub(crate) use algorithm::Algorithms;
pub(crate) use jwks::{JWKS_BYTES_MAX, JwkSet};
pub use jwks_url::JwksUrl;
pub(crate) use keyring::{KeySources, Keyring};
pub(crate) use keys::Keys;
pub(crate) use provider::{KeyProvider, ProviderEvent};
pub use public_key::{KeyType, PublicKey};
pub(crate) use request::{bearer, cookie_value, token};
pub use signers::{Secret, SecretPair, Signers};
pub(crate) use ticket::{ADMIT_S, StreamTicket, UsedTickets};

use crate::core::session::{NameError, Session};
use crate::core::topic::{TOPICS_PER_STREAM_MAX, Topic};

/// The longest token that is read unless `--token-max` says otherwise, in bytes. A session token of ours is under 2300
/// bytes; one with an identity provider's claims may be a few kilobytes.
pub(crate) const TOKEN_BYTES_DEFAULT: usize = 8 * 1024;
/// The longest token that any server reads, in bytes.
pub(crate) const TOKEN_BYTES_MOST: usize = 32 * 1024;

/// The time at which a token is looked at.
#[derive(Clone, Copy, Debug)]
struct TokenTime {
    /// Unix seconds.
    now_s: u64,
    /// The leeway for the signer's clock, in seconds.
    leeway_s: u64,
}

/// The rights of a verified token until it expires.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Grant {
    /// Its `sub`, if it has one, and its `topics`.
    subs: SmallVec<[String; 1]>,
    /// Set if the first of `subs` is the token's `sub`, and not one of its `topics`.
    has_sub: bool,
    /// Unix seconds, from which on the token is no longer taken.
    pub(crate) expires_s: u64,
}

impl Grant {
    /// Returns what a token for these topics grants.
    pub(crate) fn of_topics(topics: impl Iterator<Item = String>, expires_s: u64) -> Self {
        Grant { subs: topics.collect(), has_sub: false, expires_s }
    }

    /// Returns the topics that it names, its `sub` among them.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.subs.iter().map(String::as_str)
    }

    /// Returns whether the token is for no topic at all, as a session's is.
    pub(crate) fn is_empty(&self) -> bool {
        self.subs.is_empty()
    }

    /// Returns the token's `sub`; empty where it has none.
    pub(crate) fn subject(&self) -> &str {
        self.subs.first().filter(|_| self.has_sub).map_or("", String::as_str)
    }

    /// Returns the memory that it takes beside itself, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.subs.iter().map(|sub| size_of::<String>() + sub.len()).sum()
    }

    /// Returns whether the token is for this topic: its `sub`, or one of its `topics`, is `*`, or the topic's id in any
    /// case, or the topic's path or one above it in the same case. A token without both is for no topic. The topic of
    /// everything needs `*`.
    pub(crate) fn covers(&self, topic: &Topic) -> bool {
        let is_path = topic.parent().is_some();
        self.subs.iter().any(|sub| {
            sub == "*"
                || topic.lineage().filter(|covered| !covered.is_everything()).any(|covered| {
                    // Compares ASCII case alone: the Kelvin sign lower-cases to `k` and is not one.
                    if is_path { sub == covered.name() } else { sub.eq_ignore_ascii_case(covered.name()) }
                })
        })
    }
}

/// Whom a verified session token is for, until it expires.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct SessionGrant {
    /// The channel and the user, who may be everybody.
    pub(crate) session: Session,
    /// Unix seconds, from which on the token is no longer taken.
    pub(crate) expires_s: u64,
}

/// The reason why a token is refused. `Display` is one line for the person who sent it, and shows nothing of the token.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
pub(crate) enum AuthError {
    /// The request has no token.
    #[error("no token: send one as ?token=... or as Authorization: Bearer ...")]
    Missing,
    /// The token is too long to be read.
    #[error(
        "token longer than {bytes_max} bytes: leave out claims, exp and sub are enough; or raise --token-max"
    )]
    TooLong {
        /// The longest that is read.
        bytes_max: usize,
    },
    /// It is not three parts of base64url with JSON objects in the first two.
    #[error(
        "malformed token: send a JSON Web Token, three parts of base64url without padding, separated by dots"
    )]
    Malformed,
    /// It is signed with an algorithm that no key has, or not at all.
    #[error("token with an algorithm that is not taken: sign it with {0}, and say so in its header's alg")]
    Algorithm(Algorithms),
    /// The signature is of another key or another text.
    #[error("wrong signature of the token: sign it with this server's secret or key for what is asked")]
    Signature,
    /// No key has the `kid` that it names, and its provider has none either.
    #[error(
        "token of a key that is not known here (its kid): get a new one from the identity provider that this server trusts"
    )]
    UnknownKey,
    /// No key has the `kid` that it names, and its provider is being asked for it.
    #[error(
        "token of a key that is not known yet (its kid): the identity provider is asked for it, try again in a while"
    )]
    KeyAsked,
    /// The provider's keys were never fetched yet.
    #[error("the keys of the identity provider are not here yet: try again in a while")]
    NoKeysYet,
    /// The header has an extension that must be understood.
    #[error("token with a crit header: leave it out, no extension is supported")]
    Critical,
    /// A claim that must be there, by `--*-issuer` or `--*-audience`, is not.
    #[error("token without {claim}: this server takes those of its own issuer and audience alone")]
    NoParty {
        /// `iss` or `aud`.
        claim: &'static str,
    },
    /// `iss` is somebody else.
    #[error("token of another issuer (its iss): get one from the identity provider that this server trusts")]
    Issuer,
    /// `aud` is somebody else, or several others.
    #[error("token for another audience (its aud): ask the identity provider for one for this server")]
    Audience,
    /// There is no `exp`.
    #[error("token without exp: add one, in Unix seconds")]
    NoExpiry,
    /// `exp` or `nbf` is not a number from 0.
    #[error("{claim} of the token is not a number from 0: give it in Unix seconds, without quotes")]
    Time {
        /// `exp` or `nbf`.
        claim: &'static str,
    },
    /// A session token lacks a claim that it needs.
    #[error("token without {claim}: a session token has userId, channel and exp")]
    NoName {
        /// The missing claim.
        claim: &'static str,
    },
    /// `userId` or `channel` is not a string.
    #[error("{claim} of the token is not a string: write it in quotes")]
    Text {
        /// `userId` or `channel`.
        claim: &'static str,
    },
    /// `userId` or `channel` is empty or too long.
    #[error("bad session token: {0}")]
    Name(NameError),
    /// `sub` is not a string.
    #[error("sub of the token is not a string: set it to the topic")]
    Subject,
    /// `topics` is not an array of strings.
    #[error("topics of the token is not an array of strings: list the topics in it, or leave it out")]
    Topics,
    /// `topics` has too many entries.
    #[error(
        "topics of the token has more than {TOPICS_PER_STREAM_MAX} entries: list fewer, or set it to [\"*\"]"
    )]
    TooManyTopics,
    /// The time is at or after `exp`.
    #[error("expired token: get a new one")]
    Expired,
    /// A ticket admitted a stream already.
    #[error("used ticket: get a new one by POST /ticket")]
    UsedTicket,
    /// A ticket was made too long ago, or by a clock that is ahead.
    #[error("this ticket admits no more: get a new one by POST /ticket, and use it within {ADMIT_S} seconds")]
    LateTicket,
    /// So many tickets came in so short a time that no more can be remembered.
    #[error("too many tickets were used at once; try again in a minute")]
    TooManyTickets,
    /// The time is before `nbf`.
    #[error("token not valid yet (nbf): wait, or check the clock of who made it")]
    NotYet,
}

#[cfg(test)]
mod tests;
