//! How the server starts, and what it says when it cannot.

use std::fs::Permissions;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::thread;
use std::time::Duration;

use crate::support::{
    Ended, Server, Stream, TempDir, WITHOUT_CALL, connect, esper, eventually, exchange, launched, run,
    wait_until,
};

/// The text of a log's only line, which must be an error.
fn only_error(stderr: &str) -> &str {
    let lines: Vec<&str> = stderr.lines().collect();
    assert_eq!(lines.len(), 1, "one clear line: {stderr}");
    lines[0].split_once(" ERROR ").expect("an error").1
}

/// The first CPU this process may use.
fn first_cpu() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap();
    list.trim().split([',', '-']).next().unwrap().to_owned()
}

#[test]
fn help_and_version_go_to_standard_output() {
    for flag in ["--help", "-h"] {
        let ended = run(esper(&[flag], &[]));
        assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
        assert!(ended.stdout.starts_with("A standalone Server-Sent Events broker\n"), "{}", ended.stdout);
        for heading in [
            "Listening:",
            "Control port:",
            "Authentication:",
            "Sessions:",
            "History:",
            "Streams:",
            "HTTP:",
            "Between cores:",
            "Stopping:",
            "Logging:",
            "Secrets, from the environment alone:",
        ] {
            assert!(ended.stdout.lines().any(|line| line == heading), "{heading}");
        }
    }
    for flag in ["--version", "-V"] {
        let ended = run(esper(&[flag], &[]));
        let stdout = format!("esper {}\n", env!("CARGO_PKG_VERSION"));
        assert_eq!(ended, Ended { code: Some(0), stdout, stderr: String::new() });
    }
}

#[test]
fn a_wrong_value_is_named_with_what_is_right_and_exits_2() {
    for (line, variables, stderr) in [
        (
            "--port 65536",
            &[][..],
            "--port 65536: not a port; write a number from 0 to 65535, 0 is any free port",
        ),
        ("--port", &[], "--port '': its value is missing; --help says what it may be"),
        ("--heartbeat 15", &[], "--heartbeat 15: no unit; write 15s or 15ms"),
        ("--heartbeat 99ms", &[], "--heartbeat 99ms: too often; write at least 100ms, or 0s for never"),
        ("--drain-time 0s", &[], "--drain-time 0s: no time at all; write at least 1ms"),
        ("--body-max big", &[], "--body-max big: not a size; write 64KiB, 1MiB or 4194304"),
        ("--body-max 65MiB", &[], "--body-max 65MiB: out of range; write 1KiB to 64MiB"),
        ("--topics-max 0", &[], "--topics-max 0: not a count; write a whole number from 1 to 1000000000"),
        ("--slow-policy kill", &[], "--slow-policy kill: not one of its values; write cut or skip"),
        ("--cores 3-0", &[], "--cores 3-0: 3-0 is backwards; write 0-3"),
        ("--cores 0,0", &[], "--cores 0,0: CPU 0 is there twice; write each CPU once"),
        ("-t 1 --cores 1", &[], "--threads and --cores both say how many CPUs; give one of them"),
        (
            "--slow-lag 1MiB",
            &[],
            "--slow-lag 1MiB: less than twice --body-max 1MiB; raise --slow-lag to 2MiB, or lower the other",
        ),
        (
            "--retry-min 6s",
            &[],
            "--retry-max 5s: less than --retry-min 6s; raise --retry-max to 6s, or lower the other",
        ),
        (
            "--namespaces --head-max 1KiB --cores 1 --dump-config",
            &[],
            "--head-max 1KiB: less than ids of streams over 16 partitions take with --namespaces; raise --head-max to 2320",
        ),
        (
            "-b localhost",
            &[],
            "--bind localhost: not an address; \
             write 127.0.0.1 or ::1 for this machine alone, 0.0.0.0 or :: for all, \
             with a port 127.0.0.1:8000, [::1]:8000 or :8000, or a socket unix:/run/esper.sock",
        ),
        (
            "--prot 1",
            &[],
            "unexpected argument '--prot' found; a similar argument exists: '--port'; --help says what there is",
        ),
        ("", &[("ESPER_HEARTBEAT", "15")], "ESPER_HEARTBEAT=15: no unit; write 15s or 15ms"),
        ("", &[("ESPER_TAKEOVER", "maybe")], "ESPER_TAKEOVER=maybe: not a yes or no; write true or false"),
        (
            "",
            &[("ESPER_PUBLISHER_SECRET", "")],
            "ESPER_PUBLISHER_SECRET: empty; write a secret, or unset it to have none",
        ),
        (
            "",
            &[("ESPER_SUBSCRIBER_SECRET_PREVIOUS", "old")],
            "ESPER_SUBSCRIBER_SECRET_PREVIOUS is set without ESPER_SUBSCRIBER_SECRET; \
             set ESPER_SUBSCRIBER_SECRET too, or unset both",
        ),
        (
            "-bind 127.0.0.1:1 --port 2",
            &[],
            "--bind 127.0.0.1:1 and --port 2 say two ports; give one of them",
        ),
        (
            "-bindctl 0.0.0.0:0",
            &[],
            "--bind-control 0.0.0.0:0: other machines may reach it, so it needs a token; \
             name its file with --control-token-file, or bind it to 127.0.0.1 or ::1",
        ),
        (
            "--public-publish",
            &[],
            "--public-publish: there is no control port; \
             open one with --bind-control 127.0.0.1:8001, or leave this out",
        ),
        (
            "--session-public-key /nowhere",
            &[],
            "--session-public-key /nowhere: No such file or directory (os error 2); \
             name a file that this process may read",
        ),
    ] {
        let flags: Vec<&str> = line.split_whitespace().collect();
        let stderr = format!("error: {stderr}\n");
        let expected = Ended { code: Some(2), stdout: String::new(), stderr };
        assert_eq!(run(esper(&flags, variables)), expected, "{line} {variables:?}");
    }
}

