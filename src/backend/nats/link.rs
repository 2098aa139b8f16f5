//! The thread that has the connection: it sends what the shards want ordered, and tells them what came of it.

mod applying;
mod nodes;
mod watching;

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::thread::Builder;
use std::time::{Duration, Instant};

use async_nats::{Client, HeaderMap, PublishErrorKind, Subscriber, header};
use futures_util::StreamExt as _;
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::sync::watch;

use super::acks::{self, Answered};
use super::connect::is_connected;
use super::counts::Counts;
use super::peers::{HERE_INTERVAL, NodeMessage, Peers};
use super::reader::ReadFrom;
use super::start::{Decoder, NodeLink, NodeParts};
use super::stream::{Agreed, ClusterStream, NoFacts, StreamFacts};
use crate::backend::NodeConfig;
use crate::backend::cluster::{AnswerQuestion, ClusterThread, OpenedCluster};
use crate::backend::throttle::Throttle;
use crate::core::event_id::Epoch;
use crate::core::message::{Callback, CountFor, OrderError, Publish, Reply, ReplyTo, Ticket};
use crate::core::partition::{PartitionId, Placement};
use crate::journal::cluster::events::{ClusterEvents, ClusterNews};
use crate::journal::cluster::inbound::Inbound;
use crate::journal::cluster::outbound::{Ack, OutMessage, Outbound, Wish};
use crate::journal::cluster::question::fitting;
use crate::journal::cluster::queue::ToCluster;
use crate::journal::cluster::state::ClusterState;

/// How often messages are looked at that were not answered.
const TICK: Duration = Duration::from_millis(100);
/// How often the stream's leader is asked, and how often while subscribers wait for the answer, or it must be confirmed.
const ASK_INTERVAL: Duration = Duration::from_secs(2);
const ASK_INTERVAL_WAITING: Duration = Duration::from_millis(200);
/// A request that was not answered took its time already.
const ASK_INTERVAL_SILENT: Duration = Duration::from_millis(500);
/// Answers that the leader may owe before this node counts as cut off.
const SILENT_MAX: u32 = 2;
/// Answers that the leader may owe before another server is tried: this one may not reach the others.
const SILENT_MOVE: u32 = 3;
/// Answers that must say that the stream is another one: one of a leader that others have already replaced, and that does
/// not know it yet, may be the first.
const ANOTHER_MIN: u32 = 2;
/// Answers that must say that the stream is not there before it is made again. A silent leader is no answer.
const DELETED_MIN: u32 = 4;
/// A node that is behind and reads nothing for so long reads again.
const STALL: Duration = Duration::from_secs(3);
/// A node that is cut off for so long is not ready.
const NOT_READY_AFTER: Duration = Duration::from_secs(5);
/// While no server at all can be reached for so long, streams are sent to other nodes, in steps of a second.
const SEND_AWAY_AFTER: Duration = Duration::from_secs(10);
const SEND_AWAY_STEP: Duration = Duration::from_secs(1);
/// Messages that a node may be behind and still be ready.
const READY_LAG_MAX: u64 = 1000;
/// The time limit of one attempt to begin a new epoch. The thread handles no message during it.
const RESET_TIME: Duration = Duration::from_secs(5);
/// How long an ending node waits for what it sent.
const STOP_TIME: Duration = Duration::from_secs(3);
/// The time for which the histogram of acknowledgements remembers when a message was sent: longer than `GIVE_UP_MS` (20 s),
/// after which the message is not sent again.
const SENT_KNOWN: Duration = Duration::from_secs(30);
/// Time between two lines in the log about what may come with each message.
const SAID_EVERY: Duration = Duration::from_secs(10);
/// Bytes of a message beside its payload: its headers.
const HEADER_BYTES: usize = 512;

/// Starts the thread, which passes its result to `ended`.
///
/// # Errors
/// The thread cannot be started.
pub(crate) fn start(
    opened: OpenedCluster,
    events: impl ClusterEvents,
    answers: AnswerQuestion,
    name: String,
    ended: impl FnOnce(Result<(), String>) + Send + 'static,
) -> io::Result<ClusterThread> {
    let OpenedCluster { settings, state, sender, link: NodeLink { received, runtime, parts }, .. } = opened;
    let to_self = sender.clone();
    let thread = Builder::new().name("esper-cluster".to_owned()).spawn(move || {
        let run = run(parts, settings.placement, state, events, answers, name, to_self, received);
        ended(runtime.block_on(run).map_err(|reason| reason.to_string()));
        // Does not wait for a name lookup under way.
        runtime.shutdown_background();
    })?;
    Ok(ClusterThread { sender, thread })
}

