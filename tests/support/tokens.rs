//! Tokens of subscribers and publishers, and the secrets that sign them.

use std::time::{Duration, SystemTime};

use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};

/// The secret of subscribers.
pub(crate) const SUBSCRIBER: &str = "subscribers-secret-73c1";
/// The secret of publishers.
pub(crate) const PUBLISHER: &str = "publishers-secret-9e02";
/// The variables of a server that asks both for tokens.
pub(crate) const BOTH: &[(&str, &str)] =
    &[("ESPER_SUBSCRIBER_SECRET", SUBSCRIBER), ("ESPER_PUBLISHER_SECRET", PUBLISHER)];

/// Returns the time in Unix seconds.
pub(crate) fn now_s() -> u64 {
    SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs()
}

/// Signs a token.
pub(crate) fn sign(secret: &str, algorithm: Algorithm, claims: &Value) -> String {
    encode(&Header::new(algorithm), claims, &EncodingKey::from_secret(secret.as_bytes())).unwrap()
}

/// Returns a token for this topic that is good for ten minutes.
pub(crate) fn token(secret: &str, topic: &str) -> String {
    token_for(secret, topic, Duration::from_secs(600))
}

/// Returns a token for this topic that is good for so long.
pub(crate) fn token_for(secret: &str, topic: &str, lifetime: Duration) -> String {
    sign(secret, Algorithm::HS256, &json!({"sub": topic, "exp": now_s() + lifetime.as_secs()}))
}

/// Returns the header field that carries a token.
pub(crate) fn bearer(token: &str) -> String {
    format!("Authorization: Bearer {token}")
}
