//! SIGHUP: secrets, keys and the control token are read again, and no stream is dropped for it.

use jsonwebtoken::Algorithm;
use serde_json::{Value, json};

use super::tokens::{ED25519, PrivateKey};
use crate::support::sessions::{FORM, Sessions, encode};
use crate::support::tokens::{bearer, now_s, sign};
use crate::support::{Answer, Server, Stream, TempDir, signal, wait_until};

const TOPIC: &str = "rotation1";
const REREAD: &str = "secrets and keys reread";

/// Secrets with a mark that no log may show.
const OLD: &str = "old-4b1d-a-secret-of-32-bytes-or-more";
const NEW: &str = "new-4b1d-a-secret-of-32-bytes-or-more";
const MARK: &str = "4b1d";

/// The files of one server and the server.
struct Rotation {
    dir: TempDir,
    sessions: Sessions,
}

/// The files, each with its flag.
const FILES: [(&str, &str); 4] = [
    ("--session-secret-file", "session"),
    ("--subscriber-secret-file", "subscriber"),
    ("--publisher-secret-file", "publisher"),
    ("--control-token-file", "control"),
];

impl Rotation {
    /// All of these files hold `OLD`.
    fn start(files: &[(&str, &str)]) -> Rotation {
        let dir = TempDir::new();
        let mut flags =
            vec!["--bind-control".to_owned(), "127.0.0.1:0".to_owned(), "--public-publish".to_owned()];
        for (flag, name) in files {
            write(&dir, name, OLD);
            flags.extend([(*flag).to_owned(), dir.0.join(name).to_str().unwrap().to_owned()]);
        }
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        let sessions = Sessions::of(Server::start(&flags));
        Rotation { dir, sessions }
    }

    /// Writes all of these files and has them read.
    fn rotate(&self, files: &[(&str, &str)], text: &str) {
        for (_, name) in files {
            write(&self.dir, name, text);
        }
        reread(&self.sessions.server);
    }

    /// What is answered with tokens by this secret: subscribing, publishing, a session's stream.
    fn doors(&self, secret: &str) -> [Answer; 3] {
        let server = &self.sessions.server;
        let topic = bearer(&topic_token(secret));
        [
            Stream::open_with(server, &format!("/subscribe/{TOPIC}"), &[&topic]).head,
            server.request("POST", &format!("/publish/{TOPIC}"), &[&topic], "data: x"),
            Stream::open_with(server, "/events/", &[&bearer(&session_token(secret))]).head,
        ]
    }

    #[track_caller]
    fn check_doors(&self, secret: &str, are_open: bool) {
        for answer in self.doors(secret) {
            assert_eq!(answer.status, if are_open { 200 } else { 401 }, "{answer:?}");
        }
    }
}

fn write(dir: &TempDir, name: &str, text: impl AsRef<[u8]>) {
    std::fs::write(dir.0.join(name), text).unwrap();
}

/// Sends SIGHUP and waits until it was heeded.
fn reread(server: &Server) {
    let before = server.log().matches(REREAD).count();
    signal(server.pid(), "HUP");
    wait_until("the files are read", || server.log().matches(REREAD).count() > before);
}

fn topic_token(secret: &str) -> String {
    sign(secret, Algorithm::HS256, &json!({"sub": TOPIC, "exp": now_s() + 600}))
}

fn session_token(secret: &str) -> String {
    sign(secret, Algorithm::HS256, &session_claims())
}

fn session_claims() -> Value {
    json!({"userId": "alex", "channel": "chat", "exp": now_s() + 600})
}

#[test]
fn a_secret_is_changed_while_streams_go_on_and_the_one_before_is_good_until_it_is_left_out() {
    let files = &FILES[..3];
    let rotation = Rotation::start(files);
    let sessions = &rotation.sessions;
    let mut stream = sessions.resume(&session_token(OLD), "");
    let mut topic = Stream::open(&sessions.server, &format!("/subscribe/{TOPIC}?token={}", topic_token(OLD)));
    let mut go_on = |secret: &str, data: &str| {
        assert_eq!(sessions.emit("*", "chat", &format!("data: {data}"))["streams"], 1, "the very stream");
        assert_eq!(stream.event().data, data);
        let publish = format!("/publish/{TOPIC}?token={}", topic_token(secret));
        assert_eq!(sessions.server.post(&publish, &format!("data: {data}")).status, 200);
        assert_eq!(topic.event().data, data);
    };
    go_on(OLD, "by the old");
    rotation.check_doors(NEW, false);

    rotation.rotate(files, &format!("{NEW}\n{OLD}\n"));
    go_on(NEW, "by the new");
    // What is minted now is good when the old secret has gone.
    let minted = sessions.token("alex", "minted");
    rotation.rotate(files, &format!("{NEW}\n"));
    go_on(NEW, "by the new alone");
    rotation.check_doors(OLD, false);
    let mut by_minted = sessions.resume(&minted, "");
    sessions.emit("alex", "minted", "data: hello");
    assert_eq!(by_minted.event().data, "hello");
    assert!(!sessions.server.log().contains(MARK), "{}", sessions.server.log());
}

