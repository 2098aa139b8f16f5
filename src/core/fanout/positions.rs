//! The ids of a stream over several homes.
//!
//! Such a stream is at a place of its own at each home, and wherever it breaks off, the last id that the client has must
//! name them all. So each event's id becomes a position. That costs a copy for each subscriber, which streams on one topic
//! are spared.

use bytes::Bytes;
use memchr::memmem;

use crate::core::event_id::{Epoch, Sequence};
use crate::core::fanout::log::SHARED_BYTES_MIN;
use crate::core::message::ShardId;

/// The kernel takes 1024 buffers in one call (IOV_MAX); what is past this is copied.
const PIECES_MAX: usize = 512;

/// The frames in `frames`, of which the first is the event `first`, each with its place as its last line, whatever id
/// its publisher gave it.
pub(super) fn with_our_ids(frames: &Bytes, epoch: Epoch, first: Sequence) -> Vec<u8> {
    let mut text = Vec::with_capacity(frames.len() + 64);
    for (lines, sequence) in frames_of(frames).zip(first..) {
        text.extend_from_slice(lines);
        if place_in(lines, epoch).is_none() {
            epoch.write_line(sequence, &mut text);
        }
        text.push(b'\n');
    }
    text
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
    pub(super) fn write(&mut self, part: usize, text: &Bytes, out: &mut Pieces) {
        let Some(epoch) = self.epoch else { return out.push(text, text) };
        for lines in frames_of(text) {
            match place_in(lines, epoch) {
                Some((before, place)) => {
                    self.set(part, place);
                    out.push(text, before);
                    out.own.extend_from_slice(b"id:");
                    epoch.write_position(self.places.iter().copied(), &mut out.own);
                    out.own.push(b'\n');
                }
                None => out.push(text, lines),
            }
            out.own.push(b'\n');
        }
    }
}

/// What one stream is sent: bytes of its own, and large events that it shares with others.
#[derive(Debug, Default)]
pub(super) struct Pieces {
    ended: Vec<Piece>,
    own: Vec<u8>,
}

#[derive(Debug)]
enum Piece {
    Own(Vec<u8>),
    Shared(Bytes),
}

impl Pieces {
    /// Appends a part of `text`.
    fn push(&mut self, text: &Bytes, part: &[u8]) {
        if part.len() < SHARED_BYTES_MIN || self.ended.len() >= PIECES_MAX {
            return self.own.extend_from_slice(part);
        }
        self.ended.push(Piece::Own(std::mem::take(&mut self.own)));
        self.ended.push(Piece::Shared(text.slice_ref(part)));
    }

    /// All of it; `share` counts what is its own.
    pub(super) fn into_buffers(self, share: impl Fn(Vec<u8>) -> Bytes) -> impl Iterator<Item = Bytes> {
        self.ended.into_iter().chain([Piece::Own(self.own)]).filter_map(move |piece| match piece {
            Piece::Own(own) => (!own.is_empty()).then(|| share(own)),
            Piece::Shared(shared) => Some(shared),
        })
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
        let frames = Bytes::from_static(b"data:a\nid:7-4\n\nid:own\ndata:b\n\ndata:c\nid:9-9\n\n");
        let text = with_our_ids(&frames, Epoch::at(EPOCH), 4);
        assert_eq!(
            str::from_utf8(&text).unwrap(),
            "data:a\nid:7-4\n\nid:own\ndata:b\nid:7-5\n\ndata:c\nid:9-9\nid:7-6\n\n"
        );
    }

    #[test]
    fn an_id_on_the_wire_names_the_place_at_each_home() {
        let mut places = Places::new(Some(Epoch::at(EPOCH)), [0, 2].into_iter(), Some("7-2.5"));
        places.set(0, 3);
        let mut out = Pieces::default();
        places.write(1, &Bytes::from_static(b"data:a\nid:7-8\n\n:\n\nevent:gap\ndata:{}\n\n"), &mut out);
        places.write(0, &Bytes::from_static(b"data:b\nid:7-4\n\n"), &mut out);
        let text = String::from_utf8(out.own).unwrap();
        assert_eq!(text, "data:a\nid:7-0.3-2.8\n\n:\n\nevent:gap\ndata:{}\n\ndata:b\nid:7-0.4-2.8\n\n");
    }

    #[test]
    fn without_history_nothing_is_changed() {
        let mut out = Pieces::default();
        Places::new(None, [0].into_iter(), None).write(
            0,
            &Bytes::from_static(b"data:a\nid:7-8\n\n"),
            &mut out,
        );
        assert_eq!(out.own, b"data:a\nid:7-8\n\n");
    }
}
