//! A client of the simulation: it checks what it is sent against the model.

use std::collections::HashMap;

use crate::core::arena::Key;
use crate::core::chunk::Framing;
use crate::core::event::Events;
use crate::core::event_id::{Epoch, Position, has_our_form};
use crate::core::topic::Topic;

pub(super) const HEAD: &str = "HEAD\n";
pub(super) const REFUSAL: &str = "GONE\n";
pub(super) const CODE: &str = "code";
const CODE_SUFFIX: &str = "~code";

/// The model: the payloads that each partition ordered, with their topics and places. The event at place `n` is number
/// `n + 1` in the partition's sequence.
pub(super) struct Model {
    pub(super) ordered: Vec<Vec<(u64, Topic)>>,
    pub(super) place: HashMap<u64, (usize, usize)>,
    /// The uses of each publisher's own id: partitions and places.
    pub(super) own_ids: HashMap<String, Vec<(usize, usize)>>,
    /// The epoch of ids; `None` without history.
    pub(super) epoch: Option<Epoch>,
}

/// One client and its view of its topics. Lists are by partition.
#[derive(Default)]
pub(super) struct SimulatedClient {
    pub(super) topics: Vec<Topic>,
    /// It asks for the topic of each event.
    pub(super) names_topics: bool,
    /// Its ids have a code.
    pub(super) has_code: bool,
    pub(super) stream: Option<Stream>,
    pub(super) last_id: Option<String>,
    /// The id that its connection began with, until an event came.
    came_with: Option<String>,
    /// The place from which on it has yet to see its events; `None` before it saw any.
    pub(super) expected: Vec<Option<usize>>,
    /// A fresh client's first event lies in this range: not before it subscribed, not after it saw its 200.
    pub(super) first_min: Vec<usize>,
    pub(super) first_max: Option<Vec<usize>>,
    /// Set when it was told of a gap, and has seen nothing of the partition since.
    pub(super) gap_told: Vec<bool>,
    /// It may miss any event before this place: the history of more than one topic has holes, of which one gap tells.
    pub(super) holes_end: Vec<usize>,
    /// Set when it was told to come back later, or that its token expired.
    pub(super) farewell: bool,
    pub(super) events: usize,
    pub(super) gaps: usize,
    /// It ignores gaps: a canary.
    pub(super) is_deaf_to_gaps: bool,
}

/// A client's connection.
pub(super) struct Stream {
    pub(super) shard: usize,
    pub(super) key: Key,
    /// Set when its ids are those of one partition.
    pub(super) is_single: bool,
    pub(super) framing: Framing,
    /// The fan-out is to be asked for its next send.
    pub(super) is_woken: bool,
    /// A send found no room, and the kernel has not told of it since.
    pub(super) awaits_room: bool,
    pub(super) stalled: bool,
    pub(super) received: Vec<u8>,
    pub(super) begun: bool,
}

impl Model {
    /// Adds ordered events, the first with the sequence `first`.
    pub(super) fn order(&mut self, partition: usize, topic: &Topic, events: &Events, first: u64) {
        for (event, sequence) in events.iter().zip(first..) {
            let payload = number(str::from_utf8(event.lines).unwrap());
            self.place.insert(payload, (partition, self.ordered[partition].len()));
            assert_eq!(sequence, self.ordered[partition].len() as u64 + 1, "sequences go on");
            if let Some(id) = event.own_id() {
                let uses = self.own_ids.entry(id.to_owned()).or_default();
                uses.push((partition, self.ordered[partition].len()));
            }
            self.ordered[partition].push((payload, topic.clone()));
        }
    }

    fn is_repeated(&self, id: Option<&str>) -> bool {
        id.and_then(|id| self.own_ids.get(id)).is_some_and(|uses| uses.len() > 1)
    }

