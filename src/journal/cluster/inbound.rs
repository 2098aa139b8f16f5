//! The messages that the cluster's stream gives to this node: whether one follows the last, and what it says. It decides
//! without I/O.

use bytes::Bytes;

use super::message::{MessageHead, MessageItem, decode, end_of, is_of_later_version};
use crate::core::event_id::{Epoch, Sequence};
use crate::core::partition::PartitionId;

/// A message as the stream has it.
#[derive(Clone, Debug)]
pub(crate) struct StreamMessage {
    /// Its number in the stream, from 1.
    pub(crate) number: u64,
    /// The partition of its subject; `None` for the subject of messages about the stream itself.
    pub(crate) partition: Option<PartitionId>,
    /// When the stream took it, in milliseconds of the Unix epoch.
    pub(crate) at_ms: u64,
    pub(crate) payload: Bytes,
}

/// What a message says.
#[derive(Debug, Default)]
pub(crate) struct ReadMessage {
    /// Messages before it are missing: events up to this one.
    pub(crate) missed: Option<Sequence>,
    pub(crate) head: Option<MessageHead>,
    pub(crate) items: Vec<MessageItem>,
    /// Why it is not one of ours.
    pub(crate) malformed: Option<String>,
    /// It ends the epoch in force.
    pub(crate) ends_epoch: bool,
}

/// The number of the message that began an epoch, 0 if none did; the epoch; and those that ended, the newest first.
pub(crate) type Begun = (u64, Epoch, Vec<Epoch>);

/// This node's place in the stream; owned by the thread that reads it.
#[derive(Clone, Debug)]
pub(crate) struct Inbound {
    /// The number of the newest message that was taken.
    last: u64,
    /// The writer and its number of that message, by which it is told from another one in its place.
    last_head: Option<MessageHead>,
    epoch: Epoch,
    /// The number of the message that began the epoch; 0 for the first one. Those before it began earlier ones, and are
    /// read again when the order begins anew.
    control: u64,
    /// Epochs after which the order began anew, the newest first.
    ended: Vec<Epoch>,
}

impl Inbound {
    /// Returns the place of a node that reads on after message `last`, in an epoch that message `control` began.
    pub(crate) fn new(last: u64, (control, epoch, ended): Begun) -> Self {
        Inbound { last, last_head: None, epoch, control, ended }
    }

    /// Returns the number of the newest message that was taken.
    pub(crate) fn last(&self) -> u64 {
        self.last
    }

    /// Returns who wrote that message, and its number there; `None` when it was not one of ours.
    pub(crate) fn last_head(&self) -> Option<MessageHead> {
        self.last_head
    }

    pub(crate) fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Returns the number of the message that began the epoch.
    pub(crate) fn control(&self) -> u64 {
        self.control
    }

    pub(crate) fn ended(&self) -> &[Epoch] {
        &self.ended
    }

    /// Returns whether a message is another one than that which was taken in its place: the stream is not the one that
    /// was read.
    pub(crate) fn contradicts(&self, message: &StreamMessage) -> bool {
        let head = || decode(&message.payload, message.partition.unwrap_or(0)).map(|(head, _)| head);
        message.number == self.last && self.last_head.is_some_and(|last| head() != Ok(last))
    }

    /// Takes the next message; `None` for one that was taken before.
    pub(crate) fn take(&mut self, message: &StreamMessage) -> Option<ReadMessage> {
        if message.number <= self.last {
            return None;
        }
        // What a later version wrote cannot be read, so its events are missing here.
        let is_later = is_of_later_version(&message.payload, message.at_ms);
        let missed = match is_later && message.partition.is_some() {
            true => Some(end_of(message.number)),
            false => (message.number > self.last + 1).then(|| end_of(message.number - 1)),
        };
        self.last = message.number;
        // Messages about the stream itself are written as if they were of partition 0.
        let decoded = decode(&message.payload, message.partition.unwrap_or(0));
        let (head, items, malformed) = match decoded {
            Ok((head, items)) => (Some(head), items, None),
            Err(_) if is_later => (None, Vec::new(), Some("it is of a later version of esper".to_owned())),
            Err(error) => (None, Vec::new(), Some(error.to_string())),
        };
        self.last_head = head;
        let ends_epoch = message.partition.is_none()
            && message.number > self.control
            && items.iter().any(|item| matches!(item, MessageItem::Epoch { .. }));
        Some(ReadMessage { missed, head, items, malformed, ends_epoch })
    }

