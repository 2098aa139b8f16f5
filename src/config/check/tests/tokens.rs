//! The claims that tokens are asked for, and the places of identity providers' keys.

use super::*;
use crate::config::Signers;

/// Returns the signers of a side that asks tokens for these claims.
pub(super) fn asked_of<const A: usize, const I: usize>(audiences: [&str; A], issuers: [&str; I]) -> Signers {
    let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
    Signers {
        public_keys: public_keys(),
        audiences: texts(&audiences),
        issuers: texts(&issuers),
        ..Signers::default()
    }
}

/// Returns why these flags are refused.
fn refused(line: &str) -> String {
    parse(line, &[]).unwrap_err().to_string()
}

#[test]
fn whom_tokens_must_be_for_is_asked_of_nobody_without_a_key() {
    for side in ["subscriber", "publisher", "session"] {
        for claim in ["audience", "issuer"] {
            let expected = format!(
                "--{side}-{claim}: no key verifies {side} tokens, so none would be asked for; give --{side}-jwks, \
                 --{side}-public-key or a secret, or leave this out"
            );
            assert_eq!(refused(&format!("--{side}-{claim} a")), expected);
        }
    }
    let refused = parse("--subscriber-audience= ", &[("ESPER_SUBSCRIBER_SECRET", SECRET)]).unwrap_err();
    let expected = "--subscriber-audience '': empty; write what tokens have there, or leave it out";
    assert_eq!(refused.to_string(), expected);
}

#[test]
fn a_head_has_room_for_the_longest_token() {
    assert!(
        parse("--token-max 12KiB", &[]).is_ok() && parse("--token-max 8KiB --head-max 1KiB", &[]).is_ok()
    );
    assert!(parse("--token-max 32KiB --head-max 36KiB", &[]).is_ok());
    assert_eq!(
        refused("--token-max 32KiB"),
        "--head-max 16KiB: less than --token-max 32KiB and 4KiB for the rest of a head; raise --head-max to 36KiB, or \
         lower the other"
    );
    for size in ["33KiB", "1023"] {
        let expected = format!("--token-max {size}: out of range; write 1KiB to 32KiB");
        assert_eq!(refused(&format!("--token-max {size}")), expected);
    }
}

#[test]
#[cfg(feature = "jwks-url")]
fn the_keys_of_a_provider_have_a_url_that_nobody_on_the_way_can_change() {
    let url = "https://idp.example/realms/a/protocol/openid-connect/certs";
    let config =
        parse(&format!("--subscriber-jwks {url} --session-jwks http://[::1]:8080/jwks"), &[]).unwrap();
    assert_eq!(config.auth.subscriber.jwks_url.unwrap().to_string(), url);
    assert!(!config.auth.session.is_empty() && config.auth.publisher.is_empty());
    assert!(
        refused("--publisher-jwks http://idp.example/jwks").starts_with(
            "--publisher-jwks http://idp.example/jwks: http, by which anybody on the way could put in keys of their own; \
             write https://, or http:// to this machine alone"
        )
    );
    let text = dumped(&format!("--subscriber-jwks {url}?a=b"));
    assert!(text.contains(&format!("\nsubscriber-jwks: \"{url}?a=b\"\n")), "{text}");
}

#[test]
#[cfg(not(feature = "jwks-url"))]
fn a_url_of_keys_is_refused_by_a_program_without_an_http_client() {
    let refused = refused("--publisher-jwks https://idp.example/jwks");
    assert!(refused.contains("built without the feature jwks-url"), "{refused}");
}

#[test]
fn a_file_of_keys_that_cannot_be_right_is_refused_without_its_text() {
    let secret = JWKS.replacen('{', "{\"x\":7,", 1).replace("]}", ",{\"kty\":\"oct\",\"k\":\"hunter2\"}]}");
    let private = JWKS.replace("\"crv\"", "\"d\":\"hunter2\",\"crv\"");
    let large = format!("{JWKS}{}", " ".repeat(256 * 1024));
    for (content, reason) in [
        (&*secret, "it has a symmetric key (kty oct)"),
        (&private, "it has a private key (member d)"),
        (&large, "larger than 256KiB; name a file with nothing else in it"),
        (PUBLIC_KEY, "this is no JWK Set"),
        ("", "this is no JWK Set"),
        ("{\"keys\":[]}", "no key in it can verify a token"),
    ] {
        let file = TempFile::new(content);
        let refused = refused(&format!("--subscriber-jwks {}", file.path()));
        assert!(refused.starts_with(&format!("--subscriber-jwks {}: {reason}", file.path())), "{refused}");
        assert!(!refused.contains("hunter2") && !refused.contains('\n'), "{refused}");
    }
    let refused = refused("--subscriber-jwks /nowhere");
    assert!(refused.starts_with("--subscriber-jwks /nowhere: No such file"), "{refused}");
}

#[test]
#[cfg(feature = "jwks-url")]
fn keys_of_a_provider_for_any_of_its_applications_are_warned_of() {
    let warned = |line: &str| {
        let args = format!("esper {line}").split(' ').map(Into::into).collect();
        parse_with_warnings(args, &|_| None, &[]).unwrap().1
    };
    for side in ["subscriber", "publisher"] {
        let expected = format!(
            "--{side}-jwks: tokens that this provider signs for its other applications are accepted, too; name the audience \
             of this server's tokens with --{side}-audience"
        );
        let with_issuer = format!("--{side}-jwks https://a/ --{side}-issuer a");
        assert_eq!(warned(&with_issuer), [expected]);
        assert_eq!(warned(&format!("{with_issuer} --{side}-audience esper")), [""; 0]);
    }
    // A file may be of one's own keys.
    let file = TempFile::new(JWKS);
    assert_eq!(warned(&format!("--subscriber-jwks {}", file.path())), [""; 0]);
}

#[test]
#[cfg(feature = "jwks-url")]
fn the_flags_and_urls_of_the_document_are_taken() {
    let document = include_str!("../../../../docs/keys.md");
    let (_, example) = document.split_once("```bash\nesper ").unwrap();
    let (example, _) = example.split_once("```").unwrap();
    let config = parse(&example.replace("\\\n", " "), &[]).unwrap();
    assert!(config.auth.subscriber.jwks_url.is_some() && config.auth.subscriber.issuers.len() == 1);
    let mut taken = 0;
    for flag in ["jwks", "issuer"] {
        let row =
            document.lines().find(|line| line.starts_with(&format!("| `--subscriber-{flag}` |"))).unwrap();
        for value in row.split('`').skip(3).step_by(2) {
            let host = value.replace("HOST", "idp.example").replace("TENANT", "t").replace("ORG", "o");
            let line = format!("--subscriber-jwks https://a/ --subscriber-{flag} {host}");
            let line = if flag == "jwks" { format!("--subscriber-jwks {host}") } else { line };
            assert!(parse(&line, &[]).is_ok(), "{line}");
            taken += 1;
        }
    }
    assert_eq!(taken, 6);
}
