//! Settings of streams: keep-alive, and what happens to slow and refused ones.

use std::time::Duration;

use clap::{ArgAction, Args, ValueEnum};

use super::values::{any_size, some_time, time};

/// How streams are kept alive, and what happens to slow ones.
#[derive(Args, Clone, Copy, Debug, Eq, PartialEq)]
#[command(next_help_heading = "Streams")]
pub struct Stream {
    /// Begin streams with their first event, and not with the retry time by which browsers that lost the server do not all
    /// come back at once, and for which Firefox and some proxies need not wait. Implied by --history-events 0.
    ///
    /// That is `false`.
    #[arg(long = "no-first-retry", action = ArgAction::SetFalse)]
    pub first_retry: bool,
    /// How often a stream that got nothing else gets a comment; 0s for never.
    ///
    /// At least 100 ms; `None` is never.
    #[arg(long, value_name = "TIME", value_parser = heartbeat, default_value = "15s")]
    pub heartbeat: Option<Duration>,
    /// Bytes a subscriber may be behind before --slow-policy applies.
    ///
    /// At least twice `Http::body_bytes_max`.
    #[arg(id = "slow-lag", long, value_name = "SIZE", value_parser = any_size, default_value = "4MiB")]
    pub lag_bytes_max: usize,
    /// What a subscriber too far behind gets: cut to reconnect and replay, or skip ahead past a gap.
    #[arg(id = "slow-policy", long, value_name = "cut|skip", value_enum, default_value = "cut")]
    pub slow_policy: SlowPolicy,
    /// How long one send may take before its connection is cut, under either policy.
    // A quarter more of it is less than two heartbeats, so that a dead peer is noticed within those.
    #[arg(id = "send-timeout", long, value_name = "TIME", value_parser = some_time, default_value = "20s")]
    pub send_timeout: Duration,
    /// How a stream is refused for now: 200 with a retry time, which browsers come back after, or 503.
    #[arg(id = "refuse-streams", long, value_name = "retry|503", value_enum, default_value = "retry")]
    pub refuse: RefuseStreams,
    /// Shortest time drawn for a browser to come back after.
    #[arg(id = "retry-min", long, value_name = "TIME", value_parser = some_time, default_value = "1s")]
    pub retry_min: Duration,
    /// Longest time drawn for a browser to come back after.
    ///
    /// Never less than `retry_min`.
    #[arg(id = "retry-max", long, value_name = "TIME", value_parser = some_time, default_value = "5s")]
    pub retry_max: Duration,
}

impl Stream {
    /// Returns how long the kernel lets a peer leave data unacknowledged before it ends the connection
    /// (TCP_USER_TIMEOUT).
    pub(crate) fn peer_timeout(&self) -> Duration {
        let heartbeats = self.heartbeat.map(|heartbeat| 2 * heartbeat).unwrap_or_default();
        // Not shorter than a send may take: a client that pauses reading is not dead. A quarter longer, so that the
        // server's own timeout cuts it first, and counts it.
        heartbeats.max(self.send_timeout * 5 / 4)
    }
}

/// Parses the interval of comments. Below 100 ms a server with many idle streams does nothing but comment.
fn heartbeat(text: &str) -> Result<Duration, String> {
    match time(text)? {
        time if time.is_zero() || time >= Duration::from_millis(100) => Ok(time),
        _ => Err("too often; write at least 100ms, or 0s for never".to_owned()),
    }
}

/// What happens to a subscriber that is too far behind.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum SlowPolicy {
    /// Its connection is closed; it reconnects and replays.
    Cut,
    /// It is told of a gap and goes on from there.
    Skip,
}

/// How a stream is refused for a reason that will pass: a limit, or the server is stopping.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum RefuseStreams {
    /// 200 with a `retry:` and the close: an EventSource comes back by itself.
    Retry,
    /// 503 with Retry-After: for clients that are no EventSource, which would give up for ever.
    #[value(name = "503")]
    Unavailable,
}
