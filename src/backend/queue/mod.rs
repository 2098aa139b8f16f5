//! Queues that are clients': who has which, what a message is called, and what is acknowledged when. Knows no broker but by
//! [`MessageBroker`](super::broker::MessageBroker); [`ledger`] and [`message`] know neither runtime nor clock.

pub(super) mod ledger;
pub(super) mod message;
pub(super) mod registry;
pub(super) mod stream;
pub(super) mod subscribe;
