//! The thorough way to read a stream: takes it apart as an `EventSource` does (WHATWG HTML, 9.2.6) and looks at every byte
//! of every event. No I/O.

use crate::stamp::{Payload, Stamp};
use memchr::memchr2;

/// Bytes of a begun line that are held; a longer one is none of ours.
const LINE_BYTES_MAX: usize = 1024 * 1024;

/// An event whose blank line came.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Found {
    /// An event of ours, every byte as it was sent.
    Event(Stamp),
    /// `event: gap`: the server says that it left events out.
    Gap,
    /// An event whose data is not what was sent.
    Corrupt,
}

/// A subscriber's place in its stream.
#[derive(Debug, Default)]
pub(crate) struct Verifier {
    /// The start of a line that goes on in the next piece. Empty, and without memory, for servers that send whole events.
    line: Vec<u8>,
    /// The last line ended in CR: an LF right after it belongs to it.
    after_cr: bool,
    event: Event,
}

/// The event being read.
#[derive(Debug, Default)]
struct Event {
    data: Data,
    name: Name,
}

#[derive(Debug, Default)]
enum Data {
    #[default]
    None,
    Ours(Stamp),
    Other,
}

#[derive(Debug, Default, Eq, PartialEq)]
enum Name {
    #[default]
    Message,
    Gap,
    Other,
}

impl Verifier {
    /// Reads the next piece of the body and passes each event that it ends to `found`.
    pub(crate) fn feed(&mut self, mut piece: &[u8], payload: &Payload, mut found: impl FnMut(Found)) {
        if self.after_cr && !piece.is_empty() {
            self.after_cr = false;
            piece = piece.strip_prefix(b"\n").unwrap_or(piece);
        }
        while let Some(end) = memchr2(b'\n', b'\r', piece) {
            let line = &piece[..end];
            if self.line.is_empty() {
                self.event.line(line, payload, &mut found);
            } else {
                self.line.extend_from_slice(line);
                self.event.line(&self.line, payload, &mut found);
                self.line = Vec::new();
            }
            let ended_by_cr = piece[end] == b'\r';
            piece = &piece[end + 1..];
            if ended_by_cr {
                match piece.first() {
                    Some(b'\n') => piece = &piece[1..],
                    Some(_) => {}
                    None => self.after_cr = true,
                }
            }
        }
        let room = LINE_BYTES_MAX.saturating_sub(self.line.len());
        self.line.extend_from_slice(&piece[..piece.len().min(room)]);
    }
}

impl Event {
    fn line(&mut self, line: &[u8], payload: &Payload, found: &mut impl FnMut(Found)) {
        if line.is_empty() {
            if let Some(what) = std::mem::take(self).dispatch() {
                found(what);
            }
        } else if let Some(value) = field(line, b"data") {
            self.data = match (&self.data, payload.check(value)) {
                (Data::None, Some(stamp)) => Data::Ours(stamp),
                _ => Data::Other,
            };
        } else if let Some(value) = field(line, b"event") {
            self.name = match value {
                b"" | b"message" => Name::Message,
                b"gap" => Name::Gap,
                _ => Name::Other,
            };
        }
    }

    fn dispatch(self) -> Option<Found> {
        match (self.data, self.name) {
            (Data::None, _) => None,
            (_, Name::Gap) => Some(Found::Gap),
            (Data::Ours(stamp), _) => Some(Found::Event(stamp)),
            // A server's own named event (a greeting, say) is its own affair.
            (Data::Other, Name::Other) => None,
            (Data::Other, Name::Message) => Some(Found::Corrupt),
        }
    }
}

