//! The cluster's stream: made, checked, asked about, and begun anew.

use std::time::Duration;

use async_nats::jetstream::context::{CreateStreamErrorKind, PublishError, PublishErrorKind};
use async_nats::jetstream::response::Response;
use async_nats::jetstream::stream::{ClusterInfo, Config, DiscardPolicy, Info, RetentionPolicy, StorageType};
use async_nats::jetstream::{Context, ErrorCode};
use async_nats::{HeaderMap, header};
use serde::Deserialize;
use thiserror::Error;

use super::ClusterError;
use crate::backend::NodeConfig;
use crate::clock::Clock;
use crate::core::event_id::Epoch;
use crate::core::partition::PartitionId;
use crate::core::random::random_key;
use crate::journal::cluster::inbound::{Begun, Inbound, StreamMessage};
use crate::journal::cluster::message::{FORMAT, LATE_MS, MessageHead, MessageItem, MessageWriter, decode};

/// How long JetStream knows the numbers of messages, so that one that is sent again is stored once.
const DUPLICATE_WINDOW: Duration = Duration::from_secs(120);
/// The last part of the subject of messages about the stream itself.
const CONTROL: &str = "control";
/// Attempts to begin an epoch, which other nodes may do at the same moment.
const BEGIN_ATTEMPTS: u32 = 20;
/// Time before another attempt to begin an epoch.
const RETRY: Duration = Duration::from_millis(50);

/// The longest silence of a follower, as its leader reports it, at which the leader still counts it for its majority.
/// Followers answer a heartbeat each second.
const HEARD_MAX: Duration = Duration::from_millis(3500);

const FORMAT_KEY: &str = "esper-format";
const READABLE_KEY: &str = "esper-readable-by";
const PARTITIONS_KEY: &str = "esper-partitions";
const NAMESPACES_KEY: &str = "esper-namespaces";
const SECRET_KEY: &str = "esper-secret";
/// Of the making of the stream: another one under the same name has another.
const ID_KEY: &str = "esper-id";
const EPOCH_KEY: &str = "esper-epoch";
/// Epochs after which the order began anew, the newest first, separated by commas.
const ENDED_KEY: &str = "esper-ended";

/// The stream, as one node uses it.
#[derive(Clone, Debug)]
pub(super) struct ClusterStream {
    pub(super) jetstream: Context,
    pub(super) name: String,
    /// What it is made with, and made again if somebody deletes it.
    config: Config,
    partitions: u8,
    /// The server's, which goes on whatever somebody does to the machine's.
    clock: Clock,
}

/// What the stream's leader says of it.
#[derive(Clone, Debug)]
pub(super) struct StreamFacts {
    pub(super) first: u64,
    pub(super) last: u64,
    /// The stream's clock minus the server's, in milliseconds.
    pub(super) ahead_ms: i64,
    /// The server that leads it; `None` where one server is all there is.
    pub(super) leader: Option<String>,
    /// Consumers of it, of all nodes.
    pub(super) consumers: usize,
    config: Config,
}

/// What all nodes must agree about.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Agreed {
    pub(super) secret: [u8; 16],
    pub(super) epoch: Epoch,
    /// Epochs after which the order began anew, the newest first.
    pub(super) ended: Vec<Epoch>,
    /// Of the making of the stream.
    pub(super) id: String,
}

/// A message about the stream itself.
pub(super) struct ControlMessage {
    pub(super) number: u64,
    /// The epoch that it began, and those that ended; `None` if it says nothing of that.
    pub(super) began: Option<(Epoch, Vec<Epoch>)>,
}

/// Why the stream says nothing.
#[derive(Debug, Error)]
pub(super) enum NoFacts {
    #[error("it is not there")]
    Deleted,
    /// Nobody answers: no leader, or no connection.
    #[error("{0}")]
    Silent(String),
}

#[derive(Deserialize)]
struct InfoWithTime {
    #[serde(flatten)]
    info: Info,
    ts: Option<String>,
}

