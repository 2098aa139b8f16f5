//! `esper token`: what it prints opens the doors it was asked for, and no others.

use std::fs::File;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode};
use serde_json::Value;

use crate::support::{Ended, Server, TempDir, esper, run};

const SUBSCRIBER: (&str, &str) = ("ESPER_SUBSCRIBER_SECRET", "the subscribers' secret of these tests");
const PUBLISHER: (&str, &str) = ("ESPER_PUBLISHER_SECRET", "the publishers' secret of these tests");
const SESSION: (&str, &str) = ("ESPER_SESSION_SECRET", "the session secret of these tests");

fn command(args: &[&str], variables: &[(&str, &str)]) -> Command {
    esper(&[&["token"], args].concat(), variables)
}

/// The token, which is all that is printed.
fn token(args: &[&str], variables: &[(&str, &str)]) -> String {
    let ended = run(command(args, variables));
    assert_eq!((ended.code, &*ended.stderr), (Some(0), ""), "{args:?}");
    let token = ended.stdout.strip_suffix('\n').expect("a line");
    assert!(!token.contains(char::is_whitespace), "{token:?}");
    token.to_owned()
}

fn claims(token: &str, secret: &str) -> Value {
    let validation = Validation::new(Algorithm::HS256);
    decode::<Value>(token, &DecodingKey::from_secret(secret.as_bytes()), &validation).unwrap().claims
}

#[test]
fn a_token_opens_what_it_was_made_for_and_nothing_else() {
    let server = Server::start_with(&["--namespaces"], &[SUBSCRIBER, PUBLISHER, SESSION]);
    let secrets = [SUBSCRIBER, PUBLISHER, SESSION];
    for (args, pets, cats, publish, events) in [
        (&["--sub", "pets"][..], 200, 403, 401, 401),
        (&["--sub", "cats", "--sub", "pets", "--exp", "10m"], 200, 200, 401, 401),
        (&["--sub", "*"], 200, 200, 401, 401),
        (&["--sub", "pets", "--publish"], 401, 401, 200, 401),
        (&["--sub", "cats", "--publish"], 401, 401, 403, 401),
        (&["--user", "pets", "--channel", "pets"], 401, 401, 401, 200),
    ] {
        let token = token(args, &secrets);
        let status = |method, path: &str, body| {
            server.request(method, &format!("{path}?token={token}"), &[], body).status
        };
        assert_eq!(status("HEAD", "/subscribe/pets", ""), pets, "{args:?}");
        assert_eq!(status("HEAD", "/subscribe/cats", ""), cats, "{args:?}");
        assert_eq!(status("POST", "/publish/pets", "data: x"), publish, "{args:?}");
        assert_eq!(status("HEAD", "/events/", ""), events, "{args:?}");
    }
}

#[test]
fn a_session_token_is_signed_with_the_secret_of_a_variable_a_file_or_a_flag() {
    let dir = TempDir::new();
    let path = dir.0.join("secret");
    std::fs::write(&path, format!("{}\nthe one before\n", SESSION.1)).unwrap();
    let path = path.to_str().unwrap();
    let file_flag = ["--secret-file", path];
    for (flags, variables) in [
        (&[][..], &[SESSION][..]),
        (&["-secret", SESSION.1], &[("ESPER_SESSION_SECRET", "not this one")]),
        (&file_flag, &[]),
        (&[], &[("ESPER_SESSION_SECRET_FILE", path)]),
    ] {
        let now_s = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let args = [&["--user", "alex", "--channel", "a/b c", "--exp", "1h"], flags].concat();
        let claims = claims(&token(&args, variables), SESSION.1);
        assert_eq!((&claims["userId"], &claims["channel"]), (&"alex".into(), &"a/b c".into()));
        let expires_s = claims["exp"].as_u64().unwrap();
        assert!((now_s + 3600..now_s + 3700).contains(&expires_s), "{expires_s}");
    }
}

#[test]
fn what_it_cannot_do_is_one_line_and_exits_2() {
    for (args, variables, refused) in [
        (&[][..], &[][..], "no token is asked for; write --sub TOPIC, or --user NAME and --channel NAME"),
        (
            &["--sub", "pets", "--publish"],
            &[SUBSCRIBER],
            "no publisher secret to sign with; \
             set ESPER_PUBLISHER_SECRET, or name its file with --publisher-secret-file",
        ),
        (&["--sub", "pets", "--exp", "60"], &[SUBSCRIBER], "--exp 60: no unit; write 60s or 60ms"),
        (
            &["--sub", "pets", "--subscriber-secret-file", "/nowhere"],
            &[],
            "--subscriber-secret-file /nowhere: No such file or directory (os error 2); \
             name a file that this process may read",
        ),
        (
            &["--sub", "pets", "--subscriber-secret-file", "/nowhere"],
            &[SUBSCRIBER],
            "ESPER_SUBSCRIBER_SECRET and --subscriber-secret-file both give the secret; keep one of them",
        ),
    ] {
        let stderr = format!("error: {refused}\n");
        let expected = Ended { code: Some(2), stdout: String::new(), stderr };
        assert_eq!(run(command(args, variables)), expected, "{args:?}");
    }
}

#[test]
fn a_token_that_cannot_be_printed_is_an_error() {
    let mut full = command(&["--sub", "pets"], &[SUBSCRIBER]);
    let output = full.stdout(File::create("/dev/full").unwrap()).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.starts_with("error: cannot print the token: No space left on device"), "{stderr}");
    assert_eq!(stderr.lines().count(), 1);
}

#[test]
fn its_help_and_the_document_name_all_its_flags() {
    let ended = run(command(&["--help"], &[]));
    assert_eq!((ended.code, &*ended.stderr), (Some(0), ""));
    assert!(ended.stdout.contains("Usage: esper token "), "{}", ended.stdout);
    let (_, section) = include_str!("../../docs/flags.md").split_once("\n## esper token\n").unwrap();
    let flags: Vec<&str> = (ended.stdout.lines().map(str::trim_start))
        .filter(|line| line.starts_with("--"))
        .map(|line| line.split(' ').next().unwrap())
        .collect();
    assert!(flags.len() > 7, "{flags:?}");
    for flag in flags {
        assert!(section.contains(&format!("`{flag}`")), "{flag}");
    }
}
