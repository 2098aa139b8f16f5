//! Whatever becomes of the log, the service goes on.

use std::io::{PipeReader, PipeWriter, Read, Write};
use std::process::{Command, Stdio};

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};

use crate::harness::{Server, Stream, TempDir, esper, eventually, port_of_its_own};
use crate::starting::{Ended, run};

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
    let port = port_of_its_own();
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
        eventually("lines are counted", || (!counted || lost(&server) > 0.0).then_some(()));
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
    eventually("it is counted", || (lost(&server) > 0.0).then_some(()));
    serves_and_drains(server);
}

#[test]
fn a_log_whose_reader_stands_still_is_not_waited_for() {
    let (_reader, writer) = std::io::pipe().unwrap();
    let server = talkative(&[], Some(writer));
    fill(&server);
    eventually("what does not fit is counted", || (lost(&server) > 0.0).then_some(()));
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
    let port = port_of_its_own();
    let own = esper(&["--port", &port, "--log-level", "debug", "--log-format", "json"], &[]);
    // A file that may not grow is a disk that is full: it takes the beginning of a line.
    let mut command = Command::new("bash");
    let script = "trap '' XFSZ; ulimit -Sf 1; exec \"$0\" \"$@\" 2>>log";
    command.current_dir(&directory.0).args(["-c", script]).arg(own.get_program()).args(own.get_args());
    let mut server = Server::spawn_unheard(command, &port);
    let refuse = |server: &Server| assert_eq!(server.get("/nowhere").status, 404);
    eventually("a line is lost", || {
        refuse(&server);
        (lost(&server) > 0.0).then_some(())
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
    for (flags, code) in [("--prot 1", Some(2)), ("--threads 100000", Some(1)), ("--bind 192.0.2.1", Some(1))]
    {
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
    for (flags, code) in [(&["--prot"][..], 2), (&["--threads", "100000"], 1), (&["--port", &port], 1)] {
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
