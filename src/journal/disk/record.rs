//! The records in a batch's payload.
//!
//! A batch of events holds publishes alone, one of control records those alone. Numbers are LEB128 varints if nothing else
//! is said, `text` is a length and so many bytes of UTF-8, `optional x` is 0, or 1 and x.
//!
//! | record | |
//! |---|---|
//! | publish | partition (1 byte), first sequence, time in ms of the Unix epoch, topic (text), idempotency key (optional: its bytes after their length, 32 bytes of digest), sequence of the topic's event before the first (0: none) and its own id (optional text), number of events; for each event the bytes that lie between the one before and its lines, the bytes of its lines, and 0 or 1 and where the value of its id begins in them and how long it is; then the events' text (bytes after their length) |
//! | epochs (tag 1) | the epoch that began (8 bytes), number of partitions, for each its last sequence; number of earlier epochs, newest first, for each its number (8 bytes) and the partitions' last sequences |
//! | ends (tag 2) | number of entries, for each partition (1 byte), hash of the topic (8 bytes), sequence, own id (optional text) |
//! | segments (tag 3) | number of segments, for each the distance of its number from the one before, and the number of its last batch |
//! | removed (tag 4) | first and last number of the segments that are gone, or are to go |
//!
//! Events of a publish have consecutive sequences. A publish with dropped events in it is rewritten as several.

use std::num::NonZero;
use std::ops::Range;

use smallvec::SmallVec;

use super::encoding::{Malformed, Reader, put_bytes, put_varint};
use super::ends::EndEntry;
use super::epochs::EpochTable;
use super::format::NUMBER_MAX;
use crate::core::event_id::{Sequence, has_our_form};

/// The record of one publish: events of one topic with consecutive sequences. It borrows from its publish or its batch.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct PublishRecord<'a> {
    pub(crate) partition: u8,
    /// The sequence of the first event.
    pub(crate) first: Sequence,
    /// The time of the publish, in milliseconds of the Unix epoch.
    pub(crate) at_ms: u64,
    pub(crate) topic: &'a str,
    pub(crate) key: Option<KeyRecord<'a>>,
    pub(crate) previous: Previous<'a>,
    pub(crate) text: &'a [u8],
    /// The places of the events in the text: at least one, in order.
    pub(crate) events: EventSpans,
}

/// The places of a publish's events in its text.
pub(crate) type EventSpans = SmallVec<[EventSpan; 1]>;

/// The place of one event in the text of its publish.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct EventSpan {
    pub(crate) lines: Range<u32>,
    /// The value of its `id` line, within the lines.
    pub(crate) id: Option<Range<u32>>,
}

/// The idempotency key of a publish.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct KeyRecord<'a> {
    /// The scope and the key, in the caller's encoding.
    pub(crate) key: &'a [u8],
    pub(crate) body_digest: &'a [u8; 32],
}

/// The newest earlier event of the same topic.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Previous<'a> {
    /// 0 if there was none.
    pub(crate) sequence: Sequence,
    /// The id that its publisher gave it.
    pub(crate) id: Option<&'a str>,
}

impl<'a> PublishRecord<'a> {
    /// Returns the sequence of the last event.
    pub(crate) fn last(&self) -> Sequence {
        self.first + (self.events.len() as u64).saturating_sub(1)
    }

