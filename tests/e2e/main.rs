//! The real binary over real sockets, on free ports.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test says what it expects by unwrapping it"
)]

mod harness;

mod admin;
mod auth;
mod browser;
mod config_file;
mod guide;
mod idempotency;
mod ids;
mod journal;
mod log;
mod metrics;
mod namespaces;
mod proxies;
mod queues;
mod readme;
mod refusals;
mod requests;
mod rereading;
mod resets;
mod sessions;
mod several;
mod starting;
mod stopping;
mod streams;
mod token;
