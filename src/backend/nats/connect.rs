//! The connection to the NATS servers.

use std::path::Path;
use std::time::Duration;

use async_nats::connection::State;
use async_nats::{Client, ConnectErrorKind, ConnectOptions, Event, ServerAddr};
use tokio::sync::mpsc::UnboundedSender;

use super::{ClusterError, NodeConfig};

/// The oldest server that keeps its streams when it is killed (nats-server#6888).
const SERVER_MIN: (u64, u64, u64) = (2, 10, 23);
/// Time between two attempts of a start.
const RETRY: Duration = Duration::from_secs(1);
/// Attempts of a start between two lines in the log.
const ATTEMPTS_SAID: u32 = 5;
/// How often the library pings; the thread asks the stream's leader itself.
const PING: Duration = Duration::from_secs(5);
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
    let mut attempts = 0;
    loop {
        attempts += 1;
        let options = options(config, changed.clone())?;
        match options.connect(&addresses[..]).await {
            Ok(client) => return check(client, config.body_bytes_max),
            Err(error) => {
                let reason = error.to_string();
                match error.kind() {
                    ConnectErrorKind::AuthorizationViolation | ConnectErrorKind::Authentication => {
                        return Err(ClusterError::Login { nodes, reason });
                    }
                    ConnectErrorKind::Tls => return Err(ClusterError::Tls { nodes, reason }),
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
        .event_callback(move |event| {
            let is_change = matches!(event, Event::Connected | Event::Disconnected | Event::Closed);
            match &event {
                Event::ServerError(error) => tracing::warn!("the NATS server says: {error}"),
                Event::ClientError(error) => tracing::debug!("the NATS connection: {error}"),
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
    if let Some(file) = &config.nkey_file {
        options = options.nkey(read("cluster-nkey-file", file)?.trim().to_owned());
    }
    if let Some(file) = &config.credentials_file {
        let flag = "cluster-credentials-file";
        let text = read(flag, file)?;
        let wrong = |error: std::io::Error| ClusterError::File {
            flag,
            file: file.display().to_string(),
            reason: error.kind().to_string(),
        };
        options = options.credentials(&text).map_err(wrong)?;
    }
    if let Some(file) = &config.ca_file {
        // Read first: the library's reason would not name the flag.
        read("cluster-ca-file", file)?;
        options = options.add_root_certificates(file.clone());
    }
    if config.nodes.iter().any(|node| node.is_tls()) {
        // Servers that the first one tells of come without a name, which a certificate would have to have.
        options = options.require_tls(true).ignore_discovered_servers();
    }
    Ok(options)
}

fn read(flag: &'static str, file: &Path) -> Result<String, ClusterError> {
    std::fs::read_to_string(file).map_err(|error| ClusterError::File {
        flag,
        file: file.display().to_string(),
        reason: error.to_string(),
    })
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
