//! Providers that are away, hang, or publish what cannot be right.

use std::time::Instant;

use super::*;
use crate::support::PATIENCE;

#[test]
fn without_a_provider_the_server_starts_and_is_not_ready_until_it_has_keys() {
    let key = ProviderKey::ed25519("a");
    let provider = Provider::start(&[&key]);
    provider.set(ProviderAnswer::Away);
    let server = start(&provider, &[]);
    let away = server.get("/readyz");
    check_refusal(&away, 503, "the keys of --subscriber-jwks were not fetched yet, and there are no others");
    assert_eq!(server.get("/healthz").status, 200);
    // Nobody is let in, and whoever comes back will be.
    let refused = publish(&server, &key);
    check_refusal(&refused, 503, "are not here yet");
    assert_eq!(refused.field("Retry-After"), Some("1"));
    let answer = subscribe(&server, &key);
    assert!(answer.status == 200 && answer.body.contains("retry:"), "{answer:?}");
    check_unauthorized(&server.post(&format!("/publish/{TOPIC}"), "data: x"), "no token");
    check_unauthorized(&publish_by(&server, "a.b.c"), "malformed token");
    let line = "there are none of it yet; it is asked again and again";
    wait_until(line, || server.log().contains(line));

    provider.publish(&[&key]);
    ready(&server);
    assert_eq!(publish(&server, &key).status, 200);
    let counts = counts(&server, &key);
    assert!(counts["failures"].as_u64() >= Some(1) && counts["fetches"] == 1, "{counts}");
    assert_eq!(server.log().matches(line).count(), 1, "{}", server.log());
}

#[test]
fn a_side_that_has_other_keys_is_ready_without_its_provider() {
    let key = ProviderKey::ed25519("a");
    let provider = Provider::start(&[&key]);
    provider.set(ProviderAnswer::Away);
    let url = provider.url();
    let variables = [("ESPER_PUBLISHER_SECRET", PUBLISHER), ("SSL_CERT_FILE", &provider.ca())];
    let server = Server::start_with(&["--publisher-jwks", &url], &variables);
    assert_eq!(server.get("/readyz").status, 200);
    assert_eq!(publish_by(&server, &token(PUBLISHER, TOPIC)).status, 200);
    check_refusal(&publish(&server, &key), 503, "are not here yet");
    // Without authentication nobody asks.
    let server = Server::start(&["--publisher-jwks", &url, "--no-auth"]);
    assert_eq!((server.get("/readyz").status, publish(&server, &key).status), (200, 200));
}

#[test]
fn what_a_provider_publishes_that_cannot_be_right_leaves_the_old_keys_and_says_so() {
    let [key, other] = [ProviderKey::ed25519("a"), ProviderKey::p256("b")];
    let provider = Provider::start(&[&key]);
    let server = start(&provider, &[]);
    ready(&server);
    let with_oct = json!({"keys": [other.jwk, {"kty": "oct", "k": "hunter2"}]}).to_string();
    let large = json!({"keys": [other.jwk], "pad": "x".repeat(300 << 10)}).to_string();
    let elsewhere = format!("Location: {}", Provider::without_tls(&[&other]).url());
    let again = format!("Location: {}", provider.url());
    let bad: [(&str, &[&str], &str, &str); 9] = [
        ("200 OK", &[], "<html>hunter2</html>", "this is no JWK Set"),
        ("200 OK", &[], "{\"keys\":[]}", "no key in it can verify a token (it is empty)"),
        ("200 OK", &[], &with_oct, "it has a symmetric key (kty oct)"),
        ("200 OK", &[], &large, "the document is larger than 256 KiB"),
        ("404 Not Found", &[], "hunter2", "it answered 404"),
        ("500 Oh", &[], "", "it answered 500"),
        ("302 Found", &[&elsewhere], "", "redirected to a URL that is not https"),
        ("302 Found", &["Location: file:///etc/passwd"], "", "redirected to a URL that is not https"),
        ("307 Temporary Redirect", &[&again], "", "more than 3 redirects"),
    ];
    for (status, fields, body, reason) in bad {
        let before = server.log().len();
        provider.answer(status, fields, body);
        signal(server.pid(), "HUP");
        let told = eventually(reason, || {
            let log = server.log().split_off(before);
            log.lines().find(|line| line.contains("cannot fetch the keys")).map(str::to_owned)
        });
        assert!(told.contains(reason) && told.contains("the old ones stay"), "{told}");
        assert!(!told.contains("hunter2"), "{told}");
        assert_eq!((publish(&server, &key).status, publish(&server, &other).status), (200, 401), "{reason}");
        provider.publish(&[&key]);
        signal(server.pid(), "HUP");
        wait_until("it is well again", || server.log()[before..].contains("fetched the keys of"));
    }
    provider.set(ProviderAnswer::Away);
    let before = server.log().len();
    signal(server.pid(), "HUP");
    wait_until("it is away", || server.log()[before..].contains("the old ones stay"));
    assert_eq!(publish(&server, &key).status, 200);
}

