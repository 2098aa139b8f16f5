//! SIGHUP: secrets and keys are read again, and nothing ends by it.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;

use crate::support::{Server, Stream, TempDir, esper, run, signal, wait_until};

const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// What a session's stream is answered, with a token signed with this secret.
fn status(server: &Server, secret: &str) -> u16 {
    let flags = ["token", "--user", "alex", "--channel", "chat"];
    let token = run(esper(&flags, &[("ESPER_SESSION_SECRET", secret)])).stdout;
    server.request("HEAD", &format!("/events/?token={}", token.trim()), &[], "").status
}

/// Waits until the log has these words so many times.
fn logged(server: &Server, words: &str, times: usize) {
    wait_until(words, || server.log().matches(words).count() == times);
}

#[test]
fn a_hangup_rereads_the_files_and_ends_no_stream() {
    let dir = TempDir::new();
    let path = dir.0.join("secret");
    std::fs::write(&path, SECRET).unwrap();
    std::fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    let mut server = Server::start(&["--session-secret-file", path.to_str().unwrap()]);
    let mut stream = Stream::open(&server, "/subscribe/rereading1");

    assert_eq!((status(&server, SECRET), status(&server, "short")), (200, 401));

    std::fs::write(&path, "").unwrap();
    signal(server.pid(), "HUP");
    let refused = format!(
        "ERROR secrets and keys not reread, the old ones stay: --session-secret-file {}: \
         its first line is empty; write the secret there: openssl rand -hex 32",
        path.display()
    );
    logged(&server, &refused, 1);
    assert_eq!((status(&server, SECRET), status(&server, "short")), (200, 401));

    std::fs::write(&path, format!("short\n{SECRET}")).unwrap();
    signal(server.pid(), "HUP");
    logged(&server, "INFO secrets and keys reread", 1);
    logged(&server, "shorter than 32 bytes", 1);
    assert_eq!((status(&server, SECRET), status(&server, "short")), (200, 200));

    std::fs::write(&path, "short\n").unwrap();
    signal(server.pid(), "HUP");
    logged(&server, "INFO secrets and keys reread", 2);
    assert_eq!((status(&server, SECRET), status(&server, "short")), (401, 200));

    assert_eq!(server.post("/publish/rereading1", "data: still here").status, 200);
    assert_eq!(stream.event().data, "still here");
    assert!(server.is_running());
    let log = server.log();
    assert!(!log.contains(SECRET) && !log.contains("short\n"), "{log}");
    assert_eq!(server.stop().code(), Some(0));
}

#[test]
fn a_hangup_ends_no_server_that_has_no_files_or_is_stopping() {
    let mut server = Server::start(&["--drain-delay", "1s"]);
    let _stream = Stream::open(&server, "/subscribe/rereading1");
    signal(server.pid(), "HUP");
    logged(&server, "secrets and keys reread", 1);
    server.terminate();
    logged(&server, "stopping", 1);
    signal(server.pid(), "HUP");
    assert_eq!(server.wait().code(), Some(0), "{}", server.log());
    logged(&server, "INFO stopped", 1);
}
