//! Settings of a cluster: its NATS servers, and how to log in.

use std::path::PathBuf;

use clap::Args;

use super::layer::Layer;
use crate::backend::NatsUrl;

/// A cluster of nodes, which all publish to and read one stream of NATS JetStream.
#[derive(Args, Clone, Debug, Eq, PartialEq)]
#[command(next_help_heading = "Cluster (NATS JetStream)")]
pub struct Cluster {
    /// The NATS servers; never empty.
    #[arg(skip)]
    pub nodes: Vec<NatsUrl>,
    /// Name of the stream, the same on all nodes; its subjects begin with it, so the permissions of the NATS user must
    /// name NAME.>
    #[arg(id = "cluster-name", long, value_name = "NAME", value_parser = name, default_value = "esper")]
    pub name: String,
    /// NATS servers that keep each event: 1, 3 or 5. It counts when the stream is made.
    #[arg(
        id = "cluster-replicas",
        long,
        value_name = "N",
        value_parser = replicas,
        default_value = "3"
    )]
    pub replicas: u8,
    /// File with the seed of this node's NKey, to log in with.
    #[arg(id = "cluster-nkey-file", long, value_name = "FILE")]
    pub nkey_file: Option<PathBuf>,
    /// File with the JWT and the seed of this node's user, to log in with, as nsc writes it.
    #[arg(id = "cluster-credentials-file", long, value_name = "FILE")]
    pub credentials_file: Option<PathBuf>,
    /// File with the certificate of the authority that signed the NATS servers', as PEM [default: the system's
    /// authorities].
    #[arg(id = "cluster-ca-file", long, value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
}

/// The flags of [`Cluster`], which there is none of without a server.
#[derive(Args, Debug)]
#[command(next_help_heading = "Cluster (NATS JetStream)")]
pub(super) struct ClusterFlags {
    /// NATS servers of the cluster, nats://host:4222 or tls://...; repeat it, or separate by commas. With a user and
    /// password, or a token, before the host: then better in its variable or a file, since everybody on this machine
    /// can see a command line (ps) [default: none: this node is alone]
    #[arg(id = "cluster", long, value_name = "URL", value_delimiter = ',', value_parser = nats_url)]
    nodes: Vec<NatsUrl>,
    #[command(flatten)]
    cluster: Cluster,
}

impl ClusterFlags {
    pub(super) fn cluster(self) -> Option<Cluster> {
        let nodes = self.nodes;
        (!nodes.is_empty()).then_some(Cluster { nodes, ..self.cluster })
    }
}

impl Cluster {
    /// Checks what a program can build that no flag could say.
    pub(super) fn check(&self, names: &Layer) -> Result<(), String> {
        let flag = |name| names.of(name);
        if self.nodes.is_empty() {
            return Err(format!("{}: no server; name one, such as nats://127.0.0.1:4222", flag("cluster")));
        }
        // The library logs in at all servers with one of them.
        let mut with_credentials = self.nodes.iter().filter(|node| node.has_credentials());
        if let Some(first) = with_credentials.next()
            && let Some(other) = with_credentials.find(|node| !node.logs_in_as(first))
        {
            return Err(format!(
                "{}: {first} and {other} have different credentials, and a node logs in with one user at all servers; \
                 write the same before each host, or before one alone",
                flag("cluster")
            ));
        }
        let logins = [
            self.nodes.iter().any(NatsUrl::has_credentials).then(|| flag("cluster")),
            self.nkey_file.is_some().then(|| flag("cluster-nkey-file")),
            self.credentials_file.is_some().then(|| flag("cluster-credentials-file")),
        ];
        let logins: Vec<String> = logins.into_iter().flatten().collect();
        match &logins[..] {
            [one, other, ..] => Err(format!("{one} and {other} both say how to log in; give one of them")),
            _ => Ok(()),
        }
    }
}

fn nats_url(text: &str) -> Result<NatsUrl, &'static str> {
    if text.contains("://***@") {
        return Err("its credentials are masked; write the NATS user and password in the place of ***");
    }
    text.parse()
}

fn replicas(text: &str) -> Result<u8, &'static str> {
    match text.trim().parse() {
        Ok(replicas @ (1 | 3 | 5)) => Ok(replicas),
        _ => Err("not a number of replicas; write 1, 3 or 5"),
    }
}

/// Parses a stream's name, which is the first word of its subjects too.
fn name(text: &str) -> Result<String, String> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    match text.bytes().all(is_plain) && (1..=64).contains(&text.len()) {
        true => Ok(text.to_owned()),
        false => Err("not a name; write 1 to 64 letters, digits, '-' and '_'".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_logins_are_refused_without_being_shown_and_one_may_stand_before_one_host_alone() {
        let parse = |urls: &str| crate::config::Config::parse(["esper", "--cluster", urls], &|_| None);
        for urls in ["nats://a:b@x,nats://a:b@y", "nats://a:b@x,nats://y", "nats://y,nats://token@x"] {
            assert!(parse(urls).is_ok(), "{urls}");
        }
        for urls in ["nats://u:hunter2@x,nats://u:hunter3@y", "nats://hunter2@x,nats://z,nats://hunter3@y"] {
            let reason = parse(urls).unwrap_err().to_string();
            assert!(
                reason.contains(
                    "--cluster: nats://***@x:4222 and nats://***@y:4222 have different credentials"
                ),
                "{reason}"
            );
            assert!(reason.contains("write the same") && !reason.contains("hunter"), "{reason}");
        }
    }

    #[test]
    fn replicas_and_names_are_those_that_nats_takes() {
        assert_eq!(["1", "3", "5"].map(|text| replicas(text).unwrap()), [1, 3, 5]);
        assert!(["0", "2", "4", "6", "x", ""].iter().all(|text| replicas(text).is_err()));
        assert_eq!(name("esper-2_a"), Ok("esper-2_a".to_owned()));
        assert!(["", "a.b", "a b", "*", ">", "ä"].iter().all(|text| name(text).is_err()));
    }
}
