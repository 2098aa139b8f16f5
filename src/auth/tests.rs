mod algorithms;
mod forged;
mod kids;
mod sessions;

use std::borrow::Cow;

use ::base64::Engine;
use ::base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, AlgorithmFamily, EncodingKey, Header, encode};
use p521::ecdsa::signature::Signer as _;
use serde_json::{Value, json};
use smallvec::smallvec;

use super::*;
use crate::core::topic::TopicHasher;

const SECRET: &str = "sesame-of-forty-thieves-in-a-cave";
const NOW_S: u64 = 1_700_000_000;

/// Signs tokens by one algorithm.
struct Signer {
    /// `None` for ES512, which the library does not know.
    algorithm: Option<Algorithm>,
    /// On P-521 the private number.
    key: EncodingKey,
    p521: Option<p521::ecdsa::SigningKey>,
}

impl Signer {
    fn secret(secret: impl AsRef<[u8]>) -> Self {
        Signer::by(Algorithm::HS256, EncodingKey::from_secret(secret.as_ref()))
    }

    fn by(algorithm: Algorithm, key: EncodingKey) -> Self {
        Signer { algorithm: Some(algorithm), key, p521: None }
    }

    /// Returns the signer with this private key in PEM: PKCS #1 for RSA, PKCS #8 for the others.
    fn private(algorithm: Algorithm, pem: &str) -> Self {
        let der = pem::parse(pem).unwrap().into_contents();
        let key = match algorithm.family() {
            AlgorithmFamily::Rsa => EncodingKey::from_rsa_der(&der),
            AlgorithmFamily::Ec => EncodingKey::from_ec_der(&der),
            _ => EncodingKey::from_ed_der(&der),
        };
        Signer::by(algorithm, key)
    }

    /// Returns the signer with this private key on P-521 in PEM, PKCS #8.
    fn p521(pem: &str) -> Self {
        let der = pem::parse(pem).unwrap().into_contents();
        // The private number, an octet string of 66 bytes (RFC 5915).
        let start = 2 + der.windows(2).position(|bytes| bytes == [4, 66]).unwrap();
        let p521 = p521::ecdsa::SigningKey::from_slice(&der[start..start + 66]).unwrap();
        Signer { algorithm: None, key: EncodingKey::from_secret(b""), p521: Some(p521) }
    }

    /// Returns a token with any header and payload, rightly signed.
    fn sign(&self, header: &str, payload: &str) -> String {
        let message = format!("{}.{}", base64(header), base64(payload));
        let signature = match (&self.p521, self.algorithm) {
            (None, Some(algorithm)) => {
                jsonwebtoken::crypto::sign(message.as_bytes(), &self.key, algorithm).unwrap()
            }
            (Some(key), _) => {
                // As RFC 6979 would draw it from the message; any number does that is used once.
                let signature: p521::ecdsa::Signature = key.sign(message.as_bytes());
                base64(signature.to_bytes())
            }
            (None, None) => panic!("no key"),
        };
        format!("{message}.{signature}")
    }
}

fn secrets(current: &str, previous: Option<&str>) -> Signers {
    let pair =
        SecretPair { current: Secret::new(current).unwrap(), previous: previous.and_then(Secret::new) };
    Signers { secret: Some(pair), ..Signers::default() }
}

fn keys(current: &str, previous: Option<&str>) -> Keys {
    Keys::new(&secrets(current, previous), 0).unwrap()
}

fn signed_by(secret: &str, header: &Header, claims: &Value) -> String {
    encode(header, claims, &EncodingKey::from_secret(secret.as_bytes())).unwrap()
}

fn signed(claims: &Value) -> String {
    signed_by(SECRET, &Header::default(), claims)
}

fn good() -> Value {
    json!({"exp": NOW_S + 60, "sub": "abcdef123", "userId": "alex", "channel": "chat"})
}

fn verify(token: &str) -> Result<Grant, AuthError> {
    keys(SECRET, None).verify(token, NOW_S)
}

/// Returns why a token is refused, which must be the same reason for both kinds; `None` if it is not.
fn refusal(keys: &Keys, token: &str) -> Option<AuthError> {
    let refusal = keys.verify(token, NOW_S).err();
    assert_eq!(keys.verify_session(token, NOW_S).err(), refusal, "{token}");
    refusal
}

fn topic(name: &str) -> Topic {
    Topic::parse(name.as_bytes(), &TopicHasher::of(16)).unwrap()
}

fn base64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Returns a token with any header and payload, rightly signed with HS256.
fn signed_text(header: &str, payload: &str) -> String {
    Signer::secret(SECRET).sign(header, payload)
}

const HEADER: &str = r#"{"typ":"JWT","alg":"HS256"}"#;

#[test]
fn a_good_token_is_taken() {
    let grant = Ok(Grant { subs: smallvec!["abcdef123".into()], has_sub: true, expires_s: NOW_S + 60 });
    assert_eq!(verify(&signed(&good())), grant);
    assert_eq!(verify(&signed_text(HEADER, &good().to_string())), grant);
    // A token as PyJWT makes it, with claims that are ignored here.
    let more =
        json!({"exp": NOW_S + 60, "sub": "abcdef123", "aud": ["x"], "iss": "y", "iat": 1, "n": {"a": []}});
    assert_eq!(verify(&signed(&more)), grant);
}

