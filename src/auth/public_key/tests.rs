use proptest::prelude::*;

use super::*;

const RSA_2048: &str = include_str!("test_keys/rsa.pem");
const RSA_PKCS1: &str = include_str!("test_keys/rsa-pkcs1.pem");
const RSA_4096: &str = include_str!("test_keys/rsa4096.pem");
const P256: &str = include_str!("test_keys/p256.pem");
const P256_COMPRESSED: &str = include_str!("test_keys/p256-compressed.pem");
const P384: &str = include_str!("test_keys/p384.pem");
const P521: &str = include_str!("test_keys/p521.pem");
const ED25519: &str = include_str!("test_keys/ed25519.pem");
/// Keys that are refused, each after a line `== what it is`.
const REFUSED: &str = include_str!("test_keys/refused.pem");

fn list(text: &str) -> Result<Vec<KeyType>, String> {
    let keys = PublicKey::list_from_pem(text)?;
    Ok(keys.iter().map(PublicKey::key_type).collect())
}

/// Returns the keys of [`REFUSED`], each with what it is.
fn refused() -> impl Iterator<Item = (&'static str, &'static str)> {
    REFUSED.split("== ").skip(1).filter_map(|part| part.split_once('\n'))
}

/// Returns a block `BEGIN PUBLIC KEY` of these bytes.
fn block(der: &[u8]) -> String {
    pem::encode(&Pem::new("PUBLIC KEY", der))
}

/// Returns the text's one block with its bytes changed.
fn changed(text: &str, change: impl FnOnce(&mut Vec<u8>)) -> String {
    let mut der = pem::parse(text).unwrap().into_contents();
    change(&mut der);
    block(&der)
}

#[test]
fn the_type_of_a_key_is_read_from_the_key() {
    for (text, key_type) in [
        (RSA_2048, KeyType::Rsa),
        (RSA_PKCS1, KeyType::Rsa),
        (RSA_4096, KeyType::Rsa),
        (P256, KeyType::P256),
        (P256_COMPRESSED, KeyType::P256),
        (P384, KeyType::P384),
        (P521, KeyType::P521),
        (ED25519, KeyType::Ed25519),
    ] {
        assert_eq!(list(text), Ok(vec![key_type]), "{text}");
    }
    // Both forms of an RSA key give the same key.
    assert_eq!(PublicKey::list_from_pem(RSA_2048), PublicKey::list_from_pem(RSA_PKCS1));
}

#[test]
fn a_file_holds_one_to_eight_keys_and_any_text_around_them() {
    let all = format!("{RSA_2048}{P256}{ED25519}");
    let types = vec![KeyType::Rsa, KeyType::P256, KeyType::Ed25519];
    assert_eq!(list(&all), Ok(types.clone()));
    assert_eq!(list(&all.replace('\n', "\r\n")), Ok(types.clone()));
    assert_eq!(
        list(&format!("\u{feff}Ours:\n{RSA_2048}\nTheirs:\n\n{P256} {ED25519}\nthat is all")),
        Ok(types)
    );
    // As written by tools that do not wrap at 64, or that indent.
    let lines: Vec<&str> = P256.lines().collect();
    let [begin, first, second, end] = lines[..] else { panic!("{P256}") };
    assert_eq!(list(&format!("{begin}\n{first}{second}\n{end}")), Ok(vec![KeyType::P256]));
    assert_eq!(list(&format!("  {begin}\n  {first}\n\t{second}\n  {end}")), Ok(vec![KeyType::P256]));
    assert_eq!(list(&ED25519.repeat(8)).unwrap().len(), 8);
    assert_eq!(list(&ED25519.repeat(9)), Err("9 keys: give at most 8".into()));
}

#[test]
fn a_key_that_is_not_taken_is_named_with_the_mend() {
    assert_eq!(refused().count(), 12);
    for (what, text) in refused() {
        let error = list(text).unwrap_err();
        let (named, mend) = match what {
            "a key with its curve spelled out" => ("does not name its curve", "-param_enc named_curve"),
            "a point in its hybrid form" => ("no key", "give another copy"),
            "a certificate" => ("this is a certificate", "openssl x509 -in CERT -pubkey -noout"),
            rsa if rsa.ends_with("bits") => (rsa, "give one of 2048 to 4096"),
            what => (what, "give an RSA, P-256, P-384, P-521 or Ed25519 key"),
        };
        assert!(error.contains(named) && error.contains(mend) && !error.contains('\n'), "{what}: {error}");
        // Among others the refusal says which one.
        let among = list(&format!("{ED25519}{text}{ED25519}")).unwrap_err();
        assert_eq!(among, format!("block 2 of 3: {error}"));
    }
}

#[test]
fn a_private_key_is_never_taken_whatever_it_is_among() {
    let ed25519 = include_str!("test_keys/ed25519-private.pem");
    for private in [
        include_str!("test_keys/rsa-private.pem"),
        include_str!("test_keys/p256-private.pem"),
        ed25519,
        "-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n\
         -----BEGIN EC PRIVATE KEY-----\nAA==\n-----END EC PRIVATE KEY-----",
        "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\n!\n",
        "-----BEGIN ENCRYPTED PRIVATE KEY-----",
        "-----BEGIN OPENSSH PRIVATE KEY-----",
        &format!("{P256}{ed25519}"),
    ] {
        let error = list(private).unwrap_err();
        assert!(error.starts_with("this is a private key"), "{error}");
        assert!(error.contains("openssl pkey -in KEY -pubout"), "{error}");
    }
}

