//! What one message of the cluster's stream holds: publishes and requests of one partition, which one node gathered.
//!
//! | part | |
//! |---|---|
//! | version | 1 byte, 1 |
//! | epoch, node, number, time | 8 bytes each: the epoch that its node knew, the node's random number, its number among the messages of that node, and when it was made, in ms of the Unix epoch by the stream's clock |
//! | items, to the end | a length, then so many bytes: the tag, and what it says |
//!
//! | item | |
//! |---|---|
//! | publish (tag 1) | number of the request for a count of streams (0: none), then a record as the journal on disk has it, without the earlier event of its topic; the sequence in it is 1 and the number of events before it in the message |
//! | disconnect (tag 2) | number of the request for a count of streams, topic (text) |
//! | epoch (tag 3) | the new epoch (8 bytes), number of epochs that ended, 8 bytes each |
//!
//! The version, and the head of epoch, node, number and time, are those of all later versions too. By the time they are told
//! from messages of other programs.
//!
//! Numbers are varints. Bytes behind what an item says, and items of other tags, are of a later version and are skipped.

use bytes::Bytes;

use super::super::disk::encoding::{Malformed, Reader, put_bytes, put_varint};
use super::super::disk::record::{EventSpan, KeyRecord, Previous, PublishRecord};
use crate::core::event::Events;
use crate::core::event_id::{Epoch, Sequence};
use crate::core::message::PublishKey;
use crate::core::partition::PartitionId;

/// The version that this program writes, and the newest that it reads.
pub(crate) const FORMAT: u8 = 1;
/// Events of one message: the low bits of an event's sequence count them.
pub(crate) const EVENTS_MAX: usize = 1 << 16;
/// The most epochs that ended which a message names.
const ENDED_MAX: usize = 64;
/// Bytes of a message's head: its version, epoch, node, number and time.
const HEAD_BYTES_MIN: usize = 1 + 4 * 8;
/// Bytes that are reserved for the head when a message's size is estimated.
pub(crate) const HEAD_BYTES: usize = 64;
/// Bytes of an item beside names, key and text of a publish with one event, and those of each event.
const ITEM_BYTES: usize = 160;
const EVENT_BYTES: usize = 40;

/// Returns the sequence of an event: its number, from 0, in the message with this number in the stream.
pub(crate) fn sequence_of(message: u64, event: u64) -> Sequence {
    (message << 16) + event
}

/// Returns the last sequence that events up to this message of the stream can have.
pub(crate) fn end_of(message: u64) -> Sequence {
    (message << 16) + (EVENTS_MAX as u64 - 1)
}

/// The start of a message.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct MessageHead {
    pub(crate) epoch: Epoch,
    /// The node that wrote it.
    pub(crate) node: u64,
    /// Its number among the messages of that node.
    pub(crate) number: u64,
    /// When it was made, in milliseconds by the stream's clock as the node knows it.
    pub(crate) made_ms: u64,
}

/// A message that the stream took so much later than it was made is dropped by all nodes: its publishes were given up
/// long before, and have perhaps been published again. A connection that was lost for long still sends what waited.
pub(crate) const LATE_MS: u64 = 60_000;

impl MessageHead {
    /// Returns whether all nodes drop the message, which the stream took at `at_ms`.
    pub(crate) fn is_late(&self, at_ms: u64) -> bool {
        at_ms > self.made_ms.saturating_add(LATE_MS)
    }
}

/// One item of a message.
#[derive(Debug)]
pub(crate) enum MessageItem {
    Publish(PublishItem),
    Disconnect(DisconnectItem),
    Epoch { new: Epoch, ended: Vec<Epoch> },
}

/// A publish as the stream has it.
#[derive(Debug)]
pub(crate) struct PublishItem {
    /// The events before it in its message.
    pub(crate) events_before: u64,
    pub(crate) topic: Box<str>,
    pub(crate) events: Events,
    pub(crate) key: Option<Box<PublishKey>>,
    /// The node's number of the request for a count of streams; 0 for none.
    pub(crate) count: u64,
}

/// A request to end the streams of a session.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct DisconnectItem {
    pub(crate) topic: Box<str>,
    pub(crate) count: u64,
}

/// A message that is being put together.
#[derive(Debug)]
pub(crate) struct MessageWriter {
    bytes: Vec<u8>,
    item: Vec<u8>,
    events: usize,
}

impl MessageWriter {
    pub(crate) fn new(head: MessageHead) -> Self {
        let mut bytes = vec![FORMAT];
        for number in [head.epoch.run(), head.node, head.number, head.made_ms] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        MessageWriter { bytes, item: Vec::new(), events: 0 }
    }

