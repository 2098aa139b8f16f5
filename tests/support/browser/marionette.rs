//! Firefox, which listens for commands itself: Marionette, WebDriver's commands as `LENGTH:JSON` over TCP.

use std::fs;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::driver::{Driver, Group, home_variables, program};
use crate::support::{PATIENCE, eventually};

/// A Firefox and the connection to it.
pub(super) struct Marionette {
    connection: TcpStream,
    _firefox: Group,
}

/// Starts Firefox.
pub(super) fn firefox(home: &str) -> Marionette {
    let profile = format!("{home}/profile");
    fs::create_dir(&profile).unwrap();
    // 0 for a free port, which it writes into a file; and 0 for no proxy, whatever the machine has.
    let preferences = "user_pref(\"marionette.port\", 0);\nuser_pref(\"network.proxy.type\", 0);\n";
    fs::write(format!("{profile}/user.js"), preferences).unwrap();
    let firefox = Group::spawn(
        Command::new(program("ESPER_TEST_FIREFOX", "firefox-esr"))
            .args(["--headless", "--marionette", "--no-remote", "--profile", &profile])
            .envs(home_variables(home))
            .env("MOZ_CRASHREPORTER_DISABLE", "1")
            .stdout(Stdio::null())
            .stderr(Stdio::null()),
    )
    .expect("Firefox starts");
    let port: u16 = eventually("Firefox listens", || {
        fs::read_to_string(format!("{profile}/MarionetteActivePort")).ok()?.trim().parse().ok()
    });
    let connection = TcpStream::connect(("127.0.0.1", port)).expect("Firefox listens");
    // A command takes up to the script's own time limit.
    connection.set_read_timeout(Some(2 * PATIENCE)).unwrap();
    let marionette = Marionette { connection, _firefox: firefox };
    marionette.read().expect("a greeting");
    let wanted = json!({ "timeouts": { "script": PATIENCE.as_millis() as u64 } });
    marionette.send("WebDriver:NewSession", &wanted).unwrap_or_else(|error| panic!("no browser: {error}"));
    marionette
}

impl Marionette {
    /// One command and what it returns, or the error as Firefox words it.
    fn send(&self, name: &str, parameters: &Value) -> Result<Value, String> {
        // A message's kind (0 for a command), and its number, which the answer has too: there is one at a time.
        let command = json!([0, 1, name, parameters]).to_string();
        let answer = write!(&self.connection, "{}:{command}", command.len()).and_then(|()| self.read());
        let mut answer = answer.map_err(|error| error.to_string())?;
        // Behind the same two: what is wrong, or else what came of it.
        match answer[2]["message"].as_str() {
            Some(error) => Err(error.to_owned()),
            None => Ok(answer[3].take()),
        }
    }

    fn read(&self) -> io::Result<Value> {
        let mut length = 0;
        loop {
            let mut byte = [0];
            (&self.connection).read_exact(&mut byte)?;
            match byte[0] {
                b':' => break,
                digit => length = 10 * length + usize::from(digit - b'0'),
            }
        }
        let mut json = vec![0; length];
        (&self.connection).read_exact(&mut json)?;
        Ok(serde_json::from_slice(&json)?)
    }
}

impl Driver for Marionette {
    fn command(&self, name: &str, body: &Value) -> Result<Value, String> {
        match name {
            "url" => self.send("WebDriver:Navigate", body),
            "execute/sync" => {
                // It runs scripts beside the page, where the page's own `let` and `const` are unknown. The page's
                // eval knows them.
                let inner = format!("(async () => {{ {} }})()", body["script"].as_str().expect("a script"));
                let script = json!({ "script": "return window.eval(arguments[0])", "args": [inner] });
                Ok(self.send("WebDriver:ExecuteScript", &script)?["value"].take())
            }
            other => Err(format!("Firefox is not told to do {other}")),
        }
    }
}
