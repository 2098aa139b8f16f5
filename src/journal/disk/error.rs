//! The errors of the journal, by who handles them: the operator at startup, the publisher, or nobody.

use std::io;

use thiserror::Error;

/// The reason why a journal cannot be opened: one line, with what to do about it.
#[derive(Debug, Error)]
pub(crate) enum OpenError {
    /// A file, or something else, is where the directory should be.
    #[error("{dir} is not a directory: name a directory for the journal, or remove what is there")]
    NotADirectory {
        /// Its path.
        dir: String,
    },
    /// This process may not read or write the directory or a file in it.
    #[error(
        "no permission for {path}, which belongs to user {owner}; this process is user {user}: run it as {owner}, or `chown -R {user}` the directory"
    )]
    Permission {
        /// The directory or the file.
        path: String,
        /// The user id of its owner.
        owner: u32,
        /// The user id of this process.
        user: u32,
    },
    /// The file system is mounted read-only.
    #[error("{dir} is on a read-only file system: remount it for writing, or name another directory")]
    ReadOnly {
        /// Its path.
        dir: String,
    },
    /// The directory to copy to has files in it.
    #[error("{dir} is not empty: name a new directory")]
    NotEmpty {
        /// Its path.
        dir: String,
    },
    /// Another process uses the directory.
    #[error(
        "{dir} is in use by another esper{}: stop that one, or name another directory",
        pid.map(|pid| format!(", process {pid}")).unwrap_or_default()
    )]
    Locked {
        /// Its path.
        dir: String,
        /// The process, unless it has just started or ended.
        pid: Option<u32>,
    },
    /// The data have another number of partitions than was asked for.
    #[error(
        "the journal in {dir} has {found} partitions, not {asked}: start with {found}, or with an empty directory"
    )]
    Partitions {
        /// Its path.
        dir: String,
        /// As the data say.
        found: u8,
        /// As the settings say.
        asked: u8,
    },
    /// The data are of a later version of the format.
    #[error(
        "{dir}/{file} has format version {version}, and this esper reads version {known} at most: start the later esper that wrote it"
    )]
    Newer {
        /// The directory.
        dir: String,
        /// The segment's name.
        file: String,
        /// Its version.
        version: u16,
        /// The version that is read.
        known: u16,
    },
    /// Bytes that were synced are not what was written.
    #[error(
        "{dir}/{damage}. `esper journal verify {dir}` lists all damage and changes nothing; `esper journal repair {dir} TO` copies what is whole into a new directory, and lists what is not"
    )]
    Damage {
        /// The directory.
        dir: String,
        /// The first damage that was found.
        damage: Damage,
    },
    /// There is no room for even a small segment.
    #[error("no room for a segment in {dir} ({source}): free some, or raise the quota")]
    Full {
        /// The directory.
        dir: String,
        /// `ENOSPC` or `EDQUOT`.
        source: io::Error,
    },
    /// The operating system refused an operation.
    #[error("cannot {what} ({source}): check this path, its disk and its file system, then start again")]
    Io {
        /// The operation and the file.
        what: String,
        /// The cause.
        source: io::Error,
    },
}

/// A place where a journal differs from what was written.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
#[error("{file} is damaged at byte {offset}: {what}")]
pub(crate) struct Damage {
    /// The segment's file name.
    pub(crate) file: String,
    /// The offset in bytes from the start of the file.
    pub(crate) offset: u64,
    /// The defect.
    pub(crate) what: &'static str,
}

/// The reason why a batch was not appended.
#[derive(Debug, Error)]
pub(crate) enum AppendError {
    /// There is no room. Nothing was written, and the next append tries again.
    #[error(transparent)]
    Full(#[from] Full),
    /// The journal is at its end.
    #[error(transparent)]
    Fatal(#[from] Fatal),
    /// A sequence is not past the partition's last one, or there is no such partition: a bug of the caller. Nothing was
    /// written.
    #[error("partition {partition} is at sequence {last}: {first} cannot follow")]
    OutOfOrder {
        /// The publish's partition.
        partition: u8,
        /// The publish's first sequence.
        first: u64,
        /// The last one of the partition.
        last: u64,
    },
    /// The batch is past 4 GiB, or an event outside its text. Nothing was written.
    #[error("the batch cannot be encoded: it is past 4 GiB, or an event is outside its text")]
    Unencodable,
}

/// The reason why there is no room.
#[derive(Debug, Error)]
pub(crate) enum Full {
    /// The file system or the quota is full.
    #[error("no room for the journal ({source}): free some, or raise the quota; it goes on by itself")]
    Disk {
        /// `ENOSPC` or `EDQUOT`.
        source: io::Error,
    },
    /// The journal's own limit, and there is no segment to remove.
    #[error("the journal may hold {data_bytes_max} bytes: raise the limit, or make segments smaller")]
    Limit {
        /// The limit.
        data_bytes_max: u64,
    },
}

/// A failed operation on the disk; the bytes written may be there or not. No further operation is done: a second sync
/// may succeed without the bytes that the first one lost (Rebello et al., "Can Applications Recover from fsync
/// Failures?", ATC'20). The process must end; the next start finds out what is there.
#[derive(Debug, Error)]
#[error("the journal failed: cannot {what}{}", source.as_ref().map(|source| format!(" ({source})")).unwrap_or_default())]
pub(crate) struct Fatal {
    /// The operation and the file.
    pub(crate) what: String,
    /// The cause; `None` if an earlier call failed.
    pub(crate) source: Option<io::Error>,
}
