//! The thread that has the connection: it sends what the shards want ordered, and tells them what came of it.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use async_nats::{Client, HeaderMap, Subscriber, header};
use bytes::Bytes;
use futures_util::StreamExt as _;
use serde_json::Value;
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::sync::watch;

use super::acks;
use super::connect::is_connected;
use super::counts::Counts;
use super::peers::{HERE_INTERVAL, NodeMessage, Peers};
use super::reader::{ReadFrom, read_from};
use super::start::{Decoder, NodeParts, OpenedCluster, begin};
use super::stream::{ClusterStream, NoFacts, StreamFacts};
use crate::core::event_id::Epoch;
use crate::core::home::Applied;
use crate::core::message::{Callback, CountFor, Disconnect, OrderError, Publish, Reply, ReplyTo, ShardId};
use crate::core::partition::{PartitionId, Placement};
use crate::journal::cluster::events::{ClusterEvents, ClusterNews};
use crate::journal::cluster::inbound::{Inbound, StreamMessage};
use crate::journal::cluster::message::{DisconnectItem, Item, MessageHead, PublishItem, end_of};
use crate::journal::cluster::outbound::{Ack, Outbound, Sending, Wish};
use crate::journal::cluster::question::NodeQuestion;
use crate::journal::cluster::queue::ToCluster;
use crate::journal::cluster::state::ClusterState;

/// How often messages are looked at that were not answered.
const TICK: Duration = Duration::from_millis(100);
/// How often the stream's leader is asked, and how often while subscribers wait for the answer, or it must be confirmed.
const ASK_INTERVAL: Duration = Duration::from_secs(2);
const ASK_INTERVAL_WAITING: Duration = Duration::from_millis(200);
/// Answers that the leader may owe before this node counts as cut off.
const SILENT_MAX: u32 = 2;
/// Answers that the leader may owe before another server is tried: this one may not reach the others.
const SILENT_MOVE: u32 = 4;
/// Answers that must say that the stream is another one: one of a leader that others have already replaced, and that does
/// not know it yet, may be the first.
const ANOTHER_MIN: u32 = 2;
/// A node that is cut off for so long is not ready.
const NOT_READY_AFTER: Duration = Duration::from_secs(5);
/// Messages that a node may be behind and still be ready.
const READY_LAG_MAX: u64 = 1000;
/// How long an ending node waits for what it sent.
const STOP_TIME: Duration = Duration::from_secs(3);
/// Bytes of a message beside its payload: its headers.
const HEADER_BYTES: usize = 512;

/// Answers a question of another node, by calling the function it is given, on any thread.
pub(crate) type AnswerQuestion = Box<dyn Fn(NodeQuestion, Box<dyn FnOnce(Value) + Send>) + Send>;

/// The thread; the server owns it.
#[derive(Debug)]
pub(crate) struct ClusterThread {
    sender: UnboundedSender<ToCluster>,
    thread: JoinHandle<()>,
}

impl ClusterThread {
    pub(super) fn start(
        opened: OpenedCluster,
        events: impl ClusterEvents,
        answers: AnswerQuestion,
        name: String,
    ) -> io::Result<Self> {
        let OpenedCluster { settings, state, sender, received, runtime, parts, .. } = opened;
        let to_self = sender.clone();
        let thread = Builder::new().name("esper-cluster".to_owned()).spawn(move || {
            let run = run(parts, settings.placement, state, events, answers, name, to_self, received);
            if let Err(reason) = runtime.block_on(run) {
                tracing::error!("the connection to the cluster ended: {reason}");
            }
            // Does not wait for a name lookup under way.
            runtime.shutdown_background();
        })?;
        Ok(ClusterThread { sender, thread })
    }

    /// Sends what waits, and returns when the thread has ended.
    pub(crate) fn stop(self) {
        let _ = self.sender.send(ToCluster::Stop);
        // The panic hook has reported a panic already.
        let _ = self.thread.join();
    }
}