#[test]
fn tokens_of_the_secret_before_are_good_as_its_second_line() {
    let files = &FILES[..3];
    let rotation = Rotation::start(files);
    let doors = [
        (format!("{NEW}\n{OLD}\n"), true, true),
        (NEW.to_owned(), true, false),
        (OLD.to_owned(), false, true),
    ];
    for (text, by_new, by_old) in doors {
        rotation.rotate(files, &text);
        // The streams that this opened are closed by now, or about to be: they count for nothing here.
        rotation.check_doors(NEW, by_new);
        rotation.check_doors(OLD, by_old);
    }
}

#[test]
fn the_control_token_is_changed_at_once_and_streams_go_on() {
    let rotation = Rotation::start(&[FILES[0], FILES[3]]);
    let sessions = &rotation.sessions;
    let mut stream = sessions.resume(&session_token(OLD), "");
    let emit = |token: &str, data: &str| {
        let form = encode(&[("userId", "alex"), ("channel", "chat"), ("data", data)]);
        sessions.control("POST", "/emit/", &[FORM, &bearer(token)], &form).status
    };
    assert_eq!([emit(OLD, "1"), emit(NEW, "no")], [200, 401]);
    // There is no second line in its file: an operator's programs are few.
    rotation.rotate(&[FILES[3]], &format!("{NEW}\n"));
    assert_eq!([emit(OLD, "no"), emit(NEW, "2")], [401, 200]);
    assert_eq!([(); 2].map(|()| stream.event().data), ["1", "2"]);
    assert!(!sessions.server.log().contains(MARK));
}

#[test]
fn no_event_is_lost_or_doubled_while_secrets_are_changed_again_and_again() {
    let files = &FILES[..3];
    let rotation = Rotation::start(files);
    let sessions = &rotation.sessions;
    let mut streams: Vec<Stream> = (0..8).map(|_| sessions.resume(&session_token(OLD), "")).collect();
    for n in 0..40 {
        let [current, previous] = if n % 2 == 0 { [NEW, OLD] } else { [OLD, NEW] };
        for (_, name) in files {
            write(&rotation.dir, name, format!("{current}\n{previous}\n"));
        }
        // Not waited for: emits and rereading overlap.
        signal(sessions.server.pid(), "HUP");
        for part in 0..10 {
            assert_eq!(sessions.emit("alex", "chat", &format!("data: {n}.{part}"))["streams"], 8);
        }
    }
    for stream in &mut streams {
        for n in 0..40 {
            for part in 0..10 {
                assert_eq!(stream.event().data, format!("{n}.{part}"));
            }
        }
    }
}

#[test]
fn public_keys_are_changed_as_secrets_are() {
    let dir = TempDir::new();
    let [first, second] = [(); 2].map(|()| PrivateKey::new(ED25519));
    write(&dir, "key.pem", &first.public_pem);
    let file = dir.0.join("key.pem").to_str().unwrap().to_owned();
    let mut flags = vec!["--bind-control", "127.0.0.1:0", "--public-publish"];
    for flag in ["--session-public-key", "--subscriber-public-key", "--publisher-public-key"] {
        flags.extend([flag, &file]);
    }
    let sessions = Sessions::of(Server::start(&flags));
    let server = &sessions.server;
    let doors = |key: &PrivateKey| {
        let topic = bearer(&key.sign(&json!({"sub": TOPIC, "exp": now_s() + 600})));
        let session = bearer(&key.sign(&session_claims()));
        [
            Stream::open_with(server, &format!("/subscribe/{TOPIC}"), &[&topic]).head.status,
            server.request("POST", &format!("/publish/{TOPIC}"), &[&topic], "data: x").status,
            Stream::open_with(server, "/events/", &[&session]).head.status,
        ]
    };
    let mut stream = sessions.resume(&first.sign(&session_claims()), "");
    assert_eq!([doors(&first), doors(&second)], [[200; 3], [401; 3]]);
    write(&dir, "key.pem", &second.public_pem);
    assert_eq!([doors(&first), doors(&second)], [[200; 3], [401; 3]], "not before it is told to");
    write(&dir, "key.pem", [&*first.public_pem, &second.public_pem].concat());
    reread(server);
    assert_eq!([doors(&first), doors(&second)], [[200; 3], [200; 3]]);
    write(&dir, "key.pem", &second.public_pem);
    reread(server);
    assert_eq!([doors(&first), doors(&second)], [[401; 3], [200; 3]]);
    sessions.emit("alex", "chat", "data: goes on");
    assert_eq!(stream.event().data, "goes on");
}

