//! The retained events of one topic.

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;

use super::forgotten::TopicEnd;
use crate::core::ahead;
use crate::core::event_id::Sequence;

/// Bytes that an event costs beside its own: the entry here, its place in the home's order of ages, and two heap
/// blocks.
const ENTRY_BYTES: usize = 144;

/// Consecutive frames of a replay, made by a history for its home.
#[derive(Debug, Default)]
pub(crate) struct Page {
    /// Shared, not copied: a herd of reconnects costs handles.
    pub(crate) frames: Vec<Bytes>,
    /// The last event looked at, or the place where the page was asked to begin.
    pub(crate) upto: Sequence,
    /// Set when more is retained after it.
    pub(crate) more: bool,
}

/// A retained event, lent by its history.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Retained<'h> {
    pub(crate) sequence: Sequence,
    pub(crate) frame: &'h Bytes,
    /// Set when it has a publisher's own id.
    pub(crate) has_own_id: bool,
}

/// The result of dropping the oldest event.
#[derive(Debug)]
pub(crate) struct FirstDropped {
    /// The bytes that this frees, overhead included.
    pub(crate) bytes: usize,
    pub(crate) frame_bytes: usize,
    pub(crate) lost: TopicEnd,
}

/// The retained events of one topic, oldest first.
#[derive(Debug, Default)]
pub(crate) struct TopicHistory {
    entries: VecDeque<Entry>,
    bytes: usize,
    /// The newest event with each publisher's own id.
    own_ids: HashMap<Box<str>, Sequence>,
}

#[derive(Debug)]
struct Entry {
    sequence: Sequence,
    at_ms: u64,
    frame: Bytes,
    own_id: Option<Box<str>>,
}

impl Entry {
    fn cost(&self) -> usize {
        // A publisher's own id is held twice, here and as a key.
        ENTRY_BYTES + self.frame.len() + self.own_id.as_ref().map_or(0, |id| 2 * id.len() + 64)
    }
}

impl TopicHistory {
    /// Adds the newest event; returns its bytes, overhead included.
    pub(crate) fn append(
        &mut self,
        sequence: Sequence,
        frame: Bytes,
        own_id: Option<&str>,
        now_ms: u64,
    ) -> usize {
        debug_assert!(self.entries.back().is_none_or(|last| last.sequence < sequence));
        if let Some(id) = own_id {
            self.own_ids.insert(id.into(), sequence);
        }
        let entry = Entry { sequence, at_ms: now_ms, frame, own_id: own_id.map(Into::into) };
        let cost = entry.cost();
        self.bytes += cost;
        self.entries.push_back(entry);
        cost
    }

    /// Looks ahead at the newest event, behind which the next will be.
    pub(crate) fn look_ahead(&self) {
        ahead::read(self.entries.back().map(|entry| entry.sequence));
    }

    /// Drops the oldest event; returns `None` when there is none.
    pub(crate) fn drop_first(&mut self) -> Option<FirstDropped> {
        let entry = self.entries.pop_front()?;
        let cost = entry.cost();
        self.bytes -= cost;
        if let Some(id) = &entry.own_id
            && self.own_ids.get(id) == Some(&entry.sequence)
        {
            self.own_ids.remove(id);
        }
        // Capacity follows the length, or a topic that once was full would hold 100 KiB for its last event. Down to a
        // half, at a quarter: each event pays for one move.
        if self.entries.len() < self.entries.capacity() / 4 {
            self.entries.shrink_to(2 * self.entries.len());
        }
        if self.own_ids.len() < self.own_ids.capacity() / 4 {
            self.own_ids.shrink_to(2 * self.own_ids.len());
        }
        let lost = TopicEnd { sequence: entry.sequence, own_id: entry.own_id };
        Some(FirstDropped { bytes: cost, frame_bytes: entry.frame.len(), lost })
    }

    /// Returns the events retained after `after`, up to `bytes_max` and `frames_max`, but at least one frame if there
    /// is one.
    pub(crate) fn page(&self, after: Sequence, bytes_max: usize, frames_max: usize) -> Page {
        let start = self.entries.partition_point(|entry| entry.sequence <= after);
        let mut page = Page { upto: after, ..Page::default() };
        let mut bytes = 0;
        for entry in self.entries.range(start..) {
            bytes += entry.frame.len();
            let full = bytes > bytes_max || page.frames.len() == frames_max;
            if full && !page.frames.is_empty() {
                page.more = true;
                break;
            }
            page.frames.push(entry.frame.clone());
            page.upto = entry.sequence;
        }
        page
    }

