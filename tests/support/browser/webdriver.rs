//! Chromium through chromedriver, and WebKitGTK through its own driver: both speak the WebDriver standard.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc::channel;
use std::thread;

use serde_json::{Value, json};

use super::driver::{Driver, Group, home_variables, program};
use crate::support::{Answer, PATIENCE, eventually, free_port, read_head, signal};

/// A session of a driver.
pub(super) struct WebDriver {
    driver: Group,
    address: SocketAddr,
    /// The session's path, once there is one.
    session: String,
    /// Names the process of a Chromium, HOST-PID, for as long as it runs.
    lock: String,
    /// What the browser draws on, if it cannot do without.
    display: Option<Display>,
}

/// Starts Chromium.
pub(super) fn chromium(home: &str) -> WebDriver {
    let (driver, port) = start_chromedriver(home);
    let arguments = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--disable-dev-shm-usage",
        "--disable-breakpad",
        "--disable-crash-reporter",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--no-proxy-server",
        // Names for the tests, of a domain that nobody has (RFC 2606).
        "--host-resolver-rules=MAP *.example 127.0.0.1",
        &format!("--user-data-dir={home}/profile"),
    ];
    let options = json!({ "binary": program("ESPER_TEST_CHROMIUM", "chromium"), "args": arguments });
    let lock = format!("{home}/profile/SingletonLock");
    let wanted = json!({ "browserName": "chrome", "goog:chromeOptions": options });
    WebDriver { driver, address: loopback(port), session: String::new(), lock, display: None }.begin(wanted)
}

/// Starts MiniBrowser, which comes with WebKitGTK and which its driver takes unless it is told of another.
pub(super) fn webkit(home: &str) -> WebDriver {
    let display = Display::start();
    let port = free_port();
    let driver = Group::spawn(
        Command::new(program("ESPER_TEST_WEBKITDRIVER", "WebKitWebDriver"))
            .arg(format!("--port={port}"))
            .envs(home_variables(home))
            .env("DISPLAY", &display.name)
            .stdout(Stdio::null())
            .stderr(Stdio::null()),
    )
    .expect("WebKitWebDriver starts");
    let address = loopback(port.parse().expect("a port"));
    eventually("WebKitWebDriver listens", || TcpStream::connect(address).ok());
    let lock = String::new();
    WebDriver { driver, address, session: String::new(), lock, display: Some(display) }
        .begin(json!({ "proxy": { "proxyType": "direct" } }))
}

impl WebDriver {
    /// Asks for a session with a browser of which this is wanted.
    fn begin(mut self, mut wanted: Value) -> WebDriver {
        wanted["timeouts"] = json!({ "script": PATIENCE.as_millis() as u64 });
        let session = self.request("POST", "/session", &json!({ "capabilities": { "alwaysMatch": wanted } }));
        let session = session.unwrap_or_else(|error| panic!("no browser: {error}"));
        self.session = format!("/session/{}", session["sessionId"].as_str().unwrap());
        self
    }

    /// One command and its value, or the error as the driver words it.
    fn request(&self, method: &str, path: &str, body: &Value) -> Result<Value, String> {
        let answer = self.exchange(method, path, &body.to_string()).map_err(|error| error.to_string())?;
        let mut json: Value = serde_json::from_str(&answer.body).map_err(|error| error.to_string())?;
        if answer.status == 200 {
            Ok(json["value"].take())
        } else {
            Err(json["value"]["message"].to_string())
        }
    }

    fn exchange(&self, method: &str, path: &str, body: &str) -> io::Result<Answer> {
        let mut connection = TcpStream::connect(self.address)?;
        // A command takes up to the script's own time limit.
        connection.set_read_timeout(Some(2 * PATIENCE))?;
        let (address, length) = (self.address, body.len());
        let head = format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\nContent-Length: {length}\r\n\r\n");
        connection.write_all(format!("{head}{body}").as_bytes())?;
        let mut reader = BufReader::new(connection);
        let mut answer = Answer::parse(&read_head(&mut reader)?);
        // It keeps connections open whatever it is asked for.
        let length = answer.field("Content-Length").and_then(|length| length.parse().ok()).unwrap_or(0);
        reader.take(length).read_to_string(&mut answer.body)?;
        Ok(answer)
    }
}

impl Driver for WebDriver {
    fn command(&self, name: &str, body: &Value) -> Result<Value, String> {
        self.request("POST", &format!("{}/{name}", self.session), body)
    }
}

impl Drop for WebDriver {
    fn drop(&mut self) {
        if !self.session.is_empty() {
            let _ = self.request("DELETE", &self.session, &json!({}));
        }
        // chromedriver starts it in another group than its own.
        if let Ok(lock) = std::fs::read_link(&self.lock)
            && let Some((_, pid)) = lock.to_string_lossy().rsplit_once('-')
        {
            signal(pid.parse().expect("a process id"), "KILL");
        }
    }
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// Starts chromedriver on a free port; returns that too.
fn start_chromedriver(home: &str) -> (Group, u16) {
    // It takes a free port of IPv6, then gives up if that is in use on IPv4: one start in twenty on a busy machine.
    for _ in 0..10 {
        let mut driver = Group::spawn(
            Command::new(program("ESPER_TEST_CHROMEDRIVER", "chromedriver"))
                .arg("--port=0")
                .envs(home_variables(home))
                .stdout(Stdio::piped())
                .stderr(Stdio::null()),
        )
        .expect("chromedriver starts");
        if let Some(port) = port(driver.0.stdout.take().unwrap()) {
            return (driver, port);
        }
    }
    panic!("chromedriver found no port");
}

/// The port it says it listens on; none when it ends. The rest is read too, for it must not stop at a full pipe.
fn port(stdout: ChildStdout) -> Option<u16> {
    let (said, saying) = channel();
    thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            if let Some((_, port)) = line.split_once("started successfully on port ") {
                let _ = said.send(port.trim_end_matches('.').parse().expect("a port"));
            }
        }
    });
    saying.recv_timeout(PATIENCE).ok()
}

/// A screen in memory, for a browser that does not start without one.
struct Display {
    xvfb: Child,
    /// As in the variable `DISPLAY`.
    name: String,
}

impl Display {
    /// Starts one that has a number nobody else has.
    fn start() -> Display {
        let mut command = Command::new("Xvfb");
        command.args(["-displayfd", "1", "-nolisten", "tcp"]).stdin(Stdio::null()).stderr(Stdio::null());
        let mut xvfb = command.stdout(Stdio::piped()).spawn().expect("Xvfb is installed");
        let stdout = BufReader::new(xvfb.stdout.take().expect("a pipe"));
        // Already one that is ended when dropped, should it say no number.
        let mut display = Display { xvfb, name: String::new() };
        let number = stdout.lines().next().expect("Xvfb starts").expect("a line");
        display.name = format!(":{number}");
        display
    }
}

impl Drop for Display {
    fn drop(&mut self) {
        // Killed, it would leave its lock and its socket in /tmp.
        signal(self.xvfb.id(), "TERM");
        let _ = self.xvfb.wait();
    }
}
