//! NATS servers of a test's own, by `scripts/nats`, and what it does to them.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use async_nats::jetstream::Context;
use async_nats::jetstream::stream::{Config, Info};
use tokio::runtime::Runtime;

use super::http::exchange;
use super::machine::{PATIENCE, TempDir};
use super::process::signal;
use super::relay::Relay;

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/nats");
/// The name of esper's stream, unless a test says otherwise.
const STREAM: &str = "esper";
/// As scripts/nats has them.
const ROUTES_ABOVE: u16 = 2000;
const MONITOR_ABOVE: u16 = 4000;

/// The path of nats-server, which is downloaded first if it is not there.
pub(crate) fn program() -> PathBuf {
    let output = Command::new(SCRIPT).arg("install").output().expect("scripts/nats, which needs python3");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).expect("a path").trim_end().into()
}

/// A port for `scripts/nats run`: all that it takes are free.
pub(crate) fn free_ports() -> u16 {
    // Below what the kernel gives to connections, and what `free_port` takes.
    let is_free = |port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok();
    let all =
        |port: u16| (0..3).flat_map(move |n| [port + n, port + ROUTES_ABOVE + n, port + MONITOR_ABOVE + n]);
    loop {
        let port = fastrand::u16(10_000..15_900);
        if all(port).all(is_free) {
            return port;
        }
    }
}

/// One NATS server or three; ended when dropped.
pub(crate) struct Nats {
    script: Option<Child>,
    dir: TempDir,
    port: u16,
    nodes: usize,
    /// The first word of the subjects that esper's user may use.
    name: &'static str,
    /// The links from each server to each other one, if they are this test's.
    routes: Vec<(usize, usize, Relay)>,
    runtime: Runtime,
}

impl Nats {
    /// Starts one server or three, and waits until they are ready.
    pub(crate) fn start(nodes: usize) -> Nats {
        Nats::start_with(nodes, false, STREAM)
    }

    /// Starts one for nodes with this `--cluster-name`.
    pub(crate) fn with_name(name: &'static str) -> Nats {
        Nats::start_with(1, false, name)
    }

    /// Starts three that reach each other by links, for [`Nats::part`].
    pub(crate) fn with_links() -> Nats {
        Nats::start_with(3, true, STREAM)
    }

    fn start_with(nodes: usize, has_links: bool, name: &'static str) -> Nats {
        // Another test's may take a port between the look and the start.
        (0..4)
            .find_map(|_| Nats::try_start(nodes, has_links, name))
            .expect("NATS starts; see the lines above")
    }

    fn try_start(nodes: usize, has_links: bool, name: &'static str) -> Option<Nats> {
        let port = free_ports();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let mut nats =
            Nats { script: None, dir: TempDir::new(), port, nodes, name, routes: Vec::new(), runtime };
        if has_links {
            let pairs = (0..nodes).flat_map(|from| (0..nodes).map(move |to| (from, to)));
            let link = |(from, to)| (from, to, Relay::to(loopback(port + ROUTES_ABOVE + to as u16)));
            nats.routes = pairs.filter(|(from, to)| from != to).map(link).collect();
        }
        nats.run().then_some(nats)
    }

    /// Runs the script; false when it ends by itself.
    fn run(&mut self) -> bool {
        let errors = File::create(self.dir.0.join("stderr")).expect("a file");
        let mut command = Command::new(SCRIPT);
        command.args([
            "run",
            "--until-eof",
            "--nodes",
            &self.nodes.to_string(),
            "--port",
            &self.port.to_string(),
            "--name",
            self.name,
        ]);
        command.arg("--dir").arg(self.servers());
        for (from, to, relay) in &self.routes {
            let port = relay.address.port();
            command.args(["--relay", &format!("{}:{}={port}", from + 1, to + 1)]);
        }
        let mut script = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(errors)
            .spawn()
            .expect("scripts/nats, which needs python3");
        let stdout = script.stdout.take().expect("a pipe");
        let mut urls = String::new();
        let _ = BufReader::new(stdout).read_line(&mut urls);
        self.script = Some(script);
        if urls.is_empty() {
            eprintln!("{}", fs::read_to_string(self.dir.0.join("stderr")).unwrap_or_default());
        }
        !urls.is_empty()
    }