    /// Forgets the events after these sequences: a crash took them, before any client was to see them.
    pub(super) fn truncate(&mut self, last: &[u64]) {
        for (partition, last) in last.iter().enumerate() {
            self.ordered[partition].truncate(*last as usize);
            self.own_ids
                .values_mut()
                .for_each(|uses| uses.retain(|(of, at)| *of != partition || *at < *last as usize));
        }
    }

    /// Returns the place of the first event from `from` on that is for these topics; the end if there is none.
    fn next(&self, topics: &[Topic], partition: usize, from: usize) -> usize {
        let rest = self.ordered[partition].iter().skip(from);
        from + rest.take_while(|(_, topic)| !covers(topics, topic)).count()
    }

    /// Returns the places at which a client of these topics that expects `expected` and came back with `id` may go on:
    /// a publisher's own id stands for its latest use, whatever lies between.
    fn resumed(&self, topics: &[Topic], partition: usize, expected: usize, id: Option<&str>) -> Vec<usize> {
        let uses = id.and_then(|id| self.own_ids.get(id)).into_iter().flatten();
        let later = uses.filter(|(of, place)| {
            *of == partition && *place >= expected && covers(topics, &self.ordered[partition][*place].1)
        });
        std::iter::once(expected).chain(later.map(|(_, place)| place + 1)).collect()
    }

    fn lengths(&self) -> Vec<usize> {
        self.ordered.iter().map(Vec::len).collect()
    }
}

fn covers(topics: &[Topic], topic: &Topic) -> bool {
    topics.iter().any(|own| own.covers(topic))
}

impl SimulatedClient {
    pub(super) fn new(topics: Vec<Topic>, names_topics: bool, has_code: bool, partitions: usize) -> Self {
        SimulatedClient {
            topics,
            names_topics,
            has_code,
            expected: vec![None; partitions],
            gap_told: vec![false; partitions],
            holes_end: vec![0; partitions],
            ..SimulatedClient::default()
        }
    }

