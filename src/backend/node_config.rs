//! The part of a server's configuration that a node of a cluster needs.

use std::path::PathBuf;
use std::time::Duration;

use super::NatsUrl;

/// A node's settings.
#[derive(Clone, Debug)]
pub(crate) struct NodeConfig {
    /// NATS servers, at least one.
    pub(crate) nodes: Vec<NatsUrl>,
    /// The stream's name.
    pub(crate) name: String,
    /// NATS servers that keep each event, if this node makes the stream.
    pub(crate) replicas: u8,
    pub(crate) nkey_file: Option<PathBuf>,
    pub(crate) credentials_file: Option<PathBuf>,
    pub(crate) ca_file: Option<PathBuf>,
    pub(crate) partitions: u8,
    pub(crate) namespaces: bool,
    /// The longest body of a publish, in bytes.
    pub(crate) body_bytes_max: usize,
    /// Bytes that histories hold; `max_bytes` of the stream, if this node creates it.
    pub(crate) memory_bytes_max: usize,
    /// The greatest age of an event in the history; `max_age` of the stream, if this node creates it.
    pub(crate) age_max: Duration,
}

impl NodeConfig {
    /// Returns the servers' addresses, without credentials.
    pub(super) fn shown(&self) -> String {
        self.nodes.iter().map(NatsUrl::to_string).collect::<Vec<_>>().join(",")
    }

    /// Returns the user and the password to log in with, if a server's URL has them: the same for all.
    pub(super) fn login(&self) -> Option<(String, String)> {
        self.nodes.iter().find_map(|node| Some((node.user.clone()?, node.password.clone()?)))
    }

    /// Returns the token to log in with, if a server's URL has one.
    pub(super) fn token(&self) -> Option<String> {
        self.nodes.iter().find_map(|node| node.user.clone().filter(|_| node.password.is_none()))
    }
}