/// What the stream's leader was asked, and what it said.
struct Polled {
    facts: Result<StreamFacts, NoFacts>,
    /// The newest message that was applied when it was asked, and the epoch.
    last: u64,
    epoch: Epoch,
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
        facts,
        inbound,
        decoder,
        from,
        mut messages,
        mut changed,
        node,
        partitions,
    } = parts;
    let inbox = client.new_inbox();
    let mut acks = client.subscribe(format!("{inbox}.*")).await?;
    let subjects = (format!("{}.node.all", stream.name), format!("{}.node.{node}", stream.name));
    let mut to_all = client.subscribe(subjects.0.clone()).await?;
    let mut to_me = client.subscribe(subjects.1.clone()).await?;
    let (ask, asks) = watch::channel(inbound.clone());
    let (tell, mut polls) = mpsc::unbounded_channel();
    let payload_max = client.server_info().max_payload.saturating_sub(HEADER_BYTES);
    let polling = tokio::spawn(poll(stream.clone(), Arc::clone(&state), asks, tell));
    let mut link = Link {
        outbound: Outbound::new(inbound.epoch(), node, partitions, payload_max),
        counts: Counts::default(),
        peers: Peers::new(node),
        sent: HashMap::new(),
        started: Instant::now(),
        cut_off_since: None,
        silent: 0,
        another: 0,
        stalled_at: None,
        next_here: Instant::now(),
        is_new: true,
        client,
        stream,
        created_ns: facts.created_ns,
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
        let has_room = link.decoder.budget.bytes() < link.decoder.budget.bytes_max();
        tokio::select! {
            Some(message) = received.recv() => match message {
                ToCluster::Stop => stopping = Some(Instant::now()),
                message => link.take(message).await,
            },
            Some(message) = acks.next() => link.acknowledged(&message),
            Some((turn, message)) = messages.recv(), if has_room => link.read(turn, message).await,
            message = next_of(&mut to_all, &mut to_me) => link.heard(&message.payload).await,
            Some(()) = changed.recv() => link.connection_changed(),
            Some(polled) = polls.recv() => link.polled(polled).await,
            _ = tick.tick() => link.tick().await,
        }
    }
    link.tell(&subjects.0, &NodeMessage::Gone { node }).await;
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
        if tell.send(Polled { facts, last: inbound.last(), epoch: inbound.epoch(), has_last }).is_err() {
            return;
        }
        let is_urgent = is_another || state.waiting() > 0;
        let interval = if is_urgent { ASK_INTERVAL_WAITING } else { ASK_INTERVAL };
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
    /// When the stream was made that this node has read.
    created_ns: i128,
    outbound: Outbound,
    inbound: Inbound,
    decoder: Decoder,
    counts: Counts,
    peers: Peers,
    /// When messages that are not acknowledged were sent.
    sent: HashMap<u64, Instant>,
    started: Instant,
    cut_off_since: Option<Instant>,
    /// Answers that the leader owes.
    silent: u32,
    /// Answers in a row that said that the stream is another one.
    another: u32,
    /// The place at which the node was behind when the leader last answered.
    stalled_at: Option<u64>,
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
                self.tell(&format!("{}.node.{node}", self.stream.name), &message).await;
            }
            ToCluster::Ask(asking) => {
                let message = self.peers.ask(asking, Instant::now());
                self.tell(&format!("{}.node.all", self.stream.name), &message).await;
            }
            ToCluster::Answer { node, id, body } => {
                let message = NodeMessage::Answer { node: self.node, id, body };
                self.tell(&format!("{}.node.{node}", self.stream.name), &message).await;
            }
            ToCluster::Stop => {}
        }
    }

    /// Sends what waits and can be sent.
    async fn send_next(&mut self) {
        if self.cut_off_since.is_some() {
            return;
        }
        let (counts, others, to_self) = (&mut self.counts, self.peers.others(), &self.to_self);
        let sending = self
            .outbound
            .next(self.started.elapsed().as_millis() as u64, |wish| count(wish, counts, &others, to_self));
        for sending in sending {
            self.send(sending).await;
        }
    }

    async fn send(&mut self, Sending { partition, number, payload }: Sending) {
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
        }
    }

    fn acknowledged(&mut self, message: &async_nats::Message) {
        let Some((number, ack)) = acks::read(message) else { return };
        if ack == Ack::Stored
            && let Some(sent) = self.sent.remove(&number)
        {
            self.state.acknowledged(sent.elapsed());
        }
        if let Some((partition, wishes, error)) = self.outbound.acknowledged(number, ack) {
            self.sent.remove(&number);
            for wish in wishes {
                self.refuse(partition, wish, error);
            }
        }
    }

    /// Takes what the reader read, unless it was told since to read on elsewhere: after the order began anew it would be
    /// taken for the new stream's.
    async fn read(&mut self, turn: u64, message: StreamMessage) {
        let is_of_turn = self.from.borrow().turn == turn;
        if !is_of_turn {
            return;
        }
        if self.inbound.contradicts(&message) {
            self.begin_anew().await;
            if self.from.borrow().turn == turn {
                // It could not begin yet. Nothing behind this message counts until it does.
                read_from(&self.from, self.inbound.last() + 1);
            }
            return;
        }
        self.apply(message).await;
    }

    /// Applies the next message of the stream.
    async fn apply(&mut self, message: StreamMessage) {
        let epoch = self.inbound.epoch();
        // Messages about the stream itself are rare.
        let before = message.partition.is_none().then(|| self.inbound.clone());
        let Some(taken) = self.inbound.take(&message) else { return };
        self.state.applied.set(self.inbound.last());
        if let Some(reason) = taken.malformed {
            self.state.malformed.add(1);
            tracing::warn!(
                "message {} of the stream {} is passed over: {reason}",
                message.number,
                self.stream.name
            );
        }
        if let Some(upto) = taken.missed {
            self.missed(upto);
        }
        if self.inbound.epoch() != epoch {
            if !self.reset(epoch).await {
                // It is read once more.
                self.inbound = before.unwrap_or_else(|| self.inbound.clone());
                read_from(&self.from, self.inbound.last() + 1);
            }
            return;
        }
        let Some(head) = taken.head else { return };
        let Some(partition) = message.partition else {
            return self.tell_all(|| ClusterNews::Advanced(end_of(message.number)));
        };
        let wishes = if head.node == self.node { self.outbound.came_back(head.number) } else { None };
        let mut wishes = wishes.unwrap_or_default().into_iter();
        let shard = self.placement.home(partition);
        let mut applied = Vec::new();
        for item in taken.items {
            let wish = wishes.next();
            match item {
                Item::Publish(item) => {
                    self.state.publishes.add(1);
                    applied
                        .extend(self.applied(&message, head, item, wish).map(|applied| (partition, applied)));
                }
                Item::Disconnect(item) => {
                    self.hand_over(shard, &mut applied);
                    if let Some(disconnect) = self.disconnect(partition, head, item, wish) {
                        self.events.tell(shard, ClusterNews::Disconnect(partition, disconnect));
                    }
                }
                Item::Epoch { .. } => {}
            }
        }
        self.hand_over(shard, &mut applied);
    }

    fn hand_over(&self, shard: ShardId, applied: &mut Vec<(PartitionId, Applied)>) {
        if !applied.is_empty() {
            self.events.tell(shard, ClusterNews::Applied(std::mem::take(applied)));
        }
    }

    /// Returns a publish to apply, with who waits for its answer.
    fn applied(
        &self,
        message: &StreamMessage,
        head: MessageHead,
        item: PublishItem,
        wish: Option<Wish>,
    ) -> Option<Applied> {
        let count = item.count;
        let mut applied = self.decoder.publish(message, item)?;
        match wish {
            Some(Wish::Publish(Publish { reply, at_us, charge, .. })) => {
                applied.is_own = true;
                applied.publish = Publish { reply, at_us, charge, ..applied.publish };
            }
            _ if count > 0 && head.node != self.node => {
                applied.publish.reply = ReplyTo::CountingCaller(self.count_for(head.node, count));
            }
            _ => {}
        }
        Some(applied)
    }

    fn disconnect(
        &self,
        partition: PartitionId,
        head: MessageHead,
        DisconnectItem { topic, count }: DisconnectItem,
        wish: Option<Wish>,
    ) -> Option<Disconnect> {
        let topic = self.decoder.topic(&topic, partition)?;
        let count_for = match wish {
            Some(Wish::Disconnect { count_for, .. }) => count_for,
            _ => CountFor::Caller(self.count_for(head.node, count)),
        };
        Some(Disconnect { topic, shards: self.placement.shards(), count_for })
    }

    /// Returns what tells another node how many streams of this one were reached.
    fn count_for(&self, node: u64, count: u64) -> Callback {
        let to_self = self.to_self.clone();
        Callback::new(move |reply| {
            let streams = match reply {
                Reply::Published(Ok(published)) => published.streams.unwrap_or(0),
                Reply::Disconnected(streams) => streams,
                Reply::Published(Err(_)) => 0,
            };
            let _ = to_self.send(ToCluster::Counted { node, count, streams });
        })
    }

    fn missed(&self, upto: u64) {
        self.state.missed.add(1);
        tracing::warn!(
            "events of the stream {} are gone that this node had not read; its streams are told",
            self.stream.name
        );
        self.tell_all(|| ClusterNews::Missed(upto));
    }

    fn tell_all(&self, mut news: impl FnMut() -> ClusterNews) {
        (0..self.placement.shards()).for_each(|shard| self.events.tell(shard, news()));
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

    fn reply(&self, done: Option<(crate::core::message::Ticket, Reply)>) {
        if let Some((ticket, reply)) = done {
            self.events.reply(ticket, reply);
        }
    }

    fn connection_changed(&mut self) {
        if is_connected(&self.client) {
            self.state.reconnects.add(1);
            // What the server sent meanwhile is lost: the consumer begins again, and the stream is looked at.
            read_from(&self.from, self.inbound.last() + 1);
            self.ask.send_replace(self.inbound.clone());
        } else {
            self.cut_off("the connection is lost");
        }
    }

    fn cut_off(&mut self, reason: &str) {
        if self.cut_off_since.is_some() {
            return;
        }
        tracing::warn!("cut off from the cluster: {reason}; publishes are refused, and streams stay");
        self.cut_off_since = Some(Instant::now());
        self.state.set_cut_off(true);
        for (partition, wish) in self.outbound.take_waiting() {
            self.refuse(partition, wish, OrderError::CutOff);
        }
    }

    /// Takes in what the stream's leader said.
    async fn polled(&mut self, Polled { facts, last, epoch, has_last }: Polled) {
        // The order began anew meanwhile: what was applied before does not count.
        if epoch != self.inbound.epoch() {
            return;
        }
        let facts = match facts {
            Ok(facts) => facts,
            Err(NoFacts::Deleted) => {
                tracing::error!("the stream {} was deleted; it is made again", self.stream.name);
                self.stream.forget_epoch();
                if let Err(error) = self.stream.make().await {
                    tracing::error!("{error}");
                }
                self.ask.send_replace(self.inbound.clone());
                return;
            }
            Err(NoFacts::Silent(reason)) => {
                self.silent += 1;
                if self.silent.is_multiple_of(SILENT_MOVE)
                    && let Err(error) = self.client.force_reconnect().await
                {
                    tracing::debug!("the NATS connection: {error}");
                }
                if self.silent >= SILENT_MAX {
                    self.cut_off(&format!(
                        "the stream {} has no leader that answers ({reason})",
                        self.stream.name
                    ));
                }
                return;
            }
        };
        self.silent = 0;
        self.state.tail.set(facts.last);
        self.decoder.ahead_ms = facts.ahead_ms;
        // Servers before 2.15 also change the time when somebody edits the stream (nats-server#8471).
        let is_made_again = facts.created_ns != self.created_ns && has_last != Some(true);
        let is_another = is_made_again || facts.last < last || has_last == Some(false);
        self.another = if is_another { self.another + 1 } else { 0 };
        if is_another && self.another < ANOTHER_MIN {
            return;
        }
        if is_another {
            return self.begin_anew().await;
        }
        self.created_ns = facts.created_ns;
        if let Some(upto) = self.inbound.skip_to(facts.first) {
            self.missed(upto);
            read_from(&self.from, facts.first);
        }
        if self.cut_off_since.take().is_some() {
            tracing::info!("connected to the cluster again");
            self.state.set_cut_off(false);
        }
        let lag = facts.last.saturating_sub(self.inbound.last());
        self.state.set_ready(lag <= READY_LAG_MAX);
        // Behind at the same place twice: the consumer is dead and does not know it.
        let stalled_at = (lag > 0).then(|| self.inbound.last());
        if stalled_at.is_some() && stalled_at == self.stalled_at {
            read_from(&self.from, self.inbound.last() + 1);
        }
        self.stalled_at = stalled_at;
        let (applied, end) = (end_of(self.inbound.last()), end_of(facts.last));
        self.tell_all(|| ClusterNews::Advanced(applied));
        self.tell_all(|| ClusterNews::StreamEnd(end));
    }

    async fn begin_anew(&mut self) {
        tracing::error!("the stream {} is not what was read of it: the order begins anew", self.stream.name);
        self.reset(self.inbound.epoch()).await;
    }

    /// Begins the order anew after the epoch `old`; returns whether it could.
    async fn reset(&mut self, old: Epoch) -> bool {
        let begun = self.stream.begin_anew(old, self.inbound.ended(), self.node).await;
        let facts = self.stream.facts().await;
        let ((control, epoch, ended), facts) = match (begun, facts) {
            (Ok(begun), Ok(facts)) => (begun, facts),
            // The next answer of the leader leads here again.
            (begun, _) => {
                let reason = begun.err().unwrap_or_default();
                tracing::warn!("a new epoch could not begin yet: {reason}");
                return false;
            }
        };
        self.state.resets.add(1);
        self.another = 0;
        for (partition, wish) in self.outbound.take_waiting() {
            self.refuse(partition, wish, OrderError::CutOff);
        }
        for (partition, wishes) in self.outbound.take_under_way() {
            for wish in wishes {
                self.refuse(partition, wish, OrderError::Unconfirmed);
            }
        }
        self.outbound.set_epoch(epoch);
        self.inbound = Inbound::new(facts.first.saturating_sub(1), (control, epoch, ended));
        self.created_ns = facts.created_ns;
        let reset = begin(&self.inbound, control);
        self.tell_all(|| ClusterNews::Reset(reset.clone()));
        read_from(&self.from, self.inbound.last() + 1);
        true
    }

    async fn tick(&mut self) {
        let now = Instant::now();
        let (again, given_up) = self.outbound.overdue(self.now_ms());
        for sending in again {
            self.state.resent.add(1);
            self.send(sending).await;
        }
        for (partition, wishes) in given_up {
            self.state.unconfirmed.add(wishes.len() as u64);
            for wish in wishes {
                self.refuse(partition, wish, OrderError::Unconfirmed);
            }
        }
        self.sent.retain(|_, sent| now.duration_since(*sent) < Duration::from_secs(30));
        for done in self.counts.overdue(now) {
            self.reply(Some(done));
        }
        self.peers.sweep(now);
        self.state.nodes.set(1 + self.peers.others().len() as u64);
        if self.cut_off_since.is_some_and(|since| since.elapsed() > NOT_READY_AFTER) {
            self.state.set_ready(false);
        }
        if now >= self.next_here {
            self.next_here = now + HERE_INTERVAL;
            let is_new = std::mem::take(&mut self.is_new);
            self.say_here(is_new).await;
        }
        // What the poll compares is never older than a tick.
        self.ask.send_if_modified(|inbound| {
            inbound.clone_from(&self.inbound);
            false
        });
    }

    async fn say_here(&mut self, is_new: bool) {
        let message = NodeMessage::Here { node: self.node, name: self.name.clone(), is_new };
        self.tell(&format!("{}.node.all", self.stream.name), &message).await;
    }

    async fn tell(&self, subject: &str, message: &NodeMessage) {
        // While there is no connection nobody would hear it; later it would be old.
        if !is_connected(&self.client) {
            return;
        }
        let Ok(text) = serde_json::to_vec(message) else { return };
        if let Err(error) = self.client.publish(subject.to_owned(), Bytes::from(text)).await {
            tracing::debug!("a message to {subject} was not sent: {error}");
        }
    }

    /// Takes in a message of another node.
    async fn heard(&mut self, payload: &[u8]) {
        let Ok(message) = serde_json::from_slice::<NodeMessage>(payload) else { return };
        match message {
            NodeMessage::Here { node, name, is_new } => {
                self.peers.here(node, &name, Instant::now());
                if is_new && node != self.node {
                    self.say_here(false).await;
                }
            }
            NodeMessage::Gone { node } => self.peers.gone(node),
            NodeMessage::Count { node, count, streams } => {
                let done = self.counts.of_node(count, node, streams);
                self.reply(done);
            }
            NodeMessage::Ask { node, id, question } if node != self.node => {
                let to_self = self.to_self.clone();
                let answer = Box::new(move |body| drop(to_self.send(ToCluster::Answer { node, id, body })));
                (self.answers)(question.into(), answer);
            }
            NodeMessage::Answer { node, id, body } => self.peers.answer(id, node, body),
            NodeMessage::Ask { .. } => {}
        }
    }
}

/// Gives a wish that waits for a count of streams its number, and has its reply come by this thread; 0 for others.
fn count(
    wish: &mut Wish,
    counts: &mut Counts,
    others: &std::collections::HashSet<u64>,
    to_self: &UnboundedSender<ToCluster>,
) -> u64 {
    let ticket = match wish {
        Wish::Publish(Publish { reply: ReplyTo::Emitter(ticket), .. })
        | Wish::Disconnect { count_for: CountFor::Connection(ticket), .. } => *ticket,
        _ => return 0,
    };
    let number = counts.begin(ticket, others.clone());
    let to_self = to_self.clone();
    let callback =
        Callback::new(move |reply| drop(to_self.send(ToCluster::OwnReply { count: number, reply })));
    match wish {
        Wish::Publish(publish) => publish.reply = ReplyTo::CountingCaller(callback),
        Wish::Disconnect { count_for, .. } => *count_for = CountFor::Caller(callback),
    }
    number
}
