//! What each stage of a publish's way costs by itself: `cargo bench`.

use std::hint::black_box;

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use esper::config::{PublicKey, Secret, SecretPair, Signers};
use esper::internal::{Blocks, Ordering, OwnMailbox, PingPong, Reading, Requests, Tokens, parse_events};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};

/// A key of the tests, in PEM.
macro_rules! test_key {
    ($name:literal) => {
        include_str!(concat!("../src/auth/public_key/test_keys/", $name, ".pem"))
    };
}

/// An event of 128 bytes of data, as the load generator sends it.
fn event() -> Bytes {
    format!("data:{}\n\n", "x".repeat(128)).into()
}

fn publish(path: &str, fields: &str) -> Vec<u8> {
    let body = String::from_utf8_lossy(&event()).into_owned();
    format!(
        "POST {path} HTTP/1.1\r\nHost: 127.0.0.1:3000\r\n{fields}Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

fn requests(c: &mut Criterion) {
    let browser = "User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36\r\nAccept: */*\r\n\
                   Accept-Language: en\r\nOrigin: https://example.org\r\nContent-Type: text/plain\r\n";
    let mut group = c.benchmark_group("parse a publish");
    for (name, fields) in [("smallest head", ""), ("a browser's head", browser)] {
        let request = publish("/publish/abcdef123", fields);
        let mut requests = Requests::new(request);
        group.throughput(Throughput::Elements(100));
        group.bench_function(name, |b| b.iter(|| black_box(requests.parse(100))));
    }
    group.finish();
}

fn events(c: &mut Criterion) {
    let mut group = c.benchmark_group("parse events");
    let many: Bytes = event().repeat(50).into();
    for (name, body) in [("one of 128 bytes", event()), ("fifty of 128 bytes", many)] {
        group.throughput(Throughput::Bytes(body.len() as u64));
        group.bench_function(name, |b| b.iter(|| black_box(parse_events(&body))));
    }
    group.finish();
}

fn ordering(c: &mut Criterion) {
    let mut group = c.benchmark_group("order at home");
    group.throughput(Throughput::Elements(1));
    for (name, history) in [("with history", 1000), ("without history", 0)] {
        let Some(mut home) = Ordering::new(event(), history) else { continue };
        group.bench_function(name, |b| b.iter(|| black_box(home.publish())));
    }
    if let Some(mut home) = Ordering::new(event(), 0) {
        group.bench_function("serialise one of 128 bytes, parsed already", |b| {
            b.iter(|| black_box(home.serialise()))
        });
    }
    group.finish();
}

fn blocks(c: &mut Criterion) {
    let mut group = c.benchmark_group("log");
    for (name, frames, subscribers) in [
        ("join one frame, nobody to send to but one", 1, 1),
        ("join 64 frames, nobody to send to but one", 64, 1),
        ("join one frame, read by 1,000 cursors", 1, 1000),
    ] {
        let mut blocks = Blocks::new(&event(), subscribers);
        group.throughput(Throughput::Elements((frames * subscribers) as u64));
        group.bench_function(name, |b| b.iter(|| black_box(blocks.turn(frames))));
    }
    for (name, frames) in [("read a block of one frame", 1), ("read a block of 64 frames", 64)] {
        let reading = Reading::new(&event(), frames);
        group.throughput(Throughput::Elements(1));
        group.bench_function(name, |b| b.iter(|| black_box(reading.read())));
    }
    group.finish();
}

fn tokens(c: &mut Criterion) {
    let secret = "a secret of thirty-two bytes, now";
    let claims = serde_json::json!({ "sub": "abcdef123", "exp": 4_000_000_000_u64 });
    let der = |text: &str| pem::parse(text).map(pem::Pem::into_contents).unwrap_or_default();
    let mut group = c.benchmark_group("token");
    group.throughput(Throughput::Elements(1));
    for (algorithm, key, public_key) in [
        (Algorithm::HS256, EncodingKey::from_secret(secret.as_bytes()), ""),
        (Algorithm::RS256, EncodingKey::from_rsa_der(&der(test_key!("rsa-private"))), test_key!("rsa")),
        (Algorithm::ES256, EncodingKey::from_ec_der(&der(test_key!("p256-private"))), test_key!("p256")),
        (
            Algorithm::EdDSA,
            EncodingKey::from_ed_der(&der(test_key!("ed25519-private"))),
            test_key!("ed25519"),
        ),
    ] {
        let token = encode(&Header::new(algorithm), &claims, &key).unwrap_or_default();
        let secret = Secret::new(secret).map(|current| SecretPair { current, previous: None });
        let public_keys = PublicKey::list_from_pem(public_key).unwrap_or_default();
        let Some(tokens) = Tokens::new(&Signers { secret, public_keys, ..Signers::default() }) else {
            return;
        };
        assert!(tokens.verify(&token, 1_700_000_000));
        group.bench_function(format!("verify {algorithm:?}"), |b| {
            b.iter(|| black_box(tokens.verify(&token, 1_700_000_000)));
        });
        // What a cache of verified tokens would cost at the least: one look-up by the whole token.
        if algorithm == Algorithm::HS256 {
            let cache = std::collections::HashMap::from([(token.clone(), 4_000_000_000_u64)]);
            group.bench_function("look up in a cache instead", |b| b.iter(|| black_box(cache.get(&token))));
        }
    }
    group.finish();
}

fn mailbox(c: &mut Criterion) {
    let own = OwnMailbox::default();
    let mut group = c.benchmark_group("mailbox hop");
    group.throughput(Throughput::Elements(1));
    group.bench_function("to itself", |b| b.iter(|| black_box(own.hop())));
    // A shard that is busy takes the message at its next turn and pays less: this is what it costs at the most.
    if let Ok(pair) = PingPong::new() {
        group.throughput(Throughput::Elements(2));
        group.bench_function("to another thread that sleeps, and back", |b| b.iter(|| pair.round()));
    }
    group.finish();
}

criterion_group!(stages, requests, events, ordering, blocks, tokens, mailbox);
criterion_main!(stages);
