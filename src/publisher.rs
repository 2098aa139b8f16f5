//! Publishing from within the program that runs the server: what a connection does, without the connection.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use thiserror::Error;
use tokio::sync::oneshot;

use crate::core::event::{EventError, EventLimits, Events};
use crate::core::event_id::{Epoch, EventId};
use crate::core::message::{self, Post, Publish, ReplyTo};
use crate::core::reply::Callback;
use crate::core::topic::{Topic, TopicError, TopicNames};
use crate::shard::common::{Common, charged_bytes};
use crate::shard::mailbox::Mailboxes;

/// Publishes to a [`Server`](crate::Server) from any thread. Cheap to clone.
///
/// A publish is checked and posted to the one shard that orders its topic's events, and the caller waits for no more
/// than that: no publish waits for a subscriber, however slow. Events that one thread publishes to one topic reach each
/// of its subscribers in that order; so do those of all topics that share a first segment.
///
/// A topic is named as in the path of a publish over HTTP, without percent-encoding: 8 to 64 ASCII letters
/// and digits in any case; or with [namespaces](crate::config::Config::namespaces) a path of 1 to 8 segments,
/// joined by `/`, of 1 to 64 of `A-Z a-z 0-9 . _ ~ -` each. A `/` in front of it makes no difference.
///
/// ```
/// use esper::{Event, Server};
///
/// let server = Server::builder().port(0).namespaces(true).start()?;
/// let publisher = server.publisher();
/// let other = publisher.clone();
/// std::thread::spawn(move || other.publish("pets/cats", Event::data("Persian").name("new-cat")));
///
/// // Posted; dropping the receipt is fine.
/// publisher.publish("pets/dogs", Event::data("Corgi").name("new-dog"))?;
/// // Posted and ordered: this waits for the shard, not for subscribers.
/// let published = publisher.publish_text("pets/dogs", "data: one\n\ndata: two\n")?.wait()?;
/// assert_eq!(published.events, 2);
/// # server.stop();
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Publisher(Arc<PublisherParts>);

/// The parts that all clones of a publisher share.
struct PublisherParts {
    common: Arc<Common>,
    names: TopicNames,
    mailboxes: Mailboxes,
    is_closed: AtomicBool,
}

impl Publisher {
    pub(crate) fn new(common: Arc<Common>, names: TopicNames, mailboxes: Mailboxes) -> Self {
        Publisher(Arc::new(PublisherParts { common, names, mailboxes, is_closed: false.into() }))
    }

    /// Publishes one event. Returns as soon as it is posted, before it is ordered; the [`Receipt`] reports when it is.
    ///
    /// # Errors
    /// Nothing was published: see [`PublishError`]. [`PublishError::Full`] passes by itself, and whoever
    /// means to try again keeps a clone of the event.
    pub fn publish(&self, topic: &str, event: Event) -> Result<Receipt, PublishError> {
        let topic = self.open(topic)?;
        let Event { data, name, id } = event;
        let events = Events::wrap(Bytes::from(data), name.as_deref(), id.as_deref(), &self.limits())?;
        self.post(topic, events)
    }

    /// Publishes event-stream text, as subscribers are to get it (WHATWG HTML, 9.2.5): one or more events
    /// separated by blank lines, each with a `data` field, comments and unknown fields included. They are
    /// ordered as one, with nothing between them. Returns as [`Publisher::publish`] does.
    ///
    /// # Errors
    /// As [`Publisher::publish`]; [`PublishError::Event`] tells which of the events is wrong, counted from 1,
    /// and none of them was published.
    pub fn publish_text(&self, topic: &str, text: impl Into<String>) -> Result<Receipt, PublishError> {
        let topic = self.open(topic)?;
        let events = Events::parse(Bytes::from(text.into()), &self.limits())?;
        self.post(topic, events)
    }

    /// Takes no further publish.
    pub(crate) fn close(&self) {
        // Relaxed: a publish at the same moment may go either way, and its receipt reports which.
        self.0.is_closed.store(true, Ordering::Relaxed);
    }

