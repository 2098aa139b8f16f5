//! The connection to the NATS servers.

use std::collections::HashSet;
use std::error::Error as _;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_nats::connection::State;
use async_nats::{
    Client, ConnectError, ConnectErrorKind, ConnectOptions, Event, ReconnectToServer, Server, ServerAddr,
};
use nkeys::KeyPair;
use tokio::sync::mpsc::UnboundedSender;

use super::ClusterError;
use crate::backend::NodeConfig;

/// The oldest server that keeps its streams when it is killed (nats-server#6888).
const SERVER_MIN: (u64, u64, u64) = (2, 10, 23);
/// Time between two attempts of a start.
const RETRY: Duration = Duration::from_secs(1);
/// Attempts of a start between two lines in the log.
const ATTEMPTS_SAID: u32 = 5;
/// How often the library pings; the thread asks the stream's leader itself.
const PING: Duration = Duration::from_secs(5);
/// Reasons that are logged until there was a connection for a while.
const REASONS_MAX: usize = 8;
/// A connection that lasted for so long was well: one to a server that is about to end is lost again at once.
const WELL_AFTER: Duration = Duration::from_secs(10);
/// A file to log in with is never larger.
const FILE_BYTES_MAX: u64 = 256 << 10;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);
/// The longest time between two attempts of a running node.
const RECONNECT_MAX: Duration = Duration::from_millis(500);
/// Bytes of a message beside its events: heads, and what wrapping and ids add.
const MESSAGE_BYTES: usize = 16 << 10;

/// Connects, and waits until a server answers. `changed` is told whenever the connection is lost or is there again.
///
/// # Errors
/// A server answered and refused this node, or is none that this node can work with.
pub(super) async fn connect(
    config: &NodeConfig,
    changed: UnboundedSender<()>,
) -> Result<Client, ClusterError> {
    let nodes = config.shown();
    let addresses: Vec<ServerAddr> =
        config.nodes.iter().filter_map(|node| node.address().parse().ok()).collect();
    let options = options(config, changed)?;
    let mut attempts = 0;
    loop {
        attempts += 1;
        match options.clone().connect(&addresses[..]).await {
            Ok(client) => return check(client, config.body_bytes_max),
            Err(error) => {
                let reason = error.to_string();
                match error.kind() {
                    ConnectErrorKind::AuthorizationViolation | ConnectErrorKind::Authentication => {
                        return Err(ClusterError::Login { nodes, reason });
                    }
                    _ if is_of_tls(&error) => return Err(ClusterError::Tls { nodes, reason }),
                    _ if attempts % ATTEMPTS_SAID == 1 => {
                        tracing::warn!("cannot reach a NATS server at {nodes}: {reason}; trying again");
                    }
                    _ => {}
                }
            }
        }
        tokio::time::sleep(RETRY).await;
    }
}