#[test]
fn a_token_past_8_kib_is_refused_unread() {
    let padded = |bytes: usize| {
        signed_by(SECRET, &Header::default(), &json!({"exp": NOW_S + 60, "pad": "x".repeat(bytes)}))
    };
    assert!(verify(&padded(6000)).is_ok());
    let too_long = |bytes_max| Err(AuthError::TooLong { bytes_max });
    assert_eq!(verify(&padded(6800)), too_long(8192));
    assert_eq!(verify(&"x".repeat(8192)), Err(AuthError::Malformed));
    assert_eq!(verify(&"x".repeat(8193)), too_long(8192));
    // As --token-max says.
    let longest = keys(SECRET, None).up_to(32 << 10);
    assert!(longest.verify(&padded(24_000), NOW_S).is_ok());
    assert_eq!(longest.verify(&padded(25_000), NOW_S), too_long(32_768));
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
        (json!({"exp": NOW_S as f64 + 60.9}), Ok(NOW_S + 60)),
        (json!({"exp": NOW_S as f64 + 0.9}), Err(AuthError::Expired)),
        (json!({"exp": -0.5}), Err(exp)),
        (json!({"exp": 1e300}), Ok(u64::MAX)),
        (json!({"exp": true}), Err(exp)),
        (json!({"exp": 0}), Err(AuthError::Expired)),
        (json!({"exp": NOW_S - 1}), Err(AuthError::Expired)),
        (json!({"exp": NOW_S}), Err(AuthError::Expired)),
        (json!({"exp": NOW_S + 1}), Ok(NOW_S + 1)),
        (json!({"exp": u64::MAX}), Ok(u64::MAX)),
        (json!({"exp": NOW_S + 60, "nbf": NOW_S}), Ok(NOW_S + 60)),
        (json!({"exp": NOW_S + 60, "nbf": NOW_S + 1}), Err(AuthError::NotYet)),
        (json!({"exp": NOW_S + 60, "nbf": NOW_S as f64 + 0.5}), Ok(NOW_S + 60)),
        (json!({"exp": NOW_S + 60, "nbf": NOW_S as f64 + 1.5}), Err(AuthError::NotYet)),
        (json!({"exp": NOW_S + 60, "nbf": "0"}), Err(nbf)),
        (json!({"exp": NOW_S + 60, "nbf": null}), Err(nbf)),
        (json!({"exp": NOW_S + 60, "nbf": -1}), Err(nbf)),
    ] {
        assert_eq!(verify(&signed(&claims)).map(|grant| grant.expires_s), expected, "{claims}");
    }
    // Written as a number past u64, which JSON readers make a float.
    let beyond = signed_text(HEADER, r#"{"exp":18446744073709551616}"#);
    assert_eq!(verify(&beyond).map(|grant| grant.expires_s), Ok(u64::MAX));
}

#[test]
fn clocks_may_be_apart_by_the_leeway_and_no_more() {
    let keys = Keys::new(&secrets(SECRET, None), 5).unwrap();
    for (claims, expected) in [
        (json!({"exp": NOW_S - 4}), Ok(NOW_S + 1)),
        (json!({"exp": NOW_S - 5}), Err(AuthError::Expired)),
        (json!({"exp": NOW_S + 60, "nbf": NOW_S + 5}), Ok(NOW_S + 65)),
        (json!({"exp": NOW_S + 60, "nbf": NOW_S + 6}), Err(AuthError::NotYet)),
        (json!({"exp": u64::MAX}), Ok(u64::MAX)),
    ] {
        let granted = keys.verify(&signed(&claims), NOW_S).map(|grant| grant.expires_s);
        assert_eq!(granted, expected, "{claims}");
    }
}

#[test]
fn a_token_is_its_subs_and_nobodys_without_one() {
    for (claims, subject) in [
        (json!({"sub": "ann", "topics": ["a", "b"]}), "ann"),
        (json!({"topics": ["a", "b"]}), ""),
        (json!({"sub": "", "topics": ["a"]}), ""),
        (json!({"userId": "alex"}), ""),
    ] {
        let mut claims = claims;
        claims["exp"] = json!(NOW_S + 60);
        assert_eq!(verify(&signed(&claims)).unwrap().subject(), subject, "{claims}");
    }
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
    // The library itself fails on these.
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
    let hasher = TopicHasher::of(16);
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
    let both = keys("new", Some(SECRET));
    let by = |secret| both.verify(&signed_by(secret, &Header::default(), &good()), NOW_S).map(|_| ());
    assert_eq!(by("new"), Ok(()));
    assert_eq!(by(SECRET), Ok(()));
    assert_eq!(by("third"), Err(AuthError::Signature));
    let old = signed(&json!({"exp": NOW_S}));
    assert_eq!(both.verify(&old, NOW_S), Err(AuthError::Expired));
    assert_eq!(keys("new", None).verify(&signed(&good()), NOW_S), Err(AuthError::Signature));
}

#[test]
fn the_token_is_found_in_the_query_then_the_header_then_the_cookie() {
    let found = |query: Option<&'static str>, header: Option<&'static str>, cookie: Option<&'static str>| {
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
    let keys = keys(SECRET, Some("previous"));
    assert_eq!(format!("{keys:?}"), "Keys { .. }");
    assert!(!format!("{keys:#?}").contains("115"), "the secret's bytes");
    let token = signed_by("wrong", &Header::default(), &good());
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
