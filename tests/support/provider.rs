//! An identity provider: a web server with TLS of its own authority that publishes a JWK Set, and keys that sign tokens.

use std::io::{self, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::{Value, json};

use super::http::read_head;
use super::machine::{PATIENCE, TempDir};

macro_rules! test_key {
    ($name:literal) => {
        include_str!(concat!("../../src/auth/public_key/test_keys/", $name, ".pem"))
    };
}

/// A key of a provider, by the name that its tokens call it by.
pub(crate) struct ProviderKey {
    kid: &'static str,
    algorithm: Algorithm,
    key: EncodingKey,
    pub(crate) jwk: Value,
}

impl ProviderKey {
    pub(crate) fn ed25519(kid: &'static str) -> ProviderKey {
        let jwk = json!({"kty": "OKP", "crv": "Ed25519", "kid": kid, "use": "sig", "x": last(test_key!("ed25519"), 0, 32)});
        let key = EncodingKey::from_ed_der(&der(test_key!("ed25519-private")));
        ProviderKey { kid, algorithm: Algorithm::EdDSA, key, jwk }
    }

    pub(crate) fn p256(kid: &'static str) -> ProviderKey {
        let (x, y) = (last(test_key!("p256"), 32, 32), last(test_key!("p256"), 0, 32));
        let jwk =
            json!({"kty": "EC", "crv": "P-256", "kid": kid, "alg": "ES256", "use": "sig", "x": x, "y": y});
        let key = EncodingKey::from_ec_der(&der(test_key!("p256-private")));
        ProviderKey { kid, algorithm: Algorithm::ES256, key, jwk }
    }

    /// Signs tokens as PS256, one of the algorithms of an RSA key.
    pub(crate) fn rsa(kid: &'static str) -> ProviderKey {
        // Behind the modulus stand its exponent, and that number's type and length.
        let (n, e) = (last(test_key!("rsa"), 5, 256), last(test_key!("rsa"), 0, 3));
        let jwk =
            json!({"kty": "RSA", "kid": kid, "use": "sig", "n": n, "e": e, "x5c": ["MIIC"], "x5t": "x"});
        let key = EncodingKey::from_rsa_der(&der(test_key!("rsa-private")));
        ProviderKey { kid, algorithm: Algorithm::PS256, key, jwk }
    }

    pub(crate) fn sign(&self, claims: &Value) -> String {
        let header = Header { kid: Some(self.kid.to_owned()), ..Header::new(self.algorithm) };
        encode(&header, claims, &self.key).unwrap()
    }
}

fn der(pem: &str) -> Vec<u8> {
    pem::parse(pem).unwrap().into_contents()
}

/// Returns so many bytes of a key that stand so many before its end, as a JWK has them.
fn last(pem: &str, before: usize, bytes: usize) -> String {
    let der = der(pem);
    let end = der.len() - before;
    BASE64_URL_SAFE_NO_PAD.encode(&der[end - bytes..end])
}

/// The answer of a provider.
#[derive(Clone)]
pub(crate) enum ProviderAnswer {
    /// These bytes.
    Raw(Vec<u8>),
    /// Nothing, for as long as the client waits.
    Never,
    /// The end of the connection, before any TLS.
    Away,
}

/// A running provider, for as long as the test runs.
pub(crate) struct Provider {
    address: SocketAddr,
    has_tls: bool,
    /// The targets that were asked for.
    requests: Arc<Mutex<Vec<String>>>,
    answer: Arc<Mutex<ProviderAnswer>>,
    dir: TempDir,
}

impl Provider {
    /// Starts a provider with TLS that publishes these keys.
    pub(crate) fn start(keys: &[&ProviderKey]) -> Provider {
        Provider::start_with(keys, Some("server"))
    }

    /// Starts one whose certificate is its authority's own.
    pub(crate) fn with_an_authoritys_certificate() -> Provider {
        Provider::start_with(&[], Some("ca"))
    }

    /// Starts one that speaks `http`.
    pub(crate) fn without_tls(keys: &[&ProviderKey]) -> Provider {
        Provider::start_with(keys, None)
    }

    fn start_with(keys: &[&ProviderKey], certificate: Option<&str>) -> Provider {
        let dir = TempDir::new();
        let tls = certificate.map(|name| tls(&dir.0, name));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let provider = Provider {
            address: listener.local_addr().unwrap(),
            has_tls: tls.is_some(),
            requests: Arc::default(),
            answer: Arc::new(Mutex::new(ProviderAnswer::Away)),
            dir,
        };
        provider.publish(keys);
        let (requests, answer) = (Arc::clone(&provider.requests), Arc::clone(&provider.answer));
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (requests, answer, tls) =
                    (Arc::clone(&requests), answer.lock().unwrap().clone(), tls.clone());
                thread::spawn(move || serve(stream, tls, &requests, answer));
            }
        });
        provider
    }

    /// The URL of its keys.
    pub(crate) fn url(&self) -> String {
        let scheme = if self.has_tls { "https" } else { "http" };
        format!("{scheme}://{}/certs", self.address)
    }

    /// The file with its authority.
    pub(crate) fn ca(&self) -> String {
        self.dir.0.join("ca.pem").to_str().unwrap().to_owned()
    }

    /// Publishes these keys from now on.
    pub(crate) fn publish(&self, keys: &[&ProviderKey]) {
        let keys: Vec<&Value> = keys.iter().map(|key| &key.jwk).collect();
        self.publish_text(&json!({ "keys": keys }).to_string());
    }

    pub(crate) fn publish_text(&self, document: &str) {
        self.answer("200 OK", &[], document);
    }

    /// Answers so from now on.
    pub(crate) fn answer(&self, status: &str, fields: &[&str], body: &str) {
        let fields: String = fields.iter().map(|field| format!("{field}\r\n")).collect();
        let length = body.len();
        let text = format!(
            "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n{fields}\r\n{body}"
        );
        self.set(ProviderAnswer::Raw(text.into_bytes()));
    }

    pub(crate) fn set(&self, answer: ProviderAnswer) {
        *self.answer.lock().unwrap() = answer;
    }

    /// The targets that were asked for so far.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

