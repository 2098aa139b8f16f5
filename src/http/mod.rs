//! HTTP/1.1 without I/O: bytes in, requests out; answers in, bytes out.
//!
//! It knows no event streams, sockets or clocks. [`RequestReader`] cuts a connection's bytes into heads and bodies,
//! [`target`] splits a request target, and the rest writes answers. Any doubt about where a request ends is a
//! [`Refusal`] that closes the connection: guessing there is how requests are smuggled.

mod body;
mod cors;
mod fields;
mod head;
mod refusal;
mod request;
mod response;
mod status;
pub(crate) mod target;

#[cfg(test)]
mod pipeline_tests;

pub(crate) use cors::{Asking, Cors};
pub(crate) use head::{BodyLength, Head, Method, TARGET_BYTES_MAX, Version};
pub(crate) use refusal::Refusal;
pub(crate) use request::{HttpLimits, RequestReader};
pub(crate) use response::{Context, Extra, Response, encode_queue_head};
pub(crate) use status::Status;
