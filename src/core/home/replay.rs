//! A stream joins: from its Last-Event-ID page after page of the history, up to the place from which it is live.

use super::Home;
use super::history::{Page, TopicKeys};
use crate::core::arena::Key;
use crate::core::event_id::Sequence;
use crate::core::message::{Gap, ListenerId, Message, Post, ReplayPage, ToFanout};
use crate::core::selection::Selection;

impl Home {
    /// Lets a subscriber in, once everything is there that it knows.
    pub(super) fn join(
        &mut self,
        selection: &Selection,
        (from, key): (ListenerId, Key),
        last_id: Option<Box<str>>,
        now_ms: u64,
        out: &mut Vec<Post>,
    ) {
        if let Ok(last_id) = self.wait_for(selection, (from, key), last_id, now_ms) {
            self.let_in_now(selection, from, key, last_id, out);
        }
    }

    pub(super) fn let_in_now(
        &mut self,
        selection: &Selection,
        from: ListenerId,
        key: Key,
        last_id: Option<Box<str>>,
        out: &mut Vec<Post>,
    ) {
        let Some(topics) = self.history.topics_mut().hold_all(selection.topics()) else {
            return out.push(refused(from, key));
        };
        // Without history there are no ids of ours, and a publisher's own names no place.
        let page = match last_id.filter(|_| self.history.is_on()) {
            None => {
                let (frames, upto) = (Vec::new(), self.history.sequence());
                ReplayPage { gap: None, frames, upto, told: 0, joined: true }
            }
            Some(last_id) => {
                let resumed = self.history.resume(&topics, &last_id, selection.is_part());
                let gap = resumed.gap.map(|reason| Gap { from: Some(last_id), reason, id: None });
                self.page(selection, &topics, resumed.after, gap)
            }
        };
        self.answer_with(page, selection, &topics, from, key, out);
    }

    /// Posts the page after `after`, with a gap for events that were dropped since the last page.
    pub(super) fn more(
        &mut self,
        selection: &Selection,
        from: ListenerId,
        key: Key,
        after: Sequence,
        told: Sequence,
        out: &mut Vec<Post>,
    ) {
        let Some(topics) = self.history.topics_mut().hold_all(selection.topics()) else {
            return out.push(refused(from, key));
        };
        // Only losses since the last page are news: those of a multi-topic stream may lie anywhere before, and were
        // told.
        let gap = self.history.gap(&topics, Some(after.max(told))).map(|reason| Gap {
            from: (after > 0).then(|| self.epoch.text(after).into()),
            reason,
            id: None,
        });
        let page = self.page(selection, &topics, after, gap);
        self.answer_with(page, selection, &topics, from, key, out);
    }

    /// Returns the page after `after`.
    fn page(
        &self,
        selection: &Selection,
        topics: &TopicKeys,
        after: Sequence,
        gap: Option<Gap>,
    ) -> ReplayPage {
        let Page { frames, upto, more } = self.history.after(topics, after, selection.ids());
        let joined = !more;
        let id = (frames.is_empty() && joined).then(|| self.epoch.text(self.history.sequence()).into());
        let gap = gap.map(|gap| Gap { id, ..gap });
        ReplayPage { gap, frames, upto, told: self.history.lost(topics), joined }
    }

    /// Posts a page. The last page also adds the listener, so that its place in the channel is the seam between replay
    /// and live events.
    fn answer_with(
        &mut self,
        page: ReplayPage,
        selection: &Selection,
        topics: &TopicKeys,
        from: ListenerId,
        key: Key,
        out: &mut Vec<Post>,
    ) {
        if page.joined {
            for &topic in topics {
                if self.listeners.add(topic, from, selection.ids().name_topics()) {
                    self.history.topics_mut().hold(topic);
                }
            }
        }
        self.history.topics_mut().let_go(topics);
        let message = ToFanout::Page { key, partition: self.partition, page };
        out.push(Post { to: from, message: Message::Fanout(message) });
    }
}

fn refused(to: ListenerId, key: Key) -> Post {
    Post { to, message: Message::Fanout(ToFanout::Refused { key }) }
}
