//! The cost of a connection: CPU when the load does not set the pace, memory when many connect at once and when they
//! connect one after another.
//!
//! The server is stopped while clients connect and ask; its backlog holds them. Then it goes on, with all it has to do before
//! it, and takes the CPU time that this takes.

use super::clients::Crowd;
use super::{CrowdArgs, Sheet, Site, TIMEOUT};
use crate::bench::metric::Spread;
use crate::bench::peer::Peer;
use rustix::process::Signal;
use std::time::Duration;

const PART: &str = "connects";
const CPU: &str = "CPU of a connection, us";
const AT_ONCE: &str = "resident bytes of each, at once";
const IN_TURN: &str = "resident bytes of each, one after another";
/// A backlog of 4,096 holds them.
const BATCH_MAX: usize = 3_500;
const BATCHES: usize = 4;
/// The server may have something to do after the last head.
const BEHIND: Duration = Duration::from_millis(50);
const SETTLE: Duration = Duration::from_secs(1);
/// A signal has arrived by then.
const STOPPED: Duration = Duration::from_millis(20);

/// Measures all rounds.
pub(super) fn measure(args: &CrowdArgs, sheet: &mut Sheet) -> Result<(), String> {
    let peers = args.peers(&super::PEERS)?;
    let batch = args.scaled((args.clients * 35 / 100).min(BATCH_MAX), 4);
    args.rounds(sheet, PART, &peers, |sheet, round, peer, name| {
        let (cpu_us, bytes) = at_once(args, peer, batch)?;
        sheet.put(PART, name, round, CPU, cpu_us);
        sheet.put(PART, name, round, AT_ONCE, Some(bytes));
        sheet.put(PART, name, round, IN_TURN, Some(in_turn(args, peer, batch * BATCHES)?));
        Ok(())
    })?;
    let has = |server: &str| peers.iter().any(|(name, _)| name == server);
    if has("esper") && has("floor") {
        sheet.goal_ratio(PART, "CPU, esper to floor", ("esper", CPU), ("floor", CPU), 1.05);
    }
    if has("esper") && has("nchan") {
        sheet.goal_ratio(PART, "CPU, esper to nchan", ("esper", CPU), ("nchan", CPU), 1.0);
    }
    if has("esper") {
        sheet.goal(PART, "bytes of each, at once", ("esper", AT_ONCE), 600.0);
        sheet.goal(PART, "bytes of each, one after another", ("esper", IN_TURN), 450.0);
    }
    Ok(())
}

/// Returns the CPU time of a connection in microseconds, of the median batch, and the resident bytes of each.
fn at_once(args: &CrowdArgs, peer: &Peer, batch: usize) -> Result<(Option<f64>, f64), String> {
    let site = Site::start(peer, args)?;
    let mut crowd = Crowd::new(&site, batch * BATCHES, vec![site.subscribe("crowdconnects", None)?])?;
    let before = site.usage()?.rss_bytes;
    let mut batches = Vec::new();
    for number in 1..=BATCHES {
        site.signal(Signal::STOP)?;
        std::thread::sleep(STOPPED);
        for _ in 0..batch {
            crowd.connect(0, true)?;
        }
        crowd.until(TIMEOUT, |_| {}, |crowd| crowd.asked == batch * number)?;
        let cpu_s = site.usage()?.cpu_s;
        site.signal(Signal::CONT)?;
        crowd.until(TIMEOUT, |_| {}, |crowd| crowd.heads == batch * number)?;
        crowd.stay(BEHIND)?;
        batches.push((site.usage()?.cpu_s - cpu_s) * 1e6 / batch as f64);
    }
    crowd.stay(SETTLE)?;
    let bytes = site.usage()?.rss_bytes as f64 - before as f64;
    Ok((Spread::of(batches).map(|spread| spread.median), bytes / (batch * BATCHES) as f64))
}

/// Returns the resident bytes of each of so many clients that come one after another.
fn in_turn(args: &CrowdArgs, peer: &Peer, count: usize) -> Result<f64, String> {
    let site = Site::start(peer, args)?;
    let mut crowd = Crowd::new(&site, count, vec![site.subscribe("crowdconnects", None)?])?;
    let before = site.usage()?.rss_bytes;
    for number in 1..=count {
        crowd.connect(0, true)?;
        crowd.until(TIMEOUT, |_| {}, |crowd| crowd.heads == number)?;
    }
    crowd.stay(SETTLE)?;
    Ok((site.usage()?.rss_bytes as f64 - before as f64) / count as f64)
}
