use std::net::Ipv4Addr;

use super::*;
use crate::shard::stream::tests::shard_and_socket;

#[test]
fn the_task_of_a_connection_is_within_what_is_charged_for_it() {
    let (shard, stream) = shard_and_socket();
    let charge = shard.shared.request_memory.admit().unwrap();
    let future = run(shard, stream, Ipv4Addr::LOCALHOST.into(), Door::Public, charge);
    assert!(size_of_val(&future) <= TASK_BYTES, "{}", size_of_val(&future));
}
