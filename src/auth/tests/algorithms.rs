//! Keys of all types: each verifies by its own algorithm, whatever a token says.

use super::*;

const RSA: &str = include_str!("../public_key/test_keys/rsa.pem");
const P256: &str = include_str!("../public_key/test_keys/p256.pem");
const P384: &str = include_str!("../public_key/test_keys/p384.pem");
const P521: &str = include_str!("../public_key/test_keys/p521.pem");
const ED25519: &str = include_str!("../public_key/test_keys/ed25519.pem");

fn rsa() -> Signer {
    rsa_by(Algorithm::RS256)
}

fn rsa_by(algorithm: Algorithm) -> Signer {
    Signer::private(algorithm, include_str!("../public_key/test_keys/rsa-private.pem"))
}

fn p256() -> Signer {
    Signer::private(Algorithm::ES256, include_str!("../public_key/test_keys/p256-private.pem"))
}

fn p384() -> Signer {
    Signer::private(Algorithm::ES384, include_str!("../public_key/test_keys/p384-private.pem"))
}

fn p521() -> Signer {
    Signer::p521(include_str!("../public_key/test_keys/p521-private.pem"))
}

fn hmac(algorithm: Algorithm) -> Signer {
    Signer::by(algorithm, EncodingKey::from_secret(SECRET.as_bytes()))
}

