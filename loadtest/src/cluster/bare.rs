//! The bare client: one connection that publishes and awaits acknowledgements, one that consumes in order, and nothing
//! else. A message stands for one publish or for several, of so many bytes as esper's have.

use super::BYTES_BESIDE;
use super::nats::{STREAM, connect, jetstream, stream};
use crate::plan::{Pace, Plan, Role};
use crate::process::machine_busy_s;
use crate::publisher::{Outcome, Published};
use crate::report::{Measured, Report};
use crate::run::{AFTERMATH, StopOnDrop, await_all};
use crate::sequence::Series;
use crate::shared::{Clock, Shared};
use crate::stamp::{Payload, STAMP_BYTES, Stamp};
use crate::tally::{Received, Tally};
use async_nats::jetstream::Context;
use async_nats::jetstream::consumer::push::OrderedConfig;
use futures_util::StreamExt;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;

/// Subjects, as many as esper has partitions.
const SUBJECTS: usize = 16;
/// Bounds how late the consumer notices that it shall stop.
const STOP_CHECK: Duration = Duration::from_millis(20);
const SETTLE: Duration = Duration::from_millis(300);

/// Measures it once, with the pace and the publishers of the plan, and a subscriber.
pub(crate) fn run(urls: &str, replicas: usize, plan: &Plan, batch: usize) -> Result<Report, String> {
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.map_err(|error| format!("no runtime: {error}"))?;
    let jetstream = runtime.block_on(async {
        let jetstream = jetstream(connect(urls).await?);
        jetstream.create_stream(stream(replicas)).await.map_err(|error| format!("no stream: {error}"))?;
        Ok::<_, String>(jetstream)
    })?;
    let size = if batch > 1 { batch * (plan.payload.size() + BYTES_BESIDE) } else { plan.payload.size() };
    let payload = Payload::new(size);
    let shared = &Shared::new(Clock::start(), 1);
    std::thread::scope(|scope| {
        // The scope waits for its threads.
        let _stop = StopOnDrop(shared);
        let (opened, told) = channel();
        let consumer = {
            let payload = payload.clone();
            scope.spawn(move || consume(urls, shared, &payload, batch, &opened))
        };
        told.recv().map_err(|_| "the consumer failed".to_owned())??;
        std::thread::sleep(SETTLE);
        let machine_begin_s = machine_busy_s();
        let outcome = publish(&runtime, &jetstream, plan, &payload, batch, shared.clock)?;
        let machine_s = machine_busy_s() - machine_begin_s;
        await_all(shared, outcome.sum(|topic| topic.acknowledged), plan.flags.drain, || Ok(()))?;
        std::thread::sleep(AFTERMATH);
        shared.stop();
        let tally = consumer.join().map_err(|_| "the consumer failed".to_owned())?;
        let report =
            Report::new(plan, Measured { connect_seconds: 0.0, outcome, tally, server: None, machine_s });
        Ok(Report { publishes_per_message: Some(batch as f64), ..report })
    })
}

/// Publishes to the end of the plan, and waits for all acknowledgements.
fn publish(
    runtime: &Runtime,
    jetstream: &Context,
    plan: &Plan,
    payload: &Payload,
    batch: usize,
    clock: Clock,
) -> Result<Outcome, String> {
    let start_ns = clock.now_ns();
    let outcome =
        Outcome { topics: vec![Published::default(); plan.topics.len()], start_ns, ..Outcome::default() };
    let shared = Arc::new(Mutex::new(outcome));
    let mut tasks = Vec::new();
    match plan.pace {
        Pace::Rate { per_second, events, .. } => {
            for number in 0..events {
                let due_ns = start_ns + crate::schedule::due_ns(number, per_second);
                // Finer than the runtime's timers.
                std::thread::sleep(Duration::from_nanos(due_ns.saturating_sub(clock.now_ns())));
                let (jetstream, payload, outcome) = (jetstream.clone(), payload.clone(), Arc::clone(&shared));
                tasks.push(runtime.spawn(async move {
                    let stamp = Stamp { topic: 0, publisher: 0, sequence: number, due_ns };
                    one(&jetstream, &payload, &stamp, batch, clock, &outcome).await
                }));
            }
        }
        Pace::Flood { .. } => {
            let time = plan.pace.time().unwrap_or_default();
            let end = Instant::now() + time;
            // As many publishes on their way as esper is asked for.
            let slots = (plan.flags.publishers * plan.flags.in_flight).div_ceil(batch);
            for slot in 0..slots {
                let (jetstream, payload, outcome) = (jetstream.clone(), payload.clone(), Arc::clone(&shared));
                tasks.push(runtime.spawn(async move {
                    for sequence in 0.. {
                        if Instant::now() >= end {
                            break;
                        }
                        let due_ns = clock.now_ns();
                        let stamp = Stamp { topic: slot as u32, publisher: 0, sequence, due_ns };
                        one(&jetstream, &payload, &stamp, batch, clock, &outcome).await?;
                    }
                    Ok(())
                }));
            }
        }
    }
    for task in tasks {
        runtime.block_on(task).map_err(|error| format!("a publisher failed: {error}"))??;
    }
    let mut outcome = shared.lock().unwrap_or_else(PoisonError::into_inner);
    outcome.publishing_ns = clock.now_ns() - start_ns;
    Ok(std::mem::take(&mut *outcome))
}