    /// Returns the events retained after `after`, oldest first.
    pub(crate) fn after(&self, after: Sequence) -> impl Iterator<Item = Retained<'_>> {
        let start = self.entries.partition_point(|entry| entry.sequence <= after);
        self.entries.range(start..).map(|entry| Retained {
            sequence: entry.sequence,
            frame: &entry.frame,
            has_own_id: entry.own_id.is_some(),
        })
    }

    /// Returns the newest retained event with this publisher's own id.
    pub(crate) fn own_id_at(&self, id: &str) -> Option<Sequence> {
        self.own_ids.get(id).copied()
    }

    /// Returns the frame of this event, if it is retained.
    pub(crate) fn frame(&self, sequence: Sequence) -> Option<&Bytes> {
        self.entry(sequence).map(|entry| &entry.frame)
    }

    /// Returns the publisher's own id of this event, if it is retained and has one.
    pub(crate) fn own_id(&self, sequence: Sequence) -> Option<&str> {
        self.entry(sequence)?.own_id.as_deref()
    }

    /// Returns the newest retained event.
    pub(crate) fn newest(&self) -> Option<TopicEnd> {
        let Entry { sequence, own_id, .. } = self.entries.back()?;
        Some(TopicEnd { sequence: *sequence, own_id: own_id.clone() })
    }

    /// Returns the newest retained event, which is lost as the topic is forgotten; 0 when there is none.
    pub(crate) fn into_end(mut self) -> TopicEnd {
        let newest = self.entries.pop_back();
        newest.map_or_else(TopicEnd::default, |Entry { sequence, own_id, .. }| TopicEnd { sequence, own_id })
    }

    fn entry(&self, sequence: Sequence) -> Option<&Entry> {
        let at = self.entries.binary_search_by_key(&sequence, |entry| entry.sequence).ok()?;
        self.entries.get(at)
    }

    pub(crate) fn first(&self) -> Option<Sequence> {
        self.entries.front().map(|entry| entry.sequence)
    }

    /// Returns the time at which the oldest retained event was ordered, in milliseconds of the server's clock.
    pub(crate) fn first_at_ms(&self) -> Option<u64> {
        self.entries.front().map(|entry| entry.at_ms)
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::super::topics::KnownTopic;
    use super::*;

    fn history(sequences: &[(Sequence, Option<&str>)]) -> TopicHistory {
        let mut history = TopicHistory::default();
        for (sequence, own_id) in sequences {
            history.append(*sequence, Bytes::from(format!("{sequence}\n")), *own_id, 0);
        }
        history
    }

    fn frames(page: &Page) -> String {
        page.frames.iter().map(|frame| String::from_utf8_lossy(frame).into_owned()).collect()
    }

    #[test]
    fn an_event_and_its_topic_are_within_what_the_documents_say() {
        // Their sums stand in docs/architecture.md.
        let (entry, known) = (size_of::<Entry>(), size_of::<KnownTopic>());
        assert!(entry <= 64 && known <= 208, "{entry} {known}");
    }

    #[test]
    fn what_is_dropped_is_the_oldest_and_leaves_nothing_behind() {
        let mut history = history(&[(3, None), (7, Some("mine"))]);
        assert_eq!(frames(&history.page(3, 1000, 10)), "7\n");
        let lost: Vec<_> = std::iter::from_fn(|| history.drop_first()).map(|first| first.lost).collect();
        let lost: Vec<_> = lost.iter().map(|end| (end.sequence, end.own_id.as_deref())).collect();
        assert_eq!((lost, history.bytes()), (vec![(3, None), (7, Some("mine"))], 0));
    }

    #[test]
    fn a_publishers_id_is_found_at_its_latest_use_until_that_is_dropped() {
        let mut history = history(&[(1, Some("a")), (2, Some("b")), (3, Some("a")), (4, None)]);
        assert_eq!(history.own_id_at("a"), Some(3));
        history.drop_first();
        assert_eq!(history.own_id_at("a"), Some(3), "its first use went, its latest did not");
        history.drop_first();
        history.drop_first();
        assert_eq!(history.own_id_at("a"), None);
    }

    #[test]
    fn a_page_is_bounded_by_bytes_and_frames_but_never_empty() {
        let history = history(&[(1, None), (2, None), (3, None)]);
        let page = history.page(0, 4, 10);
        assert_eq!((frames(&page).as_str(), page.upto, page.more), ("1\n2\n", 2, true));
        let page = history.page(0, 1, 10);
        assert_eq!((frames(&page).as_str(), page.upto, page.more), ("1\n", 1, true));
        let page = history.page(1, 1000, 10);
        assert_eq!((frames(&page).as_str(), page.upto, page.more), ("2\n3\n", 3, false));
        let page = history.page(0, 1000, 2);
        assert_eq!((page.frames.len(), page.more), (2, true));
    }

    #[test]
    fn an_event_costs_its_bytes_its_entry_and_twice_its_own_id() {
        let history = history(&[(1, None), (22, Some("mine"))]);
        assert_eq!(history.bytes(), (144 + 2) + (144 + 3 + 2 * 4 + 64));
    }

    #[test]
    fn the_room_of_a_history_follows_what_is_kept_and_is_not_moved_often() {
        let ids: Vec<_> = (0..1000).map(|n| n.to_string()).collect();
        let events: Vec<_> = (1..).zip(&ids).map(|(sequence, id)| (sequence, Some(&**id))).collect();
        let mut history = history(&events);
        let room = |history: &TopicHistory| [history.entries.capacity(), history.own_ids.capacity()];
        let (mut before, mut moves) = (room(&history), [0, 0]);
        while history.drop_first().is_some() {
            let (now, kept) = (room(&history), history.len());
            for list in 0..2 {
                assert!(now[list] <= 4 * kept + 3, "{now:?} for {kept}");
                // The capacity of a map also changes a little with removals.
                if now[list] < before[list] / 4 * 3 {
                    moves[list] += 1;
                    assert!(now[list] >= 2 * kept, "{now:?} for {kept}");
                }
            }
            before = now;
        }
        // Each move halves it at least.
        assert!(moves.iter().all(|moves| (4..=11).contains(moves)), "{moves:?}");
    }
}
