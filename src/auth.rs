//! Who may do what: JSON Web Tokens (RFC 7519) signed with HS256, and where a request carries one.

use std::borrow::Cow;
use std::fmt;

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, DecodingKey, TokenData, Validation, decode, decode_header};
use serde_json::{Map, Value};
use smallvec::SmallVec;
use thiserror::Error;

use crate::topic::{TOPICS_PER_STREAM_MAX, Topic};

/// Longest token that is looked at. A token of ours is under 200 bytes; one with an identity provider's
/// claims may be a few kilobytes.
const TOKEN_BYTES_MAX: usize = 8 * 1024;

/// The keys of one of the two secrets, the subscribers' or the publishers': the current one and, while
/// secrets are being rotated, the one before. `Debug` shows nothing of them.
pub(crate) struct Keys {
    current: DecodingKey,
    previous: Option<DecodingKey>,
    validation: Validation,
}

impl Keys {
    /// Keys made of the secrets' bytes as they are. The caller sees to it that no secret is empty: whoever
    /// knows that could sign.
    pub(crate) fn new(secret: &[u8], previous: Option<&[u8]>) -> Self {
        // The library compares times with a clock of its own and with leeway, and refuses any `aud`. `verify`
        // keeps to the times itself, and to whom a token is addressed is not this server's business.
        let mut validation = Validation::new(Algorithm::HS256);
        validation.required_spec_claims.clear();
        validation.validate_exp = false;
        validation.validate_nbf = false;
        validation.validate_aud = false;
        Keys {
            current: DecodingKey::from_secret(secret),
            previous: previous.map(DecodingKey::from_secret),
            validation,
        }
    }

    /// What a token grants at `now_s`, in Unix seconds: its signature must be right, `exp` be there and later
    /// than now, and `nbf`, where it is there, not be later than now (RFC 7519 4.1.4, 4.1.5). No leeway.
    /// Other claims are left alone.
    ///
    /// # Errors
    /// [`AuthError`] says why the token is refused. A token with a wrong signature is never told more than
    /// that.
    pub(crate) fn verify(&self, token: &str, now_s: u64) -> Result<Grant, AuthError> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(AuthError::TooLong);
        }
        let data = match (self.decode(token, &self.current), &self.previous) {
            (Err(AuthError::Signature), Some(previous)) => self.decode(token, previous),
            (data, _) => data,
        }?;
        // RFC 7515 4.1.11: what must be understood and is not, is refused. No extension is understood here.
        if data.header.crit.is_some() {
            return Err(AuthError::Critical);
        }
        let expires_s = whole_seconds(&data.claims, "exp")?.ok_or(AuthError::NoExpiry)?;
        if expires_s <= now_s {
            return Err(AuthError::Expired);
        }
        if whole_seconds(&data.claims, "nbf")?.is_some_and(|from_s| now_s < from_s) {
            return Err(AuthError::NotYet);
        }
        Ok(Grant { subs: subjects(&data.claims)?, expires_s })
    }

    fn decode(&self, token: &str, key: &DecodingKey) -> Result<TokenData<Map<String, Value>>, AuthError> {
        // A map and not a struct: serde would fill a struct from a JSON array too.
        decode(token, key, &self.validation).map_err(|error| match error.kind() {
            ErrorKind::InvalidSignature => AuthError::Signature,
            ErrorKind::InvalidAlgorithm => AuthError::Algorithm,
            // `"alg":"none"` and other algorithms unknown to the library fail as JSON of the wrong shape.
            ErrorKind::Json(_) if has_unknown_header(token) => AuthError::Algorithm,
            _ => AuthError::Malformed,
        })
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys").finish_non_exhaustive()
    }
}

/// What a verified token allows, until it expires.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Grant {
    subs: SmallVec<[String; 1]>,
    /// Unix seconds. At this moment the token is no longer good.
    pub(crate) expires_s: u64,
}

