//! Secrets and keys from variables and files, and which are refused or warned of. Their contents are never shown.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use super::super::Config;
use super::super::cli::Flags;
use super::super::layers::Typed;
use super::super::{ConfigError, Notes, cpus::CpuFlags};
use super::*;

const SECRET: &str = "a-secret-of-these-tests-and-of-nothing-else";
/// The flag that the control port's other flags need.
const WITH_CONTROL: &str = "--bind-control 127.0.0.1:1";

/// A file that only its owner may read; removed when dropped.
pub(in crate::config) struct TempFile(PathBuf);

impl TempFile {
    pub(in crate::config) fn new(content: impl AsRef<[u8]>) -> Self {
        Self::with_mode(content, 0o600)
    }

    pub(in crate::config) fn with_mode(content: impl AsRef<[u8]>, mode: u32) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("esper-check-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let file = Self(std::env::temp_dir().join(name));
        fs::write(&file.0, content).unwrap();
        fs::set_permissions(&file.0, fs::Permissions::from_mode(mode)).unwrap();
        file
    }

    pub(in crate::config) fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

pub(in crate::config) fn pair(current: &str, previous: Option<&str>) -> SecretPair {
    SecretPair { current: Secret::new(current).unwrap(), previous: previous.and_then(Secret::new) }
}

pub(in crate::config) fn parse(line: &str, variables: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let env = |name: &str| variables.iter().find(|(set, _)| *set == name).map(|(_, value)| value.into());
    Config::parse(["esper"].into_iter().chain(line.split_whitespace()), &env)
}

/// Returns the configuration with files at these places, and the warnings.
pub(in crate::config) fn parse_with_warnings(
    args: Vec<OsString>,
    env: &dyn Fn(&str) -> Option<OsString>,
    places: &[PathBuf],
) -> Result<(Config, Vec<String>), ConfigError> {
    let (config, Notes { warnings, .. }) = Config::read(args, env, places, CpuFlags::choose)?;
    Ok((config, warnings))
}

#[test]
fn secrets_of_variables_are_taken_as_they_are_and_never_printed() {
    let config = parse(
        "--no-auth",
        &[
            ("ESPER_SUBSCRIBER_SECRET", "sub-now"),
            ("ESPER_SUBSCRIBER_SECRET_PREVIOUS", "sub-before"),
            ("ESPER_PUBLISHER_SECRET", "pub-now"),
            ("ESPER_SESSION_SECRET", "ses-now"),
            ("ESPER_SESSION_SECRET_PREVIOUS", "ses-before"),
        ],
    )
    .unwrap();
    assert_eq!(config.auth.session.secret, Some(pair("ses-now", Some("ses-before"))));
    let subscriber = config.auth.subscriber.secret.as_ref().unwrap();
    assert_eq!(subscriber.current.expose(), b"sub-now");
    assert_eq!(subscriber.previous.as_ref().unwrap().expose(), b"sub-before");
    let publisher = config.auth.publisher.secret.as_ref().unwrap();
    assert_eq!(publisher.current.expose(), b"pub-now");
    assert_eq!(publisher.previous, None);
    assert!(!config.auth.enabled);

    let typed = Typed::parse::<Flags>(vec!["esper".into(), "--secret=ses-now".into()], |_| true).unwrap();
    let flags = typed.over::<Flags>(&|_| None, Layer::default()).unwrap().flags;
    for printed in [format!("{config:?}"), format!("{config:#?}"), format!("{flags:?}")] {
        assert!(printed.contains("***"));
        for secret in ["sub-now", "sub-before", "pub-now", "ses-now", "ses-before"] {
            assert!(!printed.contains(secret), "{secret} is in {printed}");
        }
    }
    let refused = parse("--publisher-secret pub-now", &[]).unwrap_err();
    assert!(refused.to_string().starts_with("unexpected argument '--publisher-secret'"));
}

#[test]
fn a_secret_that_cannot_serve_is_refused_by_its_name() {
    for (variables, refused) in [
        (
            [("ESPER_PUBLISHER_SECRET", "")],
            "ESPER_PUBLISHER_SECRET: empty; write a secret, or unset it to have none",
        ),
        (
            [("ESPER_SUBSCRIBER_SECRET_PREVIOUS", "before")],
            "ESPER_SUBSCRIBER_SECRET_PREVIOUS is set without ESPER_SUBSCRIBER_SECRET; \
             set ESPER_SUBSCRIBER_SECRET too, or unset both",
        ),
        (
            [("ESPER_PUBLISHER_SECRET_PREVIOUS", "")],
            "ESPER_PUBLISHER_SECRET_PREVIOUS: empty; write a secret, or unset it to have none",
        ),
        (
            [("ESPER_SESSION_SECRET", "")],
            "ESPER_SESSION_SECRET='': empty; write a secret, or leave it out to have none",
        ),
        (
            [("ESPER_SESSION_SECRET_PREVIOUS", "before")],
            "ESPER_SESSION_SECRET_PREVIOUS is set without ESPER_SESSION_SECRET; \
             set ESPER_SESSION_SECRET too, or unset both",
        ),
    ] {
        assert_eq!(parse("", &variables), Err(ConfigError::Usage(refused.to_owned())));
    }
}

#[test]
fn a_public_keys_text_is_no_secret() {
    let pem = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEA\n-----END PUBLIC KEY-----\n";
    let file = TempFile::new(pem);
    for (line, variables) in [
        ("", vec![("ESPER_SESSION_SECRET", pem)]),
        ("", vec![("ESPER_PUBLISHER_SECRET", "now"), ("ESPER_PUBLISHER_SECRET_PREVIOUS", pem)]),
        (&format!("--subscriber-secret-file {}", file.path()), vec![]),
    ] {
        let refused = parse(line, &variables).unwrap_err().to_string();
        assert!(refused.contains("a PEM block is no secret") && !refused.contains("MCow"), "{refused}");
    }
}

#[test]
fn a_secret_that_is_not_utf_8_is_refused_without_its_bytes() {
    use std::os::unix::ffi::OsStringExt as _;
    let env =
        |name: &str| (name == "ESPER_PUBLISHER_SECRET").then(|| OsString::from_vec(b"key\xff".to_vec()));
    let refused = Config::parse(["esper"], &env).unwrap_err().to_string();
    assert_eq!(refused, "ESPER_PUBLISHER_SECRET: not UTF-8; write it in UTF-8");
}

#[test]
fn a_session_secret_may_be_typed_and_the_one_before_it_a_variable() {
    let before = [("ESPER_SESSION_SECRET_PREVIOUS", "b"), ("ESPER_SESSION_SECRET", "not this")];
    let config = parse("-secret a", &before).unwrap();
    assert_eq!(config.auth.session.secret, Some(pair("a", Some("b"))));
}

#[test]
fn a_files_first_line_is_the_secret_and_its_second_the_one_before() {
    for (content, secret) in [
        ("now", pair("now", None)),
        ("now\n", pair("now", None)),
        ("now\r\nbefore\r\n", pair("now", Some("before"))),
        ("now\nbefore", pair("now", Some("before"))),
        ("now\n\n", pair("now", None)),
        (" now \n", pair(" now ", None)),
    ] {
        let file = TempFile::new(content);
        for side in ["subscriber", "publisher", "session"] {
            let auth = parse(&format!("--{side}-secret-file {}", file.path()), &[]).unwrap().auth;
            let signers =
                [("subscriber", auth.subscriber), ("publisher", auth.publisher), ("session", auth.session)];
            for (other, signers) in signers {
                assert_eq!(signers.secret, (other == side).then(|| secret.clone()), "{side} {content:?}");
            }
        }
    }
}

#[test]
fn a_secret_is_given_once() {
    let file = TempFile::new(SECRET);
    let name = format!("--session-secret-file {}", file.path());
    for (line, variables, refused) in [
        (
            &*name,
            &[("ESPER_SESSION_SECRET", "s")][..],
            "ESPER_SESSION_SECRET and --session-secret-file both give the secret; keep one of them",
        ),
        (
            "-secret s",
            &[("ESPER_SESSION_SECRET_FILE", file.path())],
            "--session-secret and ESPER_SESSION_SECRET_FILE both give the secret; keep one of them",
        ),
        (
            "",
            &[("ESPER_PUBLISHER_SECRET", "s"), ("ESPER_PUBLISHER_SECRET_FILE", file.path())],
            "ESPER_PUBLISHER_SECRET and ESPER_PUBLISHER_SECRET_FILE both give the secret; keep one of them",
        ),
        (
            &name,
            &[("ESPER_SESSION_SECRET_PREVIOUS", "s")],
            "ESPER_SESSION_SECRET_PREVIOUS and --session-secret-file do not go together; \
             write the previous secret into the file's second line, and unset ESPER_SESSION_SECRET_PREVIOUS",
        ),
    ] {
        assert_eq!(parse(line, variables), Err(ConfigError::Usage(refused.to_owned())));
    }
}

#[test]
fn a_file_that_cannot_serve_is_refused_by_its_flag_and_name_without_what_is_in_it() {
    let large = "hunter2\n".repeat(64 * 128 + 1);
    for (flag, content, refused) in [
        ("session-secret-file", "", "its first line is empty; write the secret there: openssl rand -hex 32"),
        (
            "session-secret-file",
            "\nhunter2",
            "its first line is empty; write the secret there: openssl rand -hex 32",
        ),
        (
            "publisher-secret-file",
            "hunter2\nhunter2\nhunter2\n",
            "more than two lines; write the secret and, below it, the one before, if any",
        ),
        ("subscriber-secret-file", &large, "larger than 64KiB; name a file with nothing else in it"),
        ("session-public-key", &large, "larger than 64KiB; name a file with nothing else in it"),
        (
            "control-token-file",
            "hunter2-hunter2-hunter2\nhunter2",
            "more than one line; the control port has one token",
        ),
        (
            "control-token-file",
            "hunter2-hunter2",
            "a token of less than 16 bytes may be guessed; make one with: openssl rand -hex 32",
        ),
        (
            "control-token-file",
            "hunter2 hunter2 hunter2 ",
            "a token with other than visible ASCII; make one with: openssl rand -hex 32",
        ),
    ] {
        let file = TempFile::new(content);
        let expected = format!("--{flag} {}: {refused}", file.path());
        let control = if flag.starts_with("control") { WITH_CONTROL } else { "" };
        let line = format!("{control} --{flag} {}", file.path());
        assert_eq!(parse(&line, &[]), Err(ConfigError::Usage(expected)), "{flag}");
    }
    for flag in ["subscriber-public-key", "publisher-public-key", "session-public-key"] {
        let file = TempFile::new("hunter2");
        let refused = parse(&format!("--{flag} {}", file.path()), &[]).unwrap_err().to_string();
        assert!(refused.starts_with(&format!("--{flag} {}: ", file.path())), "{refused}");
        assert!(!refused.contains("hunter2") && !refused.contains('\n'), "{refused}");
    }
}

#[test]
fn a_file_that_cannot_be_read_is_refused_with_the_mend() {
    let file = TempFile::new(b"key\xff");
    for (path, reason) in [
        ("/nowhere", "No such file or directory (os error 2); name a file that this process may read"),
        ("/dev", "not a regular file; name one, which can be read again and again"),
        ("/dev/zero", "not a regular file; name one, which can be read again and again"),
        (file.path(), "not UTF-8; write it in UTF-8"),
    ] {
        for flag in ["control-token-file", "session-secret-file", "session-public-key"] {
            let name = format!("ESPER_{}", flag.to_uppercase().replace('-', "_"));
            let refused = parse(WITH_CONTROL, &[(&name, path)]);
            assert_eq!(refused, Err(ConfigError::Usage(format!("{name}={path}: {reason}"))));
        }
    }
    let refused = parse("", &[("ESPER_SESSION_SECRET_FILE", "/no\nwhere")]).unwrap_err().to_string();
    assert!(refused.starts_with("ESPER_SESSION_SECRET_FILE=/no\\nwhere: No such file"), "{refused}");
}

#[test]
fn a_secret_that_may_be_guessed_or_read_by_others_is_warned_of_by_its_name() {
    let open = TempFile::with_mode(SECRET, 0o644);
    let group = TempFile::with_mode(SECRET, 0o640);
    let short = TempFile::new("short-but-long-enough");
    let readable = |flag: &str, file: &TempFile| {
        format!("--{flag} {}: everybody on this machine may read it; chmod o-r", file.path())
    };
    let guessed = |name: &str| {
        format!("{name}: shorter than 32 bytes, so it may be guessed; make one with: openssl rand -hex 32")
    };
    let thirty_one = "x".repeat(31);
    for (line, variables, warnings) in [
        (String::new(), &[("ESPER_SUBSCRIBER_SECRET", SECRET)][..], vec![]),
        (
            String::new(),
            &[("ESPER_SUBSCRIBER_SECRET", &thirty_one)],
            vec![guessed("ESPER_SUBSCRIBER_SECRET")],
        ),
        (
            format!("{WITH_CONTROL} -secret short"),
            &[("ESPER_SESSION_SECRET_PREVIOUS", "s")],
            vec![guessed("--session-secret"), guessed("ESPER_SESSION_SECRET_PREVIOUS")],
        ),
        (
            format!(
                "{WITH_CONTROL} --session-secret-file {} --publisher-secret-file {}",
                open.path(),
                group.path()
            ),
            &[],
            vec![readable("session-secret-file", &open)],
        ),
        (
            format!("{WITH_CONTROL} --control-token-file {}", open.path()),
            &[],
            vec![readable("control-token-file", &open)],
        ),
        (
            format!("{WITH_CONTROL} --control-token-file {}", short.path()),
            &[],
            vec![guessed(&format!("--control-token-file {}", short.path()))],
        ),
    ] {
        let args = ["esper"].into_iter().chain(line.split_whitespace()).map(OsString::from).collect();
        let env = |name: &str| variables.iter().find(|(set, _)| *set == name).map(|(_, value)| value.into());
        assert_eq!(parse_with_warnings(args, &env, &[]).unwrap().1, warnings, "{line}");
    }
}

#[test]
fn sessions_that_nothing_can_be_emitted_to_are_warned_of() {
    for (line, warnings) in [("", 0), ("-secret s", 1), (WITH_CONTROL, 0)] {
        let args = format!("esper {line}").split_whitespace().map(OsString::from).collect();
        let said = parse_with_warnings(args, &|_| None, &[]).unwrap().1;
        let hints = said.iter().filter(|line| line.contains("open one with --bind-control"));
        assert_eq!(hints.count(), warnings, "{said:?}");
    }
}