#[test]
fn the_flags_of_simple_sse_server_start_it_as_they_are() {
    let flags = ["-bind", "127.0.0.1:0", "-bindctl", "127.0.0.1:0", "-secret", "MySuperPassword42"];
    let server = Server::spawn(esper(&flags, &[]));
    assert_eq!(server.get("/healthz").status, 200);
    let log = server.log();
    let (_, control) = log.split_once(" INFO control on http://").expect("a control port");
    let control = control.split(' ').next().unwrap().parse().unwrap();
    assert_ne!(control, server.address);
    assert!(exchange(control, "GET", "/stats", &[], "").starts_with("HTTP/1.1 200"), "served there");
    assert_eq!(server.get("/stats").status, 404, "and only there");
    assert!(log.contains(" WARN --session-secret: shorter than 32 bytes"), "{log}");
    assert!(!log.contains("MySuperPassword42"), "no secret is ever logged");
}

#[test]
fn a_flag_stands_over_its_variable_and_a_variable_over_the_default() {
    let variable = [("ESPER_BODY_MAX", "1KiB")];
    let body = format!("data: {}", "x".repeat(2 << 10));
    for (flags, variables, status) in [
        (&[][..], &[][..], 200),
        (&[], &variable, 413),
        (&["--body-max", "4KiB"], &variable, 200),
        (&["--body-max", "1KiB"], &[], 413),
    ] {
        let server = Server::start_with(flags, variables);
        assert_eq!(server.post("/publish/starting1", &body).status, status, "{flags:?} {variables:?}");
    }
}

#[test]
fn every_time_the_command_line_allows_is_one_it_starts_with() {
    for flags in [
        &["--heartbeat", "100ms", "--send-timeout", "1ms"][..],
        &["--heartbeat", "365d"],
        &["--heartbeat", "0s", "--send-timeout", "1ms"],
        &["--heartbeat", "0s", "--send-timeout", "365d"],
    ] {
        let server = Server::start(flags);
        assert_eq!(server.get("/healthz").status, 200, "{flags:?}");
    }
}

