//! One measurement from beginning to end: connect all, publish, wait until all has arrived or nothing more comes.

use crate::args::CpuList;
use crate::plan::Plan;
use crate::process::{Usage, machine_busy_s, make_room};
use crate::publisher::{Outcome, Publisher};
use crate::remote::listen_elsewhere;
use crate::report::{Measured, Report, ServerUsage};
use crate::shared::{Clock, Shared};
use crate::subscribers::{Share, listen};
use crate::tally::Tally;
use core_affinity::CoreId;
use indicatif::{ProgressBar, ProgressStyle};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread::{Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};

/// The time between two looks at the other threads.
const LOOK: Duration = Duration::from_millis(20);
/// Waited in silence after everything has arrived: what comes then came twice.
pub(crate) const AFTERMATH: Duration = Duration::from_millis(300);

/// Does what the plan says. An error is one line: nothing could be measured.
pub(crate) fn run(plan: &Plan) -> Result<Report, String> {
    let own_subscribers =
        if plan.flags.processes.is_some() { 2 * plan.readers } else { plan.flags.subscribers };
    make_room(own_subscribers, plan.flags.publishers, plan.readers)?;
    check_cpus("--cpus", plan.flags.cpus.as_ref().map_or(&[], |cpus| &cpus.0))?;
    let server_before = server_usage(plan)?;
    let shared = Shared::new(Clock::start(), plan.readers);
    let shared = &shared;
    std::thread::scope(|scope| {
        // The scope waits for its threads.
        let _stop = StopOnDrop(shared);
        let began = Instant::now();
        let readers = connect_all(scope, plan, shared)?;
        let connect_seconds = began.elapsed().as_secs_f64();
        std::thread::sleep(plan.flags.settle);
        let publisher = Publisher::connect(plan)?;
        let server_connected = server_usage(plan)?;

        let machine_begin_s = machine_busy_s();
        let publishing = scope.spawn(move || {
            pin(cpu(plan, plan.readers));
            publisher.publish(shared)
        });
        let outcome = watch_publishing(plan, publishing)?;
        let machine_s = machine_busy_s() - machine_begin_s;
        let server_published = plan.flags.pid.and_then(Usage::now);
        let by_topic = plan.steady_by_topic();
        let expected =
            by_topic.iter().zip(&outcome.topics).map(|(steady, topic)| steady * topic.acknowledged).sum();
        if outcome.sum(|topic| topic.acknowledged) == 0 {
            return Err(nothing_acknowledged(&outcome));
        }
        if await_all(shared, expected, plan.flags.drain, || Ok(()))? {
            await_more(shared);
        }

        let server_end = plan.flags.pid.and_then(Usage::now);
        shared.stop();
        let mut tally = Tally::default();
        for reader in readers {
            tally.add(reader.join().map_err(|_| "a reading thread failed".to_owned())?);
        }
        let server = || {
            let (before, connected) = (server_before?, server_connected?);
            Some(ServerUsage { before, connected, published: server_published?, end: server_end? })
        };
        Ok(Report::new(plan, Measured { connect_seconds, outcome, tally, server: server(), machine_s }))
    })
}

fn server_usage(plan: &Plan) -> Result<Option<Usage>, String> {
    let Some(pid) = plan.flags.pid else { return Ok(None) };
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
    let count = plan.readers;
    let (opened, told) = channel();
    let readers = (0..count)
        .map(|first| {
            let (opened, cpu) = (opened.clone(), cpu(plan, first));
            let share = Share { first, step: count };
            scope.spawn(move || {
                if plan.flags.processes.is_some() {
                    return listen_elsewhere(plan, share, cpu, shared, &opened);
                }
                pin(cpu);
                listen(plan, share, shared, &opened)
            })
        })
        .collect();
    drop(opened);
    let bar = progress("connecting", plan.flags.subscribers as u64);
    let mut left = count;
    while left > 0 {
        match told.recv_timeout(LOOK) {
            Ok(result) => result.map(|()| left -= 1)?,
            Err(RecvTimeoutError::Timeout) => bar.set_position(shared.connected()),
            Err(RecvTimeoutError::Disconnected) => return Err("a reading thread failed".to_owned()),
        }
    }
    bar.finish_and_clear();
    Ok(readers)
}

fn watch_publishing(plan: &Plan, publishing: ScopedJoinHandle<'_, Outcome>) -> Result<Outcome, String> {
    let time = plan.pace.time().unwrap_or_default();
    let bar = progress("publishing, ms", time.as_millis() as u64);
    let began = Instant::now();
    while !publishing.is_finished() {
        std::thread::sleep(LOOK);
        bar.set_position(began.elapsed().as_millis() as u64);
    }
    bar.finish_and_clear();
    publishing.join().map_err(|_| "the publishing thread failed".to_owned())
}

/// Waits until so much has arrived, and tells whether it has: false when nothing has come for the time of `silence`. An
/// error of `check`, which is asked meanwhile, ends it.
pub(crate) fn await_all(
    shared: &Shared,
    expected: u64,
    silence: Duration,
    mut check: impl FnMut() -> Result<(), String>,
) -> Result<bool, String> {
    let bar = progress("draining", expected);
    let (mut seen, mut moved) = (0, Instant::now());
    while seen < expected && moved.elapsed() < silence {
        check()?;
        let now = shared.delivered();
        if now != seen {
            (seen, moved) = (now, Instant::now());
            bar.set_position(seen);
        }
        std::thread::sleep(LOOK);
    }
    bar.finish_and_clear();
    Ok(seen >= expected)
}

/// Waits until nothing has come for a moment: what does came twice.
pub(crate) fn await_more(shared: &Shared) {
    let mut seen = None;
    while seen != Some(shared.delivered()) {
        seen = Some(shared.delivered());
        std::thread::sleep(AFTERMATH);
    }
}

/// Makes a progress bar, which is drawn on standard error when that is a terminal and never in the way of a result.
pub(crate) fn progress(what: &'static str, length: u64) -> ProgressBar {
    let bar = ProgressBar::new(length).with_message(what);
    if let Ok(style) = ProgressStyle::with_template("{msg} {wide_bar} {human_pos}/{human_len}") {
        bar.set_style(style);
    }
    bar
}

fn nothing_acknowledged(outcome: &Outcome) -> String {
    let why = outcome.first_refusal.as_ref().map(|answer| format!("the server answered {answer}"));
    let why =
        why.or_else(|| outcome.trouble.clone()).unwrap_or_else(|| "the server did not answer".to_owned());
    format!("no publish was acknowledged: {why}")
}

/// Returns the CPU of reader number `thread`; the publishing thread comes after them.
pub(crate) fn cpu(plan: &Plan, thread: usize) -> Option<usize> {
    let CpuList(cpus) = plan.flags.cpus.as_ref()?;
    cpus.get(thread % cpus.len()).copied()
}

/// Refuses a flag that names CPUs which this process may not use.
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
