//! A reader in a process of its own, for more subscribers than one process may open files for.
//!
//! The two talk in lines: a job, then `publish <start>` and `stop` one way; `connected <n>`, `delivered <n>`, `opened`,
//! `failed <why>` and at last `tally <json>` the other.

use crate::child::Child;
use crate::plan::Plan;
use crate::process::make_room;
use crate::shared::{Clock, Shared};
use crate::subscribers::{Share, listen};
use crate::tally::Tally;
use serde::{Deserialize, Serialize};
use std::io::{BufRead, BufReader, Write, stdin, stdout};
use std::process::{Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;

/// How often the reader tells how far it is.
const TELL: Duration = Duration::from_millis(5);

/// What the reader is to do.
#[derive(Deserialize, Serialize)]
struct Job {
    words: Vec<String>,
    topic_start: String,
    first: usize,
    step: usize,
    clock_started_ns: u64,
    cpu: Option<usize>,
}

/// As [`listen`], by a process pinned to `cpu`.
pub(crate) fn listen_elsewhere(
    plan: &Plan,
    share: Share,
    cpu: Option<usize>,
    shared: &Shared,
    opened: &Sender<Result<(), String>>,
) -> Tally {
    let job = Job {
        words: plan.words.clone(),
        topic_start: plan.topic_start.clone(),
        first: share.first,
        step: share.step,
        clock_started_ns: shared.clock.started_ns(),
        cpu,
    };
    match talk(&job, shared, opened) {
        Ok(tally) => tally,
        Err(why) => {
            // Told at once while connecting, and with the result afterwards.
            let _ = opened.send(Err(why.clone()));
            Tally { trouble: Some(why), ..Tally::default() }
        }
    }
}

fn talk(job: &Job, shared: &Shared, opened: &Sender<Result<(), String>>) -> Result<Tally, String> {
    let failed = |error: &dyn std::fmt::Display| format!("a reading process failed: {error}");
    let program = std::env::current_exe().map_err(|error| failed(&error))?;
    let mut command = Command::new(program);
    let mut child = Child::start(command.arg("read").stdin(Stdio::piped()).stdout(Stdio::piped()), job.cpu)?;
    let (mut to, from) = child.pipes().ok_or_else(|| failed(&"no pipes"))?;
    let text = serde_json::to_string(job).map_err(|error| failed(&error))?;
    writeln!(to, "{text}").map_err(|error| failed(&error))?;
    follow(to, BufReader::new(from), job.first, shared, opened)
}

/// Takes what the process of reader number `reader` tells, and passes on to it what it must know, to the end.
pub(crate) fn follow(
    mut to: impl Write,
    from: impl BufRead,
    reader: usize,
    shared: &Shared,
    opened: &Sender<Result<(), String>>,
) -> Result<Tally, String> {
    let failed = |error: &dyn std::fmt::Display| format!("a reading process failed: {error}");
    let (mut told_publishing, mut told_to_stop) = (false, false);
    for line in from.lines() {
        let line = line.map_err(|error| failed(&error))?;
        let (word, value) = line.split_once(' ').unwrap_or((&line, ""));
        match word {
            "connected" => shared.set_connected(reader, value.parse().unwrap_or(0)),
            "delivered" => shared.set_delivered(reader, value.parse().unwrap_or(0)),
            "opened" => drop(opened.send(Ok(()))),
            "failed" => drop(opened.send(Err(value.to_owned()))),
            "tally" => return serde_json::from_str(value).map_err(|error| failed(&error)),
            _ => {}
        }
        if let Some(start_ns) = shared.published_from_ns().filter(|_| !told_publishing) {
            told_publishing = true;
            writeln!(to, "publish {start_ns}").map_err(|error| failed(&error))?;
        }
        if shared.stopped() && !told_to_stop {
            told_to_stop = true;
            writeln!(to, "stop").map_err(|error| failed(&error))?;
        }
    }
    Err(failed(&"it ended"))
}

/// The reading process itself.
pub(crate) fn read() -> Result<(), String> {
    let mut line = String::new();
    stdin().read_line(&mut line).map_err(|error| format!("no job: {error}"))?;
    let job: Job = serde_json::from_str(&line)
        .map_err(|error| format!("this is started by --processes alone: {error}"))?;
    let plan = Plan::parse_for_topic(&job.words, &job.topic_start)?;
    make_room(plan.subscribers.count.div_ceil(job.step), 0, 1)?;
    let shared = Shared::new(Clock::started_at(job.clock_started_ns), job.first + 1);
    let share = Share { first: job.first, step: job.step };
    tell(&shared, |opened| listen(&plan, share, &shared, opened))
}

/// Lets `read` read in a thread of its own, and meanwhile tells the parent how far it is and does what the parent says.
pub(crate) fn tell(
    shared: &Shared,
    read: impl FnOnce(&Sender<Result<(), String>>) -> Tally + Send,
) -> Result<(), String> {
    let (opened, told) = channel();
    std::thread::scope(|scope| {
        // Not a thread of the scope: it may wait for a line for ever.
        let (line, lines) = channel();
        std::thread::spawn(move || {
            stdin().lines().map_while(Result::ok).try_for_each(|text| line.send(text))
        });
        let reader = scope.spawn(move || read(&opened));
        while !reader.is_finished() {
            say(&format!("connected {}\ndelivered {}", shared.connected(), shared.delivered()));
            match told.try_recv() {
                Ok(Ok(())) => say("opened"),
                Ok(Err(why)) => say(&format!("failed {why}")),
                Err(_) => {}
            }
            let line = lines.recv_timeout(TELL);
            match line.as_deref().map(|line| line.split_once(' ').unwrap_or((line, ""))) {
                Ok(("publish", start)) => {
                    start.parse().into_iter().for_each(|at| shared.begin_publishing(at))
                }
                Ok(("stop", _)) | Err(RecvTimeoutError::Disconnected) => shared.stop(),
                _ => {}
            }
        }
        if let Ok(Err(why)) = told.try_recv() {
            say(&format!("failed {why}"));
        }
        let tally = reader.join().map_err(|_| "the reading thread failed".to_owned())?;
        let text = serde_json::to_string(&tally).map_err(|error| error.to_string())?;
        say(&format!("delivered {}\ntally {text}", tally.deliveries));
        Ok(())
    })
}

/// A parent that has gone shows itself at the next line it should send.
pub(crate) fn say(line: &str) {
    let mut out = stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}
