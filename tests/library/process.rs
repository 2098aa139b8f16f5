//! What a server within a program changes of its process, and what it leaves behind: by default nothing.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use esper::config::{Config, Cpus};
use esper::{Inherited, Server, StartError};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::support::wait_until;
use crate::{alone, builder, rest_of_events, subscribe};

#[test]
fn a_configuration_that_cannot_hold_and_a_port_that_is_taken_are_refused() {
    let _process = alone();
    let mut config = Config { port: 0, ..Config::default() };
    config.stream.retry_max = Duration::ZERO;
    let refused = Server::start(config).unwrap_err();
    assert!(
        matches!(&refused, StartError::Config(line) if line.starts_with("stream.retry_max")),
        "{refused}"
    );
    assert!(matches!(builder().shards(0).start(), Err(StartError::Config(_))));
    assert!(matches!(builder().shards(usize::MAX).start(), Err(StartError::Config(_))));

    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let refused = builder().port(taken.local_addr().unwrap().port()).start().unwrap_err();
    assert!(matches!(refused, StartError::Listen { .. }), "{refused}");
    no_thread_is_left();
}

#[test]
fn nobody_is_answered_before_the_program_was_told_that_serving_begins() {
    let _process = alone();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut early = None;
    let server = Server::start_on(Config { port, ..Config::default() }, Inherited::default(), || {
        let mut connection = TcpStream::connect(("127.0.0.1", port)).expect("it listens");
        connection.write_all(b"GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
        connection.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        connection.read(&mut [0; 1]).expect_err("no answer yet");
        early = Some(connection);
    });
    let _server = server.unwrap();
    let mut early = early.expect("the program was told");
    early.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut answer = [0; 15];
    early.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200 OK");
}

#[test]
fn nothing_of_the_process_is_changed_unless_it_is_asked_for() {
    let _process = alone();
    // Lower than it may be, or raising it would not be seen.
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let lowered = Rlimit { current: maximum.map(|files| files - 1), maximum };
    setrlimit(Resource::Nofile, lowered).unwrap();
    let before = Process::now();

    let quiet = || builder().admin(false);
    let servers = [quiet().shards(2).start().unwrap(), quiet().start().unwrap()];
    let during = Process::now();
    assert_eq!(during.threads.len(), 3, "{during:?}");
    assert!(during.threads.iter().all(|(_, cpus)| *cpus == before.cpus), "{during:?}");
    assert_eq!(during.cpus, before.cpus);
    assert_eq!(during.signals_caught, before.signals_caught);
    assert_eq!(getrlimit(Resource::Nofile), lowered);
    drop(servers);
    no_thread_is_left();

    // And now it is asked for.
    let last_cpu: usize = before.cpus.rsplit([',', '-']).next().unwrap().parse().unwrap();
    let asked = quiet().configure(|config| {
        config.cpus = Cpus { ids: vec![last_cpu], pin: true };
        config.raise_file_limit = true;
    });
    let _server = asked.start().unwrap();
    let [(_, cpus)] = &Process::now().threads[..] else { panic!("one shard") };
    assert_eq!(*cpus, last_cpu.to_string());
    assert_eq!(getrlimit(Resource::Nofile), Rlimit { current: maximum, maximum });
}

#[test]
fn a_server_that_is_dropped_while_clients_come_and_go_closes_every_connection() {
    let _process = alone();
    builder().start().unwrap().stop();
    let descriptors = open_descriptors();
    for _ in 0..30 {
        let server = builder().shards(2).start().unwrap();
        let address = server.address();
        let clients: Vec<_> = (0..4)
            .map(|_| {
                thread::spawn(move || {
                    while let Ok(mut connection) = TcpStream::connect(address) {
                        let _ = connection.write_all(b"GET /subscribe/pets HTTP/1.1\r\n\r\n");
                    }
                })
            })
            .collect();
        thread::sleep(Duration::from_millis(5));
        drop(server);
        for client in clients {
            client.join().unwrap();
        }
    }
    wait_until("every descriptor is closed", || open_descriptors() == descriptors);
}

#[test]
fn a_server_that_ends_leaves_no_thread_no_descriptor_and_no_listener() {
    let _process = alone();
    // The first one makes what a process makes once.
    builder().start().unwrap().stop();
    let descriptors = open_descriptors();
    for round in 0..6 {
        let server = builder().shards(2).start().unwrap();
        let address = server.address();
        assert!(!Process::now().threads.is_empty());
        let subscribers: Vec<_> =
            (0..5).map(|n| subscribe(address, &format!("/subscribe/topic{n}"))).collect();
        let idle: Vec<_> = (0..5).map(|_| TcpStream::connect(address).unwrap()).collect();
        let mut half_sent = TcpStream::connect(address).unwrap();
        half_sent.write_all(b"POST /publish/pets HTTP/1.1\r\nContent-Length: 100\r\n\r\ndata:").unwrap();
        if round % 2 == 0 {
            drop(server)
        } else {
            server.stop()
        }

        no_thread_is_left();
        for mut subscriber in subscribers {
            assert_eq!(rest_of_events(&mut subscriber), Vec::<String>::new());
        }
        drop((idle, half_sent));
        TcpListener::bind(address).expect("nobody listens there any more");
        wait_until("every descriptor is closed", || open_descriptors() == descriptors);
    }
}

/// What a server could change about its process.
#[derive(Debug)]
struct Process {
    /// The CPUs the main thread may use, as the kernel lists them: `0-3,6`.
    cpus: String,
    signals_caught: String,
    /// Threads of servers, and the CPUs each may use.
    threads: Vec<(String, String)>,
}

impl Process {
    fn now() -> Process {
        let status = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let field = |status: &str, name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.unwrap_or_default().trim_start_matches(':').trim().to_owned()
        };
        let main = status("/proc/self/status");
        let threads = fs::read_dir("/proc/self/task").unwrap().flatten().map(|task| {
            let status = status(&task.path().join("status").display().to_string());
            (field(&status, "Name"), field(&status, "Cpus_allowed_list"))
        });
        Process {
            cpus: field(&main, "Cpus_allowed_list"),
            signals_caught: field(&main, "SigCgt"),
            threads: threads.filter(|(name, _)| name.starts_with("esper-")).collect(),
        }
    }
}

/// The kernel may list a thread for a moment after it was joined.
fn no_thread_is_left() {
    wait_until("every thread is gone", || Process::now().threads.is_empty());
}

fn open_descriptors() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}
