//! Who comes and wants the past: where a subscriber resumes, and the pages it gets until it is live.

use bytes::Bytes;
use smallvec::SmallVec;

use super::history::{Page, Retained};
use super::{Aged, Home, HomeTopic, TopicEnd};
use crate::core::arena::Key;
use crate::core::event_id::Sequence;
use crate::core::message::{Gap, GapReason, Message, Post, ReplayPage, ShardId, ToFanout};
use crate::core::selection::Selection;

/// A page of replay: large enough that a page costs a subscriber one round trip to home per 64 KiB, small
/// enough that a slow one holds little.
const PAGE_BYTES_MAX: usize = 64 << 10;
/// And so many frames: a page's handles (32 bytes each here, 16 more in the kernel's list) are what a
/// replaying subscriber holds of its own, 6 KiB at most, and the pages of one turn stay about a millisecond.
pub(crate) const PAGE_FRAMES_MAX: usize = 128;
/// Events that are looked at for one page of several topics, whether these have them or not: some 100 us.
const PAGE_LOOKS_MAX: usize = 4096;
/// Events with a publisher's own id that are looked at, the newest first, to find one of several topics: about 0.2 ms.
const OWN_ID_LOOKS_MAX: usize = 2048;

/// The places of a selection's topics, in order.
type Keys = SmallVec<[u32; 4]>;

impl Home {
    pub(super) fn join(
        &mut self,
        selection: Selection,
        from: ShardId,
        key: Key,
        last_id: Option<Box<str>>,
        out: &mut Vec<Post>,
    ) {
        let Some(topics) = self.find_or_insert_all(&selection) else {
            return out.push(refused(from, key));
        };
        // Without history no id means anything, and the stream holds the publisher's lines alone.
        let Some(last_id) = last_id.filter(|_| self.limits.history_events_max > 0) else {
            self.admit(&topics, from);
            let (frames, upto) = (Vec::new(), self.sequence);
            let page = ReplayPage { gap: None, frames, upto, told: 0, joined: true };
            return out.push(self.page_for(from, key, page));
        };
        let place = self.place(&selection, &topics, &last_id);
        let gap = self.gap(&topics, place).map(|reason| Gap { from: Some(last_id), reason, id: None });
        self.page(&selection, &topics, from, key, place.unwrap_or(0), gap, out);
    }

    /// Posts what follows `after`.
    pub(super) fn more(
        &mut self,
        selection: Selection,
        from: ShardId,
        key: Key,
        after: Sequence,
        told: Sequence,
        out: &mut Vec<Post>,
    ) {
        let Some(topics) = self.find_or_insert_all(&selection) else {
            return out.push(refused(from, key));
        };
        // What was dropped since the last page is news. What several topics lost may lie anywhere before, and was told.
        let gap = self.gap(&topics, Some(after.max(told))).map(|reason| Gap {
            from: (after > 0).then(|| self.epoch.text(after).into()),
            reason,
            id: None,
        });
        self.page(&selection, &topics, from, key, after, gap, out);
    }

    /// Posts the page after `after`. The last one admits the shard, so that its place in the channel is the
    /// seam between replay and live events.
    #[expect(clippy::too_many_arguments, reason = "what was asked, and what was found out about it")]
    fn page(
        &mut self,
        selection: &Selection,
        topics: &Keys,
        from: ShardId,
        key: Key,
        after: Sequence,
        gap: Option<Gap>,
        out: &mut Vec<Post>,
    ) {
        let page = match self.only(topics) {
            Some(only) if !selection.is_part() => {
                self.topics[only as usize].history.page(after, PAGE_BYTES_MAX, self.limits.page_frames_max)
            }
            _ if self.have_nothing_below(topics) => self.page_of_leaves(selection, topics, after),
            _ => self.page_of_several(selection, topics, after),
        };
        let joined = !page.more;
        if joined {
            self.admit(topics, from);
        }
        let Page { frames, upto, .. } = page;
        let id = (frames.is_empty() && joined).then(|| self.epoch.text(self.sequence).into());
        let gap = gap.map(|gap| Gap { id, ..gap });
        let told = self.lost(topics);
        out.push(self.page_for(from, key, ReplayPage { gap, frames, upto, told, joined }));
    }

