//! Limits of requests and their connections, of what is under way between shards, and of stopping.

use std::time::Duration;

use clap::Args;

use super::values::{SIZE_MAX, any_size, count, size, some_time, time};
use super::{KIB, MIB};

/// Limits of a request and of its connection.
#[derive(Args, Clone, Copy, Debug, Eq, PartialEq)]
#[command(next_help_heading = "HTTP")]
pub struct Http {
    /// Bytes of a request's line and headers.
    ///
    /// 1 KiB to 1 MiB; with namespaces at least what the id of a stream over all partitions takes.
    #[arg(id = "head-max", long, value_name = "SIZE", value_parser = size(KIB..=MIB), default_value = "16KiB")]
    pub head_bytes_max: usize,
    /// Bytes of a request's body.
    ///
    /// Decoded. 1 KiB to 64 MiB.
    #[arg(id = "body-max", long, value_name = "SIZE", value_parser = size(KIB..=64 * MIB), default_value = "1MiB")]
    pub body_bytes_max: usize,
    /// How long a request's line and headers may take.
    ///
    /// From the first byte.
    #[arg(id = "head-timeout", long, value_name = "TIME", value_parser = some_time, default_value = "10s")]
    pub head_timeout: Duration,
    /// How long a request's body may take.
    #[arg(id = "body-timeout", long, value_name = "TIME", value_parser = some_time, default_value = "30s")]
    pub body_timeout: Duration,
    /// How long a connection may wait between requests: longer than the balancer in front lets it, 60 s with most, or that
    /// one sends a request on a connection that is being closed.
    #[arg(id = "idle-timeout", long, value_name = "TIME", value_parser = some_time, default_value = "75s")]
    pub idle_timeout: Duration,
    /// Publishes of one connection that are read but not answered yet.
    #[arg(id = "unanswered-max", long, value_name = "N", value_parser = count(1), default_value = "512")]
    pub unanswered_max: usize,
    /// Bytes held by all connections that are no streams: 4 KiB each, unfinished requests, unsent answers.
    ///
    /// At least 1 MiB, and twice `body_bytes_max`.
    #[arg(id = "request-memory", long, value_name = "SIZE", value_parser = size(MIB..=SIZE_MAX))]
    #[arg(default_value = "128MiB")]
    pub memory_bytes_max: usize,
}

/// Limits of what is under way between shards, in the whole process.
#[derive(Args, Clone, Copy, Debug, Eq, PartialEq)]
#[command(next_help_heading = "Between cores")]
pub struct Mailbox {
    /// Bytes under way between CPUs.
    ///
    /// At least twice `Http::body_bytes_max`.
    #[arg(id = "mailbox-bytes", long, value_name = "SIZE", value_parser = any_size, default_value = "64MiB")]
    pub bytes_max: usize,
    /// Messages under way between CPUs.
    #[arg(id = "mailbox-messages", long, value_name = "N", value_parser = count(1), default_value = "65536")]
    pub messages_max: usize,
    /// How long a publisher is not read from, past either limit, before it gets 503.
    #[arg(id = "mailbox-wait", long, value_name = "TIME", value_parser = time, default_value = "1s")]
    pub wait_max: Duration,
}

/// How the server stops.
#[derive(Args, Clone, Copy, Debug, Eq, PartialEq)]
#[command(next_help_heading = "Stopping")]
pub struct Drain {
    /// How long /healthz answers 503 before the server stops accepting.
    #[arg(id = "drain-delay", long, value_name = "TIME", value_parser = time, default_value = "0s")]
    pub delay: Duration,
    /// How long connections then have to end.
    ///
    /// More than 0.
    #[arg(id = "drain-time", long, value_name = "TIME", value_parser = some_time, default_value = "10s")]
    pub time_max: Duration,
}
