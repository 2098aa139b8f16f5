//! The part of a server's configuration that the journal on disk needs.

use std::path::PathBuf;
use std::time::Duration;

/// The moment at which the publish of a kept event is answered.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum SyncPolicy {
    /// Once it is on the disk.
    Always,
    /// Once it is written; it is on the disk at most this much later.
    Every(Duration),
}

/// The settings of a journal on disk.
#[derive(Clone, Debug)]
pub(crate) struct DiskConfig {
    pub(crate) dir: PathBuf,
    pub(crate) sync: SyncPolicy,
    /// Bytes that the directory may take; `None` for no limit.
    pub(crate) bytes_max: Option<usize>,
    pub(crate) partitions: u8,
    pub(crate) namespaces: bool,
}
