//! The client of a NATS cluster, whose JetStream orders and keeps the events of all nodes. Nothing else names the NATS
//! client library. All of it runs on one thread with its own runtime, beside the shards, which never wait for it.
//!
//! | module | idea |
//! |---|---|
//! | [`connect`] | addresses, credentials, the connection |
//! | [`stream`] | the stream: made, checked, asked about, begun anew |
//! | [`start`] | reads what the stream has into the homes, before any client connects |
//! | [`reader`] | the node's one consumer, made again whenever it may have missed anything |
//! | [`link`] | the thread: sends what shards want ordered, applies what comes |
//! | [`acks`] | JetStream's answers to messages |
//! | [`counts`] | streams that an emit or a disconnect reached, over all nodes |
//! | [`peers`] | the other nodes: who is there, and what they answer |
//!
//! What is sent, sent again and applied is decided in [`journal::cluster`](crate::journal::cluster), without I/O.

mod acks;
mod connect;
mod counts;
mod error;
mod link;
mod peers;
mod reader;
mod start;
mod stream;

pub(crate) use error::ClusterError;
pub(crate) use link::start;
pub(crate) use start::{NodeLink, open};
