//! Makes a stream of a connection: the head it begins with, or the bytes it is refused with.

use std::borrow::Cow;
use std::fmt::Write as _;

use bytes::Bytes;

use super::Connections;
use super::pipeline::Encoding;
use super::request::RequestInfo;
use crate::backend::{NoQueue, without_queue};
use crate::config::{Config, RefuseStreams};
use crate::core::chunk::Framing;
use crate::core::fanout::subscriber::Opening;
use crate::core::fanout::wire::retry_field;
use crate::core::survey::Client;
use crate::dialects::native::Subscribe;
use crate::dialects::queues::queue_refused;
use crate::http::{self, Context, Refusal, Response, Version};
use crate::shard::queue::QueueStream;
use crate::shard::stream::{StreamSource, StreamStart};

/// The first line of a queue's stream, as clients of eventsourced know it.
const GREETING: &str = ": SSE stream\n";
/// The reason sent when the limit of streams is reached.
pub(super) const FULL: &str =
    "no room for a further stream; try again later, or raise --subscribers-max or --topics-max";

/// The reason sent while the server stops.
pub(super) const STOPPING: &str = "the server is stopping; try again later";

/// A request for a stream, until the answers before it are sent.
pub(super) struct StreamRequest {
    pub(super) request: RequestInfo,
    pub(super) wish: StreamWish,
    /// `None` where nobody may ask who is connected.
    pub(super) client: Option<Client>,
}

/// The source that the client asked for.
#[derive(Debug)]
pub(super) enum StreamWish {
    Topics(Subscribe),
    Queue(QueueStream),
    /// A queue that is not available for now, and why.
    NoQueue(Cow<'static, str>),
    /// Topics that are refused for now.
    NoTopics,
}

impl StreamWish {
    /// Returns the stream of a queue that the backend opened, or why there is none.
    ///
    /// # Errors
    /// The refusal to send instead: 503, for a passing reason only if `--refuse-streams` says so.
    pub(super) fn of_queue(
        result: Result<QueueStream, NoQueue>,
        refuse: RefuseStreams,
    ) -> Result<Self, Refusal> {
        match result {
            Ok(queue) => Ok(StreamWish::Queue(queue)),
            Err(NoQueue { reason, is_passing: true }) => StreamWish::no_queue(reason, refuse),
            Err(NoQueue { reason, .. }) => Err(queue_refused(reason.into())),
        }
    }

    /// Refuses topics for a passing reason: by a stream that ends at once, or by 503 if `--refuse-streams` says so.
    ///
    /// # Errors
    /// The refusal to send instead.
    pub(super) fn no_topics(refusal: Refusal, refuse: RefuseStreams) -> Result<Self, Refusal> {
        tracing::debug!(%refusal, "refused for now");
        match refuse {
            RefuseStreams::Retry => Ok(StreamWish::NoTopics),
            RefuseStreams::Unavailable => Err(Refusal::unavailable(refusal.reason)),
        }
    }

    /// Refuses a queue for a passing reason: by a stream that ends at once, or by 503 if `--refuse-streams` says so.
    ///
    /// # Errors
    /// The refusal to send instead.
    pub(super) fn no_queue(
        reason: impl Into<Cow<'static, str>>,
        refuse: RefuseStreams,
    ) -> Result<Self, Refusal> {
        match refuse {
            RefuseStreams::Retry => Ok(StreamWish::NoQueue(reason.into())),
            RefuseStreams::Unavailable => Err(queue_refused(reason.into())),
        }
    }
}

impl StreamRequest {
    /// Returns what the shard begins the stream with.
    pub(super) fn start(self, connections: &Connections) -> StreamStart {
        let StreamRequest { request, wish, client } = self;
        let shard = connections.shard.id;
        tracing::debug!(shard, source = without_queue(&format!("{wish:?}")), "stream asked for");
        let framing = connections.framing(&request, &wish);
        let opening = connections.opening(&request, &wish, framing);
        let (source, feeds_admin_page) = match wish {
            StreamWish::Topics(Subscribe { terms, feeds_admin_page, .. }) => {
                (StreamSource::Topics(terms), feeds_admin_page)
            }
            StreamWish::Queue(queue) => (StreamSource::Queue(queue), false),
            StreamWish::NoQueue(_) | StreamWish::NoTopics => (StreamSource::None, false),
        };
        StreamStart { source, framing, opening, client, feeds_admin_page, record: request.record }
    }
}

impl Connections {
    /// Returns how the stream's body is delimited.
    fn framing(&self, request: &RequestInfo, wish: &StreamWish) -> Framing {
        let is_identity = self.service.access.queues.as_ref().is_some_and(|queues| queues.is_identity);
        match (request.version, wish) {
            (Version::Http11, StreamWish::Queue(_) | StreamWish::NoQueue(_)) if is_identity => Framing::Plain,
            (Version::Http11, _) => Framing::Chunked,
            (Version::Http10, _) => Framing::Plain,
        }
    }

