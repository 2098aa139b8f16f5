//! The real binary over real sockets, on free ports.

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