impl ClusterStream {
    pub(super) fn new(jetstream: Context, node: &NodeConfig, clock: Clock) -> Self {
        let name = node.name.clone();
        let secret = format!("{:032x}", u128::from_be_bytes(random_key()));
        let metadata = [
            (FORMAT_KEY, FORMAT.to_string()),
            (READABLE_KEY, FORMAT.to_string()),
            (PARTITIONS_KEY, node.partitions.to_string()),
            (NAMESPACES_KEY, node.namespaces.to_string()),
            (SECRET_KEY, secret),
            (ID_KEY, Epoch::new().run().to_string()),
            (EPOCH_KEY, Epoch::new().run().to_string()),
            (ENDED_KEY, String::new()),
        ];
        let config = Config {
            subjects: vec![format!("{name}.*")],
            retention: RetentionPolicy::Limits,
            storage: StorageType::File,
            discard: DiscardPolicy::Old,
            num_replicas: node.replicas.into(),
            duplicate_window: DUPLICATE_WINDOW,
            // Every node reads it back when it starts, into memory of this size.
            max_bytes: i64::try_from(node.memory_bytes_max).unwrap_or(i64::MAX),
            max_age: node.age_max.max(DUPLICATE_WINDOW),
            description: Some("Events of esper's nodes".to_owned()),
            metadata: metadata.map(|(key, value)| (key.to_owned(), value)).into(),
            name: name.clone(),
            ..Config::default()
        };
        ClusterStream { jetstream, name, config, partitions: node.partitions, clock }
    }

    /// Returns the subject of a partition.
    pub(super) fn subject(&self, partition: PartitionId) -> String {
        format!("{}.{partition}", self.name)
    }

    /// Returns the subject on which a node hears the others, or all nodes do; the stream keeps nothing of it.
    pub(super) fn node_subject(&self, node: Option<u64>) -> String {
        match node {
            Some(node) => format!("{}.node.{node}", self.name),
            None => format!("{}.node.all", self.name),
        }
    }

    fn control_subject(&self) -> String {
        format!("{}.{CONTROL}", self.name)
    }

    /// Returns the partition of a subject; `None` for that of messages about the stream itself, and any other.
    pub(super) fn partition_of(&self, subject: &str) -> Option<PartitionId> {
        let partition = subject.strip_prefix(&self.name)?.strip_prefix('.')?.parse().ok()?;
        (partition < self.partitions).then_some(partition)
    }

    /// Makes the stream if it is not there; another node may have been faster.
    pub(super) async fn make(&self) -> Result<(), ClusterError> {
        let stream = || self.name.clone();
        match self.jetstream.create_stream(self.config.clone()).await {
            Ok(_) => {
                tracing::info!("made the stream {}", self.name);
                Ok(())
            }
            Err(error) => match error.kind() {
                CreateStreamErrorKind::JetStreamUnavailable => {
                    Err(ClusterError::NoJetStream { reason: error.to_string() })
                }
                CreateStreamErrorKind::JetStream(of_server)
                    if of_server.error_code() == ErrorCode::STREAM_NAME_EXIST =>
                {
                    Ok(())
                }
                _ => Err(ClusterError::Create {
                    stream: stream(),
                    replicas: self.config.num_replicas,
                    reason: error.to_string(),
                }),
            },
        }
    }

    /// Asks the stream's leader.
    pub(super) async fn facts(&self) -> Result<StreamFacts, NoFacts> {
        let asked_ms = self.clock.now_ms();
        let subject = format!("STREAM.INFO.{}", self.name);
        let answer: Response<InfoWithTime> =
            self.jetstream.request(subject, &()).await.map_err(|error| NoFacts::Silent(error.to_string()))?;
        let InfoWithTime { info, ts } = match answer {
            Response::Ok(info) => info,
            Response::Err { error } if error.error_code() == ErrorCode::STREAM_NOT_FOUND => {
                return Err(NoFacts::Deleted);
            }
            Response::Err { error } => return Err(NoFacts::Silent(error.to_string())),
        };
        if !info.cluster.as_ref().is_none_or(is_of_majority) {
            return Err(NoFacts::Silent("too few servers reach each other".to_owned()));
        }
        let server_ms = ts.and_then(|ts| humantime::parse_rfc3339(&ts).ok());
        let server_ms = server_ms.and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
        // The answer was made between asking and now.
        let here_ms = (asked_ms + self.clock.now_ms()) / 2;
        let ahead_ms = server_ms.map_or(0, |time| time.as_millis() as i64 - here_ms as i64);
        Ok(StreamFacts {
            first: info.state.first_sequence,
            last: info.state.last_sequence,
            ahead_ms,
            leader: info.cluster.and_then(|cluster| cluster.leader),
            consumers: info.state.consumer_count,
            config: info.config,
        })
    }

