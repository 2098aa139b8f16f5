//! The unacknowledged messages of one stream: their ids, when each is acknowledged, and which of them a returning
//! client has already. It knows no broker, no socket and no clock.
//!
//! Places count a stream's messages from 0, in the order of the queue:
//!
//! ```text
//! 0 .. acknowledged .. had .............. had + sent ....... had + handed ......... received
//!      gone from here   the client had     the kernel has     the shard has        the backend has
//!                       them before        them
//! ```
//!
//! **Ids.** An id must be the same on every redelivery, on any node, and only the queue remembers anything. So a
//! message without a usable id of its own gets the hash of its body, and its occurrence among the unacknowledged
//! messages of the same hash. Acknowledging never splits such a group: the rest would be counted anew, and an id would
//! mean another message than before.
//!
//! An id is not issued either while it may be the client's Last-Event-ID although its message is acknowledged: if the
//! new message were lost with the connection, the client would seem to have it. Occurrences that skip such an id are
//! handed to the queue's next ledger on this node, by [`Occurrences`]; another node does not know of them, and this is
//! the one case in which a message may be taken for one that the client had.

use std::collections::{HashMap, VecDeque};
use std::rc::Rc;

use super::message::{MessageId, MessageName};

/// Limits on how many messages may be unacknowledged, and for how long.
#[derive(Clone, Copy, Debug)]
pub(super) struct AckLimits {
    /// The most unacknowledged messages, at which the broker sends no more; more than `ack_window`.
    pub(super) prefetch: usize,
    /// A message is acknowledged when this many newer ones were sent.
    pub(super) ack_window: u64,
    /// It is also acknowledged when its stream has lived this long since it was sent.
    pub(super) ack_delay_ms: u64,
}

impl AckLimits {
    /// Returns how many messages must be due before they are acknowledged together, unless one has reached its delay:
    /// one frame acknowledges many, and half of what may be due at most, so that the broker keeps sending meanwhile.
    fn batch(&self) -> usize {
        let window = usize::try_from(self.ack_window).unwrap_or(usize::MAX);
        (self.prefetch.saturating_sub(window) / 2).max(1)
    }

    /// Returns how often it is noted which messages were sent; their delay counts from then. So a delay may be a
    /// twentieth longer than was asked, which harms nobody.
    fn note_every_ms(&self) -> u64 {
        (self.ack_delay_ms / 20).clamp(20, 1000)
    }

    /// Returns how long the first message of a group may wait for the others: RabbitMQ closes a channel on which a
    /// message is unacknowledged for half an hour.
    fn group_ms(&self) -> u64 {
        self.ack_delay_ms.max(10 * 60 * 1000)
    }
}

/// The messages of one client's queue that are received and not acknowledged. The stream's task owns it; the registry
/// asks it which client the queue belongs to.
#[derive(Debug)]
pub(super) struct Ledger {
    limits: AckLimits,
    /// Messages received and not acknowledged; the first of them has place `acknowledged`.
    entries: VecDeque<Unacknowledged>,
    acknowledged: u64,
    had: u64,
    handed: u64,
    sent: u64,
    groups: HashMap<Rc<str>, NameGroup>,
    /// The id of the last acknowledged message; before there is one, the client's Last-Event-ID.
    anchor: Option<Box<str>>,
    previous: Occurrences,
}

/// Occurrences of messages that went back to their queue, where counting anew would give others.
#[derive(Debug, Default)]
pub(super) struct Occurrences(HashMap<Rc<str>, VecDeque<u32>>);

/// An acknowledgement: of all messages up to and including `tag`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Acknowledged {
    /// The broker's delivery tag of the last message.
    pub(super) tag: u64,
    /// How many messages it covers.
    pub(super) count: u64,
    /// How many of them were not sent, because the client had them.
    pub(super) unsent: u64,
}

/// A message that was received and not acknowledged.
#[derive(Debug)]
struct Unacknowledged {
    tag: u64,
    id: MessageId,
    redelivered: bool,
    /// When it was noted that the kernel or the client has it; meaningless before.
    sent_at_ms: u64,
}

/// The unacknowledged messages of one name.
#[derive(Debug)]
struct NameGroup {
    /// The place of the newest one.
    last: u64,
    count: usize,
    next_occurrence: u32,
}

