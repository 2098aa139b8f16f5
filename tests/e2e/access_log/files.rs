//! The file of the log: opened anew on SIGHUP, and never waited for, whatever becomes of it.

use std::fs::OpenOptions;
use std::io::{PipeWriter, Read};
use std::os::unix::fs::OpenOptionsExt as _;
use std::process::Command;

use rustix::fs::OFlags;
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};

use super::{DROPPED, Logged, lines};
use crate::support::{Server, Stream, TempDir, esper, free_port, run, signal, wait_until};

fn dropped(server: &Server) -> u64 {
    let count = server.stats()["access_log"]["lines_dropped"].as_u64().expect("a number");
    let metrics = server.get("/metrics").body;
    let sample = metrics.lines().find_map(|line| line.strip_prefix(DROPPED)).expect("a sample");
    assert!(sample.trim().parse::<u64>().unwrap() >= count);
    count
}

/// Sees that requests are answered and events delivered.
fn serves(server: &Server) {
    let mut stream = Stream::open(server, "/subscribe/serving01");
    server.publish("serving01", "data: one");
    assert_eq!(stream.event().data, "one");
}

#[test]
fn a_hangup_opens_the_file_anew_and_no_line_is_lost() {
    let logged = Logged::start(&[], &[]);
    let old = logged.dir.0.join("access.log.1");
    for round in 0..3 {
        logged.server.publish("rotated01", "data: x");
        wait_until("it is written", || !logged.lines().is_empty());
        std::fs::rename(logged.path(), &old).unwrap();
        // Until the signal lines go to the old file.
        logged.server.publish("rotated02", "data: x");
        wait_until("it is in the old one", || {
            lines(&std::fs::read_to_string(&old).unwrap())
                .iter()
                .any(|line| line["path"] == "/publish/rotated02")
        });
        signal(logged.server.pid(), "HUP");
        wait_until("the new file is there", || logged.path().exists());
        wait_until("it is said", || logged.server.log().matches("keys reread").count() == round + 1);
        logged.server.publish("rotated03", "data: x");
        logged.request("/publish/rotated03");
        assert_eq!(lines(&std::fs::read_to_string(&old).unwrap()).len(), 2 + usize::from(round > 0));
    }
    assert_eq!(dropped(&logged.server), 0);
    // The old file stays in use when the new one cannot be opened.
    std::fs::rename(logged.path(), &old).unwrap();
    std::fs::create_dir(logged.path()).unwrap();
    signal(logged.server.pid(), "HUP");
    wait_until("it is said", || logged.server.log().contains("ERROR access log not opened anew"));
    logged.server.publish("rotated04", "data: x");
    wait_until("it is in the old one", || {
        lines(&std::fs::read_to_string(&old).unwrap()).iter().any(|line| line["path"] == "/publish/rotated04")
    });
}

#[test]
fn the_file_is_for_its_user_and_group_alone() {
    use std::os::unix::fs::PermissionsExt as _;
    let logged = Logged::start(&[], &[]);
    let mode = std::fs::metadata(logged.path()).unwrap().permissions().mode();
    assert_eq!(mode & 0o137, 0, "{mode:o}");
}

/// A server that logs to a standard output of ours.
fn to_stdout(stdout: PipeWriter) -> Server {
    let port = free_port();
    let mut command = esper(&["--port", &port, "--access-log", "-"], &[]);
    command.stdout(stdout);
    Server::spawn_unheard(command, &port)
}

/// More than a pipe and the queue take: of each refusal there is a line of some 200 bytes.
fn fill(server: &Server) {
    let requests = "GET /nowhere HTTP/1.1\r\nHost: h\r\n\r\n".repeat(100);
    for _ in 0..400 {
        if dropped(server) > 0 {
            return;
        }
        for _ in 0..5 {
            let answers = server.raw(&requests);
            assert_eq!(answers.matches("HTTP/1.1 404 ").count(), 100, "each is answered: {answers}");
        }
    }
    panic!("nothing is dropped");
}

#[test]
fn a_reader_that_stands_still_is_not_waited_for_and_gets_whole_lines_when_it_reads_again() {
    let (mut reader, writer) = std::io::pipe().unwrap();
    let mut server = to_stdout(writer);
    fill(&server);
    serves(&server);
    let reading = std::thread::spawn(move || {
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        text
    });
    server.terminate();
    assert_eq!(server.wait().code(), Some(0));
    let text = reading.join().unwrap();
    assert!(text.ends_with('\n') && lines(&text).len() > 100);
}

