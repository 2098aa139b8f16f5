//! Sessions: tokens from the control port, and events for one user or for all on a channel.

mod control;
mod doors;
mod emits;
mod model;
mod page;
mod presence;
mod proxies;
mod refusals;
mod rotation;
mod tokens;
