use jsonwebtoken::crypto::rust_crypto::DEFAULT_PROVIDER;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

const RSA: &str = include_str!("../public_key/test_keys/rsa.pem");
const P256: &str = include_str!("../public_key/test_keys/p256.pem");
const P384: &str = include_str!("../public_key/test_keys/p384.pem");
const P521: &str = include_str!("../public_key/test_keys/p521.pem");
const ED25519: &str = include_str!("../public_key/test_keys/ed25519.pem");

fn text(bytes: &[u8]) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

/// Returns a key in PEM as a JWK with its numbers alone.
fn jwk_of(pem: &str) -> Value {
    let der = pem::parse(pem).unwrap().into_contents();
    let point = |curve: &str, bytes: usize| {
        let (x, y) = der[der.len() - 2 * bytes..].split_at(bytes);
        json!({"kty": "EC", "crv": curve, "x": text(x), "y": text(y)})
    };
    match pem {
        RSA => {
            // Behind the start of its `SubjectPublicKeyInfo`.
            let components = DEFAULT_PROVIDER.key_utils.rsa_pub_components_from_public_key;
            let (n, e) = components(&der[24..]).unwrap();
            json!({"kty": "RSA", "n": text(&n), "e": text(&e)})
        }
        P256 => point("P-256", 32),
        P384 => point("P-384", 48),
        P521 => point("P-521", 66),
        _ => json!({"kty": "OKP", "crv": "Ed25519", "x": text(&der[der.len() - 32..])}),
    }
}

/// Returns the JWK with these members as well, or in the place of its own.
fn with(pem: &str, members: Value) -> Value {
    let mut jwk = jwk_of(pem);
    jwk.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
    jwk
}

fn parse(keys: &[Value]) -> Result<JwkSet, String> {
    JwkSet::parse(&json!({"keys": keys}).to_string())
}

/// Returns why there is no key in a document with this one alone.
fn refusal(key: Value) -> String {
    let error = parse(&[key]).unwrap_err();
    assert!(!error.contains('\n'), "{error}");
    error
}

#[test]
fn a_key_is_the_same_in_a_jwk_and_in_pem() {
    for pem in [RSA, P256, P384, P521, ED25519] {
        let set = parse(&[jwk_of(pem)]).unwrap();
        assert_eq!(Ok(set.keys), PublicKey::list_from_pem(pem), "{pem}");
    }
}

/// The members are those of Keycloak, Auth0, Okta and Azure, in their documents of today.
#[test]
fn the_documents_of_identity_providers_are_read_and_what_is_not_for_tokens_is_skipped() {
    let x5c = json!(["MIICmzCCAYMCBgGI"]);
    let keycloak = [
        with(RSA, json!({"kid": "FJ86Gc", "alg": "RSA-OAEP", "use": "enc", "x5c": x5c, "x5t": "x"})),
        with(RSA, json!({"kid": "b2-OI", "alg": "RS256", "use": "sig", "x5c": x5c, "x5t#S256": "y"})),
        with(P256, json!({"kid": "es", "alg": "ES256", "use": "sig"})),
    ];
    let auth0 = [
        with(RSA, json!({"kid": "one", "use": "sig", "alg": "RS256", "x5c": x5c, "x5t": "z"})),
        with(RSA, json!({"kid": "two", "use": "sig", "alg": "RS256"})),
    ];
    let okta = [with(RSA, json!({"kid": "U5R8c", "alg": "RS256", "use": "sig", "e": "AQAB"}))];
    // Without alg; with members that nobody knows.
    let azure =
        [with(RSA, json!({"kid": "X5eXk", "use": "sig", "issuer": "https://login.example/", "x5t": "w"}))];
    for (document, taken, skipped) in [
        (&keycloak[..], &["b2-OI", "es"][..], 1),
        (&auth0, &["one", "two"], 0),
        (&okta, &["U5R8c"], 0),
        (&azure, &["X5eXk"], 0),
    ] {
        let set = parse(document).unwrap();
        assert_eq!(set.keys.iter().map(|key| key.key_id().unwrap()).collect::<Vec<_>>(), taken);
        assert_eq!(set.skipped, skipped);
    }
    assert_eq!(parse(&keycloak).unwrap().keys[0].algorithms(), Algorithms::named("RS256"));
    assert_eq!(parse(&azure).unwrap().keys[0].algorithms(), Algorithms::RSA);
    // Members beside the list of keys do not count.
    let more = json!({"keys": okta, "issuer": "x", "jwks_uri": 7}).to_string();
    assert_eq!(JwkSet::parse(&more), parse(&okta));
}

