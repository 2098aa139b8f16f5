//! Tracks the alive events of each segment: those that no history has dropped.
//!
//! Segments are in the order of their numbers, and a partition's sequences ascend from each to the next: so a sequence
//! finds its segment. A dropped event is a bit in the segment's map, which is made for the first one.

use super::gone::Gone;
use super::record::PublishRecord;
use crate::core::event_id::Sequence;

/// The segments of a log, oldest first, owned by it. The last one is being appended to.
#[derive(Debug, Default)]
pub(crate) struct Segments {
    list: Vec<Segment>,
}

/// A segment and its alive events.
#[derive(Debug)]
pub(super) struct Segment {
    /// Its number, and the last of the numbers that it covers.
    pub(super) first: u64,
    pub(super) last: u64,
    pub(super) last_batch: u64,
    /// Bytes of the file, those included that are allocated and not written.
    pub(super) file_bytes: u64,
    /// Bytes of the lines of the events that are alive.
    pub(super) alive_bytes: u64,
    pub(super) alive_events: u64,
    /// Bytes of the lines of all events in the file.
    pub(super) event_bytes: u64,
    /// The time of the newest publish with an idempotency key, in ms; 0 without any.
    pub(super) keyed_ms: u64,
    /// The salt of the file.
    pub(super) salt: u64,
    /// Set if there is a file of its dropped events.
    pub(super) has_gone_file: bool,
    /// Set if events are dropped that the file does not name.
    pub(super) has_gone_more: bool,
    partitions: Vec<Held>,
}

/// The events of one partition in a segment.
#[derive(Clone, Debug, Default)]
struct Held {
    /// The partition's last sequence in this segment or in any before it.
    upto: Sequence,
    /// Runs of consecutive sequences.
    runs: Vec<Run>,
    events: usize,
    /// A bit for each event, set if it is dropped; empty while none is.
    gone: Vec<u64>,
}

#[derive(Clone, Copy, Debug)]
struct Run {
    first: Sequence,
    /// The place of its first event among the segment's.
    place: usize,
}

impl Segments {
    /// Notes that a history has dropped an event with `lines_bytes` of lines: it need not be kept. A topic's events are
    /// dropped oldest first. An event that the log does not hold, or that was dropped before, changes nothing.
    pub(crate) fn dropped(&mut self, partition: u8, sequence: Sequence, lines_bytes: usize) {
        let at = self.list.partition_point(|segment| segment.upto(partition) < sequence);
        if let Some(segment) = self.list.get_mut(at) {
            segment.drop_event(partition, sequence, lines_bytes as u64);
        }
    }

    pub(super) fn list(&self) -> &[Segment] {
        &self.list
    }

    pub(super) fn last_mut(&mut self) -> Option<&mut Segment> {
        self.list.last_mut()
    }

    /// Returns the segments before this number.
    pub(super) fn before_mut(&mut self, number: u64) -> impl Iterator<Item = &mut Segment> {
        self.list.iter_mut().take_while(move |segment| segment.last < number)
    }

    /// Returns the segment whose file has this number.
    pub(super) fn get(&self, first: u64) -> Option<&Segment> {
        self.list.get(self.list.binary_search_by_key(&first, |segment| segment.first).ok()?)
    }

    pub(super) fn get_mut(&mut self, first: u64) -> Option<&mut Segment> {
        let at = self.list.binary_search_by_key(&first, |segment| segment.first).ok()?;
        self.list.get_mut(at)
    }

    pub(super) fn push(&mut self, segment: Segment) {
        self.list.push(segment);
    }

    /// Replaces the segments that cover these numbers by another one, or removes them.
    pub(super) fn replace(&mut self, first: u64, last: u64, by: Option<Segment>) {
        let start = self.list.partition_point(|segment| segment.first < first);
        let end = self.list.partition_point(|segment| segment.last <= last);
        if start <= end {
            self.list.splice(start..end, by);
        }
    }

    /// Returns the bytes of all files.
    pub(super) fn file_bytes(&self) -> u64 {
        self.list.iter().map(|segment| segment.file_bytes).sum()
    }
}

impl Segment {
    /// Returns a segment without events; `upto` are the partitions' last sequences before it.
    pub(super) fn new(first: u64, last: u64, upto: &[Sequence]) -> Self {
        Segment {
            first,
            last,
            last_batch: 0,
            file_bytes: 0,
            alive_bytes: 0,
            alive_events: 0,
            event_bytes: 0,
            keyed_ms: 0,
            salt: 0,
            has_gone_file: false,
            has_gone_more: false,
            partitions: upto.iter().map(|upto| Held { upto: *upto, ..Held::default() }).collect(),
        }
    }

    /// Returns the segment with its dropped events set, before its events are added.
    pub(super) fn with_gone(mut self, gone: Gone) -> Self {
        self.has_gone_file = true;
        self.partitions.iter_mut().zip(gone).for_each(|(held, gone)| held.gone = gone);
        self
    }

    /// Returns the bits of the dropped events, for each partition.
    pub(super) fn gone(&self) -> impl Iterator<Item = &[u64]> {
        self.partitions.iter().map(|held| held.gone.as_slice())
    }

