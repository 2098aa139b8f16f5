//! Memory after waves: many come at once, some do not read, others stall in the middle of a request, and all leave.

use super::caller::Caller;
use super::clients::Crowd;
use super::memory::{Highest, MIB, settle};
use super::{CrowdArgs, Sheet, Site, TIMEOUT};
use crate::bench::peer::Peer;
use crate::stamp::Stamp;
use std::time::Duration;

const PART: &str = "waves";
const BEFORE: &str = "MiB before";
const HIGHEST: &str = "MiB at the highest";
const AFTER: &str = "MiB a minute after";
const WAVES: usize = 3;
const TOPICS: usize = 1_000;
const PUBLISHES: usize = 2_000;
const SIZES: [usize; 3] = [128, 2 * 1024, 64 * 1024];
const PUBLISHERS: usize = 64;
/// The clients of which one does not read.
const STALLED_OF: usize = 100;
const HALF_REQUESTS: usize = 2_000;
const HALF_BYTES: usize = 16 * 1024;
const HISTORY_AGE: Duration = Duration::from_secs(10);
const WARMED_UP: Duration = Duration::from_secs(15);
/// The server has seen by then that all have left.
const BETWEEN: Duration = Duration::from_secs(2);
const SETTLE: Duration = Duration::from_secs(60);
const STEP: Duration = Duration::from_secs(5);

/// Measures all rounds.
pub(super) fn measure(args: &CrowdArgs, sheet: &mut Sheet) -> Result<(), String> {
    let mut peers = args.peers(&["esper"])?;
    let age = format!("{}ms", args.pause(HISTORY_AGE).as_millis());
    for (_, peer) in &mut peers {
        *peer = peer.clone().with(&["--history-age", &age], Vec::new());
    }
    args.rounds(sheet, PART, &peers, |sheet, round, peer, name| one(args, sheet, round, peer, name))?;
    if !peers.is_empty() {
        let text = "memory, a minute after to before";
        sheet.goal_ratio(PART, text, ("esper", AFTER), ("esper", BEFORE), 1.25);
    }
    Ok(())
}

fn one(args: &CrowdArgs, sheet: &mut Sheet, round: usize, peer: &Peer, name: &str) -> Result<(), String> {
    let site = Site::start(peer, args)?;
    wave(args, &site, 10).map_err(|why| format!("warm-up: {why}"))?;
    std::thread::sleep(args.pause(WARMED_UP));
    let before = site.usage()?.rss_bytes;
    let highest = Highest::watch(&site);
    for number in 1..=WAVES {
        wave(args, &site, 1).map_err(|why| format!("wave {number}: {why}"))?;
        std::thread::sleep(args.pause(BETWEEN));
    }
    let after = settle(&site, args.pause(SETTLE), args.pause(STEP), None)?;
    sheet.put(PART, name, round, BEFORE, Some(before as f64 / MIB));
    sheet.put(PART, name, round, HIGHEST, Some(highest.bytes() as f64 / MIB));
    sheet.put(PART, name, round, AFTER, after.last().map(|(_, bytes)| *bytes as f64 / MIB));
    sheet.put_memory(PART, name, round, after);
    Ok(())
}

/// Lets a wave come and leave, or that part of one.
fn wave(args: &CrowdArgs, site: &Site, part: usize) -> Result<(), String> {
    let of = |number: usize, min: usize| args.scaled(number, min).div_ceil(part).max(min);
    let (clients, topics, publishes) = (of(args.clients, 8), of(TOPICS, 2), of(PUBLISHES, 4));
    let topic = |number: usize| format!("crowdwave{number}");
    let requests = (0..topics).map(|number| site.subscribe(&topic(number), None));
    let mut crowd = Crowd::new(site, clients, requests.collect::<Result<_, _>>()?)?;
    let reads = |number: usize| !number.is_multiple_of(STALLED_OF);
    for number in 0..clients {
        crowd.connect(number % topics, reads(number))?;
    }
    crowd.until(TIMEOUT, |_| {}, |crowd| crowd.heads == clients)?;
    let halves = of(HALF_REQUESTS, 1);
    let mut stalled = Crowd::new(site, halves, vec![half_request(site)])?;
    for _ in 0..halves {
        stalled.connect(0, true)?;
    }
    stalled.until(TIMEOUT, |_| {}, |crowd| crowd.asked == halves)?;
    // A topic has every `topics`th publish and every `topics`th client.
    let events_of = |topic: usize| (publishes.saturating_sub(topic)).div_ceil(topics) as u64;
    let due: u64 =
        (0..clients).filter(|number| reads(*number)).map(|number| events_of(number % topics)).sum();
    std::thread::scope(|scope| {
        let publisher = scope.spawn(|| publish(site, publishes, topics, topic));
        let read = crowd.until(TIMEOUT, |_| {}, |crowd| crowd.marks >= due);
        publisher.join().map_err(|_| "the publisher broke".to_owned())??;
        read
    })?;
    stalled.stay(Duration::from_millis(100))
}

/// Returns the head of a publish of two halves, and the first.
fn half_request(site: &Site) -> Vec<u8> {
    let mut request = Vec::new();
    let stamp = Stamp { topic: 0, publisher: 0, sequence: 0, due_ns: 0 };
    site.publish("crowdstalled", 2 * HALF_BYTES).write(&stamp, &mut request);
    request.truncate(request.len() - HALF_BYTES);
    request
}

/// Publishes so many events to the topics in turn, from many connections at once.
fn publish(
    site: &Site,
    publishes: usize,
    topics: usize,
    topic: impl Fn(usize) -> String,
) -> Result<(), String> {
    let callers = (0..PUBLISHERS.min(publishes)).map(|_| Caller::connect(site));
    let mut callers: Vec<Caller> = callers.collect::<Result<_, _>>()?;
    for first in (0..publishes).step_by(callers.len().max(1)) {
        let sent = callers.len().min(publishes - first);
        for (number, caller) in callers.iter_mut().take(sent).enumerate() {
            let number = first + number;
            let size = SIZES.get(number % SIZES.len()).copied().unwrap_or_default();
            caller.send(&site.publish(&topic(number % topics), size), 0)?;
        }
        callers.iter_mut().take(sent).try_for_each(Caller::answer)?;
    }
    Ok(())
}
