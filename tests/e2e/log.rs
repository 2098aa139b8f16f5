//! Whatever becomes of the log, the service goes on.

use std::io::{PipeReader, PipeWriter, Read, Write};
use std::process::{Command, Stdio};

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};

use crate::support::{Ended, Server, Stream, TempDir, esper, eventually, free_port, run, wait_until};

const LOST: &str = "esper_log_lines_dropped_total";
/// Becomes a command whose standard error is a terminal that has closed.
const ON_A_CLOSED_TERMINAL: &str = "
import os, pty, sys
terminal, end = pty.openpty()
os.dup2(end, 2)
os.close(end)
os.close(terminal)
os.execv(sys.argv[1], sys.argv[1:])
";

/// A server that logs as much as it can, on a port that no log has to tell.
fn talkative(launcher: &[&str], stderr: Option<PipeWriter>) -> Server {
    let port = free_port();
    let own = esper(&["--port", &port, "--log-level", "debug"], &[]);
    let mut command = match launcher {
        [] => own,
        [program, args @ ..] => {
            let mut command = Command::new(program);
            command.args(args).arg(own.get_program()).args(own.get_args()).stdin(Stdio::null());
            command
        }
    };
    if let Some(stderr) = stderr {
        command.stderr(stderr);
    }
    Server::spawn_unheard(command, &port)
}

fn lost(server: &Server) -> f64 {
    let text = server.get("/metrics").body;
    let sample = text.lines().find_map(|line| line.strip_prefix(LOST)).expect("a sample");
    sample.trim().parse().expect("a number")
}

/// A refused request is a line of the log: these are more than a pipe and the queue take.
fn fill(server: &Server) {
    let requests = "GET /nowhere HTTP/1.1\r\nHost: h\r\n\r\n".repeat(100);
    for _ in 0..150 {
        let answers = server.raw(&requests);
        assert_eq!(answers.matches("HTTP/1.1 404 ").count(), 100, "each is answered: {answers}");
    }
}

/// Sees that the server delivers, and that SIGTERM ends it in order.
fn serves_and_drains(mut server: Server) {
    let mut stream = Stream::open(&server, "/subscribe/logging1");
    assert_eq!(server.post("/publish/logging1", "data: one").status, 200);
    assert_eq!(stream.event().data, "one");
    server.terminate();
    assert!(stream.event().retry.is_some(), "it says when to come back");
    assert_eq!(stream.next_event(), None);
    assert!(stream.is_complete);
    assert_eq!(server.wait().code(), Some(0));
}

#[test]
fn a_log_that_cannot_be_written_is_lost_and_counted_and_nothing_else_is() {
    for (launcher, counted) in [
        (&["sh", "-c", "exec \"$0\" \"$@\" 2>/dev/full"][..], true),
        (&["sh", "-c", "exec \"$0\" \"$@\" 2>&-"], false),
        (&["python3", "-c", ON_A_CLOSED_TERMINAL], true),
    ] {
        let server = talkative(launcher, None);
        let subscribed = Stream::open(&server, "/subscribe/logging1");
        // A standard error that was never open is made /dev/null before anything is written.
        wait_until("lines are counted", || !counted || lost(&server) > 0.0);
        drop(subscribed);
        serves_and_drains(server);
    }
}

#[test]
fn a_log_whose_reader_leaves_is_lost_and_counted_and_nothing_else_is() {
    let (reader, writer) = std::io::pipe().unwrap();
    let server = talkative(&[], Some(writer));
    assert_eq!(lost(&server), 0.0);
    drop(reader);
    assert_eq!(server.raw("nonsense\r\n\r\n").lines().next(), Some("HTTP/1.1 400 Bad Request"));
    wait_until("it is counted", || lost(&server) > 0.0);
    serves_and_drains(server);
}

#[test]
fn a_log_whose_reader_stands_still_is_not_waited_for() {
    let (_reader, writer) = std::io::pipe().unwrap();
    let server = talkative(&[], Some(writer));
    fill(&server);
    wait_until("what does not fit is counted", || lost(&server) > 0.0);
    serves_and_drains(server);
}

