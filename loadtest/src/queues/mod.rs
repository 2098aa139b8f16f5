//! Queues: the way of a message from RabbitMQ through esper to an HTTP client, beside a bare consumer that does nothing
//! but take it. Each case is put to both in turn, round after round, each time in a new process and with new queues.
//!
//! ```text
//! measure -> broker (one for all), then for each round: publisher -> queues -> contender -> Tally -> results -> tables
//!                                                       esper: its process, read by `listen` over HTTP
//!                                                       bare:  its process, told by `follow`
//! ```

mod amqp;
mod bare;
mod broker;
mod case;
mod contender;
mod measure;
mod publisher;
mod results;
mod round;
mod tables;

pub(crate) use bare::consume;
pub(crate) use measure::queues;