impl Grant {
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

/// The token of a request: of `?token=` first, then of `Authorization: Bearer` (the scheme in any case, RFC
/// 9110 11.1), then of the cookie with the name given. The cookie's argument is the `Cookie` header's value
/// and the name; `None` where cookies are not taken.
///
/// The first one found is the token, whatever the others are, so a wrong one in the query is not mended by a
/// right cookie. An empty one counts as none, and another scheme of `Authorization`, such as a proxy's
/// `Basic`, too.
///
/// # Errors
/// [`AuthError::Missing`] without a token, [`AuthError::Malformed`] when the one found is not UTF-8.
pub(crate) fn token<'a>(
    query_token: Option<Cow<'a, str>>,
    authorization: Option<&'a [u8]>,
    cookie: Option<(&'a [u8], &str)>,
) -> Result<Cow<'a, str>, AuthError> {
    if let Some(token) = query_token.filter(|token| !token.is_empty()) {
        return Ok(token);
    }
    authorization
        .and_then(bearer)
        .or_else(|| cookie.and_then(|(header, name)| cookie_value(header, name)))
        .ok_or(AuthError::Missing)
        .and_then(|token| str::from_utf8(token).map_err(|_| AuthError::Malformed))
        .map(Cow::Borrowed)
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
    /// Signed with another algorithm than HS256, or not at all.
    #[error("token with an algorithm that is not taken: sign it with HS256, and say so in its header's alg")]
    Algorithm,
    /// The signature is of another secret or of another text.
    #[error("wrong signature of the token: sign it with this server's secret for what is asked")]
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

/// Whether the header is JSON, but not what the library knows as a header.
fn has_unknown_header(token: &str) -> bool {
    decode_header(token).is_err_and(|error| matches!(error.kind(), ErrorKind::Json(json) if json.is_data()))
}

/// A time claim. RFC 7519 would let it have a fraction; it is in whole seconds here.
fn whole_seconds(claims: &Map<String, Value>, claim: &'static str) -> Result<Option<u64>, AuthError> {
    claims.get(claim).map(|value| value.as_u64().ok_or(AuthError::Time { claim })).transpose()
}

/// What a token is for: its `sub` and each of its `topics`.
fn subjects(claims: &Map<String, Value>) -> Result<SmallVec<[String; 1]>, AuthError> {
    let mut subs = SmallVec::new();
    match claims.get("sub") {
        None => {}
        Some(Value::String(sub)) => subs.push(sub.clone()),
        Some(_) => return Err(AuthError::Subject),
    }
    match claims.get("topics") {
        None => {}
        Some(Value::Array(topics)) if topics.len() > TOPICS_PER_STREAM_MAX => {
            return Err(AuthError::TooManyTopics);
        }
        Some(Value::Array(topics)) => {
            for topic in topics {
                subs.push(topic.as_str().ok_or(AuthError::Topics)?.to_owned());
            }
        }
        Some(_) => return Err(AuthError::Topics),
    }
    Ok(subs)
}

/// The credentials of the `Bearer` scheme (RFC 6750 2.1).
fn bearer(authorization: &[u8]) -> Option<&[u8]> {
    let authorization = authorization.trim_ascii();
    let (scheme, credentials) = authorization.split_at_checked("Bearer".len())?;
    if !scheme.eq_ignore_ascii_case(b"Bearer") || !credentials.starts_with(b" ") {
        return None;
    }
    Some(credentials.trim_ascii()).filter(|token| !token.is_empty())
}

/// The first non-empty cookie of this name (RFC 6265 4.2.1), without the quotes a value may have.
fn cookie_value<'a>(header: &'a [u8], name: &str) -> Option<&'a [u8]> {
    header.split(|byte| *byte == b';').find_map(|pair| {
        let value = pair.trim_ascii().strip_prefix(name.as_bytes())?.strip_prefix(b"=")?;
        let value = value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\"")).unwrap_or(value);
        Some(value).filter(|token| !token.is_empty())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topic::TopicHasher;
    use jsonwebtoken::{EncodingKey, Header, encode};
    use serde_json::json;
    use smallvec::smallvec;

    const SECRET: &[u8] = b"sesame-of-forty-thieves-in-a-cave";
    const NOW_S: u64 = 1_700_000_000;

    fn signed_by(secret: &[u8], header: &Header, claims: &Value) -> String {
        encode(header, claims, &EncodingKey::from_secret(secret)).unwrap()
    }

    fn signed(claims: &Value) -> String {
        signed_by(SECRET, &Header::default(), claims)
    }

    fn good() -> Value {
        json!({"exp": NOW_S + 60, "sub": "abcdef123"})
    }

    fn verify(token: &str) -> Result<Grant, AuthError> {
        Keys::new(SECRET, None).verify(token, NOW_S)
    }

    fn topic(name: &str) -> Topic {
        Topic::parse(name.as_bytes(), &TopicHasher::new()).unwrap()
    }

    /// base64url without padding.
    fn base64(bytes: &[u8]) -> String {
        let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        let mut text = String::new();
        for three in bytes.chunks(3) {
            let bits = three.iter().fold(0_usize, |bits, byte| bits << 8 | usize::from(*byte))
                << (8 * (3 - three.len()));
            (0..=three.len()).for_each(|n| text.push(char::from(alphabet[bits >> (18 - 6 * n) & 63])));
        }
        text
    }

    /// A token with any header and payload, rightly signed with HS256.
    fn signed_text(header: &str, payload: &str) -> String {
        let message = format!("{}.{}", base64(header.as_bytes()), base64(payload.as_bytes()));
        let key = EncodingKey::from_secret(SECRET);
        let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &key, Algorithm::HS256).unwrap();
        format!("{message}.{signature}")
    }

    const HEADER: &str = r#"{"typ":"JWT","alg":"HS256"}"#;

    #[test]
    fn a_good_token_is_taken() {
        let grant = Ok(Grant { subs: smallvec!["abcdef123".into()], expires_s: NOW_S + 60 });
        assert_eq!(verify(&signed(&good())), grant);
        assert_eq!(verify(&signed_text(HEADER, &good().to_string())), grant);
        // A token as PyJWT makes it, with claims of no concern here.
        let more = json!({"exp": NOW_S + 60, "sub": "abcdef123", "aud": ["x"], "iss": "y", "iat": 1, "n": {"a": []}});
        assert_eq!(verify(&signed(&more)), grant);
    }

    #[test]
    fn a_known_token_of_another_maker_is_taken() {
        // Appendix A.1 of RFC 7515 has its times in whole seconds, and line ends in its JSON.
        let key = [
            3, 35, 53, 75, 43, 15, 165, 188, 131, 126, 6, 101, 119, 123, 166, 143, 90, 179, 40, 230, 240, 84,
            201, 40, 169, 15, 132, 178, 210, 80, 46, 191, 211, 251, 90, 146, 210, 6, 71, 239, 150, 138, 180,
            195, 119, 98, 61, 34, 61, 46, 33, 114, 5, 46, 79, 8, 192, 205, 154, 245, 103, 208, 128, 163,
        ];
        let token = "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.\
                     eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.\
                     dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
        let keys = Keys::new(&key, None);
        assert_eq!(
            keys.verify(token, 1_300_819_379),
            Ok(Grant { subs: smallvec![], expires_s: 1_300_819_380 })
        );
        assert_eq!(keys.verify(token, 1_300_819_380), Err(AuthError::Expired));
    }

    #[test]
    fn a_forged_token_is_refused() {
        let token = signed(&good());
        let parts: Vec<&str> = token.split('.').collect();
        let (header, payload, signature) = (parts[0], parts[1], parts[2]);
        let other = base64(json!({"exp": NOW_S + 9999, "sub": "abcdef123"}).to_string().as_bytes());
        let with_header = |header: &str| format!("{}.{payload}.{signature}", base64(header.as_bytes()));
        let signed_with = |algorithm| signed_by(SECRET, &Header::new(algorithm), &good());
        let mut flipped = signature.to_owned();
        flipped.replace_range(..1, if signature.starts_with('A') { "B" } else { "A" });
        for (token, error) in [
            (signed_by(b"another secret", &Header::default(), &good()), AuthError::Signature),
            (signed_by(b"", &Header::default(), &good()), AuthError::Signature),
            (format!("{header}.{other}.{signature}"), AuthError::Signature),
            (format!("{header}.{payload}.{flipped}"), AuthError::Signature),
            (format!("{header}.{payload}."), AuthError::Signature),
            (format!("{header}.{payload}.{}", &signature[..20]), AuthError::Signature),
            (with_header(r#"{"alg":"HS256"}"#), AuthError::Signature),
            (with_header(r#"{"alg":"none"}"#), AuthError::Algorithm),
            (format!("{}.{payload}.", base64(br#"{"alg":"none"}"#)), AuthError::Algorithm),
            (with_header(r#"{"alg":"None"}"#), AuthError::Algorithm),
            (with_header(r#"{"alg":"hs256"}"#), AuthError::Algorithm),
            (with_header(r#"{"alg":"RS256"}"#), AuthError::Algorithm),
            (with_header(r#"{"alg":"ES256"}"#), AuthError::Algorithm),
            (with_header(r#"{"alg":5}"#), AuthError::Malformed),
            (with_header(r#"{"typ":"JWT"}"#), AuthError::Algorithm),
            (with_header("[]"), AuthError::Algorithm),
            (with_header("alg: HS256"), AuthError::Malformed),
            (signed_text(r#"{"alg":"none"}"#, &good().to_string()), AuthError::Algorithm),
            (signed_with(Algorithm::HS384), AuthError::Algorithm),
            (signed_with(Algorithm::HS512), AuthError::Algorithm),
            (signed_text(r#"{"alg":"HS256","crit":["exp"]}"#, &good().to_string()), AuthError::Critical),
            (signed_text(r#"{"alg":"HS256","crit":[]}"#, &good().to_string()), AuthError::Critical),
        ] {
            assert_eq!(verify(&token), Err(error), "{token}");
        }
    }

    #[test]
    fn what_is_no_token_is_refused() {
        let token = signed(&good());
        for bad in [
            String::new(),
            ".".into(),
            "..".into(),
            "...".into(),
            "abc".into(),
            "a.b".into(),
            "é.é.é".into(),
            token.replacen('.', "..", 1),
            token.replacen('.', "", 1),
            format!("{token}."),
            format!(".{token}"),
            format!("{token}.x"),
            format!("{token}="),
            format!("{token} "),
            format!(" {token}"),
            format!("{token}+/"),
            signed_text(HEADER, ""),
            signed_text(HEADER, "[]"),
            signed_text(HEADER, &format!("[{},null,\"abcdef123\"]", NOW_S + 60)),
            signed_text(HEADER, "7"),
            signed_text(HEADER, "{\"exp\":"),
            signed_text(HEADER, &format!("{{\"exp\":1,\"exp\":{}}}", NOW_S + 60)),
        ] {
            assert_eq!(verify(&bad), Err(AuthError::Malformed), "{bad}");
        }
    }

    #[test]
    fn a_token_past_8_kib_is_refused_unread() {
        let padded = |bytes: usize| {
            signed_by(SECRET, &Header::default(), &json!({"exp": NOW_S + 60, "pad": "x".repeat(bytes)}))
        };
        assert!(verify(&padded(6000)).is_ok());
        assert_eq!(verify(&padded(6800)), Err(AuthError::TooLong));
        assert_eq!(verify(&"x".repeat(TOKEN_BYTES_MAX)), Err(AuthError::Malformed));
        assert_eq!(verify(&"x".repeat(TOKEN_BYTES_MAX + 1)), Err(AuthError::TooLong));
    }

    #[test]
    fn times_are_kept_to_the_second() {
        let exp = AuthError::Time { claim: "exp" };
        let nbf = AuthError::Time { claim: "nbf" };
        for (claims, expected) in [
            (json!({}), Err(AuthError::NoExpiry)),
            (json!({"sub": "abcdef123"}), Err(AuthError::NoExpiry)),
            (json!({"exp": null}), Err(exp)),
            (json!({"exp": (NOW_S + 60).to_string()}), Err(exp)),
            (json!({"exp": -1}), Err(exp)),
            (json!({"exp": (NOW_S + 60) as f64}), Err(exp)),
            (json!({"exp": 1e300}), Err(exp)),
            (json!({"exp": true}), Err(exp)),
            (json!({"exp": 0}), Err(AuthError::Expired)),
            (json!({"exp": NOW_S - 1}), Err(AuthError::Expired)),
            (json!({"exp": NOW_S}), Err(AuthError::Expired)),
            (json!({"exp": NOW_S + 1}), Ok(NOW_S + 1)),
            (json!({"exp": u64::MAX}), Ok(u64::MAX)),
            (json!({"exp": NOW_S + 60, "nbf": NOW_S}), Ok(NOW_S + 60)),
            (json!({"exp": NOW_S + 60, "nbf": NOW_S + 1}), Err(AuthError::NotYet)),
            (json!({"exp": NOW_S + 60, "nbf": 1.5}), Err(nbf)),
            (json!({"exp": NOW_S + 60, "nbf": "0"}), Err(nbf)),
            (json!({"exp": NOW_S + 60, "nbf": null}), Err(nbf)),
            (json!({"exp": NOW_S + 60, "nbf": -1}), Err(nbf)),
        ] {
            assert_eq!(verify(&signed(&claims)).map(|grant| grant.expires_s), expected, "{claims}");
        }
        // Written as a number past u64, which JSON readers make a float.
        let beyond = signed_text(HEADER, r#"{"exp":18446744073709551616}"#);
        assert_eq!(verify(&beyond), Err(exp));
    }

    #[test]
    fn a_token_covers_the_topic_it_names_and_no_other() {
        for (sub, covered) in [
            (Some(json!("abcdefk123")), true),
            (Some(json!("ABCdefK123")), true),
            (Some(json!("abcdefk1234")), false),
            (Some(json!("abcdefk12")), false),
            (Some(json!("abcdef\u{212a}123")), false),
            (Some(json!(" abcdefk123")), false),
            (Some(json!("*")), true),
            (Some(json!("**")), false),
            (Some(json!("abcdefk*")), false),
            (Some(json!("")), false),
            (None, false),
        ] {
            let mut claims = json!({"exp": NOW_S + 60});
            if let Some(sub) = &sub {
                claims["sub"] = sub.clone();
            }
            assert_eq!(verify(&signed(&claims)).unwrap().covers(&topic("AbcdefK123")), covered, "{sub:?}");
        }
        for sub in [json!(12_345_678), json!(null), json!(true)] {
            let claims = json!({"exp": NOW_S + 60, "sub": sub});
            assert_eq!(verify(&signed(&claims)), Err(AuthError::Subject), "{claims}");
        }
        // The library itself stumbles over these.
        for sub in [json!(["abcdefk123"]), json!({"abcdefk123": 1})] {
            let claims = json!({"exp": NOW_S + 60, "sub": sub});
            assert!(verify(&signed(&claims)).is_err(), "{claims}");
        }
    }

    fn grant(claims: Value) -> Result<Grant, AuthError> {
        let mut claims = claims;
        claims["exp"] = json!(NOW_S + 60);
        verify(&signed(&claims))
    }

    #[test]
    fn a_token_covers_the_paths_below_what_it_names_by_segments_and_in_the_very_case() {
        let hasher = TopicHasher::new();
        let path = |path: &str| {
            let segments: Vec<_> = path.split('/').map(|segment| Cow::Borrowed(segment.as_bytes())).collect();
            Topic::parse_path(&segments, &hasher).unwrap()
        };
        for (sub, topic, covered) in [
            ("pets", "pets", true),
            ("pets", "pets/dogs", true),
            ("pets", "pets/dogs/Corgi", true),
            ("pets/dogs", "pets/dogs/Corgi", true),
            ("pets/dogs", "pets", false),
            ("pets/dogs", "pets/cats", false),
            ("pets/dogs", "dogs", false),
            ("pets", "petshop", false),
            ("pet", "pets", false),
            ("Pets", "pets", false),
            ("pets", "Pets/dogs", false),
            ("pets/", "pets/dogs", false),
            ("/pets", "pets", false),
            ("pets/*", "pets/dogs", false),
            ("", "pets", false),
            ("*", "pets/dogs", true),
        ] {
            assert_eq!(grant(json!({"sub": sub})).unwrap().covers(&path(topic)), covered, "{sub} {topic}");
        }
        for (sub, covered) in [("*", true), ("", false), ("/", false), ("pets", false)] {
            assert_eq!(grant(json!({"sub": sub})).unwrap().covers(&Topic::everything(&hasher)), covered);
        }
    }

    #[test]
    fn a_token_covers_each_of_its_topics_and_its_sub() {
        let listed = grant(json!({"sub": "abcdef123", "topics": ["abcdef124", "ABCDEF125"]})).unwrap();
        for (name, covered) in
            [("abcdef123", true), ("abcdef124", true), ("abcdef125", true), ("abcdef126", false)]
        {
            assert_eq!(listed.covers(&topic(name)), covered, "{name}");
        }
        assert!(grant(json!({"topics": ["*"]})).unwrap().covers(&topic("abcdef123")));
        assert!(!grant(json!({"topics": []})).unwrap().covers(&topic("abcdef123")));
        for bad in [json!("abcdef123"), json!({"a": 1}), json!(7), json!(null), json!(["abcdef123", 7])] {
            assert_eq!(grant(json!({"sub": "abcdef123", "topics": bad})), Err(AuthError::Topics));
        }
        let topics = |count: usize| grant(json!({"topics": vec!["abcdef123"; count]}));
        assert!(topics(64).is_ok());
        assert_eq!(topics(65), Err(AuthError::TooManyTopics));
    }

    #[test]
    fn while_secrets_rotate_both_are_taken_and_no_third() {
        let keys = Keys::new(b"new", Some(SECRET));
        let by = |secret| keys.verify(&signed_by(secret, &Header::default(), &good()), NOW_S).map(|_| ());
        assert_eq!(by(b"new"), Ok(()));
        assert_eq!(by(SECRET), Ok(()));
        assert_eq!(by(b"third"), Err(AuthError::Signature));
        let old = signed(&json!({"exp": NOW_S}));
        assert_eq!(keys.verify(&old, NOW_S), Err(AuthError::Expired));
        assert_eq!(Keys::new(b"new", None).verify(&signed(&good()), NOW_S), Err(AuthError::Signature));
    }

    #[test]
    fn the_token_is_found_in_the_query_then_the_header_then_the_cookie() {
        let found =
            |query: Option<&'static str>, header: Option<&'static str>, cookie: Option<&'static str>| {
                let cookie = cookie.map(|cookie| (cookie.as_bytes(), "esper_token"));
                token(query.map(Cow::Borrowed), header.map(str::as_bytes), cookie).map(Cow::into_owned)
            };
        let (header, cookie) = (Some("Bearer h"), Some("esper_token=c"));
        for (query, header, cookie, expected) in [
            (Some("q"), header, cookie, "q"),
            (None, header, cookie, "h"),
            (Some(""), header, cookie, "h"),
            (None, None, cookie, "c"),
            (None, Some("Basic dTpw"), cookie, "c"),
            (None, Some("Bearer "), cookie, "c"),
            (None, Some("bEARER   h "), None, "h"),
            (None, None, Some("a=b; esper_token=c; esper_token=d"), "c"),
            (None, None, Some("a=esper_token=x;esper_token=\"c\""), "c"),
            (None, None, Some("xesper_token=x; esper_tokens=y; esper_token=; esper_token=c==;"), "c=="),
        ] {
            assert_eq!(found(query, header, cookie), Ok(expected.into()), "{query:?} {header:?} {cookie:?}");
        }
        for (header, cookie) in [
            (None, None),
            (Some(""), Some("")),
            (Some("Bearer"), Some("esper_token")),
            (Some("Bearerh"), Some("Esper_Token=c")),
            (Some("Bearer\th"), Some("esper_token = c")),
            (Some("Basic h"), Some("=;=")),
        ] {
            assert_eq!(found(None, header, cookie), Err(AuthError::Missing), "{header:?} {cookie:?}");
        }
        assert_eq!(token(None, Some(b"Bearer \xff"), None), Err(AuthError::Malformed));
        assert_eq!(token(None, None, Some((b"t=\xff", "t"))), Err(AuthError::Malformed));
    }

    #[test]
    fn no_print_shows_a_secret_or_a_token() {
        let keys = Keys::new(SECRET, Some(b"previous"));
        assert_eq!(format!("{keys:?}"), "Keys { .. }");
        assert!(!format!("{keys:#?}").contains("115"), "the secret's bytes");
        let token = signed_by(b"wrong", &Header::default(), &good());
        for error in [
            keys.verify(&token, NOW_S).unwrap_err(),
            keys.verify(&signed(&good()), NOW_S + 60).unwrap_err(),
            keys.verify(&token[1..], NOW_S).unwrap_err(),
            keys.verify(&token.replace('.', "!"), NOW_S).unwrap_err(),
        ] {
            let print = format!("{error} {error:?}");
            assert!(!print.contains('\n'));
            assert!(!token.split('.').any(|part| print.contains(&part[1..6])), "{print}");
        }
    }
}
