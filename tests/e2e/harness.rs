//! Starts the binary, speaks HTTP to it byte by byte, and leaves nothing behind.

use std::fs::Permissions;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// How long anything is waited for before a test fails: far longer than it takes, so that a slow machine fails nothing.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

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

    /// Starts a command that ends up as esper, and waits until it listens.
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
            server.logged_address("listening on http://")
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
        eventually("the server ends", || self.child.try_wait().expect("our child"))
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

/// The binary with these flags and variables, and no other variable of its own.
pub(crate) fn esper(flags: &[&str], variables: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_esper"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("ESPER_")) {
        command.env_remove(name);
    }
    command.args(flags).envs(variables.iter().copied()).stdin(Stdio::null());
    command
}

/// Some tests open hundreds of connections, and a shell's usual limit is 1024 files.
fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).expect("the soft limit may be raised");
}

pub(crate) fn signal(pid: u32, name: &str) {
    let status = Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).status();
    assert!(status.expect("kill is installed").success());
}

pub(crate) fn connect(address: SocketAddr) -> TcpStream {
    try_connect(address).expect("it listens")
}

/// A new connection with a time limit on reads; none when nobody listens.
pub(crate) fn try_connect(address: SocketAddr) -> Option<TcpStream> {
    let connection = TcpStream::connect(address).ok()?;
    connection.set_read_timeout(Some(PATIENCE)).expect("a socket");
    Some(connection)
}

/// A free port below those that the kernel gives out by itself, so that no other test is given it in the moment between a
/// server and its successor.
pub(crate) fn port_of_its_own() -> String {
    static TRIED: AtomicU32 = AtomicU32::new(0);
    eventually("a free port", || {
        let port = 20_000 + std::process::id() % 1000 * 10 + TRIED.fetch_add(1, Ordering::Relaxed);
        TcpListener::bind(("127.0.0.1", port as u16)).ok().map(|_| port.to_string())
    })
}