fn options(config: &NodeConfig, changed: UnboundedSender<()>) -> Result<ConnectOptions, ClusterError> {
    // The library takes the process's default, and rustls panics without one where two are built in; any server may ask
    // for TLS. An error is that there is one already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let (said, last_server) = (Mutex::new(Reasons::default()), Mutex::new(None));
    let name = config.name.clone();
    let mut options = ConnectOptions::new()
        .name("esper")
        .ping_interval(PING)
        .connection_timeout(CONNECT_TIMEOUT)
        .request_timeout(Some(REQUEST_TIMEOUT))
        .reconnect_delay_callback(|attempts| {
            RECONNECT_MAX
                .min(Duration::from_millis(50 * attempts as u64))
                .mul_f64(0.5 + fastrand::f64() / 2.0)
        })
        .reconnect_to_server_callback(move |servers, _| {
            let mut last = last_server.lock().unwrap_or_else(PoisonError::into_inner);
            std::future::ready(another(&servers, &mut last))
        })
        .event_callback(move |event| {
            let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
            let is_change = matches!(event, Event::Connected | Event::Disconnected | Event::Closed);
            match &event {
                Event::ServerError(error) => {
                    let reason = error.to_string();
                    if said.is_new(&reason) {
                        tracing::warn!("the NATS server says: {reason}{}", remedy_of(&reason, &name));
                    }
                }
                Event::ClientError(error) => {
                    let reason = error.to_string();
                    if said.is_new(&reason) {
                        tracing::warn!("the NATS connection: {reason}{}", remedy_of(&reason, &name));
                    }
                }
                Event::Connected => said.connected(Instant::now()),
                Event::Disconnected | Event::Closed => said.lost(Instant::now()),
                _ => {}
            }
            if is_change {
                // Received, or the thread has ended.
                let _ = changed.send(());
            }
            std::future::ready(())
        });
    if let Some((user, password)) = config.login() {
        options = options.user_and_password(user, password);
    } else if let Some(token) = config.token() {
        options = options.token(token);
    }
    // The library's own reasons would not name the flags, and of a wrong seed it says nothing at all.
    if let Some(path) = &config.nkey_file {
        let file = FlagFile { flag: "cluster-nkey-file", path };
        let seed = file.read_secret()?.trim().to_owned();
        KeyPair::from_seed(&seed).map_err(|_| {
            file.refused("not the seed of an NKey; write the line there that begins with SU".to_owned())
        })?;
        options = options.nkey(seed);
    }
    if let Some(path) = &config.credentials_file {
        let file = FlagFile { flag: "cluster-credentials-file", path };
        options = options.credentials(&file.read_secret()?).map_err(|_| {
            file.refused(
                "not the JWT and the seed of a user; name a .creds file, as nsc writes it".to_owned(),
            )
        })?;
    }
    if let Some(path) = &config.ca_file {
        let file = FlagFile { flag: "cluster-ca-file", path };
        if !file.read()?.contains("-----BEGIN CERTIFICATE-----") {
            return Err(file.refused("no certificate is in it; name a file with one, as PEM".to_owned()));
        }
        options = options.add_root_certificates(path.clone());
    }
    if config.nodes.iter().any(|node| node.is_tls()) {
        // Servers that the first one tells of come without a name, which a certificate would have to have.
        options = options.require_tls(true).ignore_discovered_servers();
    }
    Ok(options)
}

/// The reasons that the log was told: what is tried again and again fails for the same ones.
#[derive(Debug, Default)]
struct Reasons {
    said: HashSet<String>,
    connected: Option<Instant>,
}

impl Reasons {
    /// Returns whether the log is to be told a reason.
    fn is_new(&mut self, reason: &str) -> bool {
        self.said.len() < REASONS_MAX && self.said.insert(reason.to_owned())
    }

    fn connected(&mut self, now: Instant) {
        self.connected = Some(now);
    }

    /// Forgets them if all was well before the connection was lost.
    fn lost(&mut self, now: Instant) {
        if self.connected.take().is_some_and(|since| now.duration_since(since) >= WELL_AFTER) {
            self.said.clear();
        }
    }
}

/// Returns what to do about an error of a connection, or of its server, as the end of its line; nothing if that cannot be
/// known.
fn remedy_of(reason: &str, name: &str) -> String {
    let reason = reason.to_ascii_lowercase();
    let has = |words: &[&str]| words.iter().any(|word| reason.contains(word));
    if has(&["permissions violation"]) {
        return format!(
            "; let its user publish and subscribe to {name}.> (--cluster-name {name}), as deploy/nats.conf has it for \
             esper.>"
        );
    }
    if has(&["authorization", "authentication", "nonce", "credentials"]) {
        return "; see the user, password or token, --cluster-nkey-file and --cluster-credentials-file"
            .to_owned();
    }
    if has(&["tls", "certificate"]) {
        return "; see --cluster-ca-file".to_owned();
    }
    String::new()
}

/// Returns a server to connect to again: any but the one that was chosen last. By itself the library prefers those that it
/// never failed to reach, so a node would come back for ever to a server that is parted from the others.
fn another(servers: &[Server], last: &mut Option<ServerAddr>) -> Option<ReconnectToServer> {
    // At a start the library tries all of them.
    if !servers.iter().any(|server| server.did_connect) {
        return None;
    }
    let others: Vec<&Server> = servers.iter().filter(|server| Some(&server.addr) != last.as_ref()).collect();
    let chosen = fastrand::choice(others).or(servers.first())?;
    *last = Some(chosen.addr.clone());
    Some(ReconnectToServer { addr: chosen.addr.clone(), delay: None })
}

/// Returns whether TLS could not be set up: a certificate that is not to be trusted counts as an error of the socket.
fn is_of_tls(error: &ConnectError) -> bool {
    let socket_error = error.source().and_then(|error| error.downcast_ref::<io::Error>());
    let is_rustls = |error: &io::Error| error.get_ref().is_some_and(|error| error.is::<rustls::Error>());
    error.kind() == ConnectErrorKind::Tls || socket_error.is_some_and(is_rustls)
}

