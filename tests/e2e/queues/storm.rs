//! Many queues, and clients that die at any moment and come back.

use std::io::Write as _;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

/// How many messages a client may not have read yet: fewer than a stream's window, which is what a client that dies with
/// what it has not read loses nothing of.
const AHEAD: usize = 60;

/// Each client honours Last-Event-ID, as EventSource does, and goes to either node as it happens.
#[test]
fn clients_that_die_and_come_back_get_every_message_once_and_in_order() {
    let (queues, messages) = size();
    let seed = fastrand::u64(..);
    let nodes = [start(&SHORT), start(&SHORT)];
    let publisher = Publisher::new();
    let queues: Vec<_> = (0..queues).map(|_| unique("storm")).collect();
    // There is none to publish to before there is a client.
    let streams: Vec<_> = queues.iter().map(|queue| opened(&nodes[0], queue, None)).collect();
    let received: Vec<_> = queues.iter().map(|_| AtomicUsize::new(0)).collect();
    let deaths = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for (number, stream) in streams.into_iter().enumerate() {
            let (nodes, queue, received, deaths) = (&nodes, &queues[number], &received[number], &deaths);
            let random = fastrand::Rng::with_seed(seed.wrapping_add(number as u64));
            let client = Client { nodes, queue, received, deaths, random, messages, last_event_id: None };
            scope.spawn(move || client.run(stream, seed));
        }
        let mut published = vec![0; queues.len()];
        while published.iter().any(|published| *published < messages) {
            let mut is_idle = true;
            for (number, queue) in queues.iter().enumerate() {
                let from = published[number];
                let upto = messages.min(received[number].load(Ordering::Acquire) + AHEAD);
                if upto >= from + AHEAD / 2 || (upto == messages && upto > from) {
                    publisher.queue(queue, &bodies(from..upto));
                    published[number] = upto;
                    is_idle = false;
                }
            }
            let progress = received.iter().all(|received| received.load(Ordering::Relaxed) < usize::MAX);
            assert!(progress, "a client gave up, seed {seed}");
            if is_idle {
                pause(Duration::from_millis(5));
            }
        }
    });
    let deaths = deaths.load(Ordering::Relaxed);
    assert!(deaths >= queues.len(), "{deaths} deaths");
    let _ = writeln!(std::io::stderr(), "{} queues, {messages} messages each, {deaths} deaths", queues.len());
    queues.iter().for_each(|queue| publisher.delete(queue));
}

/// Queues, and messages of each.
fn size() -> (usize, usize) {
    let queues = std::env::var("ESPER_TEST_QUEUES").ok().and_then(|queues| queues.parse().ok());
    (queues.unwrap_or(200), 1000)
}

struct Client<'a> {
    nodes: &'a [Server; 2],
    queue: &'a str,
    /// How many messages it has; the greatest number when it has given up.
    received: &'a AtomicUsize,
    deaths: &'a AtomicUsize,
    random: fastrand::Rng,
    messages: usize,
    last_event_id: Option<String>,
}

impl Client<'_> {
    fn run(mut self, mut stream: Stream, seed: u64) {
        let gives_up = GivesUp(self.received);
        loop {
            let upto = self.messages.min(self.received() + self.random.usize(0..self.messages / 4));
            while self.received() < upto {
                let Some(event) = stream.next_event() else { break };
                if event.retry.is_some() {
                    // Another of this client's connections, of which this one did not know.
                    continue;
                }
                assert_eq!(event.data, format!("message {}", self.received()), "{} seed {seed}", self.queue);
                self.last_event_id = Some(event.id);
                self.received.fetch_add(1, Ordering::Release);
            }
            if self.received() == self.messages {
                break;
            }
            stream = self.come_back(stream);
        }
        std::mem::forget(gives_up);
    }

    fn received(&self) -> usize {
        self.received.load(Ordering::Relaxed)
    }

    /// Before or after its connection has ended, and how that ends is as it happens: by what is unread in it.
    fn come_back(&mut self, old: Stream) -> Stream {
        self.deaths.fetch_add(1, Ordering::Relaxed);
        let node = &self.nodes[self.random.usize(0..2)];
        let Some(id) = &self.last_event_id else {
            drop(old);
            return opened_at_last(node, self.queue);
        };
        match self.random.u8(0..3) {
            0 => {
                drop(old);
                opened(node, self.queue, Some(id))
            }
            1 => {
                drop(old);
                pause(Duration::from_millis(self.random.u64(0..100)));
                opened(node, self.queue, Some(id))
            }
            _ => {
                // A network that changed: the old one is still there for a while.
                SockRef::from(old.socket()).attach_filter(&[RETURN_NOTHING]).unwrap();
                let stream = opened(node, self.queue, Some(id));
                drop(old);
                stream
            }
        }
    }
}

/// Says that a client ended by a panic, so that nobody waits for it.
struct GivesUp<'a>(&'a AtomicUsize);

impl Drop for GivesUp<'_> {
    fn drop(&mut self) {
        self.0.store(usize::MAX, Ordering::Release);
    }
}