#[test]
fn a_port_in_use_is_one_clear_line_with_the_mend() {
    let first = Server::start(&[]);
    // The other holder shares nothing; esper's own would share its port.
    let foreign = TcpListener::bind("127.0.0.1:0").unwrap();
    for address in [first.address, foreign.local_addr().unwrap()] {
        let ended = run(esper(&["--port", &address.port().to_string()], &[]));
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(1), ""));
        assert_eq!(
            only_error(&ended.stderr),
            format!(
                "cannot listen on {address}: Address already in use (os error 98); \
                 choose another --port, stop the process that has it, or share it with --takeover"
            )
        );
    }
    assert_eq!(first.get("/healthz").status, 200, "the first goes on");
}

#[test]
fn an_address_of_another_machine_is_one_clear_line_with_the_mend() {
    let ended = run(esper(&["--bind", "192.0.2.1", "--port", "0", "--no-auth"], &[]));
    assert_eq!(ended.code, Some(1));
    assert_eq!(
        only_error(&ended.stderr),
        "cannot listen on 192.0.2.1:0: Cannot assign requested address (os error 99); \
         give an address of this machine with --bind"
    );

    let dir = TempDir::new();
    let path = dir.0.join("token");
    std::fs::write(&path, "0123456789abcdef0123456789abcdef").unwrap();
    std::fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    let token = ["--control-token-file", path.to_str().unwrap()];
    let ended = run(esper(&[&["--port", "0", "--bind-control", "192.0.2.1:1"], &token[..]].concat(), &[]));
    assert_eq!(ended.code, Some(1));
    assert_eq!(
        only_error(&ended.stderr),
        "cannot listen on 192.0.2.1:1 for control: Cannot assign requested address (os error 99); \
         give an address of this machine with --bind-control"
    );
}

#[test]
fn a_takeover_leaves_no_moment_without_a_listener() {
    let mut first = Server::start(&[]);
    let port = first.address.port().to_string();
    // They are told apart by /stats, for which the second wants a token.
    let second = Server::spawn(esper(&["--port", &port, "--takeover"], &[("ESPER_PUBLISHER_SECRET", "s")]));
    assert_eq!(second.address, first.address);
    for status in [200, 401] {
        wait_until("both serve", || second.get("/stats").status == status);
    }
    assert!(first.is_running());

    first.terminate();
    while first.is_running() {
        // One that the first had not accepted may be reset, but there is always somebody to connect to.
        let mut connection = TcpStream::connect(second.address).expect("never refused");
        let _ = connection.write_all(b"GET /healthz HTTP/1.0\r\n\r\n");
        let _ = connection.read_to_end(&mut Vec::new());
    }
    assert_eq!(first.wait().code(), Some(0));
    for _ in 0..50 {
        assert_eq!(second.get("/stats").status, 401, "all is the second's");
    }
}

#[test]
fn a_cpu_that_is_not_there_is_one_clear_line_and_exits_1() {
    for (flags, variables, start) in [
        (&["--cores", "1000,"][..], &[][..], "error: --cores 1000-1000: no CPU 1000"),
        (&["--cores", "100000"], &[], "error: --cores 100000: more than the "),
        (&[], &[("ESPER_CORES", "1000-1001")][..], "error: ESPER_CORES=1000-1001: no CPU 1000"),
    ] {
        let ended = run(esper(flags, variables));
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(1), ""));
        assert_eq!(ended.stderr.lines().count(), 1, "{}", ended.stderr);
        assert!(ended.stderr.starts_with(start), "{}", ended.stderr);
        assert!(ended.stderr.contains("; "), "it says the mend: {}", ended.stderr);
    }
}

/// Their numbers everywhere.
const IO_URING_SETUP: &str = "425";

const IO_URING_ENTER: &str = "426";

const IO_URING_REGISTER: &str = "427";

