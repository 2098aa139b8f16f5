//! Tokens made elsewhere: the examples of RFC 7515, and tokens signed by OpenSSL.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::*;
use crate::auth::{Secret, SecretPair};

/// The claims of RFC 7515's examples: their times are in whole seconds, and their JSON has line ends.
const RFC_CLAIMS: &str =
    "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";
const RFC_EXPIRES_S: u64 = 1_300_819_380;

fn decoded(text: &str) -> Vec<u8> {
    URL_SAFE_NO_PAD.decode(text).unwrap()
}

fn secrets(secret: &str) -> Signers {
    let pair = SecretPair { current: Secret::new(secret).unwrap(), previous: None };
    Signers { secret: Some(pair), ..Signers::default() }
}

fn check(keys: &Keys, token: &str, expires_s: u64) {
    assert_eq!(keys.verify(token, expires_s - 1).map(|grant| grant.expires_s), Ok(expires_s), "{token}");
    assert_eq!(keys.verify(token, expires_s), Err(AuthError::Expired));
}

#[test]
fn a_known_token_signed_with_a_secret_is_taken() {
    // Appendix A.1 of RFC 7515. Its secret is no text, so no configuration can hold it.
    let secret =
        decoded("AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow");
    let mut keys = Keys::new(&secrets("any"), 0).unwrap();
    keys.keys[0].verifier = Verifier::Library(DecodingKey::from_secret(&secret));
    let header = "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9";
    let token = format!("{header}.{RFC_CLAIMS}.dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk");
    check(&keys, &token, RFC_EXPIRES_S);
}

#[test]
fn a_known_token_signed_on_p_256_is_taken() {
    // Appendix A.3 of RFC 7515: the two numbers of its key, behind the prefix of every P-256 key.
    let start = "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE";
    let x = decoded("f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU");
    let y = decoded("x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0");
    let der = [decoded(start), x, y].concat();
    let public_keys = PublicKey::list_from_pem(&pem::encode(&pem::Pem::new("PUBLIC KEY", der))).unwrap();
    let keys = Keys::new(&Signers { public_keys, ..Signers::default() }, 0).unwrap();
    let signature = "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q";
    check(&keys, &format!("eyJhbGciOiJFUzI1NiJ9.{RFC_CLAIMS}.{signature}"), RFC_EXPIRES_S);
}