    /// Returns what the stream's makers agreed about.
    ///
    /// # Errors
    /// It is another program's, of a version that this one cannot read, has another number of partitions, or its topics
    /// are paths and this node's are not.
    pub(super) fn agreed(&self, facts: &StreamFacts, node: &NodeConfig) -> Result<Agreed, ClusterError> {
        let value = |key: &str| facts.config.metadata.get(key).map(String::as_str);
        let stream = || self.name.clone();
        let (Some(format), Some(secret), Some(epoch), Some(stored), Some(id)) =
            (value(FORMAT_KEY), value(SECRET_KEY), value(EPOCH_KEY), value(PARTITIONS_KEY), value(ID_KEY))
        else {
            return Err(ClusterError::Foreign { stream: stream() });
        };
        let readable = value(READABLE_KEY).and_then(|format| format.parse::<u8>().ok());
        if readable.is_none_or(|readable| readable > FORMAT) {
            return Err(ClusterError::Format { stream: stream(), format: format.to_owned(), known: FORMAT });
        }
        if stored.parse() != Ok(node.partitions) {
            let stored = stored.to_owned();
            return Err(ClusterError::Partitions { stream: stream(), stored, asked: node.partitions });
        }
        if value(NAMESPACES_KEY) != Some(if node.namespaces { "true" } else { "false" }) {
            return Err(ClusterError::Namespaces { stream: stream(), asked: node.namespaces });
        }
        let foreign = || ClusterError::Foreign { stream: stream() };
        let secret = secret_of(secret).ok_or_else(foreign)?;
        let epoch = epoch.parse().map(Epoch::at).map_err(|_| foreign())?;
        let ended = value(ENDED_KEY).unwrap_or_default().split(',').filter_map(|epoch| epoch.parse().ok());
        Ok(Agreed { secret, epoch, ended: ended.map(Epoch::at).collect(), id: id.to_owned() })
    }

    /// Checks that the stream knows the numbers of messages for long enough.
    ///
    /// # Errors
    /// It forgets them while a message may still be sent again.
    pub(super) fn check_window(&self, facts: &StreamFacts) -> Result<(), ClusterError> {
        check_window(&self.name, facts.config.duplicate_window)
    }

    /// Keeps what this node agreed to, for the case that the stream must be made again.
    pub(super) fn keep(&mut self, facts: &StreamFacts) {
        if let Some(value) = facts.config.metadata.get(SECRET_KEY) {
            self.config.metadata.insert(SECRET_KEY.to_owned(), value.clone());
        }
    }

    /// Has the stream say which epoch is in force: the message that began it leaves the stream some day.
    pub(super) async fn note_epoch(&self, facts: &StreamFacts, epoch: Epoch, ended: &[Epoch]) {
        let ended: Vec<String> = ended.iter().map(|epoch| epoch.run().to_string()).collect();
        let mut config = facts.config.clone();
        config.metadata.retain(|key, _| key.starts_with("esper-"));
        config.metadata.insert(EPOCH_KEY.to_owned(), epoch.run().to_string());
        config.metadata.insert(ENDED_KEY.to_owned(), ended.join(","));
        if let Err(error) = self.jetstream.update_stream(&config).await {
            tracing::warn!(
                "the stream {} could not be told its epoch, which is tried again: {error}",
                self.name
            );
        }
    }

