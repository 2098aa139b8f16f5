//! Keys of identity providers, from real web servers with TLS, and from files.

mod faults;
mod files;

use serde_json::{Value, json};

use crate::support::provider::{Provider, ProviderAnswer, ProviderKey};
use crate::support::sessions::Sessions;
use crate::support::tokens::{PUBLISHER, bearer, now_s, token};
use crate::support::{
    Answer, Server, Stream, check_refusal, check_unauthorized, eventually, signal, wait_until,
};

const TOPIC: &str = "provided1";

/// Starts a server whose subscribers and publishers have tokens of this provider.
fn start(provider: &Provider, flags: &[&str]) -> Server {
    let url = provider.url();
    let flags = [&["--subscriber-jwks", &url, "--publisher-jwks", &url], flags].concat();
    Server::start_with(&flags, &[("SSL_CERT_FILE", &provider.ca())])
}

fn claims() -> Value {
    json!({"sub": TOPIC, "exp": now_s() + 600})
}

/// The answer to a publish with a token of this key.
fn publish(server: &Server, key: &ProviderKey) -> Answer {
    publish_by(server, &key.sign(&claims()))
}

fn publish_by(server: &Server, token: &str) -> Answer {
    server.request("POST", &format!("/publish/{TOPIC}"), &[&bearer(token)], "data: x")
}

/// Asks for a stream, and returns all of an answer that ends.
fn subscribe(server: &Server, key: &ProviderKey) -> Answer {
    server.request("GET", &format!("/subscribe/{TOPIC}"), &[&bearer(&key.sign(&claims()))], "")
}

/// Waits until the provider's first keys are in force.
fn ready(server: &Server) {
    wait_until("the first keys", || server.get("/readyz").status == 200);
}

/// Has the keys fetched at once, and waits until that succeeded or failed so many times in all.
fn fetch(server: &Server, key: &ProviderKey, counter: &str, times: u64) {
    signal(server.pid(), "HUP");
    wait_until("a fetch", || counts(server, key)[counter] == times);
}

/// The counts of fetches, as a publisher sees them.
fn counts(server: &Server, key: &ProviderKey) -> Value {
    let answer = server.request("GET", "/stats", &[&bearer(&key.sign(&claims()))], "");
    answer.json()["jwks"].clone()
}

#[test]
fn tokens_of_a_provider_are_good_once_its_keys_are_fetched() {
    let keys = [ProviderKey::ed25519("a"), ProviderKey::p256("b"), ProviderKey::rsa("c")];
    let provider = Provider::start(&keys.each_ref());
    let server = start(&provider, &[]);
    ready(&server);
    for key in &keys {
        let token = key.sign(&claims());
        let mut stream = Stream::open(&server, &format!("/subscribe/{TOPIC}?token={token}"));
        assert_eq!(publish(&server, key).status, 200);
        assert_eq!((stream.head.status, &*stream.event().data), (200, "x"));
    }
    // The two sides have one URL, which is asked once.
    assert_eq!(provider.requests(), ["/certs"]);
    assert_eq!(counts(&server, &keys[0]), json!({"fetches": 1, "failures": 0}));
    let metrics = server.request("GET", "/metrics", &[&bearer(&keys[0].sign(&claims()))], "").body;
    for line in ["\nesper_jwks_fetches_total 1\n", "\nesper_jwks_failed_fetches_total 0\n"] {
        assert!(metrics.contains(line), "{metrics}");
    }
    let line = format!("fetched the keys of the identity provider at {}", provider.url());
    assert_eq!(server.log().matches(&line).count(), 1, "{}", server.log());
    // A token of the same key by another name, and what anybody can make of the document.
    for (forged, about) in [
        (ProviderKey::ed25519("b").sign(&claims()), "its kid"),
        (token(&provider.url(), TOPIC), "sign it with"),
        (token(keys[0].jwk["x"].as_str().unwrap(), TOPIC), "sign it with"),
    ] {
        check_unauthorized(&publish_by(&server, &forged), about);
    }
    assert_eq!(server.stop().code(), Some(0));
}