    /// Returns the topic, if the server still accepts publishes.
    fn open(&self, name: &str) -> Result<Topic, PublishError> {
        if self.0.is_closed.load(Ordering::Relaxed) {
            return Err(PublishError::Stopped);
        }
        Ok(self.0.names.parse(name.strip_prefix('/').unwrap_or(name))?)
    }

    fn limits(&self) -> EventLimits {
        EventLimits::of(self.0.common.config.http.body_bytes_max)
    }

    fn post(&self, topic: Topic, events: Events) -> Result<Receipt, PublishError> {
        let common = &self.0.common;
        let charge = common.budget.take(charged_bytes(&events, 0)).ok_or(PublishError::Full)?;
        let (teller, answer) = oneshot::channel();
        // A caller that dropped its receipt gets no answer.
        let reply = ReplyTo::Caller(Callback::new(|reply| {
            if let message::Reply::Published(result) = reply {
                let _ = teller.send(result);
            }
        }));
        let at_us = common.clock.now_us();
        let Post { to, message } =
            Post::publish(Publish { topic, events, reply, at_us, charge, key: None }, common.homes.placement);
        self.0.mailboxes.post(to, message);
        Ok(Receipt { answer, epoch: common.epochs.load().current() })
    }
}

impl fmt::Debug for Publisher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Publisher").finish_non_exhaustive()
    }
}

/// One event, to be published.
///
/// ```
/// use esper::{Event, Server};
///
/// let server = Server::builder().port(0).namespaces(true).start()?;
/// // On the wire: `event:new-dog`, `id:dog-7`, `data:Corgi`, `data:six weeks old` and a blank line.
/// let event = Event::data("Corgi\nsix weeks old").name("new-dog").id("dog-7");
/// let published = server.publisher().publish("pets", event)?.wait()?;
/// assert_eq!(published.id, "dog-7");
/// # server.stop();
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Event {
    data: String,
    name: Option<String>,
    id: Option<String>,
}

impl Event {
    /// Returns an event with this data, any text without NUL. `EventSource` dispatches it as it
    /// is, except that CR and CRLF become LF. All lines of an event together may be twice
    /// [`body_bytes_max`](crate::config::Http::body_bytes_max) long, 2 MiB by default.
    pub fn data(data: impl Into<String>) -> Event {
        Event { data: data.into(), name: None, id: None }
    }

    /// Gives it a name, for `EventSource.addEventListener`; without one, or with the empty one, it goes to
    /// `onmessage`. One line of at most 128 bytes.
    pub fn name(mut self, name: impl Into<String>) -> Event {
        self.name = Some(name.into());
        self
    }

    /// Gives it an id of the publisher's own, which is kept and found again when a subscriber resumes after
    /// it; without one, or with the empty one, the server adds its own. At most 128 bytes, without control characters
    /// but the tab. One that some server gave is [replaced](Published::ids_replaced).
    pub fn id(mut self, id: impl Into<String>) -> Event {
        self.id = Some(id.into());
        self
    }
}

/// A publish that was posted and is being ordered.
///
/// It may be ignored, waited for by [`Receipt::wait`], or awaited as a future on any runtime. Dropping it cancels
/// nothing.
#[derive(Debug)]
pub struct Receipt {
    answer: oneshot::Receiver<Result<message::Ordered, message::OrderError>>,
    epoch: Epoch,
}

impl Receipt {
    /// Blocks until the events are ordered: microseconds, or some milliseconds on a busy server. No subscriber is
    /// waited for.
    ///
    /// # Errors
    /// [`PublishError::TopicsFull`], [`PublishError::DiskFull`], [`PublishError::CutOff`], or
    /// [`PublishError::Stopped`] when the server ended before it ordered them: nothing was published. In a cluster
    /// [`PublishError::Unconfirmed`]: they may have been.
    ///
    /// # Panics
    /// In an async task of tokio's, which it would block: there the receipt is a future, to be awaited.
    pub fn wait(self) -> Result<Published, PublishError> {
        read(self.answer.blocking_recv(), self.epoch)
    }
}

