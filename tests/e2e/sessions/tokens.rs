//! Which session tokens open a stream, by a secret and by public keys, and where a request carries one.

use std::process::Command;

use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};

use super::control::check_refused;
use crate::support::sessions::{SECRET, Sessions};
use crate::support::tokens::{bearer, now_s, sign};
use crate::support::{Server, Stream, TempDir, check_unauthorized};

/// Tokens which are refused, and words of the reason.
fn bad_tokens() -> Vec<(String, &'static str)> {
    let now = now_s();
    let good = json!({"userId": "alex", "channel": "chat", "exp": now + 600});
    let with = |name: &str, value: Value| {
        let mut claims = good.clone();
        claims[name] = value;
        sign(SECRET, Algorithm::HS256, &claims)
    };
    let without = |name: &str| {
        let mut claims = good.clone();
        claims.as_object_mut().unwrap().remove(name);
        sign(SECRET, Algorithm::HS256, &claims)
    };
    let signed = sign(SECRET, Algorithm::HS256, &good);
    let [header, claims, signature] = signed.split('.').collect::<Vec<_>>()[..] else {
        panic!("three parts")
    };
    // {"alg":"none"}, as it is and with a type.
    let none = ["eyJhbGciOiJub25lIn0", "eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0"];
    let mut bad = vec![
        (format!("{}.{claims}.{signature}", none[0]), "HS256"),
        (format!("{}.{claims}.", none[1]), "HS256"),
        (sign("another secret", Algorithm::HS384, &good), "wrong signature"),
        (sign("another secret", Algorithm::HS512, &good), "wrong signature"),
        (sign("another secret", Algorithm::HS256, &good), "wrong signature"),
        (sign("", Algorithm::HS256, &good), "wrong signature"),
        (format!("{header}.{claims}."), "wrong signature"),
        (format!("{header}.{}.{signature}", claims.replacen('e', "f", 1)), "wrong signature"),
        (format!("{header}.{claims}"), "malformed token"),
        (format!("{header}.{claims}.{signature}."), "malformed token"),
        (format!("{header}.{claims}.{signature}="), "malformed token"),
        ("..".to_owned(), "malformed token"),
        ("garbage-that-nobody-may-see".to_owned(), "malformed token"),
        ("x".repeat(7000), "malformed token"),
        (with("exp", json!(now - 6)), "expired token"),
        (with("exp", json!(now - 5)), "expired token"),
        (with("exp", json!(0)), "expired token"),
        (with("exp", json!("0")), "expired token"),
        (with("exp", json!((now - 6).to_string())), "expired token"),
        (without("exp"), "exp"),
        (with("nbf", json!(now + 300)), "not valid yet"),
        (without("userId"), "userId"),
        (without("channel"), "channel"),
    ];
    for exp in [
        json!(-1),
        json!(null),
        json!(true),
        json!(""),
        json!("abc"),
        json!(format!("+{}", now + 600)),
        json!(format!("-{}", now + 600)),
        json!(format!(" {}", now + 600)),
        json!(format!("{}.5", now + 600)),
        json!(format!("{}e3", now + 600)),
        json!("9999999999\u{663}"),
    ] {
        bad.push((with("exp", exp), "exp"));
    }
    for field in ["userId", "channel"] {
        for name in [
            json!(""),
            json!("x".repeat(129)),
            json!("\u{e9}".repeat(65)),
            json!(5),
            json!(null),
            json!(["alex"]),
        ] {
            bad.push((with(field, name), field));
        }
    }
    bad.push((with("exp", json!([now + 600])), "token"));
    bad.push((with("exp", json!({"at": now + 600})), "token"));
    // Those for topics are none for sessions.
    bad.push((sign(SECRET, Algorithm::HS256, &json!({"sub": "*", "exp": now + 600})), "userId"));
    bad
}

#[test]
fn a_session_token_that_is_not_good_is_401_and_the_line_says_why() {
    let sessions = Sessions::start(&[]);
    for (token, about) in bad_tokens() {
        let cookie = format!("Cookie: esper_token={token}");
        for path in ["/events", "/events/"] {
            for answer in [
                sessions.server.request("GET", &format!("{path}?token={token}"), &[], ""),
                sessions.server.request("GET", path, &[&bearer(&token)], ""),
                sessions.server.request("GET", path, &[&cookie], ""),
            ] {
                check_unauthorized(&answer, about);
                assert!(
                    !token.split('.').any(|part| part.len() > 4 && answer.body.contains(part)),
                    "{answer:?}"
                );
            }
        }
        check_refused(&sessions.control("GET", "/events/", &[&bearer(&token)], ""), 401, about);
    }
    check_unauthorized(&sessions.server.get("/events/"), "no token");
    assert_eq!(sessions.listed("chat")["streams"], 0);
}

