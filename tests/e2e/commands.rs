//! The commands beside the server: `esper serve`, `health`, `config` and `completions`. Tokens and journals have tests of
//! their own.

use std::fs;
use std::io::{Read as _, Write as _};
use std::iter;
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use socket2::{Domain, SockAddr, Socket, Type};

use crate::support::{Server, TempDir, esper, eventually, free_port, run, signal, wait_until};

#[test]
fn every_command_of_the_help_has_a_help_of_its_own_and_a_section_in_the_document() {
    let help = run(esper(&["--help"], &[])).stdout;
    let (_, list) = help.split_once("\nCommands:\n").expect("a list of commands");
    let lines = list.lines().take_while(|line| !line.is_empty());
    let names: Vec<&str> = lines.filter_map(|line| line.split_whitespace().next()).collect();
    assert_eq!(names, ["serve", "token", "health", "journal", "config", "completions", "help"]);
    for name in names.into_iter().filter(|name| *name != "help") {
        let document = include_str!("../../docs/flags.md");
        assert!(document.contains(&format!("| [`{name}`]")), "docs/flags.md lists {name}");
        for (args, first) in [(&[name, "--help"][..], true), (&["help", name], false)] {
            let ended = run(esper(args, &[]));
            assert_eq!((ended.code, &*ended.stderr), (Some(0), ""), "{args:?}");
            assert!(ended.stdout.contains("Usage: esper"), "{args:?}: {}", ended.stdout);
            let line = list.lines().find(|line| line.trim_start().starts_with(name)).unwrap();
            let about = line.trim_start().strip_prefix(name).unwrap().trim_start();
            // The help of `serve` is that of esper.
            let is_same = ended.stdout.starts_with(about) || (name == "serve" && first);
            assert!(is_same, "{args:?}: {}", ended.stdout);
        }
    }
}

#[test]
fn serve_is_the_server_with_its_flags_also_when_keys_are_reread() {
    let folder = TempDir::new();
    let secret = folder.0.join("secret");
    fs::write(&secret, "a secret of 32 bytes, or longer..").unwrap();
    let file = secret.to_str().unwrap();
    let server = Server::spawn(esper(&["serve", "--port", "0", "--publisher-secret-file", file], &[]));
    assert_eq!(server.get("/healthz").status, 200);
    assert_eq!(server.post("/publish/petstore", "data: 1").status, 401);
    signal(server.pid(), "HUP");
    wait_until("the keys are reread", || server.log().contains("secrets and keys reread"));
}

#[test]
fn a_misspelt_command_and_one_behind_flags_are_refused_with_the_remedy() {
    for (args, stderr) in [
        (
            &["tokne"][..],
            "error: unrecognized subcommand 'tokne'; a similar subcommand exists: 'token'; --help says what there is\n",
        ),
        (
            &["--port", "1", "token"],
            "error: the subcommand 'token' cannot be used with '--port <PORT>'; --help says what there is\n",
        ),
        (
            &["serve", "token"],
            "error: token: a command of its own; write it first, or leave it out: here stand flags of the server\n",
        ),
        (
            &["config", "dump", "token"],
            "error: the subcommand 'token' cannot be used with '--dump-config'; --help says what there is\n",
        ),
        (
            &["completions", "tcsh"],
            "error: invalid value 'tcsh' for '<SHELL>' [possible values: bash, elvish, fish, powershell, zsh]; \
             a similar value exists: 'zsh'; --help says what there is\n",
        ),
    ] {
        let ended = run(esper(args, &[]));
        assert_eq!((ended.code, &*ended.stderr), (Some(2), stderr), "{args:?}");
    }
}

#[test]
fn health_asks_the_port_of_flags_variables_and_files() {
    let folder = TempDir::new();
    for address in ["127.0.0.1", "0.0.0.0", "::"] {
        let port = free_port();
        let file = folder.0.join("config.yml");
        fs::write(&file, format!("bind: '{address}'\nport: {port}\n")).unwrap();
        let file = file.to_str().unwrap();
        let server = Server::spawn(esper(&["--config", file], &[]));
        for (args, variables) in [
            (&["health", "--config", file][..], &[][..]),
            (&["health", "--ready"], &[("ESPER_CONFIG", file)]),
            (&["health", "--bind", address, "--port", &port], &[]),
            (&["health", "-p", &port], &[("ESPER_BIND", address), ("ESPER_PORT", "1")]),
        ] {
            let ended = run(esper(args, variables));
            assert_eq!((ended.code, &*ended.stdout, &*ended.stderr), (Some(0), "ok\n", ""), "{args:?}");
        }
        drop(server);
        let health = || run(esper(&["health", "--config", file], &[]));
        // Its kernel may still be closing what it left.
        wait_until("nobody listens", || {
            let ended = health();
            assert_eq!((ended.code, &*ended.stdout), (Some(1), ""));
            ended.stderr.contains("/healthz: cannot connect; is the server running")
        });
    }
}

