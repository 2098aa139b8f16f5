//! Settings of kept events: in memory for replay, and in a directory that outlives the process.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::MIB;
use super::values::{Size, Time, any_size, count, some_time};
use crate::journal::config::SyncPolicy;

/// What is kept for replay. An event leaves the history when any of these limits is reached.
#[derive(Args, Clone, Copy, Debug, Eq, PartialEq)]
#[command(next_help_heading = "History")]
pub struct History {
    /// Events kept for replay per topic; 0 for none, and then no ids are added either.
    #[arg(id = "history-events", long, value_name = "N", value_parser = count(0), default_value = "1000")]
    pub events_max: usize,
    /// Bytes kept for replay per topic.
    #[arg(id = "history-bytes", long, value_name = "SIZE", value_parser = any_size, default_value = "4MiB")]
    pub bytes_max: usize,
    /// How long an event is kept for replay.
    #[arg(id = "history-age", long, value_name = "TIME", value_parser = some_time, default_value = "10m")]
    pub age_max: Duration,
    /// Bytes of all that is kept for replay and for subscribers that are behind, together.
    ///
    /// At least `bytes_max` and `Stream::lag_bytes_max`.
    #[arg(id = "history-memory", long, value_name = "SIZE", value_parser = any_size, default_value = "256MiB")]
    pub memory_bytes_max: usize,
}

/// Where events are kept that outlive the process.
#[derive(Args, Clone, Debug, Eq, PartialEq)]
#[command(next_help_heading = "Journal")]
pub struct Data {
    /// The directory; it is made if it is not there. One server at a time uses it.
    #[arg(skip)]
    pub dir: PathBuf,
    /// When a publish is answered: always, once it is on the disk; with a TIME, once it is written, and it is on the
    /// disk at most so much later. Then kill -9 loses nothing, but a power failure loses what came in that TIME, which
    /// subscribers may have seen.
    #[arg(long, value_name = "always|TIME", value_parser = sync_policy, default_value = "always")]
    pub sync: SyncPolicy,
    /// Bytes that directory may take, 256MiB or more; past that the oldest events go, whatever --history-* keeps
    /// [default: no limit].
    #[arg(id = "data-max", long, value_name = "SIZE", value_parser = data_max)]
    pub bytes_max: Option<usize>,
}

/// The flags of [`Data`], which there is none of without a directory.
#[derive(Args, Debug)]
#[command(next_help_heading = "Journal")]
pub(super) struct DataFlags {
    /// Directory to keep events in, so that what was answered 200 outlives kill -9 and a power failure; made if it is
    /// not there [default: none: events are in memory alone]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    #[command(flatten)]
    data: Data,
}

impl DataFlags {
    pub(super) fn data(self) -> Option<Data> {
        let dir = self.data_dir?;
        Some(Data { dir, ..self.data })
    }
}

fn data_max(text: &str) -> Result<usize, String> {
    const LEAST: usize = 256 * MIB;
    match any_size(text)? {
        bytes if bytes < LEAST => Err(format!("too small; write at least {}", Size(LEAST))),
        bytes => Ok(bytes),
    }
}

/// Parses `always` or a time.
fn sync_policy(text: &str) -> Result<SyncPolicy, String> {
    if text == "always" {
        return Ok(SyncPolicy::Always);
    }
    match text.parse().map_err(|reason| format!("{reason}; or write always"))? {
        Time(Duration::ZERO) => Err("no time; write always, or at least 1ms".to_owned()),
        Time(time) => Ok(SyncPolicy::Every(time)),
    }
}
