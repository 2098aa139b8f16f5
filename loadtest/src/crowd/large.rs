//! Large events beside small ones: how much later do small events of one topic come while another topic has large ones?

use super::caller::Caller;
use super::clients::Crowd;
use super::{CrowdArgs, Sheet, Site, TIMEOUT, go_first, percentile_ms};
use crate::bench::peer::Peer;
use crate::shared::Clock;
use crate::stamp::{MARK, Stamp};
use memchr::memchr_iter;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

const PART: &str = "large";
const SUBSCRIBERS: usize = 100;
const SMALL_BYTES: usize = 128;
const LARGE_BYTES: usize = 1 << 20;
/// 100 small events a second and four large ones.
const SMALL_NS: u64 = 10_000_000;
const LARGE_NS: u64 = 250_000_000;
const QUIET: Duration = Duration::from_secs(3);
const LARGE_TIME: Duration = Duration::from_secs(6);
/// The last small event has arrived by then.
const STAY: Duration = Duration::from_secs(1);
/// Room for a large event and what stands around it.
const BODY_MAX: &str = "1028KiB";
const FIGURES: [(&str, f64); 2] = [("p50", 0.5), ("p99", 0.99)];

/// Measures all rounds.
pub(super) fn measure(args: &CrowdArgs, sheet: &mut Sheet) -> Result<(), String> {
    let mut peers = args.peers(&["esper"])?;
    for (_, peer) in &mut peers {
        *peer = peer.clone().with(&["--body-max", BODY_MAX], Vec::new());
    }
    let name_of = |quiet: bool, figure: &str| {
        let when = if quiet { "quiet" } else { "beside events of 1 MiB" };
        format!("latency of events of 128 B {figure}, {when}, ms")
    };
    args.rounds(sheet, PART, &peers, |sheet, round, peer, server| {
        let [quiet, meanwhile] = one(args, peer)?;
        for (is_quiet, took) in [(true, quiet), (false, meanwhile)] {
            for (figure, part) in FIGURES {
                let value = percentile_ms(took.iter().copied(), part);
                sheet.put(PART, server, round, &name_of(is_quiet, figure), value);
            }
        }
        Ok(())
    })?;
    if !peers.is_empty() {
        let [quiet, meanwhile] = [true, false].map(|quiet| name_of(quiet, "p99"));
        sheet.goal_ratio(PART, "p99, meanwhile to quiet", ("esper", &meanwhile), ("esper", &quiet), 3.0);
    }
    Ok(())
}

/// Returns the nanoseconds from due to read of each small event, before the first large one and while there were some.
fn one(args: &CrowdArgs, peer: &Peer) -> Result<[Vec<u64>; 2], String> {
    let site = Site::start(peer, args)?;
    let subscribers = args.scaled(SUBSCRIBERS, 4);
    let large_events = (args.pause(LARGE_TIME).as_nanos() as u64 / LARGE_NS).max(2);
    let all_large = large_events * subscribers as u64;
    let (mut small, mut large) =
        (Crowd::joined(&site, "crowdsmall", subscribers)?, Crowd::joined(&site, "crowdlarge", subscribers)?);
    let (clock, stop, published) = (Clock::start(), AtomicBool::new(false), AtomicU64::new(0));
    let (began_ns, ended_ns, latencies) = std::thread::scope(|scope| {
        let small_reader = scope.spawn(|| read_small(&mut small, clock, &stop, &published));
        let large_reader = scope.spawn(|| {
            large.until(args.pause(QUIET) + LARGE_TIME + TIMEOUT, |_| {}, |one| one.marks >= all_large)
        });
        let small_publisher = scope.spawn(|| {
            go_first();
            let done = |_: u64| stop.load(Ordering::Acquire);
            publish(&site, ("crowdsmall", SMALL_BYTES), clock, SMALL_NS, done, &published)
        });
        std::thread::sleep(args.pause(QUIET));
        let began_ns = clock.now_ns();
        let done = |count: u64| count >= large_events;
        let sent = publish(&site, ("crowdlarge", LARGE_BYTES), clock, LARGE_NS, done, &AtomicU64::new(0));
        let large_read = large_reader.join();
        let ended_ns = clock.now_ns();
        stop.store(true, Ordering::Release);
        let broke = |_| "a thread of the load broke".to_owned();
        let small_sent = small_publisher.join().map_err(broke);
        let latencies = small_reader.join().map_err(broke);
        sent.map_err(|why| format!("a large event: {why}"))?;
        large_read.map_err(broke)?.map_err(|why| format!("subscribers of large events: {why}"))?;
        small_sent?.map_err(|why| format!("a small event: {why}"))?;
        let latencies = latencies?.map_err(|why| format!("subscribers of small events: {why}"))?;
        Ok::<_, String>((began_ns, ended_ns, latencies))
    })?;
    let of = |from_ns: u64, to_ns: u64| {
        let within = latencies.iter().filter(|(due_ns, _)| (from_ns..to_ns).contains(due_ns));
        within.map(|(_, took_ns)| *took_ns).collect()
    };
    Ok([of(0, began_ns), of(began_ns, ended_ns)])
}

/// Publishes an event for each `every_ns` until `done`, which is given how many there were, and counts them.
fn publish(
    site: &Site,
    (topic, size): (&str, usize),
    clock: Clock,
    every_ns: u64,
    done: impl Fn(u64) -> bool,
    published: &AtomicU64,
) -> Result<(), String> {
    let goes_on = |_| !done(published.load(Ordering::Acquire));
    let count = |_| {
        published.fetch_add(1, Ordering::AcqRel);
    };
    Caller::connect(site)?.publish_paced(&site.publish(topic, size), clock, every_ns, goes_on, count)
}

/// Reads small events until it is told to stop, and returns when each was due and how long from then it took, in
/// nanoseconds. The error is also that some did not arrive.
fn read_small(
    crowd: &mut Crowd,
    clock: Clock,
    stop: &AtomicBool,
    published: &AtomicU64,
) -> Result<Vec<(u64, u64)>, String> {
    go_first();
    let mut latencies = Vec::new();
    let mut seen = |bytes: &[u8]| {
        let now_ns = clock.now_ns();
        // A stamp that two reads share is left out: few are.
        let stamps = memchr_iter(MARK, bytes).filter_map(|at| Stamp::ending(bytes.get(..=at)?));
        latencies.extend(stamps.map(|stamp| (stamp.due_ns, now_ns.saturating_sub(stamp.due_ns))));
    };
    crowd.until(TIMEOUT * 2, &mut seen, |_| stop.load(Ordering::Acquire))?;
    crowd.stay(STAY)?;
    let events = published.load(Ordering::Acquire);
    match crowd.other_than(events) {
        (0, 0) => Ok(latencies),
        (fewer, more) => {
            Err(format!("of {events} events {fewer} subscribers have fewer and {more} have more"))
        }
    }
}