#[test]
fn health_needs_no_secret_and_says_why_a_server_is_not_well() {
    let server = Server::start(&["--drain-delay", "1m"]);
    let port = server.address.port().to_string();
    // It reads no secret, which only the server's own user may.
    let health = || run(esper(&["health", "--port", &port], &[("ESPER_PUBLISHER_SECRET_FILE", "/nowhere")]));
    assert_eq!(health().code, Some(0));
    server.terminate();
    let stderr = eventually("it drains", || Some(health()).filter(|ended| ended.code == Some(1))).stderr;
    assert_eq!(
        stderr,
        format!("error: http://127.0.0.1:{port}/healthz: 503 Service Unavailable: draining\n")
    );
    server.terminate();
}

#[test]
fn health_refuses_what_it_cannot_ask_and_what_is_no_server_of_ours() {
    let ended = run(esper(&["health", "--port", "0"], &[]));
    let stderr = "error: the server chose a free port (port 0) that is not known here; name it with --port\n";
    assert_eq!((ended.code, &*ended.stderr), (Some(2), stderr));

    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = other.local_addr().unwrap().port().to_string();
    let greet = thread::spawn(move || {
        let (mut client, _) = other.accept().unwrap();
        client.write_all(b"220 mail.example\r\n").unwrap();
    });
    let ended = run(esper(&["health", "--port", &port], &[]));
    greet.join().unwrap();
    assert_eq!(ended.code, Some(1));
    let reasons = ["its answer is not HTTP; does another program listen there?", "no whole answer: "];
    assert!(reasons.iter().any(|reason| ended.stderr.contains(reason)), "{}", ended.stderr);
}

/// In a container esper is process 1, and the health check knows none of its flags.
#[test]
fn health_takes_the_flags_of_process_1_when_that_is_the_same_program() {
    let port = free_port();
    let binary = esper(&[], &[]);
    let binary = binary.get_program().to_str().unwrap();
    let mut command = Command::new("unshare");
    command.args([
        "--user",
        "--map-root-user",
        "--pid",
        "--fork",
        "--kill-child",
        "--mount-proc",
        "sh",
        "-c",
    ]);
    // The shell is process 1, and becomes esper.
    command.args(["exec \"$@\"", "sh", binary, "serve", "--port", &port]).stdin(Stdio::null());
    let server = Server::spawn(command);
    let inside = fs::read_to_string(format!("/proc/{0}/task/{0}/children", server.pid())).unwrap();
    let mut enter = Command::new("nsenter");
    enter.args(["--target", inside.trim(), "--user", "--preserve-credentials", "--pid", "--mount"]);
    let ended = run({
        enter.args([binary, "health"]);
        enter
    });
    assert_eq!((ended.code, &*ended.stdout, &*ended.stderr), (Some(0), "ok\n", ""));
}

