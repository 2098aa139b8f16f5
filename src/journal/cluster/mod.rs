//! The journal of a cluster: order is final when JetStream has it, and every node applies the same order.
//!
//! ```text
//! shard: home ──> ClusterQueue ──Wishes──> thread: Outbound, a message for each partition ──> JetStream
//!        home <── Applied, of all nodes <── thread: Inbound, one message after the other <──────┘
//! ```
//!
//! | module | idea |
//! |---|---|
//! | [`message`] | the bytes of a message of the stream |
//! | [`outbound`] | this node's messages: gathered, sent again, given up |
//! | [`inbound`] | the stream's messages: each once, and holes seen |
//! | [`queue`] | the shards' way to the thread |
//! | [`events`] | what the shards are told of the stream |
//! | [`question`] | what one node asks the others |
//! | [`state`] | what all threads may know, and counters |
//!
//! The thread itself, and all that knows NATS, is [`backend::nats`](crate::backend::nats).

pub(crate) mod events;
pub(crate) mod inbound;
pub(crate) mod message;
pub(crate) mod outbound;
pub(crate) mod question;
pub(crate) mod queue;
#[cfg(test)]
mod simulation;
pub(crate) mod state;
