//! The NATS servers of a case, which `scripts/nats` starts, and their one stream.

use async_nats::jetstream::stream::{Config, StorageType};
use async_nats::jetstream::{Context, context::ContextBuilder};
use async_nats::{Client, ConnectOptions, ServerAddr};
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tokio::runtime::Builder;

/// The stream of esper's nodes, and of the bare client.
pub(crate) const STREAM: &str = "esper";
/// As esper's.
const DUPLICATE_WINDOW: Duration = Duration::from_secs(120);
/// With a sync for each message, one of some thousand on their way waits for seconds.
const ACK_TIME: Duration = Duration::from_secs(60);
/// Another program may take a port between the look and the start.
const STARTS_MAX: usize = 3;
/// `scripts/nats` takes ports up to so far above the one it is given.
const PORTS_ABOVE: u16 = 4_000;

/// Runs one or three NATS servers until it is dropped. `scripts/nats` ends them as well when this process is killed and its
/// standard input closes.
#[derive(Debug)]
pub(crate) struct Nats {
    /// With the password, for `ESPER_CLUSTER`.
    pub(crate) urls: String,
    script: Child,
}

impl Nats {
    pub(crate) fn start(script: &Path, servers: usize) -> Result<Nats, String> {
        if !script.is_file() {
            return Err(format!("--nats {} is not there; say where it is", script.display()));
        }
        for _ in 0..STARTS_MAX {
            let nats = Nats::try_start(script, servers)?;
            if !nats.urls.is_empty() {
                return Ok(nats);
            }
        }
        Err("no NATS could be started; the reason stands above".to_owned())
    }

    fn try_start(script: &Path, servers: usize) -> Result<Nats, String> {
        let free = |port: &u16| {
            let mut ports = (0..servers as u16)
                .flat_map(|server| [0, PORTS_ABOVE / 2, PORTS_ABOVE].map(|at| port + server + at));
            ports.all(|port| TcpListener::bind(("127.0.0.1", port)).is_ok())
        };
        let port = std::iter::repeat_with(|| fastrand::u16(10_000..28_000)).take(1_000).find(free);
        let port = port.ok_or("no free port for NATS")?;
        let mut command = Command::new(script);
        command.args(["run", "--until-eof", "--nodes", &servers.to_string(), "--port", &port.to_string()]);
        // They end in order when its standard input does, which it does with this process: an interrupt is not for it.
        command.process_group(0).stdin(Stdio::piped()).stdout(Stdio::piped());
        let spawned = command.spawn();
        let mut script =
            spawned.map_err(|error| format!("{} could not be started ({error})", script.display()))?;
        let mut urls = String::new();
        if let Some(stdout) = script.stdout.take() {
            // When it cannot start it says so on standard error, and ends.
            let _ = BufReader::new(stdout).read_line(&mut urls);
        }
        Ok(Nats { urls: urls.trim().to_owned(), script })
    }

    /// Deletes the stream, if it is there.
    pub(crate) fn clear(&self) -> Result<(), String> {
        self.asked(async |jetstream| {
            // It is an error when there is none.
            let _ = jetstream.delete_stream(STREAM).await;
            Ok(())
        })
    }

    /// Counts the messages that the stream was given.
    pub(crate) fn messages(&self) -> Result<u64, String> {
        self.asked(async |jetstream| {
            let stream = jetstream.get_stream(STREAM).await;
            stream
                .map(|stream| stream.cached_info().state.last_sequence)
                .map_err(|error| format!("no stream: {error}"))
        })
    }

    fn asked<T>(&self, ask: impl AsyncFnOnce(Context) -> Result<T, String>) -> Result<T, String> {
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| format!("no runtime: {error}"))?;
        runtime.block_on(async { ask(jetstream(connect(&self.urls).await?)).await })
    }
}

impl Drop for Nats {
    fn drop(&mut self) {
        // Closes its standard input first.
        let _ = self.script.wait();
    }
}

/// Connects to one of the servers.
pub(crate) async fn connect(urls: &str) -> Result<Client, String> {
    let addresses: Vec<ServerAddr> = urls.split(',').filter_map(|url| url.parse().ok()).collect();
    // The library reads no user in a URL.
    let login =
        addresses.iter().find_map(|url| Some((url.username()?.to_owned(), url.password()?.to_owned())));
    let (user, password) = login.ok_or("no user in the URL of NATS")?;
    let options = ConnectOptions::with_user_and_password(user, password);
    options.connect(&addresses[..]).await.map_err(|error| format!("no connection to NATS: {error}"))
}

pub(crate) fn jetstream(client: Client) -> Context {
    ContextBuilder::new().ack_timeout(ACK_TIME).build(client)
}

/// Returns the stream as esper makes it.
pub(crate) fn stream(replicas: usize) -> Config {
    Config {
        name: STREAM.to_owned(),
        subjects: vec![format!("{STREAM}.*")],
        storage: StorageType::File,
        num_replicas: replicas,
        duplicate_window: DUPLICATE_WINDOW,
        ..Config::default()
    }
}
