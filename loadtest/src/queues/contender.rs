//! What takes messages from the queues: esper with its HTTP clients, or the bare consumer.

use crate::compare::peer;
use crate::plan::Plan;
use crate::queues::amqp::EXPIRE_S;
use crate::queues::bare::{Bare, Job};
use crate::queues::case::Case;
use crate::queues::measure::Bench;
use crate::queues::results::Contender;
use crate::run::pin;
use crate::shared::{Clock, Shared};
use crate::subscribers::{Share, listen};
use crate::tally::Tally;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

/// How long esper may take to connect to RabbitMQ.
const CONNECT_TIME: Duration = Duration::from_secs(15);
/// How long it may take to answer a request.
const ANSWER_TIME: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_millis(20);

/// A process that is connected to RabbitMQ and consumes nothing yet. It ends with this value.
pub(crate) enum Running {
    Esper { server: peer::Running, plan: Box<Plan>, load_cpu: usize },
    Bare(Bare),
}

impl Contender {
    /// Starts it, on the CPU of consumers.
    pub(crate) fn start(
        self,
        bench: &Bench,
        case: &Case,
        topics: &Topics,
        clock: Clock,
    ) -> Result<Running, String> {
        match self {
            Contender::Esper => esper(bench, case, topics),
            Contender::Bare => {
                let job = Job {
                    url: bench.broker.url.clone(),
                    queues: topics.names.clone(),
                    size: bench.size,
                    prefetch: case.prefetch,
                    batch: case.batch(),
                    clock_started_ns: clock.started_ns(),
                };
                Ok(Running::Bare(Bare::start(&job, bench.server_cpu)?))
            }
        }
    }
}

/// The queues of one run, which are the topics of its plan.
pub(crate) struct Topics {
    pub(crate) start: String,
    pub(crate) names: Vec<String>,
}

impl Running {
    /// The process whose CPU time counts.
    pub(crate) fn pid(&self) -> u32 {
        match self {
            Running::Esper { server, .. } => server.pid(),
            Running::Bare(bare) => bare.pid(),
        }
    }

    /// Consumes until the run is stopped; says on `opened` when all queues are open, or why not.
    pub(crate) fn read(&mut self, shared: &Shared, opened: &Sender<Result<(), String>>) -> Tally {
        match self {
            Running::Esper { plan, load_cpu, .. } => {
                pin(Some(*load_cpu));
                listen(plan, Share { first: 0, step: 1 }, shared, opened)
            }
            Running::Bare(bare) => bare.read(shared, opened),
        }
    }
}

fn esper(bench: &Bench, case: &Case, topics: &Topics) -> Result<Running, String> {
    let (prefetch, window) = (case.prefetch.to_string(), case.ack_window().to_string());
    let expire = format!("{EXPIRE_S}s");
    let words = [
        ["--queue-pattern", "${query:id}"],
        ["--queue-expire", &expire],
        ["--queue-prefetch", &prefetch],
        ["--queue-ack-window", &window],
    ];
    let known = peer::find(&["esper".to_owned()], &[], &bench.esper)?;
    let peer = known.into_iter().next().ok_or("there is no esper")?;
    let peer = peer.with(words.as_flattened(), vec![("ESPER_BROKER_NODE", bench.broker.url.clone())]);
    let server = peer.start(&bench.esper, 1, bench.server_cpu)?;
    let count = topics.names.len().to_string();
    let size = bench.size.to_string();
    let flags = [
        ["--subscribers", &count],
        ["--topics", &count],
        ["--topic", &topics.start],
        ["--subscribe-path", "/?id={topic}"],
        ["--size", &size],
    ];
    let flags: Vec<_> =
        flags.as_flattened().iter().chain(&["--verify"]).map(|&word| word.to_owned()).collect();
    let plan = Box::new(Plan::parse(&Plan::words_for(&server.url(), &flags))?);
    wait_for_broker(plan.target.address)?;
    Ok(Running::Esper { server, plan, load_cpu: bench.load_cpu })
}

/// Until then it refuses every client.
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