    fn page_for(&self, to: ShardId, key: Key, page: ReplayPage) -> Post {
        Post { to, message: Message::Fanout(ToFanout::Page { key, home: self.shard, page }) }
    }

    /// Returns why a subscriber that knows of everything up to `place` is told of a gap; none when it has missed nothing.
    /// Nothing else decides that: the rule stands at the top of `history.rs`.
    fn gap(&self, topics: &Keys, place: Option<Sequence>) -> Option<GapReason> {
        debug_assert!(
            topics.iter().all(|key| self.knows_what_was_lost(*key)),
            "a loss that those above do not know"
        );
        match place {
            Some(place) => (place < self.lost(topics)).then_some(GapReason::Trimmed),
            None => Some(GapReason::Unknown),
        }
    }

    /// Returns the place of an id: a subscriber that has it as its last has everything up to there. None when it has no place
    /// here.
    fn place(&self, selection: &Selection, topics: &Keys, id: &str) -> Option<Sequence> {
        let place = match selection.is_part() {
            // Any other id says nothing of the other homes.
            true => self.epoch.place_at(id, self.shard),
            // Not necessarily one of these topics' own: any place in the home's sequence splits theirs in two.
            false => {
                let own = self.latest_use(topics, id).or_else(|| self.lost_use(topics, id));
                own.or_else(|| self.epoch.sequence(id))
            }
        };
        place.filter(|place| *place <= self.sequence)
    }

    /// What these topics hold after `after`, in the home's order, when there is nothing below them: however much others
    /// hold, it is not looked at.
    fn page_of_leaves(&self, selection: &Selection, topics: &Keys, after: Sequence) -> Page {
        let histories = topics.iter().map(|key| &self.topics[*key as usize].history);
        let mut ahead: SmallVec<[_; 4]> = histories
            .map(|history| {
                let mut rest = history.after(after);
                (rest.next(), rest)
            })
            .collect();
        let mut page = Page { upto: after, ..Page::default() };
        let mut bytes = 0;
        // The oldest ahead is the next; at most 64 looks for each frame.
        while let Some((next, rest)) =
            ahead.iter_mut().min_by_key(|(next, _)| next.map_or(Sequence::MAX, |event| event.sequence))
            && let Some(event) = *next
            && self.add(&mut page, &mut bytes, selection, event)
        {
            *next = rest.next();
        }
        page
    }

    /// What the home holds of these topics and all below them after `after`, in its order.
    fn page_of_several(&self, selection: &Selection, topics: &Keys, after: Sequence) -> Page {
        let start = self.by_age.partition_point(|aged| aged.sequence <= after);
        let mut page = Page { upto: after, ..Page::default() };
        let mut bytes = 0;
        for (looks, aged) in self.by_age.range(start..).enumerate() {
            if looks == PAGE_LOOKS_MAX {
                page.more = true;
                break;
            }
            let Aged { sequence, own_id: has_own_id, .. } = *aged;
            let Some(frame) = self.frame_of(topics, aged.topic, sequence) else {
                page.upto = sequence;
                continue;
            };
            if !self.add(&mut page, &mut bytes, selection, Retained { sequence, frame, has_own_id }) {
                break;
            }
        }
        page
    }

    /// Adds an event to a page that has `bytes` so far, unless it is full, as it then says.
    fn add(&self, page: &mut Page, bytes: &mut usize, selection: &Selection, event: Retained<'_>) -> bool {
        let Retained { sequence, frame, has_own_id } = event;
        *bytes += frame.len();
        let full = *bytes > PAGE_BYTES_MAX || page.frames.len() == self.limits.page_frames_max;
        if full && !page.frames.is_empty() {
            page.more = true;
            return false;
        }
        page.frames.push(match selection.is_part() && has_own_id {
            true => self.with_our_id(frame, sequence),
            false => frame.clone(),
        });
        page.upto = sequence;
        true
    }

    /// The frame of this event, if its topic is one of these or below one of them, and has it still.
    fn frame_of(&self, topics: &Keys, topic: u32, sequence: Sequence) -> Option<&Bytes> {
        let frame = self.topics.get(topic as usize)?.history.frame(sequence)?;
        self.with_parents(topic).any(|above| topics.binary_search(&above).is_ok()).then_some(frame)
    }