#[test]
fn once_the_log_is_read_again_it_says_how_many_lines_were_lost() {
    let (mut reader, writer) = std::io::pipe().unwrap();
    let mut server = talkative(&[], Some(writer));
    fill(&server);
    let before = lost(&server);
    assert!(before > 0.0);
    let reading = std::thread::spawn(move || {
        let mut log = String::new();
        PipeReader::read_to_string(&mut reader, &mut log).unwrap();
        log
    });
    server.terminate();
    assert_eq!(server.wait().code(), Some(0));
    let log = reading.join().unwrap();
    let (_, told) = log.split_once("lost=").unwrap_or_else(|| panic!("{}", &log[log.len() - 500..]));
    let told: f64 = told.split_whitespace().next().unwrap().parse().unwrap();
    assert!(told >= before, "{told} of {before}");
    assert!(log.ends_with("INFO stopped\n"), "and the last lines are there");
    assert!(log.lines().all(|line| line.contains("Z ")), "every line is whole");
}

#[test]
fn a_line_that_was_written_in_part_is_ended_before_the_next() {
    let directory = TempDir::new();
    let path = directory.0.join("log");
    let port = free_port();
    let own = esper(&["--port", &port, "--log-level", "debug", "--log-format", "json"], &[]);
    // A file that may not grow is a disk that is full: it takes the beginning of a line.
    let mut command = Command::new("bash");
    let script = "trap '' XFSZ; ulimit -Sf 1; exec \"$0\" \"$@\" 2>>log";
    command.current_dir(&directory.0).args(["-c", script]).arg(own.get_program()).args(own.get_args());
    let mut server = Server::spawn_unheard(command, &port);
    let refuse = |server: &Server| assert_eq!(server.get("/nowhere").status, 404);
    wait_until("a line is lost", || {
        refuse(&server);
        lost(&server) > 0.0
    });
    let full = std::fs::read_to_string(&path).unwrap();
    assert_eq!(full.len(), 1024, "the file is full");
    let (_, torn) = full.rsplit_once('\n').unwrap();
    let maximum = getrlimit(Resource::Fsize).maximum;
    let own = Pid::from_raw(server.pid() as i32);
    prlimit(own, Resource::Fsize, Rlimit { current: maximum, maximum }).unwrap();
    refuse(&server);
    server.terminate();
    assert_eq!(server.wait().code(), Some(0));
    let log = std::fs::read_to_string(&path).unwrap();
    assert!(log.contains("log lines were lost"), "{log}");
    for line in log.lines().filter(|line| *line != torn) {
        assert!(serde_json::from_str::<serde_json::Value>(line).is_ok(), "no JSON: {line}");
    }
}

#[test]
fn what_is_asked_for_and_cannot_be_printed_is_a_failure_and_no_panic() {
    for flag in ["--help", "--version", "--dump-config"] {
        for (to, code, said) in [
            (">/dev/full", Some(1), "error: cannot print what was asked for: No space left on device"),
            (">&-", Some(0), ""),
            (">/dev/full 2>/dev/full", Some(1), ""),
            ("| true; test ${PIPESTATUS[0]} = 0", Some(0), ""),
        ] {
            let own = esper(&[], &[]);
            let mut command = Command::new("bash");
            command.args(["-c", &format!("\"$0\" \"$@\" {to}")]).arg(own.get_program()).arg(flag);
            let Ended { code: ended, stdout: _, stderr } = run(command);
            assert_eq!(ended, code, "{flag} {to}: {stderr}");
            assert!(stderr.starts_with(said), "{flag} {to}: {stderr}");
        }
    }
    for (flags, code) in [("--prot 1", Some(2)), ("--cores 100000", Some(1)), ("--bind 192.0.2.1", Some(1))] {
        for to in ["2>/dev/full", "2>&-"] {
            let own = esper(&[], &[]);
            let mut command = Command::new("bash");
            command.args(["-c", &format!("exec \"$0\" {flags} {to}")]).arg(own.get_program());
            assert_eq!(run(command).code, code, "{flags} {to}");
        }
    }
}

