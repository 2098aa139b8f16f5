//! The messages of the server to systemd, and the sockets that it takes from it. No systemd runs: each test is its part.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::{
    Ended, PATIENCE, Publisher, Server, Stream, TempDir, ask, connect, esper, free_port, signal, try_connect,
    try_connect_unix, wait_until,
};

/// The part of systemd: it is told how the server is.
struct Manager {
    socket: UnixDatagram,
    path: String,
    _dir: TempDir,
}

impl Manager {
    fn new() -> Manager {
        let dir = TempDir::new();
        let path = dir.path("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Manager { socket, path, _dir: dir }
    }

    fn message(&self) -> String {
        let mut buffer = [0; 4096];
        let bytes = self.socket.recv(&mut buffer).expect("a message in time");
        String::from_utf8(buffer[..bytes].to_vec()).unwrap()
    }

    /// The next message with this line.
    fn message_with(&self, line: &str) -> String {
        loop {
            let message = self.message();
            if message.lines().any(|other| other == line) {
                return message;
            }
        }
    }

    /// Takes what has come, and what comes in this time; returns how many messages have this line.
    fn count_within(&self, time: Duration, line: &str) -> usize {
        let (end, mut count) = (Instant::now() + time, 0);
        while let Some(left) = end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
            self.socket.set_read_timeout(Some(left)).unwrap();
            let mut buffer = [0; 4096];
            if let Ok(bytes) = self.socket.recv(&mut buffer) {
                count +=
                    usize::from(String::from_utf8_lossy(&buffer[..bytes]).lines().any(|other| other == line));
            }
        }
        self.socket.set_read_timeout(Some(PATIENCE)).unwrap();
        count
    }
}

#[test]
fn systemd_is_told_of_the_start_of_life_of_a_reload_and_of_the_end() {
    let manager = Manager::new();
    let port = free_port();
    let variables = [("NOTIFY_SOCKET", manager.path.as_str()), ("WATCHDOG_USEC", "400000")];
    let mut command = esper(&["--port", &port], &variables);
    command.stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    assert!(manager.message().starts_with("STATUS=starting"));
    let ready = manager.message_with("READY=1");
    assert!(ready.contains("STATUS=0 streams, 0 events published\n"), "{ready}");
    let address: SocketAddr = format!("127.0.0.1:{port}").parse().unwrap();
    assert_eq!(ask(connect(address), "GET", "/healthz", &[], "").status, 200, "it listens when it says so");
    for _ in 0..5 {
        manager.message_with("WATCHDOG=1");
    }
    signal(child.id(), "HUP");
    let reloading = manager.message_with("RELOADING=1");
    let since = reloading.lines().find_map(|line| line.strip_prefix("MONOTONIC_USEC=")).expect("the time");
    assert!(since.parse::<u64>().is_ok_and(|since| since > 0), "{reloading}");
    manager.message_with("READY=1");
    signal(child.id(), "TERM");
    manager.message_with("STOPPING=1");
    assert!(child.wait().unwrap().success());
}

/// As while its process 1 is stopped.
#[test]
fn a_systemd_that_reads_nothing_does_not_keep_the_server_from_its_end() {
    let manager = Manager::new();
    let filling = UnixDatagram::unbound().unwrap();
    filling.set_nonblocking(true).unwrap();
    while filling.send_to(b"x", &manager.path).is_ok() {}
    let variables = [("NOTIFY_SOCKET", manager.path.as_str()), ("WATCHDOG_USEC", "400000")];
    let server = Server::spawn(esper(&["--port", "0"], &variables));
    assert_eq!(server.get("/healthz").status, 200);
    wait_until("it is said", || server.log().contains("cannot tell systemd by NOTIFY_SOCKET: "));
    assert_eq!(server.stop().code(), Some(0));
}

#[test]
fn the_status_is_told_when_it_changed() {
    let manager = Manager::new();
    let server = Server::start_with(&[], &[("NOTIFY_SOCKET", &manager.path)]);
    manager.message_with("READY=1");
    let stream = Stream::open(&server, "/subscribe/status0001");
    server.publish("status0001", "data: x");
    manager.message_with("STATUS=1 streams, 1 events published");
    drop(stream);
}

