//! A cluster: esper's nodes on NATS JetStream, beside a bare client of the same servers. Each case is put to each in turn,
//! round after round, with a new stream and new processes; the NATS servers stay for all rounds of a case.
//!
//! ```text
//! scripts/nats for each case, then for each round: esper:              nodes, and a run: published at the first, read at the last
//!                                                  esper, one dies:    subscribers that resume at the other nodes
//!                                                  async-nats:         a publisher and an ordered consumer, a message a publish
//!                                                  async-nats-batches: the same, with as many publishes a message as esper had
//!                                                  memory:             esper by itself
//! ```

mod bare;
mod dies;
mod nats;

use crate::args::ClusterArgs;
use crate::bench::peer::{self, Peer, Running};
use crate::bench::results::Machine;
use crate::bench::{Named, Question, ask, chosen};
use crate::compare::case::{Case, Cases, Suite};
use crate::compare::tables::tables;
use crate::compare::{Asked, Comparison, refuse_memory};
use crate::plan::Plan;
use crate::report::Report;
use crate::run::{check_cpus, run};
use nats::Nats;
use std::time::Duration;

/// Bytes that a publish has in a message of esper's beside its data: lengths, the topic's name, the field's name.
const BYTES_BESIDE: usize = 40;

/// A peer of the suite, by its name in `cases.toml`.
struct Contender(String);

impl Named for Contender {
    fn name(&self) -> &str {
        &self.0
    }
}

/// The surroundings of the runs of one case.
struct Bench<'a> {
    args: &'a ClusterArgs,
    esper: Peer,
    duration: Duration,
    /// Of the case with this name.
    nats: Option<(String, Nats)>,
    /// Publishes of a message of esper's, when it was last measured.
    batch: f64,
}

/// Measures the suite. False when esper made a mistake.
pub(crate) fn measure(args: &ClusterArgs) -> Result<bool, String> {
    refuse_memory()?;
    check_cpus("--server-cpu", &[args.bench.server_cpu])?;
    check_cpus("--load-cpu", &[args.load_cpu])?;
    let Suite { peers, rounds, seconds, case } = Cases::load()?.cluster;
    let rounds = args.bench.rounds.unwrap_or(rounds).max(1);
    let duration = args.bench.duration.unwrap_or(Duration::from_secs(seconds));
    let cases = chosen(case, &args.bench.cases)?;
    let contenders: Vec<_> = peers.iter().cloned().map(Contender).collect();
    let questions = cases.iter().map(|case| {
        let asked = contenders.iter().filter(|one| case.peers.contains(&one.0));
        let (most, rounds) = if case.figures { (contenders.len(), rounds) } else { (1, 1) };
        Question { case, rounds, peers: asked.take(most).collect() }
    });
    let questions: Vec<_> = questions.collect();
    let (seconds, scale_down) = (duration.as_secs_f64(), args.scale_down);
    let about = Asked { peers, rounds, seconds, scale_down };
    let mut results = Comparison { machine: Machine::here(), about, records: Vec::new() };
    let esper = peer::built_in("esper", &args.bench.esper)?;
    let mut bench = Bench { args, esper, duration, nats: None, batch: 1.0 };
    let describe = |case: &Case| (case.title.clone(), case.metrics.clone());
    ask(&args.bench, duration, &questions, &mut results, describe, |case, contender| {
        bench.one(case, &contender.0)
    })?;
    print!("{}", tables(&results, &Cases::load()?.all()));
    Ok(results.passed("esper"))
}

impl Bench<'_> {
    fn one(&mut self, case: &Case, contender: &str) -> Result<Report, String> {
        // Where esper is set beside itself without a cluster, both have a CPU to themselves.
        let alone = case.peers.iter().any(|peer| peer == "memory");
        if contender == "memory" {
            let server = self.start(&self.esper, alone)?;
            return run(&self.plan(case, &server, &server, alone)?);
        }
        let nats = self.nats(case)?;
        nats.clear()?;
        let urls = nats.urls.clone();
        let replicas = case.point() as usize;
        let esper = self
            .esper
            .clone()
            .with(&["--cluster-replicas", &replicas.to_string()], vec![("ESPER_CLUSTER", urls.clone())]);
        if contender.starts_with("async-nats") {
            let batch = if contender.ends_with("batches") { self.batch.max(1.0) } else { 1.0 };
            // Of a server that nobody asks.
            let plan = Plan::of("http://127.0.0.1:1", &self.flags(case))?;
            return bare::run(&urls, replicas, &plan, batch.round() as usize);
        }
        let mut nodes = Vec::new();
        for _ in 0..case.nodes {
            nodes.push(self.start(&esper, alone)?);
        }
        if case.dies {
            return dies::run(&mut nodes, &self.flags(case));
        }
        let (Some(first), Some(last)) = (nodes.first(), nodes.last()) else {
            return Err("no nodes".to_owned());
        };
        let mut report = run(&self.plan(case, first, last, alone)?)?;
        let messages = self.nats(case)?.messages()?;
        self.batch = report.publishes.acknowledged as f64 / messages.max(1) as f64;
        report.publishes_per_message = Some(self.batch);
        Ok(report)
    }

    /// Returns the servers of this case, started if they are not.
    fn nats(&mut self, case: &Case) -> Result<&Nats, String> {
        let servers = case.point() as usize;
        match self.nats.take_if(|(name, _)| name == case.name()) {
            Some(same) => Ok(&self.nats.insert(same).1),
            None => {
                // The servers of the previous case are ended before new ones start.
                self.nats = None;
                let nats = Nats::start(&self.args.nats, servers)?;
                Ok(&self.nats.insert((case.name().to_owned(), nats)).1)
            }
        }
    }

    fn start(&self, esper: &Peer, alone: bool) -> Result<Running, String> {
        let bench = &self.args.bench;
        esper.start(&bench.esper, 1, alone.then_some(bench.server_cpu))
    }

    fn flags(&self, case: &Case) -> Vec<String> {
        let own = [
            ("--scale-down", self.args.scale_down.to_string()),
            ("--duration", format!("{}ms", self.duration.as_millis())),
        ];
        let own = own.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]);
        case.words().into_iter().chain(own).collect()
    }

    fn plan(&self, case: &Case, first: &Running, last: &Running, alone: bool) -> Result<Plan, String> {
        let mut flags = self.flags(case);
        flags.extend(["--publish-url".to_owned(), first.url(), "--pid".to_owned(), last.pid().to_string()]);
        if alone {
            flags.extend(["--cpus".to_owned(), self.args.load_cpu.to_string()]);
        }
        Plan::of(&last.url(), &flags)
    }
}
