//! The bare consumer: takes messages from queues over one connection with the client that esper has, checks them,
//! acknowledges them, and does nothing else. A process of its own, so that its CPU time is counted as esper's is.

use crate::child::Child;
use crate::plan::Role;
use crate::queues::amqp::{answered, connect, declare, name};
use crate::remote::{follow, say, tell};
use crate::sequence::{Arrival, Series};
use crate::shared::{Clock, Shared};
use crate::stamp::Payload;
use crate::tally::{Received, Tally};
use futures_util::future::{Either, select};
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use lapin::Connection;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::{FieldTable, ShortString};
use serde::{Deserialize, Serialize};
use std::cell::RefCell;
use std::io::{BufRead, BufReader, Write, stdin};
use std::pin::pin;
use std::process::{ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc::Sender;
use std::time::Duration;

/// How soon it notices that it shall stop.
const STOP_CHECK: Duration = Duration::from_millis(20);
const CLOSE_TIME: Duration = Duration::from_secs(2);

/// What it is to do.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Job {
    /// On its standard input: a command line is for everybody to see.
    pub(crate) url: String,
    pub(crate) queues: Vec<String>,
    pub(crate) size: usize,
    pub(crate) prefetch: u16,
    /// Messages acknowledged at once.
    pub(crate) batch: u16,
    pub(crate) clock_started_ns: u64,
}

/// Its process, which is connected and consumes nothing yet. It ends with this value.
#[derive(Debug)]
pub(crate) struct Bare {
    child: Child,
    pipes: Option<(ChildStdin, BufReader<ChildStdout>)>,
}

impl Bare {
    /// Starts it on that CPU.
    pub(crate) fn start(job: &Job, cpu: usize) -> Result<Bare, String> {
        let failed = |error: &dyn std::fmt::Display| format!("the bare consumer failed: {error}");
        let program = std::env::current_exe().map_err(|error| failed(&error))?;
        let mut command = Command::new(program);
        command.arg("consume").stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = Child::start(&mut command, Some(cpu))?;
        let (mut to, from) = child.pipes().ok_or_else(|| failed(&"no pipes"))?;
        let text = serde_json::to_string(job).map_err(|error| failed(&error))?;
        writeln!(to, "{text}").map_err(|error| failed(&error))?;
        let (mut from, mut line) = (BufReader::new(from), String::new());
        from.read_line(&mut line).map_err(|error| failed(&error))?;
        if line.trim() != "ready" {
            return Err(failed(&"it ended before it was connected"));
        }
        Ok(Bare { child, pipes: Some((to, from)) })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.pid()
    }

    /// Lets it consume, until the run is stopped.
    pub(crate) fn read(&mut self, shared: &Shared, opened: &Sender<Result<(), String>>) -> Tally {
        let followed = match self.pipes.take() {
            Some((mut to, from)) => writeln!(to, "go")
                .map_err(|error| format!("the bare consumer failed: {error}"))
                .and_then(|()| follow(to, from, 0, shared, opened)),
            None => Err("the bare consumer reads once".to_owned()),
        };
        followed.unwrap_or_else(|why| {
            let _ = opened.send(Err(why.clone()));
            Tally { trouble: Some(why), ..Tally::default() }
        })
    }
}

/// The process itself.
pub(crate) fn consume() -> Result<(), String> {
    let mut line = String::new();
    stdin().read_line(&mut line).map_err(|error| format!("no job: {error}"))?;
    let job: Job =
        serde_json::from_str(&line).map_err(|error| format!("this is started by queues alone: {error}"))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| format!("no runtime: {error}"))?;
    let connection = runtime.block_on(connect(&job.url))?;
    say("ready");
    stdin().read_line(&mut line).map_err(|error| format!("no word to go: {error}"))?;
    let shared = Shared::new(Clock::started_at(job.clock_started_ns), 1);
    tell(&shared, |opened| {
        let consumer = Consumer::new(&job, &shared, opened);
        runtime.block_on(async {
            consumer.run_until_stopped(&connection).await;
            let _ = tokio::time::timeout(CLOSE_TIME, connection.close(200, "done".into())).await;
        });
        consumer.seen.into_inner().tally()
    })
}

struct Consumer<'a> {
    job: &'a Job,
    shared: &'a Shared,
    opened: &'a Sender<Result<(), String>>,
    payload: Payload,
    seen: RefCell<Seen>,
}

/// What came so far.
struct Seen {
    tally: Tally,
    open: usize,
    /// By queue: the order, and how many different ones.
    queues: Vec<(Series, u64)>,
}