    /// Adds the events of a publish that the segment holds now.
    pub(super) fn add(&mut self, publish: &PublishRecord<'_>) {
        let Some(held) = self.partitions.get_mut(usize::from(publish.partition)) else { return };
        if held.events == 0 || held.upto + 1 != publish.first {
            held.runs.push(Run { first: publish.first, place: held.events });
        }
        held.upto = publish.last();
        for span in &publish.events {
            let lines_bytes = span.lines.len() as u64;
            self.event_bytes += lines_bytes;
            if !held.is_gone(held.events) {
                self.alive_events += 1;
                self.alive_bytes += lines_bytes;
            }
            held.events += 1;
        }
        if publish.key.is_some() {
            self.keyed_ms = self.keyed_ms.max(publish.at_ms);
        }
    }

    /// Returns the last sequence of a partition that this segment, or one before it, holds or held.
    pub(super) fn upto(&self, partition: u8) -> Sequence {
        self.partitions.get(usize::from(partition)).map_or(0, |held| held.upto)
    }

    pub(super) fn is_alive(&self, partition: u8, sequence: Sequence) -> bool {
        self.partitions
            .get(usize::from(partition))
            .is_some_and(|held| held.place(sequence).is_some_and(|place| !held.is_gone(place)))
    }

    pub(super) fn drop_event(&mut self, partition: u8, sequence: Sequence, lines_bytes: u64) {
        let Some(held) = self.partitions.get_mut(usize::from(partition)) else { return };
        let Some(place) = held.place(sequence).filter(|place| !held.is_gone(*place)) else { return };
        let word = place / 64;
        if held.gone.len() <= word {
            held.gone.resize(held.events.div_ceil(64), 0);
        }
        if let Some(bits) = held.gone.get_mut(word) {
            *bits |= 1 << (place % 64);
        }
        self.has_gone_more = true;
        self.alive_events -= 1;
        self.alive_bytes = self.alive_bytes.saturating_sub(lines_bytes);
    }
}

impl Held {
    /// Returns the event's place among the segment's events of the partition.
    fn place(&self, sequence: Sequence) -> Option<usize> {
        let after = self.runs.partition_point(|run| run.first <= sequence);
        let run = self.runs.get(after.checked_sub(1)?)?;
        let place = run.place + usize::try_from(sequence - run.first).ok()?;
        let end = self.runs.get(after).map_or(self.events, |next| next.place);
        (place < end).then_some(place)
    }

    fn is_gone(&self, place: usize) -> bool {
        self.gone.get(place / 64).is_some_and(|bits| bits & 1 << (place % 64) != 0)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::record::{EventSpan, EventSpans, Previous};
    use super::*;

    fn publish(partition: u8, first: Sequence, events: u32) -> PublishRecord<'static> {
        let spans: Vec<_> = (0..events).map(|at| EventSpan { lines: at * 5..at * 5 + 5, id: None }).collect();
        PublishRecord {
            partition,
            first,
            at_ms: 0,
            topic: "",
            key: None,
            previous: Previous::default(),
            text: &[0; 100],
            events: EventSpans::from_vec(spans),
        }
    }

    #[test]
    fn a_dropped_event_is_found_in_its_segment_and_counted_once() {
        let mut random = fastrand::Rng::with_seed(5);
        let mut segments = Segments::default();
        let mut alive: Vec<BTreeSet<(u8, Sequence)>> = Vec::new();
        let mut last = [0, 0, 0];
        for number in 0..20 {
            let mut segment = Segment::new(number, number, &last);
            let mut held = BTreeSet::new();
            for _ in 0..random.usize(0..20) {
                let partition = random.u8(0..3);
                let sequence = &mut last[usize::from(partition)];
                let publish = publish(partition, *sequence + random.u64(1..3), random.u32(1..10));
                *sequence = publish.last();
                held.extend((publish.first..=publish.last()).map(|sequence| (partition, sequence)));
                segment.add(&publish);
            }
            segments.push(segment);
            alive.push(held);
        }
        for _ in 0..5_000 {
            let event = (random.u8(0..4), random.u64(0..1100));
            segments.dropped(event.0, event.1, 5);
            alive.iter_mut().for_each(|held| {
                held.remove(&event);
            });
        }
        for (segment, held) in segments.list().iter().zip(&alive) {
            assert_eq!(segment.alive_events, held.len() as u64);
            assert_eq!(segment.alive_bytes, held.len() as u64 * 5);
            for partition in 0..4 {
                for sequence in 0..1100 {
                    let expected = held.contains(&(partition, sequence));
                    assert_eq!(segment.is_alive(partition, sequence), expected);
                }
            }
        }
    }

    #[test]
    fn a_segment_takes_the_place_of_those_whose_numbers_it_covers() {
        let mut segments = Segments::default();
        for number in 1..=5 {
            segments.push(Segment::new(number, number, &[]));
        }
        let numbers = |segments: &Segments| {
            segments.list().iter().map(|segment| (segment.first, segment.last)).collect::<Vec<_>>()
        };
        segments.replace(2, 3, Some(Segment::new(2, 3, &[])));
        assert_eq!(numbers(&segments), [(1, 1), (2, 3), (4, 4), (5, 5)]);
        segments.replace(2, 4, Some(Segment::new(2, 4, &[])));
        segments.replace(1, 1, None);
        assert_eq!(numbers(&segments), [(2, 4), (5, 5)]);
    }
}
