//! A client of the simulation: it says what it sees, and holds it against the model.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Wake;

use crate::arena::Key;
use crate::event::Events;
use crate::shard::wire::Framing;

pub(super) const HEAD: &str = "HEAD\n";
pub(super) const REFUSAL: &str = "GONE\n";

/// Whatever the sender of a wake-up sets.
#[derive(Default)]
pub(super) struct Flag(AtomicBool);

impl Flag {
    pub(super) fn raised() -> Arc<Self> {
        Arc::new(Flag(AtomicBool::new(true)))
    }

    pub(super) fn take(&self) -> bool {
        self.0.swap(false, Ordering::Relaxed)
    }
}

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// What each home ordered: payloads per topic, and where each payload stands.
#[derive(Default)]
pub(super) struct Model {
    pub(super) ordered: Vec<Vec<u64>>,
    pub(super) place: HashMap<u64, usize>,
    /// Whether events have ids: not without history.
    pub(super) with_ids: bool,
}

/// One client and what it has seen of its topic.
#[derive(Default)]
pub(super) struct Client {
    pub(super) topic: usize,
    pub(super) stream: Option<Stream>,
    pub(super) last_id: Option<String>,
    /// The place in the model of the next event it must see; unknown before its first event.
    pub(super) expected: Option<usize>,
    /// A fresh client's first event lies in this range: not before it subscribed, not after it saw its 200.
    pub(super) first_min: usize,
    pub(super) first_max: Option<usize>,
    pub(super) gap_told: bool,
    /// It was told when to come back.
    pub(super) farewell: bool,
    pub(super) events: usize,
    pub(super) gaps: usize,
}

/// A client's connection.
pub(super) struct Stream {
    pub(super) shard: usize,
    pub(super) key: Key,
    pub(super) framing: Framing,
    pub(super) woken: Arc<Flag>,
    /// What it is being sent.
    pub(super) flying: Option<VecDeque<u8>>,
    pub(super) stalled: bool,
    pub(super) received: Vec<u8>,
    pub(super) begun: bool,
}

impl Model {
    pub(super) fn order(&mut self, topic: usize, events: &Events) {
        for event in events.iter() {
            let payload = number(str::from_utf8(event.lines).unwrap());
            self.place.insert(payload, self.ordered[topic].len());
            self.ordered[topic].push(payload);
        }
    }
}

impl Client {
    /// Parses what arrived and checks every event against the model.
    pub(super) fn read(&mut self, stream: &mut Stream, model: &Model, may_forget: bool) {
        if !stream.begun {
            if stream.received.starts_with(REFUSAL.as_bytes()) {
                assert!(may_forget, "refused with room to spare");
                stream.received.clear();
            }
            if stream.received.len() < HEAD.len() {
                return;
            }
            assert!(stream.received.starts_with(HEAD.as_bytes()), "the head comes first");
            stream.received.drain(..HEAD.len());
            stream.begun = true;
            self.first_max.get_or_insert(model.ordered[self.topic].len());
        }
        let text = match stream.framing {
            Framing::Plain => take_text(&mut stream.received),
            Framing::Chunked => take_chunks(&mut stream.received),
        };
        for event in text.split_terminator("\n\n") {
            self.see(event, model, may_forget);
        }
    }

    fn see(&mut self, event: &str, model: &Model, may_forget: bool) {
        assert!(!self.farewell, "something after the farewell");
        if event == ":" {
            return;
        }
        if event.starts_with("retry:") {
            self.farewell = true;
            return;
        }
        if event.starts_with("event:gap\n") {
            self.gap_told = true;
            self.gaps += 1;
            if let Some(id) = id(event) {
                // It stands for all that was lost: resuming after it, nothing before it is expected any more.
                self.last_id = Some(id);
                self.first_min = self.expected.take().unwrap_or(self.first_min);
                self.first_max = Some(model.ordered[self.topic].len());
            }
            return;
        }
        let place = model.place[&number(event)];
        match self.expected {
            None => {
                assert!(place >= self.first_min, "an event from before it came");
                // Its first events may be what a skip or an early loss of its connection left.
                assert!(
                    self.gap_told || place <= self.first_max.unwrap_or(usize::MAX),
                    "the first event after its 200 is missing: {place} came, {:?} expected",
                    self.first_max
                );
            }
            Some(expected) if self.gap_told => {
                assert!(place >= expected, "doubled after a gap: {place} came, {expected} expected");
                assert!(place > expected || may_forget, "told of a gap where nothing is missing");
            }
            Some(expected) => assert_eq!(place, expected, "lost, doubled or out of order"),
        }
        self.gap_told = false;
        self.expected = Some(place + 1);
        self.events += 1;
        // Without history a publisher's own id comes through, but nobody can resume after it.
        self.last_id = id(event).filter(|_| model.with_ids);
        assert!(self.last_id.is_some() || !model.with_ids, "an event without an id");
    }

    pub(super) fn check_complete(&self, model: &Model) {
        let ordered = model.ordered[self.topic].len();
        let Some(stream) = &self.stream else { return };
        assert!(stream.begun, "no answer to its Join");
        match self.expected {
            // A gap told last may stand for everything that was left.
            Some(expected) => assert!(expected == ordered || self.gap_told, "{expected} of {ordered} seen"),
            None => assert!(
                self.gap_told || self.first_max.is_none_or(|first_max| first_max >= ordered),
                "nothing seen of {ordered}, 200 at {:?}",
                self.first_max
            ),
        }
    }
}

fn id(event: &str) -> Option<String> {
    event.lines().filter_map(|line| line.strip_prefix("id:")).next_back().map(str::to_owned)
}

fn number(event: &str) -> u64 {
    event.lines().find_map(|line| line.strip_prefix("data:")).unwrap().parse().unwrap()
}

/// Everything up to the last blank line.
fn take_text(received: &mut Vec<u8>) -> String {
    let end = received.windows(2).rposition(|two| two == b"\n\n").map_or(0, |at| at + 2);
    String::from_utf8(received.drain(..end).collect()).unwrap()
}

/// The text of all complete chunks, each of which must hold whole events.
fn take_chunks(received: &mut Vec<u8>) -> String {
    let mut text = String::new();
    while let Some(line_end) = received.windows(2).position(|two| two == b"\r\n") {
        let size = usize::from_str_radix(str::from_utf8(&received[..line_end]).unwrap(), 16).unwrap();
        let end = line_end + 2 + size + 2;
        if received.len() < end {
            break;
        }
        let chunk = String::from_utf8(received[line_end + 2..end - 2].to_vec()).unwrap();
        assert!(
            (chunk.ends_with("\n\n") || size == 0) && received[..end].ends_with(b"\r\n"),
            "a chunk of whole events"
        );
        text += &chunk;
        received.drain(..end);
    }
    text
}
