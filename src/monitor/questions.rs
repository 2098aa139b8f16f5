//! Feeds the admin page and lists who is connected on a channel: asks all shards and puts their answers together on a
//! thread of its own, so that no shard writes a list of ten thousand connections.

use std::collections::HashMap;
use std::fmt;
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
use crate::host;
use crate::journal::cluster::question::{AskNodes, NodeAnswers, NodeQuestion};
use crate::journal::cluster::queue::ToCluster;
use crate::shard::mailbox::Mailboxes;
use crate::shard::message::{ShardMessage, TicketReply};

/// The time between two updates of an admin page.
const INTERVAL: Duration = Duration::from_secs(1);
/// The most connections in an update: 40 KB a second.
const PAGE_STREAMS_MAX: usize = 200;
/// Questions that wait to be answered; further ones are refused.
const REQUESTS_MAX: usize = 16;
/// Bytes of answers under way: a few of the longest.
const ANSWERS_BYTES_MAX: usize = 32 << 20;
/// How often the thread checks whether it must end while it waits for a shard.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);
/// The room of a list for each stream in it, where a usual one takes 300 bytes; streams with many long names are left
/// out.
const BYTES_PER_STREAM: usize = 600;
/// The most streams read to list the users of a channel: 8 MB of JSON if each is another user's.
const SESSION_STREAMS_MAX: usize = 10_000;
/// How long a shard may take to answer; a busier one is left out.
const PATIENCE: Duration = Duration::from_secs(2);

/// Takes the answer to another node.
struct NodeAnswer(Box<dyn FnOnce(Value) + Send>);

impl fmt::Debug for NodeAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NodeAnswer")
    }
}

/// An entry of the thread's queue.
#[derive(Debug)]
enum QueuedQuestion {
    Question(Question, Ticket),
    /// From another node of the cluster.
    Node(NodeQuestion, NodeAnswer),
    /// Check whether the thread must end.
    Wake,
}

/// Questions on their way to the thread, and the memory of unsent answers; owned by [`Monitor`].
#[derive(Debug)]
pub(crate) struct Questions {
    sender: Sender<QueuedQuestion>,
    receiver: Receiver<QueuedQuestion>,
    is_closed: AtomicBool,
    /// The memory of answers that are not sent yet.
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
    /// Queues a question for the thread; returns false when too many wait.
    pub(super) fn ask(&self, question: Question, ticket: Ticket) -> bool {
        self.sender.try_send(QueuedQuestion::Question(question, ticket)).is_ok()
    }

    /// Queues another node's question; drops it when too many wait.
    pub(super) fn answer_node(&self, question: NodeQuestion, answer: Box<dyn FnOnce(Value) + Send>) {
        let _ = self.sender.try_send(QueuedQuestion::Node(question, NodeAnswer(answer)));
    }

    /// Ends the thread.
    pub(super) fn close(&self) {
        self.is_closed.store(true, Ordering::Relaxed);
        // Wakes the thread; a full queue keeps it awake anyway.
        let _ = self.sender.try_send(QueuedQuestion::Wake);
    }

    fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::Relaxed)
    }
}