#[test]
fn a_session_token_is_taken_from_the_query_the_header_or_the_cookie() {
    let sessions = Sessions::start(&[]);
    let exp = now_s() + 600;
    // As a library writes them, and as the sample of another server has it: `exp` in quotes.
    for exp in [json!(exp), json!(exp.to_string())] {
        let claims =
            json!({"userId": "alex", "channel": "chat", "exp": exp, "sub": 5, "aud": "somebody", "iat": "x"});
        let token = sign(SECRET, Algorithm::HS256, &claims);
        let requests = [
            ("/events/", bearer(&token)),
            ("/events", format!("authorization: bearer  {token}")),
            ("/events", format!("Cookie: a=b; esper_token={token}; c=d")),
            ("/events/?token=", format!("Authorization: Basic dTpw\r\nCookie: esper_token={token}")),
        ];
        let mut streams: Vec<Stream> = requests
            .iter()
            .map(|(path, field)| Stream::open_with(&sessions.server, path, &[field]))
            .collect();
        for path in [format!("/events?token={token}"), format!("/events/?x=y&token={token}")] {
            streams.push(Stream::open(&sessions.server, &path));
        }
        let expected = streams.len();
        assert_eq!(sessions.emit("alex", "chat", "data: hello")["streams"], expected);
        for stream in &mut streams {
            assert_eq!((stream.head.status, stream.event().data), (200, "hello".to_owned()));
        }
        assert_eq!(sessions.disconnect("alex", "chat"), expected as u64);
    }
}

#[test]
fn a_sessions_stream_ends_when_its_token_expires() {
    let sessions = Sessions::start(&[]);
    let exp = now_s() + 3;
    let claims = json!({"userId": "alex", "channel": "chat", "exp": exp.to_string()});
    let token = sign(SECRET, Algorithm::HS256, &claims);
    let mut stream = sessions.resume(&token, "");
    let mut lasting = sessions.stream("alex", "chat");
    sessions.emit("alex", "chat", "data: in time");
    assert_eq!(stream.event().data, "in time");
    let last = stream.event();
    assert_eq!((&*last.name, &*last.data, &*last.id), ("expired", "token expired", ""));
    assert_eq!(stream.next_event(), None);
    assert!(now_s() >= exp, "not before its time");
    check_unauthorized(&sessions.server.request("GET", "/events/", &[&bearer(&token)], ""), "expired token");
    sessions.emit("alex", "chat", "data: goes on");
    assert_eq!([lasting.event().data, lasting.event().data], ["in time", "goes on"]);
}

/// What `openssl genpkey` is told, the algorithm of such a key, and what makes its private half a key to sign with.
type KeyType = (&'static [&'static str], Algorithm, fn(&[u8]) -> EncodingKey);

pub(super) const RSA: KeyType =
    (&["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"], Algorithm::RS256, EncodingKey::from_rsa_der);
pub(super) const P256: KeyType = (
    &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"],
    Algorithm::ES256,
    EncodingKey::from_ec_der,
);
pub(super) const ED25519: KeyType = (&["-algorithm", "ED25519"], Algorithm::EdDSA, EncodingKey::from_ed_der);

/// A private key of openssl's making.
pub(super) struct PrivateKey {
    algorithm: Algorithm,
    key: EncodingKey,
    /// Itself as PEM.
    pub(super) pem: String,
    /// Its public half as PEM.
    pub(super) public_pem: String,
}