    /// Adds a publish. There must be room for its events.
    pub(crate) fn publish(
        &mut self,
        partition: PartitionId,
        topic: &str,
        events: &Events,
        key: Option<&PublishKey>,
        count: u64,
    ) {
        self.item.clear();
        self.item.push(1);
        put_varint(&mut self.item, count);
        let record = PublishRecord {
            partition,
            first: 1 + self.events as u64,
            at_ms: 0,
            topic,
            key: key.map(|key| KeyRecord { key: &key.name, body_digest: &key.digest }),
            previous: Previous::default(),
            text: events.text(),
            events: events.spans().map(|(lines, id)| EventSpan { lines, id }).collect(),
        };
        record.encode_head(&mut self.item);
        self.events += events.len();
        put_varint(&mut self.bytes, (self.item.len() + events.text().len()) as u64);
        self.bytes.extend_from_slice(&self.item);
        self.bytes.extend_from_slice(events.text());
    }

    pub(crate) fn disconnect(&mut self, DisconnectItem { topic, count }: &DisconnectItem) {
        self.item.clear();
        self.item.push(2);
        put_varint(&mut self.item, *count);
        put_bytes(&mut self.item, topic.as_bytes());
        put_bytes(&mut self.bytes, &self.item);
    }

    pub(crate) fn epoch(&mut self, new: Epoch, ended: &[Epoch]) {
        self.item.clear();
        self.item.push(3);
        self.item.extend_from_slice(&new.run().to_le_bytes());
        let ended = &ended[..ended.len().min(ENDED_MAX)];
        put_varint(&mut self.item, ended.len() as u64);
        ended.iter().for_each(|epoch| self.item.extend_from_slice(&epoch.run().to_le_bytes()));
        put_bytes(&mut self.bytes, &self.item);
    }

    /// Returns whether a publish of so many events and bytes goes in.
    pub(crate) fn has_room(&self, bytes: usize, events: usize, bytes_max: usize) -> bool {
        self.bytes.len() + bytes <= bytes_max && self.events + events <= EVENTS_MAX
    }

    pub(crate) fn finish(self) -> Bytes {
        self.bytes.into()
    }
}

/// Returns whether a message that the stream took at `at_ms` is one of a later version of esper, which is not too late to
/// count. The bytes of another program would hardly tell the time in the same place.
pub(crate) fn is_of_later_version(payload: &[u8], at_ms: u64) -> bool {
    const TIME_AT: usize = HEAD_BYTES_MIN - 8;
    let made_ms = payload.get(TIME_AT..HEAD_BYTES_MIN).and_then(|bytes| bytes.try_into().ok());
    let made_ms = made_ms.map(u64::from_le_bytes);
    // Written by a node that knows the stream's clock about.
    payload.first().is_some_and(|version| *version > FORMAT)
        && made_ms.is_some_and(|made_ms| made_ms.abs_diff(at_ms) <= LATE_MS)
}

/// Returns the bytes that a publish takes in a message, at most.
pub(crate) fn bytes_of(topic: &str, events: &Events, key: Option<&PublishKey>) -> usize {
    let key_bytes = key.map_or(0, |key| key.name.len());
    ITEM_BYTES + EVENT_BYTES * events.len() + topic.len() + key_bytes + events.text_bytes()
}