#[test]
fn a_configuration_is_checked_without_a_start() {
    let folder = TempDir::new();
    let write = |name: &str, text: &str| {
        let path = folder.0.join(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let good = write("good.yml", "port: 3001\n# Of another machine:\ncores: 4000\n");
    let odd = write("odd.yml", "data-max: 1GiB\n");
    let wrong = write("wrong.yml", "port: 1\nprot: 2\n");
    let secret = write("secret.yml", "publisher-secret-file: /nowhere\n");
    for (file, variables, code, stdout, stderr) in [
        (&good, &[][..], 0, format!("{good}: esper would start with it\n"), String::new()),
        // Neither variables nor other files have a say.
        (&good, &[("ESPER_PORT", "x")], 0, format!("{good}: esper would start with it\n"), String::new()),
        (
            &odd,
            &[],
            0,
            format!(
                "warning: {odd}:1 data-max does nothing without --data-dir: events are kept in memory alone\n\
                 {odd}: esper would start with it\n"
            ),
            String::new(),
        ),
        (
            &wrong,
            &[],
            2,
            String::new(),
            format!(
                "error: {wrong}:2 prot: unknown key; there is port, and esper config dump shows all there are\n"
            ),
        ),
        (
            &secret,
            &[],
            2,
            String::new(),
            format!(
                "error: {secret}:1 publisher-secret-file: /nowhere: No such file or directory (os error 2); \
                 name a file that this process may read\n"
            ),
        ),
    ] {
        let ended = run(esper(&["config", "check", file], variables));
        assert_eq!((ended.code, ended.stdout, ended.stderr), (Some(code), stdout, stderr), "{file}");
    }

    let ended = run(esper(&["config", "check"], &[("ESPER_CONFIG", &wrong)]));
    assert_eq!(ended.code, Some(2));
    // The file is an argument, and a flag that there is not is no value.
    let ended = run(esper(&["config", "check", "--config", &good], &[]));
    assert_eq!(ended.stderr, "error: unexpected argument '--config' found; --help says what there is\n");
    let ended = run(esper(&["config", "check"], &[("ESPER_CONFIG", &odd), ("ESPER_HISTROY_AGE", "1h")]));
    assert_eq!((ended.code, &*ended.stderr), (Some(0), ""));
    assert!(
        ended.stdout.contains("warning: ESPER_HISTROY_AGE is no variable of esper's"),
        "{}",
        ended.stdout
    );
    assert!(ended.stdout.contains("odd.yml: esper would start with it\n"), "{}", ended.stdout);
}

#[test]
fn dump_prints_what_the_old_flag_prints() {
    let variables = [("ESPER_HISTORY_EVENTS", "7")];
    let old = run(esper(&["-c", "--namespaces"], &variables));
    assert!(old.stdout.contains("history-events: 7") && old.stdout.contains("namespaces: true"));
    assert_eq!(run(esper(&["config", "dump", "--namespaces"], &variables)), old);
    assert_eq!(run(esper(&["serve", "--dump-config", "--namespaces"], &variables)), old);
}

#[test]
fn bash_completes_commands_and_flags() {
    let complete = |words: &str| {
        let script = format!(
            "source <(\"$0\" completions bash); COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); \
             _esper esper \"${{COMP_WORDS[COMP_CWORD]}}\" \"${{COMP_WORDS[COMP_CWORD-1]}}\"; echo \"${{COMPREPLY[@]}}\""
        );
        let mut command = Command::new("bash");
        command.args(["-c", &script]).arg(esper(&[], &[]).get_program());
        let ended = run(command);
        assert_eq!((ended.code, &*ended.stderr), (Some(0), ""), "{words}");
        ended.stdout.trim_end().to_owned()
    };
    assert_eq!(complete("esper he"), "health help");
    assert_eq!(complete("esper --history-a"), "--history-age");
    assert_eq!(complete("esper token --us"), "--user");
    assert_eq!(complete("esper config ch"), "check");
    for shell in ["zsh", "fish"] {
        let ended = run(esper(&["completions", shell], &[]));
        assert_eq!(ended.code, Some(0));
        assert!(ended.stdout.contains("history-age"), "{shell}");
    }
}

/// Serves one connection of another program: reads a request's head and hands the connection over.
fn stranger(answer: impl FnOnce(TcpStream) + Send + 'static) -> (String, thread::JoinHandle<()>) {
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = other.local_addr().unwrap().port().to_string();
    let serve = move || {
        let (mut client, _) = other.accept().unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            client.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        answer(client);
    };
    (port, thread::spawn(serve))
}

#[test]
fn health_shows_no_control_character_of_another_program() {
    for (status, code) in [("200 OK", 0), ("500 \x1b[31mred\u{9b}", 1)] {
        let answer = format!("HTTP/1.1 {status}\r\n\r\nok\x1b]0;title\x07\nsecond\x7f\n");
        let (port, serving) = stranger(move |mut client| client.write_all(answer.as_bytes()).unwrap());
        let ended = run(esper(&["health", "--port", &port], &[]));
        serving.join().unwrap();
        let shown = ended.stdout + &ended.stderr;
        assert_eq!(
            (ended.code, shown.chars().filter(|c| c.is_control()).count()),
            (Some(code), 1),
            "{shown:?}"
        );
        assert!(shown.ends_with("ok\\u{1b}]0;title\\u{7}\\nsecond\\u{7f}\n"), "{shown:?}");
    }
}

#[test]
fn health_does_not_wait_for_a_server_that_drips_or_accepts_nobody() {
    let (port, serving) = stranger(|mut client| {
        client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
        // Until it gives up.
        while client.write_all(b"x").is_ok() {
            thread::sleep(Duration::from_millis(100));
        }
    });
    let ended = run(esper(&["health", "--port", &port], &[]));
    serving.join().unwrap();
    assert_eq!(ended.code, Some(1));
    assert!(ended.stderr.contains("no whole answer within 2 s; "), "{}", ended.stderr);

    let folder = TempDir::new();
    let path = folder.path("full");
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
    let address = SockAddr::unix(&path).unwrap();
    socket.bind(&address).unwrap();
    socket.listen(0).unwrap();
    let waiting = || {
        let client = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
        client.set_nonblocking(true).unwrap();
        client.connect(&address).ok().map(|()| client)
    };
    let _waiting: Vec<Socket> = iter::from_fn(waiting).collect();
    let ended = run(esper(&["health", "--bind", &format!("unix:{path}")], &[]));
    assert_eq!(ended.code, Some(1));
    assert!(ended.stderr.contains("no connection within 2 s; "), "{}", ended.stderr);
}
