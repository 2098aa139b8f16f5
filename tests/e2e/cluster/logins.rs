//! How nodes log in at NATS servers of an operator's own: TLS with an authority of their own, tokens, NKeys and credentials
//! files; and what is refused, by which line.

use std::fs::{self, File};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use nkeys::KeyPair;
use serde_json::{Value, json};

use super::starts::{check_last_line, refused};
use crate::support::nats::program;
use crate::support::{Server, TempDir, wait_until};

/// A NATS server with a configuration of its own; ended when dropped.
struct OwnNats {
    child: Child,
    port: u16,
    dir: TempDir,
}

impl OwnNats {
    /// Starts one with these blocks beside JetStream, in which `DIR` is where its files are.
    fn start(dir: TempDir, blocks: &str) -> OwnNats {
        let blocks = blocks.replace("DIR", dir.0.to_str().unwrap());
        // Between the look for a free port and the server somebody else may take it.
        for _ in 0..5 {
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let config = format!(
                "listen: 127.0.0.1:{port}\nmax_payload: 4MB\njetstream {{ store_dir: '{}' }}\n{blocks}",
                dir.0.display()
            );
            fs::write(dir.0.join("nats.conf"), config).unwrap();
            let log = File::create(dir.0.join("log")).unwrap();
            let mut command = Command::new(program());
            command.arg("-c").arg(dir.0.join("nats.conf")).stdin(Stdio::null()).stdout(Stdio::null());
            let mut child = command.stderr(log).spawn().unwrap();
            wait_until("NATS listens or ends", || {
                TcpStream::connect(("127.0.0.1", port)).is_ok() || child.try_wait().unwrap().is_some()
            });
            let log = fs::read_to_string(dir.0.join("log")).unwrap();
            match child.try_wait().unwrap() {
                None => return OwnNats { child, port, dir },
                Some(_) => assert!(log.contains("in use"), "{log}"),
            }
        }
        panic!("no port was free for long enough");
    }

    /// Writes a file that this process alone may read, and returns its path.
    fn write(&self, name: &str, text: &str) -> String {
        write_secret(&self.dir, name, text).to_str().unwrap().to_owned()
    }

    fn url(&self, scheme: &str, login: &str) -> String {
        format!("{scheme}://{login}127.0.0.1:{}", self.port)
    }

    fn file(&self, name: &str) -> String {
        self.dir.0.join(name).to_str().unwrap().to_owned()
    }
}

