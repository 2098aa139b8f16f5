//! Takes checked events apart, as a file keeps them, and makes them again from the parts.

use std::ops::Range;

use bytes::Bytes;
use smallvec::SmallVec;

use super::{Events, TextSpan, is_one_line};

impl Events {
    /// Makes events again from their text and, for each event, the ranges of its lines and of its id's value, as
    /// [`Events::spans`] gave them. Returns `None` if those cannot be events: the parts may come from a damaged file.
    pub(crate) fn from_parts(
        text: Bytes,
        parts: impl IntoIterator<Item = (Range<u32>, Option<Range<u32>>)>,
    ) -> Option<Events> {
        if str::from_utf8(&text).is_err() || memchr::memchr2(0, b'\r', &text).is_some() {
            return None;
        }
        let mut end = 0;
        let mut spans = SmallVec::new();
        for (lines, id) in parts {
            let bytes = text.get(lines.start as usize..lines.end as usize)?;
            let is_id = |id: &Range<u32>| {
                let value = text.get(id.start as usize..id.end as usize).unwrap_or_default();
                lines.start <= id.start && id.end <= lines.end && !value.is_empty() && is_one_line(value)
            };
            // A blank line inside would end the event; lines without an end would swallow what follows.
            let is_event = bytes.ends_with(b"\n")
                && !bytes.starts_with(b"\n")
                && memchr::memmem::find(bytes, b"\n\n").is_none();
            if lines.start < end || !is_event || !id.as_ref().is_none_or(is_id) {
                return None;
            }
            end = lines.end;
            spans.push(TextSpan { lines, id });
        }
        (!spans.is_empty()).then_some(Events { text, spans })
    }

    /// Returns the text that holds the events.
    pub(crate) fn text(&self) -> &Bytes {
        &self.text
    }

    /// Returns the ranges of each event's lines and of its id's value in the text.
    pub(crate) fn spans(&self) -> impl ExactSizeIterator<Item = (Range<u32>, Option<Range<u32>>)> + '_ {
        self.spans.iter().map(|span| (span.lines.clone(), span.id.clone()))
    }
}