/// Decodes a message of `partition`.
///
/// # Errors
/// It is not one of ours, or it is of a later version that this program cannot read.
pub(crate) fn decode(
    payload: &Bytes,
    partition: PartitionId,
) -> Result<(MessageHead, Vec<MessageItem>), Malformed> {
    let mut reader = Reader::new(payload);
    if reader.u8()? != FORMAT {
        return Err(Malformed("it is not esper's"));
    }
    let epoch = Epoch::at(reader.u64()?);
    let head = MessageHead { epoch, node: reader.u64()?, number: reader.u64()?, made_ms: reader.u64()? };
    let (mut items, mut events) = (Vec::new(), 0);
    while !reader.is_empty() {
        let mut item = Reader::new(reader.bytes()?);
        match item.u8()? {
            1 => {
                let count = item.varint()?;
                let record = PublishRecord::decode(&mut item)?;
                if record.partition != partition || record.first != events + 1 {
                    return Err(Malformed("a publish is in the wrong place"));
                }
                let spans = record.events.iter().map(|span| (span.lines.clone(), span.id.clone()));
                let parsed = Events::from_parts(payload.slice_ref(record.text), spans);
                let parsed = parsed.ok_or(Malformed("a publish has no events"))?;
                let key = record
                    .key
                    .map(|key| Box::new(PublishKey { name: key.key.into(), digest: *key.body_digest }));
                let events_before = events;
                events += parsed.len() as u64;
                if events > EVENTS_MAX as u64 {
                    return Err(Malformed("it has too many events"));
                }
                let topic = record.topic.into();
                items.push(MessageItem::Publish(PublishItem {
                    events_before,
                    topic,
                    events: parsed,
                    key,
                    count,
                }));
            }
            2 => {
                let (count, topic) = (item.varint()?, item.str()?.into());
                items.push(MessageItem::Disconnect(DisconnectItem { topic, count }));
            }
            3 => {
                let new = Epoch::at(item.u64()?);
                let count = item.count(8)?.min(ENDED_MAX);
                let ended = (0..count).map(|_| item.u64().map(Epoch::at)).collect::<Result<_, _>>()?;
                items.push(MessageItem::Epoch { new, ended });
            }
            _ => {}
        }
    }
    Ok((head, items))
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::core::event::EventLimits;

    const HEAD: MessageHead = MessageHead { epoch: Epoch::at(7), node: 8, number: 9, made_ms: 10 };

    fn events(text: &str) -> Events {
        Events::parse(text.to_owned().into(), &EventLimits::of(1 << 20)).unwrap()
    }

    fn message() -> MessageWriter {
        let mut writer = MessageWriter::new(HEAD);
        let key = PublishKey { name: b"k".as_slice().into(), digest: [3; 32] };
        writer.publish(5, "pets", &events("data:a\n\nid:mine\ndata:b\n\n"), Some(&key), 0);
        writer.disconnect(&DisconnectItem { topic: "chat".into(), count: 4 });
        writer.publish(5, "cats", &events("data:c\n\n"), None, 6);
        writer.epoch(Epoch::at(11), &[Epoch::at(7), Epoch::at(6)]);
        writer
    }

    #[test]
    fn a_message_is_read_back_as_it_was_written() {
        let (head, items) = decode(&message().finish(), 5).unwrap();
        assert_eq!(head, HEAD);
        let [
            MessageItem::Publish(first),
            MessageItem::Disconnect(end),
            MessageItem::Publish(second),
            MessageItem::Epoch { new, ended },
        ] = &items[..]
        else {
            panic!("{items:?}")
        };
        assert_eq!((first.events_before, &*first.topic, first.events.len(), first.count), (0, "pets", 2, 0));
        assert_eq!(first.key.as_ref().map(|key| (&*key.name, key.digest)), Some((&b"k"[..], [3; 32])));
        assert_eq!(first.events.iter().map(|event| event.id).collect::<Vec<_>>(), [None, Some("mine")]);
        assert_eq!(*end, DisconnectItem { topic: "chat".into(), count: 4 });
        assert_eq!((second.events_before, second.count, second.key.is_none()), (2, 6, true));
        assert_eq!((*new, &ended[..]), (Epoch::at(11), &[Epoch::at(7), Epoch::at(6)][..]));
        assert_eq!((sequence_of(3, 2), end_of(3)), (3 * 65536 + 2, 4 * 65536 - 1));
        assert!(decode(&message().finish(), 4).is_err(), "of another partition");
    }

    #[test]
    fn what_a_later_version_adds_is_skipped_and_what_it_changes_is_refused() {
        let mut writer = message();
        put_bytes(&mut writer.bytes, &[99, 1, 2, 3]);
        let mut item = vec![2, 4, 1, b'x'];
        item.extend_from_slice(b"more");
        put_bytes(&mut writer.bytes, &item);
        let (_, items) = decode(&writer.finish(), 5).unwrap();
        assert_eq!(items.len(), 5);
        let mut other = message().finish().to_vec();
        other[0] = FORMAT + 1;
        let other = Bytes::from(other);
        assert!(decode(&other, 5).is_err());
        // It was made at 10.
        assert!([10, 10 + LATE_MS].iter().all(|at_ms| is_of_later_version(&other, *at_ms)));
        assert!(!is_of_later_version(&other, 11 + LATE_MS), "all nodes drop it");
        assert!(!is_of_later_version(&message().finish(), 10), "it is of this one");
    }

    #[test]
    fn the_size_of_a_publish_is_not_underrated() {
        for (topic, text) in
            [("t", "data:a\n\n".repeat(4000)), ("t", format!("id:{}\ndata:b\n\n", "x".repeat(128)))]
        {
            let events = events(&text);
            let before = MessageWriter::new(HEAD).finish().len();
            let mut writer = MessageWriter::new(HEAD);
            writer.publish(0, topic, &events, None, u64::MAX);
            assert!(writer.bytes.len() - before <= bytes_of(topic, &events, None));
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_message_or_are_refused(bytes in vec(any::<u8>(), 0..200), cut: proptest::sample::Index, to: u8) {
            let _ = decode(&bytes.into(), 5);
            let mut damaged = message().finish().to_vec();
            let at = cut.index(damaged.len());
            let _ = decode(&damaged[..at].to_vec().into(), 5);
            damaged[at] = to;
            if let Ok((_, items)) = decode(&damaged.into(), 5) {
                for item in items {
                    if let MessageItem::Publish(publish) = item {
                        prop_assert!(publish.events.iter().all(|event| !event.lines.is_empty()));
                    }
                }
            }
        }
    }
}
