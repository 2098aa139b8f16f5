//! Why a server does not start, and what to do about it.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use thiserror::Error;

use super::help;
use crate::dialects::Port;
use crate::host;

/// Why the server did not start, or could not go on.
#[derive(Debug, Error)]
pub enum StartError {
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {}", help::listen_help(Port::Public, .error))]
    Listen {
        /// Where.
        address: SocketAddr,
        /// The kernel's reason.
        error: io::Error,
    },
    /// The address of the control port cannot be listened on.
    #[error("cannot listen on {address} for control: {}", help::listen_help(Port::Control, .error))]
    ListenControl {
        /// Where.
        address: SocketAddr,
        /// The kernel's reason.
        error: io::Error,
    },
    /// The socket cannot be made in the file system.
    #[error("cannot listen on unix:{}: {reason}", path.display())]
    ListenUnix {
        /// The path of its file.
        path: PathBuf,
        /// The cause and the remedy.
        reason: String,
    },
    /// A socket that was handed to the server is none that it can accept from.
    #[error("cannot listen on what was inherited: {0}")]
    Inherited(String),
    /// The kernel gives no ring, or takes no operations from it.
    #[error("cannot set up io_uring: {}", help::ring_help(.0))]
    Ring(io::Error),
    /// The set that watches the sockets of streams cannot be made.
    #[error("cannot watch sockets: {0}; raise the limit on open files (ulimit -n, LimitNOFILE=)")]
    Readiness(io::Error),
    /// The process's limit on open files leaves none for a subscriber.
    #[error(
        "the limit on open files is {limit}, and the server itself takes {needed}, {} for each CPU, so that none is left \
         for subscribers; raise it (ulimit -n, LimitNOFILE=), or use fewer CPUs with --threads",
        host::files_per_shard(*listeners)
    )]
    FileLimit {
        /// How many files may be open.
        limit: u64,
        /// How many the server needs for itself.
        needed: u64,
        /// The number of listeners of each CPU.
        listeners: usize,
    },
    /// The file of the access log cannot be opened.
    #[error(
        "cannot open the access log {}: {error}; name a file in a directory that this user may write to, or - for \
         standard output, with --access-log",
        path.display()
    )]
    AccessLog {
        /// The file.
        path: PathBuf,
        /// The kernel's reason.
        error: io::Error,
    },
    /// A thread cannot be started.
    #[error("cannot start a thread: {0}; raise the process limit (ulimit -u, TasksMax=)")]
    Thread(io::Error),
    /// A value of the configuration is out of range, or does not go with another; its field is named.
    #[error("{0}")]
    Config(String),
    /// The journal's directory cannot be used, or its disk failed.
    #[error("{0}")]
    Journal(String),
    /// The node cannot take part in its cluster.
    #[error("{0}")]
    Cluster(String),
    /// A shard's task failed, which is a bug.
    #[error("a shard failed: {0}")]
    Shard(String),
}