/// Runs esper as its child, and stops one of its threads, and lets it go on, by lines of its input.
const STOPPING_A_THREAD: &str = "
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
def ptrace(request, thread):
    assert libc.ptrace(request, thread, None, None) == 0, os.strerror(ctypes.get_errno())
pid = os.fork()
if pid == 0:
    null = os.open('/dev/null', os.O_RDWR)
    os.dup2(null, 0); os.dup2(null, 1)
    os.execv(sys.argv[1], sys.argv[1:])
def thread(name):
    for task in os.listdir(f'/proc/{pid}/task'):
        if open(f'/proc/{pid}/task/{task}/comm').read().strip() == name:
            return int(task)
for line in sys.stdin:
    word, name = line.split()
    if word == 'stop':
        ptrace(0x4206, thread(name))  # PTRACE_SEIZE
        ptrace(0x4207, thread(name))  # PTRACE_INTERRUPT
        os.waitpid(thread(name), 0x40000000)  # __WALL
    else:
        ptrace(17, thread(name))  # PTRACE_DETACH
    print(word, flush=True)
os.kill(pid, 9)
os.waitpid(pid, 0)
";

/// Everything else goes on, the main thread too, which tells systemd: a timer there would not notice.
#[test]
fn a_shard_that_hangs_is_no_sign_of_life() {
    let manager = Manager::new();
    let binary = esper(&[], &[]).get_program().to_owned();
    let mut command = Command::new("python3");
    command.args(["-c", STOPPING_A_THREAD]).arg(binary).args(["--port", "0", "--threads", "2"]);
    command.envs([("NOTIFY_SOCKET", manager.path.as_str()), ("WATCHDOG_USEC", "1000000")]);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let (mut input, mut output) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
    let mut tell = |line: &str| {
        writeln!(input, "{line}").unwrap();
        let mut done = String::new();
        output.read_line(&mut done).unwrap();
        assert!(line.starts_with(done.trim_end()) && !done.is_empty(), "{line}: {done:?}");
    };
    manager.message_with("READY=1");
    for shard in ["esper-0", "esper-1"] {
        manager.message_with("WATCHDOG=1");
        tell(&format!("stop {shard}"));
        // One may have been on its way.
        let count = manager.count_within(Duration::from_secs(2), "WATCHDOG=1");
        assert!(count <= 1, "{count} signs of life without {shard}");
        tell(&format!("continue {shard}"));
        manager.message_with("WATCHDOG=1");
    }
    drop(input);
    child.wait().unwrap();
}

/// A command that runs esper with these sockets as descriptors 3 and up, as systemd does.
fn with_sockets(sockets: Vec<OwnedFd>, names: &str, flags: &[&str]) -> Command {
    let count = sockets.len();
    let dups = ["3<&0", "3<&0 4<&1"][count - 1];
    let script = format!(
        "exec {dups} 0</dev/null 1>/dev/null; export LISTEN_FDS={count} LISTEN_PID=$$ LISTEN_FDNAMES={names}; exec \"$@\""
    );
    let binary = esper(flags, &[]);
    let mut command = Command::new("sh");
    command.args(["-c", &script, "sh"]).arg(binary.get_program()).args(binary.get_args());
    for (name, _) in binary.get_envs() {
        command.env_remove(name);
    }
    let mut sockets = sockets.into_iter();
    command.stdin(Stdio::from(sockets.next().unwrap()));
    if let Some(second) = sockets.next() {
        command.stdout(Stdio::from(second));
    }
    command
}

fn copy(listener: &TcpListener) -> OwnedFd {
    listener.try_clone().unwrap().into()
}

