//! Subscribers of a node that is killed: each goes on at another node, with the id of the last event it has, as
//! `EventSource` does, but at once.

use crate::bench::peer::Running;
use crate::http::{Body, Headers, ResponseHead, Target, subscribe_request};
use crate::plan::{Plan, Role};
use crate::process::{machine_busy_s, make_room};
use crate::publisher::Publisher;
use crate::report::{Latency, Measured, Report, Resumed};
use crate::run::{StopOnDrop, await_all, await_more};
use crate::sequence::Series;
use crate::shared::{Clock, Shared};
use crate::tally::{Latencies, Received, Tally};
use crate::verify::{Found, Verifier};
use futures_util::stream::FuturesUnordered;
use futures_util::{StreamExt, future};
use memchr::memchr_iter;
use std::cell::{Cell, RefCell};
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::Builder;
use tokio::sync::Semaphore;

/// Connections in the making at any time, before the node dies; all of them at once then.
const CONNECT_BATCH: usize = 256;
/// Waited after a node refused a subscriber, or was not there.
const RETRY: Duration = Duration::from_millis(20);
const READ_BYTES: usize = 4 * 1024;
/// Bounds how late the subscribers notice that they shall stop.
const STOP_CHECK: Duration = Duration::from_millis(20);

/// Kills the first node after a third of the time, while it is published at the second.
pub(crate) fn run(nodes: &mut [Running], flags: &[String]) -> Result<Report, String> {
    let [first, others @ ..] = nodes else { return Err("no node is there to die".to_owned()) };
    let second = others.first().ok_or("no node is there to go on")?;
    let plan = &Plan::of(&second.url(), flags)?;
    make_room(plan.flags.subscribers, 1, 1)?;
    let target = |node: &Running| Target::resolve(&node.url());
    let dying = target(first)?;
    let others = others.iter().map(target).collect::<Result<Vec<_>, _>>()?;
    let shared = &Shared::new(Clock::start(), 1);
    let killed_ns = &AtomicU64::new(0);
    std::thread::scope(|scope| {
        // The scope waits for its threads.
        let _stop = StopOnDrop(shared);
        let began = Instant::now();
        let all = plan.flags.subscribers as u64;
        let reader =
            scope.spawn(move || Subscribers::new(plan, shared, killed_ns, dying, others).run_until_stopped());
        while shared.connected() < all {
            if began.elapsed() > plan.flags.connect_timeout {
                return Err(format!("only {} of {all} subscribers had their 200", shared.connected()));
            }
            std::thread::sleep(STOP_CHECK);
        }
        let connect_seconds = began.elapsed().as_secs_f64();
        let publisher = Publisher::connect(plan)?;
        let machine_begin_s = machine_busy_s();
        let publishing = scope.spawn(move || publisher.publish(shared));
        std::thread::sleep(plan.pace.time().unwrap_or_default() / 3);
        killed_ns.store(shared.clock.now_ns(), Ordering::Release);
        first.kill()?;
        let outcome = publishing.join().map_err(|_| "the publishing thread failed".to_owned())?;
        let machine_s = machine_busy_s() - machine_begin_s;
        if await_all(shared, all * outcome.sum(|topic| topic.acknowledged), plan.flags.drain, || Ok(()))? {
            await_more(shared);
        }
        shared.stop();
        let (mut tally, resumed) = reader.join().map_err(|_| "the reading thread failed".to_owned())??;
        if resumed.samples() < all {
            let trouble = format!("only {} of {all} subscribers resumed", resumed.samples());
            tally.trouble.get_or_insert(trouble);
        }
        let report = Report::new(plan, Measured { connect_seconds, outcome, tally, server: None, machine_s });
        let (subscribers, all_us) = (resumed.samples(), resumed.us(1.0));
        let resumed = Some(Resumed { subscribers, all_us, each_us: Latency::from(&resumed) });
        Ok(Report { resumed, ..report })
    })
}

struct Subscribers<'a> {
    plan: &'a Plan,
    shared: &'a Shared,
    killed_ns: &'a AtomicU64,
    dying: Target,
    others: Vec<Target>,
    connecting: Semaphore,
    connected: Cell<u64>,
    tally: RefCell<Tally>,
    /// From the kill to each one's next event.
    resumed: RefCell<Latencies>,
}

/// The progress of one subscriber, kept over its connections.
#[derive(Default)]
struct Got {
    series: Series,
    events: u64,
    last_id: String,
    was_open: bool,
    /// Of the event that is being read.
    id: Option<String>,
    /// It has had an event of another node.
    resumed: bool,
}

