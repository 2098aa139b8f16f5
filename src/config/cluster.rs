//! Settings of a cluster: its NATS servers, and how to log in.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use clap::Args;
use percent_encoding::percent_decode_str;
use url::Url;

use super::layer::Layer;

/// A cluster of nodes, which all publish to and read one stream of NATS JetStream.
#[derive(Args, Clone, Debug, Eq, PartialEq)]
#[command(next_help_heading = "Cluster (NATS JetStream)")]
pub struct Cluster {
    /// The NATS servers; never empty.
    #[arg(skip)]
    pub nodes: Vec<NatsUrl>,
    /// Name of the stream, the same on all nodes; its subjects begin with it.
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
    pub(super) fn fields(&self, fields: &mut Layer) {
        fields.name("cluster.nodes", "cluster");
        fields.text("cluster.name", "cluster-name", &self.name);
        fields.field("cluster.replicas", "cluster-replicas", &self.replicas);
    }

    /// Checks what a program can build that no flag could say.
    pub(super) fn check(&self, names: &Layer) -> Result<(), String> {
        let flag = |name| names.of(name);
        if self.nodes.is_empty() {
            return Err(format!("{}: no server; name one, such as nats://127.0.0.1:4222", flag("cluster")));
        }
        let logins = [
            (self.login().is_some() || self.token().is_some()).then(|| flag("cluster")),
            self.nkey_file.is_some().then(|| flag("cluster-nkey-file")),
            self.credentials_file.is_some().then(|| flag("cluster-credentials-file")),
        ];
        let logins: Vec<String> = logins.into_iter().flatten().collect();
        match &logins[..] {
            [one, other, ..] => Err(format!("{one} and {other} both say how to log in; give one of them")),
            _ => Ok(()),
        }
    }

    /// Returns the servers' addresses, without credentials.
    pub(crate) fn shown(&self) -> String {
        self.nodes.iter().map(NatsUrl::to_string).collect::<Vec<_>>().join(",")
    }

    /// Returns the user and the password to log in with, if a server's URL has them: the same for all.
    pub(crate) fn login(&self) -> Option<(String, String)> {
        self.nodes.iter().find_map(|node| Some((node.user.clone()?, node.password.clone()?)))
    }

    /// Returns the token to log in with, if a server's URL has one.
    pub(crate) fn token(&self) -> Option<String> {
        self.nodes.iter().find_map(|node| node.user.clone().filter(|_| node.password.is_none()))
    }
}

/// The URL of a NATS server, `nats://user:password@host:port`, `nats://token@host:port` or `tls://...`. Printing one, by
/// `{}` or `{:?}`, shows `***` for the credentials.
#[derive(Clone, Eq, PartialEq)]
pub struct NatsUrl {
    /// Without credentials.
    address: String,
    is_tls: bool,
    user: Option<String>,
    password: Option<String>,
}

impl NatsUrl {
    /// Returns `scheme://host:port`.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// Returns whether the connection must be TLS.
    pub(crate) fn is_tls(&self) -> bool {
        self.is_tls
    }
}

impl FromStr for NatsUrl {
    type Err = &'static str;

    /// Parses a URL, without the white space around it.
    ///
    /// # Errors
    /// The reason and the remedy, without any part of the text, which may be the password.
    fn from_str(text: &str) -> Result<Self, &'static str> {
        const WRONG: &str = "not a NATS server's URL; write nats://host:4222 or tls://host:4222, and what is not a letter \
                             or digit of a user, password or token as %XX";
        let url = Url::parse(text.trim()).map_err(|_| WRONG)?;
        let is_tls = url.scheme() == "tls";
        if !is_tls && url.scheme() != "nats" {
            return Err(WRONG);
        }
        let host = url.host_str().filter(|host| !host.is_empty()).ok_or(WRONG)?;
        if !matches!(url.path(), "" | "/") || url.query().is_some() || url.fragment().is_some() {
            return Err(
                "a NATS server's URL with a path; write %2F, %3F or %23 for a /, ? or # in the password, and nothing \
                 behind the port",
            );
        }
        let decoded =
            |part: &str| percent_decode_str(part).decode_utf8().map(String::from).map_err(|_| WRONG);
        let user = Some(url.username()).filter(|user| !user.is_empty()).map(decoded).transpose()?;
        let password = url.password().map(decoded).transpose()?;
        let address = format!("{}://{host}:{}", url.scheme(), url.port().unwrap_or(4222));
        Ok(NatsUrl { address, is_tls, user, password })
    }
}

impl fmt::Display for NatsUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.user.is_some(), self.address.split_once("://")) {
            (true, Some((scheme, host))) => write!(f, "{scheme}://***@{host}"),
            _ => f.write_str(&self.address),
        }
    }
}

impl fmt::Debug for NatsUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
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
    fn a_url_is_taken_apart_and_never_shows_its_credentials() {
        for (text, address, user, password, shown) in [
            ("nats://h", "nats://h:4222", None, None, "nats://h:4222"),
            ("tls://h:1/", "tls://h:1", None, None, "tls://h:1"),
            ("nats://a%40b:p%2F@h", "nats://h:4222", Some("a@b"), Some("p/"), "nats://***@h:4222"),
            (" nats://hunter2@[::1]:5 ", "nats://[::1]:5", Some("hunter2"), None, "nats://***@[::1]:5"),
        ] {
            let url: NatsUrl = text.parse().unwrap();
            assert_eq!(
                (url.address(), url.user.as_deref(), url.password.as_deref()),
                (address, user, password)
            );
            assert_eq!((url.to_string().as_str(), format!("{url:?}").as_str()), (shown, shown));
        }
        for text in [
            "",
            "h:4222",
            "http://h",
            "nats://",
            "nats://a:hunter2/x@h",
            "nats://h/x",
            "nats://h?hunter2",
            "ws://h",
        ] {
            let reason = text.parse::<NatsUrl>().unwrap_err();
            assert!(!reason.contains("hunter2"), "{reason}");
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
