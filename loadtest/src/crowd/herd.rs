//! A herd: all clients leave, and all come back at once, with the id of the last event they had, for the hundred they
//! missed.

use super::caller::Caller;
use super::clients::Crowd;
use super::memory::{Highest, MIB, settle};
use super::{CrowdArgs, Sheet, Site, TIMEOUT, percentile_ms, preempt};
use crate::bench::peer::Peer;
use crate::run::pin;
use crate::shared::Clock;
use crate::stamp::MARK;
use memchr::{memchr, memmem};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

const PART: &str = "herd";
const SIZES: [(&str, usize); 2] = [("128 B", 128), ("4 KiB", 4096)];
const MISSED: u64 = 100;
const QUIET: Duration = Duration::from_secs(3);
const STAY: Duration = Duration::from_secs(1);
const AFTER: Duration = Duration::from_secs(60);
const STEP: Duration = Duration::from_secs(5);
/// 1,000 publishes a second beside the herd: one of half a second has 500, of which the p99 is not the longest one.
const PULSE_NS: u64 = 1_000_000;
/// The time in which a server sees that all have left, and gives memory back.
const LEFT: Duration = Duration::from_secs(10);
/// Memory that is so near to what it was has come back.
const COME_BACK: f64 = 1.10;

/// Measures all rounds.
pub(super) fn measure(args: &CrowdArgs, sheet: &mut Sheet) -> Result<(), String> {
    let mut peers = args.peers(&["esper", "nchan"])?;
    for (_, peer) in peers.iter_mut().filter(|(name, _)| name == "nchan") {
        *peer = peer.clone().with_file_text("nchan_store_messages off;", "nchan_message_buffer_length 200;");
    }
    for (size_name, size) in SIZES {
        let figure = |text: &str| format!("{size_name}: {text}");
        let [all, quiet, meanwhile, fresh, before, highest, after] = [
            "from the first connect until all had their 100, ms",
            "publish to its answer p99, quiet, ms",
            "publish to its answer p99, meanwhile, ms",
            "MiB of a fresh process",
            "MiB before",
            "MiB at the highest",
            "MiB a minute after",
        ]
        .map(figure);
        args.rounds(sheet, PART, &peers, |sheet, round, peer, name| {
            let herded = one(args, peer, size)?;
            let mut put = |figure: &str, value| sheet.put(PART, name, round, figure, value);
            put(&all, Some(herded.all_ms));
            put(&quiet, herded.quiet_p99_ms);
            put(&meanwhile, herded.meanwhile_p99_ms);
            put(&fresh, Some(herded.fresh as f64 / MIB));
            put(&before, Some(herded.before as f64 / MIB));
            put(&highest, Some(herded.highest as f64 / MIB));
            put(&after, herded.after.last().map(|(_, bytes)| *bytes as f64 / MIB));
            sheet.put_memory(&format!("{PART}, {size_name}"), name, round, herded.after);
            Ok(())
        })?;
        let has = |server: &str| peers.iter().any(|(name, _)| name == server);
        if has("esper") && has("nchan") {
            sheet.goal_ratio(PART, &figure("time, esper to nchan"), ("esper", &all), ("nchan", &all), 0.5);
        }
        if has("esper") {
            let text = figure("publishes' p99, meanwhile to quiet");
            sheet.goal_ratio(PART, &text, ("esper", &meanwhile), ("esper", &quiet), 3.0);
            let text = figure("memory, a minute after to before");
            sheet.goal_ratio(PART, &text, ("esper", &after), ("esper", &before), COME_BACK);
        }
    }
    Ok(())
}

/// The figures of a herd.
struct Herded {
    all_ms: f64,
    quiet_p99_ms: Option<f64>,
    meanwhile_p99_ms: Option<f64>,
    /// Resident bytes: before any client came, before the herd, during it, and after it.
    fresh: u64,
    before: u64,
    highest: u64,
    after: Vec<(f64, u64)>,
}