#[test]
fn what_is_no_pem_or_damaged_is_refused() {
    for text in ["", "\n", "secret", "ssh-ed25519 AAAAC3Nza", "{\"keys\":[]}", "-----BEGIN", "\0"] {
        assert!(list(text).unwrap_err().starts_with("no PEM block"), "{text}");
    }
    let body = P256.lines().nth(1).unwrap();
    for text in [
        P256.replace("-----END PUBLIC KEY-----", ""),
        P256.replace("-----END PUBLIC KEY-----", "-----END RSA PUBLIC KEY-----"),
        P256.replace(body, &format!("{body}!")),
        P256.replace(body, &body[1..]),
        P256.replace(body, &body.replace(&body[9..10], "é")),
        P256.replace("PUBLIC KEY", ""),
        format!("{ED25519}{}", &P256[..100]),
        format!("{}{ED25519}", &P256[..100]),
        format!("{ED25519}-----BEGIN PUBLIC KEY-----"),
    ] {
        assert!(list(&text).unwrap_err().starts_with("a PEM block is damaged"), "{text}");
    }
    let other = "-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----";
    assert!(list(other).unwrap_err().starts_with("this is no public key"));
}

#[test]
fn a_block_whose_bytes_are_no_key_is_refused() {
    for (text, expected) in [
        (block(&[]), "damaged"),
        (block(b"\x30\x00"), "damaged"),
        (changed(P256, |der| der.push(0)), "damaged"),
        (changed(P256, |der| der.truncate(60)), "damaged"),
        // A point off the curve, and the point at infinity.
        (changed(P256, |der| *der.last_mut().unwrap() ^= 1), "no key"),
        (changed(P256, infinity), "no key"),
        (changed(P384, |der| *der.last_mut().unwrap() ^= 1), "no key"),
        (changed(P521, |der| *der.last_mut().unwrap() ^= 1), "no key"),
        (changed(RSA_2048, |der| der[3] ^= 1), "damaged"),
        // Even exponents, and one with which every text is its own signature.
        (changed(RSA_2048, |der| *der.last_mut().unwrap() = 2), "no key"),
        (exponent_of_1(), "no key"),
        // 31 and 33 bytes for Ed25519.
        (changed(ED25519, |der| resize(der, 31)), "no key"),
        (changed(ED25519, |der| resize(der, 33)), "no key"),
        (changed(ED25519, |der| resize(der, 0)), "no key"),
    ] {
        let error = list(&text).unwrap_err();
        assert!(error.contains(expected) && !error.contains('\n'), "{text}{error}");
    }
}

/// Returns the RSA key of 2048 bits with the exponent 1.
fn exponent_of_1() -> String {
    let mut der = pem::parse(RSA_PKCS1).unwrap().into_contents();
    der.truncate(der.len() - 5);
    der.extend([2, 1, 1]);
    der[3] -= 2;
    pem::encode(&Pem::new("RSA PUBLIC KEY", der))
}

/// Gives an Ed25519 key this many bytes instead of 32.
fn resize(der: &mut Vec<u8>, bytes: u8) {
    der.resize(12 + usize::from(bytes), 7);
    (der[1], der[10]) = (10 + bytes, 1 + bytes);
}

/// Replaces a P-256 key's 65 bytes by the one byte of the point at infinity (SEC 1, 2.3.3).
fn infinity(der: &mut Vec<u8>) {
    der.truncate(26);
    der.push(0);
    (der[1], der[24]) = (25, 2);
}

proptest! {
    #[test]
    fn whatever_the_bytes_are_a_key_is_refused_or_verifies_without_a_panic(
        key in prop::sample::select(vec![RSA_2048, RSA_PKCS1, P256, P256_COMPRESSED, P384, P521, ED25519]),
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
        cut in any::<prop::sample::Index>(),
        is_cut in prop::bool::weighted(0.2),
    ) {
        let mut block = pem::parse(key).unwrap();
        let mut der = block.contents().to_vec();
        *at.get_mut(&mut der) = byte;
        if is_cut {
            der.truncate(cut.index(der.len()));
        }
        block = Pem::new(block.tag(), der);
        match PublicKey::list_from_pem(&pem::encode(&block)) {
            Ok(keys) => {
                for key in &keys {
                    let (algorithm, verifier) = key.algorithms().first().zip(key.verifier()).unwrap();
                    prop_assert_eq!(verifier.verify(algorithm, "", &"A".repeat(86)), Ok(false));
                }
            }
            Err(error) => prop_assert!(!error.contains('\n') && error.contains(": ")),
        }
    }

    #[test]
    fn no_text_makes_it_panic(text in "(-----BEGIN |-----END |PUBLIC KEY|-----|\\n|A|=|\\PC){0,40}") {
        prop_assert!(PublicKey::list_from_pem(&text).is_err());
    }
}