#[test]
fn a_key_that_comes_is_fetched_when_it_is_first_used_and_at_most_once_a_minute() {
    let [old, new, never] =
        [ProviderKey::ed25519("old"), ProviderKey::p256("new"), ProviderKey::rsa("never")];
    let provider = Provider::start(&[&old]);
    let server = start(&provider, &[]);
    ready(&server);
    assert_eq!((publish(&server, &old).status, provider.requests().len()), (200, 1));

    provider.publish(&[&new]);
    // Refused now: by a status for a publish, and for a stream so that an EventSource comes back.
    let refused = publish(&server, &new);
    check_unauthorized(&refused, "not known yet");
    wait_until("the new key", || publish(&server, &new).status == 200);
    assert_eq!(provider.requests().len(), 2);
    assert_eq!(publish(&server, &old).status, 401, "it was taken back");

    for _ in 0..50 {
        assert_eq!(publish(&server, &never).status, 401);
        let answer = subscribe(&server, &never);
        assert_eq!((answer.status, answer.field("Connection")), (200, Some("close")), "{answer:?}");
        assert!(answer.body.contains("retry:"), "{answer:?}");
        let field = bearer(&never.sign(&claims()));
        let head = server.request("HEAD", &format!("/subscribe/{TOPIC}"), &[&field], "");
        assert_eq!(head.status, 401);
    }
    assert_eq!((provider.requests().len(), publish(&server, &new).status), (2, 200));
    // Once the provider was asked for it in vain there is nothing to come back for.
    fetch(&server, &new, "fetches", 3);
    let answer = subscribe(&server, &never);
    check_unauthorized(&answer, "a key that is not known here");
    assert_eq!(provider.requests().len(), 3);
}

#[test]
fn a_stream_that_is_refused_for_now_is_refused_by_503_where_that_is_asked_for() {
    let [known, other] = [ProviderKey::ed25519("a"), ProviderKey::p256("b")];
    let provider = Provider::start(&[&known]);
    let server = start(&provider, &["--refuse-streams", "503"]);
    ready(&server);
    let answer = subscribe(&server, &other);
    check_refusal(&answer, 503, "not known yet");
    assert_eq!(answer.field("Retry-After"), Some("1"));
}

#[test]
fn a_token_must_be_for_this_server_and_from_its_provider() {
    let key = ProviderKey::rsa("a");
    let provider = Provider::start(&[&key]);
    let flags = ["--subscriber-audience", "esper,other", "--subscriber-issuer", "https://idp.example/"];
    let server = start(&provider, &flags);
    ready(&server);
    let by = |aud: Value, iss: &str| {
        let claims = json!({"sub": TOPIC, "exp": now_s() + 600, "aud": aud, "iss": iss});
        let field = bearer(&key.sign(&claims));
        server.request("HEAD", &format!("/subscribe/{TOPIC}"), &[&field], "").status
    };
    let iss = "https://idp.example/";
    assert_eq!([by(json!("esper"), iss), by(json!(["account", "other"]), iss)], [200; 2]);
    assert_eq!([by(json!("account"), iss), by(json!("esper"), "https://idp.example")], [401; 2]);
    check_unauthorized(&subscribe(&server, &key), "token without iss");
    // It is asked of the one side alone.
    assert_eq!(publish(&server, &key).status, 200);
}

#[test]
fn session_tokens_that_are_made_here_are_for_whom_this_server_asks() {
    let flags = ["--session-audience", "esper", "--session-issuer", "here"];
    let sessions = Sessions::start(&flags);
    let mut stream = sessions.stream("alex", "chat");
    sessions.emit("alex", "chat", "data: hello");
    assert_eq!(stream.event().data, "hello");
    let claims = json!({"userId": "alex", "channel": "chat", "exp": now_s() + 600});
    let foreign = crate::support::tokens::sign(
        crate::support::sessions::SECRET,
        jsonwebtoken::Algorithm::HS256,
        &claims,
    );
    let answer = sessions.server.request("GET", "/events/", &[&bearer(&foreign)], "");
    check_unauthorized(&answer, "token without iss");
}

#[test]
fn a_token_as_long_as_it_may_be_fits_into_a_header_and_a_url() {
    let padded = |bytes: usize| {
        let claims = json!({"sub": TOPIC, "exp": now_s() + 600, "pad": "x".repeat(bytes * 3 / 4)});
        crate::support::tokens::sign(PUBLISHER, jsonwebtoken::Algorithm::HS256, &claims)
    };
    let variables = [("ESPER_PUBLISHER_SECRET", PUBLISHER)];
    let long = padded(30 << 10);
    let by_url =
        |server: &Server, token: &str| server.post(&format!("/publish/{TOPIC}?token={token}"), "data: x");
    let server = Server::start_with(&["--token-max", "32KiB", "--head-max", "36KiB"], &variables);
    assert_eq!([publish_by(&server, &long).status, by_url(&server, &long).status], [200; 2]);
    check_unauthorized(&publish_by(&server, &padded(33 << 10)), "token longer than 32768 bytes");
    let server = Server::start_with(&[], &variables);
    check_unauthorized(&publish_by(&server, &padded(9 << 10)), "token longer than 8192 bytes");
    check_refusal(&by_url(&server, &padded(9 << 10)), 414, "send at most 8192 bytes");
    assert_eq!(publish_by(&server, &padded(7 << 10)).status, 200);
}
