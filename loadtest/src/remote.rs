//! A reader in a process of its own, for more subscribers than one process may open files for.
//!
//! The two talk in lines: a job, then `publish <start>` and `stop` one way; `connected <n>`, `delivered <n>`, `opened`,
//! `failed <why>` and at last `tally <json>` the other.

use crate::child::Helper;
use crate::plan::{Plan, topic_names};
use crate::process::make_room;
use crate::shared::{Clock, Shared};
use crate::subscribers::{Opened, Share, listen};
use crate::tally::Tally;
use serde::{Deserialize, Serialize};
use std::io::{BufRead, Write, stdin, stdout};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

/// The time between two reports of how far the reader is.
const TELL: Duration = Duration::from_millis(5);

/// The work of the process.
#[derive(Deserialize, Serialize)]
struct ReadJob {
    words: Vec<String>,
    topic_start: String,
    first: usize,
    step: usize,
    clock: Clock,
}

/// Listens as [`listen`] does, in a process pinned to `cpu`.
pub(crate) fn listen_elsewhere(
    plan: &Plan,
    Share { first, step }: Share,
    cpu: Option<usize>,
    shared: &Shared,
    opened: &Opened,
) -> Tally {
    let (words, topic_start) = (plan.words.clone(), plan.topic_start.clone());
    let job = ReadJob { words, topic_start, first, step, clock: shared.clock };
    let told = Helper::start("read", &job, cpu).map(|mut helper| follow(&mut helper, first, shared, opened));
    told.unwrap_or_else(|why| failed(why, opened))
}

/// Tells of a failure at once, for whoever waits for the connections, and with the result.
fn failed(why: String, opened: &Opened) -> Tally {
    let _ = opened.send(Err(why.clone()));
    Tally { trouble: Some(why), ..Tally::default() }
}

/// Takes what the process of reader number `reader` tells, and passes on to it what it must know, to the end.
pub(crate) fn follow(helper: &mut Helper, reader: usize, shared: &Shared, opened: &Opened) -> Tally {
    try_follow(helper, reader, shared, opened)
        .unwrap_or_else(|why| failed(format!("a reading process failed: {why}"), opened))
}

fn try_follow(
    helper: &mut Helper,
    reader: usize,
    shared: &Shared,
    opened: &Opened,
) -> Result<Tally, std::io::Error> {
    let (mut told_publishing, mut told_to_stop) = (false, false);
    for line in (&mut helper.from).lines() {
        let line = line?;
        let (word, value) = line.split_once(' ').unwrap_or((&line, ""));
        match word {
            "connected" => shared.set_connected(reader, value.parse().unwrap_or(0)),
            "delivered" => shared.set_delivered(reader, value.parse().unwrap_or(0)),
            "opened" => drop(opened.send(Ok(()))),
            "failed" => drop(opened.send(Err(value.to_owned()))),
            "tally" => return Ok(serde_json::from_str(value)?),
            _ => {}
        }
        if let Some(start_ns) = shared.published_from_ns().filter(|_| !told_publishing) {
            told_publishing = true;
            writeln!(helper.to, "publish {start_ns}")?;
        }
        if shared.stopped() && !told_to_stop {
            told_to_stop = true;
            writeln!(helper.to, "stop")?;
        }
    }
    Err(std::io::Error::other("it ended"))
}

/// Runs the reading process itself.
pub(crate) fn read() -> Result<(), String> {
    let job: ReadJob = Helper::job()?;
    let mut plan = Plan::parse(&job.words)?;
    plan.topics = topic_names(&job.topic_start, plan.topics.len());
    make_room(plan.flags.subscribers.div_ceil(job.step), 0, 1)?;
    let shared = Shared::new(job.clock, job.first + 1);
    let share = Share { first: job.first, step: job.step };
    tell(&shared, |opened| listen(&plan, share, &shared, opened))
}

/// Lets `read` read in a thread of its own, and meanwhile tells the parent how far it is and does what the parent says.
pub(crate) fn tell(shared: &Shared, read: impl FnOnce(&Opened) -> Tally + Send) -> Result<(), String> {
    let (opened, told) = channel();
    std::thread::scope(|scope| {
        // Not a thread of the scope: it may wait for a line for ever.
        let (line, lines) = channel();
        std::thread::spawn(move || {
            stdin().lines().map_while(Result::ok).try_for_each(|text| line.send(text))
        });
        let reader = scope.spawn(move || read(&opened));
        loop {
            let finished = reader.is_finished();
            say(&format!("connected {}\ndelivered {}", shared.connected(), shared.delivered()));
            match told.try_recv() {
                Ok(Ok(())) => say("opened"),
                Ok(Err(why)) => say(&format!("failed {why}")),
                Err(_) => {}
            }
            if finished {
                break;
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
        let tally = reader.join().map_err(|_| "the reading thread failed".to_owned())?;
        let text = serde_json::to_string(&tally).map_err(|error| error.to_string())?;
        say(&format!("delivered {}\ntally {text}", tally.deliveries));
        Ok(())
    })
}

/// Writes a line to the parent. One that has gone shows itself at the next line it should send.
pub(crate) fn say(line: &str) {
    let mut out = stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}
