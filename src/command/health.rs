//! `esper health`: asks the server of a configuration how it is, for a container's health check and for people.

use std::ffi::OsString;
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::ffi::OsStringExt as _;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use socket2::{SockAddr, Socket, Type};

use crate::config::{self, BindAddress, Config, ConfigError};

/// The most time for each of connecting, asking and answering.
const PATIENCE: Duration = Duration::from_secs(2);
/// The most bytes of an answer that are read: its head and a line.
const ANSWER_BYTES_MAX: usize = 4 * 1024;

const AFTER_HELP: &str = "\
Exits 0 if the answer is 200, 1 if it is another or none, 2 if the
configuration is wrong. Without flags it takes those of process 1, if that is
this program, as in a container. What flags leave open is read as a server's
start reads it: from variables and files.";

/// The flags of `esper health`.
#[derive(Debug, Parser)]
#[command(name = "esper health", bin_name = "esper health", about = config::about("health"), after_help = AFTER_HELP, max_term_width = 120)]
pub(super) struct HealthFlags {
    /// Ask /readyz, whether it takes new clients, and not /healthz, whether it runs
    #[arg(long)]
    ready: bool,
    /// File that the server was started with
    #[arg(long, value_name = "FILE")]
    config: Option<OsString>,
    /// Address that the server was started with, the first of several
    #[arg(short, long, value_name = "IP[:PORT]|unix:PATH")]
    bind: Option<OsString>,
    /// Port that the server was started with
    #[arg(short, long, value_name = "PORT")]
    port: Option<OsString>,
}

/// Asks the server that the arguments describe, and prints its answer.
pub(super) fn run(args: Vec<OsString>) -> ExitCode {
    super::print("the answer", health(args))
}

fn health(args: Vec<OsString>) -> Result<String, ConfigError> {
    let HealthFlags { ready, config, bind, port } = config::parse_command(args)?;
    let path = if ready { "/readyz" } else { "/healthz" };
    let mut server = vec![OsString::from("esper")];
    for (flag, value) in [("--config", config), ("--bind", bind), ("--port", port)] {
        server.extend(value.into_iter().flat_map(|value| [flag.into(), value]));
    }
    if server.len() == 1 {
        server = of_first_process().unwrap_or(server);
    }
    let (at, host, shown) = match Config::address(config::server_args(server))? {
        BindAddress::Unix(socket) => {
            let at = SockAddr::unix(&socket).map_err(|error| error.to_string());
            (at, "localhost".to_owned(), format!("unix:{} {path}", socket.display()))
        }
        address => {
            let address =
                address.tcp().map(reachable).filter(|address| address.port() != 0).ok_or_else(|| {
                    let reason =
                        "the server chose a free port (port 0) that is not known here; name it with --port";
                    ConfigError::Usage(reason.to_owned())
                })?;
            (Ok(address.into()), address.to_string(), format!("http://{address}{path}"))
        }
    };
    let answer = at.and_then(|at| ask(&connect(&at)?, &host, path));
    answer.map_err(|reason| ConfigError::Host(format!("{shown}: {reason}")))
}

/// Returns a connection, or the reason why there is none.
fn connect(at: &SockAddr) -> Result<Socket, String> {
    let connected = Socket::new(at.domain(), Type::STREAM, None).and_then(|socket| {
        socket.set_write_timeout(Some(PATIENCE))?;
        // At a socket of the file system the time for writing is that for connecting, too (socket(7)): where nobody accepts,
        // its queue is full, and there is nothing to wait for with a poll.
        if at.is_unix() { socket.connect(at) } else { socket.connect_timeout(at, PATIENCE) }?;
        Ok(socket)
    });
    connected.map_err(|error| match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => late("no connection"),
        _ => format!("cannot connect; is the server running, and with this address?: {error}"),
    })
}

fn late(what: &str) -> String {
    format!("{what} within {} s; the server hangs, or another program listens there", PATIENCE.as_secs())
}

/// Returns the command line of process 1, if it runs this program.
fn of_first_process() -> Option<Vec<OsString>> {
    let is_same = fs::read_link("/proc/1/exe").ok()? == std::env::current_exe().ok()?;
    let line = fs::read("/proc/1/cmdline").ok().filter(|_| is_same)?;
    let line = line.strip_suffix(b"\0").unwrap_or(&line);
    Some(line.split(|byte| *byte == 0).map(|arg| OsString::from_vec(arg.to_vec())).collect())
}

/// Returns an address at which this machine reaches a server that listens on all.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(match address.ip() {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    address
}

/// Returns the body of a 200, or the reason why there is none. What another program answers is shown without the control
/// characters that a terminal would obey.
fn ask(mut socket: &Socket, host: &str, path: &str) -> Result<String, String> {
    let request = format!("GET {path} HTTP/1.0\r\nHost: {host}\r\n\r\n");
    socket.write_all(request.as_bytes()).map_err(|error| format!("cannot ask: {error}"))?;
    let answer = read(socket)?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) =
        answer.split_once("\r\n\r\n").ok_or("its answer is not HTTP; does another program listen there?")?;
    let (_, status) = head.lines().next().and_then(|line| line.split_once(' ')).unwrap_or_default();
    match status.starts_with("200 ") {
        true => Ok(format!("{}\n", shown(body))),
        false => Err(format!("{}: {}", shown(status), shown(body))),
    }
}

/// Reads an answer to its end. The time is for all of it: a server that sends a byte now and then gets no more.
fn read(mut socket: &Socket) -> Result<Vec<u8>, String> {
    let end = Instant::now() + PATIENCE;
    let (mut answer, mut buffer) = (Vec::new(), [0; 1024]);
    while answer.len() < ANSWER_BYTES_MAX {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(late("no whole answer"));
        }
        let read = socket.set_read_timeout(Some(left)).and_then(|()| socket.read(&mut buffer));
        match read {
            Ok(0) => break,
            Ok(bytes) => answer.extend_from_slice(&buffer[..bytes]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // The time is over.
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(format!("no whole answer: {error}")),
        }
    }
    Ok(answer)
}

/// Returns a text in one line, with its control characters as Rust writes them.
fn shown(text: &str) -> String {
    let escaped = |c: char| match c.is_control() {
        true => c.escape_default().to_string(),
        false => c.to_string(),
    };
    text.trim_end().chars().map(escaped).collect()
}
