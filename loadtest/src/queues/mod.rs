//! Queues: the way of a message from RabbitMQ through esper to an HTTP client, beside a bare consumer that does nothing
//! but take it. Each case is put to both in turn, round after round, each time in a new process and with new queues.
//!
//! ```text
//! one RabbitMQ for all, then for each round: publisher -> queues -> consumer -> Tally -> results -> tables
//!                                            esper: its process, read by `listen` over HTTP
//!                                            bare:  its process, told by `follow`
//! ```

mod amqp;
mod bare;
mod broker;
mod consumer;
mod publisher;
mod results;
mod round;
mod tables;

pub(crate) use bare::consume;

use crate::args::QueuesArgs;
use crate::bench::peer::{self, Peer};
use crate::bench::results::Machine;
use crate::bench::{Question, ask, chosen};
use crate::process::make_room;
use crate::run::{check_cpus, pin};
use broker::Broker;
use results::{Contender, Kind, QueueCase, QueueResults, QueuesAsked, cases};
use round::one;
use std::collections::HashMap;
use std::time::Duration;

/// Messages in each queue of the run that tells how many a drain of the asked duration needs.
const TRIAL_EACH: u64 = 100;
/// Fewer would measure how queues are opened; more fill a disk.
const EACH: (u64, u64) = (20, 20_000);

/// The surroundings of all runs.
pub(crate) struct Bench<'a> {
    pub(crate) esper: Peer,
    pub(crate) broker: Broker,
    pub(crate) args: &'a QueuesArgs,
}

/// Measures queues, or prints what was measured before. False when a run failed, of either consumer.
pub(crate) fn queues(args: &QueuesArgs) -> Result<bool, String> {
    let results = match &args.from {
        Some(file) => QueueResults::read(file)?,
        None => measure(args)?,
    };
    print!("{}", tables::tables(&results));
    Ok(results.records.iter().all(|record| record.error.is_none()))
}

fn measure(args: &QueuesArgs) -> Result<QueueResults, String> {
    let options = &args.bench;
    let cases = chosen(cases(args), &options.cases)?;
    check_cpus("--server-cpu", &[options.server_cpu])?;
    check_cpus("--load-cpu", &[args.load_cpu])?;
    let broker_cpu = args.amqp_url.is_none().then_some(args.broker_cpu);
    check_cpus("--broker-cpu", broker_cpu.as_slice())?;
    let esper = peer::built_in("esper", &options.esper)?;
    make_room(args.queues, 1, 4)?;
    // Told of the whole machine, and so before this thread is pinned.
    let machine = Machine::here();
    let broker = match &args.amqp_url {
        Some(url) => Broker::at(url)?,
        None => Broker::start(&args.rabbitmq, broker_cpu)?,
    };
    // Processes started from here on run on the load's CPU, unless they are given another.
    pin(Some(args.load_cpu));
    let about = QueuesAsked { args: args.clone(), own_broker: args.amqp_url.is_none() };
    let mut results = QueueResults { machine, about, records: Vec::new() };
    let questions: Vec<_> = cases
        .iter()
        .map(|case| Question { case, rounds: case.rounds, peers: Contender::ALL.iter().collect() })
        .collect();
    let seconds = cases.first().map_or(0.0, |case| case.seconds);
    let bench = Bench { esper, broker, args };
    let mut each = HashMap::new();
    let describe = |case: &QueueCase| (case.name.clone(), case.metrics());
    ask(options, Duration::from_secs_f64(seconds), &questions, &mut results, describe, |case, contender| {
        let each = match each.get(&case.name) {
            Some(each) => *each,
            None => *each.entry(case.name.clone()).or_insert(messages_of_each(&bench, case)?),
        };
        one(&bench, case, *contender, each)
    })?;
    Ok(results)
}

/// Returns how many messages each queue needs so that the bare consumer takes the case's time to drain them. The same for
/// both and in every round.
fn messages_of_each(bench: &Bench<'_>, case: &QueueCase) -> Result<u64, String> {
    if case.kind == Kind::Paced {
        return Ok(0);
    }
    let trial = one(bench, case, Contender::Bare, TRIAL_EACH)?;
    let each = (trial.deliveries.per_second * case.seconds / bench.args.queues as f64).ceil() as u64;
    Ok(each.clamp(EACH.0, EACH.1))
}