/// Publishes a message and awaits its acknowledgement.
async fn one(
    jetstream: &Context,
    payload: &Payload,
    stamp: &Stamp,
    batch: usize,
    clock: Clock,
    outcome: &Mutex<Outcome>,
) -> Result<(), String> {
    let subject = format!("{STREAM}.{}", stamp.topic as usize % SUBJECTS);
    let sent = jetstream.publish(subject, payload.stamped(stamp).into()).await;
    sent.map_err(|error| error.to_string())?.await.map_err(|error| format!("no acknowledgement: {error}"))?;
    let now_ns = clock.now_ns();
    let mut outcome = outcome.lock().unwrap_or_else(PoisonError::into_inner);
    outcome.topics.first_mut().into_iter().for_each(|topic| topic.acknowledged += batch as u64);
    outcome.answers.record(now_ns.saturating_sub(stamp.due_ns), batch as u64);
    outcome.last_answer_ns = outcome.last_answer_ns.max(now_ns);
    Ok(())
}

/// Consumes in order, from before the first publish until the run is stopped.
fn consume(
    urls: &str,
    shared: &Shared,
    payload: &Payload,
    batch: usize,
    opened: &Sender<Result<(), String>>,
) -> Tally {
    let mut tally = Tally::default();
    let runtime = Builder::new_current_thread().enable_all().build();
    let done = runtime.map_err(|error| format!("no runtime: {error}")).and_then(|runtime| {
        runtime.block_on(async {
            let client = connect(urls).await?;
            let config = OrderedConfig { deliver_subject: client.new_inbox(), ..OrderedConfig::default() };
            let failed = |error: &dyn std::fmt::Display| format!("no consumer: {error}");
            let stream = jetstream(client).get_stream(STREAM).await.map_err(|error| failed(&error))?;
            let consumer = stream.create_consumer(config).await.map_err(|error| failed(&error))?;
            let mut messages = consumer.messages().await.map_err(|error| failed(&error))?;
            let _ = opened.send(Ok(()));
            let (mut series, mut events) = (Vec::new(), 0);
            while !shared.stopped() {
                let Ok(message) = timeout(STOP_CHECK, messages.next()).await else { continue };
                let message = message.ok_or("the consumer ended")?.map_err(|error| failed(&error))?;
                let data = &message.payload;
                let stamp = data.len().checked_sub(STAMP_BYTES).and_then(|_| payload.check(data));
                let Some(stamp) = stamp else {
                    tally.corrupt += 1;
                    continue;
                };
                let slot = stamp.topic as usize;
                if series.len() <= slot {
                    series.resize_with(slot + 1, Series::default);
                }
                let Some(series) = series.get_mut(slot) else { continue };
                if tally.arrived(Role::Steady, series, &stamp, shared.clock.now_ns()) {
                    events += batch as u64;
                    tally.deliveries += batch as u64 - 1;
                }
                shared.set_delivered(0, tally.deliveries);
            }
            tally.subscribers.push(Received { topic: 0, events, cut: false });
            Ok(())
        })
    });
    if let Err(why) = done {
        let _ = opened.send(Err(why.clone()));
        tally.trouble = Some(why);
    }
    tally
}