#[test]
fn io_uring_that_is_forbidden_is_one_clear_line_with_the_mend() {
    for (errno, reason, mend) in [
        (
            "1",
            "Operation not permitted (os error 1)",
            "allow it: sysctl -w kernel.io_uring_disabled=0, \
             or in a container --security-opt seccomp=scripts/seccomp.json",
        ),
        (
            "38",
            "Function not implemented (os error 38)",
            "it needs Linux 5.11 or later, and in a container --security-opt seccomp=scripts/seccomp.json",
        ),
    ] {
        for call in [IO_URING_SETUP, IO_URING_ENTER] {
            let ended = run(launched(&["python3", "-c", WITHOUT_CALL, call, errno], &[]));
            assert_eq!((ended.code, ended.stdout.as_str()), (Some(1), ""), "{call}: {}", ended.stderr);
            assert_eq!(only_error(&ended.stderr), format!("cannot set up io_uring: {reason}; {mend}"));
        }
    }
}

#[test]
fn a_filter_that_forbids_the_call_of_io_uring_that_is_not_used_is_no_matter() {
    let server = Server::spawn(launched(&["python3", "-c", WITHOUT_CALL, IO_URING_REGISTER, "1"], &[]));
    assert_eq!(server.get("/healthz").status, 200);
    assert_eq!(server.stop().code(), Some(0));
}

#[test]
fn a_file_limit_that_leaves_no_subscriber_is_one_clear_line_with_the_mend() {
    for limit in ["10", "40", "74"] {
        let limits = format!("--nofile={limit}:{limit}");
        let ended = run(launched(&["prlimit", &limits], &["--cores", "1"]));
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(1), ""), "{limit}: {}", ended.stderr);
        assert_eq!(
            only_error(&ended.stderr),
            format!(
                "the limit on open files is {limit}, and the server itself takes 74, 10 for each CPU, so that none is \
                 left for subscribers; raise it (ulimit -n, LimitNOFILE=), or use fewer CPUs with --threads"
            )
        );
    }
    // One is enough to be of use.
    let server = Server::spawn(launched(&["prlimit", "--nofile=75:75"], &["--cores", "1"]));
    let mut stream = Stream::open(&server, "/subscribe/starting1");
    assert_eq!(server.post("/publish/starting1", "data: one").status, 200);
    assert_eq!(stream.event().data, "one");
}

#[test]
fn more_subscribers_than_the_file_limit_allows_are_warned_of() {
    let flags = ["--cores", "1", "--subscribers-max", "1000"];
    for (limits, warned) in [("--nofile=100:100", true), ("--nofile=2000:2000", false)] {
        let log = Server::spawn(launched(&["prlimit", limits], &flags)).log();
        let warning =
            "WARN --subscribers-max 1000 is more than the file limit allows, 26; raise the file limit";
        assert_eq!(log.contains(warning), warned, "{log}");
    }
}

/// Whatever a flag allows by itself is allocated when it is used, not when it is allowed.
#[test]
fn with_all_limits_at_their_edges_it_starts_and_serves() {
    for line in [
        "--namespaces --topics-max 1000000000 --history-events 1000000000 --history-bytes 1PiB --history-memory 1PiB \
         --history-age 365d --heartbeat 365d --slow-lag 1PiB --send-timeout 365d --subscribers-max 1000000000 \
         --retry-min 365d --retry-max 365d --head-max 1MiB --body-max 64MiB --head-timeout 365d --body-timeout 365d \
         --idle-timeout 365d --unanswered-max 1000000000 --mailbox-bytes 1PiB --mailbox-messages 1000000000 \
         --mailbox-wait 365d --session-time-max 365d",
        "--topics-max 1 --history-events 0 --history-bytes 0 --history-memory 2KiB --history-age 1ms \
         --heartbeat 100ms --slow-lag 2KiB --subscribers-max 1 --retry-min 1ms --retry-max 1ms --head-max 1KiB \
         --body-max 1KiB --unanswered-max 1 --mailbox-bytes 2KiB --mailbox-messages 1 --mailbox-wait 0s \
         --session-time-max 1s --drain-time 1ms",
    ] {
        let flags: Vec<&str> = line.split_whitespace().collect();
        let server = Server::start(&flags);
        let mut stream = Stream::open(&server, "/subscribe/starting1");
        assert_eq!(server.post("/publish/starting1", "data: one").status, 200, "{line}");
        assert_eq!(stream.event().data, "one");
    }
}

