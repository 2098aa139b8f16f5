//! A reader in a process of its own, for more subscribers than one process may open files for.
//!
//! The two talk in lines of JSON: a job, and then words.

use crate::child::Helper;
use crate::plan::{Plan, topic_names};
use crate::process::make_room;
use crate::shared::{Clock, Shared};
use crate::subscribers::{Opened, Share, listen};
use crate::tally::Tally;
use serde::{Deserialize, Serialize};
use std::io::{self, BufRead, Write, stdin, stdout};
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

/// A word of one process to the other.
#[derive(Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
enum Word {
    /// The reader's subscribers that had their 200, and what the steady ones got.
    Progress { connected: u64, delivered: u64 },
    /// All its subscribers are open, or why not.
    Opened(Result<(), String>),
    /// The tally of a reading process, sent when it has stopped.
    Counted(Box<Tally>),
    /// To the reader: when the first publish was due.
    Publishing(u64),
    /// To the reader: it shall end.
    Stop,
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

fn try_follow(helper: &mut Helper, reader: usize, shared: &Shared, opened: &Opened) -> io::Result<Tally> {
    let (mut told_publishing, mut told_to_stop) = (false, false);
    for line in (&mut helper.from).lines() {
        match serde_json::from_str(&line?)? {
            Word::Progress { connected, delivered } => {
                shared.set_connected(reader, connected);
                shared.set_delivered(reader, delivered);
            }
            Word::Opened(result) => drop(opened.send(result)),
            Word::Counted(tally) => return Ok(*tally),
            Word::Publishing(_) | Word::Stop => {}
        }
        if let Some(start_ns) = shared.published_from_ns().filter(|_| !told_publishing) {
            told_publishing = true;
            say(&mut helper.to, &Word::Publishing(start_ns))?;
        }
        if shared.stopped() && !told_to_stop {
            told_to_stop = true;
            say(&mut helper.to, &Word::Stop)?;
        }
    }
    Err(io::Error::other("it ended"))
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
        // A parent that has gone shows itself at the next line it should send.
        let tell = |word: &Word| drop(say(&mut stdout().lock(), word));
        loop {
            let finished = reader.is_finished();
            tell(&Word::Progress { connected: shared.connected(), delivered: shared.delivered() });
            told.try_iter().for_each(|result| tell(&Word::Opened(result)));
            if finished {
                break;
            }
            let line = lines.recv_timeout(TELL);
            match line.as_deref().map(serde_json::from_str) {
                Ok(Ok(Word::Publishing(start_ns))) => shared.begin_publishing(start_ns),
                Ok(Ok(Word::Stop)) | Err(RecvTimeoutError::Disconnected) => shared.stop(),
                _ => {}
            }
        }
        let tally = reader.join().map_err(|_| "the reading thread failed".to_owned())?;
        tell(&Word::Progress { connected: shared.connected(), delivered: tally.deliveries });
        tell(&Word::Counted(Box::new(tally)));
        Ok(())
    })
}

/// Writes a word, or a job, to the other process.
pub(crate) fn say(to: &mut impl Write, word: &impl Serialize) -> io::Result<()> {
    writeln!(to, "{}", serde_json::to_string(word)?)?;
    to.flush()
}
