//! One run: new queues, a new process that consumes them, and what was seen of it.

use super::Bench;
use super::consumer::{Consumer, Topics};
use super::publisher::QueuePublisher;
use super::results::{Contender, Kind, QueueCase};
use crate::plan::{since_1970_ms, topic_names};
use crate::process::{Usage, machine_busy_s};
use crate::publisher::Published;
use crate::report::{Deliveries, Latency, Publishes, Report, Server};
use crate::run::{StopOnDrop, await_all, await_more};
use crate::shared::{Clock, Shared};
use crate::stamp::Payload;
use crate::tally::Tally;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

/// Left to the broker to finish what it does behind the last confirm.
const SETTLE: Duration = Duration::from_millis(500);
/// Silence after which what has not come is lost.
const SILENCE: Duration = Duration::from_secs(15);
/// A run takes no longer, whatever comes.
const RUN_TIME_MAX: Duration = Duration::from_secs(300);

/// Measures one contender once. A drain is of `each` messages in every queue; what is paced has its rate and time.
/// An error says what was not as it must be.
pub(crate) fn one(
    bench: &Bench<'_>,
    case: &QueueCase,
    contender: Contender,
    each: u64,
) -> Result<Report, String> {
    let (args, url) = (bench.args, &bench.broker.url);
    let topics = topics(args.queues);
    let clock = Clock::start();
    // First, for its queues go when whoever consumes them has ended.
    let mut publisher = QueuePublisher::connect(url, &topics.names, &Payload::new(args.size), case)?;
    if case.kind != Kind::Paced {
        publisher.fill(each, clock)?;
    }
    let mut consumer = Consumer::start(contender, bench, case, &topics, clock)?;
    let pid = consumer.pid();
    std::thread::sleep(SETTLE);
    let shared = &Shared::new(clock, 1);
    let (opened, told) = channel();
    std::thread::scope(|scope| {
        // The scope waits for its threads.
        let _stop = StopOnDrop(shared);
        let (mut before, mut begin_ns) = (used_s(bench, pid)?, clock.now_ns());
        let consumer = &mut consumer;
        let reader = scope.spawn(move || consumer.read(shared, &opened));
        let deadline = Instant::now() + RUN_TIME_MAX;
        let mut late_ns_max = 0;
        if case.kind == Kind::Paced {
            told.recv_timeout(RUN_TIME_MAX).map_err(|_| "the queues were not opened".to_owned())??;
            std::thread::sleep(SETTLE);
            (before, begin_ns) = (used_s(bench, pid)?, clock.now_ns());
            let all = (args.rate * case.seconds).ceil().max(1.0) as u64;
            late_ns_max = publisher.paced(all, args.rate, clock)?;
        }
        let messages = publisher.published().iter().sum();
        await_all(shared, messages, SILENCE, || match told.try_recv() {
            Ok(Err(why)) => Err(why),
            _ if Instant::now() > deadline => Err("it takes too long".to_owned()),
            _ => Ok(()),
        })?;
        let after = used_s(bench, pid)?;
        let ended_ns = clock.now_ns();
        await_more(shared);
        shared.stop();
        let tally = reader.join().map_err(|_| "the reading thread failed".to_owned())?;
        let mut deliveries = check(&tally, publisher.published())?;
        let seconds_to = |ns: u64| ns.saturating_sub(begin_ns).max(1) as f64 / 1e9;
        let watched_s = seconds_to(ended_ns);
        deliveries.per_second = messages as f64 / seconds_to(tally.last_delivery_ns);
        let cpus = |number: usize| Some((after.get(number)? - before.get(number)?) / watched_s);
        let [consumer, own, machine] = [0, 1, 2].map(|number| cpus(number).unwrap_or(0.0));
        let cpu_seconds = consumer * watched_s;
        let cpu_us_per_delivery = cpu_seconds * 1e6 / messages.max(1) as f64;
        let late_us_max = late_ns_max as f64 / 1e3;
        Ok(Report {
            subscribers: args.queues,
            topics: args.queues,
            event_bytes: args.size,
            verified: true,
            passed: true,
            publishes: Publishes { acknowledged: messages, late_us_max, ..Publishes::default() },
            deliveries,
            latency_us: Latency::from(&tally.latencies),
            server: Some(Server {
                cpu_seconds,
                cpu_us_per_delivery,
                cpu_share: consumer,
                ..Server::default()
            }),
            load_cpus: Some((own - consumer).max(0.0)),
            broker_cpus: cpus(3),
            others_cpus: cpus(3).map(|broker| (machine - own - broker).max(0.0)),
            ..Report::default()
        })
    })
}