#[test]
fn a_redirect_to_https_is_followed_and_so_is_http_on_this_machine_and_no_strangers_certificate_taken() {
    let key = ProviderKey::ed25519("a");
    let provider = Provider::start(&[&key]);
    let plain = Provider::without_tls(&[&key]);
    let server = start(&plain, &[]);
    ready(&server);
    assert_eq!(publish(&server, &key).status, 200);

    plain.answer("301 Moved Permanently", &[&format!("Location: {}", provider.url())], "");
    let ca = provider.ca();
    let url = plain.url();
    let server = Server::start_with(&["--publisher-jwks", &url], &[("SSL_CERT_FILE", &ca)]);
    ready(&server);
    assert_eq!((publish(&server, &key).status, provider.requests().len()), (200, 1));

    // Its authority is not the one that this server knows.
    let url = provider.url();
    let other = Provider::start(&[]);
    let server = Server::start_with(&["--publisher-jwks", &url], &[("SSL_CERT_FILE", &other.ca())]);
    let line = "if it is of an authority of your own, add that to the system's";
    wait_until(line, || server.log().contains(line));
    check_refusal(&publish(&server, &key), 503, "are not here yet");
    assert_eq!(provider.requests().len(), 1);
}

#[test]
fn an_authoritys_own_certificate_is_refused_with_the_remedy() {
    let provider = Provider::with_an_authoritys_certificate();
    let server =
        Server::start_with(&["--publisher-jwks", &provider.url()], &[("SSL_CERT_FILE", &provider.ca())]);
    let line = "give the server one with CA:FALSE that this authority signed";
    wait_until(line, || server.log().contains(line));
    // Nor are there keys where there are no authorities, or no provider.
    for (url, file, line) in [
        (provider.url(), "/nowhere/ca.pem", "/nowhere/ca.pem"),
        ("https://127.0.0.1:1/".to_owned(), &*provider.ca(), "may this machine connect to it?"),
    ] {
        let variables = [("SSL_CERT_FILE", file), ("SSL_CERT_DIR", "")];
        let server = Server::start_with(&["--publisher-jwks", &url], &variables);
        wait_until(line, || server.log().contains(line));
    }
}

#[test]
fn a_provider_that_never_answers_delays_nobody_and_no_end() {
    let key = ProviderKey::ed25519("a");
    let provider = Provider::start(&[&key]);
    provider.set(ProviderAnswer::Never);
    let url = provider.url();
    let variables = [("ESPER_PUBLISHER_SECRET", PUBLISHER), ("SSL_CERT_FILE", &provider.ca())];
    let server = Server::start_with(&["--publisher-jwks", &url], &variables);
    wait_until("it is asked", || !provider.requests().is_empty());
    assert_eq!(publish_by(&server, &token(PUBLISHER, TOPIC)).status, 200);
    check_refusal(&publish(&server, &key), 503, "are not here yet");
    let start = Instant::now();
    assert_eq!(server.stop().code(), Some(0));
    assert!(start.elapsed() < PATIENCE / 8, "{:?}", start.elapsed());
}
