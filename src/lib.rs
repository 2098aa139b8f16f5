//! esper: a standalone Server-Sent Events broker on one io_uring runtime per core.
#![forbid(unsafe_code)]

mod arena;
mod auth;
mod budget;
mod clock;
pub mod config;
mod event;
mod event_id;
mod host;
mod http;
mod routes;
mod server;
mod shard;
mod shared;
mod stats;
mod topic;

pub use server::{Server, StartError};
