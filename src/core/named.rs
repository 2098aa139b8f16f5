//! Events that say which topic they were published to, for streams that ask for it: by a first line, `topic:<name>`, which
//! EventSource passes over (WHATWG HTML, section 9.2.6).

use std::sync::Arc;

use crate::core::chunk::{Chunk, ChunkWriter};
use crate::core::memory::Memory;
use crate::core::message::Marks;
use crate::core::topic::Topic;

const FIELD: &[u8] = b"topic:";

/// Returns an event with the line of its topic.
pub(crate) fn named(topic: &Topic, event: &[u8]) -> Vec<u8> {
    [FIELD, topic.name().as_bytes(), b"\n", event].concat()
}

/// Returns the events of a publish, each with the line of their topic, and their places.
pub(crate) fn named_frames(
    topic: &Topic,
    frames: &Chunk,
    marks: &Marks,
    memory: &Arc<Memory>,
) -> (Chunk, Marks) {
    let line = named(topic, b"");
    let mut writer = ChunkWriter::with_capacity(frames.frame_bytes() + marks.len() * line.len());
    let mut start = 0;
    let shifted = marks.iter().enumerate().map(|(number, mark)| {
        let end = mark.end as usize;
        writer.text().extend_from_slice(&line);
        writer.text().extend_from_slice(&frames.frames()[start..end]);
        start = end;
        mark.behind((number + 1) * line.len())
    });
    let shifted: Marks = shifted.collect();
    (writer.finish(memory), shifted)
}

/// Returns the topic that an event's first line names; `None` for one without such a line, as a notice of a gap.
pub(crate) fn topic_of(event: &[u8]) -> Option<&[u8]> {
    let rest = event.strip_prefix(FIELD)?;
    Some(&rest[..memchr::memchr(b'\n', rest)?])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::chunk::Mark;
    use crate::core::topic::TopicHasher;

    #[test]
    fn each_event_of_a_publish_begins_with_its_topic_and_ends_where_its_mark_says() {
        let memory = Memory::new(usize::MAX);
        let topic =
            Topic::parse_path(&[b"pets"[..].into(), b"dogs"[..].into()], &TopicHasher::of(1)).unwrap();
        let events = ["data:a\nid:7-4\n\n", "id:own\ndata:b\n\n"];
        let text = events.concat();
        let frames = Chunk::of([text.as_bytes()], text.len(), &memory);
        let marks = [Mark { sequence: 4, end: 15, id_at: 7 }, Mark { sequence: 5, end: 30, id_at: 29 }];
        let (named, marks) = named_frames(&topic, &frames, &marks.into_iter().collect(), &memory);
        let expected = events.map(|event| format!("topic:pets/dogs\n{event}"));
        assert_eq!(named.frames(), expected.concat().as_bytes());
        let mut start = 0;
        for ((mark, event), id) in marks.iter().zip(&expected).zip(["id:7-4\n\n", "\n"]) {
            assert_eq!(&named.frames()[start..mark.end as usize], event.as_bytes());
            assert_eq!(&named.frames()[mark.id_at as usize..mark.end as usize], id.as_bytes());
            start = mark.end as usize;
        }
        for (event, expected) in events.iter().zip(&expected) {
            assert_eq!(super::named(&topic, event.as_bytes()), expected.as_bytes());
            assert_eq!(topic_of(expected.as_bytes()), Some(&b"pets/dogs"[..]));
            assert_eq!(topic_of(event.as_bytes()), None);
        }
    }
}
