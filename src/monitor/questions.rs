//! What the admin page is fed with, and who is connected on a channel: asked of all shards, and put together on a thread
//! of its own, so that no shard writes a list of ten thousand connections.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use serde_json::{Value, json};
use smallvec::smallvec;

use super::Monitor;
use crate::clock::unix_s;
use crate::core::budget::Budget;
use crate::core::chunk::Chunk;
use crate::core::message::{Marks, Message, Ticket, ToFanout};
use crate::core::session::Session;
use crate::core::survey::{StreamStatus, Survey, SurveyResult, Wanted};
use crate::core::topic::Topic;
use crate::dialects::admin::Question;
use crate::shard::mailbox::Mailboxes;
use crate::shard::message::{ShardMessage, TicketReply};

/// How often a page is told.
const INTERVAL: Duration = Duration::from_secs(1);
/// Connections that a page is told of: 40 KB a second.
const PAGE_STREAMS_MAX: usize = 200;
/// Requests that wait to be answered; more are refused.
const REQUESTS_MAX: usize = 16;
/// Bytes of answers under way: a few of the longest.
const ANSWERS_BYTES_MAX: usize = 32 << 20;
/// How often it looks whether it is to end, while it waits for a shard.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);
/// What a list may take for each stream in it, at 300 bytes for a usual one: those with many long names are left out.
const BYTES_PER_STREAM: usize = 600;
/// Streams of a channel that are listed to say who is there: 8 MB of JSON at the most, if they are as many users.
const SESSION_STREAMS_MAX: usize = 10_000;
/// A shard that is busy for longer is left out.
const PATIENCE: Duration = Duration::from_secs(2);

/// What lies before the thread.
#[derive(Debug)]
enum QueuedQuestion {
    Question(Question, Ticket),
    /// Look whether it is to end.
    Wake,
}

/// Questions on their way to the thread, and what became of their answers.
#[derive(Debug)]
pub(crate) struct Questions {
    sender: Sender<QueuedQuestion>,
    receiver: Receiver<QueuedQuestion>,
    is_closed: AtomicBool,
    /// What answers may hold that are not sent yet.
    answers: Arc<Budget>,
}

impl Default for Questions {
    fn default() -> Self {
        let (sender, receiver) = bounded(REQUESTS_MAX);
        Questions {
            sender,
            receiver,
            is_closed: false.into(),
            answers: Budget::new(ANSWERS_BYTES_MAX, usize::MAX),
        }
    }
}

impl Questions {
    /// Leaves a question for the thread; returns false when too many wait.
    pub(super) fn ask(&self, question: Question, ticket: Ticket) -> bool {
        self.sender.try_send(QueuedQuestion::Question(question, ticket)).is_ok()
    }

    /// Ends the thread.
    pub(super) fn close(&self) {
        self.is_closed.store(true, Ordering::Relaxed);
        // Wakes it, unless it has enough to wake it.
        let _ = self.sender.try_send(QueuedQuestion::Wake);
    }

    fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::Relaxed)
    }
}