/// What the stream's leader was asked, and what it said.
struct Polled {
    facts: Result<StreamFacts, NoFacts>,
    /// The epoch that was in force when it was asked.
    epoch: Epoch,
    /// The newest message that was applied when it was asked.
    last: u64,
    /// Whether the stream still has that message, as it was applied.
    has_last: Option<bool>,
}

#[expect(clippy::too_many_arguments, reason = "each is a part of its own, and it is called once")]
async fn run<E: ClusterEvents>(
    parts: NodeParts,
    placement: Placement,
    state: Arc<ClusterState>,
    events: E,
    answers: AnswerQuestion,
    name: String,
    to_self: UnboundedSender<ToCluster>,
    mut received: UnboundedReceiver<ToCluster>,
) -> Result<(), async_nats::Error> {
    let NodeParts {
        client,
        stream,
        facts: _,
        agreed,
        config,
        inbound,
        decoder,
        from,
        mut messages,
        mut changed,
        node,
    } = parts;
    let inbox = client.new_inbox();
    let mut acks = client.subscribe(format!("{inbox}.*")).await?;
    let mut to_all = client.subscribe(stream.node_subject(None)).await?;
    let mut to_me = client.subscribe(stream.node_subject(Some(node))).await?;
    let (ask, asks) = watch::channel(inbound.clone());
    let (tell, mut polls) = mpsc::unbounded_channel();
    let payload_max = client.server_info().max_payload.saturating_sub(HEADER_BYTES);
    let polling = tokio::spawn(poll(stream.clone(), Arc::clone(&state), asks, tell));
    let mut link = Link {
        outbound: Outbound::new(inbound.epoch(), node, config.partitions, payload_max),
        counts: Counts::default(),
        peers: Peers::new(node),
        sent: HashMap::new(),
        foreign: Throttle::new(SAID_EVERY),
        refusals: Throttle::new(SAID_EVERY),
        started: Instant::now(),
        cut_off_since: None,
        disconnected: None,
        silent: 0,
        deleted: 0,
        unfit: None,
        is_window_said: false,
        another: 0,
        stalled: None,
        next_here: Instant::now(),
        is_new: true,
        client,
        stream,
        config,
        agreed,
        must_reset: false,
        is_epoch_noted: true,
        inbound,
        decoder,
        from,
        node,
        inbox,
        ask,
        placement,
        state,
        events,
        answers,
        name,
        to_self,
    };
    // The connection of the start is none that was made again; but it may be lost by now.
    while changed.try_recv().is_ok() {}
    if !is_connected(&link.client) {
        link.connection_changed();
    }
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut stopping: Option<Instant> = None;
    loop {
        link.send_next().await;
        if let Some(since) = stopping
            && (link.outbound.is_empty() || since.elapsed() > STOP_TIME)
        {
            break;
        }
        // While shards have much to take over, nothing more is read.
        let has_room = link.has_room();
        tokio::select! {
            Some(message) = received.recv() => match message {
                ToCluster::Stop => stopping = Some(Instant::now()),
                message => link.take(message).await,
            },
            Some(message) = acks.next() => link.acknowledged(&message),
            Some((turn, message)) = messages.recv(), if has_room => link.read(turn, message).await,
            message = next_of(&mut to_all, &mut to_me) => link.heard(&message.payload).await,
            Some(()) = changed.recv() => link.connection_changed(),
            polled = polls.recv() => match polled {
                Some(polled) => link.polled(polled).await?,
                None => return Err("nobody asks the stream's leader any more".into()),
            },
            _ = tick.tick() => link.tick().await,
        }
    }
    link.tell(None, &NodeMessage::Gone { node }).await;
    let _ = tokio::time::timeout(STOP_TIME, link.client.flush()).await;
    polling.abort();
    Ok(())
}

async fn next_of(all: &mut Subscriber, me: &mut Subscriber) -> async_nats::Message {
    loop {
        tokio::select! {
            Some(message) = all.next() => return message,
            Some(message) = me.next() => return message,
            else => std::future::pending::<()>().await,
        }
    }
}