#[test]
fn a_reader_that_stands_still_does_not_keep_a_failed_start_from_ending() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    for (flags, code) in [(&["--prot"][..], 2), (&["--cores", "100000"], 1), (&["--port", &port], 1)] {
        let (_reader, mut writer) = std::io::pipe().unwrap();
        let mut command = esper(flags, &[]);
        command.stderr(writer.try_clone().unwrap());
        // No pipe takes more by itself; this one fills it, and ends with its reader.
        let filling = std::thread::spawn(move || while writer.write_all(&[b'.'; 4096]).is_ok() {});
        let mut child = command.spawn().unwrap();
        let status = eventually("it ends", || child.try_wait().unwrap());
        assert_eq!(status.code(), Some(code), "{flags:?}");
        drop((command, _reader));
        filling.join().unwrap();
    }
}

#[test]
fn every_line_of_a_json_log_is_json() {
    let flags = ["--log-format", "json", "--bind", "0.0.0.0", "--log-level", "debug", "--port", "0"];
    let mut server = Server::start(&flags);
    assert_eq!(server.raw("nonsense\r\n\r\n").lines().next(), Some("HTTP/1.1 400 Bad Request"));
    server.terminate();
    server.wait();
    let log =
        eventually("it is all written", || Some(server.log()).filter(|log| log.contains("\"stopped\"")));
    let lines: Vec<serde_json::Value> = log
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON: {line}")))
        .collect();
    for line in &lines {
        assert!(line["timestamp"].is_string() && line["level"].is_string(), "{line}");
        assert!(line["fields"]["message"].is_string(), "{line}");
    }
    let messages: Vec<&str> = lines.iter().filter_map(|line| line["fields"]["message"].as_str()).collect();
    assert!(messages.contains(&"ANYBODY WHO REACHES 0.0.0.0 CAN PUBLISH TO EVERY TOPIC"), "{log}");
    assert!(messages.iter().any(|message| message.starts_with("listening on http://0.0.0.0:")), "{log}");
}

#[test]
fn a_port_in_use_is_json_too_when_the_log_is() {
    let first = Server::start(&[]);
    let port = first.address.port().to_string();
    let ended = run(esper(&["--port", &port, "--log-format", "json"], &[]));
    assert_eq!(ended.code, Some(1));
    let line: serde_json::Value = serde_json::from_str(&ended.stderr).unwrap();
    assert_eq!(line["level"], "ERROR");
    assert!(line["fields"]["message"].as_str().unwrap().starts_with("cannot listen on "));
}

#[test]
fn listening_beyond_loopback_where_anybody_may_publish_is_warned_of() {
    const WARNING: &str = "ANYBODY WHO REACHES";
    let secret = [("ESPER_PUBLISHER_SECRET", "correct horse battery staple")];
    for (flags, variables, warned) in [
        (&["--bind", "0.0.0.0"][..], &[][..], true),
        (&["--bind", "0.0.0.0"], &[("ESPER_SUBSCRIBER_SECRET", "s")], true),
        (&["--bind", "0.0.0.0", "--no-auth"], &[], false),
        (&["--bind", "0.0.0.0"], &secret, false),
        (&["--bind", "127.0.0.1"], &[], false),
        (&["--bind", "0.0.0.0", "--bind-control", "127.0.0.1:0"], &[], false),
        (&["--bind", "0.0.0.0", "--bind-control", "127.0.0.1:0", "--public-publish"], &[], true),
    ] {
        let server = Server::start_with(flags, variables);
        let log = server.log();
        assert_eq!(log.contains(WARNING), warned, "{flags:?} {variables:?}: {log}");
        if warned {
            for mend in ["WARN set ESPER_PUBLISHER_SECRET, or", "--bind-control", "--no-auth"] {
                assert!(log.contains(mend), "{log}");
            }
        }
        assert!(!log.contains("correct horse"), "no secret is ever logged");
    }
}

#[test]
fn a_log_that_is_no_terminal_has_no_colour_codes() {
    let mut server = Server::start(&["--bind", "0.0.0.0"]);
    server.terminate();
    server.wait();
    let log = eventually("it is all written", || Some(server.log()).filter(|log| log.contains("stopped")));
    assert!(log.contains(" WARN ") && log.contains(" INFO "), "{log}");
    assert!(!log.contains('\x1b'), "{log:?}");
}
