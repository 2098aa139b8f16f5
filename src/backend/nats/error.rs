//! Why a node cannot take part in its cluster.

use thiserror::Error;

/// Why a node does not start, with the remedy. None of it shows credentials.
#[derive(Debug, Error)]
pub(crate) enum ClusterError {
    #[error("--{flag} {file}: {reason}")]
    File { flag: &'static str, file: String, reason: String },
    #[error(
        "the NATS servers at {nodes} refuse this node: {reason}; correct user, password, token, --cluster-nkey-file or \
         --cluster-credentials-file"
    )]
    Login { nodes: String, reason: String },
    #[error("cannot set up TLS to the NATS servers at {nodes}: {reason}; see --cluster-ca-file")]
    Tls { nodes: String, reason: String },
    #[error(
        "the NATS server has version {version}, which loses a stream when it is killed (nats-server#6888); update it to \
         2.10.23 or later"
    )]
    OldServer { version: String },
    #[error(
        "--body-max is {body_max} bytes, and the NATS server takes messages of {max_payload}: raise its max_payload to \
         {needed} or more, or lower --body-max"
    )]
    Payload { body_max: usize, max_payload: usize, needed: usize },
    #[error(
        "the NATS server has no JetStream for this account: {reason}; enable it (jetstream {{ store_dir: ... }})"
    )]
    NoJetStream { reason: String },
    #[error(
        "cannot make the stream {stream}{}: {reason}{}",
        if *.replicas > 1 { format!(", which {} NATS servers are to keep", .replicas) } else { String::new() },
        if *.replicas > 1 { "; start as many, or give --cluster-replicas 1" } else { "" }
    )]
    Create { stream: String, replicas: usize, reason: String },
    #[error(
        "the stream {stream} knows the numbers of messages for {window}, and one that is sent again may come after \
         {needed} seconds, so publishes could be doubled: `nats stream edit {stream} --dupe-window 2m`"
    )]
    Window { stream: String, window: String, needed: u64 },
    #[error(
        "the stream {stream} is not esper's, for it says nothing of a format: choose another --cluster-name, or remove \
         the stream"
    )]
    Foreign { stream: String },
    #[error(
        "the stream {stream} has format {format}, and this version of esper reads up to {known}: update this node, or \
         choose another --cluster-name"
    )]
    Format { stream: String, format: String, known: u8 },
    #[error(
        "the stream {stream} has {stored} partitions, and --partitions is {asked}: all nodes of a cluster have the same; \
         start with --partitions {stored}, or choose another --cluster-name"
    )]
    Partitions { stream: String, stored: String, asked: u8 },
    #[error(
        "the stream {stream} was made {} --namespaces, and this node is started {} it: all nodes of a cluster have the \
         same topics; {} --namespaces, or choose another --cluster-name",
        if *.asked { "without" } else { "with" }, if *.asked { "with" } else { "without" },
        if *.asked { "leave out" } else { "give" }
    )]
    Namespaces { stream: String, asked: bool },
    #[error(
        "the stream {stream} was made again by a node that did not know it; start this node again, so that it reads the \
         new one"
    )]
    Other { stream: String },
    #[error("cannot start a thread for the cluster: {0}")]
    Thread(std::io::Error),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_that_too_few_servers_could_keep_is_refused_with_the_flag_to_change() {
        let line = |replicas| {
            ClusterError::Create { stream: "e".to_owned(), replicas, reason: "no".to_owned() }.to_string()
        };
        assert_eq!(line(1), "cannot make the stream e: no");
        assert!(
            line(3).contains("which 3 NATS servers are to keep: no; start as many")
                && line(3).ends_with("give --cluster-replicas 1")
        );
    }

    #[test]
    fn a_stream_of_other_topics_is_refused_with_the_flag_to_change() {
        let line = |asked| ClusterError::Namespaces { stream: "esper".to_owned(), asked }.to_string();
        assert!(
            line(true).contains("made without --namespaces") && line(true).contains("leave out --namespaces")
        );
        assert!(line(false).contains("made with --namespaces") && line(false).contains("give --namespaces"));
    }
}
