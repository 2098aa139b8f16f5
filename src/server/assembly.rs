//! What all shards of a server share, made of its configuration and of what the journal kept.

use std::sync::Arc;

use super::StartError;
use crate::admin::Desk;
use crate::clock::Clock;
use crate::config::Config;
use crate::core::budget::Budget;
use crate::core::epochs::Epochs;
use crate::core::event_id::Epoch;
use crate::core::home::{HistoryLimits, HomeSettings, PAGE_FRAMES_MAX, TopicCount};
use crate::core::memory::Memory;
use crate::core::partition::{Partitioner, Placement};
use crate::core::topic::TopicHasher;
use crate::http::Cors;
use crate::journal;
use crate::journal::start::Opened;
use crate::request_memory::RequestMemory;
use crate::shared::{Access, Shared, Streams};
use crate::stats::Stats;

/// Returns what shards share that keep nothing.
#[cfg(test)]
pub(crate) fn shared_without_journal(
    config: Config,
    subscribers_allowed: usize,
) -> Result<Shared, StartError> {
    shared(config, subscribers_allowed).map(|(shared, _)| shared)
}

/// Returns what shards share, and what the journal kept, if there is one.
pub(super) fn shared(
    config: Config,
    subscribers_allowed: usize,
) -> Result<(Shared, Option<Opened>), StartError> {
    let clock = Clock::start();
    let shards = config.cpus.ids.len();
    let mailbox = config.mailbox;
    let memory = Memory::new(config.history.memory_bytes_max);
    let request_memory = Arc::new(RequestMemory::new(config.http.memory_bytes_max));
    let kept = match &config.data {
        Some(data) => {
            let settings = |partitioner, epoch| home_settings(&config, partitioner, epoch, &memory);
            let opened = journal::start::open(data, &config, clock, settings);
            Some(opened.map_err(|error| StartError::Journal(error.to_string()))?)
        }
        None => None,
    };
    let (homes, hasher) = match &kept {
        Some(kept) => (kept.settings.clone(), kept.hasher.clone()),
        None => {
            let partitioner = Partitioner::random(config.partitions);
            let homes = home_settings(&config, partitioner, Epoch::new(), &memory);
            (homes, TopicHasher::new(partitioner))
        }
    };
    let journal = kept.as_ref().map(|kept| Arc::clone(&kept.stats));
    let shared = Shared {
        access: Access::new(&config, hasher),
        homes,
        admin: Desk::default(),
        cors: Cors::parse(&config.cors_origins).map_err(StartError::Config)?,
        clock,
        stats: Stats::new(clock, Arc::clone(&memory), Arc::clone(&request_memory), journal, shards),
        memory,
        bridge: None,
        budget: Budget::new(mailbox.bytes_max, mailbox.messages_max),
        request_memory,
        files_short_at_ms: 0.into(),
        streams: Streams::new(config.subscribers_max.unwrap_or(subscribers_allowed)),
        draining: false.into(),
        shards,
        config,
    };
    Ok((shared, kept))
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
            // Configured durations end at a year.
            age_max_ms: history.age_max.as_millis() as u64,
            page_frames_max: PAGE_FRAMES_MAX,
        },
        memory: Arc::clone(memory),
        topic_count: Arc::new(TopicCount::new(config.topics_max)),
    }
}