impl Ledger {
    /// Returns an empty ledger. `last_event_id` is the client's, or the one that its stream begins with; `previous` is
    /// what the queue's last ledger on this node left.
    pub(super) fn new(limits: AckLimits, last_event_id: Option<&str>, previous: Occurrences) -> Self {
        Self {
            limits,
            entries: VecDeque::new(),
            acknowledged: 0,
            had: 0,
            handed: 0,
            sent: 0,
            groups: HashMap::new(),
            anchor: last_event_id.map(Box::from),
            previous,
        }
    }

    /// Adds the queue's next message and returns its id.
    pub(super) fn receive(&mut self, tag: u64, name: MessageName, redelivered: bool) -> MessageId {
        let (text, place) = (name.text(), self.received());
        let group = self.groups.entry(text.clone());
        let group = group.or_insert(NameGroup { last: place, count: 0, next_occurrence: 0 });
        let previous = self.previous.0.get_mut(&text).filter(|_| redelivered).and_then(VecDeque::pop_front);
        let mut id = name.occurrence(previous.unwrap_or(group.next_occurrence));
        if !redelivered {
            while self.anchor.as_deref().is_some_and(|anchor| id.is(anchor)) {
                id.occurrence += 1;
            }
        }
        (group.last, group.count, group.next_occurrence) = (place, group.count + 1, id.occurrence + 1);
        self.entries.push_back(Unacknowledged { tag, id: id.clone(), redelivered, sent_at_ms: 0 });
        id
    }

    /// Returns how many of the messages the client has, by its Last-Event-ID. They are the oldest, must not be handed
    /// over, and are due. Call it when all redelivered messages have been received and before any is handed over.
    pub(super) fn resume(&mut self, now_ms: u64) -> usize {
        let last_event_id = self.anchor.as_deref().unwrap_or_default();
        let found = self.entries.iter().position(|entry| entry.redelivered && entry.id.is(last_event_id));
        let had = found.map_or(0, |at| at + 1);
        self.entries.iter_mut().take(had).for_each(|entry| entry.sent_at_ms = now_ms);
        self.had = had as u64;
        had
    }

    /// Notes that the next message is handed to the shard. Returns its number among those handed over, from 1.
    pub(super) fn hand_over(&mut self) -> u64 {
        self.handed = (self.handed + 1).min(self.received() - self.had);
        self.handed
    }

    /// Notes at `now_ms` that the kernel has taken `sent` of the messages handed over.
    pub(super) fn sent(&mut self, sent: u64, now_ms: u64) {
        let sent = sent.min(self.handed);
        for place in self.had + self.sent..self.had + sent {
            let at = place.checked_sub(self.acknowledged).and_then(|at| usize::try_from(at).ok());
            if let Some(entry) = at.and_then(|at| self.entries.get_mut(at)) {
                entry.sent_at_ms = now_ms;
            }
        }
        self.sent = self.sent.max(sent);
    }

    /// Removes the messages to acknowledge now, and returns their acknowledgement; `None` when there are none.
    pub(super) fn acknowledge(&mut self, now_ms: u64) -> Option<Acknowledged> {
        let due = self.due(now_ms);
        let waits = !self.is_had(self.acknowledged) && !self.is_aged(self.limits.ack_delay_ms, now_ms);
        if due == 0 || (waits && due < self.limits.batch()) {
            return None;
        }
        let mut count = self.without_splitting(due);
        if count == 0 && self.is_stuck(now_ms) {
            // All sent messages: as many as possible without splitting a group, else all of them.
            let sent = self.sent_count();
            count = Some(self.without_splitting(sent)).filter(|&count| count > 0).unwrap_or(sent);
        }
        self.take(count)
    }

    /// Returns the number of sent messages at which some are to be acknowledged; `u64::MAX` where more must be handed
    /// over first.
    pub(super) fn due_at_sent(&self) -> u64 {
        let batch = self.limits.batch() as u64;
        let due = (self.acknowledged + self.limits.ack_window + batch).saturating_sub(self.had);
        if due > self.sent {
            return due;
        }
        // Enough are due, but wait for messages of the same names behind them.
        if self.has_unsent() { (self.sent + batch).min(self.handed) } else { u64::MAX }
    }

    /// Returns whether some messages were handed over and not noted as sent.
    pub(super) fn has_unsent(&self) -> bool {
        self.sent < self.handed
    }

    /// Returns how often to note which messages were sent, in milliseconds.
    pub(super) fn note_every_ms(&self) -> u64 {
        self.limits.note_every_ms()
    }

