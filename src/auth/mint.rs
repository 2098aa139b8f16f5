//! Mints tokens: JSON Web Tokens (RFC 7519) signed with HS256.

use jsonwebtoken::errors::Error;
use jsonwebtoken::{EncodingKey, Header, encode};
use serde_json::{Value, json};

use super::{Secret, Signers};
use crate::core::session::Session;

/// The issuer and the audience that a token names, where the server that takes it asks for them.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Parties {
    pub(crate) issuer: Option<String>,
    pub(crate) audience: Option<String>,
}

impl Parties {
    /// Returns those with which a token of these signers is taken: the first of each that they name.
    pub(super) fn of(signers: &Signers) -> Self {
        Parties { issuer: signers.issuers.first().cloned(), audience: signers.audiences.first().cloned() }
    }
}

/// Returns a token for these topics (each a `sub` that a [`Grant`](crate::auth::Grant) matches) until `expires_s`, in
/// Unix seconds.
///
/// # Errors
/// None is known with HS256.
pub(crate) fn topics_token(
    secret: &Secret,
    topics: &[String],
    expires_s: u64,
    parties: &Parties,
) -> Result<String, Error> {
    match topics {
        [topic] => sign(secret, json!({ "sub": topic, "exp": expires_s }), parties),
        topics => sign(secret, json!({ "topics": topics, "exp": expires_s }), parties),
    }
}

/// Returns a session token until `expires_s`, in Unix seconds.
///
/// # Errors
/// None is known with HS256.
pub(crate) fn session_token(
    secret: &Secret,
    session: &Session,
    expires_s: u64,
    parties: &Parties,
) -> Result<String, Error> {
    let claims = json!({ "userId": session.user(), "channel": session.channel(), "exp": expires_s });
    sign(secret, claims, parties)
}

fn sign(secret: &Secret, mut claims: Value, Parties { issuer, audience }: &Parties) -> Result<String, Error> {
    for (name, value) in [("iss", issuer), ("aud", audience)] {
        if let Some(value) = value {
            claims[name] = json!(value);
        }
    }
    encode(&Header::default(), &claims, &EncodingKey::from_secret(secret.expose()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::{AuthError, Keys, SecretPair};
    use crate::core::topic::{Topic, TopicHasher};

    const NOW_S: u64 = 1_700_000_000;

    fn secret() -> Secret {
        Secret::new("a secret of thirty-two bytes, now").unwrap()
    }

    fn keys() -> Keys {
        let pair = SecretPair { current: secret(), previous: None };
        Keys::new(&Signers { secret: Some(pair), ..Signers::default() }, 0).unwrap()
    }

    #[test]
    fn a_session_token_says_the_very_names_it_was_minted_for() {
        let longest = "x".repeat(128);
        let crabs = "🦀".repeat(32);
        let names =
            ["alex", "*", "a/b", " ", "a b", "a*", "\0", "\r\n", "\"}", "\\u0000", "ünï", &longest, &crabs];
        for user in names {
            for channel in names {
                let session = Session::new(user, channel).unwrap();
                let token = session_token(&secret(), &session, NOW_S + 60, &Parties::default()).unwrap();
                let grant = keys().verify_session(&token, NOW_S).unwrap();
                assert_eq!((grant.session, grant.expires_s), (session, NOW_S + 60));
                assert_eq!(keys().verify_session(&token, NOW_S + 60), Err(AuthError::Expired));
            }
        }
    }

    #[test]
    fn the_longest_session_token_is_short_enough_for_a_head() {
        // Each of these bytes is six in JSON.
        let names = "\u{1}".repeat(128);
        let token =
            session_token(&secret(), &Session::new(&names, &names).unwrap(), u64::MAX, &Parties::default())
                .unwrap();
        assert!(token.len() < 2300, "{}", token.len());
        assert!(keys().verify_session(&token, NOW_S).is_ok());
    }

    #[test]
    fn a_token_for_topics_covers_these_and_no_other() {
        let hasher = TopicHasher::of(16);
        let topic = |name: &str| Topic::parse(name.as_bytes(), &hasher).unwrap();
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<String>>();
        for topics in [
            names(&["abcdef123"]),
            names(&["abcdef123", "abcdef124"]),
            names(&["x"; 64]),
            names(&["*"]),
            names(&[]),
        ] {
            let token = topics_token(&secret(), &topics, NOW_S + 60, &Parties::default()).unwrap();
            let grant = keys().verify(&token, NOW_S).unwrap();
            for name in ["abcdef123", "abcdef124", "abcdef125"] {
                let expected = topics.iter().any(|topic| topic == "*" || topic == name);
                assert_eq!(grant.covers(&topic(name)), expected, "{topics:?} {name}");
            }
            assert_eq!(grant.expires_s, NOW_S + 60);
            assert_eq!(keys().verify(&token, NOW_S + 60), Err(AuthError::Expired));
        }
    }
}