/// Returns the signers of all algorithms by their names, each with the keys that alone take their tokens.
fn signers() -> [(&'static str, Signer, Keys); 14] {
    let (secret, rsa) = (|| keys(SECRET, None), || public_keys(RSA));
    [
        ("HS256", hmac(Algorithm::HS256), secret()),
        ("HS384", hmac(Algorithm::HS384), secret()),
        ("HS512", hmac(Algorithm::HS512), secret()),
        ("RS256", rsa_by(Algorithm::RS256), rsa()),
        ("RS384", rsa_by(Algorithm::RS384), rsa()),
        ("RS512", rsa_by(Algorithm::RS512), rsa()),
        ("PS256", rsa_by(Algorithm::PS256), rsa()),
        ("PS384", rsa_by(Algorithm::PS384), rsa()),
        ("PS512", rsa_by(Algorithm::PS512), rsa()),
        ("ES256", p256(), public_keys(P256)),
        ("ES384", p384(), public_keys(P384)),
        ("ES512", p521(), public_keys(P521)),
        ("EdDSA", ed25519(), public_keys(ED25519)),
        // By its new name (RFC 9864).
        ("Ed25519", ed25519(), public_keys(ED25519)),
    ]
}

fn ed25519() -> Signer {
    Signer::private(Algorithm::EdDSA, include_str!("../public_key/test_keys/ed25519-private.pem"))
}

fn public_keys(pem: &str) -> Keys {
    let public_keys = PublicKey::list_from_pem(pem).unwrap();
    Keys::new(&Signers { public_keys, ..Signers::default() }, 0).unwrap()
}

/// Returns one key of each type, and a secret that is being changed.
fn all() -> Keys {
    let public_keys = PublicKey::list_from_pem(&format!("{RSA}{P256}{P384}{P521}{ED25519}")).unwrap();
    Keys::new(&Signers { public_keys, ..secrets("new", Some(SECRET)) }, 0).unwrap()
}

fn header(algorithm: &str) -> String {
    format!(r#"{{"alg":"{algorithm}","typ":"JWT"}}"#)
}

/// Returns valid tokens of all algorithms: the name, the keys that alone accept it, and the token.
fn tokens() -> [(&'static str, Keys, String); 5] {
    let token = |signer: Signer, name| signer.sign(&header(name), &good().to_string());
    [
        ("HS256", keys(SECRET, None), token(Signer::secret(SECRET), "HS256")),
        ("RS256", public_keys(RSA), token(rsa(), "RS256")),
        ("ES256", public_keys(P256), token(p256(), "ES256")),
        ("EdDSA", public_keys(ED25519), token(ed25519(), "EdDSA")),
        // By its new name (RFC 9864).
        ("EdDSA", public_keys(ED25519), token(ed25519(), "Ed25519")),
    ]
}

/// Returns a token with its signature changed.
fn with_signature(token: &str, change: impl FnOnce(&mut Vec<u8>)) -> String {
    let (message, signature) = token.rsplit_once('.').unwrap();
    let mut signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
    change(&mut signature);
    format!("{message}.{}", base64(signature))
}

#[test]
fn a_token_is_taken_by_a_key_of_its_own_type_and_by_no_other() {
    let grant = Grant { subs: smallvec!["abcdef123".into()], has_sub: true, expires_s: NOW_S + 60 };
    let all = all();
    for (name, signer, own) in signers() {
        let token = signer.sign(&header(name), &good().to_string());
        assert_eq!(all.verify(&token, NOW_S), Ok(grant.clone()), "{name}");
        assert_eq!(refusal(&own, &token), None, "{name}");
        for keys in [
            keys(SECRET, None),
            public_keys(RSA),
            public_keys(P256),
            public_keys(P384),
            public_keys(P521),
            public_keys(ED25519),
        ] {
            let expected =
                (keys.algorithms != own.algorithms).then_some(AuthError::Algorithm(keys.algorithms));
            assert_eq!(refusal(&keys, &token), expected, "{name} by {}", keys.algorithms);
        }
    }
}

#[test]
fn the_refusal_of_an_algorithm_names_those_that_are_taken() {
    let token = Signer::secret(SECRET).sign(&header("none"), &good().to_string());
    for (keys, expected) in [
        (keys(SECRET, None), "sign it with HS256, HS384 or HS512, and"),
        (public_keys(P256), "sign it with ES256, and"),
        (public_keys(&format!("{ED25519}{P384}{P384}")), "sign it with ES384 or EdDSA, and"),
        (
            all(),
            "sign it with HS256, HS384, HS512, RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, ES512 or EdDSA, and",
        ),
    ] {
        let line = refusal(&keys, &token).unwrap().to_string();
        assert!(line.contains(expected), "{line}");
    }
}

#[test]
fn without_a_signer_there_are_no_keys() {
    assert!(Keys::new(&Signers::default(), 0).is_none());
}

/// The classic forgery: a server that lets the token choose the algorithm takes its own public key's text for a secret.
#[test]
fn a_public_key_is_never_a_secret() {
    let all = all();
    for (key, pem) in [("RSA", RSA), ("P-256", P256), ("P-521", P521), ("Ed25519", ED25519)] {
        let der = pem::parse(pem).unwrap().into_contents();
        // The end of the DER is the key without its type: the number, the point, or the modulus and the exponent.
        let key_alone = der[der.len() - if key == "RSA" { 270 } else { 32 }..].to_vec();
        let secrets = [
            pem.as_bytes().to_vec(),
            pem.trim_end().into(),
            format!("{pem}\n").into(),
            pem.replace('\n', "\r\n").into(),
            pem.replace('\n', "").into(),
            pem.lines().next().unwrap().into(),
            der,
            key_alone,
            Vec::new(),
        ];
        for secret in &secrets {
            for algorithm in [Algorithm::HS256, Algorithm::HS384, Algorithm::HS512] {
                let signer = Signer::by(algorithm, EncodingKey::from_secret(secret));
                let token = signer.sign(&header(&format!("{algorithm:?}")), &good().to_string());
                let keys = public_keys(pem);
                assert_eq!(refusal(&keys, &token), Some(AuthError::Algorithm(keys.algorithms)), "{key}");
                assert_eq!(refusal(&all, &token), Some(AuthError::Signature), "{key}");
            }
            // Nor does the name of the key's own algorithm help.
            for algorithm in ["RS256", "PS512", "ES256", "ES512", "EdDSA"] {
                let token = Signer::secret(secret).sign(&header(algorithm), &good().to_string());
                assert_eq!(refusal(&all, &token), Some(AuthError::Signature), "{key} {algorithm}");
            }
        }
    }
}

#[test]
fn a_signature_under_the_name_of_another_algorithm_is_refused() {
    let all = all();
    let names = signers().map(|(name, ..)| name);
    for (own, signer, _) in signers() {
        let is_own = |name: &str| name == own || (name.starts_with("Ed") && own.starts_with("Ed"));
        for name in names.into_iter().filter(|name| !is_own(name)) {
            let token = signer.sign(&header(name), &good().to_string());
            assert_eq!(refusal(&all, &token), Some(AuthError::Signature), "{own} as {name}");
        }
    }
    for name in ["none", "None", "nOnE", "NONE", "", "rs256", "ES256K", "Ed448", "HS256 ", "HS1", "RSA-OAEP"]
    {
        for signer in [Signer::secret(SECRET), rsa(), p256(), ed25519()] {
            let token = signer.sign(&header(name), &good().to_string());
            assert_eq!(refusal(&all, &token), Some(AuthError::Algorithm(all.algorithms)), "{name}");
        }
    }
}

#[test]
fn a_signature_that_is_not_the_one_is_refused() {
    for (name, keys, token) in tokens() {
        let check = |what: &str, token: String| {
            assert_eq!(refusal(&keys, &token), Some(AuthError::Signature), "{name}: {what}");
            assert_eq!(refusal(&all(), &token), Some(AuthError::Signature), "{name}: {what}, all");
        };

        check("none", with_signature(&token, Vec::clear));
        check("one byte", with_signature(&token, |bytes| bytes.truncate(1)));
        check("one byte short", with_signature(&token, |bytes| bytes.truncate(bytes.len() - 1)));
        check("one byte more", with_signature(&token, |bytes| bytes.push(0)));
        check("a zero before it", with_signature(&token, |bytes| bytes.insert(0, 0)));
        check("twice", with_signature(&token, |bytes| bytes.extend_from_within(..)));
        check("a bit flipped", with_signature(&token, |bytes| bytes[7] ^= 1));
        check("the last bit flipped", with_signature(&token, |bytes| *bytes.last_mut().unwrap() ^= 1));
        check("all zeros", with_signature(&token, |bytes| bytes.fill(0)));
        check("all ones", with_signature(&token, |bytes| bytes.fill(0xff)));
        check("turned round", with_signature(&token, |bytes| bytes.rotate_left(16)));
        let one = |bytes: &mut Vec<u8>| {
            bytes.fill(0);
            *bytes.last_mut().unwrap() = 1;
        };
        check("the number 1", with_signature(&token, one));
        // The signature of another token.
        let other = json!({"exp": NOW_S + 9999, "sub": "abcdef123", "userId": "a", "channel": "b"});
        let (message, signature) = token.rsplit_once('.').unwrap();
        let head = message.split('.').next().unwrap();
        check("other claims", format!("{head}.{}.{signature}", base64(other.to_string())));
    }
}

#[test]
fn an_es256_signature_of_zeros_or_in_der_is_refused() {
    let [_, _, (_, keys, token), ..] = tokens();
    let filled =
        |range: std::ops::Range<usize>, byte| with_signature(&token, |bytes| bytes[range].fill(byte));
    // RFC 7518, section 3.4, wants the two numbers alone, 64 bytes.
    let der = with_signature(&token, |bytes| {
        let number = |half: &[u8]| {
            let start = half.iter().position(|byte| *byte != 0).unwrap();
            let sign: &[u8] = if half[start] < 0x80 { &[] } else { &[0] };
            let number = [sign, &half[start..]].concat();
            [&[2, number.len() as u8], &*number].concat()
        };
        let numbers = [number(&bytes[..32]), number(&bytes[32..])].concat();
        *bytes = [&[0x30, numbers.len() as u8], &*numbers].concat();
    });
    for (what, token) in [
        ("r and s are 0", filled(0..64, 0)),
        ("r is 0", filled(0..32, 0)),
        ("s is 0", filled(32..64, 0)),
        ("r is past the order", filled(0..32, 0xff)),
        ("s is past the order", filled(32..64, 0xff)),
        ("DER", der),
    ] {
        assert_eq!(refusal(&keys, &token), Some(AuthError::Signature), "{what}");
    }
}

#[test]
fn an_eddsa_signature_has_one_form() {
    // The group's order (RFC 8032, 5.1), little-endian: adding it to S would make a second signature.
    let order = [
        0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14, 0, 0,
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
    ];
    let [.., (_, keys, token)] = tokens();
    let second = with_signature(&token, |bytes| {
        let mut carry = 0;
        for (byte, add) in bytes[32..].iter_mut().zip(order) {
            let sum = u16::from(*byte) + add + carry;
            *byte = sum as u8;
            carry = sum >> 8;
        }
    });
    assert_eq!(refusal(&keys, &second), Some(AuthError::Signature));
}

#[test]
fn what_the_header_says_of_keys_is_ignored() {
    let stranger = "somebody else's secret";
    // A key of the stranger's, and places where a server might look for one.
    let more = format!(
        r#""kid":"../../etc/passwd","jku":"http://127.0.0.1:1/jwks","x5u":"http://127.0.0.1:1/x","x5c":["AA=="],
           "x5t":"AA","cty":"JWT","zip":"DEF","b64":true,"jwk":{{"kty":"oct","k":"{}"}}"#,
        base64(stranger)
    );
    for (name, signer) in ["HS256", "RS256", "ES256", "EdDSA"].into_iter().zip([
        Signer::secret(SECRET),
        rsa(),
        p256(),
        ed25519(),
    ]) {
        let header = format!(r#"{{"alg":"{name}",{more}}}"#);
        assert_eq!(refusal(&all(), &signer.sign(&header, &good().to_string())), None, "{name}");
        let forged = Signer::secret(stranger).sign(&header, &good().to_string());
        assert_eq!(refusal(&all(), &forged), Some(AuthError::Signature), "{name}");
        for crit in [r#"["exp"]"#, r#"["b64"]"#, "[]"] {
            let header = format!(r#"{{"alg":"{name}","crit":{crit}}}"#);
            let token = signer.sign(&header, &good().to_string());
            assert_eq!(refusal(&all(), &token), Some(AuthError::Critical), "{name}");
            // A token that is not signed by us is refused for its signature alone.
            let forged = Signer::secret(stranger).sign(&header, &good().to_string());
            assert_eq!(refusal(&all(), &forged), Some(AuthError::Signature), "{name}");
        }
    }
}

#[test]
fn a_token_is_taken_whichever_key_of_a_list_signed_it() {
    let other = include_str!("../public_key/test_keys/rsa4096.pem");
    let [_, (_, _, token), ..] = tokens();
    for pem in [format!("{RSA}{other}"), format!("{other}{RSA}"), format!("{other}{P256}{other}{RSA}")] {
        assert_eq!(refusal(&public_keys(&pem), &token), None);
    }
    assert_eq!(refusal(&public_keys(other), &token), Some(AuthError::Signature));
}

mod any_bytes {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn no_changed_token_is_taken(at in any::<prop::sample::Index>(), character in "[A-Za-z0-9_.=+ -]") {
            for (name, keys, token) in tokens() {
                let at = at.index(token.len());
                let mut changed = token.clone();
                changed.replace_range(at..=at, &character);
                prop_assert_eq!(refusal(&keys, &changed).is_some(), changed != token, "{} {}", name, changed);
            }
        }

        #[test]
        fn nothing_that_nobody_signed_is_taken_and_nothing_panics(
            text in "\\PC*",
            parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..5),
            name in prop::sample::select(vec!["HS256", "RS256", "ES256", "EdDSA"]),
            signature in prop::collection::vec(any::<u8>(), 0..300),
        ) {
            let keys = all();
            prop_assert!(refusal(&keys, &text).is_some());
            let encoded: Vec<String> = parts.iter().map(base64).collect();
            prop_assert!(refusal(&keys, &encoded.join(".")).is_some());
            let token = format!("{}.{}.{}", base64(header(name)), base64(good().to_string()), base64(&signature));
            prop_assert_eq!(refusal(&keys, &token), Some(AuthError::Signature));
        }

        #[test]
        fn claims_of_any_bytes_do_not_panic(claims in prop::collection::vec(any::<u8>(), 0..300)) {
            let message = format!("{}.{}", base64(header("HS256")), base64(claims));
            let key = EncodingKey::from_secret(SECRET.as_bytes());
            let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &key, Algorithm::HS256).unwrap();
            let token = format!("{message}.{signature}");
            prop_assert!(refusal(&all(), &token).is_some());
        }
    }
}