    /// Makes the stream again after it was deleted: another one, with an order of its own.
    pub(super) async fn make_again(&mut self) -> Result<(), ClusterError> {
        for key in [ID_KEY, EPOCH_KEY] {
            self.config.metadata.insert(key.to_owned(), Epoch::new().run().to_string());
        }
        self.make().await
    }

    /// Returns the newest message about the stream itself.
    pub(super) async fn last_control(&self) -> Result<Option<ControlMessage>, String> {
        let stream =
            self.jetstream.get_stream_no_info(&self.name).await.map_err(|error| error.to_string())?;
        let message = match stream.get_last_raw_message_by_subject(&self.control_subject()).await {
            Ok(message) => message,
            Err(error) => {
                use async_nats::jetstream::stream::LastRawMessageErrorKind as Kind;
                return match error.kind() {
                    Kind::NoMessageFound => Ok(None),
                    Kind::JetStream(of_server) if of_server.error_code() == ErrorCode::NO_MESSAGE_FOUND => {
                        Ok(None)
                    }
                    _ => Err(error.to_string()),
                };
            }
        };
        let items = decode(&message.payload, 0).map(|(_, items)| items).unwrap_or_default();
        let began = items.into_iter().find_map(|item| match item {
            MessageItem::Epoch { new, ended } => Some((new, ended)),
            _ => None,
        });
        Ok(Some(ControlMessage { number: message.sequence, began }))
    }

    /// Begins a new epoch after the one of `inbound`, unless another node has already; returns how it began.
    pub(super) async fn begin_anew(&self, inbound: &Inbound, node: u64) -> Result<Begun, String> {
        let old = inbound.epoch();
        let with_ours = |theirs: &[Epoch]| {
            let mut ended: Vec<Epoch> = [old].into_iter().chain(inbound.ended().iter().copied()).collect();
            let more: Vec<Epoch> = theirs.iter().filter(|epoch| !ended.contains(epoch)).copied().collect();
            ended.extend(more);
            ended
        };
        for _ in 0..BEGIN_ATTEMPTS {
            let before = match self.last_control().await? {
                Some(ControlMessage { number, began: Some((new, ended)) })
                    if ended.contains(&old) || (number > inbound.control() && new != old) =>
                {
                    return Ok((number, new, with_ours(&ended)));
                }
                control => control.map_or(0, |control| control.number),
            };
            let new = Epoch::new();
            let ended = with_ours(&[]);
            let mut writer =
                MessageWriter::new(MessageHead { epoch: old, node, number: 0, made_ms: u64::MAX });
            writer.epoch(new, &ended);
            let mut headers = HeaderMap::new();
            headers.insert(header::NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, before.to_string().as_str());
            let sent = self
                .jetstream
                .publish_with_headers(self.control_subject(), headers, writer.finish())
                .await
                .map_err(|error| error.to_string())?;
            match sent.await {
                Ok(ack) => return Ok((ack.sequence, new, ended)),
                // Another node was faster, or is just about to be: its epoch is the one.
                Err(error) if is_wrong_sequence(&error) => tokio::time::sleep(RETRY).await,
                Err(error) => return Err(error.to_string()),
            }
        }
        Err("other nodes write about it, too".to_owned())
    }

    /// Returns whether the stream still has the message that was applied last, as it was applied; `None` if it cannot
    /// be known.
    pub(super) async fn has_last(&self, inbound: &Inbound) -> Option<bool> {
        let head = inbound.last_head()?;
        let stream = self.jetstream.get_stream_no_info(&self.name).await.ok()?;
        let message = stream.get_raw_message(inbound.last()).await.ok()?;
        let partition = self.partition_of(&message.subject);
        let stored = decode(&message.payload, partition.unwrap_or(0)).map(|(head, _)| head);
        Some(stored.is_ok_and(|stored| stored == head))
    }

    /// Returns a message that a consumer was given, and its number there.
    pub(super) fn read(&self, message: &async_nats::jetstream::Message) -> Option<(StreamMessage, u64)> {
        let info = message.info().ok()?;
        let at_ms = u64::try_from(info.published.unix_timestamp_nanos() / 1_000_000).unwrap_or(0);
        let partition = self.partition_of(&message.subject);
        let payload = message.payload.clone();
        let number = info.stream_sequence;
        Some((StreamMessage { number, partition, at_ms, payload }, info.consumer_sequence))
    }
}