#[test]
fn the_sockets_of_systemd_take_the_place_of_addresses() {
    let dir = TempDir::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let path = dir.path("control.sock");
    let control = UnixListener::bind(&path).unwrap();
    for names in ["esper.socket:control", "control:x"] {
        let (first, second) = (copy(&listener), OwnedFd::from(control.try_clone().unwrap()));
        let sockets = if names == "control:x" { vec![second, first] } else { vec![first, second] };
        let server =
            Server::spawn(with_sockets(sockets, names, &["--bind", "127.0.0.1:1", "--threads", "2"]));
        assert_eq!(server.address, address);
        assert!(
            server.log().contains(&format!("listening on http://{address} (inherited)")),
            "{}",
            server.log()
        );
        let mut stream = Stream::open(&server, "/subscribe/inherited1");
        assert_eq!(
            server.post("/publish/inherited1", "data: x").status,
            404,
            "that is for the control port alone"
        );
        for number in 0..10 {
            let connection = try_connect_unix(&path).unwrap();
            let answer = ask(connection, "POST", "/publish/inherited1", &[], &format!("data: {number}"));
            assert_eq!(answer.status, 200, "{answer:?}");
            assert_eq!(stream.event().data, number.to_string());
        }
        assert!(server.stop().success());
        assert!(fs::exists(&path).unwrap(), "the file is not the server's own");
    }
    // Without a process there, both still take connections.
    assert!(try_connect(address).is_some() && try_connect_unix(&path).is_some());
}

#[test]
fn sockets_for_another_process_are_left_alone() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut command = with_sockets(vec![copy(&listener)], "x", &["--port", "0"]);
    let script =
        command.get_args().nth(1).unwrap().to_str().unwrap().replace("LISTEN_PID=$$", "LISTEN_PID=1");
    let args: Vec<_> = command.get_args().skip(2).map(ToOwned::to_owned).collect();
    let mut other = Command::new("sh");
    other.args(["-c", &script]).args(args).stdin(Stdio::from(copy(&listener)));
    command.stdin(Stdio::null());
    let server = Server::spawn(other);
    assert_ne!(server.address, listener.local_addr().unwrap());
    assert!(server.stop().success());
}

#[test]
fn what_nobody_can_connect_to_is_refused_with_its_number_and_name() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let connected = TcpStream::connect(address).unwrap();
    let datagrams = UdpSocket::bind("127.0.0.1:0").unwrap();
    let exposed = TcpListener::bind("0.0.0.0:0").unwrap();
    let bare = "no stream socket of IP or of the file system; in a .socket unit write ListenStream=";
    let silent = "a socket that does not listen, where a listening stream socket is needed; \
         in a .socket unit of systemd write ListenStream=, and no Accept=yes";
    for (sockets, names, code, line) in [
        (vec![OwnedFd::from(datagrams)], "udp", Some(1), format!("descriptor 3 'udp' of LISTEN_FDS: {bare}")),
        (
            vec![copy(&listener), OwnedFd::from(fs::File::open("/dev/null").unwrap())],
            "tcp:file",
            Some(1),
            format!("descriptor 4 'file' of LISTEN_FDS: {bare}"),
        ),
        (vec![OwnedFd::from(connected)], "", Some(1), format!("descriptor 3 of LISTEN_FDS: {silent}")),
        (
            vec![OwnedFd::from(exposed)],
            "control",
            Some(1),
            "other machines may reach control.bind 0.0.0.0:".to_owned(),
        ),
    ] {
        let Ended { code: ended, stderr, .. } = run_with(with_sockets(sockets, names, &["--port", "0"]));
        assert_eq!(ended, code, "{stderr}");
        assert!(stderr.contains(&line), "{line}: {stderr}");
    }
}

