use std::net::Ipv4Addr;

use super::machine::TASK_BYTES;
use super::*;
use crate::config::Config;
use crate::server::tests::parts;
use crate::shard::stream::tests::shard_and_socket;

#[test]
fn the_task_of_a_connection_is_within_what_is_charged_for_it() {
    let (_, stream) = shard_and_socket();
    let connections = parts(Config::default()).connections();
    let charge = connections.service.request_memory.admit().unwrap();
    let future =
        run(connections, stream, ClientAddress::Ip(Ipv4Addr::LOCALHOST.into()), Port::Public, charge);
    assert!(size_of_val(&future) <= TASK_BYTES, "{}", size_of_val(&future));
}

#[test]
fn a_pipeline_is_small() {
    // Its sum with the task and the buffer stands in docs/architecture.md.
    assert!(size_of::<Pipeline>() <= 216, "{}", size_of::<Pipeline>());
}
