//! Configuration files: where they are found, what overrides what, and what is printed of it all.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use crate::support::{Server, TempDir, esper, run, signal, wait_until};

/// The configuration file of eventsourced, as its documentation has it.
pub(crate) const SEED: &str = include_str!("../eventsourced.yml");

/// The binary in a directory of its own, with a configuration beside it.
pub(crate) struct Installed(TempDir);

impl Installed {
    pub(crate) fn new(config: &str) -> Self {
        let dir = TempDir::new();
        // By another process: what another test starts meanwhile would inherit the open file, which the
        // kernel then does not run.
        let copied = Command::new("cp").arg(env!("CARGO_BIN_EXE_esper")).arg(dir.0.join("esper")).status();
        assert!(copied.unwrap().success());
        let installed = Self(dir);
        installed.write("config.yml", config);
        installed
    }

    /// The path of a file beside it, which only its owner may read.
    fn write(&self, name: &str, text: &str) -> String {
        let path = self.0.0.join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        path.to_str().unwrap().to_owned()
    }

    fn command(&self, flags: &[&str], variables: &[(&str, &str)]) -> Command {
        let original = esper(flags, variables);
        let mut command = Command::new(self.0.0.join("esper"));
        command.args(original.get_args()).stdin(std::process::Stdio::null());
        for (name, value) in original.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command
    }

    pub(crate) fn start(&self, flags: &[&str], variables: &[(&str, &str)]) -> Server {
        let mut command = self.command(flags, variables);
        command.args(["--port", "0"]);
        Server::spawn(command)
    }
}

#[test]
fn a_flag_stands_over_a_variable_over_a_named_file_over_the_one_beside_the_binary() {
    let installed = Installed::new("body-max: 1KiB\n");
    let named = installed.write("named.yml", "body-max: 4KiB\n");
    let body = format!("data: {}", "x".repeat(2 << 10));
    let with_file = ["--config", &named];
    let variable = [("ESPER_BODY_MAX", "1KiB")];
    for (flags, variables, status) in [
        (&[][..], &[][..], 413),
        (&with_file, &[], 200),
        (&[], &[("ESPER_CONFIG", named.as_str())], 200),
        (&with_file, &variable, 413),
        (&["--config", &named, "--body-max", "4KiB"], &variable, 200),
    ] {
        let server = installed.start(flags, variables);
        assert_eq!(server.post("/publish/fromafile1", &body).status, status, "{flags:?} {variables:?}");
    }
}

#[test]
fn eventsourceds_own_file_beside_the_binary_starts_it() {
    let installed = Installed::new(SEED);
    let server = installed.start(&[], &[]);
    assert_eq!(server.get("/healthz").status, 200);
    assert_eq!(server.address.ip().to_string(), "0.0.0.0");
    assert!(!server.log().contains("guest"), "{}", server.log());
}

#[test]
fn what_is_in_force_is_printed_as_yaml_that_reads_back_without_secrets() {
    let installed = Installed::new(SEED);
    let flags = ["-c", "--namespaces", "--cors-origin", "https://a.example"];
    let variables = [("ESPER_PUBLISHER_SECRET", "hunter2-hunter2"), ("ESPER_HISTORY_EVENTS", "7")];
    let dumped = run(installed.command(&flags, &variables));
    assert_eq!((dumped.code, dumped.stderr.as_str()), (Some(0), ""));
    for line in [
        "  address: 0.0.0.0:2069",
        "# publisher-secret: '***' (set by ESPER_PUBLISHER_SECRET)",
        "  #   - \"amqp://***@10.0.0.55:5672/\"",
        "  expire: 1800",
        "    Transfer-Encoding: identity",
        "namespaces: true",
        "history-events: 7",
        "  - https://a.example",
        "heartbeat: 15s",
    ] {
        let shown = dumped.stdout.lines().any(|shown| shown == line);
        assert!(shown, "{line:?} is missing in {}", dumped.stdout);
    }
    assert!(!dumped.stdout.contains("hunter2") && !dumped.stdout.contains("guest"), "{}", dumped.stdout);

    let file = installed.write("dumped.yml", &dumped.stdout);
    let again = run(installed.command(&["--dump-config", "--config", &file], &variables[..1]));
    assert_eq!(again, dumped);
}

#[test]
fn a_wrong_file_is_named_with_line_and_key_and_exits_2() {
    for (text, wrong) in [
        (
            "port: 1\nprot: 2\n",
            ":2 prot: unknown key; there is port, and esper config dump shows all there are",
        ),
        (
            "queue:\n  expire: never\n",
            ":2 queue.expire: never: not a duration; write a number and its unit: 500ms, 15s, 10m or 2h",
        ),
        ("port: 1\nport: 2\n", ":2: port: there twice; keep one of them"),
        (
            "session-secret: hunter2\n",
            ":1 session-secret: a secret, which does not stand in this file; \
             write it into one of its own and name that by session-secret-file, or set ESPER_SESSION_SECRET",
        ),
    ] {
        let installed = Installed::new("namespaces: true\n");
        let file = installed.write("wrong.yml", text);
        let ended = run(installed.command(&["--config", &file], &[]));
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(2), ""));
        assert_eq!(ended.stderr, format!("error: {file}{wrong}\n"));
    }
    let installed = Installed::new("a: &a [x, x, x]\nb: &b [*a, *a, *a]\nc: [*b, *b, *b]\n");
    let ended = run(installed.command(&[], &[]));
    assert_eq!(ended.code, Some(2), "{ended:?}");
    assert!(ended.stderr.contains("config.yml:1: an anchor or an alias"), "{ended:?}");

    let ended = run(esper(&["--config", "/nowhere/config.yml"], &[]));
    let missing = "error: --config /nowhere/config.yml: No such file or directory (os error 2); \
                   name a file that this process may read\n";
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(2), missing));
}

#[test]
fn a_hangup_rereads_the_files_of_secrets_that_a_file_names() {
    let installed = Installed::new("");
    let [old, new] = ["an-old-secret-of-thirty-two-bytes", "a-new-secret-of-thirty-two-bytes."];
    let secret = installed.write("secret", old);
    let other = installed.write("other", new);
    let beside = |path: &str| installed.write("config.yml", &format!("session-secret-file: {path}\n"));
    beside(&secret);
    let server = installed.start(&[], &[]);
    let status = |secret: &str| {
        let flags = ["token", "--user", "alex", "--channel", "chat"];
        let token = run(esper(&flags, &[("ESPER_SESSION_SECRET", secret)])).stdout;
        server.request("HEAD", &format!("/events/?token={}", token.trim()), &[], "").status
    };
    assert_eq!((status(old), status(new)), (200, 401));

    let hang_up = |words: &str, times: usize| {
        signal(server.pid(), "HUP");
        wait_until(words, || server.log().matches(words).count() == times);
    };
    fs::write(Path::new(&secret), new).unwrap();
    hang_up("INFO secrets and keys reread", 1);
    assert_eq!((status(old), status(new)), (401, 200));

    fs::write(Path::new(&secret), old).unwrap();
    beside(&other);
    hang_up("INFO secrets and keys reread", 2);
    assert_eq!((status(old), status(new)), (401, 200), "the file is read again, too");

    installed.write("config.yml", "session-secret-file: [\n");
    hang_up("ERROR secrets and keys not reread, the old ones stay: ", 1);
    assert_eq!((status(old), status(new)), (401, 200));
}