impl<'a> Subscribers<'a> {
    fn new(
        plan: &'a Plan,
        shared: &'a Shared,
        killed_ns: &'a AtomicU64,
        dying: Target,
        others: Vec<Target>,
    ) -> Subscribers<'a> {
        Subscribers {
            plan,
            shared,
            killed_ns,
            dying,
            others,
            connecting: Semaphore::new(CONNECT_BATCH),
            connected: Cell::default(),
            tally: RefCell::default(),
            resumed: RefCell::default(),
        }
    }

    fn run_until_stopped(self) -> Result<(Tally, Latencies), String> {
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| format!("no runtime: {error}"))?;
        let got: Vec<_> = (0..self.plan.flags.subscribers).map(|_| RefCell::new(Got::default())).collect();
        runtime.block_on(async {
            let numbered = got.iter().enumerate();
            let mut all: FuturesUnordered<_> =
                numbered.map(|(number, got)| self.subscribe(number, got)).collect();
            let stopped = async {
                while !self.shared.stopped() {
                    tokio::time::sleep(STOP_CHECK).await;
                }
            };
            future::select(all.next(), pin!(stopped)).await;
        });
        let mut tally = self.tally.into_inner();
        let received =
            got.into_iter().map(|got| Received { topic: 0, events: got.into_inner().events, cut: false });
        tally.subscribers.extend(received);
        Ok((tally, self.resumed.into_inner()))
    }

    /// Follows the topic, at whichever node is there. Never ends.
    async fn subscribe(&self, number: usize, got: &RefCell<Got>) {
        for attempt in 0.. {
            let killed = self.killed_ns.load(Ordering::Acquire) > 0;
            // To each of the others in turn.
            let other = self.others.get((number + attempt) % self.others.len().max(1));
            let target = other.filter(|_| killed).unwrap_or(&self.dying);
            // Why it ended does not matter: events that were lost by it are seen.
            let _ = self.follow(target, killed, got).await;
            if killed || self.killed_ns.load(Ordering::Acquire) == 0 {
                tokio::time::sleep(RETRY).await;
            }
        }
    }

    async fn follow(&self, target: &Target, killed: bool, got: &RefCell<Got>) -> Result<(), String> {
        let failed = |error: std::io::Error| error.to_string();
        let mut permit = if killed { None } else { self.connecting.acquire().await.ok() };
        let mut socket = TcpStream::connect(target.address).await.map_err(failed)?;
        let mut headers = Headers::default();
        let last_id = got.borrow().last_id.clone();
        if !last_id.is_empty() {
            headers.add("Last-Event-ID", &last_id)?;
        }
        let path = self.plan.topics.first().map_or("", String::as_str);
        let path = self.plan.flags.subscribe_path.replace("{topic}", path);
        socket.write_all(&subscribe_request(target, &path, &headers)).await.map_err(failed)?;
        let mut bytes = Vec::with_capacity(READ_BYTES);
        let mut body: Option<Body> = None;
        let mut verifier = Verifier::default();
        let mut line = Vec::new();
        loop {
            if socket.read_buf(&mut bytes).await.map_err(failed)? == 0 {
                return Err("the node closed the connection".to_owned());
            }
            let mut rest = &bytes[..];
            if body.is_none() {
                let Some(head) = ResponseHead::read(rest)? else { continue };
                if head.status != 200 {
                    return Err(format!("the node answered {}", head.status));
                }
                rest = rest.get(head.head_bytes..).unwrap_or_default();
                body = Some(head.body);
                permit.take();
                if !std::mem::replace(&mut got.borrow_mut().was_open, true) {
                    self.connected.set(self.connected.get() + 1);
                    self.shared.set_connected(0, self.connected.get());
                }
            }
            let Some(body) = &mut body else { continue };
            while let Some(piece) = body.next(&mut rest)? {
                self.take(piece, &mut line, &mut verifier, killed, &mut got.borrow_mut());
            }
            let left = rest.len();
            bytes.drain(..bytes.len() - left);
        }
    }

    /// Takes a piece of the body: the events in it, and the id of the last.
    fn take(&self, piece: &[u8], line: &mut Vec<u8>, verifier: &mut Verifier, killed: bool, got: &mut Got) {
        let now_ns = self.shared.clock.now_ns();
        let tally = &mut *self.tally.borrow_mut();
        let mut from = 0;
        for end in memchr_iter(b'\n', piece) {
            line.extend_from_slice(&piece[from..=end]);
            from = end + 1;
            if let Some(id) = line.strip_prefix(b"id:") {
                got.id = Some(String::from_utf8_lossy(id).trim().to_owned());
            }
            if line == b"\n" {
                got.last_id = got.id.take().unwrap_or(std::mem::take(&mut got.last_id));
            }
            let Got { series, events, resumed, .. } = got;
            verifier.feed(line, &self.plan.payload, |found| match found {
                Found::Gap => tally.gaps += 1,
                Found::Corrupt => tally.corrupt += 1,
                Found::Event(stamp) => {
                    *events += u64::from(tally.arrived(Role::Steady, series, &stamp, now_ns));
                    if killed && !std::mem::replace(resumed, true) {
                        let killed_ns = self.killed_ns.load(Ordering::Acquire);
                        self.resumed.borrow_mut().record(now_ns.saturating_sub(killed_ns), 1);
                    }
                }
            });
            line.clear();
        }
        line.extend_from_slice(&piece[from..]);
        self.shared.set_delivered(0, tally.deliveries);
    }
}