impl<'a> Consumer<'a> {
    fn new(job: &'a Job, shared: &'a Shared, opened: &'a Sender<Result<(), String>>) -> Consumer<'a> {
        let queues = job.queues.iter().map(|_| Default::default()).collect();
        let seen = RefCell::new(Seen { tally: Tally::default(), open: 0, queues });
        Consumer { job, shared, opened, payload: Payload::new(job.size), seen }
    }

    async fn run_until_stopped(&self, connection: &Connection) {
        let stopped = async {
            while !self.shared.stopped() {
                tokio::time::sleep(STOP_CHECK).await;
            }
        };
        let queues = self.job.queues.iter().enumerate();
        let mut consuming: FuturesUnordered<_> =
            queues.map(|(topic, queue)| self.consume(connection, topic, queue)).collect();
        if let Either::Left((Some(why), _)) = select(consuming.next(), pin!(stopped)).await {
            let _ = self.opened.send(Err(why.clone()));
            self.seen.borrow_mut().tally.trouble.get_or_insert(why);
        }
    }

    /// Consumes one queue for ever; returns why that came to an end.
    async fn consume(&self, connection: &Connection, topic: usize, queue: &str) -> String {
        match self.try_consume(connection, topic, queue).await {
            Ok(()) => format!("the broker ended the consumer of queue {topic}"),
            Err(why) => why,
        }
    }

    async fn try_consume(&self, connection: &Connection, topic: usize, queue: &str) -> Result<(), String> {
        let channel = answered("no channel", connection.create_channel()).await?;
        // As esper opens a queue: what is asked of the broker is the same.
        answered("no queue", declare(&channel, queue)).await?;
        answered("no prefetch", channel.basic_qos(self.job.prefetch, BasicQosOptions::default())).await?;
        let exclusive = BasicConsumeOptions { exclusive: true, ..BasicConsumeOptions::default() };
        let consumer =
            channel.basic_consume(name(queue), ShortString::default(), exclusive, FieldTable::default());
        let mut consumer = answered("no consumer", consumer).await?;
        self.is_open();
        let mut unacknowledged = 0;
        while let Some(delivery) = consumer.next().await {
            let delivery =
                delivery.map_err(|error| format!("the consumer of queue {topic} failed: {error}"))?;
            self.take(topic, &delivery.data);
            unacknowledged += 1;
            if unacknowledged == self.job.batch {
                unacknowledged = 0;
                // Written by the connection's own thread; as in esper nobody waits for that.
                let _ = channel
                    .basic_ack(delivery.delivery_tag, BasicAckOptions { multiple: true })
                    .now_or_never();
            }
        }
        Ok(())
    }

    fn is_open(&self) {
        let mut seen = self.seen.borrow_mut();
        seen.open += 1;
        self.shared.set_connected(0, seen.open);
        if seen.open == self.job.queues.len() {
            let _ = self.opened.send(Ok(()));
        }
    }

    /// Looks at every byte of a message, as the HTTP clients do.
    fn take(&self, topic: usize, data: &[u8]) {
        let now_ns = self.shared.clock.now_ns();
        let mut seen = self.seen.borrow_mut();
        let Seen { tally, queues, .. } = &mut *seen;
        let stamp = self.payload.check(data).filter(|stamp| stamp.topic as usize == topic);
        let (Some(stamp), Some((series, received))) = (stamp, queues.get_mut(topic)) else {
            tally.corrupt += 1;
            return;
        };
        tally.delivered(Role::Steady, 1, now_ns);
        tally.latencies(now_ns, (stamp.due_ns, stamp.due_ns), 1);
        match series.arrive(stamp.sequence) {
            Arrival::Doubled => tally.doubled += 1,
            Arrival::Reordered => {
                tally.reordered += 1;
                *received += 1;
            }
            Arrival::InOrder => *received += 1,
        }
        self.shared.set_delivered(0, tally.deliveries);
    }
}

impl Seen {
    fn tally(self) -> Tally {
        let Seen { mut tally, queues, .. } = self;
        let received = queues.into_iter().enumerate();
        tally.subscribers = received
            .map(|(topic, (_, events))| Received { topic: topic as u32, events, cut: false })
            .collect();
        tally
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stamp::{STAMP_BYTES, Stamp};

    #[test]
    fn what_is_lost_doubled_reordered_or_another_queues_is_told() {
        let job = Job {
            url: String::new(),
            queues: vec!["a".to_owned(), "b".to_owned()],
            size: STAMP_BYTES,
            prefetch: 1,
            batch: 1,
            clock_started_ns: 0,
        };
        let (opened, _told) = std::sync::mpsc::channel();
        let shared = Shared::new(Clock::start(), 1);
        let consumer = Consumer::new(&job, &shared, &opened);
        let message = |topic: u32, sequence: u64| {
            let mut data = [0; STAMP_BYTES];
            Stamp { topic, publisher: 0, sequence, due_ns: 0 }.write(&mut data);
            data
        };
        for sequence in [0, 2, 1, 1, 4] {
            consumer.take(0, &message(0, sequence));
        }
        consumer.take(1, &message(0, 5));
        let tally = consumer.seen.into_inner().tally();
        assert_eq!((tally.doubled, tally.reordered, tally.corrupt), (1, 1, 1));
        let received: Vec<_> = tally.subscribers.iter().map(|one| one.events).collect();
        assert_eq!((received, shared.delivered()), (vec![4, 0], 5));
    }
}