impl Drop for OwnNats {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn write_secret(dir: &TempDir, name: &str, text: &str) -> PathBuf {
    let path = dir.0.join(name);
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    path
}

fn openssl(dir: &TempDir, line: &str) {
    let output = Command::new("openssl").args(line.split(' ')).current_dir(&dir.0).output().unwrap();
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
}

/// An authority in `ca.pem`, another one in `other.pem`, and a server's certificate of the first for this name.
fn certificates(dir: &TempDir, name: &str) {
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
    for ca in ["ca", "other"] {
        openssl(dir, &format!("req -x509 {key} -keyout {ca}.key -out {ca}.pem -subj /CN={ca} -days 2"));
    }
    openssl(dir, &format!("req {key} -keyout server.key -out server.csr -subj /CN=nats"));
    fs::write(dir.0.join("names"), format!("subjectAltName={name}")).unwrap();
    openssl(
        dir,
        "x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -out server.pem -extfile names",
    );
}

const TLS: &str = "tls { cert_file: 'DIR/server.pem', key_file: 'DIR/server.key' }\n";

/// Starts a node, and expects that what it publishes comes back.
fn check_takes_part(urls: &str, flags: &[&str]) -> Server {
    let flags = [&["--cluster-replicas", "1", "--threads", "1"], flags].concat();
    let server = Server::start_with(&flags, &[("ESPER_CLUSTER", urls)]);
    assert_eq!(server.post("/publish/loggedin1", "data: x").status, 200, "{}", server.log());
    server
}

#[test]
fn a_node_logs_in_with_an_nkey_over_tls_of_an_authority_of_ones_own() {
    let dir = TempDir::new();
    certificates(&dir, "IP:127.0.0.1");
    let (user, stranger) = (KeyPair::new_user(), KeyPair::new_user());
    let users = format!("{TLS}authorization {{ users: [ {{ nkey: {} }} ] }}\n", user.public_key());
    let nats = OwnNats::start(dir, &users);
    let (tls, ca) = (nats.url("tls", ""), nats.file("ca.pem"));
    let seed = nats.write("seed", &format!("{}\n", user.seed().unwrap()));
    let server = check_takes_part(&tls, &["--cluster-ca-file", &ca, "--cluster-nkey-file", &seed]);
    assert!(!server.log().contains("may read it"), "{}", server.log());
    drop(server);

    let ended = refused(&tls, &["--cluster-nkey-file", &seed]);
    check_last_line(&ended, &["cannot set up TLS", "see --cluster-ca-file"]);
    let ended = refused(&tls, &["--cluster-nkey-file", &seed, "--cluster-ca-file", &nats.file("other.pem")]);
    check_last_line(&ended, &["cannot set up TLS", "see --cluster-ca-file"]);
    // A server that asks for TLS gets it also by a plain URL, and is verified all the same.
    let ended = refused(&nats.url("nats", ""), &["--cluster-nkey-file", &seed]);
    check_last_line(&ended, &["cannot set up TLS", "see --cluster-ca-file"]);
    let ended = refused(&tls, &["--cluster-nkey-file", &seed, "--cluster-ca-file", &seed]);
    check_last_line(&ended, &["--cluster-ca-file", "no certificate is in it"]);
    let ended = refused(&tls, &["--cluster-nkey-file", &seed, "--cluster-ca-file", "/nowhere/ca.pem"]);
    check_last_line(&ended, &["--cluster-ca-file /nowhere/ca.pem: No such file"]);

    let refused = |seed: &str| refused(&tls, &["--cluster-ca-file", &ca, "--cluster-nkey-file", seed]);
    let strangers = nats.write("strangers", &stranger.seed().unwrap());
    check_last_line(&refused(&strangers), &["refuse this node", "--cluster-nkey-file"]);
    check_last_line(&refused(&ca), &["--cluster-nkey-file", "not the seed of an NKey"]);
    check_last_line(&refused("/nowhere/seed"), &["--cluster-nkey-file /nowhere/seed: No such file"]);
    let open = nats.file("open");
    fs::write(&open, user.seed().unwrap()).unwrap();
    fs::set_permissions(&open, fs::Permissions::from_mode(0o644)).unwrap();
    let server = check_takes_part(&tls, &["--cluster-ca-file", &ca, "--cluster-nkey-file", &open]);
    assert!(server.log().contains("open: everybody on this machine may read it"), "{}", server.log());
    assert!(!server.log().contains(&user.seed().unwrap()), "{}", server.log());
}

#[test]
fn a_certificate_for_another_host_is_refused() {
    let dir = TempDir::new();
    certificates(&dir, "DNS:nats.example");
    let nats = OwnNats::start(dir, TLS);
    let ended = refused(&nats.url("tls", ""), &["--cluster-ca-file", &nats.file("ca.pem")]);
    check_last_line(&ended, &["cannot set up TLS"]);
}

#[test]
fn a_node_logs_in_with_a_token() {
    let nats = OwnNats::start(TempDir::new(), "authorization { token: 'sesame-sesame' }\n");
    let server = check_takes_part(&nats.url("nats", "sesame-sesame@"), &[]);
    assert!(!server.log().contains("sesame"), "{}", server.log());
    drop(server);
    for login in ["", "hunter2@"] {
        let ended = refused(&nats.url("nats", login), &[]);
        check_last_line(&ended, &["refuse this node", "token"]);
        assert!(!ended.stderr.contains("hunter2"), "{ended:?}");
    }
}

/// Makes a JWT as NATS has them.
fn jwt(issuer: &KeyPair, subject: &KeyPair, name: &str, nats: Value) -> String {
    let head = json!({"typ": "JWT", "alg": "ed25519-nkey"});
    let claims = json!({
        "jti": name, "iat": 1_700_000_000, "iss": issuer.public_key(), "name": name,
        "sub": subject.public_key(), "nats": nats,
    });
    let text = |value: &Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", text(&head), text(&claims));
    let signature = issuer.sign(signed.as_bytes()).unwrap();
    format!("{signed}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature))
}

#[test]
fn a_node_logs_in_with_a_credentials_file() {
    let (operator, account, system) =
        (KeyPair::new_operator(), KeyPair::new_account(), KeyPair::new_account());
    let limits = json!({
        "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true, "conn": -1,
        "leaf": -1, "mem_storage": -1, "disk_storage": -1, "streams": -1, "consumer": -1,
    });
    let of_account = json!({"type": "account", "version": 2, "limits": limits, "default_permissions": {}});
    let of_system = json!({"type": "account", "version": 2, "limits": {
        "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true, "conn": -1, "leaf": -1,
    }, "default_permissions": {}});
    let of_operator = json!({"type": "operator", "version": 2, "system_account": system.public_key()});
    let blocks = format!(
        "operator: {}\nresolver: MEMORY\nresolver_preload: {{\n{}: {}\n{}: {}\n}}\n",
        jwt(&operator, &operator, "operator", of_operator),
        account.public_key(),
        jwt(&operator, &account, "esper", of_account),
        system.public_key(),
        jwt(&operator, &system, "system", of_system),
    );
    let nats = OwnNats::start(TempDir::new(), &blocks);

    let credentials = |issuer: &KeyPair| {
        let user = KeyPair::new_user();
        let of_user = json!({"type": "user", "version": 2, "pub": {}, "sub": {}, "subs": -1, "data": -1, "payload": -1});
        format!(
            "-----BEGIN NATS USER JWT-----\n{}\n------END NATS USER JWT------\n\n\
             -----BEGIN USER NKEY SEED-----\n{}\n------END USER NKEY SEED------\n",
            jwt(issuer, &user, "node", of_user),
            user.seed().unwrap()
        )
    };
    let url = nats.url("nats", "");
    let good = nats.write("good.creds", &credentials(&account));
    drop(check_takes_part(&url, &["--cluster-credentials-file", &good]));

    let strangers = nats.write("strangers.creds", &credentials(&KeyPair::new_account()));
    let ended = refused(&url, &["--cluster-credentials-file", &strangers]);
    check_last_line(&ended, &["refuse this node", "--cluster-credentials-file"]);
    let empty = nats.write("empty.creds", "nothing\n");
    let ended = refused(&url, &["--cluster-credentials-file", &empty]);
    check_last_line(&ended, &["--cluster-credentials-file", "not the JWT and the seed of a user"]);
    let ended = refused(&url, &["--cluster-credentials-file", &good, "--cluster-nkey-file", &good]);
    check_last_line(&ended, &["both say how to log in"]);
}