#[test]
fn what_openssl_signed_is_taken() {
    let pem = concat!(
        include_str!("../public_key/test_keys/rsa.pem"),
        include_str!("../public_key/test_keys/p256.pem"),
        include_str!("../public_key/test_keys/p384.pem"),
        include_str!("../public_key/test_keys/p521.pem"),
        include_str!("../public_key/test_keys/ed25519.pem"),
    );
    let public_keys = PublicKey::list_from_pem(pem).unwrap();
    let keys = Keys::new(&Signers { public_keys, ..Signers::default() }, 0).unwrap();
    // {"sub":"abcdef123","exp":1700000060}, signed by `openssl dgst -sha256 -sign` and `openssl pkeyutl -sign
    // -rawin`; for ES256 and its like the two numbers of its DER, in their full length.
    let claims = "eyJzdWIiOiJhYmNkZWYxMjMiLCJleHAiOjE3MDAwMDAwNjB9";
    for (header, signature) in [
        (
            "eyJhbGciOiJSUzI1NiJ9",
            "aYMET6EK0LlfcXrCsI_XF7lu0IZaVWgGKKB6vLkw2GpQUuQX-WdCoj_IZxYJwjY17vKiU3rodi16sNxaG1vxYRtKnSML5z0-\
             uqAh0Sb5G8ysSf9MpmCA6gBmqEP5JZ5GssdrLA77moqIL46kcui1LW5MmbwCiYuiNUDzriX-ltty0N-33ZrbjB4Z5u2Va4bq\
             BoMFtw7E3jsdhs6RC6YU93MFf9wqhcKWG_vZwifVC9AuBVGM38qwQ5-hgxWj353ThC7yjJhVR2yQT-_hGqrDNiNnAlDDeikZ\
             gMFf7S_8RV13g0u-9UbJKrOcMFxBdAfkW7M4-LQx-V7Ea5T7MIVUxw",
        ),
        (
            "eyJhbGciOiJSUzUxMiJ9",
            "Qo-izE3MW9GCtC3M2vknDd6T3SIJHI3nhsUY9f4zq5J8QR210FN0gT-RKoP_MzDGXw4bs1zSdpiYmfjcTJTrRfRACbJiTQIQ\
             7W0gf3JOh_Co9ZMc6MsWrxYmef1EhLQhUpuDsRYtVC5efdzj6stHEpTb7jP-2hUJtfbRffGQuOK1y7scAu-Sc87uzWWC_h8q\
             KhYgZ_-ZBFZbyJtTE2c0xmrIzEf0Q_kAaCXq3SUw4Elp70ZSz3XEgR9bM_tnwUlw350ykeF40zMw-QXkr4R8lATFXgm5qaiX\
             gpNmJduxeFiv0PLWu3X2wogFDkLU4pzRGTcVvFrlySNp5z9eCtcIFg",
        ),
        (
            "eyJhbGciOiJQUzI1NiJ9",
            "U2K_-Jo5ZFff3k6G1Xk6cOxMca8ggsbs1FirfnzLxcLdk9ObV6r3y9KBTZS3TL_3l8yYUY2kLQPrPt2vBnGHYwuKC-P10M5-\
             6Gl-r3wFblOH2B5Dq0Y7_6jWEp6oviEOrxecKzP0hkTJ78jkru_uUA6PuVsr_6OBuOHOkmuLsKviIWH4zKL97tAAOVivRwsW\
             x4uJG9fAcpEyCmUddMFV5NVUg3qBXakJZFlNNaHlv7HSiwLyEg7leXFLYb7RDqN0YbzjpTv5u_1RCT0Z4mGkVSbhcm05HNAa\
             EXqO4vh8Do8LZM05KWn2byiSTMxjhUf8ocO-3PzmedBv8qp819fjnA",
        ),
        (
            "eyJhbGciOiJFUzM4NCJ9",
            "ALjlna0xDQlLq3lXRyz0A-zybF_xgGbDIu3BzTdbJU-BuPa2EzGfH9wA_2HdAbqxdPDc22zTYcMu3MVm3JgCnVo2DZNa5cSn\
             YdK-ohvdLDOpdYYUgoQg7npJycvh_CfG",
        ),
        (
            "eyJhbGciOiJFUzUxMiJ9",
            "ALQQRHZF_7ucWUzdV-0Y6y47BGj2NzXwvFqO1wyqZ8vgXmQfxhS_aQ6OGuJ3zB6j27wiUjw1rRC6Pg62E8hW34OKALZlj7tI\
             aUZdlG0yMG1-QLSW8ExQhJUuVxDpTNrMzLMR3D-_cVLPDqqlP3NVJIWj8H31zMTsy4RVxZHHduWQiCC-",
        ),
        (
            "eyJhbGciOiJFUzI1NiJ9",
            "wO0dimpkEirYacycyon3f94BUHsrNLjbtm_kdF4t6XFnmrtEsHsOqPvsRnK57MTJ53Caq5HWAE5L3_5d-iijaQ",
        ),
        (
            "eyJhbGciOiJFZERTQSJ9",
            "3x5yony2weC0Tdv2loRSHAqmSZxeGQfqw5YISIx2MhWgGkOfSJuMa_aBY7d17GZ20EVdK1iDUMzV7vTQ9zhlDQ",
        ),
    ] {
        check(&keys, &format!("{header}.{claims}.{signature}"), 1_700_000_060);
    }
}