/// Asks the stream's leader again and again; `asks` has the place of the node, and is sent to ask at once.
async fn poll(
    stream: ClusterStream,
    state: Arc<ClusterState>,
    mut asks: watch::Receiver<Inbound>,
    tell: UnboundedSender<Polled>,
) {
    loop {
        let inbound = asks.borrow_and_update().clone();
        let facts = stream.facts().await;
        let has_last = match &facts {
            Ok(facts) if facts.first <= inbound.last() => stream.has_last(&inbound).await,
            _ => None,
        };
        let is_another =
            has_last == Some(false) || facts.as_ref().is_ok_and(|facts| facts.last < inbound.last());
        let is_silent = facts.is_err();
        if tell.send(Polled { facts, epoch: inbound.epoch(), last: inbound.last(), has_last }).is_err() {
            return;
        }
        let is_urgent = is_another || state.waiting() > 0;
        let interval = match is_silent {
            true => ASK_INTERVAL_SILENT,
            false if is_urgent => ASK_INTERVAL_WAITING,
            false => ASK_INTERVAL,
        };
        tokio::select! {
            _ = asks.changed() => {}
            () = wait(interval, &state) => {}
        }
    }
}

/// Waits so long, or less when subscribers begin to wait.
async fn wait(interval: Duration, state: &ClusterState) {
    let end = Instant::now() + interval;
    while Instant::now() < end {
        tokio::time::sleep(ASK_INTERVAL_WAITING.min(end - Instant::now())).await;
        if state.waiting() > 0 {
            return;
        }
    }
}

struct Link<E> {
    client: Client,
    stream: ClusterStream,
    config: NodeConfig,
    /// What the stream said when the order began.
    agreed: Agreed,
    /// The order must begin anew, and could not yet: nothing is applied.
    must_reset: bool,
    /// The stream's own notes have the epoch in force, as far as this node knows.
    is_epoch_noted: bool,
    outbound: Outbound,
    inbound: Inbound,
    decoder: Decoder,
    counts: Counts,
    peers: Peers,
    /// When messages that are not acknowledged were sent.
    sent: HashMap<u64, Instant>,
    /// Limits lines about messages that are not esper's, and about answers of NATS that are no acknowledgement.
    foreign: Throttle,
    refusals: Throttle,
    started: Instant,
    cut_off_since: Option<Instant>,
    /// When the connection was lost, and the steps left in which streams are sent to other nodes.
    disconnected: Option<(Instant, u32)>,
    /// Answers that the leader owes.
    silent: u32,
    /// Answers, since the last of the stream itself, that said that it is not there.
    deleted: u32,
    /// Why this node cannot take part in the stream that is there; nothing is read or sent meanwhile.
    unfit: Option<String>,
    /// The log was told that the stream forgets numbers of messages too early.
    is_window_said: bool,
    /// Answers in a row that said that the stream is another one.
    another: u32,
    /// The place at which the node is behind, and since when.
    stalled: Option<(u64, Instant)>,
    next_here: Instant,
    is_new: bool,
    from: watch::Sender<ReadFrom>,
    node: u64,
    inbox: String,
    ask: watch::Sender<Inbound>,
    placement: Placement,
    state: Arc<ClusterState>,
    events: E,
    answers: AnswerQuestion,
    name: String,
    to_self: UnboundedSender<ToCluster>,
}

impl<E: ClusterEvents> Link<E> {
    fn has_room(&self) -> bool {
        self.decoder.budget.bytes() < self.decoder.budget.bytes_max()
    }

    fn now_ms(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }

    async fn take(&mut self, message: ToCluster) {
        match message {
            ToCluster::Wishes(wishes) => {
                for (partition, wish) in wishes {
                    if self.cut_off_since.is_some() {
                        self.refuse(partition, wish, OrderError::CutOff);
                    } else if let Some(wish) = self.outbound.push(partition, wish) {
                        self.refuse(partition, wish, OrderError::TooLarge);
                    }
                }
            }
            ToCluster::OwnReply { count, reply } => {
                let done = self.counts.own(count, reply, Instant::now());
                self.reply(done);
            }
            ToCluster::Counted { node, count, streams } => {
                let message = NodeMessage::Count { node: self.node, count, streams };
                self.tell(Some(node), &message).await;
            }
            ToCluster::Ask(asking) => {
                let message = self.peers.ask(asking, Instant::now());
                self.tell(None, &message).await;
            }
            ToCluster::Answer { node, id, body } => {
                let body = fitting(body, self.client.server_info().max_payload.saturating_sub(HEADER_BYTES));
                let message = NodeMessage::Answer { node: self.node, id, body };
                self.tell(Some(node), &message).await;
            }
            ToCluster::GiveUp => self.give_up(),
            ToCluster::Stop => {}
        }
    }