    /// Where the servers' data is.
    fn servers(&self) -> PathBuf {
        self.dir.0.join("nats")
    }

    pub(crate) fn nodes(&self) -> usize {
        self.nodes
    }

    /// Where a server takes clients.
    pub(crate) fn address(&self, node: usize) -> SocketAddr {
        loopback(self.port + node as u16)
    }

    /// Kills a server as a crash would.
    pub(crate) fn kill(&self, node: usize) {
        signal(self.pid(node), "KILL");
    }

    /// Starts a server that was killed.
    pub(crate) fn start_again(&self, node: usize) {
        let mut command = Command::new(SCRIPT);
        command.arg("start").arg(self.servers()).arg((node + 1).to_string());
        let output = command.stdin(Stdio::null()).output().expect("scripts/nats");
        assert!(output.status.success(), "{output:?}");
    }

    /// Has a server do nothing.
    pub(crate) fn stop_process(&self, node: usize) {
        signal(self.pid(node), "STOP");
    }

    /// Has it go on.
    pub(crate) fn continue_process(&self, node: usize) {
        signal(self.pid(node), "CONT");
    }

    fn pid(&self, node: usize) -> u32 {
        let file = self.servers().join(format!("nats-{}/pid", node + 1));
        fs::read_to_string(file).ok().and_then(|pid| pid.trim().parse().ok()).expect("it runs")
    }

    /// Holds the links between these servers and the others, so that nothing passes and nothing is closed.
    pub(crate) fn part(&self, some: &[usize]) {
        let parted = self.routes.iter().filter(|(from, to, _)| some.contains(from) != some.contains(to));
        parted.for_each(|(.., relay)| relay.hold());
    }

    /// Lets everything pass between all servers.
    pub(crate) fn mend(&self) {
        self.routes.iter().for_each(|(.., relay)| relay.mend());
    }

    /// Waits until all servers have their streams and know the leader.
    pub(crate) fn wait_ready(&self) {
        let start = Instant::now();
        for node in 0..self.nodes {
            let address = loopback(self.port + MONITOR_ABOVE + node as u16);
            let is_ready = || {
                std::net::TcpStream::connect(address).is_ok()
                    && exchange(address, "GET", "/healthz", &[], "").starts_with("HTTP/1.1 200")
            };
            while !is_ready() {
                assert!(start.elapsed() < 2 * PATIENCE, "nats-{} is not ready: {}", node + 1, self.log(node));
                std::thread::sleep(Duration::from_millis(50));
            }
        }
    }