impl Future for Receipt {
    type Output = Result<Published, PublishError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let epoch = self.epoch;
        Pin::new(&mut self.answer).poll(cx).map(|answer| read(answer, epoch))
    }
}

/// Events that are ordered: every subscriber of the topic gets them, in the same order.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Published {
    /// The id of the last of them, the publisher's own or the server's.
    pub id: String,
    /// How many there were.
    pub events: usize,
    /// How many of them came with an id that some server gave, as a relay passes it on, and got another: kept, it would
    /// stand for a place among this server's events.
    pub ids_replaced: usize,
}

/// Why nothing was published. `Display` is one line that says what was wrong and what to do.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
#[non_exhaustive]
pub enum PublishError {
    /// The topic's name is not valid.
    #[error("{0}")]
    Topic(String),
    /// An event is not valid: its data, its name, its id or its size.
    #[error("{0}")]
    Event(String),
    /// The broker holds as much as it may, between its threads or for slow subscribers. It passes.
    #[error(
        "no room in the broker; publish again later, or raise mailbox.bytes_max, mailbox.messages_max \
         or history.memory_bytes_max"
    )]
    Full,
    /// All topics that are allowed have subscribers, and this would be one more.
    #[error("all topics the broker has room for have subscribers; publish again later, or raise topics_max")]
    TopicsFull,
    /// The disk is full; nothing was published.
    #[error("the disk is full, so nothing is published; free some space where data_dir is")]
    DiskFull,
    /// This node has no connection to the cluster; nothing was published.
    #[error("this node has no connection to the cluster, so nothing is published; try again later")]
    CutOff,
    /// The cluster did not confirm the events in time: they may have been published.
    #[error("the cluster did not confirm it in time: it may have been published")]
    Unconfirmed,
    /// The server has been stopped.
    #[error("the server has stopped; start another to publish to")]
    Stopped,
}

impl From<TopicError> for PublishError {
    fn from(error: TopicError) -> Self {
        PublishError::Topic(error.to_string())
    }
}

impl From<EventError> for PublishError {
    fn from(error: EventError) -> Self {
        // Hints must not name a body or a URL, which do not exist here.
        PublishError::Event(match error {
            EventError::Empty => "empty: give the event some data".to_owned(),
            EventError::NoEvent => "no event in the text: write at least one line `data: ...`".to_owned(),
            EventError::NoData { event } => {
                format!("event {event} has no data: line; write `data: ` before its text, or use Event::data")
            }
            EventError::Nul { offset } => {
                format!("NUL at byte {offset} of the text: remove it, or publish binary data as base64")
            }
            error => error.to_string(),
        })
    }
}

impl From<message::OrderError> for PublishError {
    fn from(error: message::OrderError) -> Self {
        match error {
            message::OrderError::TopicsFull => PublishError::TopicsFull,
            message::OrderError::DiskFull | message::OrderError::StreamFull => PublishError::DiskFull,
            message::OrderError::CutOff => PublishError::CutOff,
            message::OrderError::Unconfirmed => PublishError::Unconfirmed,
            message::OrderError::TooLarge => PublishError::Full,
            // Publishes from here have no key.
            message::OrderError::KeyReused | message::OrderError::KeysFull => PublishError::Full,
        }
    }
}

/// Returns the home shard's answer; [`PublishError::Stopped`] when it ended first.
fn read(
    answer: Result<Result<message::Ordered, message::OrderError>, oneshot::error::RecvError>,
    epoch: Epoch,
) -> Result<Published, PublishError> {
    let message::Ordered { last_id, events, ids_replaced, .. } =
        answer.map_err(|_| PublishError::Stopped)??;
    let id = match last_id {
        EventId::Own(id) => id.into(),
        EventId::Sequence(sequence) => epoch.text(sequence),
    };
    Ok(Published { id, events: events as usize, ids_replaced: ids_replaced as usize })
}