    /// Forgets gaps told to an earlier connection, which do not excuse this one.
    pub(super) fn connects(&mut self, model: &Model) {
        self.came_with = self.last_id.clone();
        (self.gap_told, self.farewell) = (vec![false; model.ordered.len()], false);
        self.holes_end.fill(0);
        if self.last_id.is_none() {
            self.expected = vec![None; model.ordered.len()];
            self.first_min = model.lengths();
        }
    }

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
            self.first_max.get_or_insert(model.lengths());
        }
        let text = match stream.framing {
            Framing::Plain => take_text(&mut stream.received),
            Framing::Chunked => take_chunks(&mut stream.received),
        };
        let is_single = stream.is_single;
        for event in text.split_terminator("\n\n") {
            self.see(event, model, may_forget, is_single);
        }
    }

    fn see(&mut self, event: &str, model: &Model, may_forget: bool, is_single: bool) {
        assert!(!self.farewell, "something after the farewell");
        let event = event.trim_start_matches(":\n");
        if event.is_empty() {
            return;
        }
        if ["retry:", "event:expired\n", "event:disconnected\n"].iter().any(|last| event.starts_with(last)) {
            self.farewell = true;
            return;
        }
        if let Some(id) = event.strip_prefix("id:").filter(|_| event.lines().count() == 1) {
            return self.see_place(&self.without_code(id), model, is_single);
        }
        if event.starts_with("event:gap\n") && self.is_deaf_to_gaps {
            return;
        }
        if event.starts_with("event:gap\n") {
            self.gaps += 1;
            self.gap_told.fill(true);
            if self.topics.len() > 1
                || self.topics.iter().any(|topic| topic.is_everything() || topic.parent().is_some())
            {
                self.holes_end = model.lengths();
                if event.contains("\"unknown\"") {
                    // A publisher's own id that is no longer known: everything retained comes again.
                    self.expected.fill(None);
                    self.first_min.fill(0);
                }
            }
            if let Some(id) = id(event) {
                self.see_gap(self.without_code(&id), model, is_single);
            }
            return;
        }
        let (partition, place) = model.place[&number(event)];
        let next = |from| model.next(&self.topics, partition, from);
        let came_with = self.came_with.take();
        let expected = self.expected[partition];
        let resumed = model.resumed(&self.topics, partition, expected.unwrap_or(0), came_with.as_deref());
        let after_a_use = resumed.into_iter().skip(1).any(|from| next(from) == place);
        if after_a_use && expected.is_some() {
            self.expected[partition] = Some(place);
        }
        assert!(next(place) == place, "an event of another topic");
        match self.expected[partition] {
            None => {
                assert!(place >= self.first_min[partition], "an event from before it came");
                // Its first events may be those left by a skip or an early loss of its connection.
                let first_max = self.first_max.as_ref().map_or(0, |first_max| first_max[partition]);
                assert!(
                    self.gap_told[partition] || after_a_use || place <= next(first_max),
                    "the first event after its 200 is missing: {place} came, {first_max} expected",
                );
            }
            // The later use of an id that was used twice may be lost, and all since the earlier one comes again.
            Some(_) if self.gap_told[partition] && model.is_repeated(came_with.as_deref()) => {}
            Some(expected) if self.gap_told[partition] => {
                assert!(place >= expected, "doubled after a gap: {place} came, {expected} expected");
                assert!(
                    place > next(expected) || may_forget || !is_single || place < self.holes_end[partition],
                    "told of a gap where nothing is missing"
                );
            }
            Some(expected) if place < self.holes_end[partition] => {
                assert!(place >= expected, "doubled after a gap: {place} came, {expected} expected");
            }
            Some(expected) => {
                let from = expected.max(self.holes_end[partition]);
                assert_eq!(place, next(from), "lost, doubled or out of order");
            }
        }
        self.gap_told[partition] = false;
        self.expected[partition] = Some(place + 1);
        self.events += 1;
        // Without history a publisher's own id comes through, but nobody can resume after it.
        let id = id(event).filter(|_| model.epoch.is_some());
        self.last_id = id.map(|id| self.without_code(&id));
        if self.names_topics {
            let topic = model.ordered[partition][place].1.name();
            assert!(event.starts_with(&format!("topic:{topic}\n")), "{topic} is not named: {event}");
            self.last_id = self.last_id.take().map(|id| {
                let place = id.strip_suffix(&format!("@{topic}")).expect("an id that names the topic");
                place.to_owned()
            });
        }
        assert!(self.last_id.is_some() || model.epoch.is_none(), "an event without an id");
        if is_single
            && let (Some(epoch), Some(id)) = (model.epoch, &self.last_id)
            && has_our_form(id)
        {
            assert_eq!(epoch.sequence(id), Some(place as u64 + 1), "{id} is another event's");
        }
        if !is_single && let (Some(epoch), Some(id)) = (model.epoch, &self.last_id) {
            assert_eq!(place_in(epoch, id, partition), Some(place as u64 + 1), "{id} is not its place");
            for other in 0..model.ordered.len() {
                // It goes on from where the home let it in when it comes back.
                let named = place_in(epoch, id, other).map(|place| place as usize);
                self.expected[other] = self.expected[other].or(named);
            }
        }
    }

    /// Returns an id without the code that it must have.
    fn without_code(&self, id: &str) -> String {
        assert_eq!(self.has_code, id.contains(CODE_SUFFIX), "{id}");
        id.replace(CODE_SUFFIX, "")
    }

    /// Notes the place from which its stream begins, before any event: from there on nothing may be missing.
    fn see_place(&mut self, id: &str, model: &Model, is_single: bool) {
        let epoch = model.epoch.expect("no ids without history");
        assert!(self.last_id.is_none(), "a place for a client that has one");
        for partition in 0..model.ordered.len() {
            let is_there =
                |topic: &Topic| topic.is_everything() || topic.partition() == Some(partition as u8);
            if !self.topics.iter().any(is_there) {
                continue;
            }
            let named = match is_single {
                true => epoch.sequence(id),
                false => place_in(epoch, id, partition),
            };
            let place = named.expect("a place of this run") as usize;
            assert!(place >= self.first_min[partition], "a place from before it came");
            self.expected[partition] = Some(place);
        }
        self.last_id = Some(id.to_owned());
    }

    /// Notes a gap's id, which stands for all losses: after it, no earlier event is expected any more.
    fn see_gap(&mut self, id: String, model: &Model, is_single: bool) {
        let lengths = model.lengths();
        let first_max = self.first_max.get_or_insert_with(|| lengths.clone());
        for partition in 0..lengths.len() {
            // With more than one partition the gap does not say which it is about.
            if is_single || self.expected[partition].is_some() {
                self.first_min[partition] =
                    self.expected[partition].take().unwrap_or(self.first_min[partition]);
                first_max[partition] = lengths[partition];
            }
        }
        self.last_id = Some(id);
    }

    /// Checks that every event came, from where its connection resumed.
    pub(super) fn check_complete(&self, model: &Model) {
        assert!(self.stream.as_ref().is_none_or(|stream| stream.begun), "no answer to its Join");
        for (partition, ordered) in model.lengths().into_iter().enumerate() {
            let first_max = self.first_max.as_ref().map(|first_max| first_max[partition]);
            // Events that it was told may be missing need not come.
            let from =
                self.expected[partition].or(first_max).unwrap_or(ordered).max(self.holes_end[partition]);
            let resumed = model.resumed(&self.topics, partition, from, self.came_with.as_deref());
            let is_complete = |from| model.next(&self.topics, partition, from) == ordered;
            // A final gap may stand for everything that was left.
            assert!(
                self.gap_told[partition] || resumed.into_iter().any(is_complete),
                "of {ordered} seen up to {from} in partition {partition}"
            );
        }
    }
}