/// The standard output is a socket.
fn run_with(command: Command) -> Ended {
    let mut command = command;
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    wait_until("it ends", || child.try_wait().unwrap().is_some());
    let output = child.wait_with_output().unwrap();
    Ended {
        code: output.status.code(),
        stdout: String::new(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// The experience of clients with a server that was restarted several times.
#[derive(Default)]
struct Seen {
    answered: usize,
    refused: usize,
    unanswered: usize,
    longest: Duration,
}

/// Ends the clients when this is dropped.
struct ClientsEnd<'e>(&'e AtomicBool);

impl Drop for ClientsEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Asks again and again, on a new connection each time, while `restart` runs.
fn ask_meanwhile(connect: impl Fn() -> Option<TcpStream> + Sync, restart: impl FnOnce()) -> Seen {
    let ends = AtomicBool::new(false);
    let one = || {
        let mut seen = Seen::default();
        while !ends.load(Ordering::Relaxed) {
            let start = Instant::now();
            let Some(mut connection) = connect() else {
                seen.refused += 1;
                continue;
            };
            let request = "POST /publish/restarted1 HTTP/1.1\r\nHost: h\r\nContent-Length: 7\r\nConnection: close\r\n\r\ndata: x";
            let mut answer = String::new();
            let sent = connection.write_all(request.as_bytes());
            let _ = sent.and_then(|()| std::io::Read::read_to_string(&mut connection, &mut answer));
            match answer.starts_with("HTTP/1.1 200 ") {
                true => seen.answered += 1,
                false => seen.unanswered += 1,
            }
            seen.longest = seen.longest.max(start.elapsed());
        }
        seen
    };
    thread::scope(|scope| {
        let clients: Vec<_> = (0..4).map(|_| scope.spawn(one)).collect();
        // Also when it panics.
        let end = ClientsEnd(&ends);
        restart();
        drop(end);
        clients.into_iter().map(|client| client.join().unwrap()).fold(Seen::default(), |all, seen| Seen {
            answered: all.answered + seen.answered,
            refused: all.refused + seen.refused,
            unanswered: all.unanswered + seen.unanswered,
            longest: all.longest.max(seen.longest),
        })
    })
}

#[test]
fn no_connection_is_refused_while_a_server_with_sockets_of_systemd_restarts() {
    let dir = TempDir::new();
    let path = dir.path("esper.sock");
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = tcp.local_addr().unwrap();
    let unix = UnixListener::bind(&path).unwrap();
    let start = || {
        let sockets = vec![copy(&tcp), OwnedFd::from(unix.try_clone().unwrap())];
        Server::spawn(with_sockets(sockets, "tcp:unix", &["--history-events", "0"]))
    };
    type Connect<'c> = Box<dyn Fn() -> Option<TcpStream> + Sync + 'c>;
    let ways: [(&str, Connect<'_>); 2] =
        [("TCP", Box::new(|| try_connect(address))), ("unix", Box::new(|| try_connect_unix(&path)))];
    for (way, connect) in ways {
        let mut server = Some(start());
        let seen = ask_meanwhile(connect, || {
            for _ in 0..5 {
                let mut publisher = Publisher::new(server.as_ref().unwrap());
                for _ in 0..50 {
                    publisher.publish("restarted1", "data: x").unwrap();
                }
                drop(publisher);
                assert!(server.take().unwrap().stop().success());
                server = Some(start());
            }
        });
        let Seen { answered, refused, unanswered, longest } = seen;
        println!(
            "{way}: {answered} answered, {refused} refused, {unanswered} without an answer, longest {longest:?}"
        );
        assert!(answered > 100, "{way}: {answered}");
        assert_eq!((refused, unanswered), (0, 0), "{way}");
        assert!(server.unwrap().stop().success());
    }
}

/// The program that comes with systemd for trying this out: it listens, and starts the server at the first connection.
#[test]
fn it_is_started_by_a_connection_with_the_real_systemd_socket_activate() {
    let port = free_port();
    let binary = esper(&[], &[]).get_program().to_owned();
    let mut command = Command::new("systemd-socket-activate");
    command.args(["--listen", &format!("127.0.0.1:{port}")]).arg(binary).arg("--no-admin");
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("systemd is installed");
    let address: SocketAddr = format!("127.0.0.1:{port}").parse().unwrap();
    wait_until("it listens", || TcpStream::connect(address).is_ok());
    assert_eq!(ask(connect(address), "GET", "/healthz", &[], "").status, 200);
    signal(child.id(), "TERM");
    wait_until("it ends", || child.try_wait().unwrap().is_some());
}