    /// Returns the bytes that the stream begins with, and those that refuse it: EventSource gives up for ever on any
    /// status but 200, so by default a refusal is a 200 that says when to come back.
    ///
    /// Firefox and several proxies announce a stream only with the first byte of its body, which would be a heartbeat up to
    /// 15 s later; so a retry time goes with the head, drawn anew for each stream, so that the clients of a server that
    /// dies do not come back all at once.
    fn opening(&self, request: &RequestInfo, wish: &StreamWish, framing: Framing) -> Opening {
        let date = self.date();
        let encoding = Encoding::of(&self.service, &date);
        let queues = match wish {
            StreamWish::Queue(_) | StreamWish::NoQueue(_) => self.service.access.queues.as_ref(),
            StreamWish::Topics(_) | StreamWish::NoTopics => None,
        };
        let encode_head = |keep_alive: bool| {
            let mut head = Vec::with_capacity(256);
            let cx = Context { keep_alive, ..request.context(encoding) };
            match queues {
                Some(queues) => {
                    let is_chunked = framing == Framing::Chunked;
                    let reason = match wish {
                        StreamWish::NoQueue(reason) => Some(&**reason),
                        _ => None,
                    };
                    http::encode_queue_head(&queues.stream_lines, reason, is_chunked, &cx, &mut head);
                }
                None => drop(Response::stream_head().encode(&cx, &mut head)),
            }
            head
        };
        let mut first = String::from(if queues.is_some() { GREETING } else { "" });
        let Config { stream, history, .. } = &self.shard.common.config;
        let begins_with_retry = stream.first_retry && history.events_max > 0;
        let retry = retry_field(self.shard.retry_ms());
        if begins_with_retry {
            first.push_str(&retry);
        }
        // An id without data is no event, but sets the page's Last-Event-ID (WHATWG HTML, 9.2.6). A page that reconnects
        // without one would be refused while its own old connection still has the queue.
        match wish {
            StreamWish::Queue(QueueStream { first_id: Some(id), .. }) => {
                let _ = write!(first, "id: {id}\n\n");
            }
            // WebKit keeps what came of an event before its connection was cut, and adds what comes next: this ends it under
            // a name that no page listens to, and sets right the id that may have been cut too.
            StreamWish::Topics(Subscribe { echoed_id: Some(id), .. }) if history.events_max > 0 => {
                // A line of its own, because a line may have been cut too.
                let start = if begins_with_retry { "" } else { ":\n" };
                let _ = write!(first, "{start}event: place\nid: {id}\n\n");
            }
            StreamWish::Queue(_) | StreamWish::NoQueue(_) if !begins_with_retry => first.push('\n'),
            _ => {}
        }
        let mut framed = Vec::new();
        framing.frame_some([Bytes::from(first)].into_iter().filter(|first| !first.is_empty()), &mut framed);
        let first = framed.concat();
        let refusal = match stream.refuse {
            RefuseStreams::Retry => {
                // A client that is not told of the close sends its next request on the same connection, and loses it. On a
                // stream that goes on it must not be told: undici would take a cut of it for its end.
                let head = encode_head(false);
                let farewell = framing.farewell(if begins_with_retry { "" } else { &retry });
                [&head, &first, &farewell[..]].concat()
            }
            RefuseStreams::Unavailable => {
                let refusal = Refusal { close: true, ..Refusal::unavailable(FULL) };
                let mut out = Vec::with_capacity(256);
                Response::from(refusal).encode(&request.context(encoding), &mut out);
                out
            }
        };
        let head = [encode_head(request.keep_alive), first].concat();
        let tells_place = matches!(wish, StreamWish::Topics(Subscribe { tells_place: true, .. }));
        Opening { head: head.into(), refusal: refusal.into(), tells_place }
    }
}