#[test]
fn a_key_that_is_of_no_use_is_skipped_and_named_when_there_is_no_other() {
    let damaged = |member: &str, value: Value| with(P256, json!({member: value}));
    for (key, reason) in [
        (with(RSA, json!({"use": "enc"})), "not for signatures"),
        (with(RSA, json!({"use": "else"})), "not for signatures"),
        (with(RSA, json!({"key_ops": ["encrypt"]})), "not for signatures"),
        (with(RSA, json!({"key_ops": []})), "not for signatures"),
        (with(RSA, json!({"alg": "RSA-OAEP-256"})), "algorithms that sign no tokens"),
        (with(RSA, json!({"alg": "none"})), "algorithms that sign no tokens"),
        // Classic confusion: the document says that its RSA key is a secret.
        (with(RSA, json!({"alg": "HS256"})), "algorithms that sign no tokens"),
        (with(RSA, json!({"alg": "ES256"})), "algorithms that sign no tokens"),
        (with(P256, json!({"alg": "ES384"})), "algorithms that sign no tokens"),
        (with(ED25519, json!({"crv": "X25519"})), "other types"),
        (with(ED25519, json!({"crv": "Ed448"})), "other types"),
        (with(P256, json!({"crv": "secp256k1"})), "other types"),
        (with(P256, json!({"crv": null})), "other types"),
        (with(RSA, json!({"kty": "AKP", "alg": "ML-DSA-44", "pub": "AA"})), "other types"),
        (with(RSA, json!({"kty": "rsa"})), "other types"),
        (with(RSA, json!({"n": text(&[0xff; 128])})), "too short"),
        (with(RSA, json!({"n": text(&[0xff; 520])})), "too long"),
        (with(RSA, json!({"e": "AQ"})), "damaged"),
        (with(RSA, json!({"e": ""})), "damaged"),
        (with(RSA, json!({"n": "!"})), "malformed"),
        (with(RSA, json!({"n": null})), "malformed"),
        (with(RSA, json!({"kid": 7})), "malformed"),
        (with(RSA, json!({"kty": ["RSA"]})), "malformed"),
        (with(ED25519, json!({"x": text(&[7; 31])})), "damaged"),
        (damaged("x", json!("AAAA")), "malformed"),
        (damaged("y", json!(text(&[1; 32]))), "damaged"),
        (json!({}), "malformed"),
        (json!("key"), "malformed"),
        (json!(null), "malformed"),
    ] {
        assert!(refusal(key.clone()).contains(reason), "{key}: {}", refusal(key.clone()));
        // Beside a good one it is skipped.
        let set = parse(&[key.clone(), with(P256, json!({"kid": "good"}))]).unwrap();
        assert_eq!((set.keys.len(), set.skipped), (1, 1), "{key}");
    }
    // A key may be for signing as well as verifying, and need not say what it is for.
    for members in
        [json!({"key_ops": ["sign", "verify"], "use": "sig"}), json!({"use": null, "alg": null, "kid": null})]
    {
        assert!(parse(&[with(RSA, members)]).is_ok());
    }
    for alg in ["EdDSA", "Ed25519"] {
        assert!(parse(&[with(ED25519, json!({"alg": alg}))]).is_ok());
    }
}

#[test]
fn what_should_be_secret_is_refused_with_the_whole_document() {
    let good = with(P256, json!({"kid": "good"}));
    for (key, reason) in [
        (json!({"kty": "oct", "k": "hunter2", "alg": "HS256", "kid": "good"}), "a symmetric key (kty oct)"),
        (json!({"kty": "oct"}), "a symmetric key (kty oct)"),
        (json!({"kty": "oct", "use": "enc", "k": "hunter2"}), "a symmetric key (kty oct)"),
        (with(P256, json!({"d": "hunter2"})), "a private key (member d)"),
        (with(RSA, json!({"d": "hunter2", "p": "x", "use": "enc"})), "a private key (member d)"),
    ] {
        let error = parse(&[good.clone(), key.clone()]).unwrap_err();
        assert!(
            error.contains(reason) && error.contains("take the key out")
                || error.contains("public keys alone"),
            "{error}"
        );
        assert!(!error.contains("hunter2") && !error.contains('\n'), "{error}");
    }
}

#[test]
fn what_is_no_set_is_refused() {
    for text in [
        "",
        "[]",
        "7",
        "{}",
        "{\"keys\":",
        "{\"keys\":{}}",
        "{\"keys\":null}",
        "{\"keys\":[],\"keys\":[]}",
        "<html>",
        "-----BEGIN PUBLIC KEY-----",
        &jwk_of(P256).to_string(),
    ] {
        assert!(JwkSet::parse(text).unwrap_err().starts_with("this is no JWK Set"), "{text}");
    }
    assert!(JwkSet::parse("{\"keys\":[]}").unwrap_err().contains("it is empty"));
    // A member that stands twice is not taken for either.
    let twice = jwk_of(P256).to_string().replacen('{', "{\"crv\":\"P-384\",", 1);
    assert!(JwkSet::parse(&format!("{{\"keys\":[{twice}]}}")).unwrap_err().contains("malformed"));
}

#[test]
fn a_document_has_at_most_32_keys_for_tokens() {
    let many = |keys: usize| parse(&vec![jwk_of(ED25519); keys]);
    assert_eq!(many(32).unwrap().keys.len(), 32);
    assert_eq!(many(33), Err("33 keys: give at most 32".to_owned()));
}

proptest! {
    #[test]
    fn no_document_makes_it_panic(
        text in "(\\{\"keys\":\\[|\\{|\"(kty|n|e|x|y|crv|alg|use)\":|\"(RSA|EC|oct|P-256|AQAB|AA)\"|,|\\}|\\]|\\PC){0,40}",
    ) {
        prop_assert!(JwkSet::parse(&text).is_err());
    }

    #[test]
    fn whatever_the_numbers_are_a_key_is_skipped_or_verifies_without_a_panic(
        pem in prop::sample::select(vec![RSA, P256, P384, P521, ED25519]),
        member in prop::sample::select(vec!["n", "e", "x", "y"]),
        bytes in prop::collection::vec(any::<u8>(), 0..70),
    ) {
        if let Ok(set) = parse(&[with(pem, json!({member: text(&bytes)}))]) {
            let (algorithm, verifier) = set.keys[0].algorithms().first().zip(set.keys[0].verifier()).unwrap();
            prop_assert_eq!(verifier.verify(algorithm, "", &"A".repeat(86)), Ok(false));
        }
    }
}
