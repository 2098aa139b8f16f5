//! The journal's log on disk: synced batches outlive a crash.
//!
//! A [`Log`](log::Log) owns a directory. It appends batches of publishes to the newest segment, syncs them, and returns
//! them in order when it is opened again. It knows nothing of shards and subscribers. Every call blocks, so one thread
//! owns it: `fdatasync`s of one file system that overlap give fewer durable appends than one that covers as many.
//!
//! ```text
//! open ──> sink: every publish that is there     append, append, ... sync ──> final
//!   │                                               │ full segment: the next one (`roll`)
//!   └──> Recovery: epochs, ends, last sequences     └ dropped, dropped, ... trim ──> segments removed or rewritten
//! ```
//!
//! The rules:
//! - A batch that `append` wrote is final when a later `sync` returns. After a failed operation there is no further
//!   one.
//! - A loss is never hidden: the oldest record of a topic names the event before it, [`ends`] has the topics without
//!   events, and [`epochs`] has the last sequences that ids of earlier starts may name.
//! - A partition's sequences ascend through the segments, also after some were rewritten: recovery reads each segment once,
//!   from front to back, and needs memory for one batch.
//!
//! | module | idea |
//! |---|---|
//! | `simulation` | the log on a disk that forgets, under a seed, against a naive model |
//! | `fuzz` | opens a directory of arbitrary bytes |
//! | [`inspect`] | verify, repair and copy a directory |
//! | [`recovery`] | hands out the log's events, cuts a torn end |
//! | [`trim`], [`rewrite`] | free the disk of dropped events, whose loss is recorded before |
//! | [`log`] | append, sync, and the next segment |
//! | [`layout`] | the files and batches that must be there; finds torn ends and damage |
//! | [`alive`], [`gone`] | the alive events of each segment, in memory and on disk |
//! | [`scan`], [`batch`] | a segment's batches, read and written |
//! | [`epochs`], [`ends`] | tables that each segment begins with |
//! | [`record`], [`mod@format`], [`encoding`] | the bytes |
//! | [`storage`], [`error`] | the operations of a disk, and how they fail |

pub(crate) mod alive;
mod batch;
pub(in crate::journal) mod encoding;
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
#[cfg(test)]
mod simulation;
pub(crate) mod storage;
pub(crate) mod trim;