impl PrivateKey {
    pub(super) fn new(key_type: KeyType) -> PrivateKey {
        let (options, algorithm, read) = key_type;
        let dir = TempDir::new();
        let file = dir.0.join("private.pem");
        openssl(Command::new("openssl").arg("genpkey").args(options).arg("-out").arg(&file));
        let write = |form: &str| openssl(Command::new("openssl").args(["pkey", form, "-in"]).arg(&file));
        let private = std::fs::read_to_string(&file).unwrap();
        // RSA keys alone are read as PKCS #1, which is the traditional form.
        let to_read = if algorithm == Algorithm::RS256 { write("-traditional") } else { private.clone() };
        PrivateKey {
            algorithm,
            key: read(pem::parse(to_read).unwrap().contents()),
            pem: private,
            public_pem: write("-pubout"),
        }
    }

    pub(super) fn sign(&self, claims: &Value) -> String {
        encode(&Header::new(self.algorithm), claims, &self.key).unwrap()
    }
}

/// What it puts out.
fn openssl(command: &mut Command) -> String {
    let output = command.output().expect("openssl is installed");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).expect("PEM")
}

/// Claims of a session for ten minutes.
fn claims() -> Value {
    json!({"userId": "alex", "channel": "chat", "exp": now_s() + 600})
}

/// A file of keys in this directory.
fn key_file(dir: &TempDir, pem: &str) -> String {
    let path = dir.0.join("key.pem");
    std::fs::write(&path, pem).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn with_a_public_key_its_tokens_are_good_and_no_other_algorithm_is() {
    let dir = TempDir::new();
    let keys = [RSA, P256, ED25519].map(PrivateKey::new);
    // Each beside one of its own kind, which is not the one that is known.
    for (key, same_kind) in keys.iter().zip([RSA, P256, ED25519].map(PrivateKey::new)) {
        let file = key_file(&dir, &key.public_pem);
        let flags = ["--bind-control", "127.0.0.1:0", "--session-public-key", &file];
        let sessions = Sessions::of(Server::start(&flags));
        let good = key.sign(&claims());
        let mut stream = sessions.resume(&good, "");
        sessions.emit("alex", "chat", "data: hello");
        assert_eq!(stream.event().data, "hello");

        // What anybody can know, taken for a secret.
        let der = pem::parse(&key.public_pem).unwrap().into_contents();
        let known = [key.public_pem.as_bytes(), key.public_pem.trim_end().as_bytes(), &der, b""];
        let mut forged: Vec<String> = Vec::new();
        for algorithm in [Algorithm::HS256, Algorithm::HS384, Algorithm::HS512] {
            let sign = |secret: &[u8]| {
                encode(&Header::new(algorithm), &claims(), &EncodingKey::from_secret(secret)).unwrap()
            };
            forged.extend(known.map(sign));
        }
        forged.push(same_kind.sign(&claims()));
        forged.extend(keys.iter().filter(|other| other.pem != key.pem).map(|other| other.sign(&claims())));
        let [header, middle, signature] = good.split('.').collect::<Vec<_>>()[..] else {
            panic!("three parts")
        };
        forged.push(format!("{header}.{middle}."));
        forged.push(format!("eyJhbGciOiJub25lIn0.{middle}."));
        forged.push(format!("eyJhbGciOiJIUzI1NiJ9.{middle}.{signature}"));
        for token in forged {
            let answer = sessions.server.request("GET", "/events/", &[&bearer(&token)], "");
            check_unauthorized(&answer, "token");
        }
        // There is nothing to sign with.
        let answer = sessions.post("/token/", &[("userId", "alex"), ("channel", "chat")]);
        check_refused(&answer, 403, "ESPER_SESSION_SECRET");
    }
}

#[test]
fn several_public_keys_and_a_secret_are_good_side_by_side() {
    let dir = TempDir::new();
    let keys = [RSA, P256, ED25519].map(PrivateKey::new);
    let file = key_file(&dir, &keys.each_ref().map(|key| &*key.public_pem).concat());
    let sessions = Sessions::start(&["--session-public-key", &file]);
    let mut streams = vec![sessions.stream("alex", "chat")];
    streams.extend(keys.iter().map(|key| sessions.resume(&key.sign(&claims()), "")));
    sessions.emit("*", "chat", "data: hello");
    for stream in &mut streams {
        assert_eq!(stream.event().data, "hello");
    }
    for secret in keys.iter().map(|key| &*key.public_pem).chain(["", "another secret"]) {
        let forged = sign(secret, Algorithm::HS256, &claims());
        let answer = sessions.server.request("GET", "/events/", &[&bearer(&forged)], "");
        check_unauthorized(&answer, "wrong signature");
    }
}