    /// Returns when the next message becomes due by its delay alone, in milliseconds; 0 for at once, `None` when none
    /// was sent.
    pub(super) fn due_at_ms(&self) -> Option<u64> {
        let first = self.entries.front().filter(|_| self.sent_count() > 0)?;
        Some(match self.is_had(self.acknowledged) {
            true => 0,
            false => first.sent_at_ms.saturating_add(self.limits.ack_delay_ms),
        })
    }

    /// Returns whether this may be the Last-Event-ID of the stream's client.
    pub(super) fn has_issued(&self, id: &str) -> bool {
        let issued = usize::try_from(self.had + self.handed - self.acknowledged).unwrap_or(usize::MAX);
        self.anchor.as_deref() == Some(id) || self.entries.iter().take(issued).any(|entry| entry.id.is(id))
    }

    /// Returns whether every received message is acknowledged.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Returns whether the broker sends no more until some messages are acknowledged.
    fn is_full(&self) -> bool {
        self.entries.len() >= self.limits.prefetch
    }

    /// Returns the occurrences that the queue's next ledger must know of the messages that go back.
    pub(super) fn occurrences(&self) -> Occurrences {
        let mut occurrences: HashMap<Rc<str>, VecDeque<u32>> = HashMap::new();
        for entry in &self.entries {
            occurrences.entry(entry.id.name()).or_default().push_back(entry.id.occurrence);
        }
        occurrences.retain(|_, occurrences| !occurrences.iter().copied().eq(0..));
        Occurrences(occurrences)
    }

    fn received(&self) -> u64 {
        self.acknowledged + self.entries.len() as u64
    }

    fn is_had(&self, place: u64) -> bool {
        place < self.had
    }

    /// Returns how many of the entries the client had or the kernel has.
    fn sent_count(&self) -> usize {
        usize::try_from((self.had + self.sent).saturating_sub(self.acknowledged)).unwrap_or(usize::MAX)
    }

    /// Returns how many of the entries are due.
    fn due(&self, now_ms: u64) -> usize {
        // Places below this one have a window of sent messages behind them.
        let windowed = self.had.max((self.had + self.sent).saturating_sub(self.limits.ack_window));
        let is_late =
            |entry: &Unacknowledged| entry.sent_at_ms.saturating_add(self.limits.ack_delay_ms) <= now_ms;
        let sent = self.entries.iter().take(self.sent_count());
        (self.acknowledged..)
            .zip(sent)
            .take_while(|(place, entry)| *place < windowed || is_late(entry))
            .count()
    }

    /// Returns whether the first entry was sent at least `age_ms` ago.
    fn is_aged(&self, age_ms: u64, now_ms: u64) -> bool {
        let first = self.entries.front().filter(|_| self.sent_count() > 0);
        first.is_some_and(|first| first.sent_at_ms.saturating_add(age_ms) <= now_ms)
    }

    /// Returns whether waiting would not help: the broker sends no more and all entries are sent, or the first entry is
    /// so old that the broker would close the channel.
    fn is_stuck(&self, now_ms: u64) -> bool {
        let full = self.is_full() && self.sent_count() == self.entries.len();
        full || self.is_aged(self.limits.group_ms(), now_ms)
    }

    /// Returns how many of the first `count` entries can be taken without splitting a group.
    fn without_splitting(&self, count: usize) -> usize {
        let (mut whole, mut last) = (0, self.acknowledged);
        for (place, entry) in (self.acknowledged..).zip(self.entries.iter().take(count)) {
            last = last.max(self.groups.get(&*entry.id.name()).map_or(place, |group| group.last));
            if last <= place {
                whole = usize::try_from(place + 1 - self.acknowledged).unwrap_or(usize::MAX);
            }
        }
        whole
    }

    fn take(&mut self, count: usize) -> Option<Acknowledged> {
        let unsent = self.had.saturating_sub(self.acknowledged).min(count as u64);
        let mut taken = None;
        for entry in self.entries.drain(..count.min(self.entries.len())) {
            if let Some(group) = self.groups.get_mut(&*entry.id.name()) {
                group.count -= 1;
                if group.count == 0 {
                    self.groups.remove(&*entry.id.name());
                }
            }
            self.acknowledged += 1;
            taken = Some(entry);
        }
        let last = taken?;
        self.anchor = Some(last.id.to_string().into_boxed_str());
        Some(Acknowledged { tag: last.tag, count: count as u64, unsent })
    }
}

impl Occurrences {
    /// Returns whether there is nothing to hand on.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests;