/// Answers questions and feeds admin pages until it is closed.
pub(super) fn run(monitor: &Monitor, mailboxes: &Mailboxes) {
    let admin = Admin { monitor, mailboxes, node: host::name() };
    let questions = &monitor.questions;
    let mut due = Instant::now() + INTERVAL;
    while !questions.is_closed() {
        // Done first: a steady stream of questions would keep the pages waiting.
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
                admin.answer(ticket, &admin.sessions_of_all(channel));
            }
            Ok(QueuedQuestion::Node(NodeQuestion::Stats, NodeAnswer(answer))) => answer(monitor.stats()),
            Ok(QueuedQuestion::Node(NodeQuestion::Sessions { topic }, NodeAnswer(answer))) => {
                let hasher = monitor.access.names.hasher();
                answer(admin.sessions(Topic::kept(&topic, false, hasher)));
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
        // The charge is held until the client has taken the answer; clients that do not read would otherwise fill
        // memory.
        let answer = self.monitor.questions.answers.take(body.len()).map(|charge| (body, charge));
        self.mailboxes.post(ticket.shard, ShardMessage::Connection(ticket, TicketReply::Json(answer)));
    }

    /// Lists who is connected on a channel: each user's number of streams, and since when the oldest of them is there.
    fn sessions(&self, channel: Topic) -> Value {
        let name = Session::of_topic(&channel).map(|session| session.channel().to_owned());
        let (mut found, is_complete) = self.survey(Wanted::Of(channel), SESSION_STREAMS_MAX);
        // Each shard lists up to this many, its oldest: together they may be too many for one answer.
        found.streams.sort_by_key(|stream| stream.client.since_s);
        found.streams.truncate(SESSION_STREAMS_MAX);
        let mut users = Users::new();
        for stream in &found.streams {
            let Some(session) = stream.topics.last().and_then(Session::of_topic) else { continue };
            let (streams, since_s) = users.entry(session.user().to_owned()).or_insert((0, u64::MAX));
            *streams += 1;
            *since_s = stream.client.since_s.min(*since_s);
        }
        json!({
            "channel": name,
            "streams": found.total,
            "cut": found.total > found.streams.len() || !is_complete,
            "users": list_of(users),
        })
    }

    /// Sends the status to all open admin pages.
    fn tell(&self) {
        let status = self.status(None, PAGE_STREAMS_MAX);
        let text = format!("event:status\ndata:{status}\n\n");
        let Some(charge) = self.monitor.common.budget.take(text.len()) else { return };
        let frames = Chunk::of([text.as_bytes()], text.len(), &self.monitor.common.memory);
        let charge = Arc::new(charge);
        let topic = &self.monitor.access.admin_topic;
        // Not through a home: it needs no order and no history.
        self.mailboxes.post_to_all(|| {
            let events = ToFanout::Events {
                partition: None,
                topics: smallvec![topic.clone()],
                frames: frames.clone(),
                marks: Marks::new(),
                published_to: None,
                // These are not published events, so they are not counted as delivered.
                count: 0,
                last: 0,
                at_us: 0,
                charge: Some(Arc::clone(&charge)),
                delivery_count: None,
            };
            Message::Fanout(events).into()
        });
    }

    /// Returns the broker's status with the oldest of its connections.
    fn status(&self, topic: Option<&str>, streams_max: usize) -> Value {
        let wanted = topic.map_or(Wanted::All, |topic| Wanted::Named(topic.into()));
        let (SurveyResult { mut streams, total }, is_complete) = self.survey(wanted, streams_max);
        streams.sort_by_key(|stream| stream.client.since_s);
        streams.truncate(streams_max);
        let mut room = BYTES_PER_STREAM * streams_max.max(PAGE_STREAMS_MAX);
        streams.retain(|stream| {
            // Each name is there twice and may be 8 KB.
            let names = stream.topics.iter().map(|topic| 2 * topic.name().len() + 16).sum::<usize>();
            let bytes = 256 + names;
            let fits = bytes <= room;
            room = room.saturating_sub(bytes);
            fits
        });
        let stats = self.monitor.stats();
        let nodes = self.ask_nodes(NodeQuestion::Stats).map(|answers| lines_of(&answers));
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
            "nodes": nodes,
            "connections_total": total,
            "connections_cut": total > streams.len() || !is_complete,
            "connections": connections,
        })
    }

    /// Lists who is connected on a channel, at any node of the cluster.
    fn sessions_of_all(&self, channel: Topic) -> Value {
        let question = NodeQuestion::Sessions { topic: channel.name().into() };
        let own = self.sessions(channel);
        match self.ask_nodes(question) {
            Some(answers) => sum_of_sessions(own, answers),
            None => own,
        }
    }

    /// Returns the answers of the cluster's other nodes; `None` without a cluster.
    fn ask_nodes(&self, question: NodeQuestion) -> Option<NodeAnswers> {
        let (_, sender) = self.monitor.cluster.as_ref()?;
        let (answers, answered) = bounded(1);
        sender.send(ToCluster::Ask(AskNodes { question, answers })).ok()?;
        Some(answered.recv_timeout(PATIENCE).unwrap_or_default())
    }

    /// Returns the answers of all shards, and whether all answered in time.
    fn survey(&self, wanted: Wanted, streams_max: usize) -> (SurveyResult, bool) {
        let (found, results) = bounded(self.mailboxes.shards());
        let survey = Survey { wanted, streams_max, found };
        self.mailboxes.post_to_all(|| ShardMessage::Survey(survey.clone()));
        drop(survey);
        let deadline = Instant::now() + PATIENCE;
        let (mut all, mut answers) = (SurveyResult::default(), 0);
        while answers < self.mailboxes.shards() && !self.monitor.questions.is_closed() {
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
        (all, answers == self.mailboxes.shards())
    }
}

/// The users of a channel: each one's number of streams, and since when the oldest of them is there, in Unix seconds.
type Users = HashMap<String, (u64, u64)>;

/// Returns the list of users, who came first before others.
fn list_of(users: Users) -> Value {
    let mut users: Vec<_> = users.into_iter().collect();
    users.sort_by(|(a, (_, a_s)), (b, (_, b_s))| a_s.cmp(b_s).then_with(|| a.cmp(b)));
    let user = |(user, (streams, since_s))| json!({ "userId": user, "streams": streams, "since": since_s });
    users.into_iter().map(user).collect()
}

/// Adds what the other nodes list of a channel to this node's list.
fn sum_of_sessions(mut own: Value, answers: NodeAnswers) -> Value {
    let mut users = Users::new();
    let (mut streams, mut is_cut) = (0, !answers.silent.is_empty());
    for list in answers.answers.iter().map(|(_, list)| list).chain([&own]) {
        streams += list["streams"].as_u64().unwrap_or(0);
        is_cut |= list["cut"].as_bool().unwrap_or(true);
        for user in list["users"].as_array().into_iter().flatten() {
            let Some(name) = user["userId"].as_str() else { continue };
            let (of_user, since_s) = users.entry(name.to_owned()).or_insert((0, u64::MAX));
            *of_user += user["streams"].as_u64().unwrap_or(0);
            *since_s = user["since"].as_u64().unwrap_or(u64::MAX).min(*since_s);
        }
    }
    own["streams"] = streams.into();
    own["cut"] = is_cut.into();
    own["users"] = list_of(users);
    own["silent_nodes"] = answers.silent.into();
    own
}

/// Returns a line for each other node: its name, and its most important counters; only the name of one that did not
/// answer.
fn lines_of(answers: &NodeAnswers) -> Value {
    const SHOWN: [&str; 5] = ["clients", "connections", "published", "delivered", "evicted"];
    let answered = answers.answers.iter().map(|(name, stats)| {
        let mut line = json!({ "node": name, "answered": true, "cluster": stats["cluster"] });
        SHOWN.iter().for_each(|key| line[*key] = stats[*key].clone());
        line
    });
    let silent = answers.silent.iter().map(|name| json!({ "node": name, "answered": false }));
    answered.chain(silent).collect()
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