    /// Returns an event's lines.
    #[cfg(test)]
    pub(crate) fn lines(&self, event: usize) -> &'a [u8] {
        self.events.get(event).map_or(&[], |span| slice(self.text, &span.lines))
    }

    /// Returns the id that an event's publisher gave it, if it is not of the broker's form.
    pub(crate) fn own_id(&self, event: usize) -> Option<&'a str> {
        let id = slice(self.text, self.events.get(event)?.id.as_ref()?);
        let id = str::from_utf8(id).ok()?.trim_matches([' ', '\t']);
        (!id.is_empty() && !has_our_form(id)).then_some(id)
    }

    /// Returns a record of a range of the events, whose `previous` is the event before them.
    pub(super) fn part(&self, events: Range<usize>) -> PublishRecord<'a> {
        let spans = self.events.get(events.clone()).unwrap_or_default();
        let start = spans.first().map_or(0, |span| span.lines.start);
        let end = spans.last().map_or(start, |span| span.lines.end);
        let moved = |range: &Range<u32>| range.start - start..range.end - start;
        let previous = match events.start.checked_sub(1) {
            None => self.previous,
            Some(before) => Previous { sequence: self.first + before as u64, id: self.own_id(before) },
        };
        PublishRecord {
            first: self.first + events.start as u64,
            previous,
            text: slice(self.text, &(start..end)),
            events: spans
                .iter()
                .map(|span| EventSpan { lines: moved(&span.lines), id: span.id.as_ref().map(moved) })
                .collect(),
            ..*self
        }
    }

    /// Returns whether the events lie within the text, in order; otherwise the record could not be read back.
    pub(super) fn is_encodable(&self) -> bool {
        let mut end = 0;
        let in_order = self.events.iter().all(|EventSpan { lines, id }| {
            let id = id.as_ref().unwrap_or(lines);
            let is_within =
                end <= lines.start && lines.start <= id.start && id.start <= id.end && id.end <= lines.end;
            end = lines.end;
            is_within
        });
        in_order
            && !self.events.is_empty()
            && end as usize <= self.text.len()
            && self.previous.sequence < self.first
            && self.last() <= NUMBER_MAX
    }

    /// Appends the record without the bytes of its text, which come last.
    pub(in crate::journal) fn encode_head(&self, out: &mut Vec<u8>) {
        out.push(self.partition);
        put_varint(out, self.first);
        put_varint(out, self.at_ms);
        put_bytes(out, self.topic.as_bytes());
        put_optional(out, self.key.as_ref(), |out, key| {
            put_bytes(out, key.key);
            out.extend_from_slice(key.body_digest);
        });
        put_varint(out, self.previous.sequence);
        put_optional(out, self.previous.id, |out, id| put_bytes(out, id.as_bytes()));
        put_varint(out, self.events.len() as u64);
        let mut end = 0;
        for EventSpan { lines, id } in &self.events {
            put_varint(out, u64::from(lines.start.saturating_sub(end)));
            put_varint(out, lines.len() as u64);
            put_optional(out, id.as_ref(), |out, id| {
                put_varint(out, u64::from(id.start.saturating_sub(lines.start)));
                put_varint(out, id.len() as u64);
            });
            end = lines.end;
        }
        put_varint(out, self.text.len() as u64);
    }

    /// Decodes one record. Its spans lie within the text, in order, and no sequence is 0 or overflows.
    pub(in crate::journal) fn decode(reader: &mut Reader<'a>) -> Result<PublishRecord<'a>, Malformed> {
        let partition = reader.u8()?;
        let first = reader.varint()?;
        let at_ms = reader.varint()?;
        let topic = reader.str()?;
        let key = optional(reader, |reader| {
            Ok(KeyRecord { key: reader.bytes()?, body_digest: reader.array_ref()? })
        })?;
        let previous = Previous { sequence: reader.varint()?, id: optional(reader, Reader::str)? };
        // A span is 3 bytes at least.
        let count = reader.count(3)?;
        let mut events = EventSpans::with_capacity(count);
        let mut end = 0u32;
        for _ in 0..count {
            let start = end.checked_add(reader.varint32()?).ok_or(SPAN)?;
            end = start.checked_add(reader.varint32()?).ok_or(SPAN)?;
            let id = optional(reader, |reader| {
                let id = start.checked_add(reader.varint32()?).ok_or(SPAN)?;
                let id_end = id.checked_add(reader.varint32()?).filter(|id_end| *id_end <= end);
                Ok(id..id_end.ok_or(SPAN)?)
            })?;
            events.push(EventSpan { lines: start..end, id });
        }
        let text = reader.bytes()?;
        if end as usize > text.len() || events.is_empty() {
            return Err(SPAN);
        }
        if first == 0 || first > NUMBER_MAX || previous.sequence >= first {
            return Err(Malformed("a sequence is out of order"));
        }
        Ok(PublishRecord { partition, first, at_ms, topic, key, previous, text, events })
    }
}

const SPAN: Malformed = Malformed("an event is outside its text");

fn slice<'a>(text: &'a [u8], range: &Range<u32>) -> &'a [u8] {
    text.get(range.start as usize..range.end as usize).unwrap_or_default()
}

pub(super) fn put_optional<T>(out: &mut Vec<u8>, value: Option<T>, put: impl FnOnce(&mut Vec<u8>, T)) {
    out.push(u8::from(value.is_some()));
    if let Some(value) = value {
        put(out, value);
    }
}

pub(super) fn optional<'a, T>(
    reader: &mut Reader<'a>,
    read: impl FnOnce(&mut Reader<'a>) -> Result<T, Malformed>,
) -> Result<Option<T>, Malformed> {
    match reader.u8()? {
        0 => Ok(None),
        1 => read(reader).map(Some),
        _ => Err(Malformed("something is neither there nor not")),
    }
}