fn one(args: &CrowdArgs, peer: &Peer, size: usize) -> Result<Herded, String> {
    let site = Site::start(peer, args)?;
    let (topic, clients) = ("crowdherd", args.scaled(args.clients, 4));
    let fresh = site.usage()?.rss_bytes;
    // They come, and leave.
    drop(Crowd::joined(&site, topic, clients).map_err(|why| format!("the first time: {why}"))?);
    let id = missed(&site, topic, size)?;
    std::thread::sleep(args.pause(LEFT));
    let (clock, end_ns) = (Clock::start(), AtomicU64::new(u64::MAX));
    let mut crowd = Crowd::new(&site, clients, vec![site.subscribe(topic, Some(&id))?])?;
    std::thread::scope(|scope| {
        let pulse = scope.spawn(|| pulse(args, &site, clock, &end_ns));
        std::thread::sleep(args.pause(QUIET));
        let quiet = site.usage();
        let highest = Highest::watch(&site);
        let began_ns = clock.now_ns();
        let came = come(&mut crowd, clients);
        let ended_ns = clock.now_ns();
        end_ns.store(ended_ns, Ordering::Release);
        let pulses = pulse.join().map_err(|_| "the publisher beside the herd broke".to_owned())?;
        let (pulses, before) = (pulses?, quiet?.rss_bytes);
        let stayed = came.and_then(|()| crowd.stay(args.pause(STAY)));
        match (stayed, crowd.other_than(MISSED)) {
            (Ok(()), (0, 0)) => {}
            (Ok(()), (lost, doubled)) => {
                return Err(format!("events of {size} B: {lost} clients lost and {doubled} doubled some"));
            }
            (Err(why), (fewer, _)) => {
                return Err(format!("events of {size} B: {why}; {fewer} clients have fewer than {MISSED}"));
            }
        }
        drop(crowd);
        let enough = Some(before as f64 * COME_BACK);
        let after = settle(&site, args.pause(AFTER), args.pause(STEP), enough)?;
        let is_quiet = |due_ns: u64| due_ns < began_ns;
        let took = |quiet: bool| {
            let of =
                pulses.iter().filter(move |(due_ns, _)| is_quiet(*due_ns) == quiet && *due_ns < ended_ns);
            percentile_ms(of.map(|(_, took_ns)| *took_ns), 0.99)
        };
        Ok(Herded {
            all_ms: (ended_ns - began_ns) as f64 / 1e6,
            quiet_p99_ms: took(true),
            meanwhile_p99_ms: took(false),
            fresh,
            before,
            highest: highest.bytes(),
            after,
        })
    })
}

/// Publishes an event and the hundred behind it, and returns the id of the first.
fn missed(site: &Site, topic: &str, size: usize) -> Result<String, String> {
    let request = site.publish(topic, size);
    let (mut probe, mut publisher) = (Caller::connect(site)?, Caller::connect(site)?);
    probe.ask(&site.subscribe(topic, None)?)?;
    probe.head()?;
    publisher.publish(&request, 0)?;
    let id = loop {
        if let Some(id) = id_of(probe.read()?) {
            break id;
        }
    };
    for _ in 0..MISSED {
        publisher.publish(&request, 0)?;
    }
    Ok(id)
}

/// Returns the value of the last `id` line in front of the end of an event; `None` while that is not there.
fn id_of(stream: &[u8]) -> Option<String> {
    let mark = memchr(MARK, stream)?;
    let end = mark + memmem::find(stream.get(mark..)?, b"\n\n")?;
    let text = String::from_utf8_lossy(stream.get(..end)?).into_owned();
    let id = text.lines().filter_map(|line| line.strip_prefix("id:")).next_back()?;
    Some(id.trim().to_owned())
}

/// Connects all clients as fast as it can, and waits until each has its events, or more.
fn come(crowd: &mut Crowd, clients: usize) -> Result<(), String> {
    for _ in 0..clients {
        crowd.connect(0, true)?;
    }
    let all = clients as u64 * MISSED;
    crowd.until(TIMEOUT, |_| {}, |crowd| crowd.marks >= all && crowd.other_than(MISSED).0 == 0)
}

/// Publishes to another topic for as long as publishes are due before the end, and returns when each was due and how long
/// from then its answer took, in nanoseconds.
///
/// It does so on the server's CPU, and before the server where both could run. On the load's CPU the kernel handles the
/// crowd's packets in the publisher's system calls, up to 7 ms of them in one, which is not the server's time.
fn pulse(args: &CrowdArgs, site: &Site, clock: Clock, end_ns: &AtomicU64) -> Result<Vec<(u64, u64)>, String> {
    pin(Some(args.server_cpu));
    preempt();
    let mut pulses = Vec::new();
    Caller::connect(site)?.publish_paced(
        &site.publish("crowdbeside", 128),
        clock,
        PULSE_NS,
        |due_ns| due_ns < end_ns.load(Ordering::Acquire),
        |due_ns| pulses.push((due_ns, clock.now_ns().saturating_sub(due_ns))),
    )?;
    Ok(pulses)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_read_wherever_it_stands_in_the_event_once_that_is_whole() {
        assert_eq!(id_of(b"retry: 1\n\nid: 17:0\ndata: xx~\n\n"), Some("17:0".to_owned()));
        assert_eq!(id_of(b"25\r\ndata:xx~\nid:a-5\n\n\r\n"), Some("a-5".to_owned()));
        assert_eq!(id_of(b"id:a-5\ndata:xx~\n"), None);
        assert_eq!(id_of(b"id:a-5\ndata:xx"), None);
    }
}