fn serve(
    stream: TcpStream,
    tls: Option<Arc<ServerConfig>>,
    requests: &Mutex<Vec<String>>,
    answer: ProviderAnswer,
) {
    if matches!(answer, ProviderAnswer::Away) {
        return;
    }
    let _ = stream.set_read_timeout(Some(PATIENCE));
    let _ = match tls {
        Some(config) => {
            let connection = ServerConnection::new(config).unwrap();
            respond(StreamOwned::new(connection, stream), requests, answer)
        }
        None => respond(stream, requests, answer),
    };
}

/// Answers one request.
fn respond(
    stream: impl Read + Write,
    requests: &Mutex<Vec<String>>,
    answer: ProviderAnswer,
) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    let head = read_head(&mut stream)?;
    requests.lock().unwrap().push(head.split(' ').nth(1).unwrap_or_default().to_owned());
    match answer {
        ProviderAnswer::Raw(bytes) => {
            stream.get_mut().write_all(&bytes)?;
            stream.get_mut().flush()?;
        }
        ProviderAnswer::Never | ProviderAnswer::Away => {}
    }
    // Until the client has closed, so that nothing of the answer is lost.
    stream.read_to_end(&mut Vec::new()).map(drop)
}

/// Makes an authority and a certificate of it for 127.0.0.1 in this directory, and returns the settings of a server with
/// that of this name.
fn tls(dir: &Path, name: &str) -> Arc<ServerConfig> {
    let openssl = |line: &str| {
        let output = Command::new("openssl").args(line.split(' ')).current_dir(dir).output();
        let output = output.expect("openssl is installed");
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    };
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
    openssl(&format!("req -x509 {key} -keyout ca.key -out ca.pem -subj /CN=ca -days 2"));
    openssl(&format!("req {key} -keyout server.key -out server.csr -subj /CN=provider"));
    std::fs::write(dir.join("names"), "subjectAltName=IP:127.0.0.1").unwrap();
    openssl(
        "x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -out server.pem -extfile names",
    );
    let certificates =
        CertificateDer::pem_file_iter(dir.join(format!("{name}.pem"))).unwrap().map(Result::unwrap);
    let key = PrivateKeyDer::from_pem_file(dir.join(format!("{name}.key"))).unwrap();
    let builder = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
    Arc::new(builder.with_single_cert(certificates.collect(), key).unwrap())
}
