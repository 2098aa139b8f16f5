//! The whole of it: one RabbitMQ for all, cases one after another, contenders in turn.

use crate::args::QueuesArgs;
use crate::compare::metric::show;
use crate::compare::results::{Machine, read_json, write_json};
use crate::process::make_room;
use crate::queues::broker::Broker;
use crate::queues::case::{self, Case, Kind};
use crate::queues::results::{Contender, Figures, Record, Results};
use crate::queues::round::one;
use crate::queues::tables::tables;
use crate::run::{check_cpus, pin};
use crate::stamp::{STAMP_BYTES, TOPICS_MAX};
use std::path::PathBuf;

/// Messages in each queue of the run that tells how many a drain of the asked duration needs.
const TRIAL_EACH: u64 = 100;
/// Fewer would measure how queues are opened; more fill a disk.
const EACH: (u64, u64) = (20, 20_000);

/// What all runs have in common.
pub(crate) struct Bench {
    pub(crate) broker: Broker,
    pub(crate) esper: PathBuf,
    pub(crate) queues: usize,
    pub(crate) size: usize,
    pub(crate) rate: f64,
    pub(crate) server_cpu: usize,
    pub(crate) load_cpu: usize,
}

/// Measures queues, or prints what was measured before. False when a run failed, of either contender.
pub(crate) fn queues(args: &QueuesArgs) -> Result<bool, String> {
    let results = match &args.from {
        Some(file) => read_json(file)?,
        None => measure(args)?,
    };
    if args.json {
        println!("{}", serde_json::to_string(&results).map_err(|error| error.to_string())?);
    } else {
        print!("{}", tables(&results));
    }
    Ok(results.records.iter().all(|record| record.error.is_none()))
}

fn measure(args: &QueuesArgs) -> Result<Results, String> {
    let cases = chosen(args)?;
    check_cpus("--server-cpu", &[args.server_cpu])?;
    check_cpus("--load-cpu", &[args.load_cpu])?;
    let broker_cpu = (args.amqp_url.is_none() && !args.no_pin_broker).then_some(args.broker_cpu);
    check_cpus("--broker-cpu", broker_cpu.as_slice())?;
    if !args.esper.is_file() {
        let path = args.esper.display();
        return Err(format!("--esper {path} is not there; run cargo build --release, or say where it is"));
    }
    make_room(args.queues, 1, 4)?;
    // Told of the whole machine, and so before this thread is pinned.
    let machine = Machine::here();
    let broker = match &args.amqp_url {
        Some(url) => Broker::at(url)?,
        None => Broker::start(&args.rabbitmq, broker_cpu)?,
    };
    // What this starts from now on is on the load's CPU, unless it is told otherwise.
    pin(Some(args.load_cpu));
    let bench = Bench {
        broker,
        esper: args.esper.clone(),
        queues: args.queues,
        size: args.size,
        rate: args.rate,
        server_cpu: args.server_cpu,
        load_cpu: args.load_cpu,
    };
    let mut results = Results {
        machine,
        queues: args.queues,
        size: args.size,
        rate: args.rate,
        server_cpu: args.server_cpu,
        load_cpu: args.load_cpu,
        own_broker: args.amqp_url.is_none(),
        broker_cpu,
        cases: cases.clone(),
        records: Vec::new(),
    };
    for (number, case) in cases.iter().enumerate() {
        eprintln!("case {} of {}: {}", number + 1, cases.len(), case.name);
        let each = each(&bench, case)?;
        for round in 0..case.rounds {
            for contender in Contender::ALL {
                let outcome = one(&bench, case, contender, each);
                tell(case, round, contender, &outcome);
                let (figures, error) = match outcome {
                    Ok(figures) => (Some(figures), None),
                    Err(why) => (None, Some(why)),
                };
                results.records.push(Record { case: case.name.clone(), contender, round, figures, error });
            }
            if let Some(out) = &args.out {
                write_json(&results, out)?;
            }
        }
    }
    Ok(results)
}

fn chosen(args: &QueuesArgs) -> Result<Vec<Case>, String> {
    if !(1..=TOPICS_MAX).contains(&args.queues) {
        return Err(format!("--queues {} is not 1 to {TOPICS_MAX}", args.queues));
    }
    if args.size < STAMP_BYTES {
        return Err(format!("--size {} is not at least {STAMP_BYTES}", args.size));
    }
    if !(args.rate > 0.0 && args.rate <= 1e6) {
        return Err(format!("--rate {} is no rate; write messages a second, as 2000", args.rate));
    }
    if args.prefetch == 0 || args.sweep.contains(&0) {
        return Err("a prefetch of 0 is none at all, which esper does not take; give at least 1".to_owned());
    }
    let cases = case::all(args.prefetch, &args.sweep, args.rounds, args.duration);
    let known: Vec<_> = cases.iter().map(|case| case.name.as_str()).collect();
    if let Some(wrong) = args.cases.iter().find(|name| !known.contains(&name.as_str())) {
        return Err(format!("--cases: there is no {wrong}; known are {}", known.join(", ")));
    }
    let asked = |case: &Case| args.cases.is_empty() || args.cases.contains(&case.name);
    Ok(cases.into_iter().filter(asked).collect())
}

/// How many messages each queue needs so that the bare consumer takes the case's time to drain them. The same for both
/// and in every round.
fn each(bench: &Bench, case: &Case) -> Result<u64, String> {
    if case.kind == Kind::Paced {
        return Ok(0);
    }
    let trial = one(bench, case, Contender::Bare, TRIAL_EACH)?;
    let each = (trial.per_second * case.seconds / bench.queues as f64).ceil() as u64;
    Ok(each.clamp(EACH.0, EACH.1))
}

/// A line for each run, for whoever waits or reads a log.
fn tell(case: &Case, round: usize, contender: Contender, outcome: &Result<Figures, String>) {
    let text = match outcome {
        Ok(figures) => format!(
            "{} messages in {:.2} s, {} a second, CPU {} us each, p99 {} ms",
            figures.messages,
            figures.seconds,
            show(figures.per_second),
            show(figures.cpu_us),
            show(figures.p99_ms)
        ),
        Err(why) => format!("FAILED: {why}"),
    };
    eprintln!("{} {} {}: {text}", case.name, round + 1, contender.name());
}