    /// Sends what waits and can be sent.
    async fn send_next(&mut self) {
        if self.cut_off_since.is_some() {
            return;
        }
        let (now_ms, stream_ms) = (self.now_ms(), self.decoder.stream_ms());
        let (counts, peers, to_self) = (&mut self.counts, &self.peers, &self.to_self);
        let sending = self.outbound.next(now_ms, stream_ms, |wish| count(wish, counts, peers, to_self));
        for sending in sending {
            self.send(sending).await;
        }
    }

    async fn send(&mut self, OutMessage { partition, number, payload }: OutMessage) {
        let mut headers = HeaderMap::new();
        headers.insert(header::NATS_MESSAGE_ID, format!("{:x}-{number}", self.node).as_str());
        headers.insert(header::NATS_EXPECTED_STREAM, self.stream.name.as_str());
        self.state.messages.add(1);
        self.sent.insert(number, Instant::now());
        let (subject, reply) = (self.stream.subject(partition), format!("{}.{number}", self.inbox));
        // An error is a connection that is lost for good, or a payload that became too large: it is not answered.
        let sent = self.client.publish_with_reply_and_headers(subject, reply, headers, payload).await;
        if let Err(error) = sent {
            tracing::debug!("message {number} was not sent: {error}");
            if error.kind() == PublishErrorKind::MaxPayloadExceeded {
                self.settled(number, Ack::Refused(OrderError::TooLarge));
            }
        }
    }

    fn acknowledged(&mut self, message: &async_nats::Message) {
        let Some(Answered { number, ack, reason }) = acks::read(message) else { return };
        if let Some(reason) = reason
            && let Some(times) = self.refusals.count()
        {
            tracing::warn!(
                times,
                "the stream {} did not take a message, which is sent again for 20 seconds: {reason}",
                self.stream.name
            );
        }
        if ack == Ack::Stored
            && let Some(sent) = self.sent.remove(&number)
        {
            self.state.acknowledged(sent.elapsed());
        }
        self.settled(number, ack);
    }

    fn settled(&mut self, number: u64, ack: Ack) {
        if let Some((partition, wishes, error)) = self.outbound.acknowledged(number, ack) {
            self.sent.remove(&number);
            self.refuse_all(partition, wishes, error);
        }
    }

    fn tell_all(&self, mut news: impl FnMut() -> ClusterNews) {
        (0..self.placement.shards()).for_each(|shard| self.events.tell(shard, news()));
    }

    fn refuse_all(&self, partition: PartitionId, wishes: impl IntoIterator<Item = Wish>, error: OrderError) {
        wishes.into_iter().for_each(|wish| self.refuse(partition, wish, error));
    }

    fn refuse(&self, partition: PartitionId, wish: Wish, error: OrderError) {
        match wish {
            Wish::Publish(publish) => {
                let shard = self.placement.home(partition);
                self.events.tell(shard, ClusterNews::Refused(partition, publish, error));
            }
            Wish::Disconnect { count_for: CountFor::Connection(ticket), .. } => {
                self.events.reply(ticket, Reply::Published(Err(error)));
            }
            Wish::Disconnect { count_for: CountFor::Caller(callback), .. } => {
                callback.call(Reply::Published(Err(error)));
            }
        }
    }

    fn reply(&self, done: Option<(Ticket, Reply)>) {
        if let Some((ticket, reply)) = done {
            self.events.reply(ticket, reply);
        }
    }
}

/// Gives a wish that waits for a count of streams its number, and has its reply come by this thread; 0 for others.
fn count(wish: &mut Wish, counts: &mut Counts, peers: &Peers, to_self: &UnboundedSender<ToCluster>) -> u64 {
    let ticket = match wish {
        Wish::Publish(Publish { reply: ReplyTo::Emitter(ticket), .. })
        | Wish::Disconnect { count_for: CountFor::Connection(ticket), .. } => *ticket,
        _ => return 0,
    };
    let number = counts.begin(ticket, peers.others());
    let to_self = to_self.clone();
    let callback =
        Callback::new(move |reply| drop(to_self.send(ToCluster::OwnReply { count: number, reply })));
    match wish {
        Wish::Publish(publish) => publish.reply = ReplyTo::CountingCaller(callback),
        Wish::Disconnect { count_for, .. } => *count_for = CountFor::Caller(callback),
    }
    number
}