    /// A frame whose last line says the event's place, whatever id its publisher gave it.
    fn with_our_id(&self, frame: &Bytes, sequence: Sequence) -> Bytes {
        let mut text = Vec::with_capacity(frame.len() + 32);
        text.extend_from_slice(frame.strip_suffix(b"\n").unwrap_or(frame));
        self.epoch.write_line(sequence, &mut text);
        text.push(b'\n');
        self.memory.share(text)
    }

    /// The newest event of these topics and those below that has this publisher's own id.
    fn latest_use(&self, topics: &Keys, id: &str) -> Option<Sequence> {
        if self.have_nothing_below(topics) {
            let histories = topics.iter().map(|key| &self.topics[*key as usize].history);
            return histories.filter_map(|history| history.own_id_at(id)).max();
        }
        let named = self.own_by_age.iter().rev().take(OWN_ID_LOOKS_MAX);
        let mut found = named.filter(|aged| {
            self.frame_of(topics, aged.topic, aged.sequence).is_some()
                && self.topics[aged.topic as usize].history.own_id(aged.sequence) == Some(id)
        });
        found.next().map(|aged| aged.sequence)
    }

    /// The newest event that is no longer retained, if this is the publisher's own id of it: a tree gone quiet is
    /// resumed after it without a gap.
    fn lost_use(&self, topics: &Keys, id: &str) -> Option<Sequence> {
        let lost = self.lost(topics);
        let is_it = |key: &u32| {
            let TopicEnd { sequence, own_id } = &self.topics[*key as usize].lost;
            *sequence == lost && own_id.as_deref() == Some(id)
        };
        topics.iter().any(is_it).then_some(lost)
    }

    /// The newest event of these topics and those below that is no longer retained.
    fn lost(&self, topics: &Keys) -> Sequence {
        topics.iter().map(|key| self.topics[*key as usize].lost.sequence).max().unwrap_or(0)
    }

    /// Whether the topics above this one count as lost what it lost since it came.
    fn knows_what_was_lost(&self, key: u32) -> bool {
        let HomeTopic { lost, lost_at_first, .. } = &*self.topics[key as usize];
        let is_known = |key| self.topics[key as usize].lost.sequence >= lost.sequence;
        lost.sequence == *lost_at_first || self.with_parents(key).all(is_known)
    }

    /// The topic whose history is all there is to look at.
    fn only(&self, topics: &Keys) -> Option<u32> {
        match topics[..] {
            [only] => self.have_nothing_below(topics).then_some(only),
            _ => None,
        }
    }

    /// Whether these topics' histories are all there is to look at.
    fn have_nothing_below(&self, topics: &Keys) -> bool {
        topics.iter().all(|key| self.topics[*key as usize].children == 0)
    }

    /// Returns the keys of all topics of a selection; `None`, and none of them is kept for it, when there is no room for all.
    fn find_or_insert_all(&mut self, selection: &Selection) -> Option<Keys> {
        let keys = self.try_find_or_insert_all(selection);
        if keys.is_none() {
            for topic in selection.topics() {
                if let Some(&key) = self.names.get(topic) {
                    self.forget_if_unneeded(key);
                }
            }
        }
        keys
    }

    fn try_find_or_insert_all(&mut self, selection: &Selection) -> Option<Keys> {
        let mut keys = Keys::new();
        for topic in selection.topics() {
            let key = self.find_or_insert(topic)?;
            // Or it would be the first to make room for the next.
            self.touch(key);
            keys.push(key);
        }
        let known = |(topic, key): (_, &u32)| self.names.get(topic) == Some(key);
        let all_known = selection.topics().iter().zip(&keys).all(known);
        keys.sort_unstable();
        all_known.then_some(keys)
    }

    fn admit(&mut self, topics: &Keys, from: ShardId) {
        for &key in topics {
            self.touch(key);
            let members = &mut self.topics[key as usize].members;
            if !members.contains(&from) {
                members.push(from);
            }
        }
    }
}

fn refused(to: ShardId, key: Key) -> Post {
    Post { to, message: Message::Fanout(ToFanout::Refused { key }) }
}
