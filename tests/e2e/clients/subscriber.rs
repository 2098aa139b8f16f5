//! A program that subscribes with a library, and what it says.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::{Value, json};

use super::installed::Program;
use crate::support::eventually;

/// A running program; killed when dropped.
pub(super) struct Subscriber {
    child: Child,
    said: Arc<Mutex<String>>,
}

impl Subscriber {
    /// Starts it with a library and what else it is given.
    pub(super) fn start(program: Program, library: &str, more: &[&str]) -> Subscriber {
        let mut command = program.command();
        command.arg(library).args(more);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("node and python3 are installed");
        let said = Arc::default();
        collect(child.stdout.take().unwrap(), &said);
        collect(child.stderr.take().unwrap(), &said);
        Subscriber { child, said }
    }

    /// All that it has said.
    pub(super) fn said(&self) -> String {
        self.said.lock().unwrap().clone()
    }

    /// Waits until it says that it saw this.
    #[track_caller]
    pub(super) fn wait_for(&self, saw: &str) {
        self.wait_until(saw, || self.saw(saw).next().is_some());
    }

    /// Returns name, data and id of the events that it saw, of which it waits for at least so many.
    #[track_caller]
    pub(super) fn events(&self, least: usize) -> Vec<Value> {
        self.wait_until(&format!("{least} events"), || self.saw("event").count() >= least);
        self.saw("event").map(|event| json!([event["event"], event["data"], event["id"]])).collect()
    }

    fn saw(&self, what: &str) -> impl Iterator<Item = Value> {
        let said = self.said();
        // Some libraries have something to say as well.
        let lines: Vec<Value> = said.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        lines.into_iter().filter(move |line| line["saw"] == what)
    }

    #[track_caller]
    fn wait_until(&self, what: &str, holds: impl Fn() -> bool) {
        eventually(&format!("it sees {what}"), || holds().then_some(()));
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            println!("{}", self.said());
        }
    }
}

/// Collects the lines of a pipe in the background.
fn collect(pipe: impl Read + Send + 'static, said: &Arc<Mutex<String>>) {
    let said = Arc::clone(said);
    thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            said.lock().unwrap().push_str(&format!("{line}\n"));
        }
    });
}
