//! Reads the pages of a replay, which a subscriber gets until it is live.

use bytes::Bytes;
use smallvec::SmallVec;

use super::topic_history::{Page, Retained};
use super::{Aged, PartitionHistory, TopicKey};
use crate::core::event_id::Sequence;
use crate::core::named::named;
use crate::core::selection::StreamIds;

/// Most bytes of a page of replay: large enough that a subscriber needs one round trip to the home per 64 KiB, small
/// enough that a slow one holds little.
const PAGE_BYTES_MAX: usize = 64 << 10;
/// Most frames of a page: its handles (32 bytes each here, 16 more in the kernel's list) are what a replaying
/// subscriber holds of its own, 6 KiB at most, and the pages of one turn stay about a millisecond.
pub(crate) const PAGE_FRAMES_MAX: usize = 128;
/// Events looked at for one page of a multi-topic stream, whether they belong to these or not: some 100 us.
const PAGE_LOOKS_MAX: usize = 4096;

impl PartitionHistory {
    /// Returns a page of the retained events of these topics and those below them after `after`, in the partition's
    /// order. Where the stream's ids are positions, each event's last line has the broker's id, even if its publisher gave it
    /// another, and where they name topics its first line has its topic.
    pub(crate) fn after(&self, topics: &[TopicKey], after: Sequence, ids: StreamIds) -> Page {
        let are_leaves = topics.iter().all(|key| self.topics.is_leaf(*key));
        match topics {
            [only] if are_leaves && ids == StreamIds::Plain => {
                self.topics[*only].history.page(after, PAGE_BYTES_MAX, self.limits.page_frames_max)
            }
            _ if are_leaves => self.page_of_leaves(topics, after, ids),
            _ => self.page_of_trees(topics, after, ids),
        }
    }

    /// Returns a page of topics that have none below them, without a look at other topics' events.
    fn page_of_leaves(&self, topics: &[TopicKey], after: Sequence, ids: StreamIds) -> Page {
        let mut ahead: SmallVec<[_; 4]> = topics
            .iter()
            .map(|key| {
                let mut rest = self.topics[*key].history.after(after);
                (*key, rest.next(), rest)
            })
            .collect();
        let mut page = Page { upto: after, ..Page::default() };
        let mut bytes = 0;
        // The oldest head is the next event; at most 64 looks for each frame.
        while let Some((key, next, rest)) =
            ahead.iter_mut().min_by_key(|(_, next, _)| next.map_or(Sequence::MAX, |event| event.sequence))
            && let Some(event) = *next
            && self.add(&mut page, &mut bytes, ids, (*key, event))
        {
            *next = rest.next();
        }
        page
    }

    /// Returns a page of these topics and all below them.
    fn page_of_trees(&self, topics: &[TopicKey], after: Sequence, ids: StreamIds) -> Page {
        let start = self.by_age.partition_point(|aged| aged.sequence <= after);
        let mut page = Page { upto: after, ..Page::default() };
        let mut bytes = 0;
        for (looks, aged) in self.by_age.range(start..).enumerate() {
            if looks == PAGE_LOOKS_MAX {
                page.more = true;
                break;
            }
            let Aged { sequence, own_id: has_own_id, .. } = *aged;
            let Some(frame) = self.frame_of(topics, aged) else {
                page.upto = sequence;
                continue;
            };
            let event = (aged.topic, Retained { sequence, frame, has_own_id });
            if !self.add(&mut page, &mut bytes, ids, event) {
                break;
            }
        }
        page
    }

    /// Adds an event of a topic to a page that has `bytes` so far; if the page is full, sets its `more` and returns false.
    fn add(
        &self,
        page: &mut Page,
        bytes: &mut usize,
        ids: StreamIds,
        (topic, event): (TopicKey, Retained<'_>),
    ) -> bool {
        let Retained { sequence, frame, has_own_id } = event;
        *bytes += frame.len();
        let full = *bytes > PAGE_BYTES_MAX || page.frames.len() == self.limits.page_frames_max;
        if full && !page.frames.is_empty() {
            page.more = true;
            return false;
        }
        let frame = match ids.are_positions() && has_own_id {
            true => self.with_our_id(frame, sequence),
            false => frame.clone(),
        };
        page.frames.push(match ids.name_topics() {
            true => self.memory.share(named(self.topics.topic(topic), &frame)),
            false => frame,
        });
        page.upto = sequence;
        true
    }

    /// Returns the frame of an event if it is still retained and its topic is one of these or below one of them.
    pub(super) fn frame_of(&self, topics: &[TopicKey], aged: &Aged) -> Option<&Bytes> {
        if !self.topics.retains(aged.topic, aged.sequence) {
            return None;
        }
        let frame = self.topics[aged.topic].history.frame(aged.sequence)?;
        self.topics.lineage(aged.topic).any(|above| topics.binary_search(&above).is_ok()).then_some(frame)
    }

    /// Returns a copy of a frame with the broker's id as its last line, which overrules the publisher's.
    fn with_our_id(&self, frame: &Bytes, sequence: Sequence) -> Bytes {
        let mut text = Vec::with_capacity(frame.len() + 32);
        text.extend_from_slice(frame.strip_suffix(b"\n").unwrap_or(frame));
        self.epoch.write_line(sequence, &mut text);
        text.push(b'\n');
        self.memory.share(text)
    }
}
