//! Clients' queues: which client has which, ids of messages, and when they are acknowledged. Knows brokers only by
//! [`MessageBroker`](super::interface::MessageBroker); [`ledger`] and [`message`] know neither runtime nor clock.

pub(super) mod ledger;
pub(super) mod message;
pub(super) mod registry;
pub(super) mod stream;
pub(super) mod subscribe;
