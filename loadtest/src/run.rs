//! One measurement from beginning to end: connect all, publish, wait until all has arrived or nothing more comes.

use crate::plan::Plan;
use crate::process::{Usage, machine_busy_s, make_room};
use crate::progress::{bar, publishing_bar};
use crate::publisher::{Outcome, Publisher};
use crate::remote::listen_elsewhere;
use crate::report::{Measured, Report, ServerUsage};
use crate::shared::{Clock, Shared};
use crate::subscribers::{Share, listen};
use crate::tally::Tally;
use core_affinity::CoreId;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::{Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};

/// How often this thread looks at the others.
const LOOK: Duration = Duration::from_millis(20);
/// Waited in silence after everything has arrived: what comes then came twice.
pub(crate) const AFTERMATH: Duration = Duration::from_millis(300);

/// Does what the plan says. An error is one line: nothing could be measured.
pub(crate) fn run(plan: &Plan) -> Result<Report, String> {
    let readers = plan.subscribers.readers;
    let own_subscribers = if plan.subscribers.processes { 2 * readers } else { plan.subscribers.count };
    make_room(own_subscribers, plan.publishing.connections, readers)?;
    check_cpus("--cpus", &plan.cpus)?;
    let server_before = server_usage(plan)?;
    let shared = Shared::new(Clock::start(), readers);
    let shared = &shared;
    std::thread::scope(|scope| {
        // The scope waits for its threads.
        let _stop = StopOnDrop(shared);
        let began = Instant::now();
        let readers = connect_all(scope, plan, shared)?;
        let connect_seconds = began.elapsed().as_secs_f64();
        std::thread::sleep(plan.subscribers.settle);
        let publisher = Publisher::connect(plan)?;
        let server_connected = server_usage(plan)?;

        let machine_begin_s = machine_busy_s();
        let publisher_cpu = cpu(plan, plan.subscribers.readers);
        let publishing = scope.spawn(move || {
            pin(publisher_cpu);
            publisher.publish(shared)
        });
        let outcome = watch_publishing(plan, shared, publishing)?;
        let machine_s = machine_busy_s() - machine_begin_s;
        let server_published = plan.pid.and_then(Usage::now);
        if outcome.acknowledged() == 0 {
            return Err(nothing_acknowledged(&outcome));
        }
        drain(plan, shared, &outcome);

        let server_end = plan.pid.and_then(Usage::now);
        shared.stop();
        let mut tally = Tally::default();
        for reader in readers {
            tally.add(reader.join().map_err(|_| "a reading thread failed".to_owned())?);
        }
        let server = match (server_before, server_connected, server_published, server_end) {
            (Some(before), Some(connected), Some(published), Some(end)) => {
                Some(ServerUsage { before, connected, published, end })
            }
            _ => None,
        };
        Ok(Report::new(plan, Measured { connect_seconds, outcome, tally, server, machine_s }))
    })
}

fn server_usage(plan: &Plan) -> Result<Option<Usage>, String> {
    let Some(pid) = plan.pid else { return Ok(None) };
    Usage::now(pid).map(Some).ok_or_else(|| format!("--pid {pid}: there is no such process"))
}

/// Tells the threads of a run to end, whatever way it ends.
pub(crate) struct StopOnDrop<'a>(pub(crate) &'a Shared);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.stop();
    }
}

/// Starts the reading threads and waits until each has all its subscribers open.
fn connect_all<'scope, 'env>(
    scope: &'scope Scope<'scope, 'env>,
    plan: &'env Plan,
    shared: &'env Shared,
) -> Result<Vec<ScopedJoinHandle<'scope, Tally>>, String> {
    let count = plan.subscribers.readers;
    let (opened, told) = channel();
    let readers = (0..count)
        .map(|first| {
            let (opened, cpu) = (opened.clone(), cpu(plan, first));
            let share = Share { first, step: count };
            scope.spawn(move || {
                if plan.subscribers.processes {
                    return listen_elsewhere(plan, share, cpu, shared, &opened);
                }
                pin(cpu);
                listen(plan, share, shared, &opened)
            })
        })
        .collect();
    drop(opened);
    let bar = bar("connecting", Some(plan.subscribers.count as u64));
    for _ in 0..count {
        next_told(&told, || bar.set_position(shared.connected() as u64))?;
    }
    bar.finish_and_clear();
    Ok(readers)
}

fn next_told(told: &Receiver<Result<(), String>>, mut meanwhile: impl FnMut()) -> Result<(), String> {
    loop {
        match told.recv_timeout(LOOK) {
            Ok(result) => return result,
            Err(RecvTimeoutError::Timeout) => meanwhile(),
            Err(RecvTimeoutError::Disconnected) => return Err("a reading thread failed".to_owned()),
        }
    }
}

fn watch_publishing(
    plan: &Plan,
    shared: &Shared,
    publishing: ScopedJoinHandle<'_, Outcome>,
) -> Result<Outcome, String> {
    let time = plan.publishing.pace.time();
    let bar = publishing_bar(time);
    bar.set_prefix(plan.subscribers.count.to_string());
    let began = Instant::now();
    while !publishing.is_finished() {
        std::thread::sleep(LOOK);
        bar.set_position(match time {
            Some(time) => began.elapsed().min(time).as_millis() as u64,
            None => shared.delivered(),
        });
    }
    bar.finish_and_clear();
    publishing.join().map_err(|_| "the publishing thread failed".to_owned())
}

/// Waits until everything acknowledged has arrived and a moment longer, or until nothing has come for the plan's time.
fn drain(plan: &Plan, shared: &Shared, outcome: &Outcome) {
    let by_topic = plan.steady_by_topic();
    let expected =
        by_topic.iter().zip(&outcome.topics).map(|(steady, topic)| steady * topic.acknowledged).sum();
    let bar = bar("draining", Some(expected));
    let mut seen = shared.delivered();
    let mut moved = Instant::now();
    loop {
        let silence = if seen >= expected { AFTERMATH } else { plan.drain };
        if moved.elapsed() >= silence {
            break;
        }
        std::thread::sleep(LOOK);
        let now = shared.delivered();
        if now != seen {
            seen = now;
            moved = Instant::now();
        }
        bar.set_position(seen);
    }
    bar.finish_and_clear();
}

fn nothing_acknowledged(outcome: &Outcome) -> String {
    let why = outcome.first_refusal.as_ref().map(|answer| format!("the server answered {answer}"));
    let why =
        why.or_else(|| outcome.trouble.clone()).unwrap_or_else(|| "the server did not answer".to_owned());
    format!("no publish was acknowledged: {why}")
}

/// The CPU of reader number `thread`; the publishing thread comes after them.
pub(crate) fn cpu(plan: &Plan, thread: usize) -> Option<usize> {
    if plan.cpus.is_empty() { None } else { plan.cpus.get(thread % plan.cpus.len()).copied() }
}

/// Whether a flag names only CPUs that this process may use.
pub(crate) fn check_cpus(flag: &str, cpus: &[usize]) -> Result<(), String> {
    let allowed: Vec<usize> =
        core_affinity::get_core_ids().unwrap_or_default().iter().map(|core| core.id).collect();
    match cpus.iter().find(|cpu| !allowed.contains(cpu)) {
        Some(cpu) => Err(format!("{flag}: CPU {cpu} is not among those this process may use, {allowed:?}")),
        None => Ok(()),
    }
}

/// Pins the calling thread.
pub(crate) fn pin(cpu: Option<usize>) {
    if let Some(id) = cpu {
        // Checked before the run, so only an affinity changed since then can refuse it.
        core_affinity::set_for_current(CoreId { id });
    }
}
