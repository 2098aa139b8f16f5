//! Tokens of our own making: JSON Web Tokens (RFC 7519) signed with HS256.

use jsonwebtoken::errors::Error;
use jsonwebtoken::{EncodingKey, Header, encode};
use serde_json::{Value, json};

use crate::config::Secret;
use crate::session::Session;

/// A token for these topics (each a `sub` as [`Grant`](crate::auth::Grant) covers them) until `expires_s`, in
/// Unix seconds.
///
/// # Errors
/// None is known with HS256.
pub(crate) fn topics_token(secret: &Secret, topics: &[String], expires_s: u64) -> Result<String, Error> {
    match topics {
        [topic] => sign(secret, &json!({ "sub": topic, "exp": expires_s })),
        topics => sign(secret, &json!({ "topics": topics, "exp": expires_s })),
    }
}

/// A session token until `expires_s`, in Unix seconds.
///
/// # Errors
/// None is known with HS256.
pub(crate) fn session_token(secret: &Secret, session: &Session, expires_s: u64) -> Result<String, Error> {
    let claims = json!({ "userId": session.user(), "channel": session.channel(), "exp": expires_s });
    sign(secret, &claims)
}

fn sign(secret: &Secret, claims: &Value) -> Result<String, Error> {
    encode(&Header::default(), claims, &EncodingKey::from_secret(secret.expose()))
}