/// A file that a flag names.
struct FlagFile<'a> {
    flag: &'static str,
    path: &'a Path,
}

impl FlagFile<'_> {
    fn read(&self) -> Result<String, ClusterError> {
        let metadata = self.metadata()?;
        // Opening a pipe would block.
        if !metadata.is_file() || metadata.len() > FILE_BYTES_MAX {
            let reason = format!("not a regular file of at most {FILE_BYTES_MAX} bytes; name one");
            return Err(self.refused(reason));
        }
        fs::read_to_string(self.path).map_err(|error| self.unreadable(&error))
    }

    /// Reads a file that is nobody else's to read, and warns if others may.
    fn read_secret(&self) -> Result<String, ClusterError> {
        if self.metadata()?.permissions().mode() & 0o004 != 0 {
            tracing::warn!(
                "--{} {}: everybody on this machine may read it; chmod o-r",
                self.flag,
                self.path.display()
            );
        }
        self.read()
    }

    fn metadata(&self) -> Result<fs::Metadata, ClusterError> {
        fs::metadata(self.path).map_err(|error| self.unreadable(&error))
    }

    fn unreadable(&self, error: &io::Error) -> ClusterError {
        self.refused(format!("{error}; name a file that this process may read"))
    }

    fn refused(&self, reason: String) -> ClusterError {
        ClusterError::File { flag: self.flag, file: self.path.display().to_string(), reason }
    }
}

/// Returns the client if its server is one that this node can work with.
fn check(client: Client, body_max: usize) -> Result<Client, ClusterError> {
    let info = client.server_info();
    let mut numbers = info.version.split(['.', '-']).map(|part| part.parse::<u64>().unwrap_or(0));
    let mut next = || numbers.next().unwrap_or(0);
    let version = (next(), next(), next());
    if version < SERVER_MIN {
        return Err(ClusterError::OldServer { version: info.version });
    }
    let (max_payload, needed) = (info.max_payload, body_max + MESSAGE_BYTES);
    if needed > max_payload {
        return Err(ClusterError::Payload { body_max, max_payload, needed });
    }
    Ok(client)
}

/// Returns whether there is a connection.
pub(super) fn is_connected(client: &Client) -> bool {
    client.connection_state() == State::Connected
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn server(port: u16, failed_attempts: usize) -> Server {
        let addr = format!("nats://127.0.0.1:{port}").parse().unwrap();
        Server { addr, failed_attempts, did_connect: port == 1, is_discovered: false, last_error: None }
    }

    #[test]
    fn a_reason_is_said_once_until_the_connection_was_well_and_a_remedy_only_where_it_helps() {
        let (mut reasons, now) = (Reasons::default(), Instant::now());
        assert!(reasons.is_new("a") && !reasons.is_new("a") && reasons.is_new("b"));
        reasons.connected(now);
        reasons.lost(now + WELL_AFTER - Duration::from_millis(1));
        assert!(!reasons.is_new("a"));
        reasons.connected(now);
        reasons.lost(now + WELL_AFTER);
        assert!(reasons.is_new("a"));
        let many = (0..100).filter(|n| reasons.is_new(&n.to_string())).count();
        assert_eq!(many, REASONS_MAX - 1);

        let remedy = |reason| remedy_of(reason, "other");
        assert_eq!(remedy("nats: IO error: Connection refused (os error 111)"), "");
        assert!(remedy("nats: authorization violation").contains("user, password or token"));
        let permission = remedy("nats: Permissions Violation for Publish to \"other.3\"");
        assert!(permission.contains("other.>") && !permission.contains("password"), "{permission}");
    }

    #[test]
    fn a_server_is_never_chosen_twice_in_a_row_and_each_is_tried_however_often_it_failed() {
        let servers = [server(1, 0), server(2, 5), server(3, 9)];
        let (mut last, mut times) = (None, HashMap::new());
        for _ in 0..300 {
            let before = last.clone();
            let chosen = another(&servers, &mut last).unwrap().addr;
            assert_ne!(Some(&chosen), before.as_ref());
            *times.entry(chosen.port()).or_insert(0) += 1;
        }
        assert!((1..=3).all(|port| times.get(&port).is_some_and(|times| *times > 50)), "{times:?}");
        let one = &servers[..1];
        assert_eq!([(); 2].map(|()| another(one, &mut last).unwrap().addr.port()), [1, 1]);
        assert!(another(&servers[1..], &mut None).is_none(), "none was reached yet");
    }
}