#[test]
fn a_full_pipe_that_another_file_takes_the_place_of_is_not_waited_for() {
    let dir = TempDir::new();
    let [path, old] = ["access.log", "access.log.1"].map(|name| dir.path(name));
    assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
    let flags = OFlags::NONBLOCK.bits() as i32;
    let _reader = OpenOptions::new().read(true).custom_flags(flags).open(&path).unwrap();
    let server = Server::start(&["--access-log", &path]);
    fill(&server);
    std::fs::rename(&path, &old).unwrap();
    signal(server.pid(), "HUP");
    wait_until("the new file is there", || std::fs::exists(&path).unwrap());
    wait_until("lines are in it", || std::fs::metadata(&path).unwrap().len() > 0);
    serves(&server);
    assert_eq!(server.stop().code(), Some(0));
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(lines(&text).iter().any(|line| line["path"] == "/publish/serving01"));
}

#[test]
fn a_server_whose_log_nobody_reads_ends_all_the_same() {
    let (_reader, writer) = std::io::pipe().unwrap();
    let mut server = to_stdout(writer);
    fill(&server);
    server.terminate();
    assert_eq!(server.wait().code(), Some(0));
}

#[test]
fn a_reader_that_leaves_and_a_full_disk_are_counted_said_and_disturb_nothing() {
    let port = free_port();
    let own = esper(&["--port", &port, "--access-log", "-"], &[]);
    let mut command = Command::new("sh");
    command.args(["-c", "exec \"$0\" \"$@\" >/dev/full"]).arg(own.get_program()).args(own.get_args());
    let server = Server::spawn(command);
    serves(&server);
    wait_until("it is counted", || dropped(&server) > 0);
    let said = "access log lines were lost since the start, which could not be written to -: No space left";
    wait_until("it is said", || server.log().contains(said));
    serves(&server);
    assert_eq!(server.log().matches(said).count(), 1, "once: {}", server.log());

    let (reader, writer) = std::io::pipe().unwrap();
    let server = to_stdout(writer);
    drop(reader);
    serves(&server);
    wait_until("it is counted", || dropped(&server) > 0);
    serves(&server);
    assert_eq!(server.stop().code(), Some(0));
}

#[test]
fn a_disk_that_has_room_again_gets_whole_lines_again() {
    let dir = TempDir::new();
    let port = free_port();
    let own = esper(&["--port", &port, "--access-log", "access.log"], &[]);
    let mut command = Command::new("bash");
    // A file that may not grow is a disk that is full.
    command.current_dir(&dir.0).args(["-c", "trap '' XFSZ; ulimit -Sf 1; exec \"$0\" \"$@\" 2>/dev/null"]);
    command.arg(own.get_program()).args(own.get_args());
    let server = Server::spawn_unheard(command, &port);
    wait_until("a line is lost", || dropped(&server) > 0);
    let read = || std::fs::read_to_string(dir.0.join("access.log")).unwrap();
    let full = read();
    assert_eq!(full.len(), 1024);
    let torn = full.rsplit_once('\n').unwrap().1.to_owned();
    let maximum = getrlimit(Resource::Fsize).maximum;
    let own = Pid::from_raw(server.pid() as i32);
    prlimit(own, Resource::Fsize, Rlimit { current: maximum, maximum }).unwrap();
    serves(&server);
    wait_until("it is written again", || read().contains("/publish/serving01"));
    for line in read().lines().filter(|line| *line != torn) {
        assert!(serde_json::from_str::<serde_json::Value>(line).is_ok(), "no JSON: {line}");
    }
}

#[test]
fn a_named_pipe_that_nobody_reads_is_refused_and_one_that_is_read_is_written() {
    let dir = TempDir::new();
    let path = dir.0.join("pipe");
    let made = Command::new("mkfifo").arg(&path).status().unwrap();
    assert!(made.success());
    let path = path.to_str().unwrap();
    let ended = run(esper(&["--access-log", path, "--port", "0"], &[]));
    assert_eq!(ended.code, Some(1), "{ended:?}");
    let said = "cannot open the access log";
    assert!(ended.stderr.contains(said) && ended.stderr.contains("start its reader first"), "{ended:?}");

    let flags = OFlags::NONBLOCK.bits() as i32;
    let mut reader = OpenOptions::new().read(true).custom_flags(flags).open(path).unwrap();
    let server = Server::start(&["--access-log", path]);
    serves(&server);
    assert_eq!(server.stop().code(), Some(0));
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    assert!(lines(&text).iter().any(|line| line["path"] == "/publish/serving01"), "{text}");
}