#[test]
fn a_process_that_may_use_one_cpu_has_one_shard() {
    let server = Server::spawn(launched(&["taskset", "-c", &first_cpu()], &[]));
    assert_eq!(server.stats()["shards"].as_array().unwrap().len(), 1);
    assert!(server.log().contains("shards=1"), "{}", server.log());
    let mut stream = Stream::open(&server, "/subscribe/starting1");
    assert_eq!(server.post("/publish/starting1", "data: one").status, 200);
    assert_eq!(stream.event().data, "one");
}

#[test]
fn the_log_says_how_many_subscribers_the_hard_file_limit_allows() {
    let server = Server::spawn(launched(&["prlimit", "--nofile=80:100"], &["--cores", "1"]));
    let log = server.log();
    assert!(
        log.contains("the file limit allows 26 subscribers files=100 subscribers_max=26 shards=1"),
        "{log}"
    );
    let streams: Vec<Stream> = (0..26).map(|_| Stream::open(&server, "/subscribe/starting1")).collect();
    let mut refused = Stream::open(&server, "/subscribe/starting1");
    assert_eq!(refused.head.status, 200);
    assert!(refused.event().retry.is_some());
    assert_eq!(refused.next_event(), None);
    assert_eq!(server.stats()["clients"], 26);
    drop(streams);
}

#[test]
fn at_the_file_limit_accepting_pauses_without_spinning_and_resumes() {
    let flags = ["--cores", "1", "--head-timeout", "1h", "--idle-timeout", "1h"];
    let server = Server::spawn(launched(&["prlimit", "--nofile=100:100"], &flags));
    let mut stream = Stream::open(&server, "/subscribe/starting1");
    assert_eq!(server.post("/publish/starting1", "data: 0").status, 200);
    // More than it has descriptors; the kernel holds the rest.
    let waiting: Vec<TcpStream> = (0..120).map(|_| connect(server.address)).collect();
    wait_until("it pauses", || server.log().contains("cannot accept, and goes on"));
    assert!(server.log().contains("raise the file limit (ulimit -n, LimitNOFILE=)"));

    let before = ticks(&server);
    thread::sleep(Duration::from_secs(1));
    let spent = ticks(&server) - before;
    assert!(spent < 25, "{spent} ticks of 100 in a second of waiting");

    // Those that are silent for a second give way, and no stream does.
    assert_eq!(server.post("/publish/starting1", "data: 1").status, 200);
    assert_eq!((stream.event().data, stream.event().data), ("0".to_owned(), "1".to_owned()));
    drop(waiting);
    assert_eq!(server.get("/healthz").status, 200);
    assert_eq!(
        server.log().matches("cannot accept").count(),
        1,
        "a churn at the limit does not fill the log"
    );
}

/// CPU time of a server so far, in hundredths of a second.
fn ticks(server: &Server) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", server.pid())).unwrap();
    let (_, fields) = stat.rsplit_once(") ").unwrap();
    fields.split(' ').skip(11).take(2).map(|ticks| ticks.parse::<u64>().unwrap()).sum()
}

#[test]
fn every_shard_listens() {
    let server = Server::start(&[]);
    let shards = server.stats()["shards"].as_array().unwrap().len();
    let mut streams = Vec::new();
    eventually("each has a stream", || {
        streams.push(Stream::open(&server, "/subscribe/starting1"));
        let stats = server.stats();
        let each = stats["shards"].as_array()?.iter().all(|shard| shard["clients"].as_u64() > Some(0));
        each.then_some(())
    });
    assert_eq!(server.stats()["shards"].as_array().unwrap().len(), shards);
    for stream in &streams {
        stream.socket().shutdown(Shutdown::Both).unwrap();
    }
}