/// An existing segment, as the first batch of a later one lists it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct SegmentEntry {
    pub(super) number: u64,
    pub(super) last_batch: u64,
}

/// The log's records about itself.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum ControlRecord {
    Epochs(EpochTable),
    Ends(Vec<EndEntry>),
    Segments(Vec<SegmentEntry>),
    Removed { first: u64, last: u64 },
}

impl ControlRecord {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        match self {
            ControlRecord::Epochs(epochs) => {
                out.push(1);
                epochs.encode(out);
            }
            ControlRecord::Ends(entries) => {
                out.push(2);
                put_varint(out, entries.len() as u64);
                for entry in entries {
                    entry.encode(out);
                }
            }
            ControlRecord::Segments(segments) => {
                out.push(3);
                put_varint(out, segments.len() as u64);
                let mut before = 0;
                for segment in segments {
                    put_varint(out, segment.number - before);
                    put_varint(out, segment.last_batch);
                    before = segment.number;
                }
            }
            ControlRecord::Removed { first, last } => {
                out.push(4);
                put_varint(out, *first);
                put_varint(out, *last);
            }
        }
    }

    pub(super) fn decode(reader: &mut Reader<'_>) -> Result<ControlRecord, Malformed> {
        match reader.u8()? {
            1 => EpochTable::decode(reader).map(ControlRecord::Epochs),
            2 => {
                let count = reader.count(EndEntry::BYTES_MIN)?;
                (0..count)
                    .map(|_| EndEntry::decode(reader))
                    .collect::<Result<_, _>>()
                    .map(ControlRecord::Ends)
            }
            3 => {
                let count = reader.count(2)?;
                let mut segments = Vec::with_capacity(count);
                let mut number = 0u64;
                for _ in 0..count {
                    // 0 would list a segment twice.
                    let distance =
                        NonZero::new(reader.varint()?).ok_or(Malformed("a segment is there twice"))?;
                    number = number.checked_add(distance.get()).ok_or(Malformed("a number is too large"))?;
                    segments.push(SegmentEntry { number, last_batch: reader.varint()? });
                }
                Ok(ControlRecord::Segments(segments))
            }
            4 => Ok(ControlRecord::Removed { first: reader.varint()?, last: reader.varint()? }),
            _ => Err(Malformed("a record is of no kind that is known")),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::option;
    use proptest::prelude::*;

    use super::*;

    /// The owned parts of a publish.
    #[derive(Clone, Debug)]
    struct Parts {
        numbers: (u8, u64, u64, u64),
        topic: String,
        key: Option<(Vec<u8>, [u8; 32])>,
        previous_id: Option<String>,
        events: Vec<EventParts>,
        behind: Vec<u8>,
    }

    /// The number of bytes before an event's lines, the lines, and the place of an id in them.
    type EventParts = (u8, Vec<u8>, Option<(u8, u8)>);

    fn parts() -> impl Strategy<Value = Parts> {
        (
            (any::<u8>(), 1..1u64 << 62, any::<u64>(), any::<u64>()),
            ".{0,20}",
            option::of((vec(any::<u8>(), 0..40), any::<[u8; 32]>())),
            option::of(".{0,20}"),
            vec((0..3u8, vec(any::<u8>(), 0..300), option::of(any::<(u8, u8)>())), 1..5),
            vec(any::<u8>(), 0..3),
        )
            .prop_map(|(numbers, topic, key, previous_id, events, behind)| Parts {
                numbers,
                topic,
                key,
                previous_id,
                events,
                behind,
            })
    }

    fn with_publish<T>(parts: &Parts, look: impl FnOnce(&PublishRecord<'_>) -> T) -> T {
        let mut text = Vec::new();
        let mut events = EventSpans::new();
        for (gap, lines, id) in &parts.events {
            text.resize(text.len() + usize::from(*gap), b'\n');
            let start = text.len() as u32;
            text.extend_from_slice(lines);
            let length = lines.len() as u32;
            let id = id.map(|(from, length_max)| {
                let from = u32::from(from).min(length);
                start + from..start + from + u32::from(length_max).min(length - from)
            });
            events.push(EventSpan { lines: start..start + length, id });
        }
        text.extend_from_slice(&parts.behind);
        let (partition, first, at_ms, previous) = parts.numbers;
        look(&PublishRecord {
            partition,
            first,
            at_ms,
            topic: &parts.topic,
            key: parts.key.as_ref().map(|(key, body_digest)| KeyRecord { key, body_digest }),
            previous: Previous { sequence: previous % first, id: parts.previous_id.as_deref() },
            text: &text,
            events,
        })
    }

    fn encode(publish: &PublishRecord<'_>) -> Vec<u8> {
        let mut out = Vec::new();
        publish.encode_head(&mut out);
        out.extend_from_slice(publish.text);
        out
    }

    proptest! {
        #[test]
        fn a_publish_is_read_back_as_it_was_written(parts in parts()) {
            with_publish(&parts, |publish| {
                let bytes = encode(publish);
                let mut reader = Reader::new(&bytes);
                prop_assert_eq!(&PublishRecord::decode(&mut reader).unwrap(), publish);
                prop_assert!(reader.is_empty());
                // It is refused when it is cut off, wherever that is.
                for length in 0..bytes.len() {
                    prop_assert!(PublishRecord::decode(&mut Reader::new(&bytes[..length])).is_err());
                }
                Ok(())
            })?;
        }

        #[test]
        fn a_part_of_a_publish_holds_its_events_and_names_the_one_before(parts in parts(), from in 0..5usize, to in 1..6usize) {
            with_publish(&parts, |publish| {
                let to = to.min(publish.events.len());
                let from = from.min(to - 1);
                let part = publish.part(from..to);
                prop_assert_eq!(part.first, publish.first + from as u64);
                prop_assert_eq!(part.events.len(), to - from);
                for event in from..to {
                    prop_assert_eq!(part.lines(event - from), publish.lines(event));
                    prop_assert_eq!(part.own_id(event - from), publish.own_id(event));
                }
                if from > 0 {
                    prop_assert_eq!(part.previous.sequence, part.first - 1);
                    prop_assert_eq!(part.previous.id, publish.own_id(from - 1));
                }
                let bytes = encode(&part);
                prop_assert_eq!(PublishRecord::decode(&mut Reader::new(&bytes)).unwrap(), part);
                Ok(())
            })?;
        }

        #[test]
        fn any_bytes_are_a_record_or_are_refused(bytes in vec(any::<u8>(), 0..200), tag in 0..6u8) {
            if let Ok(publish) = PublishRecord::decode(&mut Reader::new(&bytes)) {
                let again = encode(&publish);
                prop_assert_eq!(&again[..], &bytes[..again.len()]);
            }
            let tagged: Vec<u8> = [tag].into_iter().chain(bytes).collect();
            let mut reader = Reader::new(&tagged);
            if let Ok(control) = ControlRecord::decode(&mut reader) {
                let mut again = Vec::new();
                control.encode(&mut again);
                prop_assert_eq!(&again[..], &tagged[..tagged.len() - reader.len()]);
            }
        }

        #[test]
        fn a_damaged_record_is_refused_or_is_another(parts in parts(), at: proptest::sample::Index, to: u8) {
            with_publish(&parts, |publish| {
                let mut bytes = encode(publish);
                let at = at.index(bytes.len());
                bytes[at] = to;
                if let Ok(other) = PublishRecord::decode(&mut Reader::new(&bytes)) {
                    for event in 0..other.events.len() {
                        let _ = (other.lines(event), other.own_id(event), other.part(event..event + 1));
                    }
                }
            });
        }
    }

    #[test]
    fn a_segment_that_is_listed_twice_is_refused() {
        let twice = [SegmentEntry { number: 3, last_batch: 7 }, SegmentEntry { number: 3, last_batch: 9 }];
        let mut bytes = Vec::new();
        ControlRecord::Segments(twice.to_vec()).encode(&mut bytes);
        assert_eq!(
            ControlRecord::decode(&mut Reader::new(&bytes)),
            Err(Malformed("a segment is there twice"))
        );
    }

    #[test]
    fn an_own_id_is_none_of_the_brokers_form() {
        let text = b"id: a \nid:18446744073709551615-5\n";
        let span = |lines: Range<u32>, id| EventSpan { lines, id: Some(id) };
        let publish = PublishRecord {
            partition: 0,
            first: 1,
            at_ms: 0,
            topic: "",
            key: None,
            previous: Previous::default(),
            text,
            events: EventSpans::from_vec(vec![span(0..7, 3..6), span(7..33, 10..32)]),
        };
        assert_eq!((publish.own_id(0), publish.own_id(1), publish.own_id(2)), (Some("a"), None, None));
        assert_eq!(publish.last(), 2);
    }
}