    /// Notes that messages up to this one are gone from the stream before they were read; returns the last event that
    /// may be missing, if any is.
    pub(crate) fn skip_to(&mut self, first: u64) -> Option<Sequence> {
        let upto = first.saturating_sub(1);
        if upto <= self.last {
            return None;
        }
        self.last = upto;
        self.last_head = None;
        Some(end_of(upto))
    }
}

#[cfg(test)]
mod tests {
    use super::super::message::MessageWriter;
    use super::*;

    fn message(
        number: u64,
        partition: Option<PartitionId>,
        write: impl FnOnce(&mut MessageWriter),
    ) -> StreamMessage {
        let mut writer =
            MessageWriter::new(MessageHead { epoch: Epoch::at(1), node: 2, number: 30 + number, made_ms: 0 });
        write(&mut writer);
        StreamMessage { number, partition, at_ms: 0, payload: writer.finish() }
    }

    #[test]
    fn a_message_is_taken_once_and_a_hole_is_seen() {
        let mut inbound = Inbound::new(4, (0, Epoch::at(1), Vec::new()));
        let nothing = |number| message(number, Some(0), |_| {});
        assert_eq!(inbound.take(&nothing(5)).unwrap().missed, None);
        assert!(inbound.take(&nothing(5)).is_none() && inbound.take(&nothing(3)).is_none());
        assert_eq!(inbound.take(&nothing(8)).unwrap().missed, Some(end_of(7)));
        assert_eq!((inbound.last(), inbound.last_head().unwrap().number), (8, 38));
        assert_eq!((inbound.skip_to(9), inbound.skip_to(12)), (None, Some(end_of(11))));
        assert_eq!((inbound.last(), inbound.last_head()), (11, None));
    }

    #[test]
    fn another_message_in_the_place_of_the_last_one_is_seen() {
        let mut inbound = Inbound::new(4, (0, Epoch::at(1), Vec::new()));
        let nothing = |number| message(number, Some(0), |_| {});
        assert!(!inbound.contradicts(&nothing(4)), "it was not read here");
        inbound.take(&nothing(5));
        let other = StreamMessage { number: 5, ..nothing(6) };
        let foreign = StreamMessage { payload: Bytes::from_static(b"hello"), ..nothing(5) };
        let contradicts = [nothing(4), nothing(5), nothing(6), other, foreign];
        assert_eq!(
            contradicts.map(|message| inbound.contradicts(&message)),
            [false, false, false, true, true]
        );
    }

    #[test]
    fn a_later_message_about_the_stream_ends_the_epoch_and_no_other_one() {
        let mut inbound = Inbound::new(0, (3, Epoch::at(1), Vec::new()));
        let mut ends = |number, partition| {
            let read = inbound.take(&message(number, partition, |writer| writer.epoch(Epoch::at(9), &[])));
            read.unwrap().ends_epoch
        };
        assert!(!ends(1, None), "it began an earlier one");
        assert!(!ends(3, None), "it began this one");
        assert!(!ends(4, Some(0)), "a publisher's node cannot end an epoch by accident");
        assert!(ends(5, None));
    }

    #[test]
    fn what_is_no_message_of_ours_is_told_and_passed_over() {
        let mut inbound = Inbound::new(0, (0, Epoch::at(1), Vec::new()));
        let mut take = |number, partition, payload: &[u8]| {
            let payload = Bytes::copy_from_slice(payload);
            inbound.take(&StreamMessage { number, partition, at_ms: 0, payload }).unwrap()
        };
        for (number, payload) in
            [(1, &b"hello"[..]), (2, &[b'h'; 99]), (3, &[2; 20]), (4, &[2; 99]), (5, b"")]
        {
            let taken = take(number, Some(0), payload);
            assert!(taken.malformed.is_some() && taken.items.is_empty() && taken.missed.is_none());
            assert!(!taken.malformed.is_some_and(|reason| reason.contains("version")), "{payload:?}");
        }
        // A version and the time, at which it was made: 0.
        let mut later = [7; 99];
        later[0] = 2;
        later[25..33].fill(0);
        assert_eq!(take(6, None, &later).missed, None, "it is about no events");
        let later = take(7, Some(0), &later);
        assert_eq!(later.missed, Some(end_of(7)), "its events are missing");
        assert_eq!(later.malformed.as_deref(), Some("it is of a later version of esper"));
        assert_eq!(inbound.last(), 7);
    }
}
