//! The bare consumer: takes messages from queues over one connection with the client that esper has, checks them,
//! acknowledges them, and does nothing else. A process of its own, so that its CPU time is counted as esper's is.

use super::amqp::{answered, connect, declare, name};
use crate::child::Helper;
use crate::plan::Role;
use crate::remote::{follow, tell};
use crate::sequence::Series;
use crate::shared::{Clock, Shared};
use crate::stamp::Payload;
use crate::subscribers::Opened;
use crate::tally::{Received, Tally};
use futures_util::future::{Either, select};
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use lapin::Connection;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::{FieldTable, ShortString};
use serde::{Deserialize, Serialize};
use std::cell::RefCell;
use std::io::{BufRead, Write, stdin};
use std::pin::pin;
use std::time::Duration;

/// Bounds how late it notices that it shall stop.
const STOP_CHECK: Duration = Duration::from_millis(20);
const CLOSE_TIME: Duration = Duration::from_secs(2);

/// The work of the process.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct BareJob {
    pub(crate) url: String,
    pub(crate) queues: Vec<String>,
    pub(crate) size: usize,
    pub(crate) prefetch: u16,
    /// Messages acknowledged at once.
    pub(crate) batch: u16,
    pub(crate) clock: Clock,
}

/// Starts its process on that CPU. It is connected then and consumes nothing yet.
pub(crate) fn start(job: &BareJob, cpu: usize) -> Result<Helper, String> {
    let mut helper = Helper::start("consume", job, Some(cpu))?;
    let mut line = String::new();
    helper.from.read_line(&mut line).map_err(|error| format!("the bare consumer failed: {error}"))?;
    match line.trim() {
        "ready" => Ok(helper),
        _ => Err("the bare consumer failed: it ended before it was connected".to_owned()),
    }
}

/// Lets it consume, until the run is stopped.
pub(crate) fn read(helper: &mut Helper, shared: &Shared, opened: &Opened) -> Tally {
    // Where it has ended, that is told below.
    let _ = writeln!(helper.to, "go");
    follow(helper, 0, shared, opened)
}

/// Runs the process itself.
pub(crate) fn consume() -> Result<(), String> {
    let job: BareJob = Helper::job()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| format!("no runtime: {error}"))?;
    let connection = runtime.block_on(connect(&job.url))?;
    println!("ready");
    stdin().read_line(&mut String::new()).map_err(|error| format!("no word to go: {error}"))?;
    let shared = Shared::new(job.clock, 1);
    tell(&shared, |opened| {
        let consumer = BareConsumer::new(&job, &shared, opened);
        runtime.block_on(async {
            consumer.run_until_stopped(&connection).await;
            let _ = tokio::time::timeout(CLOSE_TIME, connection.close(200, "done".into())).await;
        });
        consumer.seen.into_inner().tally()
    })
}

struct BareConsumer<'a> {
    job: &'a BareJob,
    shared: &'a Shared,
    opened: &'a Opened,
    payload: Payload,
    seen: RefCell<Seen>,
}

/// The messages that came so far.
#[derive(Default)]
struct Seen {
    tally: Tally,
    open: usize,
    /// By queue: the order, and how many different ones.
    queues: Vec<(Series, u64)>,
}

impl<'a> BareConsumer<'a> {
    fn new(job: &'a BareJob, shared: &'a Shared, opened: &'a Opened) -> BareConsumer<'a> {
        let queues = job.queues.iter().map(|_| Default::default()).collect();
        let seen = RefCell::new(Seen { queues, ..Seen::default() });
        BareConsumer { job, shared, opened, payload: Payload::new(job.size), seen }
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
        if let Either::Left((Some(ended), _)) = select(consuming.next(), pin!(stopped)).await {
            let why = ended.err().unwrap_or("the broker ended a consumer".to_owned());
            let _ = self.opened.send(Err(why.clone()));
            self.seen.borrow_mut().tally.trouble.get_or_insert(why);
        }
    }

    /// Consumes one queue, until the broker ends that.
    async fn consume(&self, connection: &Connection, topic: usize, queue: &str) -> Result<(), String> {
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
        self.shared.set_connected(0, seen.open as u64);
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
        *received += u64::from(tally.arrived(Role::Steady, series, &stamp, now_ns));
        self.shared.set_delivered(0, tally.deliveries);
    }
}

impl Seen {
    fn tally(self) -> Tally {
        let received = self.queues.into_iter().zip(0..);
        let subscribers =
            received.map(|((_, events), topic)| Received { topic, events, cut: false }).collect();
        Tally { subscribers, ..self.tally }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stamp::{STAMP_BYTES, Stamp};

    #[test]
    fn what_is_lost_doubled_reordered_or_another_queues_is_told() {
        let clock = Clock::start();
        let queues = vec!["a".to_owned(), "b".to_owned()];
        let job = BareJob { url: String::new(), queues, size: STAMP_BYTES, prefetch: 1, batch: 1, clock };
        let (opened, _told) = std::sync::mpsc::channel();
        let shared = Shared::new(clock, 1);
        let consumer = BareConsumer::new(&job, &shared, &opened);
        let message = |topic: u32, sequence: u64| {
            consumer.payload.stamped(&Stamp { topic, publisher: 0, sequence, due_ns: 0 })
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
