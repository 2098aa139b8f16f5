//! What takes messages from the queues: esper with its HTTP clients, or the bare consumer.

use super::Bench;
use super::amqp::EXPIRE_S;
use super::bare::{self, BareJob};
use super::results::{Contender, QueueCase};
use crate::bench::peer;
use crate::child::Helper;
use crate::plan::Plan;
use crate::run::pin;
use crate::shared::{Clock, Shared};
use crate::subscribers::{Opened, Share, listen};
use crate::tally::Tally;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

const CONNECT_TIME: Duration = Duration::from_secs(15);
const ANSWER_TIME: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_millis(20);

/// A process that is connected to RabbitMQ and consumes nothing yet. It ends with this value.
pub(crate) enum Consumer {
    Esper { server: peer::Running, plan: Box<Plan>, load_cpu: usize },
    Bare(Helper),
}

/// The queues of one run, which are the topics of its plan.
pub(crate) struct Topics {
    pub(crate) start: String,
    pub(crate) names: Vec<String>,
}

impl Consumer {
    /// Starts it, on the CPU of consumers.
    pub(crate) fn start(
        contender: Contender,
        bench: &Bench<'_>,
        case: &QueueCase,
        topics: &Topics,
        clock: Clock,
    ) -> Result<Consumer, String> {
        match contender {
            Contender::Esper => esper(bench, case, topics),
            Contender::Bare => {
                let job = BareJob {
                    url: bench.broker.url.clone(),
                    queues: topics.names.clone(),
                    size: bench.args.size,
                    prefetch: case.prefetch,
                    batch: case.batch(),
                    clock,
                };
                bare::start(&job, bench.args.bench.server_cpu).map(Consumer::Bare)
            }
        }
    }

    /// Returns the process whose CPU time counts.
    pub(crate) fn pid(&self) -> u32 {
        match self {
            Consumer::Esper { server, .. } => server.pid(),
            Consumer::Bare(helper) => helper.child.pid(),
        }
    }

    /// Consumes until the run is stopped; says on `opened` when all queues are open, or why not.
    pub(crate) fn read(&mut self, shared: &Shared, opened: &Opened) -> Tally {
        match self {
            Consumer::Esper { plan, load_cpu, .. } => {
                pin(Some(*load_cpu));
                listen(plan, Share { first: 0, step: 1 }, shared, opened)
            }
            Consumer::Bare(helper) => bare::read(helper, shared, opened),
        }
    }
}

fn esper(bench: &Bench<'_>, case: &QueueCase, topics: &Topics) -> Result<Consumer, String> {
    let (prefetch, window) = (case.prefetch.to_string(), case.ack_window().to_string());
    let expire = format!("{EXPIRE_S}s");
    let words = [
        ["--queue-pattern", "${query:id}"],
        ["--queue-expire", &expire],
        ["--queue-prefetch", &prefetch],
        ["--queue-ack-window", &window],
    ];
    let options = &bench.args.bench;
    let peer =
        bench.esper.clone().with(words.as_flattened(), vec![("ESPER_BROKER_NODE", bench.broker.url.clone())]);
    let server = peer.start(&options.esper, 1, Some(options.server_cpu))?;
    let (count, size) = (topics.names.len().to_string(), bench.args.size.to_string());
    let flags = [
        ["--subscribers", &count],
        ["--topics", &count],
        ["--topic", &topics.start],
        ["--subscribe-path", "/?id={topic}"],
        ["--size", &size],
    ];
    let flags: Vec<_> =
        flags.as_flattened().iter().chain(&["--verify"]).map(|&word| word.to_owned()).collect();
    let plan = Box::new(Plan::of(&server.url(), &flags)?);
    wait_for_broker(plan.target.address)?;
    Ok(Consumer::Esper { server, plan, load_cpu: bench.args.load_cpu })
}

/// Waits until esper is connected: until then it refuses every client.
fn wait_for_broker(address: SocketAddr) -> Result<(), String> {
    let deadline = Instant::now() + CONNECT_TIME;
    loop {
        let metrics = get(address, "/metrics").unwrap_or_default();
        if metrics.lines().any(|line| line == "esper_brokers_connected 1") {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(format!("esper has no connection to RabbitMQ after {} s", CONNECT_TIME.as_secs()));
        }
        std::thread::sleep(LOOK);
    }
}

fn get(address: SocketAddr, path: &str) -> std::io::Result<String> {
    let mut socket = TcpStream::connect(address)?;
    socket.set_read_timeout(Some(ANSWER_TIME))?;
    write!(socket, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    socket.read_to_string(&mut answer)?;
    Ok(answer)
}
