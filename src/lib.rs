//! esper: a Server-Sent Events broker for Linux, one io_uring runtime per core. It is a program of its own,
//! and a library for programs that want one inside: both do the same.
//!
//! ```
//! use esper::{Event, Server};
//!
//! // Browsers subscribe with: new EventSource(`http://${address}/subscribe/pets`)
//! let server = Server::builder().port(0).namespaces(true).start()?;
//! println!("listening on http://{}", server.address());
//!
//! // From any thread, and without waiting for a subscriber:
//! let publisher = server.publisher();
//! publisher.publish("pets/dogs", Event::data("Corgi").name("new-dog"))?;
//!
//! server.stop();
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! [`Server::builder`] sets what most programs want, a [`Config`](config::Config) everything there is;
//! [`Publisher`] publishes an [`Event`] or event-stream text; [`Server::stats`] counts. Two examples show it
//! in a browser: `cargo run --release --example clock`, and `petstore`.
//!
//! A program depends on it with `default-features = false`, and the features it wants. Each is on by default, for the
//! binary:
//!
//! | feature | |
//! |---|---|
//! | `amqp` | queues and exchanges of RabbitMQ: [`Config::queues`](config::Config::queues), `--broker-node` |
//! | `nats` | clusters on NATS JetStream: [`Config::cluster`](config::Config::cluster), `--cluster` |
//! | `cli` | the binary `esper`: its commands, its log, signals and systemd |
//! | `metrics` | `/metrics`, in Prometheus's format; without it that is answered 404 |
//! | `jwks-url` | keys of identity providers by their URL: `--subscriber-jwks` and its like; files of them need no feature |
//! | `jemalloc` | the binary's allocator: it does not change that of a program, and takes a C compiler and `make` to build |
//!
//! Without all of them 118 of 264 dependencies are left, and neither TLS nor C code. Flags and fields of the others are still
//! there, and a server that is asked for what it lacks does not start and names the feature.
//!
//! # The ideas
//!
//! A **shard** is one thread on one CPU: its own listener (`SO_REUSEPORT`), its own tokio-uring runtime, its own
//! connections and topics. Shards share counters and nothing else; messages between them go through mailboxes. A
//! shard's decisions are the **core**'s, which does no I/O; it reads and sends itself.
//!
//! ```text
//! shard                           core                                                       shard
//! bytes in -> http -> dialect -> publish ─┐                    ┌─> fanout: block in the topic's log -> cursors -> bytes out
//!                                        ▼                    │   (each shard with subscribers)
//!                              home: order, id, frame, history┘
//!                           (one shard per partition) ────────> 200 to the publisher
//! ```
//!
//! - **One writer per partition.** A topic belongs to one of a few partitions, chosen by a hash of its first segment,
//!   which belong to the data and not to the machine. A partition's *home* shard gives each event its place and its id,
//!   serialises it once, keeps it for replay, and posts the shared bytes to the shards with subscribers. Channels are
//!   first in, first out, so everybody sees one order without a lock.
//! - **A subscriber is a cursor for each of its topics, not a queue.** What a topic gained in one turn of a shard is
//!   one block of its *log*, whatever else its readers take; a cursor is a place in that log, and one send covers
//!   everything from there to the tail, of several topics in the order of their partition.
//!   Under load turns grow longer and blocks larger by themselves, and the cost of a delivery falls from a
//!   system call to a copy of memory. The turn itself sends what a socket has room for, and the rest when the kernel
//!   tells of room; the ring accepts, and reads requests.
//! - **Too slow is a place as well.** A log keeps a block only while a cursor is at or before it, and is
//!   trimmed at a limit. A subscriber that it is trimmed past is cut, or skipped forward with an `event: gap`.
//! - **Decide without I/O, then do I/O.** Everything in `core` takes bytes, messages and the time, and returns what to
//!   do; it imports no other module. Requests and tokens are read the same way. So a seeded simulation can run the
//!   homes and fan-outs of several shards in one thread against a naive model. Threads, sockets and the runtime are
//!   known to `server`, `shard`, `connection`, `backend`, `journal`, `host`, `lines` and the two logs.
//! - **Memory is bounded where it enters.** No shard waits for another's mailbox. A publish takes room from one
//!   budget before it is posted, and gives it back when the last shard has handled it; without room its
//!   publisher is not read from.
//! - **A server that we are a client of is a backend.** It is one thread on plain tokio beside the shards, which never
//!   wait for it. RabbitMQ's messages for a client go to the client's shard as events of a topic of its own; how
//!   many of them the kernel took is a counter that the backend reads, and acknowledges late.
//!
//! # The modules
//!
//! From those that know most to those that know least:
//!
//! | | |
//! |---|---|
//! | `command` | the binary's commands beside the server, such as `esper token` |
//! | `server` | starts and stops the shards, the backend and the admin thread |
//! | `monitor` | the admin page's data, `/sessions/`, Prometheus's metrics and `/debug/vars` |
//! | `connection` | HTTP over one socket: requests in, answers out, until it becomes a stream |
//! | `dialects` | the interfaces that clients speak: what a request asks for, and whether it may have it |
//! | `publisher` | publishing from within the program |
//! | `shard` | the thread of one CPU: its turn and its streams |
//! | `journal` | where the order of events becomes final: in memory, or in a log on disk that outlives a crash |
//! | [`config`] | flags, variables and files become one checked [`config::Config`] |
//! | `backend` | RabbitMQ's queues become clients' streams, and keys are fetched: threads of their own, beside the shards |
//! | `auth` | secrets and public keys, those in force; verifies and mints tokens |
//! | `http` | a request's bytes, a response's bytes |
//! | `stats`, `clock` | counters, the time |
//! | `core` | order, history, logs, cursors, events, topics: decides without I/O and imports none of these; its own page says more |
//! | `access_log`, `log`, `lines` | a line for each request and each stream's end; the binary's log; the queue of both, which nobody waits for |
//! | `host` | limits, listeners, sockets of the file system |

#![forbid(unsafe_code)]
// Code that only queues, clusters or the binary use stays in builds without them, and so do its tests. A build with all
// features finds what nothing uses.
#![cfg_attr(
    not(all(feature = "amqp", feature = "cli", feature = "metrics", feature = "nats")),
    allow(dead_code, unused_imports)
)]

mod access_log;
mod auth;
mod backend;
mod clock;
#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod command;
pub mod config;
mod connection;
mod core;
mod dialects;
mod host;
mod http;
#[doc(hidden)]
pub mod internal;
mod journal;
mod lines;
#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod log;
mod monitor;
mod publisher;
mod server;
mod shard;
mod stats;

pub use publisher::{Event, PublishError, Published, Publisher, Receipt};
pub use server::{Inherited, Probe, Server, ServerBuilder, StartError};