fn place_in(epoch: Epoch, position: &str, partition: usize) -> Option<u64> {
    let position = Position::parse(position, partition as u8).filter(|position| position.epoch == epoch);
    position.map(|position| position.sequence)
}

fn id(event: &str) -> Option<String> {
    event.lines().filter_map(|line| line.strip_prefix("id:")).next_back().map(str::to_owned)
}

fn number(event: &str) -> u64 {
    event.lines().find_map(|line| line.strip_prefix("data:")).unwrap().parse().unwrap()
}

/// Returns whether this is a heartbeat or a farewell, which have no blank line.
fn is_lone_line(text: &[u8]) -> bool {
    let is_line = text.iter().position(|byte| *byte == b'\n') == text.len().checked_sub(1);
    is_line && (text == b":\n" || text.starts_with(b"retry:"))
}

/// Takes everything up to the last blank line, and a lone line behind it.
fn take_text(received: &mut Vec<u8>) -> String {
    let mut end = received.windows(2).rposition(|two| two == b"\n\n").map_or(0, |at| at + 2);
    if is_lone_line(&received[end..]) {
        end = received.len();
    }
    String::from_utf8(received.drain(..end).collect()).unwrap()
}

/// Takes the text of all complete chunks, each of which must hold whole events.
fn take_chunks(received: &mut Vec<u8>) -> String {
    let mut text = String::new();
    while let Some(line_end) = received.windows(2).position(|two| two == b"\r\n") {
        let size = usize::from_str_radix(str::from_utf8(&received[..line_end]).unwrap(), 16).unwrap();
        let end = line_end + 2 + size + 2;
        if received.len() < end {
            break;
        }
        let chunk = String::from_utf8(received[line_end + 2..end - 2].to_vec()).unwrap();
        let is_whole = chunk.ends_with("\n\n") || is_lone_line(chunk.as_bytes()) || size == 0;
        assert!(is_whole && received[..end].ends_with(b"\r\n"), "a chunk of whole events: {chunk:?}");
        text += &chunk;
        received.drain(..end);
    }
    text
}