/// Returns whether the answer is that of the one leader that there can be: not of a server that answers because there is
/// none, with what it has, nor of a leader that was parted from the others, which have another one by now. Followers elect
/// one after 4 seconds of silence at the earliest, so a leader that heard of a majority since is the only one.
fn is_of_majority(cluster: &ClusterInfo) -> bool {
    let has_leader = cluster.leader.as_deref().is_some_and(|leader| !leader.is_empty());
    let heard = cluster.replicas.iter().filter(|peer| !peer.offline && peer.active < HEARD_MAX).count();
    has_leader && 2 * (heard + 1) > cluster.replicas.len() + 1
}

/// Returns whether a message was refused because there is a newer one of its subject, or one under way.
fn is_wrong_sequence(error: &PublishError) -> bool {
    let source = std::error::Error::source(error);
    let code = source.and_then(|source| source.downcast_ref::<async_nats::jetstream::Error>());
    error.kind() == PublishErrorKind::WrongLastSequence
        || code.is_some_and(|error| error.error_code() == ErrorCode::STREAM_WRONG_LAST_SEQUENCE_CONSTANT)
}

/// A message is sent again for 20 seconds, and the last copy may wait in a connection until all nodes would drop it.
fn check_window(stream: &str, window: Duration) -> Result<(), ClusterError> {
    match window >= Duration::from_millis(LATE_MS) {
        true => Ok(()),
        false => Err(ClusterError::Window {
            stream: stream.to_owned(),
            window: humantime::format_duration(window).to_string(),
            needed: LATE_MS / 1000,
        }),
    }
}

fn secret_of(text: &str) -> Option<[u8; 16]> {
    let is_hex = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    u128::from_str_radix(text, 16).ok().filter(|_| is_hex).map(u128::to_be_bytes)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_leader_that_hears_of_no_majority_is_not_believed() {
        let info = |leader: Option<&str>, peers: &[(u64, bool)]| {
            let peer = |(ms, offline): &(u64, bool)| json!({"name": "x", "current": true, "active": ms * 1_000_000, "offline": offline});
            let replicas: Vec<_> = peers.iter().map(peer).collect();
            let info = json!({"name": "c", "leader": leader, "replicas": replicas});
            is_of_majority(&serde_json::from_value(info).unwrap())
        };
        assert!(info(Some("a"), &[]));
        assert!(info(Some("a"), &[(900, false), (60_000, true)]));
        assert!(info(Some("a"), &[(0, false), (1, false)]));
        assert!(!info(Some("a"), &[(4000, false), (60_000, false)]));
        assert!(!info(Some("a"), &[(100, true), (100, true)]));
        assert!(info(Some("a"), &[(1, false), (1, false), (9999, false), (9999, false)]));
        assert!(!info(Some("a"), &[(1, false), (9999, false), (9999, false), (9999, false)]));
        assert!(!info(None, &[(1, false), (1, false)]) && !info(Some(""), &[(1, false), (1, false)]));
    }

    #[test]
    fn a_stream_that_forgets_numbers_while_a_message_may_come_again_is_refused_with_the_remedy() {
        let ms = Duration::from_millis;
        assert!(check_window("e", DUPLICATE_WINDOW).is_ok() && check_window("e", ms(LATE_MS)).is_ok());
        let reason = check_window("e", ms(LATE_MS - 1)).unwrap_err().to_string();
        assert!(reason.contains("59s 999ms") && reason.contains("--dupe-window"), "{reason}");
    }

    #[test]
    fn a_secret_is_32_hexadecimal_digits() {
        assert_eq!(secret_of("000102030405060708090a0b0c0d0e0f"), Some(std::array::from_fn(|n| n as u8)));
        for text in ["", "00", "zz0102030405060708090a0b0c0d0e0f", "ä00102030405060708090a0b0c0d0e0f"] {
            assert_eq!(secret_of(text), None, "{text}");
        }
    }
}
