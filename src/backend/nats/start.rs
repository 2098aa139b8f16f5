//! Joins a cluster: connects, makes or checks the stream, and reads what it has into the homes, before any client
//! connects.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::Client;
use async_nats::jetstream;
use futures_util::StreamExt as _;
use tokio::runtime::Runtime;
use tokio::sync::mpsc::{self, UnboundedReceiver};
use tokio::sync::watch;

use super::ClusterError;
use super::connect::connect;
use super::peers::{AskedQuestion, NodeMessage};
use super::reader::{self, ReadFrom, TurnMessage, read_from};
use super::stream::{Agreed, ClusterStream, ControlMessage, NoFacts, StreamFacts};
use crate::backend::NodeConfig;
use crate::backend::cluster::OpenedCluster;
use crate::clock::Clock;
use crate::core::budget::Budget;
use crate::core::epochs::{EarlierEpoch, Epochs};
use crate::core::event_id::{Epoch, Sequence};
use crate::core::home::{Applied, HomeSettings, Homes, Reset, excess_share};
use crate::core::message::{Publish, ReplyTo};
use crate::core::partition::Partitioner;
use crate::core::random::random_u64;
use crate::core::topic::{Topic, TopicHasher};
use crate::journal::cluster::inbound::{Begun, Inbound, StreamMessage};
use crate::journal::cluster::message::{MessageItem, PublishItem, end_of, sequence_of};
use crate::journal::cluster::queue::ToCluster;
use crate::journal::cluster::state::ClusterState;

/// Messages that were read and are not applied.
const MESSAGES_MAX: usize = 64;
/// Bytes of events that were applied and that the shards have not taken over.
const APPLIED_BYTES_MAX: usize = 32 << 20;
/// Time between two lines in the log about the progress of a start.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(2);
/// Time before the stream's leader is asked again.
const RETRY: Duration = Duration::from_millis(500);
/// Refused attempts to make the stream, after each of which other nodes are looked for, before the reason ends the start:
/// 20 seconds.
const MAKE_ATTEMPTS: u32 = 8;
/// The wait for an answer of other nodes, which takes milliseconds unless they are busy.
const NODES_PATIENCE: Duration = Duration::from_secs(2);
/// Attempts between two lines in the log about a stream without a leader.
const ATTEMPTS_SAID: u32 = 10;
/// A topic's name is never longer, and never has more segments.
const NAME_BYTES_MAX: usize = 16 << 10;
const NAME_SEGMENTS_MAX: usize = 64;
/// Messages between two checks of the memory that histories hold.
const MEMORY_LOOK_MESSAGES: u64 = 64;

/// The connection of a node and its state, with which its thread is started.
pub(crate) struct NodeLink {
    pub(super) received: UnboundedReceiver<ToCluster>,
    pub(super) runtime: Runtime,
    pub(super) parts: NodeParts,
}

/// What the thread goes on with.
pub(super) struct NodeParts {
    pub(super) client: Client,
    pub(super) stream: ClusterStream,
    pub(super) facts: StreamFacts,
    pub(super) agreed: Agreed,
    pub(super) config: NodeConfig,
    pub(super) inbound: Inbound,
    pub(super) decoder: Decoder,
    /// Where the reader reads on.
    pub(super) from: watch::Sender<ReadFrom>,
    pub(super) messages: mpsc::Receiver<TurnMessage>,
    /// The connection was lost, or is there again.
    pub(super) changed: UnboundedReceiver<()>,
    pub(super) node: u64,
}

/// Makes publishes of the stream's items.
#[derive(Clone, Debug)]
pub(super) struct Decoder {
    namespaces: bool,
    hasher: TopicHasher,
    clock: Clock,
    /// The stream's clock minus the server's, in milliseconds.
    pub(super) ahead_ms: i64,
    /// Of events that the shards have not taken over.
    pub(super) budget: Arc<Budget>,
}

impl Decoder {
    /// Returns the topic of this name; `None` if it belongs to another partition.
    pub(super) fn topic(&self, name: &str, partition: u8) -> Option<Topic> {
        // Whoever may write to the stream can write anything.
        if name.len() > NAME_BYTES_MAX || name.split('/').count() > NAME_SEGMENTS_MAX {
            return None;
        }
        let topic = Topic::kept(name, self.namespaces, &self.hasher);
        (topic.partition() == Some(partition)).then_some(topic)
    }

    /// Returns a publish of the stream, which nobody here waits for yet; `None` if its topic belongs to another partition.
    pub(super) fn publish(&self, message: &StreamMessage, item: PublishItem) -> Option<Applied> {
        let partition = message.partition?;
        let PublishItem { events_before, topic, events, key, count: _ } = item;
        let topic = self.topic(&topic, partition)?;
        let first = sequence_of(message.number, events_before);
        // The caller waits until there is room; one publish may pass it.
        let charge = self.budget.take_anyway(events.text_bytes());
        let at_us = self.clock.now_us();
        let publish = Publish { topic, events, reply: ReplyTo::Nobody, at_us, charge, key };
        let (at_ms, stream_ms) = (self.at_ms(message.at_ms), message.at_ms);
        Some(Applied { first, publish, is_own: false, at_ms, stream_ms })
    }

