//! What decides without I/O.

pub(crate) mod arena;
pub(crate) mod budget;
pub(crate) mod delivery_count;
pub(crate) mod event;
pub(crate) mod event_id;
pub(crate) mod fanout;
pub(crate) mod home;
pub(crate) mod memory;
pub(crate) mod message;
pub(crate) mod reply;
pub(crate) mod selection;
pub(crate) mod session;
#[cfg(test)]
mod simulation;
pub(crate) mod survey;
pub(crate) mod topic;