/// Makes names that nobody else uses.
fn topics(queues: usize) -> Topics {
    static RUNS: AtomicUsize = AtomicUsize::new(0);
    let run = RUNS.fetch_add(1, Ordering::Relaxed);
    let start = format!("bench{:012x}r{run}q", since_1970_ms());
    Topics { names: topic_names(&start, queues), start }
}

/// Checks that every message came once, in order and as it was sent, at every queue.
fn check(tally: &Tally, published: &[u64]) -> Result<Deliveries, String> {
    let topics: Vec<_> =
        published.iter().map(|&acknowledged| Published { acknowledged, ..Published::default() }).collect();
    let verdict = tally.verdict(&topics, true);
    let counts = [
        (verdict.lost + verdict.missed_by_cut, "lost"),
        (verdict.doubled, "doubled"),
        (tally.reordered, "reordered"),
        (tally.corrupt, "corrupt"),
        (verdict.refused_yet_delivered.unwrap_or(0), "never published"),
        (tally.gaps, "gaps"),
        (verdict.cut, "streams cut"),
        (published.len().saturating_sub(tally.subscribers.len()) as u64, "queues not read"),
    ];
    let wrong = counts.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}"));
    let said = tally.trouble.as_ref().or(tally.cut_reason.as_ref());
    let all: Vec<_> = wrong.chain(said.cloned()).collect();
    if all.is_empty() { Ok(verdict) } else { Err(all.join(", ")) }
}

/// Returns the CPU time in seconds of the consumer, of this process with all it started, of the machine, and of RabbitMQ
/// where its process is known.
fn used_s(bench: &Bench<'_>, pid: u32) -> Result<Vec<f64>, String> {
    let of = |pid: u32| Usage::now(pid).map(|usage| usage.cpu_s);
    let consumer_s = of(pid).ok_or("the consumer's process has ended")?;
    let own_s = of(std::process::id()).unwrap_or(0.0);
    let broker_s = bench.broker.pid.and_then(of);
    Ok([consumer_s, own_s, machine_busy_s()].into_iter().chain(broker_s).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tally::Received;

    #[test]
    fn a_message_that_is_missing_or_too_many_fails_the_run() {
        let received = |(topic, &events): (u32, &u64)| Received { topic, events, cut: false };
        let tally = |counts: &[u64]| Tally {
            subscribers: (0..).zip(counts).map(received).collect(),
            ..Tally::default()
        };
        let check = |tally: &Tally, published: &[u64]| check(tally, published).map(|_| ());
        assert_eq!(check(&tally(&[3, 2]), &[3, 2]), Ok(()));
        assert_eq!(check(&tally(&[3, 1]), &[3, 2]), Err("1 lost".to_owned()));
        assert_eq!(check(&tally(&[3, 3]), &[3, 2]), Err("1 never published".to_owned()));
        assert_eq!(check(&tally(&[3]), &[3, 2]), Err("1 queues not read".to_owned()));
        let doubled = Tally { doubled: 2, cut_reason: Some("the end".to_owned()), ..tally(&[3]) };
        assert_eq!(check(&doubled, &[3]), Err("2 doubled, the end".to_owned()));
    }
}
