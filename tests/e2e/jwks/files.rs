//! Keys in files, and beside fetched ones.

use std::fs;

use super::*;
use crate::support::{TempDir, esper, run};

const SECRETS: [&str; 2] =
    ["the first secret of this test, of 40 bytes", "the second secret of this test, of 41"];

fn set(keys: &[&ProviderKey]) -> String {
    json!({ "keys": keys.iter().map(|key| &key.jwk).collect::<Vec<_>>() }).to_string()
}

/// Has the server reread its files, and waits until it did so many times, well or not.
fn reread(server: &Server, words: &str, times: usize) {
    signal(server.pid(), "HUP");
    wait_until(words, || server.log().matches(words).count() == times);
}

#[test]
fn a_file_is_reread_as_other_files_of_keys_are() {
    let dir = TempDir::new();
    let path = dir.0.join("jwks.json");
    let file = path.to_str().unwrap();
    let [first, second] = [ProviderKey::ed25519("a"), ProviderKey::p256("b")];
    fs::write(&path, set(&[&first])).unwrap();
    let server = Server::start(&["--publisher-jwks", file]);
    let statuses = || [publish(&server, &first).status, publish(&server, &second).status];
    assert_eq!((server.get("/readyz").status, statuses()), (200, [200, 401]));
    check_unauthorized(&publish(&server, &second), "sign it with EdDSA");

    fs::write(&path, set(&[&first, &second])).unwrap();
    assert_eq!(statuses(), [200, 401], "not before it is told to");
    reread(&server, "INFO secrets and keys reread", 1);
    assert_eq!(statuses(), [200, 200]);
    check_unauthorized(&publish(&server, &ProviderKey::rsa("c")), "sign it with");
    check_unauthorized(&publish(&server, &ProviderKey::p256("c")), "a key that is not known here");

    fs::write(&path, "{\"keys\":[{\"kty\":\"oct\",\"k\":\"hunter2\"}]}").unwrap();
    reread(&server, "ERROR secrets and keys not reread, the old ones stay: --publisher-jwks", 1);
    assert_eq!(statuses(), [200, 200]);
    fs::write(&path, set(&[&second])).unwrap();
    reread(&server, "INFO secrets and keys reread", 2);
    assert_eq!(statuses(), [401, 200]);
    assert!(!server.log().contains("hunter2"), "{}", server.log());
}

#[test]
fn a_start_with_a_secret_in_a_set_or_a_url_that_cannot_be_right_is_refused() {
    let dir = TempDir::new();
    let path = dir.0.join("jwks.json");
    fs::write(&path, "{\"keys\":[{\"kty\":\"oct\",\"k\":\"hunter2\"}]}").unwrap();
    for (value, reason) in [
        (path.to_str().unwrap(), "it has a symmetric key (kty oct)"),
        ("http://idp.example/jwks", "http, by which anybody on the way could put in keys of their own"),
        ("/nowhere", "No such file or directory"),
    ] {
        let ended = run(esper(&["--publisher-jwks", value], &[]));
        assert_eq!(ended.code, Some(2));
        assert!(ended.stderr.contains(&format!("--publisher-jwks {value}: {reason}")), "{}", ended.stderr);
        assert!(!ended.stderr.contains("hunter2") && ended.stderr.lines().count() == 1, "{}", ended.stderr);
    }
}

/// Whatever comes first, files that are reread and keys that are fetched do not undo each other.
#[test]
fn rereading_files_and_fetching_keys_leave_what_the_other_brought() {
    let dir = TempDir::new();
    let path = dir.0.join("secret");
    let [first, second] = [ProviderKey::ed25519("a"), ProviderKey::p256("b")];
    fs::write(&path, SECRETS[0]).unwrap();
    let provider = Provider::start(&[&first]);
    let url = provider.url();
    let flags = ["--publisher-jwks", &url, "--publisher-secret-file", path.to_str().unwrap()];
    let server = Server::start_with(&flags, &[("SSL_CERT_FILE", &provider.ca())]);
    let statuses = || {
        let [one, other] = SECRETS.map(|secret| publish_by(&server, &token(secret, TOPIC)).status);
        [one, other, publish(&server, &first).status, publish(&server, &second).status]
    };
    wait_until("the first keys", || statuses() == [200, 401, 200, 401]);
    // The key is still to come when the files are reread, and the provider does not answer.
    provider.set(ProviderAnswer::Away);
    fs::write(&path, SECRETS[1]).unwrap();
    reread(&server, "INFO secrets and keys reread", 1);
    assert_eq!(statuses(), [401, 200, 200, 401]);
    provider.publish(&[&second]);
    wait_until("the second keys", || statuses() == [401, 200, 401, 200]);
    fs::write(&path, format!("{}\n{}\n", SECRETS[0], SECRETS[1])).unwrap();
    reread(&server, "INFO secrets and keys reread", 2);
    assert_eq!(statuses(), [200, 200, 401, 200]);
}

#[test]
fn another_url_takes_a_restart() {
    let dir = TempDir::new();
    let config = dir.0.join("config.yml");
    let key = ProviderKey::ed25519("a");
    let provider = Provider::without_tls(&[&key]);
    fs::write(&config, format!("publisher-jwks: {}\n", provider.url())).unwrap();
    let server = Server::start(&["--config", config.to_str().unwrap()]);
    ready(&server);
    fs::write(&config, "publisher-jwks: http://127.0.0.1:1/other\n").unwrap();
    reread(&server, "the old ones stay: --publisher-jwks: another URL needs a restart", 1);
    fs::write(&config, "port: 1\n").unwrap();
    reread(&server, "the old ones stay: --publisher-jwks: another URL needs a restart", 2);
    assert_eq!((publish(&server, &key).status, provider.requests().len()), (200, 1));
}
