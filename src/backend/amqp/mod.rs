//! RabbitMQ by AMQP 0-9-1. Nothing else in the crate knows lapin.
//!
//! **One queue harms no other**, though queues share a connection, which AMQP and lapin end for many reasons. Text of
//! publishers that lapin cannot read stops at [`frames`], between the socket and lapin.

mod consumer;
mod frames;
mod link;
mod pool;
mod reason;
#[cfg(test)]
mod tests;
mod transport;

pub(super) use pool::AmqpBroker;
