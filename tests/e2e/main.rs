//! The real binary over real sockets, on free ports.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test says what it expects by unwrapping it"
)]

#[path = "../support/mod.rs"]
mod support;

mod access_log;
mod admin;
mod auth;
mod bodies;
mod browser;
mod browsers;
mod clients;
mod cluster;
mod commands;
mod config_file;
mod cors;
mod guide;
mod history;
mod idempotency;
mod ids;
mod journal;
mod jwks;
mod listening;
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
mod resuming;
mod sessions;
mod several;
mod slow;
mod starting;
mod stopping;
mod streams;
mod systemd;
mod tickets;
mod token;
mod wire;
