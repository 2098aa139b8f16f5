//! The ids of a stream over several homes.
//!
//! Such a stream is at a place of its own at each home, and wherever it breaks off, the last id that the client has must
//! name them all. So each event's id becomes a position. That costs a copy for each subscriber, which streams on one topic
//! are spared.

use bytes::Bytes;
use memchr::memmem;

use crate::event_id::{Epoch, Sequence};
use crate::shard::message::ShardId;

/// The frames in `frames`, of which the first is the event `first`, each with its place as its last line, whatever id
/// its publisher gave it.
pub(super) fn with_our_ids(frames: &Bytes, epoch: Epoch, first: Sequence) -> Bytes {
    let mut text = Vec::with_capacity(frames.len() + 64);
    for (lines, sequence) in frames_of(frames).zip(first..) {
        text.extend_from_slice(lines);
        if place_in(lines, epoch).is_none_or(|(_, place)| place != sequence) {
            epoch.write_line(sequence, &mut text);
        }
        text.push(b'\n');
    }
    text.into()
}

/// How far a stream has come at each home it takes something of.
#[derive(Debug)]
pub(super) struct Places {
    /// None without history: then there are no ids.
    epoch: Option<Epoch>,
    places: Vec<(ShardId, Sequence)>,
}

impl Places {
    /// One for each of `homes`: where `last_event_id`, a position, says; at the beginning if it does not.
    pub(super) fn new(
        epoch: Option<Epoch>,
        homes: impl Iterator<Item = ShardId>,
        last_event_id: Option<&str>,
    ) -> Self {
        let known = |home| epoch?.place_at(last_event_id?, home);
        Places { epoch, places: homes.map(|home| (home, known(home).unwrap_or(0))).collect() }
    }

    /// Part number `part` is at this place without having been sent anything.
    pub(super) fn set(&mut self, part: usize, place: Sequence) {
        if let Some((_, at)) = self.places.get_mut(part) {
            *at = place;
        }
    }

    /// Appends what is sent of part number `part`, with positions for ids.
    pub(super) fn write(&mut self, part: usize, text: &[u8], out: &mut Vec<u8>) {
        let Some(epoch) = self.epoch else { return out.extend_from_slice(text) };
        for lines in frames_of(text) {
            match place_in(lines, epoch) {
                Some((before, place)) => {
                    self.set(part, place);
                    out.extend_from_slice(before);
                    out.extend_from_slice(b"id:");
                    epoch.write_position(self.places.iter().copied(), out);
                    out.push(b'\n');
                }
                None => out.extend_from_slice(lines),
            }
            out.push(b'\n');
        }
    }
}

/// The lines of each frame, without the blank one that ends it.
fn frames_of(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let end = memmem::find(rest, b"\n\n")? + 1;
        let (lines, after) = rest.split_at(end);
        rest = &after[1..];
        Some(lines)
    })
}

/// The place that an event's last line names, and the lines before it.
fn place_in(lines: &[u8], epoch: Epoch) -> Option<(&[u8], Sequence)> {
    let text = lines.strip_suffix(b"\n")?;
    let start = memchr::memrchr(b'\n', text).map_or(0, |at| at + 1);
    let id = str::from_utf8(text[start..].strip_prefix(b"id:")?).ok()?;
    Some((&lines[..start], epoch.sequence(id)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const EPOCH: u64 = 7;

    #[test]
    fn every_event_says_its_place_whatever_id_its_publisher_gave_it() {
        let frames = Bytes::from_static(b"data:a\nid:7-4\n\nid:own\ndata:b\n\ndata:c\nid:7-9\n\n");
        let text = with_our_ids(&frames, Epoch::at(EPOCH), 4);
        assert_eq!(text, "data:a\nid:7-4\n\nid:own\ndata:b\nid:7-5\n\ndata:c\nid:7-9\nid:7-6\n\n");
    }

    #[test]
    fn an_id_on_the_wire_names_the_place_at_each_home() {
        let mut places = Places::new(Some(Epoch::at(EPOCH)), [0, 2].into_iter(), Some("7-2.5"));
        places.set(0, 3);
        let mut out = Vec::new();
        places.write(1, b"data:a\nid:7-8\n\n:\n\nevent:gap\ndata:{}\n\n", &mut out);
        places.write(0, b"data:b\nid:7-4\n\n", &mut out);
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text, "data:a\nid:7-0.3-2.8\n\n:\n\nevent:gap\ndata:{}\n\ndata:b\nid:7-0.4-2.8\n\n");
    }

    #[test]
    fn without_history_nothing_is_changed() {
        let mut out = Vec::new();
        Places::new(None, [0].into_iter(), None).write(0, b"data:a\nid:7-8\n\n", &mut out);
        assert_eq!(out, b"data:a\nid:7-8\n\n");
    }
}
