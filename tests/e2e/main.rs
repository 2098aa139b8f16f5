//! The real binary over real sockets, on free ports.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test says what it expects by unwrapping it"
)]

mod harness;

mod auth;
mod browser;
mod proxies;
mod readme;
mod refusals;
mod requests;
mod starting;
mod stopping;
mod streams;