    /// Returns the time by the stream's clock.
    pub(super) fn stream_ms(&self) -> u64 {
        self.clock.now_ms().saturating_add_signed(self.ahead_ms)
    }

    /// Returns a time of the stream's clock by the server's.
    pub(super) fn at_ms(&self, stream_ms: u64) -> u64 {
        stream_ms.saturating_add_signed(-self.ahead_ms).min(self.clock.now_ms())
    }
}

/// Joins the cluster; waits as long as no server answers.
///
/// # Errors
/// A server answered, and this node cannot take part; the remedy is in the line.
pub(crate) fn open(
    config: &NodeConfig,
    clock: Clock,
    settings: impl Fn(Partitioner, Epoch) -> HomeSettings,
) -> Result<OpenedCluster, ClusterError> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(ClusterError::Thread)?;
    let (sender, received) = mpsc::unbounded_channel();
    let joined = runtime.block_on(join(config, clock, settings))?;
    let (settings, hasher, homes, parts) = joined;
    let state = Arc::new(ClusterState::new(homes.len()));
    state.applied.set(parts.inbound.last());
    state.tail.set(parts.facts.last);
    let link = NodeLink { received, runtime, parts };
    Ok(OpenedCluster { settings, hasher, homes, state, sender, link })
}

type Joined = (HomeSettings, TopicHasher, Vec<Homes>, NodeParts);

async fn join(
    config: &NodeConfig,
    clock: Clock,
    settings: impl Fn(Partitioner, Epoch) -> HomeSettings,
) -> Result<Joined, ClusterError> {
    let (change, changed) = mpsc::unbounded_channel();
    let client = connect(config, change).await?;
    let mut stream = ClusterStream::new(jetstream::new(client.clone()), config, clock);
    let node = random_u64();
    let facts = first_facts(&client, &stream, node).await?;
    let agreed = stream.agreed(&facts, config)?;
    stream.check_window(&facts)?;
    stream.keep(&facts);
    let begun = first_epoch(&stream, &agreed).await;
    let epoch = begun.1;

    let mut settings = settings(Partitioner::new(config.partitions, agreed.secret), epoch);
    let hasher = TopicHasher::new(settings.partitioner);
    let mut homes: Vec<Homes> =
        (0..settings.placement.shards()).map(|shard| Homes::new(shard, &settings)).collect();
    let budget = Budget::new(APPLIED_BYTES_MAX, usize::MAX);
    let decoder = Decoder {
        namespaces: config.namespaces,
        hasher: hasher.clone(),
        clock,
        ahead_ms: facts.ahead_ms,
        budget,
    };

    let inbound = Inbound::new(facts.first.saturating_sub(1), begun);
    let reset = begin(&inbound, 0);
    settings.epochs = Arc::clone(&reset.epochs);
    homes.iter_mut().for_each(|homes| homes.join_cluster(&reset));
    let (from, reads_from) = watch::channel(ReadFrom { next: inbound.last() + 1, turn: 0 });
    let (send, messages) = mpsc::channel(MESSAGES_MAX);
    tokio::spawn(reader::read(client.clone(), stream.clone(), reads_from, send));

    let mut parts = NodeParts {
        client,
        stream,
        facts,
        agreed,
        config: config.clone(),
        inbound,
        decoder,
        from,
        messages,
        changed,
        node,
    };
    read_back(&mut parts, &settings, &mut homes).await;
    Ok((settings, hasher, homes, parts))
}