    /// The last lines of a server's log.
    pub(crate) fn log(&self, node: usize) -> String {
        let file = self.servers().join(format!("nats-{}/log", node + 1));
        let log = fs::read_to_string(file).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    /// Ends all servers in order.
    pub(crate) fn stop(&mut self) {
        if let Some(mut script) = self.script.take() {
            drop(script.stdin.take());
            let _ = script.wait();
        }
    }

    /// Starts all servers again that were ended, on the data that is there.
    pub(crate) fn start_all_again(&mut self) {
        let _ = fs::remove_file(self.servers().join("lock"));
        assert!(self.run(), "NATS starts again");
    }

    /// Keeps a copy of all data; the servers must have ended.
    pub(crate) fn keep_copy(&self) {
        copy_tree(&self.servers(), &self.dir.0.join("copy"));
    }

    /// Puts the copy in the place of the data; the servers must have ended.
    pub(crate) fn put_copy_back(&self) {
        fs::remove_dir_all(self.servers()).expect("ours");
        copy_tree(&self.dir.0.join("copy"), &self.servers());
    }

    /// What the leader of the stream says of it.
    pub(crate) fn info(&self) -> Info {
        self.ask(|context| async move {
            let mut stream = context.get_stream(STREAM).await.map_err(|error| error.to_string())?;
            stream.info().await.cloned().map_err(|error| error.to_string())
        })
    }

    /// The server that leads the stream.
    pub(crate) fn leader(&self) -> usize {
        let start = Instant::now();
        loop {
            let leader = self.info().cluster.and_then(|cluster| cluster.leader);
            if let Some(number) = leader.as_deref().and_then(|name| name.strip_prefix("nats-")) {
                return number.parse::<usize>().expect("a number") - 1;
            }
            assert!(start.elapsed() < PATIENCE, "no leader");
        }
    }

    /// Changes what the stream is configured with.
    pub(crate) fn configure(&self, change: impl Fn(&mut Config)) {
        let mut config = self.info().config;
        change(&mut config);
        self.ask(|context| {
            let config = config.clone();
            async move { context.update_stream(config).await.map_err(|error| error.to_string()) }
        });
    }

    /// Sends the stream's newest message once more, as `change` makes it.
    pub(crate) fn send_again(&self, change: impl Fn(Vec<u8>) -> Vec<u8>) {
        let newest = self.info().state.last_sequence;
        self.ask(|context| {
            let change = &change;
            async move {
                let stream = context.get_stream(STREAM).await.map_err(|error| error.to_string())?;
                let message = stream.get_raw_message(newest).await.map_err(|error| error.to_string())?;
                let payload = change(message.payload.to_vec());
                let sent = context.publish(message.subject, payload.into()).await;
                let sent = sent.map_err(|error| error.to_string())?;
                sent.await.map_err(|error| error.to_string())
            }
        });
    }

    /// Puts another stream in the place of the stream, before any node can make it again.
    pub(crate) fn replace_stream(&self, change: impl Fn(&mut Config)) {
        let mut config = self.info().config;
        change(&mut config);
        self.ask(|context| {
            let config = config.clone();
            async move {
                // It may be gone already, when the first attempt did only this.
                let _ = context.delete_stream(STREAM).await;
                context.create_stream(config).await.map(drop).map_err(|error| error.to_string())
            }
        });
    }

    /// Deletes the stream.
    pub(crate) fn delete_stream(&self) {
        self.ask(
            |context| async move { context.delete_stream(STREAM).await.map_err(|error| error.to_string()) },
        );
    }

    /// Asks again until there is an answer, at any of the servers.
    fn ask<T, A: Future<Output = Result<T, String>>>(&self, question: impl Fn(Context) -> A) -> T {
        let start = Instant::now();
        loop {
            let answer = self.runtime.block_on(async {
                let addresses: Vec<_> =
                    (0..self.nodes).map(|node| format!("nats://{}", self.address(node))).collect();
                let options =
                    async_nats::ConnectOptions::with_user_and_password("esper".into(), "esper".into());
                let options = options.connection_timeout(Duration::from_secs(2));
                let client = options.connect(addresses).await.map_err(|error| error.to_string())?;
                question(async_nats::jetstream::new(client)).await
            });
            match answer {
                Ok(answer) => return answer,
                Err(error) => assert!(start.elapsed() < PATIENCE, "{error}"),
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }
}

impl Drop for Nats {
    fn drop(&mut self) {
        if self.script.is_some() {
            for node in 0..self.nodes {
                let file = self.servers().join(format!("nats-{}/pid", node + 1));
                if let Ok(pid) = fs::read_to_string(file) {
                    let _ = Command::new("kill").args(["-CONT", pid.trim()]).stderr(Stdio::null()).status();
                }
            }
        }
        self.stop();
    }
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

fn copy_tree(from: &std::path::Path, to: &std::path::Path) {
    fs::create_dir_all(to).expect("a directory");
    for entry in fs::read_dir(from).expect("a directory") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        match entry.file_type().expect("a type").is_dir() {
            true => copy_tree(&entry.path(), &target),
            false => drop(fs::copy(entry.path(), target).expect("room for a copy")),
        }
    }
}
