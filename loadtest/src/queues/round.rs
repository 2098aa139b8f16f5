//! One run: new queues, a new process that consumes them, and what was seen of it.

use crate::plan::topic_names;
use crate::process::{Usage, machine_busy_s};
use crate::progress::bar;
use crate::publisher::Published;
use crate::queues::case::{Case, Kind};
use crate::queues::contender::Topics;
use crate::queues::measure::Bench;
use crate::queues::publisher::Publisher;
use crate::queues::results::{Contender, Figures};
use crate::run::{AFTERMATH, StopOnDrop};
use crate::shared::{Clock, Shared};
use crate::stamp::Payload;
use crate::tally::Tally;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// Left to the broker to finish what it does behind the last confirm.
const SETTLE: Duration = Duration::from_millis(500);
/// Silence after which what has not come is lost.
const SILENCE: Duration = Duration::from_secs(15);
/// A run takes no longer, whatever comes.
const RUN_TIME_MAX: Duration = Duration::from_secs(300);
const LOOK: Duration = Duration::from_millis(5);

/// Measures one contender once. A drain is of `each` messages in every queue; what is paced has its rate and time.
/// An error says what was not as it must be.
pub(crate) fn one(bench: &Bench, case: &Case, contender: Contender, each: u64) -> Result<Figures, String> {
    let topics = topics(bench.queues);
    let clock = Clock::start();
    // First, for its queues go when whoever consumes them has ended.
    let mut publisher =
        Publisher::connect(&bench.broker.url, &topics.names, &Payload::new(bench.size), case)?;
    if case.kind != Kind::Paced {
        publisher.fill(each, clock)?;
    }
    let mut running = contender.start(bench, case, &topics, clock)?;
    let pid = running.pid();
    std::thread::sleep(SETTLE);
    let shared = &Shared::new(clock, 1);
    let (opened, told) = channel();
    std::thread::scope(|scope| {
        // The scope waits for its threads.
        let _stop = StopOnDrop(shared);
        let (mut before, mut begin_ns) = (Used::now(bench, pid)?, clock.now_ns());
        let running = &mut running;
        let reader = scope.spawn(move || running.read(shared, &opened));
        let deadline = Instant::now() + RUN_TIME_MAX;
        let mut late_ns_max = 0;
        if case.kind == Kind::Paced {
            told.recv_timeout(RUN_TIME_MAX).map_err(|_| "the queues were not opened".to_owned())??;
            std::thread::sleep(SETTLE);
            (before, begin_ns) = (Used::now(bench, pid)?, clock.now_ns());
            let all = (bench.rate * case.seconds).ceil().max(1.0) as u64;
            late_ns_max = publisher.paced(all, bench.rate, clock)?;
        }
        let expected = publisher.published().iter().sum();
        await_all(shared, expected, &told, deadline)?;
        let after = Used::now(bench, pid)?;
        let ended_ns = clock.now_ns();
        await_more(shared);
        shared.stop();
        let tally = reader.join().map_err(|_| "the reading thread failed".to_owned())?;
        check(&tally, publisher.published())?;
        let seconds_to = |ns: u64| ns.saturating_sub(begin_ns).max(1) as f64 / 1e9;
        let (seconds, watched_s) = (seconds_to(tally.last_delivery_ns), seconds_to(ended_ns));
        let used = after.since(&before);
        let late_ms_max = late_ns_max as f64 / 1e6;
        Ok(figures(&tally, expected, seconds, late_ms_max, used.over(watched_s)))
    })
}

/// Names that nobody else uses.
fn topics(queues: usize) -> Topics {
    static RUNS: AtomicUsize = AtomicUsize::new(0);
    let run = RUNS.fetch_add(1, Ordering::Relaxed);
    let since_1970 = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let start = format!("bench{:012x}r{run}q", since_1970.as_millis());
    Topics { names: topic_names(&start, queues), start }
}

/// Waits until everything has come, or nothing comes any more.
fn await_all(
    shared: &Shared,
    expected: u64,
    told: &Receiver<Result<(), String>>,
    deadline: Instant,
) -> Result<(), String> {
    let bar = bar("draining", Some(expected));
    let (mut seen, mut moved) = (0, Instant::now());
    while seen < expected && moved.elapsed() < SILENCE && Instant::now() < deadline {
        if let Ok(Err(why)) = told.try_recv() {
            return Err(why);
        }
        std::thread::sleep(LOOK);
        let now = shared.delivered();
        if now != seen {
            (seen, moved) = (now, Instant::now());
        }
        bar.set_position(seen);
    }
    bar.finish_and_clear();
    Ok(())
}

