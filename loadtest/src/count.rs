//! The cheap way to read a stream: counts events by their marks and reads one or two stamps of each piece. No I/O.
//!
//! It searches whole pieces at the speed of memory instead of walking through lines, so that one thread can drain more
//! than the server under test can send. It cannot tell which events are missing, only how many.

use crate::stamp::{MARK, STAMP_BYTES, Stamp};
use memchr::{memchr, memchr_iter, memmem, memrchr};

const GAPS: [&[u8]; 2] = [b"event: gap", b"event:gap"];
const GAP_BYTES_MAX: usize = 10;

/// The events of one read.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Counted {
    pub(crate) events: u64,
    /// `event: gap` lines, by which a server says that it left events out.
    pub(crate) gaps: u64,
    /// When the first of the events was due: the one that waited longest.
    pub(crate) first_due_ns: Option<u64>,
    /// When the last of the events was due, unless it is the first.
    pub(crate) last_due_ns: Option<u64>,
}

/// The prepared search for an `event:` line, one for a thread: preparing it costs more than searching 128 bytes.
pub(crate) struct EventLine(memmem::Finder<'static>);

impl EventLine {
    pub(crate) fn new() -> EventLine {
        EventLine(memmem::Finder::new(b"event:"))
    }
}

/// A subscriber's place between two pieces: the end of an event not yet whole, as much as a stamp may need.
#[derive(Debug, Default)]
pub(crate) struct Counter {
    carry: [u8; STAMP_BYTES],
    carried: u8,
}

impl Counter {
    /// Adds what the next piece of the body holds to `counted`.
    pub(crate) fn feed(&mut self, piece: &[u8], event_line: &EventLine, counted: &mut Counted) {
        if let Some(first) = memchr(MARK, piece) {
            counted.events += memchr_iter(MARK, piece).count() as u64;
            self.sample(piece, first, counted);
        }
        counted.gaps += event_line.0.find_iter(piece).filter(|at| is_gap(&piece[*at..])).count() as u64;
        if self.carried > 0 {
            counted.gaps += u64::from(self.gap_across(piece));
        }
        self.keep_end(piece);
    }

    fn sample(&self, piece: &[u8], first: usize, counted: &mut Counted) {
        let start = &piece[..=first];
        let first_stamp = Stamp::ending(start).or_else(|| self.stamp_across(start));
        let last = memrchr(MARK, piece).filter(|last| *last != first);
        let last_stamp = last.and_then(|last| Stamp::ending(&piece[..=last]));
        for stamp in [first_stamp, last_stamp].into_iter().flatten() {
            match counted.first_due_ns {
                None => counted.first_due_ns = Some(stamp.due_ns),
                Some(_) => counted.last_due_ns = Some(stamp.due_ns),
            }
        }
    }

    /// Returns the stamp that began in an earlier piece and ends with `start`.
    fn stamp_across(&self, start: &[u8]) -> Option<Stamp> {
        let carry = self.carry();
        let missing = STAMP_BYTES.checked_sub(start.len())?;
        let begun = carry.get(carry.len().checked_sub(missing)?..)?;
        let mut bytes = [0; STAMP_BYTES];
        let (head, tail) = bytes.split_at_mut(missing);
        head.copy_from_slice(begun);
        tail.copy_from_slice(start);
        Stamp::parse(&bytes)
    }

    /// Tells whether a gap line began in an earlier piece and is whole with this one.
    fn gap_across(&self, piece: &[u8]) -> bool {
        let carry = self.carry();
        let before = &carry[carry.len().saturating_sub(GAP_BYTES_MAX - 1)..];
        let after = &piece[..piece.len().min(GAP_BYTES_MAX - 1)];
        GAPS.iter().any(|gap| {
            (1..gap.len()).any(|split| before.ends_with(&gap[..split]) && after.starts_with(&gap[split..]))
        })
    }

    fn keep_end(&mut self, piece: &[u8]) {
        // Nothing of ours goes on past a blank line: a server that sends whole events never pays for the carry.
        if piece.ends_with(b"\n\n") {
            self.carried = 0;
            return;
        }
        let kept = usize::from(self.carried).min(STAMP_BYTES.saturating_sub(piece.len()));
        let from = usize::from(self.carried) - kept;
        self.carry.copy_within(from..from + kept, 0);
        let end = &piece[piece.len() - piece.len().min(STAMP_BYTES - kept)..];
        self.carry[kept..kept + end.len()].copy_from_slice(end);
        self.carried = (kept + end.len()) as u8;
    }

    fn carry(&self) -> &[u8] {
        &self.carry[..usize::from(self.carried)]
    }
}

fn is_gap(line: &[u8]) -> bool {
    GAPS.iter().any(|gap| line.starts_with(gap))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stamp::{Payload, split_at};
    use proptest::prelude::*;

    fn event(sequence: u64) -> Vec<u8> {
        let stamp = Stamp { topic: 0, publisher: 0, sequence, due_ns: 1_000 + sequence };
        [b"id:17-1\ndata:", &Payload::new(50).stamped(&stamp)[..], b"\n\n"].concat()
    }

    fn count(pieces: &[&[u8]]) -> Counted {
        let (mut counter, mut counted, event_line) =
            (Counter::default(), Counted::default(), EventLine::new());
        for piece in pieces {
            counter.feed(piece, &event_line, &mut counted);
        }
        counted
    }

    #[test]
    fn heartbeats_ids_and_retries_are_no_events() {
        let counted =
            count(&[b": beat\n\n", b":\n\nretry: 5\n\n", b"id: 9\n\n", b"event: expired\ndata: x\n\n"]);
        assert_eq!(counted, Counted::default());
    }

    #[test]
    fn an_event_cut_short_is_not_counted() {
        let whole = event(1);
        assert_eq!(count(&[&whole[..whole.len() - 3]]).events, 0);
        assert_eq!(count(&[&whole[..whole.len() - 2]]).events, 1);
    }

    #[test]
    fn the_first_and_the_last_stamp_of_a_read_are_sampled() {
        let counted = count(&[&[event(0), event(1), event(2)].concat()]);
        assert_eq!((counted.first_due_ns, counted.last_due_ns), (Some(1_000), Some(1_002)));
        let counted = count(&[&event(4)]);
        assert_eq!((counted.first_due_ns, counted.last_due_ns), (Some(1_004), None));
    }

    #[test]
    fn a_gap_is_seen_with_and_without_its_space() {
        assert_eq!(count(&[b"event: gap\ndata:{}\n\nevent:gap\ndata:{}\n\nevent: gut\n\n"]).gaps, 2);
    }

    #[test]
    fn a_stamp_in_two_pieces_is_read_at_every_split() {
        let whole = event(7);
        for split in 0..=whole.len() {
            let counted = count(&[&whole[..split], &whole[split..]]);
            assert_eq!((counted.events, counted.first_due_ns), (1, Some(1_007)), "split at {split}");
        }
        let bytes: Vec<&[u8]> = whole.chunks(1).collect();
        assert_eq!(count(&bytes).first_due_ns, Some(1_007));
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same_counts(
            parts in prop::collection::vec(0..4usize, 0..20),
            cuts in prop::collection::vec(0..100usize, 0..30),
        ) {
            let mut stream = Vec::new();
            let (mut events, mut gaps) = (0, 0);
            for part in parts {
                match part {
                    0 => stream.extend_from_slice(b": beat\n\n"),
                    1 => { gaps += 1; stream.extend_from_slice(b"event: gap\ndata:{}\n\n"); }
                    2 => { gaps += 1; stream.extend_from_slice(b"event:gap\ndata:{}\n\n"); }
                    _ => { stream.extend_from_slice(&event(events)); events += 1; }
                }
            }
            let counted = count(&split_at(&stream, &cuts));
            prop_assert_eq!((counted.events, counted.gaps), (events, gaps));
            prop_assert_eq!(counted.first_due_ns, (events > 0).then_some(1_000));
            prop_assert_eq!(counted.last_due_ns, (events > 1).then_some(999 + events));
        }
    }
}