/// Returns the value of `line` if its field is `name`.
fn field<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let rest = line.strip_prefix(name)?;
    if rest.is_empty() {
        return Some(rest);
    }
    let value = rest.strip_prefix(b":")?;
    Some(value.strip_prefix(b" ").unwrap_or(value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stamp::split_at;
    use proptest::prelude::*;

    const SIZE: usize = 50;

    fn data(sequence: u64) -> String {
        String::from_utf8(Payload::new(SIZE).stamped(&stamped(sequence))).unwrap()
    }

    fn stamped(sequence: u64) -> Stamp {
        Stamp { topic: 3, publisher: 1, sequence, due_ns: 9 }
    }

    fn verify(pieces: &[&[u8]]) -> Vec<Found> {
        let (mut verifier, mut all) = (Verifier::default(), Vec::new());
        for piece in pieces {
            verifier.feed(piece, &Payload::new(SIZE), |found| all.push(found));
        }
        all
    }

    #[test]
    fn every_legal_form_of_our_event_is_ours() {
        let data = data(5);
        for text in [
            format!("data:{data}\n\n"),
            format!("data: {data}\n\n"),
            format!("id: 7\r\ndata:{data}\r\n\r\n"),
            format!("data:{data}\rid:7\r\r"),
            format!(": beat\n\n:\nevent: message\ndata:{data}\nretry: 5\n\n"),
            format!("event: news\ndata:{data}\n\n"),
            format!("database: x\neventual: gap\ndata:{data}\n\n"),
        ] {
            assert_eq!(verify(&[text.as_bytes()]), [Found::Event(stamped(5))], "{text:?}");
        }
    }

    #[test]
    fn an_lf_after_a_cr_belongs_to_it_once() {
        let data = data(5);
        let text = format!("data:{data}\r");
        assert_eq!(verify(&[text.as_bytes(), b"\n"]), []);
        assert_eq!(verify(&[text.as_bytes(), b"", b"\n", b"\n"]), [Found::Event(stamped(5))]);
    }

    #[test]
    fn changed_data_is_corrupt() {
        let data = data(5);
        for text in [
            format!("data:  {data}\n\n"),
            format!("data:{data}x\n\n"),
            format!("data:{}\n\n", &data[1..]),
            format!("data:{}\n\n", data.replacen('x', "y", 1)),
            format!("data:{data}\ndata:{data}\n\n"),
            format!("data:{data}data:{data}\n\n"),
            "data\n\n".to_owned(),
        ] {
            assert_eq!(verify(&[text.as_bytes()]), [Found::Corrupt], "{text:?}");
        }
    }

    #[test]
    fn what_an_event_source_does_not_dispatch_is_nothing() {
        let unfinished = format!("data:{}\n", data(1));
        for text in [": beat\n\n", "id: 5\n\n", "retry: 100\n\n", "\n\n\n", "event: gap\n\n", &unfinished] {
            assert_eq!(verify(&[text.as_bytes()]), [], "{text:?}");
        }
    }

    #[test]
    fn a_gap_is_told_and_another_named_event_is_ignored() {
        assert_eq!(verify(&[b"event: gap\ndata:{\"from\":1}\n\nevent: hello\ndata: you\n\n"]), [Found::Gap]);
    }

    proptest! {
        #[test]
        fn any_split_finds_the_same(
            parts in prop::collection::vec((0..5usize, 0..3usize), 0..20),
            cuts in prop::collection::vec(0..100usize, 0..30),
        ) {
            let mut stream = String::new();
            let mut expected = Vec::new();
            for (sequence, (part, end)) in parts.into_iter().enumerate() {
                let data = data(sequence as u64);
                let (text, found) = match part {
                    0 => (": beat\n\n".to_owned(), None),
                    1 => ("event: gap\ndata:{}\n\n".to_owned(), Some(Found::Gap)),
                    2 => (format!("data:{}\n\n", &data[3..]), Some(Found::Corrupt)),
                    _ => (format!("id:1\ndata:{data}\n\n"), Some(Found::Event(stamped(sequence as u64)))),
                };
                stream.push_str(&text.replace('\n', ["\n", "\r", "\r\n"][end]));
                expected.extend(found);
            }
            prop_assert_eq!(verify(&split_at(stream.as_bytes(), &cuts)), expected);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            verify(&[&bytes]);
        }
    }
}
