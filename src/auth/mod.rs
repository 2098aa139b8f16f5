//! Who may do what: JSON Web Tokens (RFC 7519), and where a request carries one.
//!
//! `request` finds the token, `keys` verifies who signed it, `claims` reads what it says; `keyring` holds the keys in force,
//! `mint` makes tokens.

mod claims;
mod keyring;
mod keys;
pub(crate) mod mint;
mod request;

use smallvec::SmallVec;
use thiserror::Error;

pub(crate) use keyring::Keyring;
pub(crate) use keys::{Algorithms, Keys};
pub(crate) use request::{bearer, cookie_value, token};

use crate::core::session::{NameError, Session};
use crate::core::topic::{TOPICS_PER_STREAM_MAX, Topic};

/// Longest token that is looked at. A session token of ours is under 2300 bytes; one with an identity
/// provider's claims may be a few kilobytes.
const TOKEN_BYTES_MAX: usize = 8 * 1024;

/// What a verified token allows, until it expires.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Grant {
    /// Its `sub`, if it has one, and its `topics`.
    subs: SmallVec<[String; 1]>,
    /// Whether the first of them is its `sub`.
    has_sub: bool,
    /// Unix seconds. At this moment the token is no longer good.
    pub(crate) expires_s: u64,
}

impl Grant {
    /// Whether the token is for no topic at all, as one of a session is.
    pub(crate) fn is_empty(&self) -> bool {
        self.subs.is_empty()
    }

    /// Returns whose the token is, its `sub`; empty where it has none.
    pub(crate) fn subject(&self) -> &str {
        self.subs.first().filter(|_| self.has_sub).map_or("", String::as_str)
    }

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

/// Who a verified session token is for, until it expires.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct SessionGrant {
    /// The user, who may be everybody, and the channel.
    pub(crate) session: Session,
    /// Unix seconds. At this moment the token is no longer good.
    pub(crate) expires_s: u64,
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
    /// Signed with an algorithm that no key is for, or not at all.
    #[error("token with an algorithm that is not taken: sign it with {0}, and say so in its header's alg")]
    Algorithm(Algorithms),
    /// The signature is by another key or of another text.
    #[error("wrong signature of the token: sign it with this server's secret or key for what is asked")]
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
    /// A session token without a claim that it needs.
    #[error("token without {claim}: a session token has userId, channel and exp")]
    NoName {
        /// Which one.
        claim: &'static str,
    },
    /// `userId` or `channel` is not a string.
    #[error("{claim} of the token is not a string: write it in quotes")]
    Text {
        /// Which of the two.
        claim: &'static str,
    },
    /// `userId` or `channel` is empty or too long.
    #[error("bad session token: {0}")]
    Name(NameError),
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

#[cfg(test)]
mod tests;
