//! The core of the broker: everything that decides without I/O.
//!
//! It takes bytes, messages and the time, and returns what to do. It knows no socket, no thread and no runtime, no HTTP
//! request, no flag and no other server: it imports none of the modules beside it. The owners of those call it: above
//! all a `shard`, which owns [`home::Homes`] and a [`fanout::Fanout`] and carries [`message::Post`]s between those of
//! all shards. Sending, waiting and looking up belong there, not here.
//!
//! It is handed three things that lead outside, and none of them may block: the sends of a turn, the
//! [`reply::Callback`] of a caller within the process, and the channel by which a [`survey`] answers. The time is an argument
//! everywhere but where the program starts and an [`event_id::Epoch`] is drawn.
//!
//! ```text
//!                  Publish                              Events, Page
//! who publishes ──────────────> home: order, id,     ─────────────────> fanout: logs, ──> bytes for
//!               <────────────── frame, history       <───────────────── cursors           each stream
//!                  Reply        (one a partition)      Join, More, Leave (one on each shard)
//!                                   │      ▲
//!                           Publish ▼      │ place, Publish
//!                                  journal: order becomes final
//! ```
//!
//! The ideas:
//!
//! - **A partition has one writer, its home.** It has the journal give events their place, makes each event's bytes
//!   once when that is final, and keeps what may still be replayed. The rule for gaps stands at the top of
//!   `home/history/mod.rs`.
//! - **A stream is a place in a log.** The fan-out gathers what each log gained in a turn into one block. The bytes a
//!   stream still has to be sent lie between its cursor and the log's end; a stream is too slow when its cursor would
//!   be trimmed past.
//! - **First in, first out is all the order there is.** What a home posts to one fan-out arrives in the order it was posted:
//!   so the last page of a replay marks where live events go on, and a subscriber whose stream began misses nothing.
//! - **Everything is bounded by who holds it.** A publish is charged to a [`budget::Budget`] until the last shard has taken
//!   it in; bytes that are shared are counted by a [`memory::Memory`] until the last that holds them lets go.
//! - **The simulation is the proof.** It runs the shipped home and fan-out of several shards in one thread, under a
//!   seed, against a naive model; canaries, bugs put in on purpose, prove that it finds them.
//!
//! | module | idea |
//! |---|---|
//! | `simulation` | several shards and their clients under a seed |
//! | [`survey`] | lists the connected clients, a few streams at a time |
//! | [`home`] | order, ids, frames, history and replay of the partitions that one shard is home to |
//! | [`journal`] | the interface through which order becomes final |
//! | [`fanout`] | the next send of each stream, and the streams that are too slow |
//! | [`message`] | the messages between homes and fan-outs |
//! | [`sent_count`] | counts the messages sent on a queue's stream, for their acknowledgement |
//! | [`selection`] | the topics a stream takes of one partition, and the form of its ids |
//! | [`named`] | events that say which topic they were published to |
//! | [`renewal`] | streams whose end may be moved |
//! | [`delivery_count`] | counts the streams an emit reached, over all shards |
//! | [`reply`] | replies, and the addresses they are sent to |
//! | [`session`], [`topic`], [`partition`] | a user on a channel, names, and the unit of order |
//! | [`chunk`] | frames as one HTTP chunk, written once and shared |
//! | [`event`], [`event_id`], [`epochs`] | checked events, their ids, and the epochs whose ids are good |
//! | [`arena`], [`random`], [`ahead`] | keys, random numbers, and reads before they are needed |
//! | [`budget`], [`mod@line`], [`memory`] | bytes under way, those who wait for room for theirs, and bytes held |
//!
//! Imports point down this table. Home and fan-out do not import one another.

pub(crate) mod ahead;
pub(crate) mod arena;
pub(crate) mod budget;
pub(crate) mod chunk;
pub(crate) mod delivery_count;
pub(crate) mod epochs;
pub(crate) mod event;
pub(crate) mod event_id;
pub(crate) mod fanout;
pub(crate) mod home;
pub(crate) mod journal;
mod lanes;
pub(crate) mod line;
pub(crate) mod memory;
pub(crate) mod message;
pub(crate) mod named;
pub(crate) mod partition;
pub(crate) mod random;
pub(crate) mod renewal;
pub(crate) mod reply;
pub(crate) mod selection;
pub(crate) mod sent_count;
pub(crate) mod session;
#[cfg(test)]
mod simulation;
pub(crate) mod survey;
pub(crate) mod topic;
