//! Chromium, told what to do through chromedriver (the WebDriver standard, of which four commands are enough).

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc::channel;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use serde_json::{Value, json};

use crate::support::{Answer, PATIENCE, TempDir, read_head, signal};

/// One browser at a time: several starting at once would starve each other on a small machine.
static TURN: Mutex<()> = Mutex::new(());

/// A browser showing a page. It ends with this value, and so do the driver and every file of theirs.
pub(crate) struct Browser {
    driver: Child,
    address: SocketAddr,
    /// The session's path, once there is one.
    session: String,
    home: TempDir,
    _turn: MutexGuard<'static, ()>,
}

impl Browser {
    /// Starts a browser and loads a page.
    pub(crate) fn open(url: &str) -> Browser {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let home = TempDir::new();
        let path = home.0.to_str().unwrap().to_owned();
        let (driver, port) = start_driver(&path);
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let mut browser = Browser { driver, address, session: String::new(), home, _turn: turn };

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
            &format!("--user-data-dir={path}/profile"),
        ];
        let options = json!({ "binary": program("ESPER_TEST_CHROMIUM", "chromium"), "args": arguments });
        let wanted = json!({
            "browserName": "chrome",
            "timeouts": { "script": PATIENCE.as_millis() as u64 },
            "goog:chromeOptions": options,
        });
        let session =
            browser.command("POST", "/session", &json!({ "capabilities": { "alwaysMatch": wanted } }));
        let session = session.unwrap_or_else(|error| panic!("no browser: {error}"));
        browser.session = format!("/session/{}", session["sessionId"].as_str().unwrap());
        let path = format!("{}/url", browser.session);
        browser.command("POST", &path, &json!({ "url": url })).expect("the page loads");
        browser
    }

    /// Runs the body of a function in the page and waits for what it returns, promises too.
    pub(crate) fn run(&self, script: &str) -> Value {
        self.try_run(script).unwrap_or_else(|error| panic!("{script}: {error}"))
    }

    /// Waits until an expression is true in the page.
    pub(crate) fn until(&self, condition: &str) {
        if let Err(error) = self.try_run(&format!("return until(() => {condition})")) {
            let seen = self.try_run("return [seen, opened, source && source.readyState]");
            panic!("not in {PATIENCE:?}: {condition}: {error}; seen, opened, state: {seen:?}");
        }
    }

    /// One command of the DevTools protocol and what it returns.
    pub(crate) fn devtools(&self, command: &str, parameters: &Value) -> Value {
        let path = format!("{}/goog/cdp/execute", self.session);
        let body = json!({ "cmd": command, "params": parameters });
        self.command("POST", &path, &body).unwrap_or_else(|error| panic!("{command}: {error}"))
    }

    fn try_run(&self, script: &str) -> Result<Value, String> {
        let path = format!("{}/execute/sync", self.session);
        self.command("POST", &path, &json!({ "script": script, "args": [] }))
    }

    /// One command and its value, or the error as the driver words it.
    fn command(&self, method: &str, path: &str, body: &Value) -> Result<Value, String> {
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

impl Drop for Browser {
    fn drop(&mut self) {
        if !self.session.is_empty() {
            let _ = self.command("DELETE", &self.session, &json!({}));
        }
        // Its lock names the process, HOST-PID, for as long as it runs.
        if let Ok(lock) = std::fs::read_link(self.home.0.join("profile/SingletonLock"))
            && let Some((_, pid)) = lock.to_string_lossy().rsplit_once('-')
        {
            signal(pid.parse().expect("a process id"), "KILL");
        }
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}

/// What a variable names, or else the program on the PATH.
fn program(variable: &str, default: &str) -> String {
    let named = std::env::var(variable).ok().filter(|path| !path.is_empty());
    named.unwrap_or_else(|| {
        let paths = std::env::var_os("PATH").unwrap_or_default();
        let found = std::env::split_paths(&paths).map(|path| path.join(default)).find(|path| path.exists());
        let found = found.unwrap_or_else(|| panic!("install {default}, or name it in {variable}"));
        found.to_str().expect("UTF-8").to_owned()
    })
}

/// Starts chromedriver on a free port; returns that too.
fn start_driver(home: &str) -> (Child, u16) {
    // It takes a free port of IPv6, then gives up if that is in use on IPv4: one start in twenty on a busy machine.
    for _ in 0..10 {
        let mut driver = Command::new(program("ESPER_TEST_CHROMEDRIVER", "chromedriver"))
            .arg("--port=0")
            // Whatever they write, they write there.
            .envs(["HOME", "TMPDIR", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"].map(|name| (name, home)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("chromedriver starts: install it, or name it in ESPER_TEST_CHROMEDRIVER");
        if let Some(port) = port(driver.stdout.take().unwrap()) {
            return (driver, port);
        }
        let _ = driver.kill();
        let _ = driver.wait();
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