/// One request on a connection of its own; all that comes back. The sending side stays open, because proxies take its end
/// for the end of the client.
pub(crate) fn exchange(address: SocketAddr, method: &str, path: &str, fields: &[&str], body: &str) -> String {
    let mut connection = connect(address);
    connection.write_all(request_text(address, method, path, fields, body).as_bytes()).expect("sent");
    let mut answer = Vec::new();
    let _ = connection.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

fn request_text(address: SocketAddr, method: &str, path: &str, fields: &[&str], body: &str) -> String {
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n");
    for field in fields {
        head += &format!("{field}\r\n");
    }
    if !body.is_empty() {
        head += &format!("Content-Length: {}\r\n", body.len());
    }
    format!("{head}\r\n{body}")
}

/// A directory of its own, which everybody may enter; removed when dropped.
pub(crate) struct TempDir(pub(crate) PathBuf);

impl TempDir {
    pub(crate) fn new() -> TempDir {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("esper-e2e-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).expect("a fresh directory");
        std::fs::set_permissions(&path, Permissions::from_mode(0o755)).expect("ours");
        TempDir(path)
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        // A process that is just ending may write into it while it is removed.
        for _ in 0..100 {
            if std::fs::remove_dir_all(&self.0).is_ok() || !self.0.exists() {
                return;
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Asks until there is something.
pub(crate) fn eventually<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = ask() {
            return value;
        }
        assert!(start.elapsed() < PATIENCE, "not in {PATIENCE:?}: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// An answer taken apart.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    /// The first answer in `text`.
    pub(crate) fn parse(text: &str) -> Answer {
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {text:?}"));
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status line");
        Answer { status, head: head.to_owned(), body: body.to_owned() }
    }

    /// A header field's value.
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (field, value) = line.split_once(':')?;
            field.eq_ignore_ascii_case(name).then_some(value.trim())
        })
    }
}

/// An event as EventSource would dispatch it, comments apart.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Event {
    pub(crate) name: String,
    pub(crate) data: String,
    pub(crate) id: String,
    pub(crate) retry: Option<u64>,
    /// Its lines as they came.
    pub(crate) lines: String,
}

/// An open stream, its head read.
pub(crate) struct Stream {
    reader: BufReader<TcpStream>,
    pub(crate) head: Answer,
    /// Undecoded text that came with the last chunk.
    text: String,
    /// Whether the body came to its orderly end, not just the connection.
    pub(crate) is_complete: bool,
}

impl Stream {
    pub(crate) fn open(server: &Server, path: &str) -> Stream {
        Stream::open_with(server, path, &[])
    }

    pub(crate) fn open_with(server: &Server, path: &str, fields: &[&str]) -> Stream {
        let mut request = format!("GET {path} HTTP/1.1\r\nHost: {}\r\n", server.address);
        for field in fields {
            request += &format!("{field}\r\n");
        }
        Stream::send(server.address, &format!("{request}\r\n"))
    }

    /// Sends a request as it is and reads the head of its answer.
    pub(crate) fn send(address: SocketAddr, request: &str) -> Stream {
        let mut connection = connect(address);
        connection.write_all(request.as_bytes()).expect("sent");
        Stream::of(connection)
    }

    /// Reads the head of the answer on a connection on which a stream was asked for.
    pub(crate) fn of(connection: TcpStream) -> Stream {
        Stream::try_of(connection).expect("a head before the end")
    }

    /// The same; none when the server is gone.
    pub(crate) fn try_of(connection: TcpStream) -> Option<Stream> {
        let mut reader = BufReader::new(connection);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if reader.read_line(&mut head).unwrap_or(0) == 0 {
                return None;
            }
        }
        Some(Stream { reader, head: Answer::parse(&head), text: String::new(), is_complete: false })
    }

    /// The next event; heartbeats and other comments are passed over.
    pub(crate) fn event(&mut self) -> Event {
        self.next_event().expect("an event before the end")
    }

    /// The next event, or none at the end of the stream.
    pub(crate) fn next_event(&mut self) -> Option<Event> {
        let start = Instant::now();
        loop {
            // Heartbeats alone would keep a read from ever giving up.
            assert!(start.elapsed() < PATIENCE, "no event in {PATIENCE:?}");
            if let Some((lines, rest)) = self.text.split_once("\n\n") {
                let event = parse_event(lines);
                self.text = rest.to_owned();
                if event.lines.lines().any(|line| !line.starts_with(':')) {
                    return Some(event);
                }
                continue;
            }
            let more = self.read_some()?;
            self.text.push_str(&more);
        }
    }

    /// The next piece of text, comments and all: a chunk, or for HTTP/1.0 a line.
    pub(crate) fn read_some(&mut self) -> Option<String> {
        let is_chunked = self.head.field("Transfer-Encoding").is_some();
        let mut line = String::new();
        if self.reader.read_line(&mut line).unwrap_or(0) == 0 {
            return None;
        }
        if !is_chunked {
            return Some(line);
        }
        let size =
            usize::from_str_radix(line.trim_end(), 16).unwrap_or_else(|_| panic!("no chunk: {line:?}"));
        let mut chunk = vec![0; size + 2];
        self.reader.read_exact(&mut chunk).ok()?;
        assert!(chunk.ends_with(b"\r\n"), "a chunk ends with CRLF");
        chunk.truncate(size);
        self.is_complete = size == 0;
        (size > 0).then(|| String::from_utf8(chunk).expect("UTF-8"))
    }

    pub(crate) fn socket(&self) -> &TcpStream {
        self.reader.get_ref()
    }
}

/// A connection kept open for one publish after another.
pub(crate) struct Publisher {
    reader: BufReader<TcpStream>,
}

impl Publisher {
    pub(crate) fn new(server: &Server) -> Publisher {
        Publisher { reader: BufReader::new(server.connect()) }
    }

    /// One to an address at which the server may be gone.
    pub(crate) fn try_at(address: SocketAddr) -> Option<Publisher> {
        Some(Publisher { reader: BufReader::new(try_connect(address)?) })
    }

    /// Publishes and waits for the answer; none when the connection ended before it.
    pub(crate) fn publish(&mut self, topic: &str, body: &str) -> Option<Answer> {
        self.send(topic, body);
        self.answer()
    }

    /// Publishes without waiting. A connection that has ended shows in the answer.
    pub(crate) fn send(&mut self, topic: &str, body: &str) {
        let head =
            format!("POST /publish/{topic} HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n", body.len());
        self.send_request(&format!("{head}{body}"));
    }

    /// Sends a request as it is.
    pub(crate) fn send_request(&mut self, request: &str) {
        let _ = self.reader.get_mut().write_all(request.as_bytes());
    }

    /// The next answer, or none at the connection's end.
    pub(crate) fn answer(&mut self) -> Option<Answer> {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if self.reader.read_line(&mut head).unwrap_or(0) == 0 {
                return None;
            }
        }
        let mut answer = Answer::parse(&head);
        let bytes = answer.field("Content-Length").and_then(|length| length.parse().ok()).expect("a length");
        let mut body = vec![0; bytes];
        self.reader.read_exact(&mut body).ok()?;
        answer.body = String::from_utf8(body).expect("UTF-8");
        Some(answer)
    }
}

fn parse_event(lines: &str) -> Event {
    let mut event = Event { lines: lines.to_owned(), ..Event::default() };
    let mut data = Vec::new();
    for line in lines.lines() {
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => event.name = value.to_owned(),
            "data" => data.push(value),
            "id" => event.id = value.to_owned(),
            "retry" => event.retry = value.parse().ok(),
            _ => {}
        }
    }
    event.data = data.join("\n");
    event
}
