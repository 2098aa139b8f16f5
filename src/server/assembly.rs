//! Makes the parts of a server from its configuration and from what the journal kept.

use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::mpsc::unbounded_channel;

use super::StartError;
use super::backend::BackendLine;
use crate::access_log::AccessLog;
use crate::backend::NodeConfig;
use crate::backend::cluster::{self, OpenedCluster};
use crate::clock::{Clock, unix_s};
use crate::config::{Cluster, Config, Data};
use crate::connection::request_memory::RequestMemory;
use crate::connection::service::{FILES_SHORT_MS, Service};
use crate::connection::shortage::Shortage;
use crate::core::budget::Budget;
use crate::core::epochs::Epochs;
use crate::core::event_id::Epoch;
use crate::core::home::{HistoryLimits, HomeSettings, PAGE_FRAMES_MAX, TopicCount};
use crate::core::memory::Memory;
use crate::core::partition::{Partitioner, Placement};
use crate::core::topic::{TopicHasher, TopicNames};
use crate::dialects::Access;
use crate::http::Cors;
use crate::journal;
use crate::journal::config::DiskConfig;
use crate::journal::start::Opened;
use crate::monitor::Monitor;
use crate::shard::common::{Common, StreamCount};
use crate::stats::Stats;

/// The parts of a server that is not started yet; [`Server::start`](super::Server::start) takes them.
pub(super) struct Assembly {
    pub(super) common: Arc<Common>,
    pub(super) service: Arc<Service>,
    pub(super) monitor: Arc<Monitor>,
    pub(super) names: TopicNames,
    /// The opened journal, if the configuration has one.
    pub(super) kept: Option<Opened>,
    /// The cluster that it is a node of, if the configuration has one.
    pub(super) cluster: Option<OpenedCluster>,
    /// The backend's channel, if queues are configured.
    pub(super) backend: Option<BackendLine>,
}

impl Assembly {
    /// Opens the journal, if the configuration has one, and makes the parts.
    ///
    /// # Errors
    /// The journal cannot be used, or a value of the configuration is wrong.
    pub(super) fn new(config: Config, subscribers_allowed: usize) -> Result<Self, StartError> {
        let clock = Clock::start();
        let access_log = open_access_log(&config)?;
        let shards = config.cpus.ids.len();
        let mailbox = config.mailbox;
        let memory = Memory::new(config.history.memory_bytes_max);
        let request_memory = Arc::new(RequestMemory::new(config.http.memory_bytes_max));
        let kept = match &config.data {
            Some(data) => {
                let settings = |partitioner, epoch| home_settings(&config, partitioner, epoch, &memory);
                let opened = journal::start::open(&disk_config(data, &config), clock, settings);
                Some(opened.map_err(|error| StartError::Journal(error.to_string()))?)
            }
            None => None,
        };
        let cluster = match &config.cluster {
            Some(cluster) => {
                let settings = |partitioner, epoch| home_settings(&config, partitioner, epoch, &memory);
                let opened = cluster::open(&node_config(cluster, &config), clock, settings);
                Some(opened.map_err(StartError::Cluster)?)
            }
            None => None,
        };
        let (homes, hasher) = match (&kept, &cluster) {
            (Some(kept), _) => (kept.settings.clone(), kept.hasher.clone()),
            (None, Some(cluster)) => (cluster.settings.clone(), cluster.hasher.clone()),
            (None, None) => {
                let partitioner = Partitioner::random(config.partitions);
                let homes = home_settings(&config, partitioner, Epoch::new(), &memory);
                (homes, TopicHasher::new(partitioner))
            }
        };
        let names = TopicNames::new(hasher, config.namespaces);
        let access = Arc::new(Access::new(&config, names.clone()));
        let cors = Cors::parse(&config.cors_origins).map_err(StartError::Config)?;
        let backend = config.queues.is_some().then(|| {
            let (sender, receiver) = unbounded_channel();
            BackendLine { sender, receiver, stats: Arc::default() }
        });
        let common = Arc::new(Common {
            epochs: ArcSwap::new(Arc::clone(&homes.epochs)),
            homes,
            clock,
            started_s: unix_s(),
            stats: Stats::new(shards),
            budget: Budget::beside(Arc::clone(&memory), mailbox.bytes_max, mailbox.messages_max),
            access_log,
            memory,
            streams: StreamCount::new(config.subscribers_max.unwrap_or(subscribers_allowed)),
            draining: false.into(),
            shards,
            config,
        });
        let monitor = Arc::new(Monitor {
            common: Arc::clone(&common),
            access: Arc::clone(&access),
            request_memory: Arc::clone(&request_memory),
            journal: kept.as_ref().map(|kept| Arc::clone(&kept.stats)),
            cluster: cluster.as_ref().map(|cluster| (Arc::clone(&cluster.state), cluster.sender.clone())),
            backend: backend.as_ref().map(|line| Arc::clone(&line.stats)),
            questions: Default::default(),
        });
        let service = Arc::new(Service {
            access,
            cors,
            request_memory,
            backend: backend.as_ref().map(|line| line.sender.clone()),
            reports: Arc::clone(&monitor) as _,
            files_short: Shortage::recent_for(FILES_SHORT_MS),
        });
        Ok(Assembly { common, service, monitor, names, kept, cluster, backend })
    }
}

/// Opens the access log and starts its thread, if the configuration has one.
fn open_access_log(config: &Config) -> Result<Option<Arc<AccessLog>>, StartError> {
    let Some(path) = &config.access_log else { return Ok(None) };
    let failed = |error| StartError::AccessLog { path: path.clone(), error };
    let (log, lines) = AccessLog::open(path, config.access_log_sample).map_err(failed)?;
    log.start(lines).map_err(StartError::Thread)?;
    Ok(Some(log))
}

pub(super) fn disk_config(data: &Data, config: &Config) -> DiskConfig {
    let Data { dir, sync, bytes_max } = data.clone();
    DiskConfig { dir, sync, bytes_max, partitions: config.partitions, namespaces: config.namespaces }
}

fn node_config(cluster: &Cluster, config: &Config) -> NodeConfig {
    let Cluster { nodes, name, replicas, nkey_file, credentials_file, ca_file } = cluster.clone();
    NodeConfig {
        nodes,
        name,
        replicas,
        nkey_file,
        credentials_file,
        ca_file,
        partitions: config.partitions,
        namespaces: config.namespaces,
        body_bytes_max: config.http.body_bytes_max,
        memory_bytes_max: config.history.memory_bytes_max,
        age_max: config.history.age_max,
    }
}

fn home_settings(
    config: &Config,
    partitioner: Partitioner,
    epoch: Epoch,
    memory: &Arc<Memory>,
) -> HomeSettings {
    let history = &config.history;
    HomeSettings {
        placement: Placement::new(config.partitions, config.cpus.ids.len()),
        partitioner,
        epochs: Arc::new(Epochs::new(epoch, Vec::new())),
        limits: HistoryLimits {
            events_max: history.events_max,
            bytes_max: history.bytes_max,
            // Configured durations are at most a year.
            age_max_ms: history.age_max.as_millis() as u64,
            page_frames_max: PAGE_FRAMES_MAX,
        },
        memory: Arc::clone(memory),
        topic_count: Arc::new(TopicCount::new(config.topics_max)),
    }
}
