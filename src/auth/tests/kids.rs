//! Keys of identity providers: which one a token's `kid` picks, and whom a token must be from and for.

use std::sync::Arc;

use super::*;
use crate::auth::jwks::JwkSet;

const RSA: &str = include_str!("../public_key/test_keys/rsa.pem");
const RSA_4096: &str = include_str!("../public_key/test_keys/rsa4096.pem");
const ED25519: &str = include_str!("../public_key/test_keys/ed25519.pem");

fn ed25519() -> Signer {
    Signer::private(Algorithm::EdDSA, include_str!("../public_key/test_keys/ed25519-private.pem"))
}

fn rsa() -> Signer {
    Signer::private(Algorithm::RS256, include_str!("../public_key/test_keys/rsa-private.pem"))
}

/// Returns a public key by the name that tokens call it by.
fn named(pem: &str, key_id: Option<&str>) -> PublicKey {
    let key = PublicKey::list_from_pem(pem).unwrap().remove(0);
    let algorithms = key.algorithms();
    key.with(key_id.map(Box::from), algorithms)
}

fn of(public_keys: Vec<PublicKey>) -> Keys {
    Keys::new(&Signers { public_keys, ..Signers::default() }, 0).unwrap()
}

fn token(signer: &Signer, algorithm: &str, kid: Option<&str>) -> String {
    let header = match kid {
        Some(kid) => json!({"alg": algorithm, "kid": kid}),
        None => json!({"alg": algorithm}),
    };
    signer.sign(&header.to_string(), &good().to_string())
}

#[test]
fn a_token_is_verified_with_the_key_that_it_names_and_with_no_other() {
    let keys = of(vec![named(RSA, Some("rsa")), named(ED25519, Some("ed")), named(RSA_4096, Some("other"))]);
    let (rsa, ed25519) = (rsa(), ed25519());
    for (signer, algorithm, kid, expected) in [
        (&rsa, "RS256", Some("rsa"), None),
        (&ed25519, "EdDSA", Some("ed"), None),
        (&ed25519, "Ed25519", Some("ed"), None),
        // Without a name each key of the type is tried.
        (&rsa, "RS256", None, None),
        (&ed25519, "EdDSA", None, None),
        (&rsa, "RS256", Some("other"), Some(AuthError::Signature)),
        (&rsa, "RS256", Some("ed"), Some(AuthError::UnknownKey)),
        (&rsa, "RS256", Some("RSA"), Some(AuthError::UnknownKey)),
        (&rsa, "RS256", Some(""), Some(AuthError::UnknownKey)),
        (&rsa, "RS256", Some("rsa\0"), Some(AuthError::UnknownKey)),
        (&rsa, "RS256", Some("../rsa"), Some(AuthError::UnknownKey)),
        (&rsa, "RS256", Some("/etc/passwd"), Some(AuthError::UnknownKey)),
        (&rsa, "RS256", Some("file:///dev/null"), Some(AuthError::UnknownKey)),
        (&rsa, "RS256", Some("' OR '1'='1"), Some(AuthError::UnknownKey)),
        (&rsa, "EdDSA", Some("ed"), Some(AuthError::Signature)),
        (&rsa, "EdDSA", Some("rsa"), Some(AuthError::UnknownKey)),
    ] {
        assert_eq!(refusal(&keys, &token(signer, algorithm, kid)), expected, "{algorithm} {kid:?}");
    }
}