/// Returns what the stream's leader says, once it says something; makes the stream if it is not there, and no other node
/// is that would make it again.
async fn first_facts(
    client: &Client,
    stream: &ClusterStream,
    node: u64,
) -> Result<StreamFacts, ClusterError> {
    let (mut refused, mut waited, mut silent, mut said) = (0, 0, 0, String::new());
    loop {
        match stream.facts().await {
            Ok(facts) => return Ok(facts),
            // Somebody deleted it. Only those who read it know the secret of its partitions, and could not go on with
            // another one.
            Err(NoFacts::Deleted) if is_node_there(client, stream, node).await => {
                if waited % ATTEMPTS_SAID == 0 {
                    tracing::warn!(
                        "the stream {} is not there, but other nodes are: waiting until one makes it again",
                        stream.name
                    );
                }
                waited += 1;
            }
            Err(NoFacts::Deleted) => match stream.make().await {
                // A server that has just started has no JetStream, or too few servers for the replicas, for a while.
                Err(error) if refused < MAKE_ATTEMPTS => {
                    refused += 1;
                    let reason = error.to_string();
                    if said != reason {
                        tracing::warn!("{reason}; trying again for 20 seconds");
                        said = reason;
                    }
                }
                made => made?,
            },
            Err(NoFacts::Silent(reason)) => {
                silent += 1;
                if silent % ATTEMPTS_SAID == 0 {
                    tracing::warn!("the stream {} has no leader: {reason}; trying again", stream.name);
                }
            }
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// Returns whether a node answers a question to all in time. One that starts itself, as this one, answers nobody.
async fn is_node_there(client: &Client, stream: &ClusterStream, node: u64) -> bool {
    let ask = async {
        let mut answers = client.subscribe(stream.node_subject(Some(node))).await.ok()?;
        let question = NodeMessage::Ask { node, id: 0, question: AskedQuestion::Stats };
        let text = serde_json::to_vec(&question).ok()?;
        client.publish(stream.node_subject(None), text.into()).await.ok()?;
        loop {
            let message = answers.next().await?;
            if let Ok(NodeMessage::Answer { .. }) = serde_json::from_slice(&message.payload) {
                return Some(());
            }
        }
    };
    matches!(tokio::time::timeout(NODES_PATIENCE, ask).await, Ok(Some(())))
}

/// Returns how the epoch in force began.
async fn first_epoch(stream: &ClusterStream, agreed: &Agreed) -> Begun {
    loop {
        match stream.last_control().await {
            Ok(Some(ControlMessage { number, began: Some((epoch, ended)) })) => {
                return (number, epoch, ended);
            }
            Ok(_) => return (0, agreed.epoch, agreed.ended.clone()),
            Err(reason) => {
                tracing::warn!("the stream {} does not answer: {reason}; trying again", stream.name)
            }
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// Returns how the order begins for a node that has read nothing yet; nobody joins before `ready_at` is applied.
pub(super) fn begin(inbound: &Inbound, ready_at: Sequence) -> Reset {
    let ended = inbound.ended().iter().map(|epoch| EarlierEpoch { epoch: *epoch, last: [].into() });
    Reset {
        epochs: Arc::new(Epochs::new(inbound.epoch(), ended.collect())),
        floor: end_of(inbound.last()) * u64::from(inbound.last() > 0),
        ready_at,
    }
}

/// Applies what the stream has.
async fn read_back(parts: &mut NodeParts, settings: &HomeSettings, homes: &mut [Homes]) {
    let (start, mut said) = (Instant::now(), Instant::now());
    let (first, last) = (parts.facts.first, parts.facts.last);
    let (mut events, mut bytes, mut malformed, mut posts) = (0, 0, 0, Vec::new());
    while parts.inbound.last() < last {
        let message = match tokio::time::timeout(PROGRESS_INTERVAL, parts.messages.recv()).await {
            Ok(Some((turn, _))) if turn != parts.from.borrow().turn => continue,
            Ok(Some((_, message))) => message,
            Ok(None) => break,
            Err(_) => {
                match parts.stream.facts().await {
                    // It is another one by now, which the thread notices when it asks.
                    Ok(facts) if facts.last < last => break,
                    Err(NoFacts::Deleted) => break,
                    // What was to be read may be gone meanwhile.
                    Ok(facts) if parts.inbound.skip_to(facts.first).is_some() => {
                        read_from(&parts.from, facts.first);
                    }
                    Ok(_) | Err(NoFacts::Silent(_)) => {}
                }
                tracing::info!("waiting for message {} of {last}", parts.inbound.last() + 1);
                continue;
            }
        };
        let Some(taken) = parts.inbound.take(&message) else { continue };
        malformed += u64::from(taken.malformed.is_some());
        bytes += message.payload.len();
        if let Some(upto) = taken.missed {
            homes.iter_mut().for_each(|homes| homes.miss(upto, 0, &mut posts));
        }
        let is_late = taken.head.is_some_and(|head| head.is_late(message.at_ms));
        for item in taken.items.into_iter().filter(|_| !is_late) {
            let MessageItem::Publish(item) = item else { continue };
            let Some(applied) = parts.decoder.publish(&message, item) else { continue };
            let partition = message.partition.unwrap_or_default();
            let shard = usize::from(settings.placement.home(partition));
            if let Some(homes) = homes.get_mut(shard) {
                events += homes.apply(partition, applied, &mut posts);
            }
            posts.clear();
        }
        if message.number % MEMORY_LOOK_MESSAGES == 0 {
            release(settings, homes);
        }
        if said.elapsed() > PROGRESS_INTERVAL {
            said = Instant::now();
            let percent = (message.number - first) * 100 / (last - first).max(1);
            tracing::info!(events, bytes, "reading the stream {}: {percent} %", parts.stream.name);
        }
    }
    release(settings, homes);
    let upto = end_of(parts.inbound.last());
    if parts.inbound.last() > 0 {
        homes.iter_mut().for_each(|homes| homes.advance(upto, &mut posts));
    }
    if malformed > 0 {
        tracing::warn!(
            "{malformed} messages of the stream {} are not esper's; they are passed over",
            parts.stream.name
        );
    }
    let ms = start.elapsed().as_millis() as u64;
    tracing::info!(events, bytes, ms, "the stream {} was read", parts.stream.name);
}

/// Drops the oldest events that exceed the limit of memory.
fn release(settings: &HomeSettings, homes: &mut [Homes]) {
    let share = excess_share(homes, &settings.memory);
    homes.iter_mut().for_each(|homes| homes.release(share));
}
