//! What the test programs share: the binary and what it says, connections, streams, publishers, waits, and the programs
//! around it, which are browsers and proxies.
#![allow(dead_code, unused_imports, reason = "each test program uses a part")]

pub(crate) mod admin_page;
pub(crate) mod browser;
mod client;
mod http;
mod machine;
pub(crate) mod nats;
mod process;
pub(crate) mod provider;
pub(crate) mod proxy;
pub(crate) mod relay;
mod server;
pub(crate) mod sessions;
pub(crate) mod slow_clients;
mod stream;
pub(crate) mod tokens;

pub(crate) use client::{Client, Publisher, publish_request};
pub(crate) use http::{
    Answer, ask, behind_first_retry, check_refusal, check_unauthorized, connect, dechunk, exchange,
    read_head, try_connect, try_connect_unix,
};
pub(crate) use machine::{CPUS, PATIENCE, TempDir, eventually, free_port, wait_until};
pub(crate) use process::{Ended, WITHOUT_CALL, esper, launched, run, signal};
pub(crate) use server::Server;
pub(crate) use stream::{Event, Stream, check_no_heartbeat_while_busy, data, farewell, gap_reason};