#[test]
fn a_broken_file_keeps_what_was_and_is_one_error_line_without_its_content() {
    let rotation = Rotation::start(&FILES);
    let sessions = &rotation.sessions;
    let server = &sessions.server;
    let mut stream = sessions.resume(&session_token(OLD), "");
    let errors = || server.log().lines().filter(|line| line.contains("ERROR")).count();
    let mut seen = errors();
    for (flag, name) in FILES {
        // The others have changed: all of them are taken, or none.
        for (_, other) in FILES.iter().filter(|(_, other)| *other != name) {
            write(&rotation.dir, other, NEW);
        }
        let long = format!("{MARK}{}", "x".repeat(70_000));
        let lines = format!("{NEW}\n{OLD}\n{MARK}\n");
        let not_utf8 = [MARK.as_bytes(), b"\xff-not-utf-8-not-utf-8-not-utf-8\n"].concat();
        for text in [
            Some(&b""[..]),
            Some(b"\n"),
            Some(lines.as_bytes()),
            Some(long.as_bytes()),
            Some(&not_utf8),
            None,
        ] {
            match text {
                Some(text) => write(&rotation.dir, name, text),
                None => std::fs::remove_file(rotation.dir.0.join(name)).unwrap(),
            }
            signal(server.pid(), "HUP");
            seen += 1;
            wait_until("it says so", || errors() >= seen);
            assert_eq!(errors(), seen, "{}", server.log());
            let log = server.log();
            let line = log.lines().rfind(|line| line.contains("ERROR")).unwrap();
            assert!(line.contains(flag) && line.contains(rotation.dir.0.to_str().unwrap()), "{line}");
            rotation.check_doors(OLD, true);
            rotation.check_doors(NEW, false);
            let form = encode(&[("userId", "bob"), ("channel", "chat")]);
            let token =
                |token: &str| sessions.control("POST", "/token/", &[FORM, &bearer(token)], &form).status;
            assert_eq!([token(OLD), token(NEW)], [200, 401]);
        }
        write(&rotation.dir, name, OLD);
    }
    assert_eq!(server.log().matches(REREAD).count(), 0);
    // Mended, it is taken.
    rotation.rotate(&FILES, NEW);
    rotation.check_doors(NEW, true);
    rotation.check_doors(OLD, false);
    let form = encode(&[("userId", "alex"), ("channel", "chat"), ("data", "goes on")]);
    assert_eq!(sessions.control("POST", "/emit/", &[FORM, &bearer(NEW)], &form).status, 200);
    assert_eq!(stream.event().data, "goes on");
    let log = server.log();
    assert!(!log.contains(MARK) && !log.contains("not-utf-8"), "{log}");
}

#[test]
fn a_broken_public_key_keeps_the_one_that_was() {
    let dir = TempDir::new();
    let key = PrivateKey::new(ED25519);
    write(&dir, "key.pem", &key.public_pem);
    let file = dir.0.join("key.pem").to_str().unwrap().to_owned();
    let sessions =
        Sessions::of(Server::start(&["--bind-control", "127.0.0.1:0", "--session-public-key", &file]));
    let server = &sessions.server;
    let errors = || server.log().lines().filter(|line| line.contains("ERROR")).count();
    let both = [&*key.public_pem, &key.pem].concat();
    // One letter of what says the kind of key is another.
    let other_kind = key.public_pem.replacen("MCow", "MCox", 1);
    let texts = ["", "no key", &key.pem, &key.public_pem[..60], &other_kind, &both];
    for (n, text) in texts.into_iter().enumerate() {
        write(&dir, "key.pem", text);
        signal(server.pid(), "HUP");
        wait_until("it says so", || errors() > n);
        assert_eq!(errors(), n + 1, "{}", server.log());
        let token = key.sign(&session_claims());
        assert_eq!(Stream::open_with(server, "/events/", &[&bearer(&token)]).head.status, 200);
    }
    let inner = key.pem.lines().nth(1).unwrap();
    assert!(!server.log().contains(inner), "{}", server.log());
    assert_eq!(server.log().matches(REREAD).count(), 0);
}

#[test]
fn secrets_in_variables_stay_as_they_are_and_nothing_ends() {
    let mut sessions = Sessions::start(&[]);
    let mut stream = sessions.stream("alex", "chat");
    for n in 0..3 {
        reread(&sessions.server);
        assert_eq!(sessions.emit("alex", "chat", &format!("data: {n}"))["streams"], 1);
        assert_eq!(stream.event().data, n.to_string());
    }
    sessions.stream("alex", "chat");
    assert!(sessions.server.is_running());
}