/// What comes in the silence behind the last came twice.
fn await_more(shared: &Shared) {
    let mut seen = shared.delivered();
    for _ in 0..2 {
        std::thread::sleep(AFTERMATH);
        if shared.delivered() == seen {
            return;
        }
        seen = shared.delivered();
    }
}

/// Every message came once, in order and as it was sent, at every queue.
fn check(tally: &Tally, published: &[u64]) -> Result<(), String> {
    let topics: Vec<_> =
        published.iter().map(|&acknowledged| Published { acknowledged, ..Published::default() }).collect();
    let verdict = tally.verdict(&topics, true);
    let counts = [
        (verdict.lost + verdict.missed_by_cut, "lost"),
        (verdict.doubled, "doubled"),
        (tally.reordered, "reordered"),
        (tally.corrupt, "corrupt"),
        (verdict.refused_yet_delivered, "never published"),
        (tally.gaps, "gaps"),
        (verdict.cut, "streams cut"),
        (published.len().saturating_sub(tally.subscribers.len()) as u64, "queues not read"),
    ];
    let wrong: Vec<_> = counts.iter().filter(|(count, _)| *count > 0).collect();
    let said = tally.trouble.as_ref().or(tally.cut_reason.as_ref());
    if wrong.is_empty() && said.is_none() {
        return Ok(());
    }
    let mut text: Vec<_> = wrong.iter().map(|(count, what)| format!("{count} {what}")).collect();
    text.extend(said.cloned());
    Err(text.join(", "))
}

/// CPU time in seconds, at one moment or between two.
struct Used {
    consumer_s: f64,
    /// Of the consumer too: it is a child of this process.
    own_s: f64,
    broker_s: Option<f64>,
    machine_s: f64,
}

impl Used {
    fn now(bench: &Bench, pid: u32) -> Result<Used, String> {
        let of = |pid: u32| Usage::now(pid).map(|usage| usage.cpu_s);
        Ok(Used {
            consumer_s: of(pid).ok_or("the consumer's process has ended")?,
            own_s: of(std::process::id()).unwrap_or(0.0),
            broker_s: bench.broker.pid.and_then(of),
            machine_s: machine_busy_s(),
        })
    }

    fn since(&self, before: &Used) -> Used {
        Used {
            consumer_s: self.consumer_s - before.consumer_s,
            own_s: self.own_s - before.own_s,
            broker_s: self.broker_s.zip(before.broker_s).map(|(now, before)| now - before),
            machine_s: self.machine_s - before.machine_s,
        }
    }

    /// As CPUs in use.
    fn over(&self, seconds: f64) -> (f64, Shares) {
        let shares = Shares {
            consumer: self.consumer_s / seconds,
            load: (self.own_s - self.consumer_s).max(0.0) / seconds,
            broker: self.broker_s.map(|used_s| used_s / seconds),
            others: self.broker_s.map(|used_s| (self.machine_s - self.own_s - used_s).max(0.0) / seconds),
        };
        (self.consumer_s, shares)
    }
}

struct Shares {
    consumer: f64,
    load: f64,
    broker: Option<f64>,
    others: Option<f64>,
}

fn figures(
    tally: &Tally,
    messages: u64,
    seconds: f64,
    late_ms_max: f64,
    (consumer_s, shares): (f64, Shares),
) -> Figures {
    let ms = |quantile: f64| tally.latency_us(quantile) / 1e3;
    Figures {
        messages,
        seconds,
        per_second: messages as f64 / seconds,
        cpu_us: consumer_s * 1e6 / messages.max(1) as f64,
        consumer_cpus: shares.consumer,
        load_cpus: shares.load,
        broker_cpus: shares.broker,
        others_cpus: shares.others,
        p50_ms: ms(0.5),
        p99_ms: ms(0.99),
        p999_ms: ms(0.999),
        late_ms_max,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tally::Received;

    #[test]
    fn a_message_that_is_missing_or_too_many_fails_the_run() {
        let tally = |counts: &[u64]| Tally {
            subscribers: (0..)
                .zip(counts)
                .map(|(topic, &events)| Received { topic, events, cut: false })
                .collect(),
            ..Tally::default()
        };
        assert_eq!(check(&tally(&[3, 2]), &[3, 2]), Ok(()));
        assert_eq!(check(&tally(&[3, 1]), &[3, 2]), Err("1 lost".to_owned()));
        assert_eq!(check(&tally(&[3, 3]), &[3, 2]), Err("1 never published".to_owned()));
        assert_eq!(check(&tally(&[3]), &[3, 2]), Err("1 queues not read".to_owned()));
        let doubled = Tally { doubled: 2, cut_reason: Some("the end".to_owned()), ..tally(&[3]) };
        assert_eq!(check(&doubled, &[3]), Err("2 doubled, the end".to_owned()));
    }
}
