//! The node's one consumer of the stream: it is made again whenever it may have missed anything.

use std::time::Duration;

use async_nats::Client;
use async_nats::jetstream::consumer::push::Config;
use async_nats::jetstream::consumer::{AckPolicy, Consumer, DeliverPolicy, ReplayPolicy};
use futures_util::StreamExt as _;
use tokio::sync::{mpsc, watch};

use super::stream::ClusterStream;
use crate::journal::cluster::inbound::StreamMessage;

/// A consumer that says nothing for twice this long is made again.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// How long the server keeps a consumer that nobody listens to.
const INACTIVE: Duration = Duration::from_secs(10);
/// Time before the next attempt to make one.
const RETRY: Duration = Duration::from_millis(200);
/// Attempts in a row at one place between two lines in the log: some 5 s.
const FAILURES_SAID: u32 = 25;
/// Consumers of a stream that are at its leader, if they can be: more would fill that server's network.
const AT_LEADER_MAX: usize = 8;
/// Attempts to have one there. NATS chooses its server at random: of three, nine attempts miss it once in 38 times.
const AT_LEADER_ATTEMPTS: u32 = 9;

/// Where to read on.
#[derive(Clone, Copy, Debug)]
pub(super) struct ReadFrom {
    /// The number of the next message.
    pub(super) next: u64,
    /// How often it was said where. What was read before that may be of a stream that is no more.
    pub(super) turn: u64,
}

/// Has the reader read on from this message. What it read before and is still on its way is of an earlier turn.
pub(super) fn read_from(from: &watch::Sender<ReadFrom>, next: u64) {
    from.send_modify(|from| *from = ReadFrom { next, turn: from.turn + 1 });
}

/// A message, and the turn in which it was read.
pub(super) type TurnMessage = (u64, StreamMessage);

/// Reads the stream from the message that `from` names, and again from there whenever `from` changes, until nobody
/// takes `messages` any more.
pub(super) async fn read(
    client: Client,
    stream: ClusterStream,
    mut from: watch::Receiver<ReadFrom>,
    messages: mpsc::Sender<TurnMessage>,
) {
    let mut next = *from.borrow_and_update();
    let (mut failures, mut failed_at) = (0_u32, 0);
    loop {
        match read_on(&client, &stream, &mut next, &mut from, &messages).await {
            Ok(()) => return,
            Err(Broken::Moved) => next = *from.borrow_and_update(),
            Err(Broken::Reason(reason)) => {
                let (name, at) = (&stream.name, next.next);
                failures = if failed_at == at { failures + 1 } else { 1 };
                failed_at = at;
                if failures.is_multiple_of(FAILURES_SAID) {
                    tracing::warn!(
                        "cannot read the stream {name} from message {at}: {reason}; trying again. If this lasts, \
                         see that the NATS user may publish to $JS.API.> and $JS.FC.>, and subscribe to _INBOX.>"
                    );
                }
                tracing::debug!("reading the stream {name} again from message {at}: {reason}");
                tokio::select! {
                    _ = from.changed() => next = *from.borrow_and_update(),
                    () = tokio::time::sleep(RETRY) => {}
                }
            }
        }
    }
}

/// Why a consumer is given up.
enum Broken {
    /// Another message is to be read next.
    Moved,
    Reason(String),
}

async fn read_on(
    client: &Client,
    stream: &ClusterStream,
    next: &mut ReadFrom,
    from: &mut watch::Receiver<ReadFrom>,
    messages: &mpsc::Sender<TurnMessage>,
) -> Result<(), Broken> {
    let consumer = tokio::select! {
        _ = from.changed() => return Err(Broken::Moved),
        made = make(client, stream, next.next) => made.map_err(Broken::Reason)?,
    };
    let broken = |reason: String| Broken::Reason(reason);
    let mut read = consumer.messages().await.map_err(|error| broken(error.to_string()))?;
    let mut consumed = 0;
    loop {
        let message = tokio::select! {
            _ = from.changed() => return Err(Broken::Moved),
            message = read.next() => message,
        };
        let message = message
            .ok_or_else(|| broken("the subscription ended".to_owned()))?
            .map_err(|error| broken(error.to_string()))?;
        let (message, number) =
            stream.read(&message).ok_or_else(|| broken("a message without its place".to_owned()))?;
        consumed += 1;
        if number != consumed {
            return Err(broken("a message was lost on its way".to_owned()));
        }
        next.next = message.number + 1;
        if messages.send((next.turn, message)).await.is_err() {
            return Ok(());
        }
    }
}

/// Makes a consumer that begins before message `next`, at the stream's leader if that has few. Any other server has a
/// message later than the leader acknowledges it: half of them 1 ms, one in a hundred 60 ms.
async fn make(client: &Client, stream: &ClusterStream, next: u64) -> Result<Consumer<Config>, String> {
    let config = Config {
        // The one before is read once more: it tells whether this is still the stream that was read.
        deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: next.saturating_sub(1).max(1) },
        ack_policy: AckPolicy::None,
        replay_policy: ReplayPolicy::Instant,
        flow_control: true,
        idle_heartbeat: HEARTBEAT,
        inactive_threshold: INACTIVE,
        memory_storage: true,
        num_replicas: 1,
        ..Config::default()
    };
    let facts = stream.facts().await.ok();
    let leader = facts.filter(|facts| facts.consumers < AT_LEADER_MAX).and_then(|facts| facts.leader);
    let mut attempts = 0;
    loop {
        attempts += 1;
        // Each consumer gets a subject of its own, so that one that could not be deleted does not send to the next one's.
        let config = Config { deliver_subject: client.new_inbox(), ..config.clone() };
        let consumer = stream.jetstream.create_consumer_on_stream(config, &stream.name);
        let consumer = consumer.await.map_err(|error| error.to_string())?;
        let info = consumer.cached_info();
        let its_leader = info.cluster.as_ref().and_then(|cluster| cluster.leader.as_ref());
        if leader.is_none() || its_leader == leader.as_ref() || attempts == AT_LEADER_ATTEMPTS {
            return Ok(consumer);
        }
        let deleted = stream.jetstream.delete_consumer_from_stream(&info.name, &stream.name);
        // Otherwise the server forgets it when nobody listens to it for long enough.
        let _ = deleted.await;
    }
}
