//! The listeners: sockets of the file system, several addresses, all of them; and the threads that serve them.

use std::fs;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;

use crate::support::{
    Answer, Server, Stream, TempDir, ask, check_refusal, esper, farewell, free_port, run, signal,
    try_connect, try_connect_unix, wait_until,
};

/// Sends a request to a socket of the file system.
fn ask_at(path: &str, method: &str, target: &str, body: &str) -> Answer {
    ask(try_connect_unix(path).expect("it listens"), method, target, &[], body)
}

fn subscribe(connection: TcpStream, topic: &str, fields: &str) -> Stream {
    use std::io::Write;
    let mut connection = connection;
    write!(connection, "GET /subscribe/{topic} HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n").unwrap();
    Stream::of(connection)
}

/// The clients that are connected, as the admin page says.
fn client_ips(server: &Server) -> Vec<String> {
    let status = server.get("/admin/status.json").json();
    let connections = status["connections"].as_array().unwrap().iter();
    connections.map(|connection| connection["client_ip"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_socket_of_the_file_system_serves_what_a_port_does_and_is_gone_at_the_end() {
    let dir = TempDir::new();
    let socket = dir.path("esper.sock");
    for (mode, expected) in [(&[][..], 0o660), (&["--bind-mode", "0600"], 0o600)] {
        let bind = format!("unix:{socket}");
        let server = Server::start(&[&["--bind", &bind], mode].concat());
        assert_eq!(server.addresses(), [bind.as_str()]);
        assert_eq!(fs::symlink_metadata(&socket).unwrap().permissions().mode() & 0o7777, expected);
        let mut stream = subscribe(try_connect_unix(&socket).unwrap(), "overunix01", "");
        let long = "x".repeat(500_000);
        for data in ["one", &long, "three"] {
            let answer = ask_at(&socket, "POST", "/publish/overunix01", &format!("data: {data}"));
            assert_eq!(answer.status, 200, "{answer:?}");
            assert_eq!(stream.event().data, data);
        }
        check_refusal(&ask_at(&socket, "POST", "/publish/overunix01", "event: x"), 400, "no data");
        let healthy = run(esper(&["health", "--bind", &bind], &[]));
        assert_eq!((healthy.code, healthy.stdout.as_str()), (Some(0), "ok\n"), "{healthy:?}");
        assert!(server.stop().success());
        farewell(&mut stream.rest_of_events());
        let gone = run(esper(&["health"], &[("ESPER_BIND", &bind)]));
        assert_eq!(gone.code, Some(1), "{gone:?}");
        assert!(gone.stderr.contains(&format!("{bind} /healthz: cannot connect; ")), "{gone:?}");
        assert!(!fs::exists(&socket).unwrap(), "the file is removed");
    }
}

/// A client that does not read is cut there, too.
#[test]
fn a_stalled_client_at_a_socket_of_the_file_system_is_cut() {
    let dir = TempDir::new();
    let socket = dir.path("esper.sock");
    let bind = format!("127.0.0.1,unix:{socket}");
    let server = Server::start(&["--bind", &bind, "--slow-lag", "2MiB"]);
    let _stalled = subscribe(try_connect_unix(&socket).unwrap(), "stalled001", "");
    wait_until("it is cut", || {
        server.publish("stalled001", &format!("data: {}", "x".repeat(900_000)));
        server.stats()["evicted"] == 1
    });
    wait_until("it is gone", || server.stats()["clients"] == 0);
}

/// Returns a server that neither gives a client up nor sends it anything by itself, and its socket of the file system.
fn patient_server(dir: &TempDir) -> (Server, String) {
    let socket = dir.path("esper.sock");
    let bind = format!("127.0.0.1,unix:{socket}");
    (Server::start(&["--bind", &bind, "--send-timeout", "1h", "--heartbeat", "1h"]), socket)
}

#[test]
fn a_client_that_reads_no_more_but_stays_is_gone_with_the_next_event() {
    let dir = TempDir::new();
    let (server, socket) = patient_server(&dir);
    let client = try_connect_unix(&socket).unwrap();
    let stream = subscribe(client.try_clone().unwrap(), "readsnomore1", "");
    client.shutdown(std::net::Shutdown::Read).unwrap();
    server.publish("readsnomore1", "data: one");
    wait_until("it is gone", || server.stats()["clients"] == 0);
    assert_eq!(server.stats()["evicted"], 0);
    drop(stream);
}

#[test]
fn a_slow_client_at_a_socket_of_the_file_system_gets_everything() {
    let dir = TempDir::new();
    let (server, socket) = patient_server(&dir);
    let mut stream = subscribe(try_connect_unix(&socket).unwrap(), "slowunix01", "");
    for round in 0..5 {
        // More than the socket holds, while nobody reads; then nothing that would wake the server.
        let large = format!("{round} {}", "x".repeat(500_000));
        server.publish("slowunix01", &format!("data: {large}"));
        server.publish("slowunix01", &format!("data: {round}"));
        assert!(stream.event().data == large);
        assert_eq!(stream.event().data, round.to_string());
    }
}

#[test]
fn the_file_of_a_killed_server_is_replaced_and_that_of_another_one_only_by_a_takeover() {
    let dir = TempDir::new();
    let socket = dir.path("esper.sock");
    let bind = format!("unix:{socket}");
    let mut first = Server::start(&["--bind", &bind]);
    let refused = run(esper(&["--bind", &bind], &[]));
    assert_eq!(refused.code, Some(1), "{refused:?}");
    let line = format!(
        "cannot listen on {bind}: another process listens there; stop it, choose another path, or take its place with \
         --takeover\n"
    );
    assert!(refused.stderr.ends_with(&line), "{refused:?}");
    // Nor does a journal's start disturb it.
    let data = dir.path("data");
    let refused = run(esper(&["--bind", &bind, "--data-dir", &data], &[]));
    assert!(refused.stderr.ends_with(&line) && !fs::exists(&data).unwrap(), "{refused:?}");
    assert_eq!(ask_at(&socket, "GET", "/healthz", "").status, 200);

    signal(first.pid(), "KILL");
    first.wait();
    assert!(fs::exists(&socket).unwrap(), "it had no time to remove it");
    let second = Server::start(&["--bind", &bind]);
    // No moment without a listener.
    let third = Server::start(&["--bind", &bind, "--takeover", "--data-dir", &data]);
    assert_eq!(ask_at(&socket, "POST", "/publish/taken0001", "data: x").status, 200);
    assert!(second.stop().success());
    let journal = &ask_at(&socket, "GET", "/stats", "").json()["journal"];
    assert_eq!(journal["publishes"], 1, "the third has it, and its file");
    assert!(third.stop().success());
    assert!(!fs::exists(&socket).unwrap());
}

#[test]
fn a_socket_that_cannot_be_made_is_refused_with_the_remedy() {
    let dir = TempDir::new();
    let file = dir.write("file", "precious");
    for (flags, reason) in [
        (
            vec!["--bind".to_owned(), format!("unix:{file}")],
            "the file there is no socket, so it is not replaced; remove it, or choose another path",
        ),
        (vec!["--bind".to_owned(), format!("unix:{}", dir.path("no/esper.sock"))], "there is no directory "),
        (
            vec![
                "--bind".to_owned(),
                format!("unix:{}", dir.path("s")),
                "--bind-group=no-such-group".to_owned(),
            ],
            "there is no group 'no-such-group'; give another --bind-group",
        ),
    ] {
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        let refused = run(esper(&flags, &[]));
        assert_eq!(refused.code, Some(1), "{refused:?}");
        assert!(
            refused.stderr.contains(&format!("ERROR cannot listen on unix:{}", dir.0.display())),
            "{refused:?}"
        );
        assert!(refused.stderr.contains(reason), "{refused:?}");
    }
    assert_eq!(fs::read_to_string(file).unwrap(), "precious");
    assert_eq!(fs::read_dir(&dir.0).unwrap().count(), 1);
}

#[test]
fn a_socket_has_the_group_that_was_asked_for() {
    use std::os::unix::fs::MetadataExt;
    let dir = TempDir::new();
    let socket = dir.path("esper.sock");
    // Of this process's own, by its number: any user may give a file to that.
    let gid = fs::metadata(&dir.0).unwrap().gid();
    let server = Server::start(&["--bind", &format!("unix:{socket}"), "--bind-group", &gid.to_string()]);
    assert_eq!(fs::symlink_metadata(&socket).unwrap().gid(), gid);
    drop(server);
}

#[test]
fn several_addresses_are_one_server() {
    let dir = TempDir::new();
    let [socket, control] = ["esper.sock", "control.sock"].map(|name| dir.path(name));
    let variables = [("ESPER_BIND", format!("127.0.0.1, [::1]:0,127.0.0.1:0,unix:{socket}"))];
    let variables = variables.each_ref().map(|(name, value)| (*name, value.as_str()));
    let bind_control = format!("unix:{control}");
    let flags = [
        "--bind-control",
        &bind_control,
        "--public-publish",
        "--session-secret",
        "a-secret-of-these-tests-alone",
    ];
    let server = Server::start_with(&flags, &variables);
    wait_until("all are logged", || server.addresses().len() == 4);
    let addresses = server.addresses();
    assert!(
        addresses[1].starts_with("http://[::1]:") && addresses[3] == format!("unix:{socket}"),
        "{addresses:?}"
    );
    let connect = |address: &String| match address.strip_prefix("unix:") {
        Some(path) => try_connect_unix(path).unwrap(),
        None => try_connect(address.strip_prefix("http://").unwrap().parse().unwrap()).unwrap(),
    };
    let mut streams: Vec<Stream> =
        addresses.iter().map(|address| subscribe(connect(address), "several001", "")).collect();
    for (number, address) in addresses.iter().enumerate() {
        let answer = ask(connect(address), "POST", "/publish/several001", &[], &format!("data: {number}"));
        assert_eq!(answer.status, 200, "{answer:?}");
        for stream in &mut streams {
            assert_eq!(stream.event().data, number.to_string());
        }
        // Each is the public port.
        assert_eq!(ask(connect(address), "POST", "/emit/", &[], "").status, 404);
    }
    // For control no token is needed: who may open the file says who may ask.
    assert!(server.log().contains(&format!("control on {bind_control}")));
    let body = "userId=u&channel=c&payload=data: x";
    let emitted = ask(try_connect_unix(&control).unwrap(), "POST", "/emit/", &[], body);
    assert_eq!(emitted.status, 200, "{emitted:?}");
    assert!(server.stop().success());
    assert_eq!(fs::read_dir(&dir.0).unwrap().count(), 0);
}

#[test]
fn a_port_without_an_address_is_at_all_addresses_and_a_mapped_one_is_that_of_ipv4() {
    let port = free_port();
    for (proxy, client) in [
        ("127.0.0.0/8", "198.51.100.1"),
        ("::ffff:127.0.0.0/104", "198.51.100.1"),
        ("::ffff:127.0.0.1", "198.51.100.1"),
        ("::1", "127.0.0.1"),
    ] {
        let server = Server::spawn(esper(&["-bind", &format!(":{port}"), "--trusted-proxy", proxy], &[]));
        assert_eq!(server.addresses(), [format!("http://[::]:{port}")]);
        let connection = try_connect(format!("127.0.0.1:{port}").parse().unwrap()).expect("IPv4");
        let stream = subscribe(connection, "mapped0001", "X-Forwarded-For: 198.51.100.1\r\n");
        assert_eq!(client_ips(&server), [client], "{proxy}");
        assert_eq!(
            ask(try_connect(format!("[::1]:{port}").parse().unwrap()).unwrap(), "GET", "/healthz", &[], "")
                .status,
            200
        );
        drop(stream);
        assert!(server.stop().success());
    }
}

/// As nginx has it by default, and Go does not.
#[test]
fn all_of_ipv4_and_all_of_ipv6_may_be_asked_for_side_by_side() {
    let port = free_port();
    for bind in ["0.0.0.0,::", "::,127.0.0.1"] {
        let server = Server::start(&["--bind", bind, "--port", &port]);
        wait_until("both are logged", || server.addresses().len() == 2);
        for address in [format!("127.0.0.1:{port}"), format!("[::1]:{port}")] {
            let connection = try_connect(address.parse().unwrap()).expect("it listens");
            assert_eq!(ask(connection, "GET", "/healthz", &[], "").status, 200);
        }
        assert!(server.stop().success());
    }
}

#[test]
fn a_client_at_a_socket_of_the_file_system_has_no_address_unless_a_trusted_proxy_says_one() {
    let dir = TempDir::new();
    let socket = dir.path("esper.sock");
    let bind = format!("127.0.0.1,unix:{socket}");
    for (flags, client) in [
        (&[][..], "unix"),
        (&["--trusted-proxy", "127.0.0.1"], "unix"),
        (&["--trusted-proxy", "unix"], "198.51.100.1"),
    ] {
        let server = Server::start(&[&["--bind", &bind], flags].concat());
        let connection = try_connect_unix(&socket).unwrap();
        let _stream = subscribe(connection, "unixpeer01", "X-Forwarded-For: 198.51.100.1\r\n");
        assert_eq!(client_ips(&server), [client], "{flags:?}");
        assert!(server.stop().success());
    }
}

#[test]
fn connections_at_one_socket_are_spread_evenly_over_all_threads() {
    let dir = TempDir::new();
    let socket = dir.path("esper.sock");
    let bind = format!("127.0.0.1,unix:{socket}");
    // More than the CPUs of any machine on which somebody tests it by hand, perhaps: then it is only a warning.
    let server = Server::start(&["--bind", &bind, "--threads", "3"]);
    let streams: Vec<Stream> =
        (0..30).map(|_| subscribe(try_connect_unix(&socket).unwrap(), "spread0001", "")).collect();
    let clients = |server: &Server| -> Vec<u64> {
        let stats = server.stats();
        stats["shards"].as_array().unwrap().iter().map(|shard| shard["clients"].as_u64().unwrap()).collect()
    };
    assert_eq!(clients(&server), [10, 10, 10]);
    drop(streams);
    wait_until("all are gone", || clients(&server) == [0, 0, 0]);
}

#[test]
fn more_threads_than_cpus_share_them_and_the_log_says_so() {
    let cpus = std::thread::available_parallelism().unwrap().get();
    let threads = (cpus + 1).to_string();
    let server = Server::start(&["-t", &threads]);
    assert_eq!(server.stats()["shards"].as_array().unwrap().len(), cpus + 1);
    let warning = format!("WARN --threads {threads}: more than the CPUs this process may use (");
    assert!(server.log().contains(&warning), "{}", server.log());
    let mut stream = Stream::open(&server, "/subscribe/threads001");
    server.publish("threads001", "data: x");
    assert_eq!(stream.event().data, "x");
    assert!(server.stop().success());

    let refused = run(esper(&["--threads", "1025"], &[]));
    assert_eq!(
        (refused.code, refused.stderr.trim_end()),
        (Some(2), "error: --threads 1025: not a count; write a whole number from 1 to 1024")
    );
}

/// The command lines that users of the four servers type.
#[test]
fn the_command_lines_of_the_servers_that_it_replaces_start() {
    for line in [
        "--bind=127.0.0.1 --port=0 --threads=2",
        "-b 127.0.0.1 -p 0 -t 2",
        "--bind=127.0.0.1 --port=0 --threads=64 --no-auth",
        "-bind 127.0.0.1:0 -bindctl 127.0.0.1:0 -secret MySuperPassword42",
        "-bind :0 -bindctl 127.0.0.1:0 -secret MySuperPassword42",
        "-bind=:0 -bindctl=127.0.0.1:0 -secret=MySuperPassword42",
    ] {
        let server = Server::spawn(esper(&line.split(' ').collect::<Vec<_>>(), &[]));
        assert!(server.stop().success(), "{line}");
    }
    // Its control port asks for nothing there; here other machines need a token.
    let refused = run(esper(&["-bind", ":0", "-bindctl", ":0", "-secret", "MySuperPassword42"], &[]));
    assert!(
        refused.stderr.contains("--bind-control [::]:0: other machines may reach it, so it needs a token"),
        "{refused:?}"
    );
    for line in ["-h", "--help", "--version", "-c"] {
        assert_eq!(run(esper(&[line], &[])).code, Some(0), "{line}");
    }
}

#[test]
fn the_configuration_in_force_is_printed_with_all_addresses_and_read_back() {
    let dir = TempDir::new();
    let bind = "127.0.0.1,[::1]:8000,unix:/run/esper.sock";
    for (flags, expected) in [
        (
            &["--bind", bind, "--bind-mode", "666"][..],
            "server:\n  address:\n    - 127.0.0.1:3000\n    - \"[::1]:8000\"\n    - unix:/run/esper.sock\n",
        ),
        (&["--bind", "unix:/run/esper.sock"], "server:\n  address:\n    - unix:/run/esper.sock\n"),
        (&["--bind", "127.0.0.1:8000"], "server:\n  address: 127.0.0.1:8000\n"),
    ] {
        let printed = run(esper(&[flags, &["--dump-config"]].concat(), &[])).stdout;
        assert!(printed.contains(expected), "{printed}");
        let file = dir.write("config.yml", &printed);
        assert_eq!(run(esper(&["--config", &file, "--dump-config"], &[])).stdout, printed);
    }
}
