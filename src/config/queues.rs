//! One RabbitMQ queue per client: which brokers, how a queue is named, when a message counts as delivered.

use std::time::Duration;

use super::{BrokerUrl, Pattern, SubscribeRule};

/// One queue per client, delivered as an event stream.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Queues {
    /// The brokers, each a connection; never empty. One may be there several times: a connection carries no more
    /// clients than its channelMax.
    pub nodes: Vec<BrokerUrl>,
    /// Where a client opens its queue's stream: `/` and letters, digits, `.`, `_`, `~`, `-` and `/`. None of the
    /// server's own paths.
    pub path: String,
    /// How a request's queue is named.
    pub pattern: Pattern,
    /// How long the broker keeps a queue that nobody reads: whole seconds, 1 s to 49 days.
    pub expire: Duration,
    /// Messages that the broker hands out ahead of their acknowledgement, for each queue. More than `ack_window`.
    pub prefetch: u16,
    /// A message is acknowledged when so many newer ones were sent.
    pub ack_window: u16,
    /// Or when it was sent so long ago and its connection still lives. Longer than a peer may be dead unnoticed,
    /// which is the longer of two heartbeats and 5/4 of the send timeout.
    pub ack_delay: Duration,
    /// What else the brokers publish to topics.
    pub subscribe: Vec<SubscribeRule>,
    /// Headers of every answer at `path`, name and value.
    pub headers_cors: Vec<(String, String)>,
    /// Headers of a stream, name and value. `Transfer-Encoding` may be `chunked`, or `identity` for a body without
    /// chunks, to the close.
    pub headers_sse: Vec<(String, String)>,
}

impl Queues {
    pub(super) const PATH: &str = "/";
    pub(super) const PATTERN: &str = "${query:id}";
    pub(super) const EXPIRE: Duration = Duration::from_secs(30 * 60);
    pub(super) const PREFETCH: u16 = 200;
    pub(super) const ACK_WINDOW: u16 = 100;
    pub(super) const ACK_DELAY: Duration = Duration::from_secs(40);
    pub(super) const HEADERS_CORS: [(&str, &str); 3] = [
        ("Access-Control-Allow-Origin", "*"),
        ("Access-Control-Allow-Methods", "GET, OPTIONS"),
        ("Access-Control-Allow-Headers", "Content-Type, Accept, Cache-Control"),
    ];
    pub(super) const HEADERS_SSE: [(&str, &str); 3] = [
        ("Content-Type", "text/event-stream; charset=utf-8"),
        ("Cache-Control", "no-cache"),
        ("X-Accel-Buffering", "no"),
    ];
}
