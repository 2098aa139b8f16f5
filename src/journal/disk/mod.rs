//! The journal's log on disk: what was appended and synced outlives a crash.
//!
//! A [`Log`](log::Log) owns a directory. It appends batches of publishes to the newest segment, syncs them, and gives
//! them back in order when it is opened again. It knows nothing of shards and subscribers. Every call blocks, so one
//! thread of its own has it: several `fdatasync`s of one file system at a time give fewer durable appends than one that
//! covers as many.
//!
//! ```text
//! open ──> sink: every publish that is there     append, append, ... sync ──> final
//!   │                                               │ full segment: the next one (`roll`)
//!   └──> Recovery: epochs, ends, last sequences     └ dropped, dropped, ... trim ──> segments removed or rewritten
//! ```
//!
//! The rules:
//! - What an `append` wrote is final when a later `sync` returns. After a failed operation there is no further one.
//! - A loss is never hidden: the oldest record of a topic names the event before it, [`ends`] has the topics that are
//!   gone, [`epochs`] what an id of an earlier start may name.
//! - A partition's sequences ascend through the segments, also after some were rewritten: recovery reads each segment once,
//!   from front to back, and needs memory for one batch.
//!
//! | module | idea |
//! |---|---|
//! | `simulation` | the log on a disk that forgets, under a seed, against a naive model |
//! | `fuzz` | a directory of any bytes, opened |
//! | [`inspect`] | verify, repair and copy a directory |
//! | [`recovery`] | what is there is handed out, what was torn is cut |
//! | [`trim`], [`rewrite`] | what histories dropped leaves the disk, and is recorded before |
//! | [`log`] | append, sync, and the next segment |
//! | [`layout`] | which files and batches there must be, what is torn, what is damaged |
//! | [`segments`], [`gone`] | what of each segment is alive, in memory and on disk |
//! | [`scan`], [`batch`] | a segment's batches, read and written |
//! | [`epochs`], [`ends`] | tables that each segment begins with |
//! | [`record`], [`mod@format`], [`encoding`] | the bytes |
//! | [`storage`], [`error`] | the operations of a disk, and how they fail |

mod batch;
mod encoding;
pub(crate) mod ends;
pub(crate) mod epochs;
pub(crate) mod error;
mod format;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod gone;
pub(crate) mod inspect;
mod layout;
pub(crate) mod log;
pub(crate) mod record;
pub(crate) mod recovery;
mod rewrite;
mod scan;
pub(crate) mod segments;
#[cfg(test)]
mod simulation;
pub(crate) mod storage;
pub(crate) mod trim;