/// Answers questions, and feeds admin pages, until it is closed.
pub(super) fn run(monitor: &Monitor, mailboxes: &Mailboxes) {
    let admin = Admin { monitor, mailboxes, node: node() };
    let questions = &monitor.questions;
    let mut due = Instant::now() + INTERVAL;
    while !questions.is_closed() {
        // First: a steady stream of requests would keep the pages waiting.
        if Instant::now() >= due {
            due = Instant::now() + INTERVAL;
            if monitor.common.streams.watching() > 0 {
                admin.tell();
            }
        }
        match questions.receiver.recv_deadline(due) {
            Ok(QueuedQuestion::Question(Question::Status { topic, streams_max }, ticket)) => {
                admin.answer(ticket, &admin.status(topic.as_deref(), streams_max));
            }
            Ok(QueuedQuestion::Question(Question::Sessions { channel }, ticket)) => {
                admin.answer(ticket, &admin.sessions(channel));
            }
            Ok(QueuedQuestion::Wake) | Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

struct Admin<'a> {
    monitor: &'a Monitor,
    mailboxes: &'a Mailboxes,
    node: String,
}

impl Admin<'_> {
    fn answer(&self, ticket: Ticket, json: &Value) {
        let body = json.to_string().into_bytes();
        // Until its client has taken it: it would else be held for each that asks and does not read.
        let answer = self.monitor.questions.answers.take(body.len()).map(|charge| (body, charge));
        if let Some(mailbox) = self.mailboxes.get(usize::from(ticket.shard)) {
            mailbox.post(ShardMessage::Connection(ticket, TicketReply::Json(answer)));
        }
    }

    /// Who is connected on a channel: each user's streams, and since when the oldest of them is there.
    fn sessions(&self, channel: Topic) -> Value {
        let name = Session::of_topic(&channel).map(|session| session.channel().to_owned());
        let (mut found, is_complete) = self.survey(Wanted::Of(channel), SESSION_STREAMS_MAX);
        // Each shard tells of so many, its oldest: together they would not fit into an answer.
        found.streams.sort_by_key(|stream| stream.client.since_s);
        found.streams.truncate(SESSION_STREAMS_MAX);
        let mut users = HashMap::<String, (u32, u64)>::new();
        for stream in &found.streams {
            let Some(session) = stream.topics.last().and_then(Session::of_topic) else { continue };
            let (streams, since_s) = users.entry(session.user().to_owned()).or_insert((0, u64::MAX));
            *streams += 1;
            *since_s = stream.client.since_s.min(*since_s);
        }
        let mut users: Vec<_> = users.into_iter().collect();
        users.sort_by(|(a, (_, a_s)), (b, (_, b_s))| a_s.cmp(b_s).then_with(|| a.cmp(b)));
        let user = |(user, (streams, since_s)): &(String, (u32, u64))| json!({ "userId": user, "streams": streams, "since": since_s });
        json!({
            "channel": name,
            "streams": found.total,
            "cut": found.total > found.streams.len() || !is_complete,
            "users": users.iter().map(user).collect::<Vec<_>>(),
        })
    }

    /// Tells all pages that are open.
    fn tell(&self) {
        let status = self.status(None, PAGE_STREAMS_MAX);
        let text = format!("event:status\ndata:{status}\n\n");
        let Some(charge) = self.monitor.common.budget.take(text.len()) else { return };
        let frames = Chunk::of([text.as_bytes()], text.len(), &self.monitor.common.memory);
        let charge = Arc::new(charge);
        let topic = &self.monitor.access.admin_topic;
        for mailbox in self.mailboxes.iter() {
            // Past the homes: it needs no order and no history.
            mailbox.post(Message::Fanout(ToFanout::Events {
                partition: None,
                topics: smallvec![topic.clone()],
                frames: frames.clone(),
                marks: Marks::new(),
                // Not what publishers published, so not counted as delivered.
                count: 0,
                last: 0,
                at_us: 0,
                charge: Some(Arc::clone(&charge)),
                delivery_count: None,
            }));
        }
    }

    /// How the broker is, with the oldest of its connections.
    fn status(&self, topic: Option<&str>, streams_max: usize) -> Value {
        let wanted = topic.map_or(Wanted::All, |topic| Wanted::Named(topic.into()));
        let (SurveyResult { mut streams, total }, is_complete) = self.survey(wanted, streams_max);
        streams.sort_by_key(|stream| stream.client.since_s);
        streams.truncate(streams_max);
        let mut room = BYTES_PER_STREAM * streams_max.max(PAGE_STREAMS_MAX);
        streams.retain(|stream| {
            // Its names are there twice, and may be 8 KB.
            let names = stream.topics.iter().map(|topic| 2 * topic.name().len() + 16).sum::<usize>();
            let bytes = 256 + names;
            let fits = bytes <= room;
            room = room.saturating_sub(bytes);
            fits
        });
        let stats = self.monitor.stats();
        let queue_path = self.monitor.common.config.queues.as_ref().map_or("/", |queues| &queues.path);
        let connections: Vec<_> = streams.iter().map(|stream| connection(stream, queue_path)).collect();
        json!({
            "node": self.node,
            "status": if self.monitor.common.draining.load(Ordering::Relaxed) { "draining" } else { "OK" },
            "version": env!("CARGO_PKG_VERSION"),
            "reported_at": unix_s(),
            "startup_time": self.monitor.common.started_s,
            "msgs_broadcast": stats["published"],
            "namespaces": self.monitor.access.names.are_paths(),
            "stats": stats,
            "connections_total": total,
            "connections_cut": total > streams.len() || !is_complete,
            "connections": connections,
        })
    }

    /// What all shards answer, and whether all did.
    fn survey(&self, wanted: Wanted, streams_max: usize) -> (SurveyResult, bool) {
        let (found, results) = bounded(self.mailboxes.len());
        let survey = Survey { wanted, streams_max, found };
        for mailbox in self.mailboxes.iter() {
            mailbox.post(ShardMessage::Survey(survey.clone()));
        }
        drop(survey);
        let deadline = Instant::now() + PATIENCE;
        let (mut all, mut answers) = (SurveyResult::default(), 0);
        while answers < self.mailboxes.len() && !self.monitor.questions.is_closed() {
            match results.recv_deadline(deadline.min(Instant::now() + LOOK_INTERVAL)) {
                Ok(found) => {
                    answers += 1;
                    all.total += found.total;
                    all.streams.extend(found.streams);
                }
                Err(RecvTimeoutError::Timeout) if Instant::now() < deadline => {}
                Err(_) => break,
            }
        }
        (all, answers == self.mailboxes.len())
    }
}

fn connection(stream: &StreamStatus, queue_path: &str) -> Value {
    let path = match &stream.topics[..] {
        [topic, ..] if topic.is_of_session() => "/events/".to_owned(),
        [topic] if topic.is_of_queue() => queue_path.to_owned(),
        [topic] => format!("/subscribe/{}", topic.name()),
        topics => {
            let pairs: Vec<_> = topics.iter().map(|topic| format!("topic={}", topic.name())).collect();
            format!("/subscribe?{}", pairs.join("&"))
        }
    };
    let session = stream.topics.last().and_then(Session::of_topic);
    let namespace = match (&session, &stream.topics[..]) {
        (Some(session), _) => format!("/{}", session.shown()),
        (None, [topic]) if topic.is_of_queue() => topic.name().to_owned(),
        (None, topics) => {
            let names: Vec<_> = topics.iter().map(|topic| format!("/{}", topic.name())).collect();
            names.join(" ")
        }
    };
    json!({
        "request_path": path,
        "namespace": namespace,
        "created_at": stream.client.since_s,
        "client_ip": stream.client.address,
        "user_agent": &*stream.client.user_agent,
        "msgs_sent": stream.delivered,
        "lag_bytes": stream.lag_bytes,
        "shard": stream.shard,
    })
}

fn node() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map(|name| name.trim().to_owned())
        .unwrap_or_default()
}