#[test]
fn keys_of_one_name_are_all_tried_and_only_the_signer_counts() {
    for keys in [
        vec![named(RSA_4096, Some("k")), named(RSA, Some("k")), named(ED25519, Some("k"))],
        vec![named(ED25519, Some("k")), named(RSA, Some("k")), named(RSA_4096, Some("k"))],
    ] {
        let keys = of(keys);
        assert_eq!(refusal(&keys, &token(&rsa(), "RS256", Some("k"))), None);
        assert_eq!(refusal(&keys, &token(&ed25519(), "EdDSA", Some("k"))), None);
        let forged = Signer::secret("k").sign(r#"{"alg":"RS256","kid":"k"}"#, &good().to_string());
        assert_eq!(refusal(&keys, &forged), Some(AuthError::Signature));
        let hmac = Signer::secret(RSA).sign(r#"{"alg":"HS256","kid":"k"}"#, &good().to_string());
        assert_eq!(refusal(&keys, &hmac), Some(AuthError::Algorithm(keys.algorithms)));
    }
}

#[test]
fn a_key_without_a_name_and_a_secret_are_tried_whatever_a_token_calls_its_key() {
    let nameless = vec![named(RSA, None), named(ED25519, Some("ed"))];
    let keys = Keys::new(&Signers { public_keys: nameless, ..secrets(SECRET, None) }, 0).unwrap();
    for kid in [None, Some("x"), Some("ed")] {
        assert_eq!(refusal(&keys, &token(&rsa(), "RS256", kid)), None);
        assert_eq!(refusal(&keys, &token(&Signer::secret(SECRET), "HS256", kid)), None);
        let stranger = token(&Signer::secret("stranger"), "HS256", kid);
        assert_eq!(refusal(&keys, &stranger), Some(AuthError::Signature));
    }
}

#[test]
fn the_algorithm_of_a_jwk_restricts_its_key_further() {
    let key = PublicKey::list_from_pem(RSA).unwrap().remove(0);
    let keys = of(vec![key.with(Some("k".into()), Algorithms::named("PS256"))]);
    let by = |algorithm, name| {
        let private = include_str!("../public_key/test_keys/rsa-private.pem");
        refusal(&keys, &token(&Signer::private(algorithm, private), name, Some("k")))
    };
    assert_eq!(by(Algorithm::PS256, "PS256"), None);
    for (algorithm, name) in
        [(Algorithm::RS256, "RS256"), (Algorithm::PS384, "PS384"), (Algorithm::RS512, "RS512")]
    {
        assert_eq!(by(algorithm, name), Some(AuthError::Algorithm(keys.algorithms)));
        assert_eq!(by(algorithm, "PS256"), Some(AuthError::Signature));
    }
}

#[test]
fn keys_and_places_of_keys_in_a_header_are_never_used() {
    let stranger =
        Signer::private(Algorithm::ES256, include_str!("../public_key/test_keys/p256-private.pem"));
    let keys = of(vec![named(RSA, Some("rsa"))]);
    let header = |algorithm: &str, more: Value| {
        let mut header = json!({"alg": algorithm, "kid": "rsa"});
        header.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        header.to_string()
    };
    for more in [
        json!({"jwk": {"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"}}),
        json!({"jku": "http://127.0.0.1:1/jwks", "x5u": "http://127.0.0.1:1/x"}),
        json!({"x5c": ["MIIB"], "x5t": "AA", "x5t#S256": "AA"}),
        json!({"jwk": 7, "jku": [], "x5c": "x", "typ": 1, "cty": {}, "b64": false}),
    ] {
        let forged = stranger.sign(&header("ES256", more.clone()), &good().to_string());
        assert_eq!(refusal(&keys, &forged), Some(AuthError::Algorithm(keys.algorithms)), "{more}");
        let forged = Signer::secret("x").sign(&header("RS256", more.clone()), &good().to_string());
        assert_eq!(refusal(&keys, &forged), Some(AuthError::Signature), "{more}");
        // The right key's token is taken, whatever else stands there.
        assert_eq!(
            refusal(&keys, &rsa().sign(&header("RS256", more.clone()), &good().to_string())),
            None,
            "{more}"
        );
    }
}

/// Returns why a token with these claims is refused by a server with `--*-audience a,b` and `--*-issuer` of these.
fn of_parties(claims: &Value, issuers: &[&str]) -> Option<AuthError> {
    let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
    let signers = Signers { audiences: texts(&["a", "b"]), issuers: texts(issuers), ..secrets(SECRET, None) };
    let mut claims = claims.clone();
    claims.as_object_mut().unwrap().extend(good().as_object().unwrap().clone());
    refusal(&Keys::new(&signers, 0).unwrap(), &signed(&claims))
}

#[test]
fn a_token_must_be_for_this_server_and_from_its_provider_when_that_is_asked_for() {
    let url = "https://idp.example/";
    let (no_aud, no_iss) = (AuthError::NoParty { claim: "aud" }, AuthError::NoParty { claim: "iss" });
    for (claims, expected) in [
        (json!({"aud": "a", "iss": url}), None),
        (json!({"aud": "b", "iss": url}), None),
        (json!({"aud": ["x", "b"], "iss": url}), None),
        (json!({"iss": url}), Some(no_aud)),
        (json!({"aud": "c", "iss": url}), Some(AuthError::Audience)),
        (json!({"aud": "A", "iss": url}), Some(AuthError::Audience)),
        (json!({"aud": "a,b", "iss": url}), Some(AuthError::Audience)),
        (json!({"aud": "a ", "iss": url}), Some(AuthError::Audience)),
        (json!({"aud": "", "iss": url}), Some(AuthError::Audience)),
        (json!({"aud": [], "iss": url}), Some(AuthError::Audience)),
        (json!({"aud": ["x", "y"], "iss": url}), Some(AuthError::Audience)),
        (json!({"aud": [["a"]], "iss": url}), Some(AuthError::Audience)),
        (json!({"aud": {"a": 1}, "iss": url}), Some(AuthError::Audience)),
        (json!({"aud": null, "iss": url}), Some(AuthError::Audience)),
        (json!({"aud": "*", "iss": url}), Some(AuthError::Audience)),
        (json!({"aud": "a"}), Some(no_iss)),
        (json!({"aud": "a", "iss": "https://idp.example"}), Some(AuthError::Issuer)),
        (json!({"aud": "a", "iss": "https://IDP.example/"}), Some(AuthError::Issuer)),
        (json!({"aud": "a", "iss": "https://idp.example/.evil"}), Some(AuthError::Issuer)),
        (json!({"aud": "a", "iss": [url]}), Some(AuthError::Issuer)),
        (json!({"aud": "a", "iss": null}), Some(AuthError::Issuer)),
    ] {
        assert_eq!(of_parties(&claims, &["other", url]), expected, "{claims}");
    }
    assert_eq!(of_parties(&json!({"aud": "a"}), &[]), None);
    // For a wrong signature nothing else is told.
    let signers = Signers { audiences: vec!["a".to_owned()], ..secrets("another", None) };
    let keys = Keys::new(&signers, 0).unwrap();
    assert_eq!(refusal(&keys, &signed(&good())), Some(AuthError::Signature));
}

/// Returns the keys of a provider that has answered with these, or not yet.
#[cfg(feature = "jwks-url")]
fn fetched(public_keys: Option<Vec<PublicKey>>, secret: Option<&str>) -> (Keys, Arc<KeyProvider>) {
    let provider = Arc::new(KeyProvider::new("https://idp.example/keys".parse().unwrap()));
    let jwks_url = Some(provider.url.clone());
    let secret = secret.and_then(|secret| secrets(secret, None).secret);
    let keys = Keys::new(&Signers { jwks_url, secret, ..Signers::default() }, 0).unwrap();
    if public_keys.is_some() {
        provider.begin();
        provider.succeed();
    }
    (keys.with_fetched(&provider, &public_keys.unwrap_or_default()), provider)
}

#[test]
#[cfg(feature = "jwks-url")]
fn before_the_first_keys_are_fetched_nobody_is_let_in_and_the_reason_passes() {
    let (keys, _) = fetched(None, Some(SECRET));
    for kid in [None, Some("k")] {
        assert_eq!(refusal(&keys, &token(&rsa(), "RS256", kid)), Some(AuthError::NoKeysYet));
    }
    // The other keys of the side do their work meanwhile.
    assert_eq!(refusal(&keys, &signed(&good())), None);
    assert_eq!(refusal(&keys, &signed_by("x", &Header::default(), &good())), Some(AuthError::Signature));
    let (keys, _) = fetched(None, None);
    for header in [r#"{"alg":"none"}"#, r#"{"alg":"HS256"}"#, "{}"] {
        let forged = Signer::secret("").sign(header, &good().to_string());
        assert_eq!(refusal(&keys, &forged), Some(AuthError::Algorithm(Algorithms::default())), "{header}");
    }
}

#[test]
#[cfg(feature = "jwks-url")]
fn a_key_that_is_not_known_is_asked_for_until_the_provider_has_none_of_that_name() {
    let (keys, provider) = fetched(Some(vec![named(RSA, Some("rsa"))]), None);
    assert_eq!(refusal(&keys, &token(&rsa(), "RS256", Some("rsa"))), None);
    // A forged token of a known key asks for nothing.
    let forged = Signer::secret("x").sign(r#"{"alg":"RS256","kid":"rsa"}"#, &good().to_string());
    assert_eq!(refusal(&keys, &forged), Some(AuthError::Signature));
    let now = std::time::Instant::now();
    assert_eq!(provider.wait(now), ProviderEvent::Due);
    for signer in [ed25519(), Signer::secret("x")] {
        assert_eq!(refusal(&keys, &token(&signer, "EdDSA", Some("ed"))), Some(AuthError::KeyAsked));
    }
    assert_eq!(provider.wait(now), ProviderEvent::Asked);
    provider.begin();
    provider.succeed();
    let again = token(&ed25519(), "EdDSA", Some("ed"));
    assert_eq!(refusal(&keys, &again), Some(AuthError::UnknownKey));
    assert_eq!(provider.wait(now), ProviderEvent::Asked, "it may come later all the same");
    let keys = keys.with_fetched(&provider, &[named(ED25519, Some("ed"))]);
    assert_eq!(refusal(&keys, &again), None);
}

#[test]
fn a_document_that_names_an_rsa_key_hs256_makes_no_secret_of_it() {
    let set = JwkSet::parse(r#"{"keys":[{"kty":"RSA","alg":"HS256","n":"AQAB","e":"AQAB"}]}"#);
    assert!(set.is_err());
}
