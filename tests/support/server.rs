//! The binary as a server on a free port, and what it says of itself.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use super::http::{Answer, connect, request_text};
use super::machine::{eventually, raise_file_limit};
use super::process::{esper, signal};

/// A running esper; killed when dropped.
pub(crate) struct Server {
    child: Child,
    pub(crate) address: SocketAddr,
    log: Arc<Mutex<String>>,
}

impl Server {
    /// Starts one shard-per-CPU server on a free port with these flags.
    pub(crate) fn start(flags: &[&str]) -> Server {
        Server::start_with(flags, &[])
    }

    /// The same with environment variables.
    pub(crate) fn start_with(flags: &[&str], variables: &[(&str, &str)]) -> Server {
        let mut command = esper(flags, variables);
        if !flags.iter().any(|flag| *flag == "--port" || *flag == "-p") {
            command.args(["--port", "0"]);
        }
        Server::spawn(command)
    }

    /// Starts a command that ends up as esper, and waits until it listens. One that listens on a socket of the file system
    /// first has no address.
    pub(crate) fn spawn(mut command: Command) -> Server {
        raise_file_limit();
        let mut child = command.stderr(Stdio::piped()).spawn().expect("the binary starts");
        let log = Arc::new(Mutex::new(String::new()));
        let stderr = child.stderr.take().expect("a pipe");
        let lines = Arc::clone(&log);
        thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                lines.lock().expect("no panic under it").push_str(&format!("{line}\n"));
            }
        });
        // Already one that is killed when dropped, should it not listen.
        let mut server = Server { child, address: SocketAddr::from(([0, 0, 0, 0], 0)), log };
        server.address = eventually("the server listens", || {
            let ended = server.child.try_wait().expect("our child");
            assert!(ended.is_none(), "the server did not start: {ended:?} {}", server.log());
            let nowhere = server.log().contains("listening on unix:").then_some(server.address);
            server.logged_address("listening on http://").or(nowhere)
        });
        server
    }

    /// Starts a command that ends up as esper, and waits until it listens on this port. Its log is the command's affair.
    pub(crate) fn spawn_unheard(mut command: Command, port: &str) -> Server {
        let child = command.spawn().expect("the binary starts");
        let address = format!("127.0.0.1:{port}").parse().expect("a port");
        let mut server = Server { child, address, log: Arc::default() };
        eventually("the server listens", || {
            assert!(server.is_running(), "the server did not start");
            TcpStream::connect(address).ok()
        });
        server
    }

    /// Where it listens for control, when it was told to.
    pub(crate) fn control(&self) -> SocketAddr {
        eventually("the control port listens", || self.logged_address("control on http://"))
    }

    /// The address that is logged behind this text.
    fn logged_address(&self, before: &str) -> Option<SocketAddr> {
        let log = self.log();
        let (_, rest) = log.split_once(before)?;
        rest.split(|c: char| c.is_whitespace() || c == '"').next()?.parse().ok()
    }

    /// The addresses that it listens at, as it logged so far.
    pub(crate) fn addresses(&self) -> Vec<String> {
        let log = self.log();
        let lines = log.lines().filter_map(|line| line.split_once("listening on "));
        lines.map(|(_, rest)| rest.split(' ').next().unwrap_or_default().to_owned()).collect()
    }

    /// Everything logged so far.
    pub(crate) fn log(&self) -> String {
        self.log.lock().expect("no panic under it").clone()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Sends SIGTERM.
    pub(crate) fn terminate(&self) {
        signal(self.pid(), "TERM");
    }

    /// Sends SIGTERM and waits for the end.
    pub(crate) fn stop(mut self) -> ExitStatus {
        self.terminate();
        self.wait()
    }

    /// Waits for the end.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let status = eventually("the server ends", || self.child.try_wait().expect("our child"));
        // The reading thread ends at the end of the pipe, when it has the last line. A child process of the server may keep
        // the pipe open, so this wait has a limit.
        let start = Instant::now();
        while Arc::strong_count(&self.log) > 1 && start.elapsed() < Duration::from_secs(5) {
            thread::sleep(Duration::from_millis(1));
        }
        status
    }

    /// Whether it still runs.
    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("our child").is_none()
    }

    /// A new connection with a time limit on reads.
    pub(crate) fn connect(&self) -> TcpStream {
        connect(self.address)
    }

    /// Sends bytes as they are on a connection of their own, closes the sending side, and returns all that comes back.
    pub(crate) fn raw(&self, bytes: impl AsRef<[u8]>) -> String {
        let mut connection = self.connect();
        // The server may have refused and closed before it has read everything.
        let _ = connection.write_all(bytes.as_ref());
        let _ = connection.shutdown(Shutdown::Write);
        let mut answer = Vec::new();
        let _ = connection.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).into_owned()
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        self.request("GET", path, &[], "")
    }

    pub(crate) fn post(&self, path: &str, body: &str) -> Answer {
        self.request("POST", path, &[], body)
    }

    /// One request on a connection of its own.
    pub(crate) fn request(&self, method: &str, path: &str, fields: &[&str], body: &str) -> Answer {
        Answer::parse(&self.raw(request_text(self.address, method, path, fields, body)))
    }

    /// Publishes to a topic, and returns the id in the answer.
    #[track_caller]
    pub(crate) fn publish(&self, topic: &str, body: &str) -> String {
        self.post(&format!("/publish/{topic}"), body).id()
    }

    /// `/stats`, parsed.
    pub(crate) fn stats(&self) -> serde_json::Value {
        serde_json::from_str(&self.get("/stats").body).expect("/stats is JSON")
    }

    /// Resident memory in bytes.
    pub(crate) fn resident_bytes(&self) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("it runs");
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("VmRSS");
        1024 * line.split_whitespace().nth(1).and_then(|kib| kib.parse::<usize>().ok()).expect("a number")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
